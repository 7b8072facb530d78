"""The calls to Salesforce: queries, pages, describes, replication calls, jobs, results."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any, TextIO, TypeVar, cast

from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError as ClientError

from sync.catalogue.mapping import MOST_FIELDS, DescribedField, described_fields
from sync.config.settings import Settings
from sync.errors import QueryLostError, SalesforceError, StoppedError
from sync.logs import logger
from sync.salesforce.learned import Learned
from sync.salesforce.session import composite
from sync.salesforce.session.addresses import USERINFO, resource_path
from sync.salesforce.session.answers import (
    Answer,
    Deletions,
    Described,
    Usage,
    deletions,
    latest_covered,
)
from sync.salesforce.session.bodies import decode_records
from sync.salesforce.session.composite import Part, Together, replication_window
from sync.salesforce.session.connection import (
    BATCH_SIZE,
    CALLS,
    Calls,
    Connection,
)
from sync.salesforce.session.http import LONGEST_DATE, Watch, csv_lines, read_within
from sync.salesforce.session.limits import (
    COMPOSITE,
    DESCRIBE,
    QUERY,
    RECORDS_PER_PAGE,
    RESOURCE,
    RESULTS,
    VALUES_PER_PAGE,
    TooLargeError,
    clip,
)
from sync.salesforce.session.login import ORGANIZATION
from sync.salesforce.session.retry import RetryPolicy

log = logger.get(__name__)
T = TypeVar("T")

NOT_MODIFIED = 304
DESCRIBE_SECONDS = 3600
SMALLEST_BATCH = 200  # records in a page: the smallest batchSize that Salesforce accepts


class Session:
    """One integration user's connection to one org; safe to use from several threads."""

    def __init__(
        self, settings: Settings, stop: threading.Event | None = None, retry: RetryPolicy | None = None
    ) -> None:
        self.settings = settings
        self.stop = stop or threading.Event()
        self.retry = retry or RetryPolicy()
        self._connection = Connection(settings, self.stop, self.retry)
        self._batch = RECORDS_PER_PAGE
        self._described: dict[str, Described] = {}
        self._learned: defaultdict[str, Learned] = defaultdict(Learned)

    def learned(self, name: str) -> Learned:
        """Return what this process has learned about queries of an object."""
        return self._learned[name]

    @property
    def usage(self) -> Usage | None:
        """The org's API requests by the last answer (None: unknown)."""
        return self._connection.usage

    def login(self) -> str:
        """Log in unless already done; return the instance URL. Raises LoginError, whose message says what to
        correct."""
        return self._connection.login()

    @contextmanager
    def counted(self) -> Iterator[Calls]:
        """Count the API calls made inside the block, including those of threads that inherit this context."""
        calls = Calls()
        token = CALLS.set(calls)
        try:
            yield calls
        finally:
            CALLS.reset(token)

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Count the API calls that the current work makes inside the block as of this kind."""
        calls = CALLS.get() or Calls()
        before, calls.kind = calls.kind, kind
        try:
            yield
        finally:
            calls.kind = before

    @property
    def version(self) -> str:
        """The pinned API version."""
        return self.settings.salesforce_api_version

    @property
    def best_effort(self) -> RetryPolicy:
        """The retry policy of calls that the work can do without."""
        return replace(self.retry, attempts=min(2, self.retry.attempts), defers=False)

    def pause(self, seconds: float) -> None:
        """Wait between two polls; raise StoppedError as soon as the process is asked to stop."""
        if self.stop.wait(seconds * self.retry.scale):
            raise StoppedError

    def query(self, soql: str, names: tuple[str, ...] = (), *, best_effort: bool = False) -> Answer:
        """Return the first page of a query, deleted records included, with records as tuples of the fields in
        `names`.

        `best_effort`: few retries, for callers with a fallback. Raises SalesforceError, FieldsMovedError,
        DeferredError, LoginError, by the error rules.
        """
        path = self.query_path
        policy = self.best_effort if best_effort else None

        def ask(sf: Salesforce) -> Any:
            headers = self.query_headers(names)
            response = self._connection.send(sf, "GET", path, QUERY, params={"q": soql}, headers=headers)
            return decode_records(response.content, names)

        try:
            return self._connection.call(ask, policy=policy)
        except TooLargeError as large:
            if self._batch == SMALLEST_BATCH:
                raise
            self._smaller_pages(large)
            return self._connection.call(ask, policy=policy)

    def next_page(self, url: str, generation: int, names: tuple[str, ...] = ()) -> Answer:
        """Return the page of a `nextRecordsUrl`; `generation` is that of the answer that named it.

        Raises QueryLostError if the query has to start again (a locator may be bound to its session),
        SalesforceError for a URL outside the instance.
        """
        try:
            return self._connection.call(
                lambda sf: decode_records(self._connection.send(sf, "GET", url, QUERY).content, names),
                locator=generation,
            )
        except TooLargeError as large:
            if self._batch == SMALLEST_BATCH:
                raise
            self._smaller_pages(large)
            raise QueryLostError("a page was too large; the query starts again with smaller pages") from None

    @property
    def query_path(self) -> str:
        """The path of queries; deleted records are included."""
        return f"/services/data/v{self.version}/queryAll/"

    def query_headers(self, names: tuple[str, ...], queries: int = 1) -> dict[str, str]:
        """Return the headers of a query for these fields, one of several whose answers arrive together.

        They state the number of records of a page; Salesforce may send fewer.
        """
        records = min(self._batch, VALUES_PER_PAGE // (queries * (len(names) or 1)))
        return {BATCH_SIZE: f"batchSize={max(SMALLEST_BATCH, records)}"}

    def _smaller_pages(self, reason: TooLargeError) -> None:
        """Request the smallest pages from now on: this org's records are large."""
        self._batch = SMALLEST_BATCH
        log.warning("pages_too_large", reason=str(reason), batch=SMALLEST_BATCH)

    def path(self, text: object) -> str:
        """Return the path of a resource on the instance, from an answer or the database.

        Raises SalesforceError for any other text.
        """
        host = self.login().removeprefix("https://")
        try:
            return resource_path(text, self.version, host)
        except ValueError as error:
            raise SalesforceError(str(error)) from None

    def describe(
        self, name: str, *, refresh: bool = False, best_effort: bool = False
    ) -> tuple[tuple[DescribedField, ...], datetime]:
        """Return an object's fields as this user sees them, and Salesforce's time.

        A repeated call sends If-Modified-Since. With `refresh`, and at least once an hour, it reads all
        fields: Salesforce does not document whether a changed permission counts as a modification.
        `best_effort`: few retries.
        """
        path = f"/services/data/v{self.version}/sobjects/{name}/describe"
        known = self._described.get(name)
        if refresh or (known is not None and time.monotonic() - known.asked_at > DESCRIBE_SECONDS):
            known = None
        condition = {"If-Modified-Since": known.modified} if known is not None else {}

        def ask(sf: Salesforce) -> Any:
            try:
                response = self._connection.send(sf, "GET", path, DESCRIBE, headers=condition)
            except ClientError as error:
                if error.status != NOT_MODIFIED or known is None:
                    raise
                return None
            body = response.json()
            if not isinstance(body, dict) or not isinstance(body.get("fields"), list):
                raise ValueError("not a describe")
            return response.headers.get("Last-Modified"), body["fields"]

        with self.counting("describe"):
            answer = self._connection.call(ask, policy=self.best_effort if best_effort else None)
        if answer.body is None and known is not None:
            self._described[name] = replace(known, checked_at=time.monotonic())
            return known.fields, answer.at
        modified, fields = answer.body
        if len(modified or "") > LONGEST_DATE or not (modified or "").isascii():
            modified = None  # it is sent back to Salesforce unchanged
        # The describe may still change within the current second.
        modified = modified or format_datetime(answer.at - timedelta(minutes=1), usegmt=True)
        if len(fields) > MOST_FIELDS:
            raise SalesforceError(
                f"the describe of {name} has {len(fields):,} fields, more than an object can have", status=200
            )
        described, left_out = described_fields(fields)
        if left_out:
            log.warning("fields_unusable", object=name, fields=clip(", ".join(left_out)))
        now = time.monotonic()
        self._described[name] = Described(described, left_out, modified, now, now)
        return described, answer.at

    def last_described(self, name: str) -> Described | None:
        """Return the last describe of an object (None: there was none)."""
        return self._described.get(name)

    def left_out(self, name: str) -> tuple[str, ...]:
        """Return the names of unusable fields in the last describe of an object."""
        known = self._described.get(name)
        return known.left_out if known else ()

    def updated_through(self, name: str, start: datetime, end: datetime) -> datetime:
        """Return the time before which no transaction is open, by getUpdated's latestDateCovered.

        Few retries: a pass works without it, too. Raises SalesforceError if it is refused or malformed.
        """
        return latest_covered(self._replication(name, "updated", start, end, self.best_effort))

    def deleted(self, name: str, start: datetime, end: datetime) -> Deletions:
        """Return getDeleted's answer for a window of whole minutes; raise SalesforceError if refused or
        malformed."""
        return deletions(self._replication(name, "deleted", start, end, self.retry), start)

    def _replication(
        self, name: str, what: str, start: datetime, end: datetime, policy: RetryPolicy
    ) -> Answer:
        path, window = self.replication_path(name, what), replication_window(start, end)
        return self._connection.call(
            lambda sf: self._connection.send(sf, "GET", path, QUERY, params=window).json(), policy=policy
        )

    def replication_path(self, name: str, what: str) -> str:
        """Return the path of getUpdated (`updated`) or getDeleted (`deleted`) of an object."""
        return f"/services/data/v{self.version}/sobjects/{name}/{what}/"

    def together(self, parts: Sequence[Part]) -> Together:
        """Return the answers to several requests sent as one: Composite, which counts as one API call.

        Their time is a lower bound: Salesforce answered each of them after it. Few retries: each can be sent
        alone. Raises SalesforceError, also TooLargeError and TooLateError, and what the error rules say.
        """
        path = f"/services/data/v{self.version}/composite"

        def ask(sf: Salesforce) -> Any:
            began = time.monotonic()
            response = self._connection.send(sf, "POST", path, COMPOSITE, json=composite.request(parts))
            answers = composite.answers(response.content, len(parts))
            return time.monotonic() - began, answers

        # After an answer that did not arrive in time, no second attempt.
        policy = replace(self.best_effort, total=COMPOSITE.answer / 2)
        answer = self._connection.call(ask, policy=policy)
        took, answers = answer.body
        # Date is cut to whole seconds, and so are stamps, which are compared with this.
        at = (answer.at - timedelta(seconds=took + 1)).replace(microsecond=0)
        return Together(answers, at, answer.generation)

    def clock(self) -> datetime | None:
        """Return Salesforce's time now, or a little earlier; None before its first answer."""
        return self._connection.clock()

    def resource(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        version: str = "",
        best_effort: bool = False,
    ) -> Answer:
        """Send a request for a JSON resource by its path; an answer without a body is None.

        `version`: the API version of the path, if not the pinned one. `best_effort`: few retries. Raises
        QueryLostError if the resource does not exist.
        """
        what: dict[str, Any] = {} if body is None else {"json": body}

        def ask(sf: Salesforce) -> Any:
            response = self._connection.send(sf, method, path, RESOURCE, version=version, **what)
            return response.json() if response.content else None

        return self._connection.call(ask, lost_on_404=True, policy=self.best_effort if best_effort else None)

    def stream(self, path: str, read: Callable[[Mapping[str, str], TextIO], T]) -> T:
        """Return what `read` makes of a CSV resource, from its headers and its lines as they arrive.

        After a failure `read` is called again from the start. It raises ValueError for a body that cannot be
        right. Raises QueryLostError if the resource is gone.
        """

        def ask(sf: Salesforce) -> T:
            accept = {"Accept": "text/csv"}
            with (
                self._connection.send(sf, "GET", path, RESULTS, headers=accept, stream=True) as response,
                read_within(Watch(RESULTS.body, RESULTS.rate)),
            ):
                return read(response.headers, csv_lines(response))

        # No limit of the total time: one long download may use it up.
        policy = replace(self.retry, total=math.inf)
        return cast("T", self._connection.call(ask, lost_on_404=True, policy=policy, stream=True).body)

    def organization(self) -> str:
        """Return the Id of the org (15 characters), or "" if neither login nor userinfo return it."""
        known = self._connection.organization()
        if known:
            return known
        try:
            answer = self._userinfo()
        except SalesforceError as error:
            log.warning("org_unknown", reason=clip(error, 200))
            return ""
        found = ORGANIZATION.match(str(answer.body.get("organization_id")))
        if found is None:
            log.warning("org_unknown", reason="userinfo names no organization_id")
            return ""
        self._connection.note_organization(found[0], answer.generation)
        return found[0]

    def identity(self) -> dict[str, Any]:
        """Return the org and user that answered (userinfo); raise SalesforceError if refused or malformed."""
        return dict(self._userinfo().body)

    def _userinfo(self) -> Answer:
        answer = self._connection.call(lambda sf: self._connection.send(sf, "GET", USERINFO, RESOURCE).json())
        if not isinstance(answer.body, dict):
            raise SalesforceError(f"userinfo is not an object: {clip(answer.body, 100)}", status=200)
        return answer
