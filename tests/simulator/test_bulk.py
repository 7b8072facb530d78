"""Bulk API 2.0 query jobs: their life, their refusals, and what the log tells of them."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from simple_salesforce.api import Salesforce
from simple_salesforce.bulk2 import Operation

from sync.simulator import Simulator
from tests.simulator.conftest import VERSION, BulkClient, Client

SOQL = "SELECT Id, LastName FROM Contact"
# The keys of a recorded creation, in their order.
CREATED = [
    *("id", "operation", "object", "createdById", "createdDate", "systemModstamp", "state"),
    *("concurrencyMode", "contentType", "apiVersion", "lineEnding", "columnDelimiter"),
]


def problem(answer: requests.Response, status: int = 400) -> tuple[str, str]:
    """Code and message of a refusal."""
    assert answer.status_code == status, answer.text
    (body,) = answer.json()
    return body["errorCode"], body["message"]


# ── the life of a job ─────────────────────────────────────────────────────────────────────────────────


def test_creation(bulk: BulkClient) -> None:
    """A new job is described with the recorded keys, and the defaults of those not given."""
    clock = bulk.simulator.clock
    clock.freeze()
    answer = bulk.call("POST", body={"operation": "queryAll", "query": SOQL})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == CREATED
    assert body["id"].startswith("750")
    assert len(body["id"]) == 18
    now = clock.now().strftime("%Y-%m-%dT%H:%M:%S.000+0000")
    assert body | {"id": "", "createdById": ""} == {
        "id": "",
        "operation": "queryAll",
        "object": "Contact",
        "createdById": "",
        "createdDate": now,
        "systemModstamp": now,
        "state": "UploadComplete",
        "concurrencyMode": "Parallel",
        "contentType": "CSV",
        "apiVersion": 60.0,
        "lineEnding": "LF",
        "columnDelimiter": "COMMA",
    }
    assert "60.0" in answer.text


def test_completion(bulk: BulkClient) -> None:
    """A job's information tells what became of it; its query is never told."""
    bulk.simulator.org.create_many("Contact", [{"LastName": "x"}] * 3)
    job = bulk.create(SOQL)
    body = bulk.call("GET", f"/{job[:15]}").json()
    assert list(body) == [
        *CREATED[:10],
        "jobType",
        *CREATED[10:],
        *("numberRecordsProcessed", "retries", "totalProcessingTime", "isPkChunkingSupported"),
    ]
    assert (body["state"], body["numberRecordsProcessed"], body["jobType"]) == ("JobComplete", 3, "V2Query")
    assert body["isPkChunkingSupported"] is True
    assert isinstance(body["totalProcessingTime"], int)
    assert "SELECT" not in str(body)


@pytest.mark.parametrize(
    ("polls", "states"),
    [
        (0, ["JobComplete"]),
        (1, ["UploadComplete", "JobComplete"]),
        (3, ["UploadComplete", "InProgress", "InProgress", "JobComplete", "JobComplete"]),
    ],
)
def test_polls(bulk: BulkClient, polls: int, states: list[str]) -> None:
    """A job can be made to need a number of looks; nothing but looking at it moves it."""
    bulk.simulator.options.bulk_polls = polls
    job = bulk.create(SOQL)
    assert problem(bulk.results(job))[0] == "API_ERROR" if polls else bulk.results(job).ok
    assert [bulk.state(job) for _ in states] == states
    assert bulk.results(job).ok


def test_processing_takes_time(bulk: BulkClient) -> None:
    """A job can be in progress for a while of real time."""
    bulk.simulator.options.bulk_seconds = 0.4
    job = bulk.create(SOQL)
    assert bulk.state(job) == "InProgress"
    assert bulk.call("GET", f"/{job}").json()["numberRecordsProcessed"] == 0
    code, message = problem(bulk.results(job))
    assert (code, "InProgress" in message) == ("API_ERROR", True)
    time.sleep(0.45)
    assert bulk.state(job) == "JobComplete"
    assert bulk.call("GET", f"/{job}").json()["totalProcessingTime"] >= 400


def test_jobs_belong_to_the_user(bulk: BulkClient) -> None:
    """After another login the job and its locators are still there."""
    bulk.simulator.org.create_many("Contact", [{"LastName": "x"}] * 3)
    job = bulk.create(SOQL)
    locator = bulk.results(job, maxRecords=2).headers["Sforce-Locator"]
    bulk.simulator.revoke_tokens()
    assert problem(bulk.results(job, locator=locator), 401)[0] == "INVALID_SESSION_ID"
    bulk.login()
    assert bulk.results(job, locator=locator).headers["Sforce-NumberOfRecords"] == "1"


def test_abort(bulk: BulkClient) -> None:
    """An unfinished job can be aborted, and tells less of itself then; an ended one refuses."""
    bulk.simulator.options.bulk_polls = 5
    job = bulk.create(SOQL)
    answer = bulk.call("PATCH", f"/{job}", {"state": "Aborted"})
    assert list(answer.json()) == CREATED[:10]
    assert answer.json()["state"] == bulk.state(job) == "Aborted"
    assert problem(bulk.call("PATCH", f"/{job}", {"state": "Aborted"}))[0] == "INVALIDJOBSTATE"
    assert problem(bulk.results(job))[0] == "API_ERROR"
    bulk.simulator.options.bulk_polls = 0
    complete = bulk.create(SOQL)
    assert problem(bulk.call("PATCH", f"/{complete}", {"state": "Aborted"})) == (
        "INVALIDJOBSTATE",
        "Aborting already Completed Job not allowed",
    )
    assert problem(bulk.call("PATCH", f"/{complete}", {"state": "Open"}))[0] == "INVALIDJOB"
    assert problem(bulk.call("PATCH", f"/{complete}", []))[0] == "JSON_PARSER_ERROR"


def test_delete(bulk: BulkClient) -> None:
    """An ended job can be deleted, with an empty 204; one that runs cannot."""
    bulk.simulator.options.bulk_polls = 1
    job = bulk.create(SOQL)
    assert problem(bulk.call("DELETE", f"/{job}")) == (
        "API_ERROR",
        "Error encountered when deleting the job because the job is not terminated",
    )
    bulk.wait(job)
    answer = bulk.call("DELETE", f"/{job}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers
    for method, path in (("GET", ""), ("GET", "/results"), ("GET", "/resultPages"), ("DELETE", "")):
        assert problem(bulk.call(method, f"/{job}{path}"), 404)[0] == "NOT_FOUND"


def test_jobs_expire(bulk: BulkClient) -> None:
    """Seven days after its end by the org's clock a job is gone, after as long an unfinished one too."""
    clock, options = bulk.simulator.clock, bulk.simulator.options
    done = bulk.create(SOQL)
    options.bulk_polls = 1
    waiting = bulk.create(SOQL)
    clock.advance(7 * 86400 - 60)
    bulk.login()
    assert bulk.results(done).ok
    clock.advance(120)
    for job in (done, waiting):
        assert problem(bulk.call("GET", f"/{job}"), 404)[0] == "NOT_FOUND"
    options.job_ttl, options.bulk_polls = 60, 0
    brief = bulk.create(SOQL)
    clock.advance(61)
    assert bulk.call("GET", f"/{brief}").status_code == 404


def test_versions(bulk: BulkClient) -> None:
    """A job is read with the version that made it; query jobs came with 47, result pages with 58."""
    job = bulk.create(SOQL)
    for path in ("", "/results", "/resultPages"):
        assert bulk.call("GET", f"/{job}{path}", version="61.0").status_code == 409
    assert bulk.call("POST", body={"operation": "query", "query": SOQL}, version="46.0").status_code == 404
    old = bulk.create(SOQL, version="57.0")
    assert bulk.call("GET", f"/{old}/results", version="57.0").ok
    assert bulk.call("GET", f"/{old}/resultPages", version="57.0").status_code == 404


def test_listing(bulk: BulkClient) -> None:
    """All living jobs are listed, of the kinds asked for."""
    ordered = bulk.create(SOQL + " ORDER BY Id")
    plain = bulk.create(SOQL)

    def listed(**params: str) -> list[str]:
        body = bulk.call("GET", **params).json()
        assert (body["done"], body["nextRecordsUrl"]) == (True, None)
        return [record["id"] for record in body["records"]]

    assert listed() == [ordered, plain]
    assert listed(jobType="V2Query", concurrencyMode="Parallel") == [ordered, plain]
    assert listed(jobType="V2Ingest") == listed(concurrencyMode="Serial") == []
    assert listed(isPkChunkingEnabled="true") == [plain]
    assert listed(isPkChunkingEnabled="false") == [ordered]
    assert listed(queryLocator=plain) == [plain]
    assert problem(bulk.call("GET", queryLocator="junk"))[0] == "INVALID_QUERY_LOCATOR"
    record = bulk.call("GET").json()["records"][0]
    assert list(record) == [*CREATED[:10], "jobType", *CREATED[10:]]


def test_a_long_listing_has_pages(bulk: BulkClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that is too long goes on where nextRecordsUrl leads, with the same filters."""
    monkeypatch.setattr("sync.simulator.bulk.api.JOBS_PER_PAGE", 2)
    made = [bulk.create(SOQL) for _ in range(5)]
    body = bulk.call("GET", jobType="V2Query").json()
    seen = [record["id"] for record in body["records"]]
    while not body["done"]:
        assert "jobType=V2Query" in body["nextRecordsUrl"]
        body = bulk.get(body["nextRecordsUrl"]).json()
        seen += [record["id"] for record in body["records"]]
    assert seen == made


# ── refusals ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"query": SOQL}, "INVALIDJOB", "operation"),
        ({"operation": "query"}, "INVALIDJOB", "query"),
        ({"operation": "insert", "query": SOQL}, "INVALIDJOB", "operation: insert"),
        ({"operation": "query", "query": SOQL, "contentType": "JSON"}, "INVALIDJOB", "contentType"),
        ({"operation": "query", "query": SOQL, "columnDelimiter": ","}, "INVALIDJOB", "COMMA"),
        ({"operation": "query", "query": SOQL, "lineEnding": "CR"}, "INVALIDJOB", "LF, CRLF"),
        ({"operation": "query", "query": SOQL, "colour": "red"}, "JSON_PARSER_ERROR", "colour"),
        ({"operation": "query", "query": 1}, "JSON_PARSER_ERROR", "query"),
        ([], "JSON_PARSER_ERROR", "array"),
        (None, "JSON_PARSER_ERROR", ""),
    ],
)
def test_bad_bodies(bulk: BulkClient, body: Any, code: str, message: str) -> None:
    """A body that is no job is refused with the reason."""
    found = problem(bulk.call("POST", body=body))
    assert found[0] == code
    assert message in found[1]


CSV_ONLY = "not supported in Bulk V2 Query with CSV content type"


@pytest.mark.parametrize(
    ("soql", "code", "message"),
    [
        ("", "MALFORMED_QUERY", "A query string has to be specified"),
        ("SELECT Id FORM Contact", "MALFORMED_QUERY", "unexpected token: 'FORM'"),
        ("SELECT Bad FROM Contact", "INVALID_FIELD", "No such column 'Bad' on entity 'Contact'"),
        ("SELECT Account.Bad FROM Contact", "INVALID_FIELD", "No such column 'Bad' on entity 'Account'"),
        ("SELECT Id FROM XYZZY", "INVALID_TYPE", "sObject type 'XYZZY' is not supported"),
        (
            "SELECT MailingAddress FROM Contact",
            "API_ERROR",
            "Selecting compound data not supported in Bulk Query",
        ),
        (
            "SELECT Id, Account.BillingAddress FROM Contact",
            "API_ERROR",
            "Selecting compound data not supported in Bulk Query",
        ),
        ("SELECT COUNT() FROM Contact", "API_ERROR", CSV_ONLY),
        ("SELECT COUNT(Id) FROM Contact", "API_ERROR", CSV_ONLY),
        ("SELECT LastName FROM Contact GROUP BY LastName", "API_ERROR", CSV_ONLY),
        ("SELECT Id FROM Contact LIMIT 5 OFFSET 0", "API_ERROR", CSV_ONLY),
        ("SELECT Id, (SELECT Id FROM Contacts) FROM Account", "API_ERROR", CSV_ONLY),
        ("SELECT TYPEOF Owner WHEN User THEN Name END FROM Contact", "API_ERROR", CSV_ONLY),
    ],
)
def test_queries_that_bulk_refuses(bulk: BulkClient, soql: str, code: str, message: str) -> None:
    """What REST refuses, and what only Bulk refuses, is refused when the job is created."""
    found = problem(bulk.call("POST", body={"operation": "query", "query": soql}))
    assert found[0] == code
    assert message in found[1]
    assert bulk.call("GET").json()["records"] == []


def test_words_in_strings_are_no_syntax(bulk: BulkClient) -> None:
    """What looks like a child query within a string is text."""
    bulk.create("SELECT Id FROM Contact WHERE LastName = ', (select typeof'")


def test_unsupported_objects(bulk: BulkClient) -> None:
    """Objects can be kept from the Bulk API."""
    bulk.simulator.options.bulk_unsupported = ("Contact",)
    assert problem(bulk.call("POST", body={"operation": "query", "query": SOQL})) == (
        "INVALIDENTITY",
        "Entity 'Contact' is not supported by the Bulk API.",
    )
    bulk.create("SELECT Id FROM Account")


def test_job_limit(bulk: BulkClient) -> None:
    """Jobs are counted for 24 hours, those of others with them, and refused beyond the limit."""
    options = bulk.simulator.options
    options.bulk_jobs_max, options.bulk_jobs_used = 10, 8
    bulk.wait(job := bulk.create(SOQL))
    bulk.call("DELETE", f"/{job}")
    bulk.create(SOQL)
    assert bulk.get("limits").json()["DailyBulkV2QueryJobs"] == {"Max": 10, "Remaining": 0}
    assert problem(bulk.call("POST", body={"operation": "query", "query": SOQL})) == (
        "LIMIT_EXCEEDED",
        "Max bulk v2 query jobs (10) per 24 hrs has been reached (10)",
    )
    bulk.simulator.clock.advance(86401)
    bulk.login()
    bulk.create(SOQL)


def test_storage_limit(bulk: BulkClient) -> None:
    """Results are weighed for 24 hours, those of others with them."""
    options = bulk.simulator.options
    bulk.simulator.org.create_many("Contact", [{"LastName": "x", "Description": "y" * 30_000}] * 40)
    assert bulk.get("limits").json()["DailyBulkV2QueryFileStorageMB"] == {
        "Max": 976_562,
        "Remaining": 976_562,
    }
    options.bulk_storage_max_kb, options.bulk_storage_used_kb = 4096, 2000
    bulk.create("SELECT Description FROM Contact")
    assert bulk.get("limits").json()["DailyBulkV2QueryFileStorageMB"] == {"Max": 4, "Remaining": 1}
    bulk.create("SELECT Description FROM Contact")
    assert problem(bulk.call("POST", body={"operation": "query", "query": SOQL})) == (
        "LIMIT_EXCEEDED",
        "Max bulk v2 query result size stored (4096) kb per 24 hrs has been exceeded",
    )


def test_schema_changes_before_processing(bulk: BulkClient) -> None:
    """A field that disappears before the job is processed makes it fail, with the reason."""
    bulk.simulator.options.bulk_polls = 1
    job = bulk.create("SELECT Id, Title FROM Contact")
    assert bulk.state(job) == "UploadComplete"
    bulk.simulator.org.hide_field("Contact", "Title")
    body = bulk.call("GET", f"/{job}").json()
    assert body["state"] == "Failed"
    assert body["errorMessage"].startswith("InvalidBatch : Failed to process query: INVALID_FIELD")


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────


def test_request_log(bulk: BulkClient) -> None:
    """Every call is logged with its kind, object and job, and counts as an API call."""
    bulk.simulator.requests.clear()
    job = bulk.create(SOQL)
    bulk.call("GET", f"/{job}")
    bulk.call("GET")
    bulk.results(job)
    bulk.call("GET", f"/{job}/resultPages")
    bulk.call("PATCH", f"/{job}", {"state": "Aborted"})
    bulk.call("DELETE", f"/{job}")
    bulk.call("GET", f"/{job}")
    log = bulk.simulator.requests
    assert [(each.kind, each.sobject, each.job, each.status) for each in log] == [
        ("job_create", "Contact", job, 200),
        ("job", "Contact", job, 200),
        ("jobs", None, None, 200),
        ("results", "Contact", job, 200),
        ("result_pages", "Contact", job, 200),
        ("job_abort", "Contact", job, 400),
        ("job_delete", "Contact", job, 204),
        ("job", "Contact", job, 404),
    ]
    assert log[0].soql == SOQL
    assert all(each.counted for each in log)
    assert bulk.simulator.api_calls == 8


def test_wrong_method(bulk: BulkClient) -> None:
    """A method that a job does not know is 405, and those it knows are named."""
    job = bulk.create(SOQL)
    code, message = problem(bulk.call("PUT", f"/{job}"), 405)
    assert (code, message) == (
        "METHOD_NOT_ALLOWED",
        "HTTP Method 'PUT' not allowed. Allowed are GET,HEAD,PATCH,DELETE",
    )


# ── a client that we did not write ────────────────────────────────────────────────────────────────────


@pytest.fixture
def salesforce() -> Iterator[tuple[Simulator, Any]]:
    with Simulator(accounts=20, contacts=90) as running:
        client = Client(running)
        token = client.login()
        with client.http:
            yield (
                running,
                Salesforce(session_id=token, instance_url=running.url, session=client.http, version=VERSION),
            )
        assert running.errors == []


def test_simple_salesforce(salesforce: tuple[Simulator, Any]) -> None:
    """Unmodified simple-salesforce reads all pages of a queryAll, and meets the documented refusals."""
    running, client = salesforce
    running.org.delete(running.org.ids("Contact")[0])
    pages = list(client.bulk2.Contact.query_all("SELECT Id FROM Contact", max_records=40, wait=0.01))
    assert [page.count("\n") for page in pages] == [41, 41, 11]
    lines = [line for page in pages for line in page.splitlines()[1:]]
    assert sorted(lines) == sorted(f'"{each}"' for each in running.org.ids("Contact"))
    job = client.bulk2.Contact._client.create_job(Operation.query, "SELECT Id FROM Contact")
    client.bulk2.Contact._client.wait_for_job(job["id"], True, 0.01)
    with pytest.raises(Exception, match="Completed Job not allowed"):
        client.bulk2.Contact._client.abort_job(job["id"], True)
