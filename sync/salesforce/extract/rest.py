"""Read a window by REST: pages in key order, resumable after any record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sync.catalogue.mapping import Projection
from sync.catalogue.transform import Record
from sync.errors import QueryLostError, SalesforceError
from sync.logs import logger
from sync.salesforce import soql
from sync.salesforce.extract.pages import (
    EMPTY_PAGES,
    STAMP_FORMAT,
    RowBuilder,
    check_new_url,
    endless_error,
    mismatch_error,
)
from sync.salesforce.prefetch import as_source, prefetch
from sync.salesforce.session.answers import Answer
from sync.salesforce.session.limits import RECORDS_PER_PAGE, clip
from sync.salesforce.session.session import Session
from sync.window import Key, Page, Progress, Window

log = logger.get(__name__)

RESTARTS = 3
TEXT = {str, type(None)}


def pages(
    session: Session,
    projection: Projection,
    window: Window,
    start: Progress,
    build_rows: RowBuilder,
    *,
    stepwise: bool = False,
    first: Answer | None = None,
    ahead: bool = True,
) -> Iterator[Page]:
    """Yield all pages of a window from `start` on; `first` is the answer to its first query, if already
    known.

    The pages of a query locator need not be a snapshot: a record that changes or is purged between two pages
    shifts the others, and counts taken at different times do not show what was skipped. Their progress is
    therefore resumed only if the window is unchanged. If records moved (a late commit may have compensated
    for it), or Salesforce lost the result set (re-login, expired locator), the rest is read stepwise: each
    page is the first of a new query after the key of the last page, which nothing can shift.
    Raises CountMismatchError if Salesforce counts more records than arrived.
    """
    name, proven, restarts = projection.sobject.name, start, 0
    if start.key is not None:
        proven, stepwise = checked_progress(session, projection, window, start), True
    while True:
        begin = latest = proven
        try:
            question = soql.select(projection, window.scope, begin.key)
            answer, first = first or session.query(question, projection.names), None
            stepwise = stepwise or starts_in_overlap(projection, answer, window)
            census, several = Census.start(answer, window), False
            total = 0 if stepwise else int(answer.body["totalSize"])
            eager = ahead and not stepwise
            found = read_result_set(
                session, projection, answer, window, begin, build_rows, census, eager=eager
            )
            for page, last in found:
                # Late commits have stamps inside the overlap: for those records the order of arrival is
                # unknown.
                moved = several and not stepwise and (census.has_unsettled or bool(census.moved))
                latest = replace(page.progress, total=total if several else 0)
                if not several:
                    proven = latest
                yield replace(page, progress=latest)
                del page  # do not hold it in memory while the next is fetched
                if moved:
                    log.info("pages_moved", object=name, instead="stepwise")
                    stepwise = True
                    break
                if stepwise and proven.key != begin.key and not last:
                    break
                several = True
            else:
                break
        except QueryLostError as lost:
            restarts = 0 if proven.received > begin.received else restarts + 1
            if restarts > RESTARTS:
                raise
            log.warning("query_restarted", object=name, reason=str(lost)[:200])
            stepwise = True
            if latest.total and is_unchanged(session, name, window, latest):
                proven = replace(latest, total=0)
    if stepwise and proven.key is not None and not prefix_is_whole(session, projection, window, proven):
        raise mismatch_error(name, "more", proven.settled)


def follow_pages(session: Session, projection: Projection, answer: Answer) -> Iterator[Answer]:
    """Yield the answers of one query, following `done` and not a count: any page may be short or empty."""
    visited: set[str] = set()
    name, total = projection.sobject.name, int(answer.body["totalSize"])
    received = empty = 0
    while True:
        records = len(answer.body["records"])
        received, empty = received + records, 0 if records else empty + 1
        url, generation = answer.body.get("nextRecordsUrl"), answer.generation
        done = bool(answer.body.get("done", url is None)) or not url
        yield answer
        del answer
        if done:
            return
        if empty > EMPTY_PAGES:
            raise endless_error(name, f"{EMPTY_PAGES} of them without a record")
        # Records that change meanwhile may come twice, but not a whole result set.
        if received > 2 * total + RECORDS_PER_PAGE:
            raise endless_error(name, f"with {received:,} records so far, although it counted {total:,}")
        check_new_url(name, url, visited)
        answer = session.next_page(url, generation, projection.names)


def read_result_set(
    session: Session,
    projection: Projection,
    answer: Answer,
    window: Window,
    start: Progress,
    build_rows: RowBuilder,
    census: Census,
    *,
    eager: bool,
) -> Iterator[tuple[Page, bool]]:
    """Yield the pages of one query in key order, each with whether it is the last; then check their count."""
    name, total = projection.sobject.name, int(answer.body["totalSize"])
    progress = start
    fetched = follow_pages(session, projection, answer)
    if eager:  # fetch a page while another is turned into rows
        fetched = prefetch([as_source(fetched)], session.stop, depth=1)
    del answer
    for page in fetched:
        ids, stamps = ids_and_stamps(projection, page.body["records"])
        census.note(ids, stamps)
        progress = Progress(
            last_unchanged_key(ids, stamps, window) or progress.key,
            received=start.received + census.in_window,
            settled=start.settled + census.settled,
        )
        rows, at = to_texts(page.body.pop("records")), page.at
        last = bool(page.body.get("done", True)) or not page.body.get("nextRecordsUrl")
        del page, ids, stamps
        batch = build_rows(rows)
        del rows
        yield Page(batch, progress, progress.received, start.received + total, at), last
        del batch
    if census.distinct < total or (census.distinct > total and not census.moved):
        raise mismatch_error(name, f"{total:,}", census.distinct)


@dataclass(slots=True)
class Census:
    """Counts the distinct records of a result set in constant memory, since they arrive in stamp order.

    A stamp at or after `began` means that the record changed after the query began: it may arrive at its old
    position and again at the end. Those few are kept by Id. So are records without a valid stamp, which are
    rejected later but counted here.
    """

    began: str
    until: str
    border: str
    received: int = 0
    in_window: int = 0
    top: str = ""
    at_top: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    unstamped: set[str] = field(default_factory=set)
    settled: int = 0

    @classmethod
    def start(cls, answer: Answer, window: Window) -> Census:
        """Return an empty census for the result set that an answer begins."""
        return cls(
            f"{answer.at:{STAMP_FORMAT}}",
            f"{window.until:{STAMP_FORMAT}}",
            f"{window.settled:{STAMP_FORMAT}}",
        )

    def note(self, ids: Sequence[Any], stamps: Sequence[Any]) -> None:
        """Count the records of a page."""
        for id_, stamp in zip(ids, stamps, strict=True):
            second = stamp[:19] if isinstance(stamp, str) else ""
            if not second[:1].isdigit():
                self.unstamped.add(str(id_))
                continue
            if second >= self.began:
                self.moved.add(str(id_))
                continue
            if second != self.top:
                if second < self.top:
                    continue  # a record that arrived before
                self.top = second
                self.at_top.clear()
            if id_ not in self.at_top:
                self.at_top.add(id_)
                self.received += 1
                self.in_window += second <= self.until
                self.settled += second < self.border

    @property
    def has_unsettled(self) -> bool:
        """Whether records arrived whose stamps are inside the overlap, where transactions may still
        commit."""
        return self.received > self.settled

    @property
    def distinct(self) -> int:
        return self.received + len(self.moved) + len(self.unstamped)


def ids_and_stamps(projection: Projection, records: Sequence[Sequence[Any]]) -> tuple[list[Any], list[Any]]:
    """Return the Ids and the stamps of a page."""
    id_, stamp = projection.names.index("Id"), projection.names.index("SystemModstamp")
    # A record whose Id is not a text is rejected later, but counted here.
    ids = [
        record[id_] if isinstance(record[id_], str) else clip(repr(record[id_]), 100) for record in records
    ]
    return ids, [record[stamp] for record in records]


def starts_in_overlap(projection: Projection, answer: Answer, window: Window) -> bool:
    """Return whether all records after a first page are inside the overlap: its further pages are then not
    read."""
    if answer.body.get("done", True):
        return False
    border = f"{window.settled:{STAMP_FORMAT}}"
    _, stamps = ids_and_stamps(projection, answer.body["records"])
    return any(isinstance(stamp, str) and stamp[:19] >= border for stamp in stamps)


def last_unchanged_key(ids: Sequence[Any], stamps: Sequence[Any], window: Window) -> Key | None:
    """Return the key of a page's last record that has not changed since the query began.

    A page shows the values at the time it is sent: a record that changed meanwhile has a stamp beyond the
    window, and using it as progress would skip all records in between.
    """
    for id_, stamp in zip(reversed(ids), reversed(stamps), strict=True):
        try:
            moment = datetime.fromisoformat(stamp) if isinstance(stamp, str) else None
        except ValueError:
            continue  # the record is rejected later; its stamp is no position
        if is_key(id_) and moment is not None and moment.tzinfo and moment <= window.until:
            return Key(moment, id_)
    return None


def is_key(id_: object) -> bool:
    """Return whether a value can be the Id of a key; also used for values stored in the database."""
    return isinstance(id_, str) and id_.isascii() and id_.isalnum() and len(id_) <= 18


def to_texts(records: Sequence[Sequence[Any]]) -> list[Record]:
    """Turn JSON values into `Record`s with the texts that the Bulk API writes."""
    columns = [
        [value or "" for value in column]
        if TEXT.issuperset(map(type, column))
        else [as_text(value) for value in column]
        for column in zip(*records, strict=True)
    ]
    return list(zip(*columns, strict=True))


def as_text(value: Any) -> Any:
    """Return the text of a scalar; objects and lists are returned as they are (no field that is read holds
    one)."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str | dict | list) else str(value)


def checked_progress(
    session: Session, projection: Projection, window: Window, progress: Progress
) -> Progress:
    """Return the progress if no record before it is missing, else an empty one, which restarts the window."""
    name = projection.sobject.name
    if (
        is_unchanged(session, name, window, progress)
        if progress.total
        else prefix_is_whole(session, projection, window, progress)
    ):
        return replace(progress, total=0)
    log.warning("progress_discarded", object=name, received=progress.received)
    return Progress()


def is_unchanged(session: Session, name: str, window: Window, progress: Progress) -> bool:
    """Return whether a window still has all records that it had at its first page, with none of them changed.

    Only the count of settled records proves this: inside the overlap a late commit may replace a record that
    left.
    """
    before = soql.count_before(name, window.scope, None, window.settled)
    return count_or_zero(session, name, before) == progress.total


def prefix_is_whole(session: Session, projection: Projection, window: Window, progress: Progress) -> bool:
    """Return whether Salesforce counts no more settled records before the progress than arrived."""
    assert progress.key is not None
    name, key = projection.sobject.name, progress.key
    if key.stamp < window.settled:
        return count_or_zero(session, name, soql.count_up_to(name, window.scope, key)) <= progress.settled
    return (
        count_or_zero(session, name, soql.count_before(name, window.scope, None, window.settled))
        <= progress.settled
    )


def count_or_zero(session: Session, name: str, question: str) -> int:
    """Return the result of a COUNT(); 0 if this org refuses it or does not finish it (QUERY_TIMEOUT).

    A failed count must not discard hours of reading.
    """
    try:
        return int(session.query(question).body["totalSize"])
    except SalesforceError as error:
        if error.status != 400:
            raise
        log.warning("progress_unproved", object=name, reason=str(error)[:200])
        return 0


def by_id(
    session: Session, projection: Projection, ids: Sequence[str], per_query: int, build_rows: RowBuilder
) -> Iterator[Page]:
    """Yield the records with these Ids, including deleted ones; absent ones are missing in the pages."""
    name = projection.sobject.name
    for start in range(0, len(ids), per_query):
        answer = session.query(soql.by_id(projection, ids[start : start + per_query]), projection.names)
        total, seen = int(answer.body["totalSize"]), set[Any]()
        for page in follow_pages(session, projection, answer):
            records = page.body["records"]
            seen.update(ids_and_stamps(projection, records)[0])
            yield Page(build_rows(to_texts(records)), Progress(), start + len(seen), len(ids), page.at)
        if len(seen) != total:
            raise mismatch_error(name, f"{total:,}", len(seen))
