"""Prove that a table equals the org through a time, name what differs, and repair it.

Buckets of records are compared by their number and stamps; only those that differ are listed, by Id and
stamp. What was changed of late, and a small table, is listed whole. Whatever looks different is then read
by its Id, which decides.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from sync.catalogue.mapping import is_id
from sync.errors import GuardError, SalesforceError, SyncError
from sync.logs import logger
from sync.postgres.load import merge, personal
from sync.postgres.load.merge import Tally
from sync.postgres.load.sql import Mode
from sync.postgres.state import cursors, leases
from sync.postgres.state.leases import Lease
from sync.postgres.tables import REPLICA, transaction
from sync.replication import apply, rejects
from sync.replication.apply import ObjectSchema
from sync.replication.runs import PageResult, SyncContext
from sync.replication.verify import buckets, deep, listing
from sync.replication.verify.buckets import Range
from sync.replication.verify.findings import Difference, Findings
from sync.replication.verify.work import Work
from sync.window import Page, Window

log = logger.get(__name__)

# A table of so few rows is listed whole: as cheap as comparing buckets, and nothing can hide in one.
SMALL = 10_000
# What changed since this long before the last verify is listed: whatever was lost since is among it.
MARGIN = timedelta(hours=24)
# More suspects than this are not asked for one by one: the whole object is to be read again.
MOST = 20_000
LOG_REACHES = timedelta(days=14)


def examine(
    context: SyncContext,
    schema: ObjectSchema,
    held: Lease,
    run_id: int,
    *,
    repair: bool,
    sample: int | None = 0,
    whole: bool = False,
) -> Generator[PageResult, None, Findings]:
    """Compare one object; with `repair` read what differs again and remove what is proved gone.

    `sample` records are compared value by value, too (None: all of them). Where very many look different
    they are asked for one by one only if `whole`; else the findings say `too_many`.
    """
    with transaction(context.engine) as connection:
        cursor = cursors.read_cursor(connection, schema.name)
        large = is_large(connection, schema.name)
        erased = personal.erased_of(connection, schema.name)
    if cursor.complete_through is None:
        raise SyncError(f"{schema.name} has never been loaded: first type python -m sync run, then verify")
    through = cursor.complete_through
    work = Work(context, schema, held, run_id, through, repair, erased)
    work.found.erased = len(erased)
    border = cursor.verified_through
    border = None if border is None or not large else min(border - MARGIN, through)

    with listing.emptied(work):
        yield from compared(work, border, sample, whole=whole)
    with transaction(context.engine) as connection:
        work.found.note_rejected(rejects.groups(connection, [schema.name]))
    if work.found.remaining == 0 and not work.found.too_many:
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            cursors.note_verified(connection, schema.name, through)
    found = work.found
    yield PageResult(schema.name, Window(border, schema.at), findings=found.summary())
    return found


def compared(work: Work, border: datetime | None, sample: int | None, *, whole: bool) -> Iterator[PageResult]:
    """List what has to be listed, and look at each record that differs."""
    schema = work.schema
    yield from listing.everything(work, Window(border, schema.at, condition=listing.LIVE))
    ranges = [Range("SystemModstamp", border, None)]
    if border is not None:
        for opened in buckets.different(work, border):
            condition = f"{listing.LIVE} AND {opened.condition(border)}"
            yield from listing.everything(work, Window(None, schema.at, condition=condition))
            ranges.append(opened)
        work.found.opened = len(ranges) - 1
    missing, unlisted = listing.suspects(work, ranges)
    work.found.suspects = len(missing) + len(unlisted)
    if work.found.suspects > MOST and not whole:
        work.found.too_many = True
    else:
        try:
            yield from confirm(work, [*missing, *unlisted], set(unlisted))
        except GuardError:
            yield PageResult(schema.name, Window(border, schema.at), findings=work.found.summary())
            raise
    if sample != 0:
        yield from deep.compare(work, sample, lambda page: classify_page(work, page))


def is_large(connection: Connection, name: str) -> bool:
    """Whether a table has more than SMALL rows; no more of them are counted."""
    some = select(REPLICA[name].c.id).limit(SMALL + 1).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one() > SMALL


def confirm(work: Work, ids: Sequence[str], unlisted: set[str]) -> Iterator[PageResult]:
    """Read the suspects by their Ids: some have changed meanwhile, the others differ indeed."""
    present: set[str] = set()
    for page in apply.by_id(work.context, work.schema, list(filter(is_id, ids))):
        present.update(page.batch.ids)
        tally = classify_page(work, page)
        yield PageResult(work.schema.name, Window(None, work.schema.at), tally, len(present), len(ids))
    # Only what a listing with a count that matched did not have, and a look-up does not find, is gone.
    gone = [id_ for id_ in ids if id_ in unlisted and id_ not in present]
    if not gone:
        return
    logged = delete_log(work)
    for id_ in gone:
        work.found.add(Difference(id_, "gone", ("purged" if id_ in logged else "vanished",)))
    if work.repair:
        with transaction(work.context.engine) as connection:
            apply.guard(connection, work.context, work.schema.name, len(gone))
        purged = {id_: logged[id_] for id_ in gone if id_ in logged}
        vanished = dict.fromkeys((id_ for id_ in gone if id_ not in logged), work.schema.at)
        for reason, which in (("purged", purged), ("vanished", vanished)):
            removed = apply.remove(work.context, work.schema.name, work.held, work.run_id, which, reason)
            work.found.mended += len(which)  # rejected records that are gone, too
            yield PageResult(work.schema.name, Window(None, work.schema.at), Tally(deleted=removed))


def classify_page(work: Work, page: Page) -> Tally:
    """Note what differs of a page of whole records; with `repair` merge it. Changes after the time that is
    verified are not due yet."""
    with transaction(work.context.engine) as connection:
        keep = work.context.settings.tombstone_values_kept
        rows = merge.compare(connection, work.schema.projection, page.batch.lines, keep)
        unknown = rejects.unknown(connection, work.schema.name, page.batch.rejects)
    due = [row for row in rows if row.stamp < work.through]
    unfit = [one for one in unknown if one.stamp is None or datetime.fromisoformat(one.stamp) < work.through]
    for one in unfit:
        work.found.add(Difference(one.id, "unfit", (one.reason,)))
    names = {each.column: each.name for each in work.schema.projection.fields}
    for row in due:
        fields = tuple(names.get(name, name) for name in row.fields)
        if row.absent:
            work.found.add(Difference(row.id, "missing"))
        elif row.moved or row.gone != row.is_deleted:
            work.found.add(Difference(row.id, "stale", fields))
        else:
            work.found.add(Difference(row.id, "values", fields))
    if not (work.repair and (due or unfit)):
        return Tally(read=len(page.batch.ids))
    tally = apply.commit_page(work.context, work.schema, work.held, work.run_id, page, mode=Mode.REPAIR)
    work.found.mended += len(due) + len(unfit)  # rejected from now on, and counted as that
    return tally


def delete_log(work: Work) -> dict[str, datetime]:
    """What was deleted lately, by Salesforce's log; nothing where it cannot be had."""
    minute = work.schema.at.replace(second=0, microsecond=0)
    # The minute that is not yet over, too, where the org lets us ask for it.
    for end in (minute + timedelta(minutes=1), minute):
        try:
            return work.context.session.deleted(work.schema.name, end - LOG_REACHES, end).records
        except SalesforceError as error:
            log.info("deletions_unknown", object=work.schema.name, reason=str(error)[:300])
    return {}
