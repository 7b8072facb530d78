"""Read the change feed, as consumers do."""

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
    """One entry of the feed.

    `record_id` is None for `reload`: read the whole table again. `survivor_id` is the record that a `merge`
    left.
    """

    seq: int
    object: str
    record_id: str | None
    op: str
    changed: tuple[str, ...]
    run_id: int | None
    at: datetime
    survivor_id: str | None = None


def read_changes(connection: Connection, after: int, maximum: int = 1000) -> list[Change]:
    """Return up to `maximum` entries after the number `after`, in the order of commits.

    A consumer that stores the last `seq` misses no entry.
    """
    rows = connection.execute(READ, {"after": after, "max": maximum})
    return [
        Change(r.seq, r.object, r.record_id, r.op, tuple(r.changed), r.run_id, r.at, r.survivor_id)
        for r in rows
    ]


def last_number(connection: Connection) -> int:
    """Return the number of the newest entry (0: there is none)."""
    return int(connection.execute(LAST).scalar() or 0)


def stream_changes(engine: Engine, after: int, *, follow: bool, stop: threading.Event) -> Iterator[Change]:
    """Yield all entries after a number; with `follow` wait for new ones until `stop` is set.

    It polls every POLL_SECONDS: LISTEN does not work behind a pooler in transaction mode.
    """
    while not stop.is_set():
        with transaction(engine) as connection:
            found = read_changes(connection, after)
        yield from found
        if found:
            after = found[-1].seq
        elif follow:
            stop.wait(POLL_SECONDS)
        else:
            return
