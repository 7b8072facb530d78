"""Two who follow the feed all year: a consumer that copies two views, and a replay that trusts the feed alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn
from psycopg2.extras import NamedTupleCursor
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

OBJECTS = ("Account", "Contact")
NAME = "shop"
AT_ONCE = 500

OWN = """
CREATE TABLE shop.account (id text PRIMARY KEY, doc jsonb NOT NULL);
CREATE TABLE shop.contact (id text PRIMARY KEY, doc jsonb NOT NULL);
"""
COPY = "INSERT INTO shop.{table} SELECT c.id, to_jsonb(c) FROM crm.{table} AS c"
COPY_SOME = (
    COPY + " WHERE c.id = ANY (%(ids)s) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc RETURNING id"
)
FORGET = "DELETE FROM shop.{table} WHERE id = ANY (%(ids)s)"
DIFFERENT = """
SELECT coalesce(here.id, there.id) FROM shop.{table} AS here
  FULL JOIN (SELECT c.id, to_jsonb(c) AS doc FROM crm.{table} AS c) AS there ON there.id = here.id
 WHERE here.doc IS DISTINCT FROM there.doc ORDER BY 1
"""


class DiesError(Exception):
    """The consumer ends within its transaction."""


@dataclass
class Consumer:
    """A role of its own, and its copy of crm.account and crm.contact, written in the transactions that read."""

    url: str
    reloads: int = 0
    died: int = 0
    followed: int = 0
    misses: int | None = None  # an entry that is passed over: a bug, planted by a test

    def connect(self) -> Connection:
        dsn = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg2.connect(make_dsn(dsn, options="-c timezone=UTC"), cursor_factory=NamedTupleCursor)

    def begin(self) -> None:
        """Make its tables, subscribe, and read the views in the same snapshot."""
        connection = self.connect()
        with connection, connection.cursor() as cursor:
            cursor.execute(OWN)
        connection.set_session(isolation_level="REPEATABLE READ")
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT crm.subscribe(%s, %s)", (NAME, list(OBJECTS)))
            for name in OBJECTS:
                self._copy_all(cursor, name.lower())
        connection.close()

    def catch_up(self, dies: bool = False) -> None:
        """Follow the feed to its end; a consumer that dies does so in its first transaction."""
        connection = self.connect()
        try:
            with suppress(DiesError):
                while self._follow(connection, dies):
                    pass
        finally:
            connection.close()

    def _follow(self, connection: Connection, dies: bool) -> bool:
        """Process the next entries in one transaction; whether there may be more."""
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT * FROM crm.poll(%s, %s)", (NAME, AT_ONCE))
            entries: list[Any] = cursor.fetchall()
            for name in OBJECTS:
                self._apply(cursor, name, [e for e in entries if e.object == name and e.seq != self.misses])
            if dies and entries:
                self.died += 1
                raise DiesError
            if entries:
                cursor.execute("SELECT crm.ack(%s, %s)", (NAME, entries[-1].seq))
        self.reloads += any(entry.op == "reload" for entry in entries)
        self.followed += len(entries)
        return len(entries) == AT_ONCE

    def _apply(self, cursor: Cursor, name: str, entries: list[Any]) -> None:
        table = name.lower()
        if any(entry.op == "reload" for entry in entries):
            self._copy_all(cursor, table)
            return
        ids = {entry.record_id for entry in entries}
        if ids:
            cursor.execute(COPY_SOME.format(table=table), {"ids": list(ids)})
            gone = ids - {row[0] for row in cursor.fetchall()}
            cursor.execute(FORGET.format(table=table), {"ids": list(gone)})

    def _copy_all(self, cursor: Cursor, table: str) -> None:
        cursor.execute(f"DELETE FROM shop.{table}")
        cursor.execute(COPY.format(table=table))

    def differences(self) -> list[str]:
        """The Ids whose copy is another than what the views show now."""
        connection = self.connect()
        with connection, connection.cursor() as cursor:
            found = []
            for name in OBJECTS:
                cursor.execute(DIFFERENT.format(table=name.lower()))
                found += [row[0] for row in cursor.fetchall()]
        connection.close()
        return found


# ── the feed alone ────────────────────────────────────────────────────────────────────────────────────

ENTRIES = text("SELECT seq, object, record_id, op FROM sync.change WHERE seq > :after ORDER BY seq")
LAST = text("SELECT last_seq FROM sync.feed")
LIVE = text("""
SELECT 'Account' AS object, id FROM salesforce.account WHERE deleted_at IS NULL
UNION ALL SELECT 'Contact', id FROM salesforce.contact WHERE deleted_at IS NULL
""")


@dataclass
class Replay:
    """The records that live by what the feed says, and each entry that does not fit those before it."""

    engine: Engine
    seq: int = 0
    live: set[tuple[str, str]] = field(default_factory=set)
    dead: set[tuple[str, str]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Read the new entries; after a `reload` of an object its records are read from the tables."""
        snapshot = self.engine.connect().execution_options(isolation_level="REPEATABLE READ")
        with snapshot as connection:
            entries = connection.execute(ENTRIES, {"after": self.seq}).all()
            reloaded = {entry.object for entry in entries if entry.op == "reload"}
            for entry in entries:
                if entry.seq != self.seq + 1:
                    self.wrong.append(f"{entry.seq} follows {self.seq}")
                self.seq = entry.seq
                if entry.object not in reloaded:
                    self._apply(entry.seq, entry.op, (entry.object, entry.record_id))
            if reloaded:
                rows = {tuple(row) for row in connection.execute(LIVE)}
                self.live = {key for key in self.live if key[0] not in reloaded}
                self.dead = {key for key in self.dead if key[0] not in reloaded}
                self.live |= {key for key in rows if key[0] in reloaded}

    def _apply(self, seq: int, op: str, key: tuple[str, str]) -> None:
        """An `update` may be of a record in the recycle bin; what was deleted before it was ever read is told, too."""
        if op in ("insert", "undelete") and key in self.live:
            self.wrong.append(f"{seq}: {op} of {key[1]}, which was live")
        if op == "delete" and key in self.dead:
            self.wrong.append(f"{seq}: {op} of {key[1]}, which was deleted")
        if op in ("insert", "undelete"):
            self.live.add(key)
            self.dead.discard(key)
        elif op != "update":
            self.live.discard(key)
            self.dead.add(key)

    def differences(self) -> list[str]:
        """What does not fit: entries, and records that live here or in the tables alone."""
        self.follow()
        with self.engine.connect() as connection:
            rows = {tuple(row) for row in connection.execute(LIVE)}
            last = connection.execute(LAST).scalar_one()
        if last != self.seq:
            self.wrong.append(f"{last} was given out, and the last entry is {self.seq}")
        return [*self.wrong, *sorted(id_ for _, id_ in rows ^ self.live)]
