"""The journal: one entry for each object and run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time

from sqlalchemy import Connection, text

from sync.postgres.load.merge import Tally
from sync.window import Window

PASSES = ("run", "worker")  # commands whose runs are passes
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
# A pass that changed nothing extends the line of the passes before it, which stands for at most an hour, so
# that the calls of the last 24 hours stay countable.
EXTEND = text("""
UPDATE sync.run AS r
   SET passes = r.passes + 1, finished_at = now(), until = :until, read = r.read + :read,
       unchanged = r.unchanged + :unchanged, api_calls = r.api_calls + :api_calls,
       shared_calls = r.shared_calls + :shared_calls,
       calls = r.calls || coalesce((
               SELECT jsonb_object_agg(key, value::bigint + coalesce(r.calls ->> key, '0')::bigint)
                 FROM jsonb_each_text(CAST(:calls AS jsonb))), '{}'),
       complete_through = (SELECT complete_through FROM sync.cursor WHERE object = :object)
 WHERE r.id = (SELECT id FROM sync.run WHERE object = :object AND id IS DISTINCT FROM :id
                ORDER BY id DESC LIMIT 1)
   AND r.passes > 0 AND r.command = :command AND r.owner = :owner
   AND r.started_at > now() - interval '1 hour'
RETURNING r.id
""")
INSERT_QUIET = text("""
INSERT INTO sync.run
       (object, command, owner, finished_at, outcome, since, until, complete_through, read, unchanged,
        api_calls, passes, shared_calls, calls)
SELECT :object, :command, :owner, now(), 'succeeded', :since, :until,
       (SELECT complete_through FROM sync.cursor WHERE object = :object), :read, :unchanged, :api_calls, 1,
       :shared_calls, CAST(:calls AS jsonb)
RETURNING id
""")
DROP_RUN = text("DELETE FROM sync.run WHERE id = :id")
CLOSE_RUN = text(f"""
UPDATE sync.run
   SET finished_at = now(), outcome = :outcome, since = :since, until = :until,
       error = left(:error, {LONGEST_ERROR}), error_class = :error_class,
       complete_through = (SELECT complete_through FROM sync.cursor WHERE object = :object),
       read = :read, inserted = :inserted, updated = :updated, deleted = :deleted,
       unchanged = :unchanged, rejected = :rejected, nuls_removed = :nuls, api_calls = :api_calls,
       calls = CAST(:calls AS jsonb), findings = CAST(:findings AS jsonb), passes = :passes,
       shared_calls = :shared_calls
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is stored of a run that has ended; `shared_calls` are API calls for several objects in which this
    one took part, each counted in `api_calls` of one of them. `calls` are those of named kinds within
    `api_calls`."""

    outcome: str
    window: Window | None
    tally: Tally
    api_calls: int
    shared_calls: int = 0
    error: str | None = None
    error_class: str | None = None
    findings: Mapping[str, object] | None = None
    calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def quiet(self) -> bool:
        """Whether the run changed nothing and found nothing to tell."""
        tally = self.tally
        told = tally.written + tally.rejected + tally.nuls
        bounded = self.window is not None and self.window.since is not None
        return self.outcome == "succeeded" and bounded and self.findings is None and not told


def close_run(
    connection: Connection, run_id: int, sobject: str, ended: Outcome, *, command: str, owner: str
) -> int:
    """Store the outcome, the counts, and the findings of a verify; return the number of the entry that stands
    for the run.

    A pass that changed nothing extends the entry of the passes before it, and its own is deleted.
    """
    quiet = ended.quiet and command in PASSES
    if quiet and (extended := extend_quiet(connection, sobject, ended, command, owner, run_id)) is not None:
        connection.execute(DROP_RUN, {"id": run_id})
        return extended
    values = asdict(ended.tally) | {"id": run_id, "object": sobject, "outcome": ended.outcome}
    values |= {"error": ended.error, "error_class": ended.error_class}
    values |= {"findings": json.dumps(ended.findings) if ended.findings is not None else None}
    values |= {"since": ended.window.since if ended.window else None}
    values |= {"until": ended.window.until if ended.window else None}
    values |= {"api_calls": ended.api_calls, "shared_calls": ended.shared_calls, "passes": int(quiet)}
    connection.execute(CLOSE_RUN, values | {"calls": json.dumps(dict(ended.calls))})
    return run_id


def extend_quiet(
    connection: Connection, sobject: str, ended: Outcome, command: str, owner: str, run_id: int | None = None
) -> int | None:
    """Count a pass that changed nothing in the entry of the passes before it; return that entry's number.

    None: the last entry, other than `run_id`, is no such entry of this process, or has stood for an hour.
    """
    values = quiet_values(sobject, ended, command, owner) | {"id": run_id}
    found: int | None = connection.execute(EXTEND, values).scalar()
    return found


def note_quiet(connection: Connection, sobject: str, ended: Outcome, command: str, owner: str) -> int:
    """Store a pass that changed nothing and had no entry of its own; return the number of its entry."""
    found = extend_quiet(connection, sobject, ended, command, owner)
    if found is None:
        values = quiet_values(sobject, ended, command, owner)
        found = int(connection.execute(INSERT_QUIET, values).scalar_one())
    return found


def quiet_values(sobject: str, ended: Outcome, command: str, owner: str) -> dict[str, object]:
    """Return the parameters of what stores a pass that changed nothing."""
    assert ended.window is not None
    return {
        "object": sobject,
        "command": command,
        "owner": owner,
        "since": ended.window.since,
        "until": ended.window.until,
        "read": ended.tally.read,
        "unchanged": ended.tally.unchanged,
        "api_calls": ended.api_calls,
        "shared_calls": ended.shared_calls,
        "calls": json.dumps(dict(ended.calls)),
    }


def verify_due(connection: Connection, sobject: str, at: clock_time | None) -> bool:
    """Return whether the time of day `at` (UTC) has passed since the last verify, or since the first run.

    A verify is not due before the first load is complete.
    """
    if at is None:
        return False
    last, now = last_verify(connection, sobject)
    latest = datetime.combine(now.astimezone(UTC).date(), at, UTC)
    if latest > now:
        latest -= timedelta(days=1)
    return last is not None and last < latest


def last_verify(connection: Connection, sobject: str) -> tuple[datetime | None, datetime]:
    """Return when an object was last verified, or else first worked on (None: not loaded), and the present
    time, by the database's clock."""
    last, now = connection.execute(LAST_VERIFY, {"object": sobject}).one()
    return last, now
