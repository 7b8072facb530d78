"""Dry runs: the calls that `resync --dry-run` and `verify --dry-run` foretell, against what is then taken."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sync.errors import SyncError
from sync.replication import pipeline
from sync.replication.budget import estimates
from sync.replication.verify import buckets, comparison
from sync.salesforce.extract import extraction, results
from tests.support.world import LONG_AGO, World

WITHIN = 0.2
BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)


@pytest.fixture
def pages_of_a_hundred(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """An org whose pages have a hundred records, by REST and by Bulk API, so that few records make many of them."""
    world.page_by(100)
    monkeypatch.setattr(extraction, "PAGE", 100)
    monkeypatch.setattr(extraction, "SMALLEST_BATCH", 100)
    monkeypatch.setattr(results, "MAX_RECORDS", 100)
    return world


def fill(world: World, records: int) -> None:
    """So many contacts, one each hour, and a first load of them."""
    world.org.create_many("Contact", [{"LastName": f"n{n}"} for n in range(records)], stamp=LONG_AGO)
    world.run()


@BOTH
@pytest.mark.parametrize(("records", "seconds"), [(0, 0), (150, 3_600), (1_200, 0)])
def test_a_resync_takes_what_was_foretold(pages_of_a_hundred: World, records: int, seconds: int) -> None:
    """One page, some, and so many that they decide, with the delete log or without: within a fifth, by both APIs."""
    world = pages_of_a_hundred
    fill(world, records)
    world.sim.clock.advance(seconds)
    [told] = estimates.of_resync(world.context("resync"), ["Contact"], None)
    [done] = pipeline.resync(world.context("resync"), ["Contact"], None)

    assert told.records == done.tally.read == records
    assert abs(told.api_calls - done.api_calls) <= WITHIN * done.api_calls


@BOTH
@pytest.mark.parametrize(("records", "sample"), [(1, 0), (150, 500), (150, None), (1_200, 0)])
def test_a_verify_takes_what_was_foretold(
    pages_of_a_hundred: World, records: int, sample: int | None
) -> None:
    """A small table is listed whole; values are compared of none, of some, or of all records."""
    world = pages_of_a_hundred
    fill(world, records)
    [told] = estimates.of_verify(world.context("verify"), ["Contact"], sample)
    [done] = pipeline.verify_all(world.context("verify"), ["Contact"], repair=True, sample=sample)

    assert told.records == (done.findings or {})["listed"] == records
    assert abs(told.api_calls - done.api_calls) <= WITHIN * done.api_calls


def test_buckets_are_foretold(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large table is compared by buckets, and its largest ones by finer ones."""
    monkeypatch.setattr(comparison, "SMALL", 10)
    monkeypatch.setattr(buckets, "LARGE", 20)
    for month in range(8):
        rows = [{"LastName": f"n{n}"} for n in range(30 if month % 2 else 5)]
        world.org.create_many("Contact", rows, stamp=LONG_AGO + timedelta(days=31 * month))
    world.run()
    pipeline.verify_all(world.context("verify"), ["Contact"], repair=True, sample=0)

    [told] = estimates.of_verify(world.context("verify"), ["Contact"], 0)
    [done] = pipeline.verify_all(world.context("verify"), ["Contact"], repair=True, sample=0)

    assert done.api_calls > 10
    assert abs(told.api_calls - done.api_calls) <= WITHIN * done.api_calls


@pytest.mark.parametrize("ids", [1, 3, 450])
def test_single_records_are_foretold(world: World, ids: int) -> None:
    """Records by Id: a describe, and a query for as many Ids as a URL holds."""
    found = world.org.create_many("Contact", [{"LastName": f"n{n}"} for n in range(ids)], stamp=LONG_AGO)
    world.run()

    [told] = estimates.of_ids(world.context("resync"), {"Contact": found})
    done = pipeline.resync_ids(world.context("resync"), "Contact", found)

    assert abs(told.api_calls - done.api_calls) <= WITHIN * done.api_calls


@pytest.mark.parametrize(
    ("records", "calls"),
    [(0, 1), (2_000, 1), (2_001, 2), (10_000, 5), (10_001, 8), (50_001, 11), (1_000_000, 39)],
)
def test_calls_of_large_windows(world: World, records: int, calls: int) -> None:
    """Pages by REST; a job, its polls, its pages and their list by Bulk API. A larger job is polled more often."""
    context = world.context("resync")
    projection, _ = estimates.read_projection(context, "Contact")

    assert extraction.estimate_calls(context.session, projection, records, 10_000) == calls


def test_nothing_is_foretold_of_what_was_never_loaded(world: World) -> None:
    """A verify of an object that was never loaded says so, as the verify itself does."""
    with pytest.raises(SyncError, match="type python -m sync run first, then verify"):
        estimates.of_verify(world.context("verify"), ["Contact"], 0)
