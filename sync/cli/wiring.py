"""Wiring: arguments parsed to values; settings, engine and session opened for a command."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import Engine

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.selection import selection_problems
from sync.config.replicas import schema_name
from sync.config.settings import DatabaseSettings, ObjectChoices, load_database_settings, load_settings
from sync.config.values import parse_duration
from sync.errors import ReplicaSchemaError, SyncError, UsageError
from sync.logs import logger
from sync.operations import worker
from sync.operations.alerts.delivery import Sender
from sync.operations.alerts.keeper import Keeper, Ways
from sync.postgres import tables
from sync.replication.runs import SyncContext
from sync.salesforce.session.http import ping
from sync.salesforce.session.session import Session

log = logger.get(__name__)

OBJECT_CHOICES = ObjectChoices(tuple(CATALOGUE), selection_problems)


def duration_option(value: str) -> timedelta:
    """Parse a duration; raise UsageError."""
    try:
        return parse_duration(value)
    except ValueError as error:
        raise UsageError(str(error)) from None


def sample_option(value: str | None) -> int | None:
    """Parse the number of records to compare value by value (0: none, None: all); raise UsageError."""
    if value is None:
        return 0
    if value.lower() == "all":
        return None
    if not value.isascii() or not value.isdigit() or int(value) == 0:
        raise UsageError(f"--deep {value}: give a number of records, or all")
    return int(value)


def schema_option(option: str, value: str) -> str:
    """Return the name of a schema that needs no quotes in SQL; raise UsageError."""
    try:
        return schema_name(value)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def time_option(value: str) -> datetime:
    """Parse a time in the past, in UTC if it has no zone; raise UsageError."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise UsageError(f"{value!r} is not a time: write 2026-01-31T00:00:00Z or 2026-01-31") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise UsageError(f"--since {value} is in the future")
    return moment


def selected_objects(objects: list[str] | None, settings: DatabaseSettings) -> tuple[str, ...]:
    """Return the named objects in any letter case, or all replicated ones; raise UsageError for unknown
    names."""
    if not objects:
        return settings.sync_objects
    by_lower = {name.lower(): name for name in CATALOGUE}
    if unknown := [name for name in objects if name.lower() not in by_lower]:
        raise UsageError(
            f"{', '.join(unknown)} is not replicated here; the objects are: {', '.join(CATALOGUE)}"
        )
    return tuple(dict.fromkeys(by_lower[name.lower()] for name in objects))


def lease_owner(settings: DatabaseSettings) -> str:
    """Return a unique name for the holder of leases: during a deploy, two processes have the same $DYNO."""
    return f"{settings.dyno}/{os.getpid()}/{uuid.uuid4().hex[:8]}"


def open_engine(settings: DatabaseSettings, owner: str, size: int) -> Engine:
    """Return an engine for the database in the settings, with at most `size` connections."""
    return tables.engine(settings.postgres, owner=owner, size=size, replicas=settings.sync_replica_schema)


def check_replica_schema(engine: Engine, settings: DatabaseSettings) -> None:
    """Raise ReplicaSchemaError if the settings name another schema than the one that holds the replicas.

    An unavailable database is no error here: the command reports it, and the worker waits for it.
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
def open_database(connections: int = 1) -> Iterator[tuple[DatabaseSettings, Engine]]:
    """Open settings and engine for a command that needs no Salesforce; one that takes leases needs two
    connections."""
    settings = load_database_settings(OBJECT_CHOICES)
    logger.setup(settings.log_level, settings.log_format, settings.secrets, settings.dyno)
    engine = open_engine(settings, lease_owner(settings), connections)
    try:
        check_replica_schema(engine, settings)
        yield settings, engine
    finally:
        engine.dispose()


def open_settings() -> DatabaseSettings:
    """Read the settings of a command that asks neither the database nor Salesforce."""
    settings = load_database_settings(OBJECT_CHOICES)
    logger.setup(settings.log_level, settings.log_format, settings.secrets, settings.dyno)
    return settings


def sender(settings: DatabaseSettings) -> Sender | None:
    """Return what sends messages to SYNC_ALERT_URLS (None: it is not set)."""
    return Sender(settings.alert_urls, settings.requests_ca_bundle) if settings.alert_urls else None


def open_keeper(context: SyncContext) -> Keeper:
    """Return what keeps and tells the incidents of a worker."""
    settings, session = context.settings, context.session

    def usage() -> float | None:
        known = session.usage
        return None if known is None else known.used / known.limit / settings.sync_api_budget

    url, bundle = settings.heartbeat_url, settings.requests_ca_bundle
    return Keeper(
        context.engine,
        settings.sync_objects,
        settings.max_lag,
        lambda: datetime.now(UTC),
        settings.salesforce_login_url.removeprefix("https://"),
        Ways(sender(settings), partial(ping, url, bundle) if url else None),
        usage,
        context.stop,
        size_limit=settings.sync_database_limit,
        feed_retention=settings.sync_feed_retention,
    )


@contextmanager
def open_context(command: str, wait: timedelta) -> Iterator[SyncContext]:
    """Open settings, engine and session, with a stop event that signals set; close them at the end."""
    settings = load_settings(OBJECT_CHOICES)
    # On a terminal the command prints its result, so that info lines would disturb; a worker only logs.
    quiet = command != "worker" and sys.stderr.isatty() and "log_level" not in settings.model_fields_set
    level = "warning" if quiet else settings.log_level
    logger.setup(level, settings.log_format, settings.secrets, settings.dyno)
    me, stop = lease_owner(settings), threading.Event()
    most = tables.WORKER_CONNECTIONS if command == "worker" else tables.COMMAND_CONNECTIONS
    engine = open_engine(settings, me, most)
    try:
        if command != "check":  # `check` reports it as a finding
            check_replica_schema(engine, settings)
        with worker.stopping_on_signals(stop):
            typed = shlex.join(["python", "-m", "sync", *sys.argv[1:]])
            session = Session(settings, stop)
            yield SyncContext(settings, session, engine, me, command, stop, wait, typed=typed)
    finally:
        engine.dispose()
