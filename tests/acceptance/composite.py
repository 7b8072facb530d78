"""The facts about Composite: one call for several requests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import requests

from tests.acceptance.client import Client, minute, ok, said, window
from tests.acceptance.findings import Findings
from tests.acceptance.records import NAMES, Marked

RESULT = {"body", "httpHeaders", "httpStatusCode", "referenceId"}
SERIES = 3  # Composite calls of three subrequests each, by which calls are counted


def send(client: Client, *parts: dict[str, Any]) -> requests.Response:
    body = {"allOrNone": False, "collateSubrequests": False, "compositeRequest": parts}
    return client.call("POST", "composite", json=body)


def part(client: Client, reference: str, path: str, **more: Any) -> dict[str, Any]:
    return {"method": "GET", "url": f"{client.base}/{path}", "referenceId": reference, **more}


def results(answer: requests.Response) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(answer)["compositeResponse"]
    return found


def probe(client: Client, marked: Marked, findings: Findings) -> None:
    """Try the facts of B.10."""
    with findings.probing(*(f"B.10.{number}" for number in range(1, 12))):
        now = minute(client.now())
        where = f"{NAMES['Account']} LIKE '{marked.marker}%'"
        updated = f"sobjects/Account/updated/?{urlencode(window(minute(now, -1), now))}"
        deleted = f"sobjects/Account/deleted/?{urlencode(window(now - timedelta(minutes=30), now))}"
        query = "queryAll/?" + urlencode({"q": f"SELECT Id FROM Account WHERE {where} ORDER BY Id"})
        parts = (
            part(client, "updated", updated),
            part(client, "deleted", deleted),
            part(client, "records", query, httpHeaders={"Sforce-Query-Options": "batchSize=200"}),
        )
        answer = send(client, *parts)
        if not findings.check("B.10.1", answer.status_code == 200, said(answer)):
            findings.not_tried(
                *(f"B.10.{n}" for n in range(2, 12)), why=f"Composite is refused: {said(answer)}"
            )
            return
        found = results(answer)
        findings.check("B.10.1", all(each.keys() >= RESULT for each in found))
        findings.check("B.10.5", "Date" in answer.headers and "Sforce-Limit-Info" in answer.headers)
        dates = [name for each in found for name in each["httpHeaders"] if name.lower() == "date"]
        shown = sorted({name for each in found for name in each["httpHeaders"]})
        findings.check("B.10.4", not dates, f"headers of the results: {', '.join(shown) or 'none'}")
        compare(client, findings, found, (updated, deleted, query))
        count(client, findings, parts)
        refused(client, findings, updated, query)
        paged(client, findings)
        conditional(client, findings)
        order(client, marked, findings)


def compare(client: Client, findings: Findings, found: list[dict[str, Any]], paths: tuple[str, ...]) -> None:
    """Answers inside and alone have the same keys, and the marked records are the same."""
    alone = [ok(client.call("GET", path)) for path in paths]
    inside = [each["body"] for each in found]
    statuses = [each["httpStatusCode"] for each in found]
    keys = [
        one.keys() == other.keys()
        for one, other in zip(alone, inside, strict=True)
        if isinstance(other, dict)
    ]
    ids = (
        [[each["Id"] for each in body["records"]] for body in (alone[2], inside[2])] if all(keys) else [0, 1]
    )
    same = statuses == [200] * 3 and len(keys) == 3 and all(keys) and ids[0] == ids[1]
    findings.check("B.10.3", same, f"statuses {', '.join(map(str, statuses))}")


def count(client: Client, findings: Findings, parts: tuple[dict[str, Any], ...]) -> None:
    """Count calls by Sforce-Limit-Info, over a few series; others may call meanwhile."""
    client.touch()
    before = client.usage
    for _ in range(SERIES):
        ok(send(client, *parts))
    client.touch()
    if before is None or client.usage is None:
        findings.not_tried("B.10.2", why="Sforce-Limit-Info is missing")
        return
    counted, each = client.usage - before, SERIES * len(parts)
    note = f"{counted} calls counted for {SERIES} series of {len(parts)} and one more"
    findings.check("B.10.2", counted <= each, note)


def refused(client: Client, findings: Findings, updated: str, query: str) -> None:
    """A subrequest that fails alone, and series that are refused as a whole."""
    bad = "queryAll/?" + urlencode({"q": "SELECT NoSuchField FROM Account"})
    answer = send(client, part(client, "bad", bad), part(client, "good", updated))
    first, second = results(answer)
    body = first["body"]
    listed = isinstance(body, list) and body and body[0].get("errorCode") == "INVALID_FIELD"
    alone = first["httpStatusCode"] == 400 and second["httpStatusCode"] == 200
    findings.check("B.10.6", alone and listed, f"{first['httpStatusCode']} beside {second['httpStatusCode']}")
    for name, value in (("Accept", "application/json"), ("Authorization", "x"), ("Content-Type", "text/csv")):
        answer = send(client, part(client, "r", updated, httpHeaders={name: value}))
        findings.check("B.10.8", answer.status_code == 400, said(answer))
    for many in ([updated] * 26, [query] * 6):
        answer = send(client, *(part(client, f"r{n}", path) for n, path in enumerate(many)))
        statuses = sorted(set(_failures(answer)))
        whole = answer.status_code == 400
        findings.check(
            "B.10.9", whole, said(answer) if whole else f"200 with {', '.join(statuses) or 'no error'}"
        )


def _failures(answer: requests.Response) -> list[str]:
    """Status and code of each failed result."""
    if answer.status_code != 200:
        return []
    return [
        f"{each['httpStatusCode']} {each['body'][0].get('errorCode', '')}"
        for each in results(answer)
        if each["httpStatusCode"] >= 400 and isinstance(each["body"], list)
    ]


def paged(client: Client, findings: Findings) -> None:
    """Pages of 200 inside a call, where the org has more contacts; only their number is kept."""
    query = "queryAll/?" + urlencode({"q": "SELECT Id FROM Contact LIMIT 400"})
    headers = {"Sforce-Query-Options": "batchSize=200"}
    [found] = results(send(client, part(client, "page", query, httpHeaders=headers)))
    number = len(found["body"]["records"]) if found["httpStatusCode"] == 200 else -1
    if found["httpStatusCode"] == 200 and found["body"]["totalSize"] <= 200:
        findings.not_tried("B.10.7", why=f"the org has {number} contacts, not more than 200")
    else:
        findings.check("B.10.7", 0 <= number <= 200, f"{found['httpStatusCode']}, {number} records")


def conditional(client: Client, findings: Findings) -> None:
    """A describe that did not change."""
    path = "sobjects/Account/describe"
    modified = client.get(path).headers.get("Last-Modified", "")
    [found] = results(send(client, part(client, "d", path, httpHeaders={"If-Modified-Since": modified})))
    holds = found["httpStatusCode"] == 304 and found["body"] is None
    findings.check("B.10.10", holds, f"{found['httpStatusCode']}, headers {', '.join(found['httpHeaders'])}")


def order(client: Client, marked: Marked, findings: Findings) -> None:
    """A query sees what the subrequest before it created, and not what the one after it creates."""
    name = marked.name("order")
    query = "query/?" + urlencode({"q": f"SELECT COUNT() FROM Account WHERE Name LIKE '{name}%'"})
    parts = []
    for number in range(2):
        body = {**marked.more.get("Account", {}), "Name": f"{name} {number}"}
        create = part(client, f"create{number}", "sobjects/Account", body=body) | {"method": "POST"}
        parts += [create, part(client, f"count{number}", query)]
    found = results(send(client, *parts))
    statuses = [each["httpStatusCode"] for each in found]
    if statuses[::2] != [201, 201]:
        findings.not_tried(
            "B.10.11", why=f"creating inside answers {statuses[0]} {', '.join(codes_of(found[0]))}"
        )
        return
    counts = [each["body"].get("totalSize") for each in found[1::2]]
    findings.check("B.10.11", counts == [1, 2], f"counted {counts}")


def codes_of(result: dict[str, Any]) -> list[str]:
    """The error codes of a failed result."""
    body = result["body"]
    return [str(each.get("errorCode", ""))[:60] for each in body] if isinstance(body, list) else []
