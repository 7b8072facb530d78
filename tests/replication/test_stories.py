"""Org before · what changes · expected rows and feed."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from sync.replication import pipeline
from sync.simulator import Field, Simulator
from tests.support.soak import SOAK
from tests.support.world import LONG_AGO, World

# The same stories whichever way the records come.
pytestmark = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)

NASTY = (
    "tab\there",
    "line\nbreak\r\nand return",
    "back\\slash \\N \\. \\t",
    "'quotes' \"double\" $dollar$ ;--",
    "NA",
    "NULL",
    "null",
    "None",
    "01234",
    "1e5",
    "{curly,braces}",
    "  spaces kept  ",
    "emoji 👩‍👩‍👧‍👦 and 𝒻𝒶𝓃𝒸𝓎",
    "עברית العربية",
    "zero\u200bwidth\ufeff",
    "e\u0301 decomposed",
    "nul\0byte",
    "x" * 32_000,
)


def test_first_load_holds_everything_and_says_reload_once(world: World) -> None:
    """A first load brings every record and one `reload` per object, not a feed entry per record."""
    account = world.org.create("Account", {"Name": "Acme"}, stamp=LONG_AGO)
    people = [{"LastName": f"n{i}", "AccountId": account} for i in range(50)]
    world.org.create_many("Contact", people, stamp=LONG_AGO)

    world.run()

    world.assert_equal()
    assert sorted((c.op, c.object, c.record_id) for c in world.feed()) == [
        ("reload", "Account", None),
        ("reload", "Contact", None),
    ]


def test_empty_org_is_complete(world: World) -> None:
    """An org without records is a complete load of nothing, not a failure."""
    reports = world.run()

    assert [report.tally.read for report in reports] == [0, 0]
    assert world.cursor("Contact") is not None


def test_insert_update_and_unchanged(loaded: World) -> None:
    """What changed is written and told, with the names of the columns; what did not is neither."""
    dan = loaded.org.create("Contact", {"LastName": "Dan", "Email": "Dan@X.example"})
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    untouched = loaded.row(loaded.bob)["synced_at"]

    loaded.run()

    loaded.assert_equal()
    assert loaded.news(loaded.seen) == [("update", loaded.ann), ("insert", dan)]
    changed = set(loaded.feed(loaded.seen)[0].changed)
    assert changed == {"title", "last_modified_date", "system_modstamp"}
    assert loaded.row(loaded.bob)["synced_at"] == untouched


def test_the_feed_is_read_by_number(loaded: World) -> None:
    """Consumers call `crm.changes(after => …, max => …)` and get the entries behind a number, oldest first."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)])
    loaded.run()

    first = loaded.sql("SELECT seq, op FROM crm.changes(after => :n, max => 2)", n=loaded.seen)
    rest = loaded.sql("SELECT seq FROM crm.changes(:n)", n=loaded.seen + 2)

    assert [tuple(row) for row in first] == [(loaded.seen + 1, "insert"), (loaded.seen + 2, "insert")]
    assert [row[0] for row in rest] == [loaded.seen + 3, loaded.seen + 4, loaded.seen + 5]


def test_overlap_is_read_again_and_writes_nothing(loaded: World) -> None:
    """Records of the overlap come again with each pass; nothing is written or told for them."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.run()
    before, seen = loaded.rows("Contact"), loaded.last_seq()

    contact = loaded.run()[1]

    assert (contact.tally.read, contact.tally.unchanged) == (1, 1)
    assert loaded.rows("Contact") == before
    assert loaded.news(seen) == []


def test_soft_delete_leaves_a_tombstone_with_the_last_values(loaded: World) -> None:
    """A deleted record becomes a tombstone: gone from the consumers' views, its values kept, the feed says so."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.org.delete(loaded.ann)

    loaded.run()

    row = loaded.row(loaded.ann)
    assert row["title"] == "Boss"
    assert (row["deleted_at"], row["deleted_reason"]) == (row["system_modstamp"], "deleted")
    assert loaded.news(loaded.seen) == [("delete", loaded.ann)]
    assert loaded.sql("SELECT id FROM crm.contact WHERE id = :id", id=loaded.ann) == []
    assert loaded.sql("SELECT contact_id FROM crm.customer WHERE contact_id = :id", id=loaded.ann) == []
    loaded.assert_equal()


def test_record_created_and_deleted_between_passes(loaded: World) -> None:
    """A record first seen deleted is a tombstone, and the feed says `delete`, not `insert`."""
    gone = loaded.org.create("Contact", {"LastName": "Gone"})
    loaded.org.delete(gone)

    loaded.run()

    assert loaded.row(gone)["deleted_at"] is not None
    assert loaded.news(loaded.seen) == [("delete", gone)]


def test_undelete_brings_the_row_back(loaded: World) -> None:
    """A record out of the recycle bin lives again."""
    loaded.org.delete(loaded.ann)
    loaded.run()
    seen = loaded.last_seq()
    loaded.sim.clock.advance(60)
    loaded.org.undelete(loaded.ann)

    loaded.run()

    row = loaded.row(loaded.ann)
    assert (row["is_deleted"], row["deleted_at"], row["deleted_reason"]) == (False, None, None)
    assert loaded.news(seen) == [("undelete", loaded.ann)]
    loaded.assert_equal()


def test_merge_names_the_survivor(loaded: World) -> None:
    """A merged record is a tombstone that knows its survivor, and `crm.resolve_id` follows it through chains."""
    loaded.org.merge(loaded.bob, [loaded.ann])
    loaded.run()
    loaded.org.merge(loaded.cid, [loaded.bob])
    loaded.run()

    row = loaded.row(loaded.ann)
    assert (row["master_record_id"], row["deleted_reason"]) == (loaded.bob, "merged")
    merges = [record for op, record in loaded.news(loaded.seen) if op == "merge"]
    assert merges == [loaded.ann, loaded.bob]
    resolved = loaded.sql("SELECT crm.resolve_id(:a), crm.resolve_id(:c)", a=loaded.ann, c=loaded.cid)
    assert tuple(resolved[0]) == (loaded.cid, loaded.cid)
    loaded.org.delete(loaded.cid)
    loaded.run()
    assert loaded.sql("SELECT crm.resolve_id(:a)", a=loaded.ann)[0][0] is None
    loaded.assert_equal()


def test_account_merge_reparents_its_contacts(loaded: World) -> None:
    """When accounts merge, the loser's contacts follow to the winner, in rows and in the collated customer."""
    loaded.org.merge(loaded.bolt, [loaded.acme])

    loaded.run()

    loaded.assert_equal()
    names = loaded.sql("SELECT DISTINCT account_name, account_id FROM crm.customer")
    assert [tuple(row) for row in names] == [("Bolt", loaded.bolt)]


def test_contact_moves_to_another_account(loaded: World) -> None:
    """Re-parenting shows at once in the collated customer, whose change time is the later of both records'."""
    loaded.org.update(loaded.ann, {"AccountId": loaded.bolt})

    loaded.run()

    row = loaded.sql(
        "SELECT account_id, account_name, changed_at FROM crm.customer WHERE contact_id = :id", id=loaded.ann
    )
    assert tuple(row[0]) == (loaded.bolt, "Bolt", loaded.row(loaded.ann)["system_modstamp"])


def test_customers_have_the_custom_fields_of_both(loaded: World) -> None:
    """A customer shows the contact's custom fields and those of its account, each by its API name."""
    account = next(name for name in loaded.org.schema.objects["Account"].fields if name.endswith("__c"))
    loaded.org.update(loaded.ann, {"Nickname__c": "Annie"})
    loaded.run()

    [row] = loaded.sql(
        "SELECT contact_custom, account_custom FROM crm.customer WHERE contact_id = :id", id=loaded.ann
    )

    assert row.contact_custom["Nickname__c"] == "Annie"
    assert account in row.account_custom


def test_deleted_account_cascades_but_an_orphan_stays_a_customer(loaded: World) -> None:
    """Deleting an account deletes its contacts; a contact whose account we cannot see still is a customer."""
    orphan = loaded.org.create("Contact", {"LastName": "Orphan", "AccountId": loaded.bolt})
    single = loaded.org.create("Contact", {"LastName": "Single"})
    loaded.run()
    loaded.org.delete(loaded.acme)
    loaded.sql("DELETE FROM salesforce.account WHERE id = :id", id=loaded.bolt)

    loaded.run()

    found = loaded.sql("SELECT contact_id, account_id, account_name FROM crm.customer ORDER BY full_name")
    assert [tuple(row) for row in found] == [(orphan, loaded.bolt, None), (single, None, None)]


def test_deleted_account_with_a_surviving_contact(loaded: World) -> None:
    """A customer keeps its account's Id, not its values, when that account is a tombstone."""
    loaded.sql(
        "UPDATE salesforce.account SET deleted_at = now(), is_deleted = true WHERE id = :id", id=loaded.acme
    )

    found = loaded.sql(
        "SELECT account_id, account_name FROM crm.customer WHERE contact_id = :id", id=loaded.ann
    )

    assert tuple(found[0]) == (loaded.acme, None)


def test_late_commit_inside_the_overlap(loaded: World) -> None:
    """A change that commits after a pass with an earlier stamp is found by the next one."""
    loaded.sim.clock.advance(3600)
    loaded.org.update(loaded.ann, {"Title": "on time"})
    loaded.run()
    earlier = loaded.sim.clock.now() - timedelta(minutes=9)
    loaded.org.update(loaded.bob, {"Title": "late"}, stamp=earlier)
    loaded.sim.clock.advance(30)

    loaded.run()

    assert loaded.row(loaded.bob)["title"] == "late"
    loaded.assert_equal()


def test_late_commit_on_the_cursors_very_second(loaded: World) -> None:
    """A record that is committed late with exactly the stamp of the cursor is read: windows include their start."""
    loaded.org.update(loaded.bob, {"Title": "late"}, stamp=loaded.cursor("Contact"))

    loaded.run()

    assert loaded.row(loaded.bob)["title"] == "late"


def test_complete_through_is_what_salesforce_covers(loaded: World) -> None:
    """complete_through is the last whole minute of Salesforce's clock at the start of the pass, and never goes back."""
    loaded.sim.clock.freeze(loaded.sim.clock.now().replace(microsecond=0) + timedelta(hours=1))
    loaded.run()
    assert loaded.cursor("Contact") == loaded.sim.clock.now().replace(second=0)

    reached = loaded.cursor("Contact")
    loaded.sim.clock.freeze(loaded.sim.clock.now() - timedelta(minutes=5))
    loaded.run()
    assert loaded.cursor("Contact") == reached


def test_thousands_of_rows_on_one_stamp_across_pages(world: World) -> None:
    """Thousands of records on one second are all read, however the pages cut through them."""
    number = 5_000 if SOAK else 500
    world.page_by([700, 1, 2000, 333] if SOAK else [70, 1, 200, 33])
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(number)], stamp=LONG_AGO)

    world.run()

    assert len(world.rows("Contact")) == number
    world.assert_equal(["Contact"])


def test_contact_arrives_before_its_account(loaded: World) -> None:
    """A contact whose account is not there yet is stored, and its customer is whole once the account comes."""
    account = loaded.org.create("Account", {"Name": "Late Ltd"})
    contact = loaded.org.create("Contact", {"LastName": "Early", "AccountId": account})
    loaded.environment["SYNC_OBJECTS"] = "Contact"
    loaded.run()
    query = "SELECT account_id, account_name FROM crm.customer WHERE contact_id = :id"
    assert tuple(loaded.sql(query, id=contact)[0]) == (account, None)

    loaded.environment["SYNC_OBJECTS"] = "Account,Contact"
    loaded.run()

    assert tuple(loaded.sql(query, id=contact)[0]) == (account, "Late Ltd")


def test_every_nasty_value_is_kept(world: World) -> None:
    """Text arrives exactly as sent, NUL apart; numbers with every digit; dates from 1700 to 4000."""
    world.org.create_many("Contact", [{"LastName": f"n{i}", "Description": v} for i, v in enumerate(NASTY)])
    numbers: list[dict[str, Any]] = [
        {"Name": "rich", "AnnualRevenue": Decimal("999999999999999999")},
        {"Name": "exact", "BillingLatitude": Decimal("-12.345678901234567"), "NumberOfEmployees": 99_999_999},
    ]
    world.org.create_many("Account", numbers)
    world.org.create("Contact", {"LastName": "old", "Birthdate": "1700-01-01"})
    world.org.create("Contact", {"LastName": "far", "Birthdate": "4000-12-31"})

    world.run()

    stored = [
        row["description"] for row in world.rows("Contact").values() if row["last_name"].startswith("n")
    ]
    assert sorted(stored) == sorted(value.replace("\0", "") for value in NASTY)
    assert world.sql("SELECT sum(nuls_removed) FROM sync.run")[0][0] == 1
    world.assert_equal()
    assert world.sql("SELECT annual_revenue FROM crm.account WHERE name = 'rich'")[0][0] == Decimal(
        "999999999999999999"
    )


def test_a_long_value_in_an_indexed_field_is_no_reject(world: World) -> None:
    """What is too long for an index is kept as it is; only its normalised form is left out."""
    long_email, long_site = "x" * 9_000 + "@example.com", "https://" + "y" * 9_000 + ".example"
    world.org.retype_field("Contact", "Email", length=20_000)
    world.org.retype_field("Account", "Website", length=20_000)
    world.org.create("Contact", {"LastName": "Long", "Email": long_email})
    world.org.create("Account", {"Name": "Long", "Website": long_site})

    world.run()

    assert world.sql("SELECT email, email_normalized FROM crm.contact") == [(long_email, None)]
    assert world.sql("SELECT website, website_host FROM crm.account") == [(long_site, None)]


def test_exponents_are_numbers(world: World) -> None:
    """4.0E8 is four hundred million, and as such no change against 400000000."""
    world.org.create("Account", {"Name": "Big", "AnnualRevenue": 400_000_000}, stamp=LONG_AGO)
    world.run()
    world.sim.options.exponent_numbers = True
    seen = world.last_seq()

    world.sql("UPDATE sync.cursor SET complete_through = :t", t=LONG_AGO)
    account = world.run()[0]

    assert world.sql("SELECT annual_revenue FROM crm.account")[0][0] == 400_000_000
    assert (account.tally.read, account.tally.unchanged) == (1, 1)
    assert world.news(seen) == []


def test_custom_field_added_later(loaded: World) -> None:
    """A new custom field appears in `custom` with the records that change, without a migration."""
    loaded.org.add_field("Contact", Field("Codename__c", "string", length=40))
    loaded.org.update(loaded.ann, {"Codename__c": "Annie"})

    loaded.run()

    assert loaded.row(loaded.ann)["custom"]["Codename__c"] == "Annie"
    change = loaded.feed(loaded.seen)[0]
    assert "custom" in change.changed


def test_hidden_field_keeps_its_values(loaded: World) -> None:
    """A field taken from the integration user is left out of the query; its column and custom value stay."""
    loaded.org.update(loaded.ann, {"Title": "Boss", "Department": "Sales"})
    loaded.run()
    loaded.org.hide_field("Contact", "Title")
    loaded.org.update(loaded.ann, {"Department": "Support"})

    loaded.run()

    row = loaded.row(loaded.ann)
    assert (row["title"], row["department"]) == ("Boss", "Support")
    hidden = loaded.sql("SELECT hidden FROM sync.cursor WHERE object = 'Contact'")[0][0]
    assert "Title" in hidden

    loaded.org.show_field("Contact", "Title")
    loaded.org.update(loaded.ann, {"Title": "Chief"})
    loaded.run()
    assert loaded.row(loaded.ann)["title"] == "Chief"
    assert "Title" not in loaded.sql("SELECT hidden FROM sync.cursor WHERE object = 'Contact'")[0][0]


def test_field_hidden_between_describe_and_query(loaded: World) -> None:
    """A field that vanishes after the describe costs one more describe, not the run."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add("invalid_field", on="query", sobject="Contact", times=1)

    loaded.run()

    loaded.assert_equal()


def test_reject_and_its_healing(loaded: World) -> None:
    """A record that cannot be kept is quarantined whole; the rest goes on, and it heals with its next version."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    loaded.org.update(loaded.bob, {"Department": "Sales"})

    contact = loaded.run()[1]

    assert (contact.tally.rejected, contact.tally.updated) == (1, 1)
    [rejected] = loaded.sql("SELECT record_id, reason, record->>'LastName' AS name FROM sync.reject")
    assert (rejected.record_id, rejected.name) == (loaded.ann, "Ann")
    assert rejected.reason == "Birthdate: not a date"
    loaded.assert_equal(but=[loaded.ann])
    assert loaded.row(loaded.bob)["department"] == "Sales"
    assert loaded.cursor("Contact") is not None

    loaded.org.update(loaded.ann, {"Birthdate": "1990-05-01"})
    loaded.run()

    assert loaded.sql("SELECT * FROM sync.reject") == []
    loaded.assert_equal()


def test_an_older_version_does_not_heal(loaded: World) -> None:
    """A quarantined newer version stays listed when an older one, which fits, comes by."""
    loaded.sql(
        "INSERT INTO sync.reject (object, record_id, reason, record, system_modstamp) "
        "VALUES ('Contact', :id, 'newer', '{}', now() + interval '1 day')",
        id=loaded.ann,
    )
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert [row[0] for row in loaded.sql("SELECT record_id FROM sync.reject")] == [loaded.ann]


def test_record_that_only_postgres_refuses(loaded: World) -> None:
    """What the transformation lets through and Postgres does not is found by halving and quarantined alone."""
    loaded.sql("ALTER TABLE salesforce.contact ADD CONSTRAINT no_bob CHECK (last_name <> 'Robert')")
    loaded.org.update(loaded.bob, {"LastName": "Robert"})
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(100)])

    contact = loaded.run()[1]

    assert (contact.tally.rejected, contact.tally.inserted) == (1, 100)
    [rejected] = loaded.sql("SELECT record_id, reason FROM sync.reject")
    assert rejected.record_id == loaded.bob
    assert rejected.reason == "refused by Postgres: 23514 check_violation"
    again = loaded.last_seq()
    loaded.run()
    assert loaded.news(again) == []

    loaded.sql("ALTER TABLE salesforce.contact DROP CONSTRAINT no_bob")
    loaded.run()
    assert loaded.sql("SELECT * FROM sync.reject") == []
    loaded.assert_equal()


def test_same_id_twice_in_a_page_is_harmless(loaded: World) -> None:
    """A record delivered twice is stored once and told once."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add("repeated_rows", on="query", sobject="Contact", rows=1)

    loaded.run()

    loaded.assert_equal()
    assert loaded.news(loaded.seen) == [("update", loaded.ann)]


def test_an_older_version_never_replaces_a_newer_one(loaded: World) -> None:
    """A stale answer, whatever brings it, leaves the newer row as it is."""
    loaded.sql(
        "UPDATE salesforce.contact SET system_modstamp = now() + interval '1 day', title = 'newer' WHERE id = :id",
        id=loaded.ann,
    )
    loaded.org.update(loaded.ann, {"Title": "older"})

    loaded.run()

    assert loaded.row(loaded.ann)["title"] == "newer"


def test_two_changes_within_one_second(loaded: World) -> None:
    """Stamps are seconds: a second change on the same stamp is seen, because values are compared."""
    loaded.sim.clock.freeze(loaded.sim.clock.now())
    loaded.org.update(loaded.ann, {"Title": "first"})
    loaded.run()
    loaded.org.update(loaded.ann, {"Title": "second"})

    loaded.run()

    assert loaded.row(loaded.ann)["title"] == "second"


def test_person_accounts_and_country_picklists(world: World) -> None:
    """Orgs with person accounts and State/Country picklists show more fields, and they are kept."""
    world.sim.options.person_accounts = True
    world.sim.options.state_country_picklists = True
    pat = {
        "FirstName": "Pat",
        "LastName": "Person",
        "IsPersonAccount": True,
        "PersonEmail": "pat@example.com",
    }
    world.org.create("Account", pat)

    world.run()

    [row] = world.rows("Account").values()
    assert row["is_person_account"] is True
    shown = world.sql("SELECT first_name, last_name, person_email FROM crm.account")
    assert [tuple(one) for one in shown] == [("Pat", "Person", "pat@example.com")]
    assert row["person_contact_id"] in world.rows("Contact")
    world.assert_equal()


@pytest.mark.parametrize("option", [None, "exponent_numbers", "plain_numbers"])
def test_the_other_way_changes_nothing(database: str, transport: str, option: str | None) -> None:
    """A record read by Bulk API equals the same record read by REST: what one has loaded, the other finds unchanged,
    every field of the catalogue, custom fields and hard values included."""
    ways = {"rest": "10000", "bulk": "0"}
    accounts, contacts = (300, 900) if SOAK else (40, 80)  # all hard values are among the first thirty
    with Simulator(accounts, contacts) as sim, World(sim, database) as world:
        world.org.create_many(
            "Contact", [{"LastName": f"n{i}", "Description": v} for i, v in enumerate(NASTY)]
        )
        if option is not None:
            setattr(sim.options, option, True)
        world.environment["SYNC_BULK_THRESHOLD"] = ways.pop(transport)
        world.run()
        world.assert_equal()
        [world.environment["SYNC_BULK_THRESHOLD"]] = ways.values()
        before = world.last_seq()

        reports = pipeline.resync(world.context("resync"), ["Account", "Contact"], None)

        assert [report.tally.unchanged for report in reports] == [accounts, contacts + len(NASTY)]
        assert sum(request.kind == "job_create" for request in sim.requests) == 2
        assert world.last_seq() == before
        world.assert_equal()
