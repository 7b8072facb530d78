"""What is pruned, when, and that its space returns; what consumers are told of entries that are gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sync.operations import pruning
from sync.operations.pruning import Pruned
from sync.operations.status import read_status
from sync.postgres import tables
from sync.postgres.bookkeeping import SLOTS
from sync.postgres.pruning import BATCH, Size
from tests.support.consuming import GRANTS, Role, role
from tests.support.world import World

MONTH, QUARTER = timedelta(days=30), timedelta(days=90)
GB = 1 << 30


def prune(world: World, feed: timedelta = MONTH, runs: timedelta = QUARTER, **more: Any) -> list[Pruned]:
    return list(pruning.prune(world.engine, feed, runs, threading.Event(), **more))


def fill(world: World, entries: int, days: float) -> None:
    """So many entries, written so many days ago, in the partition that is being filled."""
    world.sql(
        """
        WITH counter AS (UPDATE sync.feed SET last_seq = last_seq + :n RETURNING last_seq - :n AS base, slot)
        INSERT INTO sync.change (slot, seq, object, record_id, op, at)
        SELECT slot, base + i, 'Contact', 'id', 'update', now() - make_interval(secs => :days * 86400)
          FROM counter, generate_series(1, :n) AS i
        """,
        n=entries,
        days=days,
    )


def turn(world: World) -> None:
    """The partition that is being filled has had its time."""
    world.sql("UPDATE sync.feed SET slot_since = now() - interval '6 days'")


def slot(world: World) -> int:
    return int(world.sql("SELECT slot FROM sync.feed")[0][0])


def kept(world: World) -> list[int]:
    return [row.seq for row in world.sql("SELECT seq FROM sync.change ORDER BY seq")]


# ── the ring ──────────────────────────────────────────────────────────────────────────────────────────


def test_old_entries_leave_and_their_space_returns(world: World) -> None:
    """Entries older than the retention are gone, younger ones stay, and the pages of the old ones are free."""
    fill(world, 20_000, days=40)
    turn(world)
    assert prune(world) == []  # the partition that is being filled is never emptied
    assert slot(world) == 1
    fill(world, 3, days=10)
    before = world.sql("SELECT pg_total_relation_size('sync.change_0')")[0][0]
    assert before > 1_000_000

    [found] = pruning.prunable(world.engine, MONTH, QUARTER)
    assert (found.through, found.bytes) == (20_000, before)
    [done] = prune(world)

    assert done == found
    assert kept(world) == [20_001, 20_002, 20_003]
    assert world.sql("SELECT pg_relation_size('sync.change_0')")[0][0] == 0
    assert prune(world) == []


def test_the_ring_goes_round(world: World) -> None:
    """Partitions are filled in turn and used again; one that still holds entries is not filled a second time."""
    seen = []
    for days in range(40, 0, -2):
        fill(world, 2, days)
        turn(world)
        prune(world)
        seen.append(slot(world))
        assert kept(world) == sorted(kept(world))
    assert set(seen) == set(range(SLOTS))
    assert len(world.sql("SELECT FROM sync.change WHERE at < now() - interval '36 days'")) == 0
    assert len(world.sql("SELECT FROM sync.change WHERE at > now() - interval '30 days'")) >= 28

    for _ in range(SLOTS + 3):  # nothing is old enough to go: the ring must not run into itself
        fill(world, 2, days=1)
        turn(world)
        prune(world)
    young = len(world.sql("SELECT FROM sync.change WHERE at > now() - interval '30 days'"))
    assert young >= 2 * (SLOTS + 3)
    ranges = world.sql(
        "SELECT slot, max(seq) - min(seq) + 1 - count(*) AS others FROM sync.change GROUP BY slot"
    )
    assert [row.others for row in ranges] == [0] * SLOTS  # no partition was filled a second time


def test_a_partition_goes_when_its_newest_entry_is_old(world: World) -> None:
    """A partition with one entry that is young enough is kept as a whole."""
    fill(world, 5, days=50)
    fill(world, 1, days=20)
    turn(world)

    assert prune(world) == []
    assert prune(world) == []

    assert kept(world) == [1, 2, 3, 4, 5, 6]
    assert slot(world) == 1


def test_a_quiet_feed_does_not_turn(world: World) -> None:
    """Without an entry there is nothing to turn away from."""
    turn(world)
    prune(world)

    assert slot(world) == 0


def test_a_pass_writes_where_the_ring_stands(loaded: World) -> None:
    """Entries of passes and of a first load lie in the partition that is being filled, in the order of commits."""
    turn(loaded)
    prune(loaded)
    assert slot(loaded) == 1
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.run()

    assert loaded.sql("SELECT slot FROM sync.change ORDER BY seq DESC LIMIT 1")[0][0] == 1
    assert [change.op for change in loaded.feed(loaded.seen)] == ["update"]


def test_a_reader_is_not_waited_for(world: World) -> None:
    """A partition that a reader has open is left for the next time, and what comes after it stays, too."""
    fill(world, 5, days=50)
    turn(world)
    prune(world)
    fill(world, 5, days=40)
    turn(world)
    prune(world, feed=timedelta(days=60))
    with world.engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM sync.change_0"))

        [waiting] = prune(world)

        assert waiting.waiting
        assert len(kept(world)) == 10
    assert [one.waiting for one in prune(world)] == [False, False]
    assert kept(world) == []


# ── the journal and the ledger ────────────────────────────────────────────────────────────────────────


def test_old_runs_leave(loaded: World) -> None:
    """Successful runs leave after their time, failed ones later; the newest of each kind stays for ever."""
    for outcome, days in (("succeeded", 100), ("succeeded", 80), ("failed", 100), ("failed", 400)):
        loaded.sql(
            "INSERT INTO sync.run (object, command, owner, started_at, outcome) "
            "SELECT 'Contact', 'run', 'x', now() - make_interval(days => :d), :o FROM generate_series(1, 3)",
            d=days,
            o=outcome,
        )
    loaded.sql("UPDATE sync.run SET started_at = now() - interval '1000 days' WHERE object = 'Account'")
    loaded.sql(
        "INSERT INTO sync.run (object, command, owner, started_at, outcome) "
        "SELECT 'Contact', 'run', 'x', now(), o FROM unnest(ARRAY['succeeded', 'failed']) AS o"
    )

    assert prune(loaded) == [Pruned("sync.run", 6)]

    left = loaded.sql(
        "SELECT outcome, (now()::date - started_at::date) AS days, count(*) FROM sync.run "
        "WHERE object = 'Contact' AND owner = 'x' GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert [tuple(row) for row in left] == [
        *(("failed", 0, 1), ("failed", 100, 3)),
        *(("succeeded", 0, 1), ("succeeded", 80, 3)),
    ]
    assert len(loaded.sql("SELECT FROM sync.run WHERE object = 'Account'")) == 1


def test_replaced_lines_of_the_ledger_leave(loaded: World) -> None:
    """The newest line of a field is its state and stays; what it replaced long ago goes."""
    loaded.org.hide_field("Contact", "Title")
    loaded.run()
    loaded.sql("UPDATE sync.field SET at = now() - interval '100 days'")
    lines = loaded.sql("SELECT count(*) FROM sync.field")[0][0]

    assert prune(loaded) == [Pruned("sync.field", 1)]

    assert loaded.sql("SELECT count(*) FROM sync.field")[0][0] == lines - 1
    assert (
        loaded.sql("SELECT change FROM sync.field WHERE object = 'Contact' AND field = 'Title'")[0][0]
        == "vanished"
    )


def test_closed_incidents_leave(world: World) -> None:
    """Incidents that are over long ago go; one that is open stays, however old it is."""
    for closed in ("NULL", "now() - interval '100 days'", "now() - interval '80 days'"):
        world.sql(
            "INSERT INTO sync.incident (kind, object, what, opened_at, closed_at) "
            f"VALUES ('stale', 'Contact', 'x', now() - interval '200 days', {closed})"
        )

    assert prune(world) == [Pruned("sync.incident", 1)]

    assert len(world.sql("SELECT FROM sync.incident")) == 2


def test_many_rows_go_in_batches(world: World) -> None:
    """No transaction deletes more than a batch, and a pruning ends when its time is over."""
    world.sql(
        "INSERT INTO sync.run (object, command, owner, started_at, outcome) "
        "SELECT 'Contact', 'run', 'x', now() - interval '100 days', 'succeeded' FROM generate_series(1, :n)",
        n=2 * BATCH + 11,
    )

    assert prune(world, seconds=0) == []
    assert prune(world) == [Pruned("sync.run", 2 * BATCH + 10)]


# ── a plan over its size ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def limited(world: World) -> Iterator[str]:
    """The URL of a role that may only read, delete and truncate, with one connection."""
    name = "over_its_size"
    world.sql(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
    for schema in ("sync", "salesforce", "crm"):
        world.sql(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        world.sql(f"GRANT SELECT, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {schema} TO {name}")
    yield name
    world.sql(f"DROP OWNED BY {name}")
    world.sql(f"DROP ROLE {name}")


def test_pruning_works_with_what_a_full_plan_leaves(world: World, limited: str) -> None:
    """One connection and the rights to read, delete and truncate are enough to give space back."""
    fill(world, 100, days=40)
    turn(world)
    prune(world)
    world.sql(
        "INSERT INTO sync.run (object, command, owner, started_at, outcome) "
        "SELECT 'Contact', 'run', 'x', now() - interval '100 days', 'succeeded' FROM generate_series(1, 3)"
    )
    engine = tables.engine(world.settings.postgres.set(username=limited), owner="full", size=1)
    try:
        done = list(pruning.prune(engine, MONTH, QUARTER, threading.Event()))
    finally:
        engine.dispose()

    assert [(one.what, one.rows, one.through) for one in done] == [
        ("sync.change", 0, 100),
        ("sync.run", 2, None),
    ]
    assert kept(world) == []


# ── the size ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("size", "limit", "left"),
    [
        (Size(GB // 2, 1e6), GB, (GB - GB // 2) / 1e6),
        (Size(GB // 2, None), GB, None),
        (Size(GB // 2, 1e6), None, None),
        (Size(GB // 2, -5.0), GB, None),
        (Size(2 * GB, 5.0), GB, 0),
        (Size(2 * GB, -5.0), GB, 0),
        (Size(2 * GB, None), GB, None),
    ],
)
def test_days_left(size: Size, limit: int | None, left: float | None) -> None:
    """How many days are left follows from the size, its growth and the limit, where all are known."""
    assert size.days_left(limit) == left


@pytest.mark.parametrize(
    ("daily", "urgent"), [(1, None), (25, False), (200, True)], ids=["far", "within a month", "within a week"]
)
def test_status_warns_before_the_limit(loaded: World, daily: int, urgent: bool | None) -> None:
    """A database that reaches its plan's size within a month is named, within a week in the first line."""
    with tables.transaction(loaded.engine) as connection:
        now = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        then = now - 10 * daily * 1024 * 1024
        insert = text("INSERT INTO sync.size SELECT (now() AT TIME ZONE 'UTC')::date - 10, :bytes")
        connection.execute(insert, {"bytes": then})
        limit = now + 500 * 1024 * 1024
        found = read_status(connection, ("Account", "Contact"), timedelta(hours=9), limit)

    assert found.size.daily == pytest.approx(daily * 1024 * 1024, abs=100_000)
    told = [line for line in found.warnings if "its limit of" in line]
    assert bool(told) is (urgent is not None)
    assert found.headline.startswith("WARNING: the database has" if urgent else "OK")


def test_the_size_is_noted_each_day(world: World) -> None:
    """Each pruning notes today's size; what is older than a year and a month goes."""
    world.sql("INSERT INTO sync.size SELECT current_date - 500, 1")
    prune(world)
    prune(world)

    assert [row.bytes > 1_000_000 for row in world.sql("SELECT bytes FROM sync.size")] == [True]


def test_the_command(world: World) -> None:
    """`prune --dry-run` says what would go, and `prune` removes it."""
    fill(world, 5, days=40)
    turn(world)
    assert world.command("prune").stdout == "nothing is older than it is kept\n"

    would = world.command("prune", "--dry-run").stdout
    done = world.command("prune", SYNC_FEED_RETENTION="30d").stdout

    assert would.startswith("sync.change: the feed through 5 (")
    assert would.endswith("would be removed\n")
    assert done == would.replace("would be removed", "removed")


# ── what consumers are told ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def consumer(world: World) -> Iterator[Role]:
    """A role that may do what is granted to consumers."""
    with role(world.engine) as new:
        yield new.granted(*GRANTS)


def test_a_consumer_that_fell_behind_is_told(world: World, consumer: Role) -> None:
    """A number below the oldest entry that is kept, or ahead of the last one, is an error, never silently nothing."""
    fill(world, 10, days=40)
    turn(world)
    prune(world)
    fill(world, 5, days=1)
    prune(world)

    for after in (0, 9, -1):
        message, hint = consumer.refusal(f"SELECT * FROM crm.changes({after})")
        assert message == f"crm.changes: entries after {after} are not kept any more"
        assert "crm.feed_position()" in hint
    message, hint = consumer.refusal("SELECT * FROM crm.changes(16)")
    assert message == "crm.changes: after is 16, and the last number of the feed is 15"
    assert "Read the views anew" in hint
    assert consumer.ask("SELECT seq FROM crm.changes(10)") == [(11,), (12,), (13,), (14,), (15,)]
    assert consumer.ask("SELECT seq FROM crm.changes(15)") == []


def test_a_snapshot_from_before_the_pruning_shows_no_gap(world: World, consumer: Role) -> None:
    """A transaction whose snapshot is older than a TRUNCATE sees the error, not a feed with a hole."""
    fill(world, 10, days=40)
    turn(world)
    prune(world)
    with world.engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
        reader.execute(text("SELECT * FROM sync.feed"))
        prune(world)

        with pytest.raises(DBAPIError, match="entries after 3 are not kept any more"):
            reader.execute(text("SELECT * FROM crm.changes(3)"))


def test_where_a_new_consumer_begins(loaded: World, consumer: Role) -> None:
    """The position has the epoch, which a restart keeps, and the last number: from there nothing is missed."""
    [(epoch, seq)] = consumer.ask("SELECT epoch, seq FROM crm.feed_position()")
    [(server, timeline)] = loaded.sql(
        "SELECT s.system_identifier::text, c.timeline_id::text FROM pg_control_system() AS s, pg_control_checkpoint() AS c"
    )
    assert epoch.split(".")[:2] == [server, timeline]
    assert seq == loaded.seen
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.run()

    assert consumer.ask(f"SELECT record_id FROM crm.changes({seq})") == [(loaded.ann,)]
