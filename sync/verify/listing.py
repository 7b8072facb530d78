"""Listings by Id and stamp, kept in Postgres: a comparison of any size in flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import itemgetter

from sqlalchemy import text

from sync import state
from sync.extract import Window
from sync.mapping import is_id
from sync.runs import Step
from sync.tables import REPLICA, REPLICAS, allow_long, quoted, transaction
from sync.transform import Batch, Record
from sync.verify.buckets import Range
from sync.verify.work import Work, looking, pages

LIVE = "IsDeleted = false"

CLEAR = text("DELETE FROM sync.listing WHERE object = :object")
ENTER = text("""
INSERT INTO sync.listing (object, record_id, system_modstamp)
SELECT DISTINCT ON (id) :object, id, stamp
  FROM unnest(CAST(:ids AS text[]), CAST(:stamps AS timestamptz[])) AS given (id, stamp)
 ORDER BY id, stamp DESC
ON CONFLICT (object, record_id) DO UPDATE SET system_modstamp = excluded.system_modstamp
""")
# Listed, due, and not the same in the table; but for those that are known to be rejected in this version.
MISSING = """
SELECT l.record_id FROM sync.listing AS l LEFT JOIN {table} AS t ON t.id = l.record_id
 WHERE l.object = :object AND l.system_modstamp < :through
   AND (t.id IS NULL OR t.deleted_at IS NOT NULL OR t.system_modstamp <> l.system_modstamp)
   AND NOT EXISTS (SELECT FROM sync.reject AS r WHERE r.object = l.object AND r.record_id = l.record_id
                      AND r.system_modstamp = l.system_modstamp)
   AND NOT EXISTS (SELECT FROM sync.erased AS e WHERE e.record_id = l.record_id AND e.lifted_at IS NULL)
 ORDER BY 1
"""
UNLISTED = """
SELECT t.id FROM {table} AS t
 WHERE t.deleted_at IS NULL AND ({ranges})
   AND NOT EXISTS (SELECT FROM sync.listing AS l WHERE l.object = :object AND l.record_id = t.id)
 ORDER BY 1
"""
# Looked up wherever they stand: a rejected record that was purged would be kept whole for ever.
REJECTED = text("""
SELECT r.record_id FROM sync.reject AS r
 WHERE r.object = :object
   AND NOT EXISTS (SELECT FROM sync.listing AS l WHERE l.object = :object AND l.record_id = r.record_id)
""")


def clear(work: Work) -> None:
    """Forget what was listed."""
    with state.fenced(work.link.engine, work.held) as connection:
        allow_long(connection)
        connection.execute(CLEAR, {"object": work.view.name})


def everything(work: Work, window: Window) -> Iterator[Step]:
    """List all records of a window by Id and stamp, counted against Salesforce's own count."""
    projection = work.view.projection.only(())
    place = itemgetter(projection.names.index("Id"), projection.names.index("SystemModstamp"))
    for page in pages(work, projection, window, as_they_are):
        entries = [entry for entry in map(place, page.batch.records) if readable(entry)]
        ids, stamps = zip(*entries, strict=True) if entries else ((), ())
        with transaction(work.link.engine) as connection:
            state.check_fence(connection, work.held)
            connection.execute(ENTER, {"object": work.view.name, "ids": list(ids), "stamps": list(stamps)})
        work.found.listed += len(entries)
        yield Step(work.view.name, window, received=page.received, expected=page.expected)


def as_they_are(records: Sequence[Record]) -> Batch:
    """Records that become no rows."""
    return Batch(records=records, ids=[str(record[0]) for record in records])


def readable(entry: tuple[object, object]) -> bool:
    """Whether a record has an Id and a stamp; one that has not is rejected wherever it is read."""
    id_, stamp = entry
    try:
        return isinstance(id_, str) and datetime.fromisoformat(str(stamp)).tzinfo is not None
    except ValueError:
        return False


def suspects(work: Work, ranges: Sequence[Range]) -> tuple[list[str], list[str]]:
    """Ids that are listed and not the same in the table, and Ids of rows and rejected records that are not
    listed."""
    table = f"{REPLICAS}.{quoted(REPLICA[work.view.name].name)}"
    values: dict[str, object] = {"object": work.view.name, "through": work.through}
    conditions = []
    for number, one in enumerate(ranges):
        conditions.append(one.sql(number))
        values |= one.values(number)
    with looking(work) as connection:
        missing = connection.execute(text(MISSING.format(table=table)), values)
        unlisted = connection.execute(
            text(UNLISTED.format(table=table, ranges=" OR ".join(conditions))), values
        )
        rejected = filter(is_id, connection.execute(REJECTED, {"object": work.view.name}).scalars())
        return [row[0] for row in missing], sorted({*(row[0] for row in unlisted), *rejected})
