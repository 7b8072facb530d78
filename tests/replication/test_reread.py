"""Reading again ends, and a failure of one kind of work leaves the others their turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from sync.errors import (
    CountMismatchError,
    LoginError,
    ObjectsFailedError,
    SyncError,
    WorkFailedError,
)
from sync.replication import pipeline, refresh
from sync.replication.runs import PageResult
from sync.simulator import Field
from sync.simulator.fields import Formula
from tests.support.moving import custom, silently, waiting
from tests.support.world import World


@pytest.fixture
def circle(loaded: World) -> World:
    """Two accounts, each the other's parent, whose formula reads the parent's and gives another value whenever it
    is asked."""
    silently(loaded, loaded.acme, ParentId=loaded.bolt)
    silently(loaded, loaded.bolt, ParentId=loaded.acme)
    numbers = itertools.count()
    formula = Formula(
        ("Parent.Name",), lambda name: f"{name} {next(numbers)}", 'Parent.Now__c & " " & TEXT(NOW())'
    )
    loaded.org.add_field("Account", Field("Now__c", "string", length=255, formula=formula))
    pipeline.resync(loaded.context("resync"), ["Account"], None)
    loaded.sql("DELETE FROM sync.reread")
    loaded.sql("DELETE FROM sync.changed_parent")
    loaded.sim.requests.clear()
    return loaded


def at_most(steps: int) -> Callable[[PageResult], None]:
    """Fails instead of going on for ever."""
    left = iter(range(steps))

    def count(_: PageResult) -> None:
        assert next(left, None) is not None, "it goes round and round"

    return count


def looked_up(world: World) -> list[str]:
    """The Ids that were asked for, in the order of the queries."""
    asked = [request.soql for request in world.sim.requests if request.soql and "WHERE Id IN" in request.soql]
    return [id_ for soql in asked for id_ in (world.acme, world.bolt) if id_ in soql]


def test_a_circle_of_formulas_is_read_once_a_pass(circle: World) -> None:
    """Where each reading makes another necessary, a pass reads each record once more and leaves the rest to the
    next one."""
    circle.org.update(circle.acme, {"Name": "Acme Two"})

    for _ in range(3):
        circle.sim.requests.clear()
        pipeline.sync_object(circle.context(on_page=at_most(40)), "Account")
        assert sorted(looked_up(circle)) == sorted([circle.acme, circle.bolt])

    assert waiting(circle) > 0


def test_a_pass_has_a_budget_of_look_ups(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits beyond the budget is read by the next passes; nothing of it is forgotten."""
    monkeypatch.setattr(refresh, "MOST_A_PASS", 2)
    loaded.sql(
        "INSERT INTO sync.reread (object, record_id, whole) SELECT 'Contact', id, true FROM salesforce.contact"
    )
    silently(loaded, loaded.cid, Title="Boss")

    pipeline.sync_object(loaded.context(), "Contact")
    assert waiting(loaded) == 1
    pipeline.sync_object(loaded.context(), "Contact")

    assert waiting(loaded) == 0
    loaded.assert_equal(["Contact"])


def test_a_chain_of_formulas_is_followed_to_its_end(loaded: World) -> None:
    """What is read again because of what was read again has its turn within the same pass."""
    third = loaded.org.create("Account", {"Name": "Third", "ParentId": loaded.bolt})
    silently(loaded, loaded.bolt, ParentId=loaded.acme)
    path = Formula(("Parent.Parent.Name",), lambda name: name, "Parent.Parent.Name")
    parent = Formula(("Parent.Name",), lambda name: name, "Parent.Name")
    loaded.org.add_field("Account", Field("Top__c", "string", length=255, formula=path))
    loaded.org.add_field("Account", Field("Over__c", "string", length=255, formula=parent))
    loaded.run()
    pipeline.resync(loaded.context("resync"), ["Account"], None)
    loaded.org.update(loaded.acme, {"Name": "Apex"})

    pipeline.sync_object(loaded.context(on_page=at_most(40)), "Account")

    assert loaded.row(third)["custom"]["Top__c"] == "Apex"
    assert waiting(loaded) == 0
    assert custom(loaded, "Account_Display__c")[0].startswith("Apex")


# ── each kind of work on its own ──────────────────────────────────────────────────────────────────────


def outcomes(world: World, name: str) -> list[tuple[str, str]]:
    """Command and outcome of the runs of an object since the fixture, in their order."""
    found = world.sql(
        "SELECT command, outcome FROM sync.run WHERE object = :o AND command <> 'run' ORDER BY id", o=name
    )
    return [(row.command, row.outcome) for row in found]


@pytest.fixture
def due(loaded: World) -> World:
    """A day later: formulas and the nightly verify are due, and a formula moved."""
    silently(loaded, loaded.ann, Spend__c=100)
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.sql("DELETE FROM sync.run WHERE command = 'resync'")
    loaded.sql("UPDATE sync.run SET started_at = started_at - interval '5 days'")
    loaded.org.change_formula("Contact", "Spend_With_Tax__c", lambda spend: spend and 2 * spend)
    loaded.sim.clock.advance(86_400 + 1)
    return loaded


def test_an_unreadable_object_stops_no_other(due: World) -> None:
    """No query of contacts is answered, and some of them wait because of an account: the account's pass and its
    verify succeed all the same."""
    due.org.update(due.acme, {"Name": "Acme Two"})
    due.sim.faults.add("insufficient_access", on="query", sobject="Contact", times=None)

    pipeline.run_scheduled(due.context("worker"), "Account")

    assert outcomes(due, "Account") == [("worker", "succeeded"), ("verify", "succeeded")]
    assert ("worker", "failed") in outcomes(due, "Contact")
    due.assert_equal(["Account"])
    with pytest.raises(ObjectsFailedError, match="Contact: "):
        pipeline.refresh_dependants(due.context())


def test_a_refused_refresh_stops_no_verify(due: World) -> None:
    """Formulas that Salesforce refuses to read fail the run, which names them, and the verify has its turn."""
    due.sim.faults.add("operation_too_large", on="query", sobject="Contact", after=1, times=1)
    due.org.purge(due.cid, log=False)

    with pytest.raises(SyncError):
        pipeline.run_scheduled(due.context("worker"), "Contact")

    assert outcomes(due, "Contact") == [("worker", "failed"), ("verify", "succeeded")]
    assert due.row(due.cid)["deleted_at"] is not None


def test_a_failed_pass_stops_neither_refresh_nor_verify(due: World) -> None:
    """Formulas are read, and a lost row is found, though the window's records do not add up."""
    due.org.update(due.bob, {"Title": "Boss"})
    due.sim.faults.add("missing_rows", on="query", sobject="Contact", times=1)
    due.sql("DELETE FROM salesforce.contact WHERE id = :i", i=due.cid)

    with pytest.raises(CountMismatchError):
        pipeline.run_scheduled(due.context("worker"), "Contact")

    assert custom(due, "Spend_With_Tax__c")[0] == 200
    assert outcomes(due, "Contact") == [("worker", "failed"), ("verify", "succeeded")]
    assert due.row(due.cid)["last_name"] == "Cid"


def test_all_failures_are_named(due: World) -> None:
    """A pass, a refresh and a verify that fail each for a reason of their own are all in the message."""
    due.org.update(due.bob, {"Title": "Boss"})
    due.sim.faults.add("missing_rows", on="query", sobject="Contact", times=1)
    due.sim.faults.add("operation_too_large", on="query", sobject="Contact", after=1, times=None)

    with pytest.raises(WorkFailedError) as failed:
        pipeline.run_scheduled(due.context("worker"), "Contact")

    told = str(failed.value)
    assert (
        told.index("the pass failed: ")
        < told.index("counted")
        < told.index("the refresh of formulas failed: ")
    )
    assert told.index("OPERATION_TOO_LARGE") < told.index("the verify failed: ")
    [(journal,)] = due.sql("SELECT error FROM sync.run WHERE object = 'Contact' AND command = 'worker'")
    assert "the refresh of formulas failed" in journal


def test_what_concerns_all_is_not_repeated(due: World) -> None:
    """A login that is refused is refused once: no other kind of work tries another."""
    refused = due.sim.faults.add("token_wrong_secret", on="token", times=None)

    with pytest.raises(LoginError):
        pipeline.run_scheduled(due.context("worker"), "Contact")

    assert refused.fired == 1
    assert outcomes(due, "Contact") == [("worker", "failed")]


def test_no_verify_before_the_first_load(world: World) -> None:
    """While a first load fails there is nothing to compare, and the message is about the load alone."""
    world.sim.faults.add("insufficient_access", on="query", sobject="Contact", times=None)
    for _ in range(2):
        with pytest.raises(SyncError) as failed:
            pipeline.run_scheduled(world.context("worker"), "Contact")
        assert "verify" not in str(failed.value)
        world.sql("UPDATE sync.run SET started_at = started_at - interval '5 days'")
