"""A plain HTTP client of one org, beside the product: it writes the marked records and tries the facts."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from sync.config.settings import Settings
from sync.errors import StoppedError
from sync.logs import printable
from sync.salesforce.session.http import Http, RedirectedError
from sync.salesforce.session.limits import QUERY
from sync.salesforce.session.login import Token, request_token
from sync.salesforce.session.retry import RetryPolicy, run_attempts
from tests.acceptance.findings import UnexpectedAnswerError

RETRIES = RetryPolicy(attempts=3, total=60, defers=False)
USAGE = re.compile(r"api-usage=(\d+)/(\d+)")


def log_in(settings: Settings, stop: threading.Event | None = None) -> Token:
    """A token by the product's own login; raise LoginError or SalesforceError. It appears in no output."""
    http = Http(settings.requests_ca_bundle)
    token = run_attempts(RETRIES, stop or threading.Event(), lambda: request_token(settings, http))
    printable.hide_token(token.access.partition("!")[2] or token.access)
    return token


class Client:
    """Requests to the instance of one token, never anywhere else; a dead token is replaced once."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self.settings, self.stop = settings, stop
        self.token = log_in(settings, stop)
        self.http = Http(settings.requests_ca_bundle)
        self.usage: int | None = None  # the org's API calls of the day by the last answer
        self.at: datetime | None = None  # Salesforce's time by the last answer

    @property
    def base(self) -> str:
        """The path of the pinned version."""
        return f"/services/data/v{self.settings.salesforce_api_version}"

    def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str | None = None,
        **what: Any,
    ) -> requests.Response:
        """The answer to a request, whatever its status; `path` is absolute, or below the pinned version.

        `authorization` replaces the header of the token ("": none). Raises StoppedError, RequestException, and
        UnexpectedAnswerError for a redirect.
        """
        if self.stop.is_set():
            raise StoppedError
        for attempt in range(2):
            value = f"Bearer {self.token.access}" if authorization is None else authorization
            given = {**({"Authorization": value} if value else {}), **(headers or {})}
            url = self.token.instance + (path if path.startswith("/") else f"{self.base}/{path}")
            try:
                answer = self.http.request(method, url, headers=given, allowance=QUERY, **what)
            except RedirectedError as redirected:
                raise UnexpectedAnswerError(f"{redirected.status}, a redirect") from None
            if answer.status_code != 401 or authorization is not None or attempt:
                break
            self.token = log_in(self.settings, self.stop)
        if usage := USAGE.search(answer.headers.get("Sforce-Limit-Info", "")):
            self.usage = int(usage[1])
        if date := answer.headers.get("Date"):
            self.at = parsedate_to_datetime(date)
        return answer

    def get(self, path: str, headers: Mapping[str, str] | None = None, /, **params: str) -> requests.Response:
        """GET a resource."""
        return self.call("GET", path, headers=headers, params=params)

    def records(self, soql: str) -> list[dict[str, Any]]:
        """The records of a query, deleted ones included, of one page; raise UnexpectedAnswerError."""
        found: list[dict[str, Any]] = ok(self.get("queryAll", q=soql))["records"]
        return found

    def replication(self, sobject: str, what: str, start: datetime, end: datetime) -> requests.Response:
        """The answer of getUpdated (`what` is updated) or getDeleted (deleted) for a window."""
        return self.get(f"sobjects/{sobject}/{what}/", None, **window(start, end))

    def now(self) -> datetime:
        """Salesforce's time; it costs one call."""
        self.touch()
        return self.at or datetime.now(UTC)

    def touch(self) -> None:
        """Make the cheapest call that every user may make, for its headers."""
        ok(self.get("query", q="SELECT Id FROM Organization"))


def window(start: datetime, end: datetime) -> dict[str, str]:
    """The parameters of a replication call."""
    return {name: f"{at:%Y-%m-%dT%H:%M:%S+00:00}" for name, at in (("start", start), ("end", end))}


def minute(at: datetime, later: int = 0) -> datetime:
    """The whole minute at or before a time, some minutes later."""
    return at.replace(second=0, microsecond=0) + timedelta(minutes=later)


def ok(answer: requests.Response, *statuses: int) -> Any:
    """The JSON of an answer (None: it has no body); raise UnexpectedAnswerError for another status than these."""
    if answer.status_code not in (statuses or (200,)):
        raise UnexpectedAnswerError(said(answer))
    return answer.json() if answer.content else None


def codes(answer: requests.Response) -> Sequence[str]:
    """The error codes of an answer; none where it is no list of errors."""
    try:
        return [str(each["errorCode"])[:60] for each in answer.json()]
    except (ValueError, TypeError, KeyError):
        return []


def said(answer: requests.Response) -> str:
    """Status and codes of an answer, without its text."""
    return " ".join([str(answer.status_code), *codes(answer)])
