"""The SQL of a merge, built for the columns that were queried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from sqlalchemy import text
from sqlalchemy.sql.elements import TextClause

from sync.catalogue.mapping import Projection
from sync.postgres.tables import KEPT_COLUMNS, quote

# A full notification queue aborts every commit that notifies, and a listener that never reads fills it. Above
# half of its size no notification is sent, and consumers have to poll.
NOTIFY = text(
    "SELECT pg_notify('sync_change', last_seq::text) FROM sync.feed WHERE pg_notification_queue_usage() < 0.5"
)

STAGE = """
SET LOCAL work_mem = '16MB';
CREATE TEMPORARY TABLE pg_temp.stage ON COMMIT DROP AS
SELECT {columns} FROM {table} WITH NO DATA
"""

# Which rows are compared. Stamps have a resolution of one second, so an equal stamp does not prove equal
# values: `>=` and a comparison of the values decide, not `>`.
USUAL = "old.id IS NULL OR (latest.system_modstamp >= old.system_modstamp AND {differs})"
# Records that were read one by one, after the others, are current whatever their stamp is.
REPAIR = "old.id IS NULL OR {differs}"
# Some columns were read: they apply only to a row of the same stamp. The pass reads other rows whole.
PARTIAL = (
    "old.id IS NOT NULL AND latest.system_modstamp = old.system_modstamp "
    "AND (old.deleted_at IS NOT NULL) = latest.is_deleted AND {differs}"
)
# A custom field that is absent equals one that is null: a new field that is null in most records must not
# rewrite every row.
CUSTOM = """(old.custom || latest.custom <> old.custom
                     AND jsonb_strip_nulls(old.custom || latest.custom) <> jsonb_strip_nulls(old.custom))"""
# Of a tombstone whose values are erased or due for erasure, only the kept columns are compared: each reading
# of a record that is still in the recycle bin returns its values.
DIFFERS = """(CASE WHEN latest.is_deleted AND old.deleted_at IS NOT NULL
                        AND ({in_force} OR (ROW({old_values}) IS NULL AND old.custom = '{{}}'))
                   THEN ({old_kept}) IS DISTINCT FROM ({new_kept})
                   ELSE ({old}) IS DISTINCT FROM ({new})
                        OR (old.deleted_at IS NOT NULL) <> latest.is_deleted OR {custom} END)"""

# `compared` holds only what has to be written: new rows, and rows that differ.
# Custom fields that were read replace the stored ones; a field that is now hidden keeps its last value. Rows
# of the stage have the order of the page: with equal stamps the later record wins.
LATEST = """
WITH latest AS MATERIALIZED (
    SELECT DISTINCT ON (id) * FROM pg_temp.stage ORDER BY id, system_modstamp DESC, ctid DESC
)"""
MERGE = (
    LATEST
    + """, compared AS MATERIALIZED (
    SELECT latest.*,
           coalesce(old.custom, '{{}}') || latest.custom AS whole_custom,
           CASE WHEN latest.is_deleted THEN coalesce(old.deleted_at, latest.deleted_at) END AS tombstone,
           -- A merged record stays merged, also if MasterRecordId is hidden or was not queried.
           CASE WHEN latest.is_deleted AND old.deleted_reason = 'merged' THEN 'merged'
                ELSE latest.deleted_reason END AS whole_reason,
           CASE WHEN latest.deleted_reason = 'merged'
                     AND (old.deleted_reason IS DISTINCT FROM 'merged') THEN 'merge'
                WHEN latest.is_deleted AND (old.id IS NULL OR old.deleted_at IS NULL) THEN 'delete'
                WHEN old.id IS NULL THEN 'insert'
                WHEN old.deleted_at IS NOT NULL AND NOT latest.is_deleted THEN 'undelete'
                ELSE 'update' END AS op,
           CASE WHEN old.id IS NULL THEN '{{}}' ELSE
                array_remove(ARRAY[{changed}], NULL) END AS changed
      FROM latest LEFT JOIN {table} AS old ON old.id = latest.id
     WHERE {which}
), written AS (
    INSERT INTO {table} ({columns}, synced_at)
    SELECT {values}, whole_custom, tombstone, whole_reason, now() FROM compared
    ON CONFLICT (id) DO UPDATE SET {assignments}, synced_at = excluded.synced_at
){feed}
SELECT op, count(*) FROM compared GROUP BY op
"""
)

# The row lock on sync.feed lasts until commit: numbers follow the order of commits, without gaps.
# The statement sees the rows as they were before it: `old` has the values of the columns that change, and all
# values of a record that goes. None are kept unless a role is in sync.old_values, which may see them. Its row
# is locked until commit: a transaction that deletes it waits, and then erases what this one has kept.
FEED = """, counter AS (
    UPDATE sync.feed SET last_seq = last_seq + n.count
      FROM (SELECT count(*) AS count FROM compared) AS n
     WHERE n.count > 0
 RETURNING last_seq - n.count AS base, slot
), logged AS (
    INSERT INTO sync.change (slot, seq, object, record_id, op, changed, run_id, survivor_id, old)
    SELECT slot, base + row_number() OVER (ORDER BY system_modstamp, id), :object, id, op, changed, :run_id,
           CASE WHEN op = 'merge' THEN {survivor} END,
           CASE WHEN op NOT IN ('insert', 'erase')
                     AND EXISTS (SELECT FROM sync.old_values FOR KEY SHARE) THEN (
                SELECT jsonb_object_agg(v.key, v.value)
                  FROM {table} AS was, jsonb_each(to_jsonb(was) - '{own}'::text[]) AS v
                 WHERE was.id = compared.id
                   AND (v.key = ANY (compared.changed)
                        OR (op IN ('delete', 'merge') AND v.value <> 'null'))) END
      FROM compared, counter
)"""

# Compares records just read with their rows and writes nothing. `moved`: the stamps differ. `fields` lists
# columns, and custom fields by their names.
COMPARE = (
    LATEST
    + """
SELECT latest.id, old.id IS NULL AS absent, old.deleted_at IS NOT NULL AS gone, latest.is_deleted,
       latest.system_modstamp AS stamp, latest.system_modstamp IS DISTINCT FROM old.system_modstamp AS moved,
       CASE WHEN old.id IS NULL THEN '{{}}' ELSE
            array_remove(ARRAY[{columns_changed}]::text[], NULL)
            || ARRAY(SELECT key FROM jsonb_each(latest.custom)
                      WHERE nullif(value, 'null') IS DISTINCT FROM nullif(old.custom -> key, 'null')
                      ORDER BY key) END AS fields
  FROM latest LEFT JOIN {table} AS old ON old.id = latest.id
 WHERE old.id IS NULL OR latest.system_modstamp <> old.system_modstamp OR {differs}
"""
)


def feed(table: str, survivor: str = "NULL") -> str:
    """Return the part of a statement that writes the feed.

    `table` is the quoted name of the rows that change, `survivor` the SQL of a merge's surviving Id.
    """
    return FEED.format(table=table, survivor=survivor, own="{deleted_at,deleted_reason,synced_at}")


def erasure_due(deleted_at: str) -> str:
    """Return the SQL condition that a tombstone's values are due for erasure; `:keep` is their retention."""
    return f"(CAST(:keep AS interval) <= interval '0' OR {deleted_at} <= now() - CAST(:keep AS interval))"


@dataclass(frozen=True, slots=True)
class Statements:
    """The SQL for one projection."""

    stage: TextClause
    copy: str
    copy_straight: str
    merge: TextClause
    merge_silently: TextClause
    compare: TextClause


class Mode(Enum):
    """Which records of a page a merge may write."""

    USUAL = USUAL
    REPAIR = REPAIR
    PARTIAL = PARTIAL


@lru_cache(maxsize=32)
def statements(projection: Projection, table: str, mode: Mode = Mode.USUAL) -> Statements:
    """Build the SQL for a table (its quoted name); it changes only columns that were queried."""
    own = [quote(column) for column in projection.columns]
    rest = ["custom", "deleted_at", "deleted_reason"]
    columns = ", ".join([*own, *rest])
    compared = {c: (f"old.{c}", f"latest.{c}") for c in own}
    changed = [
        f"CASE WHEN {old} IS DISTINCT FROM {new} THEN '{column}' END"
        for column, (old, new) in zip(projection.columns, compared.values(), strict=True)
    ]
    survivor = '"master_record_id"' if "master_record_id" in projection.columns else "NULL"
    columns_changed = ", ".join(changed)
    changed.append(f"CASE WHEN {CUSTOM} THEN 'custom' END")
    kept = [compared[quote(column)] for column in projection.columns if column in KEPT_COLUMNS]
    differs = DIFFERS.format(
        in_force=erasure_due("old.deleted_at"),
        old_values=", ".join(
            compared[quote(column)][0] for column in projection.columns if column not in KEPT_COLUMNS
        )
        or "NULL",
        old_kept=", ".join(old for old, _ in kept),
        new_kept=", ".join(new for _, new in kept),
        old=", ".join(old for old, _ in compared.values()),
        new=", ".join(new for _, new in compared.values()),
        custom=CUSTOM,
    )
    parts = {
        "table": table,
        "which": mode.value.format(differs=differs),
        "differs": differs,
        "columns_changed": columns_changed,
        "columns": columns,
        "values": ", ".join(own),
        "changed": ", ".join(changed),
        "assignments": ", ".join(f"{c} = excluded.{c}" for c in [*own, *rest] if c != '"id"'),
    }
    return Statements(
        stage=text(STAGE.format(table=table, columns=columns)),
        # Salesforce has no empty text, only null: an empty field of the COPY text is null.
        copy=f"COPY pg_temp.stage ({columns}) FROM STDIN (NULL '')",
        copy_straight=f"COPY {table} ({columns}) FROM STDIN (NULL '')",
        merge=text(MERGE.format(feed=feed(table, survivor), **parts)),
        merge_silently=text(MERGE.format(feed="", **parts)),
        compare=text(COMPARE.format(**parts)),
    )
