"""Objects that only a describe tells of: served, generated, changed and deleted like any other, over HTTPS."""

import copy
import csv
import io
import json
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from sync.simulator import Field, Simulator, describes
from sync.simulator.describes import DescribeError, load_describes, read_describe
from tests.simulator.conftest import CATALOGUED, BulkClient

HERE = Path(__file__).parent
FILES = [HERE / "opportunity.json", HERE / "invoice.json"]
OPPORTUNITY, INVOICE = (json.loads(path.read_text()) for path in FILES)
NAMES = ("Opportunity", "Invoice__c")
DEAL = {"Name": "Big deal", "StageName": "Prospecting", "CloseDate": "2027-03-31"}


@pytest.fixture(scope="module")
def served() -> Iterator[Simulator]:
    """An org with generated records that no test changes."""
    with Simulator(8, 60, describes=FILES, others={"Invoice__c": 40}) as simulator:
        yield simulator
        assert simulator.errors == []


@pytest.fixture
def reader(served: Simulator) -> Iterator[BulkClient]:
    client = BulkClient(served)
    client.login()
    with client.http:
        yield client


@pytest.fixture
def changing() -> Iterator[BulkClient]:
    """A client of an org without records of its own."""
    with Simulator(describes=[OPPORTUNITY, INVOICE]) as simulator:
        client = BulkClient(simulator)
        client.login()
        with client.http:
            yield client
        assert simulator.errors == []


def describe(client: BulkClient, name: str) -> dict[str, Any]:
    body: dict[str, Any] = client.get(f"sobjects/{name}/describe").json()
    return body


def selectable(name: str, compounds: bool = False) -> list[str]:
    body = OPPORTUNITY if name == "Opportunity" else INVOICE
    left_out = () if compounds else ("address", "location")
    return [field["name"] for field in body["fields"] if field["type"] not in left_out]


def listing(client: BulkClient, name: str, which: str) -> requests.Response:
    """The answer of getUpdated or getDeleted for the last hour."""
    now = client.simulator.clock.now()
    start, end = (f"{now + timedelta(minutes=at):%Y-%m-%dT%H:%M:%SZ}" for at in (-60, 2))
    return client.get(f"sobjects/{name}/{which}", None, start=start, end=end)


# ── what a describe becomes ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("given", [OPPORTUNITY, INVOICE], ids=NAMES)
def test_a_describe_comes_out_as_it_went_in(reader: BulkClient, given: dict[str, Any]) -> None:
    """The served describe has every key of the given one, for the object and for each field in order."""
    answered = describe(reader, given["name"])

    assert {name: answered[name] for name in given if name != "fields"} == {
        name: value for name, value in given.items() if name != "fields"
    }
    assert [
        {key: field[key] for key in wanted}
        for wanted, field in zip(given["fields"], answered["fields"], strict=True)
    ] == given["fields"]
    assert {len(field) for field in answered["fields"]} == {57}


def test_the_objects_are_listed_and_permitted(reader: BulkClient) -> None:
    """The global describe and the permissions of the integration user name the objects."""
    listed = {each["name"]: each for each in reader.get("sobjects").json()["sobjects"]}
    permitted = reader.query("SELECT SobjectType, PermissionsRead FROM ObjectPermissions")["records"]

    assert [listed[name]["keyPrefix"] for name in NAMES] == ["006", "a0B"]
    assert listed["Invoice__c"]["custom"]
    assert not listed["Opportunity"]["mergeable"]
    assert set(NAMES) <= {each["SobjectType"] for each in permitted if each["PermissionsRead"]}


def test_missing_keys_have_defaults() -> None:
    """A describe that says of each field no more than name and type is enough."""
    bare: dict[str, Any] = {"name": "ns__Thing__c", "fields": [{"name": "Id", "type": "id"}]}
    kinds = ("string", "double", "boolean", "int", "long", "reference", "SystemModstamp")
    bare["fields"] += [{"name": f"{kind}__c", "type": kind} for kind in kinds[:-1]]
    bare["fields"] += [{"name": "SystemModstamp", "type": "datetime"}]

    with Simulator(contacts=5, describes=[bare], others={"ns__Thing__c": 3}) as simulator:
        [first, *_] = simulator.org.records("ns__Thing__c")
        thing = simulator.org.create("ns__Thing__c", {"long__c": 123_456_789_012_345})
        client = BulkClient(simulator)
        client.login()
        fields = {field["name"]: field for field in describe(client, "ns__Thing__c")["fields"]}
        client.http.close()

    assert first["Id"].startswith("a00")
    assert thing.startswith("a00")
    assert fields["double__c"]["precision"] == 18
    assert (fields["long__c"]["type"], fields["long__c"]["soapType"]) == ("long", "xsd:long")
    assert not fields["SystemModstamp"]["createable"]
    assert fields["string__c"]["updateable"]


def broken(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = copy.deepcopy(OPPORTUNITY)
    for name, value in changes.items():
        (body["fields"][3] if name in ("type", "precision", "name_") else body)[name.rstrip("_")] = value
    return body


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object with the keys name and fields"),
        ({"name": "X"}, "missing required field `fields`"),
        (broken(name="No name!"), "name: 'No name!'; expected an API name such as Invoice__c"),
        (broken(keyPrefix="toolong"), "keyPrefix: 'toolong'; expected three letters or digits"),
        (broken(replicateable="yes"), "Expected `bool`, got `str` - at `$.replicateable`"),
        (broken(type="money"), "fields[3].type: 'money' of IsPrivate; expected one of address, anyType,"),
        (broken(precision=40), "fields[3].precision: of IsPrivate; expected at most 18 digits"),
        (broken(name_="Id"), "fields[3].name: Id is there twice"),
        ({"name": "X", "fields": []}, "fields: expected a field Id of type id"),
    ],
)
def test_a_malformed_describe_is_refused(tmp_path: Path, body: Any, told: str) -> None:
    """The error names the file, the key and what is expected there."""
    path = tmp_path / "thing.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body))

    with pytest.raises(DescribeError) as refused:
        read_describe(path)

    assert str(refused.value).startswith(f"{path}: ")
    assert told in str(refused.value)


def test_known_objects_are_not_replaced(tmp_path: Path) -> None:
    """Of an object that is there a describe in the folder is left aside, and one that is given is refused."""
    account = {**OPPORTUNITY, "name": "Account"}
    (tmp_path / "account.json").write_text(json.dumps(account))
    (tmp_path / "opportunity.json").write_text(json.dumps({**OPPORTUNITY, "label": "Another"}))

    assert [each.name for each in load_describes((), tmp_path)] == ["Opportunity"]
    assert [each.label for each in load_describes([OPPORTUNITY], tmp_path)] == ["Opportunity"]
    assert load_describes((), tmp_path / "absent") == []
    with pytest.raises(DescribeError, match=r"account\.json: name: the org has an object Account already"):
        load_describes([tmp_path / "account.json"], tmp_path)
    with pytest.raises(DescribeError, match="has an object Opportunity already"):
        load_describes([OPPORTUNITY, OPPORTUNITY], tmp_path)


def test_describes_of_the_catalogue_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator serves the describes that lie beside the product's declarations without being told."""
    assert Path(__file__).parents[2] / "sync" / "catalogue" / "objects" == CATALOGUED
    monkeypatch.setattr(describes, "FOLDER", tmp_path)
    (tmp_path / "invoice.json").write_text(json.dumps(INVOICE))

    simulator = Simulator(contacts=30)
    simulator.stop()

    assert simulator.org.described == ["Invoice__c"]


def test_key_prefixes_are_unique() -> None:
    """Two objects with one key prefix are refused, since an Id must tell its object; a missing one is chosen."""
    with pytest.raises(DescribeError, match="keyPrefix: 006 is that of Opportunity; expected another"):
        Simulator(describes=[OPPORTUNITY, {**INVOICE, "keyPrefix": "006"}])
    with pytest.raises(DescribeError, match="keyPrefix: 001 is that of Account"):
        Simulator(describes=[{**INVOICE, "keyPrefix": "001"}])
    simulator = Simulator(
        describes=[{**INVOICE, "keyPrefix": None}, {**INVOICE, "name": "B__c", "keyPrefix": "a00"}]
    )
    simulator.stop()
    prefixes = {name: simulator.org.schema.objects[name].key_prefix for name in ("Invoice__c", "B__c")}

    assert prefixes == {"Invoice__c": "a01", "B__c": "a00"}


# ── generated records ─────────────────────────────────────────────────────────────────────────────────


def test_how_many_records_there_are(served: Simulator) -> None:
    """A described object has one record to five contacts, at least five, or as many as one says."""
    assert served.org.count("Opportunity") == 12
    assert served.org.count("Invoice__c") == 40
    for contacts, count in ((0, 0), (3, 5)):
        simulator = Simulator(contacts=contacts, describes=[OPPORTUNITY])
        assert simulator.org.count("Opportunity") == count
        simulator.stop()
    with pytest.raises(ValueError, match=r"no describe of Case; described objects: Opportunity"):
        Simulator(describes=[OPPORTUNITY], others={"Case": 1})


def test_records_are_the_same_for_a_seed() -> None:
    """The same seed makes the same records, another seed others."""

    def made(seed: int) -> list[Any]:
        simulator = Simulator(2, 10, seed, describes=[INVOICE])
        kept = ("Id", "Total__c", "Subject__c", "Account__c", "Cutoff__c", "Tags__c", "Gross__c")
        found = [{name: each[name] for name in kept} for each in simulator.org.records("Invoice__c")]
        simulator.stop()
        return found

    assert made(1) == made(1) != made(2)


def test_values_fit_their_fields(served: Simulator) -> None:
    """Every type has values; a field that may be null is null somewhere; auto numbers count."""
    records = served.org.records("Invoice__c")
    for field in INVOICE["fields"]:
        found = [record[field["name"]] for record in records]
        assert any(value is not None for value in found), field["name"]
        if not field["nillable"]:
            assert None not in found, field["name"]
        if field["length"]:
            assert all(len(value) <= field["length"] for value in found if value), field["name"]

    assert [record["Name"] for record in records] == [f"INV-{at:05}" for at in range(1, 41)]
    assert len({record["ERP_Number__c"] for record in records} - {None}) > 20
    assert any(record["Total__c"] == Decimal("9999999999999999.99") for record in records)
    assert {True, False} == {record["Paid__c"] for record in records}
    assert not any(record["IsDeleted"] for record in records)
    assert all(abs(record["Place__Latitude__s"] or 0) <= 90 for record in records)


def test_references_lead_to_records(served: Simulator) -> None:
    """A reference names a record of its object; one to an object that the org lacks is null."""
    pools = {name: set(served.org.ids(name)) for name in ("Account", "Contact", "User", "Invoice__c")}
    for record in served.org.records("Invoice__c"):
        for name, target in (
            ("Account__c", "Account"),
            ("Contact__c", "Contact"),
            ("Corrects__c", "Invoice__c"),
            ("OwnerId", "User"),
            ("CreatedById", "User"),
        ):
            assert record[name] is None or record[name] in pools[target], name
        assert record["Corrects__c"] is None or record["Corrects__c"] < record["Id"]
    assert {record["CampaignId"] for record in served.org.records("Opportunity")} == {None}


# ── queries ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_rest_and_bulk_give_the_same_records(reader: BulkClient, name: str) -> None:
    """All fields of all records come by REST pages and by a Bulk job, with the same values."""
    names = selectable(name)
    soql = f"SELECT {', '.join(names)} FROM {name}"
    reader.simulator.options.page_sizes = 7
    try:
        answer = reader.get("queryAll", q=f"{soql} ORDER BY SystemModstamp, Id")
        records = (page := answer.json(parse_float=Decimal))["records"]
        while not page["done"]:
            page = reader.get(page["nextRecordsUrl"]).json(parse_float=Decimal)
            records += page["records"]
    finally:
        reader.simulator.options.page_sizes = None
    rows = {row[0]: row for row in reader.rows(soql, "queryAll")}

    assert [record["Id"] for record in records] == [
        record["Id"] for record in sorted(records, key=lambda each: (each["SystemModstamp"], each["Id"]))
    ]
    assert len(rows) == len(records) == page["totalSize"] == reader.simulator.org.count(name)
    for record in records:
        for field, cell in zip(names, rows[record["Id"]], strict=True):
            assert cell == in_bulk(record[field]), field


def in_bulk(value: Any) -> str:
    """A value of a REST answer as Bulk results write it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value).replace("+0000", "Z") if str(value).endswith(".000+0000") else str(value)


def test_counts_groups_and_paths(reader: BulkClient) -> None:
    """COUNT, calendar functions, relationship paths, Id lists and times work on described objects."""
    org = reader.simulator.org
    records = org.records("Invoice__c")

    assert reader.query("SELECT COUNT() FROM Invoice__c")["totalSize"] == 40
    grouped = reader.query(
        "SELECT CALENDAR_YEAR(SystemModstamp) y, COUNT(Id) n FROM Invoice__c GROUP BY CALENDAR_YEAR(SystemModstamp)"
    )["records"]
    assert sum(each["n"] for each in grouped) == 40
    linked = reader.query(
        "SELECT Id, Account__r.Name, Owner.Username FROM Invoice__c WHERE Account__c != null"
    )["records"]
    assert all(each["Account__r"]["Name"] and each["Owner"]["Username"] for each in linked)
    wanted = sorted(record["Id"] for record in records)[3:5]
    found = reader.query(f"SELECT Id FROM Invoice__c WHERE Id IN ('{wanted[0]}', '{wanted[1]}')")["records"]
    assert sorted(each["Id"] for each in found) == wanted
    late = reader.query("SELECT Id FROM Invoice__c WHERE Cutoff__c >= 12:00:00.000Z")["totalSize"]
    assert late == sum((record["Cutoff__c"] or "") >= "12" for record in records)
    assert reader.refused("SELECT Id FROM Invoice__c WHERE Remarks__c = 'x'")[0] == "INVALID_FIELD"
    assert reader.refused("SELECT Id FROM Opportunity ORDER BY HasOpenActivity")[0] == "INVALID_FIELD"


def test_a_record_by_id(reader: BulkClient) -> None:
    """A record has all its fields, compounds among them with the names of their parts."""
    org = reader.simulator.org
    [record_id] = [each["Id"] for each in org.records("Invoice__c") if each["Name"] == "INV-00001"]
    record = reader.get(f"sobjects/Invoice__c/{record_id}").json()

    assert set(record) == {"attributes", *selectable("Invoice__c", compounds=True)}
    assert set(record["Place__c"]) == {"latitude", "longitude"}
    assert set(record["Delivery__c"]) == {"city", "countryCode", "postalCode", "street"}
    assert reader.get(f"sobjects/Opportunity/{record_id}").status_code == 404


def test_objects_that_cannot_be_queried() -> None:
    """An object with queryable false is described, and a query of it is refused."""
    with Simulator(describes=[{**OPPORTUNITY, "queryable": False, "replicateable": False}]) as simulator:
        client = BulkClient(simulator)
        client.login()
        code, _ = client.refused("SELECT Id FROM Opportunity")
        updated = listing(client, "Opportunity", "updated")
        client.http.close()

    assert code == "INVALID_TYPE_FOR_OPERATION"
    assert (updated.status_code, updated.json()[0]["errorCode"]) == (400, "INVALID_TYPE_FOR_OPERATION")


# ── life cycle ────────────────────────────────────────────────────────────────────────────────────────


def test_a_life_from_creation_to_purge(changing: BulkClient) -> None:
    """A record is created, changed, binned, taken back and purged; stamps and both listings follow."""
    org, clock = changing.simulator.org, changing.simulator.clock
    clock.freeze()
    soql = "SELECT Name, IsDeleted FROM Opportunity"
    deal = org.create("Opportunity", DEAL)
    created = org.record(deal)
    clock.advance(5)
    org.update(deal, {"Amount": "1234.50"})
    changed = org.record(deal)

    assert created["CreatedDate"] == created["SystemModstamp"] < changed["SystemModstamp"]
    assert changed["LastModifiedDate"] == changed["SystemModstamp"]
    assert (created["OwnerId"], created["ForecastCategory"]) == (org.user_id, "Omitted")
    assert changed["Amount"] == Decimal("1234.5")
    clock.advance(60)
    assert listing(changing, "Opportunity", "updated").json()["ids"] == [deal]
    org.delete(deal)
    assert changing.query(soql)["totalSize"] == 0
    assert [each["IsDeleted"] for each in changing.query(soql, all_rows=True)["records"]] == [True]
    with pytest.raises(ValueError, match="entity is deleted"):
        org.update(deal, {"Amount": 1})
    org.undelete(deal)
    assert changing.query(soql)["totalSize"] == 1
    org.purge(deal)
    assert changing.query(soql, all_rows=True)["totalSize"] == 0
    clock.advance(60)
    listed = listing(changing, "Opportunity", "deleted").json()["deletedRecords"]
    assert [each["id"] for each in listed] == [deal]
    with pytest.raises(ValueError, match="Opportunity is not mergeable"):
        org.merge(*(lambda ids: (ids[0], ids[1:]))(org.create_many("Opportunity", [DEAL] * 2)))


def test_required_values_are_required(changing: BulkClient) -> None:
    """A creation without a required value is refused, one without an automatic value is not."""
    org = changing.simulator.org
    with pytest.raises(ValueError, match="Opportunity: required field missing: StageName"):
        org.create("Opportunity", {"Name": "x", "CloseDate": "2027-01-01"})
    contact = org.create("Contact", {"LastName": "x"})
    made = org.create_many("Invoice__c", [{"Contact__c": contact}] * 2)

    assert [org.record(each)["Name"] for each in made] == ["INV-00001", "INV-00002"]
    assert org.record(made[0])["Paid__c"] is False


def test_an_account_takes_its_opportunities(changing: BulkClient) -> None:
    """Opportunities go with their account and come back with it, as Salesforce's describe of Account says."""
    org = changing.simulator.org
    account = org.create("Account", {"Name": "Acme"})
    deal = org.create("Opportunity", {**DEAL, "AccountId": account})
    contact = org.create("Contact", {"LastName": "x", "AccountId": account})
    invoice = org.create("Invoice__c", {"Account__c": account, "Contact__c": contact})
    children = {
        each["childSObject"]: each["cascadeDelete"]
        for each in describe(changing, "Account")["childRelationships"]
        if each["field"] in ("AccountId", "Account__c")
    }

    assert children == {"Contact": True, "Opportunity": True, "Invoice__c": False}
    org.delete(account)
    assert org.ids("Opportunity", deleted=True) == [deal]
    assert org.record(invoice)["IsDeleted"] is False
    assert org.record(invoice)["Account__c"] == account
    org.undelete(account)
    assert org.ids("Opportunity", deleted=False) == [deal]


def test_master_detail_cascades() -> None:
    """Where the describe says cascadeDelete, records go with what they refer to, over several levels."""
    described = copy.deepcopy(INVOICE)
    for field in described["fields"]:
        field["cascadeDelete"] = field["name"] in ("Account__c", "Corrects__c")
    with Simulator(describes=[described]) as simulator:
        org = simulator.org
        account, contact = org.create("Account", {"Name": "Acme"}), org.create("Contact", {"LastName": "x"})
        first = org.create("Invoice__c", {"Account__c": account, "Contact__c": contact})
        second = org.create("Invoice__c", {"Corrects__c": first, "Contact__c": contact})
        org.delete(account)
        assert org.ids("Invoice__c", deleted=True) == [first, second]
        org.purge(account)
        assert org.ids("Invoice__c") == []


def test_child_relationships_cascade() -> None:
    """The childRelationships of a describe say which records go with one of its own."""
    parent = {"name": "OpportunityId", "type": "reference", "referenceTo": ["Opportunity"]}
    line = {"name": "OpportunityLineItem", "keyPrefix": "00k", "fields": [*INVOICE["fields"][:3], parent]}
    children = [{"childSObject": "OpportunityLineItem", "field": "OpportunityId", "cascadeDelete": True}]
    with Simulator(describes=[{**OPPORTUNITY, "childRelationships": children}, line]) as simulator:
        org = simulator.org
        deal = org.create("Opportunity", DEAL)
        item = org.create("OpportunityLineItem", {"OpportunityId": deal})
        org.delete(deal)
        assert org.ids("OpportunityLineItem", deleted=True) == [item]
        org.undelete(deal)
        assert org.ids("OpportunityLineItem", deleted=False) == [item]


def test_names_and_merges_follow_from_the_fields() -> None:
    """Name is put together where it cannot be written, and what has MasterRecordId can be merged."""
    named = [each for each in OPPORTUNITY["fields"] if each["name"] in ("Id", "IsDeleted", "SystemModstamp")]
    more = [{"name": name, "type": "string", "length": 80} for name in ("FirstName", "LastName", "Company")]
    name = {"name": "Name", "type": "string", "createable": False, "updateable": False, "nillable": False}
    master = {"name": "MasterRecordId", "type": "reference", "referenceTo": ["Lead"]}
    lead = {"name": "Lead", "keyPrefix": "00Q", "fields": [*named, *more, name, master]}
    with Simulator(contacts=20, describes=[lead]) as simulator:
        org = simulator.org
        generated = org.records("Lead")
        kept, lost = org.create_many("Lead", [{"FirstName": "Ada", "LastName": each} for each in ("X", "Y")])
        org.update(kept, {"LastName": "Z"})
        org.merge(kept, [lost])
        assert org.record(kept)["Name"] == "Ada Z"
        assert org.record(lost)["MasterRecordId"] == kept

    assert len(generated) == 5
    for each in generated:
        parts = " ".join(filter(None, (each["FirstName"], each["LastName"])))
        assert each["Name"] == (parts or each["Name"])
        assert each["MasterRecordId"] is None


def test_objects_without_a_recycle_bin() -> None:
    """A record of an object without IsDeleted is gone for good, and the delete log names it."""
    described = copy.deepcopy(OPPORTUNITY)
    described["fields"] = [field for field in described["fields"] if field["name"] != "IsDeleted"]
    with Simulator(describes=[described]) as simulator:
        client = BulkClient(simulator)
        client.login()
        deal = simulator.org.create("Opportunity", DEAL)
        simulator.org.delete(deal)
        simulator.clock.advance(60)
        gone = client.query("SELECT Id FROM Opportunity", all_rows=True)["totalSize"]
        listed = listing(client, "Opportunity", "deleted").json()["deletedRecords"]
        client.http.close()

    assert gone == 0
    assert [each["id"] for each in listed] == [deal]


# ── schema changes, options, faults ───────────────────────────────────────────────────────────────────


def test_fields_come_go_and_hide(changing: BulkClient) -> None:
    """Custom fields of a described object are added, retyped, hidden and removed; the object can be hidden."""
    org = changing.simulator.org
    deal = org.create("Opportunity", DEAL)
    org.add_field("Opportunity", Field("Code__c", "string", length=20))
    org.update(deal, {"Code__c": "7"})
    assert changing.query("SELECT Code__c FROM Opportunity")["records"][0]["Code__c"] == "7"
    org.retype_field("Opportunity", "Amount", type="string", length=40)
    amount = next(each for each in describe(changing, "Opportunity")["fields"] if each["name"] == "Amount")
    assert (amount["type"], amount["soapType"], amount["length"]) == ("string", "xsd:string", 40)
    org.hide_field("Opportunity", "NextStep")
    assert changing.refused("SELECT NextStep FROM Opportunity")[0] == "INVALID_FIELD"
    org.remove_field("Opportunity", "Code__c")
    assert changing.refused("SELECT Code__c FROM Opportunity")[0] == "INVALID_FIELD"
    org.hide_object("Opportunity")
    assert changing.refused("SELECT Id FROM Opportunity")[0] == "INVALID_TYPE"
    assert changing.get("sobjects/Opportunity/describe").status_code == 404


def test_calculated_fields_are_formulas(changing: BulkClient) -> None:
    """A calculated field has a value of its type that stays, until its formula is changed."""
    org = changing.simulator.org
    contact = org.create("Contact", {"LastName": "x"})
    org.create_many("Invoice__c", [{"Contact__c": contact, "Total__c": at} for at in range(20)])
    before = {each["Id"]: each["Gross__c"] for each in org.records("Invoice__c")}

    assert len(set(before.values())) > 5
    assert before == {each["Id"]: each["Gross__c"] for each in org.records("Invoice__c")}
    org.change_formula("Invoice__c", "Gross__c", 100)
    after = {each["Id"]: each["Gross__c"] for each in org.records("Invoice__c")}
    assert after == {id_: None if value is None else value + 100 for id_, value in before.items()}
    changing.simulator.options.formulas_max = 1
    assert changing.refused("SELECT Gross__c, Overdue__c FROM Invoice__c")[0] == "QUERY_TOO_COMPLICATED"
    changing.simulator.options.refused_fields = ("Invoice__c.Subject__c",)
    assert changing.refused("SELECT Subject__c FROM Invoice__c")[0] == "INVALID_FIELD"


def test_faults_and_bulk_refusals(changing: BulkClient) -> None:
    """Faults strike calls about a described object alone; the Bulk API may refuse it."""
    changing.simulator.faults.add("query_timeout", sobject="Opportunity")
    assert changing.query("SELECT Id FROM Contact")["done"]
    assert changing.refused("SELECT Id FROM Opportunity")[0] == "QUERY_TIMEOUT"
    changing.simulator.options.bulk_unsupported = ("Opportunity",)
    answer = changing.call("POST", "", {"operation": "query", "query": "SELECT Id FROM Opportunity"})
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (400, "INVALIDENTITY")
    answer = changing.call("POST", "", {"operation": "query", "query": "SELECT Place__c FROM Invoice__c"})
    assert "compound data not supported" in answer.json()[0]["message"]


def test_an_object_is_added_while_the_org_runs() -> None:
    """The control endpoint adds an object from its describe, and creates records of it."""
    with Simulator() as simulator:
        client = BulkClient(simulator)
        client.login()
        address, token = f"{simulator.url}/simulator", {"X-Simulator-Token": simulator.control_token}
        for action, body in (
            ("add_object", {"describe": OPPORTUNITY}),
            ("create", {"object": "Opportunity", "record": DEAL}),
        ):
            answer = client.http.post(f"{address}/{action}", json=body, headers=token, timeout=10)
            assert answer.status_code == 200, answer.text
        found = client.names("SELECT Name FROM Opportunity")
        refused = client.http.post(
            f"{address}/add_object", json={"describe": OPPORTUNITY}, headers=token, timeout=10
        )
        client.http.close()

    assert found == ["Big deal"]
    assert refused.json() == {"error": "the org already has an object Opportunity"}


# ── person accounts ───────────────────────────────────────────────────────────────────────────────────


def test_a_person_has_all_fields_of_its_contact(changing: BulkClient) -> None:
    """With person accounts, Account has the Person fields, and their values follow the person's contact."""
    simulator, org = changing.simulator, changing.simulator.org
    simulator.options.person_accounts = True
    fields = {field["name"] for field in describe(changing, "Account")["fields"]}
    parts = "Street City State PostalCode Country Latitude Longitude GeocodeAccuracy Address"
    kept = """ContactId MobilePhone HomePhone OtherPhone AssistantPhone Email Title Department AssistantName
        LeadSource Birthdate HasOptedOutOfEmail HasOptedOutOfFax DoNotCall LastCURequestDate LastCUUpdateDate
        EmailBouncedReason EmailBouncedDate IndividualId Pronouns GenderIdentity"""
    wanted = {"FirstName", "MiddleName", "LastName", "Salutation", "Suffix", "IsPersonAccount"}
    wanted |= {f"Person{kind}{part}" for kind in ("Mailing", "Other") for part in parts.split()}
    wanted |= {f"Person{name}" for name in kept.split()}
    assert wanted <= fields

    account = org.create(
        "Account",
        {
            "FirstName": "Ana",
            "MiddleName": "M.",
            "LastName": "Sá",
            "Suffix": "Jr.",
            "PersonDoNotCall": True,
            "PersonMailingCity": "Lisboa",
            "PersonMailingLatitude": "38.7",
            "PersonOtherPhone": "1",
        },
    )
    contact = org.record(account)["PersonContactId"]
    org.update(contact, {"MailingStreet": "Rua 1", "AssistantName": "Bo", "Pronouns": "She/Her"})
    person, half = org.record(account), org.record(contact)

    assert person["Name"] == half["Name"] == "Ana M. Sá Jr."
    assert (half["MailingCity"], half["OtherPhone"], half["DoNotCall"]) == ("Lisboa", "1", True)
    assert (person["PersonAssistantName"], person["PersonPronouns"]) == ("Bo", "She/Her")
    assert person["PersonMailingAddress"]["street"] == "Rua 1"
    assert person["PersonMailingAddress"]["latitude"] == half["MailingLatitude"] == Decimal("38.7")
    org.retype_field("Contact", "Birthdate", type="string", length=40)
    org.update(contact, {"Birthdate": "in spring"})
    assert org.record(account)["PersonBirthdate"] == "in spring"


def test_the_command_line_reads_describes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """``--describe`` and ``--records`` refuse what they cannot serve, and name it."""
    from sync.simulator.__main__ import main

    (tmp_path / "x.json").write_text("[]")
    for arguments, told in (
        (
            ["--describe", str(tmp_path / "x.json")],
            "x.json: expected an object with the keys name and fields",
        ),
        (["--describe", str(tmp_path / "y.json")], "y.json: cannot be read: No such file or directory"),
        (["--port", "0", "--records", "Case=3"], "no describe of Case"),
        (["--records", "Case"], "'Case' is not OBJECT=NUMBER, such as Opportunity=50"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


def test_bulk_results_have_a_header_of_all_fields(reader: BulkClient) -> None:
    """The columns of a job are those selected, in their order."""
    names = selectable("Opportunity")
    job = reader.create(f"SELECT {', '.join(names)} FROM Opportunity")
    reader.wait(job)
    header = next(csv.reader(io.StringIO(reader.results(job).content.decode(), newline="")))

    assert header == names
    assert reader.call("GET", f"/{job}").json()["isPkChunkingSupported"] is True
