"""truth: coverage, the delete log, verification, the ledger of fields, the org"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

MOMENTS = ("covered", "deleted_through", "deleted_asked", "verified_through", "refreshed_at")

FRESHNESS = """
CREATE OR REPLACE VIEW crm.freshness AS
SELECT k.object,
       k.complete_through,
       statement_timestamp() - k.complete_through AS lag,
       r.outcome AS last_outcome,
       r.finished_at AS last_finished_at,
       r.error AS last_error,
       CASE k.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NULL)
       END AS rows,
       CASE k.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NOT NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NOT NULL)
       END AS tombstones,
       (SELECT count(*) FROM sync.reject AS j WHERE j.object = k.object) AS rejects{verified}
  FROM sync.cursor AS k
  LEFT JOIN LATERAL (
       SELECT outcome, finished_at, error FROM sync.run
        WHERE object = k.object AND outcome <> 'running'{passes}
        ORDER BY id DESC LIMIT 1
       ) AS r ON true
"""

# SECURITY DEFINER: consumers need rights on schema crm alone.
CHANGES = """
CREATE FUNCTION crm.changes(after bigint, max integer DEFAULT 1000)
RETURNS TABLE (
    seq bigint, object text, record_id text, op text, changed text[], run_id bigint, at timestamptz{column}
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT c.seq, c.object, c.record_id, c.op, c.changed, c.run_id, c.at{value}
      FROM sync.change AS c WHERE c.seq > after ORDER BY c.seq LIMIT max
$$
"""

# Each look is a statement of its own, which sees what was committed before it; a connection that a pooler
# takes away ends the wait with an error, never with a wrong answer.
WAIT_UNTIL = """
CREATE FUNCTION crm.wait_until(
    at timestamptz, timeout interval DEFAULT '30 minutes', objects text[] DEFAULT NULL
)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog
AS $$
DECLARE
    deadline constant timestamptz := clock_timestamp() + timeout;
    wanted constant text[] := ARRAY(
        SELECT DISTINCT unnest(coalesce(objects, ARRAY(SELECT k.object FROM sync.cursor AS k)))
    );
    reached bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'crm.wait_until waits in vain in a transaction that is %: it sees no later commits',
            upper(current_setting('transaction_isolation')) USING HINT = 'Call it in READ COMMITTED.';
    END IF;
    LOOP
        SELECT count(*) INTO reached FROM sync.cursor AS k
         WHERE k.object = ANY (wanted) AND k.complete_through >= wait_until.at;
        IF reached = cardinality(wanted) AND reached > 0 THEN
            RETURN true;
        ELSIF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(1, greatest(0.01, extract(epoch FROM deadline - clock_timestamp()))));
    END LOOP;
END
$$
"""


def upgrade() -> None:
    for name in MOMENTS:
        op.add_column("cursor", sa.Column(name, sa.DateTime(timezone=True)), schema="sync")
    op.add_column(
        "cursor",
        sa.Column("backfill", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        schema="sync",
    )
    op.create_table_comment(
        "cursor",
        "How far each object is complete, and deletions and values are known; hidden and late fields.",
        existing_comment=(
            "How far each object is complete, and the mapped fields the integration user cannot see."
        ),
        schema="sync",
    )
    op.add_column("progress", sa.Column("covered", sa.DateTime(timezone=True)), schema="sync")
    op.add_column("run", sa.Column("findings", postgresql.JSONB()), schema="sync")
    op.add_column("change", sa.Column("survivor_id", sa.Text(collation="C")), schema="sync")
    op.create_table(
        "org",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("single", name=op.f("org_single_check")),
        sa.PrimaryKeyConstraint("single", name=op.f("org_pkey")),
        schema="sync",
        comment="The one org whose records these are; another one is refused.",
    )
    op.create_table(
        "field",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("size", sa.Text(), nullable=False),
        sa.Column("calculated", sa.Boolean(), nullable=False),
        sa.Column("formula", sa.Text(), nullable=False),
        sa.Column("relationship", sa.Text(), nullable=False),
        sa.Column("targets", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("replicated", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "change IN ('known', 'added', 'vanished', 'returned', 'retyped', 'resized', 'formula', "
            "'selected', 'left out')",
            name=op.f("field_change_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("field_pkey")),
        schema="sync",
        comment="The ledger of the fields of the org: one line per change; the last of a field is its state.",
    )
    op.create_index(
        op.f("field_object_field_id_idx"), "field", ["object", "field", "id"], unique=False, schema="sync"
    )
    op.create_table(
        "reread",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("object", "record_id", name=op.f("reread_pkey")),
        schema="sync",
        comment="Records to be read again because one that they depend on has changed.",
    )
    op.create_table(
        "listing",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("system_modstamp", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("object", "record_id", name=op.f("listing_pkey")),
        schema="sync",
        comment="What a verify has listed so far; empty between two of them.",
        prefixes=["UNLOGGED"],
    )
    op.execute("DROP FUNCTION crm.changes")
    op.execute(CHANGES.format(column=", survivor_id text", value=", c.survivor_id"))
    op.execute(
        "COMMENT ON FUNCTION crm.changes IS 'The change feed after a number, in the order of commits.'"
    )
    op.execute(FRESHNESS.format(verified=",\n       k.verified_through", passes=" AND command <> 'verify'"))
    op.execute(WAIT_UNTIL)
    op.execute(
        "COMMENT ON FUNCTION crm.wait_until IS "
        "'Waits until all objects are complete through a time; false when that took too long.'"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION crm.wait_until")
    op.execute("DROP VIEW crm.freshness")
    op.execute(FRESHNESS.format(verified="", passes=""))
    op.execute(
        "COMMENT ON VIEW crm.freshness IS 'What Salesforce committed before complete_through is here.'"
    )
    op.execute("DROP FUNCTION crm.changes")
    op.execute(CHANGES.format(column="", value=""))
    op.execute(
        "COMMENT ON FUNCTION crm.changes IS 'The change feed after a number, in the order of commits.'"
    )
    for table in ("listing", "reread", "field", "org"):
        op.drop_table(table, schema="sync")
    op.drop_column("change", "survivor_id", schema="sync")
    op.drop_column("run", "findings", schema="sync")
    op.drop_column("progress", "covered", schema="sync")
    op.create_table_comment(
        "cursor",
        "How far each object is complete, and the mapped fields the integration user cannot see.",
        existing_comment=(
            "How far each object is complete, and deletions and values are known; hidden and late fields."
        ),
        schema="sync",
    )
    for name in (*MOMENTS, "backfill"):
        op.drop_column("cursor", name, schema="sync")
