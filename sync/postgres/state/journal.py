"""The journal: one entry for each object and run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time

from sqlalchemy import Connection, Engine, text

from sync.postgres.load.merge import Tally
from sync.postgres.tables import transaction
from sync.window import Window

LONGEST_ERROR = 2_000  # characters of an error's text

# The lease was free, so the process that left a run open has ended.
ABANDON = text("""
UPDATE sync.run SET outcome = 'abandoned', finished_at = now(), error_class = 'process ended',
       error = 'the process ended without recording an outcome'
 WHERE object = :object AND outcome = 'running'
""")
LAST_VERIFY = text("""
SELECT coalesce(max(started_at) FILTER (WHERE command = 'verify' AND outcome <> 'deferred'),
                min(started_at)) AS last, now()
  FROM sync.run WHERE object = :object
   AND EXISTS (SELECT FROM sync.cursor WHERE object = :object AND complete_through IS NOT NULL)
""")
OPEN_RUN = text("""
INSERT INTO sync.run (object, command, owner) VALUES (:object, :command, :owner) RETURNING id
""")
NOTE_COUNTS = text("""
UPDATE sync.run
   SET read = :read, inserted = :inserted, updated = :updated, deleted = :deleted,
       unchanged = :unchanged, rejected = :rejected, nuls_removed = :nuls, api_calls = :api_calls,
       calls = CAST(:calls AS jsonb)
 WHERE id = :id AND outcome = 'running'
""")
CLOSE_RUN = text(f"""
UPDATE sync.run
   SET finished_at = now(), outcome = :outcome, since = :since, until = :until,
       error = left(:error, {LONGEST_ERROR}), error_class = :error_class,
       complete_through = (SELECT complete_through FROM sync.cursor WHERE object = :object),
       read = :read, inserted = :inserted, updated = :updated, deleted = :deleted,
       unchanged = :unchanged, rejected = :rejected, nuls_removed = :nuls, api_calls = :api_calls,
       calls = CAST(:calls AS jsonb), findings = CAST(:findings AS jsonb)
 WHERE id = :id
""")


def open_run(connection: Connection, sobject: str, command: str, owner: str) -> int:
    """Open an entry with the outcome `running`; return its number. Entries that ended processes left open are
    closed."""
    connection.execute(ABANDON, {"object": sobject})
    values = {"object": sobject, "command": command, "owner": owner}
    return int(connection.execute(OPEN_RUN, values).scalar_one())


def note_counts(
    connection: Connection, run_id: int, tally: Tally, api_calls: int, calls: Mapping[str, int]
) -> None:
    """Store what a run has done so far, for those who watch it; `calls` are those of named kinds."""
    made = {"api_calls": api_calls, "calls": json.dumps(calls)}
    connection.execute(NOTE_COUNTS, asdict(tally) | {"id": run_id} | made)


def close_run(
    connection: Connection,
    run_id: int,
    sobject: str,
    outcome: str,
    *,
    window: Window | None,
    tally: Tally,
    api_calls: int,
    calls: Mapping[str, int] | None = None,
    error: str | None,
    error_class: str | None = None,
    findings: Mapping[str, object] | None = None,
) -> None:
    """Store the outcome, the counts, and the findings of a verify; `calls` are the API calls of named kinds
    within `api_calls`."""
    values = asdict(tally) | {"id": run_id, "object": sobject, "outcome": outcome}
    values |= {"error": error, "error_class": error_class}
    values |= {"findings": json.dumps(findings) if findings is not None else None}
    values |= {"since": window.since if window else None, "until": window.until if window else None}
    connection.execute(CLOSE_RUN, values | {"api_calls": api_calls, "calls": json.dumps(calls or {})})


def verify_due(engine: Engine, sobject: str, at: clock_time | None) -> bool:
    """Return whether the time of day `at` (UTC) has passed since the last verify, or since the first run.

    A verify is not due before the first load is complete.
    """
    if at is None:
        return False
    last, now = last_verify(engine, sobject)
    latest = datetime.combine(now.astimezone(UTC).date(), at, UTC)
    if latest > now:
        latest -= timedelta(days=1)
    return last is not None and last < latest


def last_verify(engine: Engine, sobject: str) -> tuple[datetime | None, datetime]:
    """Return when an object was last verified, or else first worked on (None: not loaded), and the present
    time, by the database's clock."""
    with transaction(engine) as connection:
        last, now = connection.execute(LAST_VERIFY, {"object": sobject}).one()
    return last, now
