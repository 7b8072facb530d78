"""A field of an object, and its description with the 57 keys that a describe gives for each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

TEXT_TYPES = frozenset(
    {
        "string",
        "picklist",
        "multipicklist",
        "textarea",
        "phone",
        "email",
        "url",
        "combobox",
        "encryptedstring",
        "anyType",
        "base64",
        "datacategorygroupreference",
    }
)
ID_TYPES = frozenset({"id", "reference"})
DECIMAL_TYPES = frozenset({"double", "currency", "percent"})
COMPOUND_TYPES = frozenset({"address", "location"})
# These are described, but no query returns a value of them.
EMPTY_TYPES = frozenset({"complexvalue", "junctionIdList"})
TYPES = (
    TEXT_TYPES
    | ID_TYPES
    | DECIMAL_TYPES
    | COMPOUND_TYPES
    | EMPTY_TYPES
    | {"boolean", "int", "date", "datetime", "time"}
)
_SOAP = {
    "id": "tns:ID",
    "reference": "tns:ID",
    "boolean": "xsd:boolean",
    "int": "xsd:int",
    "double": "xsd:double",
    "currency": "xsd:double",
    "percent": "xsd:double",
    "date": "xsd:date",
    "datetime": "xsd:dateTime",
    "time": "xsd:time",
    "base64": "xsd:base64Binary",
    "anyType": "xsd:anyType",
    "address": "urn:address",
    "location": "urn:location",
}


@dataclass(frozen=True)
class Formula:
    """A calculated value: a function of other fields of the record, or of its parents (``Account.Name``).

    The function receives Python values (str, bool, int, Decimal, datetime, date, None), one per input.
    ``sql``, where given, says the same of the inputs' stored forms ``{0}``, ``{1}``: it is many times as
    fast, and a calculated field is read with every row.
    """

    inputs: tuple[str, ...]
    function: Callable[..., Any]
    text: str = ""
    sql: str | None = None


@dataclass(frozen=True)
class Field:
    """One field; ``type`` is a describe type name. Flags left at None follow from the type."""

    name: str
    type: str
    length: int = 0
    precision: int = 0
    scale: int = 0
    digits: int = 0
    nillable: bool = True
    createable: bool = True
    updateable: bool = True
    defaulted: bool = False
    filterable: bool | None = None
    sortable: bool | None = None
    groupable: bool | None = None
    permissionable: bool | None = None
    compound: str | None = None
    relationship: str | None = None
    reference_to: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    restricted: bool = False
    label: str | None = None
    external_id: bool = False
    name_field: bool = False
    formula: Formula | None = None
    extra: str | None = None
    feature: str | None = None  # the options, separated by blanks, that must be on for the field to exist
    switch: str | None = None  # the option that must be on for a flag to be true anywhere
    auto_number: bool = False
    cascade_delete: bool = False  # master-detail: a record goes with the record that the field names
    # Keys of a recorded describe, which say more than the attributes; they win over what follows from these.
    recorded: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def custom(self) -> bool:
        return self.name.endswith(("__c", "__pc", "__s"))

    @property
    def stored(self) -> bool:
        return self.formula is None and self.type not in COMPOUND_TYPES | EMPTY_TYPES

    @property
    def selectable(self) -> bool:
        """False for a field that a describe shows and no query returns."""
        return self.type not in EMPTY_TYPES

    @property
    def long_text(self) -> bool:
        return self.type == "textarea" and self.length > 255

    @property
    def can_filter(self) -> bool:
        if self.filterable is not None:
            return self.filterable
        return not self.long_text and self.type not in EMPTY_TYPES | {"base64", "location"}

    @property
    def can_sort(self) -> bool:
        if self.sortable is not None:
            return self.sortable
        unsorted = COMPOUND_TYPES | EMPTY_TYPES | {"multipicklist", "base64"}
        return not self.long_text and self.type not in unsorted

    @property
    def can_group(self) -> bool:
        if self.groupable is not None:
            return self.groupable
        unsorted = COMPOUND_TYPES | EMPTY_TYPES | {"multipicklist", "base64"}
        if self.long_text or self.type in DECIMAL_TYPES | unsorted | {"datetime", "time", "encryptedstring"}:
            return False
        return self.formula is None

    @property
    def can_permit(self) -> bool:
        """True when field-level security can hide the field."""
        if self.permissionable is not None:
            return self.permissionable
        if self.compound == "Name" or not self.nillable:
            return False
        return self.custom or self.updateable or self.type in COMPOUND_TYPES

    @property
    def can_aggregate(self) -> bool:
        unsorted = COMPOUND_TYPES | EMPTY_TYPES | {"multipicklist", "base64", "boolean"}
        return not self.long_text and self.type not in unsorted

    def describe(self) -> dict[str, Any]:
        """The field as ``sobjects/X/describe`` shows it, keys in alphabetical order."""
        body = self._described
        return body | {name: value for name, value in self.recorded.items() if name in body}

    @cached_property
    def _described(self) -> dict[str, Any]:
        text = self.type in TEXT_TYPES or self.type in ID_TYPES
        writable = self.formula is None
        return {
            "aggregatable": self.can_aggregate,
            "aiPredictionField": False,
            "autoNumber": self.auto_number,
            "byteLength": (18 if self.type in ID_TYPES else 3 * self.length) if text else 0,
            "calculated": self.formula is not None,
            "calculatedFormula": self.formula.text if self.formula else None,
            "cascadeDelete": self.cascade_delete,
            "caseSensitive": False,
            "compoundFieldName": self.compound,
            "controllerName": None,
            "createable": self.createable and writable,
            "custom": self.custom,
            "defaultValue": False if self.type == "boolean" else None,
            "defaultValueFormula": None,
            "defaultedOnCreate": self.defaulted,
            "dependentPicklist": False,
            "deprecatedAndHidden": False,
            "digits": self.digits,
            "displayLocationInDecimal": False,
            "encrypted": False,
            "externalId": self.external_id,
            "extraTypeInfo": self.extra or ("plaintextarea" if self.type == "textarea" else None),
            "filterable": self.can_filter,
            "filteredLookupInfo": None,
            "formulaTreatNullNumberAsZero": False,
            "groupable": self.can_group,
            "highScaleNumber": False,
            "htmlFormatted": False,
            "idLookup": self.type in ("id", "email") or self.external_id,
            "inlineHelpText": None,
            "label": self.label or label_of(self.name),
            "length": self.length if text else 0,
            "mask": None,
            "maskType": None,
            "name": self.name,
            "nameField": self.name_field,
            "namePointing": False,
            "nillable": self.nillable,
            "permissionable": self.can_permit,
            "picklistValues": [
                {"active": True, "defaultValue": False, "label": value, "validFor": None, "value": value}
                for value in self.values
            ],
            "polymorphicForeignKey": len(self.reference_to) > 1,
            "precision": self.precision,
            "queryByDistance": self.type in COMPOUND_TYPES,
            "referenceTargetField": None,
            "referenceTo": list(self.reference_to),
            "relationshipName": self.relationship,
            "relationshipOrder": None,
            "restrictedDelete": False,
            "restrictedPicklist": self.restricted,
            "scale": self.scale,
            "searchPrefilterable": self.updateable and bool(set(self.reference_to) - {"User", "RecordType"}),
            "soapType": _SOAP.get(self.type, "xsd:string"),
            "sortable": self.can_sort,
            "type": self.type,
            "unique": False,
            "updateable": self.updateable and writable,
            "writeRequiresMasterRead": False,
        }


def label_of(name: str) -> str:
    """A field's label from its API name: ``BillingPostalCode`` becomes ``Billing Postal Code``."""
    bare = re.sub(r"__(?:p?c|s)$", "", name).replace("_", " ")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", bare)
