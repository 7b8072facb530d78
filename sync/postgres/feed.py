"""The consumer's door: reading the change feed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, text

from sync.postgres.tables import transaction

POLL_SECONDS = 1.0

READ = text(
    "SELECT seq, object, record_id, op, changed, run_id, at, survivor_id FROM crm.changes(:after, :max)"
)
LAST = text("SELECT last_seq FROM sync.feed")


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the feed; `record_id` is None for `reload`, which means: read the whole table anew.

    `survivor_id` is the record that a `merge` left.
    """

    seq: int
    object: str
    record_id: str | None
    op: str
    changed: tuple[str, ...]
    run_id: int | None
    at: datetime
    survivor_id: str | None = None


def read(connection: Connection, after: int, maximum: int = 1000) -> list[Change]:
    """The entries after a number, in the order of commits; who remembers the last number misses nothing."""
    rows = connection.execute(READ, {"after": after, "max": maximum})
    return [
        Change(r.seq, r.object, r.record_id, r.op, tuple(r.changed), r.run_id, r.at, r.survivor_id)
        for r in rows
    ]


def last(connection: Connection) -> int:
    """The number of the newest entry, 0 before the first."""
    return int(connection.execute(LAST).scalar() or 0)


def stream(engine: Engine, after: int, *, follow: bool, stop: threading.Event) -> Iterator[Change]:
    """All entries after a number; with `follow` those to come too, polled: LISTEN breaks behind a pooler."""
    while not stop.is_set():
        with transaction(engine) as connection:
            found = read(connection, after)
        yield from found
        if found:
            after = found[-1].seq
        elif follow:
            stop.wait(POLL_SECONDS)
        else:
            return
