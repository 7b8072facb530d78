"""Any text is answered 200 or 400."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.simulator import Simulator
from tests.simulator.conftest import Client

TOKENS = [
    "\nSELECT",
    "FROM",
    "WHERE",
    "AND",
    "OR",
    "NOT",
    "IN",
    "LIKE",
    "INCLUDES",
    "EXCLUDES",
    "GROUP",
    "BY",
    "HAVING",
    "ORDER",
    "ASC",
    "DESC",
    "NULLS",
    "FIRST",
    "LAST",
    "LIMIT",
    "OFFSET\nId",
    "Name",
    "Account",
    "Contact",
    "Account.Name",
    "Account.Parent.Name",
    "Owner.Name",
    "IsDeleted",
    "SystemModstamp",
    "Spend__c",
    "Interests__c\nDescription",
    "MailingAddress",
    "Birthdate",
    "Account_Display__c",
    "VIP__c",
    "AnnualRevenue",
    "Bad",
    "c",
    "c.Id",
    "COUNT()",
    "COUNT(Id)",
    "MIN(Name)\nMAX(SystemModstamp)",
    "SUM(Spend__c)",
    "AVG(Spend__c)",
    "COUNT_DISTINCT(Name)",
    "CALENDAR_YEAR(CreatedDate)",
    "DAY_ONLY(CreatedDate)\nFIELDS(ALL)",
    "FIELDS(STANDARD)",
    "(",
    ")",
    ",",
    "=",
    "!=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "null",
    "TRUE",
    "false",
    "0",
    "-1",
    "1.5",
    "1e9",
    "2000",
    "99999999999999999999",
    "'x'",
    "''",
    "'%'\n'\\_'",
    "'\\q'",
    "'003000000000000'",
    "2024-01-01",
    "2024-01-01T00:00:00Z",
    "2024-01-01T00:00:00.123+05:30",
    "9999-12-31T23:59:59-14:00\n0001-01-01T00:00:00+14:00",
    "TODAY",
    "LAST_N_DAYS:5",
    "LAST_N_DAYS:999999999",
    "NEXT_N_DAYS:99999999",
    ".",
    ":",
    ";",
    "*",
    "/",
    "--",
    '"',
    "'",
    "\\",
    "\x00",
    "é",
    "🚀\n",
]
WORDS = [word for line in TOKENS for word in line.split("\n") if word]


@pytest.fixture(scope="module")
def soup_client() -> Iterator[Client]:
    with Simulator(accounts=3, contacts=5) as simulator:
        client = Client(simulator)
        client.login()
        with client.http:
            yield client
        assert simulator.errors == []


free = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
shaped = st.builds(
    "SELECT {} FROM {} WHERE {} {}".format,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(", ".join),
    st.sampled_from(("Contact", "Account", "Contact c", "User", "Organization")),
    st.tuples(*[st.sampled_from(WORDS)] * 3).map(" ".join),
    st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(soql=st.one_of(free, shaped, st.text(max_size=80).filter(lambda text: text.isprintable())))
def test_token_soup(soup_client: Client, soql: str) -> None:
    """No text, however mixed, makes the server fail; a refusal is a list with a code and a message."""
    answer = soup_client.get("query", q=soql)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        (problem,) = answer.json()
        assert problem["errorCode"]
        assert problem["message"]
    else:
        assert answer.json()["totalSize"] >= 0
