"""Read every record of a window as pages, by REST or by the Bulk API, checked against Salesforce's count.

Both give the same pages of the same records, so callers need not know which was used. This module alone
chooses between them, and chooses the fallback when one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil

from sync.catalogue.mapping import DescribedField, Projection
from sync.errors import (
    BulkRefusedError,
    FieldsMovedError,
    QueryLostError,
    SalesforceError,
    SyncError,
)
from sync.logs import logger
from sync.salesforce import soql
from sync.salesforce.extract import bulk, parts, rest, results
from sync.salesforce.extract.bulk import TOO_COMPLICATED, delete_job
from sync.salesforce.extract.pages import RowBuilder
from sync.salesforce.extract.parts import IDS_PER_QUERY, RestlessError
from sync.salesforce.extract.rest import RESTARTS
from sync.salesforce.extract.results import NO_FURTHER_PAGE
from sync.salesforce.learned import Learned
from sync.salesforce.prefetch import as_source, prefetch
from sync.salesforce.session.answers import Answer
from sync.salesforce.session.limits import VALUES_PER_PAGE, clip
from sync.salesforce.session.session import SMALLEST_BATCH, Session
from sync.window import Page, Progress, Scope, Window

log = logger.get(__name__)

PAGE = 2_000  # the most records in one REST answer
JOB_CALLS = 8  # create, some polls, count, delete
PAGES_A_LIST = 5  # result pages in one answer of resultPages
EVER = datetime.max.replace(tzinfo=UTC)
SHORT_TEXT = 255  # characters of a text area that is no long one
TOO_LONG = (413, 414, 431)  # statuses of servers and proxies for too long URLs or headers
# After a count mismatch the window is read by REST, stepwise; above this number of records by another job,
# once.
MOST_STEPWISE, BULK_TRIALS = 200_000, 2


def pages(
    session: Session,
    projection: Projection,
    window: Window,
    start: Progress,
    build_rows: RowBuilder,
    *,
    threshold: int,
    mismatches: int = 0,
    ahead: int = 1,
    first: Answer | SyncError | None = None,
) -> Iterator[Page]:
    """Yield all pages of a window from `start` on, in the order in which they are to be committed.

    Up to `ahead` pages are fetched and built in advance. `mismatches` is the number of earlier readings of
    this window whose count did not match. `first` is the answer to its first query, if it was asked already.
    More than `threshold` records are read by the Bulk API, and so is a
    window that REST does not finish in time. REST reads what the Bulk API refuses, cannot read now, or takes
    too long for. A resumed window continues by the API that it began with. Fields that do not fit into one
    query are read in parts.
    """
    start = usable_progress(session, projection, start)
    read = Reading(session, projection, window, build_rows, threshold, mismatches, ahead)
    while True:
        try:
            asked, first = first, None
            for page in with_fallback(read, start, asked):
                start = page.progress
                yield page
                del page
        except SalesforceError as error:
            split_or_raise(session, projection, error)
            if start.job is not None:  # it has the old fields
                delete_job(session, start.job)
                start = Progress()
        else:
            return


@dataclass(frozen=True, slots=True)
class Reading:
    """The parameters of reading one window."""

    session: Session
    projection: Projection
    window: Window
    build_rows: RowBuilder
    threshold: int
    mismatches: int
    ahead: int

    @property
    def name(self) -> str:
        return self.projection.sobject.name

    @property
    def learned(self) -> Learned:
        return self.session.learned(self.name)

    def large(self, records: int) -> bool:
        """Return whether this number of records is to be read by the Bulk API."""
        by_rest = parts.of_window(self.projection, self.learned)
        by_job = parts.of_job(self.projection, self.learned)
        id_queries = ceil(records / IDS_PER_QUERY)
        more = (
            ceil(records / PAGE) + (len(by_rest) - 1) * id_queries
            > JOB_CALLS + (len(by_job) - 1) * id_queries
        )
        if self.mismatches:
            return records > MOST_STEPWISE and self.mismatches < BULK_TRIALS
        return records > self.threshold or (len(by_rest) > len(by_job) and more)


def with_fallback(read: Reading, start: Progress, asked: Answer | SyncError | None = None) -> Iterator[Page]:
    """Yield the pages by REST or Bulk API, falling back to the other if one cannot read the window.

    `asked` is the answer to the first query, if it is known.
    """
    expected = 0
    if start.job is None:
        try:
            if start.key is not None:
                yield from by_rest(read, start, stepwise=True)
                return
            if not read.learned.slow:
                if isinstance(asked, SyncError):
                    raise asked
                first, asked = asked or first_page(read), None
                expected = int(first.body["totalSize"])
                if not (read.large(expected) and read.learned.jobs):
                    stepwise = read.mismatches > 0 or expected > read.threshold
                    yield from by_rest(read, start, first, stepwise=stepwise)
                    return
                del first
        except SalesforceError as error:
            if error.code != "QUERY_TIMEOUT":
                raise
            read.learned.slow = True
            log.warning("query_too_slow", object=read.name, reason=str(error)[:200], instead="Bulk API")
            start = Progress()
    try:
        yield from by_bulk(read, start, expected)
    except BulkRefusedError as refused:
        log.warning("bulk_refused", object=read.name, reason=str(refused)[:300], instead="REST")
        read.learned.without_jobs()
        try:
            yield from by_rest(read, Progress(), stepwise=True)
        except SalesforceError as error:
            if error.code != "QUERY_TIMEOUT":
                raise
            raise SyncError(f"{refused}; and by REST {error}") from None


def first_page(read: Reading) -> Answer:
    """Return the answer to the window's first query; its count decides between REST and Bulk API."""
    main = parts.of_window(read.projection, read.learned)[0]
    return read.session.query(soql.select(main, read.window.scope, None), main.names)


def by_rest(read: Reading, start: Progress, first: Answer | None = None, *, stepwise: bool) -> Iterator[Page]:
    """Yield the window's pages by REST; `first` is the answer to its first query, if already known."""
    groups = parts.of_window(read.projection, read.learned)
    build_rows = read.build_rows if len(groups) == 1 else parts.as_they_are
    found = rest.pages(
        read.session,
        groups[0],
        read.window,
        start,
        build_rows,
        stepwise=stepwise,
        first=first,
        ahead=read.ahead > 0,
    )
    if len(groups) > 1:
        found = parts.join_pages(read.session, read.projection, groups, found, read.build_rows)
    return prefetch([as_source(found)], read.session.stop, depth=read.ahead) if read.ahead else found


def by_bulk(read: Reading, start: Progress, expected: int) -> Iterator[Page]:
    """Yield the pages of a Bulk job, or of a new job if it is gone.

    Raises BulkRefusedError if the Bulk API cannot read the window, before or after the first page; the job is
    deleted then.
    """
    session, job, restarts = read.session, start.job, 0
    while True:
        groups = parts.of_job(read.projection, read.learned)
        build_rows = read.build_rows if len(groups) == 1 else parts.as_they_are
        try:
            # Wait longer for the job if an ordered query does not finish at all.
            found = bulk.pages(
                session, groups[0], read.window, start, build_rows, expected, read.learned.slow
            )
            if len(groups) > 1:
                found = parts.join_pages(session, read.projection, groups, found, read.build_rows)
            for page in found:
                job = page.progress.job
                yield page
                del page
        except (QueryLostError, BulkRefusedError) as lost:
            if job is not None:
                delete_job(session, job)
            if isinstance(lost, BulkRefusedError):
                raise
            restarts += 1
            if restarts > RESTARTS:
                raise BulkRefusedError(f"{read.name}: {lost}") from None
            log.warning("query_restarted", object=read.name, reason=str(lost)[:200])
            start, job = Progress(), None
        except SalesforceError as error:
            if error.code != TOO_COMPLICATED or job is not None:
                raise
            if not split_queries(session, read.projection, error):
                raise BulkRefusedError(f"{read.name}: Bulk API refuses the query: {error}") from None
        else:
            return


def usable_progress(session: Session, projection: Projection, start: Progress) -> Progress:
    """Return a stored progress if its key and paths are valid, else an empty one.

    Results can be read only with the API version that created their job: after an upgrade the path is
    invalid.
    """
    try:
        if start.key is not None and not rest.is_key(start.key.id):
            raise SalesforceError(f"{clip(ascii(start.key.id), 40)} is not an Id")
        if start.job is not None:
            session.path(start.job)
            if start.page_url not in ("", NO_FURTHER_PAGE):
                session.path(start.page_url)
    except SalesforceError as error:
        log.warning("progress_discarded", object=projection.sobject.name, reason=str(error))
        if start.job is not None:
            delete_job(session, start.job)
        return Progress()
    return start


def split_or_raise(session: Session, projection: Projection, error: SalesforceError) -> None:
    """Split queries further from now on; raise `error` if that is not possible.

    Raises FieldsMovedError for formulas that are too complicated even alone, so that the others can be read.
    """
    if split_queries(session, projection, error):
        log.info("queries_split", object=projection.sobject.name, reason=str(error)[:200])
        return
    if error.code == TOO_COMPLICATED and (refused := formulas_refused_alone(session, projection)):
        raise FieldsMovedError(
            f"{', '.join(refused)}: {error}", status=error.status, fields=refused
        ) from None
    raise error


def formulas_refused_alone(session: Session, projection: Projection) -> list[str]:
    """Return the formulas that Salesforce refuses as too complicated even in a query of their own."""
    refused = []
    for name in sorted(parts.calculated_fields(projection)):
        part = projection.only([name])
        try:
            session.query(soql.select(part, Scope(), None) + " LIMIT 1", part.names, best_effort=True)
        except SalesforceError as error:
            if error.code != TOO_COMPLICATED:
                raise
            refused.append(name)
    return refused


def split_queries(session: Session, projection: Projection, error: SalesforceError) -> bool:
    """Return whether a refused query can be split; if so, later queries are."""
    learned = session.learned(projection.sobject.name)
    formulas = len(parts.calculated_fields(projection))
    if error.status in TOO_LONG or (error.code == TOO_COMPLICATED and not formulas):
        return learned.shorter()
    return error.code == TOO_COMPLICATED and learned.simpler(formulas)


def count(session: Session, name: str, scope: Scope) -> int:
    """Return the number of records in scope, including deleted ones."""
    return int(session.query(soql.count(name, scope)).body["totalSize"])


def by_id(
    session: Session, projection: Projection, ids: Sequence[str], build_rows: RowBuilder
) -> Iterator[Page]:
    """Yield the records with these Ids, including deleted ones; absent ones are missing in the pages.

    Raises RestlessError at the end if some records kept changing.
    """
    restless: RestlessError | None = None
    for start in range(0, len(ids), IDS_PER_QUERY):
        try:
            for page in read_few(session, projection, ids[start : start + IDS_PER_QUERY], build_rows):
                yield replace(page, received=start + page.received, expected=len(ids))
        except RestlessError as error:
            restless = error
    if restless is not None:
        raise restless


def read_few(
    session: Session, projection: Projection, ids: Sequence[str], build_rows: RowBuilder
) -> Iterator[Page]:
    """Yield the records with these Ids, at most IDS_PER_QUERY."""
    while True:
        groups = parts.of_ids(projection, session.learned(projection.sobject.name))
        try:
            if len(groups) == 1:
                yield from parts.by_id(session, projection, ids, build_rows)
            else:
                pieces = parts.by_id(session, groups[0], ids, parts.as_they_are)
                yield from parts.join_pages(session, projection, groups, pieces, build_rows)
        except SalesforceError as error:
            split_or_raise(session, projection, error)
        else:
            return


def probe(session: Session, projection: Projection) -> int:
    """Run each query of a REST pass for one record; return the number of queries."""
    while True:
        groups = parts.of_window(projection, session.learned(projection.sobject.name))
        try:
            for part in groups:
                session.query(soql.select(part, Scope(), None) + " LIMIT 1", part.names, best_effort=True)
            return len(groups)
        except SalesforceError as error:
            split_or_raise(session, projection, error)


def estimate_calls(session: Session, projection: Projection, records: int, threshold: int) -> int:
    """Estimate the API calls for a window of this many records, without the describe and the replication
    calls.

    How often a job is polled depends on how long Salesforce takes for it.
    """
    read = Reading(session, projection, Window(None, EVER), parts.as_they_are, threshold, 0, 0)
    learned, id_queries = read.learned, ceil(records / IDS_PER_QUERY)
    if not (learned.jobs and (learned.slow or read.large(records))):
        groups = parts.of_window(projection, learned)
        return max(1, ceil(records / page_size(groups[0]))) + (len(groups) - 1) * id_queries
    groups = parts.of_job(projection, learned)
    pages = max(1, ceil(records / results.MAX_RECORDS))
    # The first query, which counted too many records; create, the list of pages, count, delete.
    around = (0 if learned.slow else 1) + 3 + ceil(pages / PAGES_A_LIST) + bulk.estimate_polls(records)
    return around + pages + (len(groups) - 1) * id_queries


def page_size(projection: Projection) -> int:
    """Return the number of records that Salesforce sends in a page of this query; it may send fewer."""
    long_texts = [field for field in projection.custom if is_long_text(field)]
    asked_for = max(SMALLEST_BATCH, min(PAGE, VALUES_PER_PAGE // len(projection.names)))
    return SMALLEST_BATCH if len(long_texts) > 1 else asked_for


def is_long_text(field: DescribedField) -> bool:
    """Return whether a field is a text area of more than 255 characters: with two custom ones in a query,
    Salesforce sends small pages."""
    return field.type == "textarea" and field.size.isdigit() and int(field.size) > SHORT_TEXT
