"""One window of one object: planned, read page by page, and closed when Salesforce's count has been met."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from sync.errors import (
    CountMismatchError,
    RejectsError,
    SalesforceError,
    StoppedError,
    SyncError,
)
from sync.logs import logger
from sync.postgres import ledger
from sync.postgres.load import first
from sync.postgres.load.sql import Mode
from sync.postgres.state import cursors, leases
from sync.postgres.state.cursors import Plan
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication import apply, rejects
from sync.replication.apply import View
from sync.replication.runs import Link, Step
from sync.salesforce.extract import bulk, extraction
from sync.window import Page

log = logger.get(__name__)

LARGE = 100_000  # rows written after which the planner's statistics are refreshed at once

# After so long queries in an order, which were not finished in time, are tried again.
SLOW_FOR = timedelta(days=1)

# What window to read, given the view of the object and through when Salesforce has no open transaction.
Planner = Callable[[Connection, View, datetime | None], Plan]


def pass_planner(link: Link, name: str) -> Planner:
    """From where the cursor stands to now."""

    def plan(connection: Connection, view: View, covered: datetime | None) -> Plan:
        selected = view.projection.fingerprint
        through = cursors.marks(connection, name).complete_through
        if view.clock_error and through is not None and through > view.at:
            raise SyncError(view.clock_error)
        return cursors.plan_pass(connection, name, view.at, link.settings.sync_overlap, selected, covered)

    return plan


def resync_planner(link: Link, name: str, since: datetime | None) -> Planner:
    """From a time that an operator names, or from the beginning."""

    def plan(connection: Connection, view: View, covered: datetime | None) -> Plan:
        overlap, selected = link.settings.sync_overlap, view.projection.fingerprint
        return cursors.plan_resync(connection, name, since, view.at, overlap, selected, covered)

    return plan


def read_window(
    link: Link, view: View, held: Lease, run_id: int, planner: Planner, mode: Mode = Mode.USUAL
) -> Generator[Step, None, Plan]:
    """One window, page by page; every count met, the cursor not yet moved."""
    # Asked before the first record is read: what is open now may commit behind our back.
    covered = covered_through(link, view) if mode is Mode.USUAL else None
    plan = begin(link, view, held, planner, covered, mode)
    learned = link.session.learned(view.name)
    slow = learned.slow
    yield Step(view.name, plan.window)

    job, written, read = plan.start.job, 0, 0
    try:
        for page in pages(link, view, plan):
            try:
                # A first load is of an empty table, or of another org's: whatever is there is older.
                how = Mode.REPAIR if plan.first_load else mode
                tally = apply.commit_page(link, view, held, run_id, page, plan, how)
            except SyncError:
                if page.progress.job not in (None, job):
                    bulk.discard(link.session, page.progress.job)  # nobody else knows of it
                raise
            job, written, read = page.progress.job, written + tally.written, read + tally.read
            step = Step(view.name, plan.window, tally, page.received, page.expected)
            del page
            if learned.slow != slow:
                slow = learned.slow
                note_slow(link, view, held, view.at)
            yield step
            if link.stop.is_set():
                raise StoppedError
    except CountMismatchError:
        with transaction(link.engine) as connection:
            leases.check_fence(connection, held)
            cursors.distrust(connection, view.name, plan.purpose)
        if job is not None:
            bulk.discard(link.session, job)
        raise
    if job is not None:
        bulk.discard(link.session, job)
    if written > LARGE and not plan.first_load:
        analyse(link, view.name)
    if plan.advances and view.clock_error:
        raise SyncError(view.clock_error)
    return replace(plan, read=read)


def note_slow(link: Link, view: View, held: Lease, since: datetime | None) -> None:
    """Remember that queries in an order are not finished in time here, or that they are again."""
    with transaction(link.engine) as connection:
        leases.check_fence(connection, held)
        cursors.note_slow(connection, view.name, since)


def covered_through(link: Link, view: View) -> datetime | None:
    """Through when Salesforce has no open transaction; None where it does not tell: the overlap must do."""
    end = view.at.replace(second=0, microsecond=0)
    try:
        covered = link.session.updated_through(view.name, end - timedelta(minutes=1), end)
    except SalesforceError as error:
        log.warning("coverage_unknown", object=view.name, reason=str(error)[:300])
        return None
    if cursors.lagging(view.at, covered):
        log.warning("coverage_lags", object=view.name, covered=covered.isoformat(), counted="24h")
    return covered


def begin(
    link: Link, view: View, held: Lease, planner: Planner, covered: datetime | None, mode: Mode
) -> Plan:
    """Plan the window, and note what became of the fields."""
    name = view.name
    entries: list[ledger.Entry] = []
    with transaction(link.engine) as connection:
        leases.check_fence(connection, held)
        marks = cursors.marks(connection, name)
        if marks.slow_since is not None:
            # Once a day it is tried whether they still are.
            link.session.learned(name).slow = view.at - marks.slow_since < SLOW_FOR
            if not link.session.learned(name).slow:
                cursors.note_slow(connection, name, None)
        if mode is Mode.USUAL:
            loaded = marks.complete_through is not None
            entries = ledger.note(connection, view.projection)
            late = [entry.field for entry in entries if entry.late and loaded]
            cursors.note_fields(connection, name, view.projection.hidden, late)
        plan = planner(connection, view, covered)
        if plan.resumed and plan.window.until > view.at + apply.CLOCKS_APART:
            # Begun by a clock that was ahead: nobody knows as of when its pages were read.
            log.warning("progress_discarded", object=name, reason="the window's end lies in the future")
            cursors.clear_progress(connection, name, plan.purpose)
            plan = replace(planner(connection, view, covered), orphan=plan.start.job)
        if plan.first_load:
            first.begin_first_load(connection, name)
    for change in dict.fromkeys(entry.change for entry in entries):
        fields = ",".join(entry.field for entry in entries if entry.change == change)
        log.warning(f"fields_{change.replace(' ', '_')}", object=name, fields=fields)
    if plan.orphan is not None:
        bulk.discard(link.session, plan.orphan)
    return plan


def pages(link: Link, view: View, plan: Plan) -> Iterator[Page]:
    """The window's pages as rows, some of them ahead of who commits them."""
    return extraction.pages(
        link.session,
        view.projection,
        plan.window,
        plan.start,
        apply.maker(link, view.projection),
        threshold=link.settings.sync_bulk_threshold,
        mismatches=plan.mismatches,
        ahead=link.ahead,
    )


def advance(link: Link, view: View, held: Lease, run_id: int, plan: Plan, deleted: datetime | None) -> None:
    """Close a window that is whole; the cursor moves with it.

    RejectsError, and the next run reads the window again, where too many of its records did not fit: values
    that are mended meanwhile lie beyond its end.
    """
    try:
        with leases.fenced(link.engine, held) as connection:
            rejects.check(connection, view.name, run_id, plan.read)
            cursors.advance(connection, view.name, plan, deleted)
            if plan.first_load:
                first.end_first_load(connection, view.name, run_id)
    except RejectsError:
        with transaction(link.engine) as connection:
            leases.check_fence(connection, held)
            cursors.clear_progress(connection, view.name, plan.purpose)
        raise
    if plan.first_load:
        analyse(link, view.name)


def analyse(link: Link, name: str) -> None:
    """Fresh statistics; without them queries are slower for a while, and nothing else is wrong."""
    try:
        with transaction(link.engine) as connection:
            first.analyse(connection, name)
    except SyncError as error:
        log.warning("statistics_not_refreshed", object=name, reason=str(error))
