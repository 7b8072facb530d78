"""Login, the one retry policy, re-login and API usage: everything that talks to Salesforce over HTTP.

Facts used here: an expired token is a 401 of several kinds, and nothing tells when it will expire; a query
locator may be bound to the session that made it; the token of one user is shared, so it is never revoked.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any, TextIO, TypeVar, cast
from urllib.parse import urlsplit

import requests
import urllib3
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError as ClientError

from sync import logs
from sync.config import Settings
from sync.errors import LoginError, QueryLostError, SalesforceError, StoppedError, SyncError
from sync.mapping import DescribedField
from sync.session.answers import Answer, Deletions, Described, Usage, covered, moment
from sync.session.decode import decode_records
from sync.session.http import USAGE, Http, RedirectedError, clock, csv_lines, within
from sync.session.limits import (
    DESCRIBE,
    QUERY,
    RECORDS_PER_PAGE,
    RESOURCE,
    RESULTS,
    Allowance,
    TooLargeError,
    clip,
)
from sync.session.login import ORGANIZATION, Token, permitted, request_token
from sync.session.paths import USERINFO, record_id, resource_path
from sync.session.retry import RetryPolicy, attempts
from sync.session.rules import Transient, Unauthorised, judge, network_failure
from sync.session.watch import Watch

__all__ = ["Answer", "Deletions", "RetryPolicy", "Session", "Usage"]

log = logs.get(__name__)
T = TypeVar("T")

NOT_MODIFIED = 304
DESCRIBE_SECONDS = 3600
BATCH_SIZE = "Sforce-Query-Options"
SMALLEST_BATCH = 200  # records in a page, the fewest that Salesforce lets one ask for
LOGINS_PER_HOUR = 20  # Salesforce blocks a user after 3,600; a healthy worker needs one or two


@dataclass(slots=True)
class Calls:
    """API calls made for one piece of work, logins apart."""

    made: int = 0


# Whose calls are counted: set by who does the work, inherited by the threads that work for it.
CALLS: ContextVar[Calls | None] = ContextVar("calls", default=None)


class Session:
    """One integration user's connection to one org; safe to use from several threads."""

    def __init__(
        self, settings: Settings, stop: threading.Event | None = None, retry: RetryPolicy | None = None
    ) -> None:
        self.settings = settings
        self.stop = stop or threading.Event()
        self.retry = retry or RetryPolicy()
        self.usage: Usage | None = None
        self._lock = threading.Lock()
        self._local = threading.local()
        self._token: Token | None = None
        self._batch = RECORDS_PER_PAGE
        self._described: dict[str, Described] = {}
        self._generation = 0
        self._refusals = 0
        self._logins: deque[float] = deque(maxlen=LOGINS_PER_HOUR)

    # ── what the rest of the house asks for ──

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
    def hasty(self) -> RetryPolicy:
        """The retry policy of calls that are not needed."""
        return replace(self.retry, attempts=min(2, self.retry.attempts), defers=False)

    def pause(self, seconds: float) -> None:
        """Wait between two looks at something; StoppedError as soon as the process is asked to stop."""
        if self.stop.wait(seconds * self.retry.scale):
            raise StoppedError

    def login(self) -> str:
        """Log in unless already done; the instance URL. LoginError says what to mend."""
        with self._lock:
            if self._token is None:
                self._login()
            assert self._token is not None
            return self._token.instance

    def query(self, soql: str, names: tuple[str, ...] = (), *, hasty: bool = False) -> Answer:
        """The first page of a query, deleted records included, each a tuple of the fields named.

        `hasty`: not tried for long, where the caller has another way.
        """
        path = f"/services/data/v{self.version}/queryAll/"
        policy = self.hasty if hasty else None

        def ask(sf: Salesforce) -> Any:
            headers = {BATCH_SIZE: f"batchSize={self._batch}"}
            response = self._send(sf, "GET", path, QUERY, params={"q": soql}, headers=headers)
            return decode_records(response.content, names)

        try:
            return self._call(ask, policy=policy)
        except TooLargeError as large:
            if self._batch == SMALLEST_BATCH:
                raise
            self._smaller_pages(large)
            return self._call(ask, policy=policy)

    def next_page(self, url: str, generation: int, names: tuple[str, ...] = ()) -> Answer:
        """The page behind a `nextRecordsUrl` of an answer of that generation.

        QueryLostError when the query has to be asked again: a locator may belong to the session that made it.
        SalesforceError for a URL that is no path of the instance.
        """
        try:
            return self._call(
                lambda sf: decode_records(self._send(sf, "GET", url, QUERY).content, names),
                locator=generation,
            )
        except TooLargeError as large:
            if self._batch == SMALLEST_BATCH:
                raise
            self._smaller_pages(large)
            raise QueryLostError("a page was too large; the query is asked again in smaller ones") from None

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

    def describe(self, name: str, *, anew: bool = False) -> tuple[tuple[DescribedField, ...], datetime]:
        """An object's fields as this user sees them, and Salesforce's clock.

        Where they were asked for before, Salesforce only says whether they changed since; `anew` asks for all
        of them, and so does the first call of an hour: it is not said that a permission counts as a change.
        """
        path = f"/services/data/v{self.version}/sobjects/{name}/describe"
        known = self._described.get(name)
        if anew or (known is not None and time.monotonic() - known.asked > DESCRIBE_SECONDS):
            known = None
        condition = {"If-Modified-Since": known.modified} if known is not None else {}

        def ask(sf: Salesforce) -> Any:
            try:
                response = self._send(sf, "GET", path, DESCRIBE, headers=condition)
            except ClientError as error:
                if error.status != NOT_MODIFIED or known is None:
                    raise
                return None
            body = response.json()
            if not isinstance(body, dict) or not isinstance(body.get("fields"), list):
                raise ValueError("no describe")
            return response.headers.get("Last-Modified"), body["fields"]

        answer = self._call(ask)
        if answer.body is None and known is not None:
            return known.fields, answer.at
        modified, fields = answer.body
        # The clock's own second may still bring a change.
        modified = modified or format_datetime(answer.at - timedelta(minutes=1), usegmt=True)
        described = tuple(DescribedField.of(field) for field in fields)
        self._described[name] = Described(described, modified, time.monotonic())
        return described, answer.at

    def updated_through(self, name: str, start: datetime, end: datetime) -> datetime:
        """Through when getUpdated covers a window: before it no transaction is open any more.

        Not tried for long: there are passes without it, too. SalesforceError where it is refused or odd.
        """
        return covered(self._replication(name, "updated", start, end, self.hasty))

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
        return self._call(lambda sf: self._send(sf, "GET", path, QUERY, params=window).json(), policy=policy)

    def resource(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, version: str = ""
    ) -> Answer:
        """A JSON resource by its path on the instance; the body of an answer without one is None.

        `version`: the API version of the path, where it is not the pinned one. QueryLostError where the
        resource does not exist (any more).
        """
        what: dict[str, Any] = {} if body is None else {"json": body}

        def ask(sf: Salesforce) -> Any:
            response = self._send(sf, method, path, RESOURCE, version=version, **what)
            return response.json() if response.content else None

        return self._call(ask, lost_on_404=True)

    def stream(self, path: str, read: Callable[[Mapping[str, str], TextIO], T]) -> T:
        """What `read` makes of a CSV resource: of its headers, and its lines as they arrive.

        Called again, from the start, after a failure. `read` raises ValueError for a body that cannot be
        right. QueryLostError where the resource is gone.
        """

        def ask(sf: Salesforce) -> T:
            accept = {"Accept": "text/csv"}
            with (
                self._send(sf, "GET", path, RESULTS, headers=accept, stream=True) as response,
                within(Watch(RESULTS.body, RESULTS.rate)),
            ):
                return read(response.headers, csv_lines(response))

        # Without a limit in time, which a long download alone may use up.
        policy = replace(self.retry, total=math.inf)
        return cast("T", self._call(ask, lost_on_404=True, policy=policy).body)

    def organization(self) -> str:
        """The Id of the org that answers, of 15 characters; "" where neither login nor userinfo tell."""
        self.login()
        with self._lock:
            known = self._token.organization if self._token else ""
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
        with self._lock:
            # For this token alone: the next may be another org's.
            if self._token is not None and self._generation == answer.generation:
                self._token = replace(self._token, organization=found[0])
        return found[0]

    def identity(self) -> dict[str, Any]:
        """Which org and user answered (the userinfo resource); SalesforceError where it is refused or odd."""
        return dict(self._userinfo().body)

    def _userinfo(self) -> Answer:
        answer = self._call(lambda sf: self._send(sf, "GET", USERINFO, RESOURCE).json())
        if not isinstance(answer.body, dict):
            raise SalesforceError(f"userinfo answered no object: {clip(answer.body, 100)}", status=200)
        return answer

    def _send(
        self,
        sf: Salesforce,
        method: str,
        path: str,
        allowance: Allowance,
        *,
        version: str = "",
        **what: Any,
    ) -> requests.Response:
        """A request to the instance: the one place where a path becomes a URL that the token goes to."""
        try:
            known = version or self.version
            route = path if path == USERINFO else resource_path(path, known, sf.sf_instance)
        except ValueError as error:
            raise SalesforceError(str(error)) from None
        url = f"https://{sf.sf_instance}{route}"
        return sf._call_salesforce(method, url, name=route, allowance=allowance, **what)

    # ── one call: retried, re-logged-in, interruptible ──

    def _call(
        self,
        ask: Callable[[Salesforce], Any],
        *,
        locator: int | None = None,
        lost_on_404: bool = False,
        policy: RetryPolicy | None = None,
    ) -> Answer:
        client, generation = self._client()
        calls = CALLS.get()
        if locator not in (None, generation):
            # A locator may be bound to the session that made it, and asking it with another token would look
            # like a dead token: two threads would log each other out.
            raise QueryLostError("another thread logged in anew between two pages")
        try:
            answer = attempts(
                policy or self.retry,
                self.stop,
                lambda: self._ask(client, ask, calls, lost_on_404=lost_on_404 or locator is not None),
            )
        except Unauthorised as refusal:
            self._login_again(generation, refusal)
            if locator is not None:
                raise QueryLostError("the session ended between two pages") from None
            return self._call(ask, lost_on_404=lost_on_404, policy=policy)
        with self._lock:
            if generation == self._generation:
                self._refusals = 0
        return replace(answer, generation=generation)

    def _ask(
        self,
        client: Salesforce,
        ask: Callable[[Salesforce], Any],
        calls: Calls | None,
        *,
        lost_on_404: bool,
    ) -> Answer:
        http = cast("Http", client.session)
        started = time.monotonic()
        if calls is not None:
            with self._lock:
                calls.made += 1
        try:
            body = ask(client)
        except ClientError as error:
            raise judge(error, http.last, lost_on_404=lost_on_404) from None
        except RedirectedError as redirected:
            raise self._moved(redirected) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise network_failure(error) from None
        except ValueError as error:  # 200 with HTML: maintenance pages, proxies
            unread = SalesforceError(f"the answer cannot be read: {clip(error)}", status=200, passing=True)
            raise Transient(unread) from None
        response, http.last = http.last, None
        assert response is not None
        self._note_usage(response)
        log.debug(
            "salesforce_call", path=urlsplit(response.url).path, ms=int(1000 * (time.monotonic() - started))
        )
        return Answer(body, clock(response))

    def _note_usage(self, response: requests.Response) -> None:
        match = USAGE.search(response.headers.get("Sforce-Limit-Info", ""))
        if match and int(match[2]):
            self.usage = Usage(int(match[1]), int(match[2]))

    def _moved(self, redirected: RedirectedError) -> Unauthorised:
        """What a redirect means: an instance that moved, which a new login tells; else a person must look."""
        if permitted(self.settings, redirected.host):
            remedy = f"if the org moved there, set SALESFORCE_LOGIN_URL=https://{redirected.host}"
        else:
            remedy = "a proxy answers in Salesforce's place, or SALESFORCE_LOGIN_URL is not the org's"
        return Unauthorised(
            f"Salesforce answered {redirected.status} and leads to {redirected.target}, "
            f"which is not followed: {remedy}",
            lasting=True,
        )

    # ── the token ──

    @property
    def _http(self) -> Http:
        if not hasattr(self._local, "http"):
            self._local.http = Http(self.settings.requests_ca_bundle)
        return self._local.http  # type: ignore[no-any-return]  # set two lines up

    def _client(self) -> tuple[Salesforce, int]:
        """This thread's client with the current token, in direct mode: it never logs in by itself."""
        self.login()
        with self._lock:
            assert self._token is not None
            token, generation = self._token, self._generation
        if getattr(self._local, "generation", 0) != generation:
            client = Salesforce(
                session_id=token.access,
                instance_url=token.instance,
                session=self._http,
                version=self.settings.salesforce_api_version,
            )
            client.headers.pop("X-PrettyPrint", None)
            client.headers[BATCH_SIZE] = f"batchSize={RECORDS_PER_PAGE}"
            client.headers["Sforce-Call-Options"] = "client=salesforce-postgres-sync"
            self._local.client, self._local.generation = client, generation
        return self._local.client, generation

    def _login_again(self, generation: int, refusal: Unauthorised) -> None:
        """One re-login for all threads that met a dead token; LoginError when a fresh one is refused."""
        with self._lock:
            if generation != self._generation and self._token is not None:
                return
            self._refusals += 1
            if self._refusals > 1 or self._token is None:
                # The next run starts with a login of its own.
                self._token, self._refusals = None, 0
                raise LoginError(
                    str(refusal) if refusal.lasting else f"a fresh token was refused too: {refusal}"
                )
            log.info("salesforce_session_ended", reason=clip(refusal, 200))
            self._token = None
            try:
                self._login()
            except SyncError:
                self._refusals = 0
                raise

    def _login(self) -> None:
        now = time.monotonic()
        if len(self._logins) == LOGINS_PER_HOUR and now - self._logins[0] < 3600:
            raise LoginError(
                f"{LOGINS_PER_HOUR} logins within an hour: something ends our sessions; not trying more"
            )
        self._logins.append(now)
        http = self._http  # this thread's, not the one that makes the call
        token = attempts(self.retry, self.stop, lambda: request_token(self.settings, http))
        logs.hide([token.access])
        self._token = token
        self._generation += 1
        log.info("salesforce_login", flow=self.settings.flow, instance=token.instance)
