"""A window by Bulk API 2.0: one query job, its result pages streamed side by side, resumable page by page.

A thin client of its own: simple-salesforce's cannot log in again, time out, read deleted records page by
page, or delete a job. Facts used: results come in any order; a result page can be asked for again as long
as the job lives; every page has the header row; all calls of a job use one API version.
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
from sync.salesforce.extract.pages import SECOND, RowBuilder, mismatch
from sync.salesforce.extract.rest import counted
from sync.salesforce.extract.results import (
    NO_MORE,
    NOTHING,
    ResultChunk,
    Results,
    a_text,
    result_pages,
    value_of,
)
from sync.salesforce.prefetch import prefetch
from sync.salesforce.session.addresses import job_version, record_id
from sync.salesforce.session.limits import clip, count
from sync.salesforce.session.session import Session
from sync.window import Page, Progress, Window

log = logger.get(__name__)

WIDTH, PATIENCE = 2, 0.2  # result pages downloaded side by side, once a batch is waited for so many seconds
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.5, 20.0, 1.5  # seconds between two looks at a job
TOO_COMPLICATED = "QUERY_TOO_COMPLICATED"
HOUR = timedelta(hours=1)
# A job that has not ended is given up then; where REST can do it, sooner: about as long as that would take.
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
    """All pages of a window from `start` on; BulkRefusedError where Bulk API cannot do it, or not for now.

    `patient`: a job is waited for as long as jobs may take; else, of about `expected` records, no longer than
    it would take by REST. The first page only names the job, before anything is waited for, so that who
    resumes finds it; `discard` deletes it once nobody will. QueryLostError when the job is gone.
    CountMismatchError when records are missing by the page's, the job's or the org's count.
    """
    name, progress, resumed = projection.sobject.name, start, start.job is not None
    if progress.job is None:
        progress, at = create(session, projection, window)
        yield Page(NOTHING, progress, 0, expected, at)
    elif not patient:
        expected = counted(session, name, soql.count(name, window.scope))
    longest = JOB_LIMIT if patient else SLOW + expected * SLOW_PER_RECORD
    try:
        with translating_errors(name, resumed=resumed):
            processed, at = finished(session, name, progress, longest, resumed=resumed)
    except QueryLostError:
        if progress.page_url != NO_MORE:
            raise
        # Everything was read, and the job deleted; only the cursor has not moved yet.
        processed, at = progress.received, window.until
    with translating_errors(name, resumed=resumed):
        progress = yield from result(
            session, projection, window, progress, build_rows, processed, at, resumed
        )
    # A count that fails is a failure of REST: the job has been read, and is not to blame.
    settled = counted(session, name, soql.count_before(name, window.scope, None, window.settled))
    if settled > progress.settled:
        raise mismatch(name, f"{settled:,} settled", progress.settled)


def result(
    session: Session,
    projection: Projection,
    window: Window,
    progress: Progress,
    build_rows: RowBuilder,
    processed: int,
    at: datetime,
    resumed: bool,
) -> Generator[Page, None, Progress]:
    """The pages of a job's result, and how far they reach; CountMismatchError when records are missing."""
    name = projection.sobject.name
    ended: dict[int, ResultChunk] = {}
    received, number = progress.received, 0
    of = Results(
        session, name, projection.names, f"{window.settled:{SECOND}}", build_rows, processed, resumed
    )
    sources = result_pages(of, progress)
    for part in prefetch(sources, session.stop, width=WIDTH, depth=1, patience=PATIENCE):
        received += part.records
        if part.following is not None:
            ended[part.number] = part
        while number in ended:  # pages end in any order; the progress is where all before it have ended
            done = ended.pop(number)
            number += 1
            progress = replace(
                progress,
                page_url=done.following or "",
                received=progress.received + done.count,
                settled=progress.settled + done.settled,
            )
        if progress.received > processed:
            raise mismatch(name, f"{processed:,}", progress.received)
        yield Page(part.batch, progress, received, processed, at)
        del part
    if progress.received != processed:
        raise mismatch(name, f"{processed:,}", progress.received)
    return progress


# ── the job ───────────────────────────────────────────────────────────────────────────────────────────


def create(session: Session, projection: Projection, window: Window) -> tuple[Progress, datetime]:
    """A new job, as the progress that names it, and Salesforce's clock."""
    name, jobs = projection.sobject.name, f"/services/data/v{session.version}/jobs/query"
    question = soql.select_unordered(projection, window.scope)
    try:
        answer = session.resource("POST", jobs, {"operation": "queryAll", "query": question})
        id_ = value_of(answer, "id", record_id)
    except FieldsMovedError:
        raise
    except SalesforceError as error:
        if unreachable(error) or error.code == TOO_COMPLICATED:
            raise  # it can be asked in parts
        raise BulkRefusedError(f"{name}: Bulk API refuses the query: {error}") from None
    log.info("bulk_job_created", object=name, job=id_)
    return Progress(job=f"{jobs}/{id_}", began=answer.at), answer.at


@contextmanager
def translating_errors(name: str, *, resumed: bool) -> Iterator[None]:
    """Make of an error that lasts what it means: QueryLostError for a job of before, else BulkRefusedError.

    An instance that does not answer at all is neither.
    """
    try:
        yield
    except (FieldsMovedError, QueryLostError):
        raise
    except SalesforceError as error:
        if resumed and 400 <= error.status < 500:
            raise QueryLostError(f"the job of before: {error}", status=error.status) from None
        if unreachable(error):
            raise
        raise BulkRefusedError(f"{name}: Bulk API fails: {error}") from None


def unreachable(error: SalesforceError) -> bool:
    """Whether no answer came at all: then REST would not do either."""
    return error.passing and not error.status


def finished(
    session: Session, name: str, progress: Progress, longest: timedelta, *, resumed: bool
) -> tuple[int, datetime]:
    """Wait until the job is complete; how many records it found, and Salesforce's clock.

    BulkRefusedError for one that takes longer than `longest` since it was made, whoever made it.
    """
    assert progress.job is not None
    pause, began = FIRST_PAUSE, progress.began
    while True:
        info = session.resource("GET", progress.job)
        state, job = value_of(info, "state", a_text), f"{name}: Bulk job {progress.job.rpartition('/')[2]}"
        if state == "JobComplete":
            return value_of(info, "numberRecordsProcessed", count), info.at
        if state in ("Failed", "Aborted"):
            why = f"{job} ended as {state}: "
            why += clip(info.body.get("errorMessage") or "Salesforce gives no reason")
            if resumed:
                raise QueryLostError(why)
            if state == "Failed":
                raise BulkRefusedError(why)
            raise SyncError(f"{why}; somebody stopped it in Salesforce, the next run makes another")
        began = began or info.at
        if info.at - began > longest:
            raise BulkRefusedError(
                f"{job} is still {clip(state, 40)} after {(info.at - began) / HOUR:.1f} hours and is given up"
            )
        session.pause(pause)
        pause = min(LONGEST_PAUSE, pause * GROWTH)


def discard(session: Session, job: str) -> None:
    """Delete a job that nobody needs any more, aborting it first; a failure is only logged.

    It is deleted by the API version that made it, which may have been another than the pinned one.
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
        # Salesforce deletes it seven days after its end.
        log.warning("bulk_job_left", job=job, reason=str(error)[:200])
