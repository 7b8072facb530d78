"""The next window of an object, and how far it is read: where a restart resumes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync.errors import SyncError
from sync.window import Key, Progress, Window

# An interrupted resync resumes if it is requested again within this time.
RESYNC_RESUMES_FOR = timedelta(hours=6)

PASS, RESYNC, REFRESH, VERIFY = "pass", "resync", "refresh", "verify"

COMPLETE_THROUGH = text("SELECT complete_through FROM sync.cursor WHERE object = :object")
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
    complete_through = connection.execute(COMPLETE_THROUGH, {"object": sobject}).scalar()
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
    complete_through = connection.execute(COMPLETE_THROUGH, {"object": sobject}).scalar()
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


def earliest_clock(connection: Connection, sobject: str, plan: Plan) -> datetime:
    """Return the earliest Salesforce time of all answers of a window."""
    row = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one()
    until: datetime = row.until
    return until
