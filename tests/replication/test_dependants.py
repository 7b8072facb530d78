"""What looks through an account, or was moved by a merge, is read again right after the account changed."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from sync.replication import pipeline, refresh
from sync.replication.runs import PageResult
from sync.simulator import Field
from sync.simulator.fields import Formula
from tests.support.moving import BOTH, PLACING, custom, selects, silently, told, waiting
from tests.support.world import World


@pytest.fixture
def ready(loaded: World) -> World:
    """Three contacts of Acme, loaded; nothing asked for since."""
    loaded.sim.requests.clear()
    return loaded


@BOTH
@pytest.mark.parametrize("order", ["side by side", "contacts first", "accounts first"])
def test_contacts_follow_their_account_at_once(ready: World, order: str) -> None:
    """An account's change is in its contacts' formulas within the same run, whichever object came first."""
    other = ready.org.create("Contact", {"LastName": "Dan", "AccountId": ready.bolt})
    ready.run()
    seen = ready.last_seq()
    ready.sim.requests.clear()
    ready.org.update(ready.acme, {"Name": "Acme Two", "Rating": "Hot"})

    if order == "side by side":
        ready.run()
    else:
        names = ["Account", "Contact"] if order == "accounts first" else ["Contact", "Account"]
        for name in names:
            pipeline.sync_object(ready.context(), name)

    assert custom(ready, "Account_Display__c") == ["Acme Two [Hot]"] * 3
    ops = {(op, id_, changed) for op, id_, changed in told(ready, seen) if id_ != ready.acme}
    assert ops == {("update", id_, ("custom",)) for id_ in (ready.ann, ready.bob, ready.cid)}
    assert other not in {id_ for _, id_, _ in told(ready, seen)}
    assert selects(ready) == []
    assert waiting(ready) == 0
    ready.assert_equal()


def test_a_new_formula_through_the_account(ready: World) -> None:
    """A formula that came later is filled, and followed from then on; one that went costs no look any more."""
    formula = Formula(("Account.Name",), lambda name: name and name.upper(), "UPPER(Account.Name)")
    field = Field("Shout__c", "string", length=255, formula=formula, createable=False, updateable=False)
    ready.org.add_field("Contact", field)
    ready.run()
    assert custom(ready, "Shout__c") == ["ACME"] * 3

    ready.org.update(ready.acme, {"Name": "Apex"})
    ready.run()
    assert custom(ready, "Shout__c") == ["APEX"] * 3

    for gone in ("Shout__c", "Account_Display__c"):
        ready.org.hide_field("Contact", gone)
    ready.run()
    ready.sim.requests.clear()
    ready.org.update(ready.acme, {"Name": "Acme"})
    ready.run()
    assert not [r for r in ready.sim.requests if r.soql and "FROM Contact WHERE Id IN" in r.soql]
    assert custom(ready, "Shout__c") == ["APEX"] * 3


def test_formula_through_the_parent_account(ready: World) -> None:
    """Accounts whose formula looks through their parent follow it in the same run."""
    silently(ready, ready.bolt, ParentId=ready.acme)
    formula = Formula(("Parent.Name",), lambda name: name, "Parent.Name")
    ready.org.add_field("Account", Field("Group__c", "string", length=255, formula=formula))
    pipeline.resync(ready.context("resync"), ["Account"], None)
    ready.run()
    assert ready.row(ready.bolt)["custom"]["Group__c"] == "Acme"

    ready.org.update(ready.acme, {"Name": "Apex"})
    ready.run()

    assert ready.row(ready.bolt)["custom"]["Group__c"] == "Apex"
    assert waiting(ready) == 0


def test_an_account_first_seen_after_its_contact(ready: World) -> None:
    """A contact read before its account, which then changed: the formula follows when the account comes."""
    ready.environment["SYNC_OBJECTS"] = "Contact"
    late = ready.org.create("Account", {"Name": "Early"}, stamp=ready.sim.clock.now())
    dan = ready.org.create("Contact", {"LastName": "Dan", "AccountId": late})
    ready.run()
    ready.sim.clock.advance(3600)
    ready.run()
    ready.org.update(late, {"Name": "Late"})

    ready.environment["SYNC_OBJECTS"] = "Account,Contact"
    ready.run()

    assert ready.row(dan)["custom"]["Account_Display__c"] == "Late [unrated]"


@BOTH
def test_many_waiting_are_read_together(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many contacts wait, the columns that may differ are read of all, and nobody waits any more."""
    monkeypatch.setattr(refresh, "ONE_BY_ONE", 2)
    ready.org.update(ready.acme, {"Name": "Acme Two"})

    pipeline.sync_object(
        ready.context(), "Account"
    )  # side by side, a contact that just looks reads them by Id

    assert custom(ready, "Account_Display__c") == ["Acme Two [unrated]"] * 3
    assert all(fields == PLACING | {"Spend_With_Tax__c", "Account_Display__c"} for fields in selects(ready))
    assert selects(ready)
    assert not [r for r in ready.sim.requests if r.soql and "FROM Contact WHERE Id IN" in r.soql]
    assert waiting(ready) == 0


@pytest.mark.parametrize("most", [10_000, 1])
def test_children_of_a_merge_are_read_whole(ready: World, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Contacts that a merge of accounts moved without a stamp have their new account, however many they are."""
    monkeypatch.setattr(refresh, "ONE_BY_ONE", most)
    ready.org.merge(ready.bolt, [ready.acme])
    for id_ in (ready.ann, ready.bob, ready.cid):
        silently(ready, id_)

    ready.run()

    assert {ready.row(id_)["account_id"] for id_ in (ready.ann, ready.bob, ready.cid)} == {ready.bolt}
    assert custom(ready, "Account_Display__c") == ["Bolt [unrated]"] * 3
    assert waiting(ready) == 0


def test_a_contact_that_is_gone_does_not_wait_for_ever(ready: World) -> None:
    """A contact that was purged before its turn leaves the queue all the same."""
    ready.org.update(ready.acme, {"Name": "Acme Two"})
    ready.org.purge(ready.cid, log=False)

    ready.run()

    assert custom(ready, "Account_Display__c")[:2] == ["Acme Two [unrated]"] * 2
    assert waiting(ready) == 0


def test_a_crash_before_their_turn(ready: World) -> None:
    """Killed between an account's commit and its contacts' turn, the next run reads them, whatever it is for."""
    ready.org.update(ready.acme, {"Name": "Acme Two"})

    def die(step: PageResult) -> None:
        if step.tally.updated:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sync_object(ready.context(on_page=die), "Account")
    assert waiting(ready) == 1
    pipeline.sync_object(ready.context(), "Contact")

    assert custom(ready, "Account_Display__c") == ["Acme Two [unrated]"] * 3
    assert waiting(ready) == 0


def test_a_long_pass_of_contacts_fails_no_account(ready: World) -> None:
    """While a pass of contacts goes on for longer than one waits for a lease, accounts do not fail for it."""
    ready.org.update(ready.acme, {"Name": "Acme Two"})
    over = threading.Event()

    def linger(step: PageResult) -> None:
        if step.object == "Contact":
            over.wait(0.5)

    pipeline.sync_all(ready.context(on_page=linger, wait=timedelta(seconds=0.2)))

    assert custom(ready, "Account_Display__c") == ["Acme Two [unrated]"] * 3
    assert waiting(ready) == 0
