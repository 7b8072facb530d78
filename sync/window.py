"""Window, progress, page, key: what both sides of the replication talk about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sync.catalogue.transform import Batch


@dataclass(frozen=True, slots=True)
class Key:
    """A place in the order (SystemModstamp, Id): the last record of a committed page."""

    stamp: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Scope:
    """Which records: those changed since `since` (None: ever), of those that meet `condition`, if any."""

    since: datetime | None = None
    condition: str = ""


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
