"""Window → pages: every record of a window, by REST or by Bulk API, counted against Salesforce's own count.

Which of the two it was nobody knows below this step: both give the same pages of the same records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from math import ceil
from urllib.parse import quote_plus

from sync import logs, soql
from sync.errors import BulkRefusedError, QueryLostError, SalesforceError, SyncError
from sync.extract import bulk, rest
from sync.extract.bulk import discard
from sync.extract.pages import Make, Page, Progress, Window
from sync.extract.rest import RESTARTS
from sync.mapping import Projection
from sync.prefetch import each, prefetch
from sync.session import Answer, Session
from sync.session.limits import clip
from sync.soql import Scope

__all__ = [
    "IDS_PER_QUERY",
    "Make",
    "Page",
    "Progress",
    "Window",
    "by_id",
    "calls",
    "count",
    "discard",
    "pages",
]

log = logs.get(__name__)

LONGEST_QUERY = 15_000  # bytes after escaping; a URL with its headers may have 16,384
PAGE = 2_000  # records in one REST answer, at most
IDS_PER_QUERY, BYTES_PER_ID = 200, 28  # an Id with its quotes and comma, escaped
JOB_CALLS = 8  # create, some looks, count, delete


def pages(
    session: Session,
    projection: Projection,
    window: Window,
    start: Progress,
    make: Make,
    *,
    threshold: int,
    stepwise: bool = False,
    ahead: int = 1,
) -> Iterator[Page]:
    """All pages of a window from `start` on, as `make` makes them, to be committed in this order.

    Up to `ahead` are fetched and made before they are asked for.

    More than `threshold` records, and queries too long for a URL, are read by Bulk API, by REST where it
    refuses. What was begun one way goes on that way. `stepwise`: by REST, asking for every page anew.
    """

    def by_rest(start: Progress, first: Answer | None = None) -> Iterator[Page]:
        found = rest.pages(
            session, projection, window, start, make, stepwise=stepwise, first=first, ahead=ahead > 0
        )
        return prefetch([each(found)], session.stop, depth=ahead) if ahead else found

    start = usable(session, projection, start)
    fits = length(projection) <= LONGEST_QUERY
    if fits and start.job is None and (start.key is not None or stepwise):
        yield from by_rest(start)
        return
    expected = 0
    if start.job is None:
        question = soql.select(projection, window.scope, None)
        first = session.query(question, projection.names) if fits else None
        total = first.body["totalSize"] if first else count(session, projection.sobject.name, window.scope)
        expected = int(total)
        if first and expected <= threshold:
            yield from by_rest(start, first)
        if expected <= (threshold if first else 0):
            return
        del first
    try:
        yield from by_bulk(session, projection, window, start, make, expected)
    except BulkRefusedError as refused:
        if not fits:
            raise SyncError(f"{too_long(projection)}; {refused}") from None
        log.warning("bulk_refused", object=projection.sobject.name, reason=str(refused)[:300], instead="REST")
        yield from by_rest(Progress())


def usable(session: Session, projection: Projection, start: Progress) -> Progress:
    """A saved progress if its key and paths are what we ever save, else none: read from the beginning.

    Results can be read by the API version alone that made their job: after an upgrade it is another path.
    """
    try:
        if start.key is not None and not rest.is_key(start.key.id):
            raise SalesforceError(f"{clip(ascii(start.key.id), 40)} is no Id")
        if start.job is not None:
            session.path(start.job)
            if start.page_url not in ("", bulk.NO_MORE):
                session.path(start.page_url)
    except SalesforceError as error:
        log.warning("progress_discarded", object=projection.sobject.name, reason=str(error))
        if start.job is not None:
            discard(session, start.job)
        return Progress()
    return start


def by_bulk(
    session: Session,
    projection: Projection,
    window: Window,
    start: Progress,
    make: Make,
    expected: int,
) -> Iterator[Page]:
    """The pages of a Bulk job; of another one when it is gone."""
    job, restarts = start.job, 0
    while True:
        try:
            for page in bulk.pages(session, projection, window, start, make, expected):
                job = page.progress.job
                yield page
                del page
        except QueryLostError as lost:
            if job is not None:
                discard(session, job)
            restarts += 1
            if restarts > RESTARTS:
                raise
            log.warning("query_restarted", object=projection.sobject.name, reason=str(lost)[:200])
            start = Progress()
        else:
            return


def length(projection: Projection) -> int:
    """The bytes that the query takes in a URL."""
    latest = soql.Key(datetime.max.replace(tzinfo=UTC), "0" * 18)
    return len(quote_plus(soql.select(projection, Scope(latest.stamp), latest)))


def too_long(projection: Projection) -> str:
    return (
        f"{projection.sobject.name}: the query for {len(projection.names)} fields is {length(projection):,} "
        "bytes long, more than a URL may carry; name the custom fields you need in SYNC_CUSTOM_FIELDS"
    )


def count(session: Session, name: str, scope: Scope) -> int:
    """How many records are in scope, deleted ones included."""
    return int(session.query(soql.count(name, scope)).body["totalSize"])


def by_id(session: Session, projection: Projection, ids: Sequence[str], make: Make) -> Iterator[Page]:
    """The records with these Ids, deleted ones included; absent ones are simply not in the pages."""
    room = (LONGEST_QUERY - length(projection)) // BYTES_PER_ID
    if room < 1:
        raise SyncError(too_long(projection))
    return rest.by_id(session, projection, ids, min(IDS_PER_QUERY, room), make)


def calls(records: int, threshold: int) -> int:
    """About how many API calls a window of so many records takes, without the describe."""
    if records <= threshold:
        return max(1, ceil(records / PAGE))
    pages = ceil(records / bulk.MAX_RECORDS)
    return 1 + JOB_CALLS + pages + ceil(pages / 5)
