"""Decode the bodies of answers: records and objects from JSON, and all error bodies."""

from __future__ import annotations

import json
import re
import threading
from decimal import Decimal
from functools import lru_cache
from html import unescape
from typing import Any

import msgspec
from msgspec.structs import astuple

from sync.salesforce.session.limits import ERROR_BYTES, OBJECTS_PER_ANSWER, RECORDS_PER_PAGE, count

BODY = msgspec.json.Decoder(float_hook=Decimal)
COUNTED = threading.local()


def decode(body: bytes) -> Any:
    """Decode JSON and keep every digit of numbers; raise ValueError for invalid JSON."""
    try:
        return BODY.decode(body)
    except RecursionError:
        raise depth_error() from None
    except msgspec.DecodeError:
        # msgspec refuses a lone surrogate, which is valid JSON: the page is kept, the record is checked
        # later.
        return decode_any(body)


def decode_any(body: bytes) -> Any:
    """Decode JSON with Python's decoder; raise ValueError if it is invalid or has too many objects."""
    seen = 0

    def note(found: dict[str, Any]) -> dict[str, Any]:
        nonlocal seen
        seen += 1
        if seen > OBJECTS_PER_ANSWER:
            raise ValueError(f"more than {OBJECTS_PER_ANSWER:,} objects in one answer")
        return found

    try:
        return json.loads(body, parse_float=Decimal, parse_constant=refuse_constant, object_hook=note)
    except RecursionError:
        raise depth_error() from None


def depth_error() -> ValueError:
    """Return the error for too deep nesting."""
    return ValueError("JSON that is nested more deeply than any answer of Salesforce")


def decode_records(body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """Decode a query's answer, with each record as a tuple of these fields' values (missing: None)."""
    COUNTED.left = RECORDS_PER_PAGE
    try:
        page = page_decoder(names).decode(body)
    except RecursionError:
        raise depth_error() from None
    except msgspec.DecodeError:
        return convert_page(decode(body), names)
    records = list(map(astuple, page.records))
    return {
        "records": records,
        "totalSize": count(page.totalSize),
        "done": page.done,
        "nextRecordsUrl": page.nextRecordsUrl,
    }


def convert_page(page: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Convert a generically decoded page; raise ValueError if it is not a page of records."""
    if not isinstance(page, dict) or not isinstance(page.get("nextRecordsUrl"), str | None):
        raise ValueError("not a page of records")
    records = page.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("not a page of records")
    if len(records) > RECORDS_PER_PAGE:
        raise too_many_records()
    total = count(page.get("totalSize"))
    return page | {
        "records": [tuple(record.get(name) for name in names) for record in records],
        "totalSize": total,
    }


@lru_cache(maxsize=16)
def page_decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Return a decoder of these fields only: a dictionary for each record takes twice the memory."""
    record = msgspec.defstruct(
        "Record", [(name, Any, None) for name in names], gc=False, namespace={"__post_init__": count_record}
    )
    page = msgspec.defstruct(
        "Page",
        [
            ("records", list[record]),  # type: ignore[valid-type]  # built at run time
            ("totalSize", int),
            ("done", bool),
            ("nextRecordsUrl", str | None, None),
        ],
    )
    return msgspec.json.Decoder(page, float_hook=Decimal)


def count_record(_: object) -> None:
    """Count a decoded record; raise ValueError above the limit, before more memory is used."""
    COUNTED.left -= 1
    if COUNTED.left < 0:
        raise too_many_records()


def too_many_records() -> ValueError:
    """Return the error for too many records."""
    return ValueError(f"a page of more than {RECORDS_PER_PAGE:,} records")


def refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(f"{name} is not JSON")


CODES = ("errorCode", "exceptionCode", "statusCode", "error")
MESSAGES = ("message", "exceptionMessage", "error_description")
LONGEST_TEXT = 200
# Patterns instead of an XML parser, which would expand entities that a body declares.
XML_CODE = re.compile(r"<(?:\w{1,20}:)?(?:errorCode|exceptionCode|faultcode|error)>([^<]{1,200})<")
XML_MESSAGE = re.compile(
    r"<(?:\w{1,20}:)?(?:message|exceptionMessage|faultstring|error_description)>([^<]{1,5000})<"
)


def first_error(content: Any) -> tuple[str, str]:
    """Return errorCode and message of an error body, decoded or raw; "" for what is missing."""
    if isinstance(content, bytes):
        content = content[:ERROR_BYTES].decode("utf-8", "replace")
    if isinstance(content, str):
        return error_in_text(content)
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = content[0]
    if isinstance(content, dict):
        return first_value(content, CODES), first_value(content, MESSAGES)
    return "", " ".join(str(content or "").split())[:LONGEST_TEXT]


def error_in_text(text: str) -> tuple[str, str]:
    """Return errorCode and message of a raw error body."""
    start = text[:100].lstrip("\ufeff \t\r\n")[:1]
    if start in ("[", "{"):
        try:
            return first_error(structured_error(decode(text.lstrip("\ufeff").encode("utf-8", "replace"))))
        except ValueError:
            pass
    if start == "<" and (code := XML_CODE.search(text)):
        message = XML_MESSAGE.search(text)
        return unescape(code[1]).strip(), unescape(message[1]).strip() if message else ""
    return "", " ".join(strip_tags(text).split())[:LONGEST_TEXT]


def structured_error(content: Any) -> Any:
    """Return the content if it is an object or a list of objects; raise ValueError for plain texts."""
    if isinstance(content, dict) or (isinstance(content, list) and content and isinstance(content[0], dict)):
        return content
    raise ValueError("not an error of the API")


def first_value(found: dict[str, Any], names: tuple[str, ...]) -> str:
    """Return the first value that is present."""
    return str(next((found[name] for name in names if found.get(name)), ""))


def strip_tags(page: str) -> str:
    """Return the text of an HTML page, in linear time: an error page may consist of a hundred thousand
    `<`."""
    first, *others = page.split("<")
    pieces = [first]
    for other in others:
        tag, closed, text = other.partition(">")
        pieces.append(text if closed else tag)
    return " ".join(pieces)
