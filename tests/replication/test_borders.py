"""Borders in time and number: how early a lease is renewed, how far back a verify lists, what the guard lets go."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, text

from sync.catalogue import transform
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import DescribedField, project
from sync.errors import GuardError, LeaseHeldError
from sync.postgres.load import first, merge
from sync.postgres.state import leases
from sync.postgres.tables import transaction
from sync.replication import apply, pipeline
from sync.replication.runs import PageResult
from sync.replication.verify import comparison
from sync.salesforce.session import session
from sync.simulator import Field
from tests.support.moving import BOTH, Killed, custom, silently
from tests.support.world import LONG_AGO, World

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
OVERLAP = timedelta(minutes=10)
VALID = "SELECT expires_at > clock_timestamp() FROM sync.lease WHERE owner = 'holder'"

# ── leases ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lease_never_expires_while_its_holder_lives(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two renewals in a row may fail before a lease expires, and one that is held is valid at every moment."""
    relation = leases.RENEW_SECONDS / leases.LEASE_SECONDS
    assert relation < 1 / 3
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 1.5 * relation)

    valid: list[bool] = []
    ends = time.monotonic() + 1.8
    with leases.lease(loaded.engine, "Contact", "holder", timedelta(0), loaded.stop):
        while time.monotonic() < ends:
            valid += [row[0] for row in loaded.sql(VALID)]
            time.sleep(0.02)
        with pytest.raises(LeaseHeldError):
            leases.acquire(loaded.engine, "Contact", "other", timedelta(0), loaded.stop)

    assert set(valid) == {True}
    assert leases.acquire(loaded.engine, "Contact", "other", timedelta(0), loaded.stop).fence > 1


def test_a_transaction_longer_than_the_lease_keeps_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the indexes of a first load are made nothing renews the lease: a process that waits does not get it
    right after the commit, and the load goes on to its end."""
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.2)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.4)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.02)
    world.page_by(1)
    world.org.create_many("Contact", [{"LastName": name} for name in ("Ann", "Bob")], stamp=LONG_AGO)

    def die(step: PageResult) -> None:
        if step.received == 1:
            raise Killed

    with pytest.raises(Killed):
        pipeline.sync_object(world.context(on_page=die), "Contact")
    world.expire_leases()
    making, began, taken = first.end_first_load, threading.Event(), []

    def slowly(connection: Connection, name: str, run_id: int) -> None:
        began.set()
        connection.execute(text("SELECT pg_sleep(1.4)"))
        making(connection, name, run_id)

    def wait() -> None:
        began.wait(10)
        taken.append(leases.acquire(world.engine, "Contact", "newcomer", timedelta(seconds=20), world.stop))

    monkeypatch.setattr(first, "end_first_load", slowly)
    newcomer = threading.Thread(target=wait)
    newcomer.start()
    world.sim.options.latency = 0.05  # what comes after the commit takes its time

    pipeline.sync_object(world.context(), "Contact")  # the rest of that window, and one up to now

    newcomer.join(20)
    assert len(taken) == 1
    world.assert_equal(["Contact"])


# ── how far back a verify lists ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("before", [HOUR, 23 * HOUR])
def test_a_verify_lists_what_changed_in_the_day_before_the_last(
    loaded: World, monkeypatch: pytest.MonkeyPatch, before: timedelta
) -> None:
    """A version that committed late within the day before the last verify is found, though it is neither the
    first nor the last of its day and no bucket shows it."""
    monkeypatch.setattr(comparison, "SMALL", 0)
    border = (loaded.sim.clock.now() + 5 * DAY).replace(hour=12, minute=30, second=0, microsecond=0)
    at = border - before
    for id_, moment in ((loaded.ann, -2), (loaded.bob, -1), (loaded.cid, 2)):
        loaded.org.update(id_, {"Title": "known"}, stamp=at + moment * MINUTE)
    loaded.sim.clock.freeze(border)
    loaded.run()
    pipeline.verify_object(loaded.context("verify"), "Contact", repair=True)
    [(through,)] = loaded.sql("SELECT verified_through FROM sync.cursor WHERE object = 'Contact'")
    assert border - timedelta(seconds=3) <= through <= border
    loaded.org.update(loaded.bob, {"Title": "late"}, stamp=at)
    loaded.sim.clock.advance(2 * 86400)
    loaded.run()
    assert loaded.row(loaded.bob)["title"] == "known", "the pass itself found it: this test proves nothing"

    found = pipeline.verify_object(loaded.context("verify"), "Contact", repair=True).findings

    assert found is not None
    assert [(one["kind"], one["id"]) for one in found["differences"]] == [("stale", loaded.bob)]
    loaded.assert_equal()


# ── what is read again, and when ──────────────────────────────────────────────────────────────────────


def test_filling_a_new_field_is_not_the_refresh(loaded: World) -> None:
    """A field filled in old records in between does not put off the formulas: their day counts from the last
    time all of them were read."""
    silently(loaded, loaded.ann, Spend__c=100)
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.sim.clock.advance(20 * 3600)
    loaded.org.add_field("Contact", Field("Rank__c", "string", length=20))
    silently(loaded, loaded.ann, Rank__c="first")
    loaded.run()
    assert custom(loaded, "Rank__c")[0] == "first"
    loaded.org.change_formula("Contact", "Spend_With_Tax__c", lambda spend: spend and 2 * spend)
    loaded.sim.clock.advance(4 * 3600 + 5)

    loaded.run()

    assert custom(loaded, "Spend_With_Tax__c")[0] == 200


def test_a_describe_is_asked_for_whole_once_an_hour(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within an hour a describe is conditional; the first call after it is not, whatever Last-Modified says."""
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    monkeypatch.setattr(session, "time", clock)
    asked, seen = world.context().session, []

    for passed[0] in (0, 1800, 3590, 3610, 3620, 7190, 7230):
        world.sim.requests.clear()
        asked.describe("Contact")
        seen += [request.status for request in world.sim.requests if request.kind == "describe"]

    assert seen == [200, 304, 304, 200, 304, 304, 200]


# ── through when a window is complete ─────────────────────────────────────────────────────────────────


def claims(world: World) -> list[datetime | None]:
    """Every complete_through that a pass over the contacts leaves, step by step."""
    seen = [world.cursor("Contact")]

    def look(_: PageResult) -> None:
        seen.append(world.cursor("Contact"))

    pipeline.sync_object(world.context(on_page=look), "Contact")
    return list(dict.fromkeys([*seen, world.cursor("Contact")]))


@BOTH
def test_the_earliest_clock_of_all_answers_ends_the_window(loaded: World) -> None:
    """Where one server's Date is ahead of the others', complete_through follows the earliest of them."""
    now = loaded.sim.clock.now().replace(microsecond=0) + HOUR
    loaded.sim.clock.freeze(now)
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add("wrong_date", on="describe", sobject="Contact", seconds=240, times=None)

    reached = claims(loaded)

    assert reached[-1] == now.replace(second=0)


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
def test_a_resumed_window_ends_where_it_was_begun(loaded: World) -> None:
    """A Bulk job holds the records as of its creation: taken up an hour later it claims no more than that, and
    what changed in between is read by the window after it."""
    loaded.sim.clock.advance(86_400)
    begun = loaded.sim.clock.now().replace(microsecond=0)
    loaded.sim.clock.freeze(begun)
    loaded.page_by(1)
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        loaded.org.update(id_, {"Title": "Boss"}, stamp=begun - HOUR)

    def die(step: PageResult) -> None:
        if step.received == 2:
            raise Killed

    with pytest.raises(Killed):
        pipeline.sync_object(loaded.context(on_page=die), "Contact")
    loaded.expire_leases()
    loaded.sim.clock.advance(1800)
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        loaded.org.update(id_, {"Title": "Chief"})
    loaded.org.create("Contact", {"LastName": "New"})  # not in the job, and no reason to doubt it
    loaded.sim.clock.advance(1800)

    reached = claims(loaded)

    assert reached[1:] == [begun.replace(second=0), (begun + HOUR).replace(second=0)]
    loaded.assert_equal(["Contact"])


# ── of one record twice ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("announce", [True, False])
def test_of_equal_stamps_in_one_page_the_later_wins(loaded: World, announce: bool) -> None:
    """A record that comes twice in a page with the same stamp, changed within a second, is stored as it came last."""
    sobject = CATALOGUE["Contact"]
    described = [DescribedField(f.name, f.kind.value[0], False) for f in sobject.fields]
    projection = project(sobject, described, "none")
    known = {
        "Id": "003000000000001AAA",
        "IsDeleted": "false",
        "SystemModstamp": "2026-01-01T00:00:00.000+0000",
    }
    versions = [known | {"Title": title} for title in ("zeroth", "first", "second", "last")]
    records = [[version.get(name, "") for name in projection.names] for version in versions]

    with transaction(loaded.engine) as connection:
        merge.merge(connection, projection, transform.build(projection, records, "US"), 1, announce=announce)

    assert loaded.row(known["Id"])["title"] == "last"


# ── the guard ─────────────────────────────────────────────────────────────────────────────────────────

ROWS = """
INSERT INTO salesforce.contact (id, is_deleted, system_modstamp)
SELECT '003' || lpad(n::text, 12, '0') || 'AAA', false, now() FROM generate_series(1, :rows) AS n
"""


@pytest.mark.parametrize(
    ("count", "rows", "refused"),
    [
        # Ten are never too many, whatever is left.
        *((1, 1, False), (10, 10, False), (10, 11, False)),
        # Up to a hundred may be half of a table.
        *((11, 11, True), (11, 21, True), (11, 22, False), (100, 100, True), (100, 199, True)),
        *((100, 200, False), (100, 10_000, False)),
        # More may be one in a hundred.
        *((101, 202, True), (101, 10_099, True), (101, 10_100, False)),
    ],
)
def test_what_the_guard_lets_go(world: World, count: int, rows: int, refused: bool) -> None:
    """Refused are more than ten records and more than half of the live ones, and more than a hundred and more
    than one in a hundred; an operator's approval lets any number go."""
    world.sql(ROWS, rows=rows)
    told = rf"Contact: {count} of {rows:,} live records .* --repair --approve"
    with (
        pytest.raises(GuardError, match=told) if refused else nullcontext(),
        transaction(world.engine) as connection,
    ):
        apply.guard(connection, world.context(), "Contact", count)
    with transaction(world.engine) as connection:
        apply.guard(connection, world.context(approve=True), "Contact", count)


def test_the_guard_counts_rejected_records_as_held(world: World) -> None:
    """Rejected records that were purged are no share of the few rows that are live."""
    world.sql(ROWS, rows=3)
    world.sql(
        "INSERT INTO sync.reject (object, record_id, reason, record) "
        "SELECT 'Contact', n::text, 'too long', '{}' FROM generate_series(1, 20) AS n"
    )
    with transaction(world.engine) as connection:
        apply.guard(connection, world.context(), "Contact", 11)
        with pytest.raises(GuardError):
            apply.guard(connection, world.context(), "Contact", 12)


def test_a_small_table_does_not_vanish_unasked(world: World) -> None:
    """All of a hundred accounts hidden at once are refused by the nightly verify, and stay what they were."""
    world.org.create_many("Account", [{"Name": f"n{i}"} for i in range(100)], stamp=LONG_AGO)
    world.run()
    for id_ in world.org.ids("Account"):
        world.org.purge(id_, log=False)

    with pytest.raises(GuardError, match="Account: 100 of 100 live records"):
        pipeline.verify_object(world.context("verify"), "Account", repair=True)

    assert world.sql("SELECT count(*) FROM crm.account")[0][0] == 100
    pipeline.verify_object(world.context("verify", approve=True), "Account", repair=True)
    assert world.sql("SELECT count(*) FROM crm.account")[0][0] == 0
