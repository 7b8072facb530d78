"""A person erased on request: gone from every table, and back by no path."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from typer.testing import CliRunner

from sync.catalogue.catalogue import CATALOGUE
from sync.demo.commands import app
from sync.errors import UsageError
from sync.operations import erasure
from sync.postgres import tables
from sync.postgres.load import merge
from sync.replication import apply, pipeline
from sync.simulator.fields import Field
from tests.support.world import ROOT, World

MARK = "Xanthippe"  # in every value of the person, and nowhere else
OF_ANN = {
    "FirstName": MARK,
    "LastName": f"{MARK}-Ann",
    "Email": f"{MARK}@x.example",
    "Phone": "+14155550123",
    "Title": f"{MARK} Boss",
    "Description": f"about {MARK}",
}


@pytest.fixture
def person(loaded: World) -> World:
    """Ann has values that can be searched for, in columns, custom fields, the feed and the journal."""
    loaded.org.add_field("Contact", Field("Nick__c", "string", length=80))
    loaded.org.update(loaded.ann, OF_ANN | {"Nick__c": MARK})
    loaded.run()
    loaded.seen = loaded.last_seq()
    return loaded


def erase(world: World, *ids: str) -> erasure.Erased:
    return erasure.erase(
        world.engine, pipeline.group_by_object(ids), "test", "request 7", timedelta(seconds=5), world.stop
    )


def everything(world: World) -> dict[str, str]:
    """All our tables as text, by name; and the planner's statistics."""
    names = world.sql(
        "SELECT c.oid::regclass::text FROM pg_catalog.pg_class AS c "
        "WHERE c.relnamespace = ANY ('{sync,salesforce}'::regnamespace[]) AND c.relkind = 'r'"
    )
    found = {
        name: " ".join(row[0] for row in world.sql(f"SELECT t::text FROM {name} AS t")) for (name,) in names
    }
    statistics = "SELECT coalesce(string_agg(s::text, ' '), '') FROM pg_catalog.pg_stats AS s"
    return found | {"statistics": world.sql(statistics)[0][0]}


def holding(world: World, what: str) -> set[str]:
    return {name for name, text in everything(world).items() if what.lower() in text.lower()}


def assert_erased(world: World, id_: str, sobject: str = "Contact") -> None:
    """Nothing is left of the record but its Id, stamps and the reason."""
    assert holding(world, MARK) == set()
    row = world.rows(sobject).get(id_)
    if row is not None:
        left = {name for name, value in row.items() if value is not None and value != {}}
        assert left == {*("id", "is_deleted", "system_modstamp", "deleted_at", "deleted_reason", "synced_at")}
        assert row["deleted_reason"] == "erased"


def test_every_copy_is_emptied(person: World) -> None:
    """No table of ours, and no statistics, hold anything of an erased person but Id, stamps and the reason."""
    person.sql("ANALYZE salesforce.contact")
    assert {"salesforce.contact"} <= holding(person, MARK)

    done = erase(person, person.ann)

    assert_erased(person, person.ann)
    assert (done.ids, done.rows) == ({"Contact": (person.ann,)}, {"Contact": 1})
    assert person.news(person.seen) == [("erase", person.ann)]
    assert person.sql("SELECT DISTINCT changed FROM sync.change WHERE record_id = :id", id=person.ann) == [
        ([],)
    ]
    assert person.ann not in {row[0] for row in person.sql("SELECT id FROM crm.contact")}
    [kept] = person.sql("SELECT object, record_id, asked_by, lifted_at FROM sync.erased")
    assert tuple(kept) == ("Contact", person.ann, "request 7", None)
    [journal] = person.sql("SELECT command, outcome, deleted FROM sync.run ORDER BY id DESC LIMIT 1")
    assert tuple(journal) == ("erase", "succeeded", 1)


def by_update(world: World) -> None:
    world.org.update(world.ann, {"Title": f"{MARK} again"})
    world.run()


def by_overlap(world: World) -> None:
    world.run()


def by_full_resync(world: World) -> None:
    pipeline.resync(world.context("resync"), ["Contact"], None)


def by_bulk(world: World) -> None:
    world.environment["SYNC_BULK_THRESHOLD"] = "0"
    pipeline.resync(world.context("resync"), ["Contact"], None)


def by_recycle_bin(world: World) -> None:
    world.org.delete(world.ann)
    world.run()
    world.org.undelete(world.ann)
    world.run()


def by_merge(world: World) -> None:
    world.org.merge(world.bob, [world.ann])
    world.run()
    world.sql("UPDATE salesforce.contact SET first_name = NULL WHERE id = :id", id=world.bob)


def by_verify(world: World) -> None:
    for sample in (0, None):
        pipeline.verify_all(world.context("verify"), ["Contact"], repair=True, sample=sample)


def by_another_org(world: World) -> None:
    world.sql("UPDATE sync.org SET organization_id = '00D000000000999'")
    pipeline.sync_all(world.context(accept_org=True))


def by_refresh(world: World) -> None:
    world.environment["SYNC_VOLATILE_FIELDS"] = "Contact.Title"
    world.sql("UPDATE sync.cursor SET refreshed_at = now() - interval '3 days'")
    world.run()


def by_queue(world: World) -> None:
    world.sql(
        "INSERT INTO sync.reread (object, record_id, whole) VALUES ('Contact', :id, true)", id=world.ann
    )
    world.run()


PATHS = [
    by_update,
    by_overlap,
    by_full_resync,
    by_bulk,
    by_recycle_bin,
    by_merge,
    by_verify,
    by_another_org,
    by_refresh,
    by_queue,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__.removeprefix("by_"))
def test_nothing_brings_an_erased_person_back(person: World, path: Any) -> None:
    """Whatever reads the record again, its values are not stored, and verify calls nothing of it a difference."""
    erase(person, person.ann)

    path(person)

    assert_erased(person, person.ann)
    assert person.sql("SELECT FROM sync.reread") == []
    [report] = pipeline.verify_all(person.context("verify"), ["Contact"], repair=False, sample=None)
    assert report.findings is not None
    assert (report.findings["remaining"], report.findings["erased"]) == (0, 1)


def test_a_page_fetched_before_is_checked_when_it_is_written(person: World) -> None:
    """A page that was on its way when the person was erased is stored without that person."""
    person.org.update(person.ann, {"Title": f"{MARK} again"})
    person.org.update(person.bob, {"Title": "Boss"})
    schema = apply.describe_object(person.context(), CATALOGUE["Contact"])
    [page] = apply.by_id(person.context(), schema, [person.ann, person.bob])
    erase(person, person.ann)

    for announce in (True, False):
        with tables.transaction(person.engine) as connection:
            merge.merge(connection, schema.projection, page.batch, 1, announce=announce)

    assert_erased(person, person.ann)
    assert person.row(person.bob)["title"] == "Boss"


def test_a_first_load_leaves_erased_persons_out(person: World) -> None:
    """Also where rows are copied straight into an empty table."""
    erase(person, person.ann)
    for table in ("salesforce.contact", "sync.cursor", "sync.progress"):
        person.sql(f"DELETE FROM {table}")

    person.run()

    assert set(person.rows("Contact")) == {person.bob, person.cid}
    assert holding(person, MARK) == set()


def test_a_rejected_person_is_erased_and_stays_so(person: World) -> None:
    """What could not be stored is kept whole: it goes, too, and is not quarantined again."""
    person.org.retype_field("Contact", "Birthdate", type="string", length=80)
    person.org.update(person.ann, {"Birthdate": "in spring"})
    person.run()
    assert "sync.reject" in holding(person, MARK)

    erase(person, person.ann)
    assert_erased(person, person.ann)

    person.org.update(person.ann, {"Birthdate": "in autumn"})
    person.run()
    pipeline.resync(person.context("resync"), ["Contact"], None)
    assert_erased(person, person.ann)


@pytest.mark.parametrize("given", ["Account", "Contact"])
@pytest.mark.parametrize("learned", ["before", "after"])
def test_a_person_account_goes_with_its_contact(world: World, given: str, learned: str) -> None:
    """A person account and its contact are one person, whichever is named, and whenever the other is read."""
    world.sim.options.person_accounts = True
    account = world.org.create(
        "Account", {"FirstName": MARK, "LastName": MARK, "PersonEmail": f"{MARK}@x.example"}
    )
    [contact] = world.org.ids("Contact")
    if learned == "before":
        world.run()
    else:
        world.environment["SYNC_OBJECTS"] = given
        world.run()
    erase(world, account if given == "Account" else contact)

    world.environment["SYNC_OBJECTS"] = "Account,Contact"
    world.run()
    pipeline.resync(world.context("resync"), ["Account", "Contact"], None)

    assert_erased(world, account, "Account")
    assert_erased(world, contact, "Contact")
    erased = {tuple(row) for row in world.sql("SELECT object, record_id FROM sync.erased")}
    assert erased == {("Account", account), ("Contact", contact)}


@pytest.mark.parametrize("given", ["Account", "Contact"])
def test_the_other_half_is_not_quarantined(world: World, given: str) -> None:
    """Also a half that does not fit, and was not read before, is erased with the one that was named."""
    world.sim.options.person_accounts = True
    world.org.retype_field("Account", "NumberOfEmployees", type="string", length=80)
    world.org.retype_field("Contact", "EmailBouncedDate", type="string", length=80)
    account = world.org.create(
        "Account",
        {
            "FirstName": MARK,
            "LastName": MARK,
            "NumberOfEmployees": "many",
        },
    )
    [contact] = world.org.ids("Contact")
    world.org.update(contact, {"EmailBouncedDate": "in spring"})
    erase(world, account if given == "Account" else contact)

    world.run()

    assert holding(world, MARK) == set()
    assert {row[0] for row in world.sql("SELECT record_id FROM sync.erased")} == {account, contact}


@pytest.mark.parametrize("given", ["Account", "Contact"])
@pytest.mark.parametrize("erased", ["Account", "Contact"])
def test_lifting_one_half_lifts_both(world: World, erased: str, given: str) -> None:
    """What was erased as one person is lifted as one, though the link between the halves is erased."""
    world.sim.options.person_accounts = True
    account = world.org.create("Account", {"FirstName": MARK, "LastName": MARK})
    [contact] = world.org.ids("Contact")
    world.run()
    halves = {"Account": account, "Contact": contact}
    erase(world, halves[erased])
    erase(world, halves[given])

    by_object = pipeline.group_by_object([halves[given]])
    erasure.lift(world.engine, by_object, "test", "request 8", timedelta(0), world.stop)
    world.run()

    assert world.row(account)["name"] == world.row(contact)["name"] == f"{MARK} {MARK}"
    assert world.sql("SELECT FROM sync.erased WHERE lifted_at IS NULL") == []


def test_a_business_account_is_nobodys_twin(loaded: World) -> None:
    """The contacts of an erased business account stay."""
    erase(loaded, loaded.acme)
    loaded.run()

    assert loaded.sql("SELECT object, record_id FROM sync.erased") == [("Account", loaded.acme)]
    assert loaded.sql("SELECT count(*) FROM crm.contact") == [(3,)]


def test_what_was_merged_into_a_person_goes_with_it(person: World) -> None:
    """A survivor's losers hold the same person's older values; of a loser the survivor is named."""
    person.org.merge(person.bob, [person.ann])
    person.run()
    done = erase(person, person.ann)
    assert done.survivors == ((person.ann, person.bob),)
    assert erasure.lift(person.engine, done.ids, "test", "request 7", timedelta(0), person.stop) == done.ids

    person.run()
    done = erase(person, person.bob)

    assert done.ids == {"Contact": tuple(sorted((person.ann, person.bob)))}
    assert_erased(person, person.bob)


def test_lifted_it_is_read_again(person: World) -> None:
    """`--undo` lets the record be stored again; the note of the erasure stays as the proof."""
    erase(person, person.ann)
    by_object = pipeline.group_by_object([person.ann])

    assert erasure.lift(person.engine, by_object, "test", "request 8", timedelta(0), person.stop) == {
        "Contact": (person.ann,)
    }
    person.run()

    person.assert_equal()
    assert person.news(person.seen) == [("erase", person.ann), ("undelete", person.ann)]
    [kept] = person.sql("SELECT record_id, asked_by, lifted_by FROM sync.erased")
    assert tuple(kept) == (person.ann, "request 7", "request 8")
    assert erasure.lift(person.engine, by_object, "test", "x", timedelta(0), person.stop) == {}
    erase(person, person.ann)
    assert_erased(person, person.ann)


def test_resync_by_id_says_that_it_is_erased(person: World) -> None:
    """An operator who reads an erased record again is told so, and what lifts it."""
    erase(person, person.ann)

    with pytest.raises(UsageError, match=f"erased on request.*erase --undo --id {person.ann}"):
        pipeline.resync_ids(person.context("resync"), "Contact", [person.ann])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_its_commit_it_is_whole(person: World, moment: str) -> None:
    """Killed right before the commit nothing is erased, right after it everything is, and stays so."""
    commits = 3  # two leases, then the erasure
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.victim", moment, str(commits), "erase", "--id", person.ann],
        env=person.process_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    person.expire_leases()
    if moment == "before":
        assert person.sql("SELECT FROM sync.erased") == []
        assert person.row(person.ann)["first_name"] == MARK
        erase(person, person.ann)
    person.run()
    assert_erased(person, person.ann)


def test_an_address_leads_to_its_records(person: World) -> None:
    """By e-mail: however it is written, in custom fields and in rejected records, too."""
    person.org.update(person.bob, {"Nick__c": f" {MARK.upper()}@X.example "})
    person.org.retype_field("Contact", "Birthdate", type="string", length=80)
    person.org.update(person.cid, {"Birthdate": "in spring", "Email": f"{MARK}@x.example"})
    person.org.delete(person.ann)
    person.run()

    with tables.transaction(person.engine) as connection:
        found = {(m.id, m.state): m.fields for m in erasure.find_by_email(connection, f"{MARK}@X.EXAMPLE ")}

    assert found == {
        (person.ann, "deleted"): ("Email",),
        (person.bob, "live"): ("Nick__c",),
        (person.cid, "rejected"): ("Email",),
    }


def test_an_address_is_compared_whole(loaded: World) -> None:
    """Neither part of another's address, nor case, white space or letters beyond ASCII lead astray, stored or not."""
    addresses = {
        loaded.ann: "ann@zebra.example",
        loaded.bob: "\tÄNNE@rej.example ",
        loaded.cid: "joann@zebra.example",
    }
    for id_, email in addresses.items():
        loaded.org.update(id_, {"Email": email})
    loaded.run()

    def found(email: str) -> set[tuple[str, str]]:
        with tables.transaction(loaded.engine) as connection:
            return {(match.id, match.state) for match in erasure.find_by_email(connection, email)}

    assert found("ann@zebra.example") == {(loaded.ann, "live")}
    assert found("änne@rej.example") == {(loaded.bob, "live")}
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.update_many(list(addresses), {"Birthdate": "in spring"})
    loaded.run()
    assert found("ann@zebra.example") == {(loaded.ann, "live"), (loaded.ann, "rejected")}
    assert found("änne@rej.example") == {(loaded.bob, "live"), (loaded.bob, "rejected")}


def test_commands(person: World) -> None:
    """By address without a terminal it lists and ends with 2 unless told to go on; wrong arguments end with 2."""
    listed = person.command("erase", "--email", f"{MARK}@x.example")
    assert (listed.returncode, person.sql("SELECT FROM sync.erased")) == (2, [])
    assert person.ann in listed.stdout
    assert MARK not in listed.stdout

    done = person.command("erase", "--email", f"{MARK}@x.example", "--yes", "--by", "request 9")
    assert done.returncode == 0, done.stderr
    assert f"Contact {person.ann} erased" in done.stdout
    assert person.sql("SELECT asked_by FROM sync.erased") == [("request 9",)]
    assert_erased(person, person.ann)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--id", "003", "--email", "x@y.example"],
        ["--undo", "--email", "x@y.example"],
        ["--email", "none"],
    ],
)
def test_wrong_arguments(world: World, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that do not fit together are refused before anything is touched."""
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["erase", *arguments])

    assert isinstance(result.exception, UsageError)
