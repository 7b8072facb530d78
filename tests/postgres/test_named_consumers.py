"""Named consumers of the feed: what they are given, what they lose, and what they cannot do to each other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from sync.errors import UsageError
from sync.operations import erasure, grants, metrics, pruning, status
from sync.operations.alerts.problems import Observed, find_problems
from sync.postgres import consumers, tables
from tests.support.consuming import GRANTS, Role, role
from tests.support.world import World

MONTH, QUARTER = timedelta(days=30), timedelta(days=90)
BOTH = ("Account", "Contact")


@pytest.fixture
def orders(loaded: World) -> Iterator[Role]:
    """A role that may do what is granted to consumers, on a loaded database."""
    with role(loaded.engine) as new:
        yield new.granted(*GRANTS)


def poll(role: Role, name: str = "orders", maximum: int = 1000) -> list[tuple[Any, ...]]:
    """What a consumer is given: number, object, Id and op."""
    return role.ask(f"SELECT seq, object, record_id, op FROM crm.poll('{name}', {maximum})")


def subscribe(role: Role, name: str = "orders", objects: str = "NULL") -> int:
    """Begin a consumer; its number."""
    [(seq,)] = role.ask(f"SELECT seq FROM crm.subscribe('{name}', {objects})")
    return int(seq)


def rename(world: World, *titles: str) -> None:
    """A change of one contact and a pass for each title."""
    for title in titles:
        world.org.update(world.ann, {"Title": title})
        world.run()


def prune_everything(world: World) -> None:
    """What the retention does to all entries so far: the ring is turned, and they are old enough."""
    world.sql("UPDATE sync.change SET at = now() - interval '40 days'")
    world.sql("UPDATE sync.feed SET slot_since = now() - interval '40 days'")
    for _ in range(2):
        list(pruning.prune(world.engine, MONTH, QUARTER, threading.Event()))
    assert world.sql("SELECT count(*) FROM sync.change")[0][0] == 0


# ── poll and ack ──────────────────────────────────────────────────────────────────────────────────────


def test_what_followed_the_subscription_is_given_until_it_is_acknowledged(
    loaded: World, orders: Role
) -> None:
    """Nothing from before, then every entry, again and again until it is acknowledged."""
    began = subscribe(orders)
    assert began == loaded.last_seq()
    assert poll(orders) == []
    rename(loaded, "Boss", "Chief")

    entry = ("Contact", loaded.ann, "update")
    assert poll(orders) == [(began + 1, *entry), (began + 2, *entry)] == poll(orders)
    assert poll(orders, maximum=1) == [(began + 1, *entry)]
    assert orders.ask(f"SELECT crm.ack('orders', {began + 1})") == [(began + 1,)]
    assert poll(orders) == [(began + 2, *entry)]
    assert subscribe(orders) == began + 1, "a consumer that is there stays where it is"
    assert orders.ask(f"SELECT crm.ack('orders', {began})") == [(began + 1,)], "it never goes back"
    orders.ask(f"SELECT crm.ack('orders', {began + 2})")
    assert poll(orders) == []


def test_snapshot_then_follow_misses_nothing(loaded: World, orders: Role) -> None:
    """Subscribed and read in one snapshot: what is committed meanwhile is in the first poll, and nothing twice."""
    with orders.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT FROM crm.freshness"))
        rename(loaded, "Boss")
        [seq] = connection.execute(text("SELECT seq FROM crm.subscribe('orders')")).scalars()
        seen = connection.execute(
            text("SELECT title FROM crm.contact WHERE id = :ann"), {"ann": loaded.ann}
        ).scalar()
        connection.commit()

    assert seen != "Boss"
    assert poll(orders) == [(seq + 1, "Contact", loaded.ann, "update")]


def test_work_and_acknowledgement_are_one_transaction(loaded: World, orders: Role) -> None:
    """Rolled back together; and a second process of the same consumer waits for the first, then goes on after it."""
    began = subscribe(orders)
    rename(loaded, "Boss", "Chief")
    found: list[list[tuple[Any, ...]]] = []
    second = threading.Thread(target=lambda: found.append(poll(orders)))

    with orders.connect() as first:
        first.execute(text("SELECT FROM crm.poll('orders')"))
        first.execute(text(f"SELECT crm.ack('orders', {began + 2})"))
        first.rollback()
        first.execute(text("SELECT FROM crm.poll('orders', 1)"))
        second.start()
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        deadline = time.monotonic() + 10
        while not loaded.sql(waiting):
            assert time.monotonic() < deadline
        first.execute(text(f"SELECT crm.ack('orders', {began + 1})"))
        first.commit()
    second.join(10)

    assert found == [[(began + 2, "Contact", loaded.ann, "update")]]


def test_only_the_objects_of_the_subscription(loaded: World, orders: Role) -> None:
    """A consumer of one object never sees another's entries, nor do those hold its acknowledgement."""
    subscribe(orders, objects="ARRAY['Account', 'Account']")
    [acme] = loaded.org.ids("Account")[:1]
    rename(loaded, "Boss")
    loaded.org.update(acme, {"Name": "Acme 2"})
    loaded.run()

    assert [entry[1:] for entry in poll(orders)] == [("Account", acme, "update")]


def test_a_rare_object_does_not_cost_the_reading_of_the_others(loaded: World, orders: Role) -> None:
    """One account among many contacts is found through the index."""
    began = subscribe(orders, objects="ARRAY['Account']")
    loaded.sql(
        "WITH n AS (UPDATE sync.feed SET last_seq = last_seq + 20001 RETURNING last_seq - 20001 AS base, slot) "
        "INSERT INTO sync.change (slot, seq, object, record_id, op) "
        "SELECT slot, base + i, CASE WHEN i = 20001 THEN 'Account' ELSE 'Contact' END, 'id', 'update' "
        "FROM n, generate_series(1, 20001) AS i"
    )
    loaded.sql("ANALYZE sync.change")

    for call in ("crm.poll('orders')", f"crm.changes_since(sync.epoch(), {began}, 1000, ARRAY['Account'])"):
        loaded.sql("GRANT USAGE ON SCHEMA sync TO PUBLIC; GRANT EXECUTE ON FUNCTION sync.epoch TO PUBLIC")
        orders.ask(f"SELECT FROM {call}")  # plans are made, and the catalogue is read
        [(plan,)] = orders.ask(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT FROM {call}")
        node = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
        assert node["Actual Rows"] == 1
        blocks = node["Shared Hit Blocks"] + node["Shared Read Blocks"]
        assert blocks < 2_000, blocks  # with the catalogue, in a new connection; the feed has 20,001 entries


def test_an_object_that_never_changes_does_not_fall_behind(loaded: World, orders: Role) -> None:
    """What was polled and holds nothing of the consumer's objects is passed, once an hour at most."""
    began = subscribe(orders, objects="ARRAY['Account']")
    rename(loaded, "Boss")

    assert poll(orders) == []
    assert subscribe(orders, objects="ARRAY['Account']") == began
    loaded.sql("UPDATE sync.consumer SET moved_at = now() - interval '2 hours'")
    assert poll(orders) == []
    assert subscribe(orders, objects="ARRAY['Account']") == loaded.last_seq()


def test_consumers_are_their_roles_own(loaded: World, orders: Role) -> None:
    """The same name of another role is another consumer; nobody else's can be polled, acknowledged or ended."""
    began = subscribe(orders)
    rename(loaded, "Boss")
    with role(loaded.engine) as billing:
        billing.granted(*GRANTS)
        for call in ("crm.poll('orders')", "crm.ack('orders', 1)"):
            message, hint = billing.refusal(f"SELECT * FROM {call}")
            assert message.endswith(f"role {billing.name} has no consumer 'orders'")
            assert "SELECT crm.subscribe('orders');" in hint
        assert billing.ask("SELECT crm.unsubscribe('orders')") == [(False,)]
        assert subscribe(billing) == began + 1

        assert len(poll(orders)) == 1
        assert poll(billing) == []
    assert orders.ask("SELECT crm.unsubscribe('orders')") == [(True,)]
    assert orders.ask("SELECT crm.unsubscribe('orders')") == [(False,)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("crm.subscribe(NULL)", "crm.subscribe: name is NULL, which names no consumer"),
        ("crm.subscribe('Orders')", "crm.subscribe: name is 'Orders', which names no consumer"),
        (
            "crm.subscribe('o' || repeat('x', 63))",
            f"crm.subscribe: name is '{'o' + 'x' * 63}', which names no consumer",
        ),
        ("crm.subscribe('a', ARRAY['Acount'])", "crm.subscribe: Acount is not replicated"),
        ("crm.subscribe('a', ARRAY[NULL])", "crm.subscribe: NULL is not replicated"),
        ("crm.subscribe('a', '{}')", "crm.subscribe: objects is empty"),
        ("crm.subscribe('known', '{}')", "crm.subscribe: consumer 'known' has other objects: all"),
        (
            "crm.subscribe('known', ARRAY['Contact'])",
            "crm.subscribe: consumer 'known' has other objects: all",
        ),
        ("crm.poll('known', 0)", "crm.poll: max is 0, not between 1 and 10000"),
        ("crm.poll('known', NULL)", "crm.poll: max is NULL, not between 1 and 10000"),
        ("crm.ack('known', NULL)", "crm.ack: seq is NULL"),
        ("crm.ack('known', 1000)", "crm.ack: seq is 1000, and the last number of the feed is 2"),
        ("crm.poll(NULL)", "crm.poll: role {role} has no consumer NULL"),
        ("crm.changes_since(NULL, 0)", "crm.changes_since: epoch is NULL, and the feed's is {epoch}"),
        ("crm.changes_since('1.1.1', 0)", "crm.changes_since: epoch is 1.1.1, and the feed's is {epoch}"),
        ("crm.changes_since('{epoch}', NULL)", "crm.changes_since: after is NULL"),
        (
            "crm.changes_since('{epoch}', 3)",
            "crm.changes_since: after is 3, and the last number of the feed is 2",
        ),
        (
            "crm.changes_since('{epoch}', 0, 10001)",
            "crm.changes_since: max is 10001, not between 1 and 10000",
        ),
        (
            "crm.changes_since('{epoch}', 0, 1, ARRAY['Lead'])",
            "crm.changes_since: Lead is not replicated",
        ),
    ],
)
def test_what_is_wrong_is_told(loaded: World, orders: Role, call: str, message: str) -> None:
    """Each wrong argument is named, with a hint, and nothing is written."""
    subscribe(orders, "known")
    [(epoch,)] = orders.ask("SELECT epoch FROM crm.feed_position()")
    before = loaded.sql("SELECT * FROM sync.consumer")

    told, hint = orders.refusal(f"SELECT * FROM {call.replace('{epoch}', epoch)}")

    assert told == message.replace("{epoch}", epoch).replace("{role}", orders.name)
    assert hint.endswith((".", ";"))
    assert loaded.sql("SELECT * FROM sync.consumer") == before


def test_there_are_at_most_so_many_consumers(loaded: World, orders: Role) -> None:
    """Twenty of one role, a hundred in all; those of a role that was dropped make room for others."""
    for number in range(20):
        subscribe(orders, f"c{number}")
    message, hint = orders.refusal("SELECT crm.subscribe('more')")
    assert message == f"crm.subscribe: there are 100 consumers, or 20 of role {orders.name}"
    assert "crm.unsubscribe(name)" in hint
    loaded.sql(
        "INSERT INTO sync.consumer (role, name, epoch, seq) "
        "SELECT 'gone', i::text, '', 0 FROM generate_series(1, 80) AS i"
    )
    with role(loaded.engine) as billing:
        billing.granted(*GRANTS)
        subscribe(billing)
        assert loaded.sql("SELECT FROM sync.consumer WHERE role = 'gone'") == []
        loaded.sql(
            "INSERT INTO sync.consumer (role, name, epoch, seq) "
            "SELECT r.rolname, 'n' || row_number() OVER (), '', 0 FROM pg_roles AS r, generate_series(1, 9) LIMIT 79"
        )
        billing.refusal("SELECT crm.subscribe('more')")


# ── entries that are gone, and another epoch ──────────────────────────────────────────────────────────


def test_what_was_pruned_is_told_as_reload(loaded: World, orders: Role) -> None:
    """A consumer that did not acknowledge in time reads its objects again, once, and goes on from there."""
    subscribe(orders)
    rename(loaded, "Boss")
    prune_everything(loaded)
    last = loaded.last_seq()

    again = [(last, "Account", None, "reload"), (last, "Contact", None, "reload")]
    assert poll(orders, maximum=1) == again == poll(orders)
    rename(loaded, "Chief")
    orders.ask(f"SELECT crm.ack('orders', {last})")
    assert poll(orders) == [(last + 1, "Contact", loaded.ann, "update")]


def test_an_acknowledgement_that_comes_too_late(loaded: World, orders: Role) -> None:
    """Entries that were polled long ago and are pruned since cannot be acknowledged if others went with them."""
    began = subscribe(orders)
    rename(loaded, "Boss", "Chief")
    [first, _] = poll(orders)
    prune_everything(loaded)

    message, hint = orders.refusal(f"SELECT crm.ack('orders', {first[0]})")

    assert message == f"crm.ack: entries after {began + 1} are not kept any more"
    assert "crm.poll says reload" in hint
    assert {entry[3] for entry in poll(orders)} == {"reload"}


def test_another_epoch_is_told_as_reload(loaded: World, orders: Role) -> None:
    """After a failover nothing counts until the reload was polled: not even the number that was polled before."""
    subscribe(orders)
    rename(loaded, "Boss")
    [entry] = poll(orders)
    loaded.sql("UPDATE sync.consumer SET epoch = '1.1.1'")

    message, hint = orders.refusal(f"SELECT crm.ack('orders', {entry[0]})")
    assert message == "crm.ack: the database was restored or failed over since consumer 'orders' polled"
    assert "Poll again" in hint
    assert [found[1:] for found in poll(orders)] == [("Account", None, "reload"), ("Contact", None, "reload")]
    last = poll(orders)[0][0]
    rename(loaded, "Chief")
    poll(orders)  # a second poll before the first is acknowledged changes nothing
    orders.ask(f"SELECT crm.ack('orders', {last})")
    assert poll(orders) == [(last + 1, "Contact", loaded.ann, "update")]


def test_a_feed_that_went_back_is_told_as_reload(loaded: World, orders: Role) -> None:
    """A consumer that is ahead of the feed goes back with its reload, also if the feed has passed it meanwhile."""
    subscribe(orders)
    loaded.sql("UPDATE sync.consumer SET seq = seq + 2")
    [(last, *_), _] = poll(orders)
    rename(loaded, "a", "b", "c", "d")

    orders.ask(f"SELECT crm.ack('orders', {last})")

    assert [entry[0] for entry in poll(orders)] == [last + 1, last + 2, last + 3, last + 4]


def test_an_open_acknowledgement_holds_up_nobody(loaded: World, orders: Role) -> None:
    """While a consumer's transaction is open, a prune empties partitions, a pass writes, another consumer polls."""
    subscribe(orders)
    subscribe(orders, "others")
    rename(loaded, "Boss")
    with orders.connect() as connection:
        connection.execute(text("SELECT crm.ack('orders', :seq)"), {"seq": loaded.last_seq()})
        prune_everything(loaded)
        rename(loaded, "Chief")
        assert len(poll(orders, "others")) == 2
        connection.rollback()


# ── without a name ────────────────────────────────────────────────────────────────────────────────────


def test_changes_since_an_epoch(loaded: World, orders: Role) -> None:
    """The entries after a number, all of them or those of some objects, as crm.changes gives them."""
    rename(loaded, "Boss")
    [(epoch, last)] = orders.ask("SELECT epoch, seq FROM crm.feed_position()")

    everything = orders.ask("SELECT * FROM crm.changes(0)")

    assert orders.ask("SELECT * FROM crm.changes_since(:epoch, 0)", epoch=epoch) == everything
    assert len(everything) == last
    for name in BOTH:
        some = orders.ask(
            "SELECT * FROM crm.changes_since(:epoch, 0, 1000, ARRAY[:name])", epoch=epoch, name=name
        )
        assert some == [entry for entry in everything if entry[1] == name]
        assert (
            orders.ask("SELECT * FROM crm.changes_since(:epoch, 0, 1, ARRAY[:name])", epoch=epoch, name=name)
            == (some[:1])
        )


# ── values before a change ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def auditor(loaded: World, orders: Role) -> Role:
    """A role that an operator allows to see values before a change, with a consumer."""
    with tables.transaction(loaded.engine) as connection:
        told = grants.grant(connection, orders.name, old_values=True)
    assert "its consumers see values before a change in crm.poll, kept from now on" in told
    subscribe(orders)
    return orders


def old(role: Role) -> list[dict[str, Any] | None]:
    """The values before each change that a consumer has not acknowledged."""
    return [row[0] for row in role.ask("SELECT old FROM crm.poll('orders')")]


def kept(world: World) -> int:
    """How many entries of the feed hold old values."""
    return int(world.sql("SELECT count(*) FROM sync.change WHERE old IS NOT NULL")[0][0])


def test_values_before_a_change(loaded: World, auditor: Role) -> None:
    """An update has the old values of what it changed; a deletion all that the record had; the others none."""
    rename(loaded, "Boss")
    rename(loaded, "Chief")
    bob = loaded.org.create("Contact", {"LastName": "Bob", "Title": "New"})
    loaded.run()
    loaded.org.delete(bob)
    loaded.run()

    first, second, created, deleted = old(auditor)

    assert first is not None
    assert first["title"] is None
    assert second is not None
    assert second["title"] == "Boss"
    assert "last_name" not in second
    assert created is None
    assert deleted is not None
    assert (deleted["last_name"], deleted["title"], deleted["id"]) == ("Bob", "New", bob)
    assert not {"synced_at", "deleted_at", "deleted_reason"} & set(deleted)


def test_others_never_see_them(loaded: World, auditor: Role) -> None:
    """A role without leave has the entries without old values; so do crm.changes and crm.changes_since."""
    with role(loaded.engine) as billing:
        billing.granted(*GRANTS)
        subscribe(billing)
        rename(loaded, "Boss")
        assert old(billing) == [None]
        assert old(auditor) != [None]
    columns = auditor.ask("SELECT to_jsonb(c) FROM crm.changes(0) AS c")
    assert all("old" not in row[0] for row in columns)


def test_without_leave_none_are_kept(loaded: World, orders: Role) -> None:
    """As long as nobody may see them the feed holds none; taken back from the last role, they are erased."""
    subscribe(orders)
    rename(loaded, "Boss")
    assert kept(loaded) == 0
    with tables.transaction(loaded.engine) as connection:
        grants.grant(connection, orders.name, old_values=True)
    rename(loaded, "Chief")
    assert kept(loaded) == 1

    with tables.transaction(loaded.engine) as connection:
        told = grants.grant(connection, orders.name, old_values=False)

    assert "see values" not in told
    assert kept(loaded) == 0
    assert old(orders) == [None, None]


def test_revoke_ends_consumers_and_leave(loaded: World, auditor: Role) -> None:
    """A role that loses its access has no consumer any more, and no old values are kept for it."""
    rename(loaded, "Boss")

    with tables.transaction(loaded.engine) as connection:
        told = grants.revoke(connection, auditor.name)

    assert told.endswith("; 1 of its consumers of the feed ended")
    assert loaded.sql("SELECT FROM sync.consumer") == loaded.sql("SELECT FROM sync.old_values") == []
    assert kept(loaded) == 0


def test_an_erased_person_has_no_old_values(loaded: World, auditor: Role) -> None:
    """An erasure takes what the feed has kept of the person, too, and keeps none of the erasure itself."""
    rename(loaded, "Boss", "Chief")
    assert kept(loaded) == 2

    ids = {"Contact": [loaded.ann]}
    erasure.erase(loaded.engine, ids, "test", "request 7", timedelta(seconds=5), loaded.stop)

    assert kept(loaded) == 0
    assert old(auditor) == [None, None, None]


@pytest.mark.parametrize("values", ["erase", "keep"])
def test_old_values_go_with_the_values_of_a_tombstone(loaded: World, auditor: Role, values: str) -> None:
    """The retention of tombstones holds for the feed: at once, or when the deletion is old enough."""
    loaded.environment["SYNC_TOMBSTONE_VALUES"] = values
    loaded.environment["SYNC_TOMBSTONE_RETENTION"] = "30d"
    rename(loaded, "Boss")
    loaded.org.delete(loaded.ann)
    loaded.run()
    if values == "keep":
        assert kept(loaded) == 2
        loaded.sql("UPDATE salesforce.contact SET deleted_at = now() - interval '31 days' WHERE is_deleted")
        loaded.sql("UPDATE sync.cursor SET emptied_through = NULL")
        loaded.run()

    assert loaded.row(loaded.ann)["last_name"] is None
    assert kept(loaded) == 0


def test_excluded_fields_leave_no_old_values(loaded: World, auditor: Role) -> None:
    """A field that is excluded is erased from the feed, too."""
    rename(loaded, "Boss", "Chief")
    assert kept(loaded) == 2

    loaded.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Title"
    loaded.run()

    assert kept(loaded) == 0


def test_old_values_are_asked_for_by_name(loaded: World, orders: Role) -> None:
    """The command allows and forbids them; without the option it leaves them."""
    told = loaded.command("grant", orders.name, "--old-values").stdout
    assert "kept from now on" in told
    assert "kept from now on" in loaded.command("grant", orders.name).stdout
    assert "kept from now on" not in loaded.command("grant", orders.name, "--no-old-values").stdout
    with tables.transaction(loaded.engine) as connection:
        assert not consumers.may_see_old_values(connection, orders.name)
        with pytest.raises(UsageError, match="there is no role 'nobody_here'"):
            grants.grant(connection, "nobody_here", old_values=True)


# ── what operators see ────────────────────────────────────────────────────────────────────────────────


def test_a_consumer_that_falls_behind_is_told_before_it_loses_entries(loaded: World, orders: Role) -> None:
    """Behind, then lost, then well again: in `status`, in the incidents and in the metrics."""
    subscribe(orders, "orders")
    rename(loaded, "Boss")

    def observed(days: int) -> tuple[list[tuple[str, str]], bool, list[str]]:
        loaded.sql("UPDATE sync.change SET at = now() - make_interval(days => :days)", days=days)
        with tables.transaction(loaded.engine) as connection:
            found = status.read_status(connection, BOTH, QUARTER, None, MONTH)
        seen = Observed((), QUARTER, consumers=found.consumers, feed_retention=MONTH)
        assert metrics.samples({}, 0, [], found.consumers)["sample#sync.feed_backlog"] == sum(
            one.entries for one in found.consumers
        )
        problems = [(one.kind, one.object) for one in find_problems(seen)]
        return problems, "has not acknowledged" in found.headline, list(found.warnings)

    key = ("consumer_behind", f"{orders.name}/orders")
    assert observed(23) == ([], False, [])
    assert observed(25)[:2] == ([key], True)
    prune_everything(loaded)
    problems, headline, [warning] = observed(25)
    assert (problems, headline) == ([key], False)
    assert "has lost entries of the feed: it reads the views again when it polls next" in warning

    remedy = warning.partition("type: python -m sync ")[2].split()
    assert remedy == ["revoke", orders.name, "--consumer", "orders"]
    done = loaded.command(*remedy)
    assert done.stdout == f"consumer {orders.name}/orders ended; role {orders.name} still reads schema crm\n"
    again = loaded.command(*remedy)
    assert (again.returncode, "has no consumer 'orders'" in again.stderr) == (2, True)
    assert observed(25) == ([], False, [])
    assert orders.ask("SELECT count(*) FROM crm.contact") == [(3,)]


def test_status_lists_consumers(loaded: World, orders: Role) -> None:
    """Each with its objects, its backlog and whether it has to reload."""
    subscribe(orders, "accounts", "ARRAY['Account']")
    rename(loaded, "Boss")

    printed = loaded.command("status").stdout

    [line] = [line for line in printed.splitlines() if f"{orders.name}/accounts" in line]
    assert line.split()[1:] == ["Account", "1", "-", "follows"]
    document = json.loads(loaded.command("status", "--json").stdout)
    assert [(one["name"], one["entries"], one["lost"]) for one in document["consumers"]] == [
        ("accounts", 1, False)
    ]


def test_backlogs(loaded: World, orders: Role) -> None:
    """Each consumer with the entries and the age of what it has not read; those that lost entries come first."""
    subscribe(orders, "accounts", "ARRAY['Account']")
    subscribe(orders, "all")
    rename(loaded, "Boss", "Chief")
    loaded.sql("UPDATE sync.change SET at = now() - interval '2 days' WHERE op = 'update'")

    with tables.transaction(loaded.engine) as connection:
        slow, idle = consumers.backlogs(connection)

    assert (slow.label, slow.entries, slow.lost, slow.objects) == (f"{orders.name}/all", 2, False, None)
    assert slow.age is not None
    assert slow.age.days == 2
    assert (idle.name, idle.entries, idle.age, idle.objects) == ("accounts", 2, None, ("Account",))
    prune_everything(loaded)
    with tables.transaction(loaded.engine) as connection:
        assert [each.lost for each in consumers.backlogs(connection)] == [True, True]
