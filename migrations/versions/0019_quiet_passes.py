"""quiet passes: consecutive passes that change nothing share a line of the journal; how far Salesforce covers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | None = None
depends_on: str | None = None

COMMENT = "How far Salesforce was behind its own clock when it was last asked (null: it does not tell)."
# The view that is there, which may speak of more objects than the product's own, with one column more.
ADD = """
DO $$
DECLARE
    before constant text := pg_get_viewdef('crm.freshness'::regclass);
    after constant text := replace(before, ' AS claim', E' AS claim,\\n    k.coverage_lag AS salesforce_lag');
BEGIN
    IF after = before THEN
        RAISE EXCEPTION 'crm.freshness is not the view that the releases before have made';
    END IF;
    EXECUTE 'CREATE OR REPLACE VIEW crm.freshness AS ' || after;
END
$$
"""
# A view loses a column only with all its rights and comments, which are given again.
REMOVE = """
DO $$
DECLARE
    def constant text := replace(pg_get_viewdef('crm.freshness'::regclass),
                                 E',\\n    k.coverage_lag AS salesforce_lag', '');
    about constant text := obj_description('crm.freshness'::regclass, 'pg_class');
    roles constant text[] := ARRAY(
        SELECT a.grantee::regrole::text FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.oid = 'crm.freshness'::regclass AND a.privilege_type = 'SELECT' AND a.grantee NOT IN (0, c.relowner));
    columns constant text[] := ARRAY(
        SELECT format('COMMENT ON COLUMN crm.freshness.%I IS %L', a.attname, col_description(a.attrelid, a.attnum))
          FROM pg_attribute AS a
         WHERE a.attrelid = 'crm.freshness'::regclass AND a.attnum > 0 AND a.attname <> 'salesforce_lag');
    one text;
BEGIN
    DROP VIEW crm.freshness;
    EXECUTE 'CREATE VIEW crm.freshness AS ' || def;
    EXECUTE format('COMMENT ON VIEW crm.freshness IS %L', about);
    FOREACH one IN ARRAY columns LOOP
        EXECUTE one;
    END LOOP;
    FOREACH one IN ARRAY roles LOOP
        EXECUTE 'GRANT SELECT ON crm.freshness TO ' || one;
    END LOOP;
END
$$
"""


def upgrade() -> None:
    for name in ("passes", "shared_calls"):
        column = sa.Column(name, sa.Integer(), server_default="0", nullable=False)
        op.add_column("run", column, schema="sync")
    op.add_column("cursor", sa.Column("coverage_lag", sa.Interval()), schema="sync")
    op.add_column("cursor", sa.Column("coverage_asked", sa.DateTime(timezone=True)), schema="sync")
    op.execute(ADD)
    op.execute(f"COMMENT ON COLUMN crm.freshness.salesforce_lag IS '{COMMENT}'")


def downgrade() -> None:
    op.execute(REMOVE)
    for name in ("coverage_asked", "coverage_lag"):
        op.drop_column("cursor", name, schema="sync")
    for name in ("shared_calls", "passes"):
        op.drop_column("run", name, schema="sync")
