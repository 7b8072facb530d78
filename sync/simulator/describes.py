"""Objects from describe answers: the JSON of ``sobjects/X/describe``, or the part of it that was saved."""

import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from sync.simulator.fields import COMPOUND_TYPES, DECIMAL_TYPES, EMPTY_TYPES, TYPES, Field, Formula
from sync.simulator.generate.plausible import plausible
from sync.simulator.objects.schema import OWN, SObject

# The product saves the describes of its objects there. They are read as data; no module of it is imported.
FOLDER = Path(__file__).resolve().parents[1] / "catalogue" / "objects"
_LENGTHS = {"id": 18, "reference": 18, "phone": 40, "email": 80, "multipicklist": 4099, "textarea": 32_768}
_SYSTEM = ("Id", "IsDeleted", "CreatedDate", "CreatedById", "LastModifiedDate", "LastModifiedById")
_SYSTEM_FIELDS = frozenset({*_SYSTEM, "SystemModstamp"})
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_PREFIX = re.compile(r"[0-9A-Za-z]{3}")
_MOST_DIGITS = 18  # of a number, before and behind the point
_NOT_KEPT = frozenset({"fields", "childRelationships", "recordTypeInfos", "supportedScopes", "urls"})


class DescribeError(ValueError):
    """A describe that cannot be served; the message names the file, the key and what is expected there."""


class _Choice(msgspec.Struct, rename="camel"):
    value: str
    active: bool = True
    default_value: bool = False


class _Field(msgspec.Struct, rename="camel"):
    name: str
    type: str
    label: str | None = None
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    digits: int | None = None
    nillable: bool | None = None
    createable: bool | None = None
    updateable: bool | None = None
    filterable: bool | None = None
    sortable: bool | None = None
    groupable: bool | None = None
    permissionable: bool | None = None
    defaulted_on_create: bool | None = None
    name_field: bool | None = None
    calculated: bool = False
    calculated_formula: str | None = None
    auto_number: bool = False
    external_id: bool = False
    unique: bool = False
    cascade_delete: bool = False
    restricted_picklist: bool = False
    compound_field_name: str | None = None
    relationship_name: str | msgspec.UnsetType | None = msgspec.UNSET
    reference_to: list[str] = []
    picklist_values: list[_Choice] = []


class _Child(msgspec.Struct, rename="camel"):
    childSObject: str
    field: str
    cascade_delete: bool = False


class _Describe(msgspec.Struct, rename="camel"):
    name: str
    fields: list[_Field]
    label_plural: str | None = None
    key_prefix: str | None = None
    replicateable: bool = True
    queryable: bool = True
    mergeable: bool | None = None
    child_relationships: list[_Child] = []


def load_describes(
    given: Iterable[Path | str | Mapping[str, Any]] = (), folder: Path | None = None
) -> list[SObject]:
    """The objects of the describes given, then those of the JSON files in ``folder`` that are not known yet.

    Without a folder it is the catalogue's, which may be absent.
    Raises DescribeError for a describe that cannot be served, and for a given one of an object that is
    there already.
    """
    found: dict[str, SObject] = {}
    for source in given:
        sobject = read_describe(source)
        if sobject.name in found or sobject.name in OWN:
            raise DescribeError(
                f"{_label(source)}: name: the org has an object {sobject.name} already; "
                "expected another object"
            )
        _keep(found, sobject, _label(source))
    for path in sorted((folder or FOLDER).glob("*.json")):
        sobject = read_describe(path)
        if sobject.name not in found and sobject.name not in OWN:
            _keep(found, sobject, str(path))
    return list(found.values())


def _keep(found: dict[str, SObject], sobject: SObject, label: str) -> None:
    prefixes = {each.key_prefix: each.name for each in found.values()}
    prefixes |= {prefix: name for name, (_, prefix, _, _) in OWN.items()}
    if sobject.key_prefix and sobject.key_prefix in prefixes:
        other = prefixes[sobject.key_prefix]
        raise DescribeError(f"{label}: keyPrefix: {sobject.key_prefix} is that of {other}; expected another")
    found[sobject.name] = sobject


def read_describe(source: Path | str | Mapping[str, Any]) -> SObject:
    """The object that a describe (a JSON file, or its decoded body) tells of; raises DescribeError."""
    label = _label(source)
    raw = dict(source) if isinstance(source, Mapping) else _decoded(Path(source), label)
    try:
        body = msgspec.convert(raw, _Describe)
    except msgspec.ValidationError as problem:
        raise DescribeError(f"{label}: {problem}; expected the body of sobjects/X/describe") from None
    _check(label, body)
    fields = {
        each.name: _field(body.name, each, entry)
        for each, entry in zip(body.fields, raw["fields"], strict=True)
    }
    kept = {name: value for name, value in raw.items() if name not in _NOT_KEPT}
    if body.key_prefix is None:
        kept.pop("keyPrefix", None)
    return SObject(
        body.name,
        body.label_plural or f"{body.name}s",
        body.key_prefix or "",
        replicateable=body.replicateable,
        queryable=body.queryable,
        mergeable="MasterRecordId" in fields if body.mergeable is None else body.mergeable,
        cascades=frozenset(
            f"{each.childSObject}.{each.field}" for each in body.child_relationships if each.cascade_delete
        ),
        fields=fields,
        recorded=kept,
    )


def _label(source: Path | str | Mapping[str, Any]) -> str:
    return "the describe" if isinstance(source, Mapping) else str(source)


def _decoded(path: Path, label: str) -> dict[str, Any]:
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except OSError as problem:
        raise DescribeError(f"{label}: cannot be read: {problem.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise DescribeError(
            f"{label}: not JSON ({problem}); expected the body of sobjects/X/describe"
        ) from None
    if not isinstance(raw, dict):
        raise DescribeError(f"{label}: expected an object with the keys name and fields")
    return raw


def _check(label: str, body: _Describe) -> None:
    """Raise DescribeError for what the types of the keys do not tell."""
    if not _NAME.fullmatch(body.name):
        raise DescribeError(f"{label}: name: {body.name!r}; expected an API name such as Invoice__c")
    if body.key_prefix is not None and not _PREFIX.fullmatch(body.key_prefix):
        raise DescribeError(f"{label}: keyPrefix: {body.key_prefix!r}; expected three letters or digits")
    seen: set[str] = set()
    for at, each in enumerate(body.fields):
        key = f"{label}: fields[{at}]"
        if not _NAME.fullmatch(each.name):
            raise DescribeError(f"{key}.name: {each.name!r}; expected an API name such as Amount__c")
        if each.name.casefold() in seen:
            raise DescribeError(f"{key}.name: {each.name} is there twice; expected each field once")
        if each.type not in TYPES and each.type != "long":
            known = ", ".join(sorted(TYPES | {"long"}))
            raise DescribeError(f"{key}.type: {each.type!r} of {each.name}; expected one of {known}")
        if (each.precision or 0) > _MOST_DIGITS or (each.scale or 0) > _MOST_DIGITS:
            raise DescribeError(f"{key}.precision: of {each.name}; expected at most {_MOST_DIGITS} digits")
        seen.add(each.name.casefold())
    if not any(each.name == "Id" and each.type == "id" for each in body.fields):
        raise DescribeError(f"{label}: fields: expected a field Id of type id")


def _field(sobject: str, given: _Field, raw: Mapping[str, Any]) -> Field:
    kind = "int" if given.type == "long" else given.type
    recorded = {name: value for name, value in raw.items() if name != "calculatedFormula"}
    if given.type == "long":
        recorded.setdefault("soapType", "xsd:long")
    system = given.name in _SYSTEM_FIELDS
    required = system or kind == "boolean"
    fixed = system or given.calculated or given.auto_number or kind in COMPOUND_TYPES | EMPTY_TYPES
    choices = sorted(given.picklist_values, key=lambda choice: not choice.default_value)
    number = kind in DECIMAL_TYPES
    field = Field(
        given.name,
        kind,
        length=given.length or _LENGTHS.get(kind, 0 if number else 255),
        precision=(given.precision or _MOST_DIGITS) if number else given.precision or 0,
        scale=2 if number and given.scale is None else given.scale or 0,
        digits=given.digits or (_MOST_DIGITS if given.type == "long" else 9 if kind == "int" else 0),
        nillable=not required if given.nillable is None else given.nillable,
        createable=not fixed if given.createable is None else given.createable,
        updateable=not fixed if given.updateable is None else given.updateable,
        defaulted=required if given.defaulted_on_create is None else given.defaulted_on_create,
        filterable=given.filterable,
        sortable=given.sortable,
        groupable=given.groupable,
        permissionable=given.permissionable,
        compound=given.compound_field_name,
        relationship=_relationship(given),
        reference_to=tuple(given.reference_to),
        values=tuple(choice.value for choice in choices if choice.active),
        restricted=given.restricted_picklist,
        label=given.label,
        external_id=given.external_id or given.unique,
        name_field=given.name == "Name" if given.name_field is None else given.name_field,
        auto_number=given.auto_number,
        cascade_delete=given.cascade_delete,
        recorded=recorded,
    )
    if not given.calculated:
        return field
    function = _calculation(sobject, field)
    return replace(field, formula=Formula(("Id",), function, given.calculated_formula or ""))


def _relationship(given: _Field) -> str | None:
    """The relationship's name; where the describe leaves it out, Account for AccountId, A__r for A__c."""
    if not isinstance(given.relationship_name, msgspec.UnsetType):
        return given.relationship_name
    if given.type != "reference":
        return None
    if given.name.endswith("__c"):
        return given.name.removesuffix("__c") + "__r"
    return given.name.removesuffix("Id")


def _calculation(sobject: str, field: Field) -> Callable[..., Any]:
    """A formula whose text we cannot run: a value of its type that is always the same for a record."""

    def calculate(record_id: str) -> Any:
        draw = random.Random(f"{sobject}.{field.name} {record_id}")
        return plausible(field, draw, int(draw.random() * 100_000))

    return calculate
