"""Verify that a table equals the org through a time, report the differences, and repair them.

Buckets of records are compared by number and stamps; only differing buckets are listed, by Id and stamp.
Recent changes and small tables are always listed. Each suspect is then read by Id, which decides.
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
from sync.replication.verify.work import Verification
from sync.window import Page, Window

log = logger.get(__name__)

# Up to this number of rows a table is listed whole: this costs no more than buckets and is exact.
SMALL = 10_000
# Changes since the last verify, and this long before it, are listed: this covers all losses since then.
MARGIN = timedelta(hours=24)
# Above this number of suspects, the whole object is read again instead of each suspect.
MAX_SUSPECTS = 20_000
LOG_SPAN = timedelta(days=14)


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
    """Compare one object with the org; with `repair` reread what differs and remove what is proved deleted.

    `sample` is the number of records to compare value by value (0: none, None: all). If there are more than
    MAX_SUSPECTS suspects, each is read only with `whole`; otherwise the findings say `too_many`. Returns the
    findings. Raises GuardError for too many removals, SyncError if the object was never loaded.
    """
    with transaction(context.engine) as connection:
        cursor = cursors.read_cursor(connection, schema.name)
        large = is_large(connection, schema.name)
        erased = personal.all_erased(connection, schema.name)
    if cursor.complete_through is None:
        raise SyncError(
            f"{schema.name} was never loaded completely: type python -m sync run first, then verify"
        )
    through = cursor.complete_through
    work = Verification(context, schema, held, run_id, through, repair, erased)
    work.found.erased = len(erased)
    border = cursor.verified_through
    border = None if border is None or not large else min(border - MARGIN, through)

    with listing.cleared_listing(work):
        yield from compare(work, border, sample, whole=whole)
    with transaction(context.engine) as connection:
        work.found.note_rejected(rejects.reject_groups(connection, [schema.name]))
    if work.found.remaining == 0 and not work.found.too_many:
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            cursors.note_verified(connection, schema.name, through)
    found = work.found
    yield PageResult(schema.name, Window(border, schema.at), findings=found.summary())
    return found


def compare(
    work: Verification, border: datetime | None, sample: int | None, *, whole: bool
) -> Iterator[PageResult]:
    """List what has to be listed, then read each suspect."""
    schema = work.schema
    yield from listing.list_window(work, Window(border, schema.at, condition=listing.LIVE))
    ranges = [Range("SystemModstamp", border, None)]
    if border is not None:
        for opened in buckets.differing_ranges(work, border):
            condition = f"{listing.LIVE} AND {opened.condition(border)}"
            yield from listing.list_window(work, Window(None, schema.at, condition=condition))
            ranges.append(opened)
        work.found.opened = len(ranges) - 1
    missing, unlisted = listing.find_suspects(work, ranges)
    work.found.suspects = len(missing) + len(unlisted)
    if work.found.suspects > MAX_SUSPECTS and not whole:
        work.found.too_many = True
    else:
        try:
            yield from reread_suspects(work, [*missing, *unlisted], set(unlisted))
        except GuardError:
            yield PageResult(schema.name, Window(border, schema.at), findings=work.found.summary())
            raise
    if sample != 0:
        yield from deep.classify_sample(work, sample, lambda page: classify_page(work, page))


def is_large(connection: Connection, name: str) -> bool:
    """Return whether a table has more than SMALL rows; it counts no further."""
    some = select(REPLICA[name].c.id).limit(SMALL + 1).subquery()
    return connection.execute(select(func.count()).select_from(some)).scalar_one() > SMALL


def reread_suspects(work: Verification, ids: Sequence[str], unlisted: set[str]) -> Iterator[PageResult]:
    """Read the suspects by Id; remove those that are proved deleted if `repair` is set."""
    present: set[str] = set()
    for page in apply.by_id(work.context, work.schema, list(filter(is_id, ids))):
        present.update(page.batch.ids)
        tally = classify_page(work, page)
        yield PageResult(work.schema.name, Window(None, work.schema.at), tally, len(present), len(ids))
    # A record is deleted only if a listing whose count matched lacks it and the query by Id does not find it.
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
            work.found.mended += len(which)  # including rejected records
            yield PageResult(work.schema.name, Window(None, work.schema.at), Tally(deleted=removed))


def classify_page(work: Verification, page: Page) -> Tally:
    """Record the differences of a page of whole records; with `repair` merge the page.

    Changes after the verified time are not differences yet.
    """
    with transaction(work.context.engine) as connection:
        keep = work.context.settings.tombstone_values_kept
        rows = merge.compare(connection, work.schema.projection, page.batch.lines, keep)
        unknown = rejects.new_rejects(connection, work.schema.name, page.batch.rejects)
    due = [row for row in rows if row.stamp < work.through]
    unfit = [
        reject
        for reject in unknown
        if reject.stamp is None or datetime.fromisoformat(reject.stamp) < work.through
    ]
    for reject in unfit:
        work.found.add(Difference(reject.id, "unfit", (reject.reason,)))
    names = {field.column: field.name for field in work.schema.projection.fields}
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
    work.found.mended += len(due) + len(unfit)  # unfit records are stored as rejected and counted there
    return tally


def delete_log(work: Verification) -> dict[str, datetime]:
    """Return recent deletions by Id from getDeleted; {} if the log is not available."""
    minute = work.schema.at.replace(second=0, microsecond=0)
    # Include the current minute if the org accepts an end in the future.
    for end in (minute + timedelta(minutes=1), minute):
        try:
            return work.context.session.deleted(work.schema.name, end - LOG_SPAN, end).records
        except SalesforceError as error:
            log.info("deletions_unknown", object=work.schema.name, reason=str(error)[:300])
    return {}
