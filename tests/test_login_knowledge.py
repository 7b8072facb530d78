"""What the session knows of its login, and when it doubts it: dead tokens, refused logins, odd answers."""

from __future__ import annotations

from typing import Any

import pytest

from sync.errors import SalesforceError
from sync.simulator import Simulator
from tests.test_session import ASKS, CONTACTS, FIELDS, connect, kinds, names
from tests.world import LONG_AGO

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
