"""JSON with every digit of every number, and pages of records as tuples; what is out of bounds is refused."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import astuple

from sync.salesforce.session.limits import OBJECTS_PER_ANSWER, RECORDS_PER_PAGE, count

BODY = msgspec.json.Decoder(float_hook=Decimal)
COUNTED = threading.local()


def decode(body: bytes) -> Any:
    """JSON with every digit of every number; ValueError where it is none."""
    try:
        return BODY.decode(body)
    except RecursionError:
        raise too_deep() from None
    except msgspec.DecodeError:
        # A lone surrogate is legal JSON that msgspec refuses: the record is judged later, the page is kept.
        return decode_any(body)


def decode_any(body: bytes) -> Any:
    """JSON by Python's own decoder; ValueError where it is none, or has more objects than any answer."""
    seen = 0

    def note(found: dict[str, Any]) -> dict[str, Any]:
        nonlocal seen
        seen += 1
        if seen > OBJECTS_PER_ANSWER:
            raise ValueError(f"more than {OBJECTS_PER_ANSWER:,} objects in one answer")
        return found

    try:
        return json.loads(body, parse_float=Decimal, parse_constant=no_number, object_hook=note)
    except RecursionError:
        raise too_deep() from None


def too_deep() -> ValueError:
    return ValueError("JSON that is nested too deeply for any answer of Salesforce's")


def decode_records(body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """A query's answer, its records as tuples of the values of these fields, null where one is not there."""
    COUNTED.left = RECORDS_PER_PAGE
    try:
        page = page_decoder(names).decode(body)
    except RecursionError:
        raise too_deep() from None
    except msgspec.DecodeError:
        return generic_page(decode(body), names)
    records = list(map(astuple, page.records))
    return {
        "records": records,
        "totalSize": count(page.totalSize),
        "done": page.done,
        "nextRecordsUrl": page.nextRecordsUrl,
    }


def generic_page(page: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The same of JSON that is some other way; ValueError where it is no page of records."""
    if not isinstance(page, dict) or not isinstance(page.get("nextRecordsUrl"), str | None):
        raise ValueError("no page of records")
    records = page.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("no page of records")
    if len(records) > RECORDS_PER_PAGE:
        raise too_many()
    total = count(page.get("totalSize"))
    return page | {
        "records": [tuple(record.get(name) for name in names) for record in records],
        "totalSize": total,
    }


@lru_cache(maxsize=16)
def page_decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Decodes these fields only: a dictionary per record, with its `attributes`, takes twice the room."""
    record = msgspec.defstruct(
        "Record", [(name, Any, None) for name in names], gc=False, namespace={"__post_init__": counted}
    )
    page = msgspec.defstruct(
        "Page",
        [
            ("records", list[record]),  # type: ignore[valid-type]  # made for these names
            ("totalSize", int),
            ("done", bool),
            ("nextRecordsUrl", str | None, None),
        ],
    )
    return msgspec.json.Decoder(page, float_hook=Decimal)


def counted(_: object) -> None:
    """A record has been decoded; ValueError for one too many, before all of them take their room."""
    COUNTED.left -= 1
    if COUNTED.left < 0:
        raise too_many()


def too_many() -> ValueError:
    return ValueError(f"a page of more than {RECORDS_PER_PAGE:,} records")


def no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
