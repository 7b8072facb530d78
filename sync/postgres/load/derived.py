"""Derived columns of stored rows: read with their sources, rewritten where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, text

from sync.postgres.load.sql import NOTIFY, feed
from sync.postgres.tables import REPLICA, qualified_name, quote

ROWS = 1_000  # rows that one transaction reads and compares

READ = """
SELECT id, {sources}, {columns} FROM {table} WHERE id > :after ORDER BY id LIMIT :most
"""
# The range of Ids bounds the rows: no query plan, even without statistics, scans the whole table.
REWRITE = """
WITH compared AS MATERIALIZED (
    SELECT old.id, old.system_modstamp, 'update' AS op,
           array_remove(ARRAY[{changed}], NULL) AS changed, {given}
      FROM unnest(CAST(:ids AS text[]), {arrays}) AS given (id, {columns})
      JOIN {table} AS old ON old.id = given.id
     WHERE old.id BETWEEN :first AND :last AND ({old}) IS DISTINCT FROM ({given})
), written AS (
    UPDATE {table} AS old
       SET {assignments}, synced_at = now()
      FROM compared WHERE old.id = compared.id AND old.id BETWEEN :first AND :last
){feed}
SELECT count(*) FROM compared
"""


def is_empty(connection: Connection, sobject: str) -> bool:
    """Return whether an object's table has no row, neither live nor deleted."""
    return connection.execute(REPLICA[sobject].select().limit(1)).first() is None


def read_derived(
    connection: Connection, sobject: str, sources: Mapping[str, str], after: str
) -> Sequence[Row[Any]]:
    """Return up to ROWS rows whose Id is greater than `after`, in the order of their Ids, tombstones
    included.

    `sources` maps each derived column to the column that it is computed from. A row holds the Id, then the
    values of the sources, then those of the derived columns, both in the order of `sources`.
    """
    statement = READ.format(
        sources=", ".join(map(quote, sources.values())),
        columns=", ".join(map(quote, sources)),
        table=qualified_name(connection, REPLICA[sobject]),
    )
    return connection.execute(text(statement), {"after": after, "most": ROWS}).all()


def rewrite_derived(
    connection: Connection,
    sobject: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str | None, ...]],
    run_id: int,
    *,
    announce: bool,
) -> int:
    """Write new values of derived columns where they differ; return the number of rows written.

    `rows` hold an Id and one value for each of `columns`, in the order of their Ids. With `announce`, the
    feed gets an `update` that names the changed columns of each row.
    """
    if not rows:
        return 0
    names = list(map(quote, columns))
    statement = REWRITE.format(
        table=qualified_name(connection, REPLICA[sobject]),
        columns=", ".join(names),
        arrays=", ".join(f"CAST(:values_{number} AS text[])" for number in range(len(names))),
        old=", ".join(f"old.{name}" for name in names),
        given=", ".join(f"given.{name}" for name in names),
        changed=", ".join(
            f"CASE WHEN old.{name} IS DISTINCT FROM given.{name} THEN '{column}' END"
            for name, column in zip(names, columns, strict=True)
        ),
        assignments=", ".join(f"{name} = compared.{name}" for name in names),
        feed=feed(qualified_name(connection, REPLICA[sobject])) if announce else "",
    )
    ids, *values = zip(*rows, strict=True)
    parameters: dict[str, Any] = {
        "ids": list(ids),
        "first": ids[0],
        "last": ids[-1],
        "object": sobject,
        "run_id": run_id,
    }
    parameters |= {f"values_{number}": list(column) for number, column in enumerate(values)}
    count = int(connection.execute(text(statement), parameters).scalar_one())
    if announce and count:
        connection.execute(NOTIFY)
    return count
