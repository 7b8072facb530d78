"""The marked records: made, changed and deleted by REST, and all removed at the end."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.acceptance.client import Client, ok

# What begins the name of every record of every run; without wildcards of LIKE.
PREFIX = "zz-sync-acceptance-"
# A duplicate rule that only warns must not refuse a record.
HEADERS = {"Sforce-Duplicate-Rule-Header": "allowSave=true"}
NAMES = {"Account": "Name", "Contact": "LastName"}
TRICKY = "Zażółć \"gęślą\" 'jaźń'\nsecond line, 4 bytes: \U0001f469"


class Marked:
    """The records of one run; `more` holds values that the org requires, by object."""

    def __init__(self, client: Client, at: datetime, more: Mapping[str, Mapping[str, str]]) -> None:
        self.client, self.more = client, more
        self.marker = f"{PREFIX}{at:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    def name(self, text: str) -> str:
        """The name of a record of this run."""
        return f"{self.marker} {text}"

    def create(self, sobject: str, name: str, **values: Any) -> str:
        """Create a marked record; return its Id."""
        record = {**self.more.get(sobject, {}), NAMES[sobject]: self.name(name), **values}
        made = ok(self.client.call("POST", f"sobjects/{sobject}/", json=record, headers=HEADERS), 201)
        return str(made["id"])

    def update(self, sobject: str, record_id: str, **values: Any) -> None:
        """Change a record."""
        ok(self.client.call("PATCH", f"sobjects/{sobject}/{record_id}", json=values, headers=HEADERS), 204)

    def delete(self, sobject: str, record_id: str) -> None:
        """Move a record to the recycle bin; one that is not there is no error."""
        ok(self.client.call("DELETE", f"sobjects/{sobject}/{record_id}"), 204, 404)

    def read(self, sobject: str, record_id: str, *names: str) -> dict[str, Any]:
        """Some fields of a record, also of a deleted one."""
        [record] = self.client.records(f"SELECT {', '.join(names)} FROM {sobject} WHERE Id = '{record_id}'")
        return record


def kept(text: object) -> str:
    """How TRICKY came back: "" as it was, else what became of it."""
    if text == TRICKY:
        return ""
    same = isinstance(text, str) and text.replace("\r\n", "\n") == TRICKY
    return "the line ends with CRLF" if same else "changed"


def remaining(client: Client, beginning: str) -> list[tuple[str, str]]:
    """Object and Id of the live records whose names begin so, contacts before their accounts."""
    return [
        (sobject, str(record["Id"]))
        for sobject in ("Contact", "Account")
        for record in ok(
            client.get("query", q=f"SELECT Id FROM {sobject} WHERE {NAMES[sobject]} LIKE '{beginning}%'")
        )["records"]
    ]


def remove(client: Client, beginning: str) -> int:
    """Delete the records whose names begin so; return how many; raise UnexpectedAnswerError for what stays."""
    found = remaining(client, beginning)
    for sobject, record_id in found:
        ok(client.call("DELETE", f"sobjects/{sobject}/{record_id}"), 204, 404)
    return len(found)
