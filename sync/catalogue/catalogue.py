"""The catalogue: every object that is declared in `objects`, by its API name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from sync.catalogue import objects
from sync.catalogue.mapping import SObject
from sync.errors import SyncError


def declared() -> dict[str, SObject]:
    """The objects that the modules of `objects` declare as OBJECT, in the order of the modules' names.

    SyncError for a module without one, and for an Id prefix or a table that two objects share.
    """
    found: dict[str, SObject] = {}
    for module in sorted(each.name for each in iter_modules(objects.__path__)):
        sobject = getattr(import_module(f"{objects.__name__}.{module}"), "OBJECT", None)
        if not isinstance(sobject, SObject):
            raise SyncError(f"sync/catalogue/objects/{module}.py declares no OBJECT = SObject(…)")
        for other in found.values():
            if sobject.prefix == other.prefix or sobject.table == other.table:
                raise SyncError(f"{sobject.name} has the Id prefix or the table of {other.name}")
        found[sobject.name] = sobject
    return found


CATALOGUE: dict[str, SObject] = declared()
