"""One user's connection: the token, the retry policy, re-login, and the only place that builds URLs.

Facts about Salesforce: an expired token is a 401 of several kinds, and its expiry is not announced; a query
locator may be bound to the session that created it; all processes of a user share its token, so it is never
revoked.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import urllib3
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError as ClientError

from sync.config.settings import Settings
from sync.errors import (
    LoginError,
    QueryLostError,
    SalesforceError,
    StoppedError,
    SyncError,
)
from sync.logs import logger, printable
from sync.salesforce.session.addresses import USERINFO, resource_path
from sync.salesforce.session.answers import Answer, Usage
from sync.salesforce.session.http import (
    USAGE,
    Http,
    RedirectedError,
    server_time,
)
from sync.salesforce.session.limits import RECORDS_PER_PAGE, Allowance, clip
from sync.salesforce.session.login import Token, may_receive_secrets, request_token
from sync.salesforce.session.refused import Refused, utc
from sync.salesforce.session.retry import RetryPolicy, run_attempts
from sync.salesforce.session.rules import (
    Transient,
    Unauthorised,
    classify_error,
    network_failure,
)
from sync.salesforce.slots import Slots

log = logger.get("sync.salesforce.session")

BATCH_SIZE = "Sforce-Query-Options"
LOGINS_PER_HOUR = 20  # Salesforce blocks a user after 3,600; a healthy worker needs one or two
# The least seconds between two discards of a token after a lost connection: an outage must not use up the
# logins.
FIRST_DOUBT, LONGEST_DOUBT = 60.0, 900.0
# Seconds before a new token is tried again: Salesforce may refuse it for a moment.
FRESH_PAUSES = (1.0, 2.0, 4.0)


@dataclass(slots=True)
class Calls:
    """The number of API calls of one piece of work, without logins.

    `by_kind` are those among them that were made while `kind` was set ("": for the work itself).
    """

    made: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    kind: str = ""


# The counter of the current work; threads that work for it inherit the variable.
CALLS: ContextVar[Calls | None] = ContextVar("calls", default=None)


class Connection:
    """The connection to one org as one user; safe to use from several threads."""

    def __init__(self, settings: Settings, stop: threading.Event, retry: RetryPolicy) -> None:
        self.settings, self.stop, self.retry = settings, stop, retry
        self.usage: Usage | None = None
        self._slots = Slots(settings.sync_concurrent_requests, stop)
        # Salesforce's time of the last answer, and the monotonic time of its arrival.
        self._last: tuple[datetime, float] | None = None
        self._lock = threading.Lock()
        self._local = threading.local()
        self._token: Token | None = None
        self._generation = 0
        self._refusals = 0
        self._refused = Refused(retry.scale)
        self._failed: tuple[int, SyncError] | None = None  # a token that could not be replaced, and the error
        self._doubts, self._next_doubt = 0, 0.0
        self._logins: deque[float] = deque(maxlen=LOGINS_PER_HOUR)

    def login(self) -> str:
        """Log in unless already done; return the instance URL. Raises LoginError, whose message says what to
        correct."""
        with self._lock:
            if self._token is None:
                self._login()
            assert self._token is not None
            return self._token.instance

    def organization(self) -> str:
        """Return the Id of the token's org (15 characters), or "" if the login did not return it."""
        self.login()
        with self._lock:
            return self._token.organization if self._token else ""

    def clock(self) -> datetime | None:
        """Return Salesforce's time of the last answer plus the time since then; None before the first
        answer."""
        if self._last is None:
            return None
        at, arrived = self._last
        return at + timedelta(seconds=time.monotonic() - arrived)

    def note_organization(self, organization: str, generation: int) -> None:
        """Store the org that userinfo named, for that generation's token only: the next may be of another
        org."""
        with self._lock:
            if self._token is not None and self._generation == generation:
                self._token = replace(self._token, organization=organization)

    def send(
        self,
        sf: Salesforce,
        method: str,
        path: str,
        allowance: Allowance,
        *,
        version: str = "",
        **what: Any,
    ) -> requests.Response:
        """Send a request to the instance. Only this method builds a URL that receives the token."""
        try:
            known = version or self.settings.salesforce_api_version
            route = path if path == USERINFO else resource_path(path, known, sf.sf_instance)
        except ValueError as error:
            raise SalesforceError(str(error)) from None
        url = f"https://{sf.sf_instance}{route}"
        return sf._call_salesforce(method, url, name=route, allowance=allowance, **what)

    def call(
        self,
        ask: Callable[[Salesforce], Any],
        *,
        locator: int | None = None,
        lost_on_404: bool = False,
        policy: RetryPolicy | None = None,
        stream: bool = False,
    ) -> Answer:
        """Return the answer that `ask` makes, with retries by the policy and one more attempt after a
        re-login.

        `locator` is the generation of the session that a page belongs to. `lost_on_404` is for resources that
        may disappear, `stream` for an answer that `ask` reads while it arrives. Raises QueryLostError if such
        a resource is gone, else what the error rules say.
        """
        pauses = iter(FRESH_PAUSES)
        client, generation = self._client()
        while True:
            if locator not in (None, generation):
                # A locator may be bound to its session. With another token, its refusal looks like a dead
                # token, and two threads would end each other's sessions.
                raise QueryLostError("another thread logged in again between two pages")
            lost = lost_on_404 or locator is not None
            send = partial(self._ask, client, ask, CALLS.get(), lost_on_404=lost, stream=stream)
            try:
                return self._try(generation, send, policy or self.retry)
            except Unauthorised as refusal:
                if not refusal.lasting and self._fresh(generation) and (pause := next(pauses, None)):
                    if self.stop.wait(pause * self.retry.scale):
                        raise StoppedError from None
                    if self._fresh(generation):
                        continue
                self._login_again(generation, refusal)
            if locator is not None:
                raise QueryLostError("the session ended between two pages")
            client, generation = self._client()

    def _try(self, generation: int, send: Callable[[], Answer], policy: RetryPolicy) -> Answer:
        """Return the answer with this token, with retries; raise Unauthorised if the token is refused."""
        try:
            answer = run_attempts(policy, self.stop, send)
        except (SalesforceError, LoginError) as error:  # LoginError: an untrusted certificate
            if policy.defers and is_unconnected(error):
                self._forget(generation)
            raise
        with self._lock:
            if generation == self._generation:
                self._refusals = self._doubts = 0
                self._refused.clear()
        return replace(answer, generation=generation)

    def _ask(
        self,
        client: Salesforce,
        ask: Callable[[Salesforce], Any],
        calls: Calls | None,
        *,
        lost_on_404: bool,
        stream: bool,
    ) -> Answer:
        http = cast("Http", client.session)
        try:
            with self._slots.taken(id(calls), stream=stream):
                started = time.monotonic()
                self._count(calls)
                body = ask(client)
        except ClientError as error:
            raise classify_error(error, http.last, lost_on_404=lost_on_404) from None
        except RedirectedError as redirected:
            raise self._moved(redirected) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise network_failure(error) from None
        except ValueError as error:  # 200 with HTML: maintenance pages, proxies
            unread = SalesforceError(f"the answer cannot be read: {clip(error)}", status=200, passing=True)
            raise Transient(unread) from None
        response, http.last = http.last, None
        assert response is not None
        at = server_time(response)
        self._note_usage(response)
        self._last = at, time.monotonic()
        log.debug(
            "salesforce_call", path=urlsplit(response.url).path, ms=int(1000 * (time.monotonic() - started))
        )
        return Answer(body, at)

    def _count(self, calls: Calls | None) -> None:
        if calls is not None:
            with self._lock:
                calls.made += 1
                if calls.kind:
                    calls.by_kind[calls.kind] += 1

    def _note_usage(self, response: requests.Response) -> None:
        match = USAGE.search(response.headers.get("Sforce-Limit-Info", ""))
        if match:  # a limit of 0 means unknown
            self.usage = Usage(int(match[1]), int(match[2])) if int(match[2]) else None

    def _moved(self, redirected: RedirectedError) -> Unauthorised:
        """Return the error for a redirect: a new login finds a moved instance; anything else needs an
        operator."""
        if may_receive_secrets(self.settings, redirected.host):
            remedy = f"if the org moved there, set SALESFORCE_LOGIN_URL=https://{redirected.host}"
        else:
            remedy = "a proxy answers in Salesforce's place, or SALESFORCE_LOGIN_URL is not the org's"
        return Unauthorised(
            f"Salesforce answered {redirected.status} and redirects to {redirected.target}, "
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
        """Return this thread's client with the current token, in direct mode: it never logs in by itself."""
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

    def _forget(self, generation: int) -> None:
        """Let the next call log in: after a move of the org, or its host, only a login tells where it is.

        While an outage lasts, it does so less and less often.
        """
        with self._lock:
            now = time.monotonic()
            if generation != self._generation or self._token is None or now < self._next_doubt:
                return
            pause = min(FIRST_DOUBT * 2**self._doubts, LONGEST_DOUBT)
            self._doubts, self._next_doubt = self._doubts + 1, now + pause * self.retry.scale
            self._token = None
            log.info("salesforce_token_forgotten", reason="the connection to the instance is lost")

    def _fresh(self, generation: int) -> bool:
        """Whether this token replaced one that was refused, and was never accepted so far."""
        with self._lock:
            return generation == self._generation and self._token is not None and self._refusals > 0

    def _login_again(self, generation: int, refusal: Unauthorised) -> None:
        """Log in once for all threads that met a dead token; raise LoginError if a new token is refused."""
        with self._lock:
            if generation != self._generation and self._token is not None:
                return
            if self._failed is not None and self._failed[0] == generation:
                raise copy(self._failed[1])
            self._refusals += 1
            try:
                if self._refusals > 1:
                    what = str(refusal) if refusal.lasting else f"a new token was refused, too: {refusal}"
                    raise self._refused.note(LoginError(what))
                log.info("salesforce_session_ended", reason=clip(refusal, 200))
                self._token = None
                self._login()
            except SyncError as error:
                # The next run logs in again; threads with the same token do not.
                self._token, self._refusals, self._failed = None, 0, (generation, error)
                raise

    def _login(self) -> None:
        """Log in, unless Salesforce refused it recently; raise LoginError, whose message says what to
        correct."""
        self._refused.check()
        now = time.monotonic()
        if len(self._logins) == LOGINS_PER_HOUR and now - self._logins[0] < 3600:
            next_login = datetime.now(UTC) + timedelta(seconds=3600 - (now - self._logins[0]))
            raise LoginError(
                f"{LOGINS_PER_HOUR} logins within an hour: something ends this user's sessions; "
                f"no further login before {utc(next_login)}"
            )
        self._logins.append(now)
        http = self._http  # of this thread, not of the thread that makes the call
        try:
            token = run_attempts(self.retry, self.stop, lambda: request_token(self.settings, http))
        except LoginError as error:
            raise self._refused.note(error) from None
        # The org's Id before the "!" is no secret and appears in messages.
        printable.hide_token(token.access.partition("!")[2] or token.access)
        self._token = token
        self._generation += 1
        log.info("salesforce_login", flow=self.settings.flow, instance=token.instance)


def is_unconnected(error: SyncError) -> bool:
    """Return whether a call failed because the instance was not reached.

    That is: no answer, or an answer that is not the API's.
    """
    if isinstance(error, SalesforceError):
        lost = error.passing or error.status == 404
        return lost and not error.code and not isinstance(error, QueryLostError)
    return isinstance(error, LoginError)
