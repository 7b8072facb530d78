"""The first load: without lookup indexes, which are cheaper to build at its end, and with one feed entry."""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, DropIndex

from sync.logs import activity
from sync.postgres import replica_schema
from sync.postgres.load.sql import NOTIFY
from sync.postgres.tables import REPLICA, qualified_name, quote

RELOAD = text(
    "WITH counter AS (UPDATE sync.feed SET last_seq = last_seq + 1 RETURNING last_seq, slot) "
    "INSERT INTO sync.change (slot, seq, object, op, run_id) "
    "SELECT slot, last_seq, :object, 'reload', :run_id FROM counter"
)
INDEXES = text("SELECT indexname FROM pg_indexes WHERE schemaname = :schema AND tablename = :table")
# Both are tolerated: a role without the privilege, and a reader with an open transaction. A longer wait for
# the lock would block every later reader.
INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE = "42501", "55P03"
LOCK_SECONDS = 1
INDEX_SECONDS = 3600  # timeout of building one index


def begin_first_load(connection: Connection, sobject: str) -> None:
    """Drop the lookup indexes of an empty table: building them at the end costs a fraction of maintaining
    them.

    A rollback may restore them, which does no harm: `end_first_load` creates those that are missing.
    """
    table = REPLICA[sobject]
    if connection.execute(table.select().limit(1)).first() is not None:
        return
    try:
        with connection.begin_nested():
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            for index in table.indexes:
                connection.execute(DropIndex(index, if_exists=True))
            connection.execute(text("SET LOCAL lock_timeout = '30s'"))
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") not in (INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE):
            raise


def relax_durability(connection: Connection) -> None:
    """Commit without waiting for the disk: pages lost in a crash are read again, as their progress is lost,
    too.

    Not for transactions that write the feed: its numbers must never be issued twice.
    """
    connection.execute(text("SET LOCAL synchronous_commit = off"))


def end_first_load(connection: Connection, sobject: str, run_id: int) -> None:
    """Create the missing lookup indexes, and write the feed entry."""
    connection.execute(text(f"SET LOCAL statement_timeout = '{INDEX_SECONDS}s'"))
    table = REPLICA[sobject]
    # CREATE INDEX IF NOT EXISTS requires ownership of the table even if the index exists.
    schema = replica_schema.schema_in_use(connection)
    existing = set(connection.execute(INDEXES, {"schema": schema, "table": table.name}).scalars())
    for index in table.indexes:
        if index.name not in existing:
            activity.report(INDEX_SECONDS)
            connection.execute(CreateIndex(index))
    announce_reload(connection, sobject, run_id)


def analyse(connection: Connection, sobject: str) -> None:
    """Refresh the planner's statistics of the lookup columns; autovacuum refreshes the others later."""
    table = REPLICA[sobject]
    looked_up = {"id", "deleted_at"} | {column.name for index in table.indexes for column in index.columns}
    columns = ", ".join(map(quote, sorted(looked_up)))
    name = qualified_name(connection, table)
    connection.execute(text(f"SET LOCAL statement_timeout = '10min'; ANALYZE {name} ({columns})"))


def analyse_all(connection: Connection, sobject: str) -> None:
    """Refresh the statistics of all columns: they hold samples of old values."""
    table = REPLICA[sobject]
    connection.execute(
        text(f"SET LOCAL statement_timeout = '10min'; ANALYZE {qualified_name(connection, table)}")
    )


def announce_reload(connection: Connection, sobject: str, run_id: int) -> None:
    """Write one feed entry for a whole table, on which consumers read it again."""
    connection.execute(RELOAD, {"object": sobject, "run_id": run_id})
    connection.execute(NOTIFY)
