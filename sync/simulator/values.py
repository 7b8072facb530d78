"""Values on their way: what callers and JSON give, what the store keeps, what REST answers.

Stored forms: decimal numbers as integers scaled by the field's scale (18 digits fit in 63 bits, there is
no float anywhere), moments as seconds
since 1970, dates as ISO text, booleans as 0 and 1, everything else as text.
"""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

import msgspec

from sync.simulator import ids
from sync.simulator.fields import DECIMAL_TYPES, ID_TYPES, TEXT_TYPES, Field
from sync.simulator.options import Options

Stored = int | str | None
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = Context(prec=60)
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,3})?Z?")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:?\d\d)")


def encode(field: Field, value: Any) -> Stored:
    """The stored form of a value; raises ValueError naming the field when it does not fit."""
    if field.type == "boolean":
        return int(bool(value))
    if value is None or value == "":  # Salesforce stores no empty strings
        return None
    if field.type in DECIMAL_TYPES:
        return _scaled(field, value)
    if field.type in ID_TYPES:
        known = ids.normalize(str(value))
        if known is None:
            raise ValueError(f"{field.name}: id value of incorrect type: {value}")
        return known
    if field.type in TEXT_TYPES:
        return _text(field, value)
    if field.type == "int":
        return _int(field, value)
    if field.type == "date":
        return _date(field, value)
    if field.type == "datetime":
        return _moment(field, value)
    if field.type == "time":
        return time_text(field, str(value))
    raise ValueError(f"{field.name}: a value of type {field.type} cannot be written")


def _text(field: Field, value: Any) -> str:
    text = (
        value
        if isinstance(value, str)
        else ";".join(value)
        if isinstance(value, list | tuple)
        else str(value)
    )
    if field.length and len(text) > field.length:
        raise ValueError(
            f"{field.name}: data value too large: {len(text)} characters (max length={field.length})"
        )
    text.encode()  # a lone surrogate cannot reach a real org either
    return text


def _scaled(field: Field, value: Any) -> int:
    try:
        number = Decimal(str(value))
        scaled = int(number.scaleb(field.scale, _EXACT).to_integral_value(ROUND_HALF_UP))
    except (InvalidOperation, OverflowError, ValueError) as problem:
        raise ValueError(f"{field.name}: not a number: {value!r}") from problem
    if abs(scaled) >= 10**field.precision:
        raise ValueError(f"{field.name}: value outside of valid range: {value}")
    return scaled


def _int(field: Field, value: Any) -> int:
    number = int(value)
    if abs(number) >= 10 ** (field.digits or 10):
        raise ValueError(f"{field.name}: value outside of valid range: {value}")
    return number


def _date(field: Field, value: Any) -> str:
    day = (
        value
        if isinstance(value, date) and not isinstance(value, datetime)
        else date.fromisoformat(str(value))
    )
    if not 1700 <= day.year <= 4000:
        raise ValueError(f"{field.name}: date outside 1700-4000: {day}")
    return day.isoformat()


def time_text(field: Field, text: str) -> str:
    """A time of day as Salesforce writes it, ``13:45:00.000Z``; raises ValueError for another text."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(f"{field.name}: not a time: {text!r}")
    return text.rstrip("Z")[:8] + f".{text.rstrip('Z')[9:]:0<3}Z"


def _moment(field: Field, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        found = _MOMENT.fullmatch(value)
        if found is None:
            raise ValueError(f"{field.name}: not a datetime: {value!r}")
        value = datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00"))
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{field.name}: needs an aware datetime, not {value!r}")
    return seconds(value)


def seconds(moment: datetime) -> int:
    """Whole seconds since 1970 of an aware moment, rounded down."""
    return (moment - EPOCH) // timedelta(seconds=1)


def moment_text(stamp: int) -> str:
    """A stored moment in REST's form, ``2011-07-07T00:37:00.000+0000``."""
    return (EPOCH + timedelta(seconds=stamp)).strftime("%Y-%m-%dT%H:%M:%S.000+0000").rjust(28, "0")


def decode(field: Field, stored: Any) -> Any:
    """A stored value as the Python value that formulas work with."""
    if stored is None:
        return None
    if field.type in DECIMAL_TYPES:
        return Decimal(stored).scaleb(-field.scale, _EXACT)
    if field.type == "boolean":
        return bool(stored)
    if field.type == "datetime":
        return EPOCH + timedelta(seconds=stored)
    if field.type == "date":
        return date.fromisoformat(stored)
    return stored


def number_text(scaled: int | str, scale: int, options: Options) -> str:
    """A scaled integer as a JSON number with every digit: ``300.0``, by option ``300`` or ``4.0E8``."""
    digits = str(scaled)
    sign, digits = ("-", digits[1:]) if digits.startswith("-") else ("", digits)
    digits = digits.rjust(scale + 1, "0")
    whole, fraction = (digits[:-scale], digits[-scale:].rstrip("0")) if scale else (digits, "")
    if options.exponent_numbers and len(whole) > 7:  # Java prints ten millions and more with an exponent
        mantissa = (whole[1:] + fraction).rstrip("0") or "0"
        return f"{sign}{whole[0]}.{mantissa}E{len(whole) - 1}"
    if options.plain_numbers and not fraction:
        return sign + whole
    return f"{sign}{whole}.{fraction or '0'}"


def json_column(field: Field, column: Sequence[Any], options: Options) -> Sequence[Any]:
    """One column of rows as the store reads it, converted to what the JSON encoder writes."""
    if field.type == "boolean":
        return [bool(value) for value in column]
    if field.type in DECIMAL_TYPES:
        return [
            None if value is None else msgspec.Raw(number_text(value, field.scale, options).encode())
            for value in column
        ]
    return column


def select_sql(field: Field, column: str) -> str:
    """The SQL expression that reads a column in the form json_column takes."""
    if field.type == "datetime":
        return moment_sql(column, "+0000")
    return column


def moment_sql(column: str, zone: str) -> str:
    """The SQL expression of a stored moment's text, in half the time that strftime takes."""
    return f"replace(datetime({column}, 'unixepoch'), ' ', 'T') || '.000{zone}'"
