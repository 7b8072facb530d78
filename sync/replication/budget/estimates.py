"""What a resync or a verify would take: records and API calls, without changing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import Projection
from sync.errors import SyncError
from sync.postgres import ledger
from sync.postgres.state import cursors
from sync.postgres.state.cursors import CursorState
from sync.postgres.tables import REPLICA, allow_long, qualified_name, quote, transaction
from sync.replication import apply, deletes
from sync.replication.pipeline import refuse_erased
from sync.replication.runs import SyncContext
from sync.replication.verify import buckets, comparison, listing
from sync.salesforce.extract import extraction, parts
from sync.window import Scope

# The describe of each object, and getUpdated of a window.
DESCRIBE, COVERAGE = 1, 1

COUNTS = """
SELECT date_trunc(:part, {column} AT TIME ZONE 'UTC') AS bucket, count(*) AS n
  FROM {table} WHERE deleted_at IS NULL AND system_modstamp < :border AND {column} IS NOT NULL
 GROUP BY 1 ORDER BY 1
"""
ROWS = "SELECT count(*) FROM {table} WHERE deleted_at IS NULL"


@dataclass(frozen=True, slots=True)
class Estimate:
    """The number of records and API calls that work on one object needs."""

    object: str
    records: int
    api_calls: int


def of_resync(context: SyncContext, names: Sequence[str], since: datetime | None) -> list[Estimate]:
    """Return what a resync needs; it describes and counts each object, with two calls."""
    return [one_resync(context, name, since) for name in names]


def one_resync(context: SyncContext, name: str, since: datetime | None) -> Estimate:
    """Return what a resync of one object needs."""
    projection, at = read_projection(context, name)
    records = extraction.count(context.session, name, Scope(since))
    with transaction(context.engine) as connection:
        asks = asks_delete_log(cursors.read_cursor(connection, name), since, at)
    calls = DESCRIBE + COVERAGE + asks + window_calls(context, projection, records)
    return Estimate(name, records, calls)


def asks_delete_log(cursor: CursorState, since: datetime | None, at: datetime) -> int:
    """Return the calls for the delete log: one, unless nothing was loaded, the window leaves a gap, or it was
    read just now."""
    known = cursor.deleted_through or cursor.complete_through
    if known is None or (since is not None and since > (cursor.complete_through or since)):
        return 0
    moves = deletes.floor_to_minute(at) > deletes.floor_to_minute(known)
    return int(moves and not deletes.asked_recently(cursor, at, deletes.POLL_INTERVAL))


def of_ids(context: SyncContext, by_object: Mapping[str, Sequence[str]]) -> list[Estimate]:
    """Return what reading these Ids again needs; it describes each object, with one call."""
    refuse_erased(context, [id_ for ids in by_object.values() for id_ in ids])
    return [
        Estimate(name, len(ids), DESCRIBE + id_calls(context, read_projection(context, name)[0], len(ids)))
        for name, ids in by_object.items()
    ]


def of_verify(context: SyncContext, names: Sequence[str], sample: int | None) -> list[Estimate]:
    """Return what a verify needs that finds no difference; it describes and counts each object.

    `sample` is the number of records to compare value by value (0: none, None: all). Raises SyncError for an
    object that was never loaded.
    """
    return [one_verify(context, name, sample) for name in names]


def one_verify(context: SyncContext, name: str, sample: int | None) -> Estimate:
    """Return what a verify of one object needs."""
    projection, _ = read_projection(context, name)
    with transaction(context.engine) as connection:
        cursor, large = cursors.read_cursor(connection, name), comparison.is_large(connection, name)
    if cursor.complete_through is None:
        raise SyncError(f"{name} was never loaded completely: type python -m sync run first, then verify")
    border = None
    if large and cursor.verified_through is not None:
        border = min(cursor.verified_through - comparison.MARGIN, cursor.complete_through)
    listed = extraction.count(context.session, name, Scope(border, listing.LIVE))
    calls = DESCRIBE + window_calls(context, projection.only(()), listed)
    if border is not None:
        calls += bucket_queries(context, projection, border)
    return Estimate(name, listed, calls + sample_calls(context, projection, sample))


def read_projection(context: SyncContext, name: str) -> tuple[Projection, datetime]:
    """Return the fields that the work would read, and Salesforce's time."""
    described, at = context.session.describe(name)
    with transaction(context.engine) as connection:
        refused = ledger.refused(connection, name, described)
    return apply.projection(context.settings, CATALOGUE[name], described, refused), at


def window_calls(context: SyncContext, projection: Projection, records: int) -> int:
    """Return the calls for the records of a window."""
    threshold = context.settings.sync_bulk_threshold
    return extraction.estimate_calls(context.session, projection, records, threshold)


def id_calls(context: SyncContext, projection: Projection, ids: int) -> int:
    """Return the calls for reading so many records by Id."""
    return parts.estimate_calls(context.session, projection, ids)


def sample_calls(context: SyncContext, projection: Projection, sample: int | None) -> int:
    """Return the calls for comparing the values of so many records (None: of all)."""
    if sample is None:
        records = extraction.count(context.session, projection.sobject.name, Scope())
        return window_calls(context, projection, records)
    if sample == 0:
        return 0
    with transaction(context.engine) as connection:
        allow_long(connection)
        table = qualified_name(connection, REPLICA[projection.sobject.name])
        rows = connection.execute(text(ROWS.format(table=table))).scalar_one()
    return id_calls(context, projection, min(sample, rows))


def bucket_queries(context: SyncContext, projection: Projection, border: datetime) -> int:
    """Return the queries that compare buckets, none of which differs: large buckets are compared in finer
    ones."""
    name = projection.sobject.name
    with transaction(context.engine) as connection:
        allow_long(connection)
        days = counts(connection, name, "system_modstamp", "day", border)
        queries = parts_of(list(counts(connection, name, "system_modstamp", "month", border)))
        queries += sum(n > buckets.LARGE for n in days.values())
        if "CreatedDate" in projection.names:
            months = counts(connection, name, "created_date", "month", border)
            full = [month for month, n in months.items() if n > buckets.LARGE]
            queries += 1 + len(full)
            if full:
                created = counts(connection, name, "created_date", "day", border)
                queries += sum(n > buckets.LARGE for n in created.values())
    return queries


def counts(
    connection: Connection, name: str, column: str, part: str, border: datetime
) -> dict[datetime, int]:
    """Return the table's number of rows in each bucket, by its start."""
    table = qualified_name(connection, REPLICA[name])
    statement = text(COUNTS.format(table=table, column=quote(column)))
    rows = connection.execute(statement, {"part": part, "border": border})
    return {row.bucket: row.n for row in rows}


def parts_of(months: Sequence[datetime]) -> int:
    """Return the number of queries for the days of these months (`buckets.split_by_groups`)."""
    found, first = 1, None
    for month in months:
        first = first or month
        if month - first >= timedelta(days=buckets.MOST_GROUPS):
            found, first = found + 1, month
    return found
