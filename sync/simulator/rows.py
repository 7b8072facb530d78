"""A record as it is first written: stamps, defaults, computed names, checked values; person accounts."""

from collections.abc import Mapping
from typing import Any

from sync.simulator import values
from sync.simulator.objects.schema import SObject

Values = Mapping[str, Any]
Row = dict[str, Any]

STAMPS = ("SystemModstamp", "CreatedDate", "LastModifiedDate")
_NAME_PARTS = ("FirstName", "LastName")


def new_row(sobject: SObject, record: Values, record_id: str, stamp: int, user_id: str) -> Row:
    """All stored values of a new record; raises ValueError for a value that does not fit or a missing one."""
    row: Row = {
        field.name: 0 for field in sobject.fields.values() if field.type == "boolean" and field.stored
    }
    row |= {"Id": record_id} | {name: stamp for name in STAMPS if name in sobject.fields}
    if "OwnerId" in sobject.fields:
        row |= dict.fromkeys(("OwnerId", "CreatedById", "LastModifiedById"), user_id)
        row["PhotoUrl"] = f"/services/images/photo/{record_id}"
    row |= encode(sobject, record)
    row |= computed_name(sobject, row)
    for field in sobject.fields.values():
        if not field.nillable and field.stored and field.feature is None and row.get(field.name) is None:
            raise ValueError(f"{sobject.name}: required field missing: {field.name}")
    return row


def encode(sobject: SObject, record: Values) -> Row:
    """The stored forms of some values; raises ValueError for an unknown or calculated field."""
    encoded: Row = {}
    for name, value in record.items():
        field = sobject.fields.get(name)
        if field is None or not field.stored:
            raise ValueError(f"{sobject.name} has no writable field {name}")
        encoded[name] = values.encode(field, value)
        if encoded[name] is None and not field.nillable:
            raise ValueError(f"{sobject.name}: required field missing: {name}")
    return encoded


def computed_name(sobject: SObject, row: Values) -> Row:
    """The Name a person's row should have, as a change to it; businesses keep the name they have."""
    person = sobject.name in ("Contact", "User") or bool(row.get("IsPersonAccount"))
    parts = [str(row[part]) for part in _NAME_PARTS if row.get(part)]
    return {"Name": " ".join(parts)} if person and parts else {}


# Person accounts are one customer as an account and a contact whose values mirror each other: Account's
# field → Contact's field.
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
