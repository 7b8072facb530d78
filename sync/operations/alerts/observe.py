"""Read what opens incidents from the database, for all objects in one short transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, text

from sync.operations.alerts.problems import ObjectState, Pass, Verified
from sync.operations.status import NEWS, NOW, VERIFIED
from sync.postgres import ledger

# Of an object that was never complete, the first attempt counts, of the org that is replicated now.
OBJECTS = text("""
SELECT o.object, k.complete_through, now() - k.complete_through AS lag, now() - b.started_at AS tried_for
  FROM unnest(CAST(:objects AS text[])) AS o (object)
  LEFT JOIN sync.cursor AS k ON k.object = o.object
  LEFT JOIN LATERAL (
       SELECT started_at FROM sync.run
        WHERE k.complete_through IS NULL AND object = o.object
          AND started_at >= coalesce((SELECT accepted_at FROM sync.org), '-infinity')
        ORDER BY id LIMIT 1
       ) AS b ON true
""")
PASSES = text("""
SELECT o.object, r.outcome, r.error_class, r.finished_at
  FROM unnest(CAST(:objects AS text[])) AS o (object)
 CROSS JOIN LATERAL (
       SELECT id, outcome, error_class, finished_at FROM sync.run
        WHERE object = o.object AND outcome <> 'running' AND command NOT IN ('verify', 'erase', 'request')
        ORDER BY id DESC LIMIT :most
       ) AS r
 ORDER BY o.object, r.id DESC
""")
REJECTED = text("""
SELECT r.object, count(*) AS records
  FROM sync.reject AS r
 WHERE r.object = ANY (CAST(:objects AS text[]))
   AND NOT EXISTS (SELECT FROM sync.accepted AS a WHERE a.object = r.object AND a.reason = r.reason)
 GROUP BY r.object
""")
MOST_PASSES = 20


def read_objects(connection: Connection, objects: Sequence[str]) -> tuple[ObjectState, ...]:
    """Return the state of each object."""
    asked = {"objects": list(objects)}
    passes: dict[str, list[Pass]] = defaultdict(list)
    for row in connection.execute(PASSES, asked | {"most": MOST_PASSES}):
        passes[row.object].append(Pass(row.outcome, row.error_class, row.finished_at))
    rejected = {row.object: row.records for row in connection.execute(REJECTED, asked)}
    verified = {
        row.object: Verified(
            row.started_at, row.outcome == "failed", row.remaining or 0, bool(row.overdue), row.error_class
        )
        for row in connection.execute(VERIFIED, asked)
    }
    gone: dict[str, list[str]] = defaultdict(list)
    now = connection.execute(NOW).scalar_one()
    for name, field, since in ledger.vanished(connection, list(objects)):
        if now - since < NEWS:
            gone[name].append(field)
    return tuple(
        ObjectState(
            row.object,
            row.complete_through,
            row.lag,
            row.tried_for,
            tuple(passes[row.object]),
            rejected.get(row.object, 0),
            tuple(gone[row.object]),
            verified.get(row.object),
        )
        for row in connection.execute(OBJECTS, asked)
    )
