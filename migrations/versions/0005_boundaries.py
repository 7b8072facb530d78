"""boundaries: safe search paths, rights by role, bounded calls, a class of error for consumers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.rights import publish_functions

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None

# Without pg_temp at its end a search path has it at its beginning for types: those of the caller.
SAFE = "SET search_path = pg_catalog, pg_temp"

# SECURITY DEFINER: consumers need rights on schema crm alone.
CHANGES = f"""
CREATE OR REPLACE FUNCTION crm.changes(after bigint, max integer DEFAULT 1000)
RETURNS TABLE (
    seq bigint, object text, record_id text, op text, changed text[], run_id bigint, at timestamptz,
    survivor_id text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
BEGIN
    IF changes.after IS NULL THEN
        RAISE EXCEPTION 'crm.changes: after is NULL' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass the last seq that you have processed, or 0 to begin.';
    ELSIF changes.max IS NULL OR changes.max NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION 'crm.changes: max is %, not between 1 and 10000', coalesce(changes.max::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Ask for at most 10000 entries at a time, each time after the last seq that you got.';
    END IF;
    RETURN QUERY
        SELECT c.seq, c.object, c.record_id, c.op, c.changed, c.run_id, c.at, c.survivor_id
          FROM sync.change AS c WHERE c.seq > changes.after ORDER BY c.seq LIMIT changes.max;
END
$$
"""

# Each look is a statement of its own, which sees what was committed before it, in a subtransaction that is
# rolled back: that releases the lock on sync.cursor, so that a waiting consumer never delays a migration.
# A minute at most: a function cannot wait without keeping vacuum from removing the rows that die meanwhile.
WAIT_UNTIL = f"""
CREATE OR REPLACE FUNCTION crm.wait_until(
    at timestamptz, timeout interval DEFAULT '60 seconds', objects text[] DEFAULT NULL
)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {SAFE}
AS $$
DECLARE
    longest constant interval := '60 seconds';
    deadline timestamptz;
    reached boolean;
BEGIN
    IF wait_until.at IS NULL OR wait_until.timeout IS NULL THEN
        RAISE EXCEPTION 'crm.wait_until: at and timeout must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'For your own write: crm.wait_until(now()).';
    -- Months have 30 days where intervals are compared, and those of the calendar where they are added.
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
            SELECT coalesce(bool_and(coalesce(k.complete_through >= wait_until.at, false)), false)
              INTO reached
              FROM unnest(coalesce(
                       wait_until.objects, ARRAY(SELECT c.object FROM sync.cursor AS c)
                   )) AS wanted
              LEFT JOIN sync.cursor AS k ON k.object = wanted;
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

# The text of an error may hold anything; consumers see its class.
FRESHNESS = """
CREATE OR REPLACE VIEW crm.freshness AS
SELECT k.object,
       k.complete_through,
       statement_timestamp() - k.complete_through AS lag,
       r.outcome AS last_outcome,
       r.finished_at AS last_finished_at,
       {error} AS last_error,
       CASE k.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NULL)
       END AS rows,
       CASE k.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NOT NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NOT NULL)
       END AS tombstones,
       (SELECT count(*) FROM sync.reject AS j WHERE j.object = k.object) AS rejects,
       k.verified_through
  FROM sync.cursor AS k
  LEFT JOIN LATERAL (
       SELECT outcome, finished_at, {columns} FROM sync.run
        WHERE object = k.object AND outcome <> 'running' AND {passes}
        ORDER BY id DESC LIMIT 1
       ) AS r ON true
"""

# As revision 0004 left them.
CHANGES_BEFORE = """
CREATE OR REPLACE FUNCTION crm.changes(after bigint, max integer DEFAULT 1000)
RETURNS TABLE (
    seq bigint, object text, record_id text, op text, changed text[], run_id bigint, at timestamptz,
    survivor_id text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT c.seq, c.object, c.record_id, c.op, c.changed, c.run_id, c.at, c.survivor_id
      FROM sync.change AS c WHERE c.seq > after ORDER BY c.seq LIMIT max
$$
"""
WAIT_UNTIL_BEFORE = """
CREATE OR REPLACE FUNCTION crm.wait_until(
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
    op.add_column("run", sa.Column("error_class", sa.Text(), nullable=True), schema="sync")
    op.execute(CHANGES)
    op.execute(WAIT_UNTIL)
    op.execute(f"ALTER FUNCTION crm.resolve_id(text) {SAFE}")
    op.execute(
        FRESHNESS.format(
            error="CASE WHEN r.outcome <> 'succeeded' THEN coalesce(r.error_class, 'unknown') END",
            columns="error_class",
            passes="command NOT IN ('verify', 'erase')",
        )
    )
    publish_functions()
    # What earlier releases wrote was not bounded.
    op.execute("UPDATE sync.run SET error = left(error, 2000) WHERE length(error) > 2000")


def downgrade() -> None:
    op.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO PUBLIC")
    op.execute(FRESHNESS.format(error="r.error", columns="error", passes="command <> 'verify'"))
    op.execute("ALTER FUNCTION crm.resolve_id(text) SET search_path = pg_catalog")
    op.execute(WAIT_UNTIL_BEFORE)
    op.execute(CHANGES_BEFORE)
    op.drop_column("run", "error_class", schema="sync")
