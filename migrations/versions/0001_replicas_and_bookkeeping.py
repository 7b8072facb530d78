"""replicas and bookkeeping"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations import replicas

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    replicas.choose()
    op.execute("CREATE SCHEMA crm")
    op.create_table(
        "account",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("master_record_id", sa.Text(collation="C"), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=True),
        sa.Column("record_type_id", sa.Text(collation="C"), nullable=True),
        sa.Column("parent_id", sa.Text(collation="C"), nullable=True),
        sa.Column("billing_street", sa.Text(), nullable=True),
        sa.Column("billing_city", sa.Text(), nullable=True),
        sa.Column("billing_state", sa.Text(), nullable=True),
        sa.Column("billing_postal_code", sa.Text(), nullable=True),
        sa.Column("billing_country", sa.Text(), nullable=True),
        sa.Column("billing_state_code", sa.Text(), nullable=True),
        sa.Column("billing_country_code", sa.Text(), nullable=True),
        sa.Column("billing_latitude", sa.Numeric(), nullable=True),
        sa.Column("billing_longitude", sa.Numeric(), nullable=True),
        sa.Column("billing_geocode_accuracy", sa.Text(), nullable=True),
        sa.Column("shipping_street", sa.Text(), nullable=True),
        sa.Column("shipping_city", sa.Text(), nullable=True),
        sa.Column("shipping_state", sa.Text(), nullable=True),
        sa.Column("shipping_postal_code", sa.Text(), nullable=True),
        sa.Column("shipping_country", sa.Text(), nullable=True),
        sa.Column("shipping_state_code", sa.Text(), nullable=True),
        sa.Column("shipping_country_code", sa.Text(), nullable=True),
        sa.Column("shipping_latitude", sa.Numeric(), nullable=True),
        sa.Column("shipping_longitude", sa.Numeric(), nullable=True),
        sa.Column("shipping_geocode_accuracy", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("phone_e164", sa.Text(), nullable=True),
        sa.Column("fax", sa.Text(), nullable=True),
        sa.Column("account_number", sa.Text(), nullable=True),
        sa.Column("website", sa.Text(), nullable=True),
        sa.Column("website_host", sa.Text(), nullable=True),
        sa.Column("photo_url", sa.Text(), nullable=True),
        sa.Column("sic", sa.Text(), nullable=True),
        sa.Column("sic_desc", sa.Text(), nullable=True),
        sa.Column("industry", sa.Text(), nullable=True),
        sa.Column("annual_revenue", sa.Numeric(), nullable=True),
        sa.Column("number_of_employees", sa.BigInteger(), nullable=True),
        sa.Column("ownership", sa.Text(), nullable=True),
        sa.Column("ticker_symbol", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("rating", sa.Text(), nullable=True),
        sa.Column("site", sa.Text(), nullable=True),
        sa.Column("currency_iso_code", sa.Text(), nullable=True),
        sa.Column("owner_id", sa.Text(collation="C"), nullable=True),
        sa.Column("created_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by_id", sa.Text(collation="C"), nullable=True),
        sa.Column("last_modified_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_modified_by_id", sa.Text(collation="C"), nullable=True),
        sa.Column("system_modstamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_activity_date", sa.Date(), nullable=True),
        sa.Column("is_partner", sa.Boolean(), nullable=True),
        sa.Column("is_customer_portal", sa.Boolean(), nullable=True),
        sa.Column("is_person_account", sa.Boolean(), nullable=True),
        sa.Column("person_contact_id", sa.Text(collation="C"), nullable=True),
        sa.Column("is_buyer", sa.Boolean(), nullable=True),
        sa.Column("is_priority_record", sa.Boolean(), nullable=True),
        sa.Column("channel_program_name", sa.Text(), nullable=True),
        sa.Column("channel_program_level_name", sa.Text(), nullable=True),
        sa.Column("jigsaw", sa.Text(), nullable=True),
        sa.Column("jigsaw_company_id", sa.Text(), nullable=True),
        sa.Column("clean_status", sa.Text(), nullable=True),
        sa.Column("account_source", sa.Text(), nullable=True),
        sa.Column("duns_number", sa.Text(), nullable=True),
        sa.Column("tradestyle", sa.Text(), nullable=True),
        sa.Column("naics_code", sa.Text(), nullable=True),
        sa.Column("naics_desc", sa.Text(), nullable=True),
        sa.Column("year_started", sa.Text(), nullable=True),
        sa.Column("dandb_company_id", sa.Text(collation="C"), nullable=True),
        sa.Column("operating_hours_id", sa.Text(collation="C"), nullable=True),
        sa.Column(
            "custom", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_reason", sa.Text(), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("account_pkey")),
        schema="salesforce",
    )
    op.create_index(
        op.f("account_parent_id_idx"), "account", ["parent_id"], unique=False, schema="salesforce"
    )
    op.create_index(
        op.f("account_phone_e164_idx"), "account", ["phone_e164"], unique=False, schema="salesforce"
    )
    op.create_index(
        op.f("account_website_host_idx"), "account", ["website_host"], unique=False, schema="salesforce"
    )
    op.create_table(
        "contact",
        sa.Column("id", sa.Text(collation="C"), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.Column("master_record_id", sa.Text(collation="C"), nullable=True),
        sa.Column("account_id", sa.Text(collation="C"), nullable=True),
        sa.Column("record_type_id", sa.Text(collation="C"), nullable=True),
        sa.Column("salutation", sa.Text(), nullable=True),
        sa.Column("first_name", sa.Text(), nullable=True),
        sa.Column("middle_name", sa.Text(), nullable=True),
        sa.Column("last_name", sa.Text(), nullable=True),
        sa.Column("suffix", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("mailing_street", sa.Text(), nullable=True),
        sa.Column("mailing_city", sa.Text(), nullable=True),
        sa.Column("mailing_state", sa.Text(), nullable=True),
        sa.Column("mailing_postal_code", sa.Text(), nullable=True),
        sa.Column("mailing_country", sa.Text(), nullable=True),
        sa.Column("mailing_state_code", sa.Text(), nullable=True),
        sa.Column("mailing_country_code", sa.Text(), nullable=True),
        sa.Column("mailing_latitude", sa.Numeric(), nullable=True),
        sa.Column("mailing_longitude", sa.Numeric(), nullable=True),
        sa.Column("mailing_geocode_accuracy", sa.Text(), nullable=True),
        sa.Column("other_street", sa.Text(), nullable=True),
        sa.Column("other_city", sa.Text(), nullable=True),
        sa.Column("other_state", sa.Text(), nullable=True),
        sa.Column("other_postal_code", sa.Text(), nullable=True),
        sa.Column("other_country", sa.Text(), nullable=True),
        sa.Column("other_state_code", sa.Text(), nullable=True),
        sa.Column("other_country_code", sa.Text(), nullable=True),
        sa.Column("other_latitude", sa.Numeric(), nullable=True),
        sa.Column("other_longitude", sa.Numeric(), nullable=True),
        sa.Column("other_geocode_accuracy", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("email_normalized", sa.Text(), nullable=True),
        sa.Column("phone", sa.Text(), nullable=True),
        sa.Column("phone_e164", sa.Text(), nullable=True),
        sa.Column("mobile_phone", sa.Text(), nullable=True),
        sa.Column("mobile_phone_e164", sa.Text(), nullable=True),
        sa.Column("home_phone", sa.Text(), nullable=True),
        sa.Column("other_phone", sa.Text(), nullable=True),
        sa.Column("assistant_phone", sa.Text(), nullable=True),
        sa.Column("fax", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("title_type", sa.Text(), nullable=True),
        sa.Column("department", sa.Text(), nullable=True),
        sa.Column("department_group", sa.Text(), nullable=True),
        sa.Column("reports_to_id", sa.Text(collation="C"), nullable=True),
        sa.Column("assistant_name", sa.Text(), nullable=True),
        sa.Column("lead_source", sa.Text(), nullable=True),
        sa.Column("contact_source", sa.Text(), nullable=True),
        sa.Column("birthdate", sa.Date(), nullable=True),
        sa.Column("pronouns", sa.Text(), nullable=True),
        sa.Column("gender_identity", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("has_opted_out_of_email", sa.Boolean(), nullable=True),
        sa.Column("has_opted_out_of_fax", sa.Boolean(), nullable=True),
        sa.Column("do_not_call", sa.Boolean(), nullable=True),
        sa.Column("buyer_attributes", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("currency_iso_code", sa.Text(), nullable=True),
        sa.Column("owner_id", sa.Text(collation="C"), nullable=True),
        sa.Column("created_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by_id", sa.Text(collation="C"), nullable=True),
        sa.Column("last_modified_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_modified_by_id", sa.Text(collation="C"), nullable=True),
        sa.Column("system_modstamp", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_activity_date", sa.Date(), nullable=True),
        sa.Column("last_cu_request_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_cu_update_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("email_bounced_reason", sa.Text(), nullable=True),
        sa.Column("email_bounced_date", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_email_bounced", sa.Boolean(), nullable=True),
        sa.Column("is_person_account", sa.Boolean(), nullable=True),
        sa.Column("is_priority_record", sa.Boolean(), nullable=True),
        sa.Column("can_allow_portal_self_reg", sa.Boolean(), nullable=True),
        sa.Column("first_call_date_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_email_date_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("photo_url", sa.Text(), nullable=True),
        sa.Column("jigsaw", sa.Text(), nullable=True),
        sa.Column("jigsaw_contact_id", sa.Text(), nullable=True),
        sa.Column("clean_status", sa.Text(), nullable=True),
        sa.Column("individual_id", sa.Text(collation="C"), nullable=True),
        sa.Column(
            "custom", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_reason", sa.Text(), nullable=True),
        sa.Column("synced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("contact_pkey")),
        schema="salesforce",
    )
    op.create_index(
        op.f("contact_account_id_idx"), "contact", ["account_id"], unique=False, schema="salesforce"
    )
    op.create_index(
        op.f("contact_email_normalized_idx"),
        "contact",
        ["email_normalized"],
        unique=False,
        schema="salesforce",
    )
    op.create_index(
        op.f("contact_mobile_phone_e164_idx"),
        "contact",
        ["mobile_phone_e164"],
        unique=False,
        schema="salesforce",
    )
    op.create_index(
        op.f("contact_phone_e164_idx"), "contact", ["phone_e164"], unique=False, schema="salesforce"
    )
    op.create_table(
        "change",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=True),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("changed", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "op IN ('insert', 'update', 'delete', 'undelete', 'merge', 'reload')",
            name=op.f("change_op_check"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("change_pkey")),
        schema="sync",
        comment="The feed: what changed, in the order of commits.",
    )
    op.create_table(
        "cursor",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("complete_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("hidden", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.PrimaryKeyConstraint("object", name=op.f("cursor_pkey")),
        schema="sync",
        comment="How far each object is complete, and the mapped fields the integration user cannot see.",
    )
    op.create_table(
        "feed",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("single", name=op.f("feed_single_check")),
        sa.PrimaryKeyConstraint("single", name=op.f("feed_pkey")),
        schema="sync",
        comment="The last number given; its row lock makes the order of numbers the order of commits.",
    )
    op.create_table(
        "lease",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("object", name=op.f("lease_pkey")),
        schema="sync",
        comment="One writer per object; the fence grows with every owner, and a stale one cannot commit.",
    )
    op.create_table(
        "progress",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_stamp", sa.DateTime(timezone=True), nullable=True),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("received", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("settled", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("selected", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("stepwise", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("object", "purpose", name=op.f("progress_pkey")),
        schema="sync",
        comment="How far an unfinished window's committed pages reach; a restart resumes there.",
    )
    op.create_table(
        "reject",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("record", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("system_modstamp", sa.DateTime(timezone=True), nullable=True),
        sa.Column("first_seen", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("run_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("object", "record_id", name=op.f("reject_pkey")),
        schema="sync",
        comment="Records that could not be stored, whole, and why; gone from here once stored.",
    )
    op.create_table(
        "run",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("complete_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("inserted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("updated", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("deleted", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("unchanged", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rejected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("nuls_removed", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("api_calls", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('running', 'succeeded', 'failed', 'deferred', 'stopped', 'abandoned')",
            name=op.f("run_outcome_check"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("run_pkey")),
        schema="sync",
        comment="The journal: one line per object and run.",
    )
    op.create_index(op.f("run_object_id_idx"), "run", ["object", "id"], unique=False, schema="sync")
    op.execute("""
CREATE OR REPLACE VIEW crm.account AS
SELECT id,
       name,
       type,
       record_type_id,
       parent_id,
       billing_street,
       billing_city,
       billing_state,
       billing_postal_code,
       billing_country,
       billing_state_code,
       billing_country_code,
       billing_latitude,
       billing_longitude,
       billing_geocode_accuracy,
       shipping_street,
       shipping_city,
       shipping_state,
       shipping_postal_code,
       shipping_country,
       shipping_state_code,
       shipping_country_code,
       shipping_latitude,
       shipping_longitude,
       shipping_geocode_accuracy,
       phone,
       phone_e164,
       fax,
       account_number,
       website,
       website_host,
       photo_url,
       sic,
       sic_desc,
       industry,
       annual_revenue,
       number_of_employees,
       ownership,
       ticker_symbol,
       description,
       rating,
       site,
       currency_iso_code,
       owner_id,
       created_date,
       created_by_id,
       last_modified_date,
       last_modified_by_id,
       system_modstamp,
       last_activity_date,
       is_partner,
       is_customer_portal,
       is_person_account,
       person_contact_id,
       is_buyer,
       is_priority_record,
       channel_program_name,
       channel_program_level_name,
       jigsaw,
       jigsaw_company_id,
       clean_status,
       account_source,
       duns_number,
       tradestyle,
       naics_code,
       naics_desc,
       year_started,
       dandb_company_id,
       operating_hours_id,
       custom,
       synced_at
  FROM salesforce.account
 WHERE deleted_at IS NULL
""")
    op.execute("""
CREATE OR REPLACE VIEW crm.contact AS
SELECT id,
       account_id,
       record_type_id,
       salutation,
       first_name,
       middle_name,
       last_name,
       suffix,
       name,
       mailing_street,
       mailing_city,
       mailing_state,
       mailing_postal_code,
       mailing_country,
       mailing_state_code,
       mailing_country_code,
       mailing_latitude,
       mailing_longitude,
       mailing_geocode_accuracy,
       other_street,
       other_city,
       other_state,
       other_postal_code,
       other_country,
       other_state_code,
       other_country_code,
       other_latitude,
       other_longitude,
       other_geocode_accuracy,
       email,
       email_normalized,
       phone,
       phone_e164,
       mobile_phone,
       mobile_phone_e164,
       home_phone,
       other_phone,
       assistant_phone,
       fax,
       title,
       title_type,
       department,
       department_group,
       reports_to_id,
       assistant_name,
       lead_source,
       contact_source,
       birthdate,
       pronouns,
       gender_identity,
       description,
       has_opted_out_of_email,
       has_opted_out_of_fax,
       do_not_call,
       buyer_attributes,
       currency_iso_code,
       owner_id,
       created_date,
       created_by_id,
       last_modified_date,
       last_modified_by_id,
       system_modstamp,
       last_activity_date,
       last_cu_request_date,
       last_cu_update_date,
       email_bounced_reason,
       email_bounced_date,
       is_email_bounced,
       is_person_account,
       is_priority_record,
       can_allow_portal_self_reg,
       first_call_date_time,
       first_email_date_time,
       photo_url,
       jigsaw,
       jigsaw_contact_id,
       clean_status,
       individual_id,
       custom,
       synced_at
  FROM salesforce.contact
 WHERE deleted_at IS NULL
""")
    op.execute("INSERT INTO sync.feed DEFAULT VALUES")
    # What consumers see before the first load: the object's name, complete through nothing yet.
    op.execute("INSERT INTO sync.cursor (object) VALUES ('Account'), ('Contact')")


def downgrade() -> None:
    op.execute("DROP VIEW crm.contact")
    op.execute("DROP VIEW crm.account")
    op.drop_index(op.f("run_object_id_idx"), table_name="run", schema="sync")
    op.drop_table("run", schema="sync")
    op.drop_table("reject", schema="sync")
    op.drop_table("progress", schema="sync")
    op.drop_table("lease", schema="sync")
    op.drop_table("feed", schema="sync")
    op.drop_table("cursor", schema="sync")
    op.drop_table("change", schema="sync")
    op.drop_index(op.f("contact_phone_e164_idx"), table_name="contact", schema="salesforce")
    op.drop_index(op.f("contact_mobile_phone_e164_idx"), table_name="contact", schema="salesforce")
    op.drop_index(op.f("contact_email_normalized_idx"), table_name="contact", schema="salesforce")
    op.drop_index(op.f("contact_account_id_idx"), table_name="contact", schema="salesforce")
    op.drop_table("contact", schema="salesforce")
    op.drop_index(op.f("account_website_host_idx"), table_name="account", schema="salesforce")
    op.drop_index(op.f("account_phone_e164_idx"), table_name="account", schema="salesforce")
    op.drop_index(op.f("account_parent_id_idx"), table_name="account", schema="salesforce")
    op.drop_table("account", schema="salesforce")
    op.execute("DROP SCHEMA crm")
    op.execute("DROP SCHEMA salesforce")
    op.execute("DROP TABLE IF EXISTS sync.replica_schema")
