"""Ways of reading, combined: what holds for each of them alone holds for several at once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest

from sync.errors import SyncError
from sync.replication import pipeline
from sync.replication.runs import PageResult
from sync.salesforce.extract import parts
from sync.simulator.queries import Queries
from sync.simulator.soql.errors import SoqlError, too_complicated
from tests.salesforce.test_ways import BULK, calculate, kinds, ledger, widen
from tests.salesforce.test_ways import wide as wide
from tests.support.moving import BOTH, Killed, killed_while_refreshing, silently
from tests.support.world import LONG_AGO, World


def at_step(number: int, act: Callable[[], None], then: int = 0) -> Callable[[PageResult], None]:
    """What to do after so many steps of an object, the first of which names its window; the process dies at `then`."""
    steps: list[PageResult] = []

    def on_page(step: PageResult) -> None:
        steps.append(step)
        if len(steps) == number:
            act()
        if len(steps) == then:
            raise Killed

    return on_page


def until_it_runs(world: World) -> None:
    """Passes until one succeeds: two may fail."""
    world.expire_leases()
    for _ in range(2):
        with suppress(SyncError):
            world.run()
            return
    world.run()


def seven(world: World) -> list[str]:
    """Seven new contacts an hour old, in the order of their stamps, in pages of two."""
    world.page_by(2)
    old = world.sim.clock.now()
    ids = [
        world.org.create("Contact", {"LastName": f"n{i}"}, stamp=old + timedelta(seconds=i)) for i in range(7)
    ]
    world.sim.clock.advance(3600)
    return ids


# ── pages that are no snapshot ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("kind", ["updated", "moved", "purged"])
def test_a_late_commit_makes_up_for_a_shift(loaded: World, kind: str, dies: bool) -> None:
    """A record leaves its place, all others shift, and a transaction that began before the query commits: the number
    of records is the same, of all and of those that came, and one was skipped."""
    first, *_ = seven(loaded)
    loaded.sim.options.pages_live = True

    def shift() -> None:
        loaded.sim.clock.advance(5)
        late = loaded.sim.clock.now() - timedelta(minutes=2)
        if kind == "updated":
            loaded.org.update(first, {"Title": "committed late"}, stamp=late)
            return
        if kind == "purged":
            loaded.org.purge(first)
        else:
            loaded.org.update(first, {"Title": "moved"})
        loaded.org.create("Contact", {"LastName": "committed late"}, stamp=late)

    with suppress(Killed, SyncError):
        pipeline.sync_object(loaded.context(on_page=at_step(2, shift, 4 if dies else 0)), "Contact")
    until_it_runs(loaded)
    loaded.sim.clock.advance(3600)
    loaded.run()

    live = {id_ for id_, row in loaded.rows("Contact").items() if row["deleted_at"] is None}
    assert live == set(loaded.org.ids("Contact"))


def test_young_records_cost_no_more_calls(loaded: World) -> None:
    """A window of young records only, the usual one, is read by as many calls as it has pages, and one that counts."""
    loaded.page_by(2)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(8)])

    loaded.run()

    loaded.assert_equal()
    said = kinds(loaded)
    assert said.count("query") + said.count("page") <= 8 // 2 + 1 + 1


def test_one_stamp_and_pages_of_one(loaded: World) -> None:
    """Records of one stamp, each a page of its own, with the session lost in between: none twice as dear."""
    loaded.page_by(1)
    loaded.org.create_many(
        "Contact", [{"LastName": f"n{i}"} for i in range(12)], stamp=loaded.sim.clock.now()
    )
    for after in (5, 9):
        loaded.sim.faults.add("session_expired", on="query", after=after, sobject="Contact", times=1)

    loaded.run()

    loaded.assert_equal()
    assert kinds(loaded).count("page") + kinds(loaded).count("query") < 24


@BOTH
def test_counts_that_are_never_finished(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each COUNT() is a QUERY_TIMEOUT, windows are read all the same, and no run fails for long."""
    seven(loaded)

    def slow(*_: object) -> int:
        raise SoqlError("QUERY_TIMEOUT", "Your query request was running for too long.")

    monkeypatch.setattr(Queries, "_count", slow)
    loaded.sim.faults.add("invalid_query_locator", on="page", after=1, sobject="Contact", times=1)

    until_it_runs(loaded)

    loaded.assert_equal()


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────


@BULK
@pytest.mark.parametrize(("fault", "times"), [("unavailable_html", 6), ("insufficient_access", 1)])
def test_a_job_that_was_read_is_not_read_again_for_a_count(loaded: World, fault: str, times: int) -> None:
    """The count behind a job's last page is a query of REST: where it fails, the run does, and the next asks it again."""
    seven(loaded)
    loaded.sim.faults.add(fault, on="query", after=1, sobject="Contact", times=times)

    until_it_runs(loaded)

    loaded.assert_equal()
    assert kinds(loaded).count("job_create") <= 2  # the second for what is new since
    assert "page" not in kinds(loaded)


@BULK
def test_a_job_of_a_process_that_knew_more_of_formulas(loaded: World) -> None:
    """A job with a part of the formulas is given up by a process that knows of no limit: no run fails."""
    calculate(loaded, 24)
    seven(loaded)
    loaded.sim.options.formulas_max = 20
    with suppress(Killed):
        pipeline.sync_object(loaded.context(on_page=at_step(0, loaded.expire_leases, 2)), "Contact")
    assert loaded.unfinished()
    loaded.expire_leases()

    loaded.run()

    loaded.assert_equal()


@BULK
def test_no_bulk_in_the_middle_of_a_first_load_that_dies(world: World) -> None:
    """Bulk API fails amid a first load, REST begins, the process dies: the next goes on by REST, and tells it once."""
    world.org.create("Account", {"Name": "Acme"}, stamp=LONG_AGO)
    for i in range(9):
        world.org.create("Contact", {"LastName": f"n{i}"}, stamp=LONG_AGO + timedelta(seconds=i))
    world.page_by(2)
    world.sim.faults.add("unavailable_html", on="results", after=2, sobject="Contact", times=None)
    with suppress(Killed):
        pipeline.sync_object(world.context(on_page=at_step(0, world.expire_leases, 6)), "Contact")
    world.expire_leases()
    world.sim.requests.clear()

    world.run()

    world.assert_equal()
    assert sorted(str(c.object) for c in world.feed() if c.op == "reload") == ["Account", "Contact"]
    assert kinds(world).count("query") + kinds(world).count("page") < 12


@BULK
@pytest.mark.parametrize("place", ["job_create", "job"])
def test_too_complicated_for_bulk_alone(loaded: World, place: str) -> None:
    """A query that only Bulk API finds too complicated, when asked or later, is asked by REST."""
    if place == "job":
        loaded.sim.faults.add("job_failed", times=None, message="QUERY_TOO_COMPLICATED: too many fields")
    else:
        loaded.sim.faults.add("query_too_complicated", on=place, times=None)
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    loaded.assert_equal()


def test_too_slow_by_rest_and_too_complicated_for_a_job(loaded: World) -> None:
    """Where queries in an order are not finished in time, a process that knows of no limit of formulas asks for a
    job in parts: REST cannot teach it."""
    calculate(loaded, 24)
    loaded.sim.options.ordered_time_out, loaded.sim.options.formulas_max = True, 20
    loaded.sql("UPDATE sync.cursor SET slow_since = now()")
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    loaded.assert_equal()


@BULK
def test_letters_that_a_result_cannot_hold(loaded: World) -> None:
    """ISO-8859-1 has no Greek letter, and shows a question mark: what the org has is stored all the same."""
    loaded.org.create("Contact", {"LastName": "Παπαδόπουλος", "Title": "Why?"})
    loaded.sim.options.bulk_encoding = "ISO-8859-1"

    loaded.run()

    loaded.assert_equal()


# ── fields that are refused ───────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_field_is_refused_amid_a_window(loaded: World) -> None:
    """A query or job that is on its way may end with the old fields; the next leaves it out, and no job is left."""
    seven(loaded)

    def refuse() -> None:
        loaded.sim.options.refused_fields = ("Contact.Nickname__c", "Contact.Title")

    with suppress(SyncError):
        pipeline.sync_object(loaded.context(on_page=at_step(2, refuse)), "Contact")
    loaded.run()

    loaded.assert_equal(["Contact"])
    assert ledger(loaded) == ["Nickname__c", "Title"]
    assert not loaded.unfinished()


@BOTH
def test_a_refused_formula_among_many(loaded: World) -> None:
    """A refresh of more formulas than a query may have goes on without the one that is refused."""
    calculate(loaded, 24)
    loaded.sim.options.formulas_max = 20
    loaded.run()
    loaded.sim.clock.advance(2 * 86_400)
    loaded.sim.options.refused_fields = ("Contact.Formula_3__c",)
    silently(loaded, loaded.ann, LastName="Silently")

    loaded.run()

    assert loaded.row(loaded.ann)["custom"]["Formula_4__c"] == "Silently 4"
    assert ledger(loaded) == ["Formula_3__c"]


def test_one_formula_too_complicated_by_itself(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A formula that no query may have, not even alone, does not stop the object."""
    calculate(loaded, 3)
    plan = Queries.plan

    def refusing(queries: Queries, soql: str) -> object:
        if "Formula_1__c" in soql:
            raise too_complicated()
        return plan(queries, soql)

    monkeypatch.setattr(Queries, "plan", refusing)
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.row(loaded.ann)["title"] == "Boss"


@BOTH
def test_a_refresh_is_as_of_its_beginning(loaded: World) -> None:
    """Formulas that were read hours ago, before the process died, are due again as of then."""
    loaded.page_by(1)
    loaded.sim.clock.advance(2 * 86_400)
    killed_while_refreshing(loaded)
    loaded.expire_leases()
    begun = loaded.sim.clock.now()
    loaded.sim.clock.advance(5 * 3600)

    pipeline.sync_object(loaded.context(), "Contact")

    [[refreshed]] = loaded.sql("SELECT refreshed_at FROM sync.cursor WHERE object = 'Contact'")
    assert refreshed <= begun


# ── records in parts ──────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_deleted_records_in_parts(wide: World) -> None:
    """What lies in the recycle bin, or was merged, has all its parts, too."""
    wide.org.update(wide.ann, {"Field_with_a_long_name_419__c": "last"})
    wide.org.delete(wide.ann)
    wide.org.merge(wide.bob, [wide.cid])

    wide.run()

    wide.assert_equal()
    assert wide.row(wide.cid)["deleted_reason"] == "merged"


def test_one_record_that_always_changes_stops_no_other(wide: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An integration that writes one wide record all the time holds up no other record."""
    asked, number = parts.read_part, iter(range(10_000))

    def change(*given: object) -> object:
        wide.sim.clock.advance(2)
        wide.org.update(wide.ann, {"Title": f"T{next(number)}"})
        return asked(*given)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(parts, "read_part", change)
    wide.org.update(wide.ann, {"Title": "first"})
    wide.org.update(wide.bob, {"Title": "Boss"})

    with suppress(SyncError):
        wide.run()

    assert wide.row(wide.bob)["title"] == "Boss"


def test_a_proxy_that_refuses_ids_alone(loaded: World) -> None:
    """Where only queries by Id are too long, they name fewer Ids, not one each."""
    new = loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(200)], stamp=LONG_AGO)
    loaded.sim.options.longest_uri = 5_000

    pipeline.resync_ids(loaded.context("resync"), "Contact", new)

    assert len(loaded.rows("Contact")) == 203
    assert kinds(loaded).count("query") <= 8


# ── all of it ─────────────────────────────────────────────────────────────────────────────────────────


def test_everything_at_once(loaded: World) -> None:
    """A wide object, formulas beyond the limit, a proxy, refused fields, shifting pages and a death: all is equal."""
    widen(loaded, 60)
    calculate(loaded, 12)
    loaded.sim.options.formulas_max, loaded.sim.options.longest_uri = 7, 4_096
    loaded.sim.options.refused_fields = ("Contact.Formula_3__c", "Contact.Title")
    loaded.sim.options.pages_live = True
    ids = seven(loaded)

    def move() -> None:
        loaded.sim.clock.advance(5)
        loaded.org.update(ids[0], {"LastName": "moved", "Field_with_a_long_name_59__c": "last"})

    with suppress(Killed, SyncError):
        pipeline.sync_object(loaded.context(on_page=at_step(2, move, 4)), "Contact")
    until_it_runs(loaded)
    loaded.sim.options.refused_fields = ()
    loaded.sql("UPDATE sync.field SET at = at - interval '25 hours'")
    loaded.sim.clock.advance(3600)
    loaded.run()

    loaded.assert_equal()
