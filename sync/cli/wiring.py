"""Between the command line and the work: arguments as values, both ends of the replication as a context."""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.selection import selection_problems
from sync.config.settings import DatabaseSettings, Known, load_database_settings, load_settings
from sync.config.values import parse_duration
from sync.errors import ReplicaSchemaError, SyncError, UsageError
from sync.logs import logger
from sync.operations import worker
from sync.postgres import tables
from sync.replication.runs import SyncContext
from sync.salesforce.session.session import Session

log = logger.get(__name__)

KNOWN = Known(tuple(CATALOGUE), selection_problems)


def duration_option(given: str) -> timedelta:
    try:
        return parse_duration(given)
    except ValueError as error:
        raise UsageError(str(error)) from None


def sample_option(given: str | None) -> int | None:
    """How many records to compare value by value; None: all."""
    if given is None:
        return 0
    if given.lower() == "all":
        return None
    if not given.isascii() or not given.isdigit() or int(given) == 0:
        raise UsageError(f"--deep {given}: give a number of records, or all")
    return int(given)


def time_option(given: str) -> datetime:
    """A moment in the past; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise UsageError(f"{given!r} is not a time: write 2026-01-31T00:00:00Z or 2026-01-31") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise UsageError(f"--since {given} lies in the future")
    return moment


def selected_objects(objects: list[str] | None, settings: DatabaseSettings) -> tuple[str, ...]:
    """The objects asked for, whatever their case, else all that are replicated."""
    if not objects:
        return settings.sync_objects
    by_lower = {name.lower(): name for name in CATALOGUE}
    if strange := [name for name in objects if name.lower() not in by_lower]:
        raise UsageError(f"{', '.join(strange)} is not replicated here; known: {', '.join(CATALOGUE)}")
    return tuple(dict.fromkeys(by_lower[name.lower()] for name in objects))


def lease_owner(settings: DatabaseSettings) -> str:
    """Who holds a lease; $DYNO alone is not unique while a deploy overlaps."""
    return f"{settings.dyno}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def open_engine(settings: DatabaseSettings, owner: str, size: int = 4) -> Engine:
    """The way to the database that the settings name."""
    return tables.engine(settings.postgres, owner=owner, size=size, replicas=settings.sync_replica_schema)


def check_replica_schema(engine: Engine, settings: DatabaseSettings) -> None:
    """ReplicaSchemaError where the settings name another schema than the one that holds the replicas.

    A database that cannot be asked is no error here: the command meets it, and the worker waits for it.
    """
    if settings.sync_replica_schema is None:
        return
    try:
        with tables.transaction(engine):
            pass
    except ReplicaSchemaError:
        raise
    except SyncError as error:
        log.info("replica_schema_unchecked", reason=str(error)[:200])


@contextmanager
def open_database() -> Iterator[tuple[DatabaseSettings, Engine]]:
    """Settings and engine of a command that needs no Salesforce."""
    settings = load_database_settings(KNOWN)
    logger.setup(settings.log_level, settings.log_format, settings.secrets, settings.dyno)
    engine = open_engine(settings, lease_owner(settings), size=1)
    try:
        check_replica_schema(engine, settings)
        yield settings, engine
    finally:
        engine.dispose()


@contextmanager
def open_context(command: str, wait: timedelta) -> Iterator[SyncContext]:
    """Both ends, a stop event that signals set, and everything closed afterwards."""
    settings = load_settings(KNOWN)
    # A person at a terminal reads the command's own words; a worker's log is its words.
    quiet = command != "worker" and sys.stderr.isatty() and "log_level" not in settings.model_fields_set
    level = "warning" if quiet else settings.log_level
    logger.setup(level, settings.log_format, settings.secrets, settings.dyno)
    me, stop = lease_owner(settings), threading.Event()
    engine = open_engine(settings, me)
    try:
        if command != "check":  # names it among everything else that it finds
            check_replica_schema(engine, settings)
        with worker.stopping_on_signals(stop):
            yield SyncContext(settings, Session(settings, stop), engine, me, command, stop, wait)
    finally:
        engine.dispose()
