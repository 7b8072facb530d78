"""catalogue: persons in accounts, custom fields of customers, comments, fields with a column of their own"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import sqlalchemy as sa
from alembic import op

from migrations import rights
from sync.catalogue.mapping import sql_name

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | None = None
depends_on: str | None = None

# What both objects had before, in the order of their columns.
FIELDS = {
    "Account": """
Id IsDeleted MasterRecordId Name Type RecordTypeId ParentId BillingStreet BillingCity BillingState
BillingPostalCode BillingCountry BillingStateCode BillingCountryCode BillingLatitude
BillingLongitude BillingGeocodeAccuracy ShippingStreet ShippingCity ShippingState ShippingPostalCode
ShippingCountry ShippingStateCode ShippingCountryCode ShippingLatitude ShippingLongitude
ShippingGeocodeAccuracy Phone Fax AccountNumber Website PhotoUrl Sic SicDesc Industry AnnualRevenue
NumberOfEmployees Ownership TickerSymbol Description Rating Site CurrencyIsoCode OwnerId CreatedDate
CreatedById LastModifiedDate LastModifiedById SystemModstamp LastActivityDate IsPartner
IsCustomerPortal IsPersonAccount PersonContactId IsBuyer IsPriorityRecord ChannelProgramName
ChannelProgramLevelName Jigsaw JigsawCompanyId CleanStatus AccountSource DunsNumber Tradestyle
NaicsCode NaicsDesc YearStarted DandbCompanyId OperatingHoursId
""",
    "Contact": """
Id IsDeleted MasterRecordId AccountId RecordTypeId Salutation FirstName MiddleName LastName Suffix
Name MailingStreet MailingCity MailingState MailingPostalCode MailingCountry MailingStateCode
MailingCountryCode MailingLatitude MailingLongitude MailingGeocodeAccuracy OtherStreet OtherCity
OtherState OtherPostalCode OtherCountry OtherStateCode OtherCountryCode OtherLatitude OtherLongitude
OtherGeocodeAccuracy Email Phone MobilePhone HomePhone OtherPhone AssistantPhone Fax Title TitleType
Department DepartmentGroup ReportsToId AssistantName LeadSource ContactSource Birthdate Pronouns
GenderIdentity Description HasOptedOutOfEmail HasOptedOutOfFax DoNotCall BuyerAttributes
CurrencyIsoCode OwnerId CreatedDate CreatedById LastModifiedDate LastModifiedById SystemModstamp
LastActivityDate LastCURequestDate LastCUUpdateDate EmailBouncedReason EmailBouncedDate
IsEmailBounced IsPersonAccount IsPriorityRecord CanAllowPortalSelfReg FirstCallDateTime
FirstEmailDateTime PhotoUrl Jigsaw JigsawContactId CleanStatus IndividualId
""",
}
DERIVED = {
    "Account": {"phone_e164": ("Phone", "e164"), "website_host": ("Website", "host")},
    "Contact": {
        "email_normalized": ("Email", "email"),
        "phone_e164": ("Phone", "e164"),
        "mobile_phone_e164": ("MobilePhone", "e164"),
    },
}
OWN = {
    "custom": "The custom fields that the integration user can read, by API name.",
    "deleted_at": "When the record was deleted in Salesforce; null for a live one.",
    "deleted_reason": "Why the record is not live: deleted, merged, purged, vanished or erased.",
    "synced_at": "When this row was last written.",
}
# Fields of accounts that are persons.
PERSON = """
FirstName LastName MiddleName Suffix Salutation PersonMailingStreet PersonMailingCity
PersonMailingState PersonMailingPostalCode PersonMailingCountry PersonMailingStateCode
PersonMailingCountryCode PersonMailingLatitude PersonMailingLongitude PersonMailingGeocodeAccuracy
PersonOtherStreet PersonOtherCity PersonOtherState PersonOtherPostalCode PersonOtherCountry
PersonOtherStateCode PersonOtherCountryCode PersonOtherLatitude PersonOtherLongitude
PersonOtherGeocodeAccuracy PersonMobilePhone PersonHomePhone PersonOtherPhone PersonAssistantPhone
PersonEmail PersonTitle PersonDepartment PersonAssistantName PersonLeadSource PersonBirthdate
PersonHasOptedOutOfEmail PersonHasOptedOutOfFax PersonDoNotCall PersonLastCURequestDate
PersonLastCUUpdateDate PersonEmailBouncedReason PersonEmailBouncedDate PersonIndividualId
PersonPronouns PersonGenderIdentity
"""
TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    **dict.fromkeys(
        ["PersonMailingLatitude", "PersonMailingLongitude", "PersonOtherLatitude", "PersonOtherLongitude"],
        sa.Numeric(),
    ),
    **dict.fromkeys(["PersonHasOptedOutOfEmail", "PersonHasOptedOutOfFax", "PersonDoNotCall"], sa.Boolean()),
    **dict.fromkeys(
        ["PersonLastCURequestDate", "PersonLastCUUpdateDate", "PersonEmailBouncedDate"],
        sa.DateTime(timezone=True),
    ),
    "PersonBirthdate": sa.Date(),
    "PersonIndividualId": sa.Text(collation="C"),
}
CHANGES = (
    "change IN ('known', 'added', 'vanished', 'returned', 'retyped', 'resized', 'formula', 'selected', "
    "'left out', 'refused')"
)
VIEW = """
CREATE OR REPLACE VIEW crm.account AS
SELECT {columns}
  FROM salesforce.account
 WHERE deleted_at IS NULL
"""


def upgrade() -> None:
    for name in FIELDS:
        describe_table(name)
    for field in PERSON.split():
        comment = f"Salesforce field Account.{field}."
        column = sa.Column(sql_name(field), TYPES.get(field, sa.Text()), nullable=True, comment=comment)
        op.add_column("account", column, schema="salesforce")
    present = shown("account")
    op.execute(VIEW.format(columns=", ".join([*present, *map(sql_name, PERSON.split())])))
    for view in ("account", "contact"):
        rights.describe_view(view)
    before = import_module("migrations.versions.0002_the_consumers_contract").CUSTOMER
    custom = "changed_at,\n       c.custom AS contact_custom,\n       a.custom AS account_custom\n"
    customer = before.replace("AS changed_at\n", f"AS {custom}")
    op.execute(customer.replace("CREATE VIEW", "CREATE OR REPLACE VIEW"))
    op.add_column("field", sa.Column("own_column", sa.Boolean(), nullable=True), schema="sync")
    op.drop_constraint(op.f("field_change_check"), "field", schema="sync", type_="check")
    longer = CHANGES.replace("'refused')", "'refused', 'promoted', 'demoted')")
    op.create_check_constraint(op.f("field_change_check"), "field", longer, schema="sync")


def describe_table(name: str) -> None:
    """Comment an object's table and all its columns."""
    table = sql_name(name)
    comments = {sql_name(field): f"Salesforce field {name}.{field}." for field in FIELDS[name].split()}
    comments |= {column: f"Computed from {field}: {by}." for column, (field, by) in DERIVED[name].items()}
    comments |= OWN
    op.execute(
        f"COMMENT ON TABLE salesforce.{table} IS "
        f"'Salesforce object {name}: live records, and deleted ones as tombstones.'"
    )
    op.execute(
        ";\n".join(
            f"COMMENT ON COLUMN salesforce.{table}.{column} IS '{comment}'"
            for column, comment in comments.items()
        )
    )


def shown(view: str) -> list[str]:
    """The columns of a view, in order."""
    inspected = sa.inspect(op.get_bind()).get_columns(view, schema="crm")
    return [column["name"] for column in inspected]


def downgrade() -> None:
    op.execute("DELETE FROM sync.field WHERE change IN ('promoted', 'demoted')")
    op.drop_constraint(op.f("field_change_check"), "field", schema="sync", type_="check")
    op.create_check_constraint(op.f("field_change_check"), "field", CHANGES, schema="sync")
    op.drop_column("field", "own_column", schema="sync")
    op.execute("DROP VIEW crm.customer")
    op.execute(import_module("migrations.versions.0002_the_consumers_contract").CUSTOMER)
    op.execute("COMMENT ON VIEW crm.customer IS 'One row per live contact, with its account and its parent.'")
    added = [sql_name(field) for field in PERSON.split()]
    before = [column for column in shown("account") if column not in added]
    op.execute("DROP VIEW crm.account")
    op.execute(VIEW.format(columns=", ".join(before)))
    for column in reversed(added):
        op.drop_column("account", column, schema="salesforce")
    for name, fields in FIELDS.items():
        table = sql_name(name)
        op.execute(f"COMMENT ON TABLE salesforce.{table} IS NULL")
        columns = [*map(sql_name, fields.split()), *DERIVED[name], *OWN]
        op.execute(";\n".join(f"COMMENT ON COLUMN salesforce.{table}.{column} IS NULL" for column in columns))
