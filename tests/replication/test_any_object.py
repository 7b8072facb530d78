"""An object that was generated from a describe is kept like those that the product came with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from sync.errors import CountMismatchError, ObjectsFailedError
from sync.replication import pipeline
from sync.replication.runs import PageResult
from sync.simulator import Field
from tests.support import processes
from tests.support.declared import OPPORTUNITY, opportunities
from tests.support.moving import Killed
from tests.support.soak import SOAK, covering
from tests.support.world import LONG_AGO, World

NAME = "Opportunity"
BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
# Where a fault strikes five records in pages of two: the call's kind, and how many to let pass.
PLACES = {
    "rest": {"first": ("query", 0), "middle": ("page", 0), "last": ("page", 1)},
    "bulk": {"first": ("results", 0), "middle": ("results", 1), "last": ("results", 2)},
}
FAULTS = ("session_expired", "unavailable_html", "truncated", "missing_rows", "repeated_rows", "reset")


def values(name: str = "new", **more: Any) -> dict[str, Any]:
    """What a new opportunity needs."""
    return {"Name": name, "StageName": "Prospecting", "CloseDate": "2026-12-31", **more}


@pytest.fixture
def third(world: World) -> Iterator[World]:
    """Three opportunities of an account, loaded; only they are replicated."""
    with opportunities(world.engine, world.sim):
        world.environment["SYNC_OBJECTS"] = NAME
        world.acme = world.org.create("Account", {"Name": "Acme"}, stamp=LONG_AGO)
        new = [values(name, AccountId=world.acme, Amount=12.5) for name in ("Ann", "Bob", "Cid")]
        world.ann, world.bob, world.cid = world.org.create_many(NAME, new, stamp=LONG_AGO)
        world.run()
        world.seen = world.last_seq()
        yield world


def five_more(world: World) -> list[str]:
    """Five opportunities in three pages, settled."""
    world.page_by(2)
    made = world.org.create_many(NAME, [values(f"n{number}") for number in range(5)])
    world.sim.clock.advance(3600)
    return made


def shown(world: World) -> list[str]:
    return [row.name for row in world.sql("SELECT name FROM crm.opportunity ORDER BY name")]


# ── stories ───────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_life(third: World) -> None:
    """Loaded, created, changed, deleted, restored, purged: the rows follow, and the feed tells each change once."""
    third.assert_equal([NAME])
    assert shown(third) == ["Ann", "Bob", "Cid"]
    dora = third.org.create(NAME, values("Dora"))
    third.org.update(third.ann, {"Amount": 99, "NextStep": "call"})
    third.org.delete(third.bob)
    third.run()
    third.assert_equal([NAME])
    assert shown(third) == ["Ann", "Cid", "Dora"]

    third.org.undelete(third.bob)
    third.org.purge(third.cid)
    third.sim.clock.advance(3600)
    third.run()

    third.assert_equal([NAME], but=[third.cid])
    assert shown(third) == ["Ann", "Bob", "Dora"]
    assert third.rows(NAME)[third.cid]["deleted_reason"] == "purged"
    assert sorted(third.news(third.seen), key=str) == sorted(
        [
            *(("insert", dora), ("update", third.ann), ("delete", third.bob), ("undelete", third.bob)),
            ("delete", third.cid),
        ],
        key=str,
    )


def test_what_consumers_ask(third: World) -> None:
    """Freshness, resolve_id and complete_through know it like any other object."""
    third.org.delete(third.bob)
    third.run()

    [line] = third.sql("SELECT object, rows, tombstones, loaded FROM crm.freshness")
    assert tuple(line) == (NAME, 2, 1, True)
    resolved = third.sql("SELECT crm.resolve_id(:a), crm.resolve_id(:b)", a=third.ann[:15], b=third.bob)
    assert tuple(resolved[0]) == (third.ann, None)
    assert third.sql("SELECT crm.complete_through(ARRAY['Opportunity'])")[0][0] == third.cursor(NAME)


def test_a_field_that_comes(third: World) -> None:
    """A custom field that an administrator adds is filled in the records that are there."""
    third.org.add_field(NAME, Field("Rank__c", "string", length=20))
    third.org.update(third.ann, {"Rank__c": "A"}, stamp=LONG_AGO)

    third.run()

    assert third.rows(NAME)[third.ann]["custom"]["Rank__c"] == "A"


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("transport", "fault", "place"),
    # Each fault, and each place of each way.
    covering(
        [(way, fault, place) for fault in FAULTS for way, places in PLACES.items() for place in places],
        lambda case: [case[1], (case[0], case[2])],
    ),
    indirect=["transport"],
)
def test_faults(third: World, fault: str, place: str) -> None:
    """A fault at the first, a middle or the last page: the tables end equal, and each insert is told once."""
    made = five_more(third)
    on, after = PLACES[third.transport][place]
    struck = third.sim.faults.add(fault, on=on, after=after, sobject=NAME, times=1)

    try:
        third.run()
    except ObjectsFailedError as failed:
        assert {type(error) for _, error in failed.failures} == {CountMismatchError}  # noqa: PT017  # it may succeed, too
        third.run()

    assert struck.fired
    third.assert_equal([NAME])
    assert sorted(id_ for op, id_ in third.news(third.seen) if op == "insert" and id_) == sorted(made)


# ── deaths ────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("pages", [1, 2, 3])
def test_a_death_between_pages(third: World, pages: int) -> None:
    """Ended between two pages, the next run goes on and ends equal, with every change told once."""
    made = five_more(third)
    left = iter(range(1, pages))

    def die(_: PageResult) -> None:
        if next(left, None) is None:
            raise Killed

    with pytest.raises(Killed):
        pipeline.sync_object(third.context(on_page=die), NAME)
    third.expire_leases()
    third.run()

    third.assert_equal([NAME])
    assert sorted(id_ for op, id_ in third.news(third.seen) if op == "insert" and id_) == sorted(made)


@BOTH
@pytest.mark.parametrize("number", range(1, 20) if SOAK else [8, 10])
def test_killed(third: World, number: int) -> None:
    """A real process, killed before one of its commits: the next one ends equal."""
    third.page_by(2)
    made = third.org.create_many(NAME, [values(f"n{number}") for number in range(5)])
    third.sim.clock.advance(60)
    environment = third.process_environment(DECLARED_DESCRIBE=str(OPPORTUNITY))
    done = processes.run(["tests.support.victim", "before", str(number), "run"], environment)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    third.expire_leases()
    if not third.unfinished():  # killed before the job had a name: Salesforce deletes it in seven days
        for job in third.org.jobs.all():
            third.org.jobs.remove(job)

    third.run()

    third.assert_equal([NAME])
    assert sorted(id_ for op, id_ in third.news(third.seen) if op == "insert" and id_) == sorted(made)


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────────


def test_verify(third: World) -> None:
    """What was lost, invented or changed in the table is found and mended."""
    third.sql("DELETE FROM salesforce.opportunity WHERE id = :id", id=third.ann)
    third.sql("UPDATE salesforce.opportunity SET amount = 1 WHERE id = :id", id=third.bob)
    third.sim.faults.clear()
    third.org.purge(third.cid, log=False)
    third.sim.clock.advance(3600)

    [found] = pipeline.verify_all(third.context("verify"), [NAME], repair=True, sample=None)
    [again] = pipeline.verify_all(third.context("verify"), [NAME], repair=False, sample=None)

    counted = found.findings or {}
    assert (counted["missing"], counted["gone"], counted["values"]) == (1, 1, 1)
    assert (again.findings or {})["differences"] == []
    third.assert_equal([NAME], but=[third.cid])
