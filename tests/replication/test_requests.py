"""What consumers ask for is read at once: beside passes and within them, after failures, and after a death."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from sync.errors import LoginError, OrgChangedError
from sync.logs import logger
from sync.operations.status import read_status
from sync.postgres import tables
from sync.postgres.state import leases
from sync.postgres.state import requests as state
from sync.replication import pipeline, requests
from sync.replication.requests import Pauses
from sync.replication.runs import PageResult
from sync.simulator import Field
from tests.support.asking import answer, ask, open_requests, wait, waiting
from tests.support.consuming import GRANTS, Role, role
from tests.support.world import World


@pytest.fixture
def orders(world: World) -> Iterator[Role]:
    """A consumer's role where a worker has started."""
    open_requests(world)
    with role(world.engine) as new:
        yield new.granted(*GRANTS)


def runs(world: World) -> list[tuple[Any, ...]]:
    """The entries of requests in the journal: object, outcome, read, updated, API calls."""
    found = world.sql(
        "SELECT object, outcome, read, updated, api_calls FROM sync.run WHERE command = 'request' ORDER BY id"
    )
    return [tuple(row) for row in found]


def queries(world: World) -> list[str]:
    """The queries of records that Salesforce was asked."""
    return [request.soql or "" for request in world.sim.requests if request.soql]


# ── read now ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_record_is_read_at_once(loaded: World, orders: Role) -> None:
    """Asked for, one query later it is there, in the feed and in the journal; the others wait for their pass."""
    for id_ in (loaded.ann, loaded.bob):
        loaded.org.update(id_, {"Title": "Boss"})
    number = ask(orders, loaded.ann)
    assert wait(orders, loaded.ann, number) is False

    answer(loaded)

    assert wait(orders, loaded.ann, number) is True
    assert (loaded.row(loaded.ann)["title"], loaded.row(loaded.bob)["title"]) == ("Boss", None)
    assert loaded.news(loaded.seen) == [("update", loaded.ann)]
    assert len(queries(loaded)) == 1
    counted = sum(request.counted for request in loaded.sim.requests)
    assert runs(loaded) == [("Contact", "succeeded", 1, 1, counted)]
    assert waiting(loaded) == []
    loaded.run()
    loaded.assert_equal()


def test_a_new_record(loaded: World, orders: Role) -> None:
    """A record that no pass has read yet is inserted."""
    new = loaded.org.create("Contact", {"LastName": "New"})
    number = ask(orders, new)

    answer(loaded)

    assert wait(orders, new, number) is True
    assert loaded.news(loaded.seen) == [("insert", new)]


def test_a_deleted_record(loaded: World, orders: Role) -> None:
    """A deleted record becomes a tombstone; one without a trace stays as it is, and is answered, too."""
    loaded.org.delete(loaded.ann)
    loaded.org.purge(loaded.bob, log=False)
    stamps = {id_: ask(orders, id_) for id_ in (loaded.ann, loaded.bob)}

    answer(loaded)

    assert all(wait(orders, id_, stamp) for id_, stamp in stamps.items())
    assert loaded.row(loaded.ann)["deleted_at"] is not None
    assert loaded.row(loaded.bob)["deleted_at"] is None
    found = dict(map(tuple, loaded.sql("SELECT record_id, found FROM sync.answer")))
    assert found == {loaded.ann: True, loaded.bob: False}


def test_a_rejected_record_is_answered(loaded: World, orders: Role) -> None:
    """A version that cannot be stored was read, and is a reject like any other."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    number = ask(orders, loaded.ann)

    answer(loaded)

    assert wait(orders, loaded.ann, number) is True
    assert loaded.sql("SELECT record_id FROM sync.reject") == [(loaded.ann,)]


def test_many_records_are_one_query(loaded: World, orders: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that waits of an object is read together, up to a limit; the rest at the next turn."""
    monkeypatch.setattr(state, "MOST", 2)
    for id_ in (loaded.ann, loaded.bob, loaded.cid, loaded.acme):
        ask(orders, id_)

    answer(loaded)
    assert waiting(loaded) == [loaded.cid]
    assert len(queries(loaded)) == 2
    answer(loaded)
    assert waiting(loaded) == []


def test_an_hour_shares_an_entry_of_the_journal(loaded: World, orders: Role) -> None:
    """Requests leave an entry an hour for each object, not one each; a failure ends it."""
    context = loaded.context("request")
    for id_ in (loaded.ann, loaded.bob, loaded.acme):
        ask(orders, id_)
        answer(loaded, context)
    assert [run[:3] for run in runs(loaded)] == [("Contact", "succeeded", 2), ("Account", "succeeded", 1)]

    loaded.sim.faults.add("malformed_query", on="query", times=1)
    for _ in range(2):
        ask(orders, loaded.cid)
        answer(loaded, context)
    outcomes = [run[1] for run in runs(loaded)]
    assert outcomes == ["failed", "succeeded", "succeeded"]
    loaded.sql("UPDATE sync.run SET started_at = now() - interval '61 minutes'")
    ask(orders, loaded.cid)
    answer(loaded, context)
    assert len(runs(loaded)) == 4


def test_what_consumers_and_operators_see_of_runs_is_of_passes(loaded: World, orders: Role) -> None:
    """A request that fails is no failed pass: neither `crm.freshness` nor `status` takes it for one."""
    loaded.sim.faults.add("malformed_query", on="query", times=None)
    ask(orders, loaded.ann)
    answer(loaded)

    [(outcome,)] = loaded.sql("SELECT last_outcome FROM crm.freshness WHERE object = 'Contact'")
    with tables.transaction(loaded.engine) as connection:
        found = read_status(connection, ("Contact",), timedelta(days=9999))
    assert outcome == "succeeded"
    assert found.headline.startswith("OK")


def test_a_request_is_one_call(loaded: World, orders: Role) -> None:
    """An object that was described lately is not described again, unless the passes know other fields of it since."""
    context = loaded.context("request")
    calls: list[list[str]] = []
    for step in range(3):
        if step == 2:  # another process has read a field that this one has not heard of
            loaded.org.add_field("Contact", Field("Rank__c", "string", length=20))
            loaded.org.update(loaded.ann, {"Rank__c": "first"})
            loaded.run()
        loaded.sim.requests.clear()
        ask(orders, loaded.ann)
        answer(loaded, context)
        calls.append([request.kind for request in loaded.sim.requests if request.counted])

    assert calls == [["describe", "query"], ["query"], ["describe", "query"]]
    assert loaded.row(loaded.ann)["custom"]["Rank__c"] == "first"
    assert waiting(loaded) == []


def test_a_vanished_field_does_not_stop_it(loaded: World, orders: Role) -> None:
    """A field that went since the describe is left out, as in a pass."""
    context = loaded.context("request")
    ask(orders, loaded.bob)
    answer(loaded, context)
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add("invalid_field", on="query", field="Department", times=1)
    ask(orders, loaded.ann)

    answer(loaded, context)

    assert loaded.row(loaded.ann)["title"] == "Boss"
    assert waiting(loaded) == []


# ── beside passes ─────────────────────────────────────────────────────────────────────────────────────


def while_passing(world: World, command: str, act: Callable[[World, Any], None]) -> None:
    """A pass over contacts, during which something is done once, after its first page."""
    done: list[PageResult] = []
    context = world.context(command)

    def at_page(result: PageResult) -> None:
        if result.object == "Contact" and result.tally.read and not done:
            done.append(result)
            act(world, replace(context, command="request"))

    pipeline.sync_object(replace(context, ahead=0, on_page=at_page), "Contact")
    assert done


@pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
def test_a_pass_does_not_hold_it_up(loaded: World, orders: Role) -> None:
    """While a pass of the same process goes on, the record is read under its lease, and again at the pass's end.

    The pages of a Bulk job are as old as the job: the formula of one of them would else come back.
    """
    loaded.page_by(1)
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        loaded.org.update(id_, {"Spend__c": 100})
    asked: list[tuple[str, int]] = []

    def act(world: World, context: Any) -> None:
        world.org.change_formula("Contact", "Spend_With_Tax__c", lambda spend: spend and 2 * spend)
        for id_ in (world.ann, world.bob, world.cid):
            asked.append((id_, ask(orders, id_)))
        answer(world, context)
        assert [world.row(id_)["custom"]["Spend_With_Tax__c"] for id_, _ in asked] == [200, 200, 200]
        assert all(wait(orders, *one) for one in asked)

    while_passing(loaded, "worker", act)

    assert len(asked) == 3
    assert [loaded.row(id_)["custom"]["Spend_With_Tax__c"] for id_, _ in asked] == [200, 200, 200]
    outcomes = loaded.sql("SELECT DISTINCT outcome FROM sync.run WHERE object = 'Contact'")
    assert outcomes == [("succeeded",)], "neither run has taken the other for one that was left"
    assert loaded.sql("SELECT FROM sync.reread") == []
    loaded.run()
    loaded.assert_equal()


def test_another_process_holds_it_up(loaded: World, orders: Role, capsys: pytest.CaptureFixture[str]) -> None:
    """Under another process's lease nothing is read; the log says so once, and it is read when the lease is free."""
    logger.setup("info", "logfmt")
    number = ask(orders, loaded.ann)
    pauses = Pauses()
    with leases.lease(loaded.engine, "Contact", "other", timedelta(0), loaded.stop):
        for _ in range(2):
            answer(loaded, pauses=pauses)
        assert queries(loaded) == []
        assert capsys.readouterr().err.count("event=requests_wait object=Contact") == 1
    answer(loaded, pauses=pauses)

    assert wait(orders, loaded.ann, number) is True
    assert runs(loaded)[0][1] == "succeeded"


@pytest.mark.parametrize("shared", [False, True])
def test_a_lease_that_is_lost_while_it_reads(loaded: World, orders: Role, *, shared: bool) -> None:
    """What was read under a lease that another process has taken over is not written, and is read again."""
    context = loaded.context("request")
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    number = ask(orders, loaded.ann)
    if shared:
        leases.acquire(loaded.engine, "Contact", context.owner, timedelta(0), loaded.stop)

    asked = context.session.query

    def query(*args: Any, **more: Any) -> Any:
        found = asked(*args, **more)
        context.session.query = asked  # type: ignore[method-assign]  # once
        loaded.expire_leases()
        leases.acquire(loaded.engine, "Contact", "other", timedelta(0), loaded.stop)
        return found

    context.session.query = query  # type: ignore[method-assign]  # what comes between two steps
    answer(loaded, context)
    assert loaded.row(loaded.ann)["title"] is None
    assert wait(orders, loaded.ann, number) is False

    loaded.expire_leases()
    answer(loaded, context)
    assert loaded.row(loaded.ann)["title"] == "Boss"
    assert wait(orders, loaded.ann, number) is True


def test_a_first_load_comes_first(world: World, orders: Role) -> None:
    """Until its object is loaded a request waits, without an API call; the load does not answer it."""
    ann = world.org.create("Contact", {"LastName": "Ann"})
    number = ask(orders, ann)
    answer(world)
    assert (waiting(world), world.sim.requests) == ([ann], [])

    world.run()
    answer(world)
    assert wait(orders, ann, number) is True


def test_a_request_of_an_uncommitted_transaction_is_not_lost(loaded: World, orders: Role) -> None:
    """A lower number that is committed later than a higher one of the same record is answered with it."""
    with orders.connect() as connection:
        first = connection.execute(text("SELECT crm.request(:id)"), {"id": loaded.ann}).scalar_one()
        with role(loaded.engine) as other:
            second = ask(other.granted(*GRANTS), loaded.ann)
        assert second > first
        answer(loaded)
        connection.commit()

    assert wait(orders, loaded.ann, first) is True
    loaded.sim.requests.clear()
    answer(loaded)
    assert waiting(loaded) == []
    assert wait(orders, loaded.ann, second) is True


def test_a_request_while_its_record_is_read_is_another(loaded: World, orders: Role) -> None:
    """What is asked for after the reading has begun is read again: the reading may be older than the change."""
    first = ask(orders, loaded.ann)
    later: list[int] = []
    context = loaded.context("request")
    asked = context.session.query

    def query(*args: Any, **more: Any) -> Any:
        if not later:
            later.append(ask(orders, loaded.ann))
        return asked(*args, **more)

    context.session.query = query  # type: ignore[method-assign]  # what comes between two steps
    answer(loaded, context)

    assert later[0] > first
    assert wait(orders, loaded.ann, first) is True
    assert wait(orders, loaded.ann, later[0]) is False
    assert waiting(loaded) == [loaded.ann]


# ── failures ──────────────────────────────────────────────────────────────────────────────────────────


def test_after_a_failure_it_waits_and_is_tried_again(loaded: World, orders: Role) -> None:
    """A failure leaves the request waiting, and pauses that grow are made before the next attempt."""
    number, other = ask(orders, loaded.ann), ask(orders, loaded.acme)
    broken = loaded.sim.faults.add("malformed_query", on="query", sobject="Contact", times=None)
    pauses = Pauses()
    for _ in range(3):
        answer(loaded, pauses=pauses)

    assert (broken.fired, wait(orders, loaded.ann, number)) == (1, False)
    assert wait(orders, loaded.acme, other) is True, "the other object goes on"
    assert pauses.seconds == {"Contact": requests.FIRST_PAUSE}
    lengths = [pauses.lengthen("Contact") for _ in range(10)]
    assert (lengths[0], lengths[-1]) == (2 * requests.FIRST_PAUSE, requests.LONGEST_PAUSE)

    loaded.sim.faults.clear()
    pauses.until.clear()
    answer(loaded, pauses=pauses)
    assert wait(orders, loaded.ann, number) is True
    assert pauses.seconds == {}


def test_the_budget_is_not_spent_on_requests(loaded: World, orders: Role) -> None:
    """Above the API budget requests wait, without a call, and are read when there is room again."""
    loaded.sim.options.limit_max, loaded.sim.options.limit_used = 1000, 900
    context = loaded.context("request")
    context.session.describe("Contact")
    number = ask(orders, loaded.ann)
    loaded.sim.requests.clear()
    answer(loaded, context)
    assert (loaded.sim.requests, waiting(loaded)) == ([], [loaded.ann])

    loaded.sim.options.limit_used = 10
    context.session.describe("Contact")
    answer(loaded, context)
    assert wait(orders, loaded.ann, number) is True


@pytest.mark.parametrize("what", ["login", "org"])
def test_what_stops_all_work_is_raised(loaded: World, orders: Role, what: str) -> None:
    """A refused login or another org ends the turn with its error; the request waits."""
    ask(orders, loaded.ann)
    if what == "login":
        loaded.sim.faults.add("token_wrong_secret", on="token", times=None)
    else:
        loaded.sql("UPDATE sync.org SET organization_id = '00D000000000001'")

    with pytest.raises(LoginError if what == "login" else OrgChangedError):
        answer(loaded)
    assert waiting(loaded) == [loaded.ann]


class Dead(BaseException):
    """The process ends here."""


def dies_at(number: int) -> Callable[[Any], None]:
    """End the process before its Nth commit."""
    seen = [0]

    def count(_connection: Any) -> None:
        seen[0] += 1
        if seen[0] == number:
            raise Dead

    return count


@pytest.mark.parametrize("number", range(1, 14))
def test_a_death_at_any_commit(loaded: World, orders: Role, number: int) -> None:
    """Wherever the worker ends, the next one answers, and the feed tells the change once."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    stamp = ask(orders, loaded.ann)
    listener = dies_at(number)
    event.listen(Engine, "commit", listener)
    try:
        answer(loaded)
        died = False
    except Dead:
        died = True
    finally:
        event.remove(Engine, "commit", listener)
    assert died == (number < 13), "the number of commits has changed"
    assert not died or not waiting(loaded) or wait(orders, loaded.ann, stamp) is False

    loaded.expire_leases()
    answer(loaded)

    assert wait(orders, loaded.ann, stamp) is True
    assert loaded.news(loaded.seen) == [("update", loaded.ann)]
    loaded.run()
    loaded.assert_equal()


# ── what operators see ────────────────────────────────────────────────────────────────────────────────


def test_status_names_requests_that_wait(loaded: World, orders: Role) -> None:
    """After a minute `status` says for which object, how many and since when; its JSON does, too."""
    for id_ in (loaded.ann, loaded.bob):
        ask(orders, id_)

    def delayed() -> tuple[tuple[Any, ...], list[str]]:
        with tables.transaction(loaded.engine) as connection:
            found = read_status(connection, ("Account", "Contact"), timedelta(days=9999))
        assert found.headline.startswith("OK")
        return found.requests, [line for line in found.warnings if "asked for" in line]

    assert delayed() == ((), [])
    loaded.sql("UPDATE sync.request SET at = now() - interval '61 seconds'")
    [one], [warning] = delayed()
    assert (one.object, one.records) == ("Contact", 2)
    assert warning.startswith("Contact: consumers have asked for 2 records since ")
