"""Cursors and progress: the next window, how far it is read, and what its end claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync.errors import SyncError
from sync.window import Key, Progress, Window

# An interrupted resync resumes if it is requested again within this time.
RESYNC_RESUMES_FOR = timedelta(hours=6)
# The longest lag of latestDateCovered that holds the cursor back; a longer one is logged and ignored.
LONGEST_LAG = timedelta(hours=24)

PASS, RESYNC, REFRESH, VERIFY = "pass", "resync", "refresh", "verify"

READ_CURSOR = text("""
SELECT complete_through, hidden, covered, deleted_through, deleted_asked, verified_through, refreshed_at,
       backfill, emptied_through, selection, slow_since
  FROM sync.cursor WHERE object = :object
""")
READ_PROGRESS = text("""
SELECT since, until, covered, key_stamp, key_id, job, page_url, received, settled, selected, mismatches,
       began_at, total, epoch = (SELECT epoch FROM sync.lease WHERE object = :object) AS undisturbed
  FROM sync.progress
 WHERE object = :object AND purpose = :purpose
""")
START_PROGRESS = text("""
INSERT INTO sync.progress AS p (object, purpose, since, until, covered, selected, epoch)
VALUES (:object, :purpose, :since, :until, :covered, :selected,
        (SELECT epoch FROM sync.lease WHERE object = :object))
ON CONFLICT (object, purpose) DO UPDATE
   SET since = excluded.since, until = excluded.until, covered = excluded.covered,
       key_stamp = NULL, key_id = NULL, job = NULL, page_url = '', received = 0, settled = 0,
       selected = excluded.selected, epoch = excluded.epoch, mismatches = :mismatches,
       began_at = NULL, total = 0
""")
SAVE_PROGRESS = text("""
UPDATE sync.progress
   SET key_stamp = :key_stamp, key_id = :key_id, job = :job, page_url = :page_url,
       received = :received, settled = :settled, began_at = :began_at, total = :total,
       until = least(until, :until),
       epoch = (SELECT epoch FROM sync.lease WHERE object = :object)
 WHERE object = :object AND purpose = :purpose
""")
DISTRUST = text("""
UPDATE sync.progress
   SET key_stamp = NULL, key_id = NULL, job = NULL, page_url = '', received = 0, settled = 0, total = 0,
       mismatches = mismatches + 1
 WHERE object = :object AND purpose = :purpose
""")
# The epoch of an object: incremented by each transaction that writes or removes its records.
COUNT_COMMIT = text("UPDATE sync.lease SET epoch = epoch + 1 WHERE object = :object")
CLEAR_PROGRESS = text("DELETE FROM sync.progress WHERE object = :object AND purpose = :purpose")

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
       complete_through = greatest(complete_through, :reached)
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


@dataclass(frozen=True, slots=True)
class Plan:
    """A window to read, where to start in it, and whether its end moves the cursor.

    `covered` is the time before which Salesforce had no open transaction when the window began (None:
    unknown). `mismatches` counts the readings of this window whose pages did not match the count. `orphan` is
    a Bulk job of an earlier window that is to be deleted.
    """

    purpose: str
    window: Window
    start: Progress = field(default_factory=Progress)
    first_load: bool = False
    advances: bool = False
    covered: datetime | None = None
    mismatches: int = 0
    orphan: str | None = None
    read: int = 0  # records that this run read, set at the end

    @property
    def resumed(self) -> bool:
        return self.start.started


def plan_pass(
    connection: Connection,
    sobject: str,
    until: datetime,
    overlap: timedelta,
    selected: str,
    covered: datetime | None = None,
) -> Plan:
    """Plan the next incremental window, or the rest of an interrupted one.

    Raises SyncError if the cursor is later than Salesforce's clock `until` by more than the overlap: so much
    the clocks of its servers may differ.
    """
    complete_through = connection.execute(READ_CURSOR, {"object": sobject}).scalar()
    if complete_through is not None and complete_through > until + overlap:
        raise SyncError(
            f"{sobject} is recorded as complete through {complete_through:%Y-%m-%d %H:%M:%S} UTC, but "
            f"Salesforce's clock says {until:%Y-%m-%d %H:%M:%S}: one of the two is "
            f"wrong, and changes may be missing; type: python -m sync resync --object {sobject} --full"
        )
    # The overlap is read again: what the claim rests on may be wrong, as a coverage that was told too early.
    since = None if complete_through is None else complete_through - overlap
    wanted = Window(since, until, overlap)
    plan = Plan(PASS, wanted, first_load=complete_through is None, advances=True, covered=covered)
    return resume_or_start(connection, sobject, plan, selected, None)


def plan_resync(
    connection: Connection,
    sobject: str,
    since: datetime | None,
    until: datetime,
    overlap: timedelta,
    selected: str,
    covered: datetime | None = None,
) -> Plan:
    """Plan the window of a resync; it moves the cursor only if it leaves no gap."""
    complete_through = connection.execute(READ_CURSOR, {"object": sobject}).scalar()
    wanted = Window(since, until, overlap)
    gapless = since is None or (complete_through is not None and since <= complete_through)
    first = complete_through is None and since is None
    plan = Plan(RESYNC, wanted, first_load=first, advances=gapless, covered=covered)
    return resume_or_start(connection, sobject, plan, selected, RESYNC_RESUMES_FOR)


def plan_refresh(connection: Connection, sobject: str, until: datetime, selected: str) -> Plan:
    """Plan a window of some columns of all records; the cursor does not move."""
    return resume_or_start(
        connection, sobject, Plan(REFRESH, Window(None, until)), selected, RESYNC_RESUMES_FOR
    )


def plan_listing(connection: Connection, sobject: str, window: Window) -> Plan:
    """Plan a window that a verify lists: never resumed, but its Bulk job is stored so that a later run
    deletes it."""
    return resume_or_start(connection, sobject, Plan(VERIFY, window), "", timedelta(days=-1))


def resume_or_start(
    connection: Connection, sobject: str, plan: Plan, selected: str, resume_for: timedelta | None
) -> Plan:
    """Resume an unfinished window of the same start and fields, or start the planned one.

    A Bulk job is not resumed if other records of the object were committed since its last page.
    """
    stored = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one_or_none()
    wanted, mismatches = plan.window, 0
    if stored is not None:
        key = None if stored.key_stamp is None else Key(stored.key_stamp, stored.key_id)
        start = Progress(
            key, stored.job, stored.page_url, stored.received, stored.settled, stored.began_at, stored.total
        )
        same = stored.since == wanted.since and stored.selected == selected
        recent = resume_for is None or wanted.until - stored.until <= resume_for
        mismatches = stored.mismatches if same else 0
        # The results of a Bulk job are as old as the job: after other commits they may be outdated. Pages of
        # REST are queried again and are always current.
        current = stored.job is None or stored.undisturbed
        if same and recent and current and start.started:
            window = replace(wanted, until=stored.until)
            # The coverage when its first pages were read, not the present one.
            return replace(plan, window=window, start=start, mismatches=mismatches, covered=stored.covered)
    connection.execute(
        START_PROGRESS,
        {
            "object": sobject,
            "purpose": plan.purpose,
            "since": wanted.since,
            "until": wanted.until,
            "covered": plan.covered,
            "selected": selected,
            "mismatches": mismatches,
        },
    )
    return replace(plan, mismatches=mismatches, orphan=stored.job if stored else None)


def save_progress(connection: Connection, sobject: str, plan: Plan, progress: Progress, at: datetime) -> None:
    """Store where a restart resumes, in the transaction of the page; `at` is Salesforce's time of the
    page."""
    key = progress.key
    connection.execute(
        SAVE_PROGRESS,
        {
            "object": sobject,
            "purpose": plan.purpose,
            "key_stamp": key.stamp if key else None,
            "key_id": key.id if key else None,
            "job": progress.job,
            "page_url": progress.page_url,
            "received": progress.received,
            "settled": progress.settled,
            "began_at": progress.began,
            "total": progress.total,
            "until": at,
        },
    )


def count_commit(connection: Connection, sobject: str) -> None:
    """Count a commit that writes or removes records of an object: Bulk jobs begun before it are older.

    Called before `save_progress` if both belong to the same page.
    """
    connection.execute(COUNT_COMMIT, {"object": sobject})


def clear_progress(connection: Connection, sobject: str, purpose: str) -> None:
    """Forget the progress of a window: the next run reads it from the beginning."""
    connection.execute(CLEAR_PROGRESS, {"object": sobject, "purpose": purpose})


def note_mismatch(connection: Connection, sobject: str, purpose: str) -> None:
    """Note that the pages did not match the count: the next run reads the window from the beginning, more
    carefully."""
    connection.execute(DISTRUST, {"object": sobject, "purpose": purpose})


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


def earliest_clock(connection: Connection, sobject: str, plan: Plan) -> datetime:
    """Return the earliest Salesforce time of all answers of a window."""
    row = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one()
    until: datetime = row.until
    return until


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


def note_slow(connection: Connection, sobject: str, since: datetime | None) -> None:
    """Store since when ordered queries do not finish in time (None: they do)."""
    connection.execute(NOTE_SLOW, {"object": sobject, "since": since})


def note_selection(connection: Connection, sobject: str, selection: str) -> None:
    """Store which selection of fields, as a text, the stored values follow."""
    connection.execute(NOTE_SELECTION, {"object": sobject, "selection": selection})


def note_refreshed(connection: Connection, sobject: str, at: datetime | None, filled: Sequence[str]) -> None:
    """Store as of when values that change without a stamp are read; remove the fields that are now filled."""
    connection.execute(CLEAR_PROGRESS, {"object": sobject, "purpose": REFRESH})
    connection.execute(NOTE_REFRESHED, {"object": sobject, "at": at, "filled": list(filled)})


def reset_cursors(connection: Connection) -> None:
    """Delete every cursor: all objects are read from the beginning, as into an empty database."""
    for table in ("cursor", "progress", "field", "reject", "reread", "changed_parent"):
        connection.execute(text(f"DELETE FROM sync.{table}"))


def note_fields(connection: Connection, sobject: str, hidden: Sequence[str], late: Sequence[str]) -> None:
    """Store the mapped fields that are hidden from the integration user, and those to fill in old records."""
    connection.execute(NOTE_FIELDS, {"object": sobject, "hidden": sorted(hidden), "late": sorted(late)})
