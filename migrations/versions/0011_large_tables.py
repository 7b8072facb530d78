"""large tables: changed parents, whose children are queued later and in pieces; rows are estimated"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None

# Counting goes through the whole table: up to this size it takes moments.
COUNTED_BYTES = 128 * 1024 * 1024

# Above it the statistics are used, as the planner uses them: rows per page when the table was last analysed,
# times its pages now; before that, eight rows per page. Tombstones are the entries of their own index.
FRESHNESS = f"""
CREATE OR REPLACE VIEW crm.freshness AS
SELECT p.object,
       k.complete_through,
       statement_timestamp() - k.complete_through AS lag,
       r.outcome AS last_outcome,
       r.finished_at AS last_finished_at,
       CASE WHEN r.outcome <> 'succeeded' THEN coalesce(r.error_class, 'unknown') END AS last_error,
       CASE
           WHEN s.estimated THEN greatest(s.everything - s.dead, 0)
           WHEN p.object = 'Account'
           THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NULL)
           WHEN p.object = 'Contact'
           THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NULL)
       END AS rows,
       CASE
           WHEN s.estimated THEN s.dead
           WHEN p.object = 'Account'
           THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NOT NULL)
           WHEN p.object = 'Contact'
           THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NOT NULL)
       END AS tombstones,
       (SELECT count(*) FROM sync.reject AS j WHERE j.object = p.object) AS rejects,
       k.verified_through,
       k.complete_through IS NOT NULL AS loaded,
       CASE WHEN k.deletions_refused_at IS NULL THEN 'delete log' ELSE 'nightly verify' END AS deletions,
       coalesce(s.estimated, false) AS estimated
  FROM sync.replicated AS p
  LEFT JOIN sync.cursor AS k ON k.object = p.object
  LEFT JOIN LATERAL (
       SELECT outcome, finished_at, error_class FROM sync.run
        WHERE object = p.object AND outcome <> 'running' AND command NOT IN ('verify', 'erase')
        ORDER BY id DESC LIMIT 1
       ) AS r ON true
  LEFT JOIN LATERAL (
       SELECT pg_relation_size(c.oid) > {COUNTED_BYTES} AS estimated,
              (CASE WHEN c.reltuples > 0 AND c.relpages > 0 THEN c.reltuples / c.relpages ELSE 8 END
               * (pg_relation_size(c.oid) / current_setting('block_size')::int))::bigint AS everything,
              coalesce((SELECT greatest(i.reltuples, 0)::bigint
                          FROM pg_index AS x JOIN pg_class AS i ON i.oid = x.indexrelid
                         WHERE x.indrelid = c.oid AND i.relname = c.relname || '_deleted_at_idx'), 0) AS dead
         FROM pg_class AS c
        WHERE c.oid = CASE p.object
                           WHEN 'Account' THEN 'salesforce.account'::regclass
                           WHEN 'Contact' THEN 'salesforce.contact'::regclass
                      END
       ) AS s ON true
"""


def upgrade() -> None:
    op.create_table(
        "changed_parent",
        sa.Column("child", sa.Text(), nullable=False),
        sa.Column("lookup", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("after_id", sa.Text(collation="C"), server_default=sa.text("''"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("child", "lookup", "record_id", name=op.f("changed_parent_pkey")),
        schema="sync",
        comment="Changed records whose children (rows of `child` naming them in `lookup`) are not all in "
        "sync.reread yet: those with an Id after `after_id`.",
    )
    op.execute(FRESHNESS)


def downgrade() -> None:
    before = import_module("migrations.versions.0007_honest_success")
    op.execute("DROP VIEW crm.freshness")
    op.execute(before.FRESHNESS)
    op.execute(
        "COMMENT ON VIEW crm.freshness IS 'What Salesforce committed before complete_through is here.'"
    )
    op.drop_table("changed_parent", schema="sync")
