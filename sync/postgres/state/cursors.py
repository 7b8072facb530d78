"""Cursors and progress: what window is next, how far it came, and what its end means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync.errors import SyncError
from sync.window import Key, Progress, Window

# An interrupted resync is taken up where it stopped if it is asked for again within this time.
RESYNC_RESUMES_FOR = timedelta(hours=6)
# A lag of Salesforce's replication calls counts for so long; then something is wrong with them.
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
TOUCH = text("UPDATE sync.lease SET epoch = epoch + 1 WHERE object = :object")
CLEAR_PROGRESS = text("DELETE FROM sync.progress WHERE object = :object AND purpose = :purpose")

# Never backwards, whatever the clock or the overlap say now; except that a full resync, which leaves nothing
# unread, mends a cursor that a wrong clock put into the future. Deletions then count as known through a time
# that no delete log reaches back to: the next pass verifies.
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
REPLICATED = text("""
WITH gone AS (DELETE FROM sync.replicated WHERE object <> ALL (CAST(:objects AS text[])))
INSERT INTO sync.replicated (object) SELECT unnest(CAST(:objects AS text[])) ON CONFLICT DO NOTHING
""")
ASIDE = text("""
SELECT (SELECT array_agg(object ORDER BY object) FROM sync.replicated)
       IS DISTINCT FROM ARRAY(SELECT unnest(CAST(:objects AS text[])) ORDER BY 1)
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
    """A window to read, where to start in it, and what its end means for the cursor.

    `covered` is through when Salesforce had no open transaction when the window was begun, None where it does
    not tell. `mismatches`: how often the pages of this window did not add up. `orphan` is a Bulk job of an
    earlier window that nobody will finish.
    """

    purpose: str
    window: Window
    start: Progress = field(default_factory=Progress)
    first_load: bool = False
    advances: bool = False
    covered: datetime | None = None
    mismatches: int = 0
    orphan: str | None = None
    read: int = 0  # records read by this run, once it has been read

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
    """The next incremental window, or the rest of the one that was interrupted."""
    complete_through = connection.execute(READ_CURSOR, {"object": sobject}).scalar()
    if complete_through is not None and complete_through > until:
        raise SyncError(
            f"{sobject} is said to be complete through {complete_through:%Y-%m-%d %H:%M:%S} UTC, but "
            f"Salesforce's clock says {until:%Y-%m-%d %H:%M:%S}: one of the two was "
            f"wrong, and changes may be missing; type: python -m sync resync --object {sobject} --full"
        )
    wanted = Window(complete_through, until, overlap)
    plan = Plan(PASS, wanted, first_load=complete_through is None, advances=True, covered=covered)
    return begin(connection, sobject, plan, selected, None)


def plan_resync(
    connection: Connection,
    sobject: str,
    since: datetime | None,
    until: datetime,
    overlap: timedelta,
    selected: str,
    covered: datetime | None = None,
) -> Plan:
    """The window of an operator's resync; it moves the cursor only where it leaves no gap behind it."""
    complete_through = connection.execute(READ_CURSOR, {"object": sobject}).scalar()
    wanted = Window(since, until, overlap)
    gapless = since is None or (complete_through is not None and since <= complete_through)
    first = complete_through is None and since is None
    plan = Plan(RESYNC, wanted, first_load=first, advances=gapless, covered=covered)
    return begin(connection, sobject, plan, selected, RESYNC_RESUMES_FOR)


def plan_refresh(connection: Connection, sobject: str, until: datetime, selected: str) -> Plan:
    """All records, of which only some columns are read; the cursor stays."""
    return begin(connection, sobject, Plan(REFRESH, Window(None, until)), selected, RESYNC_RESUMES_FOR)


def plan_listing(connection: Connection, sobject: str, window: Window) -> Plan:
    """A window that a verify reads: never resumed, but its Bulk job is known to who comes after."""
    return begin(connection, sobject, Plan(VERIFY, window), "", timedelta(days=-1))


def begin(
    connection: Connection, sobject: str, plan: Plan, selected: str, resume_for: timedelta | None
) -> Plan:
    """The plan, going on where an unfinished window of the same beginning and fields stopped.

    Not with a Bulk job where other records of the object were committed since its last page.
    """
    left = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one_or_none()
    wanted, mismatches = plan.window, 0
    if left is not None:
        key = None if left.key_stamp is None else Key(left.key_stamp, left.key_id)
        start = Progress(key, left.job, left.page_url, left.received, left.settled, left.began_at, left.total)
        same = left.since == wanted.since and left.selected == selected
        young = resume_for is None or wanted.until - left.until <= resume_for
        mismatches = left.mismatches if same else 0
        # The results of a Bulk job are as old as the job, so they are not read on after other records were
        # committed. Pages of REST are queried again and always current.
        current = left.job is None or left.undisturbed
        if same and young and current and start.started:
            window = replace(wanted, until=left.until)
            # What was covered when its first pages were read, not what is now.
            return replace(plan, window=window, start=start, mismatches=mismatches, covered=left.covered)
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
    return replace(plan, mismatches=mismatches, orphan=left.job if left else None)


def save_progress(connection: Connection, sobject: str, plan: Plan, progress: Progress, at: datetime) -> None:
    """Where a restart resumes, committed with the page's rows; `at` is Salesforce's clock of the page."""
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
    """Records of an object are written or removed: what is read of a Bulk job begun before is older.

    Called before `save_progress`, where both belong to the same page.
    """
    connection.execute(TOUCH, {"object": sobject})


def clear_progress(connection: Connection, sobject: str, purpose: str) -> None:
    """Forget how far a window came: the next run reads it from its beginning."""
    connection.execute(CLEAR_PROGRESS, {"object": sobject, "purpose": purpose})


def distrust(connection: Connection, sobject: str, purpose: str) -> None:
    """The pages did not add up: the next run reads the window from its beginning, with more care."""
    connection.execute(DISTRUST, {"object": sobject, "purpose": purpose})


def advance(connection: Connection, sobject: str, plan: Plan, deleted: datetime | None = None) -> None:
    """The window is whole: forget the progress, move the cursor unless there is a gap before the window.

    `deleted` is through when deletions without a trace are known, None where Salesforce does not tell.
    """
    progress = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one()
    clear_progress(connection, sobject, plan.purpose)
    if plan.advances:
        # The earliest clock of all the answers: one server's wrong Date must not move the cursor ahead.
        values = {
            "object": sobject,
            "reached": claimable(progress.until, plan.window.overlap, progress.covered, deleted),
            "until": progress.until,
            "covered": progress.covered,
            "whole": plan.window.since is None,
            "first": plan.first_load,
        }
        connection.execute(ADVANCE, values)


def earliest(connection: Connection, sobject: str, plan: Plan) -> datetime:
    """The earliest clock of all the answers that a window was read by."""
    row = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one()
    until: datetime = row.until
    return until


def claimable(until: datetime, overlap: timedelta, *covered: datetime | None) -> datetime:
    """Through when a window read as of `until` is complete.

    Not into the overlap, where transactions may still commit, nor beyond what Salesforce's replication calls
    cover (`latestDateCovered`); but of their lag only a day counts.
    """
    latest = until - overlap
    floor = min(latest, until - LONGEST_LAG)
    return min([latest, *(max(floor, known) for known in covered if known is not None)])


def lagging(until: datetime, covered: datetime | None) -> bool:
    """Whether Salesforce's replication calls lag by more than is taken seriously."""
    return covered is not None and until - covered > LONGEST_LAG


@dataclass(frozen=True, slots=True)
class CursorState:
    """How far an object came in each respect; None where it never has."""

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
    slow_since: datetime | None = None  # queries in an order are not finished in time


def read_cursor(connection: Connection, sobject: str) -> CursorState:
    """The object's line in sync.cursor."""
    row = connection.execute(READ_CURSOR, {"object": sobject}).one_or_none()
    if row is None:
        return CursorState()
    return CursorState(**dict(row._mapping) | {"hidden": tuple(row.hidden), "backfill": tuple(row.backfill)})


def note_deleted(connection: Connection, sobject: str, through: datetime, asked: datetime) -> None:
    """Deletions are known through a time; `asked` is when Salesforce was asked."""
    connection.execute(NOTE_DELETED, {"object": sobject, "through": through, "asked": asked})


def note_verified(connection: Connection, sobject: str, through: datetime) -> None:
    """All differences of what was committed before a time are found and mended."""
    connection.execute(NOTE_VERIFIED, {"object": sobject, "through": through})


def note_deletions_refused(connection: Connection, sobject: str, *, refused: bool) -> None:
    """Whether Salesforce refuses to tell deletions for good, so that only a verify finds them."""
    connection.execute(NOTE_DELETIONS_REFUSED, {"object": sobject, "refused": refused})


def note_emptied(connection: Connection, sobject: str, through: datetime | None) -> None:
    """The values of all tombstones of records deleted until a time are erased."""
    connection.execute(NOTE_EMPTIED, {"object": sobject, "through": through})


def note_slow(connection: Connection, sobject: str, since: datetime | None) -> None:
    """Queries in an order are not finished in time since then; None: they are."""
    connection.execute(NOTE_SLOW, {"object": sobject, "since": since})


def note_selection(connection: Connection, sobject: str, selection: str) -> None:
    """Nothing is stored but what this selection of fields, as text, allows."""
    connection.execute(NOTE_SELECTION, {"object": sobject, "selection": selection})


def note_refreshed(connection: Connection, sobject: str, at: datetime | None, filled: Sequence[str]) -> None:
    """Values that move without a stamp are as of `at`; the fields that were late are not any more."""
    connection.execute(CLEAR_PROGRESS, {"object": sobject, "purpose": REFRESH})
    connection.execute(NOTE_REFRESHED, {"object": sobject, "at": at, "filled": list(filled)})


def note_replicated(connection: Connection, objects: Sequence[str]) -> None:
    """These objects are replicated now, and no others; written only where that is news."""
    given = {"objects": list(objects)}
    if connection.execute(ASIDE, given).scalar_one():
        connection.execute(REPLICATED, given)


def start_anew(connection: Connection) -> None:
    """Forget every cursor: all objects are read from the beginning, as an empty database is."""
    for table in ("cursor", "progress", "field", "reject", "reread", "changed_parent"):
        connection.execute(text(f"DELETE FROM sync.{table}"))


def note_fields(connection: Connection, sobject: str, hidden: Sequence[str], late: Sequence[str]) -> None:
    """Remember the mapped fields the integration user cannot see, and those to be filled in old records."""
    connection.execute(NOTE_FIELDS, {"object": sobject, "hidden": sorted(hidden), "late": sorted(late)})
