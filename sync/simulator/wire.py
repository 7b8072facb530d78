"""What crosses the wire: a call as it came in, an answer as it goes out, and the org's error bodies."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

JSON = "application/json;charset=UTF-8"
CSV = "text/csv; charset=UTF-8"
HTML = "text/html;charset=UTF-8"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


@dataclass
class Request:
    """One line of the request log."""

    method: str
    path: str
    kind: str
    sobject: str | None = None
    soql: str | None = None
    job: str | None = None  # the Id of the Bulk job it is about
    status: int = 0  # 0: not answered (yet)
    counted: bool = False  # counts against the org's daily API calls
    at: datetime | None = None
    fault: str | None = None  # the fault that shaped the answer
    inside: bool = False  # a subrequest of the last call of kind composite before it


@dataclass
class Call:
    """A request while it is being answered; header names are lower case, ``params`` the query string's."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes
    log: Request
    groups: dict[str, str] = field(default_factory=dict)  # what the route's pattern captured
    session: str = ""

    @property
    def host(self) -> str:
        return self.headers.get("host", "").rsplit(":", 1)[0]

    @property
    def version(self) -> str:
        return self.groups["version"]


@dataclass
class Answer:
    """A response: JSON unless the media type says otherwise."""

    status: int
    body: bytes = b""
    media_type: str = JSON
    headers: list[tuple[str, str]] = field(default_factory=list)
    stream: Iterator[bytes] | None = None  # the body in pieces, made while it is sent


class Refusal(Exception):
    """An answer that cuts a handler short."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(status, _ENCODER.encode(value))


def error(status: int, code: str, message: str, fields: list[str] | None = None) -> Answer:
    """The data API's error body: a list with one object."""
    body: dict[str, Any] = {"message": message, "errorCode": code}
    if fields is not None:
        body["fields"] = fields
    return json_answer([body], status)


def refuse(status: int, code: str, message: str, fields: list[str] | None = None) -> Refusal:
    return Refusal(error(status, code, message, fields))


def html(status: int, title: str, text: str = "") -> Answer:
    """A page from the edge or a load balancer, with nothing of the API about it."""
    head = f"<!DOCTYPE html><html><head><title>{title}</title></head>"
    page = f"{head}<body><h1>{title}</h1><p>{text}</p></body></html>"
    return Answer(status, page.encode(), HTML)


def uri_too_long() -> Answer:
    return Answer(414, b"<h1>Bad Message 414</h1><pre>reason: URI Too Long</pre>", HTML)


def not_found() -> Answer:
    return error(404, "NOT_FOUND", "The requested resource does not exist")


def pretty(body: bytes) -> bytes:
    """JSON as ``X-PrettyPrint: 1`` gives it: two spaces, and a space on both sides of the colon."""
    formatted: bytes = msgspec.json.format(body, indent=2)
    # A quote and colon end a key, unless the quote is escaped; JSON never holds a bare NUL to get in the way.
    inside = formatted.replace(b'\\": ', b'\\"\0')
    return inside.replace(b'": ', b'" : ').replace(b'\\"\0', b'\\": ')
