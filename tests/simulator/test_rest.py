"""The data API's shapes: versions, headers, describe, paging, single records, errors."""

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.simulator.conftest import Client

# The keys a recorded describe has for every field.
FIELD_KEYS = [
    "aggregatable",
    "aiPredictionField",
    "autoNumber",
    "byteLength",
    "calculated",
    "calculatedFormula",
    "cascadeDelete",
    "caseSensitive",
    "compoundFieldName",
    "controllerName",
    "createable",
    "custom",
    "defaultValue",
    "defaultValueFormula",
    "defaultedOnCreate",
    "dependentPicklist",
    "deprecatedAndHidden",
    "digits",
    "displayLocationInDecimal",
    "encrypted",
    "externalId",
    "extraTypeInfo",
    "filterable",
    "filteredLookupInfo",
    "formulaTreatNullNumberAsZero",
    "groupable",
    "highScaleNumber",
    "htmlFormatted",
    "idLookup",
    "inlineHelpText",
    "label",
    "length",
    "mask",
    "maskType",
    "name",
    "nameField",
    "namePointing",
    "nillable",
    "permissionable",
    "picklistValues",
    "polymorphicForeignKey",
    "precision",
    "queryByDistance",
    "referenceTargetField",
    "referenceTo",
    "relationshipName",
    "relationshipOrder",
    "restrictedDelete",
    "restrictedPicklist",
    "scale",
    "searchPrefilterable",
    "soapType",
    "sortable",
    "type",
    "unique",
    "updateable",
    "writeRequiresMasterRead",
]


def fields_of(client: Client, name: str) -> dict[str, Any]:
    return {field["name"]: field for field in client.get(f"sobjects/{name}/describe").json()["fields"]}


def test_versions_need_no_session(client: Client) -> None:
    """The version list is public, ascending from 31.0, and free."""
    client.token = ""
    listed = client.get("/services/data/").json()
    assert listed[0]["version"] == "31.0"
    assert listed[-1] == {"label": "Summer '26", "url": "/services/data/v67.0", "version": "67.0"}
    assert client.simulator.api_calls == 0


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/services/data/v30.0/limits", 410, "GONE"),
        ("/services/data/v99.0/limits", 404, "NOT_FOUND"),
        ("/services/data/v60.0/nonsense", 404, "NOT_FOUND"),
        ("/services/data/v60.0/sobjects/Nothing/describe", 404, "NOT_FOUND"),
        ("/services/data/v60.0/sobjects/Contact/003000000000000AAA", 404, "NOT_FOUND"),
        ("/services/data/v60.0/query/0r8000000000000000-2000", 400, "INVALID_QUERY_LOCATOR"),
        ("/services/data/v60.0/query/junk", 400, "INVALID_QUERY_LOCATOR"),
    ],
)
def test_addresses_that_lead_nowhere(client: Client, path: str, status: int, code: str) -> None:
    """Retired versions, unknown versions, objects, records and locators answer as Salesforce does."""
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.json()[0]["errorCode"] == code


def test_wrong_method(client: Client) -> None:
    """A method that a resource does not know is 405."""
    answer = client.http.delete(
        f"{client.simulator.url}/services/data/v60.0/limits",
        headers={"Authorization": f"Bearer {client.token}"},
        timeout=10,
    )
    assert answer.status_code == 405
    assert answer.json()[0]["errorCode"] == "METHOD_NOT_ALLOWED"


def test_headers(client: Client) -> None:
    """Every data answer carries the limit info, cookies, the org's date, and is chunked and compressed if asked."""
    answer = client.get("limits")
    assert answer.headers["Sforce-Limit-Info"] == "api-usage=1/100000"
    assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "BrowserId" in answer.headers["Set-Cookie"]
    assert answer.json()["DailyApiRequests"] == {"Max": 100_000, "Remaining": 99_999}
    plain = client.get("limits", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    options = client.simulator.options
    options.per_app_info = "17/250(appName=x)"
    metered = client.get("limits").headers["Sforce-Limit-Info"]
    assert metered == "api-usage=3/100000; per-app-api-usage=17/250(appName=x)"
    options.chunked = options.cookies = options.send_limit_info = False
    bare = client.get("limits")
    assert int(bare.headers["Content-Length"]) > 0
    assert "Set-Cookie" not in bare.headers
    assert "Sforce-Limit-Info" not in bare.headers


def test_date_follows_the_clock(client: Client) -> None:
    """The Date header is the org's clock, not the machine's."""
    client.simulator.clock.advance(-86400 * 365)
    year = client.simulator.clock.now().year
    assert f" {year} " in client.get("limits").headers["Date"]


def test_limits(client: Client) -> None:
    """Without View Setup the limits resource is refused; with enforcement the last call is."""
    options = client.simulator.options
    options.limits_resource = False
    assert client.get("limits").json() == [
        {"message": "limits resource is not enabled", "errorCode": "API_DISABLED_FOR_ORG"}
    ]
    options.enforce_limit, options.limit_max, options.limit_used = True, 10, 9
    answer = client.get("sobjects")
    assert answer.status_code == 403
    assert answer.json()[0]["message"] == "TotalRequests Limit exceeded."


def test_pretty_print(client: Client) -> None:
    """X-PrettyPrint: 1 and nothing else gives indented JSON with blanks around colons; the content is the same."""
    client.simulator.org.create("Account", {"Name": 'tricky": "x'})
    soql = "SELECT Name FROM Account"
    pretty = client.get("query", headers={"X-PrettyPrint": "1"}, q=soql)
    compact = client.get("query", headers={"X-PrettyPrint": "0"}, q=soql)
    assert '"totalSize" : 1' in pretty.text
    assert '"totalSize":1' in compact.text
    assert pretty.json() == compact.json()


def test_describe_global(client: Client) -> None:
    """Describe global lists the objects with the recorded keys."""
    body = client.get("sobjects/").json()
    assert (body["encoding"], body["maxBatchSize"]) == ("UTF-8", 200)
    contact = next(each for each in body["sobjects"] if each["name"] == "Contact")
    assert contact["keyPrefix"] == "003"
    assert contact["urls"]["rowTemplate"] == "/services/data/v60.0/sobjects/Contact/{ID}"
    assert {"associateEntityType", "hasSubtypes", "replicateable", "mruEnabled"} < set(contact)
    assert len(contact) == 28


@pytest.mark.parametrize("name", ["Account", "Contact"])
def test_describe(client: Client, name: str) -> None:
    """A describe gives each field 57 keys, sizes by the recorded rules, and the traps real orgs have."""
    body = client.get(f"sobjects/{name}/describe").json()
    fields = {field["name"]: field for field in body["fields"]}
    assert all(sorted(field) == FIELD_KEYS for field in fields.values())
    assert body["sobjectDescribeOption"] == "FULL"
    assert fields["Id"]["byteLength"] == 18
    assert fields["Name"]["byteLength"] == 3 * fields["Name"]["length"]
    assert not fields["Description"]["filterable"]
    assert not fields["Description"]["sortable"]
    assert not fields["SystemModstamp"]["groupable"]
    assert fields["IsDeleted"]["defaultValue"] is False
    assert any(field["calculated"] and not field["updateable"] for field in fields.values())
    assert any(field["type"] == "address" and field["filterable"] for field in fields.values())


def test_describe_not_modified(client: Client) -> None:
    """A describe that did not change since the named time is an empty 304; a schema change ends that."""
    clock, org = client.simulator.clock, client.simulator.org
    clock.advance(60)
    stamp = client.get("sobjects/Contact/describe").headers["Date"]
    since = {"If-Modified-Since": stamp}
    unchanged = client.get("sobjects/Contact/describe", headers=since)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    clock.advance(60)
    org.hide_field("Contact", "Email")
    changed = client.get("sobjects/Contact/describe", headers=since)
    assert changed.status_code == 200
    assert "Email" not in {field["name"] for field in changed.json()["fields"]}


def test_features_bring_fields(client: Client) -> None:
    """Person accounts and state pick lists show their fields only while they are on."""
    options = client.simulator.options
    assert not {"IsPersonAccount", "BillingCountryCode"} & set(fields_of(client, "Account"))
    options.person_accounts = options.state_country_picklists = True
    fields = fields_of(client, "Account")
    assert {"IsPersonAccount", "PersonEmail", "BillingCountryCode"} < set(fields)
    assert fields["Name"]["nillable"]


def test_query_shape(client: Client) -> None:
    """A record has its attributes first, then the fields in the order and the case of the real names."""
    org = client.simulator.org
    account = org.create("Account", {"Name": "Acme"})
    contact = org.create("Contact", {"LastName": "Doe", "FirstName": "Jo", "AccountId": account})
    body = client.query("select LASTNAME, id, account.NAME, Account.Parent.Name, firstname from CONTACT")
    assert list(body) == ["totalSize", "done", "records"]
    (record,) = body["records"]
    assert list(record) == ["attributes", "LastName", "Id", "Account", "FirstName"]
    assert record["attributes"] == {
        "type": "Contact",
        "url": f"/services/data/v60.0/sobjects/Contact/{contact}",
    }
    assert record["Account"]["attributes"]["url"].endswith(account)
    assert list(record["Account"].items())[1:] == [("Name", "Acme"), ("Parent", None)]


def test_null_parent(client: Client) -> None:
    """A contact without account has a null in the parent's place."""
    client.simulator.org.create("Contact", {"LastName": "Alone"})
    (record,) = client.query("SELECT Account.Name, Owner.Name FROM Contact")["records"]
    assert record["Account"] is None
    assert record["Owner"]["attributes"]["type"] == "User"


def test_paging(client: Client) -> None:
    """Pages follow nextRecordsUrl under query/, totalSize stays, the last page has no next."""
    org, options = client.simulator.org, client.simulator.options
    made = org.create_many("Contact", [{"LastName": f"{n}"} for n in range(7)])
    options.page_sizes = [3, 1, 2]
    body = client.query("SELECT Id FROM Contact ORDER BY Id", all_rows=True)
    sizes, seen = [], []
    while True:
        assert body["totalSize"] == 7
        sizes.append(len(body["records"]))
        seen += [record["Id"] for record in body["records"]]
        if body["done"]:
            break
        address = body["nextRecordsUrl"]
        assert address.startswith("/services/data/v60.0/query/0r8")
        body = client.get(address).json()
        assert client.get(address).json() == body  # the same locator may be fetched again
    assert "nextRecordsUrl" not in body
    assert (sizes, seen) == ([3, 1, 2, 1], made)


def test_batch_size_is_clamped(client: Client) -> None:
    """Sforce-Query-Options is clamped to 200–2,000, garbage is ignored, two custom long texts make pages small."""
    client.simulator.org.create_many("Contact", [{"LastName": "x"}] * 2100)

    def first_page(options: str, fields: str = "Id") -> int:
        headers = {"Sforce-Query-Options": options}
        return len(client.get("query", headers=headers, q=f"SELECT {fields} FROM Contact").json()["records"])

    sizes = [first_page(text) for text in ("batchSize=500", "batchSize=1", "batchSize=9999", "junk")]
    assert sizes == [500, 200, 2000, 2000]
    client.simulator.org.add_field(
        "Contact", client.simulator.org.schema.objects["Account"].fields["Notes__c"]
    )
    assert first_page("", "Notes__c, Remarks__c") == 200


def test_locators_belong_to_a_session(client: Client) -> None:
    """After a new login an old locator is refused, unless the org is told otherwise; after two days always."""
    org, options = client.simulator.org, client.simulator.options
    org.create_many("Contact", [{"LastName": "x"}] * 4)
    options.page_sizes = 2
    address = client.query("SELECT Id FROM Contact")["nextRecordsUrl"]
    client.login()
    assert client.get(address).json()[0]["errorCode"] == "INVALID_SESSION_ID"
    options.locator_refusal = "INVALID_QUERY_LOCATOR"
    assert client.get(address).json()[0]["errorCode"] == "INVALID_QUERY_LOCATOR"
    options.locator_bound_to_session = False
    assert client.get(address).status_code == 200
    client.simulator.clock.advance(2 * 86400 + 60)
    client.login()
    assert client.get(address).json()[0]["errorCode"] == "INVALID_QUERY_LOCATOR"


def test_pages_are_read_when_served(client: Client) -> None:
    """Rows changed or deleted between pages come changed, flagged, or not at all; a snapshot can be asked for."""
    org, options = client.simulator.org, client.simulator.options
    ids = org.create_many("Contact", [{"LastName": f"{n}"} for n in range(6)])
    options.page_sizes = 2
    live = client.query("SELECT Id, LastName, IsDeleted FROM Contact ORDER BY Id")["nextRecordsUrl"]
    everything = client.query("SELECT Id, LastName, IsDeleted FROM Contact ORDER BY Id", all_rows=True)
    options.values_live = False
    snapshot = client.query("SELECT Id, LastName, IsDeleted FROM Contact ORDER BY Id")["nextRecordsUrl"]
    org.update(ids[2], {"LastName": "changed"})
    org.delete(ids[3])

    def seen(address: str) -> list[tuple[str, bool]]:
        return [(record["LastName"], record["IsDeleted"]) for record in client.get(address).json()["records"]]

    assert seen(live) == [("changed", False)]
    assert seen(everything["nextRecordsUrl"]) == [("changed", False), ("3", True)]
    assert seen(snapshot) == [("2", False), ("3", False)]


def test_single_record(client: Client) -> None:
    """A record is reachable by 15 or 18 characters, whole or in part, and gives what the org says it holds."""
    org = client.simulator.org
    contact = org.create("Contact", {"LastName": "Doe", "MailingCity": "Köln", "Spend__c": "0.10"})
    whole = client.get(f"sobjects/Contact/{contact}")
    assert json.loads(whole.text, parse_float=Decimal) == org.record(contact)
    part = client.get(f"sobjects/Contact/{contact[:15]}", fields="LastName,Id").json()
    assert list(part) == ["attributes", "LastName", "Id"]
    wrong = client.get(f"sobjects/Contact/{contact}", fields="Bad")
    assert wrong.status_code == 400
    assert wrong.json() == [
        {"message": "No such column 'Bad' on sobject of type Contact", "errorCode": "INVALID_FIELD"}
    ]


def test_collection_retrieve(client: Client) -> None:
    """Retrieving by Id keeps the order asked for, with null for what is not there."""
    org = client.simulator.org
    one, two = org.create_many("Account", [{"Name": "1"}, {"Name": "2"}])
    org.delete(one)
    answer = client.http.post(
        f"{client.simulator.url}/services/data/v60.0/composite/sobjects/Account",
        json={"ids": [two, one, "001000000000000AAA"], "fields": ["name"]},
        headers={"Authorization": f"Bearer {client.token}"},
        timeout=10,
    )
    records = answer.json()
    assert [record and record["Name"] for record in records] == ["2", None, None]


def test_long_addresses(client: Client) -> None:
    """A URI beyond 16,384 bytes is 414 with HTML, long headers are 431."""
    long = client.get("query", q="SELECT Id FROM Contact WHERE Name = '" + "x" * 16_400 + "'")
    assert long.status_code == 414
    assert long.text.startswith("<h1>Bad Message 414</h1>")
    fits = client.get("query", q="SELECT Id FROM Contact WHERE Name = '" + "x" * 3_900 + "'")
    assert fits.status_code == 200
    assert client.get("limits", headers={"X-Long": "x" * 16_400}).status_code == 431


def test_request_log(client: Client) -> None:
    """The log names each call's kind, object, query and status, and whether it counted."""
    client.simulator.requests.clear()
    client.query("SELECT Id FROM Contact")
    client.get("sobjects/Account/describe")
    client.get("nonsense")
    client.login()
    log = client.simulator.requests
    assert [(each.kind, each.sobject, each.status, each.counted) for each in log] == [
        ("query", "Contact", 200, True),
        ("describe", "Account", 200, True),
        ("unknown", None, 404, False),
        ("token", None, 200, False),
    ]
    assert log[0].soql == "SELECT Id FROM Contact"
    assert client.simulator.api_calls == 2
