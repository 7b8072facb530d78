"""honest success: objects replicated now, accepted reasons, what deletions rest on, a replaced org"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op

from migrations.rights import publish_functions

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None

# Named objects have to be replicated: the wait for a misspelt one would never end.
WANTED = """
    IF EXISTS (SELECT FROM unnest(objects) AS o WHERE o NOT IN (SELECT object FROM sync.replicated)) THEN
        RAISE EXCEPTION '{function}: % is not replicated', (
                SELECT string_agg(o, ', ') FROM unnest(objects) AS o
                 WHERE o IS NULL OR o NOT IN (SELECT object FROM sync.replicated)
            ) USING ERRCODE = 'invalid_parameter_value', HINT = 'Replicated are: ' || coalesce(
                (SELECT string_agg(object, ', ' ORDER BY object) FROM sync.replicated), 'none yet') || '.';
    END IF;"""

COMPLETE_THROUGH = f"""
CREATE FUNCTION crm.complete_through(objects text[] DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    {WANTED.format(function="crm.complete_through").strip()}
    RETURN coalesce((
        SELECT min(coalesce(k.complete_through, '-infinity'))
          FROM sync.replicated AS r LEFT JOIN sync.cursor AS k ON k.object = r.object
         WHERE objects IS NULL OR r.object = ANY (objects)
    ), '-infinity');
END
$$
"""

WAIT_UNTIL = """
CREATE OR REPLACE FUNCTION crm.wait_until(
    at timestamptz, timeout interval DEFAULT '60 seconds', objects text[] DEFAULT NULL
)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    longest constant interval := '60 seconds';
    deadline timestamptz;
    reached boolean;
BEGIN
    IF wait_until.at IS NULL OR wait_until.timeout IS NULL THEN
        RAISE EXCEPTION 'crm.wait_until: at and timeout must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'For your own write: crm.wait_until(now()).';
    ELSIF wait_until.timeout > longest OR now() + wait_until.timeout > now() + longest THEN
        RAISE EXCEPTION 'crm.wait_until: timeout is %, at most % are allowed', wait_until.timeout, longest
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Remember now(); call crm.wait_until in a loop, one transaction a call, until it is true.';
    ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'crm.wait_until sees no later commits in a transaction that is %',
            upper(current_setting('transaction_isolation')) USING HINT = 'Call it in READ COMMITTED.';
    END IF;
    deadline := least(clock_timestamp() + wait_until.timeout, clock_timestamp() + longest);
    LOOP
        BEGIN
            reached := crm.complete_through(objects) >= wait_until.at;
            RAISE EXCEPTION USING ERRCODE = 'SYNC0';
        EXCEPTION WHEN SQLSTATE 'SYNC0' THEN
            NULL;
        END;
        IF reached THEN
            RETURN true;
        ELSIF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(1, greatest(0.01, extract(epoch FROM deadline - clock_timestamp()))));
    END LOOP;
END
$$
"""

# `loaded`, and what the knowledge of deletions rests on, are new; an object that is not replicated (yet, or
# any more) has no line.
FRESHNESS = """
CREATE OR REPLACE VIEW crm.freshness AS
SELECT p.object,
       k.complete_through,
       statement_timestamp() - k.complete_through AS lag,
       r.outcome AS last_outcome,
       r.finished_at AS last_finished_at,
       CASE WHEN r.outcome <> 'succeeded' THEN coalesce(r.error_class, 'unknown') END AS last_error,
       CASE p.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NULL)
       END AS rows,
       CASE p.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NOT NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NOT NULL)
       END AS tombstones,
       (SELECT count(*) FROM sync.reject AS j WHERE j.object = p.object) AS rejects,
       k.verified_through,
       k.complete_through IS NOT NULL AS loaded,
       CASE WHEN k.deletions_refused_at IS NULL THEN 'delete log' ELSE 'nightly verify' END AS deletions
  FROM sync.replicated AS p
  LEFT JOIN sync.cursor AS k ON k.object = p.object
  LEFT JOIN LATERAL (
       SELECT outcome, finished_at, error_class FROM sync.run
        WHERE object = p.object AND outcome <> 'running' AND command NOT IN ('verify', 'erase')
        ORDER BY id DESC LIMIT 1
       ) AS r ON true
"""


# Both forms of an Id: one of 15 characters is the beginning of one of 18.
RESOLVE_ID = """
CREATE OR REPLACE FUNCTION crm.resolve_id(id text)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE known AS NOT MATERIALIZED (
        SELECT a.id, a.master_record_id, a.deleted_at, a.deleted_reason FROM salesforce.account AS a
        UNION ALL
        SELECT c.id, c.master_record_id, c.deleted_at, c.deleted_reason FROM salesforce.contact AS c
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


def upgrade() -> None:
    op.create_table(
        "replicated",
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("object", name=op.f("replicated_pkey")),
        schema="sync",
        comment="The objects that are replicated now: what `all objects` means to consumers.",
    )
    # The next pass writes what SYNC_OBJECTS says.
    op.execute("INSERT INTO sync.replicated (object) SELECT object FROM sync.cursor")
    op.create_table(
        "accepted",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("accepted_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("object", "reason", name=op.f("accepted_pkey")),
        schema="sync",
        comment="Reasons of rejected records that an operator accepts: they hold up no pass.",
    )
    op.add_column("cursor", sa.Column("deletions_refused_at", sa.DateTime(timezone=True)), schema="sync")
    op.add_column("org", sa.Column("replaced_at", sa.DateTime(timezone=True)), schema="sync")
    op.execute(COMPLETE_THROUGH)
    op.execute(
        "COMMENT ON FUNCTION crm.complete_through IS "
        "'Through when all objects are complete; -infinity while one of them never was.'"
    )
    op.execute(WAIT_UNTIL)
    op.execute(FRESHNESS)
    op.execute(RESOLVE_ID)
    publish_functions()


def downgrade() -> None:
    before = import_module("migrations.versions.0005_boundaries")
    op.execute("DROP VIEW crm.freshness")
    op.execute(
        before.FRESHNESS.format(
            error="CASE WHEN r.outcome <> 'succeeded' THEN coalesce(r.error_class, 'unknown') END",
            columns="error_class",
            passes="command NOT IN ('verify', 'erase')",
        )
    )
    op.execute(
        "COMMENT ON VIEW crm.freshness IS 'What Salesforce committed before complete_through is here.'"
    )
    op.execute(before.WAIT_UNTIL)
    contract = import_module("migrations.versions.0002_the_consumers_contract")
    op.execute(contract.RESOLVE_ID.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(f"ALTER FUNCTION crm.resolve_id(text) {before.SAFE}")
    op.execute("DROP FUNCTION crm.complete_through")
    op.drop_column("org", "replaced_at", schema="sync")
    op.drop_column("cursor", "deletions_refused_at", schema="sync")
    op.drop_table("accepted", schema="sync")
    op.drop_table("replicated", schema="sync")
