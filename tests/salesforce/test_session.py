"""Login, retries, re-login: what the session promises, seen from the other end of the wire."""

from __future__ import annotations

import csv
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TextIO

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from sync.config.settings import settings_from
from sync.errors import (
    DeferredError,
    FieldsMovedError,
    LoginError,
    QueryLostError,
    SalesforceError,
    StoppedError,
)
from sync.logs import logger, printable
from sync.salesforce.prefetch import prefetch
from sync.salesforce.session import http as http_module
from sync.salesforce.session.answers import Answer, Usage
from sync.salesforce.session.bodies import decode, decode_records
from sync.salesforce.session.connection import LOGINS_PER_HOUR
from sync.salesforce.session.login import audience
from sync.salesforce.session.retry import RetryPolicy
from sync.salesforce.session.session import Session
from sync.simulator import Simulator
from tests.support.world import LONG_AGO, NEVER_WAIT

CONTACTS = "SELECT Id, LastName FROM Contact ORDER BY Id"
FIELDS = ("Id", "LastName")
ONCE = RetryPolicy(attempts=1)
Ask = Callable[[Session], object]

ASKS: dict[str, Ask] = {
    "query": lambda session: session.query(CONTACTS).body["totalSize"],
    "describe": lambda session: session.describe("Contact")[0],
    "userinfo": lambda session: session.identity()["user_id"],
    "jobs": lambda session: session.resource("GET", jobs(session)).body["records"],
}


def jobs(session: Session) -> str:
    """The resource of Bulk query jobs."""
    return f"/services/data/v{session.version}/jobs/query"


def connect(
    sim: Simulator,
    flow: str = "client_credentials",
    retry: RetryPolicy = NEVER_WAIT,
    stop: threading.Event | None = None,
    changed: Mapping[str, str] | None = None,
) -> Session:
    environment = {"DATABASE_URL": "postgres:///unused", **sim.environment(flow), **(changed or {})}
    return Session(settings_from(environment), stop, retry)


@pytest.fixture(autouse=True)
def no_bundle_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see only the certificates they are given."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def session(sim: Simulator) -> Session:
    """A session that never waits, and an org with five contacts."""
    sim.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)], stamp=LONG_AGO)
    return connect(sim)


def kinds(sim: Simulator) -> Counter[str]:
    """How many requests of each kind reached the org."""
    return Counter(request.kind for request in sim.requests)


def names(answer: Answer) -> list[str]:
    return [last_name for _, last_name in answer.body["records"]]


# ── the three flows ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("flow", ["client_credentials", "jwt", "password"])
def test_login_flows(sim: Simulator, flow: str) -> None:
    """Each flow logs in with one token request, and its token is good for every call."""
    session = connect(sim, flow)

    assert session.login() == sim.url
    assert session.login() == sim.url
    assert session.query(CONTACTS, FIELDS).body["records"] == []
    assert session.identity()["preferred_username"] == sim.credentials.username
    assert [r.kind for r in sim.requests] == ["token", "query", "userinfo"]


@pytest.mark.parametrize(
    ("url", "who"),
    [
        ("https://login.salesforce.com", "https://login.salesforce.com"),
        ("https://test.salesforce.com", "https://test.salesforce.com"),
        ("https://acme.my.salesforce.com", "https://login.salesforce.com"),
        ("https://acme.develop.my.salesforce.com", "https://login.salesforce.com"),
        ("https://acme--uat.sandbox.my.salesforce.com", "https://test.salesforce.com"),
        ("https://acme.scratch.my.salesforce.com", "https://test.salesforce.com"),
        ("https://localhost:8443", "https://localhost:8443"),
        ("https://salesforce.com.example.org", "https://salesforce.com.example.org"),
    ],
)
def test_audience_of_an_assertion(sim: Simulator, url: str, who: str) -> None:
    """A JWT is addressed to production or sandbox login whatever My Domain is asked."""
    given = {"DATABASE_URL": "postgres:///unused", **sim.environment("jwt"), "SALESFORCE_LOGIN_URL": url}

    assert audience(settings_from(given)) == who


def test_audience_of_the_setting(sim: Simulator) -> None:
    """A JWT is addressed to SALESFORCE_AUDIENCE, where it is set."""
    given = {"DATABASE_URL": "postgres:///unused", "SALESFORCE_AUDIENCE": "https://x.example"}

    assert audience(settings_from(given | sim.environment("jwt"))) == "https://x.example"


def other_key() -> str:
    return (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        .decode()
    )


def refused(sim: Simulator, session: Session) -> str:
    """What a login says that a person has to mend: one token request, exit code 3."""
    with pytest.raises(LoginError) as failure:
        session.login()
    assert failure.value.exit_code == 3
    assert kinds(sim) == {"token": 1}
    return str(failure.value)


@pytest.mark.parametrize(
    ("flow", "setting", "value", "says", "advice"),
    [
        (
            "client_credentials",
            "SALESFORCE_CLIENT_SECRET",
            "x",
            "invalid client credentials",
            "check SALESFORCE_CLIENT_SECRET",
        ),
        (
            "client_credentials",
            "SALESFORCE_CLIENT_ID",
            "x",
            "client identifier invalid",
            "check SALESFORCE_CLIENT_ID",
        ),
        (
            "client_credentials",
            "SALESFORCE_LOGIN_URL",
            "",
            "request not supported on this domain",
            "My Domain URL",
        ),
        ("jwt", "SALESFORCE_CLIENT_ID", "x", "client identifier invalid", "check SALESFORCE_CLIENT_ID"),
        (
            "jwt",
            "SALESFORCE_PRIVATE_KEY",
            "",
            "invalid assertion",
            "does not belong to SALESFORCE_PRIVATE_KEY",
        ),
        ("jwt", "SALESFORCE_AUDIENCE", "https://x.example", "audience is invalid", "set SALESFORCE_AUDIENCE"),
        (
            "jwt",
            "SALESFORCE_USERNAME",
            "nobody@example.com",
            "user hasn't approved",
            "pre-authorise the user",
        ),
        ("password", "SALESFORCE_PASSWORD", "x", "authentication failure", "check SALESFORCE_USERNAME"),
        ("password", "SALESFORCE_SECURITY_TOKEN", "x", "authentication failure", "SALESFORCE_SECURITY_TOKEN"),
        (
            "password",
            "SALESFORCE_CLIENT_SECRET",
            "x",
            "invalid client credentials",
            "SALESFORCE_CLIENT_SECRET",
        ),
    ],
)
def test_wrong_settings_are_refused_with_advice(
    sim: Simulator, flow: str, setting: str, value: str, says: str, advice: str
) -> None:
    """A login with a wrong setting ends at once, in Salesforce's words and with the setting to look at."""
    computed = {"SALESFORCE_LOGIN_URL": sim.login_url, "SALESFORCE_PRIVATE_KEY": other_key()}
    told = refused(sim, connect(sim, flow, changed={setting: value or computed[setting]}))

    assert told.startswith("Salesforce refused the login: ")
    assert says in told
    assert advice in told


def test_no_run_as_user(sim: Simulator) -> None:
    """Client credentials without a Run As user: the advice names what an administrator has to set."""
    sim.options.run_as_user = False

    assert refused(sim, connect(sim)) == (
        "Salesforce refused the login: invalid_grant: no client credentials user enabled "
        "(set a Run As user in the app's client-credentials flow)"
    )


def test_inactive_user(sim: Simulator) -> None:
    """An inactive integration user is named as such."""
    sim.options.user_active = False

    assert "inactive user (activate the integration user)" in refused(sim, connect(sim, "jwt"))


@pytest.mark.parametrize(
    "fault",
    [
        *("token_wrong_domain", "token_no_user", "token_unknown_client", "token_wrong_secret"),
        *("token_ip_restricted", "token_not_approved", "token_consumer_not_approved", "token_audience"),
        *("token_assertion", "token_authentication_failure", "token_inactive_user"),
        *("token_app_blocked", "token_login_hours", "token_unsupported_grant", "token_rate_limit"),
        "token_expired_code",
    ],
)
def test_documented_refusals_come_with_advice(sim: Simulator, fault: str) -> None:
    """Every documented refusal that somebody can mend ends with what to do."""
    sim.faults.add(fault, times=None)

    assert refused(sim, connect(sim)).endswith(")")


@pytest.mark.parametrize("fault", ["token_inactive_organization"])
def test_other_refusals_are_told_as_they_came(sim: Simulator, fault: str) -> None:
    """A refusal without advice still says what Salesforce said, and is not tried again."""
    sim.faults.add(fault, times=None)

    assert refused(sim, connect(sim)).startswith("Salesforce refused the login: ")


@pytest.mark.parametrize(
    "fault",
    [
        *("token_busy", "token_unavailable_html", "server_error_html", "bad_gateway_html", "edge_no_route"),
        *("gateway_timeout_html", "too_many_requests", "reset", "truncated", "html_ok"),
    ],
)
def test_transient_login_errors_are_retried(sim: Simulator, fault: str) -> None:
    """A busy token endpoint, an outage or half an answer does not fail a login."""
    sim.faults.add(fault, on="token", times=2)
    session = connect(sim)

    assert session.login() == sim.url
    assert kinds(sim) == {"token": 3}


def test_login_attempts_are_capped(sim: Simulator) -> None:
    """A token endpoint that stays away fails the login as an outage, not as a refusal."""
    sim.faults.add("token_unavailable_html", times=None)

    with pytest.raises(SalesforceError, match="login: 503") as failure:
        connect(sim, retry=RetryPolicy(attempts=3, scale=0)).login()

    assert failure.value.exit_code == 1
    assert kinds(sim) == {"token": 3}


def test_untrusted_certificate(sim: Simulator) -> None:
    """A certificate that is not trusted ends the login at once, and the error names the remedy."""
    environment = {"DATABASE_URL": "postgres:///unused", **sim.environment()}
    del environment["REQUESTS_CA_BUNDLE"]

    with pytest.raises(LoginError, match=r"certificate is not trusted.*REQUESTS_CA_BUNDLE") as failure:
        Session(settings_from(environment)).login()

    assert failure.value.exit_code == 3
    assert kinds(sim) == {}


@pytest.mark.parametrize(
    ("variable", "file"),
    [
        ("REQUESTS_CA_BUNDLE", "other.pem"),
        ("CURL_CA_BUNDLE", "other.pem"),
        ("SSL_CERT_FILE", "other.pem"),
        ("CURL_CA_BUNDLE", "gone.pem"),
    ],
)
def test_private_ca_beside_other_bundles(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, file: str
) -> None:
    """The private CA stays trusted when the machine's environment points elsewhere, or nowhere."""
    (tmp_path / "other.pem").write_bytes(trustme.CA().cert_pem.bytes())
    monkeypatch.setenv(variable, str(tmp_path / file))

    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]


# ── a token that died ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("fault", ["session_expired", "invalid_jwt_format", "unauthorized_html"])
def test_dead_token_is_one_relogin(sim: Simulator, session: Session, fault: str, ask: str) -> None:
    """Whatever kind of 401 an expired token gets: one new login, the same call again, the right answer."""
    session.login()
    sim.faults.add(fault, on=ask)

    assert ASKS[ask](session) == ASKS[ask](connect(sim))
    assert [r.kind for r in sim.requests][:4] == ["token", ask, "token", ask]


@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
def test_token_that_runs_out(sim: Simulator, session: Session, token_format: str) -> None:
    """A session that times out between two passes is renewed without anybody noticing."""
    sim.options.token_format = token_format
    sim.options.token_ttl = 900
    session.query(CONTACTS)
    sim.clock.advance(901)

    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]
    assert [(r.kind, r.status) for r in sim.requests] == [
        *(("token", 200), ("query", 200), ("query", 401), ("token", 200), ("query", 200))
    ]


def test_userinfo_with_a_dead_token(sim: Simulator, session: Session) -> None:
    """userinfo answers a dead token with 403 and plain text: a re-login all the same."""
    session.login()
    sim.revoke_tokens()

    assert session.identity()["preferred_username"] == sim.credentials.username
    assert kinds(sim) == {"token": 2, "userinfo": 2}


def test_many_threads_meet_one_dead_token(sim: Simulator, session: Session) -> None:
    """Eight threads whose token died make one re-login between them, and all get their answer."""
    session.login()
    sim.revoke_tokens()
    sim.options.latency = 0.05
    together = threading.Barrier(8)

    def ask() -> list[str]:
        together.wait()
        return names(session.query(CONTACTS, FIELDS))

    with ThreadPoolExecutor(8) as pool:
        answers = [each.result() for each in [pool.submit(ask) for _ in range(8)]]

    assert answers == [["n0", "n1", "n2", "n3", "n4"]] * 8
    assert kinds(sim)["token"] == 2
    assert Counter(r.status for r in sim.requests if r.kind == "query") == {401: 8, 200: 8}


def test_token_refused_for_ever(sim: Simulator, session: Session) -> None:
    """A fresh token that is refused as well ends the work: Salesforce counts logins."""
    session.login()
    sim.faults.add("session_expired", on="query", times=None)

    with pytest.raises(LoginError, match="a new token was refused, too: Salesforce answered 401") as failure:
        session.query(CONTACTS)

    assert failure.value.exit_code == 3
    assert kinds(sim) == {"token": 2, "query": 5}


def test_many_threads_with_tokens_refused_for_ever(sim: Simulator, session: Session) -> None:
    """Many threads do not multiply the logins of a token that is refused for ever."""
    session.login()
    sim.faults.add("session_expired", on="query", times=None)

    with ThreadPoolExecutor(8) as pool:
        outcomes = [each.exception() for each in [pool.submit(session.query, CONTACTS) for _ in range(8)]]

    assert {type(outcome) for outcome in outcomes} == {LoginError}
    assert kinds(sim)["token"] == 2


def test_session_recovers_from_refusals(sim: Simulator, session: Session) -> None:
    """A worker lives for months: what was refused an hour ago is tried anew, with a new login."""
    session.login()
    sim.faults.add("session_expired", on="query", times=2)
    with pytest.raises(LoginError):
        session.query(CONTACTS)

    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]
    assert kinds(sim)["token"] == 3


def test_session_recovers_from_an_outage_of_the_login(sim: Simulator, session: Session) -> None:
    """A re-login that meets an outage fails the call; the next call logs in, whenever that is."""
    session.login()
    sim.revoke_tokens()
    outage = sim.faults.add("token_unavailable_html", times=None)
    for _ in range(2):
        with pytest.raises(SalesforceError, match="login: 503"):
            session.query(CONTACTS)
    sim.faults.remove(outage)

    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]


def test_session_recovers_from_a_refused_login(sim: Simulator, session: Session) -> None:
    """A login that was refused, and mended in Salesforce, succeeds without a restart."""
    sim.options.run_as_user = False
    for _ in range(2):
        with pytest.raises(LoginError, match="no client credentials user enabled"):
            session.query(CONTACTS)
    sim.options.run_as_user = True

    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]


def test_relogins_in_a_row_are_no_refusal(sim: Simulator, session: Session) -> None:
    """Sessions that end one after the other, each after some use, are renewed each time."""
    for _ in range(5):
        assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]
        sim.revoke_tokens()

    assert kinds(sim)["token"] == 5


def test_logins_per_hour_are_capped(sim: Simulator, session: Session) -> None:
    """Something that ends our sessions again and again does not use up the user's logins."""
    for _ in range(LOGINS_PER_HOUR):
        session.query(CONTACTS)
        sim.revoke_tokens()

    with pytest.raises(LoginError, match=f"{LOGINS_PER_HOUR} logins within an hour"):
        session.query(CONTACTS)

    assert kinds(sim)["token"] == LOGINS_PER_HOUR == 20


# ── locators ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def paged(sim: Simulator, session: Session) -> Answer:
    """A first page that is not the last."""
    sim.options.page_sizes = 2
    return session.query(CONTACTS, FIELDS)


def page_after(session: Session, answer: Answer) -> Answer:
    return session.next_page(answer.body["nextRecordsUrl"], answer.generation, FIELDS)


def test_pages_are_followed(session: Session, paged: Answer) -> None:
    """The page behind a locator is the next one, and may be asked for again."""
    assert names(page_after(session, paged)) == ["n2", "n3"]
    assert names(page_after(session, paged)) == ["n2", "n3"]


@pytest.mark.parametrize("refusal", ["INVALID_SESSION_ID", "INVALID_QUERY_LOCATOR"])
@pytest.mark.parametrize("bound", [True, False])
def test_locator_is_not_carried_over_a_relogin(
    sim: Simulator, session: Session, paged: Answer, bound: bool, refusal: str
) -> None:
    """A session that ends between two pages: one re-login, and the query has to be asked again."""
    sim.options.locator_bound_to_session, sim.options.locator_refusal = bound, refusal
    sim.revoke_tokens()

    with pytest.raises(QueryLostError):
        page_after(session, paged)

    assert kinds(sim) == {"token": 2, "query": 1, "page": 1}
    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1"]
    assert kinds(sim)["token"] == 2


def test_locator_after_another_threads_relogin(sim: Simulator, session: Session, paged: Answer) -> None:
    """A locator of a session that another thread replaced is given up at once, without one more login."""
    sim.revoke_tokens()
    with ThreadPoolExecutor(1) as other:
        other.submit(session.query, CONTACTS).result()
    assert kinds(sim)["token"] == 2

    with pytest.raises(QueryLostError):
        page_after(session, paged)

    assert kinds(sim) == {"token": 2, "query": 3}


def test_locator_in_another_thread(sim: Simulator, session: Session, paged: Answer) -> None:
    """Pages may be asked for by whichever thread, as long as it is the session that made the query."""
    with ThreadPoolExecutor(1) as other:
        second = other.submit(page_after, session, paged).result()

    assert names(second) == ["n2", "n3"]
    assert names(page_after(session, second)) == ["n4"]
    assert kinds(sim)["token"] == 1


def test_an_answer_tells_the_session_it_is_of(sim: Simulator, session: Session) -> None:
    """Answers before and after a re-login are told apart, whichever thread asked."""
    before = session.query(CONTACTS)
    same = session.query(CONTACTS)
    sim.revoke_tokens()
    with ThreadPoolExecutor(1) as other:
        after = other.submit(session.query, CONTACTS).result()

    assert before.generation == same.generation != after.generation == session.query(CONTACTS).generation


def test_two_readers_survive_one_expiry(sim: Simulator, session: Session) -> None:
    """Two objects read side by side lose one session: one re-login, and both get to their end."""
    sim.options.page_sizes = 4
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        lost = {reader: reader.submit(session.query, CONTACTS, FIELDS).result() for reader in (one, other)}
        sim.revoke_tokens()
        again = {}
        for reader, answer in lost.items():
            with pytest.raises(QueryLostError):
                reader.submit(page_after, session, answer).result()
            again[reader] = reader.submit(session.query, CONTACTS, FIELDS).result()
        last = [names(reader.submit(page_after, session, each).result()) for reader, each in again.items()]

    assert last == [["n4"], ["n4"]]
    assert kinds(sim)["token"] == 2


@pytest.mark.parametrize("fault", ["invalid_query_locator", "not_found"])
def test_lost_locator(sim: Simulator, session: Session, paged: Answer, fault: str) -> None:
    """A locator that Salesforce forgot loses the query, and nothing else."""
    sim.faults.add(fault, on="page")

    with pytest.raises(QueryLostError):
        page_after(session, paged)

    assert kinds(sim) == {"token": 1, "query": 1, "page": 1}


@pytest.mark.parametrize("fault", ["query_more_failure", "unavailable_html", "truncated", "reset"])
def test_page_is_asked_for_again(sim: Simulator, session: Session, paged: Answer, fault: str) -> None:
    """A passing failure asks for the same page again; the query goes on where it was."""
    sim.faults.add(fault, on="page", times=2)

    assert names(page_after(session, paged)) == ["n2", "n3"]
    assert kinds(sim) == {"token": 1, "query": 1, "page": 3}


# ── retries ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fault",
    [
        *("unknown_exception", "server_error_html", "bad_gateway_html", "unavailable_html"),
        *("server_unavailable", "gateway_timeout_html", "html_ok", "truncated", "reset", "edge_no_route"),
        *("not_acceptable", "too_many_requests", "concurrent_limit"),
        "transaction_security",
    ],
)
def test_passing_failures_are_retried(sim: Simulator, session: Session, fault: str) -> None:
    """What another attempt may not meet is attempted again, with the same token."""
    sim.faults.add(fault, on="query", times=2)

    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]
    assert kinds(sim) == {"token": 1, "query": 3}


def test_a_query_that_is_not_finished_in_time(sim: Simulator, session: Session) -> None:
    """It is asked twice, two minutes each: then another way is better."""
    sim.faults.add("query_timeout", on="query", times=1)
    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]
    sim.faults.add("query_timeout", on="query", times=2)
    with pytest.raises(SalesforceError, match="QUERY_TIMEOUT"):
        session.query(CONTACTS, FIELDS)


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("request_limit", DeferredError, 4),
        ("invalid_field", FieldsMovedError, 1),
        ("insufficient_access", SalesforceError, 1),
        ("api_disabled_for_org", SalesforceError, 1),
        ("api_currently_disabled", SalesforceError, 1),
        ("functionality_not_enabled", SalesforceError, 1),
        ("not_found", SalesforceError, 1),
        ("gone", SalesforceError, 1),
        ("uri_too_long", SalesforceError, 1),
        ("headers_too_large", SalesforceError, 1),
        ("query_too_complicated", SalesforceError, 1),
        ("operation_too_large", SalesforceError, 1),
    ],
)
def test_lasting_failures_are_not(
    sim: Simulator, session: Session, fault: str, error: type[Exception], code: int
) -> None:
    """What another attempt would meet again fails at once, and costs one call."""
    sim.faults.add(fault, on="query", times=None)

    with pytest.raises(error) as failure:
        session.query(CONTACTS)

    assert type(failure.value) is error
    assert failure.value.exit_code == code  # type: ignore[attr-defined]  # all are errors of ours
    assert kinds(sim) == {"token": 1, "query": 1}


def test_daily_limit_as_the_org_enforces_it(sim: Simulator, session: Session) -> None:
    """An org whose requests are used up defers the work rather than failing it."""
    session.login()
    sim.options.enforce_limit, sim.options.limit_used = True, sim.options.limit_max

    with pytest.raises(DeferredError, match="the org's daily API requests are used up"):
        session.query(CONTACTS)


def test_attempts_are_capped(sim: Simulator, session: Session) -> None:
    """An outage that lasts fails the call after six attempts, with what Salesforce said last."""
    sim.faults.add("server_unavailable", on="query", times=None)

    with pytest.raises(SalesforceError, match="503 SERVER_UNAVAILABLE: The server is") as failure:
        session.query(CONTACTS)

    assert (failure.value.status, failure.value.code) == (503, "SERVER_UNAVAILABLE")
    assert kinds(sim) == {"token": 1, "query": 6}


@pytest.mark.parametrize("fault", ["unavailable_html", "server_unavailable", "too_many_requests"])
def test_retry_after_is_honoured(sim: Simulator, fault: str) -> None:
    """Salesforce says how long to wait, and that is how long we wait (here: a hundredth of it)."""
    sim.faults.add(fault, on="query", times=1, retry_after=40)
    session = connect(sim, retry=RetryPolicy(scale=0.01))
    session.login()

    started = time.monotonic()
    session.query(CONTACTS)

    assert 0.4 <= time.monotonic() - started < 3


def test_waiting_grows_and_is_capped(sim: Simulator) -> None:
    """Without Retry-After the pauses are random, and none is longer than the policy allows."""
    sim.faults.add("unavailable_html", on="query", times=9)
    session = connect(sim, retry=RetryPolicy(attempts=10, longest=0.02))
    session.login()

    started = time.monotonic()
    session.query(CONTACTS)

    assert time.monotonic() - started < 9 * 0.02 + 3
    assert kinds(sim)["query"] == 10


def test_total_time_is_capped(sim: Simulator) -> None:
    """However many attempts are left, a call gives up when its time is over."""
    sim.faults.add("unavailable_html", on="query", times=None)
    session = connect(sim, retry=RetryPolicy(attempts=10_000, total=0.5, longest=0.05))
    session.login()

    started = time.monotonic()
    with pytest.raises(SalesforceError, match="503"):
        session.query(CONTACTS)

    assert 0.3 < time.monotonic() - started < 4


@pytest.mark.parametrize("asked", ["3600", "86400", "100000000000000000000", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_long_wait_is_a_deferral(sim: Simulator, asked: str) -> None:
    """Asked to come back in an hour, a call waits for nothing: the work is deferred, exit code 4."""
    sim.faults.add("unavailable_html", on="query", times=None, retry_after=asked)
    session = connect(sim, retry=RetryPolicy())

    started = time.monotonic()
    with pytest.raises(DeferredError, match=r"503.*Retry-After asks to wait .* a later run tries") as failure:
        session.query(CONTACTS)

    assert time.monotonic() - started < 5
    assert failure.value.exit_code == 4
    assert kinds(sim)["query"] == 1


def test_a_login_may_be_deferred_too(sim: Simulator) -> None:
    """A token endpoint that asks for a long wait defers the work."""
    sim.faults.add("token_unavailable_html", times=None, on="token", retry_after=86_400)
    with pytest.raises(DeferredError, match="86,400 seconds"):
        connect(sim).login()


def test_a_long_wait_of_a_call_that_is_not_needed(sim: Simulator, session: Session) -> None:
    """A call that the work can do without is given up: nothing is deferred for it."""
    sim.faults.add("unavailable_html", on="query", times=None, retry_after=3600)

    with pytest.raises(SalesforceError, match="503") as failure:
        session.query(CONTACTS, best_effort=True)
    assert failure.value.passing
    assert kinds(sim)["query"] == 1


@pytest.mark.parametrize(("kind", "ask"), [*ASKS.items(), ("token", Session.login)])
def test_no_call_waits_for_ever(sim: Simulator, monkeypatch: pytest.MonkeyPatch, kind: str, ask: Ask) -> None:
    """Every kind of call, the login included, gives up on a server that does not answer."""
    monkeypatch.setattr(http_module, "READ_SECONDS", 0.2)
    sim.faults.add("hang", on=kind, times=None)

    with pytest.raises(SalesforceError, match="no answer from Salesforce: ReadTimeout"):
        ask(connect(sim, retry=ONCE))


def test_page_has_a_timeout_too(
    sim: Simulator, session: Session, paged: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that never comes is given up like any other call."""
    monkeypatch.setattr(http_module, "READ_SECONDS", 0.2)
    sim.faults.add("hang", on="page")

    assert names(page_after(session, paged)) == ["n2", "n3"]


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────────


def stops_within(seconds: float, stop: threading.Event, ask: Callable[[], object]) -> None:
    """The call ends with StoppedError so soon after the event."""
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(StoppedError):
        ask()
    assert 0.25 < time.monotonic() - started < 0.3 + seconds
    timer.join()


def test_stop_ends_a_retry_wait(sim: Simulator) -> None:
    """A dyno has seconds to stop: a wait between attempts ends at once."""
    sim.faults.add("unavailable_html", on="query", times=None, retry_after=60)
    stop = threading.Event()
    session = connect(sim, retry=RetryPolicy(), stop=stop)
    session.login()

    stops_within(2, stop, lambda: session.query(CONTACTS))
    assert kinds(sim)["query"] == 1


@pytest.mark.parametrize(("kind", "ask"), [*ASKS.items(), ("token", Session.login)])
def test_stop_leaves_a_hanging_call(sim: Simulator, kind: str, ask: Ask) -> None:
    """A call that hangs, the login included, does not hold a stop up."""
    stop = threading.Event()
    session = connect(sim, stop=stop)
    sim.faults.add("hang", on=kind, times=None)

    stops_within(2, stop, lambda: ask(session))


def test_stop_before_a_call(sim: Simulator, session: Session) -> None:
    """After a stop nothing more is asked."""
    session.login()
    session.stop.set()

    with pytest.raises(StoppedError):
        session.query(CONTACTS)
    assert kinds(sim) == {"token": 1}


def test_pause_ends_with_a_stop(sim: Simulator) -> None:
    """A wait between two looks at something ends at once when the process is asked to stop."""
    stop = threading.Event()
    session = connect(sim, retry=RetryPolicy(), stop=stop)

    stops_within(1, stop, lambda: session.pause(60))
    with pytest.raises(StoppedError):
        session.pause(0)


def test_pause_takes_its_time(sim: Simulator) -> None:
    """A pause is as long as asked for, and none where tests turn waiting off."""
    started = time.monotonic()
    connect(sim, retry=RetryPolicy()).pause(0.2)
    assert 0.2 <= time.monotonic() - started < 2

    connect(sim).pause(3600)
    assert time.monotonic() - started < 4


# ── resources by their path ───────────────────────────────────────────────────────────────────────────


QUESTION = {"operation": "queryAll", "query": "SELECT Id, LastName FROM Contact"}


def test_life_of_a_job(sim: Simulator, session: Session) -> None:
    """A job is made, looked at, stopped and deleted; what answers without a body has none."""
    sim.options.bulk_polls = 100
    made = session.resource("POST", jobs(session), QUESTION)
    path = f"{jobs(session)}/{made.body['id']}"

    assert made.body["state"] == "UploadComplete"
    assert session.resource("GET", path).body["id"] == made.body["id"]
    assert session.resource("PATCH", path, {"state": "Aborted"}).body["state"] == "Aborted"
    assert session.resource("DELETE", path).body is None
    assert [(r.method, r.kind, r.status) for r in sim.requests[1:]] == [
        ("POST", "job_create", 200),
        ("GET", "job", 200),
        ("PATCH", "job_abort", 200),
        ("DELETE", "job_delete", 204),
    ]


def test_version_is_the_pinned_one(sim: Simulator) -> None:
    """All calls of a job have to use one version: it is the setting's, for whoever writes a path."""
    session = connect(sim, changed={"SALESFORCE_API_VERSION": "61.0"})
    session.query(CONTACTS)

    assert session.version == "61.0"
    assert sim.requests[-1].path.startswith("/services/data/v61.0/")


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_resource_that_is_gone(sim: Simulator, session: Session, method: str, dead: bool) -> None:
    """A job that Salesforce does not know any more is lost, at once and with its status; also after a re-login."""
    body = {"state": "Aborted"} if method == "PATCH" else None
    session.login()
    if dead:
        sim.revoke_tokens()

    with pytest.raises(QueryLostError) as failure:
        session.resource(method, f"{jobs(session)}/750RO0000000001AAA", body)

    assert failure.value.status == 404
    assert [r.status for r in sim.requests if r.kind != "token"] == [401, 404][not dead :]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("bulk_entity", 400, "INVALIDENTITY"),
        ("bulk_compound", 400, "API_ERROR"),
        ("bulk_job_limit", 400, "LIMIT_EXCEEDED"),
        ("api_currently_disabled", 403, "API_CURRENTLY_DISABLED"),
    ],
)
def test_refused_resource(sim: Simulator, session: Session, fault: str, status: int, code: str) -> None:
    """A refusal is told with its status and code, and not tried again."""
    sim.faults.add(fault, on="job_create", times=None)

    with pytest.raises(SalesforceError) as failure:
        session.resource("POST", jobs(session), QUESTION)

    assert type(failure.value) is SalesforceError
    assert (failure.value.status, failure.value.code) == (status, code)
    assert kinds(sim) == {"token": 1, "job_create": 1}


@pytest.mark.parametrize("fault", ["unavailable_html", "truncated", "reset", "html_ok", "concurrent_limit"])
def test_resource_is_retried(sim: Simulator, session: Session, fault: str) -> None:
    """What passes is tried again, whatever the method."""
    path = f"{jobs(session)}/{session.resource('POST', jobs(session), QUESTION).body['id']}"
    sim.faults.add(fault, on="job", times=2)

    assert session.resource("GET", path).body["state"] == "JobComplete"
    assert kinds(sim) == {"token": 1, "job_create": 1, "job": 3}


def test_deleting_twice_is_no_failure_to_delete(sim: Simulator, session: Session) -> None:
    """A delete whose answer got lost finds the job gone when it is tried again: it is lost, which is what was wanted."""
    path = f"{jobs(session)}/{session.resource('POST', jobs(session), QUESTION).body['id']}"
    sim.faults.add("truncated", on="job_delete")
    sim.faults.add("reset", on="job_delete")

    with suppress(QueryLostError):
        session.resource("DELETE", path)
    assert sim.org.jobs.all() == []


def test_what_is_sent_to_a_resource(listener: Listener) -> None:
    """A body goes as JSON, with our token; without a body nothing is sent."""
    session = listener.session()
    session.resource("POST", "/services/data/v66.0/jobs", {"query": "SELECT 'é'"})
    session.resource("GET", "/services/data/v66.0/jobs/750")

    post, get = listener.sent[1:]
    assert (post.method, post.path, json.loads(post.body)) == (
        "POST",
        "/services/data/v66.0/jobs",
        {"query": "SELECT 'é'"},
    )
    assert post.headers["content-type"].startswith("application/json")
    assert (get.method, get.body) == ("GET", "")
    assert post.headers["authorization"] == get.headers["authorization"] == "Bearer 00Dxx0000000001!token"


# ── CSV as it arrives ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def results(session: Session) -> str:
    """The path of a job's results: five contacts."""
    made = session.resource("POST", jobs(session), QUESTION)
    path = f"{jobs(session)}/{made.body['id']}"
    assert session.resource("GET", path).body["state"] == "JobComplete"
    return f"{path}/results"


class Reader:
    """Reads a result page as its caller does: it counts, and says so where the count is wrong."""

    def __init__(self) -> None:
        self.begun = 0

    def __call__(self, headers: Mapping[str, str], lines: TextIO) -> list[str]:
        self.begun += 1
        header, *rows = csv.reader(lines, strict=True)
        assert header == ["Id", "LastName"]
        if len(rows) != int(headers["Sforce-NumberOfRecords"]):
            raise ValueError(f"{len(rows)} rows")
        return sorted(row[1] for row in rows)


EVERYBODY = ["n0", "n1", "n2", "n3", "n4"]


def test_stream(sim: Simulator, session: Session, results: str) -> None:
    """What the reader makes of headers and lines is what the caller gets."""
    read = Reader()
    with session.counted() as calls:
        assert session.stream(results, read) == EVERYBODY

    assert (read.begun, calls.made) == (1, 1)
    assert session.usage is not None


@pytest.mark.parametrize("gzip", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("charset", [True, False])
def test_stream_in_any_dress(
    sim: Simulator, session: Session, results: str, gzip: bool, chunked: bool, charset: bool
) -> None:
    """Compressed or not, in chunks or with its length, with a charset or without: it is the same CSV."""
    sim.options.gzip, sim.options.chunked, sim.options.bulk_charset = gzip, chunked, charset

    assert session.stream(results, Reader()) == EVERYBODY


@pytest.mark.parametrize(
    ("fault", "begun"),
    [
        ("unavailable_html", 1),
        ("server_unavailable", 1),
        ("bad_gateway_html", 1),
        ("too_many_requests", 1),
        ("reset", 1),
        ("html_ok", 1),
        ("truncated", 3),
        ("missing_rows", 3),
        ("repeated_rows", 3),
    ],
)
def test_stream_is_asked_for_again(
    sim: Simulator, session: Session, results: str, fault: str, begun: int
) -> None:
    """After a failure, before the body or within it, the page is read anew from its start."""
    sim.faults.add(fault, on="results", times=2)
    read = Reader()

    with session.counted() as calls:
        assert session.stream(results, read) == EVERYBODY

    assert (read.begun, calls.made) == (begun, 3)
    assert kinds(sim)["results"] == 3
    assert kinds(sim)["token"] == 1


@pytest.mark.parametrize("rows", [0, 1, 4])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_stream_cut_anywhere(
    sim: Simulator, session: Session, results: str, rows: int, clean: bool, chunked: bool
) -> None:
    """A body cut after so many rows is never taken for whole, however well its end looks."""
    sim.options.chunked = chunked
    sim.faults.add("truncated", on="results", times=2, rows=rows, clean=clean)
    read = Reader()

    assert session.stream(results, read) == EVERYBODY
    assert read.begun == 3


def test_stream_that_is_never_right(sim: Simulator, session: Session, results: str) -> None:
    """What stays wrong after six attempts is an error with status 200 that says what is wrong."""
    sim.faults.add("missing_rows", on="results", times=None)

    with pytest.raises(SalesforceError, match="4 rows") as failure:
        session.stream(results, Reader())

    assert failure.value.status == 200
    assert kinds(sim)["results"] == 6


def test_stream_of_a_maintenance_page(sim: Simulator, session: Session, results: str) -> None:
    """A page of HTML in the place of CSV never reaches the reader, and is told as what it is."""
    sim.faults.add("html_ok", on="results", times=None)
    read = Reader()

    with pytest.raises(SalesforceError, match="not CSV but text/html") as failure:
        session.stream(results, read)

    assert failure.value.status == 200
    assert read.begun == 0


@pytest.mark.parametrize("fault", ["session_expired", "invalid_jwt_format", "unauthorized_html"])
def test_stream_with_a_dead_token(sim: Simulator, session: Session, results: str, fault: str) -> None:
    """A token that died since the last page is one re-login; the page is the job's, not the session's."""
    sim.faults.add(fault, on="results")
    read = Reader()

    assert session.stream(results, read) == EVERYBODY
    assert read.begun == 1
    assert kinds(sim)["token"] == 2


def test_stream_with_a_dead_token_after_a_cut(sim: Simulator, session: Session, results: str) -> None:
    """A token that dies between two attempts at one page does not end them."""
    sim.faults.add("truncated", on="results")
    sim.faults.add("session_expired", on="results", after=1)
    sim.faults.add("truncated", on="results", after=2)
    read = Reader()

    assert session.stream(results, read) == EVERYBODY
    assert read.begun == 3
    assert kinds(sim)["token"] == 2
    assert [r.status for r in sim.requests if r.kind == "results"] == [200, 401, 200, 200]


@pytest.mark.parametrize("fault", ["job_gone", "not_found"])
def test_stream_of_a_lost_job(sim: Simulator, session: Session, results: str, fault: str) -> None:
    """A job that is gone with its results is lost, and nothing is tried again."""
    sim.faults.add(fault, on="results", times=None)

    with pytest.raises(QueryLostError):
        session.stream(results, Reader())
    assert kinds(sim)["results"] == 1


def test_stream_of_a_refusal(sim: Simulator, session: Session, results: str) -> None:
    """A refusal of results is told with its status and code."""
    sim.faults.add("insufficient_access", on="results")

    with pytest.raises(SalesforceError) as failure:
        session.stream(results, Reader())
    assert (failure.value.status, failure.value.code) == (403, "INSUFFICIENT_ACCESS")


class Enough(Exception):
    """The reader's own reason to end."""


def test_a_readers_own_error_is_its_callers(sim: Simulator, session: Session, results: str) -> None:
    """An error of the reader that says nothing about the body ends the call as it is, in the middle of a page."""

    def read(_: Mapping[str, str], lines: TextIO) -> None:
        next(lines)
        raise Enough

    with pytest.raises(Enough):
        session.stream(results, read)
    assert kinds(sim)["results"] == 1
    assert session.stream(results, Reader()) == EVERYBODY


def test_a_patient_call_has_no_limit_in_time(sim: Simulator, session: Session, results: str) -> None:
    """A long download alone may use up the time of all attempts: only their number ends them."""
    hurried = connect(sim, retry=RetryPolicy(attempts=4, total=0.05, longest=0.2))
    hurried.login()
    sim.faults.add("slow", on="results", delay=0.1, times=None)
    slow = sim.faults.add("slow", on="query", delay=0.1, times=None)

    def failing(begun: list[float]) -> Callable[[Mapping[str, str], TextIO], int]:
        def read(_: Mapping[str, str], lines: TextIO) -> int:
            begun.append(time.monotonic())
            if len(begun) < 4:
                raise ValueError("not yet")
            return len(lines.read())

        return read

    times: list[float] = []
    assert hurried.stream(results, failing(times)) > 0
    assert times[-1] - times[0] > 0.05
    sim.faults.remove(slow)
    sim.faults.add("unavailable_html", on="query", times=None, retry_after=1)
    with pytest.raises(SalesforceError, match="503"):
        hurried.query(CONTACTS)
    assert kinds(sim)["query"] == 1


def test_patience_outlives_a_relogin(sim: Simulator, session: Session, results: str) -> None:
    """Also after a re-login a download has no limit in time."""
    hurried = connect(sim, retry=RetryPolicy(attempts=4, total=0.05, longest=0.2))
    hurried.login()
    sim.faults.add("session_expired", on="results")
    sim.faults.add("unavailable_html", on="results", after=1, times=2, retry_after=0.2)

    assert hurried.stream(results, Reader()) == EVERYBODY
    assert kinds(sim)["results"] == 4


def test_attempts_at_a_stream_are_capped(sim: Simulator, results: str, session: Session) -> None:
    """Without a limit in time the number of attempts is one."""
    sim.faults.add("unavailable_html", on="results", times=None)

    with pytest.raises(SalesforceError, match="503"):
        session.stream(results, Reader())
    assert kinds(sim)["results"] == 6


def test_stop_leaves_a_hanging_stream(sim: Simulator, session: Session, results: str) -> None:
    """Results that never begin do not hold a stop up."""
    sim.faults.add("hang", on="results", times=None)

    stops_within(2, session.stop, lambda: session.stream(results, Reader()))


def test_stop_leaves_a_reader_behind(sim: Simulator, session: Session, results: str) -> None:
    """A reader in the middle of a long page does not hold a stop up either."""
    done = threading.Event()

    def read(_: Mapping[str, str], lines: TextIO) -> None:
        next(lines)
        done.wait(10)

    stops_within(2, session.stop, lambda: session.stream(results, read))
    done.set()


def test_stream_that_stalls(
    sim: Simulator, session: Session, results: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that never come are given up like any other answer."""
    monkeypatch.setattr(http_module, "READ_SECONDS", 0.2)
    sim.faults.add("hang", on="results")

    assert session.stream(results, Reader()) == EVERYBODY
    assert kinds(sim)["results"] == 2


def csv_from(listener: Listener, body: bytes, **headers: str) -> str:
    """What a reader finds in a body, to the letter."""
    listener.query = body
    listener.headers = {"Content-Type": "text/csv; charset=UTF-8"} | headers
    return listener.session().stream(
        "/services/data/v66.0/jobs/query/750/results", lambda _, lines: lines.read()
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", '"Id"\n', "a\r\nb\rc\nd", "Zoë 日本 👩‍🚀 \u2028 \u0085", "\ufeffId", "a\0b"),
        "é" * 200_001,
    ],
)
def test_lines_come_to_the_letter(listener: Listener, text: str) -> None:
    """Nothing is done to a body but decoding: no line ending is translated, no mark removed, no letter split."""
    assert csv_from(listener, text.encode()) == text


def test_bytes_that_are_no_utf8(listener: Listener) -> None:
    """Bytes that are no UTF-8, and do not say what else they are, are no text: nobody guesses."""
    with pytest.raises(SalesforceError, match="can't decode byte 0xe9"):
        csv_from(listener, b"caf\xe9,\xff\nnext\n")


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        *(("; charset=ISO-8859-1", "café ÿ"), (";charset=iso-8859-1", "café"), ('; charset="latin1"', "é")),
        *(("; charset=windows-1252", "café €"), ("; charset=utf-8", "café €"), ("", "café €")),
    ],
)
def test_csv_in_the_encoding_that_it_names(listener: Listener, charset: str, text: str) -> None:
    """Older orgs answer in other encodings, and say so."""
    encoding = charset.partition("=")[2].strip('"') or "utf-8"

    assert csv_from(listener, text.encode(encoding), **{"Content-Type": f"text/csv{charset}"}) == text


@pytest.mark.parametrize("charset", ["UTF-16", "base64", "rot13", "x" * 5_000, "idna"])
def test_an_encoding_that_nobody_knows(listener: Listener, charset: str) -> None:
    """An encoding that results never have is refused: no codec of the server's choice is looked up."""
    with pytest.raises(SalesforceError, match=r"in an unknown encoding|not CSV but"):
        csv_from(listener, b"Id\n", **{"Content-Type": f"text/csv; charset={charset}"})


@pytest.mark.parametrize("kind", ["", "application/json", "text/html; charset=utf-8"])
def test_another_body_is_no_csv(listener: Listener, kind: str) -> None:
    """What does not say that it is CSV is none."""
    with pytest.raises(SalesforceError, match="not CSV but") as failure:
        csv_from(listener, b"Id\n", **{"Content-Type": kind})
    assert failure.value.status == 200


def test_compressed_csv_that_is_spoiled(listener: Listener) -> None:
    """A compressed body that cannot be unpacked is half an answer like any other."""
    with pytest.raises(SalesforceError, match="no answer from Salesforce"):
        csv_from(listener, b"this is not gzip", **{"Content-Encoding": "gzip"})


def test_lines_are_read_as_they_arrive(listener: Listener) -> None:
    """The first lines are there while the server still writes the others: a page need not fit into memory."""
    listener.query = b"first\n" * 20_000 + b"last\n"
    listener.headers = {"Content-Type": "text/csv"}
    listener.pause_at, listener.go_on = 110_000, threading.Event()

    def read(_: Mapping[str, str], lines: TextIO) -> int:
        assert next(lines) == "first\n"
        listener.go_on.set()
        return 1 + sum(1 for _ in lines)

    assert listener.session(ONCE).stream("/services/data/v66.0/jobs/query/750/results", read) == 20_001


def test_what_is_sent_for_a_stream(listener: Listener) -> None:
    """Results are asked for as CSV, compressed, with our token, by the path as it was given."""
    path = "/services/data/v66.0/jobs/query/750/results?locator=a%2Bb&maxRecords=50000"
    listener.headers = {"Content-Type": "text/csv"}
    listener.session().stream(path, lambda _, lines: lines.read())

    sent = listener.sent[-1]
    assert (sent.method, sent.path, sent.body) == ("GET", path, "")
    assert sent.headers["accept"] == "text/csv"
    assert "gzip" in sent.headers["accept-encoding"]
    assert sent.headers["authorization"] == "Bearer 00Dxx0000000001!token"


# ── what an answer carries ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["usual", "exponent", "plain"])
def test_numbers_keep_every_digit(sim: Simulator, session: Session, form: str) -> None:
    """Numbers come through as Salesforce wrote them, in whichever notation, never through a float."""
    sim.options.exponent_numbers, sim.options.plain_numbers = form == "exponent", form == "plain"
    id_ = sim.org.create(
        "Account",
        {"Name": "Big", "AnnualRevenue": 999_999_999_999_999_999, "BillingLatitude": "48.123456789012345"},
    )
    fields = ("AnnualRevenue", "BillingLatitude")
    [record] = session.query(f"SELECT {', '.join(fields)} FROM Account WHERE Id = '{id_}'", fields).body[
        "records"
    ]

    assert record == (Decimal(999_999_999_999_999_999), Decimal("48.123456789012345"))
    assert not [value for value in record if isinstance(value, float)]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"1.10", Decimal("1.10")),
        (b"4.0E8", Decimal("4.0E8")),
        (b"0.1000000000000000055511151231257827", Decimal("0.1000000000000000055511151231257827")),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b'["\\ud83d", 1.10]', ["\ud83d", Decimal("1.10")]),
        (b'"\\u0000"', "\0"),
    ],
)
def test_decoding(body: bytes, value: object) -> None:
    """JSON is read with every digit, and half a surrogate does not lose the page it is in."""
    found = decode(body)

    assert found == value
    assert str(found) == str(value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{", b'{"a": NaN}', b"[Infinity]", b"\xff\xfe", b'"\xe9"'])
def test_decoding_refuses_what_is_no_json(body: bytes) -> None:
    """Anything that is no JSON is a ValueError, and so an answer to ask for again."""
    with pytest.raises(ValueError, match=r"Expecting|not JSON|codec"):
        decode(body)


A_PAGE: dict[str, Any] = {"totalSize": 1, "done": True, "records": []}


def decoded(names: Sequence[str], *records: object, **page: Any) -> Any:
    """What becomes of a page with these records."""
    return decode_records(json.dumps(A_PAGE | {"records": records} | page).encode(), tuple(names))


def test_records_are_the_fields_asked_for() -> None:
    """Of a record nothing is kept but the values asked for, in that order, null where there is none."""
    record = {"attributes": {"type": "Contact", "url": "/x"}, "Id": "003", "LastName": "n", "Size": 7}

    assert decoded(["LastName", "Id", "Gone"], record, {}, {"Id": None})["records"] == [
        ("n", "003", None),
        (None, None, None),
        (None, None, None),
    ]
    assert decoded([], record)["records"] == [()]


@pytest.mark.parametrize(
    "value", [None, True, 0, -7, "", "x", "\ud83d", [1, {"a": None}], {"city": "Ulm"}, 10**40]
)
def test_any_value_of_a_field(value: Any) -> None:
    """A value is what it is, also where half a surrogate elsewhere in the page asks for the slower way."""
    fast = decoded(["Id", "Value"], {"Id": "a", "Value": value})
    slow = decoded(["Id", "Value"], {"Id": "a", "Value": value}, {"Id": "\ud83d"})

    assert fast["records"][0] == slow["records"][0] == ("a", value)
    assert type(fast["records"][0][1]) is type(slow["records"][0][1]) is type(value)


@pytest.mark.parametrize("text", ["1.10", "4.0E8", "-0.0", "123456789012345678.90", "1E-18", "300.0"])
@pytest.mark.parametrize("other", ['"x"', '"\\ud83d"'])
def test_digits_of_any_page(text: str, other: str) -> None:
    """Whichever way a page is decoded, numbers keep every digit."""
    body = f'{{"totalSize": 1, "done": true, "records": [{{"Score__c": {text}, "Id": {other}}}]}}'

    [(number, _)] = decode_records(body.encode(), ("Score__c", "Id"))["records"]

    assert str(number) == str(Decimal(text))


@pytest.mark.parametrize("spoiled", [False, True])
def test_what_a_page_says_of_the_others(spoiled: bool) -> None:
    """Size, end and next page are told whichever way the page was decoded; a missing `done` is left missing."""
    record = {"Id": "\ud83d" if spoiled else "a"}
    whole = decoded(["Id"], record, done=False, totalSize=12, nextRecordsUrl="/next")

    assert (whole["totalSize"], whole["done"], whole["nextRecordsUrl"]) == (12, False, "/next")
    assert decoded(["Id"], record).get("nextRecordsUrl") is None
    bare = {"totalSize": 1, "records": [record]}
    assert decode_records(json.dumps(bare).encode(), ("Id",))["records"] == [(record["Id"],)]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b"7", b"null", b'{"message": "maintenance"}', b'{"records": [7]}']
)
def test_what_is_no_page(body: bytes) -> None:
    """Anything that is no page of records is a ValueError, and so an answer to ask for again."""
    with pytest.raises(ValueError, match=r"."):
        decode_records(body, ("Id",))


def test_answers_carry_the_orgs_clock(sim: Simulator, session: Session) -> None:
    """The time of an answer is Salesforce's, not this machine's."""
    moment = datetime(2027, 5, 1, 12, 30, 15, tzinfo=UTC)
    sim.clock.freeze(moment)

    assert session.query(CONTACTS).at == moment
    assert session.describe("Contact")[1] == moment


def test_answer_without_a_clock(sim: Simulator, session: Session) -> None:
    """Without a Date header there is no safe window: an error says so, and who may be to blame."""
    sim.faults.add("no_date", on="query")

    with pytest.raises(SalesforceError, match="no readable Date header; a proxy may remove it"):
        session.query(CONTACTS)


def test_usage_is_read(sim: Simulator, session: Session) -> None:
    """Every answer tells how much of the org's daily requests is used."""
    sim.options.limit_used, sim.options.limit_max = 1200, 15_000
    known = []
    for sim.options.per_app_info in (None, "17/250(appName=sync)"):
        session.query(CONTACTS)
        known.append(session.usage)

    assert known == [Usage(used=1201, limit=15_000), Usage(used=1202, limit=15_000)]


def test_usage_may_be_missing(sim: Simulator, session: Session) -> None:
    """An answer without Sforce-Limit-Info changes nothing about what is known."""
    known = []
    sim.faults.add("no_limit_info", on="query")
    sim.faults.add("no_limit_info", on="query", after=2)
    for _ in range(3):
        session.query(CONTACTS)
        known.append(session.usage)

    assert known == [None, Usage(used=2, limit=100_000), Usage(used=2, limit=100_000)]


def test_calls_are_counted(sim: Simulator, session: Session) -> None:
    """A run's API calls are those made within it, every attempt of them; logins are none."""
    sim.faults.add("unavailable_html", on="query", times=2)
    session.query(CONTACTS)
    with session.counted() as calls:
        assert calls.made == 0
        session.describe("Contact")
        session.query(CONTACTS)
        assert calls.made == 2
        sim.faults.add("unavailable_html", on="query", times=2)
        session.query(CONTACTS)
    session.query(CONTACTS)

    assert calls.made == 5


def test_logins_are_not_counted(sim: Simulator, session: Session) -> None:
    """Neither the first login nor one in between counts; the call that met the dead token does."""
    sim.faults.add("token_busy")
    with session.counted() as calls:
        session.query(CONTACTS)
        sim.revoke_tokens()
        session.query(CONTACTS)

    assert calls.made == 3
    assert kinds(sim) == {"token": 3, "query": 3}


def test_failed_calls_are_counted(sim: Simulator, session: Session) -> None:
    """A call that fails in the end has cost what it has cost."""
    sim.faults.add("server_unavailable", on="query", times=None)
    with session.counted() as calls, pytest.raises(SalesforceError):
        session.query(CONTACTS)

    assert calls.made == 6


def test_calls_are_counted_apart(sim: Simulator, session: Session) -> None:
    """Two objects read side by side over one session count each their own calls."""
    together = threading.Barrier(2)

    def work(times: int) -> int:
        with session.counted() as calls:
            together.wait()
            for _ in range(times):
                session.query(CONTACTS)
        return calls.made

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, [3, 5])) == [3, 5]
    with session.counted() as outer, session.counted() as inner:
        session.query(CONTACTS)
    assert (outer.made, inner.made) == (0, 1)


def test_calls_of_working_ahead_are_counted(sim: Simulator, session: Session) -> None:
    """Calls that threads make ahead of the work count for the work, retries included."""
    sim.options.page_sizes = 2
    sim.faults.add("query_more_failure", times=2)

    def source(give: Callable[[Answer], None]) -> None:
        answer = session.query(CONTACTS, FIELDS)
        give(answer)
        while not answer.body["done"]:
            answer = page_after(session, answer)
            give(answer)

    with session.counted() as calls:
        pages = list(prefetch([source, source], session.stop, width=2))

    assert sorted(name for page in pages for name in names(page)) == sorted([f"n{i}" for i in range(5)] * 2)
    assert calls.made == 2 + 4 + 2 == kinds(sim)["query"] + kinds(sim)["page"]


def test_describe(sim: Simulator, session: Session) -> None:
    """A describe is what this user sees: name, type, and whether the field is the org's own."""
    sim.org.hide_field("Contact", "Title")
    fields, _ = session.describe("Contact")
    by_name = {each.name: each for each in fields}

    assert (by_name["LastName"].type, by_name["LastName"].custom) == ("string", False)
    assert "Title" not in by_name
    assert any(each.custom for each in fields)


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Sent:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Listener:
    """A server that writes down what it is sent and answers what a test wants; no Salesforce at all."""

    url: str
    ca_file: str
    sent: list[Sent] = field(default_factory=list)
    token: object = None
    query: bytes = b'{"totalSize": 0, "done": true, "records": []}'
    headers: dict[str, str] = field(default_factory=dict)
    pause_at: int | None = None
    go_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.token = {"access_token": "00Dxx0000000001!token", "instance_url": self.url}

    def answer(self, path: str) -> bytes:
        if path.endswith("/token"):
            return self.token if isinstance(self.token, bytes) else json.dumps(self.token).encode()
        if "/describe" in path:
            return b'{"fields": [{"name": "Id", "type": "id", "custom": false}]}'
        return self.query if "/query" in path else b"{}"

    def session(self, retry: RetryPolicy = NEVER_WAIT) -> Session:
        return Session(
            settings_from(
                {
                    "DATABASE_URL": "postgres:///unused",
                    "SALESFORCE_LOGIN_URL": self.url,
                    "SALESFORCE_CLIENT_ID": "client",
                    "SALESFORCE_CLIENT_SECRET": "secret",
                    "REQUESTS_CA_BUNDLE": self.ca_file,
                }
            ),
            retry=retry,
        )


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            there.sent.append(Sent(self.command, self.path, headers, self.rfile.read(length).decode()))
            body = there.answer(self.path)
            self.send_response(200)
            for name, value in ({"Content-Type": "application/json"} | there.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: there.pause_at])
            if rest := body[there.pause_at :] if there.pause_at is not None else b"":
                there.go_on.wait(10)
                self.wfile.write(rest)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        there = Listener(f"https://localhost:{server.server_port}", str(tmp_path / "ca.pem"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield there
        server.shutdown()
        thread.join()


def test_headers_of_every_call(listener: Listener) -> None:
    """Every call asks for compressed, compact JSON in pages of 2,000, under our name, with our token."""
    session = listener.session()
    session.describe("Contact")
    session.next_page(
        "/services/data/v66.0/query/0r8xx3d5f7h9j1l3n5-2000", session.query(CONTACTS).generation
    )
    session.identity()

    token, *calls = listener.sent
    assert (token.method, token.path) == ("POST", "/services/oauth2/token")
    assert [(call.method, call.path.split("?")[0]) for call in calls] == [
        ("GET", "/services/data/v66.0/sobjects/Contact/describe"),
        ("GET", "/services/data/v66.0/queryAll/"),
        ("GET", "/services/data/v66.0/query/0r8xx3d5f7h9j1l3n5-2000"),
        ("GET", "/services/oauth2/userinfo"),
    ]
    for call in calls:
        assert "x-prettyprint" not in call.headers
        assert "gzip" in call.headers["accept-encoding"]
        assert call.headers["authorization"] == "Bearer 00Dxx0000000001!token"
        assert call.headers["sforce-query-options"] == "batchSize=2000"
        assert call.headers["sforce-call-options"] == "client=salesforce-postgres-sync"


def test_token_request(listener: Listener) -> None:
    """The secret travels in the form of the request, in no address and no header that logs would keep."""
    listener.session().login()

    [token] = listener.sent
    assert token.body == "client_id=client&client_secret=secret&grant_type=client_credentials"
    assert "authorization" not in token.headers
    assert "secret" not in token.path


@pytest.mark.parametrize(
    "answer", [b"<html>Welcome</html>", b"", b"[]", b'"text"', {"access_token": "x"}, {"instance_url": None}]
)
def test_answers_that_are_no_token(listener: Listener, answer: object) -> None:
    """Something else than a token, with status 200, is what an edge answers in an outage: tried again."""
    listener.token = answer

    with pytest.raises(SalesforceError, match="200"):
        listener.session(RetryPolicy(attempts=3, scale=0)).login()
    assert len(listener.sent) == 3


def test_answer_without_an_access_token(listener: Listener) -> None:
    """An answer that lacks the token itself is refused with those words."""
    listener.token = {"instance_url": listener.url}

    with pytest.raises(LoginError, match="the login answered without an access token"):
        listener.session().login()


@pytest.mark.parametrize("date", ["", "yesterday", "Wed, 99 Oct 2026 07:28:00 GMT"])
def test_unreadable_clock(listener: Listener, date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Date header that cannot be read is as bad as none."""
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda *_: date)

    with pytest.raises(SalesforceError, match="no readable Date header"):
        listener.session().query(CONTACTS)


@pytest.mark.parametrize(
    "info",
    ["", "nonsense", "api-usage=x/y", "api-usage=18", "api-usage=0/0", "per-app-api-usage=17/250(appName=x)"],
)
def test_unreadable_usage(listener: Listener, info: str) -> None:
    """A usage header that cannot be read is as good as none."""
    listener.headers["Sforce-Limit-Info"] = info
    session = listener.session()

    session.query(CONTACTS)

    assert session.usage is None


def test_usage_is_read_by_name(listener: Listener) -> None:
    """The org's usage is read wherever it stands: that of one app is another number."""
    listener.headers["Sforce-Limit-Info"] = "per-app-api-usage=17/250(appName=x); api-usage=18/15000"
    session = listener.session()

    session.query(CONTACTS)

    assert session.usage == Usage(used=18, limit=15_000)


def test_half_a_surrogate_keeps_its_page(listener: Listener) -> None:
    """One unstorable record does not lose the page: it is judged later, with its digits."""
    listener.query = b'{"totalSize": 1, "done": true, "records": [{"LastName": "\\ud83d", "Score__c": 1.10}]}'

    [record] = listener.session().query(CONTACTS, ("LastName", "Score__c", "Id")).body["records"]

    assert record == ("\ud83d", Decimal("1.10"), None)
    assert str(record[1]) == "1.10"


def test_netrc_is_not_asked(listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ~/.netrc with an entry for the host does not replace our token."""
    (tmp_path / ".netrc").write_text("machine localhost login somebody password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    session = listener.session()

    session.query(CONTACTS)
    session.identity()

    assert [sent.headers.get("authorization") for sent in listener.sent] == [
        *(None, "Bearer 00Dxx0000000001!token", "Bearer 00Dxx0000000001!token")
    ]


def test_moved_instance(sim: Simulator, session: Session) -> None:
    """An instance that moved redirects, and the redirect drops the token: one re-login finds the new one."""
    session.login()
    sim.faults.add("redirect", on="query", location=f"{sim.login_url}/services/data/v66.0/queryAll/?q=x")

    assert names(session.query(CONTACTS, FIELDS)) == ["n0", "n1", "n2", "n3", "n4"]
    assert kinds(sim)["token"] == 2


def test_tokens_are_never_revoked(sim: Simulator, session: Session) -> None:
    """The token may be shared with other clients of the same user: we never revoke one."""
    for _ in range(2):
        for ask in ASKS.values():
            ask(session)
        sim.revoke_tokens()
    sim.faults.add("session_expired", on="query", times=None)
    with pytest.raises(LoginError):
        session.query(CONTACTS)
    del session

    assert kinds(sim)["revoke"] == 0
    assert not [request.path for request in sim.requests if "revoke" in request.path]


@pytest.mark.parametrize("flow", ["client_credentials", "jwt", "password"])
@pytest.mark.parametrize("token_format", ["opaque", "jwt"])
def test_logs_hold_no_secret(
    sim: Simulator, capsys: pytest.CaptureFixture[str], flow: str, token_format: str
) -> None:
    """At the most talkative level, with failures of every kind, no secret and no token is printed."""
    sim.options.token_format = token_format
    session = connect(sim, flow)
    logger.setup("debug", "logfmt", session.settings.secrets)
    sim.faults.add("token_busy")
    sim.faults.add("session_expired", on="query")
    sim.faults.add("server_unavailable", on="query", message="Bearer 00D0000000000001!secret.token")
    session.query(CONTACTS)
    sim.faults.add("insufficient_access", on="query", message="token=eyJhbGciOi.eyJzdWIi.c2ln")
    with pytest.raises(SalesforceError) as failure:
        session.query(CONTACTS)
    print(printable.redact(str(failure.value)))

    printed = "".join(capsys.readouterr())
    assert "event=salesforce_login" in printed
    assert "event=salesforce_session_ended" in printed
    assert "event=salesforce_retry" in printed
    assert "event=salesforce_call" in printed
    known = sim.credentials
    hidden = [known.client_secret, known.password, known.security_token, "secret.token", "eyJ", "!AQ"]
    assert not [secret for secret in hidden if secret in printed]
    assert not [line for line in known.private_key_pem.splitlines()[1:-1] if line in printed]
