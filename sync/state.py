"""Cursors, progress, the journal and the leases: what this product remembers, in the replica's database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, text

from sync import logs
from sync.errors import FenceLostError, LeaseHeldError, StoppedError, SyncError
from sync.extract import Progress, Window
from sync.load import Tally
from sync.soql import Key
from sync.tables import transaction

log = logs.get(__name__)

LEASE_SECONDS, RENEW_SECONDS, POLL_SECONDS = 30, 8, 0.5
# An interrupted resync is taken up where it stopped if it is asked for again within this time.
RESYNC_RESUMES_FOR = timedelta(hours=6)

PASS, RESYNC = "pass", "resync"

SEED = text("""
INSERT INTO sync.lease (object, expires_at)
SELECT CAST(:object AS text), clock_timestamp()
 WHERE NOT EXISTS (SELECT 1 FROM sync.lease WHERE object = :object)
ON CONFLICT DO NOTHING
""")
# A locked row is one whose holder commits a page just now: held, and nothing to wait for in a transaction.
TAKE = text("""
UPDATE sync.lease SET owner = :owner, fence = fence + 1,
       expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE object = (SELECT object FROM sync.lease
                  WHERE object = :object AND (owner IS NULL OR expires_at < clock_timestamp())
                    FOR UPDATE SKIP LOCKED)
RETURNING fence
""")
RENEW = text("""
UPDATE sync.lease SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE object = (SELECT object FROM sync.lease
                  WHERE object = :object AND owner = :owner AND fence = :fence
                    FOR UPDATE SKIP LOCKED)
""")
RELEASE = text("""
UPDATE sync.lease SET owner = NULL WHERE object = :object AND owner = :owner AND fence = :fence
""")
# The row lock is held until commit: nobody can take the lease over while a page is being committed.
FENCE = text("""
UPDATE sync.lease SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE object = :object AND owner = :owner AND fence = :fence
RETURNING fence
""")
HOLDER = text("SELECT owner, expires_at FROM sync.lease WHERE object = :object")

READ_CURSOR = text("SELECT complete_through, hidden FROM sync.cursor WHERE object = :object")
READ_PROGRESS = text("""
SELECT since, until, key_stamp, key_id, job, page_url, received, settled, selected, stepwise
  FROM sync.progress
 WHERE object = :object AND purpose = :purpose
""")
START_PROGRESS = text("""
INSERT INTO sync.progress AS p (object, purpose, since, until, selected)
VALUES (:object, :purpose, :since, :until, :selected)
ON CONFLICT (object, purpose) DO UPDATE
   SET since = excluded.since, until = excluded.until, key_stamp = NULL, key_id = NULL, job = NULL,
       page_url = '', received = 0, settled = 0, selected = excluded.selected, stepwise = :stepwise
""")
SAVE_PROGRESS = text("""
UPDATE sync.progress
   SET key_stamp = :key_stamp, key_id = :key_id, job = :job, page_url = :page_url,
       received = :received, settled = :settled, until = least(until, :until)
 WHERE object = :object AND purpose = :purpose
""")
DISTRUST = text("""
UPDATE sync.progress
   SET key_stamp = NULL, key_id = NULL, job = NULL, page_url = '', received = 0, settled = 0, stepwise = true
 WHERE object = :object AND purpose = :purpose
""")
CLEAR_PROGRESS = text("DELETE FROM sync.progress WHERE object = :object AND purpose = :purpose")

# A lease that was free proves that whoever left a run open is dead.
ABANDON = text("""
UPDATE sync.run SET outcome = 'abandoned', finished_at = now(), error = 'the process ended without a word'
 WHERE object = :object AND outcome = 'running'
""")
OPEN_RUN = text("""
INSERT INTO sync.run (object, command, owner) VALUES (:object, :command, :owner) RETURNING id
""")
CLOSE_RUN = text("""
UPDATE sync.run
   SET finished_at = now(), outcome = :outcome, since = :since, until = :until, error = :error,
       complete_through = (SELECT complete_through FROM sync.cursor WHERE object = :object),
       read = :read, inserted = :inserted, updated = :updated, deleted = :deleted,
       unchanged = :unchanged, rejected = :rejected, nuls_removed = :nuls, api_calls = :api_calls
 WHERE id = :id
""")
# Never backwards, whatever the clock or the overlap say now; except that a full resync, which leaves nothing
# unread, mends a cursor that a wrong clock put into the future.
ADVANCE = text("""
INSERT INTO sync.cursor AS c (object, complete_through) VALUES (:object, :reached)
ON CONFLICT (object) DO UPDATE
   SET complete_through = CASE WHEN :whole AND c.complete_through > :until THEN excluded.complete_through
                               ELSE greatest(c.complete_through, excluded.complete_through) END
""")
NOTE_HIDDEN = text("""
INSERT INTO sync.cursor AS c (object, hidden) VALUES (:object, :hidden)
ON CONFLICT (object) DO UPDATE SET hidden = excluded.hidden
""")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one object; `fence` is checked by every transaction that writes."""

    object: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A window to read, where to start in it, and what its end means for the cursor.

    `orphan` is a Bulk job of an earlier window that nobody will finish.
    """

    purpose: str
    window: Window
    start: Progress
    first_load: bool
    advances: bool
    stepwise: bool
    orphan: str | None

    @property
    def resumed(self) -> bool:
        return self.start.started


# ── leases ────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def lease(
    engine: Engine, sobject: str, owner: str, wait: timedelta, stop: threading.Event
) -> Iterator[Lease]:
    """Hold an object's lease, renewed in short transactions; wait for it up to `wait`.

    LeaseHeldError names the holder when the wait was in vain.
    """
    held = take(engine, sobject, owner, wait, stop)
    done = threading.Event()
    renewing = threading.Thread(target=keep, args=(engine, held, done), name=f"lease-{sobject}", daemon=True)
    renewing.start()
    try:
        yield held
    finally:
        done.set()
        renewing.join()
        try:
            with transaction(engine) as connection:
                connection.execute(RELEASE, asdict(held))
        except SyncError as error:
            # It expires by itself; the error that brought us here matters more.
            log.warning("lease_not_released", object=sobject, reason=str(error))


def take(engine: Engine, sobject: str, owner: str, wait: timedelta, stop: threading.Event) -> Lease:
    """The lease, as soon as it is free."""
    deadline = time.monotonic() + wait.total_seconds()
    said = False
    while True:
        if stop.is_set():
            raise StoppedError
        with transaction(engine) as connection:
            connection.execute(SEED, {"object": sobject})
            fence = connection.execute(
                TAKE, {"object": sobject, "owner": owner, "seconds": LEASE_SECONDS}
            ).scalar()
            holder = connection.execute(HOLDER, {"object": sobject}).one() if fence is None else None
        if holder is None:
            return Lease(sobject, owner, int(fence or 0))
        if time.monotonic() >= deadline:
            raise LeaseHeldError(
                f"{sobject}: {holder.owner} is working on it (lease until {holder.expires_at:%H:%M:%S} UTC, "
                "renewed while it lives); wait longer with --wait, or stop that process"
            )
        if not said:
            log.info("lease_waiting", object=sobject, holder=holder.owner)
            said = True
        stop.wait(POLL_SECONDS)


def keep(engine: Engine, held: Lease, done: threading.Event) -> None:
    """Renew until done; a lost lease is noticed by the fence, an unreachable database by the work itself."""
    while not done.wait(RENEW_SECONDS):
        try:
            with transaction(engine) as connection:
                connection.execute(RENEW, asdict(held) | {"seconds": LEASE_SECONDS})
        except SyncError as error:
            log.warning("lease_not_renewed", object=held.object, reason=str(error))


def check_fence(connection: Connection, held: Lease) -> None:
    """First statement of every transaction that writes; FenceLostError when another process took over."""
    if connection.execute(FENCE, asdict(held) | {"seconds": LEASE_SECONDS}).scalar() is None:
        raise FenceLostError(f"{held.object}: another process took over; nothing of this page was written")


# ── windows and progress ──────────────────────────────────────────────────────────────────────────────


def plan_pass(
    connection: Connection, sobject: str, until: datetime, overlap: timedelta, selected: str
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
    plan = Plan(
        PASS, wanted, Progress(), complete_through is None, advances=True, stepwise=False, orphan=None
    )
    return begin(connection, sobject, plan, selected, None)


def plan_resync(
    connection: Connection,
    sobject: str,
    since: datetime | None,
    until: datetime,
    overlap: timedelta,
    selected: str,
) -> Plan:
    """The window of an operator's resync; it moves the cursor only where it leaves no gap behind it."""
    complete_through = connection.execute(READ_CURSOR, {"object": sobject}).scalar()
    wanted = Window(since, until, overlap)
    gapless = since is None or (complete_through is not None and since <= complete_through)
    first = complete_through is None and since is None
    plan = Plan(RESYNC, wanted, Progress(), first, advances=gapless, stepwise=False, orphan=None)
    return begin(connection, sobject, plan, selected, RESYNC_RESUMES_FOR)


def begin(
    connection: Connection, sobject: str, plan: Plan, selected: str, resume_for: timedelta | None
) -> Plan:
    """The plan, going on where an unfinished window of the same beginning and fields stopped."""
    left = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one_or_none()
    wanted, stepwise = plan.window, False
    if left is not None:
        key = None if left.key_stamp is None else Key(left.key_stamp, left.key_id)
        start = Progress(key, left.job, left.page_url, left.received, left.settled)
        same = left.since == wanted.since and left.selected == selected
        young = resume_for is None or wanted.until - left.until <= resume_for
        stepwise = same and left.stepwise
        if same and young and start.started:
            return replace(plan, window=replace(wanted, until=left.until), start=start, stepwise=stepwise)
    values = {"object": sobject, "purpose": plan.purpose, "since": wanted.since, "until": wanted.until}
    connection.execute(START_PROGRESS, values | {"selected": selected, "stepwise": stepwise})
    return replace(plan, stepwise=stepwise, orphan=left.job if left else None)


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
            "until": at,
        },
    )


def clear_progress(connection: Connection, sobject: str, purpose: str) -> None:
    """Forget how far a window came: the next run reads it from its beginning."""
    connection.execute(CLEAR_PROGRESS, {"object": sobject, "purpose": purpose})


def distrust(connection: Connection, sobject: str, purpose: str) -> None:
    """The pages did not add up: the next run reads the window from its beginning, stepwise."""
    connection.execute(DISTRUST, {"object": sobject, "purpose": purpose})


def advance(connection: Connection, sobject: str, plan: Plan) -> None:
    """The window is whole: forget the progress, move the cursor unless there is a gap before the window."""
    progress = connection.execute(READ_PROGRESS, {"object": sobject, "purpose": plan.purpose}).one()
    clear_progress(connection, sobject, plan.purpose)
    if plan.advances:
        # The earliest clock of all the answers: one server's wrong Date must not move the cursor ahead.
        values = {"object": sobject, "reached": progress.until - plan.window.overlap, "until": progress.until}
        connection.execute(ADVANCE, values | {"whole": plan.window.since is None})


def note_hidden(connection: Connection, sobject: str, hidden: Sequence[str]) -> tuple[list[str], list[str]]:
    """Remember the fields the integration user cannot see; those newly hidden, and those visible again."""
    known = connection.execute(READ_CURSOR, {"object": sobject}).one_or_none()
    before, now = set(known.hidden if known else ()), set(hidden)
    if before != now:
        connection.execute(NOTE_HIDDEN, {"object": sobject, "hidden": sorted(now)})
    return sorted(now - before), sorted(before - now)


# ── the journal ───────────────────────────────────────────────────────────────────────────────────────


def open_run(connection: Connection, sobject: str, command: str, owner: str) -> int:
    """A journal line that says `running`; lines a dead process left open are closed."""
    connection.execute(ABANDON, {"object": sobject})
    values = {"object": sobject, "command": command, "owner": owner}
    return int(connection.execute(OPEN_RUN, values).scalar_one())


def close_run(
    connection: Connection,
    run_id: int,
    sobject: str,
    outcome: str,
    *,
    window: Window | None,
    tally: Tally,
    api_calls: int,
    error: str | None,
) -> None:
    """The journal line's outcome and counts."""
    values = asdict(tally) | {"id": run_id, "object": sobject, "outcome": outcome, "error": error}
    values |= {"since": window.since if window else None, "until": window.until if window else None}
    connection.execute(CLOSE_RUN, values | {"api_calls": api_calls})
