"""Window → pages: every record of a window once, counted against Salesforce's own count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sync import logs, soql
from sync.errors import CountMismatchError, QueryLostError, SalesforceError
from sync.mapping import Projection
from sync.session import Answer, Session
from sync.soql import Key

log = logs.get(__name__)

IDS_PER_QUERY = 200  # 25 bytes each: far below the 16,384 bytes a URL may have
RESTARTS = 3
LONGEST_QUERY = 15_000  # bytes after escaping; a URL with its headers may have 16,384


@dataclass(frozen=True, slots=True)
class Window:
    """What a pass reads: everything changed since `since` (None: ever), as of `until`, Salesforce's clock."""

    since: datetime | None
    until: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a window's committed pages reach: up to `key`, after `received` distinct records."""

    key: Key | None = None
    received: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Raw records, the progress that their commit means, and how many the whole pass expects."""

    records: Sequence[Mapping[str, Any]]
    progress: Progress
    expected: int


def pages(session: Session, projection: Projection, window: Window, start: Progress) -> Iterator[Page]:
    """All pages of a window from `start` on; each is committed by the caller before the next is asked for.

    When Salesforce loses the result set (re-login, expired locator) the query is asked again from the last
    page's key. CountMismatchError when fewer or more distinct records came than Salesforce counted.
    """
    progress, restarts = start, 0
    while True:
        if progress.key is not None and not prefix_is_whole(session, projection, window, progress):
            log.warning("progress_discarded", object=projection.sobject.name, received=progress.received)
            progress = Progress()
        try:
            for page in result_set(session, projection, window, progress):
                reached = page.progress
                yield page
                del page  # not two pages in memory while the next is on its way
                if reached != progress:
                    restarts = 0
                progress = reached
            return
        except QueryLostError as lost:
            restarts += 1
            if restarts > RESTARTS:
                raise
            log.warning("query_restarted", object=projection.sobject.name, reason=str(lost)[:200])


def result_set(
    session: Session, projection: Projection, window: Window, progress: Progress
) -> Iterator[Page]:
    """The pages of one query, followed by `done`, never by counting: any page may be short or empty."""
    answer = session.query(soql.select(projection, window.since, progress.key))
    total = int(answer.body["totalSize"])
    expected = progress.received + total
    seen: set[int] = set()
    visited: set[str] = set()
    while True:
        records = answer.body["records"]
        seen.update(hash(record.get("Id")) for record in records)
        progress = advanced(progress, records, window)
        url = answer.body.get("nextRecordsUrl")
        done = answer.body.get("done", url is None) or not url
        del answer
        yield Page(records, progress, expected)
        del records
        if done:
            break
        if url in visited:
            raise QueryLostError(f"{projection.sobject.name}: Salesforce sends the same page again and again")
        visited.add(url)
        answer = session.next_page(url)
    if len(seen) != total:
        raise CountMismatchError(
            f"{projection.sobject.name}: Salesforce counted {total:,} records and delivered {len(seen):,}; "
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
            return Progress(Key(moment, id_), progress.received + index + 1)
    return progress


def prefix_is_whole(session: Session, projection: Projection, window: Window, progress: Progress) -> bool:
    """Whether Salesforce counts no more records up to the progress than came: a resumed query cannot tell."""
    assert progress.key is not None
    question = soql.count_up_to(projection.sobject.name, window.since, progress.key)
    try:
        return int(session.query(question).body["totalSize"]) <= progress.received
    except SalesforceError as error:
        log.warning("progress_unproved", object=projection.sobject.name, reason=str(error)[:200])
        return False


def count(session: Session, name: str, since: datetime | None) -> int:
    """How many records a window holds, deleted ones included."""
    return int(session.query(soql.count(name, since)).body["totalSize"])


def by_id(session: Session, projection: Projection, ids: Sequence[str]) -> Iterator[Page]:
    """The records with these Ids, deleted ones included; absent ones are simply not in the pages."""
    for start in range(0, len(ids), IDS_PER_QUERY):
        chunk = ids[start : start + IDS_PER_QUERY]
        answer: Answer = session.query(soql.by_id(projection, chunk))
        while True:
            yield Page(answer.body["records"], Progress(), len(ids))
            url = answer.body.get("nextRecordsUrl")
            if not url:
                break
            answer = session.next_page(url)
