"""Buckets of records, by number and stamps, compared between org and table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import text

from sync.catalogue.mapping import snake_case
from sync.errors import SalesforceError
from sync.logs import logger
from sync.postgres.tables import (
    LISTING,
    REPLICA,
    qualified_name,
    quote,
)
from sync.replication.verify.work import Verification, long_read
from sync.salesforce import soql
from sync.salesforce.session.answers import parse_time
from sync.salesforce.session.limits import clip, count

log = logger.get(__name__)

FINER = {"month": "day", "day": "hour"}
LARGE = 50_000  # records; a larger bucket is split into finer ones
MOST_GROUPS = 1_500  # groups of one query; Salesforce returns at most 2,000
BEGINNING = datetime(1990, 1, 1, tzinfo=UTC)
# Erased records that a query leaves out by Id. With more of them the URL would be too long: their buckets
# then differ and are listed in each verify.
MAX_EXCLUDED_IDS = 300
SHORTEST_RANGE = timedelta(days=31)  # a shorter range that exceeds Salesforce's limits is listed
# Refused queries, each of which may take minutes, after which everything is listed.
MOST_REFUSALS = 12
# Errors of a query that exceeds a limit, in contrast to one that is wrong.
LIMIT_ERRORS = frozenset(
    {"QUERY_TIMEOUT", "OPERATION_TOO_LARGE", "EXCEEDED_ID_LIMIT", "QUERY_TOO_COMPLICATED"}
)

TABLE_BUCKETS = """
SELECT date_trunc(:part, {column} AT TIME ZONE 'UTC') AS bucket, count(*) AS n,
       min(system_modstamp) AS earliest, max(system_modstamp) AS latest
  FROM {table} AS t
 WHERE deleted_at IS NULL AND system_modstamp < :border AND {column} >= :start AND {column} < :end
   AND NOT EXISTS (SELECT FROM {listing} AS l WHERE l.record_id = t.id
                      AND l.system_modstamp >= :border)
 GROUP BY 1
"""

Bucket = tuple[int, datetime, datetime]


class TooMuchError(Exception):
    """Salesforce has refused too many groupings; this error stays inside the module."""


@dataclass(frozen=True, slots=True)
class Range:
    """A half-open range of a datetime field: from `start` to before `end` (None: unbounded)."""

    field: str
    start: datetime | None
    end: datetime | None

    def condition(self, border: datetime) -> str:
        """Return the range as a SOQL condition, restricted to records changed before `border`."""
        terms = [f"SystemModstamp < {soql.datetime_literal(border)}"]
        if self.start is not None:
            terms.append(f"{self.field} >= {soql.datetime_literal(self.start)}")
        if self.end is not None:
            terms.append(f"{self.field} < {soql.datetime_literal(self.end)}")
        return " AND ".join(terms)

    def sql(self, number: int) -> str:
        """Return the range as an SQL condition; `number` makes its parameters distinct."""
        column = quote(snake_case(self.field))
        lower = f"{column} >= :start{number}" if self.start is not None else "true"
        upper = f"{column} < :end{number}" if self.end is not None else "true"
        return f"({lower} AND {upper})"

    def values(self, number: int) -> dict[str, object]:
        """Return the parameters of `sql`."""
        known = {f"start{number}": self.start, f"end{number}": self.end}
        return {name: value for name, value in known.items() if value is not None}

    def halves(self) -> tuple[Range, Range]:
        """Split a bounded range in the middle."""
        assert self.start is not None
        assert self.end is not None
        middle = (self.start + (self.end - self.start) / 2).replace(microsecond=0)
        return Range(self.field, self.start, middle), Range(self.field, middle, self.end)


def differing_ranges(work: Verification, border: datetime) -> Iterator[Range]:
    """Yield the ranges in which org and table differ, among records changed before `border`.

    Buckets are months of CreatedDate, which never changes, and days of SystemModstamp: a lost version puts
    its record into another day.
    """
    names = set(work.schema.projection.names)
    try:
        if "CreatedDate" in names:
            yield from compare_range(work, border, Range("CreatedDate", BEGINNING, work.schema.at), "month")
        for part in split_by_groups(work, Range("SystemModstamp", BEGINNING, border)):
            yield from compare_range(work, border, part, "day")
    except TooMuchError:
        log.warning("grouping_given_up", object=work.schema.name, refused=work.refused, instead="listing")
        yield Range("SystemModstamp", None, border)


def split_by_groups(work: Verification, whole: Range) -> Iterator[Range]:
    """Split a range so that each part has at most MOST_GROUPS days by the table's months."""
    assert whole.end is not None
    start, first = whole.start, None
    for month in sorted(table_buckets(work, whole, "month", whole.end)):
        first = first or month
        if month - first >= timedelta(days=MOST_GROUPS):
            yield Range(whole.field, start, month)
            start = first = month
    yield Range(whole.field, start, whole.end)


def compare_range(work: Verification, border: datetime, whole: Range, part: str) -> Iterator[Range]:
    """Yield the buckets that differ; large buckets are compared in finer ones in any case."""
    try:
        in_org = fetch_buckets(work, border, whole, part)
    except SalesforceError as error:
        assert whole.start is not None
        assert whole.end is not None
        small = whole.end - whole.start <= SHORTEST_RANGE
        log.warning(
            "grouping_failed",
            object=work.schema.name,
            field=whole.field,
            reason=str(error)[:200],
            instead="halves" if exceeds_limits(error) and not small else "listing",
        )
        if exceeds_limits(error):
            work.refused += 1
            if work.refused == MOST_REFUSALS:
                raise TooMuchError from None
        if small or not exceeds_limits(error):
            yield whole
            return
        for half in whole.halves():
            yield from compare_range(work, border, half, part)
        return
    in_table = table_buckets(work, whole, part, border)
    work.found.buckets += len(in_org.keys() | in_table.keys())
    for start in sorted(in_org.keys() | in_table.keys()):
        bucket = intersect(Range(whole.field, start, next_start(start, part)), whole)
        largest = max(in_org.get(start, (0,))[0], in_table.get(start, (0,))[0])
        if largest > LARGE and part in FINER:
            yield from compare_range(work, border, bucket, FINER[part])
        elif in_org.get(start) != in_table.get(start):
            yield bucket


def exceeds_limits(error: SalesforceError) -> bool:
    """Return whether an error says that the query exceeds a limit."""
    return error.code in LIMIT_ERRORS or "queryMore" in str(error)


def fetch_buckets(work: Verification, border: datetime, whole: Range, part: str) -> dict[datetime, Bucket]:
    """Query Salesforce's buckets, by their start."""
    condition = f"IsDeleted = false AND {whole.condition(border)}"
    if 0 < len(work.erased) <= MAX_EXCLUDED_IDS:
        condition += f" AND Id NOT IN {soql.in_list(work.erased)}"
    question = soql.count_buckets(work.schema.name, condition, whole.field, part)
    names = ("b0", *(("b1",) if len(soql.PARTS[part]) > 1 else ()), "n", "earliest", "latest")
    answer = work.context.session.query(question, names, best_effort=True)
    found = {}
    try:
        for *key, records, earliest, latest in answer.body["records"]:
            if None not in key and latest is not None:
                found[bucket_start(part, key)] = (count(records), parse_time(earliest), parse_time(latest))
    except (TypeError, ValueError, OverflowError) as error:
        why = clip(repr(error), 200)
        raise SalesforceError(f"{work.schema.name}: a bucket cannot be read: {why}", status=200) from None
    return found


def bucket_start(part: str, key: list[Any]) -> datetime:
    """Return the start of a bucket from SOQL's key: year and month, day, or day and hour."""
    if part == "month":
        return datetime(count(key[0]), count(key[1]), 1, tzinfo=UTC)
    day = date.fromisoformat(str(key[0]))
    return datetime(day.year, day.month, day.day, count(key[1]) if part == "hour" else 0, tzinfo=UTC)


def next_start(start: datetime, part: str) -> datetime:
    """Return the start of the next bucket."""
    if part == "month":
        return datetime(start.year + start.month // 12, start.month % 12 + 1, 1, tzinfo=UTC)
    return start + (timedelta(days=1) if part == "day" else timedelta(hours=1))


def intersect(bucket: Range, whole: Range) -> Range:
    """Return the part of a bucket that lies in the range."""
    starts = [range_.start for range_ in (bucket, whole) if range_.start is not None]
    ends = [range_.end for range_ in (bucket, whole) if range_.end is not None]
    return Range(bucket.field, max(starts), min(ends))


def table_buckets(work: Verification, whole: Range, part: str, border: datetime) -> Mapping[datetime, Bucket]:
    """Return the table's buckets by their start, without records that changed after the border.

    Those are listed and compared one by one.
    """
    values = {"part": part, "border": border}
    with long_read(work) as connection:
        name = work.schema.name
        table, listing = (qualified_name(connection, tables[name]) for tables in (REPLICA, LISTING))
        statement = text(
            TABLE_BUCKETS.format(table=table, listing=listing, column=quote(snake_case(whole.field)))
        )
        rows = connection.execute(statement, values | {"start": whole.start, "end": whole.end})
        return {row.bucket.replace(tzinfo=UTC): (row.n, row.earliest, row.latest) for row in rows}
