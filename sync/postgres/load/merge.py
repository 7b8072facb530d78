"""Load a page into Postgres: COPY into a temporary table, one merge statement, a tally."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import psycopg2
from psycopg2 import errorcodes
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from sync.catalogue.mapping import Projection
from sync.catalogue.transform import (
    Batch,
    Record,
    Reject,
    reject,
)
from sync.postgres.load.personal import (
    empty_tombstones,
    erase_twin_rejects,
    erase_values,
    remove_erased,
)
from sync.postgres.load.sql import (
    NOTIFY,
    Mode,
    feed,
    statements,
)
from sync.postgres.tables import REPLICA, qualified_name

# Classes of errors that one record causes: data exceptions, constraints, a value too long for an index.
RECORD_ERRORS = ("22", "23", "54000")
CHUNK = 1 << 24  # bytes that one read of COPY passes on: more than a page has

# Records that Salesforce no longer has, or no longer shows.
REMOVE = """
WITH compared AS MATERIALIZED (
    SELECT old.id, old.system_modstamp, 'delete' AS op, '{{}}'::text[] AS changed, given.at
      FROM {table} AS old
      JOIN unnest(CAST(:ids AS text[]), CAST(:moments AS timestamptz[])) AS given (id, at) USING (id)
     WHERE old.deleted_at IS NULL
), written AS (
    UPDATE {table} AS old
       SET deleted_at = compared.at, deleted_reason = :reason, synced_at = now()
      FROM compared WHERE old.id = compared.id
){feed}
SELECT count(*) FROM compared
"""

HEAL = text(
    "DELETE FROM sync.reject AS r USING pg_temp.stage AS s WHERE r.object = :object AND r.record_id = s.id "
    "AND (r.system_modstamp IS NULL OR s.system_modstamp >= r.system_modstamp)"
)
FORGET = text("DELETE FROM sync.reject WHERE object = :object AND record_id = ANY (:ids)")
# Reasons why a page cannot be copied straight into its table: rejects to heal, erased persons to leave out.
NO_STRAIGHT_WAY = text("""
SELECT EXISTS (SELECT FROM sync.reject WHERE object = :object)
    OR EXISTS (SELECT FROM sync.erased WHERE lifted_at IS NULL)
""")
# A record that could not be stored may have its Id in the short form of 15 characters.
ERASED = "EXISTS (SELECT FROM sync.erased WHERE left(record_id, 15) = left(:id, 15) AND lifted_at IS NULL)"
WHOLE = text(
    "INSERT INTO sync.reread (object, record_id, whole) SELECT :object, :id, true WHERE NOT EXISTS "
    f"(SELECT FROM sync.reject AS r WHERE r.object = :object AND r.record_id = :id) AND NOT {ERASED} "
    "ON CONFLICT (object, record_id) DO UPDATE SET whole = true, at = now()"
)
MAY_HEAL = text(
    "INSERT INTO sync.reread (object, record_id, whole) SELECT :object, r.record_id, true "
    "FROM sync.reject AS r JOIN pg_temp.stage AS s ON s.id = r.record_id WHERE r.object = :object "
    "ON CONFLICT (object, record_id) DO UPDATE SET whole = true, at = now()"
)
QUARANTINE = text(
    "INSERT INTO sync.reject AS r (object, record_id, reason, record, system_modstamp, run_id) "
    "SELECT :object, :id, :reason, CAST(:record AS json), CAST(:stamp AS timestamptz), "
    f"CAST(:run_id AS bigint) WHERE NOT {ERASED} "
    "ON CONFLICT (object, record_id) DO UPDATE SET reason = excluded.reason, record = excluded.record, "
    "system_modstamp = excluded.system_modstamp, last_seen = now(), run_id = excluded.run_id "
    "WHERE (r.reason, r.record::text, r.run_id) "
    "IS DISTINCT FROM (excluded.reason, excluded.record::text, excluded.run_id)"
)


@dataclass(frozen=True, slots=True)
class Tally:
    """The counts of a load: `nuls` are NUL characters removed; `deleted` includes `merged`."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    rejected: int = 0
    nuls: int = 0
    merged: int = 0

    @property
    def written(self) -> int:
        return self.inserted + self.updated + self.deleted

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def merge(
    connection: Connection,
    projection: Projection,
    batch: Batch,
    run_id: int,
    *,
    announce: bool,
    mode: Mode = Mode.USUAL,
    keep: timedelta | None = None,
) -> Tally:
    """Merge one page into its table within the caller's transaction; return its counts.

    `announce` writes the feed. `mode` says which rows may be written. `keep` is the retention of a
    tombstone's values (None: for ever). Persons erased on request are left out. If an Id occurs twice in a
    page, the record with the newest stamp wins. Records that Postgres refuses are quarantined, as those that
    the transformation refuses; the others are stored.
    """
    name = projection.sobject.name
    parameters = {"object": name, "run_id": run_id, "keep": keep}
    # Empty tombstones stay empty, although Salesforce returns their values again.
    emptied_ids = empty_tombstones(connection, name, batch.ids) if batch.deleted else []
    written = None if announce else copy_new(connection, projection, batch, parameters)
    refused: list[Reject] = []
    if written is None:
        into = partial(stage_and_merge, connection, projection, parameters, announce=announce, mode=mode)
        written, refused = write_lines(connection, projection, batch.lines, batch.records, into)
    rejects = (*batch.rejects, *refused)
    for rejected_record in rejects:
        # Only a whole record is stored as a reject; a partial one is queued to be read whole.
        connection.execute(
            WHOLE if mode is Mode.PARTIAL else QUARANTINE,
            parameters
            | {
                "id": rejected_record.id,
                "reason": rejected_record.reason,
                "record": rejected_record.record,
                "stamp": rejected_record.stamp,
            },
        )
    if batch.deleted:
        erase_values(connection, name, batch.ids, keep)
        erase_values(connection, name, emptied_ids, timedelta())
    erase_twin_rejects(connection, name, rejects, run_id)
    rejected = 0 if mode is Mode.PARTIAL else len(rejects)
    total = sum(written.values())
    if announce and total:
        connection.execute(NOTIFY)
    read = len(batch.lines) + len(batch.rejects)
    return Tally(
        read=read,
        inserted=written.get("insert", 0),
        updated=written.get("update", 0) + written.get("undelete", 0),
        deleted=written.get("delete", 0) + written.get("merge", 0),
        unchanged=read - rejected - total,
        rejected=rejected,
        nuls=batch.nuls,
        merged=written.get("merge", 0),
    )


def copy_new(
    connection: Connection, projection: Projection, batch: Batch, parameters: dict[str, Any]
) -> dict[str, int] | None:
    """Copy a page straight into its table; return None, with nothing written, if a row exists already or is
    refused.

    It serves first loads, in which most pages hold only new records, and takes half the time of a merge.
    """
    if not batch.lines or connection.execute(NO_STRAIGHT_WAY, parameters).scalar():
        return None
    try:
        with connection.begin_nested():
            copy_lines(
                connection,
                statements(projection, table_of(connection, projection)).copy_straight,
                batch.lines,
            )
    except (DBAPIError, psycopg2.Error) as error:
        if not is_records_fault(error):
            raise
        return None
    return {"insert": len(batch.lines) - batch.deleted, "delete": batch.deleted}


def table_of(connection: Connection, projection: Projection) -> str:
    """Return the quoted name of the table of a projection's object."""
    return qualified_name(connection, REPLICA[projection.sobject.name])


def write_lines(
    connection: Connection,
    projection: Projection,
    lines: Sequence[bytes],
    records: Sequence[Record],
    into: Callable[[Sequence[bytes]], dict[str, int]],
) -> tuple[dict[str, int], list[Reject]]:
    """Write lines; return rows written by kind of change, and the records that Postgres refuses, found by
    halving."""
    if not lines:
        return {}, []
    try:
        with connection.begin_nested():
            return into(lines), []
    except (DBAPIError, psycopg2.Error) as error:
        if not is_records_fault(error):
            raise
        if len(lines) == 1:
            return {}, [reject(projection, records[0], reject_reason(error))]
    middle = len(lines) // 2
    written: dict[str, int] = {}
    refused: list[Reject] = []
    for half in (slice(None, middle), slice(middle, None)):
        part, more = write_lines(connection, projection, lines[half], records[half], into)
        refused += more
        for op, count in part.items():
            written[op] = written.get(op, 0) + count
    return written, refused


def reject_reason(error: Exception) -> str:
    """Return the reason that is stored: the class of the error without its message, which quotes the
    value."""
    code = sqlstate(error)
    try:
        name = errorcodes.lookup(code).lower()
    except KeyError:  # a trigger that users added may raise any code
        name = "unknown"
    return f"refused by Postgres: {code} {name}"


def is_records_fault(error: Exception) -> bool:
    """Return whether the values of a record caused a database error."""
    return sqlstate(error).startswith(RECORD_ERRORS)


def sqlstate(error: Exception) -> str:
    """Return the SQLSTATE of a database error, or ""."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "pgcode", "") or "")


def stage_and_merge(
    connection: Connection,
    projection: Projection,
    parameters: dict[str, Any],
    lines: Sequence[bytes],
    *,
    announce: bool,
    mode: Mode,
) -> dict[str, int]:
    """COPY lines into the stage, merge them, delete healed rejects; return rows written by kind of change."""
    sql = statements(projection, table_of(connection, projection), mode)
    connection.execute(sql.stage)
    copy_lines(connection, sql.copy, lines)
    remove_erased(connection, projection.sobject.name, projection.columns, parameters["run_id"])
    merged = connection.execute(sql.merge if announce else sql.merge_silently, parameters)
    written: dict[str, int] = {row[0]: row[1] for row in merged}
    connection.execute(MAY_HEAL if mode is Mode.PARTIAL else HEAL, parameters)
    connection.execute(text("DROP TABLE pg_temp.stage"))
    return written


def copy_lines(connection: Connection, statement: str, lines: Sequence[bytes]) -> None:
    """Run COPY with lines that the transformation built."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.copy_expert(statement, io.BytesIO(b"\n".join([*lines, b""])), CHUNK)


# ── comparing and removing ─────────────────────────────────────────


def compare(
    connection: Connection, projection: Projection, lines: Sequence[bytes], keep: timedelta | None = None
) -> list[Row[Any]]:
    """Compare records with their rows and write nothing; return the rows of `sql.COMPARE`.

    Records that Postgres refuses and persons erased on request are left out. `keep` as for `merge`.
    """
    if not lines:
        return []
    sql = statements(projection, table_of(connection, projection))
    try:
        with connection.begin_nested():
            connection.execute(sql.stage)
            copy_lines(connection, sql.copy, lines)
            remove_erased(connection, projection.sobject.name, projection.columns, None)
            found = list(connection.execute(sql.compare, {"keep": keep}))
            connection.execute(text("DROP TABLE pg_temp.stage"))
            return found
    except (DBAPIError, psycopg2.Error) as error:
        if not is_records_fault(error):
            raise
    if len(lines) == 1:
        return []
    middle = len(lines) // 2
    return [
        *compare(connection, projection, lines[:middle], keep),
        *compare(connection, projection, lines[middle:], keep),
    ]


def remove(
    connection: Connection,
    sobject: str,
    gone: Mapping[str, datetime],
    reason: str,
    run_id: int,
    keep: timedelta | None = None,
) -> int:
    """Turn live rows into tombstones; return how many there were.

    `gone` maps Ids to the times of their deletion. `keep` is the retention of their values (None: for ever).
    Rejects of these records are deleted.
    """
    table = qualified_name(connection, REPLICA[sobject])
    parameters = {"ids": list(gone), "moments": list(gone.values()), "reason": reason}
    statement = text(REMOVE.format(table=table, feed=feed(table)))
    count = int(
        connection.execute(statement, parameters | {"object": sobject, "run_id": run_id}).scalar_one()
    )
    connection.execute(FORGET, {"object": sobject, "ids": list(gone)})
    erase_values(connection, sobject, list(gone), keep)
    if count:
        connection.execute(NOTIFY)
    return count
