"""SQLAlchemy tables derived from the catalogue, the engine, and transactions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg2
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    DateTime,
    Engine,
    Index,
    Numeric,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeEngine

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.labels import label
from sync.catalogue.mapping import Derived, Field, Kind, SObject
from sync.errors import (
    ConfigError,
    DatabaseUnavailableError,
    LockedError,
    ReplicaSchemaError,
    SchemaOutdatedError,
    SyncError,
)
from sync.logs import activity
from sync.postgres import consumer_tables, locks, replica_schema  # noqa: F401 — its tables are of the metadata
from sync.postgres.bookkeeping import BOOKKEEPING, listing_table, metadata

REPLICAS, CONSUMERS = replica_schema.STANDARD, "crm"

# Unbounded types on purpose: a longer text or a wider number in Salesforce must never reject a record.
TYPES: dict[Kind, TypeEngine[Any]] = {
    # A join uses the index only when both columns have the same collation: ids compare bytewise.
    Kind.ID: Text(collation="C"),
    Kind.REFERENCE: Text(collation="C"),
    Kind.TEXT: Text(),
    Kind.MULTIPICKLIST: ARRAY(Text()),
    Kind.BOOLEAN: Boolean(),
    Kind.INTEGER: BigInteger(),
    Kind.NUMBER: Numeric(),
    Kind.DATE: Date(),
    Kind.DATETIME: DateTime(timezone=True),
}
# The kinds in the words of those who read the columns by SQL.
WORDS: dict[Kind, str] = {
    Kind.ID: "Id of the record, 18 characters",
    Kind.REFERENCE: "Id of another record, 18 characters",
    Kind.TEXT: "text",
    Kind.MULTIPICKLIST: "list of texts",
    Kind.BOOLEAN: "yes (true) or no (false)",
    Kind.INTEGER: "whole number",
    Kind.NUMBER: "number, with all its digits",
    Kind.DATE: "date, without a time zone",
    Kind.DATETIME: "point in time",
}
REQUIRED = frozenset({"id", "is_deleted", "system_modstamp"})
# Columns that this product adds to those of the fields.
OWN_COLUMNS = ("custom", "deleted_at", "deleted_reason", "synced_at")
# Room in each block for the next version of its rows, and vacuum before a twentieth of them is dead: replicas
# are updated far more often than they grow.
STORAGE = {
    "fillfactor": 90,
    "autovacuum_vacuum_scale_factor": 0.05,
    "autovacuum_analyze_scale_factor": 0.02,
}
# How the comment of a replica begins: the object's API name follows.
COMMENT = "Salesforce object"
# What a tombstone keeps when its values are erased: Id, stamp, and the survivor of a merge.
KEPT_COLUMNS = frozenset({"id", "is_deleted", "system_modstamp", "master_record_id"})
# Columns without meaning for live rows: consumer views leave them out.
TOMBSTONE = frozenset({"is_deleted", "master_record_id", "deleted_at", "deleted_reason"})


def replica_table(sobject: SObject) -> Table:
    """Return the table of one object: field columns, derived columns, custom fields, tombstone columns.

    There are no foreign keys: a record may arrive before the one that it refers to.
    """
    columns: list[Column[Any]] = []
    for field in sobject.fields:
        columns.append(
            Column(
                field.column,
                TYPES[field.kind],
                primary_key=field.kind is Kind.ID,
                nullable=field.column not in REQUIRED,
                comment=field_comment(sobject, field),
            )
        )
        columns.extend(
            Column(derived.column, Text(), comment=derived_comment(sobject, field, derived))
            for derived in field.derived
        )
    return Table(
        sobject.table,
        metadata,
        *columns,
        *own_columns(),
        *(Index(None, column) for column in sobject.lookups),
        Index(None, "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        schema=REPLICAS,
        comment=f"{COMMENT} {sobject.name}: live records, and deleted ones as tombstones.",
        postgresql_with=STORAGE,
    )


def field_comment(sobject: SObject, field: Field) -> str:
    """The comment of a field's column: the field, its label where one is known, and its type."""
    called = f" ({known})" if (known := label(sobject.name, field.name)) else ""
    return f"Salesforce field {sobject.name}.{field.name}{called}: {WORDS[field.kind]}."


def derived_comment(sobject: SObject, field: Field, derived: Derived) -> str:
    """The comment of a derived column: the field it is computed from, and what it holds."""
    made_by = derived.normalise
    return f"Computed from Salesforce field {sobject.name}.{field.name}: {made_by.meaning or made_by.name}."


def own_columns() -> list[Column[Any]]:
    """The columns of every replica that come from no field."""
    return [
        Column(
            "custom",
            JSONB(),
            nullable=False,
            server_default=text("'{}'"),
            comment="The custom fields that the integration user can read, by API name.",
        ),
        Column(
            "deleted_at",
            DateTime(timezone=True),
            comment="When the record was deleted in Salesforce; null for a live one.",
        ),
        Column(
            "deleted_reason",
            Text(),
            comment="Why the record is not live: deleted, merged, purged, vanished or erased.",
        ),
        Column(
            "synced_at",
            DateTime(timezone=True),
            nullable=False,
            server_default=text("now()"),
            comment="When this row was last written.",
        ),
    ]


REPLICA: dict[str, Table] = {name: replica_table(sobject) for name, sobject in CATALOGUE.items()}
LISTING: dict[str, Table] = {name: listing_table(sobject.table) for name, sobject in CATALOGUE.items()}


def quote(identifier: str) -> str:
    """Quote an SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def qualified_name(connection: Connection, table: Table) -> str:
    """Return a table's quoted name with its schema; replicas are in the schema that this database
    remembers."""
    schema = replica_schema.schema_in_use(connection) if table.schema == REPLICAS else str(table.schema)
    return f"{quote(schema)}.{quote(table.name)}"


def schemas(connection: Connection | Engine) -> list[str]:
    """Return the names of the schemas of the replicas, of the bookkeeping, and of the consumer views."""
    return [replica_schema.schema_in_use(connection), BOOKKEEPING, CONSUMERS]


# ── engine and transactions ───────────────────────────────────────────────────────────────────────────

# Statements must not call functions that other roles created in `public`; pg_temp is searched last.
SEARCH_PATH = "SET LOCAL search_path = pg_catalog, pg_temp"
# Set per transaction: a pooler in transaction mode does not keep the settings of a connection.
# The role or the database may default to a stricter isolation level, in which concurrent work fails.
BEGIN = text(
    f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {SEARCH_PATH}; "
    "SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL timezone = 'UTC'"
)
LONG_SECONDS = 600  # limit of one statement over a whole table; the watchdog waits longer than two of them
# Connection lost or refused, restarting, read-only after a failover, too many connections, timed out.
UNAVAILABLE = ("08", "57P", "25006", "53300", "40001", "40P01", "57014")
# Connections of a process. A small database allows twenty, consumers' included: two workers of a deploy, a
# release and a one-off make eleven.
WORKER_CONNECTIONS, COMMAND_CONNECTIONS = 4, 2
# How long a thread waits for one of them: longer than a comparison of whole tables takes. It reports activity
# meanwhile, because the watchdog watches whoever has the connection.
WAIT_SECONDS, WAIT_STEP_SECONDS = 6_000, 5
ROOM = "room"  # the execution option with the semaphore of an engine's ordinary transactions
LOCKED, READ_ONLY, NO_RIGHT = "55P03", "25006", "42501"
BUSY = "all connections of this process to Postgres are in use"
MISSING = ("42P01", "3F000", "42703", "42883")


def engine(url: URL, *, owner: str, size: int = WORKER_CONNECTIONS, replicas: str | None = None) -> Engine:
    """Create an engine with a small connection pool that replaces dead connections.

    `owner` becomes part of `application_name`, `size` is the largest number of connections, `replicas` is the
    schema of the replicas in the settings (None: not checked). Ordinary transactions leave one connection
    of several free for the renewal of leases, which must not wait for a long statement.
    Connecting to a database whose encoding is not UTF8 raises ConfigError. A transaction raises
    ReplicaSchemaError if the database remembers another schema than `replicas`.
    """
    created = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_recycle=900,
        pool_use_lifo=True,
        use_native_hstore=False,  # its lookup would query each new connection outside our transactions
        connect_args={
            "client_encoding": "utf8",  # COPY sends UTF-8 bytes
            "connect_timeout": 10,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
            "application_name": f"sync {owner}"[:63],
        },
        hide_parameters=True,  # the text of an error would contain values of records
    )
    created.update_execution_options(**{ROOM: threading.Semaphore(max(1, size - 1))})
    event.listen(created, "connect", check_encoding)
    replica_schema.expect_schema(created, replicas)
    return created


def check_encoding(connection: Any, _record: object) -> None:
    """Raise ConfigError for a database that is not UTF8; the server reports its encoding at connection.

    Another encoding would refuse single records, and the server's log would quote their values.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        raise ConfigError(
            f"the database has the encoding {encoding}, and UTF8 is needed: make another one, for example by "
            "createdb --encoding UTF8 --locale C --template template0 customers, and name it in DATABASE_URL"
        )


@contextmanager
def transaction(engine: Engine, *, urgent: bool = False) -> Iterator[Connection]:
    """Run one short transaction; an `urgent` one may take the connection that others leave free.

    Raises DatabaseUnavailableError, SchemaOutdatedError, LockedError, ReplicaSchemaError, or SyncError for
    any other database error.
    """
    try:
        with nullcontext() if urgent else room(engine), engine.begin() as connection:
            connection.execute(BEGIN)
            replica_schema.resolve_schema(connection)
            activity.report()
            yield connection
    except (DBAPIError, psycopg2.Error) as error:
        raise translate_error(engine, error) from error
    except PoolTimeoutError as error:
        raise DatabaseUnavailableError(BUSY) from error


@contextmanager
def room(engine: Engine) -> Iterator[None]:
    """Wait until one of the connections for ordinary transactions is free, and keep it inside the block."""
    semaphore = engine.get_execution_options().get(ROOM)
    if semaphore is None:  # an engine that was made elsewhere
        yield
        return
    deadline = time.monotonic() + WAIT_SECONDS
    while not semaphore.acquire(timeout=WAIT_STEP_SECONDS):
        if time.monotonic() > deadline:
            raise DatabaseUnavailableError(BUSY)
        activity.report()
    try:
        yield
    finally:
        semaphore.release()


def allow_long(connection: Connection, seconds: int = LONG_SECONDS) -> None:
    """Raise the timeout of each following statement in this transaction to `seconds`.

    Statements over whole tables take longer as the table grows; from some size on, the usual limit would
    always stop them.
    """
    connection.execute(text(f"SET LOCAL statement_timeout = '{seconds}s'"))
    activity.report()


def translate_error(engine: Engine, error: DBAPIError | psycopg2.Error) -> SyncError:
    """Return the SyncError that describes a database error; dispose of the pool if the server is
    unavailable."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "pgcode", None) or ""
    # The first line states the error; the others quote our SQL.
    what = (str(cause).splitlines() or [""])[0].strip()
    if code.startswith(MISSING):
        return SchemaOutdatedError(
            f"the database lacks what this version needs ({what[:200]}): run `alembic upgrade head`"
        )
    if code == LOCKED:
        return LockedError(
            f"a lock in Postgres was not granted in time ({what[:200]})" + describe_blockers(engine)
        )
    if code.startswith(UNAVAILABLE) or (
        not code and isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError)
    ):
        # All pooled connections may lead to the failed or read-only server.
        engine.dispose()
        state = "read-only" if code == READ_ONLY else "not available"
        return DatabaseUnavailableError(f"Postgres is {state}: {what[:300]}")
    if code == NO_RIGHT:
        return SyncError(
            f"Postgres refuses: {what[:300]} (see `python -m sync check`; a Heroku plan over its size leaves "
            "only reading, DELETE and TRUNCATE: see `heroku pg:info`)"
        )
    if code.startswith(("28", "3D000")):
        return SyncError(f"Postgres refuses: {what[:300]} (check DATABASE_URL)")
    return SyncError(f"Postgres answered {code}: {what[:500]}")


def describe_blockers(engine: Engine) -> str:
    """Describe the sessions that hold locks on our tables, as the end of a sentence."""
    try:
        with engine.begin() as connection:
            connection.execute(BEGIN)
            replica_schema.resolve_schema(connection)  # the engine of a migration has no schema yet
            found = locks.describe_holders(connection, schemas(connection))
    except (DBAPIError, psycopg2.Error, PoolTimeoutError, ReplicaSchemaError):
        return ""
    return f": {found}" if found else ": its holder has released it"
