"""Real processes, killed with SIGKILL at every transaction border and while they wait: the next run ends equal."""

from __future__ import annotations

import re
import signal
import time

import pytest

from tests.support import processes
from tests.support.databases import Databases
from tests.support.soak import SOAK
from tests.support.world import LONG_AGO, World

# which are steady · which leases are free · leases · (a first load: lease, later org) · journal opened · versions of derived columns ·
# what may stay (and its note) · plan · three pages ·
# marks · (deletions: which are live, through when) · cursor · (statistics) · (loaded?) what is to be read again · what is to be
# refreshed · journal closed · lease released · dependants, of this object and of all; by Bulk also the job's name, and
# each page's end.
BORDERS = {("rest", "pass"): 21, ("rest", "first load"): 21, ("bulk", "pass"): 25, ("bulk", "first load"): 25}
# Which third of the borders is tried where not all are; those of a pass by REST are. BEGUN is among them.
THIRDS = {("bulk", "pass"): 2, ("rest", "first load"): 0, ("bulk", "first load"): 2}
# The first after the plan: by REST a page is committed, by Bulk the job has its name.
BEGUN = 8


# Asking the plan of API calls before the work begins is one more transaction, which only reads.
RUN = ("run", "--ignore-budget")


def each_border(kind: str) -> pytest.MarkDecorator:
    """A test for every transaction border of a pass or a first load, by both ways.

    Right after a commit is the same as right before the next one, but for what was asked of Salesforce between.
    Before each border of a pass by REST, and before every third one of the others, of each of them another third;
    `make soak` tries all, and after the borders of that pass, too.
    """
    borders = [
        (way, moment, number)
        for (way, what), last in BORDERS.items()
        for moment in ("before", "after")
        for number in range(1, last + 1)
        if what == kind
        and (moment == "before" or number == last or (SOAK and (way, what) == ("rest", "pass")))
        and (SOAK or number == last or THIRDS.get((way, what), number % 3) == number % 3)
    ]
    return pytest.mark.parametrize(("transport", "moment", "number"), borders, indirect=["transport"])


BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)


@pytest.fixture
def five(world: World) -> World:
    """Five contacts in three pages; only Contact is replicated, so that borders have numbers."""
    world.environment["SYNC_OBJECTS"] = "Contact"
    world.page_by(2)
    world.org.create_many("Contact", [{"LastName": f"old{i}"} for i in range(5)], stamp=LONG_AGO)
    return world


@pytest.fixture
def five_more(five: World, databases: Databases) -> World:
    """Five more of them after the first load."""
    databases.load(f"five by {five.transport}", five.run)
    five.seen = five.last_seq()
    five.org.create_many("Contact", [{"LastName": f"new{i}"} for i in range(5)])
    five.sim.clock.advance(60)  # what changes in the second of the query is read stepwise
    return five


def die(world: World, moment: str, number: int, begun: int = BEGUN) -> None:
    done = processes.run(["tests.support.victim", moment, str(number), *RUN], world.process_environment())
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    world.expire_leases()
    if (world.transport, moment, number) == ("bulk", "before", begun):
        # The one moment when a job has no name in the database: Salesforce deletes it in seven days.
        [job] = world.org.jobs.all()
        world.org.jobs.remove(job)


@BOTH
def test_the_borders_are_all_there(five: World) -> None:
    """A run of three pages has as many transactions as the tests below kill at."""
    counted = {}
    for kind in ("first load", "pass"):
        done = processes.run(["tests.support.victim", "count", "0", *RUN], five.process_environment())
        [counted[kind]] = map(int, re.findall(r"commits=(\d+)", done.stdout))
        five.org.create_many("Contact", [{"LastName": f"new{i}"} for i in range(5)])
        five.sim.clock.advance(60)
    assert counted == {kind: BORDERS[five.transport, kind] for kind in counted}


@each_border("pass")
def test_killed_in_a_pass(five_more: World, moment: str, number: int) -> None:
    """Killed at any border of a pass, the next one ends equal, with every change told exactly once."""
    die(five_more, moment, number)

    five_more.run()

    five_more.assert_equal(["Contact"])
    told = [record for op, record in five_more.news(five_more.seen) if op == "insert"]
    assert len(told) == len(set(told)) == 5
    assert five_more.sql("SELECT count(*) FROM sync.run WHERE outcome = 'running'")[0][0] == 0


@each_border("first load")
def test_killed_in_a_first_load(five: World, moment: str, number: int) -> None:
    """Killed at any border of a first load, the next run ends equal, with one `reload` and nothing else told."""
    die(five, moment, number, BEGUN + 1)  # it also notes which fields may be stored, and the org by itself

    five.run()

    five.assert_equal(["Contact"])
    assert five.news(0) == [("reload", None)]


@pytest.mark.parametrize(
    ("transport", "place", "after"),
    [
        *(("rest", "updated", 0), ("rest", "page", 1), ("rest", "deleted", 0)),
        *(("bulk", "results", 2), ("bulk", "job", 0), ("bulk", "job_create", 0)),
    ],
    indirect=["transport"],
)
def test_killed_while_waiting_for_salesforce(five_more: World, place: str, after: int) -> None:
    """While Salesforce is waited for no transaction is open; killed there, the next run resumes and ends equal."""
    if five_more.transport == "rest":  # what is settled is read page by page of one query
        five_more.environment["SYNC_OVERLAP"] = "10s"
    five_more.sim.options.composite = (
        place != "deleted"
    )  # in the call for all objects it is asked before the records
    hanging = five_more.sim.faults.add("hang", on=place, after=after, times=1)
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
    if five_more.transport == "rest" and place != "updated":  # before it nothing is read
        asked = [request.soql or "" for request in five_more.sim.requests if request.kind == "query"]
        assert any("Id > '" in soql for soql in asked), "it did not resume"
    elif place in ("results", "job"):
        # The second window, up to now, has a job of its own.
        assert sum(request.kind == "job_create" for request in five_more.sim.requests) == 1


@BOTH
def test_killed_run_is_told_in_the_journal(five_more: World) -> None:
    """A run that died is `abandoned` as soon as another takes the lease over."""
    die(five_more, "after", BEGUN)
    assert five_more.sql("SELECT outcome FROM sync.run ORDER BY id DESC LIMIT 1")[0][0] == "running"

    five_more.run()

    outcomes = [row[0] for row in five_more.sql("SELECT outcome FROM sync.run ORDER BY id DESC LIMIT 2")]
    assert outcomes == ["succeeded", "abandoned"]


@BOTH
def test_resumed_window_is_followed_by_one_that_reaches_now(five_more: World) -> None:
    """A window taken up an hour later is complete as of then; the same run goes on to now."""
    die(five_more, "after", BEGUN)
    five_more.sim.clock.advance(3600)

    five_more.run()

    reached = five_more.cursor("Contact")
    assert reached is not None
    assert (five_more.sim.clock.now() - reached).total_seconds() < 660
