"""Recorded conversations, replayed without a network; and what a recording may never contain."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import msgspec
import pytest
import vcr  # type: ignore[import-untyped]  # published without type information
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr
from vcr.errors import (  # type: ignore[import-untyped]  # likewise
    CannotOverwriteExistingCassetteException,
)

from sync.catalogue import transform
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import full_id, project
from sync.cli.wiring import OBJECT_CHOICES
from sync.config import flows
from sync.config.settings import Settings, settings_from
from sync.errors import LoginError
from sync.postgres import tables
from sync.postgres.load.merge import Tally
from sync.replication import pipeline
from sync.replication.runs import SyncContext
from sync.salesforce.extract import rest
from sync.salesforce.session.session import Session
from sync.simulator import FLOWS, Simulator
from sync.simulator.sessions import credentials
from tests import recording
from tests.recording import CASSETTES
from tests.support.world import LONG_AGO, NEVER_WAIT, compare

ALL = sorted(CASSETTES.rglob("*.yaml"))
LOGINS = sorted(CASSETTES.glob("*/login-*.yaml"))
WINDOWS = sorted(CASSETTES.glob("*/window.yaml"))
FIRST_LOAD = CASSETTES / "simulator" / "first-load.yaml"

# A JWT carries its time, so that no two login bodies are equal.
MATCH_ON = ("method", "scheme", "host", "port", "path", "query")
GRANT_TYPE = {
    "client_credentials": "client_credentials",
    "jwt": "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "password": "password",
}
DECODER = msgspec.json.Decoder(float_hook=Decimal)

# Written without a look at the recorder's own list: what must not be in a cassette, whoever wrote it.
SECRETS = {
    "access token": r"00D[0-9A-Za-z]{12,15}!(?!SCRUBBED(?![\w.]))",
    "JWT": r"eyJ[\w-]{8,}",
    "credentials header": r"\b(?:Basic|Bearer|OAuth)\s+[\w.~+/!=-]{12,}",
    "header": r"(?im)^[\s\"'-]*(?:proxy-)?(?:authorization|set-cookie|cookie)[\"']?\s*:",
    "cookie": r"\b(?:sid|BrowserId|oid)=\S",
    "form field": r"\b(?:client_secret|client_id|assertion|password|refresh_token)=(?!SCRUBBED\b)[^\s&]",
    "JSON field": r"\"(?:client_secret|password|refresh_token|id_token|security_?token)\"\s*:\s*\"(?!SCRUBBED\")",
    "user name": r"\busername=(?!scrubbed(?:@|%40)example\.com\b)",
    "private key": r"-----BEGIN|\bLS0tLS1CRUdJTi",
    "consumer key": r"\b3MVG9[\w.]{8,}",
    "signature": r"\"signature\"\s*:\s*\"(?!A{43}=\")",
    "org or user": r"/id/00D(?!0{12}EAA/0050{12}AAA\b)",
    "host": r"(?i)\b(?:localhost|127\.0\.0\.1)\b|[\w-]\.(?:salesforce|force|salesforce-setup)\.com\b",
    "path of a machine": r"(?<![\w.])/(?:home|root|tmp|work|Users)/",
}


def relative(path: Path) -> str:
    return path.relative_to(CASSETTES).as_posix()


def read_yaml(text: str) -> Any:
    """What the text says, by libyaml where it is there: PyYAML in Python takes ten times as long."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 — both are safe


def interactions(path: Path) -> list[Any]:
    return list(read_yaml(path.read_text("utf-8"))["interactions"])


def strings(value: Any) -> Iterator[str]:
    """Every text in a cassette, as it is when read, whatever YAML folded or escaped."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield f"{key}: {each}" if isinstance(each, str) else f"{key}:"
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def given_away(text: str) -> set[str]:
    """The kinds of secrets in the text of a cassette."""
    texts = [text, *strings(read_yaml(text))]
    return {kind for kind, pattern in SECRETS.items() if any(re.search(pattern, each) for each in texts)}


# ── replaying ─────────────────────────────────────────────────────────────────────────────────────────


@cache
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form).decode()


def settings_of(path: Path, database: str = recording.NO_DATABASE) -> Settings:
    """Settings for the flow of a cassette's name (client credentials for others) and the host it asked."""
    secret = {"SALESFORCE_CLIENT_SECRET": "the client's secret"}
    user = {"SALESFORCE_USERNAME": "sync@acme.example"}
    by_flow = {
        "client_credentials": secret,
        "jwt": {**user, "SALESFORCE_PRIVATE_KEY": private_key()},
        "password": {
            **secret,
            **user,
            "SALESFORCE_PASSWORD": "open, please",
            "SALESFORCE_SECURITY_TOKEN": "t0ken",
        },
    }
    asked = urlsplit(interactions(path)[0]["request"]["uri"])
    return settings_from(
        {
            "DATABASE_URL": database,
            "SALESFORCE_LOGIN_URL": f"https://{asked.netloc}",
            "SALESFORCE_PRIVATE_HOSTS": recording.INSTANCE_HOST,
            "SYNC_OBJECTS": ",".join(recording.OBJECTS),
            "SYNC_TOMBSTONE_RETENTION": "off",  # recorded long ago
            "SALESFORCE_CLIENT_ID": "the client",
            **by_flow.get(path.stem.removeprefix("login-"), secret),
        }
    )


Replay = Callable[[Path], AbstractContextManager[list[Any]]]


@pytest.fixture(autouse=True)
def no_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's certificates are nobody's business here: requests reads both, and fails on a bad path."""
    for name in recording.BUNDLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Opens a cassette and gives the list of what is asked; no call leaves, and none is left unasked."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a replay must not reach for the network")

    @contextmanager
    def open_cassette(path: Path) -> Iterator[list[Any]]:
        asked: list[Any] = []

        def note(request: Any) -> Any:
            asked.append(request)
            return request

        player = vcr.VCR(record_mode="none", match_on=MATCH_ON, before_record_request=note)
        with monkeypatch.context() as patch, player.use_cassette(path) as cassette:
            for owner, name in (
                (socket.socket, "connect"),
                (socket.socket, "connect_ex"),
                (socket, "getaddrinfo"),
            ):
                patch.setattr(owner, name, refuse)
            asked.clear()  # loading passes the recorded ones through it, too
            yield asked
        assert cassette.all_played, "the product did not ask for everything that was recorded"

    return open_cassette


def test_every_login_flow_is_recorded() -> None:
    """There is a cassette of each of the product's login flows."""
    recorded = {path.stem.removeprefix("login-") for path in LOGINS if path.parent.name == "simulator"}

    assert recorded == set(flows.FLOWS) == set(GRANT_TYPE)


@pytest.mark.parametrize("path", LOGINS, ids=relative)
def test_login_flow_opens_a_describe(path: Path, replay: Replay) -> None:
    """Each flow sends the form it was recorded with, gets a token, and the token opens a describe."""
    assert_login_replays(path, replay)


def assert_login_replays(path: Path, replay: Replay) -> None:
    first, second = interactions(path)
    session = Session(settings_of(path), retry=NEVER_WAIT)

    with replay(path) as asked:
        instance = session.login()
        fields, at = session.describe("Account")

    recorded = dict(parse_qsl(first["request"]["body"], keep_blank_values=True))
    sent = dict(parse_qsl(asked[0].body.decode(), keep_blank_values=True))
    grant_type = GRANT_TYPE[path.stem.removeprefix("login-")]
    assert recorded["grant_type"] == sent["grant_type"] == grant_type
    assert set(recorded) == set(sent)
    assert instance == DECODER.decode(first["response"]["body"]["string"])["instance_url"]
    assert at == parsedate_to_datetime(second["response"]["headers"]["date"][0])
    assert {"Id", "IsDeleted", "SystemModstamp", "Name"} <= {field.name for field in fields}
    authorization = {request.headers.get("Authorization") for request in asked[1:]} - {None}
    assert authorization == {"Bearer 00D000000000000!SCRUBBED"}


ACCOUNTS: dict[str, dict[str, Any]] = {
    "Acme": {
        "phone": "(415) 555-0132",
        "phone_e164": "+14155550132",
        "website": "https://www.Acme.example/about",
        "website_host": "www.acme.example",
        "billing_postal_code": "01234",
        "annual_revenue": Decimal(400_000_000),
    },
    "Łódź Röhren": {"billing_city": "Łódź", "phone_e164": None, "website_host": None},
    "NA": {"description": "one\nand two", "parent_id": None},
}
CONTACTS: dict[str, dict[str, Any]] = {
    "O'Neil": {
        "name": "Ann O'Neil",
        "email": "Ann@ACME.example",
        "email_normalized": "ann@acme.example",
        "deleted_at": None,
    },
    "Žižek": {"phone": "+48 42 555 01 32", "phone_e164": "+48425550132", "deleted_at": None},
    "null": {"first_name": "NULL", "description": 'tab\tquote"back\\slash', "account_id": None},
    "Loose 👩‍🚀": {"mobile_phone_e164": "+14155550177", "has_opted_out_of_email": True, "account_id": None},
    "Away": {
        "first_name": "Gone",
        "is_deleted": True,
        "deleted_at": LONG_AGO + timedelta(minutes=5),
        "deleted_reason": "deleted",
        "email_normalized": "gone@acme.example",
    },
}


def test_first_load_fills_the_tables(database: str, replay: Replay) -> None:
    """The recorded first load gives exactly the recorded records as rows, complete by Salesforce's clock."""
    with Stage(FIRST_LOAD, database) as stage, replay(FIRST_LOAD):
        # Not side by side: while a connection of one thread is made, vcr lets those of others through.
        reports = [pipeline.sync_object(stage.context, name) for name in recording.OBJECTS]
        accounts = {row["name"]: row for row in stage.rows("Account")}
        contacts = {row["last_name"]: row for row in stage.rows("Contact")}
        stage.assert_rows_are_the_recorded_records()

    tallies = {report.object: report.tally for report in reports}
    assert tallies == {"Account": Tally(read=3, inserted=3), "Contact": Tally(read=5, inserted=4, deleted=1)}
    assert {name: {key: accounts[name][key] for key in row} for name, row in ACCOUNTS.items()} == ACCOUNTS
    assert {name: {key: contacts[name][key] for key in row} for name, row in CONTACTS.items()} == CONTACTS
    assert (len(accounts), len(contacts)) == (3, 5)
    assert accounts["Łódź Röhren"]["parent_id"] == accounts["Acme"]["id"]
    assert contacts["Žižek"]["account_id"] == accounts["Łódź Röhren"]["id"]


class Stage:
    """A database, the product before it, and the cassette in the place of Salesforce."""

    def __init__(self, path: Path, database: str) -> None:
        self.path = path
        settings = settings_of(path, database)
        self.engine = tables.engine(settings.postgres, owner="test")
        session = Session(settings, retry=NEVER_WAIT)
        headers = interactions(path)[0]["response"]["headers"]
        [dated] = [parsedate_to_datetime(each[0]) for name, each in headers.items() if name.lower() == "date"]
        self.context = SyncContext(
            settings,
            session,
            self.engine,
            "test/replay",
            "run",
            wait=timedelta(seconds=5),
            reference=lambda: dated,
        )

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()

    def rows(self, name: str) -> list[dict[str, Any]]:
        with tables.transaction(self.engine) as connection:
            return [dict(row) for row in connection.execute(tables.REPLICA[name].select()).mappings()]

    def cursors(self) -> dict[str, tuple[datetime, set[str]]]:
        with tables.transaction(self.engine) as connection:
            question = "SELECT object, complete_through, hidden FROM sync.cursor"
            found = connection.exec_driver_sql(question).all()
        return {name: (complete_through, set(hidden)) for name, complete_through, hidden in found}

    def assert_rows_are_the_recorded_records(self) -> None:
        """Value by value, by a judge that shares no code with the product."""
        cursors = self.cursors()
        for name in recording.OBJECTS:
            described = next(
                each
                for each in interactions(self.path)
                if each["request"]["uri"].endswith(f"{name}/describe")
            )
            until = parsedate_to_datetime(described["response"]["headers"]["date"][0])
            complete_through, hidden = cursors[name]
            assert complete_through == until.replace(second=0)  # as far as the recorded getUpdated covers
            recorded = {record["Id"]: record for record in records_of(self.path, name)}
            rows = {row["id"]: row for row in self.rows(name)}
            assert set(rows) == set(recorded)
            differences = {id_: compare(recorded[id_], rows[id_], hidden) for id_ in recorded}
            assert differences == {id_: {} for id_ in recorded}


def queries(path: Path) -> dict[str, tuple[str, Any]]:
    """Object → its query, as recorded, and the answer's body."""
    found = {}
    for each in interactions(path):
        query = parse_qs(urlsplit(each["request"]["uri"]).query).get("q")
        if query:
            name = re.findall(r" FROM (\w+)", query[0])[0]
            found[name] = query[0], DECODER.decode(each["response"]["body"]["string"])
    return found


def records_of(path: Path, name: str) -> list[Any]:
    return list(queries(path)[name][1]["records"])


@pytest.mark.parametrize("path", WINDOWS, ids=relative)
def test_recorded_records_are_fit_for_the_tables(path: Path, replay: Replay) -> None:
    """Whatever org a window was recorded from, each of its records becomes a row."""
    assert_window_replays(path, replay)


def assert_window_replays(path: Path, replay: Replay) -> None:
    session = Session(settings_of(path), retry=NEVER_WAIT)

    with replay(path):
        for name, (query, body) in queries(path).items():
            projection = project(CATALOGUE[name], session.describe(name)[0])
            answer = session.query(query, projection.names)
            values = [tuple(record.get(name) for name in projection.names) for record in body["records"]]
            assert answer.body["records"] == values
            assert (answer.body["totalSize"], answer.body["done"]) == (body["totalSize"], body["done"])
            batch = transform.build(projection, rest.to_texts(values), "US")
            assert batch.rejects == ()
            assert len(batch.lines) == len(body["records"])

    assert set(queries(path)) == set(recording.OBJECTS)


def test_unrecorded_call_fails(replay: Replay) -> None:
    """A call that is not in the cassette is an error, not a call."""
    path = next(path for path in LOGINS if path.stem == "login-jwt")
    session = Session(settings_of(path), retry=NEVER_WAIT)

    with pytest.raises(AssertionError, match="did not ask"), replay(path):  # noqa: SIM117 — inner one first
        with pytest.raises(CannotOverwriteExistingCassetteException):
            session.query("SELECT Id FROM Account")


# ── what a cassette may not contain ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_no_cassette_gives_a_secret_away(path: Path) -> None:
    """No committed cassette holds a token, a credential, a cookie, a real host or a machine's path."""
    assert given_away(path.read_text("utf-8")) == set()


@pytest.mark.parametrize("path", ALL, ids=relative)
def test_cassette_says_where_it_comes_from(path: Path) -> None:
    """Each cassette names its origin and the command that records it anew, and stays a size one can read."""
    origin, command = {
        "simulator": ("this project's simulator", "python -m tests.recording"),
        "real": ("a real org", "python -m tests.recording --real"),
    }[path.parent.name]

    text = path.read_text("utf-8")

    assert text.startswith(f"# Recorded against {origin} with `{command}`")
    assert max(len(each["response"]["body"]["string"]) for each in interactions(path)) < 300_000
    assert "!!binary" not in text


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("access token", 'a: {"access_token": "00D5g0000004ECs!AQa8AMAP8XWmbLz4ghB49Xia.smiZy8"}'),
        ("access token", "a: 00D000000000000!SCRUBBED.not"),
        ("access token", 'a: "00D5g0000004ECs\\\n  !AQa8AMAP8XWmbLz4"'),
        ("JWT", 'a: {"access_token": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln"}'),
        ("JWT", "body: assertion=eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln"),
        ("form field", "body: assertion=x.y.z&grant_type=x"),
        ("form field", "body: grant_type=password&password=Pa5s%27word"),
        ("form field", "body: client_secret=SYHG0YFCXZS&grant_type=x"),
        ("form field", "body: client_secret=SCRUBBEDnot"),
        ("form field", "body: client_id=anything"),
        ("user name", "body: username=ann%40acme.com"),
        ("JSON field", '{"refresh_token": "5Aep861"}'),
        ("credentials header", "- Bearer abcdefghijklmnop"),
        ("credentials header", "- Basic Y2xpZW50OnNlY3JldA=="),
        ("header", "headers:\n  Authorization:\n  - x"),
        ("header", "headers: {set-cookie: [x]}"),
        ("cookie", "- sid=00D5g; path=/"),
        ("private key", "a: |\n  -----BEGIN PRIVATE KEY-----\n  MIIE"),
        ("consumer key", "a: 3MVG9LNhEWmKzFA1Wa0CsjINg"),
        ("signature", '{"signature": "SRlzoU9NrceO8AurxFzvVioxNCg5Ug6n1dm/jvGaNNQ="}'),
        ("org or user", "https://login.salesforce.example/id/00D5g0000004ECsEAM/0055g0000004ECsAAM"),
        ("host", "uri: https://acme.my.salesforce.com/services"),
        ("host", "uri: https://localhost:43567/services"),
        ("path of a machine", "a: /home/ann/project/ca.pem"),
    ],
)
def test_search_for_secrets_finds_them(kind: str, line: str) -> None:
    """The search is no formality: put into a clean cassette, each kind of secret is found."""
    clean = WINDOWS[0].read_text("utf-8")

    assert given_away(clean) == set()
    assert kind in given_away(line)
    assert kind in given_away(f"{clean}doctored:\n" + "\n".join(f"  {part}" for part in line.splitlines()))


@pytest.mark.parametrize("secret", ["somebody's secret", 'quo"ted\\', "a b&c"])
def test_recorder_refuses_to_write_a_secret(secret: str) -> None:
    """A login setting that turns up where no rule expects it stops the recording, however it is escaped."""
    path = LOGINS[0]
    settings = settings_of(path).model_copy(update={"salesforce_client_secret": SecretStr(secret)})
    first, second = interactions(path)
    body = {"name": "Account", "fields": [], "echo": secret}
    second["response"]["body"]["string"] = msgspec.json.encode(body).decode()

    with pytest.raises(RuntimeError, match="SALESFORCE_CLIENT_SECRET would be in the cassette"):
        recording.serialize(
            {"interactions": [first, second]}, settings=settings, careful=False, origin="simulator"
        )


def test_recorder_lets_through_what_it_names_alone() -> None:
    """Of what an answer carries besides, nothing is kept: headers, cookies, further tokens, an app's name."""
    path = LOGINS[0]
    first, second = interactions(path)
    first["response"]["body"]["string"] = msgspec.json.encode(
        {
            "access_token": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln",
            "refresh_token": "5Aep861secret",
            "id_token": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln",
            "sfdc_community_url": "https://bolt.my.site.com/people",
            "id": "https://login.salesforce.com/id/00D5g0000004ECsEAM/0055g0000004ECsAAM",
            "instance_url": "https://bolt.my.salesforce.com",
        }
    ).decode()
    first["request"]["headers"] |= {"Authorization": ["Basic Y2xpZW50OnNlY3JldA=="]}
    second["request"]["headers"] |= {"Authorization": ["Bearer 00D5g0000004ECs!AQa8AMAP8XWmbLz4"]}
    second["request"]["uri"] = "https://bolt.my.salesforce.com/services/data/v66.0/sobjects/Account/describe"
    second["response"]["headers"] |= {
        "Set-Cookie": ["BrowserId=simulator0; domain=.salesforce.com"],
        "sforce-limit-info": ["api-usage=18/5000; per-app-api-usage=17/250(appName=bolt-sync)"],
    }

    text = recording.serialize(
        {"interactions": [first, second]}, settings=settings_of(path), careful=True, origin="real"
    )

    assert given_away(text) == set()
    assert [word for word in ("bolt", "5Aep861", "eyJ", "BrowserId") if word in text] == []
    assert "api-usage=18/5000\n" in text


def test_careful_recording_refuses_unknown_answers() -> None:
    """Of a real org nothing is written that no rule was made for."""
    path = LOGINS[0]
    first, second = interactions(path)
    second["request"]["uri"] = second["request"]["uri"].replace("/describe", "/listviews")

    with pytest.raises(RuntimeError, match="no rule"):
        recording.serialize(
            {"interactions": [first, second]}, settings=settings_of(path), careful=True, origin="real"
        )


# ── recording anew ────────────────────────────────────────────────────────────────────────────────────


def asked_for(path: Path) -> list[tuple[str, str]]:
    uris = [(each["request"]["method"], urlsplit(each["request"]["uri"])) for each in interactions(path)]
    return [(method, f"{uri.scheme}://{uri.netloc}{uri.path}") for method, uri in uris]


def test_recording_anew_gives_the_same_conversations(tmp_path: Path, database: str) -> None:
    """The command's recordings are the committed ones, and the simulator's own secrets are in none."""
    recording.record_simulator(tmp_path, database)

    new = {path.name: path for path in tmp_path.iterdir()}
    assert set(new) == {path.name for path in ALL if path.parent.name == "simulator"}
    known = credentials(1)
    secrets = [
        *(known.client_id, known.client_secret, known.username, known.password, known.security_token),
        *known.private_key_pem.splitlines(),
    ]
    for name, path in new.items():
        text = path.read_text("utf-8")
        committed = asked_for(CASSETTES / "simulator" / name)
        assert asked_for(path) == committed, "the product asks otherwise now: python -m tests.recording"
        assert given_away(text) == set()
        assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize("flow", FLOWS)
def test_real_recording_shows_nobody(
    flow: str, tmp_path: Path, sim: Simulator, monkeypatch: pytest.MonkeyPatch, replay: Replay
) -> None:
    """`--real` takes the environment's settings, and leaves no host, person or Id of the org readable."""
    recording.populate(sim.org, sim.clock.now() - timedelta(minutes=10))
    known = [name for name in os.environ if name.startswith(("SALESFORCE_", "SYNC_"))]
    for name in known:
        monkeypatch.delenv(name)
    for name, value in {"DATABASE_URL": recording.NO_DATABASE, **sim.environment(flow)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    recording.main(["--real"], tmp_path)

    login, window = sorted((tmp_path / "real").iterdir())
    assert (login.name, window.name) == (f"login-{flow}.yaml", "window.yaml")
    known_words = [
        "Acme.example",
        "ACME.example",
        "Röhren",
        "O'Neil",
        "Žižek",
        "1970-02-28",
        "555-0132",
        "555-0177",
        "__c",
        "Gone",
    ]
    ids = [id_[:15] for name in ("Account", "Contact", "User") for id_ in sim.org.ids(name)]
    for path in (login, window):
        text = path.read_text("utf-8")
        assert text.startswith("# Recorded against a real org with `python -m tests.recording --real`")
        assert given_away(text) == set()
        assert [word for word in (*known_words, *ids, urlsplit(sim.url).netloc) if word in text] == []
    assert_login_replays(login, replay)
    assert_window_replays(window, replay)
    records = records_of(window, "Contact")
    assert len(records) == 5
    assert [record["Email"] for record in records].count("person@example.com") == 2
    assert all(full_id(record["Id"]) == record["Id"] for record in records)


def test_failed_recording_leaves_the_old_one(tmp_path: Path, sim: Simulator) -> None:
    """A login that is refused costs no cassette."""
    path = tmp_path / "login-password.yaml"
    path.write_bytes(LOGINS[0].read_bytes())
    wrong = {
        **sim.environment("password"),
        "SALESFORCE_PASSWORD": "wrong",
        "DATABASE_URL": recording.NO_DATABASE,
    }

    with pytest.raises(LoginError):
        recording.record(path, settings_from(wrong, OBJECT_CHOICES), recording.log_in)

    assert path.read_bytes() == LOGINS[0].read_bytes()
