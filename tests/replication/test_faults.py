"""Every kind of failure, at the first, a middle and the last page: the tables end equal, the feed says all once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from contextlib import suppress
from datetime import timedelta
from itertools import count

import pytest

from sync.errors import (
    CountMismatchError,
    ObjectsFailedError,
    SyncError,
    WorkFailedError,
)
from sync.replication import pipeline
from sync.replication.runs import PageResult
from sync.salesforce import soql
from sync.salesforce.session.retry import RetryPolicy
from sync.simulator import FAULTS, Fault
from tests.support.soak import SOAK, covering, pairs_with_first
from tests.support.world import LONG_AGO, NEVER_WAIT, World

# Nine contacts in pages of two, so that "first, middle, last" are places: the call's kind, and how many to skip.
REST = {"first": ("query", 0), "middle": ("page", 1), "last": ("page", 3)}
RESULTS = {"first": ("results", 0), "middle": ("results", 2), "last": ("results", 4)}
JOB = {"look": ("job", 0), "list": ("result_pages", 0), "count": ("query", 1)}
ENDS = {"creation": ("job_create", 0), "deletion": ("job_delete", 0)}
BULK = JOB | RESULTS | ENDS
BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)

RECOVERED = (
    *("session_expired", "invalid_jwt_format", "unauthorized_html", "concurrent_limit", "too_many_requests"),
    *("query_timeout", "transaction_security", "not_acceptable", "edge_no_route", "unknown_exception"),
    *("server_error_html", "bad_gateway_html", "unavailable_html", "server_unavailable"),
    *("gateway_timeout_html", "html_ok", "truncated", "reset", "repeated_rows", "empty_page"),
)
# What some places cannot meet: calls without records, and lists of pages, in which an empty one is a lie. An answer
# lost after the job's creation leaves a job (below).
ROWS = {"other": ("repeated_rows", "empty_page"), **dict.fromkeys(RESULTS, ("empty_page",))}
ROWS["creation"] = (*ROWS["other"], "truncated")
# Around the results one fault of each kind of handling is enough: how each is handled is no matter of the place.
KINDS = (
    "session_expired",
    "concurrent_limit",
    "query_timeout",
    "unavailable_html",
    "html_ok",
    "truncated",
    "reset",
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
REFUSED = ("bulk_entity", "bulk_compound", "bulk_job_limit", "bulk_storage_limit")
ELSEWHERE = {
    "invalid_field": "test_stories: a field hidden between describe and query",
    "missing_rows": "below",
    "slow": "test_worker: a stop request does not wait for a page",
    "hang": "test_kill: killed while waiting for Salesforce",
    "no_date": "test_session",
    "wrong_date": "below",
    "no_limit_info": "below",
    "redirect": "below; test_door",
    "altered": "test_answers",
    "answered": "test_answers",
    "invalid_scopes": "below",
    "invalid_replication_date": "test_delete_log: a purged log; test_coverage: getUpdated",
    "exceeded_id_limit": "test_coverage: getUpdated",
    "malformed_query": "test_verify: an org that cannot group",
    "job_failed": "below",
    "job_aborted": "below",
    "job_gone": "below",
    "processed_wrong": "below",
    "no_sforce_headers": "below",
}


def test_every_fault_has_its_test() -> None:
    """A fault that the simulator learns is a fault that we test."""
    here = {*RECOVERED, *ON_PAGES_ONLY, *FATAL, *REFUSED, *ELSEWHERE}
    assert {name for name in FAULTS if not name.startswith("token_")} == here


def everywhere(faults: Iterable[str], *, bulk: Iterable[str] = tuple(BULK)) -> list[tuple[str, str, str]]:
    """Each fault at each place where it can strike: (transport, fault, place)."""
    return [
        *(("rest", fault, place) for fault in faults for place in REST),
        *(
            ("bulk", fault, place)
            for fault in faults
            for place in bulk
            if fault not in ROWS.get(place, ROWS["other"])
            and (place in RESULTS or fault in KINDS or fault not in RECOVERED)
        ),
    ]


def strike(world: World, fault: str, place: str, times: int | None, **params: object) -> Fault:
    """Let a fault meet the contacts' run at one of its places."""
    on, after = (REST if world.transport == "rest" else BULK)[place]
    return world.sim.faults.add(fault, on=on, after=after, sobject="Contact", times=times, **params)


@pytest.fixture
def nine(loaded: World) -> World:
    """Nine contacts changed since the first load, in five pages, and settled since."""
    loaded.page_by(2)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}", "Email": f"n{i}@x.example"} for i in range(9)])
    loaded.sim.clock.advance(3600)
    loaded.sim.requests.clear()
    return loaded


def until_it_runs(world: World) -> None:
    """A run; another after one that fails by its count."""
    try:
        world.run()
    except ObjectsFailedError as failed:
        if {type(error) for _, error in failed.failures} != {CountMismatchError}:
            raise
        world.run()


def kinds_by_each_way(case: tuple[str, str, str]) -> list[Hashable]:
    """The features of (way, fault, place): each fault, one of each kind of handling by each way, and each place."""
    way, fault, place = case
    return [fault, (way, fault if fault in KINDS else ""), (way, "at", place)]


def told_once(world: World) -> bool:
    told = [c.record_id for c in world.feed(world.seen) if (c.op, c.object) == ("insert", "Contact")]
    return len(told) == len(set(told)) == 9


@pytest.mark.parametrize(
    ("transport", "fault", "place"),
    covering(
        [
            *everywhere(RECOVERED),
            *(
                (way, f, p)
                for way, f, p in everywhere(ON_PAGES_ONLY, bulk=JOB | RESULTS)
                if (way, p) != ("rest", "first") and (f, p) != ("not_found", "count")
            ),
            *(("bulk", fault, "creation") for fault in (*REFUSED, "not_found")),
        ],
        kinds_by_each_way,
    ),
    indirect=["transport"],
)
def test_passing_fault(nine: World, fault: str, place: str) -> None:
    """A failure that passes is survived within the run: nothing lost, nothing told twice."""
    struck = strike(nine, fault, place, 1)

    nine.run()

    assert struck.fired == 1
    nine.assert_equal()
    assert told_once(nine)


@pytest.mark.parametrize(
    ("transport", "fault", "place"),
    covering(
        [
            *everywhere(FATAL, bulk=[]),
            *(("bulk", "reset", place) for place in ("look", *RESULTS)),
            *(("bulk", "request_limit", place) for place in ("look", *RESULTS, "creation")),
        ],
        pairs_with_first,
    ),
    indirect=["transport"],
)
def test_lasting_fault(nine: World, fault: str, place: str) -> None:
    """A failure that stays ends the object's run with its own exit code; the other object is synchronised; the
    cursor stays, and once it is over the next run ends equal."""
    before = nine.cursor("Contact")
    account = nine.org.create("Account", {"Name": "Unharmed"})
    strike(nine, fault, place, None)

    with pytest.raises(ObjectsFailedError) as failed:
        nine.run()

    assert [name for name, _ in failed.value.failures] == ["Contact"]
    assert failed.value.code == FATAL.get(fault, 1)
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


UNAVAILABLE = ("unavailable_html", "server_unavailable", "unknown_exception", "html_ok", "no_sforce_headers")


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "place"),
    covering(
        [
            *((f, "creation") for f in (*FATAL, *REFUSED, *UNAVAILABLE[:-1]) if f != "request_limit"),
            *((f, p) for f in (*FATAL, *UNAVAILABLE[:-1]) if f != "request_limit" for p in ("look", "list")),
            *(
                (f, p)
                for f in (*FATAL, *UNAVAILABLE)
                if f not in ("request_limit", "html_ok")
                for p in RESULTS
            ),
        ],
        enumerate,
    ),
)
def test_bulk_that_fails_for_good(
    nine: World, fault: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Bulk API refuses or fails, whatever its reason and wherever, REST reads the window in the same run,
    the log says so, and no job is left."""
    strike(nine, fault, place, None)

    nine.run()

    # Where a list of pages is refused they are read in turn.
    assert "'event': 'bulk_refused'" in caplog.text or place == "list"
    assert nine.org.jobs.all() == []
    nine.assert_equal()
    assert told_once(nine)


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "place"),
    covering(
        [
            (fault, place)
            for fault in ("api_disabled_for_org", "gone", "malformed_query", "not_found")
            for place in ("look", "list", "middle")
        ],
        enumerate,
    ),
)
def test_a_job_of_before_that_is_refused(nine: World, fault: str, place: str) -> None:
    """A saved job that answers with any 4xx is followed by a new one: it must not block every further run."""
    strike(nine, "reset", "last", None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()
    nine.sim.requests.clear()
    strike(nine, fault, place, 1)

    nine.run()

    nine.assert_equal()
    assert told_once(nine)
    assert nine.org.jobs.all() == []


@pytest.mark.parametrize(
    ("transport", "place"),
    [
        *(("rest", place) for place in REST if SOAK or place != "middle"),
        *(("bulk", place) for place in RESULTS if SOAK or place != "first"),
    ],
    indirect=["transport"],
)
def test_missing_rows_fail_the_run(nine: World, place: str) -> None:
    """A page that silently lacks a record fails the run, leaves the cursor, and the next run brings it."""
    before = nine.cursor("Contact")
    strike(nine, "missing_rows", place, 1, header=True)

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


@BOTH
def test_missing_rows_then_a_crash(nine: World) -> None:
    """A record that a page lacked is not lost when the run breaks before the count could be checked."""
    strike(nine, "missing_rows", "first", 1, header=True)
    strike(nine, "reset", "last", None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()

    until_it_runs(nine)

    nine.assert_equal()
    assert told_once(nine)


@BOTH
def test_old_records_missing_before_a_crash(world: World) -> None:
    """Nor is it when the overlap would not read it again: what was committed before the break is counted."""
    world.page_by(2)
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(9)], stamp=LONG_AGO)
    strike(world, "missing_rows", "first", 1, header=True)
    strike(world, "reset", "last", None)
    with pytest.raises(ObjectsFailedError):
        world.run()
    world.sim.faults.clear()

    until_it_runs(world)

    world.assert_equal()


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


@BOTH
def test_a_first_load_that_breaks_says_reload_once(world: World) -> None:
    """A first load interrupted and resumed is still a first load: one `reload`, no inserts."""
    world.page_by(2)
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(9)], stamp=LONG_AGO)
    strike(world, "reset", "middle", None)
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
    pipeline.sync_object(nine.context(on_page=change_one), "Contact")
    nine.run()

    nine.assert_equal()


@pytest.mark.parametrize(
    ("shrinks", "and_then"),
    [
        *(("moved", "nothing"), ("purged", "session_expired"), ("purged", "gone")),
        *([("moved", "session_expired"), ("moved", "gone"), ("purged", "nothing")] if SOAK else []),
    ],
)
def test_pages_that_shift(nine: World, shrinks: str, and_then: str) -> None:
    """Where pages are not a snapshot, a record that leaves its place shifts the others, one of them is skipped,
    and a new one makes up the number; also where the result set is lost, or the process ends, after it."""
    nine.sim.options.pages_live = True
    nine.sim.clock.advance(60)
    first, *_ = sorted(nine.org.ids("Contact"))[3:]
    if and_then != "nothing":
        nine.sim.faults.add(and_then, on="page", after=1, sobject="Contact", times=1)
    steps: list[PageResult] = []

    def shift(step: PageResult) -> None:
        steps.append(step)
        if len(steps) == 2:
            nine.sim.clock.advance(5)
            if shrinks == "moved":
                nine.org.update(first, {"Title": "moved to the end"})
            else:
                nine.org.purge(first)
            nine.org.create("Contact", {"LastName": "makes up the number"})

    with suppress(SyncError):
        pipeline.sync_object(nine.context(on_page=shift), "Contact")
    assert len(steps) > 2
    until_it_runs(nine)

    assert set(nine.rows("Contact")) >= set(nine.org.ids("Contact"))
    nine.sim.clock.advance(600)  # deletions of this minute are told in the next
    nine.run()
    live = {id_ for id_, row in nine.rows("Contact").items() if row["deleted_at"] is None}
    assert live == set(nine.org.ids("Contact"))


def test_a_resumed_query_that_is_disturbed_still_adds_up(nine: World) -> None:
    """Records that change while the rest of an interrupted window is read are no mismatch."""
    nine.sim.clock.advance(60)
    nine.sim.faults.add("gone", on="page", after=0, sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()
    steps: list[PageResult] = []

    def change_the_last(step: PageResult) -> None:
        steps.append(step)
        if len(steps) == 2:
            nine.sim.clock.advance(5)
            nine.org.update(max(nine.org.ids("Contact")), {"Title": "changed meanwhile"})

    pipeline.sync_object(nine.context(on_page=change_the_last), "Contact")

    nine.assert_equal()
    assert told_once(nine)


def test_late_commits_while_pages_are_read_are_no_mismatch(nine: World) -> None:
    """In a busy org transactions that began before the query commit after it: the overlap reads them, nothing fails."""
    steps: list[PageResult] = []

    def busy(step: PageResult) -> None:
        steps.append(step)
        if len(steps) == 2:
            nine.sim.clock.advance(5)
            nine.org.update(max(nine.org.ids("Contact")), {"Title": "changed meanwhile"})
            late = nine.sim.clock.now() - timedelta(minutes=2)
            nine.org.create_many("Contact", [{"LastName": f"late{i}"} for i in range(3)], stamp=late)

    pipeline.sync_object(nine.context(on_page=busy), "Contact")
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

    first = pipeline.sync_object(nine.context(), "Contact")

    assert first.tally.inserted == 3 + 3
    nine.assert_equal()


def test_records_purged_while_pages_are_read(world: World) -> None:
    """An org that purges records during every attempt fails one run, not for ever: the next reads stepwise."""
    world.sim.options.page_sizes = 2
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(12)], stamp=LONG_AGO)

    def attempt() -> None:
        steps: list[PageResult] = []

        def purge_one(step: PageResult) -> None:
            steps.append(step)
            if len(steps) == 2:
                world.org.purge(max(world.org.ids("Contact")))

        pipeline.sync_object(world.context(on_page=purge_one), "Contact")

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


@BOTH
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
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.run()

    loaded.assert_equal()
    reached = loaded.cursor("Contact")
    assert reached is not None
    assert reached <= loaded.sim.clock.now()


@BOTH
def test_an_interrupted_load_with_other_fields_starts_anew(world: World) -> None:
    """When the visible fields changed since a load was interrupted, its pages are read again with them."""
    world.page_by(2)
    world.org.hide_field("Contact", "Title")
    world.org.create_many(
        "Contact", [{"LastName": f"n{i}", "Title": "Boss"} for i in range(9)], stamp=LONG_AGO
    )
    strike(world, "reset", "middle", None)
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
    """Above the API budget work is deferred with exit code 4; an operator who says so is not."""
    loaded.sim.options.limit_max, loaded.sim.options.limit_used = 1000, 900

    with pytest.raises(ObjectsFailedError) as failed:
        loaded.run()

    assert failed.value.code == 4
    assert "SYNC_API_BUDGET (80%)" in str(failed.value)
    with pytest.raises(ObjectsFailedError, match=r"now all the same: .* --ignore-budget"):
        pipeline.resync(loaded.context("resync"), ["Contact"], None)
    anyway = loaded.context("resync", ignore_budget=True)
    assert pipeline.resync(anyway, ["Contact"], None)[0].tally.read == 3
    outcomes = loaded.sql("SELECT outcome FROM sync.run WHERE command = 'run' ORDER BY id DESC LIMIT 2")
    assert [row[0] for row in outcomes] == ["deferred", "deferred"]


def test_without_limit_info_the_budget_is_unknown_and_work_goes_on(loaded: World) -> None:
    """An org that tells no usage is not starved."""
    loaded.sim.options.send_limit_info = False
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.row(loaded.ann)["title"] == "Boss"


def test_retries_end(loaded: World) -> None:
    """A server that stays away ends the run after the policy's attempts, and two of the call for all objects."""
    struck = loaded.sim.faults.add("unavailable_html", on="query", sobject="Contact", times=None)

    with pytest.raises(ObjectsFailedError) as failed:
        loaded.run()

    assert struck.fired - 2 == NEVER_WAIT.attempts == RetryPolicy().attempts
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


ALONE = [["describe", "updated", "query", "deleted"], ["describe", "updated", "query"]]


@pytest.mark.parametrize(("together", "later"), [(True, 60), (False, 3600), (False, 60)])
def test_unchanged_pass_costs_few_calls_and_writes_nothing(loaded: World, together: bool, later: int) -> None:
    """With nothing changed: one call for all objects after the describes; where each goes by itself four an object,
    three where the delete log was read a short while ago. No row written, no feed entry."""
    loaded.sim.options.composite = together
    loaded.sim.clock.advance(3600)
    loaded.run()
    loaded.sim.clock.advance(later)
    statistics = (
        "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables "
        "WHERE schemaname = 'salesforce' "
        "OR relname IN ('change', 'reject', 'feed', 'field', 'listing_contact', 'reread') ORDER BY relname"
    )
    loaded.sql("SELECT pg_stat_force_next_flush()")
    loaded.engine.dispose()
    before = loaded.sql(statistics)
    loaded.sim.requests.clear()

    loaded.run()

    loaded.engine.dispose()
    assert loaded.sql(statistics) == before
    assert loaded.news(loaded.seen) == []
    counted = [(request.sobject, request.kind) for request in loaded.sim.requests if request.counted]
    described = [("Account", "describe"), ("Contact", "describe"), (None, "composite")]
    assert counted[:3] == described
    if together:
        assert counted == described
    else:
        for name in ("Account", "Contact"):
            assert [kind for sobject, kind in counted[3:] if sobject == name] == ALONE[later == 60]


# ── Bulk API ──────────────────────────────────────────────────────────────────────────────────────────

BULK_ONLY = pytest.mark.parametrize("transport", ["bulk"], indirect=True)


def kinds(world: World) -> list[str]:
    """The kinds of the calls for contacts, in their order; those of the call for all objects together last."""
    found = [(call.inside, call.kind) for call in world.sim.requests if call.sobject == "Contact"]
    return [kind for inside in (False, True) for where, kind in found if where is inside]


@BULK_ONLY
@pytest.mark.parametrize("message", ["InternalServerError : Retried more than 15 times", None])
def test_failed_job(nine: World, message: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """A job that Salesforce gives up is deleted, and REST reads the window; the log has the reason."""
    nine.sim.faults.add("job_failed", sobject="Contact", times=1, message=message)

    nine.run()

    assert (message or "gives no reason") in caplog.text
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
def test_aborted_job(nine: World) -> None:
    """A job that somebody aborted fails the run, which says so; the next one makes another."""
    before = nine.cursor("Contact")
    nine.sim.faults.add("job_aborted", sobject="Contact", times=1)

    with pytest.raises(ObjectsFailedError, match="a user stopped it in Salesforce"):
        nine.run()
    assert nine.cursor("Contact") == before
    nine.run()

    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
@pytest.mark.parametrize("place", ["look", "list", "first", "middle", "last"])
def test_job_that_vanishes(nine: World, place: str) -> None:
    """A job that is gone, whenever it goes, is followed by another."""
    strike(nine, "job_gone", place, 1)

    nine.run()

    assert kinds(nine).count("job_create") == 2
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
def test_job_that_always_vanishes(nine: World) -> None:
    """Where jobs vanish again and again REST reads the window."""
    strike(nine, "job_gone", "last", None)

    nine.run()

    assert kinds(nine).count("job_create") == 4
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
@pytest.mark.parametrize("n", [1, -1])
def test_job_that_counted_otherwise(nine: World, n: int) -> None:
    """A job that says it has more or fewer records than came fails the run."""
    nine.sim.faults.add("processed_wrong", sobject="Contact", times=1, n=n)

    with pytest.raises(ObjectsFailedError, match=f"counted {9 + n} records and delivered 9"):
        nine.run()
    nine.run()

    nine.assert_equal()


@BULK_ONLY
def test_job_that_lacks_a_record_and_does_not_know(nine: World) -> None:
    """Where page and job agree on too few records, the org's own count shows it."""
    strike(nine, "missing_rows", "first", 1, header=True)
    nine.sim.faults.add("processed_wrong", sobject="Contact", times=1, n=-1)

    with pytest.raises(ObjectsFailedError, match="counted 9 settled records and delivered 8"):
        nine.run()
    nine.run()

    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
@pytest.mark.parametrize(
    ("fault", "params"),
    [
        *((fault, params) for fault in ("missing_rows", "repeated_rows") for params in ({}, {"rows": 1})),
        *(("truncated", params) for params in ({}, {"clean": True}, {"rows": 1}, {"rows": 1, "clean": True})),
    ],
)
def test_page_that_is_not_what_it_says(nine: World, fault: str, params: dict[str, object]) -> None:
    """A page with more or fewer records than its header says, however it came to an end, is asked for again."""
    struck = strike(nine, fault, "middle", 1, **params)

    nine.run()

    assert struck.fired == 1
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
def test_page_that_never_is_what_it_says(nine: World) -> None:
    """If it never is, the run fails by the count, the job is deleted, and the next run reads by REST."""
    nine.sim.faults.add("missing_rows", on="results", sobject="Contact", times=None)

    with pytest.raises(ObjectsFailedError) as failed:
        nine.run()
    assert isinstance(failed.value.failures[0][1], CountMismatchError)
    assert nine.org.jobs.all() == []
    nine.run()

    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
@pytest.mark.parametrize("which", ["number", "locator", "both"])
def test_headers_that_a_proxy_removed(nine: World, which: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without Salesforce's headers nobody knows whether all came: REST reads the window, and the log names them."""
    nine.sim.faults.add("no_sforce_headers", sobject="Contact", times=None, which=which)

    nine.run()

    assert "without its header Sforce-" in caplog.text
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
def test_pages_in_turn(nine: World) -> None:
    """An API version without `resultPages` names each page in the one before; all of them are read."""
    nine.environment["SALESFORCE_API_VERSION"] = "57.0"

    nine.run()

    assert kinds(nine).count("results") == 5
    assert "result_pages" not in kinds(nine)
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
@pytest.mark.parametrize("place", RESULTS)
def test_empty_page_in_turn(nine: World, place: str) -> None:
    """A page without records that names another one is not the end."""
    nine.environment["SALESFORCE_API_VERSION"] = "57.0"
    struck = strike(nine, "empty_page", place, 1)

    nine.run()

    assert struck.fired == 1
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
def test_creation_whose_answer_is_lost(nine: World) -> None:
    """A job whose creation was never confirmed is made once more; the first one nobody can name, and Salesforce
    deletes it in seven days."""
    strike(nine, "truncated", "creation", 1)

    nine.run()

    nine.assert_equal()
    [unknown] = nine.org.jobs.all()
    nine.org.jobs.remove(unknown)


@BULK_ONLY
@pytest.mark.parametrize("version", ["57.0", "66.0"])
def test_job_is_continued(nine: World, version: str) -> None:
    """What was committed before a break is not read again: the same job goes on where it stopped."""
    nine.environment["SALESFORCE_API_VERSION"] = version
    strike(nine, "reset", "last", None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()
    nine.sim.requests.clear()

    contact = pipeline.sync_object(nine.context(), "Contact")

    assert "job_create" not in kinds(nine)
    assert contact.tally.inserted < 9
    nine.assert_equal()
    assert told_once(nine)


@BULK_ONLY
def test_job_of_another_window_is_deleted(nine: World) -> None:
    """A job that an interrupted resync left is deleted when another resync takes its place."""
    strike(nine, "reset", "last", None)
    with pytest.raises(ObjectsFailedError):
        pipeline.resync(nine.context("resync"), ["Contact"], None)
    nine.sim.faults.clear()
    assert len(nine.org.jobs.all()) == 1

    pipeline.resync(nine.context("resync"), ["Contact"], LONG_AGO)

    assert nine.org.jobs.all() == []
    nine.assert_equal()


@BULK_ONLY
def test_slow_job(nine: World) -> None:
    """A job is looked at until it is complete; what changes meanwhile the next pass brings."""
    nine.sim.options.bulk_polls = 4
    changed = count()

    def change(_: PageResult) -> None:
        if next(changed) == 1:
            nine.org.update(nine.ann, {"Title": "Boss"})

    pipeline.sync_object(nine.context(on_page=change), "Contact")
    nine.run()

    assert kinds(nine).count("job") >= 5
    nine.assert_equal()


@BULK_ONLY
def test_results_are_older_than_a_resync_by_id(nine: World) -> None:
    """A job's results are of the time it was made: they do not replace what a run brought since."""
    strike(nine, "reset", "first", None)
    with pytest.raises(ObjectsFailedError):
        nine.run()
    nine.sim.faults.clear()
    nine.org.update(nine.ann, {"Title": "Boss"})
    pipeline.resync_ids(nine.context("resync"), "Contact", [nine.ann])

    nine.run()

    nine.assert_equal()
    updates = [record for op, record in nine.news(nine.seen) if op == "update"]
    assert updates == [nine.ann]


@pytest.mark.parametrize("transport", ["rest"], indirect=True)
def test_threshold_decides(loaded: World) -> None:
    """Up to the threshold a window is read by REST, above it by Bulk API; the choice costs no call."""
    loaded.environment["SYNC_BULK_THRESHOLD"] = "5"
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)])
    loaded.run()
    assert "job_create" not in kinds(loaded)
    loaded.sim.clock.advance(3600)
    loaded.sim.requests.clear()
    loaded.org.create_many("Contact", [{"LastName": f"m{i}"} for i in range(6)])

    loaded.run()

    assert kinds(loaded) == [
        *("describe", "job_create", "job", "result_pages", "results", "query", "job_delete"),
        *("updated", "deleted", "query"),
    ]
    loaded.assert_equal()


def test_error_without_a_word_of_ours(loaded: World) -> None:
    """Every error of the product says something, even when raised without a message."""

    def subclasses(kind: type[SyncError]) -> list[type[SyncError]]:
        return [kind, *(deeper for sub in kind.__subclasses__() for deeper in subclasses(sub))]

    for kind in subclasses(SyncError):
        assert kind.__doc__
        if kind not in (ObjectsFailedError, WorkFailedError) and not kind.__name__.endswith(
            ("SalesforceError", "LostError", "MovedError", "TooLargeError", "TooLateError", "RestlessError")
        ):
            assert str(kind()) == kind.__doc__.strip()
