"""Read a window by Bulk API 2.0: one query job, its result pages streamed concurrently, resumable by page.

It replaces simple-salesforce's client, which cannot log in again, time out, read deleted records page by
page, or delete a job. Facts about the API: results come in any order; a result page can be requested again as
long as the job exists; every page has the header row; all calls of a job use one API version.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from sync.catalogue.mapping import Projection
from sync.errors import (
    BulkRefusedError,
    FieldsMovedError,
    QueryLostError,
    SalesforceError,
    SyncError,
)
from sync.logs import logger
from sync.salesforce import soql
from sync.salesforce.extract.pages import STAMP_FORMAT, RowBuilder, mismatch_error
from sync.salesforce.extract.rest import count_or_zero
from sync.salesforce.extract.results import (
    EMPTY_BATCH,
    NO_FURTHER_PAGE,
    ResultChunk,
    Results,
    page_sources,
    text_value,
    value_of,
)
from sync.salesforce.prefetch import prefetch
from sync.salesforce.session.addresses import job_version, record_id
from sync.salesforce.session.limits import clip, count
from sync.salesforce.session.session import Session
from sync.window import Page, Progress, Window

log = logger.get(__name__)

WIDTH, PATIENCE = 2, 0.2  # result pages downloaded concurrently, after the consumer waited so many seconds
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.5, 20.0, 1.5  # seconds between two polls of a job
USUAL_RATE = 20_000  # records a second that Salesforce prepares, as far as an estimate goes
TOO_COMPLICATED = "QUERY_TOO_COMPLICATED"
HOUR = timedelta(hours=1)
# An unfinished job is given up after JOB_LIMIT, or, if REST can read the window, after about the time REST
# needs.
JOB_LIMIT, SLOW, SLOW_PER_RECORD = 12 * HOUR, HOUR / 2, timedelta(milliseconds=1)


def pages(
    session: Session,
    projection: Projection,
    window: Window,
    start: Progress,
    build_rows: RowBuilder,
    expected: int,
    patient: bool,
) -> Iterator[Page]:
    """Yield all pages of a window from `start` on.

    `patient`: wait for the job up to JOB_LIMIT; otherwise, with about `expected` records, no longer than REST
    would take. The first page has no rows: it names the job before the wait, so that a restart can resume it.
    The caller deletes the job with `delete_job`.
    Raises BulkRefusedError if the Bulk API cannot read the window (now), QueryLostError if the job is gone,
    CountMismatchError if records are missing by the count of a page, the job or the org.
    """
    name, progress, resumed = projection.sobject.name, start, start.job is not None
    if progress.job is None:
        progress, at = create_job(session, projection, window)
        yield Page(EMPTY_BATCH, progress, 0, expected, at)
    elif not patient:
        expected = count_or_zero(session, name, soql.count(name, window.scope))
    longest = JOB_LIMIT if patient else SLOW + expected * SLOW_PER_RECORD
    try:
        with translating_errors(name, resumed=resumed):
            processed, at = wait_for_job(session, name, progress, longest, resumed=resumed)
    except QueryLostError:
        if progress.page_url != NO_FURTHER_PAGE:
            raise
        # All pages were read and the job was deleted; only the cursor has not moved yet.
        processed, at = progress.received, window.until
    with translating_errors(name, resumed=resumed):
        progress = yield from read_result(
            session, projection, window, progress, build_rows, processed, at, resumed
        )
    # Outside of `translating_errors`: a failure of this count is one of REST, not of the job.
    settled = count_or_zero(session, name, soql.count_before(name, window.scope, None, window.settled))
    if settled > progress.settled:
        raise mismatch_error(name, f"{settled:,} settled", progress.settled)


def read_result(
    session: Session,
    projection: Projection,
    window: Window,
    progress: Progress,
    build_rows: RowBuilder,
    processed: int,
    at: datetime,
    resumed: bool,
) -> Generator[Page, None, Progress]:
    """Yield the pages of a job's result; return the progress. Raises CountMismatchError if records are
    missing."""
    name = projection.sobject.name
    finished: dict[int, ResultChunk] = {}
    received, number = progress.received, 0
    results = Results(
        session, name, projection.names, f"{window.settled:{STAMP_FORMAT}}", build_rows, processed, resumed
    )
    sources = page_sources(results, progress)
    for part in prefetch(sources, session.stop, width=WIDTH, depth=1, patience=PATIENCE):
        received += part.records
        if part.next_url is not None:
            finished[part.number] = part
        while number in finished:  # pages end in any order: the progress stops at the first unfinished one
            done = finished.pop(number)
            number += 1
            progress = replace(
                progress,
                page_url=done.next_url or "",
                received=progress.received + done.count,
                settled=progress.settled + done.settled,
            )
        if progress.received > processed:
            raise mismatch_error(name, f"{processed:,}", progress.received)
        yield Page(part.batch, progress, received, processed, at)
        del part
    if progress.received != processed:
        raise mismatch_error(name, f"{processed:,}", progress.received)
    return progress


# ── the job ───────────────────────────────────────────────────────────────────────────────────────────


def create_job(session: Session, projection: Projection, window: Window) -> tuple[Progress, datetime]:
    """Create a job; return the progress that names it, and Salesforce's time."""
    name, jobs = projection.sobject.name, f"/services/data/v{session.version}/jobs/query"
    question = soql.select_unordered(projection, window.scope)
    try:
        answer = session.resource("POST", jobs, {"operation": "queryAll", "query": question})
        id_ = value_of(answer, "id", record_id)
    except FieldsMovedError:
        raise
    except SalesforceError as error:
        if is_unreachable(error) or error.code == TOO_COMPLICATED:
            raise  # the query can be split
        raise BulkRefusedError(f"{name}: Bulk API refuses the query: {error}") from None
    log.info("bulk_job_created", object=name, job=id_)
    return Progress(job=f"{jobs}/{id_}", began=answer.at), answer.at


@contextmanager
def translating_errors(name: str, *, resumed: bool) -> Iterator[None]:
    """Raise QueryLostError for a lasting error of a resumed job, BulkRefusedError for one of a new job.

    An error without any answer of the instance is raised as it is.
    """
    try:
        yield
    except (FieldsMovedError, QueryLostError):
        raise
    except SalesforceError as error:
        if resumed and 400 <= error.status < 500:
            raise QueryLostError(f"the job of before: {error}", status=error.status) from None
        if is_unreachable(error):
            raise
        raise BulkRefusedError(f"{name}: Bulk API fails: {error}") from None


def is_unreachable(error: SalesforceError) -> bool:
    """Return whether there was no answer at all: REST would fail, too."""
    return error.passing and not error.status


def wait_for_job(
    session: Session, name: str, progress: Progress, longest: timedelta, *, resumed: bool
) -> tuple[int, datetime]:
    """Wait until the job is complete; return the number of its records, and Salesforce's time.

    Raises BulkRefusedError for a job that failed or takes longer than `longest` since its creation,
    QueryLostError for a resumed job that failed.
    """
    assert progress.job is not None
    pause, began = FIRST_PAUSE, progress.began
    while True:
        info = session.resource("GET", progress.job)
        state, job = (
            value_of(info, "state", text_value),
            f"{name}: Bulk job {progress.job.rpartition('/')[2]}",
        )
        if state == "JobComplete":
            return value_of(info, "numberRecordsProcessed", count), info.at
        if state in ("Failed", "Aborted"):
            why = f"{job} ended as {state}: "
            why += clip(info.body.get("errorMessage") or "Salesforce gives no reason")
            if resumed:
                raise QueryLostError(why)
            if state == "Failed":
                raise BulkRefusedError(why)
            raise SyncError(f"{why}; a user stopped it in Salesforce; the next run creates another job")
        began = began or info.at
        if info.at - began > longest:
            raise BulkRefusedError(
                f"{job} is still {clip(state, 40)} after {(info.at - began) / HOUR:.1f} hours and is given up"
            )
        session.pause(pause)
        pause = min(LONGEST_PAUSE, pause * GROWTH)


def estimate_polls(records: int) -> int:
    """Estimate the polls of a job for this many records."""
    waited, pause, polls = 0.0, FIRST_PAUSE, 1
    while waited < records / USUAL_RATE - FIRST_PAUSE:
        waited, pause, polls = waited + pause, min(LONGEST_PAUSE, pause * GROWTH), polls + 1
    return polls


def delete_job(session: Session, job: str) -> None:
    """Delete a job, aborting it first if needed; a failure is only logged.

    The call uses the API version that created the job, which may differ from the pinned one.
    """
    try:
        version = job_version(job)
    except ValueError as error:
        log.warning("bulk_job_left", job=clip(ascii(job), 200), reason=str(error))
        return
    try:
        try:
            session.resource("DELETE", job, version=version, best_effort=True)
        except SalesforceError as error:
            if error.status != 400:
                raise
            session.resource("PATCH", job, {"state": "Aborted"}, version=version, best_effort=True)
            session.resource("DELETE", job, version=version, best_effort=True)
    except QueryLostError:
        pass
    except SyncError as error:
        # Salesforce deletes a job seven days after its end.
        log.warning("bulk_job_left", job=job, reason=str(error)[:200])
