"""Deletions that leave no trace in a query, what comes back, what was merged: all of them reach the tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import product

import pytest

from sync.replication import pipeline
from sync.replication.runs import PageResult
from tests.support.soak import covering, pairs
from tests.support.world import LONG_AGO, World

BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)


def live(world: World, sobject: str = "Contact") -> set[str]:
    return {id_ for id_, row in world.rows(sobject).items() if row["deleted_at"] is None}


def assert_alive(world: World) -> None:
    """The live rows are the org's live records."""
    for sobject in ("Account", "Contact"):
        assert live(world, sobject) == set(world.org.ids(sobject, deleted=False)), sobject


def tombstone(world: World, id_: str) -> tuple[datetime | None, str | None]:
    row = world.row(id_)
    return row["deleted_at"], row["deleted_reason"]


# ── purged ────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("binned", [False, True])
def test_purged_between_passes(loaded: World, binned: bool) -> None:
    """A record that left for good, at once or through the bin, is a tombstone with its values and the log's date."""
    loaded.sim.clock.advance(3600)
    at = loaded.sim.clock.stamp()
    before = loaded.row(loaded.ann)
    loaded.sim.clock.freeze(at)
    if binned:
        loaded.org.delete(loaded.ann)
        loaded.sim.clock.advance(300)
    loaded.org.purge(loaded.ann)
    loaded.sim.clock.advance(120)

    [_, contact] = loaded.run()

    assert tombstone(loaded, loaded.ann) == (at, "purged")
    assert {k: v for k, v in loaded.row(loaded.ann).items() if k[:7] not in ("deleted", "synced_")} == {
        k: v for k, v in before.items() if k[:7] not in ("deleted", "synced_")
    }
    assert loaded.news(loaded.seen) == [("delete", loaded.ann)]
    assert contact.tally.deleted == 1
    assert loaded.sql("SELECT id FROM crm.contact WHERE id = :id", id=loaded.ann) == []
    assert_alive(loaded)
    loaded.sim.clock.advance(600)
    loaded.run()
    assert len(loaded.feed(loaded.seen)) == 1


def test_created_and_purged_between_passes(loaded: World) -> None:
    """What was never here leaves nothing."""
    loaded.org.purge(loaded.org.create("Contact", {"LastName": "Gone"}))
    loaded.run()

    assert (len(loaded.rows("Contact")), loaded.news(loaded.seen)) == (3, [])


def test_purged_during_the_first_load(world: World) -> None:
    """A record whose page was committed, and which goes while the others are read, goes with the next pass."""
    ids = world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(6)], stamp=LONG_AGO)
    world.page_by(2)

    def purge_the_first(step: PageResult) -> None:
        if step.received == 4 and ids[0] in world.org.ids("Contact"):
            world.org.purge(ids[0])

    pipeline.sync_object(world.context(on_page=purge_the_first), "Contact")
    assert ids[0] in live(world)
    world.sim.clock.advance(60)
    pipeline.sync_object(world.context(), "Contact")

    assert live(world) == set(ids[1:])


def test_tombstones_outlive_their_purge(loaded: World) -> None:
    """A record that is a tombstone already keeps its time and reason when it leaves the bin, and no news is told."""
    loaded.org.delete(loaded.ann)
    loaded.org.merge(loaded.cid, [loaded.bob])
    loaded.run()
    before, seen = (tombstone(loaded, loaded.ann), tombstone(loaded, loaded.bob)), loaded.last_seq()
    loaded.sim.clock.advance(3600)
    loaded.org.purge(loaded.ann)
    loaded.org.purge(loaded.bob)
    loaded.run()

    assert (tombstone(loaded, loaded.ann), tombstone(loaded, loaded.bob)) == before
    assert [before[0][1], before[1][1]] == ["deleted", "merged"]
    assert loaded.news(seen) == []
    assert loaded.sql("SELECT crm.resolve_id(:id)", id=loaded.bob)[0][0] == loaded.cid


def test_more_purged_than_one_query_names(world: World) -> None:
    """A hundred and more suspects, some of them undeleted since: each is asked for, only the gone go."""
    ids = world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(900)], stamp=LONG_AGO)
    world.run()
    for id_ in ids[:700]:
        world.org.delete(id_)
        if id_ in ids[:100]:
            world.org.purge(id_)
        else:
            world.org.undelete(id_, bump=False)
    for id_ in ids[100:700]:
        stamp = int(LONG_AGO.timestamp())
        world.org.store.execute("UPDATE Contact SET SystemModstamp = ? WHERE Id = ?", (stamp, id_))
    world.sim.clock.advance(3600)

    world.run()

    assert live(world) == set(ids[100:])
    assert world.sql("SELECT count(*) FROM sync.change WHERE op = 'delete'")[0][0] == 100


def test_reject_of_a_purged_record(loaded: World) -> None:
    """A record that could not be stored, and is gone, is no reject any more."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    loaded.run()
    loaded.org.purge(loaded.ann)
    loaded.sim.clock.advance(600)
    loaded.run()
    assert tombstone(loaded, loaded.ann)[1] == "purged"

    assert loaded.sql("SELECT record_id FROM sync.reject") == []


# ── what the log names and is there ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("passes", "bump", "stay"), covering(list(product((0, 1), (True, False), (True, False))), pairs)
)
def test_undeleted_is_not_removed(loaded: World, passes: int, bump: bool, stay: bool) -> None:
    """A record taken out of the bin stays, though the log goes on naming it, before and after a pass saw it gone."""
    loaded.sim.options.undeleted_stay_listed = stay
    loaded.org.delete(loaded.ann)
    if passes:
        loaded.run()
    loaded.sim.clock.advance(120)
    loaded.org.undelete(loaded.ann, bump=bump)
    for _ in range(3):
        loaded.sim.clock.advance(330)
        loaded.run()
        assert tombstone(loaded, loaded.ann) == (None, None)

    ops = [op for op, id_ in loaded.news(loaded.seen) if id_ == loaded.ann]
    assert ops == (["delete", "undelete"] if passes else ["update"])
    loaded.assert_equal()


def test_undeleted_and_rejected_is_not_removed(loaded: World) -> None:
    """A listed record that is there but cannot be stored is no proof of its end."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.delete(loaded.ann)
    loaded.org.undelete(loaded.ann)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    loaded.sim.clock.advance(60)
    loaded.run()

    assert tombstone(loaded, loaded.ann) == (None, None)
    assert loaded.sql("SELECT record_id FROM sync.reject")[0][0] == loaded.ann


def test_undelete_without_a_stamp_is_found_by_verify(loaded: World) -> None:
    """Out of the bin with the stamp of its deletion, long ago: passes cannot see it, verify mends it."""
    loaded.org.delete(loaded.ann)
    loaded.run()
    loaded.sim.clock.advance(7200)
    loaded.run()
    seen = loaded.last_seq()
    loaded.org.undelete(loaded.ann, bump=False)
    loaded.run()
    assert tombstone(loaded, loaded.ann)[1] == "deleted"

    pipeline.verify_object(loaded.context("verify"), "Contact", repair=True)

    assert loaded.news(seen) == [("undelete", loaded.ann)]
    loaded.assert_equal()


def test_undeleted_and_then_purged(loaded: World) -> None:
    """A record that was back for hours and then was purged while live is gone."""
    loaded.org.delete(loaded.ann)
    loaded.run()
    loaded.sim.clock.advance(60)
    loaded.org.undelete(loaded.ann)
    for _ in range(2):
        loaded.sim.clock.advance(3600)
        loaded.run()
    loaded.org.purge(loaded.ann)
    loaded.sim.clock.advance(600)
    loaded.run()

    assert tombstone(loaded, loaded.ann)[1] == "purged"


# ── cascades and merges ───────────────────────────────────────────────────────────────────────────────


def delete_and_purge(world: World) -> Callable[[str], None]:
    def act(id_: str) -> None:
        world.org.delete(id_)
        world.org.purge(id_)

    return act


def test_an_account_takes_its_contacts_along(loaded: World) -> None:
    """Deleted, undeleted, purged: what becomes of an account becomes of its contacts, told one by one."""
    three = [loaded.ann, loaded.bob, loaded.cid]
    acts: list[tuple[Callable[[str], None], str]] = [
        (loaded.org.delete, "delete"),
        (loaded.org.undelete, "undelete"),
        (delete_and_purge(loaded), "delete"),
    ]
    for act, op in acts:
        seen = loaded.last_seq()
        loaded.sim.clock.advance(3600)
        act(loaded.acme)
        loaded.sim.clock.advance(60)
        loaded.run()
        assert sorted(loaded.news(seen)) == sorted((op, id_) for id_ in [loaded.acme, *three]), op
        assert_alive(loaded)
    assert loaded.row(loaded.acme)["deleted_at"] is not None


def survivors(world: World) -> list[tuple[str, str | None]]:
    found = world.sql(
        "SELECT record_id, survivor_id FROM crm.changes(:after) WHERE op = 'merge' ORDER BY seq",
        after=world.seen,
    )
    return [(row.record_id, row.survivor_id) for row in found]


def resolved(world: World, *ids: str) -> list[str | None]:
    return [world.sql("SELECT crm.resolve_id(:id)", id=id_)[0][0] for id_ in ids]


@pytest.mark.parametrize("passes", [True, False])
def test_merges_in_a_chain(loaded: World, passes: bool) -> None:
    """Each merge names its survivor, also when the survivor is merged away before we look; the chain resolves."""
    loaded.org.merge(loaded.bob, [loaded.ann])
    if passes:
        loaded.run()
    loaded.sim.clock.advance(5)
    loaded.org.merge(loaded.cid, [loaded.bob])
    loaded.run()

    assert survivors(loaded) == [(loaded.ann, loaded.bob), (loaded.bob, loaded.cid)]
    assert resolved(loaded, loaded.ann, loaded.bob, loaded.cid) == [loaded.cid] * 3
    assert sum(change.op == "merge" for change in loaded.feed(loaded.seen)) == 2
    assert_alive(loaded)


def test_a_merge_undone_and_made_again(loaded: World) -> None:
    """A loser out of the bin is itself again; merged into another it names that one."""
    loaded.org.merge(loaded.bob, [loaded.ann])
    loaded.run()
    loaded.sim.clock.advance(60)
    loaded.org.undelete(loaded.ann)
    loaded.run()
    assert resolved(loaded, loaded.ann) == [loaded.ann]
    loaded.sim.clock.advance(60)
    loaded.org.merge(loaded.cid, [loaded.ann])
    loaded.run()

    ops = [op for op, id_ in loaded.news(loaded.seen) if id_ == loaded.ann]
    assert ops == ["merge", "undelete", "merge"]
    assert survivors(loaded) == [(loaded.ann, loaded.bob), (loaded.ann, loaded.cid)]
    assert resolved(loaded, loaded.ann) == [loaded.cid]


def test_children_of_a_merge_are_read_again(loaded: World) -> None:
    """The contacts of a merged account are read again at once, even if their move left no stamp."""
    loaded.sim.clock.advance(3600)
    loaded.org.merge(loaded.bolt, [loaded.acme])
    stamp = int(LONG_AGO.timestamp())
    loaded.org.store.execute("UPDATE Contact SET SystemModstamp = ?", (stamp,))

    loaded.run()

    loaded.assert_equal()
    assert survivors(loaded) == [(loaded.acme, loaded.bolt)]
    assert {row["account_id"] for row in loaded.rows("Contact").values()} == {loaded.bolt}
    assert loaded.sql("SELECT count(*) FROM sync.reread")[0][0] == 0


# ── rejected records that are gone ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
@pytest.mark.parametrize("known", [True, False], ids=["stored before", "never stored"])
def test_reject_of_a_deleted_record(loaded: World, known: bool) -> None:
    """A record that could not be stored, and is deleted, leaves a tombstone without values, and no reject."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    spoiled = (
        loaded.ann if known else loaded.org.create("Contact", {"LastName": "New", "Birthdate": "in spring"})
    )
    if known:
        loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    loaded.run()
    assert loaded.sql("SELECT record_id FROM sync.reject") == [(spoiled,)]

    loaded.org.delete(spoiled)
    loaded.run()

    assert loaded.sql("SELECT record_id FROM sync.reject") == []
    assert tombstone(loaded, spoiled)[1] == "deleted"
    assert loaded.row(spoiled)["last_name"] is None
    assert spoiled not in live(loaded)


def test_reject_of_a_record_that_vanished(loaded: World) -> None:
    """A record that was never stored and left no trace in the delete log is forgotten by verify."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    spoiled = loaded.org.create("Contact", {"LastName": "New", "Birthdate": "in spring"})
    loaded.run()
    loaded.org.purge(spoiled, log=False)
    loaded.sim.clock.advance(600)

    [report] = pipeline.verify_all(loaded.context("verify"), ["Contact"], repair=True, sample=0)

    assert report.findings is not None
    assert report.findings["remaining"] == 0
    assert loaded.sql("SELECT record_id FROM sync.reject") == []
