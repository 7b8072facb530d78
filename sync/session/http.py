"""One thread's HTTP: timeouts on every call, exact numbers, private CAs beside the public ones."""

from __future__ import annotations

import io
import json
import ssl
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import certifi
import msgspec
import requests
from msgspec.structs import astuple
from requests.adapters import HTTPAdapter

from sync.errors import SalesforceError

CONNECT_SECONDS, READ_SECONDS = 10, 150  # a query may run two minutes before it answers QUERY_TIMEOUT
CHUNK = 1 << 16  # bytes of a CSV body decoded at once
BODY = msgspec.json.Decoder(float_hook=Decimal)


def decode(body: bytes) -> Any:
    """JSON with every digit of every number; ValueError where it is none."""
    try:
        return BODY.decode(body)
    except msgspec.DecodeError:
        # A lone surrogate is legal JSON that msgspec refuses: the record is judged later, the page is kept.
        return json.loads(body, parse_float=Decimal, parse_constant=no_number)


def decode_records(body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """A query's answer, its records as tuples of the values of these fields, null where one is not there."""
    try:
        page = page_decoder(names).decode(body)
    except msgspec.DecodeError:
        return generic_page(decode(body), names)
    records = list(map(astuple, page.records))
    return {
        "records": records,
        "totalSize": page.totalSize,
        "done": page.done,
        "nextRecordsUrl": page.nextRecordsUrl,
    }


def generic_page(page: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The same of JSON that is some other way; ValueError where it is no page of records."""
    if not isinstance(page, dict) or not isinstance(page.get("totalSize"), int):
        raise ValueError("no page of records")
    records = page.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError("no page of records")
    return page | {"records": [tuple(record.get(name) for name in names) for record in records]}


@lru_cache(maxsize=16)
def page_decoder(names: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """Decodes these fields only: a dictionary per record, with its `attributes`, takes twice the room."""
    record = msgspec.defstruct("Record", [(name, Any, None) for name in names], gc=False)
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


def no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@lru_cache(maxsize=8)
def trusted(ca_bundle: Path | None) -> ssl.SSLContext:
    """The public CAs and the private one; made once, it takes some twenty milliseconds."""
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_bundle is not None and ca_bundle.is_dir():
        context.load_verify_locations(capath=str(ca_bundle))
    elif ca_bundle is not None:
        context.load_verify_locations(cafile=str(ca_bundle))
    return context


class Http(requests.Session):
    """requests, with a timeout on every call, exact numbers, and the bundle's CA beside the public ones."""

    def __init__(self, ca_bundle: Path | None = None) -> None:
        super().__init__()
        self.last: requests.Response | None = None
        # Without an auth of its own requests would take one from ~/.netrc and overwrite ours.
        self.auth = lambda request: request
        self.hooks["response"].append(self._note)
        self.mount("https://", Adapter(ca_bundle))

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs.setdefault("timeout", (CONNECT_SECONDS, READ_SECONDS))
        return super().request(*args, **kwargs)

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        # Proxies come from the environment; whom to trust is the setting's matter, and checked with it.
        return {**super().merge_environment_settings(*args, **kwargs), "verify": True}

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self.last = response


class ExactAnswer(requests.Response):
    """A response whose numbers keep every digit, for whoever asks for its JSON."""

    def json(self, **_: Any) -> Any:
        return decode(self.content)


class Adapter(HTTPAdapter):
    """Exact answers, and REQUESTS_CA_BUNDLE beside the public CAs, which requests would replace."""

    def __init__(self, ca_bundle: Path | None) -> None:
        self.ca_bundle = ca_bundle
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        return super().init_poolmanager(*args, ssl_context=trusted(self.ca_bundle), **kwargs)

    def build_response(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().build_response(*args, **kwargs)
        # requests has no place to name the class; wrapping json() makes a cycle that keeps pages alive.
        response.__class__ = ExactAnswer
        return response


def csv_lines(response: requests.Response) -> TextIO:
    """A CSV body, line by line as it arrives; bytes that are no UTF-8 become what no row can hold.

    ValueError for another body: maintenance pages, proxies.
    """
    if not response.headers.get("Content-Type", "").startswith("text/csv"):
        raise ValueError(f"no CSV but {response.headers.get('Content-Type')}")
    raw = response.raw
    raw.decode_content = True
    raw.auto_close = False  # the wrappers ask once more at the end
    text = io.TextIOWrapper(
        io.BufferedReader(raw, CHUNK), encoding="utf-8", errors="surrogateescape", newline=""
    )
    text._CHUNK_SIZE = CHUNK  # type: ignore[attr-defined]  # eight times what it takes by itself
    return text


def clock(response: requests.Response) -> datetime:
    """Salesforce's time of the answer: its Date header, never this machine's clock."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        raise SalesforceError("the answer carries no readable Date header; a proxy may remove it") from None
