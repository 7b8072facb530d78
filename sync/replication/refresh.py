"""Values that move without a stamp: formulas, roll-ups, late fields, and what looks through other records."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, text

from sync.errors import StoppedError
from sync.logs import logger
from sync.postgres.load import dependants
from sync.postgres.load.sql import Mode
from sync.postgres.state import cursors, leases
from sync.postgres.state.cursors import CursorState
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication import apply
from sync.replication.apply import ObjectSchema
from sync.replication.runs import PageResult, SyncContext
from sync.replication.windows import read_window
from sync.window import Window

log = logger.get(__name__)

# More records than this that wait for their turn are read with all others, only the columns that may differ.
ONE_BY_ONE = 10_000
# Records read by their Ids in one pass: a hundred calls. The others wait for the next.
MOST_A_PASS = 20_000
# The first may be the rest of one that was interrupted, and is followed by one from the beginning.
COLUMN_READINGS = 2

WAITING = text("SELECT object FROM sync.reread UNION SELECT child FROM sync.changed_parent ORDER BY 1")
MANY = text("""
SELECT count(*) > :most FROM (
    SELECT FROM sync.reread WHERE object = :object AND NOT whole LIMIT :most + 1) AS waiting
""")
PARENTS = text("SELECT EXISTS (SELECT FROM sync.changed_parent WHERE child = :object)")
QUEUE = text("""
SELECT record_id FROM sync.reread
 WHERE object = :object AND record_id <> ALL (CAST(:read AS text[])) ORDER BY at, record_id LIMIT :most
""")
DONE = text("DELETE FROM sync.reread WHERE object = :object AND record_id = ANY (:ids) AND at <= :at")
COLUMNS_DONE = (
    text("DELETE FROM sync.reread WHERE object = :object AND NOT whole AND at <= :at"),
    text("DELETE FROM sync.changed_parent WHERE child = :object AND NOT whole AND at <= :at"),
)
NOW = text("SELECT clock_timestamp()")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is to be read again: whether of `many` records only columns, whether `parents` have children
    that are not queued yet, the next `ids`, and when this was looked up."""

    many: bool
    parents: bool
    ids: Sequence[str]
    asked: datetime


def waiting(context: SyncContext) -> list[str]:
    """Objects of which records are to be read again."""
    with transaction(context.engine) as connection:
        return [row.object for row in connection.execute(WAITING)]


def loaded(context: SyncContext, name: str) -> bool:
    """Whether an object's first load is whole."""
    with transaction(context.engine) as connection:
        return cursors.read_cursor(connection, name).complete_through is not None


def prepare(context: SyncContext, name: str) -> bool:
    """Whether a record of an object is to be read again, after looking for children of changed parents.

    Most changed parents have none, so nothing is asked of Salesforce yet. It takes the object's lease, and
    ends with the first children found; LeaseHeldError where another process works on the object. During a
    first load parents stay as they are: their children are not all here yet.
    """
    if not loaded(context, name):
        return False
    with leases.lease(context.engine, name, context.owner, context.wait, context.stop) as held:
        found = False
        while not found and not context.stop.is_set():
            with transaction(context.engine) as connection:
                leases.check_fence(connection, held)
                if not connection.execute(PARENTS, {"object": name}).scalar_one():
                    break
                found = dependants.queue_children(connection, name) > 0
    return name in waiting(context)


def reread(context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int) -> Iterator[PageResult]:
    """Read again what depends on records that changed: by Id, or the columns of all where those are many.

    Each Id once, so that it ends: records whose formulas look through each other, and give another value
    whenever they are asked, would be queued again by every reading. Those wait for the next pass. So do the
    children of changed parents beyond the budget, and all of an object during its first load: what is
    committed beside a Bulk job makes it begin again.
    """
    if not loaded(context, schema.name):
        return
    read: set[str] = set()
    queued, readings = 0, COLUMN_READINGS
    while True:
        if context.stop.is_set():
            raise StoppedError
        found = next_waiting(context, schema.name, read)
        if found.many and readings:
            done = yield from reread_columns(context, schema, held, run_id, found.asked)
            readings = 0 if done else readings - 1
        elif found.parents and queued < MOST_A_PASS:
            with transaction(context.engine) as connection:
                leases.check_fence(connection, held)
                queued += dependants.queue_children(connection, schema.name)
            yield PageResult(schema.name, Window(None, schema.at))
        elif found.ids:
            yield from reread_ids(context, schema, held, run_id, found)
            read.update(found.ids)
        else:
            break
    if len(read) >= MOST_A_PASS or found.parents:
        log.info("reread_continues_next_pass", object=schema.name, read=len(read))


def next_waiting(context: SyncContext, name: str, read: Collection[str]) -> Waiting:
    """What waits: of the Ids those that have waited longest, without those read in this pass, as far as its
    budget goes."""
    most = min(ONE_BY_ONE, MOST_A_PASS - len(read))
    with transaction(context.engine) as connection:
        return Waiting(
            connection.execute(MANY, {"object": name, "most": ONE_BY_ONE}).scalar_one(),
            connection.execute(PARENTS, {"object": name}).scalar_one(),
            connection.execute(QUEUE, {"object": name, "read": list(read), "most": most}).scalars().all(),
            connection.execute(NOW).scalar_one(),
        )


def reread_columns(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, asked: datetime
) -> Generator[PageResult, None, bool]:
    """Read the columns of all records, and take from the queue what waited at `asked`; whether that was done.

    It is not after a reading that an earlier run began: its first pages may be older than the change.
    """
    names = schema.projection.volatile(context.settings.volatile_fields(schema.name))
    _, read = yield from read_columns(context, schema, held, run_id, names)
    if read is not None and read.resumed:
        return False
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        for statement in COLUMNS_DONE:
            connection.execute(statement, {"object": schema.name, "at": asked})
    return True


def reread_ids(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, found: Waiting
) -> Iterator[PageResult]:
    """Read the next records by their Ids."""
    done = 0
    for page in apply.by_id(context, schema, found.ids):
        tally = apply.commit_page(context, schema, held, run_id, page)
        done += len(page.batch.ids)
        yield PageResult(schema.name, Window(None, schema.at), tally, done, len(found.ids))
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        connection.execute(DONE, {"object": schema.name, "ids": list(found.ids), "at": found.asked})


def refresh(context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int) -> Iterator[PageResult]:
    """Read the columns of all records that move without a stamp when it is time, and those that came late."""
    with transaction(context.engine) as connection:
        cursor = cursors.read_cursor(connection, schema.name)
    names = due(context, schema, cursor)
    if not names:
        return
    filled, read = yield from read_columns(context, schema, held, run_id, names)
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        whole = set(schema.projection.volatile(context.settings.volatile_fields(schema.name))) <= set(names)
        # As of its beginning: its first pages may be of an earlier run.
        at = read.window.until if whole and read else cursor.refreshed_at
        cursors.note_refreshed(connection, schema.name, at, filled)


def due(context: SyncContext, schema: ObjectSchema, cursor: CursorState) -> tuple[str, ...]:
    """The fields to read of all records."""
    if cursor.complete_through is None:
        return ()
    late = set(cursor.backfill)
    moving = schema.projection.volatile(context.settings.volatile_fields(schema.name))
    interval = context.settings.sync_volatile_interval
    if cursor.refreshed_at is None or schema.at - cursor.refreshed_at >= interval:
        late |= set(moving)
    return tuple(name for name in schema.projection.names if name in late)


def read_columns(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, names: tuple[str, ...]
) -> Generator[PageResult, None, tuple[tuple[str, ...], cursors.Plan | None]]:
    """These columns of all records, through the same merge, into rows whose stamp is the same.

    Returns the names of those that are selected, and the window as it was read, which may have been taken up.
    """
    if not names:
        return (), None
    log.info("refreshing", object=schema.name, fields=",".join(names))
    narrow = replace(schema, projection=schema.projection.only(names))

    def plan(connection: Connection, seen: ObjectSchema, _: object) -> cursors.Plan:
        return cursors.plan_refresh(connection, seen.name, seen.at, seen.projection.fingerprint)

    read = yield from read_window(context, narrow, held, run_id, plan, Mode.PARTIAL)
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        cursors.clear_progress(connection, schema.name, cursors.REFRESH)
    return narrow.projection.names, read
