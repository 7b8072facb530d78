"""Read values again that change without a stamp: formulas, roll-ups, new fields, fields of related
records."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection, text

from sync.errors import StoppedError
from sync.logs import logger
from sync.postgres.load import dependants
from sync.postgres.load.sql import Mode
from sync.postgres.state import calls, cursors, leases, plans
from sync.postgres.state.cursors import CursorState
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication import apply
from sync.replication.apply import ObjectSchema
from sync.replication.budget import pacing
from sync.replication.runs import PageResult, SyncContext
from sync.replication.windows import read_window
from sync.window import Window

log = logger.get(__name__)

# Above this number of queued records, the columns that may differ are read of all records of the object.
ONE_BY_ONE = 10_000
# Records read by Id in one pass (about a hundred calls); the rest waits for the next pass.
MOST_A_PASS = 20_000
# The first reading may resume an interrupted one; a second then reads from the beginning.
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
    """The queue of an object: `many` (more records than ONE_BY_ONE need some columns), `parents` (changed
    parents whose children are not queued yet), the next `ids`, and when this was read by the database's
    clock."""

    many: bool
    parents: bool
    ids: Sequence[str]
    asked_at: datetime


def waiting_objects(context: SyncContext) -> list[str]:
    """Return the names of objects with records to be read again."""
    with transaction(context.engine) as connection:
        return read_waiting(connection)


def read_waiting(connection: Connection) -> list[str]:
    """Return the names of objects with records to be read again."""
    return [row.object for row in connection.execute(WAITING)]


def is_loaded(context: SyncContext, name: str) -> bool:
    """Return whether an object's first load is complete."""
    with transaction(context.engine) as connection:
        return cursors.read_cursor(connection, name).complete_through is not None


def queue_waiting(context: SyncContext, name: str) -> bool:
    """Queue the children of changed parents; return whether any record of the object is to be read again.

    Most changed parents have no children, so this makes no API call. It takes the object's lease, and stops
    at the first children that it finds. During a first load the parents stay queued: not all of their
    children are loaded yet. Raises LeaseHeldError if another process holds the lease.
    """
    if not is_loaded(context, name):
        return False
    with leases.lease(context.engine, name, context.owner, context.wait, context.stop) as held:
        found = False
        while not found and not context.stop.is_set():
            with transaction(context.engine) as connection:
                leases.check_fence(connection, held)
                if not connection.execute(PARENTS, {"object": name}).scalar_one():
                    break
                found = dependants.queue_children(connection, name) > 0
    return name in waiting_objects(context)


def reread(context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int) -> Iterator[PageResult]:
    """Read records again that depend on changed ones: by Id, or the columns of all records where there are
    many.

    Each Id is read once a pass, so that the pass ends: formulas that read each other and change with every
    reading would queue their records again for ever. These wait for the next pass, and so do the children of
    parents beyond MOST_A_PASS. During a first load all records wait: a commit beside a Bulk job makes the job
    begin again. Raises StoppedError when the process is asked to stop.
    """
    if not is_loaded(context, schema.name):
        return
    read: set[str] = set()
    queued, readings = 0, COLUMN_READINGS
    while True:
        if context.stop.is_set():
            raise StoppedError
        found = next_waiting(context, schema.name, read)
        if found.many and readings:
            done = yield from reread_columns(context, schema, held, run_id, found.asked_at)
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
    """Read the queue: the Ids that have waited longest, without those `read` in this pass, up to its
    limit."""
    most = min(ONE_BY_ONE, MOST_A_PASS - len(read))
    with transaction(context.engine) as connection:
        return Waiting(
            connection.execute(MANY, {"object": name, "most": ONE_BY_ONE}).scalar_one(),
            connection.execute(PARENTS, {"object": name}).scalar_one(),
            connection.execute(QUEUE, {"object": name, "read": list(read), "most": most}).scalars().all(),
            connection.execute(NOW).scalar_one(),
        )


def reread_columns(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, asked_at: datetime
) -> Generator[PageResult, None, bool]:
    """Read the columns of all records, then delete queue entries made up to `asked_at`; return whether it
    deleted them.

    It deletes none after a reading that resumed an earlier one: the first pages may be older than the change.
    """
    names = schema.projection.volatile(context.settings.volatile_fields(schema.name))
    _, read = yield from read_columns(context, schema, held, run_id, names)
    if read is not None and read.resumed:
        return False
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        for statement in COLUMNS_DONE:
            connection.execute(statement, {"object": schema.name, "at": asked_at})
    return True


def reread_ids(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, found: Waiting
) -> Iterator[PageResult]:
    """Read the next records by Id, then delete their queue entries."""
    done = 0
    for page in apply.by_id(context, schema, found.ids):
        tally = apply.commit_page(context, schema, held, run_id, page)
        done += len(page.batch.ids)
        yield PageResult(schema.name, Window(None, schema.at), tally, done, len(found.ids))
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        connection.execute(DONE, {"object": schema.name, "ids": list(found.ids), "at": found.asked_at})


def refresh(context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int) -> Iterator[PageResult]:
    """Read the fields of all records that change without a stamp when they are due, and fields added since
    the load.

    Where the plan of API calls does not let it begin, they stay due.
    """
    with transaction(context.engine) as connection:
        cursor = cursors.read_cursor(connection, schema.name)
    names = due_fields(context, schema, cursor)
    if not names or not pacing.may_run(context, calls.REFRESH):
        return
    filled, read = yield from read_columns(context, schema, held, run_id, names)
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        whole = set(schema.projection.volatile(context.settings.volatile_fields(schema.name))) <= set(names)
        # The time when the reading began: its first pages may be from an earlier run.
        at = read.window.until if whole and read else cursor.refreshed_at
        cursors.note_refreshed(connection, schema.name, at, filled)


def due_fields(context: SyncContext, schema: ObjectSchema, cursor: CursorState) -> tuple[str, ...]:
    """Return the names of fields to read of all records now."""
    if cursor.complete_through is None:
        return ()
    wanted = set(cursor.backfill)
    moving = schema.projection.volatile(context.settings.volatile_fields(schema.name))
    interval = context.settings.sync_volatile_interval
    if cursor.refreshed_at is None or schema.at - cursor.refreshed_at >= interval:
        wanted |= set(moving)
    return tuple(name for name in schema.projection.names if name in wanted)


def read_columns(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, names: tuple[str, ...]
) -> Generator[PageResult, None, tuple[tuple[str, ...], plans.Plan | None]]:
    """Read these fields of all records, and merge them into rows of the same stamp.

    Returns the names that were selected, and the plan of the window (None: `names` is empty), which may be a
    resumed one.
    """
    if not names:
        return (), None
    log.info("refreshing", object=schema.name, fields=",".join(names))
    narrow = replace(schema, projection=schema.projection.only(names))

    def plan(connection: Connection, seen: ObjectSchema, _: object) -> plans.Plan:
        return plans.plan_refresh(connection, seen.name, seen.at, seen.projection.fingerprint)

    read = yield from read_window(context, narrow, held, run_id, plan, Mode.PARTIAL)
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        plans.clear_progress(connection, schema.name, plans.REFRESH)
    return narrow.projection.names, read
