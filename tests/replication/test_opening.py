"""The beginning of a pass: one call for all objects, and what happens where it does not serve."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from sync.errors import ObjectsFailedError
from sync.postgres.state import leases
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication import apply, opening, pipeline
from sync.replication.opening import Opening
from sync.replication.runs import SyncContext, Taken
from sync.salesforce.learned import Learned
from sync.simulator import Field, Request
from tests.support.world import World

MINUTE = timedelta(minutes=1)


@pytest.fixture
def steady(loaded: World) -> tuple[World, SyncContext]:
    """Both objects loaded, by a worker that has described them and found nothing to do."""
    loaded.sim.clock.freeze(loaded.sim.clock.now().replace(second=30) + MINUTE)
    context = loaded.context("worker")
    pipeline.sync_all(context)
    pipeline.sync_all(context)
    loaded.sim.requests.clear()
    return loaded, context


def counted(world: World) -> list[str]:
    """The kinds of the API calls made since the log was cleared."""
    return [call.kind for call in world.sim.requests if call.counted]


def inside(world: World) -> list[Request]:
    return [call for call in world.sim.requests if call.inside]


def journal(world: World, name: str = "Contact") -> list[tuple[Any, ...]]:
    """The object's entries of the journal: outcome, passes, API calls, shared calls."""
    statement = "SELECT outcome, passes, api_calls, shared_calls FROM sync.run WHERE object = :o ORDER BY id"
    return [tuple(row) for row in world.sql(statement, o=name)]


# ── a quiet pass ──────────────────────────────────────────────────────────────────────────────────────


def test_a_quiet_pass_is_one_call(steady: tuple[World, SyncContext]) -> None:
    """Where nothing has changed, one call serves all objects: coverage first, then deletions, then records."""
    world, context = steady
    before = [world.cursor(name) for name in ("Account", "Contact")]
    world.sim.clock.advance(60)
    step_clock(context, world)

    reports = pipeline.sync_all(context)

    assert counted(world) == ["composite"]
    assert [(call.kind, call.sobject) for call in inside(world)] == [
        (kind, name) for kind in ("updated", "deleted", "query") for name in ("Account", "Contact")
    ]
    assert [(report.object, report.api_calls) for report in reports] == [("Account", 1), ("Contact", 0)]
    after = [world.cursor(name) for name in ("Account", "Contact")]
    assert all(b and a and a - b == MINUTE for a, b in zip(after, before, strict=True))


def step_clock(context: SyncContext, world: World) -> None:
    """Let the session's estimate of Salesforce's time follow the org's clock, which tests advance in leaps."""
    context.session._connection._last = None
    context.session.describe("Account")
    world.sim.requests.clear()


def test_quiet_passes_share_an_entry(steady: tuple[World, SyncContext]) -> None:
    """The journal counts them in one entry, each call once, and the lease is free after each."""
    world, context = steady
    before, contact = journal(world, "Account"), journal(world)
    for _ in range(3):
        pipeline.sync_all(context)

    assert len(journal(world, "Account")) == len(before)
    assert len(journal(world)) == len(contact)
    assert [b - a for a, b in zip(before[-1][1:], journal(world, "Account")[-1][1:], strict=True)] == [
        3,
        3,
        3,
    ]
    assert [b - a for a, b in zip(contact[-1][1:], journal(world)[-1][1:], strict=True)] == [3, 0, 3]
    assert len(counted(world)) == 3
    assert world.sql("SELECT count(*) FROM sync.lease WHERE owner IS NOT NULL") == [(0,)]


def test_an_entry_stands_for_an_hour(steady: tuple[World, SyncContext]) -> None:
    """Then the next pass begins another: the calls of the last 24 hours stay countable."""
    world, context = steady
    before = len(journal(world))
    world.sql("UPDATE sync.run SET started_at = started_at - interval '61 minutes'")

    pipeline.sync_all(context)
    pipeline.sync_all(context)

    assert len(journal(world)) == before + 1
    assert journal(world)[-1][:2] == ("succeeded", 2)


def test_another_process_begins_another_entry(steady: tuple[World, SyncContext]) -> None:
    """An operator's `run` between two passes has an entry of its own, and the worker goes on in a new one."""
    world, context = steady
    before = len(journal(world))

    world.run()
    pipeline.sync_all(context)
    pipeline.sync_all(context)

    assert len(journal(world)) == before + 2


def test_the_sum_of_the_journal_is_the_usage(loaded: World) -> None:
    """Each API call is counted in one entry: shared calls, describes, pages, retries."""
    context = loaded.context("worker")

    def counts() -> tuple[int, int]:
        made = [call for call in loaded.sim.requests if call.kind != "token" and not call.inside]
        return len(made), sum(row[2] for name in ("Account", "Contact") for row in journal(loaded, name))

    before = counts()
    loaded.sim.faults.add("server_unavailable", on="composite")
    loaded.sim.faults.add("server_unavailable", on="query", sobject="Contact")
    loaded.page_by(1)
    for number in range(6):
        loaded.org.update([loaded.ann, loaded.acme][number % 2], {"Phone": f"030 {number}"})
        pipeline.sync_all(context)

    made, noted = (after - earlier for after, earlier in zip(counts(), before, strict=True))
    assert made == noted > 8


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_told_is_used(steady: tuple[World, SyncContext]) -> None:
    """A changed object uses the call's answers as its own: no further call, and the other object stays quiet."""
    world, context = steady
    world.org.update(world.ann, {"Title": "Boss"})

    reports = pipeline.sync_all(context)

    assert counted(world) == ["composite"]
    assert world.row(world.ann)["title"] == "Boss"
    assert [(report.object, report.tally.updated) for report in reports] == [("Account", 0), ("Contact", 1)]
    world.assert_equal()


def test_further_pages_are_followed(steady: tuple[World, SyncContext]) -> None:
    """A first page inside the call goes on by its locator."""
    world, context = steady
    world.page_by(2)
    for id_ in (world.ann, world.bob, world.cid):
        world.org.update(id_, {"Title": "Boss"})

    pipeline.sync_all(context)

    assert counted(world) == ["composite", "page"]
    world.assert_equal()


def test_a_purged_record_is_found(steady: tuple[World, SyncContext]) -> None:
    """The delete log inside the call names it; one query by Id proves it."""
    world, context = steady
    world.org.delete(world.bob)
    world.org.purge(world.bob)
    world.sim.clock.advance(120)
    step_clock(context, world)

    pipeline.sync_all(context)

    assert counted(world) == ["composite", "query"]
    assert world.row(world.bob)["deleted_at"] is not None
    assert world.sql("SELECT since IS NOT NULL FROM sync.run ORDER BY id DESC LIMIT 1") == [(True,)]
    world.sim.clock.advance(60)
    step_clock(context, world)
    pipeline.sync_all(context)
    assert counted(world) == ["composite"], "what the log repeats is known"


def test_a_look_up_makes_no_entry(steady: tuple[World, SyncContext]) -> None:
    """A record of the delete log that lives again is looked up by Id, and the pass is a quiet one all the same."""
    world, context = steady
    world.org.delete(world.bob)
    world.org.undelete(world.bob)
    for _ in range(2):
        world.sim.clock.advance(60)
        step_clock(context, world)
        pipeline.sync_all(context)
    entries = len(journal(world))

    for _ in range(2):
        world.sim.clock.advance(60)
        step_clock(context, world)
        pipeline.sync_all(context)

    assert "query" in counted(world), "it is in the log, and looked up each time"
    assert len(journal(world)) == entries
    world.assert_equal()


def test_an_edit_in_the_overlap_writes_once(steady: tuple[World, SyncContext]) -> None:
    """The overlap is read again with each call; rows that are equal are not written, and make no entry."""
    world, context = steady
    world.org.update(world.ann, {"Title": "Boss"})
    pipeline.sync_all(context)
    feed, entries = len(world.feed()), len(journal(world))

    for _ in range(3):
        pipeline.sync_all(context)

    assert len(world.feed()) == feed
    assert len(journal(world)) == entries + 1
    assert journal(world)[-1][1] == 3


def test_a_new_field_is_seen_within_ten_minutes(
    steady: tuple[World, SyncContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The describe is asked once in ten minutes, one object at a time; a change of fields takes the object's own
    pass."""
    world, context = steady
    world.org.add_field("Contact", Field("Late__c", "string"))
    pipeline.sync_all(context)
    assert counted(world) == ["composite"]

    monkeypatch.setattr(opening, "DESCRIBE_SECONDS", 0.0)
    for _ in range(2):
        world.sim.requests.clear()
        pipeline.sync_all(context)
        assert counted(world)[:2] == ["describe", "composite"]
        assert len([kind for kind in counted(world) if kind == "describe"]) <= 2

    assert world.sql("SELECT change FROM sync.field WHERE field = 'Late__c'") == [("added",)]


# ── who stays out ─────────────────────────────────────────────────────────────────────────────────────


def test_first_loads_stay_out(world: World) -> None:
    """An object that is not loaded is read by its own pass."""
    world.run()

    assert "composite" not in counted(world)


def test_a_held_lease_stays_out(steady: tuple[World, SyncContext]) -> None:
    """What another process works on is not asked for; the others are not held up."""
    world, context = steady
    world.sql(
        "UPDATE sync.lease SET owner = 'other', expires_at = clock_timestamp() + interval '1 minute'"
        " WHERE object = 'Contact'"
    )

    begun = opening.begin(context, ("Account", "Contact"))

    assert [report.object for report in begun.reports] == ["Account"]
    assert dict(begun.openings) == {}
    assert {call.sobject for call in inside(world)} == {"Account"}


def test_a_lease_that_expired_stays_out(steady: tuple[World, SyncContext]) -> None:
    """What a process left that has died, or is late, is taken over by the object's own pass."""
    world, context = steady
    world.sql("UPDATE sync.lease SET owner = 'dead', expires_at = clock_timestamp() WHERE object = 'Contact'")

    pipeline.sync_all(context)

    assert {call.sobject for call in inside(world)} == {"Account"}
    assert world.sql("SELECT count(*) FROM sync.lease WHERE owner IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("holds", [True, False])
def test_work_of_others_during_the_call_writes_nothing(
    steady: tuple[World, SyncContext], holds: bool
) -> None:
    """A process that was overtaken while it waited for Salesforce moves no cursor and writes no journal, whether the
    other one still works or has ended."""
    world, context = steady
    world.sim.clock.advance(120)
    step_clock(context, world)
    before, entries = world.cursor("Contact"), journal(world)
    world.sim.before_subrequest(lambda _: steal(world, "Contact", holds=holds))

    begun = opening.begin(context, ("Account", "Contact"))

    assert [report.object for report in begun.reports] == ["Account"]
    assert dict(begun.openings) == {}
    assert (world.cursor("Contact"), journal(world)) == (before, entries)
    assert world.sql("SELECT owner FROM sync.lease WHERE object = 'Contact'") == [
        ("other" if holds else None,)
    ]


def test_what_others_did_meanwhile_is_not_overlooked(steady: tuple[World, SyncContext]) -> None:
    """An object that another process has worked on during the call forgets what was told, and asks by itself."""
    world, context = steady
    world.org.update(world.ann, {"Title": "Boss"})
    world.sim.before_subrequest(lambda _: steal(world, "Contact", holds=False))

    begun = opening.begin(context, ("Account", "Contact"))

    assert dict(begun.openings) == {}
    pipeline.sync_all(context)
    world.assert_equal()


def test_another_org_accepted_during_the_call(steady: tuple[World, SyncContext]) -> None:
    """What was asked of the org before is not written into the tables of the next one."""
    world, context = steady
    entries = len(journal(world))

    def accept(_: Request) -> None:
        with transaction(world.engine) as connection:
            operator = replace(context, accept_org=True, owner="operator")
            apply.check_org(connection, operator, "00D000000000009AAA")

    world.sim.before_subrequest(accept)

    begun = opening.begin(context, ("Account", "Contact"))

    assert (begun.reports, dict(begun.openings)) == ((), {"Account": Opening(Taken(None, 1, 1))})
    assert len(journal(world)) == entries
    assert world.sql("SELECT count(*) FROM sync.cursor") == [(0,)]


def test_a_locked_table_holds_up_no_other_object(
    steady: tuple[World, SyncContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a lock on one table for too long is left to each object's own pass."""
    world, context = steady
    monkeypatch.setattr(opening, "LOCK_TIMEOUT", text("SET LOCAL lock_timeout = '100ms'"))
    blocker = world.engine.raw_connection()
    blocker.cursor().execute("LOCK TABLE salesforce.contact IN ACCESS EXCLUSIVE MODE")

    begun = opening.begin(context, ("Account", "Contact"))
    blocker.rollback()
    blocker.close()

    assert begun.reports == ()
    for name in ("Account", "Contact"):
        pipeline.sync_object(context, name, begun.openings.get(name))
    world.assert_equal()


def test_describes_are_counted_without_a_call(loaded: World) -> None:
    """What was described before the usage stops the call is in the journal of the object's own run."""
    loaded.sim.options.limit_max, loaded.sim.options.limit_used = 1000, 900
    begun = opening.begin(loaded.context(), ("Account", "Contact"))

    assert {name: (each.taken.held, each.taken.calls) for name, each in begun.openings.items()} == {
        "Account": (None, 1),
        "Contact": (None, 1),
    }


def steal(world: World, name: str, *, holds: bool) -> None:
    """What another process does that takes a lease, and keeps it or releases it at the end of its work."""
    world.sql(
        "UPDATE sync.lease SET owner = CASE WHEN :holds THEN 'other' END, fence = fence + 1"
        " WHERE object = :o AND owner IS NULL",
        o=name,
        holds=holds,
    )


def test_a_stop_during_the_call_leaves_no_lease(steady: tuple[World, SyncContext]) -> None:
    """Asked to stop while Salesforce is waited for, the leases are free at once."""
    world, context = steady
    world.org.update(world.ann, {"Title": "Boss"})
    world.sim.before_subrequest(lambda _: context.stop.set())

    begun = opening.begin(context, ("Account", "Contact"))

    assert dict(begun.openings) == {}
    assert world.sql("SELECT count(*) FROM sync.lease WHERE owner IS NOT NULL") == [(0,)]


def test_a_stop_after_leases_are_taken_leaves_none(
    steady: tuple[World, SyncContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop in the last moment, what has been taken is released: no thread runs any more that would do it."""
    world, context = steady
    world.org.update(world.ann, {"Title": "Boss"})
    take = leases.take_unused

    def take_and_stop(*given: Any) -> Lease | None:
        context.stop.set()
        return take(*given)

    monkeypatch.setattr(leases, "take_unused", take_and_stop)

    begun = opening.begin(context, ("Account", "Contact"))

    assert ([report.object for report in begun.reports], dict(begun.openings)) == (["Account"], {})
    assert world.sql("SELECT count(*) FROM sync.lease WHERE owner IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("code", ["NOT_FOUND", "API_DISABLED_FOR_ORG"])
def test_a_refused_call(
    steady: tuple[World, SyncContext], code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Composite is refused, each object goes by itself, and the call is tried again an hour later."""
    world, context = steady
    world.sim.options.composite, world.sim.options.composite_refusal = False, code
    world.org.update(world.ann, {"Title": "Boss"})

    pipeline.sync_all(context)
    assert counted(world)[0] == "composite"
    assert caplog.text.count("'event': 'composite_failed'") == 1
    world.sim.requests.clear()
    pipeline.sync_all(context)

    assert "composite" not in counted(world)
    assert not any(context.session.learned(name).shared for name in ("Account", "Contact"))
    world.assert_equal()


PASSING = ["server_unavailable", "bad_gateway_html", "reset", "truncated", "html_ok", "too_many_requests"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_call_that_fails(steady: tuple[World, SyncContext], fault: str) -> None:
    """Whatever the call fails with, the pass goes on without it."""
    world, context = steady
    world.sim.faults.add(fault, on="composite", times=2)
    world.org.update(world.ann, {"Title": "Boss"})

    pipeline.sync_all(context)

    world.assert_equal()
    assert counted(world).count("composite") <= 2
    assert world.sql("SELECT count(*) FROM sync.lease WHERE owner IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("kind", ["updated", "deleted", "query"])
@pytest.mark.parametrize("fault", ["server_unavailable", "not_found", "session_expired", "query_timeout"])
def test_a_subrequest_that_fails(steady: tuple[World, SyncContext], kind: str, fault: str) -> None:
    """What one answer lacks is asked alone, or is as good as the same answer to a call of its own; the other
    object is not held up."""
    world, context = steady
    world.sim.faults.add(fault, on=kind, sobject="Contact")
    world.org.update(world.bob, {"Title": "Boss"})
    world.sim.clock.advance(120)
    step_clock(context, world)

    with suppress(ObjectsFailedError) if (kind, fault) == ("query", "not_found") else nullcontext():
        pipeline.sync_all(context)

    assert [call.kind for call in inside(world) if call.fault] == [kind]
    last = "SELECT outcome FROM sync.run WHERE object = :o ORDER BY id DESC LIMIT 1"
    assert world.sql(last, o="Account") == [("succeeded",)]
    pipeline.sync_all(context)
    world.assert_equal()


def test_a_slow_query_stays_out_for_an_hour(
    steady: tuple[World, SyncContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object whose query timed out inside the call is asked alone; the others go on together."""
    world, context = steady
    world.sim.faults.add("query_timeout", on="query", sobject="Contact")
    pipeline.sync_all(context)
    world.sim.requests.clear()

    pipeline.sync_all(context)
    assert {call.sobject for call in inside(world)} == {"Account"}

    monkeypatch.setattr(Learned, "shared", True)
    world.sim.requests.clear()
    pipeline.sync_all(context)
    assert {call.sobject for call in inside(world)} == {"Account", "Contact"}


def test_a_refused_field_is_described_at_once(steady: tuple[World, SyncContext]) -> None:
    """A query inside the call that says INVALID_FIELD leads to a describe and another query."""
    world, context = steady
    world.org.hide_field("Contact", "Title")
    world.org.update(world.ann, {"LastName": "Other"})

    pipeline.sync_all(context)

    assert "describe" in counted(world)
    assert world.row(world.ann)["last_name"] == "Other"


def test_the_order_of_the_answers_matters(loaded: World) -> None:
    """What commits between the coverage and the records is not claimed before it is read."""
    context = loaded.context("worker")
    pipeline.sync_all(context)
    loaded.sim.clock.advance(3600)
    loaded.sim.options.latest_date_covered_lag = 1800
    stamp = loaded.sim.clock.now() - 20 * MINUTE
    step_clock(context, loaded)
    pipeline.sync_all(context)
    loaded.org.update(loaded.ann, {"Title": "late"}, stamp=stamp)
    claimed = loaded.cursor("Contact")
    assert claimed is not None
    assert claimed <= stamp
    pipeline.sync_all(context)

    assert loaded.row(loaded.ann)["title"] == "late"


def test_more_than_five_objects_take_several_calls(
    steady: tuple[World, SyncContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call holds at most five queries; what is left takes another, counted for its own first object."""
    world, context = steady
    monkeypatch.setattr(opening, "MOST_QUERIES", 1)
    before = {name: journal(world, name)[-1] for name in ("Account", "Contact")}

    pipeline.sync_all(context)

    assert counted(world) == ["composite", "composite"]
    for name in ("Account", "Contact"):
        assert journal(world, name)[-1][2] - before[name][2] == 1


# ── the claim ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("lag", [0, 300, 7200])
def test_the_claim_follows_the_coverage(steady: tuple[World, SyncContext], lag: int) -> None:
    """A quiet pass claims what Salesforce covers, no more, and never less than before."""
    world, context = steady
    before = world.cursor("Contact")
    world.sim.clock.advance(3600)
    world.sim.options.latest_date_covered_lag = lag
    step_clock(context, world)
    now = world.sim.clock.now()

    pipeline.sync_all(context)

    claimed = world.cursor("Contact")
    assert counted(world) == ["composite"]
    assert claimed is not None
    assert before is not None
    assert claimed == max(before, claimed)
    assert now - timedelta(seconds=max(lag, 62)) - MINUTE <= max(claimed, now - timedelta(hours=3)) <= now
    if lag:
        assert claimed <= now - timedelta(seconds=lag) or claimed == before


def test_an_interval_of_coverage(steady: tuple[World, SyncContext]) -> None:
    """With SYNC_COVERAGE_INTERVAL the replication calls are left out meanwhile, and the claim waits for them."""
    world, _ = steady
    world.environment["SYNC_COVERAGE_INTERVAL"] = "5m"
    context = world.context("worker")
    claims: list[datetime | None] = []
    kinds: list[Sequence[str]] = []
    for _ in range(7):
        world.sim.clock.advance(60)
        step_clock(context, world)
        pipeline.sync_all(context)
        claims.append(world.cursor("Contact"))
        kinds.append(sorted({call.kind for call in inside(world)}))

    assert kinds.count(["query"]) >= 4
    assert 1 <= kinds.count(["deleted", "query", "updated"]) <= 3
    assert len(set(claims)) <= 3
