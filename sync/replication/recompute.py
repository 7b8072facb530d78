"""Recompute derived columns of another version from the stored values, without Salesforce.

The version covers the default region, our code, the libraries, and Python's Unicode tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sqlalchemy import Connection, text

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import Derived, Field, SObject
from sync.catalogue.transform import derive
from sync.errors import StoppedError
from sync.logs import logger
from sync.postgres.load import derived
from sync.postgres.load.merge import Tally
from sync.postgres.state import cursors, leases, versions
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication.runs import PageResult, SyncContext
from sync.replication.windows import LARGE, analyse
from sync.window import Window

log = logger.get(__name__)

NOW = text("SELECT now()")
# Python's Unicode version decides what a letter is and what its lower case is.
PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"


def current_versions(sobject: SObject, region: str) -> dict[str, str]:
    """Return, for each derived column of an object, the version by which this process computes it."""
    return {
        derived.column: f"{field.name}: {derived.normalise.version(region)}, {PYTHON}"
        for field, derived in sobject.derived
    }


def is_due(connection: Connection, context: SyncContext, name: str) -> bool:
    """Return whether derived columns of another version are stored, or none is noted."""
    wanted = current_versions(CATALOGUE[name], context.settings.sync_default_region)
    return versions.derived_versions(connection, name) != wanted


def recompute(context: SyncContext, name: str, held: Lease, run_id: int) -> Iterator[PageResult]:
    """Recompute in all rows the derived columns whose stored version is not the one of this process.

    It uses short transactions, writes only rows whose values differ, and announces them as `update`. Raises
    StoppedError when the process is asked to stop; the next process starts from the first row and finds the
    finished rows unchanged.
    """
    wanted = current_versions(CATALOGUE[name], context.settings.sync_default_region)
    with transaction(context.engine) as connection:
        noted = versions.derived_versions(connection, name)
        if noted == wanted:
            return
        leases.check_fence(connection, held)
        outdated = [column for column, version in wanted.items() if noted.get(column) != version]
        if not outdated or derived.is_empty(connection, name):
            versions.note_derived(connection, name, wanted)
            return
        # Until the last row is written, the columns hold values of mixed versions: no version is noted.
        versions.forget_derived(connection, name, outdated)
        # A first load ends with one `reload` entry, so its rows are not announced.
        announce = cursors.read_cursor(connection, name).complete_through is not None
        window = Window(None, connection.execute(NOW).scalar_one())
    log.info("derived_outdated", object=name, columns=",".join(outdated))
    pairs = [pair for pair in CATALOGUE[name].derived if pair[1].column in outdated]
    last: str | None = ""
    written = 0
    while last is not None:
        if context.stop.is_set():
            raise StoppedError
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            last, count = recompute_rows(connection, context, name, pairs, last, run_id, announce=announce)
            if last is None:
                versions.note_derived(connection, name, wanted)
        written += count
        yield PageResult(name, window, Tally(updated=count))
    log.info("derived_recomputed", object=name, columns=",".join(outdated), records=written)
    if written > LARGE:
        analyse(context, name)


def recompute_rows(
    connection: Connection,
    context: SyncContext,
    name: str,
    pairs: list[tuple[Field, Derived]],
    after: str,
    run_id: int,
    *,
    announce: bool,
) -> tuple[str | None, int]:
    """Recompute the next rows after an Id; return the last Id (None: no row was left) and the number of rows
    written."""
    sources = {derived.column: field.column for field, derived in pairs}
    rows = derived.read_derived(connection, name, sources, after)
    if not rows:
        return None, 0
    ids, *columns = zip(*rows, strict=True)
    region = context.settings.sync_default_region
    computed = [
        [value or None for value in derive(derived.normalise, [raw or "" for raw in column], region)]
        for (_, derived), column in zip(pairs, columns[: len(pairs)], strict=True)
    ]
    stored = zip(*columns[len(pairs) :], strict=True)
    differing = [
        (id_, *new)
        for id_, old, new in zip(ids, stored, zip(*computed, strict=True), strict=True)
        if new != old
    ]
    count = derived.rewrite_derived(connection, name, list(sources), differing, run_id, announce=announce)
    return ids[-1], count
