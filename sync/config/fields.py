"""Settings that name objects and fields, checked by form only: `cli` checks the names against the
catalogue."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode

from sync.config.values import SOURCES, bad_value

NAME = re.compile(r"([A-Za-z][A-Za-z0-9_]*\.)?[A-Za-z][A-Za-z0-9_]*")


class Selection(BaseSettings):
    """The objects to replicate (empty: all), and the fields to reread or to leave out."""

    model_config = SOURCES

    sync_objects: Annotated[tuple[str, ...], NoDecode] = ()
    sync_volatile_fields: Annotated[frozenset[str], NoDecode] = frozenset()
    sync_excluded_fields: Annotated[frozenset[str], NoDecode] = frozenset()

    @field_validator("sync_objects", mode="before")
    @classmethod
    def _objects(cls, value: Any) -> Any:
        return object_names(value) if isinstance(value, str) else value

    @field_validator("sync_volatile_fields", "sync_excluded_fields", mode="before")
    @classmethod
    def _fields(cls, value: Any) -> Any:
        return field_names(value) if isinstance(value, str) else value


def object_names(text: str) -> tuple[str, ...]:
    """Split a comma-separated list of object names; refuse an empty list and a repeated name."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names or len(set(names)) < len(names):
        raise bad_value("name each object once, separated by commas")
    return names


def field_names(text: str) -> frozenset[str]:
    """Split a list of field names: `Object.Field` for one object, `Field` for every object that has it.

    The word `none` gives no name.
    """
    if text.strip().lower() == "none":
        return frozenset()
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if invalid := sorted(name for name in names if not NAME.fullmatch(name)):
        raise bad_value(
            f"{', '.join(invalid)} is not the API name of a field: write for example Score__c,PhotoUrl"
        )
    return names


def fields_of_object(names: frozenset[str], sobject: str) -> frozenset[str]:
    """Return the field names that apply to an object, without the object's name before them."""
    return frozenset(
        name.removeprefix(f"{sobject}.")
        for name in names
        if "." not in name or name.startswith(f"{sobject}.")
    )
