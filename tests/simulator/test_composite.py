"""The Composite resource: many requests in one call, each answered, logged and struck by faults as its own."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from sync.simulator import Request, Simulator
from tests.simulator.conftest import Client

BASE = "/services/data/v60.0"
T0 = datetime(2026, 3, 1, 10, 0, 30, tzinfo=UTC)
UPDATED = f"{BASE}/sobjects/Contact/updated?start=2026-03-01T09%3A59%3A00Z&end=2026-03-01T10%3A00%3A00Z"
DELETED = f"{BASE}/sobjects/Contact/deleted?start=2026-03-01T09%3A50%3A00Z&end=2026-03-01T10%3A00%3A00Z"
QUERY = f"{BASE}/query?q=SELECT+Id%2C+LastName+FROM+Contact+ORDER+BY+Id"


@pytest.fixture(autouse=True)
def frozen(simulator: Simulator) -> None:
    simulator.clock.freeze(T0)


def part(url: str, reference: str = "r1", method: str = "GET", **more: Any) -> dict[str, Any]:
    return {"method": method, "url": url, "referenceId": reference, **more}


def send(client: Client, *parts: dict[str, Any], **more: Any) -> requests.Response:
    return client.http.post(
        f"{client.simulator.url}{BASE}/composite",
        json={"compositeRequest": parts, **more},
        headers={"Authorization": f"Bearer {client.token}"},
        timeout=2,
    )


def results(client: Client, *parts: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    answer = send(client, *parts, **more)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["compositeResponse"]
    assert [each["referenceId"] for each in found] == [each["referenceId"] for each in parts]
    assert all(list(each) == ["body", "httpHeaders", "httpStatusCode", "referenceId"] for each in found)
    return found


def statuses(found: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Status and error code of each result, without a code where it succeeded."""
    return [
        (each["httpStatusCode"], each["body"][0]["errorCode"] if each["httpStatusCode"] >= 400 else "")
        for each in found
    ]


def test_one_call(client: Client) -> None:
    """A series is one API call with one Date; its answers are those of the requests alone, in the log too."""
    client.simulator.org.create_many("Contact", [{"LastName": "a"}, {"LastName": "b"}])
    alone = [client.get(url) for url in (UPDATED, DELETED, QUERY)]
    client.simulator.requests.clear()
    before = client.simulator.api_calls
    answer = send(client, part(UPDATED), part(DELETED, "r2"), part(QUERY, "r3"), collateSubrequests=False)
    assert client.simulator.api_calls == before + 1
    assert "Date" in answer.headers
    assert answer.headers["Sforce-Limit-Info"] == f"api-usage={before + 1}/100000"
    found = answer.json()["compositeResponse"]
    assert [each["body"] for each in found] == [each.json() for each in alone]
    assert [each["httpHeaders"] for each in found] == [{}] * 3
    logged = [
        (each.kind, each.sobject, each.counted, each.inside, each.status)
        for each in client.simulator.requests
    ]
    assert logged == [
        ("composite", None, True, False, 200),
        ("updated", "Contact", False, True, 200),
        ("deleted", "Contact", False, True, 200),
        ("query", "Contact", False, True, 200),
    ]
    assert client.simulator.requests[-1].soql == "SELECT Id, LastName FROM Contact ORDER BY Id"


def test_headers_of_a_subrequest(client: Client) -> None:
    """A query obeys its own batchSize and pages go on outside; a conditional describe answers 304 and null."""
    client.simulator.org.create_many("Contact", [{"LastName": "x"}] * 250)
    describe = f"{BASE}/sobjects/Contact/describe"
    (full,) = results(client, part(describe))
    since = full["httpHeaders"]["Last-Modified"]
    page, same = results(
        client,
        part(QUERY, httpHeaders={"Sforce-Query-Options": "batchSize=200"}),
        part(describe, "r2", httpHeaders={"If-Modified-Since": since}),
    )
    assert (len(page["body"]["records"]), page["body"]["done"]) == (200, False)
    assert len(client.get(page["body"]["nextRecordsUrl"]).json()["records"]) == 50
    assert (same["httpStatusCode"], same["body"], list(same["httpHeaders"])) == (304, None, ["Last-Modified"])
    (rest,) = results(client, part(page["body"]["nextRecordsUrl"]))
    assert rest["body"]["done"] is True


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([], "INVALID_INPUT"),
        ([part(UPDATED, f"r{n}") for n in range(26)], "LIMIT_EXCEEDED"),
        ([part(QUERY, f"r{n}") for n in range(6)], "LIMIT_EXCEEDED"),
        ([part(UPDATED), part(UPDATED)], "INVALID_INPUT"),
        ([part(UPDATED, "a b")], "INVALID_INPUT"),
        ([part(UPDATED, httpHeaders={"authorization": "Bearer x"})], "INVALID_INPUT"),
        ([{"url": UPDATED}], "JSON_PARSER_ERROR"),
    ],
)
def test_refused_series(client: Client, parts: list[dict[str, Any]], code: str) -> None:
    """A series that is malformed or too long is refused as a whole, and none of it runs."""
    answer = send(client, *parts)
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (400, code)
    assert not any(each.inside for each in client.simulator.requests)


def test_largest_series(client: Client) -> None:
    """25 subrequests, 5 of them queries, are accepted."""
    parts = [part(QUERY if n < 5 else UPDATED, f"r{n}") for n in range(25)]
    assert statuses(results(client, *parts)) == [(200, "")] * 25


def test_a_failed_subrequest(client: Client) -> None:
    """A subrequest fails alone, with the error list it would have had; what Composite cannot do fails, too."""
    found = results(
        client,
        part(f"{BASE}/query?q=SELECT+Bad+FROM+Contact"),
        part(UPDATED, "r2"),
        part(f"{BASE}/limits", "r3"),
        part("/services/data/v20.0/sobjects/Contact/describe", "r4"),
        part(f"{BASE}/sobjects/Contact", "r5", "PUT"),
        part(f"{BASE}/sobjects/Contact/@{{r1.records[0].Id}}", "r6"),
    )
    assert statuses(found) == [
        (400, "INVALID_FIELD"),
        (200, ""),
        (400, "PROCESSING_HALTED"),
        (410, "GONE"),
        (405, "METHOD_NOT_ALLOWED"),
        (400, "PROCESSING_HALTED"),
    ]


def test_references(client: Client) -> None:
    """Later subrequests use what earlier ones answered, in their URL and in their body."""
    made, read, child, changed, gone = results(
        client,
        part(f"{BASE}/sobjects/Account", "made", "POST", body={"Name": "Acme", "AnnualRevenue": 7}),
        part(f"{BASE}/sobjects/Account/@{{made.id}}?fields=Name,AnnualRevenue", "read"),
        part(
            *(f"{BASE}/sobjects/Contact", "child", "POST"),
            body={"LastName": "Doe", "Title": "CTO of @{read.Name}", "AccountId": "@{made.id}"},
        ),
        part(f"{BASE}/sobjects/Contact/@{{child.id}}", "changed", "PATCH", body={"LastName": "Roe"}),
        part(f"{BASE}/sobjects/Contact/@{{child.id}}", "gone", "DELETE"),
    )
    account, contact = made["body"]["id"], child["body"]["id"]
    assert made["httpHeaders"] == {"Location": f"{BASE}/sobjects/Account/{account}"}
    assert read["body"]["Name"] == "Acme"
    assert [(each["httpStatusCode"], each["body"]) for each in (changed, gone)] == [(204, None)] * 2
    record = client.simulator.org.record(contact)
    assert (record["LastName"], record["Title"], record["AccountId"]) == ("Roe", "CTO of Acme", account)
    assert record["IsDeleted"] is True


def test_all_or_none(client: Client) -> None:
    """With allOrNone one failure takes back what was written, and halts the others."""
    parts = (
        part(f"{BASE}/sobjects/Account", "r1", "POST", body={"Name": "Acme"}),
        part(f"{BASE}/sobjects/Contact", "r2", "POST", body={}),
        part(QUERY, "r3"),
    )
    assert statuses(results(client, *parts, allOrNone=True)) == [
        (400, "PROCESSING_HALTED"),
        (400, "REQUIRED_FIELD_MISSING"),
        (400, "PROCESSING_HALTED"),
    ]
    assert client.simulator.org.ids("Account") == []
    assert statuses(results(client, *parts)) == [(201, ""), (400, "REQUIRED_FIELD_MISSING"), (200, "")]
    assert len(client.simulator.org.ids("Account")) == 1


def test_faults_inside(client: Client) -> None:
    """A fault planned for a kind strikes the subrequest: its answer, its body, its rows, its time."""
    client.simulator.org.create_many("Contact", [{"LastName": "a"}, {"LastName": "b"}])
    faults = client.simulator.faults
    parts = (part(UPDATED), part(QUERY, "r2"))
    faults.add("query_timeout")
    assert statuses(results(client, *parts)) == [(200, ""), (400, "QUERY_TIMEOUT")]
    assert [each.fault for each in client.simulator.requests[-3:]] == [None, None, "query_timeout"]
    faults.add("altered", on="updated", set={"latestDateCovered": "x"})
    faults.add("missing_rows")
    covered, page = results(client, *parts)
    assert covered["body"]["latestDateCovered"] == "x"
    assert (page["body"]["totalSize"], len(page["body"]["records"])) == (2, 1)
    faults.add("slow", on="updated", delay=0.2)
    begun = time.monotonic()
    results(client, *parts)
    assert time.monotonic() - begun >= 0.2
    faults.add("session_expired", on="updated")
    assert statuses(results(client, *parts)) == [(401, "INVALID_SESSION_ID"), (200, "")]
    assert send(client, *parts).status_code == 401
    client.login()
    faults.add("request_limit", on="composite")
    assert send(client, *parts).json()[0]["errorCode"] == "REQUEST_LIMIT_EXCEEDED"


def test_broken_connections(client: Client) -> None:
    """What breaks a subrequest's connection, shapes its headers or comes from the edge strikes the whole call."""
    faults = client.simulator.faults
    parts = (part(UPDATED), part(QUERY, "r2"))
    for name, error in (
        ("truncated", requests.exceptions.ChunkedEncodingError),
        ("reset", requests.exceptions.ConnectionError),
        ("hang", requests.exceptions.ReadTimeout),
    ):
        faults.add(name, on="query")
        with pytest.raises(error):
            send(client, *parts)
    faults.add("no_date", on="updated")
    faults.add("no_limit_info", on="query")
    assert not {"Date", "Sforce-Limit-Info"} & set(send(client, *parts).headers)
    faults.add("bad_gateway_html", on="query")
    answer = send(client, *parts)
    assert (answer.status_code, answer.headers["Content-Type"]) == (502, "text/html;charset=UTF-8")
    assert (
        next(each for each in client.simulator.requests[-3:] if not each.inside).fault == "bad_gateway_html"
    )


def test_between_subrequests(client: Client) -> None:
    """Time passes between subrequests, and what commits there is seen by those that follow."""
    options, org = client.simulator.options, client.simulator.org
    options.latency = options.composite_pause = 0.1

    def commit(each: Request) -> None:
        if each.kind == "query":
            org.create("Contact", {"LastName": "late"}, stamp=datetime(2026, 3, 1, 9, 59, 30, tzinfo=UTC))

    client.simulator.before_subrequest(commit)
    begun = time.monotonic()
    covered, page = results(client, part(UPDATED), part(QUERY, "r2"))
    assert 0.2 <= time.monotonic() - begun < 1
    assert (covered["body"]["ids"], len(page["body"]["records"])) == ([], 1)
    client.simulator.before_subrequest(None)
    assert len(results(client, part(UPDATED))[0]["body"]["ids"]) == 1


def test_refused_resource(client: Client) -> None:
    """An org may refuse the resource altogether, as unknown or as not enabled."""
    client.simulator.options.composite = False
    assert send(client, part(UPDATED)).json()[0]["errorCode"] == "NOT_FOUND"
    client.simulator.options.composite_refusal = "API_DISABLED_FOR_ORG"
    answer = send(client, part(UPDATED))
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (403, "API_DISABLED_FOR_ORG")
