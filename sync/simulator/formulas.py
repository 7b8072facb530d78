"""Calculated fields: Python functions behind SQL, so that queries filter, sort and group on them too."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from sync.simulator import values
from sync.simulator.fields import DECIMAL_TYPES, Field, Formula
from sync.simulator.objects.schema import Schema, SObject
from sync.simulator.store import Store


class Formulas:
    """Registers each calculated field as an SQL function that always runs the field's present formula."""

    def __init__(self, schema: Schema, store: Store) -> None:
        self._schema = schema
        self._store = store

    def register(self, sobject: SObject) -> None:
        for field in sobject.fields.values():
            if field.formula is not None:
                self.register_field(sobject, field)

    def register_field(self, sobject: SObject, field: Field) -> None:
        formula = field.formula
        if formula is None:
            raise ValueError(f"{sobject.name}.{field.name} is no formula")
        try:
            inputs = [self.field_at(sobject, path) for path in formula.inputs]
        except (KeyError, StopIteration):
            return  # an input was removed; a real org forbids that, here queries of the formula fail

        def calculate(*stored: Any) -> Any:
            arguments = (values.decode(input_, value) for input_, value in zip(inputs, stored, strict=True))
            try:
                return values.encode(field, formula.function(*arguments))
            except (ArithmeticError, TypeError, ValueError):  # where Salesforce would say #Error!
                return None

        self._store.function(function_name(sobject, field), len(inputs), calculate)

    def field_at(self, sobject: SObject, path: str) -> Field:
        """The field at the end of a path such as ``Account.Name``, ignoring visibility; raises KeyError."""
        *relationships, name = path.split(".")
        for relationship in relationships:
            via = next(each for each in sobject.fields.values() if each.relationship == relationship)
            target = self._schema.target(via)
            if target is None:
                raise KeyError(relationship)
            sobject = target
        return sobject.fields[name]


def function_name(sobject: SObject, field: Field) -> str:
    return f"formula_{sobject.name}_{field.name}".lower()


def changed(field: Field, change: Callable[..., Any] | Any) -> Field:
    """A calculated field with another formula: a new function, or an offset added to what it gave before.

    A number is added to numbers and days to dates; with text fields the offset is appended.
    """
    formula = field.formula
    if formula is None:
        raise ValueError(f"{field.name} is no formula")
    if callable(change):
        return replace(field, formula=Formula(formula.inputs, change, formula.text))
    before = formula.function
    if field.type in DECIMAL_TYPES:
        change = Decimal(str(change))

    def shifted(*arguments: Any) -> Any:
        value = before(*arguments)
        return None if value is None else value + change

    return replace(field, formula=Formula(formula.inputs, shifted, f"{formula.text} + {change}"))
