"""The one reader of error bodies: JSON of every form, XML, pages of HTML, plain text, or nothing."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from sync.salesforce.session.decode import decode
from sync.salesforce.session.limits import ERROR_BYTES

CODES = ("errorCode", "exceptionCode", "statusCode", "error")
MESSAGES = ("message", "exceptionMessage", "error_description")
LONGEST_TEXT = 200
# By patterns: a parser of XML would expand what entities a body declares.
XML_CODE = re.compile(r"<(?:\w{1,20}:)?(?:errorCode|exceptionCode|faultcode|error)>([^<]{1,200})<")
XML_MESSAGE = re.compile(
    r"<(?:\w{1,20}:)?(?:message|exceptionMessage|faultstring|error_description)>([^<]{1,5000})<"
)


def first_error(content: Any) -> tuple[str, str]:
    """errorCode and message of an error body, decoded or as it came; "" for what it does not have."""
    if isinstance(content, bytes):
        content = content[:ERROR_BYTES].decode("utf-8", "replace")
    if isinstance(content, str):
        return of_text(content)
    if isinstance(content, list) and content and isinstance(content[0], dict):
        content = content[0]
    if isinstance(content, dict):
        return first_of(content, CODES), first_of(content, MESSAGES)
    return "", " ".join(str(content or "").split())[:LONGEST_TEXT]


def of_text(text: str) -> tuple[str, str]:
    """The same of a body that is not decoded."""
    start = text[:100].lstrip("\ufeff \t\r\n")[:1]
    if start in ("[", "{"):
        try:
            return first_error(without_text(decode(text.lstrip("\ufeff").encode("utf-8", "replace"))))
        except ValueError:
            pass
    if start == "<" and (code := XML_CODE.search(text)):
        message = XML_MESSAGE.search(text)
        return unescape(code[1]).strip(), unescape(message[1]).strip() if message else ""
    return "", " ".join(without_tags(text).split())[:LONGEST_TEXT]


def without_text(content: Any) -> Any:
    """JSON that is a list of texts, or a text, says nothing by itself: it is shown as it came."""
    if isinstance(content, dict) or (isinstance(content, list) and content and isinstance(content[0], dict)):
        return content
    raise ValueError("no error of the API's form")


def first_of(found: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of the values that is there."""
    return str(next((found[name] for name in names if found.get(name)), ""))


def without_tags(page: str) -> str:
    """The text of a page of HTML, in linear time: an error page may be a hundred thousand `<`."""
    first, *others = page.split("<")
    pieces = [first]
    for other in others:
        tag, closed, text = other.partition(">")
        pieces.append(text if closed else tag)
    return " ".join(pieces)
