"""Records written by REST: created, changed and deleted, with the refusals that a client meets.

Recorded: the shapes of the answers, and the codes of what is missing, unknown, read-only or malformed.
Believed: the wording of some messages, and which refusal wins where several would do.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import msgspec

from sync.simulator import ids, rows, values
from sync.simulator.fields import DECIMAL_TYPES, ID_TYPES, TEXT_TYPES, Field
from sync.simulator.objects.schema import OWN, SObject
from sync.simulator.org import Org
from sync.simulator.wire import Answer, Call, Refusal, json_answer, not_found, refuse

_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)
_FLAGS = {"true": True, "false": False}
_READ_ONLY = (
    "Unable to create/update fields: {}. Please check the security settings of this field and verify that it "
    "is read/write for your profile or permission set."
)


class Writes:
    """One method per kind of write; each takes the call and gives the answer, or raises Refusal."""

    def __init__(self, org: Org) -> None:
        self._org = org

    def create(self, call: Call) -> Answer:
        with self._org.lock:
            sobject = self._writable(call)
            record = self._checked(sobject, call, creating=True)
            missing = [
                name for name in _required(self._org, sobject, record) if record.get(name) in (None, "")
            ]
            if missing:
                listed = f"Required fields are missing: [{', '.join(missing)}]"
                raise refuse(400, "REQUIRED_FIELD_MISSING", listed, missing)
            try:
                record_id = self._org.create(sobject.name, record)
            except ValueError as problem:
                raise refuse(400, "INVALID_FIELD", str(problem)) from None
            answer = json_answer({"id": record_id, "success": True, "errors": []}, 201)
            address = f"/services/data/v{call.version}/sobjects/{sobject.name}/{record_id}"
            answer.headers.append(("Location", address))
            return answer

    def update(self, call: Call) -> Answer:
        with self._org.lock:
            sobject = self._writable(call)
            record_id = self._live(sobject, call)
            changes = self._checked(sobject, call, creating=False)
            _refuse_empty([name for name in changes if not sobject.fields[name].nillable], changes)
            with _refusing():
                self._org.update(record_id, changes)
            return Answer(204)

    def delete(self, call: Call) -> Answer:
        with self._org.lock:
            self._org.delete(self._live(self._writable(call), call))
            return Answer(204)

    def _writable(self, call: Call) -> SObject:
        """The object, if the integration user may write its records: users and setup objects it may not."""
        sobject = self._org.schema.visible_object(call.groups["sobject"])
        if sobject is None:
            raise Refusal(not_found())
        if sobject.name in OWN and not sobject.recyclable:
            raise refuse(
                400,
                "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY",
                f"entity type cannot be written: {sobject.label}",
            )
        return sobject

    def _live(self, sobject: SObject, call: Call) -> str:
        """The Id of the record the call names; refused as malformed, unknown or deleted."""
        given = call.groups["id"]
        record_id = ids.normalize(given)
        if record_id is None or not record_id.startswith(sobject.key_prefix):
            message = f"{sobject.label} ID: id value of incorrect type: {given}"
            raise refuse(400, "MALFORMED_ID", message, ["Id"])
        if not self._org.exists(record_id):
            raise Refusal(not_found())
        if not self._org.exists(record_id, deleted=False):
            raise refuse(404, "ENTITY_IS_DELETED", "entity is deleted", [])
        return record_id

    def _checked(self, sobject: SObject, call: Call, creating: bool) -> dict[str, Any]:
        """The values of the body by the fields' own names; raises Refusal for what cannot be written."""
        try:
            given = _DECODER.decode(call.body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
            raise refuse(400, "JSON_PARSER_ERROR", f"The HTTP entity body is no record: {problem}") from None
        given.pop("attributes", None)
        record: dict[str, Any] = {}
        for name, value in given.items():
            field = self._org.schema.visible_field(sobject, name)
            if field is None:
                message = f"No such column '{name}' on sobject of type {sobject.name}"
                raise refuse(400, "INVALID_FIELD", message)
            if field.name == "Id":
                message = "The Id field should not be specified in the sobject data."
                raise refuse(400, "INVALID_FIELD", message)
            text = field.type == "boolean" and isinstance(value, str)
            record[field.name] = _FLAGS.get(value, value) if text else value
        described = {name: sobject.fields[name].describe() for name in record}
        flag = "createable" if creating else "updateable"
        closed = [name for name in record if not described[name][flag]]
        if closed:
            message = _READ_ONLY.format(", ".join(closed))
            raise refuse(400, "INVALID_FIELD_FOR_INSERT_UPDATE", message, closed)
        for name, value in record.items():
            self._check_value(sobject.fields[name], value)
        return record

    def _check_value(self, field: Field, value: Any) -> None:
        if value is None:
            return
        name, label = field.name, str(field.describe()["label"])
        if (kind := _mismatch(field, value)) is not None:
            raise refuse(400, "JSON_PARSER_ERROR", f"Cannot deserialize instance of {kind} from {value!r}")
        try:
            values.encode(field, value)
        except ValueError as problem:
            code, message = _refusal(field, label, value, problem)
            raise refuse(400, code, message, [name]) from None
        if field.type == "email" and "@" not in str(value) and value != "":
            message = f"{label}: invalid email address: {value}"
            raise refuse(400, "INVALID_EMAIL_ADDRESS", message, [name])
        if field.restricted and value not in ("", *field.values):
            message = f"{label}: bad value for restricted picklist field: {value}"
            raise refuse(400, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", message, [name])
        if field.type == "reference" and value:
            self._check_reference(field, str(value))

    def _check_reference(self, field: Field, value: str) -> None:
        record_id = str(ids.normalize(value))
        target = self._org.schema.object_of_id(record_id)
        if target is None or target.name not in field.reference_to or not self._org.exists(record_id):
            raise refuse(400, "INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id", [field.name])
        if not self._org.exists(record_id, deleted=False):
            raise refuse(400, "ENTITY_IS_DELETED", "entity is deleted", [field.name])


@contextmanager
def _refusing() -> Iterator[None]:
    """Answer what the org itself refuses to write."""
    try:
        yield
    except ValueError as problem:
        raise refuse(400, "INVALID_FIELD", str(problem)) from None


def _refuse_empty(names: Iterable[str], record: Mapping[str, Any]) -> None:
    missing = [name for name in names if record.get(name) in (None, "")]
    if missing:
        listed = f"Required fields are missing: [{', '.join(missing)}]"
        raise refuse(400, "REQUIRED_FIELD_MISSING", listed, missing)


def _required(org: Org, sobject: SObject, record: Mapping[str, Any]) -> list[str]:
    """The fields that a new record must be given."""
    person = org.options.person_accounts and rows.is_person(sobject, record)
    return [
        field.name
        for field in org.schema.visible_fields(sobject)
        if not (field.nillable or field.defaulted or field.auto_number or (person and field.name == "Name"))
        and field.stored
        and field.describe()["createable"]
        and field.type != "boolean"
    ]


def _mismatch(field: Field, value: Any) -> str | None:
    """The type that a field needs where JSON holds another one."""
    if field.type == "boolean":
        return None if isinstance(value, bool) else "boolean"
    if isinstance(value, dict | list):
        return field.type
    if field.type in DECIMAL_TYPES or field.type == "int":
        return field.type if isinstance(value, bool) else None
    return None if isinstance(value, str) or field.type in TEXT_TYPES else field.type


def _refusal(field: Field, label: str, value: Any, problem: ValueError) -> tuple[str, str]:
    if field.type in ID_TYPES:
        return "MALFORMED_ID", f"{label}: id value of incorrect type: {value}"
    if field.type in TEXT_TYPES:
        size = f"(max length={field.length})"
        return "STRING_TOO_LONG", f"{label}: data value too large: {str(value)[:100]} {size}"
    if "outside" in str(problem):
        return (
            "NUMBER_OUTSIDE_VALID_RANGE",
            f"{label}: value outside of valid range on numeric field: {value}",
        )
    return "JSON_PARSER_ERROR", f"Cannot deserialize instance of {field.type} from {value!r}"
