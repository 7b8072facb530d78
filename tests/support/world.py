"""What tests stand on: an org, a database, the product between them, and a judge that shares no code."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import Settings, settings_from
from sync.logs import logger
from sync.postgres import feed, tables
from sync.postgres.feed import Change
from sync.replication import pipeline
from sync.replication.runs import Report, SyncContext
from sync.salesforce.session.retry import RetryPolicy
from sync.salesforce.session.session import Session
from sync.simulator import Simulator
from tests.support import processes
from tests.support.commands import run_here
from tests.support.databases import OWNER, SHARED
from tests.support.processes import Process

ROOT = Path(__file__).resolve().parent.parent.parent
LONG_AGO = datetime(2024, 3, 1, 12, tzinfo=UTC)
NEVER_WAIT = RetryPolicy(scale=0)
OURS = {"custom", "deleted_at", "deleted_reason", "synced_at"}
# A run of capitals (`CU`), or a word with its capital (`Date`); digits belong to what they follow.
WORD = re.compile(r"[A-Z]+(?![a-z])(?:[0-9]+[a-z]*)*|[A-Z]?[a-z0-9]+")
DERIVED = {"email_normalized", "phone_e164", "mobile_phone_e164", "website_host"}


class World:
    """One org replicated into one database."""

    # What the fixture `loaded` puts in: two accounts, three contacts of the first, and the feed's last number.
    acme: str
    bolt: str
    ann: str
    bob: str
    cid: str
    seen: int
    # "rest" or "bulk"
    transport: str

    def __init__(self, sim: Simulator, database: str, **settings: str) -> None:
        self.sim, self.org = sim, sim.org
        self.database = database
        # Whatever else a team has declared: what is counted here is of these two.
        chosen = {"SYNC_OBJECTS": "Account,Contact"}
        self.environment = {"DATABASE_URL": database, **chosen, **sim.environment(), **settings}
        self.settings = settings_of(tuple(self.environment.items()))
        self.stop = threading.Event()
        self.engine = engine_of(self.settings.postgres)

    def __enter__(self) -> World:
        logger.setup("warning", "logfmt")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        # The connections to a shared database serve the next test.
        busy = self.engine.pool.checkedout()  # type: ignore[attr-defined]  # it is a QueuePool
        if SHARED not in self.database or busy:
            self.engine.dispose()

    # ── the product ──

    def context(self, command: str = "run", retry: RetryPolicy = NEVER_WAIT, **changed: Any) -> SyncContext:
        settings = settings_of(tuple(self.environment.items()))
        session = Session(settings, self.stop, retry)
        context = SyncContext(
            settings,
            session,
            self.engine,
            f"test/{id(session)}",
            command,
            self.stop,
            timedelta(seconds=5),
            reference=self.sim.clock.now,
        )
        # Who acts between two pages wants none fetched before.
        return replace(context, **({"ahead": 0} if "on_page" in changed else {}) | changed)

    def run(self) -> list[Report]:
        """One incremental pass over all objects."""
        return pipeline.sync_all(self.context())

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m sync …` with this world's settings and nothing else of the machine's, in this process."""
        return run_here(arguments, self.process_environment(**environment))

    def process(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The same as a real process, for what only that can show."""
        return processes.run(["sync", *arguments], self.process_environment(**environment))

    def process_environment(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**kept, **self.environment, **more}

    def start(self, *arguments: str, **environment: str) -> Process:
        """A real process that goes on, its output to be read when it has ended."""
        return processes.start(arguments, self.process_environment(**environment))

    def assert_no_secret(self, text: str) -> None:
        """None of the settings' secrets, and nothing that looks like an access token, is in the text."""
        for secret in self.settings.secrets:
            assert secret not in text, "a secret setting was printed"
        assert not re.search(r"00D\w{12,15}![\w.]{20,}", text), "an access token was printed"

    # ── what is in the database ──

    def sql(self, statement: str, **parameters: object) -> Sequence[Any]:
        with tables.transaction(self.engine) as connection:
            result = connection.execute(text(statement), parameters)
            return result.all() if result.returns_rows else []

    @contextmanager
    def elsewhere(self) -> Iterator[Callable[[str], None]]:
        """Statements run from another database of the same server, outside any transaction."""
        url = make_url(self.database).set(database="postgres", drivername="postgresql+psycopg2")
        engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)

        def run(statement: str) -> None:
            with engine.connect() as connection:
                connection.execute(text(statement))

        yield run

    def rows(self, sobject: str) -> dict[str, dict[str, Any]]:
        """The replica's rows by Id."""
        found = tables.REPLICA[sobject]
        with tables.transaction(self.engine) as connection:
            return {row["id"]: dict(row) for row in connection.execute(found.select()).mappings()}

    def row(self, id_: str) -> dict[str, Any]:
        return self.rows("Account" if id_.startswith("001") else "Contact")[id_]

    def feed(self, after: int = 0) -> list[Change]:
        return list(feed.stream_changes(self.engine, after, follow=False, stop=threading.Event()))

    def news(self, after: int) -> list[tuple[str, str | None]]:
        """The feed after a number as (op, record Id)."""
        return [(change.op, change.record_id) for change in self.feed(after)]

    def last_seq(self) -> int:
        with tables.transaction(self.engine) as connection:
            return feed.last_number(connection)

    def cursor(self, sobject: str) -> datetime | None:
        found = self.sql("SELECT complete_through FROM sync.cursor WHERE object = :name", name=sobject)
        return found[0][0] if found else None

    def unfinished(self) -> bool:
        """Whether a window was left to be taken up again."""
        return bool(self.sql("SELECT FROM sync.progress WHERE job IS NOT NULL"))

    def page_by(self, rows: int | list[int]) -> None:
        """Let pages have so many rows, whichever way they come."""
        self.sim.options.page_sizes = self.sim.options.bulk_page_sizes = rows

    def expire_leases(self) -> None:
        """What time does to the lease of a process that was killed."""
        self.sql("UPDATE sync.lease SET expires_at = now() - interval '1 second'")

    # ── the judge ──

    def assert_equal(self, objects: Iterable[str] = ("Account", "Contact"), but: Iterable[str] = ()) -> None:
        """Every record of the org is in the tables, value by value, and nothing else; `but` are rejected."""
        for sobject in objects:
            expected = {record["Id"]: record for record in self.org.records(sobject)}
            rows = self.rows(sobject)
            assert set(rows) - set(but) == set(expected) - set(but), (
                f"{sobject}: other records than in the org"
            )
            hidden = set(self.sql("SELECT hidden FROM sync.cursor WHERE object = :o", o=sobject)[0][0])
            for id_, record in expected.items():
                if id_ not in but:
                    difference = compare(record, rows[id_], hidden)
                    assert difference == {}, f"{id_}: {difference}"


@lru_cache(maxsize=8)
def settings_of(environment: tuple[tuple[str, str], ...]) -> Settings:
    """The settings of an environment, which tests change between two passes: five milliseconds each time."""
    return settings_from(dict(environment), OBJECT_CHOICES)


@lru_cache(maxsize=4)
def engine_of(url: URL) -> Engine:
    """The engine of a database that tests use one after the other: new connections are slow."""
    return tables.engine(url, owner=OWNER, size=8)  # of the product and of the test that watches it


def compare(record: Mapping[str, Any], row: Mapping[str, Any], hidden: set[str]) -> dict[str, Any]:
    """What differs between a record as the API gives it and its row: field → (org, table)."""
    different: dict[str, Any] = {}
    by_column = {column_of(name): name for name in record}
    for column, stored in row.items():
        if column in OURS | DERIVED:
            continue
        name = by_column.get(column)
        if name is None or name in hidden:
            continue
        wanted = as_stored(record[name], stored)
        if wanted != stored:
            different[name] = (record[name], stored)
    for name, value in record.items():
        if (
            name.endswith("__c")
            and name not in hidden
            and row["custom"].get(name) != as_json(value, row["custom"].get(name))
        ):
            different[name] = (value, row["custom"].get(name))
    if bool(record["IsDeleted"]) != (row["deleted_at"] is not None):
        different["tombstone"] = (record["IsDeleted"], row["deleted_at"])
    return different


@cache
def column_of(name: str) -> str:
    """Written down here again on purpose: the judge must not share the product's idea of a name."""
    if "__" in name:  # custom objects and fields, as Heroku Connect names them
        return name.lower()
    return "_".join(WORD.findall(name)).lower()


def as_stored(value: Any, stored: Any) -> Any:
    """An API value as psycopg2 would give it back, by the type of what is stored; no text is empty."""
    if isinstance(value, str):
        value = value.replace("\0", "") or None
    if isinstance(value, str):
        if isinstance(stored, list):
            return value.split(";")
        if isinstance(stored, datetime):
            return datetime.fromisoformat(value.replace("+0000", "+00:00"))
        if isinstance(stored, date):
            return date.fromisoformat(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and stored is not None:
        return Decimal(str(value))
    return value


def as_json(value: Any, stored: Any) -> Any:
    if isinstance(value, str):
        value = value.replace("\0", "") or None
    if isinstance(value, str):
        return value.split(";") if isinstance(stored, list) else value
    if isinstance(value, Decimal):
        return type(stored)(value) if isinstance(stored, int | float) else value
    return value
