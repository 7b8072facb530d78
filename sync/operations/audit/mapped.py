"""The mapping of the catalogue compared with the org's describe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import Projection
from sync.config.settings import Settings
from sync.postgres.tables import TYPES
from sync.replication import apply
from sync.salesforce.session.session import Session


@dataclass(frozen=True, slots=True)
class Mapped:
    """A field of the org, of the catalogue, or of both."""

    object: str
    field: str
    column: str
    kept_as: str
    type: str
    state: Literal["mapped", "custom", "hidden", "excluded", "retyped", "unmapped"]


def schema(settings: Settings, session: Session, name: str) -> list[Mapped]:
    """Return the mapping of one object, compared with its describe."""
    described, _ = session.describe(name)
    types = {field.name: field.type for field in described}
    fitted = apply.projection(settings, CATALOGUE[name], described)
    return [*standard_lines(fitted, types), *other_lines(fitted, types)]


def standard_lines(fitted: Projection, types: dict[str, str]) -> Iterator[Mapped]:
    """Yield the fields of the catalogue."""
    retyped = {field for field, _ in fitted.retyped}
    read = set(fitted.names)
    for field in fitted.sobject.fields:
        if field.name in fitted.hidden:
            state: Any = "hidden"
        elif field.name not in read:
            state = "excluded"
        else:
            state = "retyped" if field.name in retyped else "mapped"
        column = ", ".join([field.column, *(derived.column for derived in field.derived)])
        kept_as = str(TYPES[field.kind].compile()).split(" COLLATE")[0].lower()
        yield Mapped(fitted.sobject.name, field.name, column, kept_as, types.get(field.name, ""), state)


def other_lines(fitted: Projection, types: dict[str, str]) -> Iterator[Mapped]:
    """Yield custom fields, hidden fields outside the catalogue, and unmapped standard fields."""
    name = fitted.sobject.name
    for field in fitted.custom:
        yield Mapped(name, field.name, f"custom ->> '{field.name}'", "jsonb", field.type, "custom")
    for missing in fitted.hidden:
        if missing not in {field.name for field in fitted.sobject.fields}:
            yield Mapped(name, missing, f"custom ->> '{missing}'", "jsonb", "", "hidden")
    for unmapped in fitted.unmapped:
        yield Mapped(name, unmapped, "", "", types[unmapped], "unmapped")
