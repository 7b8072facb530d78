"""Faults strike Bulk jobs: refusals, jobs that end badly, results that lack something."""

from typing import Any

import pytest
import requests

from sync.simulator import FAULTS
from tests.simulator.conftest import BulkClient

SOQL = "SELECT Id FROM Contact"


@pytest.fixture
def job(bulk: BulkClient) -> str:
    """A complete job of ten contacts."""
    bulk.simulator.org.create_many("Contact", [{"LastName": f"{n}"} for n in range(10)])
    return bulk.create(SOQL)


def rows(answer: requests.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return answer.text.splitlines()[1:]


@pytest.mark.parametrize("name", [name for name, kind in FAULTS.items() if kind.on == "job_create"])
def test_refusals_at_creation(bulk: BulkClient, name: str) -> None:
    """Each refusal has the status, the code and the message that are documented, and makes no job."""
    bulk.simulator.faults.add(name)
    answer = bulk.call("POST", body={"operation": "query", "query": SOQL})
    assert answer.status_code == 400
    assert answer.json()[0]["errorCode"] == FAULTS[name].text.split()[1].rstrip(",:")
    bulk.simulator.faults.add(name, message="in other words")
    answer = bulk.call("POST", body={"operation": "query", "query": SOQL})
    assert answer.json()[0]["message"] == "in other words"
    assert bulk.call("GET").json()["records"] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "InternalServerError : Retried more than 15 times"),
        ({"message": "QUERY_TIMEOUT"}, "QUERY_TIMEOUT"),
        ({"message": None}, None),
    ],
)
def test_jobs_that_fail(bulk: BulkClient, given: dict[str, Any], message: str | None) -> None:
    """A job can fail, with a reason or without one, and stays so."""
    bulk.simulator.options.bulk_polls = 1
    job = bulk.create(SOQL)
    bulk.simulator.faults.add("job_failed", after=1, **given)
    assert bulk.state(job) == "UploadComplete"
    for _ in range(2):
        body = bulk.call("GET", f"/{job}").json()
        assert (body["state"], body.get("errorMessage")) == ("Failed", message)
        assert body["numberRecordsProcessed"] == 0
    assert bulk.results(job).json()[0]["errorCode"] == "API_ERROR"
    assert bulk.call("DELETE", f"/{job}").status_code == 204


def test_jobs_that_are_aborted(bulk: BulkClient, job: str) -> None:
    """An administrator can abort a job, even one that was complete."""
    bulk.simulator.faults.add("job_aborted")
    assert [bulk.state(job) for _ in range(2)] == ["Aborted", "Aborted"]
    assert bulk.results(job).status_code == 400


@pytest.mark.parametrize(("on", "path"), [("job", ""), ("results", "/results")])
def test_jobs_that_vanish(bulk: BulkClient, job: str, on: str, path: str) -> None:
    """A job can be gone from one call to the next, and does not come back."""
    bulk.simulator.faults.add("job_gone", on=on)
    for each in (path, "", "/results", "/resultPages"):
        answer = bulk.call("GET", f"/{job}{each}")
        assert (answer.status_code, answer.json()[0]["errorCode"]) == (404, "NOT_FOUND")


def test_wrong_count_of_a_job(bulk: BulkClient, job: str) -> None:
    """A job can tell another number of records than it has."""
    for n, told in ((1, 11), (-3, 7)):
        bulk.simulator.faults.add("processed_wrong", n=n)
        assert bulk.call("GET", f"/{job}").json()["numberRecordsProcessed"] == told
    assert bulk.call("GET", f"/{job}").json()["numberRecordsProcessed"] == 10


@pytest.mark.parametrize(
    ("which", "lost"),
    [
        ("number", ["Sforce-NumberOfRecords"]),
        ("locator", ["Sforce-Locator"]),
        ("both", ["Sforce-NumberOfRecords", "Sforce-Locator"]),
    ],
)
def test_headers_get_lost(bulk: BulkClient, job: str, which: str, lost: list[str]) -> None:
    """A proxy can strip one of the headers that matter, or both."""
    bulk.simulator.faults.add("no_sforce_headers", which=which)
    answer = bulk.results(job, maxRecords=4)
    missing = [name for name in ("Sforce-NumberOfRecords", "Sforce-Locator") if name not in answer.headers]
    assert (missing, len(rows(answer))) == (lost, 4)
    with pytest.raises(ValueError, match="number, locator, both"):
        bulk.simulator.faults.add("no_sforce_headers", which="date")


@pytest.mark.parametrize(
    ("name", "given", "present", "told"),
    [
        ("missing_rows", {"rows": 2}, 4, 6),
        ("missing_rows", {"rows": 2, "header": True}, 4, 4),
        ("missing_rows", {"rows": 9, "header": True}, 0, 0),
        ("repeated_rows", {"rows": 3}, 9, 6),
        ("repeated_rows", {"rows": 3, "header": True}, 9, 9),
        ("truncated", {"rows": 5, "clean": True}, 5, 6),
    ],
)
def test_falsified_pages(
    bulk: BulkClient, job: str, name: str, given: dict[str, Any], present: int, told: int
) -> None:
    """A page can lack rows, repeat them or end early, while its header knows nothing of it, or does."""
    honest = rows(bulk.results(job, maxRecords=6))
    bulk.simulator.faults.add(name, on="results", **given)
    answer = bulk.results(job, maxRecords=6)
    assert (len(rows(answer)), answer.headers["Sforce-NumberOfRecords"]) == (present, str(told))
    assert set(rows(answer)) <= set(honest)
    if name == "repeated_rows":
        assert rows(answer)[:6] == honest[:3] * 2
    following = bulk.results(job, locator=answer.headers["Sforce-Locator"])
    assert len(rows(following)) == 4


def test_empty_page(bulk: BulkClient, job: str) -> None:
    """A page without rows that is not the last leads on to where it stood."""
    bulk.simulator.faults.add("empty_page", on="results")
    answer = bulk.results(job)
    assert (rows(answer), answer.headers["Sforce-NumberOfRecords"]) == ([], "0")
    assert len(rows(bulk.results(job, locator=answer.headers["Sforce-Locator"]))) == 10


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("gzip", [True, False])
@pytest.mark.parametrize("given", [{}, {"rows": 4}, {"rows": 0}])
def test_broken_pages(bulk: BulkClient, job: str, given: dict[str, Any], gzip: bool, chunked: bool) -> None:
    """A page whose connection breaks, in the middle of a row or between two, is seen as broken."""
    bulk.simulator.options.gzip, bulk.simulator.options.chunked = gzip, chunked
    bulk.simulator.faults.add("truncated", on="results", **given)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        bulk.results(job)
    assert len(rows(bulk.results(job))) == 10


def test_cleanly_cut_pages(bulk: BulkClient, job: str) -> None:
    """A page can end in the middle of a row as if all were well; so can any other answer."""
    whole = bulk.results(job)
    bulk.simulator.faults.add("truncated", on="results", clean=True)
    cut = bulk.results(job)
    assert cut.content == whole.content[: len(whole.content) // 2]
    assert cut.headers["Sforce-NumberOfRecords"] == "10"
    bulk.simulator.faults.add("truncated", on="job", clean=True)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        bulk.call("GET", f"/{job}").json()


CALLS = {
    "job_create": ("POST", "", {"operation": "query", "query": SOQL}),
    "jobs": ("GET", "", None),
    "job": ("GET", "/{}", None),
    "results": ("GET", "/{}/results", None),
    "result_pages": ("GET", "/{}/resultPages", None),
    "job_abort": ("PATCH", "/{}", {"state": "Aborted"}),
    "job_delete": ("DELETE", "/{}", None),
}


@pytest.mark.parametrize("on", CALLS)
def test_the_road_to_every_resource(bulk: BulkClient, job: str, on: str) -> None:
    """Sessions end, servers fail and connections break on each of the calls, and only there."""
    method, path, body = CALLS[on]
    path = path.format(job)
    faults = bulk.simulator.faults
    for name, status in (("unavailable_html", 503), ("session_expired", 401), ("html_ok", 200)):
        faults.add(name, on=on, sobject=None if on == "jobs" else "contact")
        assert bulk.get("limits").status_code == 200
        answer = bulk.call(method, path, body)
        assert answer.status_code == status
        assert (status == 401) != answer.text.startswith("<!DOCTYPE html>")
        bulk.login()
    faults.add("reset", on=on)
    with pytest.raises(requests.exceptions.ConnectionError):
        bulk.call(method, path, body)
    faults.add("no_date", on=on)
    answer = bulk.call(method, path, body)
    assert "Date" not in answer.headers
    assert answer.status_code in (200, 204, 400)
