"""Listings of Ids and stamps, stored in Postgres: they compare any number of records in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from operator import itemgetter

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sync.catalogue.mapping import is_id
from sync.errors import SyncError
from sync.postgres.state import leases
from sync.postgres.tables import (
    LISTING,
    LOCKED,
    NO_RIGHT,
    REPLICA,
    allow_long,
    qualified_name,
    transaction,
)
from sync.replication.runs import PageResult
from sync.replication.verify.buckets import Range
from sync.replication.verify.work import Verification, long_read, read_pages
from sync.salesforce.extract.parts import as_they_are
from sync.window import Window

LIVE = "IsDeleted = false"

TRUNCATE, DELETE = "TRUNCATE {listing}", "DELETE FROM {listing}"
# TRUNCATE waits for readers (a stale process), and needs a privilege that not every role has.
LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '1s'")
ENTER = """
INSERT INTO {listing} (record_id, system_modstamp)
SELECT DISTINCT ON (id) id, stamp
  FROM unnest(CAST(:ids AS text[]), CAST(:stamps AS timestamptz[])) AS given (id, stamp)
 ORDER BY id, stamp DESC
ON CONFLICT (record_id) DO UPDATE SET system_modstamp = excluded.system_modstamp
"""
# Listed records, changed before the verified time, that differ in the table and are not rejected in this
# version.
MISSING = """
SELECT l.record_id FROM {listing} AS l LEFT JOIN {table} AS t ON t.id = l.record_id
 WHERE l.system_modstamp < :through
   AND (t.id IS NULL OR t.deleted_at IS NOT NULL OR t.system_modstamp <> l.system_modstamp)
   AND NOT EXISTS (SELECT FROM sync.reject AS r WHERE r.object = :object AND r.record_id = l.record_id
                      AND r.system_modstamp = l.system_modstamp)
   AND NOT EXISTS (SELECT FROM sync.erased AS e WHERE e.record_id = l.record_id AND e.lifted_at IS NULL)
 ORDER BY 1
"""
UNLISTED = """
SELECT t.id FROM {table} AS t
 WHERE t.deleted_at IS NULL AND ({ranges})
   AND NOT EXISTS (SELECT FROM {listing} AS l WHERE l.record_id = t.id)
 ORDER BY 1
"""
# In any range: a rejected record that was purged would otherwise stay stored.
REJECTED = """
SELECT r.record_id FROM sync.reject AS r
 WHERE r.object = :object AND NOT EXISTS (SELECT FROM {listing} AS l WHERE l.record_id = r.record_id)
"""


@contextmanager
def cleared_listing(work: Verification) -> Iterator[None]:
    """Clear an object's listing before and after a verify."""
    clear(work)
    try:
        yield
    finally:
        # If this fails, the next verify clears it.
        with suppress(SyncError):
            clear(work)


def clear(work: Verification) -> None:
    """Delete the listing and free its space."""
    with leases.fenced_transaction(work.context.engine, work.held) as connection:
        allow_long(connection)
        listing = qualified_name(connection, LISTING[work.schema.name])
        try:
            with connection.begin_nested():
                connection.execute(LOCK_TIMEOUT)
                connection.execute(text(TRUNCATE.format(listing=listing)))
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", "") not in (NO_RIGHT, LOCKED):
                raise
            connection.execute(text(DELETE.format(listing=listing)))


def list_window(work: Verification, window: Window) -> Iterator[PageResult]:
    """List all records of a window by Id and stamp, checked against Salesforce's count."""
    projection = work.schema.projection.only(())
    id_and_stamp = itemgetter(projection.names.index("Id"), projection.names.index("SystemModstamp"))
    for page in read_pages(work, projection, window, as_they_are):
        entries = [entry for entry in map(id_and_stamp, page.batch.records) if has_id_and_stamp(entry)]
        ids, stamps = zip(*entries, strict=True) if entries else ((), ())
        with transaction(work.context.engine) as connection:
            leases.check_fence(connection, work.held)
            enter = text(ENTER.format(listing=qualified_name(connection, LISTING[work.schema.name])))
            connection.execute(enter, {"ids": list(ids), "stamps": list(stamps)})
        work.found.listed += len(entries)
        yield PageResult(work.schema.name, window, received=page.received, expected=page.expected)


def has_id_and_stamp(entry: tuple[object, object]) -> bool:
    """Return whether a record has an Id and a stamp; without them it is rejected by every reading."""
    id_, stamp = entry
    try:
        return isinstance(id_, str) and datetime.fromisoformat(str(stamp)).tzinfo is not None
    except ValueError:
        return False


def find_suspects(work: Verification, ranges: Sequence[Range]) -> tuple[list[str], list[str]]:
    """Return the Ids that are listed and differ in the table, and the Ids of rows and rejected records not
    listed."""
    values: dict[str, object] = {"object": work.schema.name, "through": work.through}
    conditions = []
    for number, range_ in enumerate(ranges):
        conditions.append(range_.sql(number))
        values |= range_.values(number)
    name = work.schema.name
    with long_read(work) as connection:
        table, listing = (qualified_name(connection, tables[name]) for tables in (REPLICA, LISTING))
        missing = connection.execute(text(MISSING.format(table=table, listing=listing)), values)
        unlisted = connection.execute(
            text(UNLISTED.format(table=table, listing=listing, ranges=" OR ".join(conditions))), values
        )
        rejected = connection.execute(text(REJECTED.format(listing=listing)), {"object": name}).scalars()
        ids = sorted({*(row[0] for row in unlisted), *filter(is_id, rejected)})
        return [row[0] for row in missing], ids
