"""Values that move without a stamp: formulas, what an operator lists, and what looks through an account."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest

from sync.replication import pipeline, refresh
from sync.replication.runs import PageResult
from tests.support.moving import BOTH, PLACING, custom, refreshing, selects, silently, told, waiting
from tests.support.world import World

DAY = 86_400


@pytest.fixture
def priced(loaded: World) -> World:
    """Ann spends 100, Bob 200, Cid has no number; all long ago."""
    for id_, spend in ((loaded.ann, 100), (loaded.bob, 200)):
        silently(loaded, id_, Spend__c=spend)
    pipeline.resync(loaded.context("resync"), ["Account", "Contact"], None)
    loaded.seen = loaded.last_seq()
    loaded.sim.requests.clear()
    return loaded


def double(world: World) -> None:
    """The formula gives twice what it gave; neither a stamp nor the describe says so."""
    world.org.change_formula(
        "Contact", "Spend_With_Tax__c", lambda spend: None if spend is None else 2 * spend
    )


def rejects(world: World) -> set[str]:
    return {row.record_id for row in world.sql("SELECT record_id FROM sync.reject")}


def when_refreshing(act: Callable[[], object], name: str = "Contact") -> Callable[[PageResult], None]:
    """Act right before the first page of a reading of all records is asked for."""

    def look(step: PageResult) -> None:
        if refreshing(step, name) and step.received == 0:
            act()

    return look


# ── on schedule ───────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_formulas_are_read_again_on_schedule(priced: World) -> None:
    """Not before it is due; then only calculated columns of all records, written and told only where they moved."""
    untouched = {id_: priced.row(id_) for id_ in (priced.cid, priced.acme, priced.bolt)}
    double(priced)
    priced.sim.clock.advance(DAY / 2)
    priced.run()
    assert (selects(priced), selects(priced, "Account")) == ([], [])
    assert custom(priced, "Spend_With_Tax__c") == [119, 238, None]

    priced.sim.clock.advance(DAY / 2 + 5)
    priced.run()

    assert custom(priced, "Spend_With_Tax__c") == [200, 400, None]
    for fields in selects(priced):
        assert fields == PLACING | {"Spend_With_Tax__c", "Account_Display__c"}
    for fields in selects(priced, "Account"):
        assert fields == PLACING | {"Display_Name__c"}
    assert selects(priced)
    assert told(priced) == [("update", priced.ann, ("custom",)), ("update", priced.bob, ("custom",))]
    assert {id_: priced.row(id_) for id_ in untouched} == untouched
    priced.assert_equal()

    priced.sim.requests.clear()
    priced.run()
    assert selects(priced) == []


def test_the_interval_is_a_setting(priced: World) -> None:
    """SYNC_VOLATILE_INTERVAL says how often."""
    priced.environment["SYNC_VOLATILE_INTERVAL"] = "1h"
    double(priced)
    priced.sim.clock.advance(3630)

    priced.run()

    assert custom(priced, "Spend_With_Tax__c") == [200, 400, None]


@BOTH
@pytest.mark.parametrize(
    "listed", ["Tier__c,Title", "Contact.Tier__c,Contact.Title", "Contact.Title, Tier__c"]
)
def test_listed_fields_are_read_again(priced: World, listed: str) -> None:
    """SYNC_VOLATILE_FIELDS: fields without a formula, mapped or custom, plain or with their object."""
    priced.environment["SYNC_VOLATILE_FIELDS"] = listed
    silently(priced, priced.ann, Tier__c="Gold", Title="Boss", Department="not listed")
    priced.sim.clock.advance(DAY + 30)

    priced.run()

    row = priced.row(priced.ann)
    assert (row["custom"]["Tier__c"], row["title"], row["department"]) == ("Gold", "Boss", None)
    assert [set(changed) for _, _, changed in told(priced)] == [{"custom", "title"}]
    for fields in selects(priced):
        assert fields == PLACING | {"Spend_With_Tax__c", "Account_Display__c", "Tier__c", "Title"}


def test_listed_for_another_object(priced: World) -> None:
    """`Account.Description` is not read of contacts, nor does an unknown or a placing name disturb."""
    priced.environment["SYNC_VOLATILE_FIELDS"] = "Account.Description,NoSuch__c,Id,SystemModstamp"
    silently(priced, priced.ann, Description="contact's")
    silently(priced, priced.bolt, Description="account's")
    priced.sim.clock.advance(DAY + 30)

    priced.run()

    assert priced.row(priced.ann)["description"] is None
    assert priced.row(priced.bolt)["description"] == "account's"


def test_a_listed_phone_brings_what_is_derived(priced: World) -> None:
    """A derived column moves with its field."""
    priced.environment["SYNC_VOLATILE_FIELDS"] = "Contact.Phone"
    silently(priced, priced.ann, Phone="(415) 555-0100")
    priced.sim.clock.advance(DAY + 30)

    priced.run()

    assert priced.row(priced.ann)["phone_e164"] == "+14155550100"
    assert [set(changed) for _, _, changed in told(priced)] == [{"phone", "phone_e164"}]


# ── what changes meanwhile ────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_record_that_changed_between_is_not_half_written(priced: World) -> None:
    """With a newer stamp than its row a record is left to the next pass, which brings all of it."""
    before = priced.row(priced.ann)
    double(priced)
    priced.sim.clock.advance(DAY + 30)
    change = when_refreshing(lambda: priced.org.update(priced.ann, {"Spend__c": 7, "Title": "Boss"}))

    pipeline.sync_object(priced.context(on_page=change), "Contact")

    assert priced.row(priced.ann) == before
    assert custom(priced, "Spend_With_Tax__c") == [119, 400, None]
    priced.run()
    assert priced.row(priced.ann)["title"] == "Boss"
    priced.assert_equal()


@BOTH
def test_a_record_deleted_between_is_no_tombstone_yet(priced: World) -> None:
    """A refresh neither buries nor writes a record that was deleted after the pass; the next pass does."""
    double(priced)
    priced.sim.clock.advance(DAY + 30)
    bury = when_refreshing(lambda: priced.org.delete(priced.ann))

    pipeline.sync_object(priced.context(on_page=bury), "Contact")

    assert priced.row(priced.ann)["deleted_at"] is None
    assert custom(priced, "Spend_With_Tax__c") == [119, 400, None]
    priced.run()
    assert priced.row(priced.ann)["deleted_at"] is not None
    priced.assert_equal()


def test_a_record_created_between(priced: World) -> None:
    """A record that is in no row yet is not made from a few columns."""
    priced.sim.clock.advance(DAY + 30)
    add = when_refreshing(lambda: priced.org.create("Contact", {"LastName": "New", "Spend__c": 1}))

    pipeline.sync_object(priced.context(on_page=add), "Contact")
    assert len(priced.rows("Contact")) == 3

    priced.run()
    priced.assert_equal()


@BOTH
@pytest.mark.parametrize("end", ["deleted", "merged"])
def test_tombstones_stay_what_they_are(priced: World, end: str) -> None:
    """The formula of a deleted or merged record may move; when and why it went is kept."""
    if end == "merged":
        priced.org.merge(priced.ann, [priced.bob])
    else:
        priced.org.delete(priced.bob)
    priced.run()
    priced.sim.clock.advance(3600)
    priced.run()
    before, seen = priced.row(priced.bob), priced.last_seq()
    assert before["deleted_reason"] == end
    double(priced)
    priced.sim.clock.advance(DAY + 30)

    priced.run()

    row = priced.row(priced.bob)
    assert (row["deleted_at"], row["deleted_reason"]) == (before["deleted_at"], end)
    assert row["master_record_id"] == before["master_record_id"]
    assert {op for op, _ in priced.news(seen)} <= {"update"}


def test_killed_half_way(priced: World) -> None:
    """A refresh that was killed is due still, and the next run ends equal."""
    priced.page_by(1)
    double(priced)
    priced.sim.clock.advance(DAY + 30)

    def die(step: PageResult) -> None:
        if step.window.since is None and step.received == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sync_object(priced.context(on_page=die), "Contact")
    priced.run()

    assert custom(priced, "Spend_With_Tax__c") == [200, 400, None]
    assert told(priced) == [("update", priced.ann, ("custom",)), ("update", priced.bob, ("custom",))]


# ── what cannot be stored ─────────────────────────────────────────────────────────────────────────────


def test_an_unfit_value_quarantines_the_whole_record(priced: World) -> None:
    """A refreshed value that cannot be stored: its record is asked for whole, and rejected whole; the rest goes on."""
    priced.environment["SYNC_VOLATILE_FIELDS"] = "Birthdate"
    priced.org.retype_field("Contact", "Birthdate", type="string", length=80)
    silently(priced, priced.ann, Birthdate="in spring")
    silently(priced, priced.bob, Birthdate="1990-05-01")
    before = priced.row(priced.ann)

    priced.run()

    assert rejects(priced) == {priced.ann}
    [kept] = priced.sql("SELECT record->>'LastName', record->>'Birthdate' FROM sync.reject")
    assert tuple(kept) == ("Ann", "in spring")
    assert priced.row(priced.ann) == before
    assert priced.row(priced.bob)["birthdate"].isoformat() == "1990-05-01"
    assert waiting(priced) == 0


def test_an_unfit_value_that_fits_again_is_healed(priced: World) -> None:
    """When the value fits again, still without a stamp, the next refresh stores it and the reject is gone."""
    priced.environment["SYNC_VOLATILE_FIELDS"] = "Birthdate"
    priced.org.retype_field("Contact", "Birthdate", type="string", length=80)
    silently(priced, priced.ann, Birthdate="in spring")
    priced.run()
    assert rejects(priced) == {priced.ann}
    silently(priced, priced.ann, Birthdate="1990-05-01")
    priced.sim.clock.advance(DAY + 5)

    priced.run()

    assert priced.row(priced.ann)["birthdate"].isoformat() == "1990-05-01"
    assert rejects(priced) == set()


def test_many_unfit_values(priced: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many records hold values that cannot be stored, each is rejected; none is dropped."""
    monkeypatch.setattr(refresh, "ONE_BY_ONE", 1)
    priced.org.retype_field("Contact", "Birthdate", type="string", length=80)
    people = {priced.ann, priced.bob, priced.cid}
    for id_ in people:
        silently(priced, id_, Birthdate="in spring")

    priced.run()
    priced.run()

    assert rejects(priced) == people


def test_many_digits(priced: World) -> None:
    """A formula's number keeps its digits when it is refreshed."""
    priced.org.change_formula("Contact", "Spend_With_Tax__c", lambda _: Decimal("1234567890123456.78"))
    priced.sim.clock.advance(DAY + 30)

    priced.run()

    found = priced.sql(
        "SELECT custom ->> 'Spend_With_Tax__c' FROM salesforce.contact WHERE id = :i", i=priced.ann
    )
    assert found[0][0] == "1234567890123456.78"
