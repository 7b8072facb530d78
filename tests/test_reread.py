"""Reading again ends, and a failure of one kind of work leaves the others their turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from sync import pipeline, refresh
from sync.runs import Step
from sync.simulator import Field
from sync.simulator.fields import Formula
from tests.moving import custom, silently, waiting
from tests.world import World


@pytest.fixture
def circle(loaded: World) -> World:
    """Two accounts, each the other's parent, whose formula looks through the parent and gives another value
    whenever it is asked."""
    silently(loaded, loaded.acme, ParentId=loaded.bolt)
    silently(loaded, loaded.bolt, ParentId=loaded.acme)
    numbers = itertools.count()
    formula = Formula(
        ("Parent.Name",), lambda name: f"{name} {next(numbers)}", 'Parent.Name & " " & TEXT(NOW())'
    )
    loaded.org.add_field("Account", Field("Now__c", "string", length=255, formula=formula))
    pipeline.resync(loaded.link("resync"), ["Account"], None)
    loaded.sql("DELETE FROM sync.reread")
    loaded.sim.requests.clear()
    return loaded


def at_most(steps: int) -> Callable[[Step], None]:
    """Fails instead of going on for ever."""
    left = iter(range(steps))

    def count(_: Step) -> None:
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
        pipeline.sync_object(circle.link(on_step=at_most(40)), "Account")
        assert sorted(looked_up(circle)) == sorted([circle.acme, circle.bolt])

    assert waiting(circle) > 0


def test_a_pass_has_a_budget_of_look_ups(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits beyond the budget is read by the next passes; nothing of it is forgotten."""
    monkeypatch.setattr(refresh, "MOST_A_PASS", 2)
    loaded.sql(
        "INSERT INTO sync.reread (object, record_id, whole) SELECT 'Contact', id, true FROM salesforce.contact"
    )
    silently(loaded, loaded.cid, Title="Boss")

    pipeline.sync_object(loaded.link(), "Contact")
    assert waiting(loaded) == 1
    pipeline.sync_object(loaded.link(), "Contact")

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
    pipeline.resync(loaded.link("resync"), ["Account"], None)
    loaded.org.update(loaded.acme, {"Name": "Apex"})

    pipeline.sync_object(loaded.link(on_step=at_most(40)), "Account")

    assert loaded.row(third)["custom"]["Top__c"] == "Apex"
    assert waiting(loaded) == 0
    assert custom(loaded, "Account_Display__c")[0].startswith("Apex")
