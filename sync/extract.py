"""Window → pages: every record of a window once, counted against Salesforce's own count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sync import logs, soql
from sync.errors import CountMismatchError, QueryLostError, SalesforceError
from sync.mapping import Projection
from sync.session import Session
from sync.soql import Key

log = logs.get(__name__)

IDS_PER_QUERY = 200  # 25 bytes each: far below the 16,384 bytes a URL may have
RESTARTS = 3
LONGEST_QUERY = 15_000  # bytes after escaping; a URL with its headers may have 16,384


@dataclass(frozen=True, slots=True)
class Window:
    """What a pass reads: everything changed since `since` (None: ever), as of `until`, Salesforce's clock.

    What is older than `overlap` before `until` is settled: no transaction commits there any more.
    """

    since: datetime | None
    until: datetime
    overlap: timedelta = timedelta(minutes=10)

    @property
    def settled(self) -> datetime:
        return self.until - self.overlap


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a window's committed pages reach: up to `key`, after `received` distinct records.

    `settled` counts those older than the overlap before the window's end. Only they have to add up later:
    behind them a transaction may still commit an earlier stamp, and the next pass reads all of that again.
    """

    key: Key | None = None
    received: int = 0
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Raw records, the progress their commit means, how many the pass expects, Salesforce's clock."""

    records: Sequence[Mapping[str, Any]]
    progress: Progress
    expected: int
    at: datetime
    last: bool


def pages(
    session: Session, projection: Projection, window: Window, start: Progress, *, stepwise: bool = False
) -> Iterator[Page]:
    """All pages of a window from `start` on; each is committed by the caller before the next is asked for.

    When Salesforce loses the result set (re-login, expired locator) the query is asked again from the last
    page's key. `stepwise` does so for every page: slower to prove, but nothing that vanishes or moves while
    pages are read can shift the others. CountMismatchError when Salesforce counts more records than came.
    """
    progress, furthest, restarts = start, start.received, 0
    if start.key is not None and not stepwise:
        progress = proved(session, projection, window, start)
    while True:
        try:
            question = soql.select(projection, window.since, progress.key)
            older = soql.count_before(projection.sobject.name, window.since, progress.key, window.settled)
            for page in result_set(session, projection.sobject.name, question, window, progress, older):
                reached, last = page.progress, page.last
                yield page
                del page  # not two pages in memory while the next is on its way
                moved, progress = reached != progress, reached
                if progress.received > furthest:
                    furthest, restarts = progress.received, 0
                if stepwise and moved and not last:
                    break
            else:
                break
        except QueryLostError as lost:
            restarts += 1
            if restarts > RESTARTS:
                raise
            log.warning("query_restarted", object=projection.sobject.name, reason=str(lost)[:200])
            if progress.key is not None and not stepwise:
                progress = proved(session, projection, window, progress)
    if stepwise and progress.key is not None and not prefix_is_whole(session, projection, window, progress):
        raise mismatch(projection.sobject.name, "more", progress.settled)


def result_set(
    session: Session,
    name: str,
    question: str,
    window: Window,
    progress: Progress,
    settled: str | None = None,
) -> Iterator[Page]:
    """The pages of one query, followed by `done`, never by counting: any page may be short or empty.

    `settled` counts the query's settled records; asked where records moved while pages were read.
    """
    answer = session.query(question)
    total, asked = int(answer.body["totalSize"]), answer.at
    expected = progress.received + total
    seen, recent = set[int](), set[int]()
    moved = False
    visited: set[str] = set()
    while True:
        records = answer.body["records"]
        moved |= note(records, asked, window.settled, seen, recent)
        progress = advanced(progress, records, window)
        url, at = answer.body.get("nextRecordsUrl"), answer.at
        done = bool(answer.body.get("done", url is None)) or not url
        del answer
        yield Page(records, progress, expected, at, done)
        del records
        if done:
            break
        if url in visited:
            raise QueryLostError(f"{name}: Salesforce sends the same page again and again")
        visited.add(url)
        answer = session.next_page(url)
    if len(seen) < total or (len(seen) > total and not moved):
        raise mismatch(name, f"{total:,}", len(seen))
    if moved and visited and settled is not None:
        # Some records changed while pages were read. Where pages are a snapshot that is harmless; where they
        # are not, it shifts the others and new ones make up the number. So count those that stay put.
        unmoved, came = int(session.query(settled).body["totalSize"]), len(seen) - len(recent)
        if unmoved > came:
            raise mismatch(name, f"{unmoved:,} unmoved", came)


def note(
    records: Sequence[Mapping[str, Any]],
    asked: datetime,
    settled: datetime,
    seen: set[int],
    recent: set[int],
) -> bool:
    """Add a page's Ids to those seen and those not settled; whether one has changed since the query."""
    moved, now, border = False, f"{asked:%Y-%m-%dT%H:%M:%S}", f"{settled:%Y-%m-%dT%H:%M:%S}"
    for record in records:
        key, stamp = hash(record.get("Id")), str(record.get("SystemModstamp"))[:19]
        seen.add(key)
        moved |= stamp >= now
        if stamp >= border:
            recent.add(key)
        else:
            recent.discard(key)
    return moved


def mismatch(name: str, counted: str, received: int) -> CountMismatchError:
    return CountMismatchError(
        f"{name}: Salesforce counted {counted} records and delivered {received:,}; "
        "the cursor stays where it was and the next run reads the window again"
    )


def advanced(progress: Progress, records: Sequence[Mapping[str, Any]], window: Window) -> Progress:
    """The progress after a page: up to its last record that has not changed since the query was asked.

    A page is served with the values of its time: a record that changed meanwhile carries a stamp beyond
    the window, and taking that for progress would skip everything in between.
    """
    for index in range(len(records) - 1, -1, -1):
        stamp, id_ = records[index].get("SystemModstamp"), records[index].get("Id")
        try:
            moment = datetime.fromisoformat(stamp) if isinstance(stamp, str) else None
        except ValueError:
            continue  # the record is rejected further on; it is no landmark
        if moment is None or moment.tzinfo is None or not isinstance(id_, str):
            continue
        if moment <= window.until:
            border = f"{window.settled:%Y-%m-%dT%H:%M:%S}"
            stamps = {
                record.get("Id"): str(record.get("SystemModstamp"))[:19] for record in records[: index + 1]
            }
            settled = sum(stamp < border for stamp in stamps.values())
            received = progress.received + len(stamps)
            return Progress(Key(moment, id_), received, progress.settled + settled)
    return progress


def proved(session: Session, projection: Projection, window: Window, progress: Progress) -> Progress:
    """The progress if nothing is missing before it, else none: the window is read from its beginning."""
    if prefix_is_whole(session, projection, window, progress):
        return progress
    log.warning("progress_discarded", object=projection.sobject.name, received=progress.received)
    return Progress()


def prefix_is_whole(session: Session, projection: Projection, window: Window, progress: Progress) -> bool:
    """Whether Salesforce counts no more settled records up to the progress than came."""
    assert progress.key is not None
    name, key = projection.sobject.name, progress.key
    if key.stamp < window.settled:
        question = soql.count_up_to(name, window.since, key)
    else:
        question = soql.count_before(name, window.since, None, window.settled)
    try:
        return int(session.query(question).body["totalSize"]) <= progress.settled
    except SalesforceError as error:
        if error.status != 400:
            raise
        # A count that this org refuses or cannot finish (QUERY_TIMEOUT) must not undo hours of reading.
        log.warning("progress_unproved", object=projection.sobject.name, reason=str(error)[:200])
        return True


def count(session: Session, name: str, since: datetime | None) -> int:
    """How many records a window holds, deleted ones included."""
    return int(session.query(soql.count(name, since)).body["totalSize"])


def by_id(session: Session, projection: Projection, ids: Sequence[str], now: datetime) -> Iterator[Page]:
    """The records with these Ids, deleted ones included; absent ones are simply not in the pages."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        question = soql.by_id(projection, ids[start : start + IDS_PER_QUERY])
        yield from result_set(session, projection.sobject.name, question, Window(None, now), Progress())
