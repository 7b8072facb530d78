"""Whose clock is right: Salesforce's Date is compared with another clock before anything is claimed by it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sync.errors import ObjectsFailedError, SyncError
from sync.operations import status
from sync.operations.audit import checks
from sync.operations.status import Status
from sync.postgres import tables
from sync.replication import pipeline
from tests.support.moving import BOTH, Killed
from tests.support.world import World

MONTH = 30 * 86400


def dated(world: World, seconds: float) -> None:
    """Let every answer of the org be dated so many seconds ahead."""
    world.sim.faults.add("wrong_date", on="any", seconds=seconds, times=None)


def refused(world: World) -> str:
    """What both objects say of a clock that is not believed."""
    before = world.sql("SELECT object, complete_through FROM sync.cursor ORDER BY 1")
    with pytest.raises(ObjectsFailedError) as failure:
        world.run()
    assert {type(error) for _, error in failure.value.failures} == {SyncError}
    assert world.sql("SELECT object, complete_through FROM sync.cursor ORDER BY 1") == before
    return str(failure.value)


def status_of(world: World) -> Status:
    with tables.transaction(world.engine) as connection:
        return status.read_status(connection, ("Account", "Contact"), timedelta(minutes=30))


@BOTH
@pytest.mark.parametrize("seconds", [MONTH, -400])
def test_a_wrong_clock_claims_nothing(loaded: World, seconds: float) -> None:
    """A Date header that is wrong for all answers, ahead or behind, moves no cursor, and both times are named."""
    loaded.sim.clock.advance(3600)
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    dated(loaded, seconds)

    told = refused(loaded)

    now = loaded.sim.clock.now()
    assert f"dated {now + timedelta(seconds=seconds):%Y-%m-%d %H:}" in told
    assert f"clock says {now:%Y-%m-%d %H:}" in told
    assert "NTP" in told
    loaded.sim.faults.clear()
    loaded.run()
    loaded.assert_equal()
    reached = loaded.cursor("Contact")
    assert reached is not None
    assert now - timedelta(minutes=11) < reached < now


def test_a_clock_a_month_behind(loaded: World) -> None:
    """A Date header before what is known fails the pass with both times, not with a remedy that would not help."""
    loaded.sim.clock.advance(3600)
    dated(loaded, -MONTH)

    assert "resync" not in refused(loaded)


@pytest.mark.parametrize("seconds", [400])
def test_rows_are_stored_all_the_same(loaded: World, seconds: float) -> None:
    """What was read under a clock that is ahead is in the tables, also with the passes after."""
    dated(loaded, seconds)
    for title in ("Boss", "Chief"):
        loaded.sim.clock.advance(3600)
        loaded.org.update(loaded.ann, {"Title": title})
        refused(loaded)
        assert loaded.row(loaded.ann)["title"] == title


@pytest.mark.parametrize("seconds", [290])
def test_some_minutes_are_no_error(loaded: World, seconds: float) -> None:
    """Clocks that differ by less than five minutes are as usual."""
    loaded.sim.clock.advance(3600)
    dated(loaded, seconds)
    loaded.run()

    loaded.assert_equal()


@BOTH
def test_a_first_load_by_a_wrong_clock(world: World) -> None:
    """A first load claims nothing while the clock is wrong, and is whole once it is right."""
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)])
    world.sim.clock.advance(3600)
    dated(world, MONTH)
    refused(world)
    assert world.cursor("Contact") is None
    refused(world)

    world.org.create("Contact", {"LastName": "late"})
    world.sim.clock.advance(3600)
    world.sim.faults.clear()
    world.run()

    world.assert_equal()
    reached = world.cursor("Contact")
    assert reached is not None
    assert reached < world.sim.clock.now()


@BOTH
def test_a_window_begun_by_a_wrong_clock(loaded: World) -> None:
    """A window that was interrupted while the clock was ahead is begun anew when it is right."""
    loaded.page_by(1)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(4)])
    loaded.sim.clock.advance(3600)
    dated(loaded, 7200)

    def die(step: object) -> None:
        if getattr(step, "received", 0) >= 2:
            raise Killed

    with pytest.raises(Killed):
        pipeline.sync_object(loaded.context(on_page=die), "Contact")
    loaded.expire_leases()
    loaded.sim.faults.clear()
    loaded.run()

    loaded.assert_equal()
    reached = loaded.cursor("Contact")
    assert reached is not None
    assert reached < loaded.sim.clock.now()


def test_the_database_is_the_reference(loaded: World) -> None:
    """Without another clock it is the database's that decides."""
    loaded.sim.clock.advance(MONTH)
    with pytest.raises(SyncError, match=r"the database's clock says 20\d\d-"):
        pipeline.sync_object(replace(loaded.context(), reference=None), "Contact")
    loaded.sim.clock.advance(-MONTH)
    pipeline.sync_object(replace(loaded.context(), reference=None), "Contact")


def test_a_resync_claims_nothing_either(loaded: World) -> None:
    """A full resync under a wrong clock moves no cursor; one that claims nothing is not refused."""
    dated(loaded, MONTH)
    before = loaded.cursor("Contact")
    with pytest.raises(ObjectsFailedError, match="complete_through stays where it is"):
        pipeline.resync(loaded.context("resync"), ["Contact"], None)
    assert loaded.cursor("Contact") == before
    later = datetime.now(UTC) + timedelta(days=29)
    pipeline.resync(loaded.context("resync"), ["Contact"], later)
    assert loaded.cursor("Contact") == before


def test_status_names_a_cursor_in_the_future(loaded: World) -> None:
    """What an earlier version believed is no OK: the first line says so, and its remedy mends all of it."""
    assert status_of(loaded).headline.startswith("OK")
    loaded.sql(
        "UPDATE sync.cursor SET complete_through = now() + interval '30 days', refreshed_at = now() + "
        "interval '30 days', deleted_through = now() + interval '30 days' WHERE object = 'Contact'"
    )
    found = status_of(loaded)
    assert found.headline.startswith("WARNING: Contact is recorded as complete through ")
    assert "python -m sync resync --object Contact --full" in found.headline

    pipeline.resync(loaded.context("resync"), ["Contact"], None)

    assert status_of(loaded).headline.startswith("OK")
    loaded.org.delete(loaded.cid)
    loaded.org.purge(loaded.cid)
    loaded.sim.clock.advance(3600)
    loaded.run()
    assert loaded.row(loaded.cid)["deleted_at"] is not None
    [(deleted, refreshed)] = loaded.sql(
        "SELECT deleted_through, refreshed_at FROM sync.cursor WHERE object = 'Contact'"
    )
    assert max(deleted, refreshed) <= loaded.sim.clock.now()


@pytest.mark.parametrize("seconds", [0, 3600])
def test_check_compares_the_clocks(loaded: World, seconds: float) -> None:
    """`check` says whether the clocks agree, and what to look at where they do not."""
    loaded.sim.clock.advance(seconds)
    context = loaded.context("check")
    [found] = [
        one
        for one in checks.check(context.settings, context.session, context.engine)
        if one.subject == "clock"
    ]

    assert found.state == ("failed" if seconds else "ok")
    assert ("NTP" in found.remedy) == bool(seconds)
