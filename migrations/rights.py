"""Who may call the functions of schema crm: for every migration that makes or remakes one."""

from __future__ import annotations

from alembic import op

# A role with USAGE on the schema was meant to call its functions; DROP and CREATE lose their old grants.
KEEP = """
DO $$
DECLARE
    consumer text;
BEGIN
    FOR consumer IN
        SELECT DISTINCT a.grantee::pg_catalog.regrole::text
          FROM pg_catalog.pg_namespace AS n, pg_catalog.aclexplode(n.nspacl) AS a
         WHERE n.nspname = 'crm' AND a.privilege_type = 'USAGE' AND a.grantee NOT IN (0, n.nspowner)
    LOOP
        EXECUTE 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO ' || consumer;
    END LOOP;
END
$$
"""


def publish_functions() -> None:
    """Let the roles with USAGE on schema crm call all its functions, and nobody else.

    PostgreSQL lets PUBLIC call every new function; these run with their owner's rights.
    """
    op.execute(KEEP)
    op.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA crm FROM PUBLIC")
