"""The PostgreSQL to measure with: fresh, migrated databases of one server."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.demo import embedded

NUMBERS = itertools.count(1)


def plain(url: str) -> str:
    """A URL as libpq reads it, without SQLAlchemy's driver."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Database:
    """One database, by its URL."""

    url: str

    def ask(self, statement: str) -> Any:
        """Run a statement outside any transaction; the first value of its answer."""
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None

    def psql(self, *commands: str) -> None:
        """Run commands one after the other with psql."""
        each = [argument for command in commands for argument in ("-c", command)]
        line = [embedded.psql(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url, *each]
        quiet = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
        subprocess.run(line, check=True, env=quiet, stdout=subprocess.DEVNULL)

    def settle(self) -> None:
        """Write what earlier work left to the disk, so that it is not charged to what comes."""
        with suppress(psycopg2.errors.InsufficientPrivilege):
            self.ask("CHECKPOINT")


@dataclass(slots=True)
class Server:
    """A server whose owner may create databases; `template` is a migrated one."""

    url: str
    template: str
    facts: dict[str, str] = field(default_factory=dict)

    def at(self, name: str) -> Database:
        return Database(make_url(self.url).set(database=name).render_as_string(hide_password=False))

    @contextmanager
    def database(self) -> Iterator[Database]:
        """A migrated, empty database, until the context ends."""
        name = f"{self.template}_{next(NUMBERS)}"
        main = Database(self.url)
        main.ask(f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"')
        try:
            yield self.at(name)
        finally:
            main.ask(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def server(url: str | None = None) -> Iterator[Server]:
    """The server at a URL, or an embedded one."""
    with ExitStack() as stack:
        main = Database(plain(url or stack.enter_context(embedded.postgres())))
        found = Server(main.url, f"sync_bench_{main.ask('SELECT pg_backend_pid()')}")
        for name in ("server_version", "shared_buffers", "fsync", "synchronous_commit", "max_wal_size"):
            found.facts[name] = str(main.ask(f"SHOW {name}"))
        main.ask(f'CREATE DATABASE "{found.template}"')
        try:
            driver = make_url(found.at(found.template).url).set(drivername="postgresql+psycopg2")
            embedded.migrate(create_engine(driver, poolclass=NullPool))
            yield found
        finally:
            main.ask(f'DROP DATABASE "{found.template}" WITH (FORCE)')
