"""What the product may forget: old entries of the feed, old runs, replaced lines of the ledger.

Every statement is a DELETE or a TRUNCATE, or may fail without harm: a plan that is over its size leaves no
other right. The feed is a ring of partitions, because only a TRUNCATE gives the space of its oldest entries
back: the rows that a DELETE leaves lie at the end of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from sync.postgres.bookkeeping import SLOTS

BATCH = 1_000  # rows that one transaction deletes
# A longer wait for the lock would hold up consumers that read the feed.
LOCK_SECONDS = 1
# A partition is filled for a sixth of the retention: one is being filled, one is kept in reserve.
SHARES = SLOTS - 2
# How much longer than other runs failed ones are kept.
FAILED_LONGER = 4

NEWEST = "SELECT seq, at, now() AS now FROM sync.change_{slot} ORDER BY seq DESC LIMIT 1"
OLDEST = "SELECT seq FROM sync.change_{slot} ORDER BY seq LIMIT 1"
PAGES = text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
CURRENT = text("SELECT slot, slot_since, now() AS now FROM sync.feed")
# Only a partition without entries is filled next; where it holds some, the current one grows on.
ADVANCE = """
UPDATE sync.feed SET slot = :next, slot_since = now()
 WHERE slot = :slot AND NOT EXISTS (SELECT FROM sync.change_{next})
   AND EXISTS (SELECT FROM sync.change_{slot})
"""
# The newest runs of each object and command say how it stands, however old they are.
OLD_RUNS = """
SELECT r.id FROM sync.run AS r
 WHERE r.outcome <> 'running'
   AND r.started_at < now() - CASE WHEN r.outcome IN ('succeeded', 'stopped') THEN CAST(:keep AS interval)
                                   ELSE CAST(:keep AS interval) * :longer END
   AND EXISTS (SELECT FROM sync.run AS n
                WHERE n.object = r.object AND n.command = r.command AND n.outcome = r.outcome AND n.id > r.id)
 ORDER BY r.id
"""
# The newest line of a field is its state.
OLD_LINES = """
SELECT f.id FROM sync.field AS f
 WHERE f.at < now() - CAST(:keep AS interval)
   AND EXISTS (SELECT FROM sync.field AS n WHERE n.object = f.object AND n.field = f.field AND n.id > f.id)
 ORDER BY f.id
"""
# What is open stays.
OLD_INCIDENTS = """
SELECT i.id FROM sync.incident AS i WHERE i.closed_at < now() - CAST(:keep AS interval) ORDER BY i.id
"""
COUNT = "SELECT count(*) FROM ({old}) AS old"
DELETE = "DELETE FROM {table} WHERE id IN ({old} LIMIT :most)"
OLD = {"sync.run": OLD_RUNS, "sync.field": OLD_LINES, "sync.incident": OLD_INCIDENTS}
NOTE_SIZE = text("""
INSERT INTO sync.size (day, bytes)
SELECT (now() AT TIME ZONE 'UTC')::date, pg_database_size(current_database())
    ON CONFLICT (day) DO UPDATE SET bytes = excluded.bytes
""")
FORGET_SIZES = text("DELETE FROM sync.size WHERE day < now() - interval '400 days'")


@dataclass(frozen=True, slots=True)
class Old:
    """Entries of the feed that may go: a partition, its last number, and the bytes that it takes."""

    slot: int
    through: int
    bytes: int


def old_partitions(connection: Connection, keep: timedelta) -> Iterator[Old]:
    """Yield the partitions whose entries are all older than `keep`, oldest first, up to one that is not.

    The partition that is being filled is none of them.
    """
    current = connection.execute(CURRENT).one()
    filled = []
    for slot in range(SLOTS):
        if slot == current.slot:
            continue
        oldest = connection.execute(text(OLDEST.format(slot=slot))).scalar()
        if oldest is not None:
            filled.append((oldest, slot))
    for _, slot in sorted(filled):
        newest = connection.execute(text(NEWEST.format(slot=slot))).one()
        if newest.at > newest.now - keep:
            return
        size = connection.execute(PAGES, {"name": f"sync.change_{slot}"}).scalar_one()
        yield Old(slot, newest.seq, size)


def truncate(connection: Connection, slot: int) -> bool:
    """Empty a partition; return False if a reader holds it for longer than LOCK_SECONDS."""
    try:
        with connection.begin_nested():
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            connection.execute(text(f"TRUNCATE sync.change_{slot}"))
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") != "55P03":
            raise
        return False
    return True


def advance(connection: Connection, keep: timedelta) -> bool:
    """Fill the next partition from now on, if the current one was filled for its share of `keep`."""
    current = connection.execute(CURRENT).one()
    if current.slot_since > current.now - keep / SHARES:
        return False
    following = (current.slot + 1) % SLOTS
    statement = text(ADVANCE.format(slot=current.slot, next=following))
    return connection.execute(statement, {"slot": current.slot, "next": following}).rowcount > 0


def count_old(connection: Connection, table: str, keep: timedelta) -> int:
    """Count the rows of a table of OLD that may go."""
    values = {"keep": keep, "longer": FAILED_LONGER}
    return int(connection.execute(text(COUNT.format(old=OLD[table])), values).scalar_one())


def delete_old(connection: Connection, table: str, keep: timedelta) -> int:
    """Delete up to BATCH of these rows; return how many there were."""
    values = {"keep": keep, "longer": FAILED_LONGER, "most": BATCH}
    return connection.execute(text(DELETE.format(table=table, old=OLD[table])), values).rowcount


def note_size(connection: Connection) -> None:
    """Remember the size of the database today."""
    connection.execute(NOTE_SIZE)
    connection.execute(FORGET_SIZES)


SIZE = text("""
SELECT pg_database_size(current_database()) AS bytes, s.bytes AS before,
       (now() AT TIME ZONE 'UTC')::date - s.day AS days
  FROM (SELECT 1) AS one
  LEFT JOIN LATERAL (
       SELECT day, bytes FROM sync.size
        WHERE day >= (now() AT TIME ZONE 'UTC')::date - 14 ORDER BY day LIMIT 1
       ) AS s ON true
""")


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the database in bytes, and by how many it grows a day (None: less than a day is known)."""

    bytes: int
    daily: float | None

    def days_left(self, limit: int | None) -> float | None:
        """Days until it reaches a limit in bytes (None: no limit, or it does not grow)."""
        if limit is None or self.daily is None or (self.daily <= 0 and self.bytes < limit):
            return None
        return max(0.0, (limit - self.bytes) / self.daily) if self.daily > 0 else 0.0


def size(connection: Connection) -> Size:
    """Read the size of the database, and its growth over the last two weeks at most."""
    row = connection.execute(SIZE).one()
    grown = (row.bytes - row.before) / row.days if row.days else None
    return Size(row.bytes, grown)
