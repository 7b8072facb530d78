"""Views shaped like Heroku Connect's tables: what they hold, numbers that stay, and leaving it as documented."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from typing import Any

import pytest
from sqlalchemy import text

from sync.catalogue.catalogue import CATALOGUE
from sync.errors import SyncError, UsageError
from sync.operations import heroku_connect
from sync.postgres import tables
from sync.simulator import Field
from tests.support.consuming import role
from tests.support.world import World

VIEWS = "heroku_connect"
COUNT = Field("Count__c", "int", digits=9)


def make(world: World, schema: str = VIEWS, ids_from: str | None = None) -> list[str]:
    """What the command says of each view."""
    return list(heroku_connect.make_views(world.engine, ["Account", "Contact"], schema, ids_from))


def shown(world: World, id_: str, view: str = f"{VIEWS}.contact") -> dict[str, Any]:
    """A record as a view shows it."""
    with tables.transaction(world.engine) as connection:
        found = connection.execute(text(f"SELECT * FROM {view} WHERE sfid = :id"), {"id": id_})
        [row] = found.mappings()
        return dict(row)


def numbers(world: World, view: str = f"{VIEWS}.contact") -> dict[str, int]:
    """The column `id` of a view by the record's Id."""
    return {row.sfid: row.id for row in world.sql(f"SELECT sfid, id FROM {view}")}


def types(world: World, view: str) -> dict[str, str]:
    """The columns of a view with their types, in order."""
    statement = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = CAST(:view AS regclass) AND attnum > 0 ORDER BY attnum"
    )
    return dict(tuple(row) for row in world.sql(statement, view=view))


# ── what the views hold ───────────────────────────────────────────────────────────────────────────────


def test_names_and_types_are_those_of_heroku_connect(loaded: World) -> None:
    """Columns have API names in lower case; times have no zone, numbers are doubles, picks are one text."""
    assert make(loaded)[0].startswith("heroku_connect.account: ")

    account, contact = types(loaded, f"{VIEWS}.account"), types(loaded, f"{VIEWS}.contact")
    assert list(account)[:7] == [
        *("id", "sfid", "isdeleted", "systemmodstamp", "createddate", "_hc_lastop", "_hc_err"),
    ]
    fields = {field.name.lower() for field in CATALOGUE["Account"].fields} - {"id"}
    assert fields <= set(account)
    assert "synced_at" not in account
    expected = {
        "id": "integer",
        "sfid": "text",
        "isdeleted": "boolean",
        "systemmodstamp": "timestamp without time zone",
        "_hc_lastop": "character varying(32)",
        "_hc_err": "text",
        "billinglatitude": "double precision",
        "lastactivitydate": "date",
        "billingcity": "text",
    }
    assert {name: account[name] for name in expected} == expected
    assert {contact["buyerattributes"], contact["tier__c"], contact["nickname__c"]} == {"text"}
    assert contact["spend__c"] == "double precision"


def test_values_are_those_of_the_records(loaded: World) -> None:
    """Standard and custom fields have their values, typed; only live records are there."""
    loaded.org.add_field("Contact", COUNT)
    values = {
        "FirstName": "Ann",
        "MailingLatitude": "48.25",
        "Birthdate": "1980-02-29",
        "Member_Since__c": "2024-02-29",
        "Last_Visit__c": "2026-01-01T10:00:00.000+0000",
        "VIP__c": True,
        "Interests__c": "Music;Art",
        "Count__c": 7,
        "Spend__c": "12.5",
        "Nickname__c": "Annie",
    }
    loaded.org.update(loaded.ann, values)
    loaded.org.delete(loaded.cid)
    loaded.run()
    make(loaded)

    found = shown(loaded, loaded.ann)
    expected = {
        "firstname": "Ann",
        "accountid": loaded.acme,
        "mailinglatitude": 48.25,
        "birthdate": date(1980, 2, 29),
        "member_since__c": date(2024, 2, 29),
        "last_visit__c": datetime(2026, 1, 1, 10),  # noqa: DTZ001  without a zone, as Heroku Connect has it
        "vip__c": True,
        "interests__c": "Music;Art",
        "count__c": 7,
        "spend__c": 12.5,
        "nickname__c": "Annie",
        "isdeleted": False,
        "_hc_lastop": "SYNCED",
        "_hc_err": None,
    }
    assert {name: found[name] for name in expected} == expected
    assert set(numbers(loaded)) == {loaded.ann, loaded.bob}
    assert shown(loaded, loaded.bob)["vip__c"] is False


def test_values_of_another_type_fail_no_reader(loaded: World) -> None:
    """What does not fit the type that a field has now is null until it is read again."""
    loaded.org.add_field("Contact", COUNT)
    loaded.run()
    make(loaded)
    odd: dict[str, tuple[object, ...]] = {
        "Member_Since__c": ("2025-02-29", "1900-02-29", "0000-01-01", "x", 7),
        "Last_Visit__c": ("2025-02-30T10:00:00.000+0000", "2025-01-01T25:00:00Z", "2025-01-01", True),
        "Rating_Value__c": ("seven", True, [1]),
        "VIP__c": ("yes", 1),
        "Count__c": ("seven", 10**30),
    }
    contact = tables.REPLICA["Contact"]
    for field, values in odd.items():
        for value in values:
            with tables.transaction(loaded.engine) as connection:
                changed = contact.update().values(custom={field: value})
                connection.execute(changed.where(contact.c.id == loaded.ann))

            assert shown(loaded, loaded.ann)[field.lower()] is None, value


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
def test_a_record_keeps_its_number(loaded: World) -> None:
    """A number stays through updates, deletion and return, and after the views were dropped; new records get one."""
    make(loaded)
    before = numbers(loaded)
    assert set(before) == {loaded.ann, loaded.bob, loaded.cid}

    new = loaded.org.create("Contact", {"LastName": "New"})
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.org.delete(loaded.bob)
    loaded.run()
    with_new = numbers(loaded)
    assert with_new == {loaded.ann: before[loaded.ann], loaded.cid: before[loaded.cid], new: with_new[new]}
    assert with_new[new] not in before.values()

    loaded.org.undelete(loaded.bob)
    list(heroku_connect.drop_views(loaded.engine, VIEWS))
    unseen = loaded.org.create("Contact", {"LastName": "Unseen"})
    loaded.run()
    make(loaded)
    after = numbers(loaded)
    assert after == {**before, new: with_new[new], unseen: after[unseen]}


def test_a_first_load_gives_numbers(world: World) -> None:
    """Views that are made before the first load show every record of it, with a number."""
    make(world)
    world.org.create_many("Contact", [{"LastName": str(number)} for number in range(20)])
    world.page_by(7)
    world.run()

    assert len(set(numbers(world).values())) == 20
    [account] = make(world)[:1]
    assert "of custom fields" in account


def test_no_number_is_missing_while_records_are_added(loaded: World) -> None:
    """A row that another transaction adds while the command runs has its number when the command ends."""
    late, waiting = "003000000000001AAA", "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with loaded.engine.connect() as adding, ThreadPoolExecutor(1) as pool:
        adding.execute(
            text(
                "INSERT INTO salesforce.contact (id, is_deleted, system_modstamp) VALUES (:id, false, now())"
            ),
            {"id": late},
        )
        done = pool.submit(make, loaded)
        while loaded.sql(waiting) == [(0,)]:
            assert not done.done()
        adding.commit()
        done.result()

    assert set(numbers(loaded)) == {loaded.ann, loaded.bob, loaded.cid, late}


def test_numbers_are_taken_over_once(loaded: World) -> None:
    """Records keep the `id` of Heroku Connect's tables, others get higher ones; given numbers are never replaced."""
    loaded.sql("CREATE SCHEMA theirs")
    for table in ("account", "contact"):
        loaded.sql(f"CREATE TABLE theirs.{table} (id serial PRIMARY KEY, sfid varchar(18) COLLATE ucs_basic)")
    loaded.sql("INSERT INTO theirs.contact (id, sfid) VALUES (41, :a), (7, :b)", a=loaded.ann, b=loaded.bob)
    loaded.sql("INSERT INTO theirs.contact (sfid) VALUES (NULL)")
    loaded.sql("INSERT INTO theirs.account (id, sfid) VALUES (41, :a)", a=loaded.acme)

    assert "contact: " in make(loaded, ids_from="theirs")[1]

    found = numbers(loaded)
    assert (found[loaded.ann], found[loaded.bob], found[loaded.cid] > 41) == (41, 7, True)
    assert numbers(loaded, f"{VIEWS}.account")[loaded.acme] == 41
    with pytest.raises(UsageError, match="records of Account, Contact have numbers already"):
        make(loaded, ids_from="theirs")
    assert numbers(loaded) == found


# ── remaking and dropping ─────────────────────────────────────────────────────────────────────────────


def test_new_fields_go_to_the_end_and_rights_stay(loaded: World) -> None:
    """Made again, a view has new fields at its end; one that is retyped changes in place, and rights stay."""
    make(loaded)
    with role(loaded.engine) as reader:
        reader.granted(f"USAGE ON SCHEMA {VIEWS}", f"SELECT ON ALL TABLES IN SCHEMA {VIEWS}")
        before = types(loaded, f"{VIEWS}.contact")
        loaded.org.add_field("Contact", Field("Aaa__c", "string", length=9))
        loaded.run()
        make(loaded)
        assert types(loaded, f"{VIEWS}.contact") == {**before, "aaa__c": "text"}
        assert len(reader.ask(f"SELECT aaa__c FROM {VIEWS}.contact")) == 3

        loaded.org.retype_field("Contact", "Aaa__c", type="double", precision=18)
        loaded.run()
        make(loaded)
        assert types(loaded, f"{VIEWS}.contact") == {**before, "aaa__c": "double precision"}
        assert len(reader.ask(f"SELECT aaa__c FROM {VIEWS}.contact")) == 3
        with pytest.raises(Exception, match="permission denied"):
            reader.ask("SELECT * FROM sync.heroku_connect_id")


def test_what_depends_on_a_view_is_named(loaded: World) -> None:
    """A view that must be dropped and cannot be names what depends on it, and is as before."""
    make(loaded)
    loaded.sql(f"CREATE VIEW public.people AS SELECT sfid FROM {VIEWS}.contact")
    try:
        with pytest.raises(
            SyncError, match=r"view heroku_connect.contact cannot be dropped: view public.people"
        ):
            list(heroku_connect.drop_views(loaded.engine, VIEWS))
        assert len(numbers(loaded)) == 3
    finally:
        loaded.sql("DROP VIEW public.people")


def test_dropping_leaves_what_is_not_ours(loaded: World) -> None:
    """`--drop` takes the views alone; the schema goes with them where it is empty, the triggers with the last."""
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname = 'heroku_connect_id'"
    make(loaded)
    make(loaded, "legacy")
    loaded.sql("CREATE TABLE legacy.notes (id int)")

    assert list(heroku_connect.drop_views(loaded.engine, "legacy")) == [
        "dropped legacy.account, legacy.contact; records keep their numbers"
    ]
    assert loaded.sql("SELECT count(*) FROM legacy.notes") == [(0,)]
    assert loaded.sql(triggers) == [(2,)]
    list(heroku_connect.drop_views(loaded.engine, VIEWS))
    assert loaded.sql(triggers) == [(0,)]
    assert loaded.sql(f"SELECT to_regnamespace('{VIEWS}')") == [(None,)]
    assert list(heroku_connect.drop_views(loaded.engine, VIEWS)) == [
        "the schema heroku_connect has no such view"
    ]


def test_a_schema_in_use_is_refused(loaded: World) -> None:
    """The replicas' schema, and one with tables of the same names or of Heroku Connect's own, are refused."""
    with pytest.raises(UsageError, match="salesforce holds this product's replicas: choose another one"):
        make(loaded, "salesforce")
    for table in ("contact", "_hcmeta"):
        loaded.sql(f"CREATE SCHEMA theirs; CREATE TABLE theirs.{table} (id int)")
        with pytest.raises(UsageError, match=rf"theirs holds tables that are not this product's \({table}\)"):
            make(loaded, "theirs")
        assert "DROP" not in str(loaded.sql("DROP SCHEMA theirs CASCADE"))
    with pytest.raises(UsageError, match="has no table account, contact of Heroku Connect"):
        make(loaded, ids_from="theirs")
    assert loaded.sql(f"SELECT to_regnamespace('{VIEWS}')") == [(None,)]
