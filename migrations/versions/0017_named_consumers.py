"""named consumers of the feed: subscribe, poll, ack; changes_since; values before a change"""

from __future__ import annotations

from importlib import import_module

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.rights import publish_functions

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | None = None
depends_on: str | None = None

SAFE = "SET search_path = pg_catalog, pg_temp"
ENTRY = """seq bigint, object text, record_id text, op text, changed text[], run_id bigint, at timestamptz,
    survivor_id text"""

# Another server has another system identifier, and a promoted standby another timeline, which the name of the
# current WAL file tells at once (the control file: after the next checkpoint). A restore from a dump makes the
# table anew, with another OID. Where the platform withholds a function, the epoch does without it.
EPOCH = f"""
CREATE FUNCTION sync.epoch()
RETURNS text
LANGUAGE plpgsql STABLE {SAFE}
AS $$
DECLARE
    server text := '0';
    timeline text := '0';
BEGIN
    IF has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') THEN
        server := (SELECT s.system_identifier FROM pg_control_system() AS s);
    END IF;
    IF NOT pg_is_in_recovery() THEN
        timeline := ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int;
    ELSIF has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE') THEN
        timeline := (SELECT c.timeline_id FROM pg_control_checkpoint() AS c);
    END IF;
    RETURN server || '.' || timeline || '.' || 'sync.feed'::regclass::oid;
END
$$
"""
POSITION = f"""
CREATE OR REPLACE FUNCTION crm.feed_position(OUT epoch text, OUT seq bigint)
LANGUAGE sql STABLE SECURITY DEFINER {SAFE}
AS $$
    SELECT sync.epoch(), f.last_seq FROM sync.feed AS f
$$
"""

# The numbers of the feed have no gaps: where the entry after `after` is missing, it was pruned, or truncated
# after the snapshot of the caller's transaction was taken. Each object is read by the index on (object, seq),
# whose order the comparison of rows asks for: with `c.object = o.object` the planner, which does not know the
# object, may prefer the index on seq, and read the whole feed for one that changes rarely.
ENTRIES = f"""
CREATE FUNCTION sync.entries(caller text, after bigint, max integer, objects text[])
RETURNS SETOF sync.change
LANGUAGE plpgsql STABLE {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    newest constant bigint := (SELECT f.last_seq FROM sync.feed AS f);
BEGIN
    IF entries.after IS NULL THEN
        RAISE EXCEPTION '%: after is NULL', caller USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass the last seq that you have processed; a new consumer begins at crm.feed_position().';
    ELSIF entries.max IS NULL OR entries.max NOT BETWEEN 1 AND 10000 THEN
        RAISE EXCEPTION '%: max is %, not between 1 and 10000', caller, coalesce(entries.max::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Ask for at most 10000 entries at a time, each time after the last seq that you got.';
    ELSIF entries.after > newest THEN
        RAISE EXCEPTION '%: after is %, and the last number of the feed is %', caller, entries.after, newest
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'The database lost numbers that it had given out (a restore, a failover), or a replica lags. '
                   'Read the views anew, then go on from crm.feed_position().';
    ELSIF entries.after < newest AND NOT EXISTS (
        SELECT FROM sync.change AS c WHERE c.seq = entries.after + 1
    ) THEN
        RAISE EXCEPTION '%: entries after % are not kept any more', caller, entries.after
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Read the views anew, then go on from crm.feed_position(). Entries are kept for '
                   'SYNC_FEED_RETENTION.';
    END IF;
    IF entries.objects IS NULL THEN
        RETURN QUERY
            SELECT c.* FROM sync.change AS c WHERE c.seq > entries.after ORDER BY c.seq LIMIT entries.max;
    ELSE
        RETURN QUERY
            SELECT e.* FROM (SELECT DISTINCT unnest(entries.objects) AS object) AS o
             CROSS JOIN LATERAL (
                   SELECT c.* FROM sync.change AS c
                    WHERE (c.object, c.seq) > (o.object, entries.after) AND c.object <= o.object
                    ORDER BY c.object, c.seq LIMIT entries.max
                   ) AS e
             ORDER BY e.seq LIMIT entries.max;
    END IF;
END
$$
"""
# Named objects have to be replicated: entries of a misspelt one would never come.
CHECK_OBJECTS = f"""
CREATE FUNCTION sync.check_objects(caller text, objects text[])
RETURNS void
LANGUAGE plpgsql STABLE {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    unknown constant text := (
        SELECT string_agg(coalesce(o, 'NULL'), ', ') FROM unnest(check_objects.objects) AS o
         WHERE o IS NULL OR o NOT IN (SELECT r.object FROM sync.replicated AS r));
BEGIN
    IF unknown IS NOT NULL OR cardinality(check_objects.objects) = 0 THEN
        RAISE EXCEPTION '%: %', caller, coalesce(unknown || ' is not replicated', 'objects is empty')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Replicated are: ' || coalesce(
                (SELECT string_agg(r.object, ', ' ORDER BY r.object) FROM sync.replicated AS r), 'none yet')
                || '. NULL means all of them.';
    END IF;
END
$$
"""
CHANGES = f"""
CREATE OR REPLACE FUNCTION crm.changes(after bigint, max integer DEFAULT 1000)
RETURNS TABLE (
    {ENTRY}
)
LANGUAGE sql STABLE SECURITY DEFINER {SAFE}
AS $$
    SELECT e.seq, e.object, e.record_id, e.op, e.changed, e.run_id, e.at, e.survivor_id
      FROM sync.entries('crm.changes', changes.after, changes.max, NULL) AS e ORDER BY e.seq
$$
"""
CHANGES_SINCE = f"""
CREATE FUNCTION crm.changes_since(
    epoch text, after bigint, max integer DEFAULT 1000, objects text[] DEFAULT NULL
)
RETURNS TABLE (
    {ENTRY}
)
LANGUAGE plpgsql STABLE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    present constant text := sync.epoch();
BEGIN
    IF changes_since.epoch IS DISTINCT FROM present THEN
        RAISE EXCEPTION 'crm.changes_since: epoch is %, and the feed''s is %',
            coalesce(changes_since.epoch, 'NULL'), present
            USING ERRCODE = CASE WHEN changes_since.epoch IS NULL THEN 'null_value_not_allowed'
                                 ELSE 'invalid_parameter_value' END,
            HINT = 'The database was restored or failed over: numbers may have been given out twice. '
                   'Read the views anew, then go on from crm.feed_position().';
    END IF;
    PERFORM sync.check_objects('crm.changes_since', changes_since.objects);
    RETURN QUERY
        SELECT e.seq, e.object, e.record_id, e.op, e.changed, e.run_id, e.at, e.survivor_id
          FROM sync.entries('crm.changes_since', changes_since.after, changes_since.max, changes_since.objects)
            AS e ORDER BY e.seq;
END
$$
"""

# A role's own consumer. Locked: a second process of the same consumer waits until the first has committed.
OWN = f"""
CREATE FUNCTION sync.own_consumer(caller text, name text)
RETURNS sync.consumer
LANGUAGE plpgsql VOLATILE {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    found sync.consumer;
BEGIN
    SELECT c.* INTO found FROM sync.consumer AS c
     WHERE c.role = session_user AND c.name = own_consumer.name FOR UPDATE;
    IF found.name IS NULL THEN
        RAISE EXCEPTION '%: role % has no consumer %', caller, session_user,
            coalesce(quote_literal(own_consumer.name), 'NULL')
            USING ERRCODE = 'undefined_object',
            HINT = 'Subscribe, and read the views in the same transaction: SELECT crm.subscribe('
                   || coalesce(quote_literal(own_consumer.name), '''name''') || ');';
    END IF;
    RETURN found;
END
$$
"""
MOST, MOST_OF_ROLE = 100, 20
SUBSCRIBE = f"""
CREATE FUNCTION crm.subscribe(name text, objects text[] DEFAULT NULL, OUT epoch text, OUT seq bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    wanted constant text[] := CASE WHEN subscribe.objects IS NOT NULL THEN
        ARRAY(SELECT DISTINCT o FROM unnest(subscribe.objects) AS o ORDER BY o) END;
    known sync.consumer;
BEGIN
    IF subscribe.name IS NULL OR subscribe.name !~ '^[a-z0-9][a-z0-9_.-]{{0,62}}$' THEN
        RAISE EXCEPTION 'crm.subscribe: name is %, which names no consumer',
            coalesce(quote_literal(left(subscribe.name, 80)), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use at most 63 lower-case letters, digits, and _ . - after the first: orders, billing-eu.';
    END IF;
    IF NOT EXISTS (
        SELECT FROM sync.consumer AS c WHERE c.role = session_user AND c.name = subscribe.name
    ) THEN
        PERFORM sync.check_objects('crm.subscribe', subscribe.objects);
        -- Roles that were dropped need theirs no more; who is at work on one of them is not waited for.
        DELETE FROM sync.consumer AS c USING (
            SELECT d.role, d.name FROM sync.consumer AS d
             WHERE d.role NOT IN (SELECT r.rolname FROM pg_roles AS r) FOR UPDATE SKIP LOCKED
        ) AS gone WHERE c.role = gone.role AND c.name = gone.name;
        IF (SELECT count(*) >= {MOST} OR count(*) FILTER (WHERE c.role = session_user) >= {MOST_OF_ROLE}
              FROM sync.consumer AS c) THEN
            RAISE EXCEPTION 'crm.subscribe: there are {MOST} consumers, or {MOST_OF_ROLE} of role %', session_user
                USING ERRCODE = 'program_limit_exceeded',
                HINT = 'End one that is not needed: SELECT crm.unsubscribe(name); an operator sees all of '
                       'them with `python -m sync status`.';
        END IF;
        INSERT INTO sync.consumer (role, name, objects, epoch, seq)
        SELECT session_user, subscribe.name, wanted, p.epoch, p.seq FROM crm.feed_position() AS p
            ON CONFLICT (role, name) DO NOTHING;
    END IF;
    known := sync.own_consumer('crm.subscribe', subscribe.name);
    IF known.objects IS DISTINCT FROM wanted THEN
        RAISE EXCEPTION 'crm.subscribe: consumer % has other objects: %', quote_literal(known.name),
            coalesce(array_to_string(known.objects, ', '), 'all')
            USING ERRCODE = 'duplicate_object',
            HINT = 'To change them: SELECT crm.unsubscribe(' || quote_literal(known.name)
                   || '), then subscribe and read the views again.';
    END IF;
    subscribe.epoch := known.epoch;
    subscribe.seq := known.seq;
END
$$
"""
# What was read and holds nothing of the consumer's objects is passed: else a consumer of an object that changes
# rarely would fall behind what is kept. An object that is not replicated now is told as reload, too: it goes on
# where it was once it is replicated again, and the entries that were lost may be its own.
POLL = f"""
CREATE FUNCTION crm.poll(name text, max integer DEFAULT 1000)
RETURNS TABLE (
    {ENTRY}, old jsonb
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    mine constant sync.consumer := sync.own_consumer('crm.poll', poll.name);
    present record;
BEGIN
    SELECT p.epoch, p.seq INTO present FROM crm.feed_position() AS p;
    IF mine.epoch <> present.epoch OR mine.seq > present.seq OR (
        mine.seq < present.seq AND NOT EXISTS (SELECT FROM sync.change AS c WHERE c.seq = mine.seq + 1)
    ) THEN
        UPDATE sync.consumer AS c SET told_epoch = present.epoch, told_seq = present.seq
         WHERE c.role = mine.role AND c.name = mine.name AND c.told_epoch IS DISTINCT FROM present.epoch;
        RETURN QUERY
            SELECT present.seq, o.object, NULL::text, 'reload', '{{}}'::text[], NULL::bigint, now(),
                   NULL::text, NULL::jsonb
              FROM unnest(coalesce(mine.objects, ARRAY(
                   SELECT r.object FROM sync.replicated AS r UNION SELECT l.object FROM sync.cursor AS l
                   ))) AS o (object) ORDER BY o.object;
        RETURN;
    END IF;
    RETURN QUERY
        SELECT e.seq, e.object, e.record_id, e.op, e.changed, e.run_id, e.at, e.survivor_id,
               CASE WHEN EXISTS (SELECT FROM sync.old_values AS o WHERE o.role = session_user) THEN e.old END
          FROM sync.entries('crm.poll', mine.seq, poll.max, mine.objects) AS e ORDER BY e.seq;
    IF NOT FOUND AND mine.seq < present.seq AND mine.moved_at < now() - interval '1 hour' THEN
        UPDATE sync.consumer AS c SET seq = present.seq, moved_at = now()
         WHERE c.role = mine.role AND c.name = mine.name;
    END IF;
END
$$
"""
# The look at the feed is rolled back, which releases its locks: while the transaction that acknowledges is open,
# partitions can be truncated.
ACK = f"""
CREATE FUNCTION crm.ack(name text, seq bigint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
DECLARE
    mine constant sync.consumer := sync.own_consumer('crm.ack', ack.name);
    present record;
    reloaded boolean;
    kept boolean;
BEGIN
    SELECT p.epoch, p.seq INTO present FROM crm.feed_position() AS p;
    reloaded := mine.told_epoch = present.epoch AND ack.seq >= mine.told_seq;
    IF ack.seq IS NULL THEN
        RAISE EXCEPTION 'crm.ack: seq is NULL' USING ERRCODE = 'null_value_not_allowed',
            HINT = 'Pass the last seq that crm.poll gave and you have processed; without entries do not call it.';
    ELSIF ack.seq > present.seq THEN
        RAISE EXCEPTION 'crm.ack: seq is %, and the last number of the feed is %', ack.seq, present.seq
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Pass the last seq that crm.poll gave. If it did, the database was restored since: poll again.';
    ELSIF mine.epoch <> present.epoch AND reloaded IS NOT TRUE THEN
        RAISE EXCEPTION 'crm.ack: the database was restored or failed over since consumer % polled',
            quote_literal(mine.name) USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Poll again: crm.poll says reload. Read the views, then acknowledge the seq of these entries.';
    ELSIF ack.seq <= mine.seq AND reloaded IS NOT TRUE THEN
        RETURN mine.seq;
    END IF;
    BEGIN
        kept := ack.seq = present.seq OR EXISTS (SELECT FROM sync.change AS c WHERE c.seq = ack.seq + 1);
        RAISE SQLSTATE 'SY000';
    EXCEPTION WHEN SQLSTATE 'SY000' THEN NULL;
    END;
    IF NOT kept THEN
        RAISE EXCEPTION 'crm.ack: entries after % are not kept any more', ack.seq
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Poll again: crm.poll says reload. Read the views, then acknowledge the seq of these entries.';
    END IF;
    UPDATE sync.consumer AS c
       SET seq = ack.seq, epoch = present.epoch, told_epoch = NULL, told_seq = NULL, moved_at = now()
     WHERE c.role = mine.role AND c.name = mine.name;
    RETURN ack.seq;
END
$$
"""
UNSUBSCRIBE = f"""
CREATE FUNCTION crm.unsubscribe(name text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER {SAFE}
AS $$
#variable_conflict use_column
BEGIN
    DELETE FROM sync.consumer AS c WHERE c.role = session_user AND c.name = unsubscribe.name;
    RETURN FOUND;
END
$$
"""
INTERNAL = (
    "sync.epoch()",
    "sync.entries(text, bigint, integer, text[])",
    "sync.check_objects(text, text[])",
    "sync.own_consumer(text, text)",
)
# A sentence, then a line for each parameter and each column of the result.
RESULT = """
seq: the number of the entry, which grows with each commit
object: API name of the object
record_id: Id of the record; null for the entries of a whole object
op: insert, update, delete, undelete, merge, erase or reload; for any other one, read the record again
changed: the columns that an update changed
run_id: the run that wrote the entry; null for a reload that crm.poll itself gives
at: when the entry was written
survivor_id: for a merge, the Id of the record that survived
""".strip()
COMMENTS = {
    "feed_position()": """
Where a consumer that has read the views goes on: the epoch of the feed and its last number.
epoch: another one after the database was restored to an earlier state, or failed over
seq: the last number that was given
""",
    "changes_since(text, bigint, integer, text[])": f"""
The change feed after a number of an epoch, of some objects or of all, in the order of commits.
epoch: that of crm.feed_position() when the number was taken; an error where the feed has another one
after: the last seq that was processed
max: at most so many entries, 1 to 10000
objects: API names; all replicated objects where it is null
{RESULT}
""",
    "subscribe(text, text[])": """
Begins a named consumer of this role at the present position of the feed; one that is there stays where it is.
name: lower-case letters, digits and _ . -, at most 63; each role has names of its own
objects: API names; all replicated objects where it is null
epoch: the epoch of the feed that the consumer is in
seq: the number up to which it has acknowledged
""",
    "poll(text, integer)": f"""
What a named consumer of this role has not acknowledged yet, in the order of commits.
name: the name that it subscribed with
max: at most so many entries, 1 to 10000
{RESULT}
old: the values before the change, by column, where an operator allows this role to see them
""",
    "ack(text, bigint)": """
Acknowledges all entries of a named consumer up to a number; gives the number up to which it has acknowledged.
name: the name that it subscribed with
seq: that of the last entry that was processed
""",
    "unsubscribe(text)": """
Ends a named consumer of this role; false where there was none.
name: the name that it subscribed with
""",
}


def upgrade() -> None:
    op.create_table(
        "consumer",
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("objects", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("epoch", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("told_epoch", sa.Text(), nullable=True),
        sa.Column("told_seq", sa.BigInteger(), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("role", "name", name=op.f("consumer_pkey")),
        schema="sync",
        comment="Named consumers of the feed and how far they are: only consumers write here, the worker never.",
    )
    op.create_table(
        "old_values",
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("old_values_pkey")),
        schema="sync",
        comment="Roles that may see values before a change: without one the feed keeps none.",
    )
    op.add_column("change", sa.Column("old", postgresql.JSONB(), nullable=True), schema="sync")
    op.execute("CREATE INDEX change_record_id_idx ON sync.change (record_id) WHERE old IS NOT NULL")
    statements = (EPOCH, POSITION, ENTRIES, CHECK_OBJECTS, CHANGES, CHANGES_SINCE)
    for statement in (*statements, OWN, SUBSCRIBE, POLL, ACK, UNSUBSCRIBE):
        op.execute(statement)
    for function in INTERNAL:
        op.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    for function, comment in COMMENTS.items():
        op.execute(f"COMMENT ON FUNCTION crm.{function} IS '{comment.strip()}'")
    publish_functions()


def downgrade() -> None:
    for function in COMMENTS:
        if function != "feed_position()":
            op.execute(f"DROP FUNCTION crm.{function}")
    before = import_module("migrations.versions.0013_feed_ring")
    op.execute(before.CHANGES)
    op.execute(before.POSITION.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    for function in reversed(INTERNAL):
        op.execute(f"DROP FUNCTION {function}")
    op.drop_column("change", "old", schema="sync")
    op.drop_table("old_values", schema="sync")
    op.drop_table("consumer", schema="sync")
