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
from sqlalchemy.schema import CreateIndex, DropIndex
from sqlalchemy.sql.elements import TextClause

from sync.mapping import Projection
from sync.tables import REPLICA, REPLICAS, quoted
from sync.transform import Batch, Record, Reject, reject

# Errors that one record causes: data exceptions, constraints, a value too long for an index.
RECORD_ERRORS = ("22", "23", "54000")
INSUFFICIENT_PRIVILEGE = "42501"
CHUNK = 1 << 24  # bytes handed to Postgres at once: all of a page

STAGE = """
SET LOCAL work_mem = '16MB';
CREATE TEMPORARY TABLE stage ON COMMIT DROP AS
SELECT {columns} FROM {table} WITH NO DATA
"""

# `compared` holds only what has to be written: new rows, and rows that differ and are not older. An equal
# stamp is no proof of equal values (one-second stamps), so `>=` and the values decide, not `>`.
# Custom fields are laid over the stored ones: a field that is hidden now keeps its last value. The stage's
# rows lie in the order of the page; of equal stamps the later record wins.
MERGE = """
WITH latest AS MATERIALIZED (
    SELECT DISTINCT ON (id) * FROM stage ORDER BY id, system_modstamp DESC, ctid DESC
), compared AS MATERIALIZED (
    SELECT latest.*,
           coalesce(old.custom, '{{}}') || latest.custom AS whole_custom,
           CASE WHEN latest.is_deleted THEN coalesce(old.deleted_at, latest.deleted_at) END AS tombstone,
           CASE WHEN latest.deleted_reason = 'merged'
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
    INSERT INTO {table} ({columns}, synced_at)
    SELECT {values}, whole_custom, tombstone, deleted_reason, now() FROM compared
    ON CONFLICT (id) DO UPDATE SET {assignments}, synced_at = excluded.synced_at
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
ANY_REJECT = text("SELECT EXISTS (SELECT FROM sync.reject WHERE object = :object)")
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

    @property
    def written(self) -> int:
        return self.inserted + self.updated + self.deleted

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL for one projection."""

    stage: TextClause
    copy: str
    copy_straight: str
    merge: TextClause
    merge_silently: TextClause


@lru_cache(maxsize=16)
def statements(projection: Projection) -> Statements:
    """Built from the catalogue's columns; only columns that were queried are touched."""
    table = f"{REPLICAS}.{quoted(projection.sobject.table)}"
    own = [quoted(column) for column in projection.columns]
    rest = ["custom", "deleted_at", "deleted_reason"]
    columns = ", ".join([*own, *rest])
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
        "changed": ", ".join(changed),
        "old": ", ".join(old for old, _ in compared.values()),
        "new": ", ".join(new for _, new in compared.values()),
        "assignments": ", ".join(f"{c} = excluded.{c}" for c in [*own, *rest] if c != '"id"'),
    }
    return Statements(
        stage=text(STAGE.format(table=table, columns=columns)),
        # No text of Salesforce's is empty: nulls are.
        copy=f"COPY stage ({columns}) FROM STDIN (NULL '')",
        copy_straight=f"COPY {table} ({columns}) FROM STDIN (NULL '')",
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
    written = None if announce else copy_new(connection, projection, batch, parameters)
    refused: list[Reject] = []
    if written is None:
        written, refused = store(
            connection, projection, batch.lines, batch.records, parameters, announce=announce
        )
    rejects = (*batch.rejects, *refused)
    for one in rejects:
        connection.execute(
            QUARANTINE,
            parameters | {"id": one.id, "reason": one.reason, "record": one.record, "stamp": one.stamp},
        )
    total = sum(written.values())
    if announce and total:
        connection.execute(NOTIFY)
    read = len(batch.lines) + len(batch.rejects)
    return Tally(
        read=read,
        inserted=written.get("insert", 0),
        updated=written.get("update", 0) + written.get("undelete", 0),
        deleted=written.get("delete", 0) + written.get("merge", 0),
        unchanged=read - len(rejects) - total,
        rejected=len(rejects),
        nuls=batch.nuls,
    )


def copy_new(
    connection: Connection, projection: Projection, batch: Batch, parameters: dict[str, Any]
) -> dict[str, int] | None:
    """A page straight into its table; None, and nothing done, where any of it is there already or refused.

    For a first load: most of its pages meet none of their rows, and this takes half the time of a merge.
    """
    if not batch.lines or connection.execute(ANY_REJECT, parameters).scalar():
        return None
    try:
        with connection.begin_nested():
            copy(connection, statements(projection).copy_straight, batch.lines)
    except (DBAPIError, psycopg2.Error) as error:
        if not is_records_fault(error):
            raise
        return None
    return {"insert": len(batch.lines) - batch.deleted, "delete": batch.deleted}


def store(
    connection: Connection,
    projection: Projection,
    lines: Sequence[bytes],
    records: Sequence[Record],
    parameters: dict[str, Any],
    *,
    announce: bool,
) -> tuple[dict[str, int], list[Reject]]:
    """Rows written by kind of change, and the rows that Postgres refuses, found by halving."""
    if not lines:
        return {}, []
    try:
        with connection.begin_nested():
            return stage_and_merge(connection, projection, lines, parameters, announce=announce), []
    except (DBAPIError, psycopg2.Error) as error:
        if not is_records_fault(error):
            raise
        if len(lines) == 1:
            cause = error.orig if isinstance(error, DBAPIError) else error
            return {}, [reject(projection, records[0], str(cause).splitlines()[0])]
    middle = len(lines) // 2
    written: dict[str, int] = {}
    refused: list[Reject] = []
    for half in (slice(None, middle), slice(middle, None)):
        part, more = store(connection, projection, lines[half], records[half], parameters, announce=announce)
        refused += more
        for op, count in part.items():
            written[op] = written.get(op, 0) + count
    return written, refused


def is_records_fault(error: Exception) -> bool:
    """Whether the values of a record caused a database error."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "pgcode", "") or "").startswith(RECORD_ERRORS)


def stage_and_merge(
    connection: Connection,
    projection: Projection,
    lines: Sequence[bytes],
    parameters: dict[str, Any],
    *,
    announce: bool,
) -> dict[str, int]:
    """COPY into the stage, merge, heal; rows written by kind of change."""
    sql = statements(projection)
    connection.execute(sql.stage)
    copy(connection, sql.copy, lines)
    merged = connection.execute(sql.merge, parameters) if announce else connection.execute(sql.merge_silently)
    written: dict[str, int] = {row[0]: row[1] for row in merged}
    connection.execute(HEAL, parameters)
    connection.execute(text("DROP TABLE stage"))
    return written


def copy(connection: Connection, statement: str, lines: Sequence[bytes]) -> None:
    """COPY lines that a transformation made."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(statement, io.BytesIO(b"\n".join([*lines, b""])), CHUNK)


# ── a first load ──────────────────────────────────────────────────────────────────────────────────────


def begin_first_load(connection: Connection, sobject: str) -> None:
    """Leave out the lookup indexes of an empty table: made at once at the end they cost a fraction.

    A role that may not is no obstacle. Not durable by itself, and need not be: `end_first_load` looks.
    """
    table = REPLICA[sobject]
    if connection.execute(table.select().limit(1)).first() is not None:
        return
    try:
        with connection.begin_nested():
            for index in table.indexes:
                connection.execute(DropIndex(index, if_exists=True))
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") != INSUFFICIENT_PRIVILEGE:
            raise


def unhurried(connection: Connection) -> None:
    """Pages of a first load need not be on disk when they are committed: lost together with the progress that
    names them, they are read again. Never where the feed is written: its numbers must not be given twice."""
    connection.execute(text("SET LOCAL synchronous_commit = off"))


def end_first_load(connection: Connection, sobject: str, run_id: int) -> None:
    """Make the lookup indexes that are missing, and tell the feed."""
    connection.execute(text("SET LOCAL statement_timeout = '1h'"))
    for index in REPLICA[sobject].indexes:
        connection.execute(CreateIndex(index, if_not_exists=True))
    announce_reload(connection, sobject, run_id)


def analyse(connection: Connection, sobject: str) -> None:
    """Refresh the planner's statistics of the columns looked up; autovacuum does the others later."""
    table = REPLICA[sobject]
    indexed = sorted({column.name for index in table.indexes for column in index.columns})
    columns = ", ".join(map(quoted, ["id", "deleted_at", *indexed]))
    connection.execute(
        text(f"SET LOCAL statement_timeout = '10min'; ANALYZE {REPLICAS}.{quoted(table.name)} ({columns})")
    )


def announce_reload(connection: Connection, sobject: str, run_id: int) -> None:
    """One feed entry for a whole table: consumers read it anew."""
    connection.execute(RELOAD, {"object": sobject, "run_id": run_id})
    connection.execute(NOTIFY)
