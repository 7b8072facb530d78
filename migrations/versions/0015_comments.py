"""comments: what each column is, for readers; columns of customer and freshness; results of functions"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from alembic import op

from migrations import rights
from sync.catalogue.mapping import sql_name

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | None = None
depends_on: str | None = None

WORDS = {
    "ID": "Id of the record, 18 characters",
    "REF": "Id of another record, 18 characters",
    "TEXT": "text",
    "PICKS": "list of texts",
    "FLAG": "yes (true) or no (false)",
    "INTEGER": "whole number",
    "NUMBER": "number, with all its digits",
    "DATE": "date, without a time zone",
    "TIME": "point in time",
}
# Kind, API name, and the label where one is known.
FIELDS = {
    "Account": """
ID Id Account ID
FLAG IsDeleted Deleted
REF MasterRecordId Master Record ID
TEXT Name Account Name
TEXT Type Account Type
REF RecordTypeId Record Type ID
REF ParentId Parent Account ID
TEXT BillingStreet Billing Street
TEXT BillingCity Billing City
TEXT BillingState Billing State/Province
TEXT BillingPostalCode Billing Zip/Postal Code
TEXT BillingCountry Billing Country
TEXT BillingStateCode
TEXT BillingCountryCode
NUMBER BillingLatitude Billing Latitude
NUMBER BillingLongitude Billing Longitude
TEXT BillingGeocodeAccuracy Billing Geocode Accuracy
TEXT ShippingStreet Shipping Street
TEXT ShippingCity Shipping City
TEXT ShippingState Shipping State/Province
TEXT ShippingPostalCode Shipping Zip/Postal Code
TEXT ShippingCountry Shipping Country
TEXT ShippingStateCode
TEXT ShippingCountryCode
NUMBER ShippingLatitude Shipping Latitude
NUMBER ShippingLongitude Shipping Longitude
TEXT ShippingGeocodeAccuracy Shipping Geocode Accuracy
TEXT Phone Account Phone
TEXT Fax Account Fax
TEXT AccountNumber Account Number
TEXT Website Website
TEXT PhotoUrl Photo URL
TEXT Sic SIC Code
TEXT SicDesc SIC Description
TEXT Industry Industry
NUMBER AnnualRevenue Annual Revenue
INTEGER NumberOfEmployees Employees
TEXT Ownership Ownership
TEXT TickerSymbol Ticker Symbol
TEXT Description Account Description
TEXT Rating Account Rating
TEXT Site Account Site
TEXT CurrencyIsoCode
REF OwnerId Owner ID
TIME CreatedDate Created Date
REF CreatedById Created By ID
TIME LastModifiedDate Last Modified Date
REF LastModifiedById Last Modified By ID
TIME SystemModstamp System Modstamp
DATE LastActivityDate Last Activity
FLAG IsPartner Partner Account
FLAG IsCustomerPortal Customer Portal Account
FLAG IsPersonAccount
REF PersonContactId
FLAG IsBuyer
FLAG IsPriorityRecord
TEXT ChannelProgramName Channel Program Name
TEXT ChannelProgramLevelName Channel Program Level Name
TEXT Jigsaw Data.com Key
TEXT JigsawCompanyId Jigsaw Company ID
TEXT CleanStatus Clean Status
TEXT AccountSource Account Source
TEXT DunsNumber D-U-N-S Number
TEXT Tradestyle Tradestyle
TEXT NaicsCode NAICS Code
TEXT NaicsDesc NAICS Description
TEXT YearStarted Year Started
REF DandbCompanyId D&B Company ID
REF OperatingHoursId Operating Hour ID
TEXT FirstName
TEXT LastName
TEXT MiddleName
TEXT Suffix
TEXT Salutation
TEXT PersonMailingStreet
TEXT PersonMailingCity
TEXT PersonMailingState
TEXT PersonMailingPostalCode
TEXT PersonMailingCountry
TEXT PersonMailingStateCode
TEXT PersonMailingCountryCode
NUMBER PersonMailingLatitude
NUMBER PersonMailingLongitude
TEXT PersonMailingGeocodeAccuracy
TEXT PersonOtherStreet
TEXT PersonOtherCity
TEXT PersonOtherState
TEXT PersonOtherPostalCode
TEXT PersonOtherCountry
TEXT PersonOtherStateCode
TEXT PersonOtherCountryCode
NUMBER PersonOtherLatitude
NUMBER PersonOtherLongitude
TEXT PersonOtherGeocodeAccuracy
TEXT PersonMobilePhone
TEXT PersonHomePhone
TEXT PersonOtherPhone
TEXT PersonAssistantPhone
TEXT PersonEmail
TEXT PersonTitle
TEXT PersonDepartment
TEXT PersonAssistantName
TEXT PersonLeadSource
DATE PersonBirthdate
FLAG PersonHasOptedOutOfEmail
FLAG PersonHasOptedOutOfFax
FLAG PersonDoNotCall
TIME PersonLastCURequestDate
TIME PersonLastCUUpdateDate
TEXT PersonEmailBouncedReason
TIME PersonEmailBouncedDate
REF PersonIndividualId
TEXT PersonPronouns
TEXT PersonGenderIdentity
""",
    "Contact": """
ID Id Contact ID
FLAG IsDeleted Deleted
REF MasterRecordId Master Record ID
REF AccountId Account ID
REF RecordTypeId
TEXT Salutation Salutation
TEXT FirstName First Name
TEXT MiddleName
TEXT LastName Last Name
TEXT Suffix
TEXT Name Full Name
TEXT MailingStreet Mailing Street
TEXT MailingCity Mailing City
TEXT MailingState Mailing State/Province
TEXT MailingPostalCode Mailing Zip/Postal Code
TEXT MailingCountry Mailing Country
TEXT MailingStateCode
TEXT MailingCountryCode
NUMBER MailingLatitude Mailing Latitude
NUMBER MailingLongitude Mailing Longitude
TEXT MailingGeocodeAccuracy Mailing Geocode Accuracy
TEXT OtherStreet Other Street
TEXT OtherCity Other City
TEXT OtherState Other State/Province
TEXT OtherPostalCode Other Zip/Postal Code
TEXT OtherCountry Other Country
TEXT OtherStateCode
TEXT OtherCountryCode
NUMBER OtherLatitude Other Latitude
NUMBER OtherLongitude Other Longitude
TEXT OtherGeocodeAccuracy Other Geocode Accuracy
TEXT Email Email
TEXT Phone Business Phone
TEXT MobilePhone Mobile Phone
TEXT HomePhone Home Phone
TEXT OtherPhone Other Phone
TEXT AssistantPhone Asst. Phone
TEXT Fax Business Fax
TEXT Title Title
TEXT TitleType
TEXT Department Department
TEXT DepartmentGroup
REF ReportsToId Reports To ID
TEXT AssistantName Assistant's Name
TEXT LeadSource Lead Source
TEXT ContactSource
DATE Birthdate Birthdate
TEXT Pronouns
TEXT GenderIdentity
TEXT Description Contact Description
FLAG HasOptedOutOfEmail
FLAG HasOptedOutOfFax
FLAG DoNotCall
PICKS BuyerAttributes
TEXT CurrencyIsoCode
REF OwnerId Owner ID
TIME CreatedDate Created Date
REF CreatedById Created By ID
TIME LastModifiedDate Last Modified Date
REF LastModifiedById Last Modified By ID
TIME SystemModstamp System Modstamp
DATE LastActivityDate Last Activity
TIME LastCURequestDate Last Stay-in-Touch Request Date
TIME LastCUUpdateDate Last Stay-in-Touch Save Date
TEXT EmailBouncedReason Email Bounced Reason
TIME EmailBouncedDate Email Bounced Date
FLAG IsEmailBounced Is Email Bounced
FLAG IsPersonAccount
FLAG IsPriorityRecord
FLAG CanAllowPortalSelfReg
TIME FirstCallDateTime
TIME FirstEmailDateTime
TEXT PhotoUrl Photo URL
TEXT Jigsaw Data.com Key
TEXT JigsawContactId Jigsaw Contact ID
TEXT CleanStatus Clean Status
REF IndividualId Individual ID
""",
}

EMAIL = "the address, trimmed and in lower case; null where it is not one address"
NUMBER = "the number as +14155552671 (E.164), without extension; null where it is not a valid one"
HOST = "the host name, in lower case; null where there is none"
DERIVED = {
    "Account": {"phone_e164": ("Phone", NUMBER), "website_host": ("Website", HOST)},
    "Contact": {
        "email_normalized": ("Email", EMAIL),
        "phone_e164": ("Phone", NUMBER),
        "mobile_phone_e164": ("MobilePhone", NUMBER),
    },
}
CUSTOM = "The custom fields that the integration user can read, by API name."
# Columns of crm.customer that come from one column: whose, and which where its name is another.
CONTACT = """
contact_id=id account_id salutation first_name last_name full_name=name title department email
email_normalized phone phone_e164 mobile_phone mobile_phone_e164 mailing_street mailing_city
mailing_state mailing_postal_code mailing_country has_opted_out_of_email has_opted_out_of_fax
do_not_call owner_id created_at=created_date contact_custom=custom
"""
ACCOUNT = """
account_name=name account_number account_type=type account_industry=industry
account_website=website account_website_host=website_host account_phone=phone
account_phone_e164=phone_e164 billing_street billing_city billing_state billing_postal_code
billing_country shipping_street shipping_city shipping_state shipping_postal_code shipping_country
account_owner_id=owner_id parent_account_id=parent_id account_custom=custom
"""
CHANGED_AT = "When Salesforce last changed the contact or its account, the later of the two SystemModstamps."
FRESHNESS = {
    "object": "API name of a replicated object.",
    "complete_through": "Every change that Salesforce committed before this time is here; null: never complete.",
    "lag": "The time between complete_through and now.",
    "last_outcome": "How the last finished run ended: succeeded, failed, deferred, stopped or abandoned.",
    "last_finished_at": "When the last finished run ended.",
    "last_error": "The class of the last run's error, as login or database; null where it succeeded.",
    "rows": "How many live records there are; an estimate where `estimated` is true.",
    "tombstones": "How many deleted records are kept; an estimate where `estimated` is true.",
    "rejects": "How many records could not be stored in their newest version.",
    "verified_through": "When the records were last compared with all those of Salesforce.",
    "loaded": "Whether the first load is complete.",
    "deletions": "How deletions are found: by Salesforce's delete log, or by the nightly verify.",
    "estimated": "Whether `rows` and `tombstones` are estimates of the planner's statistics.",
}
# A sentence, then a line for each parameter and each column of the result.
FUNCTIONS = {
    "changes(bigint, integer)": """
The change feed after a number, in the order of commits.
after: the last seq that was processed; a new consumer begins with that of crm.feed_position()
max: at most so many entries, 1 to 10000
seq: the number of the entry, which grows with each commit
object: API name of the object
record_id: Id of the record; null for the entries of a whole object
op: insert, update, delete, undelete, merge, erase or reload; for any other one, read the record again
changed: the columns that an update changed
run_id: the run that wrote the entry
at: when the entry was written
survivor_id: for a merge, the Id of the record that survived
""",
    "feed_position()": """
Where a consumer that has read the views goes on: the epoch of the feed and its last number.
epoch: another one after the database was restored to an earlier state, or failed over
seq: the last number that was given
""",
    "complete_through(text[])": """
Everything that Salesforce committed before this time is here; -infinity while one of the objects was never complete.
objects: API names; all replicated objects where it is null
""",
    "wait_until(timestamptz, interval, text[])": """
Waits for complete_through to reach a time; false where it has not when the timeout is over.
at: the time; now() for a write of one's own
timeout: how long to wait, at most 60 seconds
objects: API names; all replicated objects where it is null
""",
    "resolve_id(text)": """
Follows merges to the Id of the record that survives; null where there is none.
id: an Id of 15 or 18 characters
""",
}
BEFORE = {
    "changes(bigint, integer)": "The change feed after a number, in the order of commits.",
    "feed_position()": (
        "The epoch of the feed and its last number: where a consumer that has read the views goes on."
    ),
    "complete_through(text[])": "Through when all objects are complete; -infinity while one of them never was.",
    "wait_until(timestamptz, interval, text[])": "Waits until all objects are complete through a time; false when that took too long.",
    "resolve_id(text)": "Follows merges to the Id that survives, else NULL.",
}


def upgrade() -> None:
    for name in FIELDS:
        describe(f"COLUMN salesforce.{sql_name(name)}", comments(name))
        rights.describe_view(sql_name(name))
    describe("COLUMN crm.customer", customer())
    describe("COLUMN crm.freshness", FRESHNESS)
    for function, text in FUNCTIONS.items():
        op.execute(f"COMMENT ON FUNCTION crm.{function} IS {literal(text.strip())}")


def comments(name: str) -> dict[str, str]:
    """The comments of the columns of an object's table that come from fields."""
    found = {}
    for line in FIELDS[name].strip().splitlines():
        kind, field, label = [*line.split(" ", 2), ""][:3]
        called = f" ({label})" if label else ""
        found[sql_name(field)] = f"Salesforce field {name}.{field}{called}: {WORDS[kind]}."
    for column, (field, meaning) in DERIVED[name].items():
        found[column] = f"Computed from Salesforce field {name}.{field}: {meaning}."
    return found


def customer() -> dict[str, str]:
    """The comments of the columns of crm.customer."""
    contact = {**comments("Contact"), "custom": CUSTOM}
    account = {**comments("Account"), "custom": CUSTOM}
    found = {column: f"Of the contact. {contact[source]}" for column, source in pairs(CONTACT)}
    found |= {column: f"Of the contact's account. {account[source]}" for column, source in pairs(ACCOUNT)}
    found["parent_account_name"] = f"Of the account's parent. {account['name']}"
    return found | {"changed_at": CHANGED_AT}


def pairs(listed: str) -> Iterator[tuple[str, str]]:
    """Columns with those that they come from."""
    for entry in listed.split():
        column, _, source = entry.partition("=")
        yield column, source or column


def describe(place: str, texts: Mapping[str, str]) -> None:
    """Comment columns of a table or view (`COLUMN schema.name`); an empty text takes the comment away."""
    op.execute(
        ";\n".join(
            f"COMMENT ON {place}.{column} IS {literal(text) if text else 'NULL'}"
            for column, text in texts.items()
        )
    )


def literal(text: str) -> str:
    """A text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def downgrade() -> None:
    for function, text in BEFORE.items():
        op.execute(f"COMMENT ON FUNCTION crm.{function} IS {literal(text) if text else 'NULL'}")
    for view, columns in (("COLUMN crm.freshness", FRESHNESS), ("COLUMN crm.customer", customer())):
        describe(view, dict.fromkeys(columns, ""))
    versions = import_module("migrations.versions.0012_catalogue")
    for name in FIELDS:
        fields = [line.split(" ")[1] for line in FIELDS[name].strip().splitlines()]
        before = {sql_name(field): f"Salesforce field {name}.{field}." for field in fields}
        before |= {
            column: f"Computed from {field}: {by}." for column, (field, by) in versions.DERIVED[name].items()
        }
        describe(f"COLUMN salesforce.{sql_name(name)}", before)
        rights.describe_view(sql_name(name))
