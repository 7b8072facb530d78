"""Bulk results as CSV, put together by SQLite: no Python runs for a value, and none of it holds the GIL.

Every value stands in double quotes, quotes within are doubled, line breaks stay as they are, null is
``""``. Numbers and moments differ in form from REST: ``2024-09-24T03:26:07.000Z``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sync.simulator.fields import DECIMAL_TYPES, TEXT_TYPES, Field
from sync.simulator.options import Options
from sync.simulator.values import moment_sql

DELIMITERS = {"BACKQUOTE": "`", "CARET": "^", "COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "TAB": "\t"}
LINE_ENDINGS = {"LF": "\n", "CRLF": "\r\n"}
# Functions in Python, for what SQL cannot say: a scaled number and its scale to text; text with NUL in it.
NUMBER, TEXT = "csv_number", "csv_text"
# SQLite's printf ends a text at NUL, so a byte that UTF-8 never has stands in for it until the end.
_NUL, _INSTEAD = b"\0", b"\xff"
_MOST_ARGUMENTS = 100  # SQLite functions take 127


@dataclass(frozen=True)
class Column:
    """A column of a result: its name, the field whose values it holds, the SQL that reads them."""

    name: str
    field: Field
    sql: str
    nul: bool = True  # NUL may occur in it


@dataclass(frozen=True)
class Dialect:
    """The names of a delimiter and a line ending, as a job gives them."""

    delimiter: str = "COMMA"
    line_ending: str = "LF"


def header(columns: Sequence[Column], dialect: Dialect) -> bytes:
    """The first line of every page."""
    names = DELIMITERS[dialect.delimiter].join(f'"{column.name}"' for column in columns)
    return (names + LINE_ENDINGS[dialect.line_ending]).encode()


def row_sql(columns: Sequence[Column], dialect: Dialect, options: Options) -> str:
    """The SQL expression of a row's line; what it gives still has to go through ``finished``."""
    parts = []
    for at in range(0, len(columns), _MOST_ARGUMENTS):
        places, arguments = [], []
        for column in columns[at : at + _MOST_ARGUMENTS]:
            text = column.field.type in TEXT_TYPES
            # %w doubles double quotes, but says (NULL); %s takes null for nothing.
            places.append('"%w"' if text else '"%s"')
            sql = _value_sql(column, options)
            arguments.append(f"coalesce({sql}, '')" if text else sql)
        last = at + _MOST_ARGUMENTS >= len(columns)
        line = DELIMITERS[dialect.delimiter].join(places)
        end = LINE_ENDINGS[dialect.line_ending] if last else DELIMITERS[dialect.delimiter]
        parts.append(f"printf('{line}{end}', {', '.join(arguments)})")
    return " || ".join(parts)


def nul_free(text: str | None) -> bytes | None:
    """A text that SQLite's printf takes whole."""
    return None if text is None else text.encode().replace(_NUL, _INSTEAD)


def finished(rendered: bytes) -> bytes:
    """Rendered lines with their NULs back."""
    return rendered.replace(_INSTEAD, _NUL)


def _value_sql(column: Column, options: Options) -> str:
    kind, sql = column.field.type, column.sql
    if kind == "boolean":
        return f"CASE {sql} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
    if kind == "datetime":
        return moment_sql(sql, "Z")
    if kind in DECIMAL_TYPES:
        return _number_sql(column, options)
    if kind in TEXT_TYPES and column.nul and _in_python(column):
        return f"{TEXT}({sql})"
    if kind in TEXT_TYPES and column.nul:
        return f"CASE WHEN instr({sql}, char(0)) THEN {TEXT}({sql}) ELSE {sql} END"
    return sql


def _in_python(column: Column) -> bool:
    """True for a value whose SQL should not be repeated: it calls a function of ours."""
    formula = column.field.formula
    return formula is not None and formula.sql is None


def _number_sql(column: Column, options: Options) -> str:
    sql, scale = column.sql, column.field.scale
    if options.exponent_numbers or _in_python(column):
        return f"{NUMBER}({sql}, {scale})"
    tail = "" if options.plain_numbers else " || '.0'"
    if scale == 0:
        return sql + tail
    unit = 10**scale

    def positive(number: str) -> str:
        return f"rtrim(({number} / {unit}) || '.' || substr({unit} + {number} % {unit}, 2), '0')"

    return (
        f"CASE WHEN {sql} % {unit} = 0 THEN ({sql} / {unit}){tail}"
        f" WHEN {sql} > 0 THEN {positive(sql)} ELSE '-' || {positive(f'(-{sql})')} END"
    )
