"""The sessions that hold locks that a statement waited for, and the command that ends each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, text

MOST = 3  # sessions in one message, and tables of each session

# After a lock timeout, PostgreSQL does not report the holder. Every session that still holds a lock on one of
# our tables is a candidate, the longest transaction first. A read lock (AccessShareLock) blocks migrations
# only, so it comes last. Our own sessions hold locks for moments and are left out.
HOLDERS = text("""
SELECT a.pid, a.usename AS role, a.state, now() - a.xact_start AS age,
       array_agg(DISTINCT l.relation::regclass::text) AS tables,
       bool_or(l.mode <> 'AccessShareLock') AS writes,
       (me.rolsuper OR NOT r.rolsuper)
           AND (pg_has_role(a.usesysid, 'MEMBER') OR pg_has_role('pg_signal_backend', 'MEMBER')) AS may_end
  FROM pg_locks AS l
  JOIN pg_class AS c ON c.oid = l.relation
  JOIN pg_stat_activity AS a ON a.pid = l.pid
  JOIN pg_roles AS me ON me.rolname = current_user
  LEFT JOIN pg_roles AS r ON r.oid = a.usesysid
 WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY (:schemas))
   AND c.relkind IN ('r', 'p', 'v') AND l.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
   AND NOT (a.usename = current_user AND a.application_name LIKE 'sync %')
 GROUP BY a.pid, a.usename, a.state, a.xact_start, a.usesysid, r.rolsuper, me.rolsuper
 ORDER BY writes DESC, a.xact_start NULLS LAST, a.pid LIMIT :most
""")


def describe_holders(connection: Connection, schemas: Sequence[str]) -> str:
    """Describe the sessions that hold locks in these schemas, each with the command that ends it; "" if none
    do."""
    return "; ".join(describe_sessions(connection, schemas))


def describe_sessions(connection: Connection, schemas: Sequence[str]) -> Iterator[str]:
    """Yield one sentence for each session."""
    for row in connection.execute(HOLDERS, {"most": MOST, "schemas": list(schemas)}):
        state = row.state or "its state is hidden from this role"
        since = f" for {int(row.age.total_seconds())} s" if row.age is not None else ""
        command = f"SELECT pg_terminate_backend({row.pid})"
        by = "to end it, run" if row.may_end else "its own role or an administrator ends it with"
        more = f" and {len(row.tables) - MOST} more" if len(row.tables) > MOST else ""
        yield (
            f"process {row.pid} of role {row.role} ({state}{since}) holds locks on "
            f"{', '.join(row.tables[:MOST])}{more}; {by} this SQL: {command}"
        )
