"""Retention: erase the values of old tombstones, and of fields that are no longer replicated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, text

from sync.catalogue.catalogue import CATALOGUE
from sync.errors import SyncError
from sync.logs import logger
from sync.postgres import ledger
from sync.postgres.load import first, personal
from sync.postgres.state import cursors, leases, replicated
from sync.postgres.state.cursors import CursorState
from sync.postgres.state.leases import Lease
from sync.postgres.tables import allow_long, transaction
from sync.replication.runs import PageResult, SyncContext
from sync.window import Window

log = logger.get(__name__)

DUE = text("SELECT now(), now() - CAST(:keep AS interval)")
BEGINNING = datetime(1700, 1, 1, tzinfo=UTC)

# The condition that keeps a custom field, by SYNC_CUSTOM_FIELDS; excluded fields are never kept.
KEPT = {
    "all": "key <> ALL (CAST(:excluded AS text[]))",
    "none": "false",
    "named": "key = ANY (CAST(:named AS text[])) AND key <> ALL (CAST(:excluded AS text[]))",
}


def apply_retention(context: SyncContext, name: str, held: Lease, run_id: int) -> Iterator[PageResult]:
    """Note which objects are replicated, and erase the values that the settings no longer allow.

    It needs no Salesforce.
    """
    keep, wanted = context.settings.tombstone_values_kept, describe_selection(context, name)
    with transaction(context.engine) as connection:
        # During a first load there is no index on deleted_at.
        allow_long(connection)
        replicated.note_replicated(connection, context.settings.sync_objects)
        cursor = cursors.read_cursor(connection, name)
        now, until = connection.execute(DUE, {"keep": keep}).one()
        if cursor.emptied_through is not None and (until is None or until < cursor.emptied_through):
            # The retention has become longer: later tombstones become due at a later time.
            cursors.note_emptied(connection, name, until)
            cursor = replace(cursor, emptied_through=until)
        after = cursor.emptied_through or BEGINNING
        is_due = keep is not None and personal.any_deleted(connection, name, after, until)
        shown = ledger.ever_shown(connection) if cursor.selection != wanted else frozenset()
    window = Window(None, now)
    if unknown := sorted(context.settings.custom_fields_named - shown) if shown else []:
        log.warning("fields_unknown", fields=",".join(unknown), instead="nothing is erased; see check")
    elif cursor.selection != wanted:
        yield from erase_fields(context, name, held, run_id, window)
    if is_due:
        yield from erase_tombstones(context, name, held, after, until, window)


def is_due(connection: Connection, context: SyncContext, name: str, cursor: CursorState) -> bool:
    """Return whether `apply_retention` has something to note or to erase."""
    keep = context.settings.tombstone_values_kept
    if cursor.selection != describe_selection(context, name):
        return True
    _, until = connection.execute(DUE, {"keep": keep}).one()
    if cursor.emptied_through is not None and (until is None or until < cursor.emptied_through):
        return True
    after = cursor.emptied_through or BEGINNING
    return until is not None and personal.any_deleted(connection, name, after, until)


def erase_tombstones(
    context: SyncContext, name: str, held: Lease, after: datetime, until: datetime, window: Window
) -> Iterator[PageResult]:
    """Erase the values of records deleted after `after` and until `until`, in short transactions.

    A tombstone that is written later, with whatever time of deletion, is erased when it is written.
    """
    erased, done = 0, False
    while not done:
        with leases.fenced_transaction(context.engine, held) as connection:
            allow_long(connection)
            count = personal.erase_due(connection, name, after, until)
            erased, done = erased + count, count < personal.BATCH
            if done:
                cursors.note_emptied(connection, name, until)
        yield PageResult(name, window)
    if erased:
        log.info("tombstones_emptied", object=name, records=erased)
        refresh_statistics(context, name)


def erase_fields(
    context: SyncContext, name: str, held: Lease, run_id: int, window: Window
) -> Iterator[PageResult]:
    """Erase the stored values of excluded fields and of custom fields that are no longer selected.

    Consumers get one `reload` entry. After an interruption the rows are read from the beginning; those that
    are finished are not written again.
    """
    columns, kept, values = field_rules(context, name)
    last: str | None = "" if values["excluded"] or kept != KEPT["all"] else None
    reduced = 0
    while last is not None:
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            last, count = personal.reduce_fields(connection, name, columns, kept, values, last)
        reduced += count
        yield PageResult(name, window)
    wanted = describe_selection(context, name)
    with leases.fenced_transaction(context.engine, held) as connection:
        allow_long(connection)
        personal.reread_rejects(connection, name, values["excluded"], custom=kept != KEPT["all"])
        personal.forget_old_values(connection, name)
        cursors.note_selection(connection, name, wanted)
        if reduced:
            first.announce_reload(connection, name, run_id)
    if reduced:
        log.warning("fields_erased", object=name, records=reduced, selection=wanted)
        refresh_statistics(context, name)


def refresh_statistics(context: SyncContext, name: str) -> None:
    """Refresh the planner's statistics, which hold samples of values; if this fails, autovacuum does it
    later."""
    try:
        with transaction(context.engine) as connection:
            first.analyse_all(connection, name)
    except SyncError as error:
        log.warning("statistics_not_refreshed", object=name, reason=str(error))


def describe_selection(context: SyncContext, name: str) -> str:
    """Describe the fields that may be stored, as a text that changes with the settings."""
    custom = context.settings.sync_custom_fields
    named = custom if isinstance(custom, str) else ",".join(sorted(custom))
    return f"custom {named}; without {','.join(sorted(context.settings.excluded_fields(name))) or 'none'}"


def field_rules(context: SyncContext, name: str) -> tuple[list[str], str, dict[str, Any]]:
    """Return the columns to erase, the SQL condition that keeps a custom field, and the condition's
    parameters."""
    excluded, custom = context.settings.excluded_fields(name), context.settings.sync_custom_fields
    columns = [
        column
        for field in CATALOGUE[name].fields
        if field.name in excluded
        for column in (field.column, *(derived.column for derived in field.derived))
    ]
    values: dict[str, Any] = {"excluded": sorted(excluded)}
    if isinstance(custom, str):
        return columns, KEPT[custom], values
    return columns, KEPT["named"], values | {"named": sorted(custom)}
