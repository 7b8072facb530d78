"""requests: consumers ask for a record to be read now, and wait for it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.rights import publish_functions

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | None = None
depends_on: str | None = None

SAFE = "SET search_path = pg_catalog, pg_temp"
# The last three characters say which of the others are capitals: five bits each.
FULL_ID = f"""
CREATE FUNCTION sync.full_id(caller text, id text)
RETURNS text
LANGUAGE plpgsql IMMUTABLE {SAFE}
AS $$
DECLARE
    short constant text := left(full_id.id, 15) COLLATE "C";
    suffix text := '';
    bits integer;
BEGIN
    IF full_id.id IS NULL OR full_id.id COLLATE "C" !~ '^[A-Za-z0-9]{{15}}([A-Za-z0-9]{{3}})?$' THEN
        RAISE EXCEPTION '%: % is no Salesforce Id', caller, coalesce(quote_literal(left(full_id.id, 80)), 'NULL')
            USING ERRCODE = CASE WHEN full_id.id IS NULL THEN 'null_value_not_allowed'
                                 ELSE 'invalid_parameter_value' END,
            HINT = 'Pass the Id of a record: 15 or 18 letters and digits.';
    END IF;
    FOR part IN 0..2 LOOP
        bits := 0;
        FOR place IN 0..4 LOOP
            IF substr(short, 5 * part + place + 1, 1) COLLATE "C" ~ '[A-Z]' THEN
                bits := bits + (1 << place);
            END IF;
        END LOOP;
        suffix := suffix || substr('ABCDEFGHIJKLMNOPQRSTUVWXYZ012345', bits + 1, 1);
    END LOOP;
    IF length(full_id.id) = 18 AND right(full_id.id, 3) COLLATE "C" <> suffix THEN
        RAISE EXCEPTION '%: % is mistyped: its last three characters do not fit the others', caller,
            quote_literal(full_id.id) USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Pass the Id with the capitals that Salesforce gave it.';
    END IF;
    RETURN short || suffix;
END
$$
"""

# A request that is committed, and that the worker has not taken up, serves another one: the reading is still to
# come. A transaction with an older snapshot may see as waiting what was answered before it changed the record.
# The count of a role is one row, so that its sessions cannot pass the limit together; what is rolled back does
# not count. The total is the sum of what other roles have committed.
MOST_WAITING, MOST_OF_ROLE, ROLES = 10_000, 1_000, 10
REQUEST = f"""
CREATE FUNCTION crm.request(id text)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    full_id constant text := sync.full_id('crm.request', request.id);
    allowed sync.requestable;
    counted sync.requester;
    made bigint;
BEGIN
    SELECT q.* INTO allowed FROM sync.requestable AS q WHERE q.prefix = left(full_id, 3);
    IF allowed.object IS NULL THEN
        IF NOT EXISTS (SELECT FROM sync.requestable AS q) THEN
            RAISE EXCEPTION 'crm.request: no worker has started with this release yet'
                USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Requests are answered by `python -m sync worker`: ask the operator to start it.';
        END IF;
        RAISE EXCEPTION 'crm.request: % belongs to no replicated object', full_id
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Ids of replicated objects begin with: ' || (
                SELECT string_agg(q.prefix || ' (' || q.object || ')', ', ' ORDER BY q.prefix)
                  FROM sync.requestable AS q) || '.';
    ELSIF allowed.per_hour = 0 THEN
        RAISE EXCEPTION 'crm.request: requests are switched off'
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Wait for the next pass with crm.wait_until(now()); the operator sets SYNC_REQUESTS_PER_HOUR.';
    ELSIF EXISTS (SELECT FROM sync.erased AS e WHERE e.record_id = full_id AND e.lifted_at IS NULL) THEN
        RAISE EXCEPTION 'crm.request: % was erased on request, and is not read again', full_id
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Erase your copy of it, too: the feed has an entry `erase` for it.';
    END IF;
    IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
        SELECT max(r.number) INTO made FROM sync.request AS r
         WHERE r.record_id = full_id
           AND r.number > coalesce((SELECT a.taken FROM sync.answer AS a WHERE a.record_id = full_id), 0);
        IF made IS NOT NULL THEN
            RETURN made;
        END IF;
    END IF;
    INSERT INTO sync.requester AS q (role, since, requests) VALUES (session_user, clock_timestamp(), 1)
        ON CONFLICT (role) DO UPDATE
       SET since = CASE WHEN clock_timestamp() - q.since BETWEEN '0' AND '1 hour' THEN q.since
                        ELSE excluded.since END,
           requests = CASE WHEN clock_timestamp() - q.since BETWEEN '0' AND '1 hour' THEN q.requests + 1
                           ELSE 1 END
    RETURNING q.* INTO counted;
    IF counted.requests > allowed.per_hour THEN
        RAISE EXCEPTION 'crm.request: role % has made its % requests of this hour', session_user, allowed.per_hour
            USING ERRCODE = 'program_limit_exceeded',
            HINT = 'It may make more from ' || to_char(counted.since + interval '1 hour', 'HH24:MI:SS TZ')
                   || ' on. Wait for the next pass with crm.wait_until(now()); the operator sets '
                   || 'SYNC_REQUESTS_PER_HOUR.';
    ELSIF (SELECT sum(q.requests) > {ROLES} * allowed.per_hour FROM sync.requester AS q
            WHERE q.since > clock_timestamp() - interval '1 hour') THEN
        RAISE EXCEPTION 'crm.request: all roles together have made {ROLES} times % requests within an hour',
            allowed.per_hour USING ERRCODE = 'program_limit_exceeded',
            HINT = 'Wait for the next pass with crm.wait_until(now()); the operator sets SYNC_REQUESTS_PER_HOUR.';
    ELSIF (SELECT count(*) >= {MOST_WAITING} OR count(*) FILTER (WHERE r.role = session_user) >= {MOST_OF_ROLE}
             FROM sync.request AS r) THEN
        RAISE EXCEPTION 'crm.request: {MOST_WAITING} requests are waiting, or {MOST_OF_ROLE} of role %', session_user
            USING ERRCODE = 'program_limit_exceeded',
            HINT = 'The worker does not answer them: an operator sees why with `python -m sync status`.';
    END IF;
    INSERT INTO sync.request (record_id, object, role, xid)
    VALUES (full_id, allowed.object, session_user, pg_current_xact_id()::text::bigint)
    RETURNING number INTO made;
    RETURN made;
END
$$
"""
# Numbers are given in the order of the calls, whatever the order of commits: a reading that answers one began
# after every call with a lower number. The look at the tables is rolled back, which releases its locks. A standby
# may lag behind what the caller has committed on the primary.
WAIT_FOR = f"""
CREATE FUNCTION crm.wait_for(id text, stamp bigint, timeout interval DEFAULT '60 seconds')
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    longest constant interval := '60 seconds';
    full_id constant text := sync.full_id('crm.wait_for', wait_for.id);
    deadline timestamptz;
    answered boolean;
    waiting boolean;
    mine boolean;
BEGIN
    IF wait_for.stamp IS NULL OR wait_for.timeout IS NULL THEN
        RAISE EXCEPTION 'crm.wait_for: stamp and timeout must not be NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'Pass the number that crm.request gave.';
    ELSIF wait_for.timeout > longest OR now() + wait_for.timeout > now() + longest THEN
        RAISE EXCEPTION 'crm.wait_for: timeout is %, at most % are allowed', wait_for.timeout, longest
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Call crm.wait_for in a loop, one transaction a call, until it is true.';
    ELSIF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'crm.wait_for sees no later commits in a transaction that is %',
            upper(current_setting('transaction_isolation')) USING HINT = 'Call it in READ COMMITTED.';
    END IF;
    deadline := least(clock_timestamp() + wait_for.timeout, clock_timestamp() + longest);
    LOOP
        BEGIN
            SELECT coalesce(a.answered >= wait_for.stamp, false), r.number IS NOT NULL,
                   coalesce(r.xid = pg_current_xact_id_if_assigned()::text::bigint, false)
              INTO answered, waiting, mine
              FROM (SELECT 1) AS one
              LEFT JOIN sync.answer AS a ON a.record_id = full_id
              LEFT JOIN sync.request AS r ON r.number = wait_for.stamp AND r.record_id = full_id;
            RAISE SQLSTATE 'SY000';
        EXCEPTION WHEN SQLSTATE 'SY000' THEN NULL;
        END;
        IF mine THEN
            RAISE EXCEPTION 'crm.wait_for: request % of % was made in this transaction, and the worker does not see it',
                wait_for.stamp, full_id USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Commit, then call crm.wait_for in the next transaction.';
        ELSIF answered THEN
            RETURN true;
        ELSIF NOT waiting AND NOT pg_is_in_recovery() THEN
            RAISE EXCEPTION 'crm.wait_for: no request % of % is waiting, or was answered within a day',
                wait_for.stamp, full_id USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Pass the Id and the number of crm.request. If they are right, the request was rolled back or '
                       'withdrawn: call crm.request again.';
        ELSIF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(0.2, greatest(0.01, extract(epoch FROM deadline - clock_timestamp()))));
    END LOOP;
END
$$
"""
COMMENTS = {
    "request(text)": """
Asks for a record to be read from Salesforce now; gives the number that crm.wait_for takes.
id: the Id of a record of a replicated object, of 15 or 18 characters
""",
    "wait_for(text, bigint, interval)": """
Waits until a record was read after a request; false where it has not when the timeout is over.
id: the Id that was passed to crm.request
stamp: the number that crm.request gave, in a transaction that is committed
timeout: how long to wait, at most 60 seconds
""",
}

# What consumers are told of the last run is of passes: the view that is there, whatever objects it speaks of.
PASSES = "ARRAY['verify'::text, 'erase'::text]"
PASSES_ALONE = "ARRAY['verify'::text, 'erase'::text, 'request'::text]"
REPLACE = """
DO $$
DECLARE
    before constant text := pg_get_viewdef('crm.freshness'::regclass);
    after constant text := replace(before, $part${before}$part$, $part${after}$part$);
BEGIN
    IF after = before THEN
        RAISE EXCEPTION 'crm.freshness is not the view that the releases before have made';
    END IF;
    EXECUTE 'CREATE OR REPLACE VIEW crm.freshness AS ' || after;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "request",
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("xid", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("request_pkey")),
        schema="sync",
        comment="Records that consumers have asked for, until they are read: consumers add lines, the worker removes "
        "them, and no line is ever changed.",
    )
    op.create_index(op.f("request_record_id_idx"), "request", ["record_id"], schema="sync")
    op.create_table(
        "requester",
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("requester_pkey")),
        schema="sync",
        comment="How many requests each role has made in its present hour: only consumers write here.",
    )
    op.create_table(
        "requestable",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(collation="C"), nullable=False),
        sa.Column("per_hour", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("object", name=op.f("requestable_pkey")),
        schema="sync",
        comment="The objects whose records may be asked for, how their Ids begin, and how often a role may ask.",
    )
    op.create_table(
        "answer",
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("taken", sa.BigInteger(), nullable=False),
        sa.Column("answered", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("found", sa.Boolean(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("answer_pkey")),
        schema="sync",
        comment="Through which request a record is being read, and was read: only the worker writes here.",
    )
    for statement in (FULL_ID, REQUEST, WAIT_FOR):
        op.execute(statement)
    op.execute("REVOKE EXECUTE ON FUNCTION sync.full_id(text, text) FROM PUBLIC")
    for function, comment in COMMENTS.items():
        op.execute(f"COMMENT ON FUNCTION crm.{function} IS '{comment.strip()}'")
    op.execute(REPLACE.format(before=PASSES, after=PASSES_ALONE))
    publish_functions()


def downgrade() -> None:
    op.execute(REPLACE.format(before=PASSES_ALONE, after=PASSES))
    for function in COMMENTS:
        op.execute(f"DROP FUNCTION crm.{function}")
    op.execute("DROP FUNCTION sync.full_id(text, text)")
    for table in ("answer", "requestable", "requester", "request"):
        op.drop_table(table, schema="sync")
