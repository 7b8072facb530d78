"""The delete log: what it names is removed, what it has forgotten is proved, and what it refuses is not claimed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sync.errors import GuardError, ObjectsFailedError
from sync.replication import pipeline
from sync.replication.runs import PageResult
from sync.replication.verify import comparison
from sync.simulator import replication
from tests.replication.test_deletes import BOTH, assert_alive, live, tombstone
from tests.support.world import LONG_AGO, World

MINUTE = timedelta(minutes=1)


def asked(world: World, sobject: str = "Contact") -> int:
    """How often getDeleted was called."""
    return sum(call.kind == "deleted" and call.sobject == sobject for call in world.sim.requests)


# ── the log is gone ───────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_purged_log_is_made_up_for(loaded: World, caplog: pytest.LogCaptureFixture) -> None:
    """When the log no longer reaches back the pass verifies and repairs by itself, then goes on as ever."""
    loaded.sim.clock.advance(8 * 3600)
    loaded.org.purge(loaded.ann)
    loaded.org.purge(loaded.bob, log=False)
    loaded.org.update(loaded.cid, {"Title": "Boss"})
    loaded.sim.clock.advance(1800)
    loaded.org.purge_delete_log()
    loaded.sim.clock.advance(900)

    loaded.run()

    assert tombstone(loaded, loaded.ann)[1] == tombstone(loaded, loaded.bob)[1] == "vanished"
    assert_alive(loaded)
    assert sorted(loaded.news(loaded.seen)) == sorted(
        [("delete", loaded.ann), ("delete", loaded.bob), ("update", loaded.cid)]
    )
    run = loaded.sql(
        "SELECT outcome, findings FROM sync.run WHERE object = 'Contact' ORDER BY id DESC LIMIT 1"
    )
    assert (run[0].outcome, run[0].findings["gone"], run[0].findings["remaining"]) == ("succeeded", 2, 0)
    for _ in range(3):
        loaded.sim.clock.advance(360)
        loaded.run()
    assert caplog.text.count("'event': 'delete_log_gone'") == 2  # one per object
    loaded.sim.clock.advance(360)
    loaded.org.purge(loaded.cid)
    loaded.sim.clock.advance(60)
    loaded.run()
    assert tombstone(loaded, loaded.cid)[1] == "purged"


def test_a_log_purged_just_now_is_verified_once(loaded: World, caplog: pytest.LogCaptureFixture) -> None:
    """A purge of the log within the overlap does not make each of the following passes a verify."""
    loaded.sim.clock.advance(8 * 3600)
    loaded.org.purge_delete_log()
    for _ in range(5):
        loaded.sim.clock.advance(330)
        loaded.run()

    assert caplog.text.count("'event': 'delete_log_gone'") == 2  # one per object


def test_a_log_lost_after_a_verify_claims_nothing(loaded: World) -> None:
    """Deletions since the last verify are removed, or complete_through stays before them."""
    loaded.sim.clock.advance(3600)
    loaded.org.purge(loaded.ann)
    at = loaded.sim.clock.now()
    loaded.sim.clock.advance(1800)
    loaded.org.purge_delete_log()
    loaded.sim.clock.advance(1800)

    loaded.run()

    claimed = loaded.cursor("Contact")
    assert claimed is not None
    assert loaded.row(loaded.ann)["deleted_at"] is not None or claimed <= at


def test_a_lost_log_and_a_wrong_clock(loaded: World) -> None:
    """One answer with a clock that is hours ahead does not stop the log from being asked."""
    loaded.sim.clock.advance(8 * 3600)
    loaded.org.purge_delete_log()
    loaded.sim.faults.add("wrong_date", on="describe", sobject="Contact", seconds=3 * 3600)
    loaded.run()
    loaded.sim.clock.advance(600)
    loaded.org.purge(loaded.ann)
    for _ in range(8):
        loaded.sim.clock.advance(1800)
        loaded.run()

    assert loaded.row(loaded.ann)["deleted_at"] is not None


def test_too_much_is_gone_for_single_questions(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a verify by hand would read the whole object, the pass does so too, or fails and claims nothing."""
    monkeypatch.setattr(comparison, "MAX_SUSPECTS", 1)
    before = loaded.cursor("Contact")
    loaded.sim.clock.advance(20 * 86400)
    loaded.org.purge(loaded.ann, log=False)
    loaded.org.purge(loaded.bob, log=False)
    try:
        loaded.run()
    except ObjectsFailedError:
        assert loaded.cursor("Contact") == before
    else:
        assert_alive(loaded)


def test_verify_by_hand_of_too_much(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More gone records than are asked for one by one are removed all the same."""
    monkeypatch.setattr(comparison, "MAX_SUSPECTS", 1)
    for id_ in (loaded.ann, loaded.bob):
        loaded.org.purge(id_, log=False)

    pipeline.verify_object(loaded.context("verify", approve=True), "Contact", repair=True)

    assert_alive(loaded)


@BOTH
def test_worker_away_for_twenty_days(loaded: World) -> None:
    """Longer than the log is kept: what the log still knows is `purged`, the rest `vanished`, all in one pass."""
    loaded.org.purge(loaded.ann)
    loaded.sim.clock.advance(18 * 86400)
    loaded.org.purge(loaded.bob)
    loaded.org.delete(loaded.bolt)
    loaded.org.update(loaded.cid, {"Title": "Boss"})
    loaded.sim.clock.advance(2 * 86400)

    loaded.run()

    reasons = [tombstone(loaded, id_)[1] for id_ in (loaded.ann, loaded.bob, loaded.bolt, loaded.cid)]
    assert reasons == ["vanished", "purged", "deleted", None]
    assert_alive(loaded)


# ── where the log cannot be had ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", ["not_found", "insufficient_access", "gone", "functionality_not_enabled"])
def test_refused_deletions_are_a_warning(loaded: World, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """An org that has no delete log for us is synchronised without; when it tells again, nothing was missed."""
    refusal = loaded.sim.faults.add(fault, on="deleted", times=None)
    loaded.org.purge(loaded.ann)
    loaded.org.update(loaded.bob, {"Title": "Boss"})
    loaded.sim.clock.advance(3600)

    loaded.run()

    assert "'event': 'deletions_unknown'" in caplog.text
    assert loaded.news(loaded.seen) == [("update", loaded.bob)]
    claimed = loaded.cursor("Contact")
    assert claimed is not None
    assert loaded.sim.clock.now() - claimed < 11 * MINUTE
    loaded.sim.faults.remove(refusal)
    loaded.run()
    assert tombstone(loaded, loaded.ann)[1] == "purged"


@pytest.mark.parametrize(
    "fault",
    [
        *("unknown_exception", "server_error_html", "bad_gateway_html", "html_ok", "truncated", "reset"),
        *(
            pytest.param(
                name,
            )
            for name in ("too_many_requests", "concurrent_limit", "transaction_security")
        ),
    ],
)
def test_unanswered_deletions_fail_the_pass(loaded: World, fault: str) -> None:
    """While the log cannot be read for a passing reason the cursor stays; the next pass makes up for it."""
    before = loaded.cursor("Contact")
    broken = loaded.sim.faults.add(fault, on="deleted", sobject="Contact", times=None)
    loaded.org.purge(loaded.ann)
    loaded.org.update(loaded.bob, {"Title": "Boss"})
    loaded.sim.clock.advance(3600)

    with pytest.raises(ObjectsFailedError) as failed:
        loaded.run()

    assert (failed.value.code, [name for name, _ in failed.value.failures]) == (1, ["Contact"])
    assert loaded.cursor("Contact") == before
    loaded.sim.faults.remove(broken)
    loaded.run()
    assert_alive(loaded)
    assert loaded.row(loaded.bob)["title"] == "Boss"


@pytest.mark.parametrize(
    "body",
    [
        {"deletedRecords": None},
        {"deletedRecords": [{"id": "003"}]},
        {"latestDateCovered": "soon"},
        {"earliestDateAvailable": "long ago"},
    ],
)
def test_an_odd_log_removes_nothing(
    loaded: World, monkeypatch: pytest.MonkeyPatch, body: dict[str, object]
) -> None:
    """A log that cannot be understood fails the pass; nothing is removed by it, and the cursor stays."""
    before = loaded.cursor("Contact")
    true = replication.deleted
    monkeypatch.setattr(replication, "deleted", lambda *given: true(*given) | body)
    loaded.org.purge(loaded.ann)
    loaded.sim.clock.advance(3600)

    with pytest.raises(ObjectsFailedError, match="cannot be read"):
        loaded.run()

    assert (loaded.cursor("Contact"), len(live(loaded))) == (before, 3)


def test_a_log_that_lags_holds_complete_through_back(loaded: World) -> None:
    """Deletions that the log does not cover yet are not claimed, though getUpdated cannot be asked."""
    loaded.sim.clock.advance(86400)
    loaded.sim.faults.add("not_found", on="updated", times=None)
    loaded.org.purge(loaded.ann)
    at = loaded.sim.clock.now()
    loaded.sim.options.latest_date_covered_lag = 3600
    loaded.sim.clock.advance(1200)
    loaded.run()

    claimed = loaded.cursor("Contact")
    assert claimed is not None
    assert claimed <= at
    assert loaded.row(loaded.ann)["deleted_at"] is None
    loaded.sim.clock.advance(3600)
    loaded.run()
    assert tombstone(loaded, loaded.ann)[1] == "purged"


@pytest.mark.parametrize("overlap", ["10m", "30s"])
def test_the_log_is_asked_at_most_every_five_minutes(loaded: World, overlap: str) -> None:
    """Where each object goes by itself, passes in quick succession ask once; meanwhile no deletion is claimed that
    is not known."""
    loaded.sim.options.composite = False
    loaded.environment["SYNC_OVERLAP"] = overlap
    loaded.sim.clock.advance(3600)
    loaded.run()
    loaded.sim.requests.clear()
    loaded.sim.clock.advance(90)
    loaded.org.purge(loaded.ann)
    at = loaded.sim.clock.now()
    for _ in range(3):
        loaded.sim.clock.advance(45)
        loaded.run()
        claimed = loaded.cursor("Contact")
        assert claimed is not None
        assert claimed <= at
    assert (asked(loaded), loaded.row(loaded.ann)["deleted_at"]) == (0, None)
    loaded.sim.clock.advance(120)
    loaded.run()
    loaded.run()

    assert (asked(loaded), tombstone(loaded, loaded.ann)[1]) == (1, "purged")


# ── the guard, and death ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["logged", "unlogged", "away"])
def test_guard_in_a_pass(world: World, how: str) -> None:
    """101 of 200 gone at once: exit 6, the cursor stays, nothing is removed, until an operator says that it is so."""
    ids = world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(200)], stamp=LONG_AGO)
    world.run()
    before = world.cursor("Contact")
    world.sim.clock.advance(20 * 86400 if how == "away" else 8 * 3600)
    for id_ in ids[:101]:
        world.org.purge(id_, log=how == "logged")
    if how == "unlogged":
        world.org.purge_delete_log()
    world.sim.clock.advance(60)

    for _ in range(2):
        with pytest.raises(ObjectsFailedError, match=r"101 of 200 .* --repair --approve") as failed:
            world.run()
        assert failed.value.code == GuardError.exit_code == 6
        assert (world.cursor("Contact"), len(live(world))) == (before, 200)

    pipeline.verify_object(world.context("verify", approve=True), "Contact", repair=True)
    world.run()

    claimed = world.cursor("Contact")
    assert claimed is not None
    assert world.sim.clock.now() - claimed < 12 * MINUTE
    assert_alive(world)


def test_a_hundred_are_no_guard(world: World) -> None:
    """A hundred of two hundred go unasked, and so do the last few of a small table."""
    ids = world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(200)], stamp=LONG_AGO)
    few = world.org.create_many("Account", [{"Name": f"n{i}"} for i in range(10)], stamp=LONG_AGO)
    world.run()
    for id_ in [*ids[:100], *few]:
        world.org.purge(id_)
    world.sim.clock.advance(60)
    world.run()

    assert live(world) == set(ids[100:])
    assert world.sql("SELECT count(*) FROM crm.account")[0][0] == 0


@BOTH
@pytest.mark.parametrize("gone", [("logged", 3600), ("unlogged", 20 * 86400)])
def test_killed_between_removal_and_cursor(loaded: World, gone: tuple[str, int]) -> None:
    """Whoever dies after the removal leaves the cursor; the next pass converges and tells nothing twice."""
    how, away = gone
    before = loaded.cursor("Contact")
    loaded.sim.clock.advance(away)
    loaded.org.purge(loaded.ann, log=how == "logged")
    loaded.org.update(loaded.bob, {"Title": "Boss"})
    loaded.sim.clock.advance(60)

    def die(step: PageResult) -> None:
        if step.tally.deleted:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        pipeline.sync_object(loaded.context(on_page=die), "Contact")
    assert loaded.cursor("Contact") == before
    assert loaded.row(loaded.ann)["deleted_at"] is not None
    loaded.run()

    assert sorted(loaded.news(loaded.seen)) == sorted([("delete", loaded.ann), ("update", loaded.bob)])
    assert loaded.cursor("Contact") != before
    assert_alive(loaded)
