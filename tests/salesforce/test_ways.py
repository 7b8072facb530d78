"""Which way records are read: in parts, by Bulk API, or by REST, and what happens where a way is refused."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import timedelta

import pytest

from sync.catalogue.mapping import PLACING
from sync.catalogue.transform import Batch
from sync.errors import ObjectsFailedError, SyncError
from sync.replication import pipeline
from sync.salesforce.extract import bulk, parts
from sync.salesforce.extract.results import ResultPageRef, Results, read_page
from sync.salesforce.learned import Learned
from sync.simulator import Field
from sync.simulator.fields import Formula
from tests.salesforce.test_extract import thing
from tests.support.moving import BOTH, custom, silently
from tests.support.world import LONG_AGO, World

BULK = pytest.mark.parametrize("transport", ["bulk"], indirect=True)
FIELDS = 420


def kinds(world: World) -> list[str]:
    """The kinds of the calls for contacts, in their order."""
    return [request.kind for request in world.sim.requests if request.sobject == "Contact"]


def widen(world: World, fields: int = FIELDS) -> None:
    """Give Contact so many custom fields that one URL cannot name them, each with a value in Ann's record."""
    names = [f"Field_with_a_long_name_{number}__c" for number in range(fields)]
    for name in names:
        world.org.add_field("Contact", Field(name, "string", length=10))
    silently(world, world.ann, **{name: str(number) for number, name in enumerate(names)})


def calculate(world: World, formulas: int) -> None:
    """Give Contact so many formulas, beside the two that it has."""
    for number in range(formulas):
        formula = Formula(("LastName",), lambda name, n=number: f"{name} {n}", f"LastName & {number}")
        world.org.add_field("Contact", Field(f"Formula_{number}__c", "string", length=99, formula=formula))


@pytest.fixture
def wide(loaded: World) -> World:
    """Three contacts of 420 custom fields, loaded."""
    widen(loaded)
    loaded.run()
    loaded.assert_equal()
    loaded.sim.clock.advance(3600)
    loaded.sim.requests.clear()
    return loaded


# ── more fields than a URL has room for ───────────────────────────────────────────────────────────────


def test_few_wide_records_cost_two_queries(wide: World) -> None:
    """What a URL cannot ask for is asked for in two queries: no job is made for a changed contact or two."""
    wide.environment["SYNC_BULK_THRESHOLD"] = "10000"
    wide.org.update(wide.ann, {"Field_with_a_long_name_419__c": "last", "Title": "Boss"})
    wide.sim.options.composite = False

    wide.run()

    assert kinds(wide) == [*["describe"] * 2, "updated", "query", "query", "deleted"]
    wide.assert_equal()


@BULK
def test_many_wide_records_are_a_job(wide: World) -> None:
    """Where the second queries, by Ids, would be many, a Bulk job reads them all."""
    wide.environment["SYNC_BULK_THRESHOLD"] = "10000"
    wide.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(1_700)], stamp=wide.sim.clock.now())

    wide.run()

    assert "job_create" in kinds(wide)
    assert len(wide.rows("Contact")) == 1_703


def test_wide_records_without_bulk(wide: World) -> None:
    """Where Bulk API is not to be had, they are read by REST all the same, in pages, and a broken pass goes on."""
    wide.environment["SYNC_BULK_THRESHOLD"] = "0"
    wide.sim.options.page_sizes = 2
    wide.sim.options.bulk_unsupported = ("Contact",)
    new = wide.org.create_many(
        "Contact", [{"LastName": f"n{i}", "Field_with_a_long_name_419__c": f"{i}"} for i in range(5)]
    )
    wide.sim.clock.advance(60)
    wide.sim.faults.add("reset", on="query", after=4, sobject="Contact", times=6)
    with pytest.raises(ObjectsFailedError):
        wide.run()

    wide.run()

    assert {wide.row(id_)["custom"]["Field_with_a_long_name_419__c"] for id_ in new} == set("01234")
    wide.assert_equal()


def test_every_read_of_wide_records(wide: World) -> None:
    """Single Ids, verify with each value, a purge, a merge and a refresh of formulas read them like others."""
    silently(wide, wide.ann, Field_with_a_long_name_7__c="seven", Field_with_a_long_name_400__c="late")
    pipeline.resync_ids(wide.context("resync"), "Contact", [wide.ann])
    wide.assert_equal()

    silently(wide, wide.ann, Field_with_a_long_name_400__c="later")
    [_, found] = pipeline.verify_all(wide.context("verify"), ["Account", "Contact"], repair=True, sample=None)
    assert found.findings is not None
    assert found.findings["values"] == found.findings["mended"] == 1
    wide.assert_equal()

    wide.org.update(wide.acme, {"Name": "Acme Two"})
    wide.run()
    assert custom(wide, "Account_Display__c") == ["Acme Two [unrated]"] * 3
    wide.org.merge(wide.bob, [wide.cid])
    wide.org.purge(wide.cid)
    wide.sim.clock.advance(3 * 86_400)
    wide.run()
    assert wide.row(wide.cid)["deleted_at"] is not None
    assert wide.row(wide.ann)["custom"]["Field_with_a_long_name_400__c"] == "later"


def test_many_ids_of_wide_records(wide: World) -> None:
    """A hundred contacts just below and above the limit cost a few queries, not one for each Id."""
    new = wide.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(100)], stamp=LONG_AGO)
    for hidden in (0, 60, 120):
        for number in range(hidden):
            wide.org.hide_field("Contact", f"Field_with_a_long_name_{number}__c")
        wide.sim.requests.clear()

        pipeline.resync_ids(wide.context("resync"), "Contact", new)

        assert kinds(wide).count("query") <= 2


def test_wide_records_come_in_smaller_pages(loaded: World) -> None:
    """Of records with many fields fewer are asked for at once, by REST as by Bulk API: memory is what counts."""
    loaded.sim.options.composite = False
    widen(loaded, 220)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(800)])
    loaded.sim.clock.advance(3600)

    loaded.run()

    assert kinds(loaded).count("page") == 1
    assert len(loaded.rows("Contact")) == 803
    sizes = []
    body = "Id,SystemModstamp," + ",".join(f"F{n}" for n in range(498)) + "\n"
    body += ("001,2026-01-31T12:00:00.000Z," + "," * 497 + "\n") * 450
    columns = tuple(body.split("\n")[0].split(","))
    of = Results(loaded.context().session, "Contact", columns, "", lambda rows: Batch(records=rows), 450)
    read_page(
        of,
        ResultPageRef(0, "", None),
        lambda part: sizes.append(part.records),
        {"Sforce-NumberOfRecords": "450", "Sforce-Locator": "null"},
        io.StringIO(body),
    )
    assert sizes == [200, 200, 50]


def test_an_account_that_the_user_may_not_see(loaded: World) -> None:
    """Contacts are replicated all the same, and the account is named with what to grant."""
    loaded.org.hide_object("Account")
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.clock.advance(600)

    with pytest.raises(ObjectsFailedError, match=r"^Account: .*hidden by permissions") as failed:
        loaded.run()

    assert [name for name, _ in failed.value.failures] == ["Account"]
    assert loaded.row(loaded.ann)["title"] == "Boss"
    loaded.sim.faults.add(
        "answered",
        on="query",
        sobject="Contact",
        status=400,
        body=[{"errorCode": "INVALID_TYPE", "message": "sObject type 'Contact' is not supported."}],
    )
    with pytest.raises(ObjectsFailedError, match="give the integration user read access to the object"):
        loaded.run()


def test_a_record_that_changes_between_two_parts(wide: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are of one moment, never half of before and half of after; who always changes fails the run."""
    asked = parts.read_part
    changes = iter(range(100))
    always = False

    def change(*given: object) -> object:
        number = next(changes)
        if number == 0 or always:
            wide.sim.clock.advance(5)
            wide.org.update(wide.ann, {"Title": f"T{number}", "Field_with_a_long_name_419__c": f"F{number}"})
        return asked(*given)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(parts, "read_part", change)
    wide.org.update(wide.ann, {"Title": "before", "Field_with_a_long_name_419__c": "before"})
    pipeline.resync_ids(wide.context("resync"), "Contact", [wide.ann])

    row = wide.row(wide.ann)
    assert (row["title"], row["custom"]["Field_with_a_long_name_419__c"]) == ("T0", "F0")
    always = True
    with pytest.raises(SyncError, match="changed again and again while read in 2 parts"):
        pipeline.resync_ids(wide.context("resync"), "Contact", [wide.ann])


def test_a_record_that_goes_between_two_parts(wide: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is purged between them is left out, and its row is removed in time."""
    asked = parts.read_part

    def purge(*given: object) -> object:
        if wide.bob in wide.org.ids("Contact"):
            wide.org.purge(wide.bob)
        return asked(*given)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(parts, "read_part", purge)
    wide.org.update(wide.ann, {"Title": "Boss"})
    wide.org.update(wide.bob, {"Title": "Gone"})
    wide.run()
    wide.sim.clock.advance(600)
    wide.run()

    assert wide.row(wide.ann)["title"] == "Boss"
    assert wide.row(wide.bob)["deleted_at"] is not None


def test_a_proxy_that_takes_less(wide: World) -> None:
    """Where a proxy takes shorter URLs than Salesforce, queries are split until they fit, once for the process."""
    wide.environment["SYNC_BULK_THRESHOLD"] = "10000"
    for id_ in (wide.ann, wide.bob):
        wide.org.update(id_, {"Title": "Boss"})
    wide.sim.options.longest_uri = 4_096
    wide.sim.options.composite = False  # its queries stand in a body

    context = wide.context()
    pipeline.sync_all(context)

    wide.assert_equal()
    assert context.session.learned("Contact").longest < 4_096
    refusals = [request for request in wide.sim.requests if request.status in (414, 431)]
    assert len(refusals) <= 2 + 2
    wide.sim.requests.clear()
    wide.org.update(wide.ann, {"Title": "Chief"})
    pipeline.sync_object(context, "Contact")
    assert not [request for request in wide.sim.requests if request.status in (414, 431)]
    wide.assert_equal()


@pytest.mark.parametrize("status", [413, 414, 431])
def test_no_url_is_short_enough(loaded: World, status: int) -> None:
    """A server that takes no query at all ends the run, with the reason, after a few attempts."""
    loaded.sim.faults.add(
        "answered", on="query", sobject="Contact", times=None, text="", kind="text/html", status=status
    )

    with pytest.raises(ObjectsFailedError, match=f"answered {status}.*a query is too long for a URL"):
        loaded.run()

    assert kinds(loaded).count("query") <= 4


def test_parts_of_any_width() -> None:
    """Each field is in one part, each part fits, and the fields that place a record are in all of them."""
    whole = thing(*(f"Custom_{'x' * (n % 30)}_{n}__c" for n in range(300)))
    for room in (2_000, 5_000, 15_000):
        groups = parts.split(whole, None, room)
        assert all(parts.query_length(group) <= room for group in groups)
        named = [name for group in groups for name in group.names if name not in PLACING]
        assert sorted(named) == sorted(set(whole.names) - PLACING)
        assert all(set(group.names) >= PLACING for group in groups)
    assert parts.split(whole, None, 10**6) == [whole]
    learned = Learned()
    assert [learned.shorter() for _ in range(4)] == [True, True, True, False]
    formulas = []
    while learned.simpler(30):
        formulas.append(learned.formulas)
    assert formulas == [20, 10, 5, 2, 1]


# ── more formulas than a query may have ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("transport", "most"), [("rest", 20), ("bulk", 3)], indirect=["transport"])
def test_more_formulas_than_a_query_may_have(loaded: World, most: int) -> None:
    """Formulas beyond the org's limit are read in further queries, of the same records, in the same merge."""
    calculate(loaded, 24)
    loaded.sim.options.formulas_max = most
    loaded.page_by(2)
    new = loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)])

    loaded.run()

    loaded.assert_equal()
    assert {loaded.row(id_)["custom"]["Formula_23__c"] for id_ in new} == {f"n{i} 23" for i in range(5)}
    inserts = [change for change in loaded.feed(loaded.seen) if change.record_id in new]
    assert [change.op for change in inserts] == ["insert"] * 5
    pipeline.verify_object(loaded.context("verify"), "Contact", repair=True, sample=None)
    loaded.assert_equal()


def test_not_even_one_formula(loaded: World) -> None:
    """Where an org refuses each formula by itself, all other fields are read, and the formulas are named."""
    loaded.sim.options.formulas_max = 0
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.row(loaded.ann)["title"] == "Boss"
    assert ledger(loaded) == ["Account_Display__c", "Display_Name__c", "Spend_With_Tax__c"]


# ── too slow for an order ─────────────────────────────────────────────────────────────────────────────


def timeouts(world: World) -> int:
    """How many queries of contacts were not finished in time."""
    return sum(r.sobject == "Contact" and r.kind == "query" and r.status == 400 for r in world.sim.requests)


def test_ordered_queries_that_are_not_finished_in_time(world: World) -> None:
    """After the second time-out Bulk API reads, at once from then on, a later process too; once a day it is tried."""
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)], stamp=LONG_AGO)
    world.sim.options.ordered_time_out = True
    world.run()
    world.assert_equal()
    assert timeouts(world) == 2

    world.org.update(world.org.ids("Contact")[0], {"Title": "Boss"})
    world.sim.clock.advance(3600)
    world.run()
    world.assert_equal()
    assert timeouts(world) == 2

    world.sim.options.ordered_time_out = False
    world.sim.clock.advance(86_400)
    world.sim.requests.clear()
    world.run()
    assert "job_create" not in kinds(world)
    world.sim.clock.advance(3600)
    world.run()
    assert "job_create" not in kinds(world)


def test_too_slow_in_the_middle(loaded: World) -> None:
    """Nor is a window lost whose query is too slow once it has to be asked again."""
    loaded.page_by(2)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(9)])
    loaded.sim.clock.advance(60)
    loaded.sim.faults.add("invalid_query_locator", on="page", after=1, sobject="Contact", times=1)
    loaded.sim.faults.add("query_timeout", on="query", after=2, sobject="Contact", times=2)

    loaded.run()

    assert "job_create" in kinds(loaded)
    loaded.assert_equal()


def test_too_slow_and_no_bulk(loaded: World) -> None:
    """Where neither way is left the error names both reasons."""
    loaded.sim.options.ordered_time_out = True
    loaded.sim.options.bulk_unsupported = ("Contact",)

    with pytest.raises(ObjectsFailedError, match=r"Bulk API refuses the query.*and by REST.*QUERY_TIMEOUT"):
        loaded.run()


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────


@BULK
def test_a_job_without_an_end(loaded: World) -> None:
    """A job that is in progress for half an hour is given up for REST, also where that time spans two processes."""
    loaded.org.create("Contact", {"LastName": "Dan"})
    loaded.sim.options.bulk_polls = 10**6
    looks = 0
    session = loaded.context().session

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        loaded.sim.clock.advance(120)
        if looks == 10:
            session.stop.set()

    session.pause = look  # type: ignore[method-assign,assignment]  # time passes, nobody waits
    with pytest.raises(SyncError):
        pipeline.sync_object(loaded.context(session=session, stop=session.stop), "Contact")
    assert loaded.unfinished()
    loaded.stop.clear()
    session = loaded.context().session
    session.pause = look  # type: ignore[method-assign,assignment]  # as above

    pipeline.sync_object(loaded.context(session=session), "Contact")

    assert kinds(loaded).count("job_create") == 1
    assert 15 <= looks <= 17
    assert loaded.org.jobs.all() == []
    loaded.assert_equal()


def test_a_job_without_an_end_where_rest_is_too_slow(loaded: World) -> None:
    """Where REST cannot do it, or not for very many records, a job is waited for longer: half a day at most."""
    loaded.org.create("Contact", {"LastName": "Dan"})
    loaded.sim.options.bulk_polls = 10**6
    loaded.sim.options.ordered_time_out = True
    hours = 0
    session = loaded.context().session

    def look(_: float) -> None:
        nonlocal hours
        hours += 1
        loaded.sim.clock.advance(3610)  # whatever second it begins in

    session.pause = look  # type: ignore[method-assign,assignment]  # time passes, nobody waits
    with pytest.raises(SyncError, match=r"is still .* after 12.0 hours .*and by REST .*QUERY_TIMEOUT"):
        pipeline.sync_object(loaded.context(session=session), "Contact")

    assert hours == 12
    assert loaded.org.jobs.all() == []
    assert timedelta(hours=3) < bulk.SLOW + 10_000_000 * bulk.SLOW_PER_RECORD


@BULK
@pytest.mark.parametrize("charset", [True, False])
@pytest.mark.parametrize("encoding", ["UTF-8", "ISO-8859-1", "UTF-16"])
def test_results_in_another_encoding(
    loaded: World, encoding: str, charset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Results of older orgs are read in the encoding they name; where they name none and it is not UTF-8, or one
    that nobody knows, REST reads the window, in this run or the next: no character is wrong, no record rejected."""
    loaded.org.create("Contact", {"LastName": "Müller-Lüdenscheidt", "Title": "Geschäftsführerin"})
    loaded.sim.options.bulk_encoding, loaded.sim.options.bulk_charset = encoding, charset

    try:
        loaded.run()
    except ObjectsFailedError:
        assert encoding == "UTF-16"
        loaded.run()

    loaded.assert_equal()
    assert loaded.sql("SELECT FROM sync.reject") == []
    assert ("not valid utf-8" in caplog.text) == (encoding != "UTF-8" and not charset)


# ── a field that queries refuse ───────────────────────────────────────────────────────────────────────


@BOTH
def test_a_field_that_queries_refuse(loaded: World) -> None:
    """A field that describe lists and a query refuses is left out, named in the ledger and in `status`; the others
    go on, in every read; after a day it is tried again, and its values come back when it works."""
    silently(loaded, loaded.ann, Nickname__c="before")
    pipeline.resync_ids(loaded.context("resync"), "Contact", [loaded.ann])
    loaded.sim.options.refused_fields = ("Contact.Nickname__c", "Contact.Title")
    loaded.org.update(loaded.ann, {"FirstName": "Anna"})

    loaded.run()

    assert loaded.row(loaded.ann)["first_name"] == "Anna"
    assert loaded.row(loaded.ann)["custom"]["Nickname__c"] == "before"
    assert ledger(loaded) == ["Nickname__c", "Title"]
    status = loaded.command("status")
    assert status.returncode == 0
    assert status.stdout.startswith("WARNING")
    assert "Contact.Nickname__c: describe lists it and queries refuse it" in status.stdout
    loaded.sim.requests.clear()
    pipeline.verify_object(loaded.context("verify"), "Contact", repair=True, sample=None)
    pipeline.resync_ids(loaded.context("resync"), "Contact", [loaded.bob])
    loaded.run()
    assert not [request for request in loaded.sim.requests if request.status == 400]

    loaded.sim.options.refused_fields = ()
    loaded.sql("UPDATE sync.field SET at = at - interval '25 hours'")
    silently(loaded, loaded.bob, Nickname__c="late")
    loaded.run()
    assert loaded.row(loaded.bob)["custom"]["Nickname__c"] == "late"
    assert ledger(loaded) == []


def ledger(world: World) -> list[str]:
    """The fields whose last line in the ledger says that they are refused."""
    rows: Iterable[tuple[str]] = world.sql(
        "SELECT field FROM (SELECT DISTINCT ON (object, field) field, change FROM sync.field "
        "ORDER BY object, field, id DESC) AS f WHERE change = 'refused' ORDER BY 1"
    )
    return [row[0] for row in rows]


def test_without_the_fields_that_place_a_record(loaded: World) -> None:
    """Without SystemModstamp nothing can be read: the run fails and says so."""
    loaded.sim.options.refused_fields = ("Contact.SystemModstamp",)

    with pytest.raises(ObjectsFailedError, match="No such column 'SystemModstamp'"):
        loaded.run()

    loaded.assert_equal(["Account"])
