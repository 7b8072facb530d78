"""How a message leaves: by Apprise in a process of its own, limited in time, with verified TLS and without secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apprise
import pytest

from sync.cli import commands as cli
from sync.config.alerts import split_urls, url_secrets
from sync.config.settings import settings_from
from sync.config.surroundings import child_environment
from sync.errors import SyncError
from sync.logs import printable
from sync.operations.alerts import send
from sync.operations.alerts.delivery import Outcome, Sender, certificates, communicate, outcomes
from sync.operations.alerts.incidents import Message
from sync.salesforce.session.http import ping
from tests.project.test_pages import NEEDED
from tests.support.hostile import answer, hostile
from tests.support.receiver import Receiver, receiver

MESSAGE = Message("acme: Contact stale", "OPEN Contact stale since …")
TOKEN = "T0ken-that-nobody-may-see-42"  # a secret of these tests
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see neither this machine's proxies nor its certificates."""
    for name in (*PROXIES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def sent(*urls: str) -> list[Outcome]:
    """The outcomes of one message to these URLs, sent in this process."""
    lines: list[str] = []
    printable.hide(secret for url in urls for secret in url_secrets(url))
    send.send(urls, MESSAGE.title, MESSAGE.body, MESSAGE.type, lines.append)
    return outcomes("\n".join(lines), len(urls), 30)


# ── Apprise ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_arrives(there: Receiver) -> None:
    """A plain webhook gets title, text and type as JSON."""
    [outcome] = sent(f"{there.url}/hooks/{TOKEN}")

    assert outcome == Outcome(1, there.url)
    assert there.paths == [f"/hooks/{TOKEN}"]
    [message] = there.messages
    assert (message["title"], message["message"], message["type"]) == (MESSAGE.title, MESSAGE.body, "failure")


def test_each_url_has_its_outcome(there: Receiver) -> None:
    """A URL that does not accept the message is named by scheme and host, with the reason; the others get it."""
    with receiver() as broken:
        broken.status = 500
        found = sent(
            f"{there.url}/{TOKEN}",
            f"{broken.url}/{TOKEN}",
            f"json://127.0.0.1:9/{TOKEN}",
            f"{there.url}/{TOKEN}?verify=no",
            f"nonsense://{TOKEN}",
        )

    assert [one.place for one in found] == [
        *(there.url, broken.url, "json://127.0.0.1:9", there.url, "nonsense://…")
    ]
    assert [one.accepted for one in found] == [True, False, False, False, False]
    assert "500" in found[1].problem
    assert "onnection" in found[2].problem
    assert found[3].problem == "turns the verification of TLS off: remove verify=no"
    assert found[4].problem.startswith("is not a URL that Apprise knows")
    assert TOKEN not in str(found)
    assert len(there.messages) == 1


def test_a_key_in_the_hosts_place_is_not_named() -> None:
    """Where a service's URL has a key at the place of a host, the scheme alone is named."""
    url = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert send.place(url, apprise.Apprise.instantiate(url)) == "slack://…"
    mail = "mailtos://user:password@example.com"
    assert send.place(mail, apprise.Apprise.instantiate(mail)) == "mailtos://example.com:587"


def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook with a certificate of a private CA is trusted with REQUESTS_CA_BUNDLE, and refused without."""
    with hostile(tmp_path) as there:
        there.answers = lambda _: answer(b"{}")
        url = f"jsons://{there.host}/"
        [refused] = sent(url)
        with certificates(Path(there.ca_file)) as trusted:
            assert trusted is not None
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
            assert trusted.read_text().count("BEGIN CERTIFICATE") > 1, "the public CAs are trusted, too"
            [accepted] = sent(url)

    assert (refused.accepted, accepted.accepted) == (False, True)
    assert not trusted.exists()


# ── a process of its own ──────────────────────────────────────────────────────────────────────────────


def test_a_dead_service_holds_up_nothing(there: Receiver) -> None:
    """The real process: what one URL accepted counts although another never answers, and a stop ends it at once."""
    stop, ended = threading.Event(), threading.Event()
    with receiver() as dead:
        dead.hold = ended

        def stop_when_both_have_it() -> None:
            while not (there.messages and dead.messages):
                time.sleep(0.02)
            stop.set()

        threading.Thread(target=stop_when_both_have_it, daemon=True).start()
        began = time.monotonic()
        found = Sender([f"{there.url}/{TOKEN}", f"{dead.url}/{TOKEN}"])(MESSAGE, stop)
        took = time.monotonic() - began
        ended.set()

    assert [one.problem for one in found][1] == "no answer within 30 seconds"
    assert [one.place for one in found] == [there.url, dead.url]
    assert took < 20
    assert [message["title"] for message in there.messages] == [MESSAGE.title]


def test_the_process_is_limited_in_time() -> None:
    """A process that does not end is killed when its time is over."""
    sleeping = [sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(10)"]
    process = subprocess.Popen(sleeping, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    began = time.monotonic()
    communicate(process, "{}", 0.3, threading.Event())

    assert time.monotonic() - began < 5
    assert process.returncode != 0


def test_half_a_line_is_no_outcome() -> None:
    """What a killed process wrote half counts as not answered."""
    whole = json.dumps({"number": 1, "place": "json://a", "problem": ""})
    begun = json.dumps({"number": 2, "place": "json://b"})
    found = outcomes(f'{whole}\n{begun}\n{{"number": 2, "pla', 3, 30)

    assert [(one.place, one.accepted) for one in found] == [
        ("json://a", True),
        ("json://b", False),
        ("URL 3", False),
    ]


def test_the_process_gets_none_of_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has the proxies, and no setting of ours: it needs none."""
    for name in (*NEEDED, "SYNC_ALERT_URLS", "PGPASSWORD", "HTTPS_PROXY"):
        monkeypatch.setenv(name, TOKEN)
    given = child_environment(Path("/some/ca.pem"))

    assert [name for name, value in given.items() if value == TOKEN] == ["HTTPS_PROXY"]
    assert given["REQUESTS_CA_BUNDLE"] == "/some/ca.pem"
    assert "REQUESTS_CA_BUNDLE" not in child_environment(None)


# ── alert --test ──────────────────────────────────────────────────────────────────────────────────────


def alert(monkeypatch: pytest.MonkeyPatch, arguments: list[str], **settings: str) -> int:
    """The exit code of `python -m sync alert …`, in this process."""
    for name, value in (NEEDED | settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["sync", "alert", *arguments])
    for place, hook in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(place, hook, getattr(place, hook))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_alert_names_what_failed(
    there: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`alert --test` exits with 1 if one URL did not accept the test, and names it without its secrets."""
    urls = f"{there.url}/{TOKEN}, json://user:{TOKEN}@127.0.0.1:9/{TOKEN}"

    code = alert(monkeypatch, ["--test"], SYNC_ALERT_URLS=urls)

    printed = capsys.readouterr()
    assert code == 1, printed.err
    assert printed.out == f"1. {there.url}: accepted\n"
    assert printed.err.startswith("error: 2. json://127.0.0.1:9: ")
    assert TOKEN not in printed.out + printed.err
    assert there.messages[0]["title"] == "salesforce-postgres-sync: test"


@pytest.mark.parametrize(
    ("arguments", "code", "words"), [(["--test"], 3, "SYNC_ALERT_URLS is not set"), ([], 2, "add --test")]
)
def test_alert_says_what_is_missing(
    arguments: list[str],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the setting it exits with 3, without --test with 2, each with what to do."""
    assert alert(monkeypatch, arguments) == code
    assert words in capsys.readouterr().err


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "urls"),
    [
        ("json://a", ["json://a"]),
        (
            " json://a , slack://b/c,\nmailto://x@y.z?to=a@b.c,d@e.f ",
            ["json://a", "slack://b/c", "mailto://x@y.z?to=a@b.c,d@e.f"],
        ),
        ("json://a;json://b json://c,", ["json://a", "json://b", "json://c"]),
        ("a json://b", ["a", "json://b"]),
        (" , ", []),
    ],
)
def test_several_urls(value: str, urls: list[str]) -> None:
    """Spaces and commas separate URLs; a comma within one is part of it."""
    assert split_urls(value) == urls


def test_urls_are_secrets() -> None:
    """URLs, and those of their parts that can be keys, are hidden; hosts and short words are not."""
    found = settings_from(
        NEEDED
        | {
            "SYNC_ALERT_URLS": f"json://ann:pw%20d1@hooks.example.com/services/{TOKEN}?key=0123456789",
            "SYNC_HEARTBEAT_URL": "https://hc-ping.com/0f5fbc2a-8b5f-4d3e-9f0e-000000000000",
        }
    )

    hidden = set(found.secrets)
    assert {TOKEN, "pw%20d1", "pw d1", "0123456789", "0f5fbc2a-8b5f-4d3e-9f0e-000000000000"} <= hidden
    assert found.alert_urls[0] in hidden
    assert found.heartbeat_url in hidden
    assert not {"hooks.example.com", "services", "key", "hc-ping.com"} & hidden
    assert "hooks" not in repr(found)


@pytest.mark.parametrize(
    ("given", "minutes"), [({}, 17), ({"SYNC_INTERVAL": "1h"}, 135), ({"SYNC_MAX_LAG": "1h"}, 60)]
)
def test_the_usual_lag(given: dict[str, str], minutes: int) -> None:
    """An object is stale beyond SYNC_MAX_LAG, else beyond two intervals, the overlap and five minutes."""
    assert settings_from(NEEDED | given).max_lag.total_seconds() == 60 * minutes


# ── the heartbeat ─────────────────────────────────────────────────────────────────────────────────────


def test_a_ping(tmp_path: Path) -> None:
    """A ping is a GET over verified TLS; it succeeds with a success alone, and no error names its URL."""
    replies: dict[str, Any] = {
        "ok": answer(b"OK"),
        "broken": answer(b"", 500),
        "moved": answer(b"", 302, Location="https://elsewhere.example.com/"),
    }
    with hostile(tmp_path) as there:
        there.answers = lambda asked: replies[asked.path.rpartition("/")[2]]
        url, bundle = f"https://{there.host}/{TOKEN}", Path(there.ca_file)

        ping(f"{url}/ok", bundle)
        assert [(asked.method, asked.path) for asked in there.asked] == [("GET", f"/{TOKEN}/ok")]
        for path, given, words in (
            ("broken", bundle, "answered 500"),
            ("moved", bundle, "answered 302"),
            ("ok", None, r"no answer \(SSLError\)"),
        ):
            with pytest.raises(SyncError, match=words) as failed:
                ping(f"{url}/{path}", given)
            assert TOKEN not in str(failed.value)
