"""crm.request and crm.wait_for: what is refused, the limits, and what consumers cannot do to each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sync.catalogue.mapping import full_id
from sync.operations import erasure, grants, pruning
from sync.postgres import tables
from sync.postgres.state import requests as state
from tests.support.asking import answer, ask, open_requests, wait, waiting
from tests.support.consuming import GRANTS, Role, role
from tests.support.world import World


@pytest.fixture
def orders(loaded: World) -> Iterator[Role]:
    """A role that may do what is granted to consumers, where a worker has started."""
    open_requests(loaded)
    with role(loaded.engine) as new:
        yield new.granted(*GRANTS)


def limit(world: World, per_hour: int) -> None:
    """What the worker writes when it starts with this setting."""
    world.environment["SYNC_REQUESTS_PER_HOUR"] = str(per_hour)
    open_requests(world)


# ── what may be asked for ─────────────────────────────────────────────────────────────────────────────


def test_both_forms_of_an_id_are_one_record(loaded: World, orders: Role) -> None:
    """15 and 18 characters ask for the same record, and for whichever both wait."""
    first, second = ask(orders, loaded.ann), ask(orders, loaded.ann[:15])
    assert (first, waiting(loaded)) == (second, [loaded.ann])
    assert wait(orders, loaded.ann[:15], first) is False


def test_the_checksum_is_that_of_salesforce(loaded: World) -> None:
    """The database makes of 15 characters the same 18 as the product."""
    ids = [
        *("001000000000001", "0035g00000ABCde", "aBcDeFgHiJkLmNo", "zzzzzzzzzzzzzzz", "ZZZZZZZZZZZZZZZ"),
        *(one[:15] for one in (loaded.ann, loaded.acme)),
    ]
    for short in ids:
        found = loaded.sql(
            "SELECT sync.full_id('x', :short), sync.full_id('x', :full)", short=short, full=full_id(short)
        )
        assert found == [(full_id(short), full_id(short))]


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        ("request(NULL)", "NULL is no Salesforce Id", "15 or 18 letters and digits"),
        ("request('')", "is no Salesforce Id", "15 or 18"),
        ("request('0035g00000ABCd')", "is no Salesforce Id", "15 or 18"),
        ("request('0035g00000ABC-e')", "is no Salesforce Id", "15 or 18"),
        ("request(E'0035g00000ABCde\\n')", "is no Salesforce Id", "15 or 18"),
        ("request(repeat('x', 10000))", "is no Salesforce Id", "15 or 18"),
        ("request('0035g00000ABCdeAAA')", "is mistyped", "with the capitals"),
        ("request('00Q5g00000ABCde')", "belongs to no replicated object", "001 (Account), 003 (Contact)"),
        ("wait_for(NULL, 1)", "NULL is no Salesforce Id", "15 or 18"),
        ("wait_for('{ann}', NULL)", "must not be NULL", "the number that crm.request gave"),
        ("wait_for('{ann}', 1, NULL)", "must not be NULL", "the number that crm.request gave"),
        ("wait_for('{ann}', 1, '61 seconds')", "at most 00:01:00", "in a loop"),
        ("wait_for('{ann}', 1, '1200 months -36000 days')", "at most 00:01:00", "in a loop"),
        ("wait_for('{ann}', 1)", "no request 1 of {ann} is waiting", "call crm.request again"),
        ("wait_for('{ann}', 9223372036854775807)", "is waiting", "call crm.request again"),
    ],
)
def test_refusals_say_what_to_do(loaded: World, orders: Role, call: str, message: str, hint: str) -> None:
    """What cannot be answered is refused at once, with what to pass instead."""
    said, advice = orders.refusal(f"SELECT crm.{call.format(ann=loaded.ann)}")

    assert message.format(ann=loaded.ann) in said
    assert hint in advice
    assert len(said) < 200
    assert waiting(loaded) == []


def test_no_worker_has_started(loaded: World) -> None:
    """Where nobody would answer, nobody waits."""
    with role(loaded.engine) as new:
        new.granted(*GRANTS)
        said, hint = new.refusal(f"SELECT crm.request('{loaded.ann}')")

    assert "no worker has started" in said
    assert "python -m sync worker" in hint


def test_an_object_that_is_not_replicated_any_more(loaded: World, orders: Role) -> None:
    """Its Ids are refused from the worker's next start on, and what waited for it is gone."""
    stamp = ask(orders, loaded.acme)
    loaded.environment["SYNC_OBJECTS"] = "Contact"
    open_requests(loaded)

    assert waiting(loaded) == []
    assert "belongs to no replicated object" in orders.refusal(f"SELECT crm.request('{loaded.acme}')")[0]
    gone = orders.refusal(f"SELECT crm.wait_for('{loaded.acme}', {stamp})")
    assert "is waiting" in gone[0]


def test_an_erased_person_is_refused(loaded: World, orders: Role) -> None:
    """An erased record is not asked for again, and the erasure forgets who asked before."""
    number = ask(orders, loaded.ann)
    other = ask(orders, loaded.bob)
    answer(loaded)
    ask(orders, loaded.ann)
    erasure.erase(loaded.engine, {"Contact": [loaded.ann]}, "test", "me", loaded.context().wait, loaded.stop)

    said, hint = orders.refusal(f"SELECT crm.request('{loaded.ann[:15]}')")
    assert "erased on request" in said
    assert "`erase`" in hint
    assert "is waiting" in orders.refusal(f"SELECT crm.wait_for('{loaded.ann}', {number})")[0]
    assert wait(orders, loaded.bob, other) is True
    assert loaded.sql("SELECT record_id FROM sync.answer") == [(loaded.bob,)]


# ── deduplicated ──────────────────────────────────────────────────────────────────────────────────────


def test_a_request_that_waits_serves_others(loaded: World, orders: Role) -> None:
    """Until the worker takes a record up, whoever asks for it has the same number, and nobody is counted again."""
    limit(loaded, 1)
    first = ask(orders, loaded.ann)
    with role(loaded.engine) as other:
        assert ask(other.granted(*GRANTS), loaded.ann) == first
        assert ask(orders, loaded.ann) == first
        assert loaded.sql("SELECT role, requests FROM sync.requester") == [(orders.name, 1)]
        with tables.transaction(loaded.engine) as connection:
            state.take(connection, "Contact")
        assert ask(other, loaded.ann) > first, "what is being read may be older than the request"


def test_an_older_snapshot_joins_no_other(loaded: World, orders: Role) -> None:
    """In REPEATABLE READ a request that seems to wait may be answered: the record is asked for anew."""
    first = ask(orders, loaded.ann)
    with orders.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT FROM crm.freshness"))
        answer(loaded)
        second = connection.execute(text("SELECT crm.request(:id)"), {"id": loaded.ann}).scalar_one()
        connection.commit()

    assert second > first
    assert wait(orders, loaded.ann, first) is True
    assert wait(orders, loaded.ann, second) is False


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_role_has_so_many_an_hour(loaded: World, orders: Role) -> None:
    """Above the limit a role is refused until its hour is over; the other roles are not."""
    limit(loaded, 2)
    for id_ in (loaded.ann, loaded.bob):
        ask(orders, id_)
    said, hint = orders.refusal(f"SELECT crm.request('{loaded.cid}')")
    assert f"role {orders.name} has made its 2 requests of this hour" in said
    assert "SYNC_REQUESTS_PER_HOUR" in hint
    with role(loaded.engine) as other:
        ask(other.granted(*GRANTS), loaded.cid)

    loaded.sql("UPDATE sync.requester SET since = now() - interval '59 minutes'")
    assert "of this hour" in orders.refusal(f"SELECT crm.request('{loaded.acme}')")[0]
    loaded.sql("UPDATE sync.requester SET since = now() - interval '61 minutes'")
    ask(orders, loaded.acme)


def test_a_clock_that_was_set_back_locks_nobody_out(loaded: World, orders: Role) -> None:
    """An hour that begins in the future is none."""
    limit(loaded, 1)
    ask(orders, loaded.ann)
    loaded.sql("UPDATE sync.requester SET since = now() + interval '1 day'")

    ask(orders, loaded.bob)


def test_the_sessions_of_a_role_share_its_limit(loaded: World, orders: Role) -> None:
    """A second session waits for the first to commit, so that what is not committed counts, too."""
    limit(loaded, 1)
    refused: list[str] = []
    with orders.connect() as first:
        first.execute(text("SELECT crm.request(:id)"), {"id": loaded.ann})
        second = threading.Thread(
            target=lambda: refused.append(orders.refusal(f"SELECT crm.request('{loaded.bob}')")[0])
        )
        second.start()
        deadline = time.monotonic() + 10
        while not loaded.sql(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            assert time.monotonic() < deadline
        with role(loaded.engine) as other:
            ask(other.granted(*GRANTS), loaded.cid)
        first.commit()
    second.join(10)

    assert len(refused) == 1
    assert waiting(loaded) == [loaded.ann, loaded.cid]


def test_all_roles_together_have_a_limit(loaded: World, orders: Role) -> None:
    """Ten roles may make all of their requests; more roles share these."""
    limit(loaded, 1)
    loaded.sql("INSERT INTO sync.requester SELECT 'role ' || i, now(), 1 FROM generate_series(1, 10) AS i")
    said, _ = orders.refusal(f"SELECT crm.request('{loaded.ann}')")
    assert "all roles together have made 10 times 1 requests" in said

    loaded.sql("UPDATE sync.requester SET since = now() - interval '2 hours' WHERE role = 'role 7'")
    ask(orders, loaded.ann)


@pytest.mark.parametrize(("rows", "whose"), [(1_000, "session_user"), (10_000, "'others'")])
def test_the_queue_is_bounded(loaded: World, orders: Role, rows: int, whose: str) -> None:
    """Where nothing is answered, requests are refused before they fill the database."""
    mine = orders.name if whose == "session_user" else "others"
    loaded.sql(
        "INSERT INTO sync.request (record_id, object, role, xid) "
        "SELECT '003' || i, 'Contact', :role, 1 FROM generate_series(1, :rows) AS i",
        role=mine,
        rows=rows,
    )

    said, hint = orders.refusal(f"SELECT crm.request('{loaded.ann}')")
    assert "10000 requests are waiting, or 1000 of role" in said
    assert "python -m sync status" in hint


def test_switched_off(loaded: World, orders: Role) -> None:
    """With 0 an hour nobody asks, and is told what to do instead."""
    limit(loaded, 0)

    said, hint = orders.refusal(f"SELECT crm.request('{loaded.ann}')")
    assert "switched off" in said
    assert "crm.wait_until" in hint


def test_what_is_rolled_back_is_neither_counted_nor_read(loaded: World, orders: Role) -> None:
    """A request counts with its transaction."""
    limit(loaded, 1)
    with orders.connect() as connection:
        number = connection.execute(text("SELECT crm.request(:id)"), {"id": loaded.ann}).scalar_one()
        connection.rollback()

    assert waiting(loaded) == []
    assert "call crm.request again" in orders.refusal(f"SELECT crm.wait_for('{loaded.ann}', {number})")[1]
    ask(orders, loaded.bob)


# ── wait_for ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("savepoint", [False, True])
def test_the_transaction_of_the_request_does_not_wait(
    loaded: World, orders: Role, *, savepoint: bool
) -> None:
    """The worker sees nothing of it: refused at once, with what to do, also behind a savepoint."""
    with orders.connect() as connection:
        if savepoint:
            connection.execute(text("SAVEPOINT one"))
        number = connection.execute(text("SELECT crm.request(:id)"), {"id": loaded.ann}).scalar_one()
        if savepoint:
            connection.execute(text("RELEASE one"))
        with pytest.raises(DBAPIError, match=r"(?s)was made in this transaction.*HINT:  Commit, then"):
            connection.execute(text(f"SELECT crm.wait_for('{loaded.ann}', {number}, '5 seconds')"))
    with pytest.raises(DBAPIError, match="was made in this transaction"):
        orders.ask("SELECT crm.wait_for(CAST(:id AS text), crm.request(:id))", id=loaded.ann)


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_does_not_wait(loaded: World, orders: Role, isolation: str) -> None:
    """Where later commits cannot be seen the wait is refused at once."""
    number = ask(orders, loaded.ann)
    with (
        orders.connect().execution_options(isolation_level=isolation) as connection,
        pytest.raises(DBAPIError, match=r"(?s)sees no later commits.*HINT:  Call it in READ COMMITTED"),
    ):
        connection.execute(text(f"SELECT crm.wait_for('{loaded.ann}', {number})"))


def test_a_wait_ends_with_the_answer_or_the_timeout(loaded: World, orders: Role) -> None:
    """It is true right after the record was read, and false not long after the timeout."""
    number = ask(orders, loaded.ann)
    began = time.monotonic()
    assert wait(orders, loaded.ann, number, "300ms") is False
    assert 0.25 < time.monotonic() - began < 1.5

    answering = threading.Timer(0.3, answer, (loaded,))
    answering.start()
    try:
        assert wait(orders, loaded.ann, number, "30s") is True
    finally:
        answering.join()
    assert time.monotonic() - began < 10


def test_a_wait_holds_no_lock_of_ours(loaded: World, orders: Role) -> None:
    """While somebody waits, whatever a migration alters can be altered at once."""
    number = ask(orders, loaded.ann)
    waits = threading.Thread(target=lambda: wait(orders, loaded.ann, number, "600ms"))
    waits.start()
    try:
        time.sleep(0.2)
        for table in ("request", "answer", "requestable"):
            loaded.sql(f"SET LOCAL lock_timeout = '100ms'; LOCK TABLE sync.{table} IN ACCESS EXCLUSIVE MODE")
    finally:
        waits.join()


def test_a_wait_writes_nothing(loaded: World, orders: Role) -> None:
    """It may be called where a transaction is read-only, as on a standby."""
    number = ask(orders, loaded.ann)
    answer(loaded)
    with orders.connect() as connection:
        connection.execute(text("SET TRANSACTION READ ONLY"))
        done = connection.execute(text(f"SELECT crm.wait_for('{loaded.ann}', {number})")).scalar_one()

    assert done is True


def test_another_record_or_number_is_no_answer(loaded: World, orders: Role) -> None:
    """The number of one record says nothing of another."""
    number = ask(orders, loaded.ann)
    answer(loaded)

    assert wait(orders, loaded.ann, number) is True
    assert "no request" in orders.refusal(f"SELECT crm.wait_for('{loaded.bob}', {number})")[0]


# ── revoked and pruned ────────────────────────────────────────────────────────────────────────────────


def test_a_revoked_role_has_no_requests(loaded: World, orders: Role) -> None:
    """What waits of it is withdrawn, although a transaction of it has locked its count."""
    ask(orders, loaded.ann)
    with orders.connect() as connection:
        connection.execute(text("SELECT crm.request(:id)"), {"id": loaded.bob})
        with tables.transaction(loaded.engine) as other:
            other.execute(text("SET LOCAL lock_timeout = '1s'"))
            said = grants.revoke(other, orders.name)
        connection.rollback()

    assert said.endswith("; 1 of its requests withdrawn")
    assert waiting(loaded) == []


def test_old_answers_are_pruned(loaded: World, orders: Role) -> None:
    """Answers older than a day go, but for those that a request waits for; so do the counts of past hours."""
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        ask(orders, id_)
    answer(loaded)
    ask(orders, loaded.bob)
    loaded.sql("UPDATE sync.answer SET at = now() - interval '25 hours' WHERE record_id <> :c", c=loaded.cid)
    loaded.sql("UPDATE sync.requester SET since = now() - interval '25 hours'")
    loaded.sql("INSERT INTO sync.requester VALUES ('other', now(), 1)")
    month = loaded.settings.sync_feed_retention
    list(pruning.prune(loaded.engine, month, month, threading.Event()))

    kept = {row.record_id for row in loaded.sql("SELECT record_id FROM sync.answer")}
    assert kept == {loaded.bob, loaded.cid}
    assert loaded.sql("SELECT role FROM sync.requester") == [("other",)]
