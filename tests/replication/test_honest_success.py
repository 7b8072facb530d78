"""What is no success is not called one: rejected records, refused deletions, objects never loaded, another org."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from sync.errors import ObjectsFailedError, RejectsError, UsageError
from sync.operations import status
from sync.postgres import tables
from sync.replication import pipeline, rejects
from tests.support.consuming import GRANTS, Role, role
from tests.support.world import LONG_AGO, World

BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
REASON = "Birthdate: not a date"


@pytest.fixture
def unfit(world: World) -> World:
    """400 contacts whose Birthdate is no date."""
    world.environment["SYNC_OBJECTS"] = "Contact"
    world.org.retype_field("Contact", "Birthdate", type="string", length=80)
    world.org.create_many("Contact", [{"LastName": f"n{i}", "Birthdate": "in spring"} for i in range(400)])
    return world


@pytest.fixture
def one_unfit(loaded: World) -> World:
    """One contact of three whose new version does not fit."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    loaded.run()
    return loaded


def line(world: World) -> str:
    """The first line of `status`."""
    with tables.transaction(world.engine) as connection:
        found = status.read_status(connection, world.context().settings.sync_objects, timedelta(hours=1))
    return found.headline


def accept(world: World) -> None:
    with tables.transaction(world.engine) as connection:
        rejects.accept(connection, ["Contact"], REASON, "test")


def refused(world: World) -> RejectsError:
    with pytest.raises(ObjectsFailedError) as failed:
        world.run()
    [(_, error)] = failed.value.failures
    assert isinstance(error, RejectsError)
    assert failed.value.code == 6
    return error


# ── rejected records ──────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_run_that_stores_nothing_fails(unfit: World) -> None:
    """When too many records do not fit the run fails with 6, the cursor stays, and reasons are counted, no value
    among them; accepted, it goes on."""
    error = refused(unfit)

    assert "400 of 400 records" in str(error)
    assert f"{REASON} (400)" in str(error)
    assert f'--accept "{REASON}"' in str(error)
    assert "spring" not in str(error)
    assert unfit.cursor("Contact") is None
    assert line(unfit).startswith("NOT LOADED: Contact")
    [(shown,)] = unfit.sql("SELECT last_error FROM crm.freshness")
    assert shown == "rejects"

    accept(unfit)
    unfit.run()
    assert unfit.cursor("Contact") is not None
    assert line(unfit).startswith("OK")


def test_mended_values_are_read_by_the_next_run(unfit: World) -> None:
    """After such a failure the window is read anew: what was mended in Salesforce meanwhile is stored."""
    refused(unfit)
    unfit.org.update_many(unfit.org.ids("Contact"), {"Birthdate": "1990-05-01"})

    unfit.run()

    assert unfit.sql("SELECT FROM sync.reject") == []
    unfit.assert_equal(["Contact"])


def test_a_share_of_what_was_read(loaded: World) -> None:
    """Many unfit records of one pass fail it, though the table has many more; the next pass fails again."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(11_000)], stamp=LONG_AGO)
    loaded.run()
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    before = loaded.cursor("Contact")
    spoiled = loaded.org.ids("Contact")[:101]
    loaded.org.update_many(spoiled, {"Birthdate": "in spring"})

    for _ in range(2):
        loaded.sim.clock.advance(60)
        assert "101 of " in str(refused(loaded))
        assert loaded.cursor("Contact") == before


@pytest.mark.parametrize(
    ("count", "of", "many"), [(100, 100, False), (101, 10_100, False), (101, 10_099, True), (101, 101, True)]
)
def test_what_is_too_many(count: int, of: int, many: bool) -> None:
    """More than a hundred records, and more than one in a hundred."""
    assert rejects.exceeds_limits(count, of) is many


def test_status_is_not_ok_while_records_are_missing(one_unfit: World) -> None:
    """One rejected record is enough: the first line warns, says how many, since when, and what to type."""
    found = line(one_unfit)

    assert found.startswith("WARNING: Contact: 1 record is rejected since 20")
    assert f"({REASON} (1))" in found
    assert "python -m sync rejects --object Contact" in found
    accept(one_unfit)
    assert line(one_unfit).startswith("OK")


@BOTH
def test_verify_never_says_equal(one_unfit: World) -> None:
    """Rejected records are differences; accepted, they are named and counted, and it ends with 0."""
    one_unfit.sim.clock.advance(3600)
    done = one_unfit.command("verify", "--object", "Contact")
    assert done.returncode == 5
    assert f"Contact: 1 record is not stored, rejected: {REASON}" in done.stdout
    assert "equal" not in done.stdout
    assert one_unfit.sql("SELECT verified_through FROM sync.cursor WHERE object = 'Contact'") == [(None,)]

    accept(one_unfit)
    done = one_unfit.command("verify", "--object", "Contact")
    assert done.returncode == 0
    assert f"rejected: {REASON}; accepted" in done.stdout
    assert "Contact: equal but for what is accepted" in done.stdout


@pytest.mark.parametrize("sample", [0, None], ids=["by stamps", "deep"])
def test_verify_names_what_does_not_fit(loaded: World, sample: int | None) -> None:
    """A missing or stale record that cannot be stored is a difference, also when nobody met it before; a repair
    quarantines it, and it is a difference still."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    spoiled = loaded.org.create("Contact", {"LastName": "New", "Birthdate": "in spring"}, stamp=LONG_AGO)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"}, stamp=LONG_AGO + timedelta(days=1))
    loaded.sql("UPDATE sync.cursor SET verified_through = NULL")

    for repair, counted in ((False, (2, 0, 2)), (True, (2, 2, 2)), (False, (0, 2, 2))):
        [one] = pipeline.verify_all(loaded.context("verify"), ["Contact"], repair=repair, sample=sample)
        found = one.findings
        assert found is not None
        assert (found["unfit"], found["rejected"], found["remaining"]) == counted, repair
    assert {row[0] for row in loaded.sql("SELECT record_id FROM sync.reject")} == {spoiled, loaded.ann}
    assert loaded.sql("SELECT verified_through FROM sync.cursor WHERE object = 'Contact'") == [(None,)]


def test_rejects_command(one_unfit: World) -> None:
    """By reason first, the records with --all; a reason is accepted by its name, and refused again."""
    grouped = one_unfit.command("rejects")
    assert one_unfit.ann not in grouped.stdout
    assert f"Contact\t{REASON}\t1\t" in grouped.stdout
    assert one_unfit.ann in one_unfit.command("rejects", "--all").stdout

    assert one_unfit.command("rejects", "--accept", REASON).returncode == 0
    assert one_unfit.sql("SELECT object, reason FROM sync.accepted") == [("Contact", REASON)]
    assert "\tyes" in one_unfit.command("rejects").stdout
    assert one_unfit.command("rejects", "--refuse", REASON).returncode == 0
    assert one_unfit.sql("SELECT FROM sync.accepted") == []


@pytest.mark.parametrize("what", ["accept", "refuse"])
def test_unknown_reasons_are_named(one_unfit: World, what: str) -> None:
    """A reason that is not there is an error that names those that are."""
    with tables.transaction(one_unfit.engine) as connection:
        if what == "accept":
            with pytest.raises(UsageError, match=f'the reasons are: "{REASON}"'):
                rejects.accept(connection, ["Contact"], "Birthday: odd", "test")
        else:
            with pytest.raises(UsageError, match="is not accepted for Contact"):
                rejects.withdraw(connection, ["Contact"], REASON)


# ── deletions ─────────────────────────────────────────────────────────────────────────────────────────


def test_refused_deletions_are_said(loaded: World) -> None:
    """Where getDeleted is refused for good the claim goes on, freshness says what deletions rest on, status warns."""
    refusal = loaded.sim.faults.add("functionality_not_enabled", on="deleted", sobject="Contact", times=None)
    before = loaded.cursor("Contact")
    loaded.sim.clock.advance(120)
    loaded.run()

    after = loaded.cursor("Contact")
    assert before is not None
    assert after is not None
    assert after > before
    rests = dict(map(tuple, loaded.sql("SELECT object, deletions FROM crm.freshness")))
    assert rests == {"Account": "delete log", "Contact": "nightly verify"}
    assert line(loaded).startswith("WARNING: Contact: Salesforce refuses getDeleted since")

    loaded.sim.faults.remove(refusal)
    loaded.sim.clock.advance(120)
    loaded.run()
    assert (
        dict(map(tuple, loaded.sql("SELECT object, deletions FROM crm.freshness")))["Contact"] == "delete log"
    )
    assert "getDeleted" not in line(loaded)


# ── what is loaded ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def consumer(world: World) -> Iterator[Role]:
    with role(world.engine) as found:
        yield found.granted(*GRANTS)


def through(consumer: Role, *objects: str) -> str:
    """What `crm.complete_through` says, as text: the driver knows no infinity."""
    named = f"ARRAY[{', '.join(repr(name) for name in objects)}]" if objects else "NULL"
    return str(consumer.ask(f"SELECT crm.complete_through({named})::text")[0][0])


def test_an_object_that_was_never_complete(world: World, consumer: Role) -> None:
    """While one object was never loaded, "complete through" is -infinity, not what the others say."""
    assert through(consumer) == "-infinity"
    world.org.create("Account", {"Name": "Acme"})
    world.org.hide_object("Contact")
    with pytest.raises(ObjectsFailedError):
        world.run()

    assert through(consumer) == through(consumer, "Contact") == "-infinity"
    assert through(consumer, "Account").startswith("20")
    assert dict(consumer.ask("SELECT object, loaded FROM crm.freshness")) == {
        "Account": True,
        "Contact": False,
    }

    world.org.show_object("Contact")
    world.run()
    assert through(consumer).startswith("20")
    assert consumer.ask("SELECT bool_and(loaded) FROM crm.freshness") == [(True,)]


def test_an_object_not_replicated_blocks_nobody(world: World, consumer: Role) -> None:
    """What SYNC_OBJECTS leaves out, now or not any more, is no part of "all objects"; asked for by name it is an
    error that names those that are."""
    world.environment["SYNC_OBJECTS"] = "Contact"
    world.run()
    assert through(consumer).startswith("20")
    assert [row[0] for row in consumer.ask("SELECT object FROM crm.freshness")] == ["Contact"]
    assert consumer.ask("SELECT crm.wait_until('2000-01-01')") == [(True,)]
    for call in ("complete_through(ARRAY['Account'])", "wait_until(now(), '1 s', ARRAY['contact'])"):
        with pytest.raises(DBAPIError, match=r"(?s)is not replicated.*HINT:  Replicated are: Contact"):
            consumer.ask(f"SELECT crm.{call}")

    world.environment["SYNC_OBJECTS"] = "Account,Contact"
    world.run()
    world.environment["SYNC_OBJECTS"] = "Account"
    world.run()
    assert [row[0] for row in consumer.ask("SELECT object FROM crm.freshness")] == ["Account"]


# ── another org ───────────────────────────────────────────────────────────────────────────────────────


def test_an_accepted_org_is_named_until_the_other_is_gone(loaded: World) -> None:
    """After another org was accepted, status warns with the next command until a verify found nothing of the first."""
    loaded.sql("UPDATE sync.org SET organization_id = '00D000000000999'")
    loaded.sql(
        "INSERT INTO salesforce.contact (id, is_deleted, system_modstamp) "
        "VALUES ('003000000000001AAA', false, '2020-01-01')"
    )
    done = loaded.command("run", "--accept-org")
    command = "python -m sync verify --object Contact --repair --approve"
    assert done.returncode == 0
    assert command in done.stdout
    assert line(loaded).startswith("WARNING: Account: the org was replaced on")

    for name in ("Account", "Contact"):
        pipeline.verify_all(loaded.context("verify", approve=True), [name], repair=True, sample=0)
    assert line(loaded).startswith("OK")
    assert loaded.row("003000000000001AAA")["deleted_reason"] == "vanished"
