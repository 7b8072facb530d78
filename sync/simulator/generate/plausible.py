"""Plausible values by the type of a field, for objects of which only the describe is known."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sync.simulator.fields import DECIMAL_TYPES, Field
from sync.simulator.generate.places import PLACES, STEMS, WEBSITES, Place

NULLS = 0.25  # the share of values that are null, where they may be
_FIRST_DAY, _DAYS = date(2010, 1, 1), 20 * 365
_PLACES = ("Latitude", "Longitude")
_LINES = ("First line, äöü €.", "Zweite Zeile; \"quoted\" | 'text'.", "第三行 🚀", "Done.\tTab.")
# Texts that have broken replications before.
_HARD_TEXTS = (
    "NULL",
    "\\N",
    "Tab\there, newline\nthere, CR\rLF\r\nend",
    "Quotes \"double\" and 'single', comma; semicolon | pipe",
    "NUL\x00inside",
    "🚀 Söhne 株式会社 \u202eRTL\u202c",
    "01234",
    " leading and trailing blanks ",
)


def plausible(field: Field, draw: random.Random, number: int) -> Any:
    """A value for a field of the number-th record, as ``values.encode`` takes it; sometimes null.

    References and compounds have none here: what they hold depends on other records and fields.
    """
    if field.nillable and not field.name_field and draw.random() < NULLS:
        return None
    make = _MAKERS.get(field.type)
    value = _number(field, draw) if field.type in DECIMAL_TYPES else make and make(field, draw, number)
    return value[: field.length] if isinstance(value, str) and field.length else value


def hard(field: Field, draw: random.Random, number: int) -> Any:
    """A value at the border of what a field can hold; a plausible one where the type has no such border."""
    at = number + len(field.name)
    if field.name.removesuffix("__s").endswith(_PLACES):
        return plausible(field, draw, number)
    if field.type in DECIMAL_TYPES:
        largest = Decimal(10**field.precision - 1).scaleb(-field.scale)
        return (largest, -largest, Decimal(0), Decimal(1).scaleb(-field.scale))[at % 4]
    if field.type == "date":
        return (date(1700, 1, 1), date(4000, 12, 31), date(2024, 2, 29))[at % 3]
    if field.type == "datetime":
        return datetime((1700, 4000, 1969)[at % 3], 12, 31, 23, 59, 59, tzinfo=UTC)
    free = field.type in ("string", "textarea", "combobox", "anyType")
    if free and not field.external_id and not field.values:
        return _HARD_TEXTS[at % len(_HARD_TEXTS)][: field.length or None]
    return plausible(field, draw, number)


def _number(field: Field, draw: random.Random) -> Decimal:
    name = field.name.removesuffix("__s")
    if name.endswith(_PLACES):
        most = 90 if name.endswith("Latitude") else 180
        return Decimal(f"{(2 * draw.random() - 1) * most:.{min(field.scale, 6)}f}")
    whole = min(field.precision - field.scale, 6)
    scaled = int(10 ** ((whole + field.scale) * draw.random())) - 1
    if field.type == "percent":
        scaled = min(10**field.precision - 1, int(draw.random() * (100 * 10**field.scale + 1)))
    elif field.type == "double" and draw.random() < 0.2:
        scaled = -scaled
    return Decimal(scaled).scaleb(-field.scale)


def _int(field: Field, draw: random.Random, _number: int) -> int:
    if field.name.endswith("Quarter"):
        return 1 + int(4 * draw.random())
    if field.name.endswith("Year"):
        return 2010 + int(20 * draw.random())
    return int(10 ** (min(field.digits or 9, 6) * draw.random())) - 1


def _string(field: Field, draw: random.Random, number: int) -> str:
    if field.external_id:
        return f"{field.name[:3].upper()}-{number:07}"[-(field.length or 255) :]
    name = field.name.removesuffix("__s")
    place = _pick(draw, PLACES)
    for ending, pool in _POOLS.items():
        if name.endswith(ending):
            return str(_pick(draw, pool(place))).replace("#", str(number % 10))
    return f"{_pick(draw, STEMS)} {number}"


def _area(field: Field, draw: random.Random, number: int) -> str:
    if field.length <= 255:
        return _digits(_pick(draw, _pick(draw, PLACES).streets), number)
    lines = [_pick(draw, _LINES) for _ in range(1 + int(6 * draw.random()))]
    return "\n".join([f"{field.name} of record {number}.", *lines])


def _choice(field: Field, draw: random.Random, number: int) -> str:
    return str(_pick(draw, field.values)) if field.values else f"Value {number % 5}"


def _choices(field: Field, draw: random.Random, number: int) -> str:
    if not field.values:
        return f"Value {number % 5}"
    chosen = [value for value in field.values if draw.random() < 0.4]
    return ";".join(chosen or field.values[:1])


def _email(_field: Field, draw: random.Random, number: int) -> str:
    return f"{_pick(draw, ('info', 'Sales.Team', 'o.n'))}{number}@example.{_pick(draw, PLACES).domain}"


def _phone(_field: Field, draw: random.Random, number: int) -> str:
    return _digits(_pick(draw, _pick(draw, PLACES).phones), number)


def _url(_field: Field, draw: random.Random, number: int) -> str:
    return str(_pick(draw, WEBSITES)).format(f"site{number}.example.com")


def _moment(_field: Field, draw: random.Random, _number: int) -> datetime:
    start = datetime(2015, 1, 1, tzinfo=UTC)
    return start + timedelta(seconds=int(draw.random() * 10 * 365 * 86_400))


def _time(_field: Field, draw: random.Random, _number: int) -> str:
    return f"{int(24 * draw.random()):02}:{int(60 * draw.random()):02}:00.000Z"


def _digits(pattern: str, number: int) -> str:
    return pattern.replace("#", str(number % 10))


def _pick(draw: random.Random, pool: Sequence[Any]) -> Any:
    return pool[int(draw.random() * len(pool))]


_POOLS: dict[str, Callable[[Place], Sequence[str]]] = {
    "FirstName": lambda place: place.first_names,
    "LastName": lambda place: place.last_names,
    "Company": lambda place: [each.format("Aurora") for each in place.companies],
    "City": lambda place: [city[0] for city in place.cities],
    "State": lambda place: [city[1] or city[0] for city in place.cities],
    "PostalCode": lambda place: [city[2] for city in place.cities],
    "Country": lambda place: [place.country],
    "CountryCode": lambda place: [place.code],
}
_MAKERS: dict[str, Callable[[Field, random.Random, int], Any]] = {
    "string": _string,
    "anyType": _string,
    "encryptedstring": lambda _field, _draw, number: f"4111{number:08}",
    "datacategorygroupreference": _string,
    "textarea": _area,
    "picklist": _choice,
    "combobox": _choice,
    "multipicklist": _choices,
    "boolean": lambda _field, draw, _number: draw.random() < 0.3,
    "int": _int,
    "date": lambda _field, draw, _number: _FIRST_DAY + timedelta(days=int(draw.random() * _DAYS)),
    "datetime": _moment,
    "time": _time,
    "email": _email,
    "phone": _phone,
    "url": _url,
}
