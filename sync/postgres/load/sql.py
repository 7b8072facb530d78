"""The SQL of a merge, made for the columns that were queried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from sqlalchemy import text
from sqlalchemy.sql.elements import TextClause

from sync.catalogue.mapping import Projection
from sync.postgres.tables import KEPT, quoted

# A full queue aborts the commit of every notifier, and a listener that never reads fills it: then
# consumers have to poll.
NOTIFY = text(
    "SELECT pg_notify('sync_change', last_seq::text) FROM sync.feed WHERE pg_notification_queue_usage() < 0.5"
)

STAGE = """
SET LOCAL work_mem = '16MB';
CREATE TEMPORARY TABLE pg_temp.stage ON COMMIT DROP AS
SELECT {columns} FROM {table} WITH NO DATA
"""

# Which rows are compared. An equal stamp is no proof of equal values (one-second stamps), so `>=` and the
# values decide, not `>`.
USUAL = "old.id IS NULL OR (latest.system_modstamp >= old.system_modstamp AND {differs})"
# Read one by one, after everything else: whatever their stamp, this is how they are now.
REPAIR = "old.id IS NULL OR {differs}"
# Only some columns were read: they belong to the row that is there, or else all of it is still to come.
PARTIAL = (
    "old.id IS NOT NULL AND latest.system_modstamp = old.system_modstamp "
    "AND (old.deleted_at IS NOT NULL) = latest.is_deleted AND {differs}"
)
# Of custom fields one that is not there and one that is null are the same: a new field, null in most records,
# must not be written a million times.
CUSTOM = """(old.custom || latest.custom <> old.custom
                     AND jsonb_strip_nulls(old.custom || latest.custom) <> jsonb_strip_nulls(old.custom))"""
# Of a tombstone whose values are erased, or are to be, only what is left of it counts: a record that is
# still in the recycle bin is read again and again, with its values.
DIFFERS = """(CASE WHEN latest.is_deleted AND old.deleted_at IS NOT NULL
                        AND ({in_force} OR (ROW({old_values}) IS NULL AND old.custom = '{{}}'))
                   THEN ({old_kept}) IS DISTINCT FROM ({new_kept})
                   ELSE ({old}) IS DISTINCT FROM ({new})
                        OR (old.deleted_at IS NOT NULL) <> latest.is_deleted OR {custom} END)"""

# `compared` holds only what has to be written: new rows, and rows that differ.
# Custom fields are laid over the stored ones: a field that is hidden now keeps its last value. The stage's
# rows lie in the order of the page; of equal stamps the later record wins.
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
           -- Who was merged stays so, also where MasterRecordId is not shown or was not asked for.
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

# The row lock on sync.feed is held until commit: numbers are given in the order of commits, without gaps.
FEED = """, counter AS (
    UPDATE sync.feed SET last_seq = last_seq + n.count
      FROM (SELECT count(*) AS count FROM compared) AS n
     WHERE n.count > 0
 RETURNING last_seq - n.count AS base
), logged AS (
    INSERT INTO sync.change (seq, object, record_id, op, changed, run_id, survivor_id)
    SELECT base + row_number() OVER (ORDER BY system_modstamp, id), :object, id, op, changed, :run_id,
           CASE WHEN op = 'merge' THEN {survivor} END
      FROM compared, counter
)"""

# What differs between records just read and their rows, without writing anything: `moved` says that the stamp
# does, too. Of custom fields their names are given.
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


def in_force(deleted_at: str) -> str:
    """SQL: whether the values of a tombstone of this age are to be erased; `:keep` is how long they are
    kept."""
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
    """Built from the catalogue's columns for a table, named in SQL; only columns queried are touched."""
    own = [quoted(column) for column in projection.columns]
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
    kept = [compared[quoted(column)] for column in projection.columns if column in KEPT]
    differs = DIFFERS.format(
        in_force=in_force("old.deleted_at"),
        old_values=", ".join(
            compared[quoted(column)][0] for column in projection.columns if column not in KEPT
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
        # No text of Salesforce's is empty: nulls are.
        copy=f"COPY pg_temp.stage ({columns}) FROM STDIN (NULL '')",
        copy_straight=f"COPY {table} ({columns}) FROM STDIN (NULL '')",
        merge=text(MERGE.format(feed=FEED.format(survivor=survivor), **parts)),
        merge_silently=text(MERGE.format(feed="", **parts)),
        compare=text(COMPARE.format(**parts)),
    )
