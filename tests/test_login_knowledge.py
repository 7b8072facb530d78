"""What the session knows of its login, and when it doubts it: dead tokens, refused logins, odd answers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from sync import pipeline
from sync.errors import LoginError, ObjectsFailedError, SalesforceError
from sync.session import RetryPolicy
from sync.session import refused as refused_module
from sync.simulator import Simulator
from tests.test_session import ASKS, CONTACTS, FIELDS, connect, kinds, names
from tests.world import LONG_AGO, World

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
        pipeline.sync_all(world.link(retry=RetryPolicy()))

    assert failure.value.code == 3
    assert refused.fired == 1
    errors = [row[0] for row in world.sql("SELECT error FROM sync.run")]
    assert len(errors) == 2
    assert all("check SALESFORCE_CLIENT_SECRET" in error for error in errors)
