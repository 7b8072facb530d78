"""claim: freshness says whether Salesforce's coverage or the overlap holds the time through which it is complete"""

from __future__ import annotations

from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"
branch_labels: str | None = None
depends_on: str | None = None

BEFORE = "COALESCE(s.estimated, false) AS estimated"
CLAIM = f"""{BEFORE},
    CASE
        WHEN (k.complete_through IS NULL) THEN NULL::text
        WHEN ((k.covered IS NULL) OR (k.covered < k.complete_through)) THEN 'overlap'::text
        ELSE 'covered'::text
    END AS claim"""
COMMENT = "What complete_through rests on: covered (Salesforce tells that no earlier transaction is open) or overlap."

# The view that is there, which may speak of more objects than the product's own, with one column more.
ADD = f"""
DO $$
DECLARE
    before constant text := pg_get_viewdef('crm.freshness'::regclass);
    after constant text := replace(before, $part${BEFORE}$part$, $part${CLAIM}$part$);
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
    def text := pg_get_viewdef('crm.freshness'::regclass);
    about constant text := obj_description('crm.freshness'::regclass, 'pg_class');
    roles constant text[] := ARRAY(
        SELECT a.grantee::regrole::text FROM pg_class AS c, aclexplode(c.relacl) AS a
         WHERE c.oid = 'crm.freshness'::regclass AND a.privilege_type = 'SELECT' AND a.grantee NOT IN (0, c.relowner));
    columns constant text[] := ARRAY(
        SELECT format('COMMENT ON COLUMN crm.freshness.%I IS %L', a.attname, col_description(a.attrelid, a.attnum))
          FROM pg_attribute AS a
         WHERE a.attrelid = 'crm.freshness'::regclass AND a.attnum > 0 AND a.attname <> 'claim');
    one text;
BEGIN
    def := regexp_replace(def, ',\\s+CASE\\s+WHEN \\(k\\.complete_through IS NULL\\).*?AS claim', '');
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
    op.execute(ADD)
    op.execute(f"COMMENT ON COLUMN crm.freshness.claim IS '{COMMENT}'")


def downgrade() -> None:
    op.execute(REMOVE)
