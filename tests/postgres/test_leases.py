"""Two processes at once, and the order of the feed with several writers."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from sync.catalogue import transform
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import DescribedField, Projection, project
from sync.errors import FenceLostError, LeaseHeldError
from sync.postgres.load import merge
from sync.postgres.state import leases
from sync.postgres.tables import transaction
from sync.replication import pipeline
from sync.replication.runs import PageResult
from tests.support.world import World


def test_two_processes_at_once(loaded: World) -> None:
    """Two runs started together both succeed: one waits for the other, and every change is told once."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(50)])
    loaded.sim.options.page_sizes = 10
    loaded.sim.options.latency = 0.05

    both = [loaded.start("sync", "run"), loaded.start("sync", "run")]
    outputs = [process.communicate(timeout=60)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], outputs
    loaded.assert_equal()
    told = [record for op, record in loaded.news(loaded.seen) if op == "insert"]
    assert len(told) == len(set(told)) == 50


def test_newcomer_waits_in_vain(loaded: World) -> None:
    """Who may not wait any longer is told who is at work, and exits with 75."""
    with leases.lease(loaded.engine, "Contact", "worker.1/77/abc", timedelta(0), loaded.stop):
        done = loaded.process("run", "--wait", "0s")

    assert done.returncode == 75
    assert "worker.1/77/abc" in done.stderr
    assert "--wait" in done.stderr


def test_a_stale_owner_cannot_commit(loaded: World) -> None:
    """A process whose lease was taken over writes nothing more: not a row, not a feed entry, not the cursor."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(6)])
    loaded.sim.options.page_sizes = 2
    cursor = loaded.cursor("Contact")
    steps: list[PageResult] = []

    def overtaken(step: PageResult) -> None:
        steps.append(step)
        if len(steps) == 2:
            loaded.expire_leases()
            leases.acquire(loaded.engine, "Contact", "successor", timedelta(0), loaded.stop)

    with pytest.raises(FenceLostError):
        pipeline.sync_object(loaded.context(on_page=overtaken), "Contact")

    assert len(loaded.rows("Contact")) == 3 + 2
    assert len(loaded.news(loaded.seen)) == 2
    assert loaded.cursor("Contact") == cursor
    assert loaded.sql("SELECT owner FROM sync.lease WHERE object = 'Contact'")[0][0] == "successor"


def test_a_stale_owner_cannot_move_the_cursor(loaded: World) -> None:
    """Overtaken after its last page, a process must not declare the window complete."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    cursor = loaded.cursor("Contact")
    steps: list[PageResult] = []

    def overtaken(step: PageResult) -> None:
        steps.append(step)
        if len(steps) == 2:
            loaded.expire_leases()
            leases.acquire(loaded.engine, "Contact", "successor", timedelta(0), loaded.stop)

    loaded.sim.clock.advance(60)
    with pytest.raises(FenceLostError):
        pipeline.sync_object(loaded.context(on_page=overtaken), "Contact")

    assert loaded.cursor("Contact") == cursor


def test_a_newcomer_does_not_wait_in_a_transaction(loaded: World) -> None:
    """While the holder commits a long page, a newcomer sees the lease as held, at once."""
    held = leases.acquire(loaded.engine, "Contact", "slow", timedelta(0), loaded.stop)
    with transaction(loaded.engine) as connection:
        leases.check_fence(connection, held)
        started = time.monotonic()
        with pytest.raises(LeaseHeldError):
            leases.acquire(loaded.engine, "Contact", "next", timedelta(0), loaded.stop)

    assert time.monotonic() - started < 5


def test_a_newcomer_meets_one_that_takes_the_lease(loaded: World) -> None:
    """Its name is not there before it commits."""
    with transaction(loaded.engine) as connection:
        [seen] = leases.unused(connection, ["Contact"])
        leases.take_unused(connection, seen, "first")
        with pytest.raises(LeaseHeldError, match="another process holds the lease"):
            leases.acquire(loaded.engine, "Contact", "next", timedelta(0), loaded.stop)


def test_takeover_waits_for_a_commit_under_way(loaded: World) -> None:
    """A lease that has expired changes hands after a commit under way, not within it."""
    held = leases.acquire(loaded.engine, "Contact", "slow", timedelta(0), loaded.stop)
    loaded.expire_leases()
    taken = threading.Event()

    def take_over() -> None:
        leases.acquire(loaded.engine, "Contact", "next", timedelta(seconds=20), loaded.stop)
        taken.set()

    with transaction(loaded.engine) as connection:
        leases.check_fence(connection, held)
        thread = threading.Thread(target=take_over)
        thread.start()
        assert not taken.wait(1)
    loaded.expire_leases()
    thread.join(20)

    assert taken.is_set()


def projection(name: str) -> Projection:
    described = [DescribedField(f.name, f.kind.value[0], False) for f in CATALOGUE[name].fields]
    return project(CATALOGUE[name], described, "none")


def a_batch(name: str, number: int) -> transform.Batch:
    fitted = projection(name)
    record = {
        "Id": f"{CATALOGUE[name].prefix}00000000{number:04d}AAA",
        "IsDeleted": "false",
        "SystemModstamp": "2026-01-01T00:00:00.000+0000",
    }
    return transform.build(fitted, [[record.get(name, "") for name in fitted.names]], "US")


def test_numbers_are_given_in_the_order_of_commits(loaded: World) -> None:
    """A writer that began later but commits first never leaves a number behind it that a reader has passed."""
    started, second_done = threading.Event(), threading.Event()

    def second() -> None:
        with transaction(loaded.engine) as connection:
            started.set()
            merge.merge(connection, projection("Contact"), a_batch("Contact", 1), 2, announce=True)
        second_done.set()

    with transaction(loaded.engine) as first:
        merge.merge(first, projection("Account"), a_batch("Account", 1), 1, announce=True)
        thread = threading.Thread(target=second)
        thread.start()
        assert started.wait(5)
        assert not second_done.wait(0.5), "the second writer overtook the first"
        assert loaded.news(loaded.seen) == []
    thread.join(20)

    assert [(c.seq, c.object) for c in loaded.feed(loaded.seen)] == [
        (loaded.seen + 1, "Account"),
        (loaded.seen + 2, "Contact"),
    ]


def test_a_reader_beside_two_writers_misses_nothing(loaded: World) -> None:
    """Who remembers one number sees every entry once, while Account and Contact are written side by side."""
    loaded.org.create_many("Account", [{"Name": f"a{i}"} for i in range(120)])
    loaded.org.create_many("Contact", [{"LastName": f"c{i}"} for i in range(120)])
    loaded.sim.options.page_sizes = 5
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        after = loaded.seen
        while True:
            last_look = done.is_set()
            for change in loaded.feed(after):
                seen.append(change.seq)
                after = change.seq
            if last_look:
                return

    reader = threading.Thread(target=read)
    reader.start()
    loaded.run()
    done.set()
    reader.join(20)

    assert seen == list(range(loaded.seen + 1, loaded.seen + 241))


def test_one_notification_per_commit(loaded: World) -> None:
    """Listeners are woken once per committing transaction that changed something, with the newest number."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(6)])
    loaded.sim.options.page_sizes = 3
    raw = loaded.engine.raw_connection()
    listener = raw.driver_connection
    assert listener is not None
    with listener.cursor() as cursor:
        cursor.execute("LISTEN sync_change")
        listener.commit()

        loaded.run()
        loaded.run()

        cursor.execute("SELECT 1")
        listener.commit()
    told = [int(notice.payload) for notice in listener.notifies]
    raw.close()

    assert told == [loaded.seen + 3, loaded.seen + 6]


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
def test_another_isolation_level_by_default(loaded: World, level: str) -> None:
    """A database whose default is a stricter isolation level changes nothing for objects side by side."""
    name = loaded.engine.url.database
    loaded.sql(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{level}'")
    loaded.engine.dispose()
    loaded.org.update(loaded.acme, {"Name": "Acme Two"})
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.sql("SHOW transaction_isolation") == [("read committed",)]
    loaded.assert_equal()
