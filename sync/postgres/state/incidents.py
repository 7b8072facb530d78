"""Incidents as the database keeps them: what is wrong, since when, and what was told of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, Row, text

# Closed incidents matter until their end is told, and for a while longer: the same problem may come back.
READ = text("""
SELECT id, kind, object, what, opened_at, closed_at, times, told, last_told_at
  FROM sync.incident
 WHERE closed_at IS NULL OR told = 'open' OR closed_at > :recent
 ORDER BY id
""")
OPEN = text("""
SELECT id, kind, object, what, opened_at, closed_at, times, told, last_told_at
  FROM sync.incident WHERE closed_at IS NULL ORDER BY opened_at, id
""")
# Another process may have opened the same incident meanwhile: its line stays.
INSERT = text("""
INSERT INTO sync.incident (kind, object, what, opened_at, closed_at, times, told, last_told_at)
VALUES (:kind, :object, :what, :opened_at, :closed_at, :times, :told, :last_told_at)
ON CONFLICT DO NOTHING RETURNING id
""")
UPDATE = text("""
UPDATE sync.incident
   SET what = :what, opened_at = :opened_at, closed_at = :closed_at, times = :times
 WHERE id = :id
""")
CLAIM = text("""
UPDATE sync.incident SET claimed_until = :until
 WHERE id = ANY (CAST(:ids AS bigint[])) AND (claimed_until IS NULL OR claimed_until <= :now)
RETURNING id
""")
NOTE_TOLD = text("""
UPDATE sync.incident SET told = :told, last_told_at = :at, claimed_until = NULL WHERE id = :id
""")
RELEASE = text("UPDATE sync.incident SET claimed_until = NULL WHERE id = ANY (CAST(:ids AS bigint[]))")

Told = Literal["open", "over"]


@dataclass(frozen=True, slots=True)
class Incident:
    """A problem of one kind with one object ("": with all of them), open or closed.

    `times` counts how often it was opened: a problem that comes back soon is the same incident. `told` is the
    state that the last message named (None: there was none). `id` is None until the database has it.
    """

    kind: str
    object: str
    what: str
    opened_at: datetime
    closed_at: datetime | None = None
    times: int = 1
    told: Told | None = None
    last_told_at: datetime | None = None
    id: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.object


def read(connection: Connection, recent: datetime) -> list[Incident]:
    """Return the open incidents, and closed ones whose end is not told or later than `recent`; the newest
    last."""
    return [incident(row) for row in connection.execute(READ, {"recent": recent})]


def read_open(connection: Connection) -> list[Incident]:
    """Return the open incidents, the oldest first."""
    return [incident(row) for row in connection.execute(OPEN)]


def incident(row: Row[tuple[object, ...]]) -> Incident:
    return Incident(**row._mapping)


def save(connection: Connection, changed: Sequence[Incident]) -> dict[tuple[str, str], int]:
    """Store incidents; return the ids of new ones by their key.

    A new incident that another process has opened meanwhile is left out.
    """
    made = {}
    for one in changed:
        values = {name: getattr(one, name) for name in Incident.__slots__}
        if one.id is not None:
            connection.execute(UPDATE, values)
        elif (number := connection.execute(INSERT, values).scalar()) is not None:
            made[one.key] = int(number)
    return made


def claim(connection: Connection, ids: Collection[int], now: datetime, hold: timedelta) -> set[int]:
    """Claim the telling of incidents for `hold`; return those that no other process is telling now."""
    found = connection.execute(CLAIM, {"ids": list(ids), "now": now, "until": now + hold})
    return set(found.scalars())


def note_told(connection: Connection, told: Sequence[Incident]) -> None:
    """Store what was told of incidents, and when."""
    for one in told:
        connection.execute(NOTE_TOLD, {"id": one.id, "told": one.told, "at": one.last_told_at})


def release(connection: Connection, ids: Collection[int]) -> None:
    """Give up a claim: the message did not arrive."""
    connection.execute(RELEASE, {"ids": list(ids)})
