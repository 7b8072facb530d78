"""What exists in the org and what the integration user may see of it."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sync.simulator.fields import Field
from sync.simulator.objects import standard
from sync.simulator.options import Options


@dataclass
class SObject:
    """An object of the org: its fields by API name in describe order, and what is hidden of it."""

    name: str
    label_plural: str
    key_prefix: str
    replicateable: bool = True
    fields: dict[str, Field] = field(default_factory=dict)
    hidden_fields: set[str] = field(default_factory=set)
    hidden: bool = False

    @property
    def recyclable(self) -> bool:
        """True when deleted records stay in the recycle bin, flagged IsDeleted."""
        return "IsDeleted" in self.fields


class Schema:
    """The objects by name; looks names up the way SOQL does, without regard to case."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._restricted = True
        self.generation = 0  # counts changes, so that open cursors notice
        self.objects: dict[str, SObject] = {}
        for name, plural, prefix, replicateable, fields in (
            ("Account", "Accounts", "001", True, standard.account_fields()),
            ("Contact", "Contacts", "003", True, standard.contact_fields()),
            ("Organization", "Organizations", "00D", False, standard.organization_fields()),
            ("User", "Users", "005", True, standard.user_fields()),
            ("PermissionSet", "Permission Sets", "0PS", False, standard.permission_set_fields()),
            ("PermissionSetAssignment", "Assignments", "0Pa", False, standard.assignment_fields()),
            ("ObjectPermissions", "Object Permissions", "110", False, standard.object_permission_fields()),
        ):
            self._add(SObject(name, plural, prefix, replicateable), fields)

    def _add(self, sobject: SObject, fields: Iterable[Field]) -> None:
        sobject.fields = {each.name: each for each in fields}
        self.objects[sobject.name] = sobject

    def unrestricted(self) -> "Schema":
        """The same objects, seen by somebody from whom nothing is hidden."""
        view = copy.copy(self)
        view._restricted = False
        return view

    def _hidden(self, sobject: SObject, field: Field) -> bool:
        return (self._restricted and field.name in sobject.hidden_fields) or not self.has(field)

    def has(self, field: Field) -> bool:
        """True when the feature that brings the field is on."""
        return field.feature is None or bool(getattr(self.options, field.feature))

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
                parent = self.visible_object(each.reference_to[0])
                return (each, parent) if parent is not None else None
        return None

    def object_of_id(self, record_id: str) -> SObject | None:
        return next((each for each in self.objects.values() if record_id.startswith(each.key_prefix)), None)

    def _shaped(self, field: Field) -> Field:
        # Person accounts compute Account.Name from the person's names, so describe lets it be null.
        if self.options.person_accounts and field.name == "Name" and field.compound == "Name":
            return Field(**{**_attributes(field), "nillable": True})
        return field


def _attributes(field: Field) -> dict[str, Any]:
    return {name: getattr(field, name) for name in field.__dataclass_fields__}
