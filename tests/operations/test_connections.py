"""How many connections each process opens: the database refuses one more, as that of a small plan does."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import text

from sync.cli.wiring import lease_owner, open_engine, open_keeper
from sync.demo import commands as cli
from sync.errors import DatabaseUnavailableError
from sync.operations import pruning
from sync.postgres import tables
from sync.postgres.state import leases
from sync.replication import pipeline, requests
from sync.replication.requests import Pauses
from tests.support import processes
from tests.support.world import World

WORKER, COMMAND, RELEASE = 4, 2, 1
# Two workers of a deploy, the release and a one-off: what docs/operating.md says of a plan with twenty.
ALL = 2 * WORKER + COMMAND + RELEASE


@pytest.fixture
def limited(loaded: World) -> Iterator[Callable[[int], str]]:
    """The URL of a role that owns what the worker's does, and may have so many connections."""
    name = f"limited_{os.getpid()}"
    loaded.sql(f"CREATE ROLE {name} LOGIN IN ROLE CURRENT_USER")

    def url(most: int) -> str:
        # The limit of a superuser is not enforced: this role is none, and has its rights as a member.
        loaded.sql(f"ALTER ROLE {name} CONNECTION LIMIT {most}")
        return loaded.settings.postgres.set(username=name).render_as_string(hide_password=False)

    yield url
    loaded.sql(f"DROP OWNED BY {name}")
    loaded.sql(f"DROP ROLE {name}")


@contextmanager
def counted(world: World) -> Iterator[list[int]]:
    """The numbers of connections that the limited role had, sampled while the block runs."""
    seen, done = [0], threading.Event()
    count = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'limited\\_%'"

    def sample() -> None:
        with world.engine.connect() as connection:
            while not done.wait(0.002):
                seen.append(connection.execute(text(count)).scalar_one())
                connection.rollback()

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield seen
    finally:
        done.set()
        sampling.join()


def test_a_worker_has_four(
    loaded: World, limited: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes and verifies of both objects, pruning, requests, incidents, metrics and the renewal of leases need
    four."""
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.001)
    assert tables.WORKER_CONNECTIONS == WORKER
    loaded.environment["DATABASE_URL"] = limited(WORKER)
    context = loaded.context("worker")
    engine = open_engine(context.settings, lease_owner(context.settings), tables.WORKER_CONNECTIONS)
    context = replace(context, engine=engine)
    keeper, settings = open_keeper(context), context.settings

    def passes(name: str) -> None:
        for _ in range(3):
            pipeline.run_scheduled(context, name)
            pipeline.verify_object(replace(context, command="verify"), name, repair=True)

    def beside() -> None:
        for _ in range(10):
            keep = settings.sync_feed_retention, settings.sync_run_retention
            pruning.scheduled(engine, *keep, context.stop)

    def ask() -> None:
        requests.publish(context)
        asking = replace(context, command="request")
        for _ in range(10):
            loaded.sql("SELECT crm.request(:ann)", ann=loaded.ann)
            requests.answer_waiting(asking, Pauses())

    def attend() -> None:
        for _ in range(10):
            keeper.measured_at = None
            keeper.attend()

    with counted(loaded) as seen, ThreadPoolExecutor(5) as pool:
        jobs = [pool.submit(passes, name) for name in ("Account", "Contact")]
        jobs += [pool.submit(beside), pool.submit(attend), pool.submit(ask)]
        for job in jobs:
            job.result()
    engine.dispose()

    assert 2 <= max(seen) <= WORKER
    assert keeper.away_since is None  # no evaluation was without a connection


@pytest.mark.parametrize(
    ("most", "arguments"),
    [
        (COMMAND, ["run"]),
        (COMMAND, ["resync", "--full"]),
        (COMMAND, ["verify", "--deep", "all", "--repair"]),
        (COMMAND, ["check"]),
        (COMMAND, ["erase", "--id", "003…", "--yes"]),
        (1, ["status"]),
        (1, ["prune"]),
        (1, ["rejects"]),
        (1, ["changes", "--after", "0"]),
        (1, ["heroku-connect"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_a_command_has_two_or_one(
    most: int,
    arguments: list[str],
    loaded: World,
    limited: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that works on objects needs two connections, one that reads the database alone needs one."""
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.001)
    for name, value in (loaded.environment | {"DATABASE_URL": limited(most)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["sync", *(word.replace("003…", loaded.ann) for word in arguments)])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    code: int | str | None = 0
    with counted(loaded) as seen:
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code

    assert not code
    assert max(seen) <= most


def test_a_release_has_one(loaded: World, limited: Callable[[int], str]) -> None:
    """The release phase needs one connection."""
    environment = loaded.process_environment(DATABASE_URL=limited(RELEASE))
    done = processes.run(["alembic", "upgrade", "head"], environment)
    assert done.returncode == 0, done.stderr


def test_a_deploy_beside_a_one_off() -> None:
    """All of them together stay below twelve."""
    assert ALL == 2 * tables.WORKER_CONNECTIONS + tables.COMMAND_CONNECTIONS + RELEASE < 12


def test_a_renewal_does_not_wait_for_a_long_statement(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordinary transactions leave one connection of several free, and the renewal of a lease takes it."""
    monkeypatch.setattr(tables, "WAIT_SECONDS", 0)
    monkeypatch.setattr(tables, "WAIT_STEP_SECONDS", 0.01)
    engine = tables.engine(loaded.settings.postgres, owner="few", size=3)
    try:
        with tables.transaction(engine), tables.transaction(engine):
            with pytest.raises(DatabaseUnavailableError), tables.transaction(engine):
                pass
            with tables.transaction(engine, urgent=True):
                pass
    finally:
        engine.dispose()


def test_a_connection_that_never_comes_free(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait has an end, and its error is that of a database that does not answer."""
    monkeypatch.setattr(tables, "WAIT_SECONDS", 0)
    monkeypatch.setattr(tables, "WAIT_STEP_SECONDS", 0.01)
    engine = tables.engine(loaded.settings.postgres, owner="few", size=2)
    try:
        with (
            tables.transaction(engine),
            pytest.raises(DatabaseUnavailableError, match="all connections of this process"),
            tables.transaction(engine),
        ):
            pass
    finally:
        engine.dispose()
