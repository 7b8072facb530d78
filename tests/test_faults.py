"""Every kind of failure, at the first, a middle and the last page: the tables end equal, the feed says all once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sync import extract, pipeline, soql
from sync.errors import CountMismatchError, ObjectsFailedError, SyncError
from sync.runs import Step
from sync.session import RetryPolicy
from sync.simulator import FAULTS
from tests.world import LONG_AGO, NEVER_WAIT, World

# One page in four sizes, so that "first, middle, last" are places: 2 + 2 + 2 + 2 + 1 contacts.
PAGES = 5
PLACES = {"first": 0, "middle": 2, "last": 4}

RECOVERED = (
    *("session_expired", "invalid_jwt_format", "unauthorized_html", "concurrent_limit", "too_many_requests"),
    *("query_timeout", "transaction_security", "not_acceptable", "edge_no_route", "unknown_exception"),
    *("server_error_html", "bad_gateway_html", "unavailable_html", "server_unavailable"),
    *("gateway_timeout_html", "html_ok", "truncated", "reset", "repeated_rows", "empty_page"),
)
ON_PAGES_ONLY = ("invalid_query_locator", "query_more_failure", "not_found")
FATAL = {
    "api_disabled_for_org": 1,
    "api_currently_disabled": 1,
    "insufficient_access": 1,
    "functionality_not_enabled": 1,
    "gone": 1,
    "uri_too_long": 1,
    "headers_too_large": 1,
    "operation_too_large": 1,
    "query_too_complicated": 1,
    "request_limit": 4,
}
ELSEWHERE = {
    "invalid_field": "test_stories: a field hidden between describe and query",
    "missing_rows": "below",
    "slow": "test_worker: a stop request does not wait for a page",
    "hang": "test_kill: killed while waiting for a page",
    "no_date": "test_session",
    "wrong_date": "below",
    "no_limit_info": "below",
    "redirect": "below",
    "invalid_scopes": "below",
    "invalid_replication_date": "no getDeleted yet",
    "exceeded_id_limit": "no getUpdated yet",
}


def test_every_fault_has_its_test() -> None:
    """A fault that the simulator learns is a fault that we test."""
    here = {*RECOVERED, *ON_PAGES_ONLY, *FATAL, *ELSEWHERE}
    assert {name for name in FAULTS if not name.startswith("token_")} == here


@pytest.fixture
def nine(loaded: World) -> World:
    """Nine contacts changed since the first load, in five pages, and settled since."""
    loaded.sim.options.page_sizes = 2
    loaded.org.create_many("Contact", [{"LastName": f"n{i}", "Email": f"n{i}@x.example"} for i in range(9)])
    loaded.sim.clock.advance(3600)
    return loaded


def told_once(world: World) -> bool:
    told = [c.record_id for c in world.feed(world.seen) if (c.op, c.object) == ("insert", "Contact")]
    return len(told) == len(set(told)) == 9


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        *((fault, place) for fault in RECOVERED for place in PLACES),
        *((fault, place) for fault in ON_PAGES_ONLY for place in PLACES if place != "first"),
    ],
)
def test_passing_fault(nine: World, fault: str, place: str) -> None:
    """A failure that passes is survived within the run: nothing lost, nothing told twice."""
    on, after = ("query", 0) if place == "first" else ("page", PLACES[place] - 1)
    struck = nine.sim.faults.add(fault, on=on, after=after, sobject="Contact", times=1)

    nine.run()

    assert struck.fired == 1
    nine.assert_equal()
    assert told_once(nine)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fault", FATAL)
def test_lasting_fault(nine: World, fault: str, place: str) -> None:
    """A failure that stays ends the object's run with its own exit code; the other object is synchronised; the
    cursor stays, and once it is over the next run ends equal."""
    before = nine.cursor("Contact")
    account = nine.org.create("Account", {"Name": "Unharmed"})
    on, after = ("query", 0) if place == "first" else ("page", PLACES[place] - 1)
    nine.sim.faults.add(fault, on=on, after=after, sobject="Contact", times=None)

    with pytest.raises(ObjectsFailedError) as failed:
        nine.run()

    assert [name for name, _ in failed.value.failures] == ["Contact"]
    assert failed.value.code == FATAL[fault]
    assert nine.cursor("Contact") == before
    assert account in nine.rows("Account")
    [(outcome, error)] = nine.sql(
        "SELECT outcome, error FROM sync.run WHERE object = 'Contact' ORDER BY id DESC LIMIT 1"
    )
    assert outcome == ("deferred" if fault == "request_limit" else "failed")
    assert error

    nine.sim.faults.clear()
    nine.run()
    nine.assert_equal()
    assert told_once(nine)


@pytest.mark.parametrize("place", PLACES)
def test_missing_rows_fail_the_run(nine: World, place: str) -> None:
    """A page that silently lacks a record fails the run, leaves the cursor, and the next run brings it."""
    before = nine.cursor("Contact")
    on, after = ("query", 0) if place == "first" else ("page", PLACES[place] - 1)
    nine.sim.faults.add("missing_rows", on=on, after=after, sobject="Contact", times=1)

    with pytest.raises(ObjectsFailedError) as failed:
        nine.run()

    [(name, error)] = failed.value.failures
    assert (name, type(error)) == ("Contact", CountMismatchError)
    assert "9" in str(error)
    assert "8" in str(error)
    assert nine.cursor("Contact") == before
    assert len(nine.rows("Contact")) == 3 + 8

    nine.run()
    nine.assert_equal()
    assert told_once(nine)


def test_missing_rows_then_a_crash(nine: World) -> None:
    """A record that a page lacked is not lost when the run breaks before the count could be checked."""
    nine.sim.faults.add("missing_rows", on="query", sobject="Contact", times=1)
    nine.sim.faults.add("gone", on="page", after=2, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()

    nine.run()

    nine.assert_equal()
    assert told_once(nine)


def test_old_records_missing_before_a_crash(world: World) -> None:
    """Nor is it when the overlap would not read it again: what was committed before the break is counted."""
    world.sim.options.page_sizes = 2
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(9)], stamp=LONG_AGO)
    world.sim.faults.add("missing_rows", on="query", sobject="Contact", times=1)
    world.sim.faults.add("gone", on="page", after=2, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        world.run()
    world.sim.faults.clear()

    world.run()

    world.assert_equal()


def test_a_record_that_changed_meanwhile_is_no_landmark() -> None:
    """The progress of a page is its last record that the query found, not one served with a later stamp."""
    window = extract.Window(None, datetime(2026, 1, 1, 12, tzinfo=UTC))
    stamps = ["2025-12-31T10:00:00.000+0000", "2025-12-31T11:00:00.000+0000", "2026-01-01T12:00:01.000+0000"]
    records = [{"Id": f"003{i}", "SystemModstamp": stamp} for i, stamp in enumerate(stamps)]

    reached = extract.advanced(extract.Progress(None, 5), records, window)

    assert reached == extract.Progress(soql.Key(datetime(2025, 12, 31, 11, tzinfo=UTC), "0031"), 7, 2)
    assert extract.advanced(reached, records[2:], window) == reached
    assert extract.advanced(reached, [], window) == reached
    assert extract.advanced(reached, [records[1], records[1]], window).received == 8


def test_progress_is_kept(nine: World) -> None:
    """After a break the next run asks only for what is beyond the committed pages, and counts the rest once."""
    nine.sim.faults.add("gone", on="page", after=2, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()
    assert len(nine.rows("Contact")) == 3 + 6
    nine.sim.requests.clear()

    contact = nine.run()[1]

    asked = [r.soql or "" for r in nine.sim.requests if r.kind == "query" and r.sobject == "Contact"]
    assert "COUNT()" in asked[0]
    assert "Id > '" in asked[1]
    assert contact.tally.inserted == 3
    nine.assert_equal()


def test_a_first_load_that_breaks_says_reload_once(world: World) -> None:
    """A first load interrupted and resumed is still a first load: one `reload`, no inserts."""
    world.sim.options.page_sizes = 2
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(9)], stamp=LONG_AGO)
    world.sim.faults.add("gone", on="page", after=1, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        world.run()
    assert world.news(0) == [("reload", None)]
    assert world.cursor("Contact") is None
    world.sim.faults.clear()

    world.run()

    assert [c.object for c in world.feed() if c.op == "reload"] == ["Account", "Contact"]
    assert {op for op, _ in world.news(0)} == {"reload"}
    world.assert_equal()


def test_rows_change_while_pages_are_read(nine: World) -> None:
    """A record that changes between two pages, and so carries a later stamp, does not hide those behind it."""
    nine.sim.clock.advance(60)
    changed = iter(sorted(nine.org.ids("Contact"))[3:])

    def change_one(_: object) -> None:
        if (id_ := next(changed, None)) is not None:
            nine.sim.clock.advance(2)
            nine.org.update(id_, {"Title": "changed meanwhile"})

    nine.sim.faults.add("session_expired", on="page", after=2, sobject="Contact", times=1)
    pipeline.sync_object(nine.link(on_step=change_one), "Contact")
    nine.run()

    nine.assert_equal()


def test_pages_that_shift(nine: World) -> None:
    """Where pages are not a snapshot, a record that moves shifts the others and a new one makes up the number:
    such a run is never green with a record missing, and the next one brings it."""
    nine.sim.options.pages_live = True
    nine.sim.clock.advance(60)
    first, *_ = sorted(nine.org.ids("Contact"))[3:]
    steps: list[Step] = []

    def shift(step: Step) -> None:
        steps.append(step)
        if len(steps) == 2:
            nine.sim.clock.advance(5)
            nine.org.update(first, {"Title": "moved to the end"})
            nine.org.create("Contact", {"LastName": "makes up the number"})

    with pytest.raises(CountMismatchError):
        pipeline.sync_object(nine.link(on_step=shift), "Contact")
    nine.run()

    nine.assert_equal()


def test_a_resumed_query_that_is_disturbed_still_adds_up(nine: World) -> None:
    """Records that change while the rest of an interrupted window is read are no mismatch."""
    nine.sim.clock.advance(60)
    nine.sim.faults.add("gone", on="page", after=0, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()
    steps: list[Step] = []

    def change_the_last(step: Step) -> None:
        steps.append(step)
        if len(steps) == 2:
            nine.sim.clock.advance(5)
            nine.org.update(max(nine.org.ids("Contact")), {"Title": "changed meanwhile"})

    pipeline.sync_object(nine.link(on_step=change_the_last), "Contact")

    nine.assert_equal()
    assert told_once(nine)


def test_late_commits_while_pages_are_read_are_no_mismatch(nine: World) -> None:
    """In a busy org transactions that began before the query commit after it: the overlap reads them, nothing fails."""
    steps: list[Step] = []

    def busy(step: Step) -> None:
        steps.append(step)
        if len(steps) == 2:
            nine.sim.clock.advance(5)
            nine.org.update(max(nine.org.ids("Contact")), {"Title": "changed meanwhile"})
            late = nine.sim.clock.now() - timedelta(minutes=2)
            nine.org.create_many("Contact", [{"LastName": f"late{i}"} for i in range(3)], stamp=late)

    pipeline.sync_object(nine.link(on_step=busy), "Contact")
    nine.run()

    nine.assert_equal()


def test_a_resume_beside_late_commits_goes_on(nine: World) -> None:
    """Nor do they undo the progress of an interrupted window."""
    nine.sim.faults.add("gone", on="page", after=2, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()
    late = nine.sim.clock.now() - timedelta(minutes=2)
    nine.org.create_many("Contact", [{"LastName": f"late{i}"} for i in range(3)], stamp=late)

    first = pipeline.sync_object(nine.link(), "Contact")

    assert first.tally.inserted == 3 + 3
    nine.assert_equal()


def test_records_purged_while_pages_are_read(world: World) -> None:
    """An org that purges records during every attempt fails one run, not for ever: the next reads stepwise."""
    world.sim.options.page_sizes = 2
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(12)], stamp=LONG_AGO)

    def attempt() -> None:
        steps: list[Step] = []

        def purge_one(step: Step) -> None:
            steps.append(step)
            if len(steps) == 2:
                world.org.purge(max(world.org.ids("Contact")))

        pipeline.sync_object(world.link(on_step=purge_one), "Contact")

    with pytest.raises(CountMismatchError):
        attempt()
    attempt()

    assert world.cursor("Contact") is not None
    assert set(world.rows("Contact")) >= set(world.org.ids("Contact"))


def test_stepwise_reading_counts_too(nine: World) -> None:
    """Reading stepwise after a mismatch, a page that lacks a record still fails the run."""
    nine.sim.options.page_sizes = 3
    nine.sim.faults.add("missing_rows", on="page", after=1, sobject="Contact", times=1)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.add("missing_rows", on="query", after=1, sobject="Contact", times=1)

    with pytest.raises(ObjectsFailedError) as failed:
        nine.run()

    assert isinstance(failed.value.failures[0][1], CountMismatchError)
    nine.run()
    nine.assert_equal()


def test_a_count_that_is_refused_does_not_undo_the_reading(
    nine: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the org cannot count and loses every locator, the run still ends, equal, with bounded calls."""
    monkeypatch.setattr(soql, "count_up_to", lambda *_: "SELECT COUNT() FROM Contact WHERE Nope__c = 1")
    nine.sim.faults.add("invalid_query_locator", on="page", sobject="Contact", times=None)

    nine.run()

    nine.assert_equal()
    assert told_once(nine)
    assert len(nine.sim.requests) < 40


def test_locators_that_never_work_and_no_progress(nine: World) -> None:
    """A result set that is lost again and again without any progress ends the run."""
    nine.sim.faults.add("empty_page", on="query", sobject="Contact", times=None)
    struck = nine.sim.faults.add("invalid_query_locator", on="page", sobject="Contact", times=None)

    with pytest.raises(ObjectsFailedError):
        nine.run()

    assert struck.fired == 4


def test_one_wrong_clock_does_not_move_the_cursor_ahead(nine: World) -> None:
    """A server whose Date is hours ahead must not make the cursor skip what is committed meanwhile."""
    nine.sim.faults.add("wrong_date", on="describe", sobject="Contact", seconds=3 * 3600)

    nine.run()

    reached = nine.cursor("Contact")
    assert reached is not None
    assert reached <= nine.sim.clock.now()


def test_a_cursor_in_the_future_is_refused_and_mended(loaded: World) -> None:
    """A cursor ahead of Salesforce's clock fails the run with the remedy, and the remedy works."""
    loaded.sql(
        "UPDATE sync.cursor SET complete_through = now() + interval '3 hours' WHERE object = 'Contact'"
    )
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    with pytest.raises(ObjectsFailedError, match="resync --object Contact --full"):
        loaded.run()
    pipeline.resync(loaded.link("resync"), ["Contact"], None)
    loaded.run()

    loaded.assert_equal()
    reached = loaded.cursor("Contact")
    assert reached is not None
    assert reached <= loaded.sim.clock.now()


def test_an_interrupted_load_with_other_fields_starts_anew(world: World) -> None:
    """When the visible fields changed since a load was interrupted, its pages are read again with them."""
    world.sim.options.page_sizes = 2
    world.org.hide_field("Contact", "Title")
    world.org.create_many(
        "Contact", [{"LastName": f"n{i}", "Title": "Boss"} for i in range(9)], stamp=LONG_AGO
    )
    world.sim.faults.add("gone", on="page", after=1, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        world.run()
    world.sim.faults.clear()
    world.org.show_field("Contact", "Title")

    world.run()

    world.assert_equal()


def test_one_failing_object_does_not_stop_the_other(loaded: World) -> None:
    """Account and Contact fail alone."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add("insufficient_access", on="describe", sobject="Account", times=None)

    with pytest.raises(ObjectsFailedError) as failed:
        loaded.run()

    assert [name for name, _ in failed.value.failures] == ["Account"]
    assert loaded.row(loaded.ann)["title"] == "Boss"


def test_hidden_object_names_the_remedy(loaded: World) -> None:
    """An object the user may not see fails with the permission to grant, and its rows stay."""
    loaded.org.hide_object("Contact")

    with pytest.raises(ObjectsFailedError) as failed:
        loaded.run()

    assert "hidden by permissions" in str(failed.value)
    assert len(loaded.rows("Contact")) == 3


def test_budget_defers(loaded: World) -> None:
    """Above the API budget scheduled work is deferred with exit code 4; an operator's resync is not."""
    loaded.sim.options.limit_max, loaded.sim.options.limit_used = 1000, 900

    with pytest.raises(ObjectsFailedError) as failed:
        loaded.run()

    assert failed.value.code == 4
    assert "SYNC_API_BUDGET (80%)" in str(failed.value)
    assert pipeline.resync(loaded.link("resync"), ["Contact"], None)[0].tally.read == 3
    outcomes = loaded.sql("SELECT outcome FROM sync.run WHERE command = 'run' ORDER BY id DESC LIMIT 2")
    assert [row[0] for row in outcomes] == ["deferred", "deferred"]


def test_without_limit_info_the_budget_is_unknown_and_work_goes_on(loaded: World) -> None:
    """An org that tells no usage is not starved."""
    loaded.sim.options.send_limit_info = False
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.row(loaded.ann)["title"] == "Boss"


def test_retries_end(loaded: World) -> None:
    """A server that stays away ends the run after the policy's attempts, not never."""
    struck = loaded.sim.faults.add("unavailable_html", on="query", sobject="Contact", times=None)

    with pytest.raises(ObjectsFailedError) as failed:
        loaded.run()

    assert struck.fired == NEVER_WAIT.attempts == RetryPolicy().attempts
    assert "503" in str(failed.value)


def test_token_refused_on_every_query(nine: World) -> None:
    """A user whose fresh token is refused too ends as a login error, after one more login."""
    nine.sim.faults.add("invalid_scopes", on="query", sobject="Contact", times=None)

    with pytest.raises(ObjectsFailedError) as failed:
        nine.run()

    assert failed.value.code == 3
    assert sum(request.kind == "token" for request in nine.sim.requests) <= 4


def test_token_refused_on_every_further_page(nine: World) -> None:
    """Locators that never outlive their page cost a login each, lose nothing and end."""
    nine.sim.faults.add("invalid_scopes", on="page", sobject="Contact", times=None)

    nine.run()

    nine.assert_equal()
    assert told_once(nine)


def test_redirect_after_a_rename(loaded: World) -> None:
    """A redirect to another host, which drops the Authorization header, costs a re-login at most."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add(
        "redirect",
        on="query",
        sobject="Contact",
        location=f"{loaded.sim.login_url}/services/data/v66.0/limits",
    )

    loaded.run()

    loaded.assert_equal()


def test_unchanged_pass_costs_two_calls_and_writes_nothing(loaded: World) -> None:
    """With nothing changed: two API calls per object after the login, no row written, no feed entry."""
    loaded.sim.clock.advance(3600)
    loaded.run()
    statistics = (
        "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables "
        "WHERE schemaname = 'salesforce' OR relname IN ('change', 'reject', 'feed') ORDER BY relname"
    )
    loaded.sql("SELECT pg_stat_force_next_flush()")
    loaded.engine.dispose()
    before = loaded.sql(statistics)
    loaded.sim.requests.clear()

    loaded.run()

    loaded.engine.dispose()
    assert loaded.sql(statistics) == before
    assert loaded.news(loaded.seen) == []
    counted = [request.sobject for request in loaded.sim.requests if request.counted]
    assert sorted(map(str, counted)) == ["Account", "Account", "Contact", "Contact"]


def test_error_without_a_word_of_ours(loaded: World) -> None:
    """Every error of the product says something, even when raised without a message."""

    def subclasses(kind: type[SyncError]) -> list[type[SyncError]]:
        return [kind, *(deeper for sub in kind.__subclasses__() for deeper in subclasses(sub))]

    for kind in subclasses(SyncError):
        assert kind.__doc__
        if kind is not ObjectsFailedError and not kind.__name__.endswith(
            ("SalesforceError", "LostError", "MovedError")
        ):
            assert str(kind()) == kind.__doc__.strip()
