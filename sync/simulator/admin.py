"""What an administrator does to the schema: fields come, go, hide and change, and no stamp moves."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sync.simulator import formulas, values
from sync.simulator.fields import DECIMAL_TYPES, Field
from sync.simulator.objects.schema import SObject
from sync.simulator.state import OrgState
from sync.simulator.store import quote

_OF_ANY_TYPE = ("custom", "idLookup", "inlineHelpText", "permissionable", "unique")


def add_field(state: OrgState, name: str, field: Field) -> None:
    sobject = state.schema.objects[name]
    if field.name in sobject.fields:
        raise ValueError(f"{name} already has a field {field.name}")
    sobject.fields[field.name] = field
    if field.stored:
        state.store.add_column(sobject, field)
    if field.formula is not None:
        state.formulas.register_field(sobject, field)


def remove_field(state: OrgState, name: str, field_name: str) -> None:
    sobject = state.schema.objects[name]
    field = sobject.fields.pop(field_name)
    if field.stored:
        state.store.drop_column(sobject, field)


def retype_field(state: OrgState, name: str, field_name: str, changes: dict[str, Any]) -> None:
    """Give a field another type, length or precision; values that do not fit the new one become null."""
    sobject = state.schema.objects[name]
    before = sobject.fields[field_name]
    # What a recorded describe says of sorting and the like holds for the old type only.
    flags = dict.fromkeys(("filterable", "sortable", "groupable")) if before.recorded else {}
    recorded = {key: value for key, value in before.recorded.items() if key in _OF_ANY_TYPE}
    after = replace(before, **{**flags, "recorded": recorded, **changes})
    sobject.fields[field_name] = after
    if not before.stored:
        state.formulas.register_field(sobject, after)
        return
    rows = state.store.execute(f"SELECT Id, {quote(field_name)} FROM {quote(name)}").fetchall()
    with state.store.transaction():
        state.store.drop_column(sobject, before)
        state.store.add_column(sobject, after)
        for record_id, stored in rows:
            state.store.update(sobject, record_id, {field_name: _converted(before, after, stored)})


def _converted(before: Field, after: Field, stored: values.Stored) -> values.Stored:
    value = values.decode(before, stored)
    if isinstance(value, Decimal) and after.type not in DECIMAL_TYPES:
        value = f"{value:f}"
    elif before.type == "datetime" and stored is not None and after.type == "date":
        value = value.date()
    elif before.type == "datetime" and stored is not None:
        value = values.moment_text(int(stored))
    try:
        return values.encode(after, value)
    except ValueError:
        return None


def change_formula(state: OrgState, name: str, field_name: str, change: Callable[..., Any] | Any) -> None:
    sobject = state.schema.objects[name]
    sobject.fields[field_name] = formulas.changed(sobject.fields[field_name], change)
    state.formulas.register_field(sobject, sobject.fields[field_name])


def show(sobject: SObject, field_name: str, visible: bool) -> None:
    if field_name not in sobject.fields:
        raise KeyError(f"{sobject.name} has no field {field_name}")
    (sobject.hidden_fields.discard if visible else sobject.hidden_fields.add)(field_name)
