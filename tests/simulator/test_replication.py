"""getUpdated and getDeleted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.simulator.conftest import Client

T0 = datetime(2026, 3, 1, 10, 0, 30, tzinfo=UTC)


def zulu(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S+00:00")


def call(client: Client, kind: str, start: datetime, end: datetime, name: str = "Contact") -> dict[str, Any]:
    answer = client.get(f"sobjects/{name}/{kind}/", start=zulu(start), end=zulu(end))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.fixture(autouse=True)
def frozen(client: Client) -> None:
    client.simulator.clock.freeze(T0)
    client.login()


def test_updated_by_the_minute(client: Client) -> None:
    """getUpdated cuts both ends to the minute, includes creations and changes, and leaves deleted records out."""
    org = client.simulator.org
    at = [
        org.create("Contact", {"LastName": "x"}, stamp=T0 + timedelta(seconds=s))
        for s in (-91, -90, -31, -30, -29)
    ]
    org.create("Contact", {"LastName": "x"}, stamp=T0 - timedelta(days=3))
    body = call(client, "updated", T0 - timedelta(seconds=61), T0)  # 09:59 to 10:00, both :00
    assert sorted(body["ids"]) == sorted(at[1:4])
    assert body["latestDateCovered"] == "2026-03-01T10:00:00.000+0000"
    org.delete(at[2])
    assert at[2] not in call(client, "updated", T0 - timedelta(minutes=2), T0 + timedelta(minutes=1))["ids"]


def test_latest_date_covered_lags(client: Client) -> None:
    """latestDateCovered is never after now, and hours behind when long transactions are open."""
    later = T0 + timedelta(hours=1)
    assert call(client, "updated", T0 - timedelta(hours=5), later)["latestDateCovered"].startswith(
        "2026-03-01T10:00:30"
    )
    client.simulator.options.latest_date_covered_lag = 3 * 3600
    for kind in ("updated", "deleted"):
        body = call(client, kind, T0 - timedelta(hours=5), later)
        assert body["latestDateCovered"] == "2026-03-01T07:00:30.000+0000"


def test_deleted(client: Client) -> None:
    """getDeleted names records in the bin, purged ones, merge losers and cascaded ones; a silent purge it does not."""
    org = client.simulator.org
    account = org.create("Account", {"Name": "Acme"})
    binned, purged, silent, loser, master = org.create_many("Contact", [{"LastName": "x"}] * 5)
    cascaded = org.create("Contact", {"LastName": "x", "AccountId": account})
    org.delete(binned)
    org.purge(purged)
    org.purge(silent, log=False)
    org.merge(master, [loser])
    org.delete(account)
    body = call(client, "deleted", T0 - timedelta(hours=1), T0 + timedelta(minutes=2))
    assert {each["id"] for each in body["deletedRecords"]} == {binned, purged, loser, cascaded}
    assert body["deletedRecords"][0]["deletedDate"] == "2026-03-01T10:00:30.000+0000"
    assert body["earliestDateAvailable"] == "2026-02-14T10:00:30.000+0000"


def test_undeleted_may_stay_listed(client: Client) -> None:
    """An undeleted record stays in the delete log, unless the org is told otherwise."""
    org = client.simulator.org
    one, two = org.create_many("Contact", [{"LastName": "x"}] * 2)
    org.delete(one)
    org.delete(two)
    org.undelete(one)
    client.simulator.options.undeleted_stay_listed = False
    org.undelete(two)
    body = call(client, "deleted", T0 - timedelta(hours=1), T0 + timedelta(minutes=2))
    assert [each["id"] for each in body["deletedRecords"]] == [one]


def test_delete_log_ages(client: Client) -> None:
    """getDeleted forgets deletions after 15 days, and refuses what lies before a purge of the log."""
    org, clock = client.simulator.org, client.simulator.clock
    contact = org.create("Contact", {"LastName": "x"})
    org.delete(contact)
    clock.advance(16 * 86400)
    client.login()
    assert call(client, "deleted", T0 - timedelta(days=1), clock.now())["deletedRecords"] == []
    org.purge_delete_log()
    answer = client.get("sobjects/Contact/deleted", start=zulu(T0), end=zulu(clock.now()))
    assert answer.json()[0]["errorCode"] == "INVALID_REPLICATION_DATE"


@pytest.mark.parametrize(
    ("kind", "start", "end", "code", "message"),
    [
        ("updated", -31 * 1440, 0, "INVALID_REPLICATION_DATE", "startDate cannot be more than 30 days ago"),
        ("deleted", -31 * 1440, 0, "INVALID_REPLICATION_DATE", "startDate cannot be more than 30 days ago"),
        (
            "updated",
            0,
            0,
            "INVALID_REPLICATION_DATE",
            "startDate must be at least one minute greater than endDate",
        ),
        (
            "updated",
            5,
            0,
            "INVALID_REPLICATION_DATE",
            "startDate must be at least one minute greater than endDate",
        ),
        (
            "deleted",
            -1,
            0,
            "INVALID_REPLICATION_DATE",
            "startDate must be at least one minute greater than endDate",
        ),
    ],
)
def test_bad_windows(client: Client, kind: str, start: int, end: int, code: str, message: str) -> None:
    """Windows too old, empty or backwards are refused in Salesforce's words, sic."""
    ends = (T0 + timedelta(minutes=start), T0 + timedelta(minutes=end))
    answer = client.get(f"sobjects/Contact/{kind}/", start=zulu(ends[0]), end=zulu(ends[1]))
    assert answer.status_code == 400
    assert answer.json() == [{"message": message, "errorCode": code}]


def test_bad_dates(client: Client) -> None:
    """A missing date, a malformed one, and a plus sign that was not encoded are refused."""
    base = f"{client.simulator.url}/services/data/v60.0/sobjects/Contact/updated/"
    bearer = {"Authorization": f"Bearer {client.token}"}
    for query in ("", "?start=x&end=y", "?start=2026-03-01T09:00:00+00:00&end=2026-03-01T10:00:00+00:00"):
        assert client.http.get(base + query, headers=bearer, timeout=10).status_code == 400
    client.simulator.options.replication_enabled_at = T0 - timedelta(days=2)
    answer = client.get("sobjects/Contact/updated", start=zulu(T0 - timedelta(days=3)), end=zulu(T0))
    assert answer.json()[0]["message"] == "startDate before org replication enabled date"
    assert client.get("sobjects/Organization/updated", start=zulu(T0), end=zulu(T0)).status_code == 400
