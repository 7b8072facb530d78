"""The schema moves: what becomes of fields that come, go, return and change, and of the records there already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import DATE, FLAG, NUMBER, PICKS, TEXT, Kind, SObject
from sync.catalogue.mapping import Field as Declared
from sync.replication import opening, pipeline
from sync.replication.runs import PageResult
from sync.salesforce.session import session
from sync.simulator import Field
from tests.support.declared import declared
from tests.support.moving import (
    BOTH,
    PLACING,
    Killed,
    custom,
    killed_while_refreshing,
    refreshing,
    selects,
    silently,
)
from tests.support.world import LONG_AGO, World


def rank(kind: str = "string", **more: Any) -> Field:
    return Field("Rank__c", kind, **({"length": 20} if kind == "string" else {}) | more)


def news(world: World, name: str = "Contact") -> list[tuple[str, str]]:
    """What the ledger says that is news."""
    found = world.sql(
        "SELECT field, change FROM sync.field WHERE object = :o AND change <> 'known' ORDER BY id", o=name
    )
    return [(row.field, row.change) for row in found]


def late(world: World) -> list[str]:
    return list(world.sql("SELECT backfill FROM sync.cursor WHERE object = 'Contact'")[0][0])


# ── the describe ──────────────────────────────────────────────────────────────────────────────────────


def test_describe_is_conditional(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked again a describe is answered by 304, after a lost token too; a change and an hour bring it whole."""
    asked = world.context().session

    def describe() -> tuple[set[str], list[int]]:
        world.sim.requests.clear()
        fields = {field.name for field in asked.describe("Contact")[0]}
        return fields, [request.status for request in world.sim.requests if request.kind == "describe"]

    first, status = describe()
    assert status == [200]
    assert describe() == (first, [304])
    world.sim.revoke_tokens()
    assert describe() == (first, [401, 304])
    world.org.add_field("Contact", rank())
    assert describe() == (first | {"Rank__c"}, [200])
    assert describe() == (first | {"Rank__c"}, [304])
    monkeypatch.setattr(session, "DESCRIBE_SECONDS", -1)
    assert describe() == (first | {"Rank__c"}, [200])


def test_passes_of_one_process_describe_once(loaded: World) -> None:
    """A worker's later passes ask for no describe within ten minutes, but for one as soon as a field is refused."""
    context = loaded.context()
    pipeline.sync_all(context)
    loaded.sim.requests.clear()

    pipeline.sync_all(context)
    assert [r.status for r in loaded.sim.requests if r.kind == "describe"] == []

    loaded.org.hide_field("Contact", "Title")
    loaded.org.update(loaded.ann, {"Department": "Sales"})
    pipeline.sync_all(context)
    assert loaded.row(loaded.ann)["department"] == "Sales"
    assert news(loaded) == [("Title", "vanished")]


def test_a_permission_that_is_no_change(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Last-Modified does not move with a permission the pass succeeds all the same, and the field is news."""
    context = loaded.context()
    pipeline.sync_all(context)
    before = loaded.org.described_at
    loaded.org.hide_field("Contact", "Title")
    loaded.org.described_at = before
    loaded.org.update(loaded.ann, {"Department": "Sales"})

    pipeline.sync_all(context)

    assert loaded.row(loaded.ann)["department"] == "Sales"
    assert news(loaded) == [("Title", "vanished")]
    loaded.org.show_field("Contact", "Title")
    loaded.org.described_at = before
    monkeypatch.setattr(session, "DESCRIBE_SECONDS", -1)
    monkeypatch.setattr(opening, "DESCRIBE_SECONDS", -1)
    for _ in range(2):  # one object a pass
        pipeline.sync_all(context)
    assert news(loaded) == [("Title", "vanished"), ("Title", "returned")]


# ── the ledger ────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_describe_is_no_news(loaded: World) -> None:
    """The ledger begins with every field as known, and a pass without a change adds no line."""
    loaded.run()

    kinds = {tuple(row) for row in loaded.sql("SELECT DISTINCT object, change FROM sync.field")}
    assert kinds == {("Account", "known"), ("Contact", "known")}
    twice = "SELECT object, field FROM sync.field GROUP BY 1, 2 HAVING count(*) > 1"
    assert loaded.sql(twice) == []
    assert late(loaded) == []


@pytest.mark.parametrize(
    ("field", "change", "how"),
    [
        ("Rank__c", "added", lambda org: org.add_field("Contact", rank())),
        ("Title", "vanished", lambda org: org.hide_field("Contact", "Title")),
        ("Nickname__c", "vanished", lambda org: org.hide_field("Contact", "Nickname__c")),
        ("Nickname__c", "vanished", lambda org: org.remove_field("Contact", "Nickname__c")),
        ("Nickname__c", "retyped", lambda org: org.retype_field("Contact", "Nickname__c", type="textarea")),
        ("Nickname__c", "resized", lambda org: org.retype_field("Contact", "Nickname__c", length=200)),
        ("Spend__c", "resized", lambda org: org.retype_field("Contact", "Spend__c", scale=4)),
        ("Title", "resized", lambda org: org.retype_field("Contact", "Title", length=4000)),
        ("Spend_With_Tax__c", "formula", lambda org: org.change_formula("Contact", "Spend_With_Tax__c", 1)),
    ],
)
def test_a_change_is_one_line(loaded: World, field: str, change: str, how: Callable[[Any], None]) -> None:
    """What an administrator did is one line in the ledger, once, with its time."""
    how(loaded.org)
    loaded.run()
    loaded.run()

    assert news(loaded) == [(field, change)]
    lines = "SELECT now() - at < interval '1 minute' FROM sync.field WHERE change = :c"
    assert [row[0] for row in loaded.sql(lines, c=change)] == [True]


def test_selection_is_in_the_ledger(loaded: World) -> None:
    """A field left out by SYNC_CUSTOM_FIELDS loses its values; selected again old records are filled."""
    silently(loaded, loaded.ann, Tier__c="Gold")
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.environment["SYNC_CUSTOM_FIELDS"] = "Nickname__c"
    silently(loaded, loaded.ann, Tier__c="Silver")
    loaded.org.update(loaded.bob, {"Tier__c": "Bronze"})
    loaded.run()
    assert ("Tier__c", "left out") in news(loaded)
    assert custom(loaded, "Tier__c") == [None, None, None]

    loaded.environment["SYNC_CUSTOM_FIELDS"] = "Nickname__c,Tier__c"
    loaded.run()

    assert news(loaded)[-1] == ("Tier__c", "selected")
    assert custom(loaded, "Tier__c") == ["Silver", "Bronze", None]


def test_an_interrupted_pass_tells_no_change_twice(loaded: World) -> None:
    """Killed right after the ledger was written the next pass neither repeats the line nor forgets the records."""
    loaded.org.add_field("Contact", rank())
    silently(loaded, loaded.ann, Rank__c="a")

    def die(step: PageResult) -> None:
        raise Killed

    with pytest.raises(Killed):
        pipeline.sync_object(loaded.context(on_page=die), "Contact")
    loaded.run()

    assert news(loaded) == [("Rank__c", "added")]
    assert custom(loaded, "Rank__c") == ["a", None, None]


# ── old records are filled ────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_new_field_is_filled_in_old_records(loaded: World) -> None:
    """Only that field is read of all records; those without a value are neither written nor told."""
    before = loaded.row(loaded.cid)
    loaded.org.add_field("Contact", rank())
    silently(loaded, loaded.ann, Rank__c="a")
    silently(loaded, loaded.bob, Rank__c="b")
    loaded.sim.requests.clear()

    loaded.run()

    assert custom(loaded, "Rank__c") == ["a", "b", None]
    # By Bulk API the first REST page told how many there are; the same question is asked of both.
    asked = selects(loaded)
    assert asked
    assert all(fields == PLACING | {"Rank__c"} for fields in asked)
    assert selects(loaded, "Account") == []
    assert loaded.row(loaded.cid) == before
    assert [(c.op, c.record_id, tuple(c.changed)) for c in loaded.feed(loaded.seen)] == [
        ("update", loaded.ann, ("custom",)),
        ("update", loaded.bob, ("custom",)),
    ]
    assert late(loaded) == []
    loaded.assert_equal()
    loaded.sim.requests.clear()
    loaded.run()
    assert selects(loaded) == []


def test_a_record_that_changed_names_no_custom_field_that_is_null(loaded: World) -> None:
    """A new field that is null in a record is no change of it: `changed` does not name custom."""
    loaded.org.add_field("Contact", rank())
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    [told] = loaded.feed(loaded.seen)
    assert set(told.changed) == {"title", "last_modified_date", "system_modstamp"}


@BOTH
@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ({"type": "double", "precision": 18, "scale": 2}, ["12", "-1.5", None], [12, -1.5, None]),
        ({"type": "multipicklist", "length": 4099}, ["a;b", "c", None], [["a", "b"], ["c"], None]),
    ],
)
def test_a_custom_field_of_another_type_is_filled(
    loaded: World, kind: dict[str, Any], values: Sequence[Any], expected: Sequence[Any]
) -> None:
    """Values of a retyped custom field are kept in their new type in old records, too."""
    for id_, value in zip((loaded.ann, loaded.bob, loaded.cid), values, strict=True):
        silently(loaded, id_, Nickname__c=value)
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    assert custom(loaded, "Nickname__c") == values

    loaded.org.retype_field("Contact", "Nickname__c", **kind)
    loaded.run()

    assert custom(loaded, "Nickname__c") == expected
    loaded.assert_equal()


@BOTH
def test_killed_half_way(loaded: World) -> None:
    """A filling that was killed is taken up by the next run, and every record has its value."""
    loaded.page_by(1)
    loaded.org.add_field("Contact", rank())
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        silently(loaded, id_, Rank__c=id_)

    killed_while_refreshing(loaded)
    assert late(loaded) == ["Rank__c"]
    assert [value is None for value in custom(loaded, "Rank__c")].count(False) < 3
    seen = loaded.last_seq()
    loaded.run()

    assert late(loaded) == []
    assert custom(loaded, "Rank__c") == [loaded.ann, loaded.bob, loaded.cid]
    # Nobody is told twice.
    told = [record for _, record in loaded.news(loaded.seen)]
    assert len(told) == len(set(told)) == 3
    assert loaded.last_seq() > seen
    loaded.assert_equal()


@BOTH
def test_retyped_while_half_filled(loaded: World) -> None:
    """A field that changes again while old records are being filled is filled from the beginning."""
    loaded.page_by(1)
    loaded.org.add_field("Contact", rank())
    for number, id_ in enumerate((loaded.ann, loaded.bob, loaded.cid)):
        silently(loaded, id_, Rank__c=str(number))
    killed_while_refreshing(loaded, pages=2)

    loaded.org.retype_field("Contact", "Rank__c", type="double", precision=18)
    loaded.run()

    assert custom(loaded, "Rank__c") == [0, 1, 2]


@BOTH
def test_retyped_while_half_loaded(world: World) -> None:
    """A custom field that changes its type during a first load that is interrupted is right in all records."""
    world.page_by(1)
    people = [{"LastName": name, "Nickname__c": "7"} for name in ("Ann", "Bob", "Cid")]
    world.ann, world.bob, world.cid = world.org.create_many("Contact", people, stamp=LONG_AGO)
    killed_while_refreshing(world, pages=2)
    assert len(world.rows("Contact")) == 2

    world.org.retype_field("Contact", "Nickname__c", type="double", precision=18)
    world.run()

    assert custom(world, "Nickname__c") == [7, 7, 7]


def test_hidden_while_being_filled(loaded: World) -> None:
    """A field hidden just when old records were to be filled, and shown before the next pass, is filled by it."""
    loaded.org.add_field("Contact", rank())
    silently(loaded, loaded.ann, Rank__c="a")

    def hide(step: PageResult) -> None:
        if refreshing(step) and step.received == 0:
            loaded.org.hide_field("Contact", "Rank__c")

    pipeline.sync_all(loaded.context(on_page=hide))
    loaded.org.show_field("Contact", "Rank__c")
    loaded.run()

    assert custom(loaded, "Rank__c") == ["a", None, None]


def test_refused_once_while_being_filled(loaded: World) -> None:
    """A refusal of a field that is there after all costs one more describe, not the filling."""
    loaded.org.add_field("Contact", rank())
    silently(loaded, loaded.ann, Rank__c="a")
    loaded.sim.faults.add("invalid_field", on="query", sobject="Contact", after=1)

    loaded.run()
    loaded.run()

    assert custom(loaded, "Rank__c") == ["a", None, None]


# ── fields that vanish ────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize(
    ("field", "value"), [("Title", "Boss"), ("Nickname__c", "Annie"), ("Phone", "+14155550100")]
)
def test_a_vanished_field_keeps_its_values(loaded: World, field: str, value: str) -> None:
    """Hidden, a field keeps its values, in records that change too; back, it is filled in silently changed ones."""
    for id_ in (loaded.ann, loaded.bob):
        silently(loaded, id_, **{field: value})
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    seen, before = loaded.last_seq(), loaded.rows("Contact")
    loaded.org.hide_field("Contact", field)
    loaded.org.update(loaded.ann, {"Department": "Sales"})
    new = loaded.org.create("Contact", {"LastName": "New", field: value})

    loaded.run()

    assert news(loaded) == [(field, "vanished")]
    moved = {"department", "last_modified_date", "system_modstamp", "synced_at"}
    after = loaded.row(loaded.ann)
    assert {name for name, kept in before[loaded.ann].items() if after[name] != kept} == moved
    assert loaded.row(loaded.bob) == before[loaded.bob]
    assert sorted(loaded.news(seen)) == sorted([("update", loaded.ann), ("insert", new)])

    silently(loaded, loaded.bob, **{field: None})
    silently(loaded, loaded.cid, **{field: value})
    loaded.org.show_field("Contact", field)
    loaded.run()

    assert news(loaded) == [(field, "vanished"), (field, "returned")]
    loaded.assert_equal()


def test_another_field_of_the_same_name(loaded: World) -> None:
    """A field removed and made anew with another type has the new one's values, its nulls included."""
    for id_ in (loaded.ann, loaded.bob):
        silently(loaded, id_, Nickname__c="old")
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.org.remove_field("Contact", "Nickname__c")
    loaded.run()
    assert custom(loaded, "Nickname__c") == ["old", "old", None]

    loaded.org.add_field("Contact", Field("Nickname__c", "double", precision=18))
    silently(loaded, loaded.ann, Nickname__c=3)
    loaded.run()

    assert custom(loaded, "Nickname__c") == [3, None, None]
    loaded.assert_equal()


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_wider_values_are_no_rejects(loaded: World) -> None:
    """A longer text and a wider number are stored as they are, in columns and in custom fields."""
    wide = {"Title": "t" * 20_000, "Nickname__c": "n" * 20_000, "Email": "e" * 9_000}
    for field, value in wide.items():
        loaded.org.retype_field("Contact", field, length=len(value))
    loaded.org.retype_field("Contact", "Spend__c", precision=18, scale=9)
    loaded.org.retype_field("Account", "NumberOfEmployees", digits=18)
    loaded.org.retype_field("Account", "AnnualRevenue", precision=18, scale=9)
    loaded.org.update(loaded.ann, wide | {"Spend__c": "123456789.123456789"})
    loaded.org.update(
        loaded.acme, {"NumberOfEmployees": 999_999_999_999, "AnnualRevenue": "123456789.123456789"}
    )

    loaded.run()

    assert loaded.sql("SELECT record_id, reason FROM sync.reject") == []
    assert loaded.row(loaded.acme)["number_of_employees"] == 999_999_999_999
    assert loaded.row(loaded.ann)["title"] == wide["Title"]
    loaded.assert_equal()


# ── a column of its own ───────────────────────────────────────────────────────────────────────────────


def promoted(*fields: Declared, lookups: tuple[str, ...] = ()) -> SObject:
    """Contacts, of which these fields have a column of their own, too."""
    contact = CATALOGUE["Contact"]
    return replace(contact, fields=(*contact.fields, *fields), lookups=(*contact.lookups, *lookups))


NICKNAME = promoted(Declared("Nickname__c", TEXT), lookups=("nickname__c",))


def columns(world: World, column: str = "nickname__c") -> list[Any]:
    """A column's values and those of the column `custom`, of Ann, Bob and Cid."""
    rows = world.rows("Contact")
    return [
        (rows[id_][column], rows[id_]["custom"]["Nickname__c"]) for id_ in (world.ann, world.bob, world.cid)
    ]


@BOTH
def test_a_promoted_field_is_filled_in_old_records(loaded: World) -> None:
    """A custom field that gets a column is read again of all records, and stays in `custom`."""
    silently(loaded, loaded.ann, Nickname__c="Annie")
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    with declared(loaded.engine, NICKNAME):
        seen = loaded.last_seq()
        loaded.run()

        assert columns(loaded) == [("Annie", "Annie"), (None, None), (None, None)]
        assert news(loaded)[-1] == ("Nickname__c", "promoted")
        assert [(c.record_id, tuple(c.changed)) for c in loaded.feed(seen)] == [
            (loaded.ann, ("nickname__c",))
        ]
        assert late(loaded) == []
        loaded.org.update(loaded.bob, {"Nickname__c": "Bobby"})
        loaded.run()
        assert columns(loaded)[1] == ("Bobby", "Bobby")
        loaded.assert_equal(["Contact"])


def test_a_promoted_field_does_without_the_others(loaded: World) -> None:
    """The column is filled where no custom field is replicated, and left alone where the field is excluded."""
    loaded.org.update(loaded.ann, {"Nickname__c": "Annie"})
    with declared(loaded.engine, NICKNAME):
        loaded.environment["SYNC_CUSTOM_FIELDS"] = "none"
        loaded.run()
        assert [row["nickname__c"] for row in loaded.rows("Contact").values() if row["nickname__c"]] == [
            "Annie"
        ]
        assert loaded.row(loaded.ann)["custom"] == {}

        loaded.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Nickname__c"
        loaded.run()
        assert loaded.row(loaded.ann)["nickname__c"] is None


@pytest.mark.parametrize(
    ("kind", "field", "value", "stored"),
    [
        (NUMBER, Field("Rank__c", "double", precision=18, scale=2), 1.5, Decimal("1.5")),
        (FLAG, Field("Rank__c", "boolean"), True, True),
        (DATE, Field("Rank__c", "date"), "2026-02-03", date(2026, 2, 3)),
        (PICKS, Field("Rank__c", "multipicklist", length=100), "a;b", ["a", "b"]),
    ],
)
def test_promoted_fields_are_typed(loaded: World, kind: Kind, field: Field, value: Any, stored: Any) -> None:
    """The column has the type of its kind."""
    loaded.org.add_field("Contact", field)
    loaded.org.update(loaded.ann, {"Rank__c": value})
    with declared(loaded.engine, promoted(Declared("Rank__c", kind))):
        loaded.run()

        assert loaded.row(loaded.ann)["rank__c"] == stored
        loaded.assert_equal(["Contact"])


def test_a_line_that_is_taken_away(loaded: World) -> None:
    """Declared no more, the field is in `custom` alone, and nothing has to be read again."""
    with declared(loaded.engine, NICKNAME):
        loaded.run()
    loaded.sim.requests.clear()

    loaded.run()

    assert news(loaded)[-1] == ("Nickname__c", "demoted")
    assert selects(loaded) == []
