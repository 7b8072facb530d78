"""Window → pages: every record of a window, by REST or by Bulk API, counted against Salesforce's own count.

Which of the two it was nobody knows below this step: both give the same pages of the same records. Here, and
nowhere else, is decided which way a read goes, and what is done where a way is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

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
from sync.salesforce.extract import bulk, parts, rest
from sync.salesforce.extract.bulk import TOO_COMPLICATED, discard
from sync.salesforce.extract.pages import RowBuilder
from sync.salesforce.extract.parts import IDS_PER_QUERY, RestlessError
from sync.salesforce.extract.rest import RESTARTS
from sync.salesforce.extract.results import MAX_RECORDS, NO_MORE
from sync.salesforce.prefetch import as_source, prefetch
from sync.salesforce.session.answers import Answer
from sync.salesforce.session.learned import Learned
from sync.salesforce.session.limits import clip
from sync.salesforce.session.session import Session
from sync.window import Page, Progress, Scope, Window

log = logger.get(__name__)

PAGE = 2_000  # records in one REST answer, at most
JOB_CALLS = 8  # create, some looks, count, delete
TOO_LONG = (413, 414, 431)  # what servers and proxies answer to a URL or headers longer than they take
# After pages that did not add up REST is asked, stepwise; for more records than this another job, once.
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
) -> Iterator[Page]:
    """All pages of a window from `start` on, as `make` makes them, to be committed in this order.

    Up to `ahead` are fetched and made before they are asked for. `mismatches`: how often the pages of this
    window did not add up.

    More than `threshold` records are read by Bulk API, and so is what REST does not finish in time; by REST
    what Bulk API refuses, cannot do for now, or takes too long for. What was begun one way goes on that way.
    Fields that do not fit into one query are read in parts.
    """
    start = usable(session, projection, start)
    read = Reading(session, projection, window, build_rows, threshold, mismatches, ahead)
    while True:
        try:
            for page in either_way(read, start):
                start = page.progress
                yield page
                del page
        except SalesforceError as error:
            learn(session, projection, error)
            if start.job is not None:  # it has the fields of before
                discard(session, start.job)
                start = Progress()
        else:
            return


@dataclass(frozen=True, slots=True)
class Reading:
    """What a window is read with."""

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
        """Whether so many records are read by Bulk API, where the org lets us choose."""
        by_rest = parts.of_window(self.projection, self.learned)
        by_job = parts.of_job(self.projection, self.learned)
        asked = ceil(records / IDS_PER_QUERY)
        more = ceil(records / PAGE) + (len(by_rest) - 1) * asked > JOB_CALLS + (len(by_job) - 1) * asked
        if self.mismatches:
            return records > MOST_STEPWISE and self.mismatches < BULK_TRIALS
        return records > self.threshold or (len(by_rest) > len(by_job) and more)


def either_way(read: Reading, start: Progress) -> Iterator[Page]:
    """The pages by REST or Bulk API, and by the other where one cannot do it."""
    expected = 0
    if start.job is None:
        try:
            if start.key is not None:
                yield from by_rest(read, start, stepwise=True)
                return
            if not read.learned.slow:
                first = first_page(read)
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
    """The answer to the window's query; its count decides which way it is read."""
    main = parts.of_window(read.projection, read.learned)[0]
    return read.session.query(soql.select(main, read.window.scope, None), main.names)


def by_rest(read: Reading, start: Progress, first: Answer | None = None, *, stepwise: bool) -> Iterator[Page]:
    """The window's pages by REST; `first` is the answer to its query where that was asked already."""
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
        found = parts.completed(read.session, read.projection, groups, found, read.build_rows)
    return prefetch([as_source(found)], read.session.stop, depth=read.ahead) if read.ahead else found


def by_bulk(read: Reading, start: Progress, expected: int) -> Iterator[Page]:
    """The pages of a Bulk job; of another one when it is gone.

    BulkRefusedError where Bulk API cannot do it, before or after the first page; no job is left behind.
    """
    session, job, restarts = read.session, start.job, 0
    while True:
        groups = parts.of_job(read.projection, read.learned)
        build_rows = read.build_rows if len(groups) == 1 else parts.as_they_are
        try:
            # A job that takes long is waited for where an ordered query would take longer.
            found = bulk.pages(
                session, groups[0], read.window, start, build_rows, expected, read.learned.slow
            )
            if len(groups) > 1:
                found = parts.completed(session, read.projection, groups, found, read.build_rows)
            for page in found:
                job = page.progress.job
                yield page
                del page
        except (QueryLostError, BulkRefusedError) as lost:
            if job is not None:
                discard(session, job)
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
            if not learnt(session, read.projection, error):
                raise BulkRefusedError(f"{read.name}: Bulk API refuses the query: {error}") from None
        else:
            return


def usable(session: Session, projection: Projection, start: Progress) -> Progress:
    """A saved progress if its key and paths are what we ever save, else none: read from the beginning.

    Results can be read by the API version alone that made their job: after an upgrade it is another path.
    """
    try:
        if start.key is not None and not rest.is_key(start.key.id):
            raise SalesforceError(f"{clip(ascii(start.key.id), 40)} is no Id")
        if start.job is not None:
            session.path(start.job)
            if start.page_url not in ("", NO_MORE):
                session.path(start.page_url)
    except SalesforceError as error:
        log.warning("progress_discarded", object=projection.sobject.name, reason=str(error))
        if start.job is not None:
            discard(session, start.job)
        return Progress()
    return start


def learn(session: Session, projection: Projection, error: SalesforceError) -> None:
    """Ask in smaller parts from now on; the error itself where that does not help.

    FieldsMovedError where formulas are too complicated each by itself: the others need not wait for them.
    """
    if learnt(session, projection, error):
        log.info("queries_split", object=projection.sobject.name, reason=str(error)[:200])
        return
    if error.code == TOO_COMPLICATED and (refused := refused_alone(session, projection)):
        raise FieldsMovedError(
            f"{', '.join(refused)}: {error}", status=error.status, fields=refused
        ) from None
    raise error


def refused_alone(session: Session, projection: Projection) -> list[str]:
    """The formulas that are too complicated for a query that names nothing else."""
    refused = []
    for name in sorted(parts.calculated_of(projection)):
        part = projection.only([name])
        try:
            session.query(soql.select(part, Scope(), None) + " LIMIT 1", part.names, best_effort=True)
        except SalesforceError as error:
            if error.code != TOO_COMPLICATED:
                raise
            refused.append(name)
    return refused


def learnt(session: Session, projection: Projection, error: SalesforceError) -> bool:
    """Whether a refused query can be asked in smaller parts, which it is from now on."""
    learned = session.learned(projection.sobject.name)
    formulas = len(parts.calculated_of(projection))
    if error.status in TOO_LONG or (error.code == TOO_COMPLICATED and not formulas):
        return learned.shorter()
    return error.code == TOO_COMPLICATED and learned.simpler(formulas)


def count(session: Session, name: str, scope: Scope) -> int:
    """How many records are in scope, deleted ones included."""
    return int(session.query(soql.count(name, scope)).body["totalSize"])


def by_id(
    session: Session, projection: Projection, ids: Sequence[str], build_rows: RowBuilder
) -> Iterator[Page]:
    """The records with these Ids, deleted ones included; absent ones are simply not in the pages.

    RestlessError at the end where some changed all the time.
    """
    restless: RestlessError | None = None
    for start in range(0, len(ids), IDS_PER_QUERY):
        try:
            for page in few_by_id(session, projection, ids[start : start + IDS_PER_QUERY], build_rows):
                yield replace(page, received=start + page.received, expected=len(ids))
        except RestlessError as error:
            restless = error
    if restless is not None:
        raise restless


def few_by_id(
    session: Session, projection: Projection, ids: Sequence[str], build_rows: RowBuilder
) -> Iterator[Page]:
    """The records with these Ids, no more than one query may name."""
    while True:
        groups = parts.of_ids(projection, session.learned(projection.sobject.name))
        try:
            if len(groups) == 1:
                yield from parts.by_id(session, projection, ids, build_rows)
            else:
                pieces = parts.by_id(session, groups[0], ids, parts.as_they_are)
                yield from parts.completed(session, projection, groups, pieces, build_rows)
        except SalesforceError as error:
            learn(session, projection, error)
        else:
            return


def probe(session: Session, projection: Projection) -> int:
    """Ask for one record by each query that a pass by REST would ask; how many those are."""
    while True:
        groups = parts.of_window(projection, session.learned(projection.sobject.name))
        try:
            for part in groups:
                session.query(soql.select(part, Scope(), None) + " LIMIT 1", part.names, best_effort=True)
            return len(groups)
        except SalesforceError as error:
            learn(session, projection, error)


def calls(records: int, threshold: int) -> int:
    """About how many API calls a window of so many records takes, without the describe."""
    if records <= threshold:
        return max(1, ceil(records / PAGE))
    pages = ceil(records / MAX_RECORDS)
    return 1 + JOB_CALLS + pages + ceil(pages / 5)
