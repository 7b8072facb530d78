"""The runs that are going on, and how fast they read."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

# A run is going on if it is the newest of its object and the lease is held. Others that the journal calls
# `running` were left by processes that have ended. Requests of consumers are answered beside another run.
RUNNING = text("""
SELECT r.object, r.id, r.command, r.started_at, r.read, r.api_calls
  FROM sync.lease AS l
 CROSS JOIN LATERAL (
       SELECT id, object, command, outcome, started_at, read, api_calls FROM sync.run
        WHERE object = l.object AND command <> 'request' ORDER BY id DESC LIMIT 1
       ) AS r
 WHERE l.owner IS NOT NULL AND l.expires_at > clock_timestamp() AND r.outcome = 'running'
   AND l.object = ANY (:objects)
 ORDER BY r.object
""")
SPAN = timedelta(seconds=15)  # over which the speed is measured: a run notes its counts each two seconds


@dataclass(frozen=True, slots=True)
class Running:
    """A run that is going on, with its counts so far; `rows_per_second` is known from two readings on."""

    object: str
    run: int
    command: str
    started_at: datetime
    read: int
    api_calls: int
    rows_per_second: float | None = None


def running(connection: Connection, objects: Sequence[str]) -> tuple[Running, ...]:
    """Return the runs of these objects that are going on."""
    return tuple(
        Running(row.object, row.id, row.command, row.started_at, row.read, row.api_calls)
        for row in connection.execute(RUNNING, {"objects": list(objects)})
    )


@dataclass(slots=True)
class Speeds:
    """The speeds of runs over the last SPAN, from repeated readings."""

    readings: dict[int, deque[tuple[datetime, int]]] = field(default_factory=dict)

    def measure(self, found: Sequence[Running], at: datetime) -> tuple[Running, ...]:
        """Return the runs as read at this time, with their speeds."""
        self.readings = {one.run: self.readings.get(one.run, deque()) for one in found}
        return tuple(replace(one, rows_per_second=self._speed(one, at)) for one in found)

    def _speed(self, one: Running, at: datetime) -> float | None:
        readings = self.readings[one.run]
        readings.append((at, one.read))
        while len(readings) > 2 and at - readings[0][0] > SPAN:
            readings.popleft()
        began, before = readings[0]
        seconds = (at - began).total_seconds()
        return (one.read - before) / seconds if seconds else None
