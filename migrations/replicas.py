"""The schema of the replicas: migrations are written for `salesforce` and run with the chosen name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Connection, event, text

from sync.errors import ReplicaSchemaError, SyncError
from sync.postgres.replica_schema import (
    REMEMBER,
    SETTING,
    STANDARD,
    WANTED,
)

# The schema before a dot or after the keyword; salesforce.com is a host.
NAME = re.compile(r'(?<![\w.$"@/-])salesforce(?=\.(?!com\b|mil\b))|(?<=\bSCHEMA )salesforce\b')

# Everything in a schema but indexes, which belong to tables.
RELATIONS = text("""
SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = :schema AND c.relkind NOT IN ('i', 'I') AND c.relname <> 'alembic_version' ORDER BY 1
""")
RIGHTS = text("""
SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE')
  FROM pg_namespace WHERE nspname = :schema
""")
UNCHANGED = "Nothing was changed; afterwards run `alembic upgrade head` again"


@contextmanager
def named(connection: Connection, name: str) -> Iterator[None]:
    """Run every statement of the migrations with this name in the place of `salesforce`."""

    def rename(
        _connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        return NAME.sub(name, statement), parameters

    connection.execution_options(**{WANTED: name})
    if name == STANDARD:
        yield
        return
    event.listen(connection, "before_cursor_execute", rename, retval=True)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", rename)


def choose() -> None:
    """Make the schema of the replicas where it is not there, and remember its name; in the first migration.

    ReplicaSchemaError where it holds something of others, SyncError where schema sync does.
    """
    connection = op.get_bind()
    name = connection.get_execution_options()[WANTED]
    if found := listed(connection, "sync"):
        raise SyncError(
            f"the schema sync is there already and holds what is not this product's ({found}): rename it, or "
            f"use another database. {UNCHANGED}"
        )
    if found := listed(connection, name):
        raise ReplicaSchemaError(
            f"the schema {name} is there already and holds what is not this product's ({found}; Heroku "
            f"Connect has such a schema): choose another one with {SETTING}, for example "
            f"{SETTING}={name[:55]}_replica. {UNCHANGED}"
        )
    may_use = connection.execute(RIGHTS, {"schema": name}).scalar()
    if may_use is False:
        raise ReplicaSchemaError(
            f"the schema {name} is there already, and this role may not create tables in it: grant it CREATE "
            f"and USAGE on the schema, or choose another one with {SETTING}. {UNCHANGED}"
        )
    if may_use is None:
        op.execute("CREATE SCHEMA salesforce")
    remember(name)


def listed(connection: Connection, schema: str) -> str:
    """The first names of what a schema holds, for a message; "" where it is empty or not there."""
    names = list(connection.execute(RELATIONS, {"schema": schema}).scalars())
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def remember(name: str) -> None:
    """Note the schema of the replicas in the database."""
    op.create_table(
        "replica_schema",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.CheckConstraint("single", name=op.f("replica_schema_single_check")),
        sa.PrimaryKeyConstraint("single", name=op.f("replica_schema_pkey")),
        schema="sync",
        comment="The schema that holds the replicas, chosen at the first migration.",
    )
    op.get_bind().execute(REMEMBER, {"name": name})
