"""Alembic's entry: one migration at a time, in our three schemas, consumer views beside their tables."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alembic import context
from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import DBAPIError

from migrations import replicas
from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import load_database_settings
from sync.errors import ConfigError, ReplicaSchemaError, SyncError
from sync.postgres import bookkeeping, replica_schema, tables, views

SCHEMAS = (bookkeeping.BOOKKEEPING, tables.REPLICAS, tables.CONSUMERS)
# Held until commit: two releases at once must not migrate at once. The table is made as Alembic makes it.
# Only its owner can lock it; an advisory lock has no owner: any role could hold ours.
VERSIONS = f"{bookkeeping.BOOKKEEPING}.alembic_version"
LOCK = f"""
CREATE TABLE IF NOT EXISTS {VERSIONS} (
    version_num varchar(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
LOCK TABLE {VERSIONS} IN SHARE ROW EXCLUSIVE MODE
"""
# For each lock that a migration needs; the first that is not to be had ends it. `alembic -x lock_timeout=30s`
# waits longer, and holds up consumers that long.
LOCK_TIMEOUT = "10s"
UNIQUE_VIOLATION, DUPLICATE_SCHEMA, DEPENDENT, NO_RIGHT = "23505", "42P06", "2BP01", "42501"
ADVICE = {
    DEPENDENT: "its owner drops that object, and makes it again afterwards",
    DUPLICATE_SCHEMA: "the schemas sync and crm must be this product's own: rename the one that is there, or "
    "use another database",
    NO_RIGHT: "the role needs CREATE on the database, and must own what earlier migrations made",
}

PARTITION = re.compile(r"change_[0-9]+")
VIEW_COLUMNS = text(
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:view) AND attnum > 0 ORDER BY attnum"
)


def follow_with_views(
    migration: MigrationContext, _revision: Any, directives: list[ops.MigrationScript]
) -> None:
    """A new column shows in its consumer view: append the view's new text to the generated migration."""
    script, connection = directives[0], migration.connection
    assert connection is not None
    if connection.get_execution_options()[replica_schema.WANTED] != replica_schema.STANDARD:
        raise ReplicaSchemaError(
            "migrations are written against a database whose replicas lie in the schema "
            f"{replica_schema.STANDARD}: name such a one in DATABASE_URL, as `make migration` does"
        )
    assert script.upgrade_ops is not None
    assert script.downgrade_ops is not None
    shown = {
        name: list(connection.scalars(VIEW_COLUMNS, {"view": f"{tables.CONSUMERS}.{table.name}"}))
        for name, table in tables.REPLICA.items()
    }
    before = {name: table for name, table in tables.REPLICA.items() if shown[name]}
    up, down = script.upgrade_ops.ops, script.downgrade_ops.ops
    for name, table in tables.REPLICA.items():
        present = shown[name]
        added = [column for column in views.consumer_columns(table) if column not in present]
        if not added:
            if commented(up, table.name):
                up.append(DescribeView(table.name))
                down.append(DescribeView(table.name))
            continue
        up.append(ops.ExecuteSQLOp(views.consumer_view(table.name, [*present, *added])))
        up.append(DescribeView(table.name))
        if not present:
            others = ",".join(other.name for other in before.values())
            up.append(PublishView(table.name, others))
        down.insert(0, ops.ExecuteSQLOp(f"DROP VIEW {tables.CONSUMERS}.{table.name}"))
        if present:
            down.append(ops.ExecuteSQLOp(views.consumer_view(table.name, present)))
            down.append(DescribeView(table.name))
    if before and len(before) < len(shown):
        up += [ops.ExecuteSQLOp(text) for text in of_all(tables.REPLICA)]
        down[:0] = [ops.ExecuteSQLOp(text) for text in of_all(before)]


def commented(operations: Sequence[ops.MigrateOperation], table: str) -> bool:
    """Whether a replica's columns get other comments: its consumer view shows them, too."""
    return any(
        isinstance(change, ops.AlterColumnOp) and change.modify_comment is not False
        for group in operations
        if isinstance(group, ops.ModifyTableOps) and group.table_name == table
        for change in group.ops
    )


def of_all(replicas: Mapping[str, Table]) -> Iterator[str]:
    """What speaks of all objects."""
    yield views.freshness(replicas)
    yield views.resolve_id(replicas)


class DescribeView(ops.ExecuteSQLOp):
    """Give a view's columns the comments of its table's: a call of rights.describe_view."""

    def __init__(self, view: str) -> None:
        super().__init__(f"comments of {view}")
        self.view = view


@renderers.dispatch_for(DescribeView)
def render_describe_view(autogenerated: AutogenContext, operation: DescribeView) -> str:
    autogenerated.imports.add("from migrations import rights")
    return f"rights.describe_view({operation.view!r})"


class PublishView(ops.ExecuteSQLOp):
    """Let consumers who read all other objects read a new one: a call of rights.publish_view."""

    def __init__(self, view: str, others: str) -> None:
        super().__init__(f"rights on {view}")
        self.view, self.others = view, others


@renderers.dispatch_for(PublishView)
def render_publish_view(autogenerated: AutogenContext, operation: PublishView) -> str:
    autogenerated.imports.add("from migrations import rights")
    return f"rights.publish_view({operation.view!r}, {operation.others!r})"


def ours(name: str | None, kind: str, parents: Any) -> bool:
    """Only the product's own schemas are compared: the database is shared with others."""
    if kind == "schema":
        return name in SCHEMAS
    if kind == "table" and PARTITION.fullmatch(name or ""):
        return False  # the metadata has the partitioned table alone
    return kind != "table" or parents["schema_name"] in SCHEMAS


def run(connection: Connection, wanted: str | None) -> None:
    """Migrate; `wanted` is the schema of the replicas that the settings name."""
    context.configure(
        connection=connection,
        target_metadata=bookkeeping.metadata,
        version_table_schema=bookkeeping.BOOKKEEPING,
        include_schemas=True,
        include_name=ours,
        compare_type=True,
        compare_server_default=True,
        process_revision_directives=follow_with_views,
    )
    with context.begin_transaction():
        connection.execute(text(tables.SEARCH_PATH))
        patience = context.get_x_argument(as_dictionary=True).get("lock_timeout", LOCK_TIMEOUT)
        connection.execute(text("SELECT set_config('lock_timeout', :patience, true)"), {"patience": patience})
        make_schema(connection)
        connection.execute(text(LOCK))
        with replicas.named(connection, settled(connection, wanted)):
            context.run_migrations()


def settled(connection: Connection, wanted: str | None) -> str:
    """The schema of the replicas: the remembered one, or before the first migration the one to be made."""
    if not context.get_context().get_current_heads():
        return wanted or replica_schema.STANDARD
    name = replica_schema.stored_schema(connection) or replica_schema.STANDARD
    replica_schema.check_schema(wanted, name)
    return name


def make_schema(connection: Connection) -> None:
    """The schema of the version table; another release may be making it at this moment.

    Looked for first: IF NOT EXISTS asks for CREATE on the database even where nothing is to be made.
    """
    if connection.execute(text(f"SELECT to_regnamespace('{bookkeeping.BOOKKEEPING}') IS NOT NULL")).scalar():
        return
    try:
        with connection.begin_nested():
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {bookkeeping.BOOKKEEPING}"))
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") not in (UNIQUE_VIOLATION, DUPLICATE_SCHEMA):
            raise


def newer_than_this_code(connection: Connection) -> str | None:
    """The database's revision when this release does not know it: a rollback runs the old release's code."""
    migration = MigrationContext.configure(connection, opts={"version_table_schema": bookkeeping.BOOKKEEPING})
    known = {script.revision for script in context.script.walk_revisions()}
    return next((head for head in migration.get_current_heads() if head not in known), None)


def main() -> None:
    handed_over = context.config.attributes.get("connection")
    if isinstance(handed_over, Connection):
        run(handed_over, context.config.attributes.get(replica_schema.WANTED))
        return
    try:
        settings = load_database_settings(OBJECT_CHOICES)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    engine = tables.engine(settings.postgres, owner="release", size=1)
    try:
        with engine.begin() as connection:
            connection.execute(text(tables.SEARCH_PATH))
            if revision := newer_than_this_code(connection):
                # Failing here would block the rollback; the schema only ever grows, so old code works.
                sys.stderr.write(f"the database is at {revision}, newer than this release: nothing to do\n")
                return
            run(connection, settings.sync_replica_schema)
    except SyncError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    except DBAPIError as error:
        failure = tables.translate_error(engine, error)
        detail = " ".join(str(error.orig).partition("DETAIL:")[2].partition("HINT:")[0].split())
        advice = ADVICE.get(getattr(error.orig, "pgcode", ""), "")
        what = "; ".join(filter(None, (str(failure), detail.rstrip("."), advice)))
        sys.stderr.write(f"{what}. Nothing was changed; afterwards run `alembic upgrade head` again\n")
        raise SystemExit(failure.exit_code) from None


main()
