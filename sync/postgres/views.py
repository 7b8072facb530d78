"""What consumers see: the SQL of a view for each object, and of what speaks of all objects.

Migrations are written from it (`make object`, `make field`); a migration that is written stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Table

from sync.postgres.tables import CONSUMERS, REPLICAS, TOMBSTONE

# Counting goes through the whole table: up to this size it takes moments.
COUNTED_BYTES = 128 * 1024 * 1024
FRESHNESS_COMMENT = "What Salesforce committed before complete_through is here."

# Above COUNTED_BYTES the statistics are used, as the planner uses them: rows per page when the table was last
# analysed, times its pages now; before that, eight rows per page. Tombstones are the entries of their index.
FRESHNESS = """
CREATE OR REPLACE VIEW {consumers}.freshness AS
SELECT p.object,
       k.complete_through,
       statement_timestamp() - k.complete_through AS lag,
       r.outcome AS last_outcome,
       r.finished_at AS last_finished_at,
       CASE WHEN r.outcome <> 'succeeded' THEN coalesce(r.error_class, 'unknown') END AS last_error,
       CASE
           WHEN s.estimated THEN greatest(s.everything - s.dead, 0)
{live}
       END AS rows,
       CASE
           WHEN s.estimated THEN s.dead
{dead}
       END AS tombstones,
       (SELECT count(*) FROM sync.reject AS j WHERE j.object = p.object) AS rejects,
       k.verified_through,
       k.complete_through IS NOT NULL AS loaded,
       CASE WHEN k.deletions_refused_at IS NULL THEN 'delete log' ELSE 'nightly verify' END AS deletions,
       coalesce(s.estimated, false) AS estimated,
       CASE
           WHEN k.complete_through IS NULL THEN NULL
           WHEN k.covered IS NULL OR k.covered < k.complete_through THEN 'overlap'
           ELSE 'covered'
       END AS claim,
       k.coverage_lag AS salesforce_lag
  FROM sync.replicated AS p
  LEFT JOIN sync.cursor AS k ON k.object = p.object
  LEFT JOIN LATERAL (
       SELECT outcome, finished_at, error_class FROM sync.run
        WHERE object = p.object AND outcome <> 'running' AND command NOT IN ('verify', 'erase', 'request')
        ORDER BY id DESC LIMIT 1
       ) AS r ON true
  LEFT JOIN LATERAL (
       SELECT pg_relation_size(c.oid) > {counted_bytes} AS estimated,
              (CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples / c.relpages ELSE 8 END
               * (pg_relation_size(c.oid) / current_setting('block_size')::int))::bigint AS everything,
              coalesce((SELECT greatest(i.reltuples, 0)::bigint
                          FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
                         WHERE x.indrelid = c.oid AND i.relname = c.relname || '_deleted_at_idx'), 0) AS dead
         FROM pg_class AS c
        WHERE c.oid = CASE p.object
{places}
                      END
       ) AS s ON true
"""
LIVE = (
    "           WHEN p.object = '{object}'\n"
    "           THEN (SELECT count(*) FROM {table} WHERE deleted_at IS NULL)"
)
DEAD = LIVE.replace("IS NULL", "IS NOT NULL")
PLACE = "                           WHEN '{object}' THEN '{table}'::regclass"

# Both forms of an Id: one of 15 characters is the beginning of one of 18. Not materialised, so that each step
# is an index look-up; the path guards against a circle. A record deleted without a survivor gives nothing.
RESOLVE_ID = """
CREATE OR REPLACE FUNCTION {consumers}.resolve_id(id text)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE known AS NOT MATERIALIZED (
{known}
    ), chain AS (
        SELECT k.id, k.master_record_id, k.deleted_at, k.deleted_reason, ARRAY[k.id] AS path
          FROM known AS k
         WHERE k.id >= resolve_id.id COLLATE "C" AND k.id <= rpad(resolve_id.id, 18, 'z') COLLATE "C"
           AND length(resolve_id.id) IN (15, 18)
        UNION ALL
        SELECT k.id, k.master_record_id, k.deleted_at, k.deleted_reason, chain.path || k.id
          FROM chain JOIN known AS k ON k.id = chain.master_record_id
         WHERE chain.deleted_reason = 'merged' AND k.id <> ALL (chain.path)
    )
    SELECT chain.id FROM chain WHERE chain.deleted_at IS NULL
$$
"""
KNOWN = "        SELECT {a}.id, {survivor}, {a}.deleted_at, {a}.deleted_reason FROM {table} AS {a}"


def consumer_columns(table: Table) -> list[str]:
    """The columns of an object's consumer view, in the order of a new one."""
    return [column.name for column in table.columns if column.name not in TOMBSTONE]


def consumer_view(table: str, columns: Sequence[str]) -> str:
    """The consumer view of one object: its live rows. Columns may be appended, never moved."""
    listed = ",\n       ".join(columns)
    return (
        f"CREATE OR REPLACE VIEW {CONSUMERS}.{table} AS\nSELECT {listed}\n"
        f"  FROM {REPLICAS}.{table}\n WHERE deleted_at IS NULL"
    )


def freshness(replicas: Mapping[str, Table]) -> str:
    """The view `freshness` over these objects, by API name."""
    return FRESHNESS.format(
        consumers=CONSUMERS,
        counted_bytes=COUNTED_BYTES,
        live="\n".join(each(LIVE, replicas)),
        dead="\n".join(each(DEAD, replicas)),
        places="\n".join(each(PLACE, replicas)),
    ).strip()


def resolve_id(replicas: Mapping[str, Table]) -> str:
    """The function `resolve_id` over these objects; those that cannot be merged know no survivor."""
    known = map(known_ids, replicas.values())
    return RESOLVE_ID.format(consumers=CONSUMERS, known="\n        UNION ALL\n".join(known)).strip()


def known_ids(table: Table) -> str:
    """The Ids of one object, for `resolve_id`; without MasterRecordId there are no survivors."""
    alias = table.name[0]
    mergeable = "master_record_id" in table.columns
    survivor = f"{alias}.master_record_id" if mergeable else "NULL::text AS master_record_id"
    return KNOWN.format(a=alias, survivor=survivor, table=f"{REPLICAS}.{table.name}")


def each(template: str, replicas: Mapping[str, Table]) -> Iterator[str]:
    """A piece of SQL for each object."""
    for name, table in replicas.items():
        yield template.format(object=name, table=f"{REPLICAS}.{table.name}")
