"""COPY → temporary table → one merge → tally: how a page gets into Postgres."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import psycopg2
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import TextClause

from sync.mapping import Projection
from sync.tables import REPLICAS, quoted
from sync.transform import Batch, Reject, Row, reject

# COPY's text format: these four characters are escaped, NULL is \N.
ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# Errors that one record causes: data exceptions, constraints, a value too long for an index.
RECORD_ERRORS = ("22", "23", "54000")

STAGE = """
CREATE TEMPORARY TABLE stage ON COMMIT DROP AS
SELECT 0::bigint AS position, {columns} FROM {table} WITH NO DATA
"""

# `compared` holds only what has to be written: new rows, and rows that differ and are not older. An equal
# stamp is no proof of equal values (one-second stamps), so `>=` and the values decide, not `>`.
# Custom fields are laid over the stored ones: a field that is hidden now keeps its last value.
MERGE = """
WITH latest AS MATERIALIZED (
    SELECT DISTINCT ON (id) * FROM stage ORDER BY id, system_modstamp DESC, position DESC
), compared AS MATERIALIZED (
    SELECT latest.*,
           coalesce(old.custom, '{{}}') || latest.custom AS whole_custom,
           CASE WHEN latest.is_deleted THEN coalesce(old.deleted_at, latest.system_modstamp) END AS tombstone,
           CASE WHEN latest.is_deleted THEN
                CASE WHEN {master} IS NULL THEN 'deleted' ELSE 'merged' END END AS reason,
           CASE WHEN latest.is_deleted AND {master} IS NOT NULL
                     AND (old.deleted_reason IS DISTINCT FROM 'merged') THEN 'merge'
                WHEN latest.is_deleted AND (old.id IS NULL OR old.deleted_at IS NULL) THEN 'delete'
                WHEN old.id IS NULL THEN 'insert'
                WHEN old.deleted_at IS NOT NULL AND NOT latest.is_deleted THEN 'undelete'
                ELSE 'update' END AS op,
           CASE WHEN old.id IS NULL THEN '{{}}' ELSE
                array_remove(ARRAY[{changed}], NULL) END AS changed
      FROM latest LEFT JOIN {table} AS old ON old.id = latest.id
     WHERE old.id IS NULL
        OR (latest.system_modstamp >= old.system_modstamp
            AND (({old}) IS DISTINCT FROM ({new})
                 OR old.custom || latest.custom <> old.custom
                 OR (old.deleted_at IS NOT NULL) <> latest.is_deleted))
), written AS (
    INSERT INTO {table} ({columns}, deleted_at, deleted_reason, synced_at)
    SELECT {values}, whole_custom, tombstone, reason, now() FROM compared
    ON CONFLICT (id) DO UPDATE
       SET {assignments}, deleted_at = excluded.deleted_at, deleted_reason = excluded.deleted_reason,
           synced_at = excluded.synced_at
){feed}
SELECT op, count(*) FROM compared GROUP BY op
"""

# The row lock on sync.feed is held until commit: numbers are given in the order of commits, without gaps.
FEED = """, counter AS (
    UPDATE sync.feed SET last_seq = last_seq + n.count
      FROM (SELECT count(*) AS count FROM compared) AS n
     WHERE n.count > 0
 RETURNING last_seq - n.count AS base
), logged AS (
    INSERT INTO sync.change (seq, object, record_id, op, changed, run_id)
    SELECT base + row_number() OVER (ORDER BY system_modstamp, id), :object, id, op, changed, :run_id
      FROM compared, counter
)"""

RELOAD = text(
    "WITH counter AS (UPDATE sync.feed SET last_seq = last_seq + 1 RETURNING last_seq) "
    "INSERT INTO sync.change (seq, object, op, run_id) "
    "SELECT last_seq, :object, 'reload', :run_id FROM counter"
)
NOTIFY = text("SELECT pg_notify('sync_change', last_seq::text) FROM sync.feed")

HEAL = text(
    "DELETE FROM sync.reject AS r USING stage AS s WHERE r.object = :object AND r.record_id = s.id "
    "AND (r.system_modstamp IS NULL OR s.system_modstamp >= r.system_modstamp)"
)
QUARANTINE = text(
    "INSERT INTO sync.reject AS r (object, record_id, reason, record, system_modstamp, run_id) "
    "VALUES (:object, :id, :reason, CAST(:record AS json), CAST(:stamp AS timestamptz), :run_id) "
    "ON CONFLICT (object, record_id) DO UPDATE SET reason = excluded.reason, record = excluded.record, "
    "system_modstamp = excluded.system_modstamp, last_seen = now(), run_id = excluded.run_id "
    "WHERE (r.reason, r.record::text) IS DISTINCT FROM (excluded.reason, excluded.record::text)"
)


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the records read; `nuls` counts NUL characters removed."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejected: int = 0
    nuls: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL for one projection."""

    stage: TextClause
    copy: str
    merge: TextClause
    merge_silently: TextClause


@lru_cache(maxsize=16)
def statements(projection: Projection) -> Statements:
    """Built from the catalogue's columns; only columns that were queried are touched."""
    table = f"{REPLICAS}.{quoted(projection.sobject.table)}"
    own = [quoted(column) for column in projection.columns]
    columns = ", ".join([*own, "custom"])
    compared = {c: (f"old.{c}", f"latest.{c}") for c in own}
    changed = [
        f"CASE WHEN {old} IS DISTINCT FROM {new} THEN '{column}' END"
        for column, (old, new) in zip(projection.columns, compared.values(), strict=True)
    ]
    changed.append("CASE WHEN old.custom || latest.custom <> old.custom THEN 'custom' END")
    parts = {
        "table": table,
        "columns": columns,
        "values": ", ".join(own),
        "master": "latest.master_record_id" if "master_record_id" in projection.columns else "NULL::text",
        "changed": ", ".join(changed),
        "old": ", ".join(old for old, _ in compared.values()),
        "new": ", ".join(new for _, new in compared.values()),
        "assignments": ", ".join(f"{c} = excluded.{c}" for c in [*own, "custom"] if c != '"id"'),
    }
    return Statements(
        stage=text(STAGE.format(table=table, columns=columns)),
        copy=f"COPY stage (position, {columns}) FROM STDIN",
        merge=text(MERGE.format(feed=FEED, **parts)),
        merge_silently=text(MERGE.format(feed="", **parts)),
    )


def merge(
    connection: Connection, projection: Projection, batch: Batch, run_id: int, *, announce: bool
) -> Tally:
    """Bring one page into its table within the caller's transaction; `announce` writes the feed.

    The same Id twice in a page is harmless: the newest wins. A record that Postgres refuses is
    quarantined like one that the transformation refused; the others go on.
    """
    parameters = {"object": projection.sobject.name, "run_id": run_id}
    written, refused = store(connection, projection, batch.rows, parameters, announce=announce)
    rejects = (*batch.rejects, *refused)
    for one in rejects:
        connection.execute(
            QUARANTINE,
            parameters | {"id": one.id, "reason": one.reason, "record": one.record, "stamp": one.stamp},
        )
    total = sum(written.values())
    if announce and total:
        connection.execute(NOTIFY)
    read = len(batch.rows) + len(batch.rejects)
    return Tally(
        read=read,
        inserted=written.get("insert", 0),
        updated=written.get("update", 0) + written.get("undelete", 0),
        deleted=written.get("delete", 0) + written.get("merge", 0),
        unchanged=read - len(rejects) - total,
        rejected=len(rejects),
        nuls=sum(row.nuls for row in batch.rows),
    )


def store(
    connection: Connection,
    projection: Projection,
    rows: Sequence[Row],
    parameters: dict[str, Any],
    *,
    announce: bool,
) -> tuple[dict[str, int], list[Reject]]:
    """Rows written by kind of change, and the rows that Postgres refuses, found by halving."""
    if not rows:
        return {}, []
    try:
        with connection.begin_nested():
            return stage_and_merge(connection, projection, rows, parameters, announce=announce), []
    except (DBAPIError, psycopg2.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not str(getattr(cause, "pgcode", "") or "").startswith(RECORD_ERRORS):
            raise
        if len(rows) == 1:
            return {}, [reject(rows[0].record, str(cause).splitlines()[0])]
    middle = len(rows) // 2
    written: dict[str, int] = {}
    refused: list[Reject] = []
    for half in (rows[:middle], rows[middle:]):
        part, more = store(connection, projection, half, parameters, announce=announce)
        refused += more
        for op, count in part.items():
            written[op] = written.get(op, 0) + count
    return written, refused


def stage_and_merge(
    connection: Connection,
    projection: Projection,
    rows: Sequence[Row],
    parameters: dict[str, Any],
    *,
    announce: bool,
) -> dict[str, int]:
    """COPY into the stage, merge, heal; rows written by kind of change."""
    sql = statements(projection)
    connection.execute(sql.stage)
    with closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(sql.copy, io.BytesIO(copy_text(rows)))
    merged = connection.execute(sql.merge, parameters) if announce else connection.execute(sql.merge_silently)
    written: dict[str, int] = {row[0]: row[1] for row in merged}
    connection.execute(HEAL, parameters)
    connection.execute(text("DROP TABLE stage"))
    return written


def copy_text(rows: Sequence[Row]) -> bytes:
    """Rows in COPY's text format, numbered, so that of equal stamps the later record wins.

    Encoded row by row: one emoji makes every character of a joined page four bytes wide.
    """
    return b"".join(
        (
            f"{position}\t"
            + "\t".join("\\N" if value is None else value.translate(ESCAPES) for value in row.values)
            + "\n"
        ).encode()
        for position, row in enumerate(rows)
    )


def announce_reload(connection: Connection, sobject: str, run_id: int) -> None:
    """One feed entry for a whole table: consumers read it anew."""
    connection.execute(RELOAD, {"object": sobject, "run_id": run_id})
    connection.execute(NOTIFY)
