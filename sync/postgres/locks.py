"""The sessions that hold locks which a statement timed out waiting for, and the command that ends each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, text

MOST = 3  # sessions named in one message, and tables of each

# Once the wait is over PostgreSQL does not tell who was in the way: every session that still holds a lock
# on a table of ours is a candidate, longest transaction first. A lock that only reads (AccessShareLock) is in
# the way of migrations alone, so it comes last. Sessions of ours hold theirs for moments.
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


def holders(connection: Connection, schemas: Sequence[str]) -> str:
    """The sessions that hold locks in these schemas, each with what ends it; "" where there are none."""
    return "; ".join(sentences(connection, schemas))


def sentences(connection: Connection, schemas: Sequence[str]) -> Iterator[str]:
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
