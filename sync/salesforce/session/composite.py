"""Composite: several requests in one call, each with an answer of its own.

Up to 25 requests of which five are queries count as one API call; they are answered one after the other, in
their order. An answer inside carries no Date.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import msgspec

from sync.salesforce.session.bodies import convert_page, decode, decode_records

MOST_QUERIES = 5  # in one call


@dataclass(frozen=True, slots=True)
class Part:
    """One request inside a call: the path, the parameters and the headers of a GET."""

    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartAnswer:
    """The answer to one request inside a call; its body as it was received, or decoded where the whole answer
    had to be."""

    status: int
    raw: bytes | None
    decoded: Any = None

    @property
    def body(self) -> Any:
        """The decoded body; ValueError if it is not JSON."""
        return self.decoded if self.raw is None else decode(self.raw)

    def page(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Return the body as a page of records of these fields; raise ValueError if it is none."""
        return convert_page(self.decoded, names) if self.raw is None else decode_records(self.raw, names)


@dataclass(frozen=True, slots=True)
class Together:
    """The answers in the order of the requests, a time before the first of them, and the session's
    generation."""

    answers: tuple[PartAnswer, ...]
    at: datetime
    generation: int


class Inside(msgspec.Struct):
    """An answer inside the body."""

    body: msgspec.Raw
    httpStatusCode: int
    referenceId: str


class Body(msgspec.Struct):
    """The body of a Composite answer."""

    compositeResponse: list[Inside]


DECODER = msgspec.json.Decoder(Body)


def request(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the body of a Composite request."""
    return {
        "allOrNone": False,
        "collateSubrequests": False,
        "compositeRequest": [
            {
                "method": "GET",
                "url": f"{part.path}?{urlencode(part.params)}",
                "referenceId": f"r{number}",
                **({"httpHeaders": dict(part.headers)} if part.headers else {}),
            }
            for number, part in enumerate(parts)
        ],
    }


def answers(body: bytes, count: int) -> tuple[PartAnswer, ...]:
    """Return the answers in a body, in the order of the `count` requests.

    Raises ValueError if the body is no such answer, or an answer is missing: the requests are then sent
    alone.
    """
    try:
        found = {
            each.referenceId: PartAnswer(each.httpStatusCode, bytes(each.body))
            for each in DECODER.decode(body).compositeResponse
        }
    except (RecursionError, msgspec.DecodeError):
        found = decode_whole(body)
    missing = [number for number in range(count) if f"r{number}" not in found]
    if missing:
        raise ValueError(f"{len(missing)} of {count} requests have no answer")
    return tuple(found[f"r{number}"] for number in range(count))


def decode_whole(body: bytes) -> dict[str, PartAnswer]:
    """Return the answers by reference where msgspec refuses the body, as for a lone surrogate."""
    whole = decode(body)
    listed = whole.get("compositeResponse") if isinstance(whole, dict) else None
    if not isinstance(listed, list):
        raise ValueError("not a Composite answer")
    found = {}
    for each in listed:
        if not isinstance(each, dict) or type(each.get("httpStatusCode")) is not int:
            raise ValueError("not an answer of a Composite call")
        found[str(each.get("referenceId"))] = PartAnswer(each["httpStatusCode"], None, each.get("body"))
    return found


def replication_window(start: datetime, end: datetime) -> dict[str, str]:
    """Return the parameters of getUpdated and getDeleted for a window in UTC."""
    return {"start": f"{start:%Y-%m-%dT%H:%M:%S+00:00}", "end": f"{end:%Y-%m-%dT%H:%M:%S+00:00}"}
