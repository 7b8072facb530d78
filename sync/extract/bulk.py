"""A window by Bulk API 2.0: one query job, its result pages streamed side by side, resumable page by page.

A thin client of its own: simple-salesforce's cannot log in again, time out, read deleted records page by
page, or delete a job. Facts used: results come in any order; a result page can be asked for again as long
as the job lives; every page has the header row; all calls of a job use one API version.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import dropwhile, islice
from operator import itemgetter

import requests

from sync import logs, soql
from sync.errors import BulkRefusedError, FieldsMovedError, QueryLostError, SalesforceError, SyncError
from sync.extract.pages import SECOND, Page, Progress, Window, mismatch
from sync.extract.rest import counted
from sync.mapping import Projection
from sync.prefetch import Source, prefetch
from sync.session import Session
from sync.transform import Record

log = logs.get(__name__)

WIDTH = 2  # result pages downloaded side by side
BATCH = 1_000  # records handed on at once
# Records in a result page where we may choose: what a killed process reads again, not what is held in memory.
MAX_RECORDS = 50_000
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.5, 20.0, 1.5  # seconds between two looks at a job
JOB_SECONDS = 12 * 3600  # then a job that has not ended is given up
PARALLEL_SINCE = 58.0  # the API version that has resultPages
NO_MORE = "null"  # Salesforce's word for "there is no further page"
CHUNK = 1 << 16

csv.field_size_limit(2**31 - 1)  # a long text area holds more than the default's 131,072 characters


@dataclass(frozen=True, slots=True)
class Address:
    """Result page `number` of those still to read, its URL, and the next one's where that is known before."""

    number: int
    url: str
    following: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a result page: records, or its end with its counts and the URL of the next page."""

    number: int
    records: Sequence[Record] = ()
    following: str | None = None
    count: int = 0
    settled: int = 0


def pages(
    session: Session, projection: Projection, window: Window, start: Progress, expected: int
) -> Iterator[Page]:
    """All pages of a window from `start` on; BulkRefusedError before the first where Bulk API cannot do it.

    The first page only names the job, before anything is waited for, so that who resumes finds it; `discard`
    deletes it once nobody will. QueryLostError when the job is gone. CountMismatchError when records are
    missing by the page's, the job's or the org's count.
    """
    name, progress = projection.sobject.name, start
    if progress.job is None:
        progress, at = create(session, projection, window)
        yield Page((), progress, 0, expected, at)
    try:
        processed, at = finished(session, name, progress, resumed=start.job is not None)
    except QueryLostError:
        if progress.page_url != NO_MORE:
            raise
        # Everything was read, and the job deleted; only the cursor has not moved yet.
        processed, at = progress.received, window.until
    ended: dict[int, Part] = {}
    received, number = progress.received, 0
    sources = result_pages(session, projection, window, progress)
    for part in prefetch(sources, session.stop, width=WIDTH, depth=1):
        received += len(part.records)
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
        yield Page(part.records, progress, received, processed, at)
        del part
    if progress.received != processed:
        raise mismatch(name, f"{processed:,}", progress.received)
    settled = counted(session, name, soql.count_before(name, window.since, None, window.settled))
    if settled > progress.settled:
        raise mismatch(name, f"{settled:,} settled", progress.settled)


# ── the job ───────────────────────────────────────────────────────────────────────────────────────────


def create(session: Session, projection: Projection, window: Window) -> tuple[Progress, datetime]:
    """A new job, as the progress that names it, and Salesforce's clock."""
    name, jobs = projection.sobject.name, f"/services/data/v{session.version}/jobs/query"
    question = soql.select_unordered(projection, window.since)
    try:
        answer = session.resource("POST", jobs, {"operation": "queryAll", "query": question})
    except FieldsMovedError:
        raise
    except SalesforceError as error:
        if not 400 <= error.status < 500:
            raise
        raise BulkRefusedError(f"{name}: Bulk API refuses the query: {error}") from None
    job = f"{jobs}/{answer.body['id']}"
    log.info("bulk_job_created", object=name, job=answer.body["id"])
    return Progress(job=job), answer.at


def finished(session: Session, name: str, progress: Progress, *, resumed: bool) -> tuple[int, datetime]:
    """Wait until the job is complete; how many records it found, and Salesforce's clock."""
    assert progress.job is not None
    pause, waited = FIRST_PAUSE, 0.0
    while True:
        info = session.resource("GET", progress.job)
        state, job = str(info.body["state"]), f"{name}: Bulk job {info.body['id']}"
        if state == "JobComplete":
            return int(info.body["numberRecordsProcessed"]), info.at
        if state in ("Failed", "Aborted"):
            discard(session, progress.job)
            why = f"{job} ended as {state}: {info.body.get('errorMessage') or 'Salesforce gives no reason'}"
            if resumed:
                raise QueryLostError(why)
            if state == "Failed":
                raise BulkRefusedError(why)
            raise SyncError(f"{why}; somebody stopped it in Salesforce, the next run makes another")
        if waited > JOB_SECONDS:
            discard(session, progress.job)
            raise SyncError(f"{job} is still {state} after {waited / 3600:.0f} hours and was given up")
        session.pause(pause)
        waited += pause
        pause = min(LONGEST_PAUSE, pause * GROWTH)


def discard(session: Session, job: str) -> None:
    """Delete a job that nobody needs any more, aborting it first; a failure is only logged."""
    try:
        try:
            session.resource("DELETE", job)
        except SalesforceError as error:
            if error.status != 400:
                raise
            session.resource("PATCH", job, {"state": "Aborted"})
            session.resource("DELETE", job)
    except QueryLostError:
        pass
    except SyncError as error:
        # Salesforce deletes it seven days after its end.
        log.warning("bulk_job_left", job=job, reason=str(error)[:200])


# ── its results ───────────────────────────────────────────────────────────────────────────────────────


def result_pages(
    session: Session, projection: Projection, window: Window, progress: Progress
) -> Iterator[Source[Part]]:
    """A source for each result page still to read, or one for all where each page names the next."""
    assert progress.job is not None
    if progress.page_url == NO_MORE:
        return
    ours = f"{progress.job}/results?maxRecords={MAX_RECORDS}"
    if float(session.version) < PARALLEL_SINCE or "maxRecords=" in progress.page_url:
        yield partial(chain, session, projection, window, progress.page_url or ours)
        return
    try:
        addresses = listed(session, progress.job)
        if progress.page_url:
            addresses = dropwhile(lambda url: url != progress.page_url, addresses)
        this = next(addresses, None)
    except SalesforceError as error:
        if error.status not in (400, 404):
            raise
        log.info("bulk_pages_in_turn", object=projection.sobject.name, reason=str(error)[:200])
        yield partial(chain, session, projection, window, ours)
        return
    if this is None and progress.page_url:
        raise QueryLostError(f"{projection.sobject.name}: the job's result pages are others now")
    number = 0
    while this is not None:
        following = next(addresses, None)
        address = Address(number, this, following or NO_MORE)
        yield partial(one, session, projection, window, address)
        number, this = number + 1, following


def listed(session: Session, job: str) -> Iterator[str]:
    """The URLs of a job's result pages."""
    url = f"{job}/resultPages"
    while url:
        body = session.resource("GET", url).body
        yield from (page["resultUrl"] for page in body["resultPages"])
        # The documentation spells this key in two ways.
        following = body.get("nextRecordsUrl") or body.get("nextRecordUrl")
        url = "" if body.get("done", not following) else following or ""


def chain(
    session: Session,
    projection: Projection,
    window: Window,
    url: str,
    give: Callable[[Part], None],
) -> None:
    """All result pages from one on, each named by the one before."""
    number = 0
    while url != NO_MORE:
        url = parts(session, projection, window, Address(number, url, None), give)
        number += 1


def one(
    session: Session,
    projection: Projection,
    window: Window,
    address: Address,
    give: Callable[[Part], None],
) -> None:
    """One result page."""
    parts(session, projection, window, address, give)


def parts(
    session: Session,
    projection: Projection,
    window: Window,
    address: Address,
    give: Callable[[Part], None],
) -> str:
    """Give one result page as it arrives; the URL of the next. After a failure it is given from its start."""
    try:
        end = session.stream(address.url, lambda answer: read(answer, projection, window, address, give))
    except SalesforceError as error:
        if error.status != 200:
            raise
        # Asked for again and again, it never was what it says it is: neither it nor its job is to be trusted.
        raise mismatch(projection.sobject.name, f"other ({error})", 0) from None
    give(end)
    return end.following or NO_MORE


def read(
    answer: requests.Response,
    projection: Projection,
    window: Window,
    address: Address,
    give: Callable[[Part], None],
) -> Part:
    """Give a page's records batch by batch; its end. ValueError for a page that is not what it says it is."""
    count, locator = header(answer, "Sforce-NumberOfRecords"), header(answer, "Sforce-Locator")
    rows = csv.reader(lines(answer), strict=True)
    border, stamp, came, settled = (
        f"{window.settled:{SECOND}}",
        projection.names.index("SystemModstamp"),
        0,
        0,
    )
    try:
        order = places(projection, next(rows, []))
        while batch := list(islice(rows, BATCH)):
            if {*map(len, batch)} != {len(projection.names)}:
                raise ValueError("a row has more or fewer cells than the header")
            records = batch if order is None else list(map(order, batch))
            came += len(records)
            settled += sum(record[stamp] < border for record in records)
            give(Part(address.number, records))
            del batch, records
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from None
    if str(came) != count:
        raise ValueError(f"the page says {count} records and holds {came:,}")
    following = address.following
    if following is None:
        base = address.url.split("?")[0]
        following = NO_MORE if locator == NO_MORE else f"{base}?locator={locator}&maxRecords={MAX_RECORDS}"
    return Part(address.number, (), following, came, settled)


def header(answer: requests.Response, name: str) -> str:
    """A header that a result page must have: without it nobody knows whether all of it came."""
    value = answer.headers.get(name)
    if value is None:
        raise SalesforceError(f"a Bulk result came without its header {name}; a proxy may remove it")
    return value


def lines(answer: requests.Response) -> io.TextIOWrapper:
    """The body, line by line as it arrives; bytes that are no UTF-8 become what no row can hold."""
    raw = answer.raw
    raw.decode_content = True
    raw.auto_close = False  # the wrappers ask once more at the end
    text = io.TextIOWrapper(
        io.BufferedReader(raw, CHUNK), encoding="utf-8", errors="surrogateescape", newline=""
    )
    text._CHUNK_SIZE = CHUNK  # type: ignore[attr-defined]  # eight times what it takes by itself
    return text


def places(projection: Projection, names: Sequence[str]) -> Callable[[Sequence[str]], Record] | None:
    """How to bring a row into the order of the projection; None where it is in it."""
    if tuple(names) == projection.names:
        return None
    if sorted(names) != sorted(projection.names):
        raise ValueError(f"its columns are {','.join(names)[:200]!r}")
    return itemgetter(*(list(names).index(name) for name in projection.names))
