"""Unmodified simple-salesforce works against the simulator over real HTTPS."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import (
    SalesforceExpiredSession,
    SalesforceGeneralError,
    SalesforceMalformedRequest,
    SalesforceRefusedRequest,
    SalesforceResourceNotFound,
)

from sync.simulator import Simulator
from tests.simulator.conftest import Client


@pytest.fixture
def populated() -> Iterator[Simulator]:
    with Simulator(accounts=30, contacts=70) as running:
        yield running
        assert running.errors == []


@pytest.fixture
def salesforce(populated: Simulator) -> Iterator[Salesforce]:
    client = Client(populated)
    token = client.login()
    with client.http:
        yield Salesforce(session_id=token, instance_url=populated.url, session=client.http, version="62.0")


def test_reading(populated: Simulator, salesforce: Any) -> None:
    """Queries in pages, describe, limits, records and replication calls give what the org holds."""
    populated.options.page_sizes = [7, 1, 30]
    rows = list(salesforce.query_all_iter("SELECT Id, Name FROM Contact ORDER BY SystemModstamp, Id"))
    assert len({row["Id"] for row in rows}) == 70
    assert salesforce.query_all("SELECT Id FROM Account", include_deleted=True)["totalSize"] == 30
    assert {each["name"] for each in salesforce.describe()["sobjects"]} == {
        "Account",
        "Contact",
        "Organization",
        "User",
        "PermissionSet",
        "PermissionSetAssignment",
        "ObjectPermissions",
    }
    names = {field["name"] for field in salesforce.Contact.describe()["fields"]}
    record = salesforce.Contact.get(rows[0]["Id"])
    assert set(record) == names | {"attributes"}
    assert salesforce.limits()["DailyApiRequests"]["Max"] == 100_000
    assert salesforce.api_usage["api-usage"].total == 100_000
    now = datetime.now(UTC)
    populated.org.delete(rows[0]["Id"])
    window = (now - timedelta(hours=1), now + timedelta(minutes=2))
    assert salesforce.Contact.deleted(*window)["deletedRecords"][0]["id"] == rows[0]["Id"]
    assert salesforce.Contact.updated(*window)["ids"] == []


def test_errors(populated: Simulator, salesforce: Any) -> None:
    """Refusals arrive as the exceptions that real orgs cause."""
    with pytest.raises(SalesforceMalformedRequest, match="No such column 'Bad'"):
        salesforce.query("SELECT Bad FROM Contact")
    with pytest.raises(SalesforceResourceNotFound):
        salesforce.Contact.get("003000000000000AAA")
    populated.faults.add("concurrent_limit")
    with pytest.raises(SalesforceRefusedRequest, match="ConcurrentRequests"):
        salesforce.limits()
    populated.faults.add("unavailable_html")
    with pytest.raises(SalesforceGeneralError, match="Service Not Available"):
        salesforce.limits()
    populated.revoke_tokens()
    with pytest.raises(SalesforceExpiredSession):
        salesforce.limits()


def test_its_own_login(populated: Simulator) -> None:
    """simple-salesforce's own client-credentials login succeeds when its domain leads here."""
    client = Client(populated)
    known = populated.credentials
    port = populated.url.rsplit(":", 1)[1]
    with client.http:
        salesforce = Salesforce(
            consumer_key=known.client_id,
            consumer_secret=known.client_secret,
            # All behind the fragment sign, which the login code appends, never reaches the server.
            domain=f"localhost:{port}/services/oauth2/token#",
            session=client.http,
        )
        assert salesforce.query("SELECT COUNT() FROM Contact")["totalSize"] == 70
