"""What a changed parent means for its children: noted in a line, queued in pieces, only where a formula reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, text

from sync.operations import erasure
from sync.postgres import ledger
from sync.postgres.load import dependants
from sync.postgres.tables import transaction
from sync.replication import pipeline, refresh
from sync.replication.runs import PageResult
from sync.simulator import Field
from sync.simulator.fields import Formula
from tests.postgres.test_large_tables import rows_read
from tests.support.moving import Killed, custom, killed_while_refreshing, selects, silently, waiting
from tests.support.world import LONG_AGO, World

PARENTS = """
SELECT lookup, record_id, whole, after_id FROM sync.changed_parent WHERE child = 'Contact' ORDER BY 1, 2
"""


@contextmanager
def killed_at(world: World, border: int) -> Iterator[None]:
    """A process that ends right before its commit of this number, or at its end where it has fewer."""
    commits = 0

    def count(_: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == border:
            raise Killed

    event.listen(world.engine, "commit", count)
    try:
        yield
    except Killed:
        pass
    finally:
        event.remove(world.engine, "commit", count)
        world.expire_leases()


def stop_after_the_page(step: PageResult) -> None:
    """Ends a process when it has committed a page."""
    if step.tally.written:
        raise Killed


def only_the_page(world: World, name: str = "Account") -> None:
    """A pass of which nothing but the page is done."""
    with pytest.raises(Killed):
        pipeline.sync_object(world.context(on_page=stop_after_the_page), name)
    world.expire_leases()


def looked_up(world: World, name: str = "Contact") -> list[str]:
    """The queries by Id."""
    asked = (request.soql or "" for request in world.sim.requests)
    return [soql for soql in asked if f"FROM {name} WHERE Id IN" in soql]


# ── the page's transaction ────────────────────────────────────────────────────────────────────────────


def test_a_page_notes_the_parent_alone(loaded: World) -> None:
    """However many contacts an account has, the transaction that writes the account writes one line more."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}", "AccountId": loaded.acme} for i in range(50)])
    loaded.run()
    loaded.org.update(loaded.acme, {"Name": "Acme Two"})

    only_the_page(loaded)

    assert loaded.sql(PARENTS) == [("account_id", loaded.acme, False, "")]
    assert loaded.sql("SELECT FROM sync.reread") == []


def test_a_field_that_no_formula_reads_costs_nothing(loaded: World) -> None:
    """An account whose phone changed has nothing queued, and no contact is looked up."""
    loaded.org.update(loaded.acme, {"Phone": "(415) 555-0100", "Description": "new"})

    only_the_page(loaded)
    assert waiting(loaded) == 0
    loaded.sim.requests.clear()
    loaded.run()

    assert (looked_up(loaded), selects(loaded)) == ([], [])


def test_what_a_page_erases_hides_no_parent(loaded: World) -> None:
    """Entries of erased persons among those of a page do not push a parent out of what is looked at."""
    with transaction(loaded.engine) as connection:
        edges = ledger.dependencies(connection, "Account")
        since = dependants.feed_position(connection)
        entry = (
            "WITH n AS (UPDATE sync.feed SET last_seq = last_seq + 1 RETURNING last_seq) INSERT INTO sync.change "
            "(seq, object, record_id, op, changed) SELECT last_seq, 'Account', :i, :op, '{name}' FROM n"
        )
        for id_, op in ((loaded.acme, "update"), (loaded.bolt, "erase")):
            connection.execute(text(entry), {"i": id_, "op": op})
        dependants.note_parents(connection, "Account", since, edges, merged=False)

    assert loaded.acme in {line.record_id for line in loaded.sql(PARENTS)}


@pytest.mark.parametrize(
    ("formula", "reads"),
    [
        ("Account.Name & TEXT(Account.Rating)", {"name", "rating"}),
        ("UPPER( account . NAME )", {"name"}),
        ("Account.Parent.Name", {"parent_id"}),
        ("Account.Owner.Name", {"owner_id"}),
        ("Account.Display_Name__c", {"custom"}),
        ("Account.No_Such__c", None),
        ("Account.Name & Account.BillingAddress", None),
        ("ReportsTo.Name & LastName", set()),
        ("'Account' & Name", set()),
        ("1.5 * Spend__c", set()),
        ("", set()),
    ],
)
def test_what_a_formula_reads(loaded: World, formula: str, reads: set[str] | None) -> None:
    """The columns of the account whose change matters to contacts: any, where one that is read is not replicated."""
    loaded.sql("UPDATE sync.field SET formula = :f WHERE field = 'Account_Display__c'", f=formula)

    with transaction(loaded.engine) as connection:
        edges = {(edge.object, edge.column): edge for edge in ledger.dependencies(connection, "Account")}

    assert set(edges) == {("Account", "parent_id"), ("Contact", "account_id")}
    assert edges["Contact", "account_id"].reads == (None if reads is None else frozenset(reads))
    assert edges["Contact", "account_id"].formula == (reads != set())


def test_a_field_that_is_not_replicated_counts_as_changed(loaded: World) -> None:
    """Where a formula reads a field of the account that is not replicated, every change of it may be of that field."""
    loaded.environment["SYNC_CUSTOM_FIELDS"] = "Account_Display__c,Shown__c"
    formula = Formula(("Account.Secret__c",), lambda value: value, "Account.Secret__c")
    loaded.org.add_field("Account", Field("Secret__c", "string", length=20))
    loaded.org.add_field("Contact", Field("Shown__c", "string", length=20, formula=formula))
    loaded.run()
    loaded.org.update(loaded.acme, {"Secret__c": "new", "Phone": "1"})

    loaded.run()

    assert custom(loaded, "Shown__c") == ["new"] * 3


def test_a_formula_of_the_parent_that_moved(loaded: World) -> None:
    """A formula that reads a formula of the account follows when that one moves without a stamp."""
    loaded.org.update(loaded.acme, {"Name": "Acme"}, stamp=LONG_AGO)
    inner = Formula(("Name",), lambda name: name, "Name")
    outer = Formula(("Account.Name",), lambda name: name, "Account.Inner__c")
    loaded.org.add_field("Account", Field("Inner__c", "string", length=80, formula=inner))
    loaded.org.add_field("Contact", Field("Outer__c", "string", length=80, formula=outer))
    loaded.run()
    assert custom(loaded, "Outer__c") == ["Acme"] * 3
    silently(loaded, loaded.acme, Name="Apex")
    loaded.sql(
        "UPDATE sync.cursor SET refreshed_at = refreshed_at - interval '25 hours' WHERE object = 'Account'"
    )

    loaded.run()

    assert loaded.row(loaded.acme)["custom"]["Inner__c"] == "Apex"
    assert custom(loaded, "Outer__c") == ["Apex"] * 3


# ── queueing the children ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def moved(loaded: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A merge of accounts has moved three contacts without a stamp, and an account's name has changed; nothing but the
    accounts is written. Pieces are small."""
    monkeypatch.setattr(dependants, "CHILDREN_A_PIECE", 2)
    monkeypatch.setattr(dependants, "PARENTS_A_PIECE", 2)
    monkeypatch.setattr(dependants, "ROWS_A_SCAN", 2)
    loaded.org.create_many("Account", [{"Name": f"n{i}"} for i in range(3)], stamp=LONG_AGO)
    pipeline.resync(loaded.context("resync"), ["Account"], None)
    loaded.org.merge(loaded.bolt, [loaded.acme])
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        silently(loaded, id_)
    only_the_page(loaded)
    loaded.sim.requests.clear()
    return loaded


INDEXED = pytest.mark.parametrize("indexed", [True, False], ids=["by the index", "by a scan"])


def assert_followed(world: World) -> None:
    assert waiting(world) == 0
    assert custom(world, "Account_Display__c") == ["Bolt [unrated]"] * 3
    world.assert_equal()


@INDEXED
def test_children_are_queued_in_pieces(moved: World, indexed: bool) -> None:
    """Each piece is a transaction of its own; the last one ends with nothing left."""
    if not indexed:
        moved.sql("DROP INDEX salesforce.contact_account_id_idx")
    assert {(line.record_id, line.whole) for line in moved.sql(PARENTS)} == {
        (moved.acme, True),
        (moved.bolt, True),
    }
    queued: list[int] = []

    def look(step: PageResult) -> None:
        if step.object == "Contact":
            queued.append(len(moved.sql("SELECT FROM sync.reread")))

    pipeline.sync_object(moved.context(on_page=look), "Contact")

    assert list(dict.fromkeys(queued))[:3] == [0, 2, 3]
    assert_followed(moved)


@INDEXED
def test_killed_at_any_border_of_the_queueing(moved: World, indexed: bool) -> None:
    """Wherever a process dies, the next one goes on with the parents and the children that are left."""
    if not indexed:
        moved.sql("DROP INDEX salesforce.contact_account_id_idx")
    for border in range(1, 40):
        with killed_at(moved, border):
            pipeline.sync_object(moved.context(), "Contact")
        if waiting(moved) == 0:
            break
    assert border > 8
    assert_followed(moved)


def test_pages_and_pieces_do_not_lock_each_other_out(moved: World) -> None:
    """A page that notes parents beside a piece that queues children waits for it, and both end."""
    lines = [line.record_id for line in moved.sql(PARENTS)]
    moved.sql("UPDATE sync.changed_parent SET whole = record_id = :first", first=lines[0])
    note = "UPDATE sync.changed_parent SET at = now() WHERE child = 'Contact' AND record_id = :i"
    queued: list[int] = []

    def queue() -> None:
        with transaction(moved.engine) as connection:
            queued.append(dependants.queue_children(connection, "Contact"))

    queueing = threading.Thread(target=queue)
    with transaction(moved.engine) as page:
        page.execute(text(note), {"i": lines[0]})
        queueing.start()
        queueing.join(0.3)
        assert queueing.is_alive()
        page.execute(text(note), {"i": lines[1]})
    queueing.join(10)

    assert queued == [1]


def test_a_budget_of_children_a_pass(moved: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children beyond the budget stay with their parent until the next pass; the place is remembered."""
    monkeypatch.setattr(refresh, "MOST_A_PASS", 2)

    pipeline.sync_object(moved.context(), "Contact")

    assert moved.sql(PARENTS)[0] == ("account_id", moved.acme, True, moved.bob)
    for _ in range(3):  # those that are read have become the survivor's, and have a turn with it
        pipeline.sync_object(moved.context(), "Contact")
    assert_followed(moved)


def test_a_parent_that_changes_again_meanwhile(moved: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the parent between two pieces begins its children anew."""
    monkeypatch.setattr(refresh, "MOST_A_PASS", 2)
    pipeline.sync_object(moved.context(), "Contact")
    moved.org.update(moved.bolt, {"Name": "Bolt Two"})
    moved.sql("UPDATE sync.changed_parent SET after_id = :a", a=moved.bob)

    only_the_page(moved)

    assert moved.sql(PARENTS)[-1] == ("account_id", moved.bolt, True, "")


def test_more_children_than_are_read_by_id(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many are queued as show that the columns of all are to be read."""
    monkeypatch.setattr(refresh, "ONE_BY_ONE", 2)
    monkeypatch.setattr(dependants, "CHILDREN_A_PIECE", 2)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}", "AccountId": loaded.acme} for i in range(20)])
    loaded.run()
    loaded.org.update(loaded.acme, {"Name": "Acme Two"})
    loaded.sim.requests.clear()
    queued: list[int] = []

    def look(step: PageResult) -> None:
        if step.object == "Contact":
            queued.append(len(loaded.sql("SELECT FROM sync.reread")))

    pipeline.sync_object(loaded.context(on_page=look), "Account")

    assert max(queued) == 4
    assert looked_up(loaded) == []
    assert waiting(loaded) == 0
    loaded.assert_equal()


@pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
def test_a_reading_of_columns_that_was_taken_up_is_not_enough(
    loaded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted reading of all columns goes on; what changed since its first pages is read once more."""
    loaded.page_by(1)
    monkeypatch.setattr(refresh, "ONE_BY_ONE", 2)
    loaded.org.update(loaded.acme, {"Name": "Acme Two"})
    only_the_page(loaded)
    killed_while_refreshing(loaded, pages=2)
    loaded.expire_leases()
    loaded.org.update(loaded.acme, {"Name": "Acme Three"})
    only_the_page(loaded)

    pipeline.sync_object(loaded.context(), "Contact")

    assert custom(loaded, "Account_Display__c") == ["Acme Three [unrated]"] * 3
    assert waiting(loaded) == 0


def test_a_new_account_without_contacts_costs_no_call(loaded: World) -> None:
    """Nothing is asked of Salesforce, and no run is journalled, for the contacts that a new account does not have."""
    loaded.org.create("Account", {"Name": "New"})

    pipeline.sync_object(loaded.context(), "Account")

    assert waiting(loaded) == 0
    assert loaded.sql("SELECT count(*) FROM sync.run WHERE object = 'Contact'") == [(1,)]


def test_parents_without_children_where_most_have_one_parent(world: World) -> None:
    """Statistics of a table whose rows have all the same parent lead to no scan for every parent without a child."""
    world.sql(
        "INSERT INTO salesforce.contact (id, is_deleted, system_modstamp, account_id) "
        "SELECT '003' || lpad(n::text, 12, '0') || 'AAA', false, now(), 'all' FROM generate_series(1, 5000) AS n"
    )
    world.sql("ANALYZE salesforce.contact")
    world.sql(
        "INSERT INTO sync.changed_parent (child, lookup, record_id, whole) "
        "SELECT 'Contact', 'account_id', 'none' || n, false FROM generate_series(1, 100) AS n"
    )
    world.engine.dispose()  # a connection counts what it has read for a second beyond its transaction
    with transaction(world.engine) as connection:
        assert dependants.queue_children(connection, "Contact") == 0
        assert rows_read(connection, "contact") < 100
    assert waiting(world) == 0


# ── look-ups without an index ─────────────────────────────────────────────────────────────────────────


def test_who_reports_to_a_merged_contact(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contacts that a merge moved without a stamp from one superior to the other are read again."""
    monkeypatch.setattr(dependants, "ROWS_A_SCAN", 1)
    dan, eve = loaded.org.create_many("Contact", [{"LastName": "Dan"}, {"LastName": "Eve"}], stamp=LONG_AGO)
    for id_ in (loaded.bob, dan):
        silently(loaded, id_, ReportsToId=loaded.ann)
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.org.merge(eve, [loaded.ann])
    for id_ in (loaded.bob, dan):
        silently(loaded, id_)

    loaded.run()

    assert {loaded.row(id_)["reports_to_id"] for id_ in (loaded.bob, dan)} == {eve}
    assert waiting(loaded) == 0
    loaded.assert_equal()


# ── erased persons, another org ───────────────────────────────────────────────────────────────────────


def erase(world: World, by_object: dict[str, list[str]]) -> None:
    erasure.erase(world.engine, by_object, "test", "request 1", world.context().wait, world.stop)


def test_an_erased_child_is_not_queued(loaded: World) -> None:
    """A contact erased between its account's change and its turn is left out; the others follow the account."""
    loaded.org.update(loaded.acme, {"Name": "Acme Two"})
    only_the_page(loaded)
    erase(loaded, {"Contact": [loaded.ann]})
    loaded.sim.requests.clear()

    loaded.run()

    assert custom(loaded, "Account_Display__c")[1:] == ["Acme Two [unrated]"] * 2
    assert not any(loaded.ann in soql for soql in looked_up(loaded))
    assert waiting(loaded) == 0


def test_contacts_of_an_erased_account_follow_it(loaded: World) -> None:
    """An account's erasure between its change and its contacts' turn takes nothing from the contacts."""
    loaded.org.update(loaded.acme, {"Name": "Acme Two"})
    only_the_page(loaded)
    erase(loaded, {"Account": [loaded.acme]})

    loaded.run()

    assert custom(loaded, "Account_Display__c") == ["Acme Two [unrated]"] * 3
    assert waiting(loaded) == 0


def test_a_worker_beside_a_worker_loses_no_child(loaded: World) -> None:
    """An account that changes after the contacts' queue was looked through has its turn in the same run."""
    changed: list[str] = []

    def change(step: PageResult) -> None:
        if step.object == "Contact" and not changed:
            changed.append(loaded.acme)
            loaded.org.update(loaded.acme, {"Name": "Acme Two"})
            pipeline.sync_object(loaded.context(), "Account")

    act: Callable[[PageResult], None] = change
    loaded.org.update(loaded.bolt, {"Name": "Bolt Two"})
    loaded.org.update(loaded.ann, {"AccountId": loaded.bolt})
    pipeline.sync_all(loaded.context(on_page=act))

    assert custom(loaded, "Account_Display__c") == ["Bolt Two [unrated]"] + ["Acme Two [unrated]"] * 2
    assert waiting(loaded) == 0
