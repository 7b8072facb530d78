"""Answers and saved progress are data: what is odd in them ends in an error or a new beginning, never in a lie."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from sync.catalogue import transform
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import project
from sync.errors import (
    CountMismatchError,
    ObjectsFailedError,
    SalesforceError,
    SyncError,
)
from sync.operations.audit import checks
from sync.postgres import ledger, tables
from sync.replication import pipeline
from sync.replication.runs import PageResult
from sync.salesforce.extract import results
from tests.support.moving import BOTH, Killed
from tests.support.world import World

FOREIGN = ("@evil.example/steal", "https://evil.example/services/data/v66.0/x", 7)


@pytest.fixture
def nine(loaded: World) -> World:
    """Nine contacts changed since the first load, in five pages."""
    loaded.page_by(2)
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(9)])
    loaded.sim.clock.advance(3600)
    loaded.sim.requests.clear()
    return loaded


def failing(world: World) -> SyncError:
    """What a run of both objects says of its contacts; accounts are not held up."""
    with pytest.raises(ObjectsFailedError) as failure:
        world.run()
    [(name, error)] = failure.value.failures
    assert name == "Contact"
    return error


# ── URLs and Ids in answers ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", FOREIGN, ids=str)
def test_a_next_page_elsewhere(nine: World, url: object) -> None:
    """A page that names its next one on another host, or outside the API, fails the run; the next is whole."""
    nine.sim.faults.add("altered", on="query", sobject="Contact", set={"nextRecordsUrl": url}, times=7)

    assert "so it was not requested" in str(failing(nine)) or url == 7
    nine.sim.faults.clear()
    nine.run()
    nine.assert_equal()


# Where an answer about a Bulk job is altered, how, and what the error says.
ODD_JOBS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("job_create", {"id": "../../../x"}, "no readable id"),
    ("job_create", {"id": None}, "no readable id"),
    ("job", {"state": 7}, "no readable state"),
    ("job", {"numberRecordsProcessed": -1}, "no readable numberRecordsProcessed"),
    ("job", {"numberRecordsProcessed": True}, "no readable numberRecordsProcessed"),
    ("job", {"numberRecordsProcessed": "many"}, "no readable numberRecordsProcessed"),
    ("result_pages", {"resultPages": None}, "no readable resultPages"),
    ("result_pages", {"resultPages": [{"resultUrl": "@evil.example/steal"}]}, "so it was not requested"),
    ("result_pages", {"resultPages": [{}]}, "so it was not requested"),
    ("result_pages", {"resultPages": ["x"]}, "so it was not requested"),
    (
        "result_pages",
        {"resultPages": [], "done": False, "nextRecordsUrl": "//evil.example/"},
        "was not requested",
    ),
)


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
def test_a_job_that_says_what_it_cannot_be(nine: World, caplog: pytest.LogCaptureFixture) -> None:
    """Where an answer about a job cannot be read, REST reads the window, and the log says what is wrong."""
    for number, (on, what, says) in enumerate(ODD_JOBS):
        nine.org.update(nine.ann, {"Title": f"T{number}"})
        caplog.clear()
        fault = nine.sim.faults.add("altered", on=on, sobject="Contact", set=what)
        nine.run()
        assert says in caplog.text, (on, what)
        assert fault.fired == 1
        nine.assert_equal()
        if on == "job_create":  # nobody can delete a job whose Id is not known
            for job in nine.org.jobs.all():
                nine.org.jobs.remove(job)


def test_ids_that_are_no_texts(nine: World) -> None:
    """Records whose Ids are lists or objects are rejected or left out; the others are stored."""

    def change(body: Any) -> Any:
        body["records"][0]["Id"] = {"a": [1]}
        return body

    nine.sim.faults.add("altered", on="query", sobject="Contact", change=change)
    nine.run()

    assert nine.sql("SELECT count(*) FROM sync.reject")[0][0] == 1


@pytest.mark.parametrize("id_", ["003' OR Name != ''", "0035g00000É1234567", "0035g0000012345 67"])
def test_ids_of_other_characters(loaded: World, id_: str) -> None:
    """A record whose Id has 18 characters of another kind is rejected: no later query may break on it."""
    batch = transform.build(
        project(CATALOGUE["Contact"], loaded.context().session.describe("Contact")[0]).only(()),
        [(id_, "false", "2026-01-31T12:00:00.000+0000")],
        "US",
    )
    assert [reject.reason for reject in batch.rejects] == ["Id: an Id has letters and digits only"]


# ── pages without end ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("empty", [True, False])
def test_pages_without_end(nine: World, empty: bool) -> None:
    """A server that always names one more page, empty or with records it has given, is left in the end."""
    numbers = count(1)

    def change(body: Any) -> Any:
        body["done"] = False
        body["nextRecordsUrl"] = f"/services/data/v66.0/query/0r8xx3d5f7h9j1l3n5-{next(numbers)}"
        body["records"] = [] if empty else body["records"]
        return body

    nine.page_by(2000)
    full = {"totalSize": 9, "done": False, "records": []}
    body = dict(full)

    def page(_: Any) -> Any:
        return change({**body})

    def first(found: Any) -> Any:
        body["records"] = found["records"] * 100
        return change(found)

    nine.sim.faults.add("altered", on="query", sobject="Contact", change=first, times=None)
    nine.sim.faults.add("answered", on="page", change=page, times=None)
    error = failing(nine)

    assert isinstance(error, CountMismatchError)
    assert "more and more pages" in str(error)
    assert len([r for r in nine.sim.requests if r.kind == "page"]) < 40
    nine.sim.faults.clear()
    nine.run()
    nine.assert_equal()


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
def test_result_pages_without_end(nine: World) -> None:
    """A list of result pages longer than the job has records is left in the end."""
    numbers = count(1)

    def change(body: Any) -> Any:
        path = body["resultPages"][0]["resultUrl"].partition("?")[0]
        body["resultPages"] = []
        body["done"] = False
        body["nextRecordsUrl"] = path.replace("results", "resultPages") + f"?locator=x{next(numbers)}"
        return body

    first = nine.sim.faults.add("altered", on="result_pages", sobject="Contact", change=change)
    empty = {"resultPages": [], "done": False}
    path = "/services/data/v66.0/jobs/query/7505g00000ABCDEAA4/resultPages?locator="
    nine.sim.faults.add(
        "answered",
        on="result_pages",
        times=None,
        change=lambda _: {**empty, "nextRecordsUrl": f"{path}{next(numbers)}"},
    )
    error = failing(nine)

    assert first.fired == 1
    assert isinstance(error, CountMismatchError)
    assert "more and more pages" in str(error)


# ── saved progress ────────────────────────────────────────────────────────────────────────────────────


def interrupted(world: World) -> None:
    """A run that dies with two committed pages of contacts."""

    def die(step: PageResult) -> None:
        if step.object == "Contact" and step.received >= 4:
            raise Killed

    with pytest.raises(Killed):
        pipeline.sync_object(world.context(on_page=die), "Contact")
    world.expire_leases()
    assert world.sql("SELECT count(*) FROM sync.progress WHERE received > 0")[0][0] == 1


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
@pytest.mark.parametrize("column", ["job", "page_url"])
@pytest.mark.parametrize(
    "value",
    ["@evil.example/steal", "/services/data/v66.0/jobs/query/../../x", "\n"],
)
def test_a_saved_path_that_is_none(nine: World, column: str, value: str) -> None:
    """A path in the database that we never saved is not asked for: the window is read from its beginning."""
    interrupted(nine)
    nine.sql(f"UPDATE sync.progress SET {column} = :value", value=value)
    nine.run()

    nine.assert_equal()
    assert {r.path.split("/")[1] for r in nine.sim.requests} == {"services"}
    assert not [r.path for r in nine.sim.requests if "evil" in r.path or ".." in r.path]
    if column == "job":  # its Id is lost, and Salesforce deletes the job after seven days
        for job in nine.org.jobs.all():
            nine.org.jobs.remove(job)


@pytest.mark.parametrize("value", ["x' OR Name != '", "a" * 19])
def test_a_saved_key_that_is_none(nine: World, value: str) -> None:
    """An Id in the database that is none does not reach a query: the window is read from its beginning."""
    interrupted(nine)
    nine.sql("UPDATE sync.progress SET key_id = :value", value=value)
    nine.run()

    nine.assert_equal()
    assert not [r.soql for r in nine.sim.requests if value in (r.soql or "") and len(value) > 1]


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
def test_another_api_version(nine: World) -> None:
    """A job of the API version before is given up and deleted: its results cannot be read by another one."""
    interrupted(nine)
    nine.environment["SALESFORCE_API_VERSION"] = "65.0"
    nine.run()

    nine.assert_equal()
    assert nine.org.jobs.all() == []


@BOTH
def test_a_good_saved_path_is_used(nine: World) -> None:
    """What we saved ourselves is taken up where it stopped."""
    interrupted(nine)
    nine.sim.requests.clear()
    nine.run()

    nine.assert_equal()
    assert not [r for r in nine.sim.requests if r.kind == "job_create" and r.sobject == "Contact"][1:]


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
@pytest.mark.parametrize("job", ["@evil.example/steal", "/services/data/v66.0/jobs/query/x", ""])
def test_an_orphan_that_is_none(nine: World, job: str, caplog: pytest.LogCaptureFixture) -> None:
    """A job of an earlier window that cannot be one is left alone, and the log says so."""
    interrupted(nine)
    nine.sql("UPDATE sync.progress SET job = :job, selected = 'other fields'", job=job)
    nine.run()

    nine.assert_equal()
    assert not [r.path for r in nine.sim.requests if "evil" in r.path]
    for left in nine.org.jobs.all():
        nine.org.jobs.remove(left)


# ── wide rows ─────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_the_longest_texts(world: World) -> None:
    """A text area of 131,072 characters, quotes and line ends included, is a text like any other."""
    from sync.simulator import Field

    world.org.add_field("Contact", Field("Story__c", "textarea", length=131_072))
    text = ('"a",\n' * 131_072)[:131_071] + "x"
    world.org.create("Contact", {"LastName": "n", "Story__c": text})
    world.run()

    assert world.sql("SELECT length(custom ->> 'Story__c') FROM salesforce.contact")[0][0] == 131_072


class Endless:
    """A CSV body that never ends: after its header one line, one cell or one row."""

    def __init__(self, header: str, piece: str) -> None:
        self.pieces = self.body(header, piece)

    def body(self, header: str, piece: str) -> Iterator[str]:
        yield header
        while True:
            yield piece

    def readline(self, size: int) -> str:
        line = ""
        while len(line) < size and not line.endswith("\n"):
            line += next(self.pieces)
        return line


@pytest.mark.parametrize("piece", ["x" * 4096, "," * 4096, '"a\n"' * 9 + ",", '"' + "y" * 4096 + "\n"])
def test_a_row_without_end(piece: str) -> None:
    """A row that never ends is given up with what is wrong, in the memory of one row."""
    table = results.Table(Endless("Id\n", piece))  # type: ignore[arg-type]  # has all that is asked of it
    assert table.header() == ["Id"]

    with pytest.raises((ValueError, csv.Error), match=r"row of more than|field larger than|expected"):
        table.batch(results.BATCH)
    assert issubclass(SalesforceError, SyncError)


# ── describes ─────────────────────────────────────────────────────────────────────────────────────────

ODD: list[Any] = [
    *(
        {"name": name, "type": "string", "custom": True}
        for name in ("It's__c", 'a"__c', "%s__c", "x;y", "", " ", "é__c")
    ),
    *(
        {"name": name, "type": "string"}
        for name in ("a.b", "Id, Name", "FIELDS(ALL)", "a\0b", "x" * 81, "1a", None, 7)
    ),
    {"name": "Bad__c", "type": "string' --", "custom": True},
    {
        "name": "Worse__c",
        "type": "reference",
        "relationshipName": "(",
        "referenceTo": ["Account"],
        "custom": True,
    },
    {"name": "Worst__c", "type": "reference", "relationshipName": "A", "referenceTo": ["A'"], "custom": True},
    {"name": "None__c", "type": "reference", "referenceTo": "Account", "custom": True},
    {"name": "EMAIL", "type": "string", "custom": False},
    {"type": "string"},
    {"name": "NoType__c"},
    *("text", 7, None, [], True),
]


@pytest.mark.parametrize("command", ["run", "check"])
def test_odd_descriptions_are_left_out(loaded: World, command: str, caplog: pytest.LogCaptureFixture) -> None:
    """Fields with names that are none never reach a query; they are named, and the others go on."""
    loaded.sim.faults.add("altered", on="describe", sobject="Contact", add={"fields": ODD}, times=None)
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    if command == "check":
        context = loaded.context()
        found = list(checks.check(context.settings, context.session, context.engine))
        [finding] = [one for one in found if one.detail.startswith("left out: ")]
        assert (finding.subject, finding.state) == ("Contact fields", "warning")
        assert "Worse__c" in finding.detail
        assert {one.state for one in found} <= {"ok", "warning"}
        return

    loaded.run()
    loaded.run()

    loaded.assert_equal()
    assert "fields_unusable" in caplog.text
    assert "Worst__c" in caplog.text
    for request in loaded.sim.requests:
        for name in ("'", '"', "%", "Worse__c", "None__c", "é"):
            assert name not in (request.soql or "")


def test_sizes_and_formulas_of_any_kind(loaded: World) -> None:
    """Lengths that are no numbers, and formulas with what Postgres cannot hold, are no failure."""
    odd: list[Any] = [
        {"name": "A__c", "type": "string", "custom": False, "length": "x" * 9000, "precision": {"a": 1}},
        {"name": "B__c", "type": "double", "custom": False, "precision": -1, "scale": 10**40},
        {
            "name": "C__c",
            "type": "string",
            "calculated": True,
            "calculatedFormula": "a\0b" + "z" * 90_000,
            "custom": False,
        },
        {
            "name": "D__c",
            "type": "string",
            "calculated": True,
            "calculatedFormula": {"a": 1},
            "custom": False,
        },
    ]
    loaded.sim.faults.add("altered", on="describe", sobject="Contact", add={"fields": odd}, times=None)
    loaded.run()

    rows = dict(loaded.sql("SELECT field, formula FROM sync.field WHERE field IN ('A__c', 'C__c')"))
    assert rows["C__c"].startswith("abz")
    assert len(rows["C__c"]) < 20_001


@pytest.mark.parametrize("fields", [None, {}, "x", 7, [{"name": "Id", "type": "id"}] * 2_001])
def test_a_describe_without_fields(loaded: World, fields: Any) -> None:
    """A describe whose fields are no list, or more than an object has, fails its object alone."""
    loaded.sim.faults.add("altered", on="describe", sobject="Contact", set={"fields": fields}, times=None)

    assert isinstance(failing(loaded), SalesforceError)


def test_relationships_are_no_patterns(loaded: World) -> None:
    """A name in the ledger that an earlier version believed is compared, and is part of no pattern."""
    for relationship in ("(", "A|.*", "\\m", "account"):
        loaded.sql("UPDATE sync.field SET relationship = :r WHERE field = 'AccountId'", r=relationship)
        loaded.sql(
            "UPDATE sync.field SET calculated = true, formula = 'x & Account.Name' WHERE field = 'Title'"
        )
        with tables.transaction(loaded.engine) as connection:
            [edge] = [e for e in ledger.dependencies(connection, "Account") if e.column == "account_id"]
        assert edge.formula == (relationship == "account")


# ── a long wait ───────────────────────────────────────────────────────────────────────────────────────


def test_a_long_wait_defers_the_run(loaded: World) -> None:
    """Salesforce that asks for a day defers both objects, exit code 4; nothing is advanced, and it heals."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add("server_unavailable", on="query", times=None, retry_after=86_400)

    with pytest.raises(ObjectsFailedError) as failure:
        loaded.run()

    assert failure.value.code == 4
    assert loaded.sql("SELECT DISTINCT outcome FROM sync.run WHERE id > 2") == [("deferred",)]
    loaded.sim.faults.clear()
    loaded.run()
    loaded.assert_equal()


def test_a_long_wait_of_what_is_not_needed(loaded: World) -> None:
    """Where only getUpdated asks for a day the pass goes on without it."""
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.faults.add("server_unavailable", on="updated", times=None, retry_after=86_400)
    loaded.run()

    loaded.assert_equal()
