"""Query text: exactly what is asked, and that an org understands it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import (
    DescribedField,
    Field,
    Kind,
    Projection,
    SObject,
    project,
)
from sync.config.settings import settings_from
from sync.salesforce import soql
from sync.salesforce.session.session import Session
from sync.simulator import Simulator
from sync.window import Key, Scope
from tests.support.declared import least_record
from tests.support.world import LONG_AGO, NEVER_WAIT

FIELDS = ("Id", "IsDeleted", "SystemModstamp", "MasterRecordId")
KINDS = (Kind.ID, Kind.BOOLEAN, Kind.DATETIME, Kind.TEXT)
TYPES = ("id", "boolean", "datetime", "reference")
SINCE = datetime(2026, 1, 31, 23, 59, 58, tzinfo=UTC)
KEY = Key(datetime(2026, 2, 1, 12, 30, tzinfo=UTC), "003RO0000035WQgYAM")
LIVE = "IsDeleted = false"


@pytest.fixture
def thing() -> Projection:
    """A small object with one custom field, as an org shows it."""
    sobject = SObject("Thing", "a01", tuple(Field(n, k) for n, k in zip(FIELDS, KINDS, strict=True)))
    org = [DescribedField(n, t, custom=False) for n, t in zip(FIELDS, TYPES, strict=True)]
    return project(sobject, [*org, DescribedField("Tier__c", "picklist", custom=True)])


# ── the text ──────────────────────────────────────────────────────────────────────────────────────────


def test_first_load_asks_for_everything(thing: Projection) -> None:
    """A first load has no lower limit: every record, custom fields too, in key order."""
    assert soql.select(thing, Scope(), None) == (
        "SELECT Id, IsDeleted, SystemModstamp, MasterRecordId, Tier__c FROM Thing ORDER BY SystemModstamp, Id"
    )


def test_window_includes_its_beginning(thing: Projection) -> None:
    """A window starts at its first second, inclusive: the second of the cursor may hold more records."""
    assert soql.select(thing, Scope(SINCE), None) == (
        "SELECT Id, IsDeleted, SystemModstamp, MasterRecordId, Tier__c FROM Thing "
        "WHERE SystemModstamp >= 2026-01-31T23:59:58Z ORDER BY SystemModstamp, Id"
    )


def test_resumed_query_goes_on_after_the_key(thing: Projection) -> None:
    """A resumed query takes the rest of the key's second, then everything later; the window's start is moot."""
    wanted = (
        "SELECT Id, IsDeleted, SystemModstamp, MasterRecordId, Tier__c FROM Thing "
        "WHERE (SystemModstamp = 2026-02-01T12:30:00Z AND Id > '003RO0000035WQgYAM') "
        "OR SystemModstamp > 2026-02-01T12:30:00Z ORDER BY SystemModstamp, Id"
    )

    assert soql.select(thing, Scope(SINCE), KEY) == wanted
    assert soql.select(thing, Scope(), KEY) == wanted


def test_query_for_bulk_has_no_order(thing: Projection) -> None:
    """The Bulk API gets the same fields and the same window in any order: an order would keep it from chunking."""
    for since in (None, SINCE):
        ordered = soql.select(thing, Scope(since), None)
        assert soql.select_unordered(thing, Scope(since)) == ordered.removesuffix(
            " ORDER BY SystemModstamp, Id"
        )
    assert "ORDER" not in soql.select_unordered(thing, Scope(SINCE))


def test_counts() -> None:
    """Counting asks for the same windows as reading does."""
    assert soql.count("Thing", Scope()) == "SELECT COUNT() FROM Thing"
    assert (
        soql.count("Thing", Scope(SINCE))
        == "SELECT COUNT() FROM Thing WHERE SystemModstamp >= 2026-01-31T23:59:58Z"
    )


def test_counts_before_a_moment() -> None:
    """Counting what is left of a window may leave out what changed since the window was planned."""
    before = datetime(2026, 3, 1, tzinfo=UTC)
    early, upper = "SystemModstamp >= 2026-01-31T23:59:58Z", "SystemModstamp < 2026-03-01T00:00:00Z"
    rest = (
        "(SystemModstamp = 2026-02-01T12:30:00Z AND Id > '003RO0000035WQgYAM') "
        "OR SystemModstamp > 2026-02-01T12:30:00Z"
    )

    assert soql.count_before("Thing", Scope(), None, before) == f"SELECT COUNT() FROM Thing WHERE {upper}"
    assert soql.count_before("Thing", Scope(SINCE), None, before) == (
        f"SELECT COUNT() FROM Thing WHERE {early} AND {upper}"
    )
    assert soql.count_before("Thing", Scope(SINCE), KEY, before) == (
        f"SELECT COUNT() FROM Thing WHERE ({rest}) AND {upper}"
    )


def test_count_up_to_a_key_is_the_complement_of_what_follows() -> None:
    """What lies at or before a key is everything that a resumed query leaves out."""
    before = (
        "(SystemModstamp < 2026-02-01T12:30:00Z OR "
        "(SystemModstamp = 2026-02-01T12:30:00Z AND Id <= '003RO0000035WQgYAM'))"
    )

    assert soql.count_up_to("Thing", Scope(), KEY) == f"SELECT COUNT() FROM Thing WHERE {before}"
    assert soql.count_up_to("Thing", Scope(SINCE), KEY) == (
        f"SELECT COUNT() FROM Thing WHERE SystemModstamp >= 2026-01-31T23:59:58Z AND {before}"
    )


def test_condition_narrows_a_window(thing: Projection) -> None:
    """A condition stands alone or with the window's start, in ordered and unordered queries and in counts."""
    early = "SystemModstamp >= 2026-01-31T23:59:58Z"

    for since, wanted in ((None, LIVE), (SINCE, f"{LIVE} AND {early}")):
        scope = Scope(since, LIVE)
        select = f"SELECT Id, IsDeleted, SystemModstamp, MasterRecordId, Tier__c FROM Thing WHERE {wanted}"
        assert soql.select(thing, scope, None) == f"{select} ORDER BY SystemModstamp, Id"
        assert soql.select_unordered(thing, scope) == select
        assert soql.count("Thing", scope) == f"SELECT COUNT() FROM Thing WHERE {wanted}"


def test_condition_holds_for_both_cases_of_a_key(thing: Projection) -> None:
    """Whatever is ANDed with a key holds for the rest of its second and for everything later: parentheses."""
    before = datetime(2026, 3, 1, tzinfo=UTC)
    upper = "SystemModstamp < 2026-03-01T00:00:00Z"
    rest = (
        "((SystemModstamp = 2026-02-01T12:30:00Z AND Id > '003RO0000035WQgYAM') "
        "OR SystemModstamp > 2026-02-01T12:30:00Z)"
    )

    for scope in (Scope(None, LIVE), Scope(SINCE, LIVE)):
        assert soql.select(thing, scope, KEY) == (
            "SELECT Id, IsDeleted, SystemModstamp, MasterRecordId, Tier__c FROM Thing "
            f"WHERE {LIVE} AND {rest} ORDER BY SystemModstamp, Id"
        )
        assert soql.count_before("Thing", scope, KEY, before) == (
            f"SELECT COUNT() FROM Thing WHERE {LIVE} AND {rest} AND {upper}"
        )


def test_condition_narrows_counts_within_a_window() -> None:
    """Counting a part of a window counts only what meets the condition."""
    before = datetime(2026, 3, 1, tzinfo=UTC)
    early, upper = "SystemModstamp >= 2026-01-31T23:59:58Z", "SystemModstamp < 2026-03-01T00:00:00Z"
    up_to = (
        "(SystemModstamp < 2026-02-01T12:30:00Z OR "
        "(SystemModstamp = 2026-02-01T12:30:00Z AND Id <= '003RO0000035WQgYAM'))"
    )

    for since, lower in ((None, LIVE), (SINCE, f"{LIVE} AND {early}")):
        scope = Scope(since, LIVE)
        assert soql.count_before("Thing", scope, None, before) == (
            f"SELECT COUNT() FROM Thing WHERE {lower} AND {upper}"
        )
        assert soql.count_up_to("Thing", scope, KEY) == f"SELECT COUNT() FROM Thing WHERE {lower} AND {up_to}"


@pytest.mark.parametrize(
    ("part", "named", "grouped"),
    [
        (
            "month",
            "CALENDAR_YEAR(CreatedDate) b0, CALENDAR_MONTH(CreatedDate) b1",
            "CALENDAR_YEAR(CreatedDate), CALENDAR_MONTH(CreatedDate)",
        ),
        ("day", "DAY_ONLY(CreatedDate) b0", "DAY_ONLY(CreatedDate)"),
        (
            "hour",
            "DAY_ONLY(CreatedDate) b0, HOUR_IN_DAY(CreatedDate) b1",
            "DAY_ONLY(CreatedDate), HOUR_IN_DAY(CreatedDate)",
        ),
    ],
)
def test_buckets(part: str, named: str, grouped: str) -> None:
    """Buckets are grouped by any date and time; what tells versions apart is always the stamp."""
    assert soql.count_buckets("Thing", LIVE, "CreatedDate", part) == (
        f"SELECT {named}, COUNT(Id) n, MIN(SystemModstamp) earliest, MAX(SystemModstamp) latest "
        f"FROM Thing WHERE {LIVE} GROUP BY {grouped}"
    )


def test_single_records_by_id(thing: Projection) -> None:
    """Named records are asked for by Id, whatever their stamp."""
    assert soql.by_id(thing, ["a01000000000001AAA", "a01000000000002AAA"]) == (
        "SELECT Id, IsDeleted, SystemModstamp, MasterRecordId, Tier__c FROM Thing "
        "WHERE Id IN ('a01000000000001AAA', 'a01000000000002AAA')"
    )


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 0, 0, 0, tzinfo=UTC), "2026-01-31T00:00:00Z"),
        (
            datetime(2026, 1, 31, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
            "2026-01-31T00:00:00Z",
        ),
        (datetime(2026, 1, 31, 23, 0, tzinfo=timezone(timedelta(hours=-8))), "2026-02-01T07:00:00Z"),
        (datetime(2026, 1, 31, 1, 2, 3, 456_000, tzinfo=UTC), "2026-01-31T01:02:03.456Z"),
        (datetime(2026, 1, 31, 1, 2, 3, 7_000, tzinfo=UTC), "2026-01-31T01:02:03.007Z"),
        (datetime(1700, 1, 1, tzinfo=UTC), "1700-01-01T00:00:00Z"),
        (datetime(4000, 12, 31, 23, 59, 59, tzinfo=UTC), "4000-12-31T23:59:59Z"),
        (datetime(1, 1, 1, tzinfo=UTC), "0001-01-01T00:00:00Z"),
    ],
)
def test_literals_are_utc(moment: datetime, text: str) -> None:
    """A datetime literal is UTC with Z, to the second, with milliseconds only where there are some."""
    assert soql.datetime_literal(moment) == text


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("plain", "'plain'"),
        ("O'Brien", r"'O\'Brien'"),
        ("back\\slash", r"'back\\slash'"),
        ("\\' OR Name != '", r"'\\\' OR Name != \''"),
        ("", "''"),
    ],
)
def test_quoting(text: str, literal: str) -> None:
    """A text cannot leave its quotes."""
    assert soql.quote(text) == literal


@settings(derandomize=True, deadline=None, database=None)
@given(st.text())
def test_quoting_is_reversible(text: str) -> None:
    """Whatever the text, reading the literal as SOQL does gives it back and ends at the last quote."""
    literal = soql.quote(text)
    read, at = "", 1
    while literal[at] != "'":
        at += literal[at] == "\\"
        read += literal[at]
        at += 1

    assert (read, at) == (text, len(literal) - 1)


# ── an org understands it ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def session(sim: Simulator) -> Session:
    return Session(
        settings_from({"DATABASE_URL": "postgres:///unused", **sim.environment()}), retry=NEVER_WAIT
    )


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_org_accepts_every_query(sim: Simulator, session: Session, name: str) -> None:
    """Each kind of query over the whole catalogue is valid SOQL and finds what it says."""
    record = least_record(sim.org, name)
    early = sim.org.create_many(name, [record] * 3, stamp=LONG_AGO)
    late = sim.org.create_many(name, [record] * 2, stamp=LONG_AGO + timedelta(hours=1))
    described, _ = session.describe(name)
    fitted = project(CATALOGUE[name], described)
    key = Key(LONG_AGO, early[1])
    second = LONG_AGO + timedelta(seconds=1)

    def found(query: str) -> list[str]:
        return [id_ for (id_,) in session.query(query, ("Id",)).body["records"]]

    def counted(query: str) -> int:
        return int(session.query(query).body["totalSize"])

    assert found(soql.select(fitted, Scope(), None)) == [*early, *late]
    assert found(soql.select(fitted, Scope(LONG_AGO), None)) == [*early, *late]
    assert found(soql.select(fitted, Scope(second), None)) == late
    assert found(soql.select(fitted, Scope(LONG_AGO + timedelta(milliseconds=1)), None)) == late
    assert found(soql.select(fitted, Scope(LONG_AGO), key)) == [early[2], *late]
    assert sorted(found(soql.select_unordered(fitted, Scope()))) == sorted([*early, *late])
    assert sorted(found(soql.select_unordered(fitted, Scope(second)))) == sorted(late)
    assert counted(soql.count(name, Scope())) == 5
    assert counted(soql.count(name, Scope(second))) == 2
    assert counted(soql.count_before(name, Scope(), None, second)) == 3
    assert counted(soql.count_before(name, Scope(LONG_AGO), None, LONG_AGO)) == 0
    assert counted(soql.count_before(name, Scope(LONG_AGO), key, second)) == 1
    assert counted(soql.count_before(name, Scope(LONG_AGO), key, second + timedelta(days=1))) == 3
    assert counted(soql.count_up_to(name, Scope(), key)) == 2
    assert counted(soql.count_up_to(name, Scope(second), key)) == 0
    assert sorted(found(soql.by_id(fitted, [late[0], early[0]]))) == [early[0], late[0]]


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_org_accepts_a_condition(sim: Simulator, session: Session, name: str) -> None:
    """A condition with every other limit is valid SOQL and holds on both sides of a key's second."""
    record = least_record(sim.org, name)
    early = sim.org.create_many(name, [record] * 4, stamp=LONG_AGO)
    late = sim.org.create_many(name, [record] * 2, stamp=LONG_AGO + timedelta(hours=1))
    for gone, stamp in ((early[2], LONG_AGO), (late[0], LONG_AGO + timedelta(hours=1))):
        sim.org.delete(gone, stamp=stamp)
    fitted = project(CATALOGUE[name], session.describe(name)[0])
    key = Key(LONG_AGO, early[0])
    second = LONG_AGO + timedelta(seconds=1)

    def found(query: str) -> list[str]:
        return [id_ for (id_,) in session.query(query, ("Id",)).body["records"]]

    def counted(query: str) -> int:
        return int(session.query(query).body["totalSize"])

    assert found(soql.select(fitted, Scope(None, LIVE), None)) == [early[0], early[1], early[3], late[1]]
    assert found(soql.select(fitted, Scope(second, LIVE), None)) == [late[1]]
    assert found(soql.select(fitted, Scope(LONG_AGO, LIVE), key)) == [early[1], early[3], late[1]]
    assert found(soql.select_unordered(fitted, Scope(second, LIVE))) == [late[1]]
    assert counted(soql.count(name, Scope(None, LIVE))) == 4
    assert counted(soql.count_before(name, Scope(LONG_AGO, LIVE), None, second)) == 3
    assert counted(soql.count_before(name, Scope(LONG_AGO, LIVE), key, second)) == 2
    assert counted(soql.count_up_to(name, Scope(None, LIVE), Key(LONG_AGO, early[2]))) == 2
    assert counted(soql.count_up_to(name, Scope(second, LIVE), key)) == 0


@pytest.mark.parametrize(
    ("part", "buckets"),
    [
        ("month", [(2024, 3, 3), (2024, 4, 1)]),
        ("day", [("2024-03-01", 3), ("2024-04-01", 1)]),
        ("hour", [("2024-03-01", 12, 2), ("2024-03-01", 13, 1), ("2024-04-01", 12, 1)]),
    ],
)
@pytest.mark.parametrize("field", ["CreatedDate", "SystemModstamp"])
def test_an_org_accepts_buckets(
    sim: Simulator, session: Session, field: str, part: str, buckets: list[tuple[object, ...]]
) -> None:
    """Buckets are valid SOQL and count the records of each, in UTC; the stamps are those of its records."""
    stamps = [LONG_AGO, LONG_AGO + timedelta(minutes=59), LONG_AGO + timedelta(hours=1)]
    for stamp in (*stamps, LONG_AGO + timedelta(days=31)):
        sim.org.create("Contact", {"LastName": "a"}, stamp)
    names = (*(f"b{number}" for number in range(len(soql.PARTS[part]))), "n", "earliest", "latest")

    records = sorted(session.query(soql.count_buckets("Contact", LIVE, field, part), names).body["records"])

    assert [tuple(record[:-2]) for record in records] == buckets
    latest = "2024-03-01T12:59:00.000+0000" if part == "hour" else "2024-03-01T13:00:00.000+0000"
    assert tuple(records[0][-2:]) == ("2024-03-01T12:00:00.000+0000", latest)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("since", [None, LONG_AGO])
def test_the_bulk_api_accepts_the_unordered_query(
    sim: Simulator, session: Session, name: str, since: datetime | None
) -> None:
    """The query of a Bulk job over the whole catalogue is one that the Bulk API takes, and can chunk."""
    fitted = project(CATALOGUE[name], session.describe(name)[0])
    query = soql.select_unordered(fitted, Scope(since))
    jobs = f"/services/data/v{session.version}/jobs/query"

    job = session.resource("POST", jobs, {"operation": "queryAll", "query": query}).body
    info = session.resource("GET", f"{jobs}/{job['id']}").body

    assert (info["state"], info["object"], info["operation"]) == ("JobComplete", name, "queryAll")
    assert sim.org.jobs.all()[0].chunked


def test_deleted_records_are_in_every_query(sim: Simulator, session: Session) -> None:
    """Every query includes the recycle bin: a delete is a change like any other."""
    kept, gone = sim.org.create_many("Contact", [{"LastName": "a"}, {"LastName": "b"}], stamp=LONG_AGO)
    sim.org.delete(gone, stamp=LONG_AGO)
    fitted = project(CATALOGUE["Contact"], session.describe("Contact")[0])

    for query in (soql.select(fitted, Scope(LONG_AGO), None), soql.by_id(fitted, [kept, gone])):
        assert dict(session.query(query, ("Id", "IsDeleted")).body["records"]) == {kept: False, gone: True}
    assert session.query(soql.count("Contact", Scope())).body["totalSize"] == 2
