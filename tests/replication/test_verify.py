"""verify: what differs is named, exactly that; --repair mends exactly that; then nothing differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from sync.catalogue.catalogue import CATALOGUE
from sync.errors import GuardError, ObjectsFailedError, SyncError
from sync.replication import apply, pipeline
from sync.replication.runs import run_journalled
from sync.replication.verify import buckets, comparison
from sync.simulator import Field
from tests.support.soak import SOAK
from tests.support.world import LONG_AGO, World

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)


@pytest.fixture
def old(loaded: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Loaded long enough ago that its records are compared by buckets, each of them opened when it differs."""
    loaded.sim.clock.advance(3 * 86400)
    loaded.run()
    loaded.sql("UPDATE sync.cursor SET verified_through = complete_through")
    monkeypatch.setattr(comparison, "SMALL", 0)
    loaded.seen = loaded.last_seq()
    return loaded


def found(world: World, name: str = "Contact", **how: Any) -> dict[str, Any]:
    """What a verify of one object finds."""
    changed = {"approve": how.pop("approve", False)}
    findings = pipeline.verify_object(
        world.context("verify", **changed), name, repair=how.pop("repair", False), **how
    ).findings
    assert findings is not None
    return dict(findings)


def named(findings: dict[str, Any]) -> set[tuple[str, str]]:
    return {(each["kind"], each["id"]) for each in findings["differences"]}


# ── every way in which a table can come to differ ─────────────────────────────────────────────────────


def late_commit(world: World) -> set[tuple[str, str]]:
    world.org.update(world.ann, {"Title": "late"}, stamp=LONG_AGO + 2 * HOUR)
    return {("stale", world.ann)}


def late_commit_in_the_middle(world: World) -> set[tuple[str, str]]:
    """Neither the first nor the last stamp of its month, but of another day."""
    world.org.update(world.bob, {"Title": "a week"}, stamp=LONG_AGO + 7 * DAY)
    world.sql(
        "UPDATE salesforce.contact SET system_modstamp = :s WHERE id = :i", s=LONG_AGO + 8 * DAY, i=world.cid
    )
    world.org.update(world.cid, {}, stamp=LONG_AGO + 8 * DAY)
    world.sql(
        "UPDATE salesforce.contact SET last_modified_date = system_modstamp, title = NULL WHERE id = :i",
        i=world.cid,
    )
    return {("stale", world.bob)}


def late_creation(world: World) -> set[tuple[str, str]]:
    return {("missing", world.org.create("Contact", {"LastName": "Late"}, stamp=LONG_AGO + HOUR))}


def purged_with_a_trace(world: World) -> set[tuple[str, str]]:
    world.org.purge(world.ann)
    return {("gone", world.ann)}


def purged_without(world: World) -> set[tuple[str, str]]:
    world.org.purge(world.ann, log=False)
    return {("gone", world.ann)}


def deleted_late(world: World) -> set[tuple[str, str]]:
    world.org.delete(world.bob, stamp=LONG_AGO + HOUR)
    return {("stale", world.bob)}


def undeleted_without_a_stamp(world: World) -> set[tuple[str, str]]:
    world.org.delete(world.bob)
    world.sim.clock.advance(3600)
    world.run()
    assert world.row(world.bob)["deleted_at"] is not None
    world.org.undelete(world.bob, bump=False)
    return {("stale", world.bob)}


def merged_late(world: World) -> set[tuple[str, str]]:
    world.org.merge(world.ann, [world.bob], stamp=LONG_AGO + HOUR)
    return {("stale", world.bob), ("stale", world.ann)}


def row_lost(world: World) -> set[tuple[str, str]]:
    world.sql("DELETE FROM salesforce.contact WHERE id = :id", id=world.cid)
    return {("missing", world.cid)}


def row_invented(world: World) -> set[tuple[str, str]]:
    world.sql(
        "INSERT INTO salesforce.contact (id, is_deleted, system_modstamp, created_date) "
        "VALUES ('003000000000AAAAAA', false, :stamp, :stamp)",
        stamp=LONG_AGO,
    )
    return {("gone", "003000000000AAAAAA")}


def tombstone_invented(world: World) -> set[tuple[str, str]]:
    world.sql("UPDATE salesforce.contact SET deleted_at = now() WHERE id = :id", id=world.ann)
    return {("stale", world.ann)}


def stamp_went_back(world: World) -> set[tuple[str, str]]:
    """A version with an earlier stamp than the one in the table: a usual pass would not write it."""
    world.org.update(world.ann, {"Title": "first"})
    world.sim.clock.advance(2 * 3600)
    world.run()
    world.org.update(world.ann, {"Title": "earlier"}, stamp=LONG_AGO + HOUR)
    return {("stale", world.ann)}


WAYS = [
    late_commit,
    late_commit_in_the_middle,
    late_creation,
    purged_with_a_trace,
    purged_without,
    deleted_late,
    undeleted_without_a_stamp,
    merged_late,
    row_lost,
    row_invented,
    tombstone_invented,
    stamp_went_back,
]


@pytest.mark.parametrize(
    ("transport", "way"),
    # By what way records are read makes no difference to how they are compared: one by Bulk API is enough.
    [
        *(("rest", way) for way in WAYS),
        *(("bulk", way) for way in (WAYS if SOAK else (deleted_late,))),
    ],
    indirect=["transport"],
)
def test_every_difference_is_named_and_mended(
    old: World, way: Callable[[World], set[tuple[str, str]]]
) -> None:
    """Exactly what was changed behind the worker's back is reported, is mended, and is then no more."""
    expected = way(old)

    before = old.rows("Contact")
    report = found(old)
    assert named(report) == expected
    assert report["remaining"] == len(expected)
    assert old.rows("Contact") == before, "a verify without --repair wrote"

    repaired = found(old, repair=True)
    assert (named(repaired), repaired["remaining"]) == (expected, 0)
    written = {id_ for id_, row in old.rows("Contact").items() if row != before.get(id_)}
    assert written == {id_ for _, id_ in expected}

    again = found(old)
    assert (named(again), again["remaining"]) == (set(), 0)
    live = {id_ for id_, row in old.rows("Contact").items() if row["deleted_at"] is None}
    assert live == set(old.org.ids("Contact", deleted=False))


# Each kind of difference, by the org's doing and by a hand in the table.
@pytest.mark.parametrize(
    "way",
    WAYS if SOAK else [late_commit, late_creation, purged_without, deleted_late, row_lost, row_invented],
)
def test_a_small_table_is_listed_whole(loaded: World, way: Callable[[World], set[tuple[str, str]]]) -> None:
    """The same without buckets: up to some thousand rows every record is compared."""
    loaded.sim.clock.advance(86400)
    loaded.run()
    expected = way(loaded)

    report = found(loaded)

    assert named(report) == expected
    assert report["buckets"] == 0


@BOTH
def test_clean(old: World) -> None:
    """Where nothing differs nothing is opened, nothing is written, and it takes a handful of calls."""
    old.sim.requests.clear()
    before = old.rows("Contact")

    report = pipeline.verify_object(old.context("verify"), "Contact", repair=True)

    assert report.findings is not None
    assert (report.findings["remaining"], report.findings["opened"], report.findings["differences"]) == (
        0,
        0,
        [],
    )
    assert report.findings["buckets"] > 0
    asked = [request for request in old.sim.requests if request.kind != "token"]
    assert report.api_calls == len(asked) <= (5 if old.transport == "rest" else 12)
    assert (old.rows("Contact"), old.last_seq()) == (before, old.seen)
    assert old.sql("SELECT count(*) FROM sync.listing_contact")[0][0] == 0


def test_only_buckets_that_differ_are_opened(old: World) -> None:
    """Records of other months and days are not listed."""
    for month in range(1, 8):
        old.org.create_many("Contact", [{"LastName": f"m{month}"}] * 5, stamp=LONG_AGO - month * 40 * DAY)
    for number, id_ in enumerate(old.org.ids("Contact")):  # of one month, changed on many days
        old.org.update(id_, {"Title": "x"}, stamp=LONG_AGO + number * DAY)
    found(old, repair=True)
    old.org.purge(old.ann, log=False)

    report = found(old)

    assert named(report) == {("gone", old.ann)}
    assert report["opened"] == 2  # the month it was created in, and the day it was last changed
    assert report["listed"] <= 4


def test_changes_not_due_are_no_differences(old: World) -> None:
    """What changed after the time that the table is complete through is the next pass's matter."""
    old.org.update(old.ann, {"Title": "new"})
    old.org.create("Contact", {"LastName": "New"})

    assert found(old)["differences"] == []


def test_rejected_records_are_no_differences(old: World) -> None:
    """A record that cannot be stored is known to `rejects`; it is not missing."""
    old.org.retype_field("Contact", "Birthdate", type="string", length=80)
    old.org.update(old.ann, {"Birthdate": "in spring"}, stamp=old.sim.clock.now() - HOUR)
    old.sim.clock.advance(3600)
    old.run()
    assert old.sql("SELECT record_id FROM sync.reject")[0][0] == old.ann

    report = found(old)

    assert named(report) == set()


@BOTH
def test_reasons_of_what_is_gone(old: World) -> None:
    """`purged` is known to the delete log, `vanished` left no trace; both are told as deletes."""
    old.org.purge(old.ann)
    old.org.purge(old.bob, log=False)
    old.sim.clock.advance(60)  # the log is asked for whole minutes

    found(old, repair=True)

    assert {old.row(i)["deleted_reason"] for i in (old.ann,)} == {"purged"}
    assert old.row(old.bob)["deleted_reason"] == "vanished"
    assert sorted(old.news(old.seen)) == sorted([("delete", old.ann), ("delete", old.bob)])
    assert old.sql("SELECT count(*) FROM crm.contact")[0][0] == 1


def test_what_vanished_comes_back(old: World) -> None:
    """A record hidden from the integration user and shown again is an `undelete`, with its values."""
    kept = old.org.record(old.ann)
    row = old.row(old.ann)
    old.sql(
        "UPDATE salesforce.contact SET deleted_at = now(), deleted_reason = 'vanished' WHERE id = :i",
        i=old.ann,
    )

    found(old, repair=True)

    assert old.row(old.ann) | {"synced_at": row["synced_at"]} == row
    assert old.news(old.seen) == [("undelete", old.ann)]
    assert old.org.record(old.ann) == kept


# ── the guard ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def many(world: World) -> World:
    """Two hundred contacts, loaded."""
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(200)], stamp=LONG_AGO)
    world.run()
    return world


def test_guard_refuses_a_mass_removal(many: World) -> None:
    """More than a hundred and more than one in a hundred: nothing is removed, exit 6; --approve lets it through."""
    for id_ in many.org.ids("Contact")[:101]:
        many.org.purge(id_, log=False)

    with pytest.raises(
        GuardError, match=r"Contact: 101 of 200 live records .* --repair --approve"
    ) as refused:
        found(many, repair=True)
    assert refused.value.exit_code == 6
    assert many.sql("SELECT count(*) FROM crm.contact")[0][0] == 200
    assert many.sql("SELECT outcome FROM sync.run WHERE command = 'verify'")[-1][0] == "failed"

    assert found(many, repair=True, approve=True)["remaining"] == 0
    assert many.sql("SELECT count(*) FROM crm.contact")[0][0] == 99


def test_guard_lets_a_hundred_go(many: World) -> None:
    """A hundred are within what happens."""
    for id_ in many.org.ids("Contact")[:100]:
        many.org.purge(id_, log=False)

    assert found(many, repair=True)["remaining"] == 0


# ── groupings that are too much, and what cannot be ───────────────────────────────────────────────────


def test_a_grouping_that_times_out_is_split(old: World) -> None:
    """QUERY_TIMEOUT: the range is halved until it is answered, and the difference is found all the same."""
    old.org.purge(old.ann, log=False)
    old.sim.faults.add("query_timeout", on="aggregate", times=4)

    report = found(old)

    assert named(report) == {("gone", old.ann)}


def test_a_grouping_that_never_ends_is_listed(old: World) -> None:
    """When not even a month can be grouped all of it is listed."""
    old.org.purge(old.ann, log=False)
    old.sim.faults.add("query_timeout", on="aggregate")

    assert named(found(old)) == {("gone", old.ann)}


def test_an_org_in_which_each_grouping_is_too_much(old: World) -> None:
    """After a dozen refusals everything is listed at once: the proof is the same, and the calls have an end."""
    old.org.purge(old.ann, log=False)
    old.sql("DELETE FROM salesforce.contact WHERE id = :i", i=old.bob)
    old.sim.faults.add("query_timeout", on="aggregate", times=None)
    old.sim.requests.clear()

    assert named(found(old)) == {("gone", old.ann), ("missing", old.bob)}

    assert sum(request.sobject == "Contact" for request in old.sim.requests) < 40


def test_an_org_that_cannot_group_is_listed(old: World) -> None:
    """Any other refusal of the grouping: everything is listed, and the proof is the same."""
    old.org.purge(old.ann, log=False)
    old.sim.faults.add("malformed_query", on="aggregate")

    assert named(found(old)) == {("gone", old.ann)}


def test_large_buckets_are_looked_at_more_finely(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket with too many records is compared by its days, then hours; only the hour that differs is opened."""
    monkeypatch.setattr(buckets, "LARGE", 1)
    for hour in (3, 5, 7):
        old.org.create_many("Contact", [{"LastName": f"h{hour}"}] * 3, stamp=LONG_AGO + hour * HOUR)
    found(old, repair=True)
    old.org.purge(old.ann, log=False)

    report = found(old)

    assert named(report) == {("gone", old.ann)}
    assert report["listed"] == 2 + 2  # Bob and Cid, by creation and by change


def test_more_days_than_an_answer_has_groups(old: World) -> None:
    """Stamps over more days than Salesforce answers groups are asked for in parts."""
    for year in range(1, 12):
        old.org.create_many("Contact", [{"LastName": f"y{year}"}], stamp=LONG_AGO - year * 365 * DAY)
    expected = {("missing", id_) for id_ in old.org.ids("Contact")} - {
        ("missing", id_) for id_ in (old.ann, old.bob, old.cid)
    }

    assert named(found(old)) == expected


def test_never_loaded(world: World) -> None:
    """There is nothing to verify before a first load."""
    with pytest.raises(SyncError, match=r"never loaded completely.*python -m sync run"):
        found(world)


def test_too_many_differences_are_read_whole(old: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that lost most of its rows is mended by a whole reading, not by a million look-ups."""
    monkeypatch.setattr(comparison, "MAX_SUSPECTS", 2)
    old.sql("DELETE FROM salesforce.contact")

    assert found(old)["remaining"] == 3
    assert found(old, repair=True)["remaining"] == 0
    old.assert_equal()


def test_listing_is_counted(old: World) -> None:
    """A listing with fewer records than Salesforce counts proves nothing: it fails, and nothing is removed."""
    old.org.purge(old.ann, log=False)
    old.sim.faults.add("missing_rows", on="query", times=None)
    old.org.update(old.bob, {"Title": "x"})

    with pytest.raises(SyncError, match="counted"):
        found(old, repair=True)
    assert old.row(old.ann)["deleted_at"] is None


# ── values ────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("sample", [None, 50])
def test_deep_compares_values(old: World, sample: int | None) -> None:
    """Values that moved without a stamp are found, named as candidates, and mended."""
    old.org.add_field("Contact", Field("Rank__c", "string", length=20))
    old.run()
    old.sql(
        "UPDATE salesforce.contact SET title = 'tampered', custom = custom || '{\"Rank__c\": \"x\"}' WHERE id = :i",
        i=old.bob,
    )
    assert named(found(old)) == set(), "stamps alone do not show it"

    report = found(old, sample=sample)
    assert named(report) == {("values", old.bob)}
    assert sorted(report["fields"]) == ["Rank__c", "Title"]

    found(old, repair=True, sample=sample)
    assert found(old, sample=sample)["differences"] == []
    old.assert_equal()


# ── by hand and at night ──────────────────────────────────────────────────────────────────────────────


def test_command(old: World) -> None:
    """`verify` prints what it found and what it cost; exit 5, after --repair 0."""
    old.org.purge(old.ann, log=False)

    bad = old.command("verify", "--object", "contact")
    assert bad.returncode == 5, bad.stderr
    assert f"Contact {old.ann} gone (vanished)" in bad.stdout
    assert "1 difference remains; type: python -m sync verify --object Contact --repair" in bad.stdout
    assert "API calls" in bad.stdout

    mended = old.command("verify", "--repair", "--json")
    assert mended.returncode == 0, mended.stderr
    contact = next(each for each in json.loads(mended.stdout) if each["object"] == "Contact")
    assert (contact["gone"], contact["mended"], contact["remaining"]) == (1, 1, 0)
    assert contact["api_calls"] > 0

    assert old.command("verify").returncode == 0


def test_worker_verifies_at_night(old: World) -> None:
    """Once a day after SYNC_VERIFY_AT the worker's pass is followed by a verify that repairs, in the journal."""
    old.org.purge(old.ann, log=False)
    old.sql("UPDATE sync.run SET started_at = started_at - interval '5 days'")
    context = old.context("worker")

    pipeline.run_scheduled(context, "Contact")
    pipeline.run_scheduled(context, "Contact")

    runs = old.sql(
        "SELECT command, outcome, findings FROM sync.run WHERE object = 'Contact' ORDER BY id DESC LIMIT 3"
    )
    assert [run.command for run in runs] == ["worker", "verify", "worker"]
    assert (runs[1].outcome, runs[1].findings["gone"], runs[1].findings["remaining"]) == ("succeeded", 1, 0)
    assert old.row(old.ann)["deleted_reason"] == "vanished"


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
def test_a_dead_verify_leaves_no_job(old: World) -> None:
    """The Bulk job of a verify that was killed is deleted by the next one."""
    context = old.context("verify")

    def work(held: Any, run_id: int) -> Iterator[Any]:
        schema = apply.describe_object(context, CATALOGUE["Contact"])
        steps = comparison.examine(context, schema, held, run_id, repair=False)
        next(steps)
        yield next(steps)
        raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, ObjectsFailedError)):
        run_journalled(context, "Contact", work)

    assert found(old)["remaining"] == 0
    assert old.org.jobs.all() == []
