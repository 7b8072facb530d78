"""WHERE and HAVING to SQL. SOQL's logic has two values: null differs from every value, NOT is never null."""

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from sync.simulator import ids
from sync.simulator.fields import COMPOUND_TYPES, DECIMAL_TYPES, ID_TYPES, Field
from sync.simulator.options import Options
from sync.simulator.soql import ranges
from sync.simulator.soql.errors import SoqlError, invalid_field, invalid_operator, malformed, too_complicated
from sync.simulator.soql.nodes import Compare, Condition, Join, Literal, Not, Operand
from sync.simulator.soql.parse import unescape
from sync.simulator.soql.scope import Column
from sync.simulator.values import EPOCH, time_text

_LARGEST = 2**63 - 1
_ORDERED = ("<", "<=", ">", ">=")
_TYPE_NAMES = {"datetime": "dateTime", "reference": "id"}


class Conditions:
    """Compiles one query's conditions; ``parameters`` collects the bound values in order."""

    def __init__(self, column: Callable[[Operand], Column], now: datetime, options: Options) -> None:
        self._column = column
        self._options = options
        self._now = now
        self.parameters: list[Any] = []

    def sql(self, condition: Condition) -> str:
        try:
            return self._sql(condition)
        except RecursionError:
            raise too_complicated() from None

    def _sql(self, condition: Condition) -> str:
        if isinstance(condition, Not):
            return f"NOT coalesce({self._sql(condition.term)}, 0)"
        if isinstance(condition, Join):
            return _balanced(condition.operator, [self._sql(term) for term in condition.terms])
        return f"({self._compare(condition)})"

    def _compare(self, compare: Compare) -> str:
        column = self._column(compare.operand)
        field = column.field
        position = compare.operand.position
        if not field.can_filter or field.type in COMPOUND_TYPES:
            raise invalid_field(f"field '{field.name}' can not be filtered in a query call", position)
        _check_operator(field, compare)
        if compare.operator in ("IN", "NOT IN"):
            return self._among(column, compare)
        if compare.operator in ("INCLUDES", "EXCLUDES"):
            return self._includes(column, compare)
        return self._one(column, compare.operator, compare.values[0])

    def _one(self, column: Column, operator: str, literal: Literal) -> str:
        if is_null(literal):
            if operator not in ("=", "!="):
                raise invalid_operator(f"invalid operator {operator} for a null value", literal.position)
            return f"{column.sql} IS {'NOT ' if operator == '!=' else ''}NULL"
        if operator == "LIKE":
            return self._like(column, literal)
        kind = column.field.type
        if kind in ("date", "datetime") and literal.kind == "word":
            return self._range(column, operator, literal)
        if kind in DECIMAL_TYPES or kind in ("int", "datetime"):
            return self._threshold(column, operator, _exact(column.field, literal))
        value = _plain(column.field, literal)
        if value is None:  # an empty string is null
            return self._one(column, operator, Literal("word", "null", literal.position, "null"))
        return self._bound(column.folded, operator, value)

    def _bound(self, sql: str, operator: str, value: Any) -> str:
        self.parameters.append(value)
        return f"{sql} IS NOT ?" if operator == "!=" else f"{sql} {operator} ?"

    def _threshold(self, column: Column, operator: str, exact: Fraction) -> str:
        """Compare an integer column with a value that may lie between two integers or beyond 63 bits."""
        floor = max(-_LARGEST, min(_LARGEST, math.floor(exact)))
        between = exact != floor
        if operator in ("=", "!="):
            if between:
                return "0" if operator == "=" else "1"
            return self._bound(column.sql, operator, floor)
        if between:
            operator = "<=" if operator in ("<", "<=") else ">"
        return self._bound(column.sql, operator, floor)

    def _range(self, column: Column, operator: str, literal: Literal) -> str:
        first, after = ranges.days(literal.text, self._now.date(), literal.position)
        begin, end = (_day_value(column.field, day) for day in (first, after))
        if operator in ("=", "!="):
            self.parameters += [begin, end]
            inside = f"({column.sql} >= ? AND {column.sql} < ?)"
            return inside if operator == "=" else f"NOT coalesce({inside}, 0)"
        if operator in ("<", ">="):
            return self._bound(column.sql, operator, begin)
        return self._bound(column.sql, "<" if operator == "<=" else ">=", end)

    def _like(self, column: Column, literal: Literal) -> str:
        if literal.kind != "string":
            raise _wrong_type(column.field, literal)
        self.parameters.append(unescape(literal.raw, literal.position, pattern=True))
        return f"soql_like({column.sql}, ?)"

    def _among(self, column: Column, compare: Compare) -> str:
        tests, values = [], []
        kind = column.field.type
        for literal in compare.values:
            if is_null(literal) or (kind in ("date", "datetime") and literal.kind == "word"):
                tests.append(self._one(column, "=", literal))
            elif kind in DECIMAL_TYPES or kind in ("int", "datetime"):
                exact = _exact(column.field, literal)
                values += [int(exact)] if exact.denominator == 1 and abs(exact) <= _LARGEST else []
            else:
                plain = _plain(column.field, literal)
                tests += [f"{column.sql} IS NULL"] if plain is None else []
                values += [] if plain is None else [plain]
        self.parameters += values
        tests.append(f"{column.folded} IN ({', '.join('?' * len(values))})")
        among = "(" + " OR ".join(tests) + ")"
        if compare.operator == "IN":
            return among
        return f"NOT coalesce({among}, {0 if self._options.not_in_keeps_nulls else 1})"

    def _includes(self, column: Column, compare: Compare) -> str:
        tests = []
        for literal in compare.values:
            if literal.kind != "string":
                raise _wrong_type(column.field, literal)
            self.parameters.append(literal.text)
            tests.append(f"soql_includes({column.sql}, ?)")
        joined = " OR ".join(tests)
        return joined if compare.operator == "INCLUDES" else f"NOT coalesce({joined}, 0)"


def _balanced(operator: str, terms: list[str]) -> str:
    """Terms joined as a tree of halves: SQLite limits an expression's depth, and a chain is deep."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return f"({_balanced(operator, terms[:middle])} {operator} {_balanced(operator, terms[middle:])})"


def is_null(literal: Literal) -> bool:
    return literal.kind == "word" and literal.text.casefold() == "null"


def _check_operator(field: Field, compare: Compare) -> None:
    operator, position = compare.operator, compare.position
    refused = (
        (operator in _ORDERED and field.type in ("boolean", "multipicklist"))
        or (operator == "LIKE" and field.type in ID_TYPES)
        or (
            operator == "LIKE"
            and field.type in DECIMAL_TYPES | {"int", "boolean", "date", "datetime", "time", "multipicklist"}
        )
        or (operator in ("INCLUDES", "EXCLUDES") and field.type != "multipicklist")
    )
    if refused:
        kind = _TYPE_NAMES.get(field.type, field.type)
        raise invalid_operator(f"invalid operator {operator} on {kind} field {field.name}", position)


def _wrong_type(field: Field, literal: Literal) -> SoqlError:
    quoted = "should be" if _is_text(field) else "should not be"
    kind = "string" if _is_text(field) else _TYPE_NAMES.get(field.type, field.type)
    word = literal.kind == "word" and literal.text.casefold() not in ("true", "false", "null")
    if word and ":" not in literal.text and not ranges.known(literal.text):
        return malformed(f"unexpected token: '{literal.text}'", literal.position)
    return invalid_field(
        f"value of filter criterion for field '{field.name}' must be of type {kind} and {quoted} "
        "enclosed in quotes",
        literal.position,
    )


def _is_text(field: Field) -> bool:
    return field.type not in DECIMAL_TYPES | {"int", "boolean", "date", "datetime", "time"}


def _plain(field: Field, literal: Literal) -> Any:
    """The bound value of a literal for a text, Id, boolean or date field; None for an empty string."""
    if field.type == "boolean":
        if literal.kind == "word" and literal.text.casefold() in ("true", "false"):
            return int(literal.text.casefold() == "true")
        raise _wrong_type(field, literal)
    if field.type == "date":
        if literal.kind == "date":
            return _day(literal).isoformat()
        raise _wrong_type(field, literal)
    if field.type == "time":
        return _time(field, literal)
    if literal.kind != "string":
        raise _wrong_type(field, literal)
    if literal.text == "":
        return None
    if field.type in ID_TYPES:
        known = ids.normalize(literal.text)
        if known is None:
            raise invalid_operator(f"invalid ID field: {literal.text}", literal.position)
        return known
    return fold(literal.text)


def _time(field: Field, literal: Literal) -> str:
    if literal.kind != "time":
        raise _wrong_type(field, literal)
    try:
        return time_text(field, literal.text)
    except ValueError:
        raise malformed(f"invalid time: {literal.text}", literal.position) from None


def _exact(field: Field, literal: Literal) -> Fraction:
    """The value of a number or moment on the scale its column is stored in."""
    if field.type == "datetime":
        if literal.kind != "datetime":
            raise _wrong_type(field, literal)
        return _seconds(literal)
    if literal.kind != "number":
        raise _wrong_type(field, literal)
    return Fraction(Decimal(literal.text)) * Fraction(10) ** field.scale


def _seconds(literal: Literal) -> Fraction:
    whole, fraction, zone = re.fullmatch(r"(.{19})(\.\d+)?(.+)", literal.text).groups()  # type: ignore[union-attr]  # lexed so
    try:
        moment = datetime.fromisoformat(whole + zone.replace("Z", "+00:00")).astimezone(UTC)
    except (ValueError, OverflowError):
        raise malformed(f"invalid date and time: {literal.text}", literal.position) from None
    return Fraction(int((moment - EPOCH).total_seconds())) + Fraction(fraction or 0)


def _day(literal: Literal) -> date:
    try:
        return date.fromisoformat(literal.text)
    except ValueError:
        raise malformed(f"invalid date: {literal.text}", literal.position) from None


def _day_value(field: Field, day: date) -> int | str:
    if field.type == "date":
        return day.isoformat()
    return int((datetime(day.year, day.month, day.day, tzinfo=UTC) - EPOCH).total_seconds())


def fold(text: str) -> str:
    """Text as SOQL compares it, without regard to case."""
    return text.lower()
