"""SQLAlchemy metadata, the replicas derived from the catalogue, and the way to the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeEngine

from sync.catalogue.mapping import Kind, SObject
from sync.catalogue.objects import CATALOGUE
from sync.errors import (
    ConfigError,
    DatabaseUnavailableError,
    LockedError,
    ReplicaSchemaError,
    SchemaOutdatedError,
    SyncError,
)
from sync.logs import activity
from sync.postgres import locks, replica_schema
from sync.postgres.bookkeeping import BOOKKEEPING, listing, metadata

REPLICAS, CONSUMERS = replica_schema.STANDARD, "crm"

# Unbounded types on purpose: a longer text or a wider number in Salesforce must never reject a record.
TYPES: dict[Kind, TypeEngine[Any]] = {
    # Ids compare bytewise on both sides of a join, or its index is of no use.
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
REQUIRED = frozenset({"id", "is_deleted", "system_modstamp"})
# Columns of ours, beside those that come from fields.
OWN = ("custom", "deleted_at", "deleted_reason", "synced_at")
# What is left of a tombstone whose values are erased: Id, stamp, and who survived a merge.
KEPT = frozenset({"id", "is_deleted", "system_modstamp", "master_record_id"})
# Of no meaning among live rows.
TOMBSTONE = frozenset({"is_deleted", "master_record_id", "deleted_at", "deleted_reason"})


def replica(sobject: SObject) -> Table:
    """The table of one object: field columns, derived columns, custom fields, tombstone. No foreign keys:
    a contact may arrive before its account."""
    columns: list[Column[Any]] = []
    for field in sobject.fields:
        columns.append(
            Column(
                field.column,
                TYPES[field.kind],
                primary_key=field.kind is Kind.ID,
                nullable=field.column not in REQUIRED,
            )
        )
        columns.extend(Column(derived.column, Text()) for derived in field.derived)
    return Table(
        sobject.table,
        metadata,
        *columns,
        Column("custom", JSONB(), nullable=False, server_default=text("'{}'")),
        Column("deleted_at", DateTime(timezone=True)),
        Column("deleted_reason", Text()),
        Column("synced_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
        *(Index(None, column) for column in sobject.lookups),
        Index(None, "deleted_at", postgresql_where=text("deleted_at IS NOT NULL")),
        schema=REPLICAS,
    )


REPLICA: dict[str, Table] = {name: replica(sobject) for name, sobject in CATALOGUE.items()}
LISTING: dict[str, Table] = {name: listing(sobject.table) for name, sobject in CATALOGUE.items()}


def consumer_columns(table: Table) -> list[str]:
    """The columns of an object's consumer view."""
    return [column.name for column in table.columns if column.name not in TOMBSTONE]


def consumer_view(table: str, columns: Sequence[str]) -> str:
    """The consumer view of one object: its live rows. Columns may be appended, never moved."""
    listed = ",\n       ".join(columns)
    return (
        f"CREATE OR REPLACE VIEW {CONSUMERS}.{table} AS\nSELECT {listed}\n"
        f"  FROM {REPLICAS}.{table}\n WHERE deleted_at IS NULL"
    )


def quoted(identifier: str) -> str:
    """An SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def located(connection: Connection, table: Table) -> str:
    """A table as SQL text names it: replicas lie in the schema that was chosen for them."""
    schema = replica_schema.in_force(connection) if table.schema == REPLICAS else str(table.schema)
    return f"{quoted(schema)}.{quoted(table.name)}"


def schemas(connection: Connection | Engine) -> list[str]:
    """Our schemas: of the replicas, of the bookkeeping, of the consumers."""
    return [replica_schema.in_force(connection), BOOKKEEPING, CONSUMERS]


# ── the way to the database ───────────────────────────────────────────────────────────────────────────

# Whatever other roles made in `public`, our statements do not call it; types in pg_temp come last.
SEARCH_PATH = "SET LOCAL search_path = pg_catalog, pg_temp"
# Per transaction, not per connection: a pooler in transaction mode keeps neither.
# The default of a role or a database may be another isolation level, in which side by side work fails.
BEGIN = text(
    f"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; {SEARCH_PATH}; "
    "SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '30s'; "
    "SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL timezone = 'UTC'"
)
LONG_SECONDS = 600  # that one statement over a whole table may take; two of them are no hang
# Connection lost or refused, restarting, read-only after a failover, too many connections, timed out.
AWAY = ("08", "57P", "25006", "53300", "40001", "40P01", "57014")
LOCKED, READ_ONLY, NO_RIGHT = "55P03", "25006", "42501"
MISSING = ("42P01", "3F000", "42703", "42883")


def engine(url: URL, *, owner: str, size: int = 4, replicas: str | None = None) -> Engine:
    """A small pool that notices dead connections; ConfigError on connecting to a database without UTF-8.

    `replicas` is the schema that the settings name; transactions then raise ReplicaSchemaError where the
    database remembers another one.
    """
    made = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=2,
        pool_pre_ping=True,
        pool_recycle=900,
        pool_use_lifo=True,
        use_native_hstore=False,  # it would ask each new connection outside our transactions
        connect_args={
            "client_encoding": "utf8",  # COPY is given bytes
            "connect_timeout": 10,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
            "application_name": f"sync {owner}"[:63],
        },
        hide_parameters=True,  # values of records, in the text of every error
    )
    event.listen(made, "connect", check_encoding)
    replica_schema.want(made, replicas)
    return made


def check_encoding(connection: Any, _record: object) -> None:
    """Refuse a database that cannot hold every character; known without asking.

    It would refuse single records, and its log would quote them.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        connection.close()
        raise ConfigError(
            f"the database has the encoding {encoding}, and UTF8 is needed: make another one, for example by "
            "createdb --encoding UTF8 --locale C --template template0 customers, and name it in DATABASE_URL"
        )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One short transaction; DatabaseUnavailableError, SchemaOutdatedError or ReplicaSchemaError where
    that is what happened."""
    try:
        with engine.begin() as connection:
            connection.execute(BEGIN)
            replica_schema.settle(connection)
            activity.note()
            yield connection
    except (DBAPIError, psycopg2.Error) as error:
        raise translate_error(engine, error) from error


def allow_long(connection: Connection, seconds: int = LONG_SECONDS) -> None:
    """Let each of the following statements of this transaction take so long: they go through whole tables.

    Their time grows with the table, and under the usual limit they would fail for ever from some size on.
    """
    connection.execute(text(f"SET LOCAL statement_timeout = '{seconds}s'"))
    activity.note()


def translate_error(engine: Engine, error: DBAPIError | psycopg2.Error) -> SyncError:
    """The error of ours that a database error means."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "pgcode", None) or ""
    # The first line says what; the others point into our SQL.
    what = (str(cause).splitlines() or [""])[0].strip()
    if code.startswith(MISSING):
        return SchemaOutdatedError(
            f"the database lacks what this version needs ({what[:200]}): run `alembic upgrade head`"
        )
    if code == LOCKED:
        return LockedError(f"a lock in Postgres was not to be had ({what[:200]})" + in_the_way(engine))
    if code.startswith(AWAY) or (
        not code and isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError)
    ):
        # Pooled connections may all point at the dead or read-only server.
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


def in_the_way(engine: Engine) -> str:
    """Who holds locks on our tables at this moment, as the end of a sentence."""
    try:
        with engine.begin() as connection:
            connection.execute(BEGIN)
            replica_schema.settle(connection)  # a migration's engine has not
            found = locks.holders(connection, schemas(connection))
    except (DBAPIError, psycopg2.Error, ReplicaSchemaError):
        return ""
    return f": {found}" if found else ": whoever held it is gone"
