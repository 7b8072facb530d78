"""What the session knows of its login, and when it doubts it: dead tokens, refused logins, odd answers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from sync.errors import (
    FieldsMovedError,
    LoginError,
    ObjectsFailedError,
    SalesforceError,
)
from sync.replication import pipeline
from sync.salesforce.session import connection as connection_module
from sync.salesforce.session import refused as refused_module
from sync.salesforce.session.retry import RetryPolicy
from sync.simulator import Simulator
from tests.salesforce.test_session import ASKS, CONTACTS, FIELDS, Listener, connect, kinds, names
from tests.salesforce.test_session import listener as listener  # a fixture
from tests.support.world import LONG_AGO, World

MOVED = "Destination URL not reset. The URL returned from login must be set in the SforceService"


def fail(sim: Simulator, status: int, code: str, message: str, **where: Any) -> None:
    """Let the org answer with an error of the API's form."""
    body = [{"errorCode": code, "message": message}]
    sim.faults.add("answered", **{"on": "query", **where}, status=status, body=body)


# ── a token that is dead without a 401 ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "URL_NOT_RESET", MOVED),
        (404, "URL_NOT_RESET", MOVED),
        (400, "UNKNOWN_EXCEPTION", MOVED),
        (500, "UNKNOWN_EXCEPTION", MOVED),
        (403, "INVALID_JWT_FORMAT", "invalid token"),
        (403, "INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT"),
    ],
)
def test_a_moved_org_is_one_relogin(sim: Simulator, status: int, code: str, message: str, ask: str) -> None:
    """An org that moved answers without a 401: one new login, the same call again, the right answer."""
    session = connect(sim)
    session.login()
    fail(sim, status, code, message, on=ask)

    assert ASKS[ask](session) == ASKS[ask](connect(sim))
    assert [request.kind for request in sim.requests][:4] == ["token", ask, "token", ask]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("reset", {}),
        ("unavailable_html", {}),
        ("edge_no_route", {}),
        ("answered", {"status": 404, "text": "<html>no such host</html>"}),
    ],
)
def test_a_lost_connection_forgets_the_token(sim: Simulator, fault: str, what: dict[str, Any]) -> None:
    """A call that did not reach the org in the end is followed by a login: the instance may have moved."""
    sim.org.create_many("Contact", [{"LastName": "n0"}], stamp=LONG_AGO)
    session = connect(sim)
    session.query(CONTACTS)
    outage = sim.faults.add(fault, on="query", times=None, **what)
    with pytest.raises(SalesforceError):
        session.query(CONTACTS)
    sim.faults.remove(outage)

    assert names(session.query(CONTACTS, FIELDS)) == ["n0"]
    assert kinds(sim)["token"] == 2


@pytest.mark.parametrize("instance", ["https://gone.invalid", "https://127.0.0.2:9", ""])
def test_a_host_that_is_gone_is_asked_for_again(
    sim: Simulator, listener: Listener, monkeypatch: pytest.MonkeyPatch, instance: str
) -> None:
    """An instance without an address, that does not answer, or with a certificate not trusted: a new login."""
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)
    session = connect(sim, changed={"SALESFORCE_PRIVATE_HOSTS": "gone.invalid,127.0.0.2,localhost"})
    sim.faults.add("altered", on="token", set={"instance_url": instance or listener.url})
    with pytest.raises((SalesforceError, LoginError), match=r"no answer|certificate"):
        session.query(CONTACTS)

    session.query(CONTACTS)
    assert kinds(sim) == {"token": 2, "query": 1}


def test_an_outage_does_not_use_up_the_logins(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """While an outage lasts the token is given up less and less often."""
    session = connect(sim, retry=RetryPolicy(attempts=1))
    now = 0.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(connection_module, "time", clock)
    sim.faults.add("unavailable_html", on="query", times=None)
    for _ in range(60):
        with pytest.raises(SalesforceError, match="503"):
            session.query(CONTACTS)
        now += 60

    assert kinds(sim) == {"query": 60, "token": 8}


@pytest.mark.parametrize("code", ["MALFORMED_QUERY", "NOT_FOUND"])
def test_an_error_of_the_org_keeps_the_token(sim: Simulator, code: str) -> None:
    """What the org itself refuses says nothing against the token."""
    session = connect(sim)
    fail(sim, 404 if code == "NOT_FOUND" else 400, code, "x")
    with pytest.raises(SalesforceError):
        session.query(CONTACTS)
    session.query(CONTACTS)

    assert kinds(sim)["token"] == 1


@pytest.mark.parametrize("begun", [False, True])
def test_a_fresh_token_refused_for_a_moment(sim: Simulator, begun: bool) -> None:
    """A token refused for a moment after its login is tried again after a pause that grows; two logins at most."""
    session = connect(sim, retry=RetryPolicy(scale=0.01))
    if begun:
        session.query(CONTACTS)
        sim.revoke_tokens()
    session.login()
    fail(sim, 401, "INVALID_SESSION_ID", "Session expired or invalid", times=3 if begun else 4)
    began = time.monotonic()

    session.query(CONTACTS)

    assert time.monotonic() - began >= (0.03 if begun else 0.07)
    assert kinds(sim)["token"] == 2


@pytest.mark.parametrize("what", ["REST API", "API"])
def test_a_session_without_the_api_fails_at_once(sim: Simulator, what: str) -> None:
    """A session that may not use the API is no expired one: one call, no login, and the scope is named."""
    session = connect(sim)
    message = f"This session is not valid for use with the {what}"
    fail(sim, 401, "INVALID_SESSION_ID", message, times=None)

    with pytest.raises(SalesforceError, match=f"{message} .*scope `api`.*session polic"):
        session.query(CONTACTS)
    assert kinds(sim) == {"token": 1, "query": 1}


@pytest.mark.parametrize(
    ("status", "code", "message", "advice"),
    [
        (403, "API_CURRENTLY_DISABLED", "API is disabled for this User", "API Enabled"),
        (400, "OPERATION_TOO_LARGE", "exceeded 100000 distinct ids", "View All"),
        (400, "TXN_SECURITY_METERING_ERROR", "took too long", "exempt the integration user"),
        (
            400,
            "INVALID_TYPE",
            "sObject type 'PermissionSetAssignment' is not supported.",
            "View Setup and Configuration",
        ),
        (400, "INVALID_TYPE", "sObject type 'Contact' is not supported.", "read access to the object"),
    ],
)
def test_advice_for_a_refused_call(sim: Simulator, status: int, code: str, message: str, advice: str) -> None:
    """What somebody can mend about a call comes with what to do."""
    session = connect(sim)
    fail(sim, status, code, message, times=None)

    with pytest.raises(SalesforceError, match=rf"{code}: {message} \(.*{advice}"):
        session.query(CONTACTS)


# ── what the token endpoint answers ───────────────────────────────────────────────────────────────────


def oauth(code: str, description: str) -> dict[str, str]:
    return {"error": code, "error_description": description}


@pytest.mark.parametrize(
    "what",
    [
        {"status": 400, "body": oauth("unknown_error", "retry your request")},
        {"status": 400, "body": oauth("invalid_grant", "retry your request")},
        {"status": 400, "body": oauth("server_error", "x")},
        {"status": 400, "body": oauth("temporarily_unavailable", "x")},
        {"status": 400, "body": {"error": "unknown_error"}},
        {"status": 400, "text": ""},
        {"status": 401, "text": ""},
        {"status": 200, "text": ""},
        {"status": 501, "text": "x"},
        {"status": 520, "text": "<html>x</html>"},
        {"status": 503, "body": [{"errorCode": "SERVER_UNAVAILABLE", "message": "x"}]},
    ],
)
def test_passing_answers_to_a_login(sim: Simulator, what: dict[str, Any]) -> None:
    """What passes at the token endpoint is tried again as often as a call is, and is no refusal in the end."""
    sim.faults.add("answered", on="token", times=5, **what)
    connect(sim).login()
    assert kinds(sim) == {"token": 6}

    sim.faults.add("answered", on="token", times=None, **what)
    with pytest.raises(SalesforceError) as failure:
        connect(sim).login()
    assert (failure.value.passing, failure.value.exit_code) == (True, 1)


@pytest.mark.parametrize(
    "what",
    [
        {"status": 400, "body": oauth("something_new", "nobody knows")},
        {"status": 404, "text": "<html><h1>Not Found</h1></html>"},
        {"status": 403, "body": [{"errorCode": "SOMETHING_NEW", "message": "nobody knows"}]},
    ],
)
def test_unknown_refusals_are_retried_twice(sim: Simulator, what: dict[str, Any]) -> None:
    """An unknown error of the token endpoint is tried twice more; then it is a refusal, told as it came."""
    sim.faults.add("answered", on="token", times=2, **what)
    connect(sim).login()
    assert kinds(sim) == {"token": 3}

    sim.faults.add("answered", on="token", times=None, **what)
    with pytest.raises(LoginError, match=r"^Salesforce refused the login: .*(nobody knows|404: Not Found)"):
        connect(sim).login()
    assert kinds(sim) == {"token": 6}


@pytest.mark.parametrize(
    ("code", "message", "advice"),
    [
        ("app_not_found", "External client app is not installed in this org", "install the External"),
        ("invalid_client", "OAUTH_EC_APP_NOT_FOUND", "check SALESFORCE_CLIENT_ID"),
        ("OAUTH_EC_APP_NOT_FOUND", "x", "check SALESFORCE_CLIENT_ID"),
        ("OAUTH_APP_BLOCKED", "this app is blocked by admin", "Connected Apps OAuth Usage"),
        ("unsupported_grant_type", "grant type not supported", "enable this flow"),
        ("invalid_grant", "expired authorization code", "clock"),
        ("invalid_grant", "login rate exceeded", "wait an hour"),
        ("invalid_grant", "Login Rate Exceeded", "wait an hour"),
    ],
)
def test_advice_for_a_refused_login(sim: Simulator, code: str, message: str, advice: str) -> None:
    """What the apps of today answer comes with what to do, after one attempt."""
    sim.faults.add("answered", on="token", times=None, status=400, body=oauth(code, message))

    with pytest.raises(LoginError, match=rf"{code}: {message} \(.*{advice}"):
        connect(sim).login()
    assert kinds(sim) == {"token": 1}


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"status": 503, "text": "<html><h1>Down for Maintenance</h1></html>"}, "503: Down for Maintenance"),
        ({"status": 503, "text": ""}, "503: no reason is given"),
        ({"status": 200, "text": ""}, "without a token: nothing"),
        ({"status": 200, "text": "<html>Maintenance</html>"}, "without a token: Maintenance"),
        ({"status": 200, "text": '{"access_token": "00Dxx!x'}, "without a token: JSON of an unknown form$"),
        ({"status": 500, "body": [{"errorCode": "E", "message": "m"}]}, "500 E: m"),
        (
            {
                "status": 500,
                "text": "<Errors><Error><errorCode>E</errorCode><message>m</message></Error></Errors>",
                "kind": "application/xml",
            },
            "500 E: m",
        ),
    ],
)
def test_a_login_says_what_came(sim: Simulator, what: dict[str, Any], told: str) -> None:
    """Bodies of any form at the login are told in words, never in those of a decoder, and without a token."""
    sim.faults.add("answered", on="token", times=None, **what)

    with pytest.raises(SalesforceError, match=told):
        connect(sim).login()


def test_errors_in_xml_are_understood(sim: Simulator) -> None:
    """An error body in XML leads to the same action as one in JSON."""
    session = connect(sim)
    session.login()
    body = "<Errors><Error><errorCode>INVALID_FIELD</errorCode><message>No column</message></Error></Errors>"
    sim.faults.add("answered", on="query", status=400, text=body, kind="application/xml")

    with pytest.raises(FieldsMovedError, match="400 INVALID_FIELD: No column"):
        session.query(CONTACTS)


# ── a login that is refused ───────────────────────────────────────────────────────────────────────────


def test_a_refused_login_is_one_attempt(sim: Simulator) -> None:
    """Whatever many threads and passes ask, a refused login is remembered, with since when, why and until when."""
    sim.faults.add("token_wrong_secret", times=None)
    session = connect(sim, retry=RetryPolicy())
    with pytest.raises(LoginError, match=r"^Salesforce refused the login: invalid_client"):
        session.query(CONTACTS)

    with ThreadPoolExecutor(4) as pool:
        errors = [pool.submit(session.query, CONTACTS).exception() for _ in range(8)]

    assert kinds(sim) == {"token": 1}
    for error in errors:
        assert isinstance(error, LoginError)
        assert str(error).startswith("login refused since ")
        assert "UTC: Salesforce refused the login: invalid_client: invalid client credentials" in str(error)
        assert "; next attempt at " in str(error)


def test_pauses_after_refused_logins_grow(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pause is five minutes, each further one twice as long, the longest an hour."""
    sim.faults.add("token_wrong_secret", times=None)
    session = connect(sim, retry=RetryPolicy())
    now, attempted = time.monotonic(), []
    monkeypatch.setattr(refused_module, "time", SimpleNamespace(monotonic=lambda: now))
    for minute in range(200):
        before = kinds(sim)["token"]
        with pytest.raises(LoginError):
            session.login()
        if kinds(sim)["token"] > before:
            attempted.append(minute)
        now += 60

    assert attempted == [0, 5, 15, 35, 75, 135, 195]


def test_a_mended_login_is_tried_in_the_end(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause the login is tried again, and what was refused is forgotten with the first answer."""
    monkeypatch.setattr(refused_module, "FIRST_PAUSE", timedelta(seconds=0.3))
    sim.faults.add("token_wrong_secret", times=1)
    sim.faults.add("token_wrong_secret", times=1, after=2)
    session = connect(sim, retry=RetryPolicy())
    with pytest.raises(LoginError):
        session.query(CONTACTS)
    time.sleep(0.4)
    session.query(CONTACTS)
    sim.revoke_tokens()

    with pytest.raises(LoginError, match=r"^Salesforce refused the login"):
        session.query(CONTACTS)
    assert kinds(sim)["token"] == 3


def test_a_run_makes_one_attempt_for_all_objects(world: World) -> None:
    """All objects of a run share one attempt; the journal of each says why, and the command ends with 3."""
    refused = world.sim.faults.add("token_wrong_secret", times=None)
    with pytest.raises(ObjectsFailedError) as failure:
        pipeline.sync_all(world.context(retry=RetryPolicy()))

    assert failure.value.code == 3
    assert refused.fired == 1
    errors = [row[0] for row in world.sql("SELECT error FROM sync.run")]
    assert len(errors) == 2
    assert all("check SALESFORCE_CLIENT_SECRET" in error for error in errors)
