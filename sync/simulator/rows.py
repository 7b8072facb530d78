"""A record as it is first written: stamps, defaults, computed names, checked values; person accounts."""

from collections.abc import Mapping
from typing import Any

from sync.simulator import values
from sync.simulator.fields import DECIMAL_TYPES, TEXT_TYPES, Field
from sync.simulator.objects.schema import SObject

Values = Mapping[str, Any]
Row = dict[str, Any]

CREATED_MODIFIED_STAMPED = ("CreatedDate", "LastModifiedDate", "SystemModstamp")
_WHO = ("OwnerId", "CreatedById", "LastModifiedById")
NAME_PARTS = ("FirstName", "MiddleName", "LastName", "Suffix")


def new_row(sobject: SObject, record: Values, record_id: str, stamp: int, user_id: str) -> Row:
    """All stored values of a new record; raises ValueError for a value that does not fit or a missing one."""
    row: Row = {
        field.name: 0 for field in sobject.fields.values() if field.type == "boolean" and field.stored
    }
    row |= {"Id": record_id} | {name: stamp for name in CREATED_MODIFIED_STAMPED if name in sobject.fields}
    row |= {name: user_id for name in _WHO if name in sobject.fields}
    if "PhotoUrl" in sobject.fields:
        row["PhotoUrl"] = f"/services/images/photo/{record_id}"
    row |= encode(sobject, record)
    row |= _defaults(sobject, row, stamp)
    row |= computed_name(sobject, row)
    for field in sobject.fields.values():
        if not field.nillable and field.stored and field.feature is None and row.get(field.name) is None:
            raise ValueError(f"{sobject.name}: required field missing: {field.name}")
    return row


def _defaults(sobject: SObject, row: Row, stamp: int) -> Row:
    """What Salesforce fills in where a record must have a value that its creator need not give."""
    defaults: Row = {}
    for field in sobject.fields.values():
        system = not field.nillable or field.name_field
        if not system or not field.stored or row.get(field.name) is not None or field.feature is not None:
            continue
        if field.defaulted or not field.createable:
            defaults[field.name] = _default(field, str(row["Id"]), stamp)
    return defaults


def _default(field: Field, record_id: str, stamp: int) -> values.Stored:
    if field.type == "datetime":
        return stamp
    if field.type == "date":
        return values.moment_text(stamp)[:10]
    if field.type in DECIMAL_TYPES or field.type == "int":
        return 0
    if field.type in TEXT_TYPES and field.values:
        return field.values[0]
    return record_id[: field.length] if field.type in TEXT_TYPES else None


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
    person = sobject.named_by_parts or bool(row.get("IsPersonAccount"))
    parts = [str(row[part]) for part in NAME_PARTS if row.get(part)]
    return {"Name": " ".join(parts)} if person and parts else {}


# Person accounts are one customer as an account and a contact whose values mirror each other: Account's
# field → Contact's field.
_SAME = ("FirstName", "MiddleName", "LastName", "Suffix", "Salutation")
_PERSON = (
    *("Title", "Department", "Email", "MobilePhone", "HomePhone", "OtherPhone", "AssistantPhone"),
    *("AssistantName", "LeadSource", "Birthdate", "HasOptedOutOfEmail", "HasOptedOutOfFax", "DoNotCall"),
    *("LastCURequestDate", "LastCUUpdateDate", "EmailBouncedReason", "EmailBouncedDate", "IndividualId"),
    *("Pronouns", "GenderIdentity"),
)
_ADDRESSES = (
    *("Street", "City", "State", "PostalCode", "Country", "StateCode", "CountryCode"),
    *("Latitude", "Longitude", "GeocodeAccuracy"),
)
MIRRORED = {
    **{name: name for name in _SAME},
    **{f"Person{name}": name for name in _PERSON},
    **{f"Person{kind}{part}": f"{kind}{part}" for kind in ("Mailing", "Other") for part in _ADDRESSES},
    "Nickname__pc": "Nickname__c",
}
_BACK = {contact: account for account, contact in MIRRORED.items()}


def other_half(name: str, field_name: str) -> tuple[str, str] | None:
    """The object and field that mirror a field of an account or a contact, or None."""
    names = {"Account": MIRRORED, "Contact": _BACK}.get(name, {})
    if field_name not in names:
        return None
    return "Contact" if name == "Account" else "Account", names[field_name]


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
