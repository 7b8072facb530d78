"""Window, progress, page, key: the values that the packages for Postgres and Salesforce share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sync.catalogue.transform import Batch


@dataclass(frozen=True, slots=True)
class Key:
    """A position in the order (SystemModstamp, Id): that of the last record of a committed page."""

    stamp: datetime
    id: str


@dataclass(frozen=True, slots=True)
class Scope:
    """The records to query: changed at or after `since` (None: all), and meeting the SOQL `condition` ("":
    any)."""

    since: datetime | None = None
    condition: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """The range that a pass reads: changes from `since` (None: all) to `until`, a time of Salesforce's clock.

    A record older than `until` minus `overlap` is settled: no open transaction can still commit such a stamp.
    A SOQL `condition` restricts the records.
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
    """How far the committed pages of a window reach, after `received` records.

    REST: up to `key`. Bulk API: all result pages of `job` (the path of its resource) before the one at
    `page_url`, which is "" before the first page and "null" after the last.

    `settled` counts the records older than the overlap before the window's end. Only these counts must match
    later: a transaction may still commit an earlier stamp inside the overlap, and the next pass reads the
    overlap again. `total` is the number of records of the query that these pages belong to, which may have
    changed since (0: nothing can be missing before `key`). `began` is when the job was created, by
    Salesforce's clock.
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
    """Rows of one page, and the progress that committing them makes.

    `received` counts the records so far, `expected` those of the query, `at` is Salesforce's time of the
    answer.
    """

    batch: Batch
    progress: Progress
    received: int
    expected: int
    at: datetime
