"""Values survive the way out exactly."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.simulator import Simulator
from tests.simulator.conftest import Client


@pytest.fixture(scope="module")
def value_client() -> Iterator[Client]:
    with Simulator() as simulator:
        client = Client(simulator)
        client.login()
        with client.http:
            yield client
        assert simulator.errors == []


def served(client: Client, name: str, record_id: str, field: str) -> str:
    """The JSON text of one value."""
    text: str = client.get("query", q=f"SELECT {field} FROM {name} WHERE Id = '{record_id}'").text
    return text.split(f'"{field}":', 1)[1].removesuffix("}]}")


@pytest.mark.parametrize(
    ("field", "value", "json_text"),
    [
        ("AnnualRevenue", 999_999_999_999_999_999, "999999999999999999.0"),
        ("AnnualRevenue", -1, "-1.0"),
        ("AnnualRevenue", 0, "0.0"),
        ("Ledger_Number__c", "100000000000000001", "100000000000000001.0"),
        ("Credit_Limit__c", "-0.01", "-0.01"),
        ("Credit_Limit__c", "1234567890123456.78", "1234567890123456.78"),
        ("Credit_Limit__c", 300, "300.0"),
        ("Credit_Limit__c", "1.005", "1.01"),
        ("Score__c", Decimal("0.0001"), "0.0001"),
        ("BillingLatitude", "-48.135125000000001", "-48.135125000000001"),
        ("NumberOfEmployees", 42, "42"),
        ("Customer_Since__c", "1700-01-01", '"1700-01-01"'),
        ("Customer_Since__c", "4000-12-31", '"4000-12-31"'),
        ("Last_Order__c", "1700-01-01T00:00:00Z", '"1700-01-01T00:00:00.000+0000"'),
        ("Last_Order__c", "4000-12-31T23:59:59+00:00", '"4000-12-31T23:59:59.000+0000"'),
        ("Last_Order__c", "2024-06-01T02:00:00+0200", '"2024-06-01T00:00:00.000+0000"'),
        ("Key_Account__c", True, "true"),
        ("Key_Account__c", None, "false"),
        ("Channels__c", ["Online", "Retail"], '"Online;Retail"'),
        ("Site", "", "null"),
        ("Site", "\x00", '"\\u0000"'),
        ("Description", "\t\r\n\\N NA NULL", '"\\t\\r\\n\\\\N NA NULL"'),
        ("ParentId", "0015g0000000001", '"0015g0000000001AAA"'),
    ],
)
def test_json_of_values(value_client: Client, field: str, value: Any, json_text: str) -> None:
    """Each type is written as REST writes it, every digit kept."""
    record_id = value_client.simulator.org.create("Account", {"Name": "x", field: value})
    assert served(value_client, "Account", record_id, field) == json_text


def test_number_styles(value_client: Client) -> None:
    """Large numbers come with an exponent and whole ones without a fraction, when the org is told so."""
    simulator = value_client.simulator
    record_id = simulator.org.create(
        "Account", {"Name": "x", "AnnualRevenue": 400_000_000, "Score__c": "12345678.5"}
    )
    simulator.options.exponent_numbers = True
    styles = [served(value_client, "Account", record_id, name) for name in ("AnnualRevenue", "Score__c")]
    simulator.options.exponent_numbers, simulator.options.plain_numbers = False, True
    styles += [served(value_client, "Account", record_id, name) for name in ("AnnualRevenue", "Score__c")]
    simulator.options.plain_numbers = False
    assert styles == ["4.0E8", "1.23456785E7", "400000000", "12345678.5"]


def test_addresses(value_client: Client) -> None:
    """A compound address has all its parts in alphabetical order, codes with the feature, and is null when empty."""
    simulator = value_client.simulator
    full = simulator.org.create("Account", {"Name": "x", "BillingCity": "Köln", "BillingLatitude": "50.9"})
    record = simulator.org.record(full)
    assert record["ShippingAddress"] is None
    assert list(record["BillingAddress"]) == [
        "city", "country", "geocodeAccuracy", "latitude", "longitude", "postalCode", "state", "street",
    ]  # fmt: skip
    assert record["BillingAddress"]["latitude"] == Decimal("50.9")
    simulator.options.state_country_picklists = True
    try:
        assert {"countryCode", "stateCode"} < set(simulator.org.record(full)["BillingAddress"])
    finally:
        simulator.options.state_country_picklists = False


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
CHECKED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@CHECKED
@given(
    text=texts,
    scaled=st.integers(-(10**18) + 1, 10**18 - 1),
    day=st.dates(
        min_value=__import__("datetime").date(1700, 1, 1), max_value=__import__("datetime").date(4000, 12, 31)
    ),
)
def test_any_value_comes_back(value_client: Client, text: str, scaled: int, day: Any) -> None:
    """Whatever text, number of 18 digits or day is stored, the wire gives it back, and SOQL finds it."""
    amount = Decimal(scaled).scaleb(-2)
    org = value_client.simulator.org
    record_id = org.create("Account", {"Name": text, "Credit_Limit__c": amount, "Customer_Since__c": day})
    soql = (
        "SELECT Name, Credit_Limit__c, Customer_Since__c FROM Account"
        f" WHERE Id = '{record_id}' AND Credit_Limit__c = {amount:f} AND Customer_Since__c = {day.isoformat()}"
    )
    (record,) = json.loads(value_client.get("query", q=soql).text, parse_float=Decimal)["records"]
    assert (record["Name"], record["Credit_Limit__c"]) == (text, amount)
    assert record["Customer_Since__c"] == day.isoformat()
    org.purge(record_id)
