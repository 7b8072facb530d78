"""Values that must not stay: of erased persons, old tombstones, excluded fields. Every write path checks
here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.sql.elements import TextClause

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import snake_case
from sync.catalogue.transform import Reject
from sync.postgres.load.sql import erasure_due, feed
from sync.postgres.tables import (
    KEPT_COLUMNS,
    LISTING,
    OWN_COLUMNS,
    REPLICA,
    allow_long,
    qualified_name,
    quote,
)

BATCH = 1_000  # rows erased in one statement, well within the statement timeout

ANY_ERASED = text("SELECT EXISTS (SELECT FROM sync.erased WHERE lifted_at IS NULL)")
ERASED = text("""
SELECT record_id FROM sync.erased
 WHERE lifted_at IS NULL AND record_id = ANY (CAST(:ids AS text[])) ORDER BY 1
""")
OF_OBJECT = text("SELECT record_id FROM sync.erased WHERE object = :object AND lifted_at IS NULL ORDER BY 1")
# A record that refers to an erased one as the same person is erased, too.
TWINS = """
INSERT INTO sync.erased (object, record_id, asked_by, cause_id)
SELECT :object, s.id, e.asked_by, e.cause_id
  FROM pg_temp.stage AS s
  JOIN sync.erased AS e ON e.record_id = s.{column} AND e.lifted_at IS NULL
 WHERE {flag}
    ON CONFLICT (record_id) WHERE lifted_at IS NULL DO NOTHING
RETURNING record_id
"""
TWIN_REJECTS = text("""
INSERT INTO sync.erased (object, record_id, asked_by, cause_id)
SELECT :object, given.id, e.asked_by, e.cause_id
  FROM unnest(CAST(:ids AS text[]), CAST(:twins AS text[])) AS given (id, twin)
  JOIN sync.erased AS e ON e.record_id = given.twin AND e.lifted_at IS NULL
    ON CONFLICT (record_id) WHERE lifted_at IS NULL DO NOTHING
RETURNING record_id
""")
KEEP_OUT = text("""
DELETE FROM pg_temp.stage AS s USING sync.erased AS e WHERE e.record_id = s.id AND e.lifted_at IS NULL
""")

ERASE = """
WITH compared AS MATERIALIZED (
    SELECT id, system_modstamp, 'erase' AS op, '{{}}'::text[] AS changed
      FROM {table} WHERE id = ANY (CAST(:ids AS text[]))
), written AS (
    UPDATE {table} AS old
       SET {nothing}, custom = '{{}}', is_deleted = true, deleted_reason = 'erased',
           deleted_at = coalesce(old.deleted_at, now()), synced_at = now()
      FROM compared WHERE old.id = compared.id
){feed}
SELECT count(*) FROM compared
"""
FORGET = tuple(
    text(statement)
    for statement in (
        "DELETE FROM sync.reject WHERE left(record_id, 15) = ANY (CAST(:short AS text[]))",
        "DELETE FROM sync.reread WHERE record_id = ANY (CAST(:ids AS text[]))",
        "DELETE FROM sync.request WHERE record_id = ANY (CAST(:ids AS text[]))",
        "DELETE FROM sync.answer WHERE record_id = ANY (CAST(:ids AS text[]))",
        "DELETE FROM sync.listing WHERE record_id = ANY (CAST(:ids AS text[]))",
        # The names of changed fields, and the findings of a verify, are personal data, too.
        "UPDATE sync.change SET changed = '{}', old = NULL "
        "WHERE record_id = ANY (CAST(:ids AS text[])) AND (changed <> '{}' OR old IS NOT NULL)",
        """
UPDATE sync.run SET findings = jsonb_set(findings, '{differences}', (
           SELECT coalesce(jsonb_agg(d), '[]') FROM jsonb_array_elements(findings -> 'differences') AS d
            WHERE d ->> 'id' <> ALL (CAST(:ids AS text[]))))
 WHERE EXISTS (SELECT FROM jsonb_array_elements(findings -> 'differences') AS d
                WHERE d ->> 'id' = ANY (CAST(:ids AS text[])))
""",
    )
)

FORGET_LISTED = "DELETE FROM {listing} WHERE record_id = ANY (CAST(:ids AS text[]))"

EMPTY = """
UPDATE {table} SET {nothing}, custom = '{{}}'
 WHERE id = ANY (CAST(:ids AS text[])) AND deleted_at IS NOT NULL AND {in_force} AND NOT ({empty})
"""
# What the feed has kept of them goes with the values of a tombstone.
FORGET_OLD = """
UPDATE sync.change AS c SET old = NULL
  FROM {table} AS t
 WHERE t.id = ANY (CAST(:ids AS text[])) AND t.deleted_at IS NOT NULL AND {in_force}
   AND c.record_id = t.id AND c.old IS NOT NULL
"""
FORGET_OLD_OF_OBJECT = text("UPDATE sync.change SET old = NULL WHERE object = :object AND old IS NOT NULL")
EMPTY_TOMBSTONES = """
SELECT id FROM {table} WHERE id = ANY (CAST(:ids AS text[])) AND deleted_at IS NOT NULL AND {empty}
"""
ANY_DELETED = """
SELECT EXISTS (SELECT FROM {table}
                WHERE deleted_at IS NOT NULL AND deleted_at > :after AND deleted_at <= :until)
"""
EMPTY_DUE = """
WITH due AS (
    SELECT id FROM {table}
     WHERE deleted_at IS NOT NULL AND deleted_at > :after AND deleted_at <= :until AND NOT ({empty})
     LIMIT :most
), forgotten AS (
    UPDATE sync.change AS c SET old = NULL FROM due WHERE c.record_id = due.id AND c.old IS NOT NULL
)
UPDATE {table} AS t SET {nothing}, custom = '{{}}' FROM due WHERE t.id = due.id
"""

# Custom fields are kept if the condition `kept` accepts their names.
REDUCE = """
WITH batch AS MATERIALIZED (
    SELECT id FROM {table} WHERE id > :after ORDER BY id LIMIT :most
), reduced AS (
    UPDATE {table} AS t
       SET {nothing} custom = (
               SELECT coalesce(jsonb_object_agg(key, value), '{{}}') FROM jsonb_each(t.custom) WHERE {kept})
      FROM batch
     WHERE t.id = batch.id
       AND ({present} EXISTS (SELECT FROM jsonb_each(t.custom) WHERE NOT {kept}))
 RETURNING 1
)
SELECT (SELECT max(id) FROM batch) AS last, (SELECT count(*) FROM reduced) AS reduced
"""
# A rejected record is stored as received and may not be valid jsonb, so it is read again without the field.
REREAD_REJECTS = text("""
WITH gone AS (
    DELETE FROM sync.reject
     WHERE object = :object
       AND EXISTS (SELECT FROM unnest(CAST(:names AS text[])) AS n
                    WHERE position('"' || n || '"' IN record::text) > 0)
 RETURNING record_id
)
INSERT INTO sync.reread (object, record_id, whole)
SELECT :object, record_id, true FROM gone
    ON CONFLICT (object, record_id) DO UPDATE SET whole = true, at = now()
""")
REREAD_CUSTOM_REJECTS = text("""
WITH gone AS (
    DELETE FROM sync.reject WHERE object = :object AND position('__' IN record::text) > 0 RETURNING record_id
)
INSERT INTO sync.reread (object, record_id, whole)
SELECT :object, record_id, true FROM gone
    ON CONFLICT (object, record_id) DO UPDATE SET whole = true, at = now()
""")


def find_erased(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Return which of these records are erased and must not be read again."""
    return list(connection.execute(ERASED, {"ids": list(ids)}).scalars())


def all_erased(connection: Connection, sobject: str) -> list[str]:
    """Return all erased records of an object."""
    return list(connection.execute(OF_OBJECT, {"object": sobject}).scalars())


def remove_erased(connection: Connection, sobject: str, columns: Sequence[str], run_id: int | None) -> None:
    """Delete erased persons from the stage.

    With `run_id`, a record that is the same person as an erased one is erased, too.
    """
    if not connection.execute(ANY_ERASED).scalar():
        return
    twin = CATALOGUE[sobject].twin
    if run_id is not None and twin is not None and snake_case(twin.field) in columns:
        flag = snake_case(twin.flag) if twin.flag else ""
        if not flag or flag in columns:
            statement = TWINS.format(
                column=quote(snake_case(twin.field)), flag=f"s.{quote(flag)}" if flag else "true"
            )
            found = list(connection.execute(text(statement), {"object": sobject}).scalars())
            if found:
                allow_long(connection)  # the feed is scanned: it has no index on Ids
            erase(connection, sobject, found, run_id)
    connection.execute(KEEP_OUT)


def erase_twin_rejects(connection: Connection, sobject: str, found: Sequence[Reject], run_id: int) -> None:
    """Erase rejected records that are the same persons as erased ones."""
    pairs = [(reject.id, other) for reject in found if (other := twin_named(sobject, reject.record))]
    if pairs and connection.execute(ANY_ERASED).scalar():
        ids, twins = zip(*pairs, strict=True)
        parameters = {"object": sobject, "ids": list(ids), "twins": list(twins)}
        found_twins = list(connection.execute(TWIN_REJECTS, parameters).scalars())
        if found_twins:
            allow_long(connection)
        erase(connection, sobject, found_twins, run_id)


def twin_named(sobject: str, record: str) -> str | None:
    """Return the Id of the same person's record of another object, from a rejected record (JSON)."""
    twin = CATALOGUE[sobject].twin
    if twin is None:
        return None
    known = json.loads(record)
    named = known.get(twin.field)
    if twin.flag is not None and known.get(twin.flag) is not True:
        return None
    return named if isinstance(named, str) and named else None


def erase(connection: Connection, sobject: str, ids: Sequence[str], run_id: int) -> int:
    """Erase every copy of these records within the caller's transaction; return the number of rows.

    A row keeps its Id, its stamp, and the time and reason of its deletion. The caller writes sync.erased,
    which prevents that the records are stored again.
    """
    if not ids:
        return 0
    parameters = {"ids": list(ids), "short": [id_[:15] for id_ in ids]}
    listed = text(FORGET_LISTED.format(listing=qualified_name(connection, LISTING[sobject])))
    for statement in (*FORGET, listed):
        connection.execute(statement, parameters)
    statement = statement_for(
        connection, ERASE, sobject, keeping=frozenset({"id", "is_deleted", "system_modstamp"})
    )
    # Write the feed last: its counter stays locked until the caller's transaction ends.
    return int(connection.execute(statement, parameters | {"object": sobject, "run_id": run_id}).scalar_one())


def empty_tombstones(connection: Connection, sobject: str, ids: Sequence[str]) -> list[str]:
    """Return the records whose rows are tombstones without values: these stay without, whatever the retention
    is."""
    return list(
        connection.execute(statement_for(connection, EMPTY_TOMBSTONES, sobject), {"ids": list(ids)}).scalars()
    )


def erase_values(connection: Connection, sobject: str, ids: Sequence[str], keep: timedelta | None) -> None:
    """Erase the values of those rows that are tombstones older than `keep` (None: keep them for ever)."""
    if keep is not None:
        for statement in (EMPTY, FORGET_OLD):
            connection.execute(
                statement_for(connection, statement, sobject), {"ids": list(ids), "keep": keep}
            )


def any_deleted(connection: Connection, sobject: str, after: datetime, until: datetime) -> bool:
    """Return whether a record was deleted after `after` and until `until`."""
    statement = statement_for(connection, ANY_DELETED, sobject)
    return bool(connection.execute(statement, {"after": after, "until": until}).scalar())


def erase_due(connection: Connection, sobject: str, after: datetime, until: datetime) -> int:
    """Erase up to BATCH tombstones of records deleted after `after` and until `until`; return their
    number."""
    values = {"after": after, "until": until, "most": BATCH}
    return connection.execute(statement_for(connection, EMPTY_DUE, sobject), values).rowcount


def reduce_fields(
    connection: Connection,
    sobject: str,
    columns: Sequence[str],
    kept: str,
    values: dict[str, Any],
    after: str,
) -> tuple[str | None, int]:
    """Erase `columns`, and the custom fields that the SQL condition `kept` rejects, in the next BATCH rows
    after an Id.

    `values` are the parameters of `kept`. Returns the last Id (None: no row was left) and the number of rows
    changed.
    """
    statement = REDUCE.format(
        table=qualified_name(connection, REPLICA[sobject]),
        nothing="".join(f"{quote(column)} = NULL, " for column in columns),
        present="".join(f"t.{quote(column)} IS NOT NULL OR " for column in columns),
        kept=kept,
    )
    row = connection.execute(text(statement), values | {"after": after, "most": BATCH}).one()
    return row.last, row.reduced


def reread_rejects(connection: Connection, sobject: str, names: Sequence[str], *, custom: bool) -> None:
    """Queue rejected records that were stored with these fields, or (`custom`) with any custom field."""
    connection.execute(REREAD_REJECTS, {"object": sobject, "names": list(names)})
    if custom:
        connection.execute(REREAD_CUSTOM_REJECTS, {"object": sobject})


def forget_old_values(connection: Connection, sobject: str) -> None:
    """Erase the values that the feed has kept of an object's records."""
    connection.execute(FORGET_OLD_OF_OBJECT, {"object": sobject})


def statement_for(
    connection: Connection, statement: str, sobject: str, keeping: frozenset[str] = KEPT_COLUMNS
) -> TextClause:
    """Complete a statement for one object's table; `nothing` sets all columns to NULL but OWN and
    `keeping`."""
    return build_statement(statement, sobject, qualified_name(connection, REPLICA[sobject]), keeping)


@lru_cache(maxsize=64)
def build_statement(statement: str, sobject: str, table: str, keeping: frozenset[str]) -> TextClause:
    """Complete a statement for a table's quoted name."""
    columns = [
        quote(c.name) for c in REPLICA[sobject].columns if c.name not in keeping and c.name not in OWN_COLUMNS
    ]
    return text(
        statement.format(
            table=table,
            nothing=", ".join(f"{column} = NULL" for column in columns),
            empty=f"ROW({', '.join(columns)}) IS NULL AND custom = '{{}}'",
            in_force=erasure_due("deleted_at"),
            feed=feed(table),
        )
    )
