"""feed ring: partitions that are emptied in turn, the position of the feed, sizes by day"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

from migrations.rights import publish_functions

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None

SLOTS = 8
SAFE = "SET search_path = pg_catalog, pg_temp"
COMMENT = "The feed: what changed, in the order of commits."
OPS = "op IN ('insert', 'update', 'delete', 'undelete', 'merge', 'reload', 'erase')"
COLUMNS = "seq, object, record_id, op, changed, run_id, at, survivor_id"

DEFINED = """
    seq bigint NOT NULL,
    object text NOT NULL,
    record_id text COLLATE "C",
    op text NOT NULL,
    changed text[] DEFAULT '{}' NOT NULL,
    run_id bigint,
    at timestamptz DEFAULT now() NOT NULL,
    survivor_id text COLLATE "C",
"""
# What is there becomes the first partition as it is: no row is moved.
RING = f"""
ALTER TABLE sync.change ADD COLUMN slot smallint NOT NULL DEFAULT 0;
ALTER TABLE sync.change DROP CONSTRAINT change_pkey;
ALTER TABLE sync.change RENAME TO change_0;
ALTER TABLE sync.change_0 ADD CONSTRAINT change_0_pkey PRIMARY KEY (slot, seq);
CREATE TABLE sync.change ({DEFINED}    slot smallint DEFAULT 0 NOT NULL,
    CONSTRAINT change_pkey PRIMARY KEY (slot, seq),
    CONSTRAINT change_op_check CHECK ({OPS})
) PARTITION BY LIST (slot);
ALTER TABLE sync.change ATTACH PARTITION sync.change_0 FOR VALUES IN (0);
CREATE INDEX change_seq_idx ON sync.change (seq);
CREATE INDEX change_object_seq_idx ON sync.change (object, seq);
COMMENT ON TABLE sync.change IS '{COMMENT}';
COMMENT ON TABLE sync.change_0 IS NULL;
"""

# The numbers of the feed have no gaps: where the entry after `after` is missing, it was pruned, or truncated
# after the snapshot of the caller's transaction was taken.
CHANGES = f"""
CREATE OR REPLACE FUNCTION crm.changes(after bigint, max integer DEFAULT 1000)
RETURNS TABLE (
    seq bigint, object text, record_id text, op text, changed text[], run_id bigint, at timestamptz,
    survivor_id text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    newest constant bigint := (SELECT f.last_seq FROM sync.feed AS f);
BEGIN
    IF changes.after IS NULL THEN
        RAISE EXCEPTION 'crm.changes: after is NULL' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass the last seq that you have processed; a new consumer begins at crm.feed_position().';
    ELSIF changes.max IS NULL OR changes.max NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'crm.changes: max is %, not between 1 and 10000', coalesce(changes.max::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Ask for at most 10000 entries at a time, each time after the last seq that you got.';
    ELSIF changes.after > newest THEN
        RAISE EXCEPTION 'crm.changes: after is %, and the last number of the feed is %', changes.after, newest
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'The database lost numbers that it had given out (a restore, a failover), or a replica lags. '
                   'Read the views anew, then go on from crm.feed_position().';
    ELSIF changes.after < newest AND NOT EXISTS (
        SELECT FROM sync.change AS c WHERE c.seq = changes.after + 1
    ) THEN
        RAISE EXCEPTION 'crm.changes: entries after % are not kept any more', changes.after
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Read the views anew, then go on from crm.feed_position(). Entries are kept for '
                   'SYNC_FEED_RETENTION.';
    END IF;
    RETURN QUERY
        SELECT c.seq, c.object, c.record_id, c.op, c.changed, c.run_id, c.at, c.survivor_id
          FROM sync.change AS c WHERE c.seq > changes.after ORDER BY c.seq LIMIT changes.max;
END
$$
"""

# A restore into another cluster has another system identifier; a promoted standby has another timeline.
POSITION = f"""
CREATE FUNCTION crm.feed_position(OUT epoch text, OUT seq bigint)
LANGUAGE sql STABLE SECURITY DEFINER {SAFE}
AS $$
    SELECT s.system_identifier::text || '.' || c.timeline_id::text, f.last_seq
      FROM sync.feed AS f, pg_control_system() AS s, pg_control_checkpoint() AS c
$$
"""


def upgrade() -> None:
    op.execute(RING)
    for slot in range(1, SLOTS):
        op.execute(f"CREATE TABLE sync.change_{slot} PARTITION OF sync.change FOR VALUES IN ({slot})")
    op.add_column(
        "feed",
        sa.Column("slot", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        schema="sync",
    )
    op.add_column(
        "feed",
        sa.Column("slot_since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        schema="sync",
    )
    op.create_table(
        "size",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", name=op.f("size_pkey")),
        schema="sync",
        comment="The size of the database by day: what its growth is told from.",
    )
    op.execute(CHANGES)
    op.execute(POSITION)
    op.execute(
        "COMMENT ON FUNCTION crm.feed_position IS "
        "'The epoch of the feed and its last number: where a consumer that has read the views goes on.'"
    )
    publish_functions()


def downgrade() -> None:
    op.execute("DROP FUNCTION crm.feed_position")
    op.execute(import_module("migrations.versions.0005_boundaries").CHANGES)
    op.drop_table("size", schema="sync")
    op.drop_column("feed", "slot_since", schema="sync")
    op.drop_column("feed", "slot", schema="sync")
    op.execute(f"""
ALTER TABLE sync.change RENAME TO change_ring;
ALTER TABLE sync.change_ring DROP CONSTRAINT change_pkey;
CREATE TABLE sync.change ({DEFINED}
    CONSTRAINT change_pkey PRIMARY KEY (seq),
    CONSTRAINT change_op_check CHECK ({OPS})
);
INSERT INTO sync.change ({COLUMNS}) SELECT {COLUMNS} FROM sync.change_ring;
DROP TABLE sync.change_ring;
COMMENT ON TABLE sync.change IS '{COMMENT}';
""")
