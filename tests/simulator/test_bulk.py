"""Bulk API 2.0 query jobs: their life, their refusals and their results."""

import csv
import io
from typing import Any

import requests

from tests.simulator.conftest import VERSION, Client

JOBS = f"/services/data/v{VERSION}/jobs/query"


def send(client: Client, method: str, path: str = "", body: Any = None, **params: Any) -> requests.Response:
    """Call a resource below jobs/query."""
    return client.http.request(
        method,
        f"{client.simulator.url}{JOBS}{path}",
        json=body,
        params=params,
        headers={"Authorization": f"Bearer {client.token}"},
        timeout=20,
    )


def create(client: Client, soql: str, operation: str = "query", **more: str) -> str:
    answer = send(client, "POST", body={"operation": operation, "query": soql, **more})
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def parsed(answer: requests.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.reader(io.StringIO(answer.content.decode(), newline="")))


def test_from_creation_to_results(client: Client) -> None:
    """A job is created, completes, and gives its rows as CSV with a header row."""
    org = client.simulator.org
    account = org.create("Account", {"Name": 'The "Best", Ltd'})
    contact = org.create("Contact", {"LastName": "Doe", "AccountId": account, "MailingStreet": "1\n2"})
    job = create(client, "SELECT Id, Account.Name, FirstName, MailingStreet FROM Contact")
    assert send(client, "GET", f"/{job}").json()["state"] == "JobComplete"
    answer = send(client, "GET", f"/{job}/results")
    assert answer.content.decode() == (
        f'"Id","Account.Name","FirstName","MailingStreet"\n"{contact}","The ""Best"", Ltd","","1\n2"\n'
    )
    assert answer.headers["Sforce-NumberOfRecords"] == "1"
    assert answer.headers["Sforce-Locator"] == "null"
