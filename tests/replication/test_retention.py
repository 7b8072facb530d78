"""Values that may not stay: of records deleted long ago, and of fields that are not replicated any more."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import load_settings, settings_from
from sync.errors import ConfigError
from sync.operations.audit import checks, mapped, org
from sync.replication import pipeline
from sync.salesforce.session.session import Session
from sync.simulator.fields import Field
from tests.support.soak import covering
from tests.support.world import World

LEFT = {"id", "is_deleted", "system_modstamp", "deleted_at", "deleted_reason", "synced_at"}
WAYS = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)


def left(world: World, id_: str) -> set[str]:
    """The columns of a row that hold anything."""
    return {name for name, value in world.row(id_).items() if value is not None and value != {}}


def age(world: World, id_: str, days: int) -> None:
    """What time does: the deletion, and the record's last change, lie so many days back."""
    world.sql(
        "UPDATE salesforce.contact SET deleted_at = deleted_at - make_interval(days => :days) WHERE id = :id",
        id=id_,
        days=days,
    )
    world.sql("UPDATE sync.cursor SET emptied_through = emptied_through - make_interval(days => :d)", d=days)


# ── tombstones ────────────────────────────────────────────────────────────────────────────────────────


def test_tombstones_keep_their_values_for_thirty_days(loaded: World) -> None:
    """By default a deleted record keeps its last values for thirty days, and then only what says that it was."""
    loaded.org.delete(loaded.ann)
    loaded.run()
    loaded.sim.clock.advance(3600)
    loaded.run()  # from now on no pass reads the record again
    assert loaded.row(loaded.ann)["last_name"] == "Ann"
    age(loaded, loaded.ann, 29)
    loaded.run()
    assert loaded.row(loaded.ann)["last_name"] == "Ann"

    age(loaded, loaded.ann, 2)
    seen = loaded.last_seq()
    loaded.run()

    assert left(loaded, loaded.ann) == LEFT
    assert loaded.feed(seen) == []


@pytest.mark.parametrize(
    ("transport", "how"),
    covering(list(product(("rest", "bulk"), ("deleted", "merged", "purged", "vanished"))), enumerate),
    indirect=["transport"],
)
def test_values_erased_with_the_deletion(loaded: World, how: str) -> None:
    """With SYNC_TOMBSTONE_VALUES=erase nothing but Id, stamps, reason and survivor is left, however it went; while
    the record lies in the recycle bin, reading it again changes nothing."""
    loaded.environment["SYNC_TOMBSTONE_VALUES"] = "erase"
    if how == "deleted":
        loaded.org.delete(loaded.ann)
    elif how == "merged":
        loaded.org.merge(loaded.bob, [loaded.ann])
    else:
        loaded.org.purge(loaded.ann, log=how == "purged")
    loaded.sim.clock.advance(600)
    loaded.run()
    if how == "vanished":
        pipeline.verify_all(loaded.context("verify"), ["Contact"], repair=True, sample=0)

    assert left(loaded, loaded.ann) == LEFT | ({"master_record_id"} if how == "merged" else set())
    assert loaded.row(loaded.ann)["deleted_reason"] == how
    seen, stamp = loaded.last_seq(), loaded.row(loaded.ann)["synced_at"]
    for again in (["Contact"], ["Contact"]):
        loaded.run()
        pipeline.resync(loaded.context("resync"), again, None)
        [report] = pipeline.verify_all(loaded.context("verify"), again, repair=True, sample=None)
        assert report.findings is not None
        assert report.findings["remaining"] == 0
    assert loaded.feed(seen) == []
    assert loaded.row(loaded.ann)["synced_at"] == stamp


def test_a_deleted_record_of_a_first_load_is_empty(world: World) -> None:
    """Also a record that was deleted before it was ever read leaves no values."""
    world.environment["SYNC_TOMBSTONE_VALUES"] = "erase"
    ann, bob = world.org.create_many("Contact", [{"LastName": "Ann"}, {"LastName": "Bob"}])
    world.org.delete(ann)
    world.run()

    assert left(world, ann) == LEFT
    assert world.row(bob)["last_name"] == "Bob"


def test_an_undeleted_record_has_its_values_again(loaded: World) -> None:
    """Out of the recycle bin a record comes back whole."""
    loaded.environment["SYNC_TOMBSTONE_VALUES"] = "erase"
    loaded.org.delete(loaded.ann)
    loaded.run()
    loaded.org.undelete(loaded.ann)
    loaded.run()

    loaded.assert_equal()


def test_values_kept_for_ever(loaded: World) -> None:
    """SYNC_TOMBSTONE_RETENTION=off keeps them; a shorter time later erases what is older by then."""
    loaded.environment["SYNC_TOMBSTONE_RETENTION"] = "off"
    loaded.org.delete(loaded.ann)
    loaded.run()
    age(loaded, loaded.ann, 1000)
    loaded.run()
    assert loaded.row(loaded.ann)["last_name"] == "Ann"

    loaded.environment["SYNC_TOMBSTONE_RETENTION"] = "90d"
    loaded.run()
    assert left(loaded, loaded.ann) == LEFT


def test_an_empty_tombstone_stays_empty(loaded: World) -> None:
    """Kept longer, values of records that were emptied before do not come back from the recycle bin; those of
    records deleted since then are kept, and erased in their time."""
    loaded.environment["SYNC_TOMBSTONE_VALUES"] = "erase"
    loaded.org.delete(loaded.ann)
    loaded.run()
    loaded.environment["SYNC_TOMBSTONE_VALUES"] = "keep"
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.sql("UPDATE salesforce.contact SET system_modstamp = system_modstamp - interval '1 second'")
    loaded.run()
    assert left(loaded, loaded.ann) == LEFT

    loaded.org.delete(loaded.bob)
    loaded.run()
    assert loaded.row(loaded.bob)["last_name"] == "Bob"
    age(loaded, loaded.bob, 31)
    loaded.run()
    assert left(loaded, loaded.bob) == LEFT


def test_statistics_forget_the_values(rich: World) -> None:
    """The planner's samples of values are made anew once the values are erased."""
    rich.sql("ANALYZE salesforce.contact")
    sampled = (
        "SELECT count(*) FROM pg_stats WHERE tablename = 'contact' AND attname = 'title' AND null_frac < 1"
    )
    assert rich.sql(sampled) == [(1,)]
    rich.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Title"
    rich.run()

    assert rich.sql(sampled) == [(0,)]


def test_hidden_fields_of_tombstones_are_emptied_too(loaded: World) -> None:
    """A column that is not read any more holds its last value; a tombstone's is erased with the others."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.run()
    loaded.org.hide_field("Contact", "Title")
    loaded.environment["SYNC_TOMBSTONE_VALUES"] = "erase"
    loaded.org.delete(loaded.ann)
    loaded.run()

    assert left(loaded, loaded.ann) == LEFT


# ── fields ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def rich(loaded: World) -> World:
    """Contacts with values in a standard field, one with a derived column, and two custom ones."""
    for name in ("Nick__c", "Level__c"):
        loaded.org.add_field("Contact", Field(name, "string", length=80))
    loaded.org.update_many(
        [loaded.ann, loaded.bob],
        {"Title": "Boss", "Email": "Some.One@x.example", "Nick__c": "nick", "Level__c": "gold"},
    )
    loaded.run()
    loaded.seen = loaded.last_seq()
    return loaded


def stored(world: World, id_: str) -> tuple[Any, ...]:
    row = world.row(id_)
    return (row["title"], row["email"], row["email_normalized"], custom(world, id_))


def custom(world: World, id_: str) -> dict[str, Any]:
    """The custom fields that this is about."""
    found = world.row(id_)["custom"]
    return {name: found[name] for name in ("Nick__c", "Level__c") if name in found}


def told(world: World) -> list[str]:
    """What consumers were told of contacts."""
    return [change.op for change in world.feed(world.seen) if change.object == "Contact"]


def asked(world: World) -> str:
    """All queries since the log was last cleared."""
    return " ".join(request.soql or "" for request in world.sim.requests)


@WAYS
def test_excluded_fields_are_erased_and_never_asked_for(rich: World) -> None:
    """Excluded fields leave the columns, what is derived from them, and `custom`; consumers are told once."""
    rich.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Email,Contact.Nick__c"
    rich.run()

    assert stored(rich, rich.ann) == ("Boss", None, None, {"Level__c": "gold"})
    assert told(rich) == ["reload"]
    rich.sim.requests.clear()
    rich.org.update(rich.ann, {"Email": "new@x.example", "Title": "Chief"})
    rich.run()
    pipeline.resync(rich.context("resync"), ["Contact"], None)
    [report] = pipeline.verify_all(rich.context("verify"), ["Contact"], repair=False, sample=None)

    assert report.findings is not None
    assert report.findings["remaining"] == 0
    assert stored(rich, rich.ann) == ("Chief", None, None, {"Level__c": "gold"})
    assert told(rich) == ["reload", "update"]
    log = asked(rich)
    assert "Title" in log
    assert "Nick__c" not in log
    assert " Email," not in log


def test_an_excluded_field_that_returns_is_filled_again(rich: World) -> None:
    """Taken out of the setting, the field is read of all records by the next pass."""
    rich.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Email,Contact.Nick__c"
    rich.run()
    del rich.environment["SYNC_EXCLUDED_FIELDS"]
    rich.run()

    rich.assert_equal()


@pytest.mark.parametrize(("selected", "left_over"), [("none", {}), ("Level__c", {"Level__c": "gold"})])
def test_deselected_custom_fields_are_erased(rich: World, selected: str, left_over: dict[str, str]) -> None:
    """A narrower SYNC_CUSTOM_FIELDS erases what it does not name any more."""
    rich.environment["SYNC_CUSTOM_FIELDS"] = selected
    rich.run()

    assert custom(rich, rich.ann) == left_over
    assert set(rich.row(rich.ann)["custom"]) == set(left_over)
    assert told(rich) == ["reload"]
    rich.run()
    assert told(rich) == ["reload"]


@pytest.mark.parametrize("setting", ["SYNC_CUSTOM_FIELDS", "SYNC_EXCLUDED_FIELDS"])
def test_a_misspelt_custom_field_erases_nothing(rich: World, setting: str) -> None:
    """A name that no object has ever shown is a misspelling: nothing is erased by it, and `check` names it."""
    rich.environment[setting] = "Levle__c,Nick__c"
    rich.run()

    assert custom(rich, rich.ann) == {"Nick__c": "nick", "Level__c": "gold"}
    settings = settings_from(rich.environment, OBJECT_CHOICES)
    found = list(checks.check(settings, Session(settings, rich.stop), rich.engine))
    [named] = [finding for finding in found if finding.subject == "custom fields"]
    assert named.state == "warning"
    assert f"{setting} names Levle__c" in named.detail

    rich.environment[setting] = "Level__c"
    rich.run()
    assert ("Level__c" in custom(rich, rich.ann)) is (setting == "SYNC_CUSTOM_FIELDS")


def test_hidden_fields_keep_their_values(rich: World) -> None:
    """What only the integration user's rights hide stays, and `status` names it."""
    rich.org.hide_field("Contact", "Nick__c")
    rich.run()

    assert custom(rich, rich.ann) == {"Nick__c": "nick", "Level__c": "gold"}
    done = rich.command("status")
    assert "Contact.Nick__c is not shown any more" in done.stdout


def test_rejected_records_lose_excluded_fields(rich: World) -> None:
    """A record that is kept whole because it does not fit is read again without them."""
    rich.org.retype_field("Contact", "Birthdate", type="string", length=80)
    rich.org.update(rich.ann, {"Birthdate": "in spring"})
    rich.run()
    [(before,)] = rich.sql("SELECT record FROM sync.reject")
    assert before["Nick__c"] == "nick"

    rich.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Nick__c"
    rich.run()

    [(after,)] = rich.sql("SELECT record FROM sync.reject")
    assert "Nick__c" not in after
    rich.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Nick__c,Contact.Birthdate"
    rich.run()
    assert rich.sql("SELECT FROM sync.reject") == []
    assert rich.row(rich.ann)["title"] == "Boss"


def test_interrupted_it_is_finished_by_the_next_pass(rich: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that are committed stay; one `reload` tells consumers when all of it is done."""
    monkeypatch.setattr("sync.postgres.load.personal.BATCH", 1)
    rich.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Title"
    seen = []

    def stop_after_one(step: object) -> None:
        seen.append(step)
        raise RuntimeError("killed")

    with pytest.raises(Exception, match="killed"):
        pipeline.sync_object(rich.context(on_page=stop_after_one), "Contact")
    assert {rich.row(id_)["title"] for id_ in (rich.ann, rich.bob)} >= {"Boss"}
    assert told(rich) == []

    rich.run()
    assert {rich.row(id_)["title"] for id_ in (rich.ann, rich.bob)} == {None}
    assert told(rich) == ["reload"]


def test_schema_shows_what_is_excluded(rich: World) -> None:
    """`schema` tells an excluded field from a hidden one, and `check` does not ask for its permission."""
    rich.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Birthdate"
    settings = settings_from(rich.environment, OBJECT_CHOICES)
    session = Session(settings, rich.stop)
    lines = {line.field: line.state for line in mapped.schema(settings, session, "Contact")}
    assert lines["Birthdate"] == "excluded"
    findings = list(org.check_object(settings, session, "Contact", rich.engine))
    assert "Birthdate" not in " ".join(finding.detail for finding in findings)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("SYNC_EXCLUDED_FIELDS", "Contact.Id", "Id of Contact cannot be excluded"),
        ("SYNC_EXCLUDED_FIELDS", "SystemModstamp", "cannot be excluded"),
        ("SYNC_EXCLUDED_FIELDS", "Contact.AccountId", "cannot be excluded"),
        (
            "SYNC_EXCLUDED_FIELDS",
            "Account.ParentId,Account.MasterRecordId",
            "MasterRecordId, ParentId of Account",
        ),
        ("SYNC_EXCLUDED_FIELDS", "Contact.Birthdte", "did you mean Contact.Birthdate"),
        ("SYNC_EXCLUDED_FIELDS", "Acount.Email", "is of no object in the catalogue"),
        ("SYNC_EXCLUDED_FIELDS", "Contact.Email; Title", "is not the API name of a field"),
        ("SYNC_TOMBSTONE_RETENTION", "a month", "is not a duration"),
        ("SYNC_TOMBSTONE_VALUES", "drop", "must be keep or erase"),
        ("SYNC_TOMBSTONE_RETENTION", "99999999d", "must be at most 36500d; write off"),
    ],
)
def test_wrong_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, world: World, name: str, value: str, complaint: str
) -> None:
    """What cannot be excluded, or is no field or duration, is an error that names the setting."""
    for setting, given in {**world.environment, name: value}.items():
        monkeypatch.setenv(setting, given)

    with pytest.raises(ConfigError, match=f"(?s){name}.*{complaint}"):
        load_settings(OBJECT_CHOICES)


def test_settings_as_they_are_meant(world: World) -> None:
    """Excluding, and how long values are kept, by their settings."""
    settings = settings_from(
        world.environment
        | {
            "SYNC_EXCLUDED_FIELDS": "Contact.Birthdate, PhotoUrl,Account.Level__c",
            "SYNC_TOMBSTONE_VALUES": "KEEP",
        },
        OBJECT_CHOICES,
    )
    assert settings.excluded_fields("Contact") == {"Birthdate", "PhotoUrl"}
    assert settings.excluded_fields("Account") == {"PhotoUrl", "Level__c"}
    assert settings.tombstone_values_kept == timedelta(days=30)
