"""The control endpoint does from another process what the Python API does."""

from typing import Any

import pytest
import requests

from sync.simulator import FAULTS, Simulator
from tests.simulator.conftest import BulkClient, Client


class Remote:
    """Another process's view: HTTPS and JSON, and the token of the controls."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._base = f"{client.simulator.url}/simulator"
        self._token = {"X-Simulator-Token": client.simulator.control_token}

    def post(self, action: str, **given: Any) -> requests.Response:
        return self._client.http.post(f"{self._base}/{action}", json=given, headers=self._token, timeout=10)

    def act(self, action: str, **given: Any) -> Any:
        answer = self.post(action, **given)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def read(self, what: str, **params: str) -> Any:
        answer = self._client.http.get(f"{self._base}/{what}", params=params, headers=self._token, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]


@pytest.fixture
def remote(client: Client) -> Remote:
    return Remote(client)


def test_records(simulator: Simulator, remote: Remote) -> None:
    """Records are created, changed, merged, deleted, restored, purged and read."""
    one = remote.act("create", object="Account", record={"Name": "Acme"}, stamp="2026-01-02T03:04:05+00:00")
    two, three = remote.act("create_many", object="Account", records=[{"Name": "B"}, {"Name": "C"}])
    assert remote.read("record", id=one)["SystemModstamp"] == "2026-01-02T03:04:05.000+0000"
    remote.act("update_many", ids=[one], record={"Name": "Acme plc"})
    remote.act("update", id=one, record={"Name": "Acme Ltd"}, stamp="2026-01-03T00:00:00+00:00")
    remote.act("delete", id=two)
    remote.act("undelete", id=two, bump=False)
    remote.act("merge", master=one, losers=[two])
    remote.act("purge", id=three, log=False)
    assert remote.read("ids", object="Account", deleted="true") == [two]
    assert remote.read("count", object="Account") == 2
    assert simulator.org.record(one)["Name"] == "Acme Ltd"


def test_faults_options_clock_and_log(client: Client, remote: Remote) -> None:
    """Faults come and go, switches turn, time moves, the log is readable, sessions end."""
    simulator = client.simulator
    assert remote.read("faults") == {name: kind.text for name, kind in FAULTS.items()}
    remote.act("faults", name="unavailable_html", on="limits", times=None, retry_after=3)
    assert client.get("limits").status_code == 503
    remote.act("clear_faults")
    assert client.get("limits").status_code == 200
    assert remote.act("options", page_sizes=[1, 2], gzip=False)["page_sizes"] == [1, 2]
    assert simulator.options.gzip is False
    assert remote.read("options")["gzip"] is False
    remote.act("clock", freeze="2026-05-01T00:00:00+00:00")
    assert remote.act("clock", advance=60)["now"] == "2026-05-01T00:01:00+00:00"
    remote.act("clock", resume=True)
    log = remote.read("requests")
    assert [(each["kind"], each["status"]) for each in log["requests"]] == [
        ("token", 200),
        ("limits", 503),
        ("limits", 200),
    ]
    assert log["api_calls"] == 1
    remote.act("clear_requests")
    assert simulator.requests == []
    remote.act("revoke_tokens")
    assert client.get("limits").status_code == 401


def test_bulk(bulk: BulkClient) -> None:
    """Bulk jobs are governed from outside too: their switches, their faults, their lines in the log."""
    remote = Remote(bulk)
    remote.act("create_many", object="Contact", records=[{"LastName": "a"}, {"LastName": "b"}])
    set_ = remote.act(
        "options", bulk_polls=1, bulk_page_sizes=[1, 2], bulk_order="id", bulk_unsupported=["User"]
    )
    assert (set_["bulk_order"], set_["job_ttl"]) == ("id", 7 * 86400)
    job = bulk.create("SELECT Id FROM Contact")
    assert [bulk.state(job) for _ in range(2)] == ["UploadComplete", "JobComplete"]
    assert [len(page) for page in bulk.pages(job)] == [1, 1]
    refused = bulk.call("POST", body={"operation": "query", "query": "SELECT Id FROM User"})
    assert refused.json()[0]["errorCode"] == "INVALIDENTITY"
    remote.act("faults", name="no_sforce_headers", which="locator", sobject="Contact")
    assert "Sforce-Locator" not in bulk.results(job).headers
    assert remote.post("faults", name="no_sforce_headers", which="colour").status_code == 400
    logged = [(each["kind"], each["job"]) for each in remote.read("requests")["requests"]]
    assert logged[1:4] == [("job_create", job), ("job", job), ("job", job)]


def test_schema(client: Client, remote: Remote) -> None:
    """Fields are added, retyped, hidden and removed."""
    remote.act("add_field", object="Contact", field={"name": "Size__c", "type": "string", "length": 10})
    remote.act("retype_field", object="Contact", field="Size__c", changes={"length": 20})
    assert '"length":20' in client.get("sobjects/Contact/describe").text
    remote.act("hide_field", object="Contact", field="Size__c")
    assert client.refused("SELECT Size__c FROM Contact")[0] == "INVALID_FIELD"
    remote.act("show_field", object="Contact", field="Size__c")
    remote.act("remove_field", object="Contact", field="Size__c")
    remote.act("change_formula", object="Contact", field="Spend_With_Tax__c", change=0.5)
    contact = remote.act("create", object="Contact", record={"LastName": "x", "Spend__c": 100})
    assert remote.read("record", id=contact)["Spend_With_Tax__c"] == 119.5


def test_mistakes_are_explained(remote: Remote) -> None:
    """Unknown actions are 404, wrong arguments 400, with the reason."""
    assert remote.post("nonsense").status_code == 404
    for action, given, reason in (
        ("faults", {"name": "gremlins"}, "no fault"),
        ("options", {"colour": "red"}, "no options colour"),
        ("create", {"object": "Contact", "record": {}}, "required field missing"),
        ("create", {"record": {}}, "missing or unknown: object"),
        ("delete", {"id": "003000000000000AAA"}, "no record"),
        ("add_field", {"object": "Contact", "field": {"name": "x"}}, "type"),
    ):
        answer = remote.post(action, **given)
        assert answer.status_code == 400
        assert reason in answer.json()["error"]


FOREIGN: dict[str, dict[str, str]] = {
    "no token": {"X-Simulator-Token": ""},
    "wrong token": {"X-Simulator-Token": "guessed"},
    "token that is no ASCII": {"X-Simulator-Token": "\xff"},
    "foreign page": {"Origin": "https://evil.example"},
    "page without an origin": {"Origin": "null"},
    "page of another port": {"Origin": "https://localhost:1"},
    "page without TLS": {"Origin": "http://localhost:{port}"},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same site, other port": {"Sec-Fetch-Site": "same-site"},
    "foreign name": {"Host": "evil.example:{port}"},
    "foreign name without a port": {"Host": "evil.example"},
    "other port": {"Host": "localhost:1"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_the_controls_are_ours_alone(simulator: Simulator, client: Client, headers: dict[str, str]) -> None:
    """Without the token, or from another site whatever it carries, nothing is read and nothing done."""
    port = simulator.url.rpartition(":")[2]
    sent = {name: value.format(port=port) for name, value in headers.items()}
    sent = {"X-Simulator-Token": simulator.control_token} | sent
    for method, path in (("GET", ""), ("GET", "/options"), ("POST", "/create"), ("DELETE", "/requests")):
        answer = client.http.request(
            method,
            f"{simulator.url}/simulator{path}",
            json={"object": "Account", "record": {"Name": "x"}},
            headers={name: value.encode("latin-1") for name, value in sent.items()},
            timeout=10,
        )
        assert (answer.status_code, list(answer.json())) == (403, ["error"])
    assert simulator.org.count("Account") == 0
    assert simulator.requests != []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_page_of_the_simulators_own_may(simulator: Simulator, client: Client, host: str) -> None:
    """The simulator's own names are no foreign ones."""
    port = simulator.url.rpartition(":")[2]
    answer = client.http.get(
        f"https://{host}:{port}/simulator",
        headers={
            "X-Simulator-Token": simulator.control_token,
            "Origin": f"https://{host}:{port}",
            "Sec-Fetch-Site": "same-origin",
        },
        timeout=10,
    )
    assert answer.status_code == 200


def test_credentials_differ_per_start() -> None:
    """Two simulators of the same org have nothing secret in common, unless a seed for that is given."""
    with Simulator() as one, Simulator() as other:
        assert one.org.organization_id == other.org.organization_id
        for name in ("client_id", "client_secret", "password", "security_token"):
            assert getattr(one.credentials, name) != getattr(other.credentials, name)
        assert one.control_token != other.control_token
    with Simulator(credentials_seed=5) as one, Simulator(seed=2, credentials_seed=5) as other:
        assert one.credentials == other.credentials
