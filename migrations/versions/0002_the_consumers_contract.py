"""the consumers' contract: customer, freshness, changes, resolve_id"""

from __future__ import annotations

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

CUSTOMER = """
CREATE VIEW crm.customer AS
SELECT c.id AS contact_id,
       c.account_id,
       c.salutation,
       c.first_name,
       c.last_name,
       c.name AS full_name,
       c.title,
       c.department,
       c.email,
       c.email_normalized,
       c.phone,
       c.phone_e164,
       c.mobile_phone,
       c.mobile_phone_e164,
       c.mailing_street,
       c.mailing_city,
       c.mailing_state,
       c.mailing_postal_code,
       c.mailing_country,
       c.has_opted_out_of_email,
       c.has_opted_out_of_fax,
       c.do_not_call,
       c.owner_id,
       a.name AS account_name,
       a.account_number,
       a.type AS account_type,
       a.industry AS account_industry,
       a.website AS account_website,
       a.website_host AS account_website_host,
       a.phone AS account_phone,
       a.phone_e164 AS account_phone_e164,
       a.billing_street,
       a.billing_city,
       a.billing_state,
       a.billing_postal_code,
       a.billing_country,
       a.shipping_street,
       a.shipping_city,
       a.shipping_state,
       a.shipping_postal_code,
       a.shipping_country,
       a.owner_id AS account_owner_id,
       a.parent_id AS parent_account_id,
       p.name AS parent_account_name,
       c.created_date AS created_at,
       greatest(c.system_modstamp, a.system_modstamp) AS changed_at
  FROM salesforce.contact AS c
  LEFT JOIN salesforce.account AS a ON a.id = c.account_id AND a.deleted_at IS NULL
  LEFT JOIN salesforce.account AS p ON p.id = a.parent_id AND p.deleted_at IS NULL
 WHERE c.deleted_at IS NULL
"""

# Counts are scalar subqueries, so that who asks only for complete_through does not pay for them.
FRESHNESS = """
CREATE VIEW crm.freshness AS
SELECT k.object,
       k.complete_through,
       statement_timestamp() - k.complete_through AS lag,
       r.outcome AS last_outcome,
       r.finished_at AS last_finished_at,
       r.error AS last_error,
       CASE k.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NULL)
       END AS rows,
       CASE k.object
           WHEN 'Account' THEN (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NOT NULL)
           WHEN 'Contact' THEN (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NOT NULL)
       END AS tombstones,
       (SELECT count(*) FROM sync.reject AS j WHERE j.object = k.object) AS rejects
  FROM sync.cursor AS k
  LEFT JOIN LATERAL (
       SELECT outcome, finished_at, error FROM sync.run
        WHERE object = k.object AND outcome <> 'running'
        ORDER BY id DESC LIMIT 1
       ) AS r ON true
"""

# SECURITY DEFINER: consumers need rights on schema crm alone.
CHANGES = """
CREATE FUNCTION crm.changes(after bigint, max integer DEFAULT 1000)
RETURNS TABLE (
    seq bigint, object text, record_id text, op text, changed text[], run_id bigint, at timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    SELECT c.seq, c.object, c.record_id, c.op, c.changed, c.run_id, c.at
      FROM sync.change AS c WHERE c.seq > after ORDER BY c.seq LIMIT max
$$
"""

# Not materialised, so that each step is an index look-up.
# The path guards against a circle; a record deleted without a survivor resolves to nothing.
RESOLVE_ID = """
CREATE FUNCTION crm.resolve_id(id text)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
AS $$
    WITH RECURSIVE known AS NOT MATERIALIZED (
        SELECT a.id, a.master_record_id, a.deleted_at, a.deleted_reason FROM salesforce.account AS a
        UNION ALL
        SELECT c.id, c.master_record_id, c.deleted_at, c.deleted_reason FROM salesforce.contact AS c
    ), chain AS (
        SELECT k.id, k.master_record_id, k.deleted_at, k.deleted_reason, ARRAY[k.id] AS path
          FROM known AS k WHERE k.id = resolve_id.id
        UNION ALL
        SELECT k.id, k.master_record_id, k.deleted_at, k.deleted_reason, chain.path || k.id
          FROM chain JOIN known AS k ON k.id = chain.master_record_id
         WHERE chain.deleted_reason = 'merged' AND k.id <> ALL (chain.path)
    )
    SELECT chain.id FROM chain WHERE chain.deleted_at IS NULL
$$
"""


def upgrade() -> None:
    for statement in (CUSTOMER, FRESHNESS, CHANGES, RESOLVE_ID):
        op.execute(statement)
    op.execute("COMMENT ON VIEW crm.customer IS 'One row per live contact, with its account and its parent.'")
    op.execute(
        "COMMENT ON VIEW crm.freshness IS 'What Salesforce committed before complete_through is here.'"
    )
    op.execute(
        "COMMENT ON FUNCTION crm.changes IS 'The change feed after a number, in the order of commits.'"
    )
    op.execute("COMMENT ON FUNCTION crm.resolve_id IS 'Follows merges to the Id that survives, else NULL.'")


def downgrade() -> None:
    op.execute("DROP FUNCTION crm.resolve_id")
    op.execute("DROP FUNCTION crm.changes")
    op.execute("DROP VIEW crm.freshness")
    op.execute("DROP VIEW crm.customer")
