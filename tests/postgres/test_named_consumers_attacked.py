"""Careless and hostile named consumers: what they cost, what they hold up, and what the feed keeps of values."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from sync.operations import grants, pruning
from sync.postgres import consumers, tables
from sync.postgres.load import derived
from tests.postgres.test_named_consumers import (
    MONTH,
    QUARTER,
    kept,
    poll,
    prune_everything,
    rename,
    subscribe,
)
from tests.support.consuming import GRANTS, Role, role
from tests.support.world import World


@pytest.fixture
def orders(loaded: World) -> Iterator[Role]:
    """A role that may do what is granted to consumers, on a loaded database."""
    with role(loaded.engine) as new:
        yield new.granted(*GRANTS)


def test_an_acknowledgement_of_any_number_holds_up_no_prune(loaded: World, orders: Role) -> None:
    """Also one that is not of the last entry looks at the feed, and keeps no lock on it."""
    began = subscribe(orders)
    rename(loaded, "Boss", "Chief")
    with orders.connect() as connection:
        connection.execute(text(f"SELECT crm.ack('orders', {began + 1})"))
        prune_everything(loaded)
        connection.rollback()


def test_a_role_cannot_hold_up_its_revocation(loaded: World, orders: Role) -> None:
    """Open transactions of its consumers keep the rows of these, but not its rights."""
    subscribe(orders)
    subscribe(orders, "others")
    with orders.connect() as connection:
        connection.execute(text("SELECT FROM crm.poll('orders')"))
        done = loaded.command("revoke", orders.name)
        assert done.returncode == 0
        assert "; 1 of its consumers of the feed ended; 1 of its consumers stayed" in done.stdout
        connection.rollback()
    message, _ = orders.refusal("SELECT FROM crm.poll('orders')")
    assert message == "permission denied for schema crm"
    [remedy] = done.stdout.split("`")[1:2]
    assert remedy == f"python -m sync revoke {orders.name}"
    assert "; 1 of its consumers of the feed ended\n" in loaded.command(*remedy.split()[3:]).stdout


def test_a_merge_beside_a_revocation_leaves_no_old_values(loaded: World, orders: Role) -> None:
    """What a transaction has kept that began before is erased with the rest."""
    with tables.transaction(loaded.engine) as connection:
        grants.grant(connection, orders.name, old_values=True)
    done = threading.Event()

    def revoke() -> None:
        with tables.transaction(loaded.engine) as connection:
            grants.revoke(connection, orders.name)
        done.set()

    thread = threading.Thread(target=revoke)
    with tables.transaction(loaded.engine) as connection:
        rows = [(loaded.ann, "+14155552671")]
        assert derived.rewrite_derived(connection, "Contact", ["phone_e164"], rows, 1, announce=True) == 1
        thread.start()
        deadline = time.monotonic() + 10
        waiting = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not done.is_set() and not loaded.sql(waiting):
            assert time.monotonic() < deadline
    thread.join(10)

    assert done.is_set()
    assert kept(loaded) == 0


def test_a_role_that_was_dropped_leaves_no_leave(loaded: World) -> None:
    """Another role of the same name may not see old values, and the feed keeps none for it."""
    with role(loaded.engine) as gone:
        with tables.transaction(loaded.engine) as connection:
            grants.grant(connection, gone.name, old_values=True)
        rename(loaded, "Boss")
        assert kept(loaded) == 1
    list(pruning.prune(loaded.engine, MONTH, QUARTER, threading.Event()))

    assert kept(loaded) == 0
    assert loaded.sql("SELECT FROM sync.old_values") == []


def test_a_reload_names_objects_that_are_not_replicated_now(loaded: World, orders: Role) -> None:
    """Their lost entries are told, too: they go on where they were, without a reload of their own."""
    subscribe(orders)
    began = subscribe(orders, "accounts", "ARRAY['Account']")
    rename(loaded, "Boss")
    loaded.sql("DELETE FROM sync.replicated WHERE object = 'Account'")
    prune_everything(loaded)

    last = loaded.last_seq()
    assert subscribe(orders, "accounts", "ARRAY['Account']") == began, "it may be started again"
    assert poll(orders, "accounts") == [(last, "Account", None, "reload")]
    assert poll(orders) == [(last, "Account", None, "reload"), (last, "Contact", None, "reload")]


def test_an_object_without_entries_costs_little(loaded: World, orders: Role) -> None:
    """Neither a poll nor `status` reads the feed for it, although the statistics show one object alone."""
    loaded.sql(
        "WITH n AS (UPDATE sync.feed SET last_seq = last_seq + 20000 RETURNING last_seq - 20000 AS base, slot) "
        "INSERT INTO sync.change (slot, seq, object, record_id, op) "
        "SELECT i / 2501, base + i, 'Contact', 'id', 'update' FROM n, generate_series(1, 20000) AS i"
    )
    loaded.sql(
        "INSERT INTO sync.consumer (role, name, objects, epoch, seq) "
        "SELECT :role, 'c' || i, ARRAY['Account'], sync.epoch(), 1 + i FROM generate_series(1, 100) AS i",
        role=orders.name,
    )
    loaded.sql("ANALYZE sync.change; ANALYZE sync.consumer")

    with orders.connect() as consumer, loaded.engine.connect() as owner:
        for connection, statement in (
            (consumer, "SELECT FROM crm.poll('c1', 1)"),
            (consumer, "SELECT FROM crm.poll('c1', 1000)"),
            (owner, consumers.BACKLOGS.text),
        ):
            connection.execute(text(statement))  # plans are made, and the catalogue is read
            plan = connection.execute(
                text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
            ).scalar_one()
            top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
            rows = 100 if connection is owner else 1
            assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 100 * rows + 100, (statement, plan)
