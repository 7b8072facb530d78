"""One window of one object: planned, read page by page, and closed when Salesforce's count matches."""

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
from sync.postgres.state import cursors, leases, plans
from sync.postgres.state.cursors import CursorState
from sync.postgres.state.leases import Lease
from sync.postgres.state.plans import Plan
from sync.postgres.tables import transaction
from sync.replication import apply, rejects
from sync.replication.apply import ObjectSchema
from sync.replication.runs import PageResult, SyncContext
from sync.salesforce.extract import bulk, extraction
from sync.salesforce.extract.together import Told
from sync.salesforce.session.answers import Answer
from sync.window import Page

log = logger.get(__name__)

LARGE = 100_000  # written rows above which the planner's statistics are refreshed at once

# How long ordered queries are avoided after they did not finish in time.
SLOW_FOR = timedelta(days=1)

# Plans the window from the object's schema and the time before which Salesforce has no open transaction.
Planner = Callable[[Connection, ObjectSchema, datetime | None], Plan]


def pass_planner(context: SyncContext, name: str) -> Planner:
    """Plan an incremental window, from the cursor to now."""

    def plan(connection: Connection, schema: ObjectSchema, covered: datetime | None) -> Plan:
        selected = schema.projection.fingerprint
        through = cursors.read_cursor(connection, name).complete_through
        if schema.clock_error and through is not None and through > schema.at:
            raise SyncError(schema.clock_error)
        return plans.plan_pass(connection, name, schema.at, context.settings.sync_overlap, selected, covered)

    return plan


def resync_planner(context: SyncContext, name: str, since: datetime | None) -> Planner:
    """Plan a window from `since`, or from the beginning."""

    def plan(connection: Connection, schema: ObjectSchema, covered: datetime | None) -> Plan:
        overlap, selected = context.settings.sync_overlap, schema.projection.fingerprint
        return plans.plan_resync(connection, name, since, schema.at, overlap, selected, covered)

    return plan


def read_window(
    context: SyncContext,
    schema: ObjectSchema,
    held: Lease,
    run_id: int,
    planner: Planner,
    mode: Mode = Mode.USUAL,
    told: Told | None = None,
) -> Generator[PageResult, None, Plan]:
    """Read one window page by page and commit each page; the cursor does not move yet.

    `told` is what the call that began the pass told. Returns the plan with the number of records read. Raises
    CountMismatchError if Salesforce's count differs, StoppedError if the process is asked to stop.
    """
    # Before the first query: a transaction that is open now may commit earlier stamps later.
    covered, asked = coverage(context, schema, told) if mode is Mode.USUAL else (None, False)
    plan = begin_window(context, schema, held, planner, covered, mode, asked=asked)
    learned = context.session.learned(schema.name)
    slow = learned.slow
    yield PageResult(schema.name, plan.window)

    job, written, read = plan.start.job, 0, 0
    try:
        for page in fetch_pages(context, schema, plan, first_told(told, schema, plan)):
            try:
                # In a first load, existing rows (of another org) are older than what is read.
                page_mode = Mode.REPAIR if plan.first_load else mode
                tally = apply.commit_page(context, schema, held, run_id, page, plan, page_mode)
            except SyncError:
                if page.progress.job not in (None, job):
                    bulk.delete_job(context.session, page.progress.job)  # its progress was not committed
                raise
            job, written, read = page.progress.job, written + tally.written, read + tally.read
            result = PageResult(schema.name, plan.window, tally, page.received, page.expected)
            del page
            if learned.slow != slow:
                slow = learned.slow
                note_slow(context, schema, held, schema.at)
            yield result
            if context.stop.is_set():
                raise StoppedError
    except CountMismatchError:
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            plans.note_mismatch(connection, schema.name, plan.purpose)
        if job is not None:
            bulk.delete_job(context.session, job)
        raise
    if job is not None:
        bulk.delete_job(context.session, job)
    if written > LARGE and not plan.first_load:
        analyse(context, schema.name)
    if plan.advances and schema.clock_error:
        raise SyncError(schema.clock_error)
    return replace(plan, read=read)


def note_slow(context: SyncContext, schema: ObjectSchema, held: Lease, since: datetime | None) -> None:
    """Store since when ordered queries do not finish in time (None: they do)."""
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        cursors.note_slow(connection, schema.name, since)


def first_told(told: Told | None, schema: ObjectSchema, plan: Plan) -> Answer | SyncError | None:
    """Return what a call told of the first query, if it is the query with which the window begins."""
    if told is None or plan.resumed or plan.mismatches or plan.window.since != told.question.since:
        return None
    return told.first if told.question.projection == schema.projection else None


def coverage(context: SyncContext, schema: ObjectSchema, told: Told | None) -> tuple[datetime | None, bool]:
    """Return the time before which Salesforce has no open transaction, and whether it was asked for now.

    It is the stored one if that was asked for lately, by SYNC_COVERAGE_INTERVAL.
    """
    if context.settings.sync_coverage_interval and (told is None or told.coverage is None):
        with transaction(context.engine) as connection:
            cursor = cursors.read_cursor(connection, schema.name)
        if asked_lately(context, cursor, schema.at):
            return cursor.covered, False
    return covered_through(context, schema, told), True


def asked_lately(context: SyncContext, cursor: CursorState, at: datetime) -> bool:
    """Return whether the replication calls are not due yet, by SYNC_COVERAGE_INTERVAL."""
    interval, asked = context.settings.sync_coverage_interval, cursor.coverage_asked
    return asked is not None and timedelta() <= at - asked < interval


def covered_through(context: SyncContext, schema: ObjectSchema, told: Told | None = None) -> datetime | None:
    """Return the time before which Salesforce has no open transaction, by getUpdated (`latestDateCovered`).

    None if Salesforce does not tell, or tells a time that has not come: the overlap then covers open
    transactions.
    """
    try:
        if told is not None and told.coverage is not None and told.question.deleted is not None:
            end, covered = told.question.deleted[1], told.coverage
            if isinstance(covered, SyncError):
                raise covered
        else:
            end = schema.at.replace(second=0, microsecond=0)
            covered = context.session.updated_through(schema.name, end - timedelta(minutes=1), end)
    except SalesforceError as error:
        log.warning("coverage_unknown", object=schema.name, reason=str(error)[:300])
        return None
    if covered > end:
        reason = f"latestDateCovered is {covered.isoformat()}"
        log.warning("coverage_unknown", object=schema.name, reason=reason)
        return None
    if cursors.lags(schema.at, covered):
        log.warning("coverage_lags", object=schema.name, covered=covered.isoformat(), counted="24h")
    return covered


def believable(covered: datetime, end: datetime, at: datetime) -> bool:
    """Return whether a coverage, asked for up to `end`, needs no warning."""
    return covered <= end and not cursors.lags(at, covered)


def begin_window(
    context: SyncContext,
    schema: ObjectSchema,
    held: Lease,
    planner: Planner,
    covered: datetime | None,
    mode: Mode,
    *,
    asked: bool,
) -> Plan:
    """Plan the window; record changes of fields in the ledger and the log.

    `asked`: `covered` was asked for now.
    """
    name = schema.name
    entries: list[ledger.Entry] = []
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        cursor = cursors.read_cursor(connection, name)
        if cursor.slow_since is not None:
            # Once a day, ordered queries are tried again.
            context.session.learned(name).slow = schema.at - cursor.slow_since < SLOW_FOR
            if not context.session.learned(name).slow:
                cursors.note_slow(connection, name, None)
        if mode is Mode.USUAL:
            loaded = cursor.complete_through is not None
            entries = ledger.record_changes(connection, schema.projection)
            to_reread = [entry.field for entry in entries if entry.needs_reread and loaded]
            cursors.note_fields(connection, name, schema.projection.hidden, to_reread)
        if asked:
            cursors.note_coverage(connection, name, covered, schema.at)
        plan = planner(connection, schema, covered)
        if plan.resumed and plan.window.until > schema.at + apply.MAX_CLOCK_DIFFERENCE:
            # Its clock was ahead, so the time of its pages is unknown.
            log.warning("progress_discarded", object=name, reason="the window's end is in the future")
            plans.clear_progress(connection, name, plan.purpose)
            plan = replace(planner(connection, schema, covered), orphan=plan.start.job)
        if plan.first_load:
            first.begin_first_load(connection, name)
    for change in dict.fromkeys(entry.change for entry in entries):
        fields = ",".join(entry.field for entry in entries if entry.change == change)
        log.warning(f"fields_{change.replace(' ', '_')}", object=name, fields=fields)
    if plan.orphan is not None:
        bulk.delete_job(context.session, plan.orphan)
    return plan


def fetch_pages(
    context: SyncContext, schema: ObjectSchema, plan: Plan, first: Answer | SyncError | None
) -> Iterator[Page]:
    """Yield the window's pages as rows, fetched ahead of the commits; `first` is the answer to its first
    query, if it is known."""
    return extraction.pages(
        context.session,
        schema.projection,
        plan.window,
        plan.start,
        apply.row_builder(context, schema.projection),
        threshold=context.settings.sync_bulk_threshold,
        mismatches=plan.mismatches,
        ahead=context.ahead,
        first=first,
    )


def advance(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, plan: Plan, deleted: datetime | None
) -> None:
    """Close a complete window and move the cursor.

    Raises RejectsError if too many records were rejected. The next run then reads the window again: values
    that are corrected meanwhile get stamps beyond its end.
    """
    try:
        with leases.fenced_transaction(context.engine, held) as connection:
            rejects.check(connection, schema.name, run_id, plan.read)
            cursors.advance(connection, schema.name, plan, deleted)
            if plan.first_load:
                first.end_first_load(connection, schema.name, run_id)
    except RejectsError:
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            plans.clear_progress(connection, schema.name, plan.purpose)
        raise
    if plan.first_load:
        analyse(context, schema.name)


def analyse(context: SyncContext, name: str) -> None:
    """Refresh the planner's statistics; a failure only makes queries slower for a while."""
    try:
        with transaction(context.engine) as connection:
            first.analyse(connection, name)
    except SyncError as error:
        log.warning("statistics_not_refreshed", object=name, reason=str(error))
