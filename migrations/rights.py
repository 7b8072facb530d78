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


# Roles that may read every other object's view were meant to read all of them. `grant` has said so for views
# to come; rights that were given by hand have not.
SHOW = """
DO $$
DECLARE
    consumer text;
BEGIN
    FOR consumer IN
        SELECT a.grantee::pg_catalog.regrole::text
          FROM pg_catalog.pg_class AS v
          JOIN pg_catalog.pg_namespace AS n ON n.oid = v.relnamespace AND n.nspname = 'crm'
         CROSS JOIN pg_catalog.aclexplode(v.relacl) AS a
         WHERE v.relname = ANY (string_to_array('{others}', ',')) AND a.privilege_type = 'SELECT'
           AND a.grantee NOT IN (0, v.relowner)
         GROUP BY a.grantee HAVING count(DISTINCT v.oid) = array_length(string_to_array('{others}', ','), 1)
    LOOP
        EXECUTE 'GRANT SELECT ON crm.{view} TO ' || consumer;
    END LOOP;
END
$$
"""


# The columns of a consumer view mean what those of its table mean.
DESCRIBE = """
DO $$
DECLARE
    shown record;
BEGIN
    FOR shown IN
        SELECT v.attname, d.description
          FROM pg_catalog.pg_attribute AS v
          JOIN pg_catalog.pg_attribute AS t
            ON t.attrelid = 'salesforce.{view}'::pg_catalog.regclass AND t.attname = v.attname
          JOIN pg_catalog.pg_description AS d
            ON d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objoid = t.attrelid
           AND d.objsubid = t.attnum
         WHERE v.attrelid = 'crm.{view}'::pg_catalog.regclass AND v.attnum > 0
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON COLUMN crm.{view}.%I IS %L', shown.attname, shown.description);
    END LOOP;
    EXECUTE pg_catalog.format(
        'COMMENT ON VIEW crm.{view} IS %L', 'Live records of the '
        || pg_catalog.split_part(
            pg_catalog.obj_description('salesforce.{view}'::pg_catalog.regclass, 'pg_class'), ':', 1) || '.');
END
$$
"""


def describe_view(view: str) -> None:
    """Comment an object's consumer view, and give its columns the comments of its table's."""
    op.execute(DESCRIBE.format(view=view))


def publish_view(view: str, others: str) -> None:
    """Let the roles that may read all views of `others` (names with commas between) read a new one, too."""
    op.execute(SHOW.format(view=view, others=others))


def publish_functions() -> None:
    """Let the roles with USAGE on schema crm call all its functions, and nobody else.

    PostgreSQL lets PUBLIC call every new function; these run with their owner's rights.
    """
    op.execute(KEEP)
    op.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA crm FROM PUBLIC")
