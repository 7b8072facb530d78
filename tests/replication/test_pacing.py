"""The plan of API calls applied: counted by kind in the journal, asked before work, stored, shown, overruled."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from datetime import timedelta

import pytest

from sync.postgres.state import calls
from sync.postgres.state.calls import ON_DEMAND, REFRESH, RESYNC, VERIFY, Spent
from sync.postgres.tables import transaction
from sync.replication import pipeline
from sync.replication.budget import pacing
from tests.support.world import World

ALLOWED = 1_000
RUN = """
INSERT INTO sync.run (object, command, owner, outcome, started_at, finished_at, api_calls, calls)
VALUES (:object, :command, 'before', :outcome, now() - :ago, CASE WHEN :outcome <> 'running' THEN now() - :ago END,
        :made, CAST(:calls AS jsonb))
"""


@pytest.fixture
def world(world: World) -> World:
    """A world with an allowance of a thousand calls, in which nothing is verified by itself."""
    world.environment |= {"SYNC_API_CALLS_PER_DAY": str(ALLOWED), "SYNC_INTERVAL": "1m"}
    return world


def spend(
    world: World,
    made: int,
    command: str = "worker",
    *,
    hours: float = 1,
    outcome: str = "succeeded",
    kinds: Mapping[str, int] | None = None,
    name: str = "Other",
) -> None:
    """A run in the journal with so many calls."""
    ago, told = timedelta(hours=hours), json.dumps(dict(kinds or {}))
    world.sql(RUN, object=name, command=command, outcome=outcome, ago=ago, made=made, calls=told)


def age(world: World) -> None:
    """Let a day pass: all runs so far ended before the last 24 hours."""
    day = "- interval '25 hours'"
    world.sql(f"UPDATE sync.run SET started_at = started_at {day}, finished_at = finished_at {day}")


def spent(world: World) -> Spent:
    with transaction(world.engine) as connection:
        return calls.read_spent(connection)


def waiting(world: World) -> list[str]:
    """The kinds of work that are stored as deferred."""
    return [row[0] for row in world.sql("SELECT jsonb_object_keys(deferred) FROM sync.budget ORDER BY 1")]


# ── counted ───────────────────────────────────────────────────────────────────────────────────────────


def test_calls_are_told_apart(loaded: World) -> None:
    """The journal has the calls of each kind, and its sum is what Salesforce counted."""
    age(loaded)
    loaded.org.update(loaded.acme, {"Name": "Moved"})
    loaded.sql("UPDATE sync.cursor SET refreshed_at = now() - interval '2 days'")
    pipeline.run_scheduled(loaded.context("worker"), "Account")
    pipeline.run_scheduled(loaded.context("worker"), "Contact")
    pipeline.verify_all(loaded.context("verify"), ["Contact"], repair=False, sample=0)
    pipeline.resync(loaded.context("resync"), ["Contact"], None)

    found = spent(loaded)
    counted = sum(request.counted for request in loaded.sim.requests)
    described = sum(request.kind == "describe" for request in loaded.sim.requests)
    assert (
        found.total
        == counted
        == loaded.sql("SELECT sum(api_calls) FROM sync.run WHERE started_at > now() - interval '1 day'")[0][0]
    )
    assert found.by_kind["describe"] == described
    assert set(found.by_kind) >= {"pass", "describe", "refresh", "verify", "resync"}


def test_quiet_passes_are_counted(loaded: World) -> None:
    """Passes of the worker that change nothing share lines of the journal: their calls, kinds and number do not get
    lost."""
    age(loaded)
    loaded.sql("UPDATE sync.cursor SET refreshed_at = now()")
    loaded.environment["SYNC_VERIFY_AT"] = "off"
    context = loaded.context("worker")
    for _ in range(4):
        for job in pipeline.begin_scheduled(context, ["Account", "Contact"]).values():
            job()
        loaded.sim.clock.advance(60)

    found = spent(loaded)
    counted = [request for request in loaded.sim.requests if request.counted]
    assert found.total == len(counted)
    assert found.by_kind["describe"] == sum(request.kind == "describe" for request in counted) > 0
    assert found.passes == 4
    assert loaded.sql("SELECT count(*) FROM sync.run WHERE started_at > now() - interval '1 hour'")[0][0] < 8


def test_what_counts_as_the_last_day(loaded: World) -> None:
    """Runs that ended within 24 hours count, with those that go on; what no command names is another kind."""
    age(loaded)
    spend(loaded, 7, hours=25)
    spend(loaded, 20, hours=23, kinds={"describe": 3, "refresh": 4, "unheard": 5})
    spend(loaded, 30, "verify", outcome="running")
    spend(loaded, 2, "request", kinds={"describe": 2})
    spend(loaded, 1, "request")
    spend(loaded, 9, "erase")

    assert spent(loaded).by_kind == {
        "pass": 8,
        "describe": 5,
        "refresh": 4,
        "verify": 30,
        "on_demand": 1,
        "other": 14,
    }


def test_what_a_pass_usually_takes(loaded: World) -> None:
    """The median of each object's passes, and the sum over the objects: a first load and a busy pass do not count."""
    age(loaded)
    for made in (500, 1, 1, 1, 40):
        spend(loaded, made, name="Account")
    for made in (3, 3, 3):
        spend(loaded, made, name="Contact", hours=2)
    spend(loaded, 99, name="Contact", outcome="failed")
    spend(loaded, 99, name="New")
    spend(loaded, 99, name="New")
    spend(loaded, 99, "run", name="Contact")

    found = spent(loaded)
    assert (found.a_pass, found.passes) == (4, 5)
    assert timedelta(hours=2) <= found.span < timedelta(hours=3)


# ── asked before work ─────────────────────────────────────────────────────────────────────────────────


def test_the_interval_of_the_worker(loaded: World) -> None:
    """The worker's next pass comes later while calls are short, and as usual when they have left the last day."""
    age(loaded)
    context = loaded.context("worker")
    spend(loaded, 700, "resync")
    assert pacing.next_interval(context) == timedelta(minutes=1)
    spend(loaded, 125, "resync")
    assert timedelta(minutes=5) < pacing.next_interval(context) < timedelta(minutes=6)
    spend(loaded, 25, "resync")
    assert pacing.next_interval(context) == timedelta(minutes=10)
    age(loaded)
    assert pacing.next_interval(context) == timedelta(minutes=1)


def test_without_the_database_the_interval_is_the_setting(loaded: World) -> None:
    """A database that refuses ends no job of the worker."""
    context = loaded.context("worker")
    loaded.sql("ALTER TABLE sync.budget RENAME TO hidden")
    try:
        assert pacing.next_interval(context) == timedelta(minutes=1)
    finally:
        loaded.sql("ALTER TABLE sync.hidden RENAME TO budget")


def test_work_waits_in_its_order_and_goes_on(loaded: World) -> None:
    """Requests wait before refresh, refresh before verify; what waits is stored with its time, and then goes on."""
    age(loaded)
    context = loaded.context("worker")
    for made, left in ((850, [REFRESH, VERIFY]), (50, [VERIFY]), (50, [])):
        spend(loaded, made, "resync")
        works = (ON_DEMAND, REFRESH, VERIFY)
        assert [work for work in works if pacing.may_run(context, work)] == left
    assert waiting(loaded) == [ON_DEMAND, REFRESH, VERIFY]
    since = loaded.sql("SELECT deferred FROM sync.budget")[0][0]
    assert pacing.current_plan(context).refusal(RESYNC)
    assert loaded.sql("SELECT deferred FROM sync.budget")[0][0] == since
    assert pacing.may_run(loaded.context("run", ignore_budget=True), REFRESH)

    age(loaded)
    assert pacing.may_run(context, ON_DEMAND)
    assert waiting(loaded) == []


def test_refresh_waits_and_the_pass_does_not(loaded: World) -> None:
    """A refresh that is due waits, and is due until it has run; the pass itself goes on."""
    age(loaded)
    spend(loaded, 920, "resync")
    loaded.sql("UPDATE sync.cursor SET refreshed_at = '2026-01-01'")
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    refreshed = "SELECT refreshed_at > '2026-01-02' FROM sync.cursor WHERE object = 'Contact'"

    pipeline.run_scheduled(loaded.context("worker"), "Contact")
    assert loaded.row(loaded.ann)["title"] == "Boss"
    assert loaded.sql(refreshed)[0][0] is False

    age(loaded)
    pipeline.run_scheduled(loaded.context("worker"), "Contact")
    assert loaded.sql(refreshed)[0][0] is True


def verifies(world: World) -> int:
    return int(
        world.sql("SELECT count(*) FROM sync.run WHERE command = 'verify' AND owner <> 'before'")[0][0]
    )


@pytest.mark.parametrize(("days", "runs"), [(2, 0), (3, 1)])
def test_verify_waits_three_days_at_most(loaded: World, days: int, runs: int) -> None:
    """A verify that is due waits while calls are used up, unless the last one is three days ago."""
    age(loaded)
    loaded.environment["SYNC_VERIFY_AT"] = "00:00"
    spend(loaded, 1, "verify", hours=days * 24 + 1, name="Contact")
    spend(loaded, 960, "resync")

    pipeline.run_scheduled(loaded.context("worker"), "Contact")

    assert verifies(loaded) == runs


def test_a_deferred_verify_is_no_verify(loaded: World) -> None:
    """What an operator was refused does not put off the nightly verify."""
    age(loaded)
    loaded.environment["SYNC_VERIFY_AT"] = "00:00"
    spend(loaded, 1, "verify", hours=49, name="Contact")
    spend(loaded, 1, "verify", outcome="deferred", hours=0, name="Contact")

    pipeline.run_scheduled(loaded.context("worker"), "Contact")

    assert verifies(loaded) == 1


# ── the org's own count ───────────────────────────────────────────────────────────────────────────────


def test_the_orgs_limit_is_remembered(loaded: World) -> None:
    """The allowance follows the org's limit, for those, too, who ask no Salesforce; an old count stops nobody."""
    del loaded.environment["SYNC_API_CALLS_PER_DAY"]
    loaded.sim.options.limit_max, loaded.sim.options.limit_used = 200_000, 150_000
    context = loaded.context("worker")
    context.session.query("SELECT Id FROM Account")
    assert pacing.current_plan(context).allowance == 20_000

    silent = loaded.context("worker")
    assert pacing.current_plan(silent).allowance == 20_000
    loaded.sql("UPDATE sync.budget SET used = 199_000")
    assert pacing.current_plan(silent).stopped
    loaded.sql("UPDATE sync.budget SET seen_at = now() - interval '2 hours'")
    assert not pacing.current_plan(silent).stopped


def test_the_orgs_stop_is_stored_for_all_work(loaded: World) -> None:
    """Above SYNC_API_BUDGET the worker's pass is deferred, and `status` says of everything that it waits."""
    loaded.sim.options.limit_max, loaded.sim.options.limit_used = 1_000, 900
    context = loaded.context("worker")
    with pytest.raises(Exception, match="the org has used 90"):
        pipeline.run_scheduled(context, "Contact")

    assert pacing.next_interval(context) == timedelta(minutes=10)
    assert waiting(loaded) == [ON_DEMAND, "pass", REFRESH, VERIFY]


# ── operators ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("made", "typed"),
    [
        (1_000, ["run"]),
        (960, ["resync", "--object", "Contact"]),
        (960, ["verify", "--object", "Contact", "--repair"]),
        (960, ["resync", "--id", "003"]),
    ],
)
def test_an_operator_is_deferred_and_may_go_on(loaded: World, made: int, typed: list[str]) -> None:
    """Exit code 4, the reason, and the command that does it all the same: it does, as it is printed."""
    age(loaded)
    typed = [loaded.ann if word == "003" else word for word in typed]
    spend(loaded, made, "resync")

    refused = loaded.command(*typed)
    assert refused.returncode == 4, refused.stderr
    assert "API calls are used that SYNC_API_CALLS_PER_DAY allows in 24 hours" in refused.stderr
    assert loaded.sim.requests == []
    [again] = set(re.findall(r"now all the same: python -m sync (.*--ignore-budget)", refused.stderr))
    assert shlex.split(again) == [*typed, "--ignore-budget"]
    assert loaded.command(*shlex.split(again)).returncode == 0


def test_an_operator_is_not_deferred_while_there_is_room(loaded: World) -> None:
    """At nine tenths an operator's work runs, and the operator's pass at any number below the allowance."""
    age(loaded)
    spend(loaded, 940, "resync")
    assert loaded.command("verify", "--object", "Contact").returncode == 0
    spend(loaded, 40, "resync")
    assert loaded.command("run").returncode == 0


def test_status_shows_the_calls_and_what_waits(loaded: World) -> None:
    """The calls by kind, the forecast, the allowance, and what is deferred, since when and why."""
    age(loaded)
    spend(loaded, 910, "resync")
    spend(loaded, 8, kinds={"describe": 3})

    told = loaded.command("status")
    document = json.loads(loaded.command("status", "--json").stdout)

    line = "API calls in 24 hours: 918 of 1,000 (passes 5, describe 3, resync 910); at this pace "
    assert line in told.stdout
    assert "a pass each 10m (stretched to stay within SYNC_API_CALLS_PER_DAY)" in told.stdout
    assert "warning: deferred since 20" in told.stdout
    assert document["calls"]["by_kind"] == {"pass": 5, "describe": 3, "resync": 910}
    assert document["calls"]["interval"] == 600
    assert [one["work"] for one in document["deferred"]] == [ON_DEMAND, REFRESH]
    assert all(one["since"] and "918 of the 1,000" in one["reason"] for one in document["deferred"])


def test_the_first_line_tells_of_it_after_an_hour(loaded: World) -> None:
    """Work that waits is no news for an hour, then it is in the first line."""
    age(loaded)
    spend(loaded, 910, "resync")
    pacing.current_plan(loaded.context("worker"))
    assert loaded.command("status").stdout.startswith("OK: ")

    loaded.sql("""UPDATE sync.budget SET deferred = '{"refresh": "2026-01-31T12:00:00+00:00"}'""")
    assert loaded.command("status").stdout.startswith(
        "WARNING: deferred since 2026-01-31 12:00:00 UTC: requests of consumers, refresh; 910 of the 1,000 API"
    )


def test_a_dry_run_of_verify(loaded: World) -> None:
    """It prints what it would list and its calls, and writes no run."""
    done = loaded.command("verify", "--dry-run", "--object", "Contact")

    assert done.returncode == 0, done.stderr
    assert "Contact\t3\t2" in done.stdout
    assert verifies(loaded) == 0
