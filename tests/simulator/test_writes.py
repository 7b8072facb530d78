"""Records written by REST, with unmodified simple-salesforce."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError

from sync.simulator import Simulator
from tests.simulator.conftest import Client

T0 = datetime(2026, 3, 1, 10, 0, 0, tzinfo=UTC)


@pytest.fixture
def salesforce(simulator: Simulator, client: Client) -> Any:
    simulator.clock.freeze(T0)
    return Salesforce(
        session_id=client.token, instance_url=simulator.url, session=client.http, version="62.0"
    )


def refusal(write: Callable[[], object]) -> tuple[int, str, list[str]]:
    """Status, code and fields of a refused write."""
    with pytest.raises(SalesforceError) as caught:
        write()
    content: Any = caught.value.content
    (problem,) = content
    return caught.value.status, problem["errorCode"], problem.get("fields", [])


def test_a_record_s_life(simulator: Simulator, salesforce: Any, client: Client) -> None:
    """A record is created, changed and deleted as by the org's own operations: stamps, names, bin, delete log."""
    org = simulator.org
    made = salesforce.Account.create({"Name": "Acme", "AnnualRevenue": 12345678901234567})
    assert made == {"id": org.ids("Account")[0], "success": True, "errors": []}
    account = made["id"]
    contact = salesforce.Contact.create({"lastname": "Doe", "AccountId": account[:15], "DoNotCall": True})[
        "id"
    ]
    record = org.record(contact)
    assert (record["Name"], record["AccountId"], record["DoNotCall"]) == ("Doe", account, True)
    assert org.record(account)["AnnualRevenue"] == Decimal("12345678901234567")
    simulator.clock.advance(60)
    assert salesforce.Contact.update(contact, {"FirstName": "Jo", "AccountId": None, "Email": ""}) == 204
    record = org.record(contact)
    assert (record["Name"], record["AccountId"], record["Email"]) == ("Jo Doe", None, None)
    assert record["SystemModstamp"] == "2026-03-01T10:01:00.000+0000"
    assert record["CreatedDate"] == "2026-03-01T10:00:00.000+0000"
    assert client.get(f"sobjects/Contact/{contact}", fields="Id,FirstName").json()["FirstName"] == "Jo"
    salesforce.Contact.update(contact, {"AccountId": account})
    assert salesforce.Account.delete(account) == 204
    assert (org.ids("Account", deleted=True), org.ids("Contact", deleted=True)) == ([account], [contact])
    window = (T0 - timedelta(hours=1), T0 + timedelta(minutes=5))
    assert salesforce.Contact.deleted(*window)["deletedRecords"][0]["id"] == contact
    assert refusal(lambda: salesforce.Contact.update(contact, {}))[:2] == (404, "ENTITY_IS_DELETED")
    assert refusal(lambda: salesforce.Contact.delete(contact))[:2] == (404, "ENTITY_IS_DELETED")
    assert client.get(f"sobjects/Contact/{contact}").status_code == 404


def test_location_and_kinds(simulator: Simulator, salesforce: Any, client: Client) -> None:
    """A create names its record's address; each write has its kind in the log and counts as a call."""
    made = client.http.post(
        f"{simulator.url}/services/data/v60.0/sobjects/contact/",
        json={"LastName": "Doe"},
        headers={"Authorization": f"Bearer {client.token}"},
        timeout=10,
    )
    contact = made.json()["id"]
    assert made.status_code == 201
    assert made.headers["Location"] == f"/services/data/v60.0/sobjects/Contact/{contact}"
    salesforce.Contact.update(contact, {"Title": "x"})
    salesforce.Contact.delete(contact)
    logged = [(each.kind, each.sobject, each.status, each.counted) for each in simulator.requests[-3:]]
    assert logged == [
        ("create", "contact", 201, True),
        ("update", "Contact", 204, True),
        ("delete", "Contact", 204, True),
    ]


@pytest.mark.parametrize(
    ("record", "code", "fields"),
    [
        ({}, "REQUIRED_FIELD_MISSING", ["LastName"]),
        ({"LastName": ""}, "REQUIRED_FIELD_MISSING", ["LastName"]),
        ({"LastName": "x", "Bad": 1}, "INVALID_FIELD", []),
        ({"LastName": "x", "Id": "003000000000000AAA"}, "INVALID_FIELD", []),
        (
            {"LastName": "x", "SystemModstamp": "2026-01-01T00:00:00Z"},
            "INVALID_FIELD_FOR_INSERT_UPDATE",
            None,
        ),
        ({"LastName": "x", "Name": "x"}, "INVALID_FIELD_FOR_INSERT_UPDATE", None),
        ({"LastName": "x" * 81}, "STRING_TOO_LONG", None),
        ({"LastName": "x", "Email": "nobody"}, "INVALID_EMAIL_ADDRESS", None),
        ({"LastName": "x", "CleanStatus": "odd"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", None),
        ({"LastName": "x", "AccountId": "x"}, "MALFORMED_ID", None),
        ({"LastName": "x", "AccountId": "001000000000000AAA"}, "INVALID_CROSS_REFERENCE_KEY", None),
        ({"LastName": "x", "Birthdate": "tomorrow"}, "JSON_PARSER_ERROR", []),
        ({"LastName": "x", "DoNotCall": "perhaps"}, "JSON_PARSER_ERROR", []),
        ({"LastName": "x", "MailingLatitude": 1e9}, "NUMBER_OUTSIDE_VALID_RANGE", None),
        ([], "JSON_PARSER_ERROR", []),
    ],
)
def test_refused_records(
    simulator: Simulator, salesforce: Any, record: Any, code: str, fields: list[str] | None
) -> None:
    """What cannot be written answers 400 with its code and its fields, and nothing is written."""
    status, found, named = refusal(lambda: salesforce.Contact.create(record))
    assert (status, found) == (400, code)
    if fields is not None:
        assert (named if code != "JSON_PARSER_ERROR" else []) == fields
    else:
        assert named == [list(record)[-1]]
    assert simulator.org.ids("Contact") == []


def test_refused_changes(simulator: Simulator, salesforce: Any) -> None:
    """A record must exist and be live, its required fields stay filled, and parents must be live."""
    org = simulator.org
    gone, contact = org.create("Account", {"Name": "x"}), org.create("Contact", {"LastName": "x"})
    org.delete(gone)
    update = salesforce.Contact.update
    assert refusal(lambda: update(contact, {"LastName": None})) == (
        400,
        "REQUIRED_FIELD_MISSING",
        ["LastName"],
    )
    assert refusal(lambda: update(contact, {"AccountId": gone})) == (400, "ENTITY_IS_DELETED", ["AccountId"])
    assert refusal(lambda: update("003000000000000AAA", {}))[:2] == (404, "NOT_FOUND")
    assert refusal(lambda: update(gone, {}))[:2] == (400, "MALFORMED_ID")
    assert refusal(lambda: salesforce.User.create({"LastName": "x"}))[0] == 400
    assert refusal(lambda: salesforce.Nothing.create({}))[:2] == (404, "NOT_FOUND")
    simulator.faults.add("insufficient_access", on="create", sobject="Contact")
    assert refusal(lambda: salesforce.Contact.create({"LastName": "x"}))[:2] == (403, "INSUFFICIENT_ACCESS")
