"""Settings that name fields: `Contact.Birthdate`, or `PhotoUrl` for every object that has it."""

from __future__ import annotations

import re
from difflib import get_close_matches

from sync.catalogue.mapping import PLACING, Kind, SObject
from sync.catalogue.objects import CATALOGUE
from sync.config.values import wrong

NAME = re.compile(r"([A-Za-z][A-Za-z0-9_]*\.)?[A-Za-z][A-Za-z0-9_]*")


def of_object(names: frozenset[str], sobject: str) -> frozenset[str]:
    """Those of the names that mean fields of this object, without its name before them."""
    return frozenset(
        name.removeprefix(f"{sobject}.")
        for name in names
        if "." not in name or name.startswith(f"{sobject}.")
    )


def field_names(text: str) -> frozenset[str]:
    """The names in a comma-separated list; an error for what is no field's name, or of no object here."""
    if text.strip().lower() == "none":
        return frozenset()
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if odd := sorted(name for name in names if not NAME.fullmatch(name)):
        raise wrong(f"{', '.join(odd)} is no field's API name; write for example Score__c,PhotoUrl")
    if foreign := sorted(n for n in names if "." in n and n.split(".")[0] not in CATALOGUE):
        raise wrong(f"{', '.join(foreign)} is of no object in the catalogue; it has {', '.join(CATALOGUE)}")
    return names


def excluded(text: str) -> frozenset[str]:
    """The fields that SYNC_EXCLUDED_FIELDS names; an error for one that is none, or that is needed."""
    names = field_names(text)
    for sobject in CATALOGUE.values():
        mine = of_object(names, sobject.name)
        if needed := sorted(mine & indispensable(sobject)):
            raise wrong(
                f"{', '.join(needed)} of {sobject.name} cannot be excluded: "
                "replication or the customer view needs it"
            )
    for name in sorted(names):
        check_known(name)
    return names


def check_known(name: str) -> None:
    """An error for a standard field that the catalogue does not have: it is not read anyway, or mistyped."""
    sobject, _, field = name.rpartition(".")
    if "__" in field:
        return  # only the org knows its custom fields
    objects = [CATALOGUE[sobject]] if sobject else list(CATALOGUE.values())
    known = [f"{each.name}.{one.name}" for each in objects for one in each.fields]
    if any(one.split(".")[1] == field for one in known):
        return
    near = get_close_matches(f"{sobject or objects[0].name}.{field}", known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise wrong(f"{name} is no field of the catalogue, so it is not read in the first place{hint}")


def indispensable(sobject: SObject) -> frozenset[str]:
    """What places a record, joins it to others, or tells that two records are one person."""
    joined = {f.name for f in sobject.fields if f.kind is Kind.REFERENCE and f.column in sobject.lookups}
    twin = sobject.twin
    same = {name for name in (twin.field, twin.flag) if name} if twin else set()
    return PLACING | joined | same | {"MasterRecordId"}
