"""Account and Contact as a fresh org has them, and what the fields of all objects are made of."""

from decimal import Decimal
from typing import Any

from sync.simulator.fields import Field, Formula

GEOCODE = [
    "Address",
    "NearAddress",
    "Block",
    "Street",
    "ExtendedZip",
    "Zip",
    "Neighborhood",
    "City",
    "County",
    "State",
    "Unknown",
]
CLEAN_STATUS = [
    "Matched",
    "Different",
    "Acknowledged",
    "NotFound",
    "Inactive",
    "Pending",
    "SelectMatch",
    "Skipped",
]
SOURCES = ("Web", "Phone Inquiry", "Partner Referral", "Purchased List", "Other")
SALUTATIONS = ("Mr.", "Ms.", "Mrs.", "Dr.", "Prof.")
ACCOUNT_TYPES = (
    "Prospect",
    "Customer - Direct",
    "Customer - Channel",
    "Channel Partner / Reseller",
    "Installation Partner",
    "Technology Partner",
    "Other",
)
INDUSTRIES = [
    "Agriculture",
    "Apparel",
    "Banking",
    "Biotechnology",
    "Chemicals",
    "Communications",
    "Construction",
    "Consulting",
    "Education",
    "Electronics",
    "Energy",
    "Engineering",
    "Entertainment",
    "Environmental",
    "Finance",
    "Food & Beverage",
    "Government",
    "Healthcare",
    "Hospitality",
    "Insurance",
    "Machinery",
    "Manufacturing",
    "Media",
    "Not For Profit",
    "Other",
    "Recreation",
    "Retail",
    "Shipping",
    "Technology",
    "Telecommunications",
    "Transportation",
    "Utilities",
]
OWNERSHIPS = ("Public", "Private", "Subsidiary", "Other")
PRONOUNS = ("He/Him", "She/Her", "They/Them", "Not Listed")
GENDERS = ("Male", "Female", "Nonbinary", "Not Listed")
RATINGS = ("Hot", "Warm", "Cold")
# Standard relationships whose children Salesforce deletes with the parent: cascadeDelete in the recorded
# childRelationships of the parent. The child's own describe does not tell.
_CASCADES: dict[str, dict[str, tuple[str, ...]]] = {
    "Account": {
        "AccountId": ("Asset", "Contact", "Contract", "Opportunity", "Order"),
        "ParentId": ("Attachment", "ContactPointEmail", "ContactPointPhone", "Note"),
        "ParentRecordId": ("ServiceAppointment",),
        "LinkedEntityId": ("ContentDocumentLink",),
        "AccountFromId": ("Partner",),
        "AccountToId": ("Partner",),
        "WhatId": ("Event", "Task"),
    },
    "Contact": {
        "ContactId": ("Asset", "CampaignMember", "CaseContactRole", "OpportunityContactRole"),
        "ParentId": ("Attachment", "Note"),
        "LinkedEntityId": ("ContentDocumentLink",),
        "WhoId": ("Event", "Task"),
    },
}
CASCADES = {
    parent: frozenset(f"{child}.{field}" for field, children in fields.items() for child in children)
    for parent, fields in _CASCADES.items()
}
READ_ONLY: dict[str, Any] = {"createable": False, "updateable": False}
SYSTEM: dict[str, Any] = {"nillable": False, "updateable": False, "createable": False, "defaulted": True}


def text(name: str, length: int, kind: str = "string", **more: Any) -> Field:
    return Field(name, kind, length=length, **more)


def picklist(name: str, length: int, values: tuple[str, ...] | list[str], **more: Any) -> Field:
    return Field(name, "picklist", length=length, values=tuple(values), **more)


def lookup(name: str, relationship: str, *targets: str, **more: Any) -> Field:
    return Field(name, "reference", length=18, relationship=relationship, reference_to=targets, **more)


def flag(name: str, **more: Any) -> Field:
    return Field(name, "boolean", nillable=False, defaulted=True, **more)


def address(prefix: str, feature: str | None = None) -> list[Field]:
    """The parts of a compound address and the compound itself, there with an option of the org or always."""
    whole = f"{prefix}Address"
    part: dict[str, Any] = {"compound": whole, "feature": feature}
    codes = part | {"feature": " ".join(filter(None, (feature, "state_country_picklists")))}
    return [
        text(f"{prefix}Street", 255, "textarea", **part),
        text(f"{prefix}City", 40, **part),
        text(f"{prefix}State", 80, **part),
        text(f"{prefix}PostalCode", 20, **part),
        text(f"{prefix}Country", 80, **part),
        picklist(f"{prefix}StateCode", 10, ("CA", "NY", "BY", "NRW", "SP", "MH"), **codes),
        picklist(f"{prefix}CountryCode", 10, ("US", "DE", "FR", "GB", "BR", "IN", "JP", "PL"), **codes),
        Field(f"{prefix}Latitude", "double", precision=18, scale=15, **part),
        Field(f"{prefix}Longitude", "double", precision=18, scale=15, **part),
        picklist(f"{prefix}GeocodeAccuracy", 40, GEOCODE, restricted=True, **part),
        # Describes itself as filterable, yet WHERE refuses it.
        Field(whole, "address", filterable=True, feature=feature, **READ_ONLY),
    ]


def identity(name: str) -> list[Field]:
    return [
        Field("Id", "id", length=18, label=f"{name} ID", **SYSTEM),
        Field("IsDeleted", "boolean", label="Deleted", **SYSTEM),
        lookup("MasterRecordId", "MasterRecord", name, **READ_ONLY),
    ]


def audit() -> list[Field]:
    return [
        lookup("OwnerId", "Owner", "User", nillable=False, defaulted=True),
        Field("CreatedDate", "datetime", **SYSTEM),
        lookup("CreatedById", "CreatedBy", "User", **SYSTEM),
        Field("LastModifiedDate", "datetime", **SYSTEM),
        lookup("LastModifiedById", "LastModifiedBy", "User", **SYSTEM),
        Field("SystemModstamp", "datetime", **SYSTEM),
        Field("LastActivityDate", "date", **READ_ONLY),
    ]


def stamps() -> list[Field]:
    return [
        Field("CreatedDate", "datetime", **SYSTEM),
        Field("LastModifiedDate", "datetime", **SYSTEM),
        Field("SystemModstamp", "datetime", **SYSTEM),
    ]


def viewed() -> list[Field]:
    return [
        Field("LastViewedDate", "datetime", **READ_ONLY),
        Field("LastReferencedDate", "datetime", **READ_ONLY),
    ]


def _person() -> list[Field]:
    on: dict[str, Any] = {"feature": "person_accounts"}
    recent = {"feature": "person_accounts recent_fields"}
    return [
        text("LastName", 80, compound="Name", **on),
        text("FirstName", 40, compound="Name", **on),
        text("MiddleName", 40, compound="Name", **on),
        text("Suffix", 40, compound="Name", **on),
        picklist("Salutation", 40, SALUTATIONS, compound="Name", **on),
        flag("IsPersonAccount", **READ_ONLY, **on),
        lookup("PersonContactId", "PersonContact", "Contact", **READ_ONLY, **on),
        *address("PersonMailing", "person_accounts"),
        *address("PersonOther", "person_accounts"),
        *(text(f"Person{kind}Phone", 40, "phone", **on) for kind in ("Mobile", "Home", "Other", "Assistant")),
        text("PersonEmail", 80, "email", **on),
        text("PersonTitle", 80, **on),
        text("PersonDepartment", 80, **on),
        text("PersonAssistantName", 40, **on),
        picklist("PersonLeadSource", 255, SOURCES, **on),
        Field("PersonBirthdate", "date", **on),
        flag("PersonHasOptedOutOfEmail", **on),
        flag("PersonHasOptedOutOfFax", **on),
        flag("PersonDoNotCall", **on),
        Field("PersonLastCURequestDate", "datetime", **READ_ONLY, **on),
        Field("PersonLastCUUpdateDate", "datetime", **READ_ONLY, **on),
        text("PersonEmailBouncedReason", 255, **on),
        Field("PersonEmailBouncedDate", "datetime", **on),
        lookup("PersonIndividualId", "PersonIndividual", "Individual", permissionable=False, **on),
        picklist("PersonPronouns", 40, PRONOUNS, **recent),
        picklist("PersonGenderIdentity", 40, GENDERS, **recent),
        text("Nickname__pc", 80, **on),
    ]


def account_fields() -> list[Field]:
    return [
        *identity("Account"),
        text(
            "Name",
            255,
            label="Account Name",
            nillable=False,
            name_field=True,
            compound="Name",
            extra="switchablepersonname",
        ),
        *_person(),
        picklist("Type", 40, ACCOUNT_TYPES),
        lookup("RecordTypeId", "RecordType", "RecordType", permissionable=False),
        lookup("ParentId", "Parent", "Account"),
        *address("Billing"),
        *address("Shipping"),
        text("Phone", 40, "phone"),
        text("Fax", 40, "phone"),
        text("AccountNumber", 40),
        text("Website", 255, "url"),
        text("PhotoUrl", 255, "url", extra="imageurl", **READ_ONLY),
        text("Sic", 20),
        picklist("Industry", 40, INDUSTRIES),
        Field("AnnualRevenue", "currency", precision=18, scale=0),
        Field("NumberOfEmployees", "int", digits=8, label="Employees"),
        picklist("Ownership", 40, OWNERSHIPS),
        text("TickerSymbol", 20),
        text("Description", 32000, "textarea"),
        picklist("Rating", 40, RATINGS),
        text("Site", 80),
        *audit(),
        *viewed(),
        flag("IsPartner", createable=False),
        flag("IsCustomerPortal", createable=False),
        text("ChannelProgramName", 255, filterable=False, sortable=False, **READ_ONLY),
        text("ChannelProgramLevelName", 255, filterable=False, sortable=False, **READ_ONLY),
        flag("IsPriorityRecord", feature="recent_fields"),
        text("Jigsaw", 20),
        text("JigsawCompanyId", 20, relationship="JigsawCompany", **READ_ONLY),
        picklist("CleanStatus", 40, CLEAN_STATUS, restricted=True),
        picklist("AccountSource", 40, SOURCES),
        text("DunsNumber", 9),
        text("Tradestyle", 255),
        text("NaicsCode", 8),
        text("NaicsDesc", 120),
        text("YearStarted", 4),
        text("SicDesc", 80),
        lookup("DandbCompanyId", "DandbCompany", "DandBCompany"),
        lookup("OperatingHoursId", "OperatingHours", "OperatingHours"),
        *_account_custom(),
    ]


def _account_custom() -> list[Field]:
    return [
        text("ERP_Number__c", 30, external_id=True),
        picklist("Segment__c", 255, ("Enterprise", "Mid-Market", "SMB")),
        Field(
            "Channels__c", "multipicklist", length=4099, values=("Online", "Retail", "Wholesale", "Partner")
        ),
        Field("Credit_Limit__c", "currency", precision=18, scale=2),
        Field("Discount__c", "percent", precision=5, scale=2),
        Field("Ledger_Number__c", "double", precision=18, scale=0),
        Field("Score__c", "double", precision=16, scale=4),
        Field("Customer_Since__c", "date"),
        Field("Last_Order__c", "datetime"),
        flag("Key_Account__c"),
        text("Notes__c", 32768, "textarea"),
        lookup("Billing_Contact__c", "Billing_Contact__r", "Contact"),
        text(
            "Display_Name__c",
            1300,
            formula=Formula(
                ("Name", "BillingCountry"),
                lambda name, country: f"{name} ({country})" if country else name,
                'Name & IF(ISBLANK(BillingCountry), "", " (" & BillingCountry & ")")',
                "{0} || coalesce(' (' || {1} || ')', '')",
            ),
            **READ_ONLY,
        ),
    ]


def contact_fields() -> list[Field]:
    return [
        *identity("Contact"),
        lookup("AccountId", "Account", "Account"),
        text("LastName", 80, nillable=False, compound="Name", extra="personname"),
        text("FirstName", 40, compound="Name", extra="personname"),
        # Persons' middle names and suffixes are switched on for accounts and contacts alike.
        text("MiddleName", 40, compound="Name", extra="personname", feature="person_accounts"),
        text("Suffix", 40, compound="Name", extra="personname", feature="person_accounts"),
        picklist("Salutation", 40, SALUTATIONS, compound="Name", extra="personname"),
        text(
            "Name", 121, label="Full Name", nillable=False, name_field=True, extra="personname", **READ_ONLY
        ),
        *address("Other"),
        *address("Mailing"),
        text("Phone", 40, "phone", label="Business Phone"),
        text("Fax", 40, "phone"),
        text("MobilePhone", 40, "phone"),
        text("HomePhone", 40, "phone"),
        text("OtherPhone", 40, "phone"),
        text("AssistantPhone", 40, "phone"),
        lookup("ReportsToId", "ReportsTo", "Contact"),
        text("Email", 80, "email"),
        text("Title", 128),
        text("Department", 80),
        text("AssistantName", 40),
        picklist("LeadSource", 255, SOURCES),
        Field("Birthdate", "date"),
        text("Description", 32000, "textarea"),
        *audit(),
        flag("HasOptedOutOfEmail"),
        flag("HasOptedOutOfFax"),
        flag("DoNotCall"),
        Field("LastCURequestDate", "datetime", **READ_ONLY),
        Field("LastCUUpdateDate", "datetime", **READ_ONLY),
        *viewed(),
        text("EmailBouncedReason", 255, permissionable=False),
        Field("EmailBouncedDate", "datetime", permissionable=False),
        flag("IsEmailBounced", **READ_ONLY),
        text("PhotoUrl", 255, "url", extra="imageurl", **READ_ONLY),
        text("Jigsaw", 20),
        text("JigsawContactId", 20, relationship="JigsawContact", **READ_ONLY),
        picklist("CleanStatus", 40, CLEAN_STATUS, restricted=True),
        lookup("IndividualId", "Individual", "Individual", permissionable=False),
        *_recent_contact(),
        flag("IsPersonAccount", feature="person_accounts", **READ_ONLY),
        *_contact_custom(),
    ]


def _recent_contact() -> list[Field]:
    on: dict[str, Any] = {"feature": "recent_fields"}
    return [
        flag("IsPriorityRecord", **on),
        picklist("Pronouns", 40, PRONOUNS, **on),
        picklist("GenderIdentity", 40, GENDERS, **on),
        picklist("ContactSource", 40, ("Email", "Meeting", "Web"), **on),
        picklist("TitleType", 40, ("CEO", "CFO", "Manager"), **on),
        picklist("DepartmentGroup", 40, ("Finance", "Sales", "IT"), **on),
        Field("BuyerAttributes", "multipicklist", length=4099, values=("Champion", "Decision Maker"), **on),
    ]


def _contact_custom() -> list[Field]:
    return [
        text("Nickname__c", 80),
        picklist("Tier__c", 255, ("Gold", "Silver", "Bronze")),
        Field(
            "Interests__c", "multipicklist", length=4099, values=("Golf", "Music", "Travel", "Food", "Art")
        ),
        Field("Spend__c", "currency", precision=18, scale=2),
        Field("Margin__c", "percent", precision=7, scale=3),
        Field("Loyalty_Number__c", "double", precision=18, scale=0),
        Field("Rating_Value__c", "double", precision=16, scale=4),
        Field("Member_Since__c", "date"),
        Field("Last_Visit__c", "datetime"),
        flag("VIP__c"),
        text("Remarks__c", 32768, "textarea"),
        lookup("Referred_By__c", "Referred_By__r", "Contact"),
        lookup("Billing_Account__c", "Billing_Account__r", "Account"),
        Field(
            "Spend_With_Tax__c",
            "currency",
            precision=18,
            scale=2,
            formula=Formula(
                ("Spend__c",),
                lambda spend: None if spend is None else spend * Decimal("1.19"),
                "Spend__c * 1.19",
                # Cents, rounded half up without leaving 63 bits; beyond 18 digits there is no value.
                "CASE WHEN abs({0}) <= 840336134453781512 THEN"
                " {0} / 100 * 119 + ({0} % 100 * 119 + CASE WHEN {0} < 0 THEN -50 ELSE 50 END) / 100 END",
            ),
            **READ_ONLY,
        ),
        text(
            "Account_Display__c",
            1300,
            formula=Formula(
                ("Account.Name", "Account.Rating"),
                lambda name, rating: None if name is None else f"{name} [{rating or 'unrated'}]",
                'Account.Name & " [" & TEXT(Account.Rating) & "]"',
                "{0} || ' [' || coalesce({1}, 'unrated') || ']'",
            ),
            **READ_ONLY,
        ),
    ]
