"""Faults strike where, when and as often as told."""

import time
from email.utils import parsedate_to_datetime

import pytest
import requests

from sync.simulator import FAULTS
from tests.simulator.conftest import Client

SOQL = "SELECT Id FROM Contact ORDER BY Id"
WIRE = {"altered", "truncated", "reset", "hang", "slow", "no_date", "wrong_date", "no_limit_info", "redirect"}
PAGES = {"missing_rows", "repeated_rows", "empty_page"}
JOBS = {"job_failed", "job_aborted", "job_gone", "processed_wrong", "no_sforce_headers"}


@pytest.fixture
def paged(client: Client) -> Client:
    """Six contacts, two on a page."""
    client.simulator.org.create_many("Contact", [{"LastName": f"{n}"} for n in range(6)])
    client.simulator.options.page_sizes = 2
    return client


def test_every_answer_fault(client: Client) -> None:
    """Each fault that answers in the org's stead gives the status, and mostly the code, that its line promises."""
    for name in FAULTS.keys() - WIRE - PAGES - JOBS:
        client.simulator.faults.add(name, on="/services")
        client.token = "dead" if name == "session_expired" else client.token
        answer = client.get("limits")
        words = FAULTS[name].text.split()
        assert answer.status_code == int(words[0]), name
        if len(words) > 1 and words[1].isupper() and "_" in words[1]:
            assert words[1].rstrip(",;:") in answer.text, name
        if "HTML" in words or name == "html_ok":
            assert answer.text.startswith("<!DOCTYPE html>"), name
        if name in ("session_expired", "invalid_jwt_format"):
            client.login()
    assert client.get("limits").status_code == 200


def test_after_and_times(paged: Client) -> None:
    """after=n lets n calls pass, times=k strikes k times, None for ever, until cleared."""
    faults = paged.simulator.faults
    handle = faults.add("query_timeout", on="query", after=1, times=2)
    codes = [paged.get("query", q=SOQL).status_code for _ in range(5)]
    assert (codes, handle.fired) == ([200, 400, 400, 200, 200], 2)
    forever = faults.add("unknown_exception", on="query", times=None)
    assert [paged.get("query", q=SOQL).status_code for _ in range(3)] == [500] * 3
    faults.remove(forever)
    faults.add("unknown_exception", times=None)
    faults.clear()
    assert paged.get("query", q=SOQL).status_code == 200
    with pytest.raises(ValueError, match="no fault 'gremlins'"):
        faults.add("gremlins")


def test_where_a_fault_strikes(paged: Client) -> None:
    """Faults choose first pages, next pages, describes, one object, or a path."""
    faults = paged.simulator.faults
    faults.add("invalid_query_locator", on="page")
    address = paged.query(SOQL)["nextRecordsUrl"]
    assert paged.get(address).json()[0]["errorCode"] == "INVALID_QUERY_LOCATOR"
    faults.add("bad_gateway_html", on="page", sobject="account")
    assert paged.get(address).status_code == 200
    faults.clear()
    faults.add("bad_gateway_html", on="query", sobject="Account")
    assert paged.query(SOQL)["totalSize"] == 6
    assert paged.get("query", q="SELECT Id FROM Account").status_code == 502
    faults.add("not_found", on="/services/data/v60.0/sobjects/Contact")
    assert paged.get("sobjects/Account/describe").status_code == 200
    assert paged.get("sobjects/Contact/describe").status_code == 404


def test_session_expires_for_good(paged: Client) -> None:
    """An expired session stays dead until the next login."""
    paged.simulator.faults.add("session_expired", on="page")
    address = paged.query(SOQL)["nextRecordsUrl"]
    assert paged.get(address).status_code == 401
    assert paged.get("limits").status_code == 401
    paged.login()
    assert paged.get("limits").status_code == 200
    paged.simulator.faults.add("session_expired", revoke=False)
    assert [paged.get("limits").status_code for _ in range(2)] == [401, 200]


def test_retry_after(client: Client) -> None:
    """Retry-After comes along when asked for."""
    for name in ("too_many_requests", "unavailable_html", "server_unavailable"):
        client.simulator.faults.add(name, retry_after=7)
        assert client.get("limits").headers["Retry-After"] == "7"


def test_falsified_pages(paged: Client) -> None:
    """Pages can lack rows, repeat rows, or be empty and yet not the last."""
    faults = paged.simulator.faults
    faults.add("missing_rows", rows=1)
    lacking = paged.query(SOQL)
    assert (lacking["totalSize"], len(lacking["records"]), lacking["done"]) == (6, 1, False)
    faults.add("repeated_rows", on="page")
    repeated = paged.get(lacking["nextRecordsUrl"]).json()["records"]
    assert len(repeated) == 3
    assert repeated[0] == repeated[2]
    faults.add("empty_page", on="page")
    empty = paged.get(lacking["nextRecordsUrl"]).json()
    assert (empty["records"], empty["done"]) == ([], False)
    assert len(paged.get(empty["nextRecordsUrl"]).json()["records"]) == 2


def test_broken_connections(client: Client) -> None:
    """Truncated bodies, resets and hangs reach the client as the network errors they are."""
    faults = client.simulator.faults
    for name, error in (
        ("truncated", requests.exceptions.ChunkedEncodingError),
        ("reset", requests.exceptions.ConnectionError),
    ):
        faults.add(name)
        with pytest.raises(error):
            client.get("sobjects/Contact/describe")
    client.simulator.options.chunked = False
    faults.add("truncated")
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        client.get("sobjects/Contact/describe")
    faults.add("hang")
    with pytest.raises(requests.exceptions.ReadTimeout):
        client.http.get(f"{client.simulator.url}/services/data/", timeout=0.3)
    assert client.get("limits").status_code == 200
    assert [each.status for each in client.simulator.requests].count(0) == 2


def test_slow_and_bare_answers(client: Client) -> None:
    """Answers can be late by fault or by standing latency, or lack their Date or limit header."""
    faults = client.simulator.faults
    faults.add("slow", delay=0.3)
    begin = time.monotonic()
    assert client.get("limits").status_code == 200
    assert time.monotonic() - begin >= 0.3
    client.simulator.options.latency = 0.1
    begin = time.monotonic()
    client.get("limits")
    assert time.monotonic() - begin >= 0.1
    client.simulator.options.latency = 0
    faults.add("no_date")
    assert "Date" not in client.get("limits").headers
    faults.add("wrong_date", seconds=3600)
    ahead = parsedate_to_datetime(client.get("limits").headers["Date"]) - client.simulator.clock.now()
    assert 3500 < ahead.total_seconds() < 3700
    faults.add("no_limit_info")
    assert "Sforce-Limit-Info" not in client.get("limits").headers
    faults.add("redirect", location=f"{client.simulator.url}/services/data/")
    assert client.get("limits").json()[0]["version"] == "31.0"


def test_token_faults(client: Client) -> None:
    """The token endpoint's errors are objects, its outage is HTML."""
    address = f"{client.simulator.url}/services/oauth2/token"
    for name in [name for name, kind in FAULTS.items() if kind.on == "token"]:
        client.simulator.faults.add(name)
        answer = client.http.post(address, data={}, timeout=10)
        if name.endswith("html"):
            assert answer.status_code == 503
        else:
            assert answer.status_code == 400
            assert FAULTS[name].text == f"400 {answer.json()['error']}: {answer.json()['error_description']}"
