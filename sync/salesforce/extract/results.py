"""The result pages of a Bulk job: streamed side by side, row by row, each compared with its own count."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile
from operator import itemgetter
from typing import Any, TextIO, TypeVar
from urllib.parse import urlencode

from sync.catalogue.transform import Batch, Record
from sync.errors import (
    BulkRefusedError,
    CountMismatchError,
    QueryLostError,
    SalesforceError,
)
from sync.logs import logger
from sync.salesforce.extract.pages import (
    EMPTY_PAGES,
    RowBuilder,
    endless,
    visit,
)
from sync.salesforce.prefetch import Source
from sync.salesforce.session.answers import Answer
from sync.salesforce.session.limits import clip
from sync.salesforce.session.session import Session
from sync.window import Progress

log = logger.get(__name__)
T = TypeVar("T")

# Records handed on at once, and fewer where they have many fields: no more values than this.
BATCH, VALUES_PER_BATCH = 1_000, 100_000
# Records in a result page where we may choose: what a killed process reads again, not what is held in memory.
MAX_RECORDS = 50_000
PARALLEL_SINCE = 58.0  # the API version that has resultPages
NOTHING = Batch()
NO_MORE = "null"  # Salesforce's word for "there is no further page"

# A text area holds 131,072 characters, which is csv's own limit and too close; all the long texts of a record
# together 1.6 million, and its other fields less: a row has no more than this, its quotes doubled.
LONGEST_CELL, LONGEST_ROW = 1 << 20, 8 << 20
# Characters handed on at once, where rows are so wide that a whole batch would not fit into memory.
BATCH_CHARACTERS = 16 << 20

csv.field_size_limit(LONGEST_CELL)


@dataclass(frozen=True, slots=True)
class ResultPageRef:
    """Result page `number` of those still to read, its URL, and the next one's where that is known before."""

    number: int
    url: str
    following: str | None


@dataclass(frozen=True, slots=True)
class ResultChunk:
    """A piece of a result page: rows, or its end with its counts and the URL of the next page."""

    number: int
    batch: Batch = NOTHING
    records: int = 0
    following: str | None = None
    count: int = 0
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Results:
    """Whose results are read: the object, its fields, where settled stamps end, what to make, how many."""

    session: Session
    name: str
    columns: tuple[str, ...]
    border: str
    build_rows: RowBuilder
    records: int  # that the job found
    resumed: bool = False  # whether another process may have made it

    def check(self, pages: int) -> None:
        """CountMismatchError for more pages than the records may come in: any may be short, some empty."""
        if pages > self.records + EMPTY_PAGES:
            raise endless(self.name, f"{pages:,} for {self.records:,} records")


Emit = Callable[[ResultChunk], None]


def result_pages(of: Results, progress: Progress) -> Iterator[Source[ResultChunk]]:
    """A source for each result page still to read, or one for all where each page names the next."""
    assert progress.job is not None
    if progress.page_url == NO_MORE:
        return
    first = f"{progress.job}/results?maxRecords={MAX_RECORDS}"
    if float(of.session.version) < PARALLEL_SINCE or "maxRecords=" in progress.page_url:
        yield partial(read_in_turn, of, progress.page_url or first)
        return
    try:
        urls = list_result_pages(of, progress.job)
        if progress.page_url:
            urls = dropwhile(lambda url: url != progress.page_url, urls)
        this = next(urls, None)
    except SalesforceError as error:
        if error.status not in (400, 404) or progress.page_url:
            raise
        log.info("bulk_pages_in_turn", object=of.name, reason=str(error)[:200])
        yield partial(read_in_turn, of, first)
        return
    if this is None and progress.page_url:
        raise QueryLostError(f"{of.name}: the job's result pages are others now")
    number = 0
    while this is not None:
        following = next(urls, None)
        yield partial(result_page, of, ResultPageRef(number, this, following or NO_MORE))
        number, this = number + 1, following


def list_result_pages(of: Results, job: str) -> Iterator[str]:
    """The URLs of a job's result pages."""
    url, visited, number = f"{job}/resultPages", set[str](), 0
    while url:
        visit(of.name, url, visited)
        answer = of.session.resource("GET", url)
        for page in value_of(answer, "resultPages", list):
            number += 1
            of.check(number)
            yield of.session.path(page.get("resultUrl") if isinstance(page, dict) else page)
        of.check(len(visited))
        # The documentation spells this key in two ways.
        following = answer.body.get("nextRecordsUrl") or answer.body.get("nextRecordUrl")
        done = answer.body.get("done", not following) or not following
        url = "" if done else of.session.path(following)


def read_in_turn(of: Results, url: str, emit: Emit) -> None:
    """All result pages from one on, each named by the one before."""
    number, visited = 0, set[str]()
    while url != NO_MORE:
        visit(of.name, url, visited)
        of.check(number)
        url = result_page(of, ResultPageRef(number, url, None), emit)
        number += 1


def result_page(of: Results, address: ResultPageRef, emit: Emit) -> str:
    """Give one result page as it arrives; the URL of the next. After a failure it is given from its start."""
    try:
        end = of.session.stream(address.url, lambda headers, lines: read(of, address, emit, headers, lines))
    except SalesforceError as error:
        if error.status != 200:
            raise
        # Asked for again and again, it never was what it says it is: its job is not to be trusted.
        raise CountMismatchError(f"{of.name}: a result page does not add up: {error}") from None
    emit(end)
    return end.following or NO_MORE


def read(
    of: Results, address: ResultPageRef, emit: Emit, headers: Mapping[str, str], lines: TextIO
) -> ResultChunk:
    """Give a page's records batch by batch; its end. ValueError for a page that is not what it says it is."""
    said, locator = header(headers, "Sforce-NumberOfRecords"), header(headers, "Sforce-Locator")
    most = max(1, min(BATCH, VALUES_PER_BATCH // len(of.columns)))
    table, stamp, came, settled = Table(lines), of.columns.index("SystemModstamp"), 0, 0
    lossy = not (getattr(lines, "encoding", None) or "utf-8").lower().startswith("utf")
    try:
        order = places(of.columns, table.header(), resumed=of.resumed)
        while batch := table.batch(most):
            if {*map(len, batch)} != {len(of.columns)}:
                raise ValueError("a row has more or fewer cells than the header")
            if lossy and any("?" in cell for row in batch for cell in row):
                raise BulkRefusedError(
                    f"{of.name}: a result page in {lines.encoding} has question marks, which may stand for "
                    "characters that it cannot hold"
                )
            records = batch if order is None else list(map(order, batch))
            came += len(records)
            settled += sum(record[stamp] < of.border for record in records)
            if came > of.records:
                raise ValueError(f"it has more than the {of.records:,} records that the job found")
            emit(ResultChunk(address.number, build_batch(of, records), len(records)))
            del batch, records
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from None
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":  # cut off within a character
            raise
        raise BulkRefusedError(f"{of.name}: the text of a result page is no {error.encoding}") from None
    if str(came) != said:
        raise ValueError(f"the page says {clip(said, 40)} records and holds {came:,}")
    following = address.following
    if following is None:
        base, more = address.url.split("?")[0], urlencode({"locator": locator, "maxRecords": MAX_RECORDS})
        following = NO_MORE if locator == NO_MORE else f"{base}?{more}"
    return ResultChunk(address.number, following=following, count=came, settled=settled)


class Table:
    """A CSV body of which no more than a batch is in memory; ValueError for a row without end."""

    def __init__(self, lines: TextIO) -> None:
        self.lines, self.characters = lines, 0
        self.rows = csv.reader(self.bounded(), strict=True)

    def bounded(self) -> Iterator[str]:
        """The lines; a row may have several, and a line need not have an end."""
        while line := self.lines.readline(LONGEST_ROW + 1):
            self.characters += len(line)
            if self.characters > LONGEST_ROW:
                raise ValueError(f"a row of more than {LONGEST_ROW:,} characters")
            yield line

    def header(self) -> list[str]:
        found = next(self.rows, [])
        self.characters = 0
        return found

    def batch(self, most: int) -> list[list[str]]:
        """The next rows, at most so many; none at the end."""
        batch: list[list[str]] = []
        held = 0
        for row in self.rows:
            batch.append(row)
            held, self.characters = held + self.characters, 0
            if len(batch) == most or held > BATCH_CHARACTERS:
                break
        return batch


def build_batch(of: Results, records: Sequence[Record]) -> Batch:
    """The rows; an error in making them is ours, and no reason to ask for the page again."""
    try:
        return of.build_rows(records)
    except ValueError as error:
        raise RuntimeError(f"{of.name}: {error}") from error


def a_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{clip(ascii(value), 40)} is no text")
    return value


def header(headers: Mapping[str, str], name: str) -> str:
    """A header that a result page must have: without it nobody knows whether all of it came."""
    value = headers.get(name)
    if value is None:
        raise SalesforceError(f"a Bulk result came without its header {name}; a proxy may remove it")
    return value


def places(
    columns: Sequence[str], found: Sequence[str], *, resumed: bool
) -> Callable[[Sequence[str]], Record] | None:
    """How to bring a row into the order of `columns`; None where it is in it.

    QueryLostError for a job of before that was made with other parts of the fields.
    """
    if found and found[0].startswith("\ufeff"):
        found = [found[0].strip('\ufeff"'), *found[1:]]
    if tuple(found) == tuple(columns):
        return None
    if sorted(found) != sorted(columns):
        if resumed:
            raise QueryLostError("the job of before was made with other columns")
        raise ValueError(f"its columns are {','.join(found)[:200]!r}")
    return itemgetter(*(list(found).index(name) for name in columns))


def value_of(answer: Answer, key: str, read: Callable[[Any], T]) -> T:
    """A value of a job's answer; SalesforceError where it is not there or not what it should be."""
    try:
        return read(answer.body[key])
    except (LookupError, TypeError, ValueError) as error:
        why = clip(repr(error), 200)
        raise SalesforceError(f"an answer about a Bulk job has no readable {key}: {why}") from None
