"""Derived columns are all of one version: of the region, our code, and the libraries that decide."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.derivation import Derivation
from sync.catalogue.mapping import Field as MappedField
from sync.catalogue.values import LONGEST_INDEXED
from sync.demo import embedded
from sync.errors import FenceLostError, ObjectsFailedError, StoppedError
from sync.postgres.state import leases
from sync.replication import pipeline, recompute
from sync.replication.runs import PageResult
from sync.simulator import Simulator
from tests.support import processes
from tests.support.world import World

WAYS = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)

BERLIN, MOBILE = "030 901820", "0151 23456789"
GERMAN = ("+4930901820", "+4915123456789")


@pytest.fixture
def called(loaded: World) -> World:
    """Numbers in German notation for Ann, Bob and Acme, and one that is complete for Cid; all read before."""
    loaded.org.update_many([loaded.ann, loaded.bob], {"Phone": BERLIN, "MobilePhone": MOBILE})
    loaded.org.update(loaded.cid, {"Phone": "+1 415 555 2671", "Email": "Cid@x.example"})
    loaded.org.update(loaded.acme, {"Phone": BERLIN, "Website": "HTTPS://X.example"})
    loaded.run()
    loaded.sim.clock.advance(7200)
    loaded.run()  # beyond the overlap, which is read again
    loaded.seen = loaded.last_seq()
    return loaded


def numbers(world: World, id_: str) -> tuple[str | None, ...]:
    row = world.row(id_)
    return (row["phone_e164"], row.get("mobile_phone_e164"))


def told(world: World) -> list[tuple[str, str | None, list[str]]]:
    return [(change.op, change.record_id, list(change.changed)) for change in world.feed(world.seen)]


def germany(world: World) -> None:
    world.environment["SYNC_DEFAULT_REGION"] = "DE"


def nothing(_held: leases.Lease, _run_id: int) -> Iterator[PageResult]:
    """Work under the lease that does nothing itself."""
    return iter(())


# ── what makes another version ────────────────────────────────────────────────────────────────────────


@WAYS
def test_another_region_is_in_all_rows(called: World) -> None:
    """A changed region is in every row after the next pass, told once, without a call that an own pass lacks."""
    assert numbers(called, called.ann) == (None, None)
    called.run()

    germany(called)
    called.sim.requests.clear()
    reports = called.run()

    assert {call.kind for call in called.sim.requests} <= {"token", "describe", "updated", "query", "deleted"}
    assert numbers(called, called.ann) == numbers(called, called.bob) == GERMAN
    assert numbers(called, called.acme) == (GERMAN[0], None)
    assert numbers(called, called.cid) == ("+14155552671", None)
    both = ["phone_e164", "mobile_phone_e164"]
    assert sorted(told(called)) == sorted(
        [
            ("update", called.ann, both),
            ("update", called.bob, both),
            ("update", called.acme, ["phone_e164"]),
        ]
    )
    assert {report.object: report.tally.updated for report in reports} == {"Account": 1, "Contact": 2}
    called.assert_equal()
    called.run()
    assert len(told(called)) == 3


def test_no_salesforce_is_asked(called: World) -> None:
    """The stored values are enough: not one request, though Salesforce is away."""
    germany(called)
    called.sim.faults.add("server_unavailable", on="any", times=None)
    called.sim.requests.clear()

    pipeline.run_work(called.context(), "Contact", nothing)

    assert called.sim.requests == []
    assert numbers(called, called.ann) == GERMAN


@pytest.mark.parametrize(
    "command",
    [
        lambda world: pipeline.resync(world.context("resync"), ["Contact"], None),
        lambda world: pipeline.resync_ids(world.context("resync"), "Contact", [world.cid]),
        lambda world: pipeline.verify_all(world.context("verify"), ["Contact"], repair=False, sample=0),
        lambda world: pipeline.refresh_dependants(world.context()),
    ],
    ids=["resync", "resync --id", "verify", "what waits"],
)
def test_every_command_begins_with_it(called: World, command: Callable[[World], object]) -> None:
    """Whichever command is first finds, or makes, all rows of one version; verify then says equal and is right."""
    called.sql(
        "INSERT INTO sync.reread (object, record_id, whole) VALUES ('Contact', :id, true)", id=called.cid
    )
    germany(called)

    command(called)

    assert numbers(called, called.ann) == GERMAN
    [report] = pipeline.verify_all(called.context("verify"), ["Contact"], repair=False, sample=None)
    assert report.findings is not None
    assert report.findings["remaining"] == 0
    assert [(op, id_) for op, id_, _ in told(called)] == [("update", id_) for id_ in (called.ann, called.bob)]


@pytest.mark.parametrize("column", ["email_normalized", "phone_e164"])
def test_other_code_is_in_all_rows(called: World, column: str) -> None:
    """Another number of our code, or another version of the library, has that column computed again, and no other."""
    called.sql("UPDATE salesforce.contact SET email_normalized = 'old', phone_e164 = 'old'")
    called.sql(
        "UPDATE sync.derived SET version = replace(version, ' 1,', ' 0,') WHERE column_name = :c", c=column
    )

    pipeline.sync_object(called.context(), "Contact")

    other = {"email_normalized": "phone_e164", "phone_e164": "email_normalized"}[column]
    assert {row[column] for row in called.rows("Contact").values()} & {"old"} == set()
    assert {row[other] for row in called.rows("Contact").values()} == {"old"}
    assert {tuple(changed) for _, _, changed in told(called)} == {(column,)}


def test_a_version_names_what_it_depends_on(called: World) -> None:
    """The field, our code's number, the region where it matters, and the libraries."""
    noted = dict(called.sql("SELECT column_name, version FROM sync.derived WHERE object = 'Contact'"))

    assert noted == recompute.current_versions(CATALOGUE["Contact"], "US")
    assert set(noted) == {"email_normalized", "phone_e164", "mobile_phone_e164"}
    assert noted["mobile_phone_e164"].startswith("MobilePhone: e164 1, region US, phonenumbers ")
    assert noted["email_normalized"].startswith("Email: email 1, Python 3.")


def test_rows_of_an_earlier_release_are_computed_once(called: World) -> None:
    """Where no version was ever noted all rows are computed again; those that are right are not written."""
    called.sql("DELETE FROM sync.derived")
    called.sql("UPDATE salesforce.contact SET phone_e164 = '+4930901820' WHERE id = :id", id=called.ann)
    written = {id_: row["synced_at"] for id_, row in called.rows("Contact").items()}

    called.run()

    assert told(called) == [("update", called.ann, ["phone_e164"])]
    assert numbers(called, called.ann) == (None, None)
    now = {id_: row["synced_at"] for id_, row in called.rows("Contact").items()}
    assert {id_ for id_ in now if now[id_] != written[id_]} == {called.ann}
    assert len(called.sql("SELECT FROM sync.derived")) == 5


def test_a_database_of_an_earlier_release(sim: Simulator, empty_database: str) -> None:
    """After an upgrade from a release that noted no versions the first pass computes what was there."""
    embedded.migrate(create_engine(empty_database, poolclass=NullPool), "0007")
    with World(sim, empty_database, SYNC_DEFAULT_REGION="DE") as world:
        world.sql(
            "INSERT INTO salesforce.contact (id, is_deleted, system_modstamp, phone) "
            "VALUES ('003000000000001AAA', false, now(), :phone)",
            phone=BERLIN,
        )
        world.sql("UPDATE sync.cursor SET complete_through = now()")
        embedded.migrate(create_engine(empty_database, poolclass=NullPool))

        pipeline.run_work(world.context(), "Contact", nothing)

        assert numbers(world, "003000000000001AAA") == (GERMAN[0], None)
        assert world.news(0) == [("update", "003000000000001AAA")]


def test_columns_of_another_release_lose_their_version(called: World) -> None:
    """A column that this release does not fill is out of date for the one that does."""
    called.sql("INSERT INTO sync.derived (object, column_name, version) VALUES ('Contact', 'fax_e164', 'x')")

    called.run()

    assert called.sql("SELECT FROM sync.derived WHERE column_name = 'fax_e164'") == []
    assert told(called) == []


# ── rows of all kinds ─────────────────────────────────────────────────────────────────────────────────


def test_tombstones_follow_and_empty_ones_stay_empty(called: World) -> None:
    """Deleted records that keep their values have them of the new version; others stay without."""
    called.org.delete(called.ann)
    called.run()
    called.environment["SYNC_TOMBSTONE_VALUES"] = "erase"
    called.org.delete(called.bob)
    called.run()
    called.sql(
        "UPDATE salesforce.contact SET phone = :p, deleted_at = now() WHERE id = :id", p=BERLIN, id=called.ann
    )
    called.environment["SYNC_TOMBSTONE_VALUES"] = "keep"
    called.seen = called.last_seq()
    germany(called)
    pipeline.run_work(called.context(), "Contact", nothing)

    assert numbers(called, called.ann)[0] == GERMAN[0]
    assert numbers(called, called.bob) == (None, None)
    assert [id_ for _, id_, _ in told(called)] == [called.ann]


def test_excluded_fields_stay_empty_and_return_in_the_new_version(called: World) -> None:
    """What is not stored is not derived; read again, column alone, it is derived by the version of all others."""
    called.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Phone"
    germany(called)
    called.run()
    assert numbers(called, called.ann) == (None, GERMAN[1])

    del called.environment["SYNC_EXCLUDED_FIELDS"]
    called.run()

    assert numbers(called, called.ann) == GERMAN


def test_columns_read_alone_are_of_the_same_version(called: World) -> None:
    """A reading of one column writes what is derived from it, and leaves what is derived from others."""
    called.environment |= {"SYNC_VOLATILE_FIELDS": "Contact.Phone", "SYNC_VOLATILE_INTERVAL": "1m"}
    germany(called)
    called.sim.clock.advance(3600)
    called.run()
    seen = told(called)

    assert numbers(called, called.ann) == GERMAN
    called.sim.clock.advance(3600)
    called.run()
    assert told(called) == seen
    assert called.row(called.cid)["email_normalized"] == "cid@x.example"


def test_thousands_of_rows_in_small_batches(called: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches go through all rows, each exactly once, and only rows that differ are written."""
    monkeypatch.setattr("sync.postgres.load.derived.ROWS", 300)
    called.sql(
        "INSERT INTO salesforce.contact (id, is_deleted, system_modstamp, phone) "
        "SELECT '003000000' || lpad(n::text, 6, '0') || 'AAA', false, now(), "
        "       CASE WHEN n % 2 = 0 THEN '030 ' || 901000 + n / 2 % 900 END FROM generate_series(1, 3000) AS n"
    )
    germany(called)

    steps: list[PageResult] = []
    pipeline.run_work(called.context(on_page=steps.append), "Contact", nothing)

    assert len(steps) == 12  # three more rows, and the end
    assert sum(step.tally.updated for step in steps) == len(told(called)) == 1502
    [(filled,)] = called.sql("SELECT count(*) FROM salesforce.contact WHERE phone_e164 LIKE '+4930901%'")
    assert filled == 1502
    assert [change.seq for change in called.feed(called.seen)] == list(
        range(called.seen + 1, called.seen + 1503)
    )


# ── interrupted, overtaken, alternating ───────────────────────────────────────────────────────────────


@pytest.fixture
def half_way(called: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Killed after the first of three rows."""
    monkeypatch.setattr("sync.postgres.load.derived.ROWS", 1)
    germany(called)

    def die(_step: PageResult) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        pipeline.sync_object(called.context(on_page=die), "Contact")
    found = {numbers(called, called.ann), numbers(called, called.bob)}
    assert found == {GERMAN, (None, None)}
    return called


def test_killed_it_is_finished_by_the_next(half_way: World) -> None:
    """Batches that are committed stay; every row is told once, and the next pass ends what the last began."""
    pipeline.sync_object(half_way.context(), "Contact")

    assert numbers(half_way, half_way.ann) == numbers(half_way, half_way.bob) == GERMAN
    assert sorted(id_ or "" for _, id_, _ in told(half_way)) == sorted([half_way.ann, half_way.bob])


def test_killed_and_set_back_it_is_undone(half_way: World) -> None:
    """The region of before, set again after half of the rows were done, is again that of all rows."""
    half_way.environment["SYNC_DEFAULT_REGION"] = "US"
    pipeline.sync_object(half_way.context(), "Contact")

    assert numbers(half_way, half_way.ann) == numbers(half_way, half_way.bob) == (None, None)


@pytest.mark.parametrize(("number", "done"), [(7, (None, None)), (8, GERMAN)])
def test_killed_for_real(called: World, number: int, done: tuple[str | None, ...]) -> None:
    """A process killed before its rows, or the version of them, is committed leaves no version to rely on."""
    # API calls · which are steady · which leases are free · lease · journal opened · no version any more · rows · the new version
    germany(called)
    killed = processes.run(["tests.support.victim", "before", str(number), "run"], contacts_only(called))
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    called.expire_leases()
    assert numbers(called, called.ann) == done

    called.environment["SYNC_DEFAULT_REGION"] = "US"
    pipeline.sync_object(called.context(), "Contact")

    assert numbers(called, called.ann) == numbers(called, called.bob) == (None, None)


def contacts_only(world: World) -> dict[str, str]:
    """The settings of a process whose transactions have numbers."""
    return world.process_environment(SYNC_OBJECTS="Contact")


def test_asked_to_stop_it_stops_between_batches(called: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is to end does not go through all rows first."""
    monkeypatch.setattr("sync.postgres.load.derived.ROWS", 1)
    germany(called)
    context = called.context(on_page=lambda step: called.stop.set())

    with pytest.raises(StoppedError):
        pipeline.run_work(context, "Contact", nothing)
    called.stop.clear()

    assert len(told(called)) == 1
    assert (
        called.sql("SELECT FROM sync.derived WHERE object = 'Contact' AND column_name LIKE '%phone%'") == []
    )


def test_overtaken_it_writes_nothing_more(called: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After another process took the lease no batch, and no version, is committed."""
    monkeypatch.setattr("sync.postgres.load.derived.ROWS", 1)
    germany(called)

    def overtake(_step: PageResult) -> None:
        called.sql("UPDATE sync.lease SET owner = 'other', fence = fence + 1 WHERE object = 'Contact'")

    with pytest.raises(FenceLostError):
        pipeline.run_work(called.context(on_page=overtake), "Contact", nothing)

    assert len(told(called)) == 1


def test_two_versions_side_by_side_both_end(called: World) -> None:
    """During a deploy each process computes its own version; the last to run decides, and the rows are never mixed."""
    for region, expected in (("DE", GERMAN), ("US", (None, None)), ("DE", GERMAN)):
        called.environment["SYNC_DEFAULT_REGION"] = region
        pipeline.sync_object(called.context(), "Contact")
        assert numbers(called, called.ann) == numbers(called, called.bob) == expected


@WAYS
def test_a_first_load_that_was_interrupted_is_told_by_its_reload(world: World) -> None:
    """Rows of an unfinished first load are computed again without a word: one `reload` tells all at its end."""
    world.page_by(1)
    world.org.create_many("Contact", [{"LastName": name, "Phone": BERLIN} for name in ("Ann", "Bob", "Cid")])
    steps: list[PageResult] = []

    def die(step: PageResult) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        pipeline.sync_object(world.context(on_page=die), "Contact")
    assert 0 < len(world.rows("Contact")) < 3

    germany(world)
    pipeline.sync_object(world.context(), "Contact")

    assert {row["phone_e164"] for row in world.rows("Contact").values()} == {GERMAN[0]}
    assert world.news(0) == [("reload", None)]


def test_a_failing_salesforce_holds_nothing_up(called: World) -> None:
    """A pass that fails at once has done its part of the work before."""
    germany(called)
    called.sim.faults.add("server_unavailable", on="any", times=None)

    with pytest.raises(ObjectsFailedError):
        called.run()

    assert numbers(called, called.ann) == GERMAN


# ── a version cannot be forgotten ─────────────────────────────────────────────────────────────────────

LONG = "x" * 5_000
CORPUS = {
    "email": (
        *("Ann@Example.COM", " ann@example.com ", "ann.o'neil+tag@sub.example.co.uk", "ÄNN@EXAMPLE.DE"),
        *("İ@example.com", "ann@localhost", "ann@example.", "ann@@example.com", "a b@example.com"),
        *("ann@example.com, bob@example.com", "mailto:ann@example.com", "<ann@example.com>", "ann", "-"),
        *("@example.com", "ann@exa\u00admple.com", "\u200bann@example.com", f"{LONG}@example.com"),
        *(f"{'a' * 308}@example.com", f"{'a' * 309}@example.com"),
    ),
    "host": (
        *("example.com", "HTTPS://Www.Example.com:8443/shop?q=1#top", "//example.com/x", "ftp://example.com"),
        *("example.com.", " example.com ", "user:secret@example.com", "http://user@example.com:80"),
        *("http://", "https:/example.com", "http:example.com", "mailto:ann@example.com", "exa mple.com"),
        *("www.müller.de", "http://[::1]/", "http://[v1.x]/", "http://192.168.0.1:8080", "a_b.example.com"),
        *("-a.example.com", "example..com", "example.com:port", "n/a", "n.a.", "tba", "-", "localhost"),
        *(f"{LONG}.com", f"a.{LONG}", f"{'a' * 249}.com", f"{'a' * 250}.com"),
    ),
    "e164": (
        *("(415) 555-2671", "4155552671", "1-415-555-2671", "+1 415 555 2671", "001 415 555 2671"),
        *("011 49 30 901820", "0049 30 901820", "+49 (0)30 901820", "030 901820", "030/901820"),
        *("020 7946 0958", "+44 (0)20 7946 0958", "+44 20 7946 0958", "tel:+1-415-555-2671", "49 30 901820"),
        *("415-555-2671 ext. 12", "415-555-2671 x12", "+1 415 555 2671;ext=5", "1-800-FLOWERS"),
        *("+１ ４１５ ５５５ ２６７１", "\u202d+1 415 555 2671\u202c", "06 698 12345", "+39 06 698 12345"),
        *("415-555-2671 or 415-555-2672", "555-2671", "123", "call me", "-", "+999 12345678", "9" * 400),
        *(LONG, "112", "+", "00", "0", "+1", "+4930901820"),
    ),
}
REGIONS = ("US", "DE", "GB", "IT", "FR")
# The results over the corpus, by the number of our code that gives them. Where results change, add an entry and
# keep the others: databases hold results of each. Only a longer corpus changes an entry.
RESULTS = {
    ("e164", 1): "8b4c8d1442fe15db",
    ("email", 1): "34b872ab7cef0ad0",
    ("host", 1): "273f3e548ec0c752",
}
DERIVATIONS = {
    derived.normalise.name: derived.normalise
    for sobject in CATALOGUE.values()
    for _, derived in sobject.derived
}


def results(computed_by: Derivation) -> list[str | None]:
    regions = REGIONS if computed_by.regional else REGIONS[:1]
    return [computed_by(raw, region) for region in regions for raw in CORPUS[computed_by.name]]


@pytest.mark.parametrize("name", sorted({*DERIVATIONS, *CORPUS}))
def test_other_results_have_another_number(name: str) -> None:
    """Whoever changes what a derivation gives raises its number, or rows of before would stay as they are."""
    computed_by = DERIVATIONS[name]
    found = hashlib.sha256(repr(results(computed_by)).encode()).hexdigest()[:16]

    assert RESULTS.get((name, computed_by.number)) == found, (
        f"{name}: the results over the corpus are others than those of number {computed_by.number}: raise the "
        f"number where it is declared, and add its results here ({found}); if a new version of a library alone "
        "is the reason, whose version is part of the derivation's, replace the entry"
    )
    assert len({digest for (each, _), digest in RESULTS.items() if each == name}) == sum(
        each == name for each, _ in RESULTS
    )


@pytest.mark.parametrize("name", sorted(DERIVATIONS))
def test_what_is_not_regional_ignores_the_region(name: str) -> None:
    """The region is part of the version of what depends on it, and of nothing else."""
    computed_by = DERIVATIONS[name]
    by_region = {tuple(computed_by(raw, region) for raw in CORPUS[name]) for region in REGIONS}

    assert (len(by_region) > 1) is computed_by.regional


@pytest.mark.parametrize("name", sorted(DERIVATIONS))
def test_derived_values_fit_an_index(name: str) -> None:
    """Whatever the raw value, the derived one is short: a row that is stored can be computed again."""
    made = [value for value in results(DERIVATIONS[name]) if value is not None]

    assert made
    assert max(len(value.encode()) for value in made) <= LONGEST_INDEXED


def test_each_name_is_one_derivation() -> None:
    """Two computations of the same name would hide a change from one to the other."""
    used: list[tuple[MappedField, Derivation]] = [
        (field, derived.normalise) for sobject in CATALOGUE.values() for field, derived in sobject.derived
    ]

    assert len({each.name for _, each in used}) == len({id(each) for _, each in used})
