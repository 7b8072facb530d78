"""The result pages of a Bulk job: streamed concurrently, row by row, each checked against its own count."""

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
    check_new_url,
    endless_error,
)
from sync.salesforce.prefetch import Source
from sync.salesforce.session.answers import Answer
from sync.salesforce.session.limits import clip
from sync.salesforce.session.session import Session
from sync.window import Progress

log = logger.get(__name__)
T = TypeVar("T")

# Records in one batch; fewer if they have many fields, by the limit of values.
BATCH, VALUES_PER_BATCH = 1_000, 100_000
# Records in a result page: the most that is read again after a crash. Memory holds a batch only.
MAX_RECORDS = 50_000
PARALLEL_SINCE = 58.0  # the API version that has resultPages
EMPTY_BATCH = Batch()
NO_FURTHER_PAGE = "null"  # Salesforce's value for "no further page"

# A text area holds up to 131,072 characters, which equals csv's default limit. All long texts of a record
# hold up to 1.6 million characters together, its other fields less. With doubled quotes a row stays below
# this limit.
LONGEST_CELL, LONGEST_ROW = 1 << 20, 8 << 20
# Characters in one batch: with very wide rows, 1,000 of them would not fit into memory.
BATCH_CHARACTERS = 16 << 20

csv.field_size_limit(LONGEST_CELL)


@dataclass(frozen=True, slots=True)
class ResultPageRef:
    """A result page to read: its `number`, its URL, and the URL of the next page if known in advance."""

    number: int
    url: str
    next_url: str | None


@dataclass(frozen=True, slots=True)
class ResultChunk:
    """A part of a result page: rows, or its end with its counts and the URL of the next page."""

    number: int
    batch: Batch = EMPTY_BATCH
    records: int = 0
    next_url: str | None = None
    count: int = 0
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Results:
    """What the reading of a job's results needs: object, fields, the end of settled stamps, the row
    builder."""

    session: Session
    name: str
    columns: tuple[str, ...]
    border: str
    build_rows: RowBuilder
    records: int  # the number that the job reports
    resumed: bool = False  # whether an earlier run may have created the job

    def check(self, pages: int) -> None:
        """Raise CountMismatchError for more pages than the records can fill: some pages may be short or
        empty."""
        if pages > self.records + EMPTY_PAGES:
            raise endless_error(self.name, f"{pages:,} for {self.records:,} records")


Emit = Callable[[ResultChunk], None]


def page_sources(results: Results, progress: Progress) -> Iterator[Source[ResultChunk]]:
    """Yield a source for each result page to read, or one source for all if each page names the next."""
    assert progress.job is not None
    if progress.page_url == NO_FURTHER_PAGE:
        return
    first = f"{progress.job}/results?maxRecords={MAX_RECORDS}"
    if float(results.session.version) < PARALLEL_SINCE or "maxRecords=" in progress.page_url:
        yield partial(read_in_turn, results, progress.page_url or first)
        return
    try:
        urls = list_result_pages(results, progress.job)
        if progress.page_url:
            urls = dropwhile(lambda url: url != progress.page_url, urls)
        url = next(urls, None)
    except SalesforceError as error:
        if error.status not in (400, 404) or progress.page_url:
            raise
        log.info("bulk_pages_in_turn", object=results.name, reason=str(error)[:200])
        yield partial(read_in_turn, results, first)
        return
    if url is None and progress.page_url:
        raise QueryLostError(f"{results.name}: the job's result pages have changed")
    number = 0
    while url is not None:
        next_url = next(urls, None)
        yield partial(stream_page, results, ResultPageRef(number, url, next_url or NO_FURTHER_PAGE))
        number, url = number + 1, next_url


def list_result_pages(results: Results, job: str) -> Iterator[str]:
    """Yield the URLs of a job's result pages."""
    url, visited, number = f"{job}/resultPages", set[str](), 0
    while url:
        check_new_url(results.name, url, visited)
        answer = results.session.resource("GET", url)
        for page in value_of(answer, "resultPages", list):
            number += 1
            results.check(number)
            yield results.session.path(page.get("resultUrl") if isinstance(page, dict) else page)
        results.check(len(visited))
        # The documentation has two spellings of this key.
        next_url = answer.body.get("nextRecordsUrl") or answer.body.get("nextRecordUrl")
        done = answer.body.get("done", not next_url) or not next_url
        url = "" if done else results.session.path(next_url)


def read_in_turn(results: Results, url: str, emit: Emit) -> None:
    """Read all result pages from a URL on, each named by the one before."""
    number, visited = 0, set[str]()
    while url != NO_FURTHER_PAGE:
        check_new_url(results.name, url, visited)
        results.check(number)
        url = stream_page(results, ResultPageRef(number, url, None), emit)
        number += 1


def stream_page(results: Results, page: ResultPageRef, emit: Emit) -> str:
    """Emit one result page while it arrives; return the URL of the next. After a failure it starts again."""
    try:
        end = results.session.stream(
            page.url, lambda headers, lines: read_page(results, page, emit, headers, lines)
        )
    except SalesforceError as error:
        if error.status != 200:
            raise
        # All attempts returned an inconsistent page: the job's result cannot be used.
        raise CountMismatchError(f"{results.name}: a result page is inconsistent: {error}") from None
    emit(end)
    return end.next_url or NO_FURTHER_PAGE


def read_page(
    results: Results, page: ResultPageRef, emit: Emit, headers: Mapping[str, str], lines: TextIO
) -> ResultChunk:
    """Emit a page's records in batches; return its end. Raises ValueError for an inconsistent page."""
    announced, locator = (
        required_header(headers, "Sforce-NumberOfRecords"),
        required_header(headers, "Sforce-Locator"),
    )
    size = max(1, min(BATCH, VALUES_PER_BATCH // len(results.columns)))
    table, stamp, received, settled = Table(lines), results.columns.index("SystemModstamp"), 0, 0
    lossy = not (getattr(lines, "encoding", None) or "utf-8").lower().startswith("utf")
    try:
        order = column_order(results.columns, table.header(), resumed=results.resumed)
        while batch := table.batch(size):
            if {*map(len, batch)} != {len(results.columns)}:
                raise ValueError("a row has more or fewer cells than the header")
            if lossy and any("?" in cell for row in batch for cell in row):
                raise BulkRefusedError(
                    f"{results.name}: a result page in {lines.encoding} has question marks, which may "
                    "replace characters that this encoding lacks"
                )
            records = batch if order is None else list(map(order, batch))
            received += len(records)
            settled += sum(record[stamp] < results.border for record in records)
            if received > results.records:
                raise ValueError(f"it has more than the {results.records:,} records that the job found")
            emit(ResultChunk(page.number, build_batch(results, records), len(records)))
            del batch, records
    except csv.Error as error:
        raise ValueError(f"invalid CSV: {error}") from None
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":  # truncated within a character
            raise
        raise BulkRefusedError(f"{results.name}: a result page is not valid {error.encoding}") from None
    if str(received) != announced:
        raise ValueError(f"the page says {clip(announced, 40)} records and holds {received:,}")
    next_url = page.next_url
    if next_url is None:
        base, more = page.url.split("?")[0], urlencode({"locator": locator, "maxRecords": MAX_RECORDS})
        next_url = NO_FURTHER_PAGE if locator == NO_FURTHER_PAGE else f"{base}?{more}"
    return ResultChunk(page.number, next_url=next_url, count=received, settled=settled)


class Table:
    """A CSV body, read batch by batch; raises ValueError for a row longer than LONGEST_ROW."""

    def __init__(self, lines: TextIO) -> None:
        self.lines, self.characters = lines, 0
        self.rows = csv.reader(self.bounded(), strict=True)

    def bounded(self) -> Iterator[str]:
        """Yield the lines; a row may have several lines, and a line may lack its end."""
        while line := self.lines.readline(LONGEST_ROW + 1):
            self.characters += len(line)
            if self.characters > LONGEST_ROW:
                raise ValueError(f"a row of more than {LONGEST_ROW:,} characters")
            yield line

    def header(self) -> list[str]:
        """Return the header row."""
        found = next(self.rows, [])
        self.characters = 0
        return found

    def batch(self, most: int) -> list[list[str]]:
        """Return up to `most` further rows; none at the end."""
        batch: list[list[str]] = []
        held = 0
        for row in self.rows:
            batch.append(row)
            held, self.characters = held + self.characters, 0
            if len(batch) == most or held > BATCH_CHARACTERS:
                break
        return batch


def build_batch(results: Results, records: Sequence[Record]) -> Batch:
    """Build rows; turn a ValueError into RuntimeError, so that a bug of ours does not repeat the request."""
    try:
        return results.build_rows(records)
    except ValueError as error:
        raise RuntimeError(f"{results.name}: {error}") from error


def text_value(value: object) -> str:
    """Return a text; raise ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{clip(ascii(value), 40)} is not a text")
    return value


def required_header(headers: Mapping[str, str], name: str) -> str:
    """Return a header that a result page must have: without it, a truncated page cannot be detected."""
    value = headers.get(name)
    if value is None:
        raise SalesforceError(f"a Bulk result came without its header {name}; a proxy may remove it")
    return value


def column_order(
    columns: Sequence[str], found: Sequence[str], *, resumed: bool
) -> Callable[[Sequence[str]], Record] | None:
    """Return a function that brings a row into the order of `columns` (None: it already has that order).

    Raises QueryLostError for a resumed job that was created with other fields.
    """
    if found and found[0].startswith("\ufeff"):
        found = [found[0].strip('\ufeff"'), *found[1:]]
    if tuple(found) == tuple(columns):
        return None
    if sorted(found) != sorted(columns):
        if resumed:
            raise QueryLostError("the resumed job was created with other columns")
        raise ValueError(f"its columns are {','.join(found)[:200]!r}")
    return itemgetter(*(list(found).index(name) for name in columns))


def value_of(answer: Answer, key: str, read: Callable[[Any], T]) -> T:
    """Return a value of an answer about a job; raise SalesforceError if it is missing or malformed."""
    try:
        return read(answer.body[key])
    except (LookupError, TypeError, ValueError) as error:
        why = clip(repr(error), 200)
        raise SalesforceError(f"an answer about a Bulk job has no readable {key}: {why}") from None
