"""Record → row: pure functions from Salesforce's values, as texts, to what Postgres' COPY reads.

A page is transformed column by column: most of the work is then done by the loops inside Python's own
functions. When a column does not fit, the page is halved until the record that is to blame stands alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import msgspec

from sync.catalogue.derivation import Derivation, derivation
from sync.catalogue.mapping import NUMBER_TYPES, DescribedField, Projection
from sync.catalogue.values import (
    CONVERT,
    JSON_BOOLEAN,
    Column,
    UnrepresentableValueError,
    boolean,
    check_index,
    instant,
    number,
    texts,
)

# A record is a text per selected field, in the order of `Projection.names`, empty for null: Salesforce keeps
# no empty texts, and a CSV cell could not tell the two apart. What is no text does not fit.
Record = Sequence[Any]

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
HOST = re.compile(r"[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)+")
# RFC 5321 and RFC 1035; an index could not hold much more either, and must not reject the record.
LONGEST_EMAIL, LONGEST_HOST = 320, 253
# Bytes of a whole row: a thousand of Salesforce's longest text areas. Postgres ends at 1 GB for a field or a
# line of COPY, and at 256 MB for a text in jsonb.
LONGEST_ROW = 128 << 20
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
# "numbers keep every digit" both ways: Decimal out as a JSON number, not as a string.
JSON = msgspec.json.Encoder(decimal_format="number")
QUOTE: Callable[[str], str] = json.encoder.encode_basestring
REQUIRED = frozenset({"Id", "IsDeleted", "SystemModstamp"})


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be kept exactly, with the reason and the whole record as JSON."""

    id: str
    stamp: str | None
    reason: str
    record: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A page after transformation: the rows as COPY reads them, the records they are of, and the rejects.

    A line has the columns of `Projection.columns`, then `custom`, `deleted_at`, `deleted_reason`. `ids` names
    all records, the rejected too; `deleted` counts the rows that are, `nuls` the NUL characters removed.
    """

    lines: Sequence[bytes] = ()
    records: Sequence[Record] = ()
    rejects: Sequence[Reject] = ()
    ids: Sequence[str] = ()
    deleted: int = 0
    nuls: int = 0

    def __add__(self, other: Batch) -> Batch:
        return Batch(
            [*self.lines, *other.lines],
            [*self.records, *other.records],
            [*self.rejects, *other.rejects],
            [*self.ids, *other.ids],
            self.deleted + other.deleted,
            self.nuls + other.nuls,
        )


# ── derived columns: the transformations in flight ────────────────────────────────────────────────────


@derivation("email", 1, meaning="the address, trimmed and in lower case; null where it is not one address")
def normalise_email(raw: str, _region: str) -> str | None:
    """Trimmed and lower-cased; None where it is not one address."""
    email = raw.strip().lower()
    return email if len(email) <= LONGEST_EMAIL and EMAIL.fullmatch(email) else None


@derivation("host", 1, meaning="the host name, in lower case; null where there is none")
def website_host(raw: str, _region: str) -> str | None:
    """`HTTPS://Www.Example.com:8443/shop` → `www.example.com`; None where there is no host name."""
    address = raw.strip()
    if not SCHEME.match(address):
        address = "//" + address
    try:
        host = (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return None
    return host if len(host) <= LONGEST_HOST and HOST.fullmatch(host) else None


def derive(computed_by: Derivation, column: Column, region: str) -> Column:
    """What is derived from the values of a column, "" where there is nothing."""
    normalise = computed_by.normalise
    return [value and (normalise(value, region) or "") for value in column]


# ── a page ────────────────────────────────────────────────────────────────────────────────────────────


def build(projection: Projection, records: Sequence[Record], region: str) -> Batch:
    """Transform a page; each record becomes a row or a reject, none is dropped."""
    if not records:
        return Batch()
    try:
        return build_rows(projection, records, region)
    except UnrepresentableValueError as unfit:
        if len(records) == 1:
            if bare := bare_tombstone(projection, records[0]):
                return build_rows(projection, [bare], region)
            rejected = reject(projection, records[0], str(unfit))
            return Batch(rejects=[rejected], ids=[rejected.id])
    middle = len(records) // 2
    return build(projection, records[:middle], region) + build(projection, records[middle:], region)


def build_rows(projection: Projection, records: Sequence[Record], region: str) -> Batch:
    """The rows of records that all fit; UnrepresentableValueError names a field that does not."""
    columns: dict[str, Column] = {}
    wholes: dict[str, str] = {}
    nuls = 0
    for name, raw in zip(projection.names, zip(*records, strict=True), strict=True):
        with naming(name):
            columns[name], removed, wholes[name] = texts(raw)
            nuls += removed
            if name in REQUIRED and "" in columns[name]:
                raise UnrepresentableValueError("missing")
    cells: list[Column] = []
    indexed = projection.sobject.lookups
    for field in projection.fields:
        column = columns[field.name]
        if not wholes[field.name]:  # as many are
            cells += [column] * (1 + len(field.derived))
            continue
        with naming(field.name):
            cell = CONVERT[field.kind](column)
            if field.column in indexed:
                check_index(cell)
            cells.append(escaped(cell, wholes[field.name] if cell is column else None))
            for derived in field.derived:
                made = derive(derived.normalise, column, region)
                if derived.column in indexed:
                    check_index(made)
                cells.append(escaped(made))
    cells.append(escaped(custom_values(projection.custom, columns, len(records))))
    cells += tombstones(columns)
    lines = ["\t".join(row).encode() for row in zip(*cells, strict=True)]
    if max(map(len, lines)) > LONGEST_ROW:
        raise UnrepresentableValueError("record too long")
    return Batch(lines, records, (), columns["Id"], columns["IsDeleted"].count("true"), nuls)


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Say which field a value that does not fit is of."""
    try:
        yield
    except UnrepresentableValueError as unfit:
        raise UnrepresentableValueError(f"{field}: {unfit}") from None


def escaped(column: Column, whole: str | None = None) -> Column:
    """The column in COPY's text format; `whole` is all its text, where that is known."""
    if whole is None:
        whole = "".join(column)
    if "\\" in whole or "\n" in whole or "\r" in whole or "\t" in whole:
        return [
            value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
            for value in column
        ]
    return column


def custom_values(fields: Sequence[DescribedField], columns: Mapping[str, Column], size: int) -> Column:
    """All custom fields of each record as one JSON object by API name, nulls included."""
    if not fields:
        return ["{}"] * size
    parts: list[Column] = []
    for field in fields:
        with naming(field.name):
            parts.append(json_values(field.type, columns[field.name]))
    members = ",".join(QUOTE(field.name).replace("%", "%%") + ":%s" for field in fields)
    return list(map(("{" + members + "}").__mod__, zip(*parts, strict=True)))


def json_values(kind: str, column: Column) -> Column:
    """A custom field's values as JSON, by its describe type."""
    if kind == "boolean":
        boolean(column)
        return [JSON_BOOLEAN[value] for value in column]
    if kind in NUMBER_TYPES:
        return [number(value) if value else "null" for value in column]
    if kind == "datetime":  # as text it must be the same whichever way it came
        return [
            QUOTE(value[:-1] + "+0000" if value[-1] == "Z" else value) if value else "null"
            for value in column
        ]
    if kind == "multipicklist":
        lists = {v: "[" + ",".join(QUOTE(c) for c in v.split(";") if c) + "]" for v in set(column)}
        return [lists[value] if value else "null" for value in column]
    return [QUOTE(value) if value else "null" for value in column]


def tombstones(columns: Mapping[str, Column]) -> tuple[Column, Column]:
    """`deleted_at` and `deleted_reason`, empty for live records."""
    deleted, stamps = columns["IsDeleted"], columns["SystemModstamp"]
    if "true" not in deleted:
        return ("",) * len(deleted), ("",) * len(deleted)
    masters = columns.get("MasterRecordId", ("",) * len(deleted))
    at = [instant(stamp) if gone == "true" else "" for gone, stamp in zip(deleted, stamps, strict=True)]
    reasons = [
        ("merged" if master else "deleted") if gone == "true" else ""
        for gone, master in zip(deleted, masters, strict=True)
    ]
    return at, reasons


def bare_tombstone(projection: Projection, record: Record) -> Record | None:
    """A deleted record without its values: what does not fit is not worth keeping then, and the deletion is
    told.

    None for a live record, and for one that has no place in the table even so.
    """
    kept = {"Id", "IsDeleted", "SystemModstamp", "MasterRecordId"}
    bare = [value if name in kept else "" for name, value in zip(projection.names, record, strict=True)]
    if dict(zip(projection.names, record, strict=True))["IsDeleted"] != "true":
        return None
    try:
        build_rows(projection, [bare], "US")
    except UnrepresentableValueError:
        return None
    return bare


# ── rejects ───────────────────────────────────────────────────────────────────────────────────────────


def reject(projection: Projection, record: Record, reason: str) -> Reject:
    """A record that does not fit, whole, in a form Postgres' json accepts whatever it holds."""
    kept = dict(zip(projection.names, record, strict=True))
    try:
        stamp = instant(kept["SystemModstamp"])
    except (UnrepresentableValueError, TypeError):
        stamp = None
    id_ = str(kept["Id"] or "").replace("\0", "").encode("ascii", "backslashreplace").decode()
    kinds = projection.describe_types
    typed = {name: json_value(kinds[name], value) for name, value in kept.items()}
    return Reject(id_[:18], stamp, reason, plain_json(typed))


def json_value(kind: str, value: Any) -> Any:
    """A value as the API's JSON has it, or as it is where it does not fit its type."""
    if not isinstance(value, str):
        return value
    if value == "":
        return None
    if kind == "boolean" and value in JSON_BOOLEAN:
        return value == "true"
    if kind in NUMBER_TYPES:
        try:
            return Decimal(number(value))
        except UnrepresentableValueError:
            return value
    return value


def plain_json(value: object) -> str:
    """JSON in ASCII: lone surrogates and NULs survive as escapes, numbers keep their digits."""
    try:
        encoded = JSON.encode(value).decode()
    except (UnicodeEncodeError, msgspec.EncodeError):
        encoded = JSON.encode(escape_surrogates(value)).decode()
    return re.sub(r"[^\x00-\x7f]", lambda char: json.dumps(char[0])[1:-1], encoded)


def escape_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {escape_surrogates(k): escape_surrogates(v) for k, v in value.items()}
    if isinstance(value, list):
        return [escape_surrogates(v) for v in value]
    return value
