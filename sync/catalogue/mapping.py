"""Field and SObject: what the catalogue is made of, and how it meets an org's describe."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Any

from sync.catalogue.derivation import Derivation
from sync.errors import SyncError, UsageError

WORD_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
CHECKSUM_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


class Kind(Enum):
    """How a field's values are kept; each lists the describe types that fit it."""

    ID = ("id",)
    REFERENCE = ("reference",)
    TEXT = (
        *("string", "picklist", "textarea", "phone", "email", "url", "reference", "id", "combobox"),
        *("encryptedstring", "anyType", "time"),
    )
    MULTIPICKLIST = ("multipicklist",)
    BOOLEAN = ("boolean",)
    INTEGER = ("int", "long")
    NUMBER = ("double", "currency", "percent", "int", "long")
    DATE = ("date",)
    DATETIME = ("datetime",)


# The kinds as declarations name them.
ID, REF, TEXT, PICKS, FLAG = Kind.ID, Kind.REFERENCE, Kind.TEXT, Kind.MULTIPICKLIST, Kind.BOOLEAN
INTEGER, NUMBER, DATE, TIME = Kind.INTEGER, Kind.NUMBER, Kind.DATE, Kind.DATETIME

NUMBER_TYPES = frozenset({"double", "currency", "percent", "int", "long"})

# What every query selects: without them a record has no place in a table.
PLACING = frozenset({"Id", "IsDeleted", "SystemModstamp"})
NEEDED = {
    "Id": "nothing names a record",
    "IsDeleted": "deleted records leave no trace that could be read",
    "SystemModstamp": "nothing tells what has changed",
}

# Compound values are delivered by their parts, blobs are not customers' data (type, not compoundFieldName:
# FirstName and LastName carry compoundFieldName "Name").
UNREPLICATED_TYPES = frozenset({"address", "location", "base64", "complexvalue"})


# An API name: of a field, an object, a relationship or a type. What is none does not reach a query, a
# statement or a template.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,79}")
# A standard name, or a custom one: with a suffix (__c, __pc, __s), and a package's prefix where it has one,
# of at most 15 characters. The lengths bound the time that a match takes.
STANDARD = re.compile(r"[A-Z][A-Za-z0-9]*")
CUSTOM = re.compile(r"(?:[A-Za-z0-9]\w{0,14}?__)?[A-Za-z]\w{0,79}__[a-z]{1,3}", re.ASCII)
# Columns of ours in every replica.
OWN_COLUMNS = frozenset({"custom", "deleted_at", "deleted_reason", "synced_at"})
# PostgreSQL cuts names at 63 bytes; `listing_` stands before a table's, `_deleted_at_idx` behind it.
LONGEST_TABLE = 48
# Salesforce allows 800 custom fields an object (900 with packages); a reference names a few objects.
MOST_FIELDS, MOST_TARGETS = 2_000, 500
# Salesforce allows 3,900 characters; a compiled formula has more.
LONGEST_FORMULA = 20_000


def snake_case(name: str) -> str:
    """`BillingPostalCode` → `billing_postal_code`, `LastCURequestDate` → `last_cu_request_date`."""
    return WORD_BORDER.sub("_", name).lower()


@cache  # each pass needs the column of every field several times
def sql_name(name: str) -> str:
    """The table or column of an object or field: custom ones in lower case, as Heroku Connect names them."""
    return name.lower() if "__" in name else snake_case(name)


def checksum(id15: str) -> str:
    """The three characters that make a 15-character Id safe to compare without case."""
    chunks = (id15[0:5], id15[5:10], id15[10:15])
    return "".join(
        CHECKSUM_ALPHABET[sum(1 << i for i, char in enumerate(chunk) if char.isupper())] for chunk in chunks
    )


def full_id(text: str) -> str:
    """The 18-character form of a 15- or 18-character Salesforce Id; UsageError when it cannot be one."""
    text = text.strip()
    if not (text.isascii() and text.isalnum()) or len(text) not in (15, 18):
        raise UsageError(f"{text!r} is not a Salesforce Id: give 15 or 18 letters and digits")
    short, suffix = text[:15], text[15:].upper()
    if suffix and suffix != checksum(short):
        restored = with_case_of(short, suffix)
        # A spreadsheet or a URL may have lost the case, which the suffix still knows; a mixed one is a typo.
        if short not in (short.lower(), short.upper()) or checksum(restored) != suffix:
            raise UsageError(f"{text!r} is mistyped: its last three characters do not fit the others")
        short = restored
    return short + checksum(short)


def is_id(text: str) -> bool:
    """Whether this is an Id of 18 characters; Salesforce refuses a whole query for one that is none."""
    return len(text) == 18 and text.isascii() and text.isalnum() and checksum(text[:15]) == text[15:]


def with_case_of(id15: str, suffix: str) -> str:
    """The Id with capitals where its checksum has them."""
    bits = [CHECKSUM_ALPHABET.find(char) >> i & 1 for char in suffix for i in range(5)]
    return "".join(char.upper() if bit else char.lower() for char, bit in zip(id15, bits, strict=True))


@dataclass(frozen=True, slots=True)
class Derived:
    """A column computed in flight from one field."""

    column: str
    normalise: Derivation


@dataclass(frozen=True, slots=True)
class Field:
    """One field with a column of its own: its API name, its kind, and the columns derived from it.

    A custom field (`Tier__c`) stays in the column `custom`, too.
    """

    name: str
    kind: Kind
    derived: tuple[Derived, ...] = ()

    def __post_init__(self) -> None:
        if not (STANDARD.fullmatch(self.name) or CUSTOM.fullmatch(self.name)):
            raise SyncError(f"{self.name!r} is not a field's API name: write for example Title or Tier__c")
        if self.derived and self.kind is not Kind.TEXT:
            raise SyncError(f"{self.name}: only text can be normalised")

    @property
    def column(self) -> str:
        return sql_name(self.name)


@dataclass(frozen=True, slots=True)
class Twin:
    """The record of another object that is the same person: `field` names it, where `flag` (a field) is
    true."""

    object: str
    field: str
    flag: str | None = None


@dataclass(frozen=True, slots=True)
class SObject:
    """One replicated object: API name, Id prefix, fields in column order, columns consumers look up by, and
    the object of which a record may be the same person."""

    name: str
    prefix: str
    fields: tuple[Field, ...]
    lookups: tuple[str, ...] = ()
    twin: Twin | None = None

    def __post_init__(self) -> None:
        if missing := sorted(PLACING - {field.name for field in self.fields}):
            reasons = "; ".join(f"without {name} {NEEDED[name]}" for name in missing)
            raise SyncError(f"{self.name} cannot be replicated: {reasons}")
        columns = self.columns
        if doubled := {column for column in columns if columns.count(column) > 1}:
            raise SyncError(f"{self.name} names {', '.join(sorted(doubled))} twice")
        if taken := OWN_COLUMNS & set(columns):
            raise SyncError(f"{self.name}: the column {', '.join(sorted(taken))} is the product's own")
        if strange := set(self.lookups) - set(columns):
            raise SyncError(f"{self.name}: no column {', '.join(sorted(strange))} to look up by")
        if len(self.prefix) != 3:
            raise SyncError(f"{self.name}: an Id prefix has three characters, not {self.prefix!r}")

    @property
    def table(self) -> str:
        """The name of its table and of its consumer view; a long one is cut, with a hash at its end."""
        name = sql_name(self.name)
        if len(name) <= LONGEST_TABLE:
            return name
        return f"{name[: LONGEST_TABLE - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def mergeable(self) -> bool:
        """Whether records can be merged: then a deleted one names its survivor."""
        return any(field.name == "MasterRecordId" for field in self.fields)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that come from fields: each field's own, then those derived from it."""
        return tuple(
            column
            for field in self.fields
            for column in (field.column, *(derived.column for derived in field.derived))
        )

    @property
    def derived(self) -> tuple[tuple[Field, Derived], ...]:
        """The derived columns, each with the field that it is computed from."""
        return tuple((field, derived) for field in self.fields for derived in field.derived)


@dataclass(frozen=True, slots=True)
class DescribedField:
    """What describe says of one field, as far as replication needs it.

    `size` is its length, or its precision and scale; `formula` the text of a calculated field, where it is
    told; `relationship` the name that leads through a reference, to one of `targets`.
    """

    name: str
    type: str
    custom: bool
    size: str = ""
    calculated: bool = False
    formula: str = ""
    relationship: str = ""
    targets: tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> DescribedField:
        """A field from its entry in a describe; ValueError where a name in it is none."""
        name, targets = api_name(raw.get("name")), raw.get("referenceTo") or ()
        if not isinstance(targets, list | tuple) or len(targets) > MOST_TARGETS:
            raise ValueError("what it refers to is no list of objects")
        formula = raw.get("calculatedFormula")
        return cls(
            name,
            api_name(raw.get("type")),
            # An org's custom and managed fields end in __c, __pc (person accounts) or __s (parts of a place).
            custom=bool(raw.get("custom", "__" in name)),
            size=size_of(raw),
            calculated=bool(raw.get("calculated")),
            formula=storable(formula[:LONGEST_FORMULA]) if isinstance(formula, str) else "",
            relationship=api_name(raw["relationshipName"]) if raw.get("relationshipName") else "",
            targets=tuple(map(api_name, targets)),
        )


def api_name(value: object) -> str:
    """An API name as it is; ValueError for what is none."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError(f"{ascii(value)[:100]} is no API name")
    return value


def storable(text: str) -> str:
    """The text without what Postgres cannot hold: NULs, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def size_of(raw: Mapping[str, Any]) -> str:
    """`255`, `18.2`, `8`: whichever of length, precision and digits a field has; "" without any."""

    def size(key: str) -> int:
        value = raw.get(key)
        return value if isinstance(value, int) and 0 <= value < 10**9 else 0

    if precision := size("precision"):
        return f"{precision}.{size('scale')}"
    return str(size("length") or size("digits") or "")


def described_fields(entries: Sequence[Any]) -> tuple[tuple[DescribedField, ...], tuple[str, ...]]:
    """The fields of a describe, and the names of those that cannot be used, in a form that can be shown.

    Left out are entries that are none, that have a name no field, type, object or relationship can have, and
    names that come a second time: Salesforce does not tell capitals from small letters in them.
    """
    fields: dict[str, DescribedField] = {}
    left_out: list[str] = []
    for entry in entries:
        try:
            field = DescribedField.of(entry if isinstance(entry, Mapping) else {})
            if field.name.lower() in fields:
                raise ValueError(f"{field.name} comes twice")
        except ValueError:
            name = entry.get("name") if isinstance(entry, Mapping) else entry
            left_out.append(name if isinstance(name, str) and NAME.fullmatch(name) else ascii(name)[:100])
        else:
            fields[field.name.lower()] = field
    return tuple(fields.values()), tuple(left_out)


@dataclass(frozen=True, slots=True)
class Projection:
    """An object as this org shows it to this user: what to select, and what is missing."""

    sobject: SObject
    fields: tuple[Field, ...]
    custom: tuple[DescribedField, ...]
    hidden: tuple[str, ...]
    retyped: tuple[tuple[str, str], ...]
    unmapped: tuple[str, ...]
    described: tuple[DescribedField, ...] = dataclasses.field(default=(), compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The API names to select, each once: a custom field with a column of its own is in both lists."""
        return tuple(dict.fromkeys([*(f.name for f in self.fields), *(f.name for f in self.custom)]))

    def only(self, names: Collection[str]) -> Projection:
        """The same object with nothing but these fields and those that place a record."""
        wanted = PLACING | set(names)
        return replace(
            self,
            fields=tuple(field for field in self.fields if field.name in wanted),
            custom=tuple(field for field in self.custom if field.name in wanted),
        )

    def volatile(self, listed: Collection[str]) -> tuple[str, ...]:
        """The selected fields whose values move without a stamp: calculated ones, and those listed."""
        moving = {field.name for field in self.described if field.calculated} | set(listed)
        return tuple(name for name in self.names if name in moving - PLACING)

    @property
    def describe_types(self) -> dict[str, str]:
        """The describe type of every selected field, for a mapped one the first that fits it."""
        mapped = {field.name: field.kind.value[0] for field in self.fields}
        return mapped | {field.name: field.type for field in self.custom}

    @property
    def fingerprint(self) -> str:
        """The same for the same selected fields: pages read with other ones cannot be continued."""
        known = {field.name: f"{field.type} {field.formula}" for field in self.described}
        selected = ",".join(f"{name} {known.get(name, '')}" for name in self.names)
        return hashlib.sha256(selected.encode()).hexdigest()[:16]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(c for f in self.fields for c in (f.column, *(d.column for d in f.derived)))


def project(
    sobject: SObject,
    described: Sequence[DescribedField],
    custom: str | frozenset[str] = "all",
    excluded: frozenset[str] = frozenset(),
    refused: frozenset[str] = frozenset(),
) -> Projection:
    """Fit the catalogue to a describe; `custom` is "all", "none" or the wanted custom fields' names,
    `excluded` fields that must not be read, `refused` those that are listed and cannot be.

    Hidden fields (edition, field-level security) are left out of the query and named; a hidden Id,
    IsDeleted or SystemModstamp is a SyncError, because nothing can be replicated without them.
    """
    shown = {
        field.name: field
        for field in described
        if field.type not in UNREPLICATED_TYPES and field.name not in excluded | refused
    }
    fields = tuple(field for field in sobject.fields if field.name in shown)
    hidden = tuple(f.name for f in sobject.fields if f.name not in shown and f.name not in excluded)
    if blocked := PLACING & set(hidden):
        raise SyncError(
            f"{sobject.name}: the integration user cannot see {', '.join(sorted(blocked))}; "
            "grant read access to the object in its permission set"
        )
    retyped = tuple((f.name, shown[f.name].type) for f in fields if shown[f.name].type not in f.kind.value)
    wanted = tuple(
        field
        for field in shown.values()
        if field.custom and (custom == "all" or (custom != "none" and field.name in custom))
    )
    missing_custom = (
        tuple(sorted(set(custom) - set(shown) - excluded)) if isinstance(custom, frozenset) else ()
    )
    mapped = {field.name for field in sobject.fields}
    unmapped = tuple(f.name for f in shown.values() if not f.custom and f.name not in mapped)
    return Projection(sobject, fields, wanted, hidden + missing_custom, retyped, unmapped, tuple(described))
