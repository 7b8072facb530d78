"""Deletions that no query shows: records that left the recycle bin, read from getDeleted."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync.errors import SalesforceError, SyncError
from sync.logs import logger
from sync.postgres.load.merge import Tally
from sync.postgres.state import cursors, leases, plans
from sync.postgres.state.cursors import CursorState
from sync.postgres.state.leases import Lease
from sync.postgres.state.plans import Plan
from sync.postgres.tables import REPLICA, qualified_name, transaction
from sync.replication import apply
from sync.replication.apply import ObjectSchema
from sync.replication.runs import PageResult, SyncContext
from sync.replication.verify import comparison
from sync.salesforce.extract.together import Told
from sync.salesforce.session.answers import Deletions
from sync.window import Window

log = logger.get(__name__)

POLL_INTERVAL = timedelta(minutes=5)  # Salesforce advises against more frequent polling
# Salesforce keeps the delete log for 15 days and refuses a start before that.
LOG_SPAN = timedelta(days=14)
SHORTEST = timedelta(minutes=2)  # the shortest window of whole minutes that Salesforce accepts
# The least time between two verifies that replace an unavailable delete log.
REVERIFY_AFTER = timedelta(minutes=30)
LOST_LOG_CODES = frozenset({"INVALID_REPLICATION_DATE", "EXCEEDED_ID_LIMIT"})
IDS_PER_STATEMENT = 10_000

LIVE = """
SELECT id FROM {table} WHERE deleted_at IS NULL AND id = ANY (:ids)
UNION SELECT record_id FROM sync.reject WHERE object = :object AND record_id = ANY (:ids)
"""


def remove_purged(
    context: SyncContext,
    schema: ObjectSchema,
    held: Lease,
    run_id: int,
    plan: Plan,
    told: Told | None = None,
) -> Generator[PageResult, None, datetime | None]:
    """Turn records into tombstones that the delete log names and Salesforce no longer has.

    `told` is what the call that began the pass told. Returns the time through which deletions are known
    (None: Salesforce does not tell). If the log no longer reaches back to the last request, it verifies the
    object with repair. Raises SyncError if differences remain then.
    """
    with transaction(context.engine) as connection:
        cursor = cursors.read_cursor(connection, schema.name)
        # Not later than any answer of the window: a server's wrong Date must not move the claim ahead. The
        # first answers of a resumed window are old, so they do not count.
        if not plan.resumed:
            schema = replace(schema, at=min(schema.at, plans.earliest_clock(connection, schema.name, plan)))
    since = cursor.deleted_through or cursor.complete_through
    if since is None:  # a first load: the table holds no record that could have been deleted
        return None
    end = floor_to_minute(schema.at)
    if told is not None and told.deletions is not None and told.question.deleted is not None:
        end = told.question.deleted[1]
    elif plan.resumed:
        # Other work may have read the log before the first pages of this window were committed.
        since = min(since, plan.window.until)
    elif asked_recently(cursor, schema.at, max(POLL_INTERVAL, context.settings.sync_coverage_interval)):
        return cursor.deleted_through
    if end - floor_to_minute(since) <= timedelta():
        return cursor.deleted_through
    try:
        listed = told_deletions(told, since) or ask_delete_log(context, schema, since, end)
    except SalesforceError as error:
        if error.passing or not 400 <= error.status < 500:
            raise
        log.warning(
            "deletions_unknown", object=schema.name, reason=str(error)[:300], instead="nightly verify"
        )
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            cursors.note_deletions_refused(connection, schema.name, refused=True)
        return None
    if listed is None:
        if asked_recently(cursor, schema.at, REVERIFY_AFTER) and since > schema.at - REVERIFY_AFTER:
            log.warning("deletions_unknown", object=schema.name, reason="the delete log was lost again")
            return cursor.deleted_through
        log.warning("delete_log_gone", object=schema.name, since=since.isoformat(), instead="verify --repair")
        found = yield from comparison.examine(context, schema, held, run_id, repair=True, whole=True)
        through = end
        if found.different:
            raise SyncError(
                f"{schema.name}: the delete log no longer reaches back to {since:%Y-%m-%d %H:%M} UTC, and "
                f"{found.different:,} differences remain; type: "
                f"python -m sync verify --object {schema.name} --repair"
            )
    else:
        yield from remove_listed(context, schema, held, run_id, listed)
        through = min(listed.through, end)
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        cursors.note_deleted(connection, schema.name, through, schema.at)
        cursors.note_deletions_refused(connection, schema.name, refused=False)
    return through


def told_deletions(told: Told | None, since: datetime) -> Deletions | None:
    """Return what a call told of the deletions since a time; None if the delete log is to be asked (again).

    Raises SalesforceError for a refusal.
    """
    found = told.deletions if told is not None else None
    if isinstance(found, SyncError):
        if isinstance(found, SalesforceError) and found.code in LOST_LOG_CODES:
            return None  # a shorter window may be answered
        raise found
    return found if found is not None and found.earliest <= since else None


def ask_delete_log(
    context: SyncContext, schema: ObjectSchema, since: datetime, end: datetime
) -> Deletions | None:
    """Read the delete log from `since` minus the overlap, or from `since`; return None if it is not
    available."""
    if since < schema.at - LOG_SPAN:
        return None
    for start in dict.fromkeys((since - context.settings.sync_overlap, since)):
        start = min(floor_to_minute(start), end - SHORTEST)
        try:
            listed = context.session.deleted(
                schema.name, max(start, floor_to_minute(schema.at - LOG_SPAN)), end
            )
        except SalesforceError as error:
            if error.code not in LOST_LOG_CODES:
                raise
            log.info("delete_log_refused", object=schema.name, reason=str(error)[:200])
            continue
        if listed.earliest <= since:
            return listed
    return None


def asked_recently(cursor: CursorState, now: datetime, span: timedelta) -> bool:
    """Return whether the delete log was read within `span` before `now`."""
    return cursor.deleted_asked is not None and timedelta() <= now - cursor.deleted_asked < span


def remove_listed(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, listed: Deletions
) -> Iterator[PageResult]:
    """Read the live records that the log names by Id: they may have been undeleted since."""
    with transaction(context.engine) as connection:
        suspects = live_ids(connection, schema.name, list(listed.records))
    if not suspects:
        return
    found: set[str] = set()
    for page in apply.by_id(context, schema, suspects):
        tally = apply.commit_page(context, schema, held, run_id, page)
        found.update(page.batch.ids)
        yield PageResult(schema.name, Window(None, schema.at), tally, len(found), len(suspects))
    gone = {id_: listed.records[id_] for id_ in suspects if id_ not in found}
    with transaction(context.engine) as connection:
        apply.guard(connection, context, schema.name, len(gone))
    removed = apply.remove(context, schema.name, held, run_id, gone, "purged")
    if removed:
        log.info("purged", object=schema.name, removed=removed)
        yield PageResult(schema.name, Window(None, schema.at), Tally(deleted=removed))


def live_ids(connection: Connection, name: str, ids: Sequence[str]) -> list[str]:
    """Return the Ids whose rows are live or whose records are rejected."""
    statement = text(LIVE.format(table=qualified_name(connection, REPLICA[name])))
    chunks = (list(ids[start : start + IDS_PER_STATEMENT]) for start in range(0, len(ids), IDS_PER_STATEMENT))
    return sorted(
        row.id for chunk in chunks for row in connection.execute(statement, {"object": name, "ids": chunk})
    )


def floor_to_minute(moment: datetime) -> datetime:
    """Round down to a whole minute: getDeleted and getUpdated ignore seconds."""
    return moment.replace(second=0, microsecond=0)
