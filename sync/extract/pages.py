"""What extraction gives, whichever way it came: a window's records in pages, and how far they reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sync.errors import CountMismatchError, QueryLostError
from sync.soql import Key, Scope
from sync.transform import Batch, Record

# What is made of records as soon as they have come, in the thread they came in.
Make = Callable[[Sequence[Record]], Batch]

# A page may be short or empty. So many in a row without a record lead nowhere.
EMPTY_PAGES = 20

SECOND = "%Y-%m-%dT%H:%M:%S"  # how a stamp begins: as texts they compare like moments, in UTC


@dataclass(frozen=True, slots=True)
class Window:
    """What a pass reads: everything changed since `since` (None: ever), as of `until`, Salesforce's clock.

    What is older than `overlap` before `until` is settled: no transaction commits there any more. With a
    `condition` only those records that meet it.
    """

    since: datetime | None
    until: datetime
    overlap: timedelta = timedelta(minutes=10)
    condition: str = ""

    @property
    def scope(self) -> Scope:
        return Scope(self.since, self.condition)

    @property
    def settled(self) -> datetime:
        return self.until - self.overlap


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a window's committed pages reach, after `received` records.

    By REST up to `key`; by Bulk API all of the result pages of `job` (its resource's path) before the one at
    `page_url`, which is empty before the first and "null" after the last. `settled` counts the records older
    than the overlap before the window's end. Only they have to add up later: behind them a transaction may
    still commit an earlier stamp, and the next pass reads all of that again. `total`: how many records the
    query had whose further pages these are, which may have shifted since; 0 where nothing can be missing
    before `key`. `began`: when the job was made, by Salesforce's clock.
    """

    key: Key | None = None
    job: str | None = None
    page_url: str = ""
    received: int = 0
    settled: int = 0
    began: datetime | None = None
    total: int = 0

    @property
    def started(self) -> bool:
        return self.key is not None or self.job is not None


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, what their commit means for the progress, how many came and are to come, Salesforce's time."""

    batch: Batch
    progress: Progress
    received: int
    expected: int
    at: datetime


def visit(name: str, url: str, visited: set[str]) -> None:
    """QueryLostError for a page asked for before: a server or a cache between would lead us in circles."""
    if url in visited:
        raise QueryLostError(f"{name}: Salesforce names the same page again and again")
    visited.add(url)


def endless(name: str, what: str) -> CountMismatchError:
    return CountMismatchError(
        f"{name}: Salesforce names page after page, {what}; "
        "the cursor stays where it was and the next run reads the window again"
    )


def mismatch(name: str, counted: str, received: int) -> CountMismatchError:
    return CountMismatchError(
        f"{name}: Salesforce counted {counted} records and delivered {received:,}; "
        "the cursor stays where it was and the next run reads the window again"
    )
