"""The unattended process: real signals, a database that goes away, a Salesforce that goes away."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest
from sqlalchemy.engine import make_url

from sync.operations import worker
from tests.support.asking import ask, wait
from tests.support.consuming import GRANTS, role
from tests.support.processes import Process
from tests.support.receiver import receiver
from tests.support.soak import SOAK
from tests.support.world import World


@contextmanager
def working(world: World, **environment: str) -> Iterator[Process]:
    """A worker with a pass each second, unless told otherwise; killed in the end if the test has not ended it."""
    process = world.start("sync", "worker", **{"SYNC_INTERVAL": "1s", **environment})
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)


def succeeded(world: World, more_than: int = 0) -> bool:
    done = world.sql("SELECT count(*) FROM sync.run WHERE command = 'worker' AND outcome = 'succeeded'")
    return int(done[0][0]) > more_than


def ended(process: Process, within: float = 10) -> tuple[int, str]:
    started = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - started < within, f"it took longer than {within} s to end"
    return process.wait(), output


def test_first_pass_at_once_then_each_interval(loaded: World) -> None:
    """A worker works at once, not after an interval, and goes on."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    with working(loaded):
        wait_for(lambda: loaded.row(loaded.ann)["title"] == "Boss")
        loaded.org.update(loaded.ann, {"Title": "Chief"})
        wait_for(lambda: loaded.row(loaded.ann)["title"] == "Chief")


def test_a_request_is_answered_at_once(loaded: World) -> None:
    """A worker between two passes reads a record that a consumer asks for, and the consumer waits seconds for it."""
    with role(loaded.engine) as orders, working(loaded, SYNC_INTERVAL="1h"):
        orders.granted(*GRANTS)
        wait_for(lambda: succeeded(loaded, 1))
        wait_for(lambda: loaded.sql("SELECT FROM sync.requestable"))
        for title in ("Boss", "Chief"):
            loaded.org.update(loaded.ann, {"Title": title})
            began = time.monotonic()
            number = ask(orders, loaded.ann)
            assert wait(orders, loaded.ann, number, "30s") is True
            took = time.monotonic() - began
            seen = orders.ask("SELECT title FROM crm.contact WHERE id = :ann", ann=loaded.ann)
            assert seen == [(title,)]
    assert took < 5, "a second to look, and a moment to read; the rest is for a slow machine"


def test_a_worker_killed_before_it_answers(loaded: World) -> None:
    """Killed between the reading and the answer, it leaves the request to the next worker."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    blocker = loaded.engine.raw_connection()
    with role(loaded.engine) as orders:
        orders.granted(*GRANTS)
        with working(loaded, SYNC_INTERVAL="1h") as process:
            wait_for(lambda: succeeded(loaded, 1))
            wait_for(lambda: loaded.sql("SELECT FROM sync.requestable"))
            loaded.org.update(loaded.ann, {"Title": "Chief"})
            number = ask(orders, loaded.ann)
            blocker.cursor().execute("SELECT FROM sync.request FOR UPDATE")
            wait_for(lambda: loaded.row(loaded.ann)["title"] == "Chief")
            process.kill()
            process.wait()
        blocker.rollback()
        blocker.close()
        assert wait(orders, loaded.ann, number) is False
        loaded.expire_leases()
        with working(loaded, SYNC_INTERVAL="1h"):
            assert wait(orders, loaded.ann, number, "30s") is True

    assert loaded.sql("SELECT FROM sync.request") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(loaded: World, number: signal.Signals) -> None:
    """Asked to stop, the worker ends by itself with 0 and leaves no lease behind."""
    with working(loaded) as process:
        wait_for(lambda: succeeded(loaded, 1))
        process.send_signal(number)
        code, output = ended(process)

    assert code == 0, output
    assert "event=worker_stopped" in output
    assert loaded.sql("SELECT object FROM sync.lease WHERE owner IS NOT NULL") == []


def test_a_second_signal_changes_nothing(loaded: World) -> None:
    """SIGTERM may come several times; it is the same request."""
    with working(loaded) as process:
        wait_for(lambda: succeeded(loaded, 1))
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        code, output = ended(process)

    assert code == 0, output


def reads_its_write(world: World, wanted: datetime, seconds: float) -> bool:
    """Whether a consumer that waits for this time is let go within so long, and then reads what was written."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if world.sql("SELECT crm.wait_until(:at, '10 seconds')", at=wanted)[0][0]:
            title = world.sql("SELECT title FROM crm.customer WHERE contact_id = :id", id=world.ann)
            return bool(title == [("Boss",)])
    return False


def test_a_consumer_waits_for_its_own_write(loaded: World) -> None:
    """Once the minute of a commit is over in Salesforce, the next passes claim it, and the row is there."""
    loaded.sim.clock.advance(60)
    with working(loaded):
        wait_for(lambda: succeeded(loaded, 1))
        loaded.org.update(loaded.ann, {"Title": "Boss"})
        wanted = loaded.sim.clock.now()
        loaded.sim.clock.advance(60)
        assert reads_its_write(loaded, wanted, 20)


@pytest.mark.skipif(not SOAK, reason="takes minutes: make soak")
def test_a_consumer_waits_at_most_three_minutes(loaded: World) -> None:
    """With default settings and 0.3 s a call, `crm.wait_until` of the time of a commit is true within three minutes."""
    loaded.sim.options.latency = 0.3
    process = loaded.start("sync", "worker")
    try:
        wait_for(lambda: succeeded(loaded, 1))
        time.sleep(20)
        loaded.org.update(loaded.ann, {"Title": "Boss"})
        assert reads_its_write(loaded, loaded.sim.clock.now(), 180)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("together", [True, False])
def test_a_stop_does_not_wait_for_a_page(loaded: World, together: bool) -> None:
    """Salesforce may take minutes for a page, a dyno has seconds: the worker leaves it, and the journal says so of
    a run that had begun."""
    loaded.sim.options.composite = together
    hanging = loaded.sim.faults.add("hang", on="query", times=None)
    with working(loaded) as process:
        wait_for(lambda: hanging.fired)
        process.send_signal(signal.SIGTERM)
        code, output = ended(process)

    assert code == 0, output
    outcomes = {row[0] for row in loaded.sql("SELECT outcome FROM sync.run WHERE command = 'worker'")}
    assert outcomes == (set() if together else {"stopped"})
    assert loaded.sql("SELECT object FROM sync.lease WHERE owner IS NOT NULL") == []
    loaded.sim.faults.clear()
    loaded.run()
    loaded.assert_equal()


def test_a_stop_between_pages_keeps_what_is_committed(loaded: World) -> None:
    """A stop in the middle of a pass takes effect at the next page border; the next run resumes there."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(60)])
    loaded.sim.options.page_sizes = 1
    loaded.sim.options.latency = (
        0.2  # the pages that are left take ten seconds: a slow machine stops it in time
    )
    with working(loaded) as process:
        wait_for(lambda: len(loaded.rows("Contact")) > 5)
        process.send_signal(signal.SIGTERM)
        code, output = ended(process)
    stored = len(loaded.rows("Contact"))
    assert code == 0, output
    assert stored < 63

    loaded.sim.options.latency = 0
    loaded.sim.options.page_sizes = 20
    loaded.run()

    loaded.assert_equal()
    told = [record for op, record in loaded.news(loaded.seen) if op == "insert"]
    assert len(told) == len(set(told)) == 60


# Seconds to end in: two, or as many as the product has.
ENDS = [2.0, worker.SHUTDOWN_SECONDS] if SOAK else [2.0]


@pytest.mark.parametrize("seconds", ENDS)
def test_a_merge_under_way_is_finished_or_cut_off(loaded: World, seconds: float) -> None:
    """A worker stuck in the database past the shutdown time ends itself with 1 before Heroku would kill it."""
    assert worker.SHUTDOWN_SECONDS < 29
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    blocker = loaded.engine.raw_connection()
    blocker.cursor().execute("LOCK TABLE salesforce.contact IN ACCESS EXCLUSIVE MODE")
    process = loaded.start("tests.support.hurried", str(seconds), "worker", SYNC_INTERVAL="1s")
    try:
        blocked = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        wait_for(lambda: loaded.sql(blocked))
        process.send_signal(signal.SIGTERM)
        code, output = ended(process, within=seconds + 4)
    finally:
        process.kill()
        process.communicate()
    blocker.rollback()
    blocker.close()

    assert code == 1, output
    assert "event=shutdown_forced" in output


def test_the_database_goes_away_and_comes_back(loaded: World) -> None:
    """The worker outlives a database that refuses connections, and works again once it is back."""
    name = loaded.sql("SELECT current_database()")[0][0]
    with loaded.elsewhere() as admin, working(loaded) as process:
        wait_for(lambda: succeeded(loaded))
        loaded.engine.dispose()
        admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        time.sleep(3)
        assert process.poll() is None, "the worker gave up"
        admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        loaded.org.update(loaded.ann, {"Title": "Boss"})
        wait_for(lambda: loaded.row(loaded.ann)["title"] == "Boss")


def test_the_database_turns_read_only_and_back(loaded: World) -> None:
    """A read-only database (failover, maintenance) is waited out."""
    name = loaded.sql("SELECT current_database()")[0][0]
    with loaded.elsewhere() as admin, working(loaded) as process:
        wait_for(lambda: succeeded(loaded))
        loaded.engine.dispose()
        admin(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        time.sleep(3)
        assert process.poll() is None, "the worker gave up"
        admin(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        loaded.org.update(loaded.ann, {"Title": "Boss"})
        wait_for(lambda: loaded.row(loaded.ann)["title"] == "Boss")


def test_salesforce_goes_away_and_comes_back(loaded: World) -> None:
    """The worker outlives a Salesforce that resets every connection."""
    away = loaded.sim.faults.add("reset", on="any", times=None)
    with working(loaded) as process:
        wait_for(lambda: away.fired > 3)
        assert process.poll() is None, "the worker gave up"
        loaded.sim.faults.clear()
        loaded.org.update(loaded.ann, {"Title": "Boss"})
        wait_for(lambda: loaded.row(loaded.ann)["title"] == "Boss", seconds=40)


def test_a_refused_login_does_not_end_the_worker(loaded: World) -> None:
    """A login refused (secret rotated) is one attempt for all objects, and every journal line names the remedy."""
    refused = loaded.sim.faults.add("token_wrong_secret", on="token", times=None)
    with working(loaded) as process:
        wait_for(lambda: loaded.sql("SELECT FROM sync.run WHERE outcome = 'failed' OFFSET 1"))
        assert process.poll() is None, "the worker gave up"

    errors = [row[0] for row in loaded.sql("SELECT error FROM sync.run WHERE outcome = 'failed'")]
    assert refused.fired == 1
    assert all("SALESFORCE_CLIENT_SECRET" in error for error in errors)
    # The call for all objects made the one attempt: each object's own pass names it, and the next one.
    assert len(errors) == 2
    assert all("login refused since" in error and "next attempt at" in error for error in errors)


@pytest.mark.parametrize("mistake", ["another org", "no tables", "no database"])
def test_a_mistake_does_not_end_the_worker(loaded: World, mistake: str) -> None:
    """What no restart corrects leaves the worker alive, waiting for minutes; asked to stop, it ends with 0."""
    given: dict[str, str] = {}
    if mistake == "another org":
        loaded.sql("UPDATE sync.org SET organization_id = '00D000000000001'")
        expected = "run --accept-org"
    elif mistake == "no tables":
        given["DATABASE_URL"] = str(make_url(loaded.database).set(database="postgres"))
        expected = "alembic upgrade head"
    else:
        given["DATABASE_URL"] = "postgres://sync@localhost:1/customers"
        expected = "not available"
    with working(loaded, **given) as process:
        assert process.stdout is not None
        read: list[str] = []
        while sum("event=object_failed" in line for line in read) < 2:
            read.append(process.stdout.readline())
            assert read[-1], read
        assert process.poll() is None, "the worker gave up"
        process.send_signal(signal.SIGTERM)
        code, _ = ended(process)

    assert code == 0
    failed = [line for line in read if "event=object_failed" in line]
    assert all(expected in line for line in failed), failed
    assert {"retry_s=60" in line for line in failed} == {mistake != "no database"}


def test_somebody_is_told(loaded: World) -> None:
    """A worker that cannot log in sends one message, without a secret, and tells `status`."""
    loaded.sim.faults.add("token_wrong_secret", on="token", times=None)
    with receiver() as there:
        url = f"{there.url}/a-token-of-the-receiver-1"
        with working(loaded, SYNC_ALERT_URLS=url) as process:
            wait_for(lambda: there.messages)
            wait_for(lambda: loaded.sql("SELECT FROM sync.incident WHERE told = 'open'"))
            process.send_signal(signal.SIGTERM)
            code, output = ended(process)

    assert code == 0, output
    assert "event=incident_opened kind=login" in output
    assert "a-token" not in output
    [message] = there.messages
    assert message["title"].endswith(": login")
    assert "type: python -m sync check" in message["message"]
    loaded.assert_no_secret(str(message))
    assert "incident: OPEN login since " in loaded.command("status").stdout


def test_wrong_settings_end_the_worker_at_once(loaded: World) -> None:
    """Settings that no waiting mends end the worker with 3."""
    with working(loaded, SALESFORCE_CLIENT_SECRET="") as process:
        code, output = ended(process)

    assert code == 3
    assert "SALESFORCE_CLIENT_SECRET" in output


def test_one_canonical_line_per_run_in_every_format(loaded: World) -> None:
    """Each object's run ends in one line with its outcome and counts, in logfmt and in JSON."""
    loaded.sim.clock.advance(120)  # there is another minute to ask the delete log for
    logfmt = loaded.command("run").stderr
    as_json = loaded.command("run", LOG_FORMAT="json").stderr

    lines = [line for line in logfmt.splitlines() if "event=object_synced" in line]
    assert sorted(line.split("object=")[1].split()[0] for line in lines) == ["Account", "Contact"]
    # A describe each, and one call for the page and what getUpdated and getDeleted tell, of both.
    assert all("outcome=succeeded" in line for line in lines)
    assert sorted(line.split(" api_calls=")[1][0] for line in lines) == ["1", "2"]
    for line in lines:
        assert re.search(
            r" source=(Account|Contact) measure#sync.duration=\d+ms count#sync.rows_read=0 ", line
        )
    events = [json.loads(line) for line in as_json.splitlines()]
    assert sorted(e["object"] for e in events if e["event"] == "object_synced") == ["Account", "Contact"]
