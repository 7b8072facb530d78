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
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

import msgspec

from sync.mapping import NUMBER_TYPES, DescribedField, Kind, Projection

# A record is a text per selected field, in the order of `Projection.names`, empty for null: Salesforce keeps
# no empty texts, and a CSV cell could not tell the two apart. What is no text does not fit.
Record = Sequence[Any]
Column = Sequence[str]

BIGINT = 2**63
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
HOST = re.compile(r"[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)+")
# RFC 5321 and RFC 1035; an index could not hold much more either, and must not reject the record.
LONGEST_EMAIL, LONGEST_HOST = 320, 253
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
# "numbers keep every digit" both ways: Decimal out as a JSON number, not as a string.
JSON = msgspec.json.Encoder(decimal_format="number")
QUOTE: Callable[[str], str] = json.encoder.encode_basestring
JSON_BOOLEAN = {"": "null", "true": "true", "false": "false"}
# How long a date and time is, and what surrounds its milliseconds, by REST and by Bulk API.
USUAL = {28: ".+0000", 24: ".Z"}
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
REQUIRED = frozenset({"Id", "IsDeleted", "SystemModstamp"})


class Unfit(Exception):
    """A value Postgres could not keep exactly."""


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


# ── values ────────────────────────────────────────────────────────────────────────────────────────────


def texts(column: Column) -> tuple[Column, int, str]:
    """The column without NULs, how many there were, and all its text; UTF-8 can hold it."""
    try:
        whole = "".join(column)
    except TypeError:
        odd = next(value for value in column if not isinstance(value, str))
        raise Unfit(f"expected text, got {kind_of(odd)}") from None
    if not whole.isascii():
        try:
            whole.encode()
        except UnicodeEncodeError:
            raise Unfit("half of a surrogate pair, or bytes that are no UTF-8") from None
    if nuls := whole.count("\0"):
        column = [value.replace("\0", "") for value in column]
    return column, nuls, whole


def identifier(column: Column) -> Column:
    whole = "".join(column)
    if set(map(len, column)) != {18} or not (whole.isascii() and whole.isalnum()):
        for value in column:
            if len(value) != 18:
                raise Unfit(f"an Id has 18 characters, not {len(value)}")
            # It would be asked for by its Id one day, and Salesforce refuses the whole query.
            if not (value.isascii() and value.isalnum()):
                raise Unfit(f"an Id has letters and digits only: {value!a}")
    return column


def multipicklist(column: Column) -> Column:
    return distinct(column, choices)


def choices(value: str) -> str:
    quoted = (v.replace("\\", "\\\\").replace('"', '\\"') for v in value.split(";") if v)
    return "{" + ",".join(f'"{v}"' for v in quoted) + "}"


def boolean(column: Column) -> Column:
    for value in set(column):
        if value not in JSON_BOOLEAN:
            raise Unfit(f"expected true or false, got {value[:40]!r}")
    return column


def numbers(column: Column) -> Column:
    return [number(value) if value else "" for value in column]


def number(value: str) -> str:
    """The number, with all its digits, as Postgres and JSON write it."""
    if not NUMBER.fullmatch(value):
        raise Unfit(f"expected a number, got {value[:40]!r}")
    try:
        known = Decimal(value)
    except InvalidOperation:  # an exponent beyond all measure
        raise Unfit("number out of range") from None
    # Postgres keeps at most 131,072 digits before the point and 16,383 after; nobody's revenue has more.
    if not (known.is_finite() and -16383 <= known.adjusted() < 131072):
        raise Unfit("number out of range")
    return str(known)


def integers(column: Column) -> Column:
    return distinct(column, integer)


def integer(value: str) -> str:
    # Salesforce may send 400.0 or 4.0E2 for a whole number.
    known = Decimal(number(value))
    if known != known.to_integral_value():
        raise Unfit(f"expected a whole number, got {value[:40]}")
    if not -BIGINT <= known < BIGINT:
        raise Unfit("number out of range")
    return str(int(known))


def days(column: Column) -> Column:
    return distinct(column, day)


def day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise Unfit(f"not a date: {value[:40]!r}") from None


def instants(column: Column) -> Column:
    return column if usual(column) else [instant(value) if value else "" for value in column]


def usual(column: Column) -> bool:
    """Whether all have one of Salesforce's own forms, which Postgres reads as Python does."""
    values = list(filter(None, column))
    end = next((end for length, end in USUAL.items() if {*map(len, values)} <= {length}), None)
    if end is None or {value[19:20] + value[23:] for value in values} - {end}:
        return False
    if "".join(values).count(":") != 2 * len(values):
        return False
    try:
        return None not in {moment.tzinfo for moment in map(datetime.fromisoformat, values)}
    except ValueError:
        return False


def instant(value: str) -> str:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Unfit(f"not a date and time: {value[:40]!r}") from None
    if moment.tzinfo is None:
        raise Unfit(f"a date and time without its zone: {value[:40]!r}")
    return moment.isoformat()


def distinct(column: Column, convert: Callable[[str], str]) -> Column:
    """Convert a column of few different values, each of them once."""
    known = {value: convert(value) if value else "" for value in set(column)}
    return [known[value] for value in column]


def kind_of(value: object) -> str:
    return {bool: "true/false", dict: "an object", list: "a list"}.get(type(value), "a number")


CONVERT: Mapping[Kind, Callable[[Column], Column]] = {
    Kind.ID: identifier,
    Kind.REFERENCE: lambda column: column,
    Kind.TEXT: lambda column: column,
    Kind.MULTIPICKLIST: multipicklist,
    Kind.BOOLEAN: boolean,
    Kind.INTEGER: integers,
    Kind.NUMBER: numbers,
    Kind.DATE: days,
    Kind.DATETIME: instants,
}


# ── derived columns: the transformations in flight ────────────────────────────────────────────────────


def normalise_email(raw: str, _region: str) -> str | None:
    """Trimmed and lower-cased; None where it is not one address."""
    email = raw.strip().lower()
    return email if len(email) <= LONGEST_EMAIL and EMAIL.fullmatch(email) else None


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


# ── a page ────────────────────────────────────────────────────────────────────────────────────────────


def build(projection: Projection, records: Sequence[Record], region: str) -> Batch:
    """Transform a page; each record becomes a row or a reject, none is dropped."""
    if not records:
        return Batch()
    try:
        return build_rows(projection, records, region)
    except Unfit as unfit:
        if len(records) == 1:
            rejected = reject(projection, records[0], str(unfit))
            return Batch(rejects=[rejected], ids=[rejected.id])
    middle = len(records) // 2
    return build(projection, records[:middle], region) + build(projection, records[middle:], region)


def build_rows(projection: Projection, records: Sequence[Record], region: str) -> Batch:
    """The rows of records that all fit; Unfit names a field that does not."""
    columns: dict[str, Column] = {}
    wholes: dict[str, str] = {}
    nuls = 0
    for name, raw in zip(projection.names, zip(*records, strict=True), strict=True):
        with naming(name):
            columns[name], removed, wholes[name] = texts(raw)
            nuls += removed
            if name in REQUIRED and "" in columns[name]:
                raise Unfit("missing")
    cells: list[Column] = []
    for field in projection.fields:
        column = columns[field.name]
        if not wholes[field.name]:  # as many are
            cells += [column] * (1 + len(field.derived))
            continue
        with naming(field.name):
            cell = CONVERT[field.kind](column)
            cells.append(escaped(cell, wholes[field.name] if cell is column else None))
        for derived in field.derived:
            normalise = derived.normalise
            cells.append(escaped([value and (normalise(value, region) or "") for value in column]))
    cells.append(escaped(custom_values(projection.custom, columns, len(records))))
    cells += tombstones(columns)
    lines = ["\t".join(row).encode() for row in zip(*cells, strict=True)]
    return Batch(lines, records, (), columns["Id"], columns["IsDeleted"].count("true"), nuls)


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Say which field a value that does not fit is of."""
    try:
        yield
    except Unfit as unfit:
        raise Unfit(f"{field}: {unfit}") from None


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


# ── rejects ───────────────────────────────────────────────────────────────────────────────────────────


def reject(projection: Projection, record: Record, reason: str) -> Reject:
    """A record that does not fit, whole, in a form Postgres' json accepts whatever it holds."""
    kept = dict(zip(projection.names, record, strict=True))
    try:
        stamp = instant(kept["SystemModstamp"])
    except (Unfit, TypeError):
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
        except Unfit:
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
