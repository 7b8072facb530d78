"""The ledger of fields: what an org's fields were, when they changed, and what follows for old records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from sync.catalogue.mapping import DescribedField, Projection
from sync.catalogue.objects import CATALOGUE
from sync.postgres.load.dependants import Dependency
from sync.postgres.tables import KEPT

# The last line of a field is its state.
CURRENT = """
SELECT DISTINCT ON (object, field) * FROM sync.field {where} ORDER BY object, field, id DESC
"""
KNOWN = text(CURRENT.format(where="WHERE object = :object"))
ENTER = text("""
INSERT INTO sync.field
       (object, field, change, type, size, calculated, formula, relationship, targets, replicated)
VALUES (:object, :field, :change, :type, :size, :calculated, :formula, :relationship, :targets, :replicated)
""")
# What leads to an object, what formulas may read of it, and the formulas that look through a relationship.
RELATED = text(f"""
WITH now AS ({CURRENT.format(where="")})
SELECT object, field, relationship, replicated, :object = ANY (targets) AS leads,
       CASE WHEN calculated AND replicated THEN formula ELSE '' END AS formula
  FROM now
 WHERE change <> 'vanished'
   AND (object = :object OR :object = ANY (targets)
        OR (calculated AND replicated AND position('.' IN formula) > 0))
 ORDER BY object, field
""")
# A field that describe lists and queries refuse is tried again after a day, or once its describe differs.
REFUSED = text(f"""
SELECT * FROM ({CURRENT.format(where="WHERE object = ANY (:objects)")}) AS f
 WHERE change = 'refused' AND at > now() - interval '1 day'
""")
# Account.Name, and of Account.Parent.Name both steps. What the org says is compared, and is never part of a
# pattern.
TOKEN = re.compile(r"[A-Za-z0-9_]+|\S")
EVER = text("SELECT DISTINCT field FROM sync.field")
VANISHED = text(f"""
WITH now AS ({CURRENT.format(where="")})
SELECT object, field, at FROM now
 WHERE change = 'vanished' AND replicated AND object = ANY (:objects) ORDER BY 1, 2
""")

# Changes after which old records do not have the field's values yet.
LATE = frozenset({"added", "returned", "retyped", "formula", "selected"})


@dataclass(frozen=True, slots=True)
class State:
    """A field as the ledger has it."""

    type: str
    size: str
    calculated: bool
    formula: str
    relationship: str
    targets: tuple[str, ...]
    replicated: bool

    @classmethod
    def of(cls, field: DescribedField, *, replicated: bool) -> State:
        return cls(
            field.type,
            field.size,
            field.calculated,
            field.formula,
            field.relationship,
            field.targets,
            replicated,
        )

    @classmethod
    def stored(cls, row: Row[Any]) -> State:
        """The state in a line of the ledger."""
        return cls(
            row.type,
            row.size,
            row.calculated,
            row.formula,
            row.relationship,
            tuple(row.targets),
            row.replicated,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One line to come: a field, what happened to it, and how it is now."""

    field: str
    change: str
    state: State

    @property
    def late(self) -> bool:
        """Whether old records have to be read again for it."""
        return self.change in LATE and self.state.replicated


def note(connection: Connection, projection: Projection) -> list[Entry]:
    """Enter what changed since the ledger was last written; nothing is news in an empty one."""
    name = projection.sobject.name
    known = {
        row.field: (
            row.change,
            State.stored(row),
        )
        for row in connection.execute(KNOWN, {"object": name})
    }
    selected = set(projection.names)
    now = {field.name: State.of(field, replicated=field.name in selected) for field in projection.described}
    entries = list(news(known, now))
    for entry in entries:
        write_entry(connection, name, entry)
    return [entry for entry in entries if entry.change != "known"]


def write_entry(connection: Connection, name: str, entry: Entry) -> None:
    """Write one line."""
    values = asdict(entry.state) | {"targets": list(entry.state.targets)}
    connection.execute(ENTER, values | {"object": name, "field": entry.field, "change": entry.change})


def refuse(connection: Connection, name: str, field: DescribedField) -> None:
    """Enter that queries refuse a field that describe lists."""
    write_entry(connection, name, Entry(field.name, "refused", State.of(field, replicated=False)))


def refused(connection: Connection, name: str, described: Sequence[DescribedField]) -> frozenset[str]:
    """The fields that queries refused within the last day and whose describe is unchanged since."""
    now = {field.name: State.of(field, replicated=False) for field in described}
    rows = connection.execute(REFUSED, {"objects": [name]})
    return frozenset(row.field for row in rows if now.get(row.field) == State.stored(row))


def all_refused(connection: Connection, objects: list[str]) -> list[tuple[str, str, datetime]]:
    """Fields that queries refuse, with their objects and since when: they are not replicated."""
    return [(row.object, row.field, row.at) for row in connection.execute(REFUSED, {"objects": objects})]


def news(known: Mapping[str, tuple[str, State]], now: Mapping[str, State]) -> Iterator[Entry]:
    """What a describe says that the ledger does not. Removed and hidden look alike: it is not there."""
    for name, state in now.items():
        change, before = known.get(name, ("", None))
        if before is None:
            yield Entry(name, "added" if known else "known", state)
        elif change == "vanished":
            yield Entry(name, "returned", state)
        elif state != before:
            yield Entry(name, difference(before, state), state)
    for name, (change, before) in known.items():
        if name not in now and change != "vanished":
            yield Entry(name, "vanished", before)


def difference(before: State, now: State) -> str:
    """The change that weighs most, where there are several at once."""
    if now.replicated != before.replicated:
        return "selected" if now.replicated else "left out"
    if now.type != before.type or now.targets != before.targets:
        return "retyped"
    if (now.calculated, now.formula) != (before.calculated, before.formula):
        return "formula"
    return "resized"


def dependencies(connection: Connection, name: str) -> tuple[Dependency, ...]:
    """The columns in which replicated records name records of this object, as far as they have one, and which
    columns of those their formulas read.

    The look-up of a merged record is left out: only a tombstone has one.
    """
    related = connection.execute(RELATED, {"object": name}).all()
    readable = columns_read(name, related)
    found = []
    for row in related:
        sobject = CATALOGUE.get(row.object)
        columns = {field.name: field.column for field in sobject.fields} if sobject else {}
        if row.leads and row.replicated and row.field in columns and columns[row.field] not in KEPT:
            formulas = [other.formula for other in related if other.object == row.object]
            named = {field for formula in formulas for field in read_through(formula, row.relationship)}
            reads = {readable.get(field) for field in named}
            known = frozenset(column for column in reads if column is not None)
            found.append(Dependency(row.object, columns[row.field], None if None in reads else known))
    return tuple(found)


def columns_read(name: str, related: Sequence[Row[Any]]) -> dict[str, str]:
    """The column as which the feed names a change, for what a formula may name of an object: a field, or a
    relationship; in small letters. What is not replicated has none."""
    columns = {field.name: field.column for field in CATALOGUE[name].fields} if name in CATALOGUE else {}
    fields = [row for row in related if row.object == name and row.replicated]
    # All custom fields are in one column.
    found = {row.relationship.lower(): columns.get(row.field, "custom") for row in fields if row.relationship}
    return found | {row.field.lower(): columns.get(row.field, "custom") for row in fields}


def read_through(formula: str, relationship: str) -> Iterator[str]:
    """What a formula names behind a relationship, in small letters."""
    tokens = TOKEN.findall(formula.lower())
    for first, dot, second in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot == "." and first == relationship.lower():
            yield second


def ever_shown(connection: Connection) -> frozenset[str]:
    """The names of all fields that any object has ever shown."""
    return frozenset(connection.execute(EVER).scalars())


def vanished(connection: Connection, objects: list[str]) -> list[tuple[str, str, datetime]]:
    """Fields that are not shown any more, with their objects and since when: they keep their last values."""
    return [(row.object, row.field, row.at) for row in connection.execute(VANISHED, {"objects": objects})]
