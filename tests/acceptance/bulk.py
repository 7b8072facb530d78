"""The facts about Bulk API 2.0, by jobs over the marked records."""

from __future__ import annotations

import csv
import io

import requests

from tests.acceptance.client import Client, codes, ok, said
from tests.acceptance.findings import Findings, UnexpectedAnswerError
from tests.acceptance.records import NAMES, TRICKY, Marked, kept
from tests.acceptance.story import Pace

COLUMNS = ["SystemModstamp", "Id", "IsDeleted", "Site", "Description"]
ENDED = ("JobComplete", "Failed", "Aborted")
ALL = (
    *("D.1.1", "D.1.2", "D.1.3", "D.1.4", "D.2.1", "D.2.2", "D.2.3", "D.2.4", "D.2.5", "D.2.6", "D.2.7"),
    *("D.3.1", "D.3.2", "D.3.3", "D.4.1"),
)


def probe(client: Client, marked: Marked, findings: Findings, pace: Pace) -> None:
    """Try the facts of D; every job is deleted."""
    with findings.probing(*ALL):
        for number in range(3):
            marked.create("Account", f"bulk {number}", Description=TRICKY)
        where = f"{NAMES['Account']} LIKE '{marked.name('bulk')}%'"
        answer = create(client, f"SELECT {', '.join(COLUMNS)} FROM Account WHERE {where}")
        body = ok(answer)
        job = str(body["id"])
        try:
            findings.check(
                "D.1.1", job.startswith("750") and body["state"] == "UploadComplete", body["state"]
            )
            follow(client, findings, pace, job)
        finally:
            end(client, findings, job)
    with findings.probing("D.4.1"):
        answer = create(client, "SELECT Id, BillingAddress FROM Account")
        if answer.status_code == 200:
            end(client, None, str(answer.json()["id"]))
        findings.check("D.4.1", answer.status_code == 400, said(answer))
    findings.not_tried("D.5.1", why="it takes seven days")


def create(client: Client, soql: str) -> requests.Response:
    body = {"operation": "queryAll", "query": soql}
    return client.call("POST", "jobs/query", json=body)


def follow(client: Client, findings: Findings, pace: Pace, job: str) -> None:
    """Wait for a job and read its results."""
    ends, began = pace.now() + pace.patience, pace.now()
    while (info := ok(client.get(f"jobs/query/{job}")))["state"] not in ENDED:
        if pace.now() > ends:
            findings.not_tried(*ALL, why=f"the job is {info['state']} after {pace.patience:,.0f} s")
            return
        pace.wait(min(pace.pause, 5))
    findings.measure("a Bulk query job of three records", f"{pace.now() - began:,.0f} s")
    processed = info.get("numberRecordsProcessed")
    note = f"{info['state']}, {processed} records"
    if findings.check("D.1.2", info["state"] == "JobComplete" and processed == 3, note):
        read(client, findings, job)


def read(client: Client, findings: Findings, job: str) -> None:
    """The results by pages of one record, the list of pages, and another version."""
    path = f"jobs/query/{job}/results"
    pages: list[requests.Response] = []
    locator = ""
    while len(pages) < 10:
        params = {"maxRecords": "1", **({"locator": locator} if locator else {})}
        page = client.get(path, None, **params)
        if page.status_code != 200:
            raise UnexpectedAnswerError(said(page))
        pages.append(page)
        if (locator := page.headers.get("Sforce-Locator", "null")) == "null":
            break
    parsed = [list(csv.reader(io.StringIO(page.content.decode(), newline=""))) for page in pages]
    numbers = [page.headers.get("Sforce-NumberOfRecords") for page in pages]
    findings.check("D.2.1", all(page[0] == COLUMNS for page in parsed), f"{len(pages)} pages")
    kinds = sorted({page.headers.get("Content-Type", "none").lower() for page in pages})
    known = ("text/csv", "text/csv; charset=utf-8", "text/csv;charset=utf-8")
    findings.check("D.2.7", all(kind in known for kind in kinds), ", ".join(kinds)[:100])
    findings.check("D.2.5", all(len(page) == 2 for page in parsed))
    findings.check("D.2.2", numbers == ["1"] * 3 and locator == "null", f"{len(pages)} pages")
    findings.check("D.2.6", parsed[0][0] == COLUMNS)
    if len(pages) > 1:
        first = pages[0].headers["Sforce-Locator"]
        again = client.get(path, maxRecords="1", locator=first)
        findings.check("D.2.3", again.content == pages[1].content)
    rows = [dict(zip(COLUMNS, row, strict=True)) for page in parsed for row in page[1:]]
    quoted = all(b'""' in page.content and page.content.count(b'"') >= 4 * len(COLUMNS) for page in pages)
    findings.check("D.3.1", quoted and all(row["Site"] == "" for row in rows))
    moments = all(row["SystemModstamp"].endswith(".000Z") for row in rows)
    findings.check("D.3.2", moments and all(row["IsDeleted"] == "false" for row in rows))
    ways = sorted({kept(row["Description"]) for row in rows})
    findings.check("D.3.3", "changed" not in ways, ", ".join(filter(None, ways)))
    answer = client.get(f"jobs/query/{job}/resultPages")
    if answer.status_code == 200:
        body = answer.json()
        listed = [each.get("resultUrl", "") for each in body.get("resultPages", [])]
        holds = listed and all(
            f"/{job[:15]}" in address and address.startswith(f"{client.base}/") for address in listed
        )
        findings.check("D.1.3", holds, f"{len(listed)} pages, done {body.get('done')}")
    else:
        findings.check("D.1.3", holds=False, note=said(answer))
    pinned = float(client.settings.salesforce_api_version)
    answer = client.get(f"/services/data/v{pinned - 1}/jobs/query/{job}/results")
    findings.check("D.2.4", answer.status_code == 409, said(answer))


def end(client: Client, findings: Findings | None, job: str) -> None:
    """Delete a job; one that still runs is aborted first."""
    answer = client.call("DELETE", f"jobs/query/{job}")
    if answer.status_code == 400 and "API_ERROR" in codes(answer):
        client.call("PATCH", f"jobs/query/{job}", json={"state": "Aborted"})
        client.call("DELETE", f"jobs/query/{job}")
    elif findings is not None:
        findings.check("D.1.4", answer.status_code == 204, said(answer))
