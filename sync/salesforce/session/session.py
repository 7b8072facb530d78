"""Everything that is asked of Salesforce: queries, pages, describes, replication calls, jobs, results."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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
from sync.salesforce.session.addresses import USERINFO, record_id, resource_path
from sync.salesforce.session.answers import (
    Answer,
    Deletions,
    Described,
    Usage,
    covered,
    moment,
)
from sync.salesforce.session.bodies import decode_records
from sync.salesforce.session.connection import (
    BATCH_SIZE,
    CALLS,
    Calls,
    Connection,
)
from sync.salesforce.session.http import LONGEST_DATE, Watch, csv_lines, within
from sync.salesforce.session.learned import Learned
from sync.salesforce.session.limits import (
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
SMALLEST_BATCH = 200  # records in a page, the fewest that Salesforce lets one ask for


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
        """How queries of an object have to be asked, as far as this process has learnt it."""
        return self._learned[name]

    @property
    def usage(self) -> Usage | None:
        """The org's API requests as the last answer told them; None where none did."""
        return self._connection.usage

    def login(self) -> str:
        """Log in unless already done; the instance URL. LoginError says what to mend."""
        return self._connection.login()

    @contextmanager
    def counted(self) -> Iterator[Calls]:
        """Count the API calls made within, those of threads that inherit this context included."""
        calls = Calls()
        token = CALLS.set(calls)
        try:
            yield calls
        finally:
            CALLS.reset(token)

    @property
    def version(self) -> str:
        """The pinned API version."""
        return self.settings.salesforce_api_version

    @property
    def best_effort(self) -> RetryPolicy:
        """The retry policy of calls that are not needed."""
        return replace(self.retry, attempts=min(2, self.retry.attempts), defers=False)

    def pause(self, seconds: float) -> None:
        """Wait between two looks at something; StoppedError as soon as the process is asked to stop."""
        if self.stop.wait(seconds * self.retry.scale):
            raise StoppedError

    def query(self, soql: str, names: tuple[str, ...] = (), *, best_effort: bool = False) -> Answer:
        """The first page of a query, deleted records included, each a tuple of the fields named.

        `hasty`: not tried for long, where the caller has another way.
        """
        path = f"/services/data/v{self.version}/queryAll/"
        policy = self.best_effort if best_effort else None

        def ask(sf: Salesforce) -> Any:
            headers = {BATCH_SIZE: f"batchSize={self._batch_of(names)}"}
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
        """The page behind a `nextRecordsUrl` of an answer of that generation.

        QueryLostError when the query has to be asked again: a locator may belong to the session that made it.
        SalesforceError for a URL that is no path of the instance.
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
            raise QueryLostError("a page was too large; the query is asked again in smaller ones") from None

    def _batch_of(self, names: tuple[str, ...]) -> int:
        """How many records of these fields a page may have; Salesforce sends fewer where it likes."""
        return max(SMALLEST_BATCH, min(self._batch, VALUES_PER_PAGE // (len(names) or 1)))

    def _smaller_pages(self, reason: TooLargeError) -> None:
        """Ask for the fewest records a page from now on: those of this org are wide."""
        self._batch = SMALLEST_BATCH
        log.warning("pages_too_large", reason=str(reason), batch=SMALLEST_BATCH)

    def path(self, text: object) -> str:
        """The path of a resource on the instance that an answer or the database names.

        SalesforceError for a text that names anything else.
        """
        host = self.login().removeprefix("https://")
        try:
            return resource_path(text, self.version, host)
        except ValueError as error:
            raise SalesforceError(str(error)) from None

    def describe(self, name: str, *, refresh: bool = False) -> tuple[tuple[DescribedField, ...], datetime]:
        """An object's fields as this user sees them, and Salesforce's clock.

        Where they were asked for before, Salesforce only says whether they changed since; `anew` asks for all
        of them, and so does the first call of an hour: it is not said that a permission counts as a change.
        """
        path = f"/services/data/v{self.version}/sobjects/{name}/describe"
        known = self._described.get(name)
        if refresh or (known is not None and time.monotonic() - known.asked > DESCRIBE_SECONDS):
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
                raise ValueError("no describe")
            return response.headers.get("Last-Modified"), body["fields"]

        answer = self._connection.call(ask)
        if answer.body is None and known is not None:
            return known.fields, answer.at
        modified, fields = answer.body
        if len(modified or "") > LONGEST_DATE or not (modified or "").isascii():
            modified = None  # it goes back to Salesforce as it is
        # The clock's own second may still bring a change.
        modified = modified or format_datetime(answer.at - timedelta(minutes=1), usegmt=True)
        if len(fields) > MOST_FIELDS:
            raise SalesforceError(
                f"the describe of {name} has {len(fields):,} fields, more than an object can have", status=200
            )
        described, left_out = described_fields(fields)
        if left_out:
            log.warning("fields_unusable", object=name, fields=clip(", ".join(left_out)))
        self._described[name] = Described(described, left_out, modified, time.monotonic())
        return described, answer.at

    def left_out(self, name: str) -> tuple[str, ...]:
        """The names of the fields that the last describe of an object had, and that cannot be used."""
        known = self._described.get(name)
        return known.left_out if known else ()

    def updated_through(self, name: str, start: datetime, end: datetime) -> datetime:
        """Through when getUpdated covers a window: before it no transaction is open any more.

        Not tried for long: there are passes without it, too. SalesforceError where it is refused or odd.
        """
        return covered(self._replication(name, "updated", start, end, self.best_effort))

    def deleted(self, name: str, start: datetime, end: datetime) -> Deletions:
        """What getDeleted tells of a window of whole minutes; SalesforceError where it is refused or odd."""
        answer = self._replication(name, "deleted", start, end, self.retry)
        try:
            listed = answer.body["deletedRecords"]
            records = {record_id(one["id"]): moment(one["deletedDate"]) for one in listed}
            told = answer.body.get("earliestDateAvailable")
            earliest = moment(told) if told else start
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise SalesforceError(
                f"getDeleted cannot be read: {clip(repr(error), 200)}", status=200
            ) from None
        return Deletions(records, earliest, covered(answer))

    def _replication(
        self, name: str, what: str, start: datetime, end: datetime, policy: RetryPolicy
    ) -> Answer:
        path = f"/services/data/v{self.version}/sobjects/{name}/{what}/"
        window = {"start": f"{start:%Y-%m-%dT%H:%M:%S+00:00}", "end": f"{end:%Y-%m-%dT%H:%M:%S+00:00}"}
        return self._connection.call(
            lambda sf: self._connection.send(sf, "GET", path, QUERY, params=window).json(), policy=policy
        )

    def resource(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        version: str = "",
        best_effort: bool = False,
    ) -> Answer:
        """A JSON resource by its path on the instance; the body of an answer without one is None.

        `version`: the API version of the path, where it is not the pinned one. `hasty`: not tried for long.
        QueryLostError where the resource does not exist (any more).
        """
        what: dict[str, Any] = {} if body is None else {"json": body}

        def ask(sf: Salesforce) -> Any:
            response = self._connection.send(sf, method, path, RESOURCE, version=version, **what)
            return response.json() if response.content else None

        return self._connection.call(ask, lost_on_404=True, policy=self.best_effort if best_effort else None)

    def stream(self, path: str, read: Callable[[Mapping[str, str], TextIO], T]) -> T:
        """What `read` makes of a CSV resource: of its headers, and its lines as they arrive.

        Called again, from the start, after a failure. `read` raises ValueError for a body that cannot be
        right. QueryLostError where the resource is gone.
        """

        def ask(sf: Salesforce) -> T:
            accept = {"Accept": "text/csv"}
            with (
                self._connection.send(sf, "GET", path, RESULTS, headers=accept, stream=True) as response,
                within(Watch(RESULTS.body, RESULTS.rate)),
            ):
                return read(response.headers, csv_lines(response))

        # Without a limit in time, which a long download alone may use up.
        policy = replace(self.retry, total=math.inf)
        return cast("T", self._connection.call(ask, lost_on_404=True, policy=policy).body)

    def organization(self) -> str:
        """The Id of the org that answers, of 15 characters; "" where neither login nor userinfo tell."""
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
        """Which org and user answered (the userinfo resource); SalesforceError where it is refused or odd."""
        return dict(self._userinfo().body)

    def _userinfo(self) -> Answer:
        answer = self._connection.call(lambda sf: self._connection.send(sf, "GET", USERINFO, RESOURCE).json())
        if not isinstance(answer.body, dict):
            raise SalesforceError(f"userinfo answered no object: {clip(answer.body, 100)}", status=200)
        return answer
