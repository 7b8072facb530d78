"""What was read long ago, and is taken up again, never overwrites what was learnt since."""

from __future__ import annotations

from typing import Any

import pytest

from sync.replication import pipeline
from sync.replication.runs import PageResult
from tests.support.moving import BOTH, Killed, custom, killed_while_refreshing, waiting
from tests.support.world import LONG_AGO, World


def die_at(world: World, page: int, command: str = "resync") -> Any:
    """A link whose process dies when so many pages of contacts have been committed."""
    pages = []

    def die(step: PageResult) -> None:
        if step.object == "Contact" and step.received:
            pages.append(step)
            if len(pages) == page:
                raise Killed

    return world.context(command, on_page=die)


def resync_and_die(world: World) -> None:
    """A resync of contacts that dies half-way: of its Bulk job two result pages are still to be read."""
    with pytest.raises(Killed):
        pipeline.resync(die_at(world, 1), ["Contact"], None)


@pytest.fixture
def halfway(loaded: World) -> World:
    """Seven contacts, of which a resync that died had read two."""
    loaded.page_by(2)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}", "AccountId": loaded.acme} for i in range(4)])
    loaded.run()
    loaded.sim.clock.advance(3600)
    resync_and_die(loaded)
    return loaded


@BOTH
def test_purged_since_stays_purged(halfway: World) -> None:
    """A record purged, and removed by a pass, between the two halves of a resync does not come back."""
    gone = halfway.org.ids("Contact")
    halfway.sim.clock.advance(60)
    for id_ in gone:
        halfway.org.purge(id_)
    halfway.sim.clock.advance(600)
    halfway.run()
    assert all(halfway.row(id_)["deleted_at"] for id_ in gone)
    seen = halfway.last_seq()

    pipeline.resync(halfway.context("resync"), ["Contact"], None)

    assert all(halfway.row(id_)["deleted_at"] for id_ in gone)
    assert "undelete" not in {op for op, _ in halfway.news(seen)}


@BOTH
def test_created_and_purged_since_is_not_there(halfway: World) -> None:
    """Nor does one come in that only the resync's first half had seen, and that nobody had to remove."""
    halfway.sql("DELETE FROM salesforce.contact")  # as if the resync had been the first to see them
    gone = halfway.org.ids("Contact")
    halfway.sim.clock.advance(60)
    for id_ in gone:
        halfway.org.purge(id_)
    halfway.sim.clock.advance(600)
    halfway.run()

    pipeline.resync(halfway.context("resync"), ["Contact"], None)

    assert [row for row in halfway.rows("Contact").values() if row["deleted_at"] is None] == []


@BOTH
def test_values_read_since_are_kept(halfway: World) -> None:
    """A formula's value that came since, without a stamp, is not overwritten by the older one."""
    halfway.org.update(halfway.acme, {"Name": "Acme Two"})
    halfway.run()
    assert custom(halfway, "Account_Display__c") == ["Acme Two [unrated]"] * 3

    pipeline.resync(halfway.context("resync"), ["Contact"], None)

    assert custom(halfway, "Account_Display__c") == ["Acme Two [unrated]"] * 3
    halfway.assert_equal()


@BOTH
def test_a_refresh_taken_up_again_keeps_newer_values(loaded: World) -> None:
    """A refresh of formulas that died, and a reread that brought newer values: those stay."""
    loaded.page_by(1)
    loaded.sim.clock.advance(2 * 86_400)
    killed_while_refreshing(loaded)
    loaded.expire_leases()
    loaded.org.update(loaded.acme, {"Name": "Acme Two"})
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        pipeline.resync_ids(loaded.context("resync"), "Contact", [id_])
    assert custom(loaded, "Account_Display__c") == ["Acme Two [unrated]"] * 3

    pipeline.sync_object(loaded.context(), "Contact")

    assert custom(loaded, "Account_Display__c") == ["Acme Two [unrated]"] * 3


@BOTH
def test_of_one_run_the_first_work_failed(loaded: World) -> None:
    """Records that a run rereads after its pass broke are not overwritten when the next takes the pass up."""
    loaded.page_by(2)
    then = loaded.sim.clock.now()
    new = loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)], stamp=then)
    loaded.sim.clock.advance(60)
    with pytest.raises(Killed):
        pipeline.sync_object(die_at(loaded, 1, "run"), "Contact")
    loaded.expire_leases()
    for id_ in new:
        loaded.org.update(id_, {"Email": f"{id_}@late.example"}, stamp=then)
    pipeline.resync_ids(loaded.context("resync"), "Contact", new)

    loaded.run()

    assert {loaded.row(id_)["email"] for id_ in new} == {f"{id_}@late.example" for id_ in new}


@BOTH
def test_an_undisturbed_resync_goes_on(halfway: World) -> None:
    """Where nothing was done meanwhile, what was read is not read again."""
    halfway.expire_leases()
    halfway.sim.requests.clear()

    pipeline.resync(halfway.context("resync"), ["Contact"], None)

    assert "job_create" not in {request.kind for request in halfway.sim.requests}
    halfway.assert_equal()


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
def test_a_first_load_beside_changing_accounts_goes_on(world: World) -> None:
    """Contacts that wait because of an account wait for the end of their first load: its job is not begun again."""
    world.page_by(2)
    acme = world.org.create("Account", {"Name": "Acme"}, stamp=LONG_AGO)
    made = [{"LastName": f"n{i}", "AccountId": acme} for i in range(7)]
    world.org.create_many("Contact", made, stamp=LONG_AGO)
    pipeline.sync_object(world.context(), "Account")
    with pytest.raises(Killed):
        pipeline.sync_object(die_at(world, 2, "run"), "Contact")
    world.expire_leases()
    world.org.update(acme, {"Name": "Acme Two"})
    pipeline.sync_object(world.context(), "Account")
    world.sim.requests.clear()

    world.run()
    world.run()

    jobs = [r for r in world.sim.requests if r.kind == "job_create" and r.sobject == "Contact"]
    assert [job for job in jobs if "WHERE" not in str(job.soql)] == []
    assert {row["custom"]["Account_Display__c"] for row in world.rows("Contact").values()} == {
        "Acme Two [unrated]"
    }
    assert waiting(world) == 0
    world.assert_equal()
