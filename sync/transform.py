"""Record → row: pure functions from Salesforce's JSON values to what Postgres reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec
import phonenumbers

from sync.mapping import DescribedField, Kind, Projection

Record = Mapping[str, Any]

BIGINT = 2**63
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)?//")
HOST = re.compile(r"[^\W_]([\w-]*\w)?(\.[^\W_]([\w-]*\w)?)+")
# RFC 5321 and RFC 1035; an index could not hold much more either, and must not reject the record.
LONGEST_EMAIL, LONGEST_HOST = 320, 253
EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
# "numbers keep every digit" both ways: Decimal out as a JSON number, not as a string.
JSON = msgspec.json.Encoder(decimal_format="number")


class Unfit(Exception):
    """A value Postgres could not keep exactly."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record as Postgres reads it: a text per column, None for NULL; `nuls` counts removed NULs."""

    id: str
    values: tuple[str | None, ...]
    nuls: int
    record: Record


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be kept exactly, with the reason and the whole record as JSON."""

    id: str
    stamp: str | None
    reason: str
    record: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A page after transformation."""

    rows: tuple[Row, ...]
    rejects: tuple[Reject, ...]


# ── values ────────────────────────────────────────────────────────────────────────────────────────────


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Unfit(f"expected text, got {kind_of(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Unfit(f"half of a surrogate pair at character {error.start + 1}") from None
    return value


def identifier(value: object) -> str:
    if len(text(value)) != 18:
        raise Unfit(f"an Id has 18 characters, not {len(text(value))}")
    return text(value)


def multipicklist(value: object) -> str:
    quoted = (v.replace("\\", "\\\\").replace('"', '\\"') for v in text(value).split(";") if v)
    return "{" + ",".join(f'"{v}"' for v in quoted) + "}"


def boolean(value: object) -> str:
    if not isinstance(value, bool):
        raise Unfit(f"expected true or false, got {kind_of(value)}")
    return "t" if value else "f"


def number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise Unfit(f"expected a number, got {kind_of(value)}")
    # Postgres keeps at most 131,072 digits before the point and 16,383 after; nobody's revenue has more.
    if isinstance(value, Decimal) and not (value.is_finite() and -16383 <= value.adjusted() < 131072):
        raise Unfit("number out of range")
    return str(value)


def integer(value: object) -> str:
    number(value)
    # Salesforce may send 400.0 or 4.0E2 for a whole number.
    whole = int(value)  # type: ignore[call-overload]  # number() has refused all but int and Decimal
    if whole != value:
        raise Unfit(f"expected a whole number, got {value}")
    if not -BIGINT <= whole < BIGINT:
        raise Unfit("number out of range")
    return str(whole)


def day(value: object) -> str:
    try:
        return date.fromisoformat(text(value)).isoformat()
    except ValueError:
        raise Unfit(f"not a date: {text(value)[:40]!r}") from None


def instant(value: object) -> str:
    try:
        moment = datetime.fromisoformat(text(value))
    except ValueError:
        raise Unfit(f"not a date and time: {text(value)[:40]!r}") from None
    if moment.tzinfo is None:
        raise Unfit(f"a date and time without its zone: {text(value)[:40]!r}")
    return moment.isoformat()


def kind_of(value: object) -> str:
    return {bool: "true/false", str: "text", dict: "an object", list: "a list"}.get(type(value), "a number")


CONVERT: Mapping[Kind, Callable[[object], str]] = {
    Kind.ID: identifier,
    Kind.REFERENCE: text,
    Kind.TEXT: text,
    Kind.MULTIPICKLIST: multipicklist,
    Kind.BOOLEAN: boolean,
    Kind.INTEGER: integer,
    Kind.NUMBER: number,
    Kind.DATE: day,
    Kind.DATETIME: instant,
}


# ── derived columns: the transformations in flight ────────────────────────────────────────────────────


def normalise_email(raw: str, _region: str) -> str | None:
    """Trimmed and lower-cased; None where it is not one address."""
    email = raw.strip().lower()
    return email if len(email) <= LONGEST_EMAIL and EMAIL.fullmatch(email) else None


@lru_cache(maxsize=20_000)
def e164(raw: str, region: str) -> str | None:
    """`(415) 555-1212` → `+14155551212`; None where no valid number is in it. Extensions are dropped."""
    try:
        parsed = phonenumbers.parse(raw, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)


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


# ── record → row ──────────────────────────────────────────────────────────────────────────────────────


def build(projection: Projection, records: Sequence[Record], region: str) -> Batch:
    """Transform a page; each record becomes a row or a reject, none is dropped."""
    rows: list[Row] = []
    rejects: list[Reject] = []
    for record in records:
        try:
            rows.append(build_row(projection, record, region))
        except Unfit as unfit:
            rejects.append(reject(record, str(unfit)))
    return Batch(tuple(rows), tuple(rejects))


def build_row(projection: Projection, record: Record, region: str) -> Row:
    """One record's values in the order of `projection.columns`, then `custom`; Unfit names the field."""
    nuls = 0
    values: list[str | None] = []
    for field in projection.fields:
        raw = record.get(field.name)
        # Salesforce keeps no empty strings; one that does turn up is text and stays what it is.
        if isinstance(raw, str) and "\0" in raw:
            nuls += raw.count("\0")
            raw = raw.replace("\0", "")
        try:
            value = None if raw is None else CONVERT[field.kind](raw)
        except Unfit as unfit:
            raise Unfit(f"{field.name}: {unfit}") from None
        values.append(value)
        for derived in field.derived:
            values.append(None if value is None else derived.normalise(value, region))
    for needed in ("Id", "IsDeleted", "SystemModstamp"):
        if record.get(needed) is None:
            raise Unfit(f"{needed}: missing")
    custom, custom_nuls = custom_values(projection.custom, record)
    return Row(record["Id"], (*values, custom), nuls + custom_nuls, record)


def custom_values(fields: Sequence[DescribedField], record: Record) -> tuple[str, int]:
    """All custom fields as one JSON object by API name, nulls included, and the number of NULs removed."""
    nuls = 0
    kept: dict[str, object] = {}
    for field in fields:
        value = record.get(field.name)
        if isinstance(value, str):
            nuls += value.count("\0")
            try:
                value = text(value.replace("\0", ""))
            except Unfit as unfit:
                raise Unfit(f"{field.name}: {unfit}") from None
            if field.type == "multipicklist":
                value = [choice for choice in value.split(";") if choice]
        kept[field.name] = value
    try:
        return JSON.encode(kept).decode(), nuls
    except (UnicodeEncodeError, msgspec.EncodeError):
        raise Unfit("half of a surrogate pair in a custom field") from None


def reject(record: Record, reason: str) -> Reject:
    """A record that does not fit, whole, in a form Postgres' json accepts whatever it holds."""
    id_ = record.get("Id")
    stamp = record.get("SystemModstamp")
    try:
        known_stamp = instant(stamp)
    except Unfit:
        known_stamp = None
    kept = {name: value for name, value in record.items() if name != "attributes"}
    storable_id = str(id_ or "").replace("\0", "").encode("ascii", "backslashreplace").decode()
    return Reject(storable_id[:18], known_stamp, reason, plain_json(kept))


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
