"""A window by Bulk API 2.0: one query job, its result pages streamed side by side, resumable page by page.

A thin client of its own: simple-salesforce's cannot log in again, time out, read deleted records page by
page, or delete a job. Facts used: results come in any order; a result page can be asked for again as long
as the job lives; every page has the header row; all calls of a job use one API version.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import dropwhile, islice
from operator import itemgetter
from urllib.parse import urlencode

from sync import logs, soql
from sync.errors import (
    BulkRefusedError,
    CountMismatchError,
    FieldsMovedError,
    QueryLostError,
    SalesforceError,
    SyncError,
)
from sync.extract.pages import SECOND, Make, Page, Progress, Window, mismatch, visit
from sync.extract.rest import counted
from sync.mapping import Projection
from sync.prefetch import Source, prefetch
from sync.session import Session
from sync.transform import Batch, Record

log = logs.get(__name__)

WIDTH, PATIENCE = 2, 0.2  # result pages downloaded side by side, once a batch is waited for so many seconds
BATCH = 1_000  # records handed on at once
# Records in a result page where we may choose: what a killed process reads again, not what is held in memory.
MAX_RECORDS = 50_000
FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.5, 20.0, 1.5  # seconds between two looks at a job
JOB_SECONDS = 12 * 3600  # then a job that has not ended is given up
PARALLEL_SINCE = 58.0  # the API version that has resultPages
NOTHING = Batch()
NO_MORE = "null"  # Salesforce's word for "there is no further page"

csv.field_size_limit(2**31 - 1)  # a long text area holds more than the default's 131,072 characters


@dataclass(frozen=True, slots=True)
class Address:
    """Result page `number` of those still to read, its URL, and the next one's where that is known before."""

    number: int
    url: str
    following: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a result page: rows, or its end with its counts and the URL of the next page."""

    number: int
    batch: Batch = NOTHING
    records: int = 0
    following: str | None = None
    count: int = 0
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Results:
    """Whose results are read: the object's name, its fields, where settled stamps end, what to make."""

    session: Session
    name: str
    columns: tuple[str, ...]
    border: str
    make: Make


Give = Callable[[Part], None]


def pages(
    session: Session,
    projection: Projection,
    window: Window,
    start: Progress,
    make: Make,
    expected: int,
) -> Iterator[Page]:
    """All pages of a window from `start` on; BulkRefusedError before the first where Bulk API cannot do it.

    The first page only names the job, before anything is waited for, so that who resumes finds it; `discard`
    deletes it once nobody will. QueryLostError when the job is gone. CountMismatchError when records are
    missing by the page's, the job's or the org's count.
    """
    name, progress = projection.sobject.name, start
    if progress.job is None:
        progress, at = create(session, projection, window)
        yield Page(NOTHING, progress, 0, expected, at)
    try:
        processed, at = finished(session, name, progress, resumed=start.job is not None)
    except QueryLostError:
        if progress.page_url != NO_MORE:
            raise
        # Everything was read, and the job deleted; only the cursor has not moved yet.
        processed, at = progress.received, window.until
    ended: dict[int, Part] = {}
    received, number = progress.received, 0
    of = Results(session, name, projection.names, f"{window.settled:{SECOND}}", make)
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
        yield Page(part.batch, progress, received, processed, at)
        del part
    if progress.received != processed:
        raise mismatch(name, f"{processed:,}", progress.received)
    settled = counted(session, name, soql.count_before(name, window.scope, None, window.settled))
    if settled > progress.settled:
        raise mismatch(name, f"{settled:,} settled", progress.settled)


# ── the job ───────────────────────────────────────────────────────────────────────────────────────────


def create(session: Session, projection: Projection, window: Window) -> tuple[Progress, datetime]:
    """A new job, as the progress that names it, and Salesforce's clock."""
    name, jobs = projection.sobject.name, f"/services/data/v{session.version}/jobs/query"
    question = soql.select_unordered(projection, window.scope)
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


def result_pages(of: Results, progress: Progress) -> Iterator[Source[Part]]:
    """A source for each result page still to read, or one for all where each page names the next."""
    assert progress.job is not None
    if progress.page_url == NO_MORE:
        return
    first = f"{progress.job}/results?maxRecords={MAX_RECORDS}"
    if float(of.session.version) < PARALLEL_SINCE or "maxRecords=" in progress.page_url:
        yield partial(in_turn, of, progress.page_url or first)
        return
    try:
        urls = listed(of, progress.job)
        if progress.page_url:
            urls = dropwhile(lambda url: url != progress.page_url, urls)
        this = next(urls, None)
    except SalesforceError as error:
        if error.status not in (400, 404) or progress.page_url:
            raise
        log.info("bulk_pages_in_turn", object=of.name, reason=str(error)[:200])
        yield partial(in_turn, of, first)
        return
    if this is None and progress.page_url:
        raise QueryLostError(f"{of.name}: the job's result pages are others now")
    number = 0
    while this is not None:
        following = next(urls, None)
        yield partial(result_page, of, Address(number, this, following or NO_MORE))
        number, this = number + 1, following


def listed(of: Results, job: str) -> Iterator[str]:
    """The URLs of a job's result pages."""
    url, visited = f"{job}/resultPages", set[str]()
    while url:
        visit(of.name, url, visited)
        body = of.session.resource("GET", url).body
        yield from (page["resultUrl"] for page in body["resultPages"])
        # The documentation spells this key in two ways.
        following = body.get("nextRecordsUrl") or body.get("nextRecordUrl")
        url = "" if body.get("done", not following) else following or ""


def in_turn(of: Results, url: str, give: Give) -> None:
    """All result pages from one on, each named by the one before."""
    number, visited = 0, set[str]()
    while url != NO_MORE:
        visit(of.name, url, visited)
        url = result_page(of, Address(number, url, None), give)
        number += 1


def result_page(of: Results, address: Address, give: Give) -> str:
    """Give one result page as it arrives; the URL of the next. After a failure it is given from its start."""
    try:
        end = of.session.stream(address.url, lambda headers, lines: read(of, address, give, headers, lines))
    except SalesforceError as error:
        if error.status != 200:
            raise
        # Asked for again and again, it never was what it says it is: its job is not to be trusted.
        raise CountMismatchError(f"{of.name}: a result page does not add up: {error}") from None
    give(end)
    return end.following or NO_MORE


def read(of: Results, address: Address, give: Give, headers: Mapping[str, str], lines: Iterable[str]) -> Part:
    """Give a page's records batch by batch; its end. ValueError for a page that is not what it says it is."""
    count, locator = header(headers, "Sforce-NumberOfRecords"), header(headers, "Sforce-Locator")
    rows, stamp, came, settled = csv.reader(lines, strict=True), of.columns.index("SystemModstamp"), 0, 0
    try:
        order = places(of.columns, next(rows, []))
        while batch := list(islice(rows, BATCH)):
            if {*map(len, batch)} != {len(of.columns)}:
                raise ValueError("a row has more or fewer cells than the header")
            records = batch if order is None else list(map(order, batch))
            came += len(records)
            settled += sum(record[stamp] < of.border for record in records)
            give(Part(address.number, made(of, records), len(records)))
            del batch, records
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from None
    if str(came) != count:
        raise ValueError(f"the page says {count} records and holds {came:,}")
    following = address.following
    if following is None:
        base, more = address.url.split("?")[0], urlencode({"locator": locator, "maxRecords": MAX_RECORDS})
        following = NO_MORE if locator == NO_MORE else f"{base}?{more}"
    return Part(address.number, following=following, count=came, settled=settled)


def made(of: Results, records: Sequence[Record]) -> Batch:
    """The rows; an error in making them is ours, and no reason to ask for the page again."""
    try:
        return of.make(records)
    except ValueError as error:
        raise RuntimeError(f"{of.name}: {error}") from error


def header(headers: Mapping[str, str], name: str) -> str:
    """A header that a result page must have: without it nobody knows whether all of it came."""
    value = headers.get(name)
    if value is None:
        raise SalesforceError(f"a Bulk result came without its header {name}; a proxy may remove it")
    return value


def places(columns: Sequence[str], found: Sequence[str]) -> Callable[[Sequence[str]], Record] | None:
    """How to bring a row into the order of `columns`; None where it is in it."""
    if found and found[0].startswith("\ufeff"):
        found = [found[0].strip('\ufeff"'), *found[1:]]
    if tuple(found) == tuple(columns):
        return None
    if sorted(found) != sorted(columns):
        raise ValueError(f"its columns are {','.join(found)[:200]!r}")
    return itemgetter(*(list(found).index(name) for name in columns))
