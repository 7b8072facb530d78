"""A first load takes a shorter road: no index that is cheaper to build afterwards, no feed but one entry."""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, DropIndex

from sync.logs import activity
from sync.postgres import replica_schema
from sync.postgres.load.sql import NOTIFY
from sync.postgres.tables import REPLICA, located, quoted

RELOAD = text(
    "WITH counter AS (UPDATE sync.feed SET last_seq = last_seq + 1 RETURNING last_seq) "
    "INSERT INTO sync.change (seq, object, op, run_id) "
    "SELECT last_seq, :object, 'reload', :run_id FROM counter"
)
INDEXES = text("SELECT indexname FROM pg_indexes WHERE schemaname = :schema AND tablename = :table")
# No obstacle: a role that may not, and a reader whose transaction is open. A longer wait would hold up every
# reader that comes after us.
INSUFFICIENT_PRIVILEGE, LOCK_NOT_AVAILABLE = "42501", "55P03"
LOCK_SECONDS = 1
INDEX_SECONDS = 3600  # that one index may take


def begin_first_load(connection: Connection, sobject: str) -> None:
    """Leave out the lookup indexes of an empty table: made at once at the end they cost a fraction.

    Not durable by itself, and need not be: `end_first_load` looks.
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
    """Pages of a first load need not be on disk when they are committed: lost together with the progress that
    names them, they are read again. Never where the feed is written: its numbers must not be given twice."""
    connection.execute(text("SET LOCAL synchronous_commit = off"))


def end_first_load(connection: Connection, sobject: str, run_id: int) -> None:
    """Make the lookup indexes that are missing, and tell the feed."""
    connection.execute(text(f"SET LOCAL statement_timeout = '{INDEX_SECONDS}s'"))
    table = REPLICA[sobject]
    # CREATE INDEX IF NOT EXISTS asks for ownership first, of a role that has all other rights, too.
    schema = replica_schema.in_force(connection)
    there = set(connection.execute(INDEXES, {"schema": schema, "table": table.name}).scalars())
    for index in table.indexes:
        if index.name not in there:
            activity.note(INDEX_SECONDS)
            connection.execute(CreateIndex(index))
    announce_reload(connection, sobject, run_id)


def analyse(connection: Connection, sobject: str) -> None:
    """Refresh the planner's statistics of the columns looked up; autovacuum does the others later."""
    table = REPLICA[sobject]
    looked_up = {"id", "deleted_at"} | {column.name for index in table.indexes for column in index.columns}
    columns = ", ".join(map(quoted, sorted(looked_up)))
    name = located(connection, table)
    connection.execute(text(f"SET LOCAL statement_timeout = '10min'; ANALYZE {name} ({columns})"))


def analyse_all(connection: Connection, sobject: str) -> None:
    """Refresh the statistics of all columns: they hold samples of values as they were."""
    table = REPLICA[sobject]
    connection.execute(text(f"SET LOCAL statement_timeout = '10min'; ANALYZE {located(connection, table)}"))


def announce_reload(connection: Connection, sobject: str, run_id: int) -> None:
    """One feed entry for a whole table: consumers read it anew."""
    connection.execute(RELOAD, {"object": sobject, "run_id": run_id})
    connection.execute(NOTIFY)
