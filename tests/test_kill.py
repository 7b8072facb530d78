"""Real processes, killed with SIGKILL at every transaction border and while they wait: the next run ends equal."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from tests.world import LONG_AGO, ROOT, World

# lease · journal opened · plan · three pages · cursor · journal closed · lease released
BORDERS = 9


@pytest.fixture
def five(world: World) -> World:
    """Five contacts in three pages; only Contact is replicated, so that borders have numbers."""
    world.environment["SYNC_OBJECTS"] = "Contact"
    world.sim.options.page_sizes = 2
    world.org.create_many("Contact", [{"LastName": f"old{i}"} for i in range(5)], stamp=LONG_AGO)
    return world


@pytest.fixture
def five_more(five: World) -> World:
    """Five more of them after the first load."""
    five.run()
    five.seen = five.last_seq()
    five.org.create_many("Contact", [{"LastName": f"new{i}"} for i in range(5)])
    return five


def die(world: World, moment: str, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.victim", moment, str(number), "run"],
        env=world.process_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    world.expire_leases()


def test_the_borders_are_all_there(five: World) -> None:
    """A run of three pages has as many transactions as the tests below kill at."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.victim", "count", "0", "run"],
        env=five.process_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert re.findall(r"commits=(\d+)", done.stdout) == [str(BORDERS)]


@pytest.mark.parametrize("number", range(1, BORDERS + 1))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_in_a_pass(five_more: World, moment: str, number: int) -> None:
    """Killed at any border of a pass, the next one ends equal, with every change told exactly once."""
    die(five_more, moment, number)

    five_more.run()

    five_more.assert_equal(["Contact"])
    told = [record for op, record in five_more.news(five_more.seen) if op == "insert"]
    assert len(told) == len(set(told)) == 5
    assert five_more.sql("SELECT count(*) FROM sync.run WHERE outcome = 'running'")[0][0] == 0


@pytest.mark.parametrize("number", range(1, BORDERS + 1))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_in_a_first_load(five: World, moment: str, number: int) -> None:
    """Killed at any border of a first load, the next run ends equal, with one `reload` and nothing else told."""
    die(five, moment, number)

    five.run()

    five.assert_equal(["Contact"])
    assert five.news(0) == [("reload", None)]


def test_killed_while_waiting_for_a_page(five_more: World) -> None:
    """While Salesforce is waited for no transaction is open; killed there, the next run resumes and ends equal."""
    hanging = five_more.sim.faults.add("hang", on="page", after=1, times=1)
    process = five_more.start("sync", "run")
    deadline = time.monotonic() + 20
    while not hanging.fired:
        assert time.monotonic() < deadline, "the process never asked for the page"
        time.sleep(0.05)
    time.sleep(0.2)
    open_transactions = five_more.sql(
        "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL "
        "AND pid <> pg_backend_pid()"
    )
    process.kill()
    process.communicate()
    five_more.expire_leases()
    five_more.sim.requests.clear()

    five_more.run()

    assert open_transactions == []
    five_more.assert_equal(["Contact"])
    asked = [request.soql or "" for request in five_more.sim.requests if request.kind == "query"]
    assert any("Id > '" in soql for soql in asked), "it did not resume"


def test_killed_run_is_told_in_the_journal(five_more: World) -> None:
    """A run that died is `abandoned` as soon as another takes the lease over."""
    die(five_more, "after", 4)
    assert five_more.sql("SELECT outcome FROM sync.run ORDER BY id DESC LIMIT 1")[0][0] == "running"

    five_more.run()

    outcomes = [row[0] for row in five_more.sql("SELECT outcome FROM sync.run ORDER BY id DESC LIMIT 2")]
    assert outcomes == ["succeeded", "abandoned"]


def test_resumed_window_is_followed_by_one_that_reaches_now(five_more: World) -> None:
    """A window taken up an hour later is complete as of then; the same run goes on to now."""
    die(five_more, "after", 4)
    five_more.sim.clock.advance(3600)

    five_more.run()

    reached = five_more.cursor("Contact")
    assert reached is not None
    assert (five_more.sim.clock.now() - reached).total_seconds() < 660
