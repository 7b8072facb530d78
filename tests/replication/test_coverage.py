"""complete_through: never ahead of what Salesforce has committed, never behind for no reason, and awaited."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.pool import NullPool

from sync.errors import ObjectsFailedError, SyncError
from sync.postgres.state import cursors
from sync.replication import pipeline
from sync.replication.runs import PageResult
from sync.simulator import replication
from tests.support.soak import SOAK, covering
from tests.support.world import World

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
OVERLAP = timedelta(minutes=10)
BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)


def freeze(world: World, **later: float) -> datetime:
    """Stop Salesforce's clock half a minute past a whole one, so long after now; when that is."""
    at = world.sim.clock.now().replace(second=30, microsecond=0) + timedelta(**later)
    world.sim.clock.freeze(at)
    return at


def asked(world: World, kind: str, sobject: str = "Contact") -> list[str]:
    """The addresses of the calls of a kind."""
    return [call.path for call in world.sim.requests if call.kind == kind and call.sobject == sobject]


def reached(world: World, at: datetime, sobject: str = "Contact") -> bool:
    """Whether complete_through is this time, or as much earlier as a call may take."""
    found = world.cursor(sobject)
    return found is not None and at - timedelta(seconds=3) <= found <= at


# ── how far Salesforce covers ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("lag", "counted"),
    [
        (timedelta(), timedelta(seconds=30)),
        (9 * MINUTE, 9 * MINUTE),
        (11 * MINUTE, 11 * MINUTE),
        (3 * HOUR, 3 * HOUR),
        (DAY, DAY),
        (DAY + MINUTE, DAY),
        (7000 * DAY, DAY),
    ],
)
def test_the_lag_counts_up_to_a_day(
    loaded: World, lag: timedelta, counted: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    """complete_through is latestDateCovered, at most the whole minute asked for; of its lag a day counts, and more
    is logged."""
    now = freeze(loaded, days=3)
    loaded.sim.options.latest_date_covered_lag = lag.total_seconds()

    loaded.run()

    assert all(reached(loaded, now - counted, name) for name in ("Account", "Contact"))
    assert ("'event': 'coverage_lags'" in caplog.text) is (lag > DAY)


def test_freshness_says_what_the_claim_rests_on(world: World) -> None:
    """On nothing before the first load; on what Salesforce covers, or on the overlap where it does not tell or hangs."""

    def claim() -> str | None:
        [(found,)] = world.sql("SELECT claim FROM crm.freshness WHERE object = 'Contact'")
        return None if found is None else str(found)

    broken = world.sim.faults.add("server_unavailable", on="query", sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        world.run()
    assert claim() is None
    world.sim.faults.remove(broken)
    world.run()
    assert claim() == "covered"
    refused = world.sim.faults.add("not_found", on="updated", times=None)
    world.sim.clock.advance(3600)
    world.run()
    assert claim() == "overlap"
    world.sim.faults.remove(refused)
    world.sim.clock.advance(3600)
    world.run()
    assert claim() == "covered"
    world.sim.clock.advance(3 * 86400)
    world.sim.options.latest_date_covered_lag = 2 * 86400
    world.run()
    assert claim() == "overlap"


def test_clocks_of_two_servers_may_differ(loaded: World) -> None:
    """A server whose clock is some minutes behind the one that answered last moves nothing back, and fails nothing."""
    loaded.sim.clock.advance(3600)
    loaded.run()
    before = loaded.cursor("Contact")
    loaded.sim.clock.freeze(loaded.sim.clock.now() - 5 * MINUTE)
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.cursor("Contact") == before
    assert loaded.row(loaded.ann)["title"] == "Boss"


def test_first_load_is_covered_too(world: World) -> None:
    """What was open during a first load may commit behind its back as well."""
    now = freeze(world)
    world.sim.options.latest_date_covered_lag = 7200

    world.run()

    assert world.cursor("Contact") == now - 2 * HOUR


def test_without_overlap_the_covered_minute_is_the_border(loaded: World) -> None:
    """With an overlap of seconds the answer for the whole minute still holds complete_through back."""
    loaded.environment["SYNC_OVERLAP"] = "1s"
    now = freeze(loaded, hours=1)

    loaded.run()

    assert loaded.cursor("Contact") == now.replace(second=0)


def test_a_capped_lag_is_shown_in_status(loaded: World) -> None:
    """Who reads `status` learns that Salesforce's coverage is stuck."""
    loaded.sim.options.latest_date_covered_lag = 3 * 86400
    loaded.run()

    assert "covered" in loaded.command("status", "--max-lag", "9d").stdout.lower()


def test_never_backwards(loaded: World) -> None:
    """However the lag jumps, and whether it is told at all, complete_through only grows."""
    reached = [loaded.cursor("Contact")]
    for minutes, refused in [(0, 0), (120, 0), (1, 0), (3000, 0), (0, 1), (60, 0), (0, 0)]:
        loaded.sim.clock.advance(420)
        loaded.sim.options.latest_date_covered_lag = minutes * 60
        if refused:
            loaded.sim.faults.add("not_found", on="updated", sobject="Contact")
        loaded.run()
        reached.append(loaded.cursor("Contact"))

    assert reached == sorted(reached, key=lambda at: at or datetime.min.replace(tzinfo=UTC))
    assert len(set(reached)) >= 4


def moved(world: World, stamp: datetime) -> None:
    world.org.update(world.ann, {"Title": "late"}, stamp=stamp)


def created(world: World, stamp: datetime) -> None:
    world.org.create("Contact", {"LastName": "Late"}, stamp=stamp)


def deleted(world: World, stamp: datetime) -> None:
    world.org.delete(world.bob, stamp=stamp)


def merged(world: World, stamp: datetime) -> None:
    world.org.merge(world.ann, [world.cid], stamp=stamp)


def deleted_and_purged(world: World, stamp: datetime) -> None:
    world.org.delete(world.bob, stamp=stamp)
    world.org.purge(world.bob)


@pytest.mark.parametrize(
    ("lag", "change"),
    covering(
        list(product((40 * MINUTE, 23 * HOUR), (created, moved, deleted, merged, deleted_and_purged))),
        enumerate,
    ),
)
def test_late_commit_under_a_lag(
    loaded: World, lag: timedelta, change: Callable[[World, datetime], None]
) -> None:
    """What commits late while latestDateCovered lags had never been claimed, and the next pass finds it."""
    loaded.sim.clock.advance(2 * 86400)
    loaded.sim.options.latest_date_covered_lag = lag.total_seconds()
    loaded.run()
    stamp = loaded.sim.clock.now() - lag + MINUTE
    change(loaded, stamp)

    claimed = loaded.cursor("Contact")
    assert claimed is not None
    assert claimed <= stamp
    loaded.sim.clock.advance(360)
    loaded.sim.options.latest_date_covered_lag = 0
    loaded.run()

    live = {id_ for id_, row in loaded.rows("Contact").items() if row["deleted_at"] is None}
    assert live == set(loaded.org.ids("Contact", deleted=False))
    if change is not deleted_and_purged:
        loaded.assert_equal()


def test_late_purge_after_a_first_load_under_a_lag(world: World) -> None:
    """The same for a hard delete that was open during the first load."""
    ann = world.org.create("Contact", {"LastName": "Ann"}, stamp=world.sim.clock.now() - 3 * DAY)
    world.sim.options.latest_date_covered_lag = 3600
    world.run()
    deleted_at = world.sim.clock.now() - 30 * MINUTE
    world.org.delete(ann, stamp=deleted_at)
    world.org.purge(ann)
    world.sim.clock.advance(7200)

    world.run()

    claimed = world.cursor("Contact")
    assert claimed is not None
    assert claimed > deleted_at
    assert world.row(ann)["deleted_at"] == deleted_at.replace(microsecond=0)


@pytest.mark.parametrize("behind", [80, 45, 15])
def test_resumed_window_keeps_the_coverage_of_its_beginning(loaded: World, behind: int) -> None:
    """A window taken up again closes with what was covered when it was begun: what committed meanwhile, behind
    the pages already read or before them, is found all the same."""
    loaded.sim.clock.advance(86400)
    now = freeze(loaded)
    for minutes, id_ in ((90, loaded.ann), (60, loaded.bob), (30, loaded.cid)):
        loaded.org.update(id_, {"Title": "Boss"}, stamp=now - minutes * MINUTE)
    loaded.page_by(1)
    loaded.sim.options.latest_date_covered_lag = 7200
    before, reached = loaded.cursor("Contact"), set()

    def die(step: PageResult) -> None:
        if step.received == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        pipeline.sync_object(loaded.context(on_page=die), "Contact")
    loaded.sim.options.latest_date_covered_lag = 0
    late = loaded.org.create("Contact", {"LastName": "Late"}, stamp=now - behind * MINUTE)
    loaded.sim.clock.advance(300)
    pipeline.sync_object(loaded.context(on_page=lambda _: reached.add(loaded.cursor("Contact"))), "Contact")

    last = (now + 5 * MINUTE).replace(second=0)
    assert {before, now - 2 * HOUR} <= reached <= {before, now - 2 * HOUR, last}
    assert loaded.cursor("Contact") == last
    assert late in loaded.rows("Contact")
    loaded.assert_equal(["Contact"])


@BOTH
def test_one_call_over_one_minute(loaded: World) -> None:
    """Each object and pass asks getUpdated once, for one whole minute that has passed; others never do."""
    for _ in range(2):
        loaded.sim.requests.clear()
        loaded.org.update(loaded.ann, {"Title": f"{len(loaded.feed())}"})
        loaded.run()
        for name in ("Account", "Contact"):
            [path] = asked(loaded, "updated", name)
            given = parse_qs(urlsplit(path).query)
            start, end = (datetime.fromisoformat(given[which][0]) for which in ("start", "end"))
            assert (end - start, end.second) == (MINUTE, 0)
            assert timedelta() <= loaded.sim.clock.now() - end < 2 * MINUTE

    loaded.sim.requests.clear()
    pipeline.verify_object(loaded.context("verify"), "Contact", repair=True)
    pipeline.resync_ids(loaded.context("resync"), "Contact", [loaded.ann])
    assert asked(loaded, "updated") == []


# ── where Salesforce does not tell ────────────────────────────────────────────────────────────────────

REFUSALS = [
    *("not_found", "insufficient_access", "functionality_not_enabled", "gone", "exceeded_id_limit"),
    *("invalid_replication_date", "invalid_field", "concurrent_limit", "transaction_security"),
    *("too_many_requests", "not_acceptable", "uri_too_long", "unknown_exception", "server_error_html"),
    *("bad_gateway_html", "server_unavailable", "gateway_timeout_html", "html_ok", "truncated", "reset"),
]
# One of each kind: refused, not possible, passing, unreadable, cut off.
SOME_REFUSALS = ["not_found", "functionality_not_enabled", "invalid_replication_date", "server_unavailable"]
SOME_REFUSALS += ["concurrent_limit", "html_ok", "truncated"]


@pytest.mark.parametrize("fault", REFUSALS if SOAK else SOME_REFUSALS)
def test_without_coverage_the_overlap_must_do(
    loaded: World, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever getUpdated fails with, at most two calls are spent on it and the pass goes on without."""
    now = freeze(loaded, hours=1)
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add(fault, on="updated", times=None)
    loaded.sim.requests.clear()

    loaded.run()

    assert reached(loaded, now - OVERLAP)
    assert "'event': 'coverage_unknown'" in caplog.text
    alone = [call for call in loaded.sim.requests if (call.kind, call.inside) == ("updated", False)]
    assert len([call for call in alone if call.sobject == "Contact"]) <= 2
    loaded.assert_equal()


FAR_ZONE = pytest.param(
    "0001-01-01T00:00:00.000+14:00",
)


@pytest.mark.parametrize(
    "covered",
    [
        *(None, "", "yesterday", 1_700_000_000, [], "2024-03-01T12:00:00", "2999-01-01T00:00:00.000Z"),
        FAR_ZONE,
    ],
)
def test_absurd_coverage_is_none(loaded: World, monkeypatch: pytest.MonkeyPatch, covered: Any) -> None:
    """A latestDateCovered that cannot be read, or lies in the future, is as good as none."""
    now = freeze(loaded, hours=1)
    monkeypatch.setattr(replication, "updated", lambda *_: {"ids": [], "latestDateCovered": covered})

    loaded.run()

    assert reached(loaded, now - OVERLAP)


@pytest.mark.parametrize("fault", ["session_expired", "request_limit"])
def test_what_is_no_answer_on_coverage(loaded: World, fault: str) -> None:
    """An expired session is renewed and asked again; the org's daily limit defers the pass, cursor unmoved."""
    now = freeze(loaded, hours=1)
    before = loaded.cursor("Contact")
    loaded.sim.options.latest_date_covered_lag = 1800
    loaded.sim.faults.add(fault, on="updated", sobject="Contact")

    if fault == "session_expired":
        loaded.run()
        assert loaded.cursor("Contact") == now - 30 * MINUTE
    else:
        with pytest.raises(ObjectsFailedError) as failed:
            loaded.run()
        assert (failed.value.code, loaded.cursor("Contact")) == (4, before)


SPANS = st.timedeltas(timedelta(), 60 * DAY)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 — Hypothesis adds the zone


@given(MOMENTS, SPANS, st.none() | MOMENTS, st.none() | MOMENTS)
def test_reach(
    until: datetime, overlap: timedelta, covered: datetime | None, deleted: datetime | None
) -> None:
    """Never beyond what is covered, or into the overlap where that is not told, nor beyond known deletions; of
    any lag a day counts."""
    reached = cursors.claimable(until, overlap, covered, deleted)
    lowest = until - max(DAY, overlap)

    assert lowest <= reached <= until
    assert covered is not None or reached <= until - overlap
    assert all(reached <= max(known, lowest) for known in (covered, deleted) if known is not None)
    assert reached in (lowest, until, covered, deleted, *([until - overlap] if covered is None else []))
    ladder = [cursors.claimable(until, overlap, until - hours * HOUR, None) for hours in range(30)]
    assert all(after <= before for before, after in pairwise(ladder))


# ── crm.wait_until ────────────────────────────────────────────────────────────────────────────────────

WAIT = "SELECT crm.wait_until(:at, CAST(:timeout AS interval), CAST(:objects AS text[]))"


def wait(world: World, at: datetime | None, timeout: str = "0s", objects: list[str] | None = None) -> bool:
    return bool(world.sql(WAIT, at=at, timeout=timeout, objects=objects)[0][0])


def test_wait_ends_when_it_is_reached_or_too_long(loaded: World) -> None:
    """True at once for what is reached, to the moment; false after the timeout and not much later."""
    reached = min(at for name in ("Account", "Contact") if (at := loaded.cursor(name)))
    assert wait(loaded, reached, "0s") is True
    started = time.monotonic()
    assert wait(loaded, reached + HOUR, "-1s") is False
    assert wait(loaded, reached + HOUR, "700ms") is False
    assert 0.65 < time.monotonic() - started < 1.7


def test_wait_until_a_run_brings_it(loaded: World) -> None:
    """A consumer that waits is let go by a pass in another connection, and then reads what it waited for."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    wanted = loaded.sim.clock.now()
    loaded.sim.clock.advance(3600)
    passing = threading.Timer(0.4, loaded.run)
    passing.start()
    try:
        assert wait(loaded, wanted, "60s") is True
        title = loaded.sql("SELECT title FROM crm.contact WHERE id = :id", id=loaded.ann)
    finally:
        passing.join()

    assert title[0][0] == "Boss"


def test_wait_for_named_objects(loaded: World) -> None:
    """Only the objects named have to be there; one that is not replicated is an error where it is named."""
    loaded.sim.clock.advance(3600)
    loaded.environment["SYNC_OBJECTS"] = "Contact"
    loaded.run()
    wanted = loaded.cursor("Contact")

    assert wait(loaded, wanted, objects=["Contact"]) is True
    assert wait(loaded, wanted) is True
    assert wait(loaded, wanted, objects=[]) is False
    for objects in (["Account"], ["Account", "Contact"], ["Lead"]):
        with pytest.raises(SyncError, match="is not replicated"):
            wait(loaded, wanted, objects=objects)


def test_wait_for_an_object_named_twice(loaded: World) -> None:
    """Naming an object twice is naming it."""
    assert wait(loaded, loaded.cursor("Contact"), objects=["Contact", "Contact"]) is True


def test_wait_for_an_object_that_failed_its_first_load(world: World) -> None:
    """All objects are complete only when each of them has been loaded."""
    world.org.hide_object("Contact")
    with pytest.raises(ObjectsFailedError):
        world.run()

    assert wait(world, world.cursor("Account")) is False


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_wait_refuses_a_snapshot(loaded: World, isolation: str) -> None:
    """Where later commits cannot be seen the wait is refused at once, with what to do instead."""
    with create_engine(loaded.engine.url, poolclass=NullPool).connect() as consumer:
        consumer.execute(text(f"SET TRANSACTION ISOLATION LEVEL {isolation}"))
        with pytest.raises(DBAPIError, match=f"(?s)that is {isolation}.*HINT:  Call it in READ COMMITTED"):
            consumer.execute(text("SELECT crm.wait_until(now() + interval '1 day')"))


def test_wait_needs_no_rights_but_on_crm(loaded: World) -> None:
    """A role that may only use schema crm can wait, and still cannot read the bookkeeping."""
    role = f"waiter_{loaded.database.rsplit('/', 1)[-1].split('?')[0]}"
    loaded.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'reader'")
    loaded.sql(f"GRANT USAGE ON SCHEMA crm TO {role}")
    loaded.sql(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA crm TO {role}")
    url = make_url(loaded.database).set(username=role, password="reader", drivername="postgresql+psycopg2")
    with create_engine(url, poolclass=NullPool).connect() as consumer:
        assert consumer.execute(text("SELECT crm.wait_until('2024-01-01')")).scalar() is True
        with pytest.raises(ProgrammingError, match="permission denied"):
            consumer.execute(text("SELECT * FROM sync.cursor"))
    loaded.sql(f"DROP OWNED BY {role}")
    loaded.sql(f"DROP ROLE {role}")
