"""A simulator per test or per module, and a plain requests client that trusts its authority."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from sync.simulator import Simulator, describes

VERSION = "60.0"
CATALOGUED = describes.FOLDER


class Client:
    """A logged-in HTTP client; knows nothing but URLs."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.http = requests.Session()
        self.http.trust_env = False  # a CA bundle in the environment would win over verify
        self.http.verify = simulator.ca_file
        self.token = ""

    def login(self) -> str:
        known = self.simulator.credentials
        answer = self.http.post(
            f"{self.simulator.url}/services/oauth2/token",
            data={"grant_type": "client_credentials"},
            auth=(known.client_id, known.client_secret),
            timeout=10,
        )
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["access_token"]
        return self.token

    def get(self, path: str, headers: dict[str, str] | None = None, **params: str) -> requests.Response:
        """GET a resource of the data API, or an absolute path."""
        address = path if path.startswith("/") else f"/services/data/v{VERSION}/{path}"
        bearer = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return self.http.get(
            self.simulator.url + address, params=params, headers={**bearer, **(headers or {})}, timeout=10
        )

    def query(self, soql: str, all_rows: bool = False) -> dict[str, Any]:
        answer = self.get("queryAll" if all_rows else "query", q=soql)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def refused(self, soql: str) -> tuple[str, str]:
        """Error code and message of a query that must be refused."""
        answer = self.get("query", q=soql)
        assert answer.status_code == 400, answer.text
        (problem,) = answer.json()
        return problem["errorCode"], problem["message"]

    def names(self, soql: str, all_rows: bool = False) -> list[Any]:
        """The Name column of a query's records."""
        return [record["Name"] for record in self.query(soql, all_rows)["records"]]


@pytest.fixture(scope="package", autouse=True)
def nothing_declared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The orgs of these tests have the objects that a test gives them, whatever a team has declared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describes, "FOLDER", tmp_path_factory.mktemp("describes"))
        yield


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running
        assert running.errors == []


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Client]:
    connected = Client(simulator)
    connected.login()
    with connected.http:
        yield connected


class BulkClient(Client):
    """A client of Bulk API 2.0 query jobs; knows nothing but URLs."""

    def call(
        self, method: str, path: str = "", body: Any = None, version: str = VERSION, **params: Any
    ) -> requests.Response:
        """Call jobs/query or something below it."""
        return self.http.request(
            method,
            f"{self.simulator.url}/services/data/v{version}/jobs/query{path}",
            data=None if body is None else json.dumps(body),
            params=params,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            timeout=20,
        )

    def create(self, soql: str, operation: str = "query", version: str = VERSION, **more: str) -> str:
        """The Id of a new job."""
        answer = self.call("POST", "", {"operation": operation, "query": soql, **more}, version)
        assert answer.status_code == 200, answer.text
        job: str = answer.json()["id"]
        return job

    def state(self, job: str) -> str:
        state: str = self.call("GET", f"/{job}").json()["state"]
        return state

    def wait(self, job: str) -> None:
        while self.state(job) in ("UploadComplete", "InProgress"):
            pass

    def results(self, job: str, **params: Any) -> requests.Response:
        """A page of results."""
        return self.call("GET", f"/{job}/results", **params)

    def pages(self, job: str, **params: Any) -> Iterator[list[list[str]]]:
        """The parsed pages of a job, without their header rows."""
        locator: dict[str, str] = {}
        while True:
            answer = self.results(job, **params, **locator)
            assert answer.status_code == 200, answer.text
            yield list(csv.reader(io.StringIO(answer.content.decode(), newline="")))[1:]
            if answer.headers["Sforce-Locator"] == "null":
                return
            locator = {"locator": answer.headers["Sforce-Locator"]}

    def rows(self, soql: str, operation: str = "query", **params: Any) -> list[list[str]]:
        """All rows of a new job."""
        return [row for page in self.pages(self.create(soql, operation), **params) for row in page]


@pytest.fixture
def bulk(simulator: Simulator) -> Iterator[BulkClient]:
    connected = BulkClient(simulator)
    connected.login()
    with connected.http:
        yield connected
