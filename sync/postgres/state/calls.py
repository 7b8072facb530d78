"""The API calls of the last 24 hours by kind, from the journal; the org's usage; and what is deferred."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from sqlalchemy import Connection, text

DAY = timedelta(days=1)
FEW = 3  # passes of an object; fewer tell nothing: the first may be a first load, or follow a long pause
# Kinds of calls. The first ones are named where they are made; the calls of a run that have no name are of
# the kind of its command.
DESCRIBE, REREAD, REFRESH = "describe", "reread", "refresh"
PASS, VERIFY, RESYNC, ON_DEMAND, OTHER = "pass", "verify", "resync", "on_demand", "other"
KINDS = (PASS, DESCRIBE, REREAD, REFRESH, VERIFY, RESYNC, ON_DEMAND, OTHER)
OF_COMMAND: Mapping[str, str] = MappingProxyType(
    {"run": PASS, "worker": PASS, "verify": VERIFY, "resync": RESYNC, "request": ON_DEMAND}
)

# The runs that ended within 24 hours, and those that go on. `passes` is the number of passes that a line
# stands for: of quiet ones there may be many. Numbers grow with time, so the scan ends at older lines.
RECENT = """
WITH recent AS (
    SELECT object, command, outcome, started_at, api_calls, calls, greatest(passes, 1) AS passes
      FROM sync.run
     WHERE id > coalesce((SELECT id FROM sync.run WHERE started_at < now() - interval '2 days'
                           ORDER BY id DESC LIMIT 1), 0)
       AND coalesce(finished_at, now()) > now() - interval '24 hours'
)
"""
BY_KIND = text(f"""{RECENT}
SELECT command, '' AS kind, sum(api_calls)::bigint AS calls FROM recent GROUP BY command
 UNION ALL
SELECT command, key, sum(value::bigint)::bigint FROM recent, jsonb_each_text(calls) GROUP BY command, key
""")
# For each object the number of the worker's passes, and what a pass usually takes: the median, so that a
# first load or a busy hour does not count as usual.
PASSES = text(f"""{RECENT}
SELECT max(total)::int AS passes, min(cost) FILTER (WHERE 2 * below >= total)::float AS usual,
       now() - min(started_at) AS span
  FROM (
       SELECT object, cost, started_at, sum(passes) OVER (PARTITION BY object) AS total,
              sum(passes) OVER (PARTITION BY object ORDER BY cost ROWS UNBOUNDED PRECEDING) AS below
         FROM (SELECT object, passes, started_at, api_calls::numeric / passes AS cost FROM recent
                WHERE command = 'worker' AND outcome = 'succeeded') AS passes
       ) AS placed
 GROUP BY object
""")
READ = text("""
SELECT b.used, b.daily_limit, b.seen_at, b.deferred, now() AS at
  FROM (SELECT) AS one LEFT JOIN sync.budget AS b ON true
""")
SAVE = text("""
INSERT INTO sync.budget AS b (used, daily_limit, seen_at, deferred)
VALUES (:used, :limit, :seen_at, CAST(:deferred AS jsonb))
ON CONFLICT (single) DO UPDATE
   SET used = excluded.used, daily_limit = excluded.daily_limit, seen_at = excluded.seen_at,
       deferred = excluded.deferred
""")


@dataclass(frozen=True, slots=True)
class Spent:
    """The API calls of the last 24 hours.

    `a_pass` is what a pass of the worker over all objects usually takes, `passes` how many there were, `span`
    the time since the first of them.
    """

    by_kind: Mapping[str, int] = field(default_factory=dict)
    a_pass: float = 0.0
    passes: int = 0
    span: timedelta = DAY

    @property
    def total(self) -> int:
        return sum(self.by_kind.values())


@dataclass(frozen=True, slots=True)
class Stored:
    """What the last reading of a worker left: the org's daily requests, and since when work is deferred.

    `at` is the present time by the database's clock.
    """

    at: datetime
    used: int | None = None
    limit: int | None = None
    seen_at: datetime | None = None
    deferred: Mapping[str, datetime] = field(default_factory=dict)


def read_spent(connection: Connection) -> Spent:
    """Return the calls of the last 24 hours by kind, in the order of KINDS, without kinds that had none."""
    found: Counter[str] = Counter()
    for row in connection.execute(BY_KIND):
        usual = OF_COMMAND.get(row.command, OTHER)
        if row.kind:
            found[row.kind if row.kind in KINDS else OTHER] += row.calls
            found[usual] -= row.calls
        else:
            found[usual] += row.calls
    passes = [row for row in connection.execute(PASSES) if row.passes >= FEW]
    return Spent(
        {kind: found[kind] for kind in KINDS if found[kind] > 0},
        sum(row.usual for row in passes),
        max((row.passes for row in passes), default=0),
        min(DAY, max((row.span for row in passes), default=DAY)),
    )


def read_stored(connection: Connection) -> Stored:
    """Return what is stored of the budget."""
    row = connection.execute(READ).one()
    deferred = {kind: datetime.fromisoformat(since) for kind, since in (row.deferred or {}).items()}
    return Stored(row.at, row.used, row.daily_limit, row.seen_at, deferred)


def save(connection: Connection, stored: Stored) -> None:
    """Store the org's usage and what is deferred."""
    deferred = {kind: since.isoformat() for kind, since in stored.deferred.items()}
    values = {"used": stored.used, "limit": stored.limit, "seen_at": stored.seen_at}
    connection.execute(SAVE, values | {"deferred": json.dumps(deferred)})
