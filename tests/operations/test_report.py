"""What the database says of the replication, and the one line for three in the morning."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from sync.operations import status
from sync.operations.formats import format_duration, truncate
from sync.operations.status import Freshness, Status, headline
from tests.support.world import LONG_AGO, World

THROUGH = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)
BOTH = ("Account", "Contact")
HALF_AN_HOUR = timedelta(minutes=30)


def fresh(name: str = "Account", **changed: Any) -> Freshness:
    """An object that is well, unless changed."""
    well: dict[str, Any] = {
        "object": name,
        "complete_through": THROUGH,
        "lag": timedelta(minutes=12),
        "last_outcome": "succeeded",
        "last_finished_at": THROUGH,
        "last_error": None,
        "rows": 1200,
        "tombstones": 3,
        "rejects": 0,
    }
    return Freshness(**(well | changed))


@pytest.fixture
def engine(database: str) -> Engine:
    return create_engine(database, poolclass=NullPool)


def do(engine: Engine, statement: str, **parameters: object) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement), parameters)


def status_of(engine: Engine, objects: tuple[str, ...] = BOTH, max_lag: timedelta = HALF_AN_HOUR) -> Status:
    with engine.begin() as connection:
        return status.read_status(connection, objects, max_lag)


def freshness(engine: Engine) -> dict[str, Freshness]:
    with engine.begin() as connection:
        return {one.object: one for one in status.freshness(connection, BOTH)}


def complete(engine: Engine, name: str, ago: str) -> None:
    """Let an object be complete through a moment so long ago."""
    do(
        engine,
        "UPDATE sync.cursor SET complete_through = now() - CAST(:ago AS interval) WHERE object = :name",
        ago=ago,
        name=name,
    )


def finish(engine: Engine, name: str, outcome: str, error: str | None = None) -> None:
    """Write a journal line."""
    do(
        engine,
        "INSERT INTO sync.run (object, command, owner, outcome, finished_at, error) "
        "VALUES (:name, 'worker', 'worker.1/4/abc', :outcome, CASE WHEN :outcome <> 'running' THEN now() END, "
        ":error)",
        name=name,
        outcome=outcome,
        error=error,
    )


# ── the headline ──────────────────────────────────────────────────────────────────────────────────────


def test_ok() -> None:
    """When all is well, the line says up to when."""
    found = [fresh(), fresh("Contact", lag=timedelta(minutes=14, seconds=59))]

    assert headline(found, (), {}) == "OK: Account and Contact hold every change up to 14m ago"


@pytest.mark.parametrize("outcome", ["failed", "deferred", "stopped", "abandoned"])
def test_ok_although_the_last_run_was_not(outcome: str) -> None:
    """Still fresh enough, but the last run did not succeed: both are said, with the reason."""
    found = [fresh(), fresh("Contact", last_outcome=outcome, last_error="503\n  Service Not Available")]

    assert headline(found, (), {}) == (
        "OK: Account and Contact hold every change up to 12m ago; "
        f"the last run of Contact {outcome}: 503 Service Not Available"
    )


FAILING = (
    "Contact is recorded as complete through 2026-03-01 10:00:00 UTC, but Salesforce's clock says "
    "2026-02-28 10:00:00: one of the two is wrong, and changes may be missing; type: "
    "python -m sync resync --object Contact --full"
)


def test_a_long_reason_keeps_its_remedy() -> None:
    """A reason that is too long for the first line loses its middle, never the command at its end."""
    found = [fresh(), fresh("Contact", last_outcome="failed", last_error=FAILING)]

    line = headline(found, (), {})

    assert line.endswith("type: python -m sync resync --object Contact --full")
    assert (
        "the last run of Contact failed: Contact is recorded as complete through 2026-03-01 … one of the two is wrong"
        in line
    )
    assert len(truncate(FAILING)) <= 160


def test_what_fails_now_comes_first() -> None:
    """A run that fails is told before a field that vanished five days ago, and one that was stopped after it."""
    gone = "Contact.Title is not shown any more since 2026-01-26 02:30:00 UTC"
    fails = fresh("Contact", last_outcome="failed", last_error="503 Service Not Available")
    stopped = fresh("Contact", last_outcome="stopped", last_error="asked to stop")

    assert headline([fresh(), fails], (), {}, [gone]) == (
        "WARNING: the last run of Contact failed: 503 Service Not Available (and 1 more); "
        "consumers see every change up to 12m ago"
    )
    assert headline([fresh(), stopped], (), {}, [gone]) == (
        f"WARNING: {gone} (and 1 more); consumers see every change up to 12m ago"
    )


def test_stale_after_a_failure() -> None:
    """Stale says: which object, since when, why, what consumers see, what to type."""
    found = [
        fresh(),
        fresh(
            "Contact", lag=timedelta(hours=3, minutes=5), last_outcome="failed", last_error="login refused"
        ),
    ]

    assert headline(found, ("Contact",), {}) == (
        "STALE: Contact is complete through 2026-01-31 02:30:00 UTC, 3h 05m ago; the last run failed "
        "(login refused): consumers see the state of that time; type: python -m sync check"
    )


def test_stale_without_a_run() -> None:
    """Stale after a success means that nothing has run since: the worker is down."""
    found = [fresh(lag=timedelta(days=2, hours=4))]

    assert headline(found, ("Account",), {}) == (
        "STALE: Account is complete through 2026-01-31 02:30:00 UTC, 2d 4h ago; the last run succeeded, "
        "none since: consumers see the state of that time; type: python -m sync check"
    )


def test_stale_while_somebody_works() -> None:
    """While a process is at it there is nothing to type; the line says who."""
    found = [fresh(lag=timedelta(hours=1))]

    assert headline(found, ("Account",), {"Account": "worker.1/4/abc", "Contact": "run.7"}) == (
        "STALE: Account is complete through 2026-01-31 02:30:00 UTC, 1h 00m ago; the last run succeeded: "
        "consumers see the state of that time; worker.1/4/abc is working on it"
    )


def test_stale_without_a_journal() -> None:
    """A journal that was cleared is no reason to say "None" to a person."""
    found = [fresh(lag=timedelta(hours=1), last_outcome=None, last_finished_at=None)]

    line = headline(found, ("Account",), {})

    assert line.startswith("STALE: Account is complete through 2026-01-31 02:30:00 UTC, 1h 00m ago; ")
    assert "None" not in line


def test_not_loaded() -> None:
    """Before the first load the line says so, and how to start it."""
    found = [fresh(complete_through=None, lag=None, last_outcome=None, rows=0), fresh("Contact")]

    assert headline(found, ("Account",), {}) == (
        "NOT LOADED: Account has never been complete: consumers see 0 rows; type: python -m sync run"
    )


def test_not_loaded_after_a_failure() -> None:
    """A first load that failed says why, and how much of it consumers see."""
    found = [
        fresh(complete_through=None, lag=None, last_outcome="failed", last_error="no such column", rows=4000)
    ]

    assert headline(found, ("Account",), {}) == (
        "NOT LOADED: Account has never been complete, the last run failed (no such column): "
        "consumers see 4,000 rows; type: python -m sync run"
    )


def test_not_loaded_while_somebody_loads() -> None:
    """A first load under way is not started twice."""
    found = [fresh(complete_through=None, lag=None, last_outcome=None, rows=12_000)]

    assert headline(found, ("Account",), {"Account": "worker.1/4/abc"}) == (
        "NOT LOADED: Account has never been complete: consumers see 12,000 rows; worker.1/4/abc is working on it"
    )


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=-5), "0s"),
        (timedelta(milliseconds=900), "0s"),
        (timedelta(seconds=59), "59s"),
        (timedelta(seconds=60), "1m"),
        (timedelta(minutes=59, seconds=59), "59m"),
        (timedelta(hours=1), "1h 00m"),
        (timedelta(hours=3, minutes=5, seconds=59), "3h 05m"),
        (timedelta(hours=23, minutes=59), "23h 59m"),
        (timedelta(days=1), "1d 0h"),
        (timedelta(days=2, hours=4, minutes=59), "2d 4h"),
        (timedelta(days=400), "400d 0h"),
    ],
)
def test_spoken(span: timedelta, words: str) -> None:
    """A span is said in the two units that matter."""
    assert format_duration(span) == words


def test_short() -> None:
    """A reason is one line of at most 160 characters, and never nothing; its end stays, which says what to do."""
    assert truncate("a\n  b\tc") == "a b c"
    assert truncate("x" * 161) == "x" * 52 + " … " + "x" * 105
    assert truncate("x" * 160) == "x" * 160
    assert truncate(None) == truncate("") == "no reason given"


# ── what the database says ────────────────────────────────────────────────────────────────────────────


def test_before_the_first_load(engine: Engine) -> None:
    """A migrated, empty database is not loaded, and every object of the catalogue is there to say so."""
    found = status_of(engine)

    assert found.headline == (
        "NOT LOADED: Account has never been complete: consumers see 0 rows; type: python -m sync run"
    )
    assert found.stale == BOTH
    assert found.objects == tuple(Freshness(name, None, None, None, None, None, 0, 0, 0) for name in BOTH)
    assert (found.runs, found.working) == ((), {})


def test_after_a_first_load(world: World) -> None:
    """After a run, rows, lag and outcome are what the run made them; the lag is that of the last whole minute."""
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(3)], stamp=LONG_AGO)
    gone = world.org.create("Contact", {"LastName": "gone"}, stamp=LONG_AGO)
    world.org.delete(gone, stamp=LONG_AGO)
    world.run()

    found = status_of(world.engine)
    account, contact = found.objects

    assert re.fullmatch(r"OK: Account and Contact hold every change up to (\d+s|1m) ago", found.headline)
    assert found.stale == ()
    assert (contact.rows, contact.tombstones, contact.rejects) == (3, 1, 0)
    assert (account.rows, account.tombstones) == (0, 0)
    assert (contact.last_outcome, contact.last_error) == ("succeeded", None)
    assert contact.complete_through == world.cursor("Contact")
    assert contact.lag is not None
    assert timedelta() <= contact.lag < timedelta(minutes=2)
    assert contact.last_finished_at is not None
    assert abs(contact.last_finished_at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("ago", "allowed", "stale"),
    [
        ("29 minutes", HALF_AN_HOUR, ()),
        ("31 minutes", HALF_AN_HOUR, ("Contact",)),
        ("31 minutes", timedelta(hours=1), ()),
        ("3 days", timedelta(days=2), ("Contact",)),
    ],
)
def test_what_is_stale(engine: Engine, ago: str, allowed: timedelta, stale: tuple[str, ...]) -> None:
    """An object is stale when its lag exceeds what is allowed, and only then."""
    complete(engine, "Account", "1 minute")
    complete(engine, "Contact", ago)

    assert status_of(engine, max_lag=allowed).stale == stale


def test_lag_is_measured_by_the_database(engine: Engine) -> None:
    """The lag is the database's now minus complete_through, to the second."""
    complete(engine, "Account", "1 hour 5 minutes")

    lag = freshness(engine)["Account"].lag

    assert lag is not None
    assert timedelta(minutes=65) <= lag < timedelta(minutes=65, seconds=5)


def test_last_outcome_is_of_the_last_finished_run(engine: Engine) -> None:
    """The last outcome is the newest finished run's; one under way has none yet."""
    finish(engine, "Account", "failed", "first")
    finish(engine, "Account", "succeeded")
    finish(engine, "Account", "running")
    finish(engine, "Contact", "succeeded")
    finish(engine, "Contact", "deferred", "budget")

    found = freshness(engine)

    assert (found["Account"].last_outcome, found["Account"].last_error) == ("succeeded", None)
    assert (found["Contact"].last_outcome, found["Contact"].last_error) == ("deferred", "budget")


def test_who_is_working(engine: Engine) -> None:
    """Whoever holds a lease that has not run out is at work; released and expired leases are nobody's."""
    insert = (
        "INSERT INTO sync.lease (object, owner, fence, expires_at) "
        "VALUES (:name, :owner, 1, now() + CAST(:left AS interval))"
    )
    for name, owner, left in (
        ("Account", "worker.1/4/abc", "20 seconds"),
        ("Contact", "run.9/7/def", "-1 seconds"),
        ("Other", None, "20 seconds"),
    ):
        do(engine, insert, name=name, owner=owner, left=left)

    assert status_of(engine).working == {"Account": "worker.1/4/abc"}
    assert status_of(engine, ("Contact",)).working == {}
    assert "worker.1/4/abc is working on it" in status_of(engine).headline


def test_journal_is_newest_first(engine: Engine) -> None:
    """The last ten runs are shown, the newest first, of the objects asked for."""
    for number in range(12):
        finish(engine, "Account", "failed", f"reason {number}")
        finish(engine, "Contact", "succeeded")

    both, accounts = status_of(engine).runs, status_of(engine, ("Account",)).runs

    assert [run.object for run in both] == ["Contact", "Account"] * 5
    assert [run.error for run in accounts] == [f"reason {number}" for number in range(11, 1, -1)]
    assert [run.id for run in both] == sorted((run.id for run in both), reverse=True)


def test_journal_line_of_a_run(world: World) -> None:
    """A run's line has what the run did: window, counts, calls, and where the object is complete now."""
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(3)], stamp=LONG_AGO)
    world.run()
    with world.engine.begin() as connection:
        [run] = status.runs(connection, ("Contact",))

    assert (run.object, run.command, run.outcome, run.error) == ("Contact", "run", "succeeded", None)
    assert (run.read, run.inserted, run.updated, run.deleted, run.unchanged, run.rejected) == (
        3,
        3,
        0,
        0,
        0,
        0,
    )
    assert (run.since, run.nuls_removed) == (None, 0)
    assert run.until is not None
    assert run.complete_through == run.until.replace(second=0)
    assert run.finished_at is not None
    assert run.started_at <= run.finished_at


def test_journal_counts_what_salesforce_counts(world: World) -> None:
    """The API calls in the journal are those that count against the org's limit: logins do not."""
    world.run()

    calls = {run.object: run.api_calls for run in status_of(world.engine).runs}

    assert sum(calls.values()) == world.sim.api_calls
    assert calls == {"Account": 3, "Contact": 3}  # a describe, what getUpdated covers, and a page each


def test_rejects_are_counted_and_shown(engine: Engine) -> None:
    """Rejected records are counted per object and shown whole, as they came."""
    record = '{"Id": "003000000000002AAA", "Score__c": 1.10, "Note": "a\\u0000b"}'
    for name, id_ in (("Contact", "003000000000002AAA"), ("Contact", "003000000000001AAA"), ("Account", "x")):
        do(
            engine,
            "INSERT INTO sync.reject (object, record_id, reason, record, system_modstamp, run_id) "
            "VALUES (:name, :id, 'why', CAST(:record AS json), :stamp, 7)",
            name=name,
            id=id_,
            record=record,
            stamp=THROUGH,
        )

    assert {name: one.rejects for name, one in freshness(engine).items()} == {"Account": 1, "Contact": 2}
    with engine.begin() as connection:
        found = status.rejects(connection, ("Contact",))
    assert [one.record_id for one in found] == ["003000000000001AAA", "003000000000002AAA"]
    first = found[0]
    assert (first.object, first.reason, first.system_modstamp, first.run_id) == ("Contact", "why", THROUGH, 7)
    assert first.record == record
    assert json.loads(first.record)["Note"] == "a\0b"
    assert first.first_seen == first.last_seen


def test_status_of_one_object(engine: Engine) -> None:
    """What is not asked for does not spoil the line."""
    complete(engine, "Contact", "1 minute")
    finish(engine, "Contact", "succeeded")

    found = status_of(engine, ("Contact",))

    assert [one.object for one in found.objects] == ["Contact"]
    assert found.headline.startswith("OK: Contact hold")
    assert found.headline.endswith(" every change up to 1m ago")


def test_object_without_a_cursor_is_not_loaded(engine: Engine) -> None:
    """A cursor that was deleted, to have everything loaded again, must not read as OK."""
    complete(engine, "Account", "1 minute")
    finish(engine, "Account", "succeeded")
    do(engine, "DELETE FROM sync.cursor WHERE object = 'Contact'")

    found = status_of(engine)

    assert found.stale == ("Contact",)
    assert found.headline.startswith("NOT LOADED: Contact has never been complete")
