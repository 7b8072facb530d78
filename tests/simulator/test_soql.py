"""SOQL: what is understood, what it answers, and how the rest is refused."""

from collections.abc import Iterator

import pytest

from sync.simulator import Simulator
from tests.simulator.conftest import Client


@pytest.fixture(scope="module")
def org_client() -> Iterator[Client]:
    """One org for all questions: four accounts and five contacts, the clock frozen."""
    with Simulator() as simulator:
        org, clock = simulator.org, simulator.clock
        clock.freeze(
            clock.now().replace(year=2026, month=6, day=15, hour=12, minute=0, second=0, microsecond=0)
        )
        at = clock.now().replace
        parent = org.create(
            "Account", {"Name": "Acme", "Rating": "Hot", "AnnualRevenue": 100}, at(year=2024, month=1)
        )
        child = org.create(
            "Account",
            {"Name": "beta", "ParentId": parent, "AnnualRevenue": "99", "Credit_Limit__c": "10.55"},
            at(year=2024, month=2),
        )
        org.create(
            "Account",
            {"Name": "O'Neil 100%", "Channels__c": "Online;Retail", "Score__c": "-1.5"},
            at(year=2025),
        )
        org.create("Account", {"Name": "Zürich_1", "Customer_Since__c": "2026-06-15", "Key_Account__c": True})
        org.create(
            "Contact", {"LastName": "Ada", "AccountId": parent, "Email": "ADA@Example.com", "VIP__c": True}
        )
        org.create("Contact", {"LastName": "Bob", "AccountId": child, "Birthdate": "1990-05-01"})
        org.create("Contact", {"LastName": "Cid"}, at(day=14))
        org.create(
            "Contact", {"LastName": "Dan", "FirstName": "Bob", "Title": "line\nbreak\ttab\\"}, at(hour=3)
        )
        gone = org.create("Contact", {"LastName": "Eve"}, at(year=2025))
        org.delete(gone)
        client = Client(simulator)
        client.login()
        with client.http:
            yield client
        assert simulator.errors == []


ACCOUNTS = [
    # --- text: case does not matter, nulls differ from everything
    ("Name = 'ACME'", ["Acme"]),
    ("Name != 'acme'", ["beta", "O'Neil 100%", "Zürich_1"]),
    ("Name <> 'acme' AND Rating = null", ["beta", "O'Neil 100%", "Zürich_1"]),
    ("Rating != 'Cold'", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    ("Rating = ''", ["beta", "O'Neil 100%", "Zürich_1"]),
    ("Rating != NULL", ["Acme"]),
    ("NOT Rating = 'Hot'", ["beta", "O'Neil 100%", "Zürich_1"]),
    ("NOT (Rating != null)", ["beta", "O'Neil 100%", "Zürich_1"]),
    ("Name > 'b' AND Name <= 'o\\'neil 100%'", ["beta", "O'Neil 100%"]),
    ("Name = 'ZÜRICH_1'", ["Zürich_1"]),
    ("Name = 'Z\\u00fcrich_1'", ["Zürich_1"]),
    ("Name IN ('acme', 'BETA', 'x')", ["Acme", "beta"]),
    ("Rating IN ('hot', null)", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    ("Rating NOT IN ('Hot')", ["beta", "O'Neil 100%", "Zürich_1"]),
    ("Name LIKE 'A%'", ["Acme"]),
    ("Name LIKE '%100\\%'", ["O'Neil 100%"]),
    ("Name LIKE '_cme'", ["Acme"]),
    ("Name LIKE '%\\_1'", ["Zürich_1"]),
    ("(NOT Name LIKE '%e%')", ["Zürich_1"]),
    # --- numbers, exactly
    ("AnnualRevenue > 99", ["Acme"]),
    ("AnnualRevenue >= 99.0", ["Acme", "beta"]),
    ("AnnualRevenue = 99.5", []),
    ("AnnualRevenue != 99.5", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    ("AnnualRevenue < 99.5", ["beta"]),
    ("AnnualRevenue > 98.5 AND AnnualRevenue < 1e2", ["beta"]),
    ("AnnualRevenue < 100000000000000000000000000", ["Acme", "beta"]),
    ("Credit_Limit__c = 10.55", ["beta"]),
    ("Credit_Limit__c IN (1, 10.550, 10.551)", ["beta"]),
    ("Score__c = -1.5", ["O'Neil 100%"]),
    ("Score__c < -.5", ["O'Neil 100%"]),
    # --- booleans, pick lists, Ids, parents, formulas
    ("Key_Account__c = true", ["Zürich_1"]),
    ("Key_Account__c != TRUE AND Name > 'n'", ["O'Neil 100%"]),
    ("Channels__c INCLUDES ('Retail')", ["O'Neil 100%"]),
    ("Channels__c INCLUDES ('Online;Retail', 'Partner')", ["O'Neil 100%"]),
    ("Channels__c INCLUDES ('Online;Partner')", []),
    ("Channels__c EXCLUDES ('Retail')", ["Acme", "beta", "Zürich_1"]),
    ("Parent.Name = 'acme'", ["beta"]),
    ("Parent.Name = null", ["Acme", "O'Neil 100%", "Zürich_1"]),
    ("ParentId != null", ["beta"]),
    ("Account.Name = 'beta'", ["beta"]),
    ("Display_Name__c = 'ACME'", ["Acme"]),
    ("Id > '000000000000000' AND Id != '001000000000000AAA'", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    # --- moments and days
    ("SystemModstamp < 2024-02-01T00:00:00Z", ["Acme"]),
    ("SystemModstamp = 2024-01-15T12:00:00Z", ["Acme"]),
    ("SystemModstamp = 2024-01-15T13:00:00+01:00", ["Acme"]),
    ("SystemModstamp = 2024-01-15T07:00:00.000-05:00", ["Acme"]),
    ("SystemModstamp > 2024-01-15T11:59:59.999Z AND SystemModstamp < 2024-01-15T12:00:00.001Z", ["Acme"]),
    ("SystemModstamp = 2024-01-15T12:00:00.5Z", []),
    ("SystemModstamp IN (2024-01-15T12:00:00Z)", ["Acme"]),
    ("SystemModstamp = TODAY", ["Zürich_1"]),
    ("SystemModstamp < LAST_N_DAYS:400", ["Acme", "beta"]),
    ("SystemModstamp = LAST_YEAR", ["O'Neil 100%"]),
    ("Customer_Since__c = 2026-06-15", ["Zürich_1"]),
    ("Customer_Since__c >= TODAY", ["Zürich_1"]),
    ("Customer_Since__c != YESTERDAY", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    ("CALENDAR_YEAR(SystemModstamp) = 2024", ["Acme", "beta"]),
    ("CALENDAR_MONTH(SystemModstamp) = 2", ["beta"]),
    ("DAY_ONLY(SystemModstamp) = 2024-02-15", ["beta"]),
    ("HOUR_IN_DAY(SystemModstamp) > 11", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    # --- the keyset form
    (
        "(SystemModstamp = 2024-01-15T12:00:00Z AND Id > '001zzzzzzzzzzzz') OR SystemModstamp > 2024-01-15T12:00:00Z",
        ["beta", "O'Neil 100%", "Zürich_1"],
    ),
]


@pytest.mark.parametrize(("where", "names"), ACCOUNTS)
def test_where(org_client: Client, where: str, names: list[str]) -> None:
    """A condition selects what it selects in Salesforce, and COUNT() agrees."""
    assert org_client.names(f"SELECT Name FROM Account WHERE {where} ORDER BY Name") == sorted(
        names, key=str.lower
    )
    assert org_client.query(f"SELECT COUNT() FROM Account WHERE {where}")["totalSize"] == len(names)


ORDERS = [
    ("ORDER BY Name", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    ("ORDER BY Name DESC", ["Zürich_1", "O'Neil 100%", "beta", "Acme"]),
    ("ORDER BY AnnualRevenue, Name", ["O'Neil 100%", "Zürich_1", "beta", "Acme"]),
    ("ORDER BY AnnualRevenue NULLS LAST, Name DESC", ["beta", "Acme", "Zürich_1", "O'Neil 100%"]),
    ("ORDER BY AnnualRevenue DESC, Name ASC", ["O'Neil 100%", "Zürich_1", "Acme", "beta"]),
    ("ORDER BY AnnualRevenue DESC NULLS LAST, Name", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    ("ORDER BY Parent.Name NULLS LAST, Name LIMIT 1", ["beta"]),
    ("ORDER BY SystemModstamp, Id", ["Acme", "beta", "O'Neil 100%", "Zürich_1"]),
    ("ORDER BY Name LIMIT 2 OFFSET 1", ["beta", "O'Neil 100%"]),
    ("ORDER BY Name OFFSET 2000", []),
    ("LIMIT 0", []),
]


@pytest.mark.parametrize(("clauses", "names"), ORDERS)
def test_order_and_limits(org_client: Client, clauses: str, names: list[str]) -> None:
    """ORDER BY, NULLS, LIMIT and OFFSET do what they say; nulls come first by default."""
    assert org_client.names(f"SELECT Name FROM Account {clauses}") == names


def test_deleted_rows_only_in_query_all(org_client: Client) -> None:
    """query hides the recycle bin, queryAll shows it."""
    soql = "SELECT Name FROM Contact ORDER BY Name"
    assert org_client.names(soql) == ["Ada", "Bob", "Bob Dan", "Cid"]
    assert org_client.names(soql, all_rows=True) == ["Ada", "Bob", "Bob Dan", "Cid", "Eve"]
    deleted = "SELECT Name FROM Contact WHERE IsDeleted = TRUE"
    assert (org_client.names(deleted), org_client.names(deleted, all_rows=True)) == ([], ["Eve"])


CONTACTS = [
    ("c.Account.Name = 'Acme' AND Contact.LastName = 'Ada'", ["Ada"]),
    ("Account.Parent.Rating = 'hot'", ["Bob"]),
    ("Account_Display__c LIKE 'acme [%'", ["Ada"]),
    ("Account.Display_Name__c = 'beta'", ["Bob"]),
    ("Email = 'ada@EXAMPLE.com'", ["Ada"]),
    ("Title = 'line\\nbreak\\ttab\\\\'", ["Bob Dan"]),
    ("Birthdate < 2000-01-01", ["Bob"]),
    ("VIP__c = true", ["Ada"]),
    ("Owner.Username = 'integration@simulator.example' AND LastName = 'Cid'", ["Cid"]),
]


@pytest.mark.parametrize(("where", "names"), CONTACTS)
def test_where_with_parents(org_client: Client, where: str, names: list[str]) -> None:
    """Aliases, parents of parents and formulas through parents can be filtered on."""
    assert org_client.names(f"SELECT Name FROM Contact c WHERE {where}") == names


def test_aggregates(org_client: Client) -> None:
    """Aggregates answer AggregateResult records without url, named by alias or expr0."""
    body = org_client.query(
        "SELECT CALENDAR_YEAR(SystemModstamp) y, COUNT(Id), COUNT(Rating) r, MIN(Name) low, MAX(SystemModstamp) high"
        " FROM Account GROUP BY CALENDAR_YEAR(SystemModstamp) ORDER BY CALENDAR_YEAR(SystemModstamp)"
    )
    assert body["records"][0] == {
        "attributes": {"type": "AggregateResult"},
        "y": 2024,
        "expr0": 2,
        "r": 1,
        "low": "Acme",
        "high": "2024-02-15T12:00:00.000+0000",
    }
    assert [record["y"] for record in body["records"]] == [2024, 2025, 2026]
    (total,) = org_client.query(
        "SELECT COUNT(Id) c, SUM(AnnualRevenue) s, AVG(AnnualRevenue) a FROM Account"
    )["records"]
    assert (total["c"], total["s"], total["a"]) == (4, 199, 99.5)
    (empty,) = org_client.query("SELECT COUNT(Id) c, MAX(Name) m FROM Account WHERE Name = 'x'")["records"]
    assert (empty["c"], empty["m"]) == (0, None)
    groups = org_client.query("SELECT Rating, COUNT(Id) c FROM Account GROUP BY Rating HAVING COUNT(Id) > 1")
    assert [(record["Rating"], record["c"]) for record in groups["records"]] == [(None, 3)]
    days = org_client.query(
        "SELECT DAY_ONLY(SystemModstamp) d, HOUR_IN_DAY(SystemModstamp) h, COUNT(Id) c FROM Contact"
        " GROUP BY DAY_ONLY(SystemModstamp), HOUR_IN_DAY(SystemModstamp)"
        " ORDER BY DAY_ONLY(SystemModstamp), HOUR_IN_DAY(SystemModstamp)"
    )["records"]
    assert [(day["d"], day["h"], day["c"]) for day in days] == [
        ("2026-06-14", 12, 1),
        ("2026-06-15", 3, 1),
        ("2026-06-15", 12, 2),
    ]


def test_count(org_client: Client) -> None:
    """COUNT() answers a size and no records; queryAll counts the bin too."""
    assert org_client.query("SELECT COUNT() FROM Contact") == {"totalSize": 4, "done": True, "records": []}
    assert org_client.query("select count() from Contact", all_rows=True)["totalSize"] == 5


def test_fields_function(org_client: Client) -> None:
    """FIELDS(ALL) and FIELDS(CUSTOM) want a LIMIT of at most 200, FIELDS(STANDARD) does not."""
    (record,) = org_client.query("SELECT FIELDS(ALL) FROM Account WHERE Name = 'Acme' LIMIT 200")["records"]
    assert {"Id", "Name", "Score__c", "BillingAddress"} < set(record)
    custom = org_client.query("SELECT Id, FIELDS(CUSTOM) FROM Account LIMIT 1")["records"][0]
    assert all(name.endswith("__c") for name in set(custom) - {"attributes", "Id"})
    assert "Score__c" not in org_client.query("SELECT FIELDS(STANDARD) FROM Account")["records"][0]
    for refused in ("SELECT FIELDS(ALL) FROM Account", "SELECT FIELDS(CUSTOM) FROM Account LIMIT 201"):
        assert org_client.refused(refused)[0] == "MALFORMED_QUERY"


REFUSED = [
    # --- not a query we know
    ("", "MALFORMED_QUERY", "A query string has to be specified"),
    ("SELECT Id FORM Account", "MALFORMED_QUERY", "unexpected token: 'FORM'"),
    ("SELECT FROM Account", "MALFORMED_QUERY", "unexpected token: 'FROM'"),
    ("SELECT Id FROM Account WHERE", "MALFORMED_QUERY", "unexpected token: '<EOF>'"),
    ("SELECT Id, FROM Account", "MALFORMED_QUERY", "unexpected token: 'FROM'"),
    ("SELECT * FROM Account", "MALFORMED_QUERY", "'*'"),
    ("SELECT Id FROM Account;", "MALFORMED_QUERY", "';'"),
    ("SELECT Id FROM Account WHERE Name = 'x' AND Name = 'y' OR Name = 'z'", "MALFORMED_QUERY", "'OR'"),
    ("SELECT Id FROM Account WHERE Name = 'x' AND NOT Name = 'y'", "MALFORMED_QUERY", "'NOT'"),
    ('SELECT Id FROM Account WHERE Name = "x"', "MALFORMED_QUERY", "no viable alternative"),
    ("SELECT Id FROM Account WHERE Name = 'x", "MALFORMED_QUERY", "no viable alternative"),
    ("SELECT Id FROM Account WHERE Name = 'it''s'", "MALFORMED_QUERY", "unexpected token"),
    ("SELECT Id FROM Account WHERE Name = '\\x'", "MALFORMED_QUERY", "Illegal character sequence"),
    ("SELECT Id FROM Account WHERE Name = foo", "MALFORMED_QUERY", "unexpected token: 'foo'"),
    ("SELECT Id FROM Account WHERE (Id, Name) > ('x', 'y')", "MALFORMED_QUERY", "unexpected token"),
    ("SELECT Id FROM Account LIMIT -1", "MALFORMED_QUERY", "LIMIT"),
    ("SELECT Id FROM Account LIMIT 1 LIMIT 2", "MALFORMED_QUERY", "unexpected token"),
    ("SELECT Id FROM Account OFFSET 1 LIMIT 2", "MALFORMED_QUERY", "unexpected token"),
    ("SELECT Id FROM Account WHERE SystemModstamp > 2024-01-01T00:00:00", "MALFORMED_QUERY", ""),
    ("SELECT Id FROM Account WHERE SystemModstamp > 2024-01-01T00:00:00 00:00", "MALFORMED_QUERY", ""),
    ("SELECT Id FROM Account WHERE SystemModstamp > 2024-13-01T00:00:00Z", "MALFORMED_QUERY", "2024-13-01"),
    ("SELECT Id FROM Account WHERE Customer_Since__c > 2023-02-29", "MALFORMED_QUERY", "2023-02-29"),
    ("SELECT Id, Id FROM Account", "MALFORMED_QUERY", "duplicate field selected: Id"),
    ("SELECT Name n FROM Account", "MALFORMED_QUERY", "alias"),
    ("SELECT COUNT(), Id FROM Account", "MALFORMED_QUERY", "count()"),
    ("SELECT COUNT(Id), Name FROM Account", "MALFORMED_QUERY", "Field must be grouped or aggregated: Name"),
    ("SELECT COUNT(Id) FROM Account GROUP BY SystemModstamp", "MALFORMED_QUERY", "can not be grouped"),
    ("SELECT COUNT(Id) c, MIN(Id) c FROM Account", "MALFORMED_QUERY", "duplicate alias: c"),
    ("SELECT MEDIAN(AnnualRevenue) FROM Account", "MALFORMED_QUERY", "MEDIAN"),
    ("SELECT SUM(Name) FROM Account", "MALFORMED_QUERY", "SUM"),
    ("SELECT Id FROM Account WHERE COUNT(Id) > 1", "MALFORMED_QUERY", "Aggregate"),
    ("SELECT CALENDAR_YEAR(CreatedDate) FROM Account", "MALFORMED_QUERY", "GROUP BY"),
    ("SELECT (SELECT Id FROM Contacts) FROM Account", "MALFORMED_QUERY", "unexpected token"),
    ("SELECT Id FROM Account FOR VIEW", "MALFORMED_QUERY", ""),
    ("SELECT Id FROM Account ALL ROWS", "MALFORMED_QUERY", ""),
    ("DELETE FROM Account", "MALFORMED_QUERY", "unexpected token: 'DELETE'"),
    # --- names
    ("SELECT Id FROM Accout", "INVALID_TYPE", "sObject type 'Accout' is not supported."),
    ("SELECT Bad FROM Account", "INVALID_FIELD", "No such column 'Bad' on entity 'Account'."),
    ("SELECT Id FROM Account WHERE Bad__c = 1", "INVALID_FIELD", "No such column 'Bad__c'"),
    ("SELECT Id FROM Account ORDER BY Bad", "INVALID_FIELD", "No such column 'Bad'"),
    ("SELECT Parent.Bad FROM Account", "INVALID_FIELD", "No such column 'Bad' on entity 'Account'"),
    ("SELECT Boss.Name FROM Account", "INVALID_FIELD", "Didn't understand relationship 'Boss'"),
    ("SELECT ParentId.Name FROM Account", "INVALID_FIELD", "Didn't understand relationship 'ParentId'"),
    ("SELECT Account.Name FROM User", "INVALID_FIELD", "Didn't understand relationship"),
    ("SELECT Contacts.Name FROM Account", "INVALID_FIELD", "Didn't understand relationship"),
    (f"SELECT {'Parent.' * 6}Name FROM Account", "MALFORMED_QUERY", "5 levels"),
    # --- types
    (
        "SELECT Id FROM Account WHERE SystemModstamp > '2024-01-01T00:00:00Z'",
        "INVALID_FIELD",
        "type dateTime and should not",
    ),
    ("SELECT Id FROM Account WHERE SystemModstamp > 2024-01-01", "INVALID_FIELD", "type dateTime"),
    ("SELECT Id FROM Account WHERE Customer_Since__c > 2024-01-01T00:00:00Z", "INVALID_FIELD", "type date "),
    (
        "SELECT Id FROM Account WHERE Customer_Since__c = '2024-01-01'",
        "INVALID_FIELD",
        "should not be enclosed",
    ),
    (
        "SELECT Id FROM Account WHERE Name = 5",
        "INVALID_FIELD",
        "type string and should be enclosed in quotes",
    ),
    ("SELECT Id FROM Account WHERE AnnualRevenue = '5'", "INVALID_FIELD", "type currency"),
    ("SELECT Id FROM Account WHERE IsDeleted = 'true'", "INVALID_FIELD", "type boolean"),
    ("SELECT Id FROM Account WHERE IsDeleted = 1", "INVALID_FIELD", "type boolean"),
    ("SELECT Id FROM Account WHERE NumberOfEmployees = true", "INVALID_FIELD", "type int"),
    ("SELECT Id FROM Account WHERE Description = 'x'", "INVALID_FIELD", "'Description' can not be filtered"),
    ("SELECT Id FROM Account WHERE Description != null", "INVALID_FIELD", "can not be filtered"),
    ("SELECT Id FROM Account WHERE BillingAddress != null", "INVALID_FIELD", "can not be filtered"),
    ("SELECT Id FROM Account ORDER BY Description", "INVALID_FIELD", "can not be sorted"),
    # --- operators
    ("SELECT Id FROM Account WHERE Id > ''", "INVALID_QUERY_FILTER_OPERATOR", ""),
    ("SELECT Id FROM Account WHERE Id = 'junk'", "INVALID_QUERY_FILTER_OPERATOR", "invalid ID field: junk"),
    (
        "SELECT Id FROM Account WHERE Id = '0015g0000000abcAAB'",
        "INVALID_QUERY_FILTER_OPERATOR",
        "invalid ID field",
    ),
    ("SELECT Id FROM Account WHERE Id LIKE '001%'", "INVALID_QUERY_FILTER_OPERATOR", ""),
    ("SELECT Id FROM Account WHERE IsDeleted > false", "INVALID_QUERY_FILTER_OPERATOR", ""),
    ("SELECT Id FROM Account WHERE Name INCLUDES ('x')", "INVALID_QUERY_FILTER_OPERATOR", ""),
    ("SELECT Id FROM Account WHERE AnnualRevenue > null", "INVALID_QUERY_FILTER_OPERATOR", ""),
    ("SELECT Id FROM Account OFFSET 2001", "NUMBER_OUTSIDE_VALID_RANGE", "2000"),
]


@pytest.mark.parametrize(("soql", "code", "text"), REFUSED)
def test_refused(org_client: Client, soql: str, code: str, text: str) -> None:
    """What Salesforce refuses is refused with its code and words."""
    found, message = org_client.refused(soql)
    assert found == code
    assert text in message


def test_message_with_caret(org_client: Client) -> None:
    """The message shows the query around the mistake, a caret below it, row and column."""
    _, message = org_client.refused("select count() from XYZZY")
    assert message.startswith(
        "\nselect count() from XYZZY\n                    ^\nERROR at Row:1:Column:21\nsObject type"
    )
    _, message = org_client.refused("SELECT Id,\nBad FROM Account")
    assert message.startswith("\nBad FROM Account\n^\nERROR at Row:2:Column:1\nNo such column")


def test_large_conditions(org_client: Client) -> None:
    """Thousands of terms, long lists and deep nesting are answered or refused, never a failure."""
    terms = " OR ".join("Id=null" for _ in range(1100))
    listed = ",".join("1" for _ in range(3500))
    assert org_client.query(f"SELECT Id FROM Account WHERE {terms}")["totalSize"] == 0
    assert org_client.query(f"SELECT Id FROM Account WHERE AnnualRevenue IN ({listed})")["totalSize"] == 0
    parentheses = "(" * 2400 + "Name='acme'" + ")" * 2400
    assert org_client.query(f"SELECT Id FROM Account WHERE {parentheses}")["totalSize"] == 1
    deep = "(NOT " * 1000 + "Name='acme'" + ")" * 1000
    assert org_client.get("query", q=f"SELECT Id FROM Account WHERE {deep}").status_code in (200, 400)


def test_too_many_groups(org_client: Client) -> None:
    """Aggregates do not page: more than 2,000 groups are refused."""
    org = org_client.simulator.org
    made = org.create_many("Account", [{"Name": f"group {n}"} for n in range(2001)])
    try:
        assert (
            org_client.refused("SELECT Name, COUNT(Id) FROM Account GROUP BY Name")[0] == "EXCEEDED_ID_LIMIT"
        )
    finally:
        for each in made:
            org.purge(each)


def test_unordered_queries_may_be_shuffled(org_client: Client) -> None:
    """A query without ORDER BY has no order to rely on, when the org is told to show it."""
    options = org_client.simulator.options
    options.shuffle_unordered = True
    try:
        unordered = org_client.names("SELECT Name FROM Account")
        ordered = org_client.names("SELECT Name FROM Account ORDER BY SystemModstamp")
    finally:
        options.shuffle_unordered = False
    assert sorted(unordered) == sorted(ordered)
    assert unordered != ordered


def test_not_in_and_nulls(org_client: Client) -> None:
    """Whether NOT IN selects nulls is a switch, since the sources disagree."""
    soql = "SELECT Name FROM Account WHERE Rating NOT IN ('Cold') ORDER BY Name"
    options = org_client.simulator.options
    assert len(org_client.names(soql)) == 4
    options.not_in_keeps_nulls = False
    try:
        assert org_client.names(soql) == ["Acme"]
    finally:
        options.not_in_keeps_nulls = True
