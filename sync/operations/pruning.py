"""Pruning of what the product stores about its own work, in small steps beside the passes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine

from sync.errors import SyncError
from sync.logs import logger
from sync.postgres import consumers, pruning
from sync.postgres.state import requests
from sync.postgres.tables import transaction

log = logger.get(__name__)

EACH = timedelta(hours=1)  # between two prunings of the worker
BUDGET_SECONDS = 30.0  # of one pruning of the worker
FEED = "sync.change"


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was pruned, or may be: rows of a table, or entries of the feed through a number."""

    what: str
    rows: int = 0
    through: int | None = None
    bytes: int = 0
    waiting: bool = False


def prunable(engine: Engine, feed: timedelta, runs: timedelta) -> list[Pruned]:
    """Return what `prune` would remove now; nothing is changed.

    `feed` and `runs` are the times for which entries of the feed, and runs and replaced lines, are kept.
    """
    with transaction(engine) as connection:
        old = [Pruned(FEED, 0, one.through, one.bytes) for one in pruning.old_partitions(connection, feed)]
        counted = [Pruned(table, pruning.count_old(connection, table, runs)) for table in pruning.OLD]
    return [*old, *(one for one in counted if one.rows)]


def prune(
    engine: Engine, feed: timedelta, runs: timedelta, stop: threading.Event, seconds: float = 600.0
) -> Iterator[Pruned]:
    """Remove what is older than it is kept, oldest first, until `seconds` are over or `stop` is set.

    Needs one connection, and the rights to read, delete and truncate. Raises SyncError if they are missing.
    """
    deadline = time.monotonic() + seconds
    with transaction(engine) as connection:
        old = list(pruning.old_partitions(connection, feed))
    for one in old:
        with transaction(engine) as connection:
            emptied = pruning.truncate(connection, one.slot)
        yield Pruned(FEED, 0, one.through, one.bytes, waiting=not emptied)
        if not emptied or stop.is_set():
            break
    for table in pruning.OLD:
        total, count = 0, pruning.BATCH
        while count == pruning.BATCH and not stop.is_set() and time.monotonic() < deadline:
            with transaction(engine) as connection:
                count = pruning.delete_old(connection, table, runs)
            total += count
        if total:
            yield Pruned(table, total)
    # A database over its plan's size refuses these; none is needed to give space back.
    with suppress(SyncError), transaction(engine) as connection:
        pruning.advance(connection, feed)
    with suppress(SyncError), transaction(engine) as connection:
        consumers.withdraw_from_dropped_roles(connection)
    with suppress(SyncError), transaction(engine) as connection:
        requests.prune(connection)
    with suppress(SyncError), transaction(engine) as connection:
        pruning.note_size(connection)


def scheduled(engine: Engine, feed: timedelta, runs: timedelta, stop: threading.Event) -> None:
    """Prune as the worker does: within BUDGET_SECONDS, with a log line for what was removed."""
    for one in prune(engine, feed, runs, stop, BUDGET_SECONDS):
        if one.waiting:
            log.info("prune_waits", table=one.what, through=one.through, bytes=one.bytes)
        else:
            log.info("pruned", table=one.what, rows=one.rows, through=one.through, bytes=one.bytes)
