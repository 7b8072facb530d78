"""The life of records and of the schema around them."""

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from sync.simulator import Field, Formula, Simulator
from tests.simulator.conftest import Client

T0 = datetime(2026, 3, 1, 10, 0, 0, tzinfo=UTC)


def text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000+0000")


@pytest.fixture(autouse=True)
def frozen(simulator: Simulator) -> None:
    simulator.clock.freeze(T0)


def stamps(simulator: Simulator, record_id: str) -> tuple[str, str]:
    record = simulator.org.record(record_id)
    return record["SystemModstamp"], record["LastModifiedDate"]


def test_stamps_have_whole_seconds(simulator: Simulator) -> None:
    """A record is stamped with the clock's second, or with the stamp it is given."""
    simulator.clock.freeze(T0 + timedelta(microseconds=999_999))
    now = simulator.org.create("Account", {"Name": "now"})
    then = simulator.org.create("Account", {"Name": "then"}, stamp=T0 - timedelta(days=5))
    assert simulator.org.record(now)["CreatedDate"] == text(T0)
    assert stamps(simulator, then) == (text(T0 - timedelta(days=5)),) * 2
    backdated = simulator.org.create("Account", {"Name": "x", "CreatedDate": T0 - timedelta(days=9)})
    assert simulator.org.record(backdated)["CreatedDate"] == text(T0 - timedelta(days=9))


def test_ids(simulator: Simulator) -> None:
    """Ids have 18 characters with a valid checksum, a prefix by object, and distinct first 15 characters."""
    org = simulator.org
    ids = org.create_many("Contact", [{"LastName": "x"}] * 300)
    assert all(len(each) == 18 and each.startswith("003") for each in ids)
    assert len({each[:15] for each in ids}) == 300
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
    for each in ids:
        chunks = (each[0:5], each[5:10], each[10:15])
        bits = (sum(2**n for n, letter in enumerate(chunk) if letter.isupper()) for chunk in chunks)
        assert each[15:] == "".join(letters[number] for number in bits)
    assert org.ids("Contact") == sorted(ids)


def test_updates(simulator: Simulator) -> None:
    """An update moves both stamps, a late one to the past, Salesforce's own jobs only SystemModstamp."""
    org = simulator.org
    contact = org.create("Contact", {"LastName": "Doe", "FirstName": "Jo"})
    simulator.clock.advance(60)
    org.update(contact, {"FirstName": "Joan"})
    assert stamps(simulator, contact) == (text(T0 + timedelta(seconds=60)),) * 2
    assert org.record(contact)["Name"] == "Joan Doe"
    org.update(contact, {"Title": "late"}, stamp=T0 - timedelta(minutes=7))
    assert stamps(simulator, contact) == (text(T0 - timedelta(minutes=7)),) * 2
    org.update(contact, {}, system_only=True)
    assert stamps(simulator, contact) == (text(T0 + timedelta(seconds=60)), text(T0 - timedelta(minutes=7)))


def test_delete_cascades_and_undelete_restores(simulator: Simulator) -> None:
    """Deleting an account deletes its contacts with a new stamp; undeleting restores them, bumped or not."""
    org = simulator.org
    account = org.create("Account", {"Name": "Acme"})
    contact = org.create("Contact", {"LastName": "Doe", "AccountId": account})
    simulator.clock.advance(10)
    org.delete(account)
    deleted = text(T0 + timedelta(seconds=10))
    assert org.ids("Contact", deleted=True) == [contact]
    assert stamps(simulator, contact) == (deleted, deleted)
    with pytest.raises(ValueError, match="entity is deleted"):
        org.update(contact, {"Title": "x"})
    simulator.clock.advance(10)
    org.undelete(account, bump=False)
    assert org.count("Contact", deleted=False) == 1
    assert stamps(simulator, account)[0] == deleted
    org.delete(account)
    org.undelete(account)
    assert stamps(simulator, contact)[0] == text(T0 + timedelta(seconds=20))
    org.delete(contact)
    simulator.clock.advance(10)
    org.delete(account)
    org.undelete(account)
    assert org.ids("Contact", deleted=True) == [contact]  # it was in the bin before


def test_purge_leaves_no_row(client: Client) -> None:
    """A purged record is in no query and no record, an account's contacts neither."""
    org = client.simulator.org
    account = org.create("Account", {"Name": "Acme"})
    contact = org.create("Contact", {"LastName": "Doe", "AccountId": account})
    org.purge(account)
    assert client.query("SELECT Id FROM Contact", all_rows=True)["totalSize"] == 0
    with pytest.raises(KeyError):
        org.record(contact)


def test_merge(client: Client) -> None:
    """Losers go to the bin naming their master, their children move to it with a new stamp, it is touched."""
    simulator, org = client.simulator, client.simulator.org
    master, loser, child = (org.create("Account", {"Name": name}) for name in ("master", "loser", "child"))
    org.update(child, {"ParentId": loser})
    contact = org.create("Contact", {"LastName": "Doe", "AccountId": loser})
    simulator.clock.advance(30)
    org.merge(master, [loser])
    merged = text(T0 + timedelta(seconds=30))
    (gone,) = client.query("SELECT Id, MasterRecordId, IsDeleted FROM Account WHERE IsDeleted = true", True)[
        "records"
    ]
    assert (gone["Id"], gone["MasterRecordId"], gone["IsDeleted"]) == (loser, master, True)
    assert org.record(contact)["AccountId"] == master
    assert org.record(child)["ParentId"] == master
    assert {stamps(simulator, each)[0] for each in (master, loser, contact, child)} == {merged}


def test_wrong_records_are_refused(simulator: Simulator) -> None:
    """Values that a real org would not take raise, naming the field, and leave nothing behind."""
    org = simulator.org
    for record, problem in (
        ({}, "required field missing: LastName"),
        ({"LastName": "x" * 81}, "LastName: data value too large"),
        ({"LastName": "x", "Nonsense": 1}, "no writable field Nonsense"),
        ({"LastName": "x", "Account_Display__c": "y"}, "no writable field"),
        ({"LastName": "x", "AccountId": "junk"}, "AccountId: id value of incorrect type"),
        ({"LastName": "x", "Spend__c": "1e17"}, "Spend__c: value outside of valid range"),
        ({"LastName": "x", "Spend__c": "many"}, "Spend__c: not a number"),
        ({"LastName": "x", "Birthdate": "1699-12-31"}, "Birthdate: date outside"),
        ({"LastName": "x", "Last_Visit__c": datetime(2020, 1, 1)}, "Last_Visit__c: needs an aware"),  # noqa: DTZ001 — naive on purpose
    ):
        with pytest.raises(ValueError, match=problem):
            org.create("Contact", record)
    assert org.count("Contact") == 0
    with pytest.raises(KeyError):
        org.update("003000000000000AAA", {})


def test_formulas_change_without_a_stamp(client: Client) -> None:
    """A formula's value follows its inputs, through the parent too, and its definition; the row's stamp stands."""
    simulator, org = client.simulator, client.simulator.org
    account = org.create("Account", {"Name": "Acme", "Rating": "Hot"})
    contact = org.create("Contact", {"LastName": "Doe", "AccountId": account, "Spend__c": "10.00"})
    before = stamps(simulator, contact)
    assert org.record(contact)["Account_Display__c"] == "Acme [Hot]"
    assert org.record(contact)["Spend_With_Tax__c"] == Decimal("11.9")
    simulator.clock.advance(99)
    org.update(account, {"Name": "Acme 2"})
    org.change_formula("Contact", "Spend_With_Tax__c", Decimal("0.05"))
    after = org.record(contact)
    assert after["Account_Display__c"] == "Acme 2 [Hot]"
    assert after["Spend_With_Tax__c"] == Decimal("11.95")
    org.change_formula("Contact", "Account_Display__c", lambda name, rating: f"{rating}/{name}")
    (record,) = client.query("SELECT Account_Display__c FROM Contact WHERE Account_Display__c LIKE 'hot/%'")[
        "records"
    ]
    assert record["Account_Display__c"] == "Hot/Acme 2"
    assert stamps(simulator, contact) == before


def test_hidden_fields_and_objects(client: Client) -> None:
    """What the user may not see is gone from describe and SOQL, until it is shown again."""
    org = client.simulator.org
    contact = org.create("Contact", {"LastName": "Doe", "Email": "a@b.example"})
    org.hide_field("Contact", "Email")
    assert client.refused("SELECT Email FROM Contact")[0] == "INVALID_FIELD"
    assert client.refused("SELECT Id FROM Contact WHERE email = 'a'")[0] == "INVALID_FIELD"
    assert org.record(contact)["Email"] == "a@b.example"
    org.show_field("Contact", "Email")
    assert client.query("SELECT Email FROM Contact")["totalSize"] == 1
    org.hide_object("Account")
    assert client.refused("SELECT Id FROM Account")[0] == "INVALID_TYPE"
    assert client.refused("SELECT Account.Name FROM Contact")[0] == "INVALID_FIELD"
    assert client.get("sobjects/Account/describe").status_code == 404
    assert "Account" not in {each["name"] for each in client.get("sobjects").json()["sobjects"]}
    org.show_object("Account")
    assert client.get("sobjects/Account/describe").status_code == 200


def test_fields_come_go_and_change(client: Client) -> None:
    """A field can be added, retyped with its values, and removed while the server runs; no stamp moves."""
    simulator, org = client.simulator, client.simulator.org
    contact = org.create("Contact", {"LastName": "Doe"})
    before = stamps(simulator, contact)
    org.add_field("Contact", Field("Shoe_Size__c", "double", precision=4, scale=1))
    org.add_field(
        "Contact",
        Field("Big__c", "boolean", formula=Formula(("Shoe_Size__c",), lambda size: (size or 0) > 45)),
    )
    org.add_field("Contact", Field("Likes_It__c", "boolean", nillable=False))
    assert (
        client.query("SELECT Shoe_Size__c, Big__c, Likes_It__c FROM Contact")["records"][0]["Likes_It__c"]
        is False
    )
    assert stamps(simulator, contact) == before
    org.update(contact, {"Shoe_Size__c": "46.5"})
    assert org.record(contact)["Big__c"] is True
    before = stamps(simulator, contact)
    org.retype_field("Contact", "Shoe_Size__c", type="string", length=20)
    assert org.record(contact)["Shoe_Size__c"] == "46.5"
    org.retype_field("Contact", "Shoe_Size__c", type="int", length=0, digits=4)
    assert org.record(contact)["Shoe_Size__c"] is None
    org.remove_field("Contact", "Big__c")
    org.remove_field("Contact", "Shoe_Size__c")
    assert client.refused("SELECT Shoe_Size__c FROM Contact")[0] == "INVALID_FIELD"
    assert stamps(simulator, contact) == before


def test_field_removed_between_pages(client: Client) -> None:
    """A field that disappears while a query is being paged makes the next page a refusal, not a failure."""
    org = client.simulator.org
    org.create_many("Contact", [{"LastName": "x"}] * 4)
    client.simulator.options.page_sizes = 2
    address = client.query("SELECT Nickname__c FROM Contact")["nextRecordsUrl"]
    org.remove_field("Contact", "Nickname__c")
    answer = client.get(address)
    assert answer.status_code == 400
    assert answer.json()[0]["errorCode"] == "INVALID_FIELD"


def test_person_accounts(client: Client) -> None:
    """A person account is an account and a contact that change and go together."""
    simulator, org = client.simulator, client.simulator.org
    simulator.options.person_accounts = True
    account = org.create("Account", {"FirstName": "Ana", "LastName": "Sá", "PersonEmail": "ana@example.com"})
    (contact,) = org.ids("Contact")
    person: dict[str, Any] = org.record(account)
    assert (person["Name"], person["IsPersonAccount"], person["PersonContactId"]) == ("Ana Sá", True, contact)
    assert org.record(contact)["Email"] == "ana@example.com"
    assert org.record(contact)["AccountId"] == account
    simulator.clock.advance(5)
    org.update(contact, {"LastName": "Reis"})
    assert client.names("SELECT Name FROM Account") == ["Ana Reis"]
    assert stamps(simulator, account) == stamps(simulator, contact) == (text(T0 + timedelta(seconds=5)),) * 2
    org.delete(contact)
    assert org.ids("Account", deleted=True) == [account]
    business = org.create("Account", {"Name": "Acme"})
    assert org.record(business)["IsPersonAccount"] is False


def test_organization_and_users(client: Client) -> None:
    """The org names itself, and its users can be queried."""
    (org,) = client.query("SELECT Id, Name, IsSandbox, OrganizationType, InstanceName FROM Organization")[
        "records"
    ]
    assert org["Id"] == client.simulator.org.organization_id
    users = client.query("SELECT Id, Name, Username FROM User WHERE Username LIKE 'integration@%'")["records"]
    assert [user["Id"] for user in users] == [client.simulator.org.user_id]
    with Simulator(seed=2) as other:
        assert other.org.organization_id != org["Id"]


def test_permissions(client: Client) -> None:
    """The integration user has one permission set, with View All on accounts and contacts."""
    org = client.simulator.org
    assigned = client.query(
        f"SELECT PermissionSetId FROM PermissionSetAssignment WHERE AssigneeId = '{org.user_id}'"
    )["records"]
    assert [each["PermissionSetId"] for each in assigned] == [org.permission_set_id]
    (named,) = client.query("SELECT Name, PermissionsViewAllData FROM PermissionSet")["records"]
    assert named["PermissionsViewAllData"] is False
    stamps_before = stamps(client.simulator, org.permission_set_id)
    org.update(org.permission_set_id, {"PermissionsViewAllData": True})
    assert client.query("SELECT Id FROM PermissionSet WHERE PermissionsViewAllData = true")["totalSize"] == 1
    assert stamps(client.simulator, org.permission_set_id) != stamps_before
    (assignment,) = org.ids("PermissionSetAssignment")
    org.update(assignment, {})
    assert set(org.record(assignment)) >= {"SystemModstamp", "AssigneeId"}
    assert "LastModifiedDate" not in org.record(assignment)


def test_view_all_is_a_switch(client: Client) -> None:
    """The option takes View All from every object while the server runs; a record takes it from one."""
    simulator, org = client.simulator, client.simulator.org
    soql = (
        "SELECT SobjectType FROM ObjectPermissions WHERE PermissionsViewAllRecords = {} ORDER BY SobjectType"
    )

    def permitted(flag: str) -> list[str]:
        return [each["SobjectType"] for each in client.query(soql.format(flag))["records"]]

    assert (permitted("true"), permitted("false")) == (["Account", "Contact"], [])
    simulator.options.view_all = False
    assert (permitted("true"), permitted("false")) == ([], ["Account", "Contact"])
    assert not any(each["PermissionsViewAllRecords"] for each in org.records("ObjectPermissions"))
    assert all(each["PermissionsRead"] for each in org.records("ObjectPermissions"))
    simulator.options.view_all = True
    contact = next(each for each in org.records("ObjectPermissions") if each["SobjectType"] == "Contact")
    org.update(contact["Id"], {"PermissionsViewAllRecords": False})
    assert (permitted("true"), permitted("false")) == (["Account"], ["Contact"])
    parents = client.query("SELECT Parent.Name, SobjectType FROM ObjectPermissions")["records"]
    assert {each["Parent"]["Name"] for each in parents} == {"Integration"}


def test_clock(simulator: Simulator) -> None:
    """The clock can be frozen, moved, and resumed where it stood."""
    clock = simulator.clock
    assert clock.now() == T0
    clock.advance(90)
    assert clock.now() == T0 + timedelta(seconds=90)
    clock.resume()
    assert timedelta() <= clock.now() - T0 - timedelta(seconds=90) < timedelta(seconds=5)
    with pytest.raises(ValueError, match="aware"):
        clock.freeze(datetime(2026, 1, 1))  # noqa: DTZ001 — naive on purpose


def test_reading_while_writing(client: Client) -> None:
    """Tests may change the org from their own threads while the server answers: nothing fails, nothing is torn."""
    simulator, org = client.simulator, client.simulator.org
    ids = org.create_many("Contact", [{"LastName": "0", "Title": "0"}] * 50)
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            number += 1
            org.update(ids[number % 50], {"LastName": str(number), "Title": str(number)})
            org.delete(org.create("Contact", {"LastName": "passing"}))

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(15):
            records = client.query("SELECT LastName, Title FROM Contact WHERE LastName != 'passing'")[
                "records"
            ]
            assert len(records) == 50
            assert all(record["LastName"] == record["Title"] for record in records)
    finally:
        done.set()
        for writer in writers:
            writer.join()
    assert simulator.errors == []
