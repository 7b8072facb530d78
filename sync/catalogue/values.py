"""Single values: from Salesforce's texts to what Postgres keeps exactly, a column at a time, or a refusal.

Postgres quotes in its log what it refuses. So each limit of its types stands here, too, and nothing that it
would refuse reaches it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

from sync.catalogue.mapping import Kind

Column = Sequence[str]

BIGINT = 2**63
# Bytes. A B-tree page holds three entries of at most 2,704 bytes, their headers included.
LONGEST_INDEXED = 2_600
# Digits that numeric keeps before and after the point.
WHOLE_DIGITS, FRACTION_DIGITS = 131_072, 16_383
JSON_BOOLEAN = {"": "null", "true": "true", "false": "false"}
# How long a date and time is, and what surrounds its milliseconds, by REST and by Bulk API.
USUAL = {28: ".+0000", 24: ".Z"}
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class UnrepresentableValueError(Exception):
    """A value Postgres could not keep exactly; the message is a class of error, and never holds the value."""


def texts(column: Column) -> tuple[Column, int, str]:
    """The column without NULs, how many there were, and all its text; UTF-8 can hold it."""
    try:
        whole = "".join(column)
    except TypeError:
        odd = next(value for value in column if not isinstance(value, str))
        raise UnrepresentableValueError(f"expected text, got {kind_of(odd)}") from None
    if not whole.isascii():
        try:
            whole.encode()
        except UnicodeEncodeError:
            raise UnrepresentableValueError("half of a surrogate pair, or bytes that are no UTF-8") from None
    if nuls := whole.count("\0"):
        column = [value.replace("\0", "") for value in column]
    return column, nuls, whole


def identifier(column: Column) -> Column:
    whole = "".join(column)
    if set(map(len, column)) - {18}:
        raise UnrepresentableValueError("an Id has 18 characters")
    # It would be asked for by its Id one day, and Salesforce refuses the whole query for one that is none.
    if not (whole.isascii() and whole.isalnum()):
        raise UnrepresentableValueError("an Id has letters and digits only")
    return column


def reference(column: Column) -> Column:
    """Ids of other records; shorter texts than an Id are kept, longer ones would not fit into an index."""
    if max(map(len, column), default=0) > 18:
        raise UnrepresentableValueError("an Id has 18 characters")
    return column


def multipicklist(column: Column) -> Column:
    return distinct(column, choices)


def choices(value: str) -> str:
    quoted = (v.replace("\\", "\\\\").replace('"', '\\"') for v in value.split(";") if v)
    return "{" + ",".join(f'"{v}"' for v in quoted) + "}"


def boolean(column: Column) -> Column:
    for value in set(column):
        if value not in JSON_BOOLEAN:
            raise UnrepresentableValueError("not true or false")
    return column


def numbers(column: Column) -> Column:
    return [number(value) if value else "" for value in column]


def number(value: str) -> str:
    """The number, with all its digits, as Postgres and JSON write it."""
    if not NUMBER.fullmatch(value):
        raise UnrepresentableValueError("not a number")
    try:
        known = Decimal(value)
    except InvalidOperation:  # an exponent beyond all measure
        raise UnrepresentableValueError("number out of range") from None
    if not (known.is_finite() and -FRACTION_DIGITS <= known.adjusted() < WHOLE_DIGITS):
        raise UnrepresentableValueError("number out of range")
    # The first digit fits, the last one may not: only in long numbers, or in those with an exponent.
    if len(value) > FRACTION_DIGITS or "e" in value or "E" in value:
        exponent = known.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -FRACTION_DIGITS:
            raise UnrepresentableValueError("number out of range")
    return str(known)


def integers(column: Column) -> Column:
    return distinct(column, integer)


def integer(value: str) -> str:
    # Salesforce may send 400.0 or 4.0E2 for a whole number.
    known = Decimal(number(value))
    if known != known.to_integral_value():
        raise UnrepresentableValueError("not a whole number")
    if not -BIGINT <= known < BIGINT:
        raise UnrepresentableValueError("number out of range")
    return str(int(known))


def days(column: Column) -> Column:
    return distinct(column, day)


def day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise UnrepresentableValueError("not a date") from None


def instants(column: Column) -> Column:
    return column if usual(column) else [instant(value) if value else "" for value in column]


def usual(column: Column) -> bool:
    """Whether all have one of Salesforce's own forms, which Postgres reads as Python does."""
    values = list(filter(None, column))
    end = next((end for length, end in USUAL.items() if {*map(len, values)} <= {length}), None)
    # Python would also take 2026-W01-1, and any character between date and time.
    known = {value[4:11:3] + value[19] + value[23:] for value in values} if end else set()
    if end is None or known - {f"--T{end}"}:
        return False
    if "".join(values).count(":") != 2 * len(values):
        return False
    try:
        return None not in {moment.tzinfo for moment in map(datetime.fromisoformat, values)}
    except ValueError:
        return False


def instant(value: str) -> str:
    """The moment, in UTC: Postgres refuses zones that Python takes, of sixteen hours and more."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise UnrepresentableValueError("not a date and time") from None
    if moment.tzinfo is None:
        raise UnrepresentableValueError("a date and time without its zone")
    try:
        return moment.astimezone(UTC).isoformat()
    except OverflowError:
        raise UnrepresentableValueError("date and time out of range") from None


def distinct(column: Column, convert: Callable[[str], str]) -> Column:
    """Convert a column of few different values, each of them once."""
    known = {value: convert(value) if value else "" for value in set(column)}
    return [known[value] for value in column]


def kind_of(value: object) -> str:
    return {bool: "true/false", dict: "an object", list: "a list"}.get(type(value), "a number")


def check_index(column: Column) -> None:
    """Refuse what the index of a look-up column cannot hold."""
    # A character has at most four bytes.
    if max(map(len, column), default=0) > LONGEST_INDEXED // 4 and any(
        len(value.encode()) > LONGEST_INDEXED for value in column
    ):
        raise UnrepresentableValueError("too long for the column's index")


CONVERT: Mapping[Kind, Callable[[Column], Column]] = {
    Kind.ID: identifier,
    Kind.REFERENCE: reference,
    Kind.TEXT: lambda column: column,
    Kind.MULTIPICKLIST: multipicklist,
    Kind.BOOLEAN: boolean,
    Kind.INTEGER: integers,
    Kind.NUMBER: numbers,
    Kind.DATE: days,
    Kind.DATETIME: instants,
}
