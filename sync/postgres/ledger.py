"""The field ledger: the fields that the org showed, when they changed, and which changes affect old
records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import DescribedField, Projection
from sync.postgres.load.dependants import Dependency
from sync.postgres.tables import KEPT_COLUMNS

# The last entry of a field is its current state.
CURRENT = """
SELECT DISTINCT ON (object, field) * FROM sync.field {where} ORDER BY object, field, id DESC
"""
KNOWN = text(CURRENT.format(where="WHERE object = :object"))
ENTER = text("""
INSERT INTO sync.field
       (object, field, change, type, size, calculated, formula, relationship, targets, replicated, own_column)
VALUES (:object, :field, :change, :type, :size, :calculated, :formula, :relationship, :targets, :replicated,
        :own_column)
""")
# Lookups to an object, the object's own fields, and formulas that read fields through a relationship.
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
# A field that describe lists and queries refuse is tried again after a day, or when its describe changes.
REFUSED = text(f"""
SELECT * FROM ({CURRENT.format(where="WHERE object = ANY (:objects)")}) AS f
 WHERE change = 'refused' AND at > now() - interval '1 day'
""")
# Tokens of a formula: `Parent.Name`; `Parent.Owner.Name` gives both steps. Names from the org are compared
# with tokens and never become part of a pattern.
TOKEN = re.compile(r"[A-Za-z0-9_]+|\S")
EVER_SHOWN = text("SELECT DISTINCT field FROM sync.field")
VANISHED = text(f"""
WITH now AS ({CURRENT.format(where="")})
SELECT object, field, at FROM now
 WHERE change = 'vanished' AND replicated AND object = ANY (:objects) ORDER BY 1, 2
""")

# Changes after which rows that are already stored lack the field's current values.
REREAD_CHANGES = frozenset({"added", "returned", "retyped", "formula", "selected", "promoted"})


@dataclass(frozen=True, slots=True)
class State:
    """A field's properties as the ledger stores them; `own_column`: whether it has a column of its own."""

    type: str
    size: str
    calculated: bool
    formula: str
    relationship: str
    targets: tuple[str, ...]
    replicated: bool
    own_column: bool

    @classmethod
    def from_field(cls, field: DescribedField, *, replicated: bool, own_column: bool = False) -> State:
        """Return the state of a field of a describe."""
        return cls(
            field.type,
            field.size,
            field.calculated,
            field.formula,
            field.relationship,
            field.targets,
            replicated,
            own_column,
        )

    @classmethod
    def from_row(cls, row: Row[Any]) -> State:
        """Return the state that a row of the ledger holds."""
        return cls(
            row.type,
            row.size,
            row.calculated,
            row.formula,
            row.relationship,
            tuple(row.targets),
            row.replicated,
            # Not known of lines from before custom fields could have a column.
            row.replicated and "__" not in row.field if row.own_column is None else row.own_column,
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """A new entry of the ledger: a field, its change, and its state after the change."""

    field: str
    change: str
    state: State

    @property
    def needs_reread(self) -> bool:
        """Whether stored records have to be read again for this field."""
        return self.change in REREAD_CHANGES and self.state.replicated


def record_changes(connection: Connection, projection: Projection) -> list[Entry]:
    """Write the changes since the last describe; return them. The first describe of an object returns no
    changes."""
    entries = find_changes(connection, projection)
    for entry in entries:
        write_entry(connection, projection.sobject.name, entry)
    return [entry for entry in entries if entry.change != "known"]


def find_changes(connection: Connection, projection: Projection) -> list[Entry]:
    """Return what differs between a describe and the ledger."""
    rows = connection.execute(KNOWN, {"object": projection.sobject.name})
    known = {row.field: (row.change, State.from_row(row)) for row in rows}
    selected = set(projection.names)
    own = {field.name for field in projection.fields}
    now = {
        field.name: State.from_field(field, replicated=field.name in selected, own_column=field.name in own)
        for field in projection.described
    }
    return list(detect_changes(known, now))


def write_entry(connection: Connection, name: str, entry: Entry) -> None:
    """Write one entry."""
    values = asdict(entry.state) | {"targets": list(entry.state.targets)}
    connection.execute(ENTER, values | {"object": name, "field": entry.field, "change": entry.change})


def refuse(connection: Connection, name: str, field: DescribedField) -> None:
    """Record that queries refuse a field that describe lists."""
    write_entry(connection, name, Entry(field.name, "refused", State.from_field(field, replicated=False)))


def refused(connection: Connection, name: str, described: Sequence[DescribedField]) -> frozenset[str]:
    """Return the names of fields that queries refused within the last day and whose describe is unchanged
    since."""
    rows = connection.execute(REFUSED, {"objects": [name]}).all()
    known = {row.field: State.from_row(row) for row in rows}
    return frozenset(
        field.name
        for field in described
        if field.name in known and known[field.name] == State.from_field(field, replicated=False)
    )


def all_refused(connection: Connection, objects: list[str]) -> list[tuple[str, str, datetime]]:
    """Return (object, field, time of the refusal) of fields that queries refuse; they are not replicated."""
    return [(row.object, row.field, row.at) for row in connection.execute(REFUSED, {"objects": objects})]


def detect_changes(known: Mapping[str, tuple[str, State]], now: Mapping[str, State]) -> Iterator[Entry]:
    """Compare a describe with the ledger. Salesforce lists neither removed nor hidden fields: both are
    `vanished`."""
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
    """Return the most important of several simultaneous changes."""
    if now.replicated != before.replicated:
        return "selected" if now.replicated else "left out"
    if now.type != before.type or now.targets != before.targets:
        return "retyped"
    if (now.calculated, now.formula) != (before.calculated, before.formula):
        return "formula"
    if now.own_column != before.own_column:
        return "promoted" if now.own_column else "demoted"
    return "resized"


def dependencies(connection: Connection, name: str) -> tuple[Dependency, ...]:
    """Return the replicated lookups to an object, with the columns that formulas read through each of them.

    A lookup without a column of its own is left out, and so is MasterRecordId: only tombstones have it. The
    columns are None where a formula reads a field that the feed cannot name.
    """
    related = connection.execute(RELATED, {"object": name}).all()
    readable = columns_read(name, related)
    own = {other: own_columns(other) for other in {row.object for row in related}}
    found = []
    for row in related:
        columns = own[row.object]
        if row.leads and row.replicated and row.field in columns and columns[row.field] not in KEPT_COLUMNS:
            formulas = [other.formula for other in related if other.object == row.object]
            named = {field for formula in formulas for field in read_through(formula, row.relationship)}
            reads = {readable.get(field) for field in named}
            known = frozenset(column for column in reads if column is not None)
            found.append(Dependency(row.object, columns[row.field], None if None in reads else known))
    return tuple(found)


def own_columns(name: str) -> dict[str, str]:
    """Map the fields of an object that have a column of their own to it; none without a declaration."""
    return {field.name: field.column for field in CATALOGUE[name].fields} if name in CATALOGUE else {}


def columns_read(name: str, related: Sequence[Row[Any]]) -> dict[str, str]:
    """Map what a formula may name of an object (field or relationship, lower case) to the column that the
    feed names.

    Fields that are not replicated have no column.
    """
    columns = own_columns(name)
    fields = [row for row in related if row.object == name and row.replicated]
    # All custom fields share one column.
    found = {row.relationship.lower(): columns.get(row.field, "custom") for row in fields if row.relationship}
    return found | {row.field.lower(): columns.get(row.field, "custom") for row in fields}


def read_through(formula: str, relationship: str) -> Iterator[str]:
    """Yield the names, in lower case, that a formula reads through a relationship."""
    tokens = TOKEN.findall(formula.lower())
    for first, dot, second in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if dot == "." and first == relationship.lower():
            yield second


def ever_shown(connection: Connection) -> frozenset[str]:
    """Return the names of all fields that any object has ever shown."""
    return frozenset(connection.execute(EVER_SHOWN).scalars())


def vanished(connection: Connection, objects: list[str]) -> list[tuple[str, str, datetime]]:
    """Return (object, field, time) of replicated fields that are not shown any more; they keep their last
    values."""
    return [(row.object, row.field, row.at) for row in connection.execute(VANISHED, {"objects": objects})]
