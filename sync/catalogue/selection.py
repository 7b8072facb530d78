"""What settings name, held against the catalogue: objects, and fields of objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import PLACING, Kind, SObject


def selection_problems(
    objects: Sequence[str], volatile: frozenset[str], excluded: frozenset[str]
) -> Iterator[str]:
    """What is wrong with SYNC_OBJECTS, SYNC_VOLATILE_FIELDS and SYNC_EXCLUDED_FIELDS, each with its remedy.

    Fields are API names (`PhotoUrl`), for one object with its name before them (`Contact.PhotoUrl`).
    """
    if unknown := [name for name in objects if name not in CATALOGUE]:
        yield f"SYNC_OBJECTS {', '.join(unknown)} is not in the catalogue; it has {', '.join(CATALOGUE)}"
    for setting, names in (("SYNC_VOLATILE_FIELDS", volatile), ("SYNC_EXCLUDED_FIELDS", excluded)):
        if foreign := sorted(n for n in names if "." in n and n.split(".")[0] not in CATALOGUE):
            having = f"it has {', '.join(CATALOGUE)}"
            yield f"{setting} {', '.join(foreign)} is of no object in the catalogue; {having}"
            continue
        if setting == "SYNC_EXCLUDED_FIELDS":
            yield from (f"{setting} {problem}" for problem in exclusion_problems(names))


def exclusion_problems(names: frozenset[str]) -> Iterator[str]:
    """Fields that cannot be excluded since they are needed, or that the catalogue does not have."""
    for sobject in CATALOGUE.values():
        mine = {name.removeprefix(f"{sobject.name}.") for name in names}
        if needed := sorted(mine & indispensable(sobject)):
            yield (
                f"{', '.join(needed)} of {sobject.name} cannot be excluded: "
                "replication or the customer view needs it"
            )
    for name in sorted(names):
        yield from unknown_field(name)


def unknown_field(name: str) -> Iterator[str]:
    """The problem with a standard field that is not in the catalogue: it is not read anyway, or mistyped."""
    sobject, _, field = name.rpartition(".")
    if "__" in field:
        return  # only the org knows its custom fields
    objects = [CATALOGUE[sobject]] if sobject else list(CATALOGUE.values())
    known = [f"{each.name}.{one.name}" for each in objects for one in each.fields]
    if any(one.split(".")[1] == field for one in known):
        return
    near = get_close_matches(f"{sobject or objects[0].name}.{field}", known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    yield f"{name} is no field of the catalogue, so it is not read in the first place{hint}"


def indispensable(sobject: SObject) -> frozenset[str]:
    """What places a record, joins it to others, or tells that two records are one person."""
    joined = {f.name for f in sobject.fields if f.kind is Kind.REFERENCE and f.column in sobject.lookups}
    twin = sobject.twin
    same = {name for name in (twin.field, twin.flag) if name} if twin else set()
    return PLACING | joined | same | ({"MasterRecordId"} if sobject.mergeable else set())
