"""Results of Bulk jobs: the CSV dialect, pages and locators, order, and that they are snapshots."""

import csv
import io
import itertools
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.simulator import Field, Formula, Simulator
from sync.simulator.bulk.csv_rows import DELIMITERS, Dialect
from sync.simulator.bulk.results import Closed, Result
from sync.simulator.queries import Distortion
from tests.simulator.conftest import BulkClient

SOQL = "SELECT Id FROM Contact"
EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def populated() -> Iterator[BulkClient]:
    """An org with hard values in it; its tests leave it as it is."""
    with Simulator(accounts=150, contacts=300) as simulator:
        client = BulkClient(simulator)
        client.login()
        with client.http:
            yield client
        assert simulator.errors == []


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of more than a few rows are read from their snapshot, a few rows at a time."""
    monkeypatch.setattr("sync.simulator.bulk.results.SMALL", 3)
    monkeypatch.setattr("sync.simulator.bulk.results.PIECE", 7)


def selectable(client: BulkClient, name: str) -> dict[str, dict[str, Any]]:
    fields = client.get(f"sobjects/{name}/describe").json()["fields"]
    return {field["name"]: field for field in fields if field["type"] != "address"}


# ── the dialect ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("delimiter", "sign"), DELIMITERS.items())
@pytest.mark.parametrize(("ending", "end"), [("LF", "\n"), ("CRLF", "\r\n")])
def test_dialects(bulk: BulkClient, delimiter: str, sign: str, ending: str, end: str) -> None:
    """All is quoted, quotes are doubled, line breaks stay, null is empty, and names stand on top."""
    account = bulk.simulator.org.create("Account", {"Name": f'"Q"{sign}\n\r\n\t'})
    job = bulk.create(
        "select id, NAME, Site, Parent.Name from account", columnDelimiter=delimiter, lineEnding=ending
    )
    assert bulk.call("GET", f"/{job}").json()["columnDelimiter"] == delimiter
    assert bulk.results(job).content.decode() == (
        sign.join(['"Id"', '"Name"', '"Site"', '"Parent.Name"'])
        + end
        + sign.join([f'"{account}"', f'"""Q""{sign}\n\r\n\t"', '""', '""'])
        + end
    )


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("AnnualRevenue", 999_999_999_999_999_999, "999999999999999999.0"),
        ("AnnualRevenue", -1, "-1.0"),
        ("AnnualRevenue", 0, "0.0"),
        ("Credit_Limit__c", "-0.01", "-0.01"),
        ("Credit_Limit__c", "-0.10", "-0.1"),
        ("Credit_Limit__c", "-300", "-300.0"),
        ("Credit_Limit__c", "1234567890123456.78", "1234567890123456.78"),
        ("Score__c", "0.0001", "0.0001"),
        ("Score__c", "10.0100", "10.01"),
        ("BillingLatitude", "-48.135125000000001", "-48.135125000000001"),
        ("NumberOfEmployees", 42, "42"),
        ("Customer_Since__c", "1700-01-01", "1700-01-01"),
        ("Last_Order__c", "1700-01-01T00:00:00Z", "1700-01-01T00:00:00.000Z"),
        ("Last_Order__c", "4000-12-31T23:59:59Z", "4000-12-31T23:59:59.000Z"),
        ("Key_Account__c", True, "true"),
        ("Key_Account__c", False, "false"),
        ("Channels__c", ["Online", "Retail"], "Online;Retail"),
        ("Site", "NULL", "NULL"),
        ("Site", "\x00", "\x00"),
        ("Site", '"\x00"', '"\x00"'),
        ("Description", "é🚀\u2028" * 3000, "é🚀\u2028" * 3000),
        ("Site", None, ""),
        ("Score__c", None, ""),
        ("Last_Order__c", None, ""),
    ],
)
def test_text_of_values(bulk: BulkClient, field: str, value: Any, text: str) -> None:
    """Each type is written as Bulk writes it, every digit and character kept."""
    bulk.simulator.org.create("Account", {"Name": "x", field: value})
    assert bulk.rows(f"SELECT {field} FROM Account") == [[text]]


@pytest.mark.parametrize("style", ["", "plain_numbers", "exponent_numbers"])
@pytest.mark.parametrize("name", ["Account", "Contact"])
def test_same_values_as_rest(populated: BulkClient, name: str, style: str) -> None:
    """Every value of every record is what REST says, hard ones among them, whatever the style of numbers."""
    fields = selectable(populated, name)
    wanted = {record["Id"]: record for record in populated.simulator.org.records(name)}
    options = populated.simulator.options
    if style:
        setattr(options, style, True)
    try:
        rows = populated.rows(f"SELECT {', '.join(fields)} FROM {name}", "queryAll", maxRecords=100)
    finally:
        options.plain_numbers = options.exponent_numbers = False
    assert len(rows) == len(wanted)
    for row in rows:
        record = wanted[row[0]]
        for field, text in zip(fields.values(), row, strict=True):
            value = record[field["name"]]
            if value is None:
                assert text == "", field["name"]
            elif field["type"] in ("double", "currency", "percent", "int"):
                assert Decimal(text) == value, field["name"]
            elif field["type"] == "boolean":
                assert text == str(value).lower()
            elif field["type"] == "datetime":
                assert text == value.replace("+0000", "Z")
            else:
                assert text == value, field["name"]


def test_number_styles(bulk: BulkClient) -> None:
    """Large numbers can come with an exponent, whole ones without a fraction, calculated ones too."""
    org, options = bulk.simulator.org, bulk.simulator.options
    org.create("Contact", {"LastName": "x", "Spend__c": 400_000_000, "Margin__c": "1.5"})
    soql = "SELECT Spend__c, Margin__c, Spend_With_Tax__c FROM Contact"
    options.exponent_numbers = True
    assert bulk.rows(soql) == [["4.0E8", "1.5", "4.76E8"]]
    options.exponent_numbers, options.plain_numbers = False, True
    assert bulk.rows(soql) == [["400000000", "1.5", "476000000"]]


def test_columns(bulk: BulkClient) -> None:
    """Columns stand in SELECT order under their real names, parents flattened; alphabetically before 50."""
    org = bulk.simulator.org
    account = org.create("Account", {"Name": "Acme", "Rating": "Hot"})
    org.create("Contact", {"LastName": "a", "AccountId": account})
    org.create("Contact", {"LastName": "b"})
    soql = (
        "SELECT account.NAME, lastname, Contact.Account.Rating, Owner.Name, ACCOUNT.parent.name FROM Contact"
    )
    job = bulk.create(soql + " ORDER BY LastName")
    lines = bulk.results(job).text.splitlines()
    owner = org.record(org.staff[0])["Name"]
    assert lines == [
        '"Account.Name","LastName","Account.Rating","Owner.Name","Account.Parent.Name"',
        f'"Acme","a","Hot","{owner}",""',
        f'"","b","","{owner}",""',
    ]
    old = bulk.create("SELECT LastName, FirstName FROM Contact", version="49.0")
    answer = bulk.call("GET", f"/{old}/results", version="49.0")
    assert answer.text.splitlines()[0] == '"FirstName","LastName"'


def test_very_many_columns(populated: BulkClient) -> None:
    """More columns than an SQL function takes arguments are no problem."""
    names = [*selectable(populated, "Contact")]
    for parent in ("Account", "ReportsTo.Account"):
        names += [f"{parent}.{name}" for name in selectable(populated, "Account")]
    assert len(names) > 200
    job = populated.create(f"SELECT {', '.join(names)} FROM Contact ORDER BY Id")
    header, *rows = csv.reader(io.StringIO(populated.results(job).content.decode(), newline=""))
    assert header == names
    assert len(rows) == 300
    by_id = {record["Id"]: record for record in populated.simulator.org.records("Account")}
    for row in rows:
        record = dict(zip(header, row, strict=True))
        account = by_id.get(record["AccountId"], {})
        assert record["Account.Name"] == account.get("Name", "")
        assert record["Account.Display_Name__c"] == account.get("Display_Name__c", "")


def test_formulas_in_two_languages(populated: BulkClient) -> None:
    """A formula that is also written in SQL gives what its function gives, out of range and null alike."""
    org = populated.simulator.org
    numbers = [
        None,
        0,
        1,
        -1,
        49,
        50,
        51,
        -50,
        10**18 - 1,
        1 - 10**18,
        840336134453781512,
        840336134453781513,
    ]
    for scaled in numbers:
        amount = None if scaled is None else Decimal(scaled).scaleb(-2)
        org.purge(org.create("Contact", {"LastName": "x"}))
        contact = org.create("Contact", {"LastName": "formula", "Spend__c": amount})
        found = org.record(contact)["Spend_With_Tax__c"]
        assert found == _calculated(org.schema.objects["Contact"].fields["Spend_With_Tax__c"], amount)
        org.purge(contact)
    accounts = org.records("Account")
    display = org.schema.objects["Account"].fields["Display_Name__c"].formula
    assert display is not None
    assert [each["Display_Name__c"] for each in accounts] == [
        display.function(each["Name"], each["BillingCountry"]) for each in accounts
    ]


def _calculated(field: Field, amount: Decimal | None) -> Decimal | None:
    assert field.formula is not None
    value = field.formula.function(amount)
    if value is None:
        return None
    rounded: Decimal = value.quantize(Decimal("0.01"), rounding="ROUND_HALF_UP")
    return rounded if abs(rounded) < 10**16 else None


def test_formulas_of_ones_own(bulk: BulkClient) -> None:
    """Calculated fields that are only Python functions come along, with NUL in them too."""
    org = bulk.simulator.org
    org.add_field(
        "Contact",
        Field("Shout__c", "string", length=80, formula=Formula(("LastName",), lambda name: name.upper())),
    )
    org.add_field(
        "Contact",
        Field(
            "Half__c", "double", precision=18, scale=3, formula=Formula(("Spend__c",), lambda x: x and x / 2)
        ),
    )
    org.create_many("Contact", [{"LastName": "nul\x00", "Spend__c": "2.01"}, {"LastName": "none"}])
    soql = "SELECT Shout__c, Half__c FROM Contact ORDER BY LastName DESC"
    assert bulk.rows(soql) == [["NUL\x00", "1.005"], ["NONE", ""]]


@EXAMPLES
@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=200),
    scaled=st.integers(-(10**18) + 1, 10**18 - 1),
    places=st.integers(-(10**18) + 1, 10**18 - 1),
    moment=st.integers(-8_520_336_000, 64_092_211_199),
)
def test_any_value_comes_back(
    populated: BulkClient, text: str, scaled: int, places: int, moment: int
) -> None:
    """Whatever text, number of 18 digits or moment is stored, the CSV gives it back."""
    org = populated.simulator.org
    amount, latitude = Decimal(scaled).scaleb(-2), Decimal(places).scaleb(-15)
    record = {"Name": text, "Credit_Limit__c": amount, "BillingLatitude": latitude, "Last_Order__c": moment}
    account = org.create("Account", record)
    soql = f"SELECT {', '.join(record)} FROM Account WHERE Id = '{account}'"
    (row,) = populated.rows(soql)
    assert (row[0], Decimal(row[1]), Decimal(row[2])) == (text, amount, latitude)
    assert row[3] == org.record(account)["Last_Order__c"].replace("+0000", "Z")
    org.purge(account)


# ── pages ─────────────────────────────────────────────────────────────────────────────────────────────


def ids_of(answer: requests.Response) -> list[str]:
    header, *lines = answer.text.splitlines()
    assert header == '"Id"'
    return [line.strip('"') for line in lines]


@pytest.mark.parametrize("size", ["small", "large"])
def test_pages(bulk: BulkClient, size: str, request: pytest.FixtureRequest) -> None:
    """Pages follow one another by locators, each with a header and its own count; each can be had again."""
    if size == "large":
        request.getfixturevalue("large")
    made = bulk.simulator.org.create_many("Contact", [{"LastName": f"{n}"} for n in range(53)])
    job = bulk.create(SOQL)
    locator, seen, counts, locators = None, [], [], []
    while locator != "null":
        params = {"maxRecords": 20} | ({"locator": locator} if locator else {})
        page = bulk.results(job, **params)
        again = bulk.results(job, **params)
        assert (again.content, again.headers["Sforce-Locator"]) == (
            page.content,
            page.headers["Sforce-Locator"],
        )
        locator = page.headers["Sforce-Locator"]
        locators.append(locator)
        counts.append(int(page.headers["Sforce-NumberOfRecords"]))
        assert len(ids_of(page)) == counts[-1]
        seen += ids_of(page)
    assert counts == [20, 20, 13]
    assert sorted(seen) == sorted(made)
    assert not any(each.isdecimal() for each in locators)
    assert len(ids_of(bulk.results(job, locator=locators[0], maxRecords=5))) == 5
    assert len(ids_of(bulk.results(job))) == 53


def test_page_sizes(bulk: BulkClient) -> None:
    """The server may give fewer rows than asked for, and does so again for the same page."""
    bulk.simulator.org.create_many("Contact", [{"LastName": "x"}] * 10)
    bulk.simulator.options.bulk_page_sizes = [3, 1]
    job = bulk.create(SOQL)
    assert [len(page) for page in bulk.pages(job, maxRecords=2)] == [2, 1, 2, 1, 2, 1, 1]
    assert [len(page) for page in bulk.pages(job, maxRecords=2)] == [2, 1, 2, 1, 2, 1, 1]
    bulk.simulator.options.bulk_page_sizes = 4
    assert [len(page) for page in bulk.pages(bulk.create(SOQL))] == [4, 4, 2]


def test_no_rows(bulk: BulkClient) -> None:
    """An empty result is a header."""
    job = bulk.create(SOQL)
    answer = bulk.results(job)
    assert answer.text == '"Id"\n'
    assert answer.headers["Sforce-NumberOfRecords"] == "0"
    assert answer.headers["Sforce-Locator"] == "null"


@pytest.mark.parametrize(
    "params", [{"locator": "junk"}, {"locator": "MjAw"}, {"maxRecords": "0"}, {"maxRecords": "x"}]
)
def test_pages_that_are_not_there(bulk: BulkClient, params: dict[str, str]) -> None:
    """A locator that was never given, or a page of no size, is refused."""
    job = bulk.create(SOQL)
    assert bulk.results(job, **params).status_code == 400
    assert bulk.call("GET", f"/{job}/resultPages", **params).status_code == 400


def test_result_pages(bulk: BulkClient) -> None:
    """Result pages name all pages, five at a time, which together are the result."""
    made = bulk.simulator.org.create_many("Contact", [{"LastName": "x"}] * 23)
    job = bulk.create(SOQL)
    address, urls, listed = f"/{job}/resultPages", [], []
    body = bulk.call("GET", address, maxRecords=2).json()
    while True:
        assert list(body) == ["resultPages", "nextRecordsUrl", "done"]
        urls += [each["resultUrl"] for each in body["resultPages"]]
        listed.append(len(body["resultPages"]))
        assert body["done"] is (body["nextRecordsUrl"] is None)
        if body["done"]:
            break
        assert re.fullmatch(
            rf"/services/data/v60\.0/jobs/query/{job}/resultpages\?locator=\w+", body["nextRecordsUrl"]
        )
        body = bulk.get(body["nextRecordsUrl"]).json()
    assert listed == [5, 5, 2]
    pages = [bulk.get(url) for url in reversed(urls)]
    assert [page.headers["Sforce-NumberOfRecords"] for page in pages] == ["1"] + ["2"] * 11
    assert sorted(each for page in pages for each in ids_of(page)) == sorted(made)
    assert pages[0].headers["Sforce-Locator"] == "null"
    everything = bulk.call("GET", address).json()
    assert len(everything["resultPages"]) == 1
    assert len(ids_of(bulk.get(everything["resultPages"][0]["resultUrl"]))) == 23


def test_headers(bulk: BulkClient) -> None:
    """A page is chunked, compressed if asked, and tells its charset unless it is told not to."""
    bulk.simulator.org.create("Contact", {"LastName": "x"})
    options = bulk.simulator.options
    job = bulk.create(SOQL)
    answer = bulk.results(job)
    assert answer.headers["Content-Type"] == "text/csv; charset=UTF-8"
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.headers["Sforce-Limit-Info"].startswith("api-usage=")
    assert "Date" in answer.headers
    assert "Set-Cookie" in answer.headers
    options.bulk_charset, options.gzip, options.chunked = False, False, False
    bare = bulk.results(job)
    assert bare.headers["Content-Type"] == "text/csv"
    assert "Content-Encoding" not in bare.headers
    assert int(bare.headers["Content-Length"]) == len(answer.content) == len(bare.content)


# ── order and moment ──────────────────────────────────────────────────────────────────────────────────


def test_order(bulk: BulkClient) -> None:
    """Rows come in disorderly chunks of neighbours, shuffled, or by Id; ORDER BY is obeyed in any case."""
    made = bulk.simulator.org.create_many("Contact", [{"LastName": f"{n:02}"} for n in range(20)])

    def order(soql: str) -> list[int]:
        return [made.index(row[0]) for row in bulk.rows(soql)]

    def neighbours(found: list[int]) -> int:
        return sum(after - before == 1 for before, after in itertools.pairwise(found))

    chunks = order(SOQL)
    assert sorted(chunks) == list(range(20))
    assert chunks != sorted(chunks)
    assert neighbours(chunks) >= 15
    assert order(SOQL + " ORDER BY LastName DESC") == list(range(19, -1, -1))
    assert sorted(order(SOQL + " ORDER BY LastName LIMIT 4")) == [0, 1, 2, 3]
    assert len(order(SOQL + " LIMIT 4")) == 4
    for _ in range(5):
        assert order(SOQL + " WHERE LastName IN ('00', '01')") == [1, 0]
    bulk.simulator.options.bulk_order = "shuffled"
    assert neighbours(order(SOQL)) < 15
    bulk.simulator.options.bulk_order = "id"
    assert order(SOQL) == list(range(20))


@pytest.mark.parametrize("size", ["small", "large"])
def test_results_are_snapshots(bulk: BulkClient, size: str, request: pytest.FixtureRequest) -> None:
    """What changes, comes, goes, or is hidden after a job was processed does not change its result."""
    if size == "large":
        request.getfixturevalue("large")
    org = bulk.simulator.org
    made = org.create_many("Contact", [{"LastName": f"{n}", "Title": "old", "Spend__c": 1} for n in range(9)])
    org.delete(made[8])
    soql = "SELECT Id, LastName, Title, IsDeleted, Spend_With_Tax__c FROM Contact"
    job, everything = bulk.create(soql), bulk.create(soql, "queryAll")
    before = [list(bulk.pages(each, maxRecords=4)) for each in (job, everything)]
    org.update(made[0], {"Title": "new"})
    org.delete(made[1])
    org.purge(made[2])
    org.create("Contact", {"LastName": "late"})
    org.change_formula("Contact", "Spend_With_Tax__c", 100)
    org.remove_field("Contact", "Title")
    org.hide_object("Contact")
    assert [list(bulk.pages(each, maxRecords=4)) for each in (job, everything)] == before
    assert [len([row for page in pages for row in page]) for pages in before] == [8, 9]
    assert {row[4] for page in before[0] for row in page} == {"1.19"}


def test_the_moment_of_the_snapshot(bulk: BulkClient) -> None:
    """A job is processed after the poll that found it waiting; without polls, when it is created."""
    org, options = bulk.simulator.org, bulk.simulator.options
    at_once = bulk.create(SOQL)
    options.bulk_polls = 2
    later = bulk.create(SOQL)
    assert bulk.state(later) == "UploadComplete"
    first = org.create("Contact", {"LastName": "in time"})
    assert bulk.state(later) == "InProgress"
    org.create("Contact", {"LastName": "too late"})
    assert bulk.state(later) == "JobComplete"
    assert ids_of(bulk.results(later)) == [first]
    assert ids_of(bulk.results(at_once)) == []


@pytest.mark.usefixtures("large")
def test_pages_side_by_side(bulk: BulkClient) -> None:
    """Pages of one result can be read by many at a time, while records change."""
    org = bulk.simulator.org
    made = org.create_many("Contact", [{"LastName": f"{n:03}", "Title": "old"} for n in range(300)])
    job = bulk.create("SELECT Id, Title FROM Contact ORDER BY Id")
    urls: list[str] = []
    address = f"/services/data/v60.0/jobs/query/{job}/resultPages?maxRecords=13"
    while address:
        body = bulk.get(address).json()
        urls += [each["resultUrl"] for each in body["resultPages"]]
        address = body["nextRecordsUrl"]
    stop = threading.Event()

    def change() -> None:
        for record_id in made:
            if stop.is_set():
                break
            org.update(record_id, {"Title": "new"})

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(6) as pool:
            pages = list(pool.map(lambda url: bulk.get(url).text.splitlines()[1:], urls))
    finally:
        stop.set()
        changer.join()
    assert [line for page in pages for line in page] == [f'"{each}","old"' for each in made]


@pytest.mark.usefixtures("large")
def test_a_deleted_result_breaks_off(bulk: BulkClient) -> None:
    """Who reads a result that is closed is told, and nobody waits for ever."""
    org = bulk.simulator.org
    org.create_many("Contact", [{"LastName": "x"}] * 20)
    result = Result(org.state, org.queries.plan(SOQL), False, Dialect(), 1)
    lines = result.lines(0, 20, Distortion())
    next(lines)
    result.close()
    with pytest.raises(Closed):
        next(lines)


@pytest.mark.usefixtures("large")
def test_snapshots_are_capped(bulk: BulkClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many large results the oldest goes, and its job with it."""
    monkeypatch.setattr("sync.simulator.bulk.jobs.MOST_SNAPSHOTS", 2)
    bulk.simulator.org.create_many("Contact", [{"LastName": "x"}] * 5)
    jobs = [bulk.create(SOQL) for _ in range(3)]
    assert [bulk.results(job).status_code for job in jobs] == [404, 200, 200]
