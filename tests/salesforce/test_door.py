"""The one door to Salesforce: where a secret may go, what may be asked for, and what an answer may take."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
import requests
from simple_salesforce.login import token_login

from sync.config.settings import settings_from
from sync.errors import (
    LoginError,
    QueryLostError,
    SalesforceError,
    SyncError,
)
from sync.operations.audit import org
from sync.salesforce.session import http as http_module
from sync.salesforce.session import limits
from sync.salesforce.session import login as login_module
from sync.salesforce.session.addresses import host_of, is_trusted, record_id, resource_path
from sync.salesforce.session.http import Http
from sync.salesforce.session.limits import Allowance
from sync.salesforce.session.session import Session
from sync.simulator import Simulator
from tests.support.hostile import ONCE, PAGE, TOKEN, Asked, Hostile, answer, bomb, hostile, proxy
from tests.support.world import NEVER_WAIT

QUERY = "SELECT Id FROM Contact"
QUICK = Allowance(1 << 20, 0.3, 0.3)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see neither this machine's proxies nor its certificates."""
    for name in (
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTPS_PROXY",
        "https_proxy",
        "ALL_PROXY",
        "NO_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Hostile]:
    """A server that answers what a test wants."""
    with hostile(tmp_path) as running:
        yield running


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Hostile]:
    """Another one: whatever arrives here was sent to the wrong host."""
    (tmp_path / "other").mkdir()
    with hostile(tmp_path / "other") as running:
        yield running


def connect(sim: Simulator, flow: str = "client_credentials", **changed: str) -> Session:
    environment = {"DATABASE_URL": "postgres:///unused", **sim.environment(flow), **changed}
    return Session(settings_from(environment), retry=NEVER_WAIT)


# ── redirects ─────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_can_be_sent_in_clear() -> None:
    """There is no adapter for http://: whatever a URL becomes, it is not sent without TLS."""
    with pytest.raises(requests.exceptions.InvalidSchema):
        Http().request("GET", "http://localhost:1/")


def test_a_login_host_may_name_the_orgs_own(sim: Simulator) -> None:
    """login.salesforce.com may lead to the org's host: the form is posted there once more, and that is all."""
    for status in (301, 302, 307, 308):
        sim.requests.clear()
        sim.faults.add("redirect", on="token", location=f"{sim.url}/services/oauth2/token", status=status)

        assert connect(sim, "jwt").login() == sim.url
        assert [(r.method, r.kind, r.status) for r in sim.requests] == [
            ("POST", "token", status),
            ("POST", "token", 200),
        ]


def test_a_login_is_led_on_once(sim: Simulator) -> None:
    """A second redirect is an error that names both hosts."""
    sim.faults.add("redirect", on="token", location=f"{sim.url}/services/oauth2/token", times=None)

    with pytest.raises(
        LoginError, match=r"https://localhost:\d+ was named by https://127.*redirects to https://loc"
    ):
        connect(sim, "jwt").login()
    assert len(sim.requests) == 2


REDIRECTS = (301, 302, 303, 307, 308)


@pytest.mark.parametrize(
    "where",
    [
        "https://{elsewhere}/services/oauth2/token",
        "http://{elsewhere}/services/oauth2/token",
        "https://login.salesforce.com@{elsewhere}/",
        "//{elsewhere}/services/oauth2/token",
        "/elsewhere",
    ],
)
def test_the_secret_follows_no_redirect(there: Hostile, elsewhere: Hostile, where: str) -> None:
    """A token endpoint that leads to another host, or to http, gets the secret sent nowhere."""
    where = where.format(elsewhere=elsewhere.host)
    for status in REDIRECTS:
        there.asked.clear()
        there.token = lambda _, status=status: answer(b"", status, Location=where)

        with pytest.raises(LoginError, match="where no secret is sent: set SALESFORCE_LOGIN_URL") as failure:
            there.session().login()

        assert failure.value.exit_code == 3
        assert len(there.asked) == 1
        assert elsewhere.asked == []


@pytest.mark.parametrize("where", ["https://{host}/x", "http://{host}/x", "https://a@{host}/x"])
def test_no_foreign_answer_is_taken(there: Hostile, elsewhere: Hostile, where: str) -> None:
    """An API call that is redirected has no answer: one new login, then an error naming host and setting."""
    where = where.format(host=elsewhere.host)
    for status in REDIRECTS:
        there.asked.clear()
        there.answers = lambda _, status=status: answer(b"", status, Location=where)  # type: ignore[misc]  # bound

        says = rf"answered {status} and redirects to .*SALESFORCE_LOGIN_URL"
        with pytest.raises(LoginError, match=says) as failure:
            there.session().query(QUERY)

        assert elsewhere.host.split(":")[1] in str(failure.value)
        assert [asked.path.endswith("token") for asked in there.asked] == [True, False, True, False]
        assert elsewhere.asked == []


def test_the_remedy_of_a_moved_org(there: Hostile) -> None:
    """Where a redirect leads to a Salesforce domain the error has the setting as it is to be typed."""
    there.answers = lambda _: answer(
        b"", 302, Location="https://acme-2.my.salesforce.com/services/data/v66.0/"
    )

    with pytest.raises(LoginError, match=r"set SALESFORCE_LOGIN_URL=https://acme-2\.my\.salesforce\.com$"):
        there.session().query(QUERY)


def test_a_redirects_body_is_not_read(there: Hostile) -> None:
    """A redirect that never ends, or is a bomb, costs nothing: its body is not looked at."""

    def endless(_: object) -> Iterator[bytes]:
        yield b"HTTP/1.1 302 X\r\nLocation: https://x.example/\r\nTransfer-Encoding: chunked\r\n\r\n"
        while True:
            yield b"10000\r\n" + b"x" * 0x10000 + b"\r\n"

    there.answers = endless
    started = time.monotonic()
    with pytest.raises(LoginError, match=r"redirects to https://x\.example"):
        there.session().query(QUERY)
    assert time.monotonic() - started < 5


# ── hosts ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://acme.my.salesforce.com",
            "https://acme.my.salesforce.com/",
            "https://ACME.My.Salesforce.com",
        ),
        *("https://acme--uat.sandbox.my.salesforce.com", "https://na1.salesforce.com:443"),
        *("https://agency.my.salesforce.mil", "https://acme.my.sfcrmproducts.cn"),
        *("https://login.example", "https://gate.example.net:8443", "https://private.example:1"),
    ],
)
def test_where_the_token_may_go(url: str) -> None:
    """To Salesforce's domains, the login host, and the hosts that are named."""
    assert is_trusted(host_of(url), "https://login.example", {"gate.example.net:8443", "private.example"})


@pytest.mark.parametrize(
    "url",
    [
        *("https://evilsalesforce.com", "https://salesforce.com.evil.org", "https://salesforce.com"),
        *(
            "https://acme.my.salesforce.com.",
            "https://acme.my.salesforce.com:8443",
            "https://x.salesforce.com.cn",
        ),
        *("http://acme.my.salesforce.com", "acme.my.salesforce.com", "ftp://acme.my.salesforce.com", ""),
        *("https://acme.my.salesforce.com@evil.org", "https://a:b@acme.my.salesforce.com"),
        *(
            "https://evil.org/acme.my.salesforce.com",
            "https://evil.org?.salesforce.com",
            "https://evil.org#.salesforce.com",
        ),
        *("https://evil.org\\.my.salesforce.com", "https://evil.org\n.salesforce.com", "https://[::1]:8443"),
        *("https://аcme.my.salesforce.com", "https://acme.my.salesforce。com", "https://xn--evil.org"),
        *("https://.salesforce.com", "https://a..salesforce.com", "https://acme.my.salesforce.com:"),
        *(
            "https://acme.my.salesforce.com/services",
            "https://%61cme.my.salesforce.com",
            " https://a.salesforce.com",
        ),
        *(
            "https://gate.example.net",
            "https://gate.example.net:9",
            "https://" + "a" * 400 + ".salesforce.com",
        ),
    ],
)
def test_where_it_may_not(url: str) -> None:
    """Nowhere else, however much it looks like Salesforce."""
    try:
        host = host_of(url)
    except ValueError:
        return
    assert not is_trusted(host, "https://login.example", {"gate.example.net:8443"})


@pytest.mark.parametrize(
    "instance", ["https://evil.example", "http://localhost", 7, "https://a@localhost", "x"]
)
def test_an_instance_that_is_not_salesforces(there: Hostile, instance: object) -> None:
    """A login that names another host is refused before the token is sent there, with the setting to look at."""
    there.token = lambda _: answer(json.dumps({"access_token": TOKEN, "instance_url": instance}).encode())

    with pytest.raises((LoginError, SalesforceError)) as failure:
        there.session(ONCE).query(QUERY)

    assert isinstance(instance, int) or "SALESFORCE_PRIVATE_HOSTS" in str(failure.value)
    assert TOKEN not in str(failure.value)
    assert len(there.asked) == 1


def test_a_private_host_has_to_be_named(sim: Simulator) -> None:
    """An instance on a host of one's own is used when the setting names it, and only then."""
    assert connect(sim, "jwt").login() == sim.url
    with pytest.raises(LoginError, match="SALESFORCE_PRIVATE_HOSTS"):
        connect(sim, "jwt", SALESFORCE_PRIVATE_HOSTS="localhost:1").login()


def test_private_hosts_are_host_names(sim: Simulator) -> None:
    """A URL, a path or a wildcard in the setting is refused with an example."""
    for value in ("https://gate.example", "gate.example/x", "*.example", "a b", "gate.example:x"):
        with pytest.raises(ValueError, match=r"write crm\.example\.net"):
            connect(sim, SALESFORCE_PRIVATE_HOSTS=value)


@pytest.mark.parametrize("token", ["a\r\nX: y", "", "x" * 20_000, "tøken", 7, ["x"], " x"])
def test_a_token_that_is_none(there: Hostile, token: object) -> None:
    """A token that no header can carry ends the login, and is not shown."""
    there.token = lambda _: answer(json.dumps({"access_token": token, "instance_url": there.url}).encode())

    with pytest.raises(LoginError, match="access token") as failure:
        there.session(ONCE).login()
    assert "tøken" not in str(failure.value)


# ── paths ─────────────────────────────────────────────────────────────────────────────────────────────

DATA = "/services/data/v66.0"
GOOD_PATHS = (
    f"{DATA}/query/01gRO0000016PIAYA2-500",
    f"{DATA}/query/0r8Hu1lKCluUiC9IMK-200",
    f"{DATA}/queryAll/",
    f"{DATA}/sobjects/Contact/describe",
    f"{DATA}/jobs/query/7505g00000ABCDEAA4/results?locator=MTAwMDAwMA&maxRecords=50000",
    f"{DATA}/jobs/query/7505g00000ABCDEAA4/results?locator=ab//cd+e%3D=",
    f"{DATA}/jobs/query/7505g00000ABCDEAA4/resultpages?locator=MTAwMDAwMA",
)
BAD_PATHS = (
    *(
        "@host/steal",
        "https://evil.org/services/data/v66.0/query/x",
        "//evil.org/services/data/v66.0/query/x",
    ),
    *("/services/data/v65.0/query/x", "/services/data/v66.0", "/services/data/v66.01/query/x", "/", ""),
    *(
        f"{DATA}/../../../x",
        f"{DATA}/./x",
        f"{DATA}//x",
        f"{DATA}/a//b",
        f"{DATA}/query/..",
        f"{DATA}/query/.",
    ),
    *(f"{DATA}/%2e%2e/x", f"{DATA}/a%2Fb", f"{DATA}/a%5cb", f"{DATA}/a%00", f"{DATA}/query/x?a=%zz"),
    *(f"{DATA}/x@y", f"{DATA}/x?u=a@b", f"{DATA}\\x", f"{DATA}/x\\y", f"{DATA}/x?y=\\", f"{DATA}/x#y"),
    *(
        f"{DATA}/x\r\nX: y",
        f"{DATA}/x\n",
        f"{DATA}/x\0",
        f"{DATA}/x y",
        f"{DATA}/x\x7f",
        f"{DATA}/é",
        f"{DATA}/x?é",
    ),
    *(f" {DATA}/x", f"{DATA}/x;y", f"{DATA}/x?y=..", f"https://acme.example@evil.org{DATA}/x"),
    *(
        f"http://acme.example{DATA}/x",
        f"https://acme.example:1{DATA}/x",
        f"https://acme.example.evil.org{DATA}/x",
    ),
    *(f"{DATA}/{'x' * 20_000}", 7, None, [f"{DATA}/x"], b"/services/data/v66.0/x"),
)


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_paths_of_real_orgs(path: str) -> None:
    """What Salesforce names is taken to the letter, also with the instance's own host before it."""
    assert resource_path(path, "66.0") == path
    assert resource_path(path, "66.0", "acme.example") == path
    assert resource_path(f"https://acme.example{path}", "66.0", "acme.example") == path


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: ascii(path)[:60])
def test_paths_of_nobody(path: object) -> None:
    """Nothing else is a path: not what a URL parser somewhere could read as another host or resource."""
    with pytest.raises(ValueError, match=r"is not a path below /services/data/v66\.0/"):
        resource_path(path, "66.0", "acme.example")


@pytest.mark.parametrize("value", ["", "x", "7505g00000ABCDEAA4/../..", "7505g00000ABCDÉ", 7, None, "x" * 16])
def test_ids_that_are_none(value: object) -> None:
    """An Id has 15 or 18 letters and digits."""
    with pytest.raises(ValueError, match="is not an Id"):
        record_id(value)
    assert [record_id(id_) for id_ in ("7505g00000ABCDE", "7505g00000ABCDEAA4")]


Ask = Callable[[Session, Any], object]
WAYS: dict[str, Ask] = {
    "next page": lambda session, path: session.next_page(path, session.query(QUERY).generation),
    "resource": lambda session, path: session.resource("GET", path),
    "deletion": lambda session, path: session.resource("DELETE", path),
    "stream": lambda session, path: session.stream(path, lambda _, lines: lines.read()),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_round_the_check(there: Hostile, elsewhere: Hostile, way: str) -> None:
    """Whoever hands a path to the session: nothing is sent for one that is none, and the error shows it."""
    foreign = f"https://{elsewhere.host}{DATA}/x"
    for path in (f"@{elsewhere.host}/steal", foreign, f"{DATA}/../x", 7):
        with pytest.raises(SalesforceError, match="so it was not requested"):
            WAYS[way](there.session(), path)

    assert {asked.path.partition("?")[0] for asked in there.asked} <= {
        "/services/oauth2/token",
        f"{DATA}/queryAll/",
    }
    assert elsewhere.asked == []


# ── behind a proxy ────────────────────────────────────────────────────────────────────────────────────


def test_private_ca_behind_a_proxy(there: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a CONNECT proxy the private CA is trusted and every call goes through the tunnel."""
    with proxy() as (url, connected):
        monkeypatch.setenv("HTTPS_PROXY", url)
        assert there.session().query(QUERY).body["totalSize"] == 0
    assert set(connected) == {there.host}


def test_no_other_ca_behind_a_proxy(
    there: Hostile, elsewhere: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a proxy a certificate of another CA is refused as it is without one."""
    with proxy() as (url, _):
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(LoginError, match="certificate is not trusted"):
            there.session(REQUESTS_CA_BUNDLE=elsewhere.ca_file).login()


def test_limits_behind_a_proxy(there: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy a byte a moment is ended in time, too."""
    monkeypatch.setattr(http_module, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(login_module, "token_login", slowly(token_login))
    there.token = lambda _: drip(answer(b" " * 200))
    with proxy() as (url, _):
        monkeypatch.setenv("HTTPS_PROXY", url)
        assert ends_soon(lambda: there.session(ONCE).login(), "not complete after 0 seconds")


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────


def slowly(usual_login: Callable[..., Any]) -> Callable[..., Any]:
    """The library's login, with as little time as a test has."""

    def login(*args: Any) -> Any:
        http = args[-1]
        usual = http.request
        http.request = lambda *a, **k: usual(*a, **{**k, "allowance": QUICK})
        try:
            return usual_login(*args)
        finally:
            del http.request

    return login


def drip(pieces: list[bytes], pause: float = 0.05) -> Iterator[bytes]:
    """One byte after the other."""
    for byte in b"".join(pieces):
        yield bytes([byte])
        time.sleep(pause)


def drip_body(pieces: list[bytes], pause: float = 0.05) -> Iterator[bytes]:
    """The headers at once, and then one byte after the other."""
    yield pieces[0]
    yield from drip(pieces[1:], pause)


def ends_soon(ask: Callable[[], object], says: str) -> bool:
    started = time.monotonic()
    with pytest.raises(SalesforceError, match=says) as failure:
        ask()
    return failure.value.passing and time.monotonic() - started < 3


@pytest.mark.parametrize("dripping", [drip, drip_body])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_byte_a_moment(
    there: Hostile,
    monkeypatch: pytest.MonkeyPatch,
    dripping: Callable[[list[bytes]], Iterator[bytes]],
    chunked: bool,
) -> None:
    """However steadily bytes drip, in the headers or in the body, a call ends when its time is over."""
    monkeypatch.setattr("sync.salesforce.session.session.QUERY", QUICK)
    monkeypatch.setattr(http_module, "CONNECT_SECONDS", 0.1)
    body = b"400\r\n" + b" " * 400 if chunked else b" " * 400
    there.answers = lambda _: dripping(
        answer(body, chunked=True, Transfer_Encoding="chunked") if chunked else answer(body)
    )
    session = there.session(ONCE)
    session.login()

    assert ends_soon(lambda: session.query(QUERY), "the answer was not complete after 0 seconds")


def test_a_stalling_stream(there: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that come too slowly are given up: by their rate, long before the time of all of them is over."""
    monkeypatch.setattr(http_module, "RATE_SECONDS", 0.3)
    there.answers = lambda _: drip_body(answer(b"Id\n" * 200, Content_Type="text/csv"))
    session = there.session(ONCE)
    session.login()

    ask = lambda: session.stream(f"{DATA}/jobs/query/750/results", lambda _, lines: lines.read())  # noqa: E731 — a name for the call
    assert ends_soon(ask, "fewer than 1,024 bytes a second")


def test_a_slow_reader_is_no_slow_server(there: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that rows take to be stored does not count against the server's rate."""
    monkeypatch.setattr(http_module, "RATE_SECONDS", 0.2)
    rows = b"Id\n" * 100_000
    there.answers = lambda _: answer(rows, Content_Type="text/csv")

    def read(_: object, lines: TextIO) -> int:
        next(lines)
        time.sleep(0.5)
        return 1 + sum(1 for _ in lines)

    assert there.session(ONCE).stream(f"{DATA}/jobs/query/750/results", read) == 100_000


def test_a_stream_that_takes_too_long(there: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that come fast enough, and never end, end after their time."""
    monkeypatch.setattr("sync.salesforce.session.session.RESULTS", Allowance(0, 5, 0.4, 1))

    def endless(_: object) -> Iterator[bytes]:
        yield answer(b"", chunked=True, Content_Type="text/csv", Transfer_Encoding="chunked")[0]
        while True:
            yield b"1000\r\n" + b"Id\n" * 0x555 + b"\n\r\n"

    there.answers = endless
    ask = lambda: there.session(ONCE).stream(  # noqa: E731 — a name for the call
        f"{DATA}/jobs/query/750/results", lambda _, lines: sum(1 for _ in lines)
    )
    assert ends_soon(ask, "not complete after 0 seconds")


# ── size ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_gzip_bomb(there: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that would unpack to gigabytes is given up at the bound, and never is in memory."""
    packed = bomb(1 << 28)
    assert len(packed) < 2 << 20
    monkeypatch.setattr("sync.salesforce.session.session.QUERY", Allowance(4 << 20, 30, 30))
    there.answers = lambda _: answer(packed, Content_Encoding="gzip")
    session = there.session()
    session.login()

    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(SalesforceError, match="larger than 4 MB and was not read"):
        session.query(QUERY)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 40 << 20
    assert time.process_time() - started < 5


def test_wide_pages_are_asked_for_smaller(there: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a whole page of an org is too large, the same query is asked in the smallest pages from now on."""
    monkeypatch.setattr("sync.salesforce.session.session.QUERY", Allowance(1000, 30, 30))

    def pages(asked: Asked) -> list[bytes]:
        small = asked.headers["sforce-query-options"] == "batchSize=200"
        large = b"" if small else b" " * 2000
        return answer(large + PAGE[:-1] + b', "nextRecordsUrl": "/services/data/v66.0/query/x-200"}')

    there.answers = pages
    session = there.session()
    first = session.query(QUERY)
    sizes = [asked.headers.get("sforce-query-options") for asked in there.asked[1:]]
    assert sizes == ["batchSize=2000", "batchSize=200"]

    other = there.session()
    other.login()
    with pytest.raises(QueryLostError, match="starts again with smaller pages"):
        other.next_page(first.body["nextRecordsUrl"], 1)
    assert other.query(QUERY).body["totalSize"] == 0
    assert there.asked[-1].headers["sforce-query-options"] == "batchSize=200"


def test_a_bomb_in_an_error(there: Hostile) -> None:
    """An error's body is unpacked as far as it tells what it is."""
    packed = bomb(1 << 28)
    there.answers = lambda _: answer(packed, 500, Content_Encoding="gzip", Content_Type="text/html")
    started = time.process_time()

    with pytest.raises(SalesforceError, match="answered 500"):
        there.session(ONCE).query(QUERY)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize("kind", ["text/html", "application/json", "", "text/html; charset=punycode"])
def test_a_long_error_page(there: Hostile, status: int, kind: str) -> None:
    """An error page of 400 kB of `<`, whatever it says it is, takes no time and leaves a short message."""
    there.answers = lambda _: answer(b"<" * 400_000, status, Content_Type=kind)
    session = there.session(ONCE)
    session.login()

    started = time.process_time()
    with pytest.raises(SalesforceError) as failure:
        session.query(QUERY)

    assert time.process_time() - started < 1
    assert len(str(failure.value)) < 1000


def test_a_long_login_error(there: Hostile) -> None:
    """The same at the token endpoint, and with a message of 60 kB in well-formed JSON."""
    there.token = lambda _: answer(b"<" * 400_000, 400, Content_Type="text/html")
    with pytest.raises(LoginError) as failure:
        there.session(ONCE).login()
    assert len(str(failure.value)) < 1000

    there.token = lambda _: answer(
        json.dumps({"error": "e" * 9000, "error_description": "d" * 50_000}).encode(), 400
    )
    with pytest.raises(LoginError) as failure:
        there.session(ONCE).login()
    assert len(str(failure.value)) < 1000


@pytest.mark.parametrize(
    "body", [b"[" * 500_000, b'{"a":' * 200_000, b'{"records": ' + b"[" * 500_000, b'"\\ud800' + b"[" * 9]
)
def test_json_nested_too_deeply(there: Hostile, body: bytes) -> None:
    """A body nested without end is an answer that cannot be read, in a query, a describe or an error."""
    there.answers = lambda _: answer(body)
    session = there.session(ONCE)
    for ask in (lambda: session.query(QUERY), lambda: session.describe("Contact"), session.identity):
        with pytest.raises(SalesforceError, match="cannot be read"):
            ask()

    there.answers = lambda _: answer(body, 500)
    with pytest.raises(SalesforceError, match="answered 500"):
        session.query(QUERY)


def test_more_records_than_a_page_holds(there: Hostile) -> None:
    """A page of more records than Salesforce puts into one is refused before all of them take their room."""
    names = tuple(f"F{number}" for number in range(200))
    for tail in (b"{}", b'{"F1": "\\ud83d"}'):
        there.answers = lambda _, tail=tail: answer(  # type: ignore[misc]  # bound here
            b'{"totalSize": 9, "done": true, "records": [' + b"{}," * 300_000 + tail + b"]}"
        )
        with pytest.raises(SalesforceError, match="a page of more than 2,000 records"):
            there.session(ONCE).query(QUERY, names)


@pytest.mark.parametrize(
    "total", ["-1", "true", "1e30", "99999999999999", "1.5", '"7"', "null", "1e999999999"]
)
def test_counts_that_are_none(there: Hostile, total: str) -> None:
    """A totalSize that counts nothing is an answer that cannot be read."""
    there.answers = lambda _: answer(f'{{"totalSize": {total}, "done": true, "records": []}}'.encode())

    with pytest.raises(SalesforceError, match="cannot be read"):
        there.session(ONCE).query(QUERY)


@pytest.mark.parametrize(
    "info", ["api-usage=5/0", "api-usage=" + "9" * 5000 + "/1", "api-usage=٣/٤", "x" * 9000, "api-usage=1"]
)
def test_usage_that_is_none(there: Hostile, info: str) -> None:
    """A usage header of anything but two numbers costs no call, and tells nothing."""
    there.answers = lambda _: [part.replace(b"@", info.encode()) for part in answer(Sforce_Limit_Info="@")]
    session = there.session(ONCE)

    assert session.query(QUERY).body["totalSize"] == 0
    assert session.usage is None


@pytest.mark.parametrize(
    "body", ['{"organization_id": "00D"}', "[]", '{"organization_id": ["00Dxx0000000001"]}', "7"]
)
def test_an_org_that_is_none(there: Hostile, body: str) -> None:
    """A userinfo answer that names no org is one that tells none."""
    there.token = lambda _: answer(
        json.dumps({"access_token": "opaque", "instance_url": there.url, "id": 7}).encode()
    )
    there.answers = lambda _: answer(body.encode())
    assert there.session(ONCE).organization() == ""


@pytest.mark.parametrize("modified", ["x" * 9000, "\xe9t\xe9", ""])
def test_a_date_of_change_that_is_none(there: Hostile, modified: str) -> None:
    """A Last-Modified that cannot be sent back is as good as none."""
    body = b'{"fields": [{"name": "Id", "type": "id"}]}'
    there.answers = lambda _: [
        part.replace(b"@", modified.encode("latin-1")) for part in answer(body, Last_Modified="@")
    ]
    session = there.session(ONCE)
    for _ in range(2):
        assert [field.name for field in session.describe("Contact")[0]] == ["Id"]
    assert there.asked[-1].headers["if-modified-since"].endswith("GMT")


def test_no_cookie_is_kept(there: Hostile) -> None:
    """What an answer sets is not sent with the next request."""
    there.answers = lambda _: answer(Set_Cookie="BrowserId=x; path=/; secure")
    session = there.session(ONCE)
    for _ in range(2):
        session.query(QUERY)
    assert [asked for asked in there.asked if "cookie" in asked.headers] == []


@pytest.mark.parametrize("user", ["x", 7, None, "005' OR Id != '", "u" * 100_000])
def test_a_user_that_is_none(there: Hostile, user: object) -> None:
    """A userinfo answer that names no user does not reach a query, and is shown cut."""
    body = {"user_id": user, "organization_id": "00D" + "x" * 9000, "preferred_username": "n" * 9000}
    there.answers = lambda _: answer(json.dumps(body).encode())
    findings = org.login(there.session(ONCE))
    shown = [next(findings), next(findings)]
    with pytest.raises(StopIteration) as end:
        next(findings)

    assert end.value.value == ""
    assert max(len(one.detail) for one in shown) < 200


def test_a_real_page_of_tens_of_megabytes(there: Hostile) -> None:
    """2,000 records with 20 kB of text each are a page like any other."""
    record = json.dumps({"Id": "0035g00000ABCDEAA4", "Description": "ü" * 10_000}, ensure_ascii=False)
    body = f'{{"totalSize": 2000, "done": true, "records": [{",".join([record] * 2000)}]}}'.encode()
    assert len(body) > 40_000_000
    there.answers = lambda _: answer(body)

    assert len(there.session(ONCE).query(QUERY, ("Id", "Description")).body["records"]) == 2000


def test_errors_are_of_one_family() -> None:
    """Whatever the door refuses is an error of ours, with an exit code."""
    assert issubclass(limits.TooLargeError, SalesforceError)
    assert issubclass(QueryLostError, SyncError)
    assert PAGE
