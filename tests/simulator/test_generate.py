"""Generated customers: plausible, repeatable, fast, and with the values that break replications."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from sync.simulator import Simulator

VOLATILE = {"CreatedDate", "LastModifiedDate", "SystemModstamp", "Last_Order__c", "Last_Visit__c"}


def steady(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without the values that count back from today."""
    return [{name: value for name, value in record.items() if name not in VOLATILE} for record in records]


def test_same_seed_same_org() -> None:
    """The same seed gives the same records, another seed others."""
    orgs = []
    for seed in (7, 7, 8):
        with Simulator(accounts=60, contacts=90, seed=seed) as simulator:
            orgs.append([steady(simulator.org.records(name)) for name in ("Account", "Contact")])
    assert orgs[0] == orgs[1]
    assert orgs[0] != orgs[2]


def test_plausible_and_hard() -> None:
    """Counts are exact, stamps lie between six years and a day ago, lookups lead somewhere, hard values are there."""
    with Simulator(accounts=200, contacts=600) as simulator:
        org = simulator.org
        assert (org.count("Account"), org.count("Contact", deleted=False)) == (200, 600)
        accounts, contacts = org.records("Account"), org.records("Contact")
    now = datetime.now(UTC)
    ids = {record["Id"] for record in accounts + contacts}
    for record in accounts + contacts:
        created, modified, stamped = (
            datetime.fromisoformat(record[name])
            for name in ("CreatedDate", "LastModifiedDate", "SystemModstamp")
        )
        assert now - timedelta(days=6 * 366) < created <= modified <= stamped < now - timedelta(hours=23)
        for name in ("ParentId", "AccountId", "ReportsToId", "Referred_By__c"):
            assert record.get(name) is None or record[name] in ids
    assert {"01234", "00501"} <= {
        each for record in accounts + contacts for each in record.values() if each == str(each)
    }
    assert any("\x00" in record["Name"] for record in accounts)
    assert any(len(record["Description"] or "") == 32_000 for record in contacts)
    assert any(record["Birthdate"] == "1700-01-01" for record in contacts)
    assert any(record["AccountId"] is None for record in contacts)
    assert any(record["Ledger_Number__c"] == 999_999_999_999_999_999 for record in accounts)
    assert len({record["BillingCountry"] for record in accounts}) >= 6
    assert (
        max(Counter(record["SystemModstamp"] for record in contacts).values()) > 100
    )  # bulk loads share a stamp


def test_speed() -> None:
    """Twenty thousand customers take seconds to make and milliseconds a page to read."""
    begin = time.monotonic()
    with Simulator(accounts=4_000, contacts=16_000) as simulator:
        assert time.monotonic() - begin < 10
        begin = time.monotonic()
        rows = simulator.org.queries.read(
            "SELECT FIELDS(STANDARD) FROM Contact ORDER BY SystemModstamp, Id", "60.0"
        )
        assert len(rows) == 16_000
        assert time.monotonic() - begin < 5
