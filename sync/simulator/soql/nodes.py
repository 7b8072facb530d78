"""The syntax tree of a query. Positions count characters of the text, for error messages."""

from dataclasses import dataclass
from typing import Literal as Choice


@dataclass(frozen=True)
class Path:
    """A field, perhaps of a parent: ``Account.Owner.Name``."""

    text: str
    position: int


@dataclass(frozen=True)
class Call:
    """A function: ``COUNT(Id)``, ``CALENDAR_YEAR(CreatedDate)``, ``FIELDS(ALL)``."""

    name: str
    argument: Path | None
    position: int


Operand = Path | Call


@dataclass(frozen=True)
class Literal:
    """A value as written; ``text`` is the token, without quotes and escapes for strings."""

    kind: Choice["string", "number", "date", "datetime", "time", "word"]
    text: str
    position: int
    raw: str = ""


@dataclass(frozen=True)
class Item:
    operand: Operand
    alias: str | None


@dataclass(frozen=True)
class Compare:
    operand: Operand
    operator: str
    values: tuple[Literal, ...]  # one, or the list of IN, NOT IN, INCLUDES, EXCLUDES
    position: int


@dataclass(frozen=True)
class Not:
    term: "Condition"


@dataclass(frozen=True)
class Join:
    """Terms held together by one operator, AND or OR."""

    operator: str
    terms: tuple["Condition", ...]


Condition = Compare | Not | Join


@dataclass(frozen=True)
class Order:
    operand: Operand
    descending: bool
    nulls_last: bool


@dataclass(frozen=True)
class Query:
    items: tuple[Item, ...]
    source: Path
    alias: str | None
    where: Condition | None
    group: tuple[Operand, ...]
    having: Condition | None
    order: tuple[Order, ...]
    limit: Literal | None
    offset: Literal | None
