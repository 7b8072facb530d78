"""Person accounts: one customer as an account and a contact whose values mirror each other."""

from typing import Any

from sync.simulator.rows import Row, Values
from sync.simulator.schema import SObject

# Account's field → Contact's field.
MIRRORED = {
    "FirstName": "FirstName",
    "LastName": "LastName",
    "Salutation": "Salutation",
    "PersonEmail": "Email",
    "PersonTitle": "Title",
    "PersonDepartment": "Department",
    "PersonMobilePhone": "MobilePhone",
    "PersonHomePhone": "HomePhone",
    "PersonBirthdate": "Birthdate",
    "PersonLeadSource": "LeadSource",
    "PersonHasOptedOutOfEmail": "HasOptedOutOfEmail",
    "Nickname__pc": "Nickname__c",
}
_BACK = {contact: account for account, contact in MIRRORED.items()}


def is_person(sobject: SObject, record: Values) -> bool:
    """True for a new account that is given a person's last name."""
    return sobject.name == "Account" and bool(record.get("LastName"))


def contact_half(account: Row) -> Row:
    """The values of the contact that belongs to a person account's row, in stored form."""
    values: Row = {
        contact: account[name] for name, contact in MIRRORED.items() if account.get(name) is not None
    }
    return {**values, "AccountId": account["Id"], "IsPersonAccount": 1}


def mirrored(sobject: SObject, changes: Values) -> dict[str, Any]:
    """What a change of one half means for the other."""
    names = MIRRORED if sobject.name == "Account" else _BACK
    return {names[name]: value for name, value in changes.items() if name in names}
