"""What exists in the org and what the integration user may see of it."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from sync.simulator import ids
from sync.simulator.fields import Field
from sync.simulator.objects import setup, standard
from sync.simulator.options import Options

# Objects of which no describe is needed: label in the plural, key prefix, replicateable, fields.
OWN: dict[str, tuple[str, str, bool, Callable[[], list[Field]]]] = {
    "Account": ("Accounts", "001", True, standard.account_fields),
    "Contact": ("Contacts", "003", True, standard.contact_fields),
    "Organization": ("Organizations", "00D", False, setup.organization_fields),
    "User": ("Users", "005", True, setup.user_fields),
    "PermissionSet": ("Permission Sets", "0PS", False, setup.permission_set_fields),
    "PermissionSetAssignment": ("Assignments", "0Pa", False, setup.assignment_fields),
    "ObjectPermissions": ("Object Permissions", "110", False, setup.object_permission_fields),
}
# Custom objects get prefixes from a00 on.
_PREFIXES = [f"a{first}{second}" for first in ids.ALPHABET for second in ids.ALPHABET]


@cache  # fields do not change, and tests begin hundreds of orgs
def _own_fields(name: str) -> tuple[Field, ...]:
    return tuple(OWN[name][-1]())


@dataclass
class SObject:
    """An object of the org: its fields by API name in describe order, and what is hidden of it."""

    name: str
    label_plural: str
    key_prefix: str
    replicateable: bool = True
    queryable: bool = True
    mergeable: bool = True
    cascades: frozenset[str] = frozenset()  # by childRelationships, such as ``Contact.AccountId``
    fields: dict[str, Field] = field(default_factory=dict)
    hidden_fields: set[str] = field(default_factory=set)
    hidden: bool = False
    # Keys of a recorded describe; they win over those that the describe answers otherwise.
    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return str(self.recorded.get("label") or self.name)

    @property
    def stamp_field(self) -> str | None:
        """The field that tells when a record last changed; None when the object has none."""
        names = ("SystemModstamp", "LastModifiedDate", "CreatedDate")
        return next((name for name in names if name in self.fields), None)

    @property
    def named_by_parts(self) -> bool:
        """True when Salesforce computes Name from first and last name, as for contacts, leads and users."""
        name = self.fields.get("Name")
        return name is not None and not name.createable and "LastName" in self.fields

    @property
    def recyclable(self) -> bool:
        """True when deleted records stay in the recycle bin, flagged IsDeleted."""
        return "IsDeleted" in self.fields


class Schema:
    """The objects by name; looks names up the way SOQL does, without regard to case."""

    def __init__(self, options: Options, described: Iterable[SObject] = ()) -> None:
        self.options = options
        self._restricted = True
        self.generation = 0  # counts changes, so that open cursors notice
        self.objects: dict[str, SObject] = {}
        for name, (plural, prefix, replicateable, _) in OWN.items():
            self.objects[name] = SObject(
                name,
                plural,
                prefix,
                replicateable,
                cascades=standard.CASCADES.get(name, frozenset()),
                fields={each.name: each for each in _own_fields(name)},
            )
        # Those with a prefix first: the others get what is left.
        for sobject in sorted(described, key=lambda each: not each.key_prefix):
            self.add(sobject)

    def add(self, sobject: SObject) -> None:
        """Add an object, with a free key prefix if it has none; ValueError when name or prefix is taken."""
        if sobject.name.casefold() in {name.casefold() for name in self.objects}:
            raise ValueError(f"the org already has an object {sobject.name}")
        taken = {each.key_prefix: each.name for each in self.objects.values()}
        sobject.key_prefix = sobject.key_prefix or next(each for each in _PREFIXES if each not in taken)
        if sobject.key_prefix in taken:
            raise ValueError(
                f"{sobject.name} and {taken[sobject.key_prefix]} have the same keyPrefix {sobject.key_prefix}"
            )
        self.objects[sobject.name] = sobject
        permitted = self.objects["ObjectPermissions"].fields
        names = (*permitted["SobjectType"].values, sobject.name)
        permitted["SobjectType"] = replace(permitted["SobjectType"], values=names)

    def unrestricted(self) -> "Schema":
        """The same objects, seen by somebody from whom nothing is hidden."""
        view = copy.copy(self)
        view._restricted = False
        return view

    def _hidden(self, sobject: SObject, field: Field) -> bool:
        return (self._restricted and field.name in sobject.hidden_fields) or not self.has(field)

    def has(self, field: Field) -> bool:
        """True when the feature that brings the field is on."""
        return field.feature is None or all(getattr(self.options, option) for option in field.feature.split())

    def visible_objects(self) -> list[SObject]:
        return [sobject for sobject in self.objects.values() if not (sobject.hidden and self._restricted)]

    def visible_object(self, name: str) -> SObject | None:
        """The object the user can reach under this name, whatever its case, or None."""
        folded = name.casefold()
        return next(
            (sobject for sobject in self.visible_objects() if sobject.name.casefold() == folded), None
        )

    def visible_fields(self, sobject: SObject) -> list[Field]:
        return [self._shaped(field) for field in sobject.fields.values() if not self._hidden(sobject, field)]

    def visible_field(self, sobject: SObject, name: str) -> Field | None:
        """The field the user can read under this name, whatever its case, or None."""
        found = sobject.fields.get(name)
        if found is None:
            folded = name.casefold()
            found = next(
                (field for field in sobject.fields.values() if field.name.casefold() == folded), None
            )
        if found is None or self._hidden(sobject, found):
            return None
        return found

    def relation(self, sobject: SObject, relationship: str) -> tuple[Field, SObject] | None:
        """The lookup field and the parent object behind a relationship name, or None."""
        folded = relationship.casefold()
        for each in self.visible_fields(sobject):
            if each.relationship and each.reference_to and each.relationship.casefold() == folded:
                parent = self.target(each)
                visible = parent is not None and self.visible_object(parent.name) is not None
                return (each, parent) if parent is not None and visible else None
        return None

    def target(self, field: Field) -> SObject | None:
        """The object that a reference leads to: of several the first that the org has; None for none."""
        return next((self.objects[name] for name in field.reference_to if name in self.objects), None)

    def dependants(self, sobject: SObject) -> list[tuple[SObject, Field]]:
        """Objects whose records are deleted with a record of this one, and the fields that name it."""
        return [
            (child, each)
            for child in self.objects.values()
            for each in child.fields.values()
            if sobject.name in each.reference_to and deletes_child(sobject, child, each)
        ]

    def parent_fields(self, sobject: SObject) -> list[str]:
        """The fields through which a parent takes records of this object with it."""
        return [
            each.name
            for each in sobject.fields.values()
            if any(
                name in self.objects and deletes_child(self.objects[name], sobject, each)
                for name in each.reference_to
            )
        ]

    def object_of_id(self, record_id: str) -> SObject | None:
        return next((each for each in self.objects.values() if record_id.startswith(each.key_prefix)), None)

    def _shaped(self, field: Field) -> Field:
        # Person accounts compute Account.Name from the person's names, so describe lets it be null.
        if self.options.person_accounts and field.name == "Name" and field.compound == "Name":
            return replace(field, nillable=True)
        return field


def deletes_child(parent: SObject, child: SObject, field: Field) -> bool:
    """True when a record goes with its parent: by a master-detail field or a standard relationship."""
    return field.cascade_delete or f"{child.name}.{field.name}" in parent.cascades
