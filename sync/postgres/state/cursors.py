"""Cursors: how far each object is complete, and what the end of a window claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync.postgres.state.plans import READ_PROGRESS, REFRESH, Plan, clear_progress
from sync.window import Window

# The longest lag of latestDateCovered that holds the cursor back; a longer one is logged and ignored.
LONGEST_LAG = timedelta(hours=24)

READ_CURSOR = text("""
SELECT complete_through, hidden, covered, deleted_through, deleted_asked, verified_through, refreshed_at,
       backfill, emptied_through, selection, slow_since, coverage_asked,
       deletions_refused_at
  FROM sync.cursor WHERE object = :object
""")
# The cursor never moves backwards, whatever the clock or the overlap are now. One exception: a full resync,
# which reads everything, corrects a cursor that a wrong clock moved into the future. Deletions then count as
# known through a time before the start of any delete log, so that the next pass verifies.
ADVANCE = text("""
INSERT INTO sync.cursor AS c
       (object, complete_through, covered, deleted_through, refreshed_at)
VALUES (:object, :reached, :covered, :reached, :until)
ON CONFLICT (object) DO UPDATE
   SET covered = excluded.covered,
       deleted_through = CASE WHEN :whole AND c.deleted_through > :until THEN :until - interval '30 days'
                              ELSE coalesce(c.deleted_through, excluded.deleted_through) END,
       refreshed_at = CASE WHEN :whole AND c.refreshed_at > :until THEN NULL
                           ELSE coalesce(c.refreshed_at, CASE WHEN :first THEN :until END) END,
       complete_through = CASE WHEN :whole AND c.complete_through > :until THEN excluded.complete_through
                               ELSE greatest(c.complete_through, excluded.complete_through) END
""")
# A pass that found no change: what ADVANCE and NOTE_DELETED store, in one write.
ADVANCE_QUIET = text("""
UPDATE sync.cursor
   SET covered = :covered, deleted_through = greatest(deleted_through, :deleted), deleted_asked = :until,
       complete_through = greatest(complete_through, :reached),
       coverage_lag = greatest(date_trunc('minute', CAST(:until AS timestamptz)) - :covered, interval '0'),
       coverage_asked = :until
 WHERE object = :object
""")
NOTE_COVERAGE = text("""
UPDATE sync.cursor
   SET coverage_lag = greatest(date_trunc('minute', CAST(:at AS timestamptz)) - CAST(:covered AS timestamptz),
                               interval '0'),
       coverage_asked = :at
 WHERE object = :object
""")
# Objects that a pass can begin for in one call with others: loaded, and no window is unfinished.
STEADY = text("""
SELECT object FROM sync.cursor AS c
 WHERE object = ANY (CAST(:objects AS text[])) AND complete_through IS NOT NULL AND slow_since IS NULL
   AND NOT EXISTS (SELECT FROM sync.progress AS p WHERE p.object = c.object AND p.purpose = 'pass')
 ORDER BY object
""")
NOTE_DELETED = text("""
UPDATE sync.cursor SET deleted_through = greatest(deleted_through, :through), deleted_asked = :asked
 WHERE object = :object
""")
NOTE_VERIFIED = text("UPDATE sync.cursor SET verified_through = :through WHERE object = :object")
NOTE_REFRESHED = text("""
UPDATE sync.cursor
   SET refreshed_at = :at,
       backfill = ARRAY(SELECT f FROM unnest(backfill) AS f
                         WHERE f <> ALL (CAST(:filled AS text[])) ORDER BY f)
 WHERE object = :object
""")
NOTE_DELETIONS_REFUSED = text("""
UPDATE sync.cursor
   SET deletions_refused_at = CASE WHEN :refused THEN coalesce(deletions_refused_at, now()) END
 WHERE object = :object AND (deletions_refused_at IS NOT NULL) <> :refused
""")
NOTE_EMPTIED = text("UPDATE sync.cursor SET emptied_through = :through WHERE object = :object")
NOTE_SELECTION = text("UPDATE sync.cursor SET selection = :selection WHERE object = :object")
NOTE_SLOW = text("UPDATE sync.cursor SET slow_since = :since WHERE object = :object")
NOTE_FIELDS = text("""
INSERT INTO sync.cursor AS c (object, hidden, backfill) VALUES (:object, :hidden, :late)
ON CONFLICT (object) DO UPDATE
   SET hidden = excluded.hidden,
       backfill = ARRAY(SELECT DISTINCT unnest(c.backfill || excluded.backfill) ORDER BY 1)
 WHERE (c.hidden, c.backfill) IS DISTINCT FROM
       (excluded.hidden, ARRAY(SELECT DISTINCT unnest(c.backfill || excluded.backfill) ORDER BY 1))
""")


def advance(connection: Connection, sobject: str, plan: Plan, deleted: datetime | None = None) -> None:
    """Close a complete window: delete its progress, and move the cursor unless it leaves a gap.

    `deleted` is the time through which purges are known (None: Salesforce does not tell).
    """
    progress = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one()
    clear_progress(connection, sobject, plan.purpose)
    if plan.advances:
        # The earliest clock of all answers counts: a server's wrong Date must not move the cursor ahead.
        values = {
            "object": sobject,
            "reached": claimable(progress.until, plan.window.overlap, progress.covered, deleted),
            "until": progress.until,
            "covered": progress.covered,
            "whole": plan.window.since is None,
            "first": plan.first_load,
        }
        connection.execute(ADVANCE, values)


def advance_quiet(
    connection: Connection, sobject: str, window: Window, covered: datetime, deleted: datetime
) -> None:
    """Move the cursor after a window in which nothing has changed.

    `covered` is the time before which Salesforce had no open transaction, `deleted` the time through which
    purges are known.
    """
    values = {
        "object": sobject,
        "reached": claimable(window.until, window.overlap, covered, deleted),
        "until": window.until,
        "covered": covered,
        "deleted": deleted,
    }
    connection.execute(ADVANCE_QUIET, values)


def steady_objects(connection: Connection, objects: Sequence[str]) -> list[str]:
    """Return which of the objects are loaded and have no unfinished window, by name."""
    return list(connection.execute(STEADY, {"objects": list(objects)}).scalars())


def claimable(
    until: datetime, overlap: timedelta, covered: datetime | None, deleted: datetime | None
) -> datetime:
    """Return the time through which a window read as of `until` is complete.

    `covered` is the time before which Salesforce had no open transaction (None: it does not tell, and the
    overlap counts instead, in which transactions may still commit), `deleted` the time through which purges
    are known (None: verify finds them). A lag longer than LONGEST_LAG counts as LONGEST_LAG.
    """
    latest = until - overlap if covered is None else min(until, covered)
    if deleted is not None:
        latest = min(latest, deleted)
    return max(latest, until - max(LONGEST_LAG, overlap))


def lags(until: datetime, covered: datetime | None) -> bool:
    """Return whether Salesforce's replication calls lag by more than LONGEST_LAG."""
    return covered is not None and until - covered > LONGEST_LAG


@dataclass(frozen=True, slots=True)
class CursorState:
    """The cursor of an object in each respect (None: never reached)."""

    complete_through: datetime | None = None
    hidden: tuple[str, ...] = ()
    covered: datetime | None = None
    deleted_through: datetime | None = None
    deleted_asked: datetime | None = None
    verified_through: datetime | None = None
    refreshed_at: datetime | None = None
    backfill: tuple[str, ...] = ()
    emptied_through: datetime | None = None
    selection: str | None = None
    slow_since: datetime | None = None  # ordered queries do not finish in time
    coverage_asked: datetime | None = None
    deletions_refused_at: datetime | None = None


def read_cursor(connection: Connection, sobject: str) -> CursorState:
    """Return the object's row of sync.cursor."""
    row = connection.execute(READ_CURSOR, {"object": sobject}).one_or_none()
    if row is None:
        return CursorState()
    return CursorState(**dict(row._mapping) | {"hidden": tuple(row.hidden), "backfill": tuple(row.backfill)})


def note_deleted(connection: Connection, sobject: str, through: datetime, asked_at: datetime) -> None:
    """Store through when deletions are known; `asked` is when the delete log was read."""
    connection.execute(NOTE_DELETED, {"object": sobject, "through": through, "asked": asked_at})


def note_verified(connection: Connection, sobject: str, through: datetime) -> None:
    """Store that all differences before a time are found and repaired."""
    connection.execute(NOTE_VERIFIED, {"object": sobject, "through": through})


def note_deletions_refused(connection: Connection, sobject: str, *, refused: bool) -> None:
    """Store whether Salesforce permanently refuses getDeleted, so that only a verify finds purges."""
    connection.execute(NOTE_DELETIONS_REFUSED, {"object": sobject, "refused": refused})


def note_emptied(connection: Connection, sobject: str, through: datetime | None) -> None:
    """Store that the values of all tombstones of records deleted until a time are erased."""
    connection.execute(NOTE_EMPTIED, {"object": sobject, "through": through})


def note_coverage(connection: Connection, sobject: str, covered: datetime | None, at: datetime) -> None:
    """Store how far Salesforce covers (None: it does not tell), as asked at a time of its clock."""
    connection.execute(NOTE_COVERAGE, {"object": sobject, "covered": covered, "at": at})


def note_slow(connection: Connection, sobject: str, since: datetime | None) -> None:
    """Store since when ordered queries do not finish in time (None: they do)."""
    connection.execute(NOTE_SLOW, {"object": sobject, "since": since})


def note_selection(connection: Connection, sobject: str, selection: str) -> None:
    """Store which selection of fields, as a text, the stored values follow."""
    connection.execute(NOTE_SELECTION, {"object": sobject, "selection": selection})


def note_refreshed(connection: Connection, sobject: str, at: datetime | None, filled: Sequence[str]) -> None:
    """Store as of when values that change without a stamp are read; remove the fields that are now filled."""
    clear_progress(connection, sobject, REFRESH)
    connection.execute(NOTE_REFRESHED, {"object": sobject, "at": at, "filled": list(filled)})


def reset_cursors(connection: Connection) -> None:
    """Delete every cursor: all objects are read from the beginning, as into an empty database."""
    for table in ("cursor", "progress", "field", "reject", "reread", "changed_parent"):
        connection.execute(text(f"DELETE FROM sync.{table}"))


def note_fields(connection: Connection, sobject: str, hidden: Sequence[str], late: Sequence[str]) -> None:
    """Store the mapped fields that are hidden from the integration user, and those to fill in old records."""
    connection.execute(NOTE_FIELDS, {"object": sobject, "hidden": sorted(hidden), "late": sorted(late)})
