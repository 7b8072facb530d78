"""What a person's terminal and pipes are given: tables that fit, output that may be cut, the version, the time."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import sync
from sync.cli import screen, show
from sync.demo import commands as cli
from sync.demo import demo
from sync.errors import SyncError, UsageError
from sync.logs import logger
from sync.operations import worker
from sync.operations.audit.findings import Finding
from sync.operations.status import Freshness, Run, Status
from sync.postgres.load.merge import Tally
from sync.replication.runs import Report
from sync.simulator import Simulator
from tests.support import processes
from tests.support.declared import OPPORTUNITY
from tests.support.world import ROOT, World

INVOICE = OPPORTUNITY.with_name("invoice.json")
NOW = datetime(2026, 11, 23, 16, 52, 10, tzinfo=UTC)


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The lines that something prints on a terminal of so many columns."""

    def draw(columns: int, print_it: Callable[[], None]) -> list[str]:
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        print_it()
        return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()

    return draw


def a_status() -> Status:
    """Two objects, the last runs of which failed with a reason of two hundred characters."""
    objects = tuple(
        Freshness(name, NOW, timedelta(minutes=12), "succeeded", NOW, None, 1_234_567, 1_234, 0, NOW)
        for name in ("Account", "Contact")
    )
    why = "Salesforce answered 503: " + "Service Not Available " * 8 + "type: python -m sync check"
    counts = (1_234_567, 0, 1_234_567, 12, 1_234, 0, 0, 12_345, 0)
    runs = tuple(
        Run(n, "Contact", "resync", "run.1/2/abc", NOW, NOW, "failed", None, NOW, NOW, *counts, why)
        for n in (100_001, 100_002)
    )
    return Status(objects, runs, {}, (), (), "OK: Account and Contact hold every change up to 12m ago")


# ── width ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_status_fits_the_terminal(columns: int, drawn: Callable[..., list[str]]) -> None:
    """Each object and each run is one line, whatever the width: columns are left out, never broken."""
    lines = drawn(columns, lambda: show.status(a_status(), as_json=False))

    assert max(map(len, lines)) <= columns
    for start in ("Account", "Contact"):
        [row] = [line for line in lines if line.split()[:1] == [start]]
        assert "12m" in row
        assert "1,234,567" in row
    for number in ("100001", "100002"):
        [row] = [line for line in lines if line.split()[:1] == [number]]
        assert "2026-11-23 16:52:10 UTC" in row
    told = " ".join(" ".join(lines).split())
    assert "run 100001, Contact: Salesforce answered 503: Service" in told
    assert told.count("type: python -m sync check") == 2


def test_a_wide_terminal_shows_everything(drawn: Callable[..., list[str]]) -> None:
    """Nothing is left out where there is room for it."""
    lines = drawn(200, lambda: show.status(a_status(), as_json=False))

    told = " ".join(lines)
    for column in ("complete through", "tombstones", "rejects", "verified", "read", "same", "calls"):
        assert column in told


def test_what_says_nothing_is_left_out_first(drawn: Callable[..., list[str]]) -> None:
    """Of the columns that may go, one of zeros goes before one that says something."""

    def a_table(columns: int) -> list[str]:
        rows = [("Contact", "7", "0")]
        dispensable = ("values", "erased")
        return drawn(
            columns, lambda: screen.table("", ("object", "values", "erased"), rows, dispensable=dispensable)
        )

    assert a_table(40)[0].split() == ["object", "values", "erased"]
    assert a_table(22)[0].split() == ["object", "values"]
    assert a_table(12)[0].split() == ["object"]


def test_verified_fits_eighty_columns(drawn: Callable[..., list[str]]) -> None:
    """What a verify found is one line per object on a terminal of eighty columns."""
    kinds = (
        *("missing", "stale", "gone", "values", "unfit", "rejected", "accepted", "mended", "remaining"),
        *("erased", "listed", "buckets", "compared"),
    )
    findings = dict.fromkeys(kinds, 0) | {
        "reasons": [],
        "gone": 1,
        "mended": 1,
        "through": NOW.isoformat(),
        "differences": [],
        "fields": [],
    }
    reports = [Report(name, None, Tally(), 12, findings) for name in ("Account", "Contact")]

    lines = drawn(80, lambda: show.verified(reports, as_json=False))

    assert max(map(len, lines)) <= 80
    header, account, *_ = lines
    assert {"object", "missing", "stale", "gone", "remaining", "mended"} <= set(header.split())
    assert account.split()[0] == "Account"


def test_findings_on_a_narrow_terminal(drawn: Callable[..., list[str]]) -> None:
    """On eighty columns a finding is a sentence with its remedy below it, and no column of three words."""
    found = [
        Finding("database", "ok", "PostgreSQL 18.4, 100 connections"),
        Finding("Contact sharing", "warning", "sees only what is shared " * 3, "grant View All " * 8),
    ]

    narrow = drawn(80, lambda: show.findings(found, as_json=False))
    wide = drawn(160, lambda: show.findings(found, as_json=False))

    assert narrow[0].rstrip() == "ok      database: PostgreSQL 18.4, 100 connections"
    assert max(map(len, narrow)) <= 80
    assert len(narrow) <= 6
    assert any(line.startswith("        → grant View All") for line in narrow)
    assert wide[0].split() == ["state", "what", "was", "found", "what", "to", "do"]


def test_a_pipe_gets_every_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Width is a terminal's: a program gets all columns, the reasons of runs among them."""
    monkeypatch.setenv("COLUMNS", "40")

    show.status(a_status(), as_json=False)

    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split("\t")[-1] == "verified"
    header = next(line for line in lines if line.startswith("run\t"))
    assert header.split("\t")[-2:] == ["calls", "error"]


# ── pipes ─────────────────────────────────────────────────────────────────────────────────────────────


def cut(world: World, *arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code and the errors of a command whose reader has ended before it prints."""
    reading, writing = os.pipe()
    os.close(reading)
    settings = world.process_environment(**environment)
    with os.fdopen(writing, "w") as stdout:
        if environment:  # which an interpreter reads when it starts
            command = [sys.executable, "-m", "sync", *arguments]
            done = subprocess.run(
                command, env=settings, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
            )
        else:
            done = processes.run(["sync", *arguments], settings, stdout=stdout)
    return done.returncode, done.stderr


def test_a_reader_may_leave(loaded: World) -> None:
    """`status | head -1` ends as `status` does: 0 when all is well, 1 when something is stale, without a word."""
    assert cut(loaded, "status") == (0, "")
    loaded.sql("UPDATE sync.cursor SET complete_through = now() - interval '3 hours'")
    assert cut(loaded, "status", PYTHONUNBUFFERED="1") == (1, "")


def test_the_feed_ends_with_its_reader(loaded: World) -> None:
    """`changes --follow | head` does not go on for nobody."""
    follow = ("changes", "--follow", "--after", "0")

    assert cut(loaded, *follow, PYTHONUNBUFFERED="1") == (0, "")
    assert cut(loaded, *follow, "--json") == (0, "")


# ── version, time, what is missing ────────────────────────────────────────────────────────────────────


def test_the_version_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`--version` prints the version, and needs no settings."""
    monkeypatch.setattr(sys, "argv", ["sync", "--version"])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"salesforce-postgres-sync {sync.__version__}\n"


def test_the_worker_names_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`worker_started` says which version runs: two of them log during a deploy."""
    logger.setup("info", "logfmt")
    stop = threading.Event()
    stop.set()

    worker.run_jobs({"Contact": lambda: None}, timedelta(hours=1), stop)

    [line] = [line for line in capsys.readouterr().err.splitlines() if "event=worker_started" in line]
    assert f" version={sync.__version__} " in line


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_log_lines_carry_the_time(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A log line begins with its time in UTC; on a dyno, whose platform adds one, it does not."""
    before = datetime.now(UTC)
    logger.setup("info", form)
    logger.get("sync.test").info("event")
    line = capsys.readouterr().err
    logger.setup("info", form, dyno="worker.1")
    logger.get("sync.test").info("event")
    on_a_dyno = capsys.readouterr().err

    if form == "json":
        at = json.loads(line)["timestamp"]
        assert "timestamp" not in json.loads(on_a_dyno)
    else:
        found = re.match(r"timestamp=(\S+Z) level=info event=event ", line)
        assert found is not None
        at = found[1]
        assert on_a_dyno == "level=info event=event dyno=worker.1\n"
    assert timedelta(0) <= datetime.fromisoformat(at) - before < timedelta(minutes=1)


def test_the_simulator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the development packages `simulator` says which is missing and what installs them."""
    monkeypatch.delitem(sys.modules, "sync.simulator.serve", raising=False)
    monkeypatch.setitem(sys.modules, "sync.simulator.simulator", None)

    with pytest.raises(SyncError, match=r"pip install -r requirements-dev\.txt$"):
        cli.simulator()


def test_the_simulator_serves_what_is_described() -> None:
    """`simulator` serves the objects of describes, with as many records as asked for, until it is stopped."""
    given = [word for path in (OPPORTUNITY, INVOICE) for word in ("--describe", str(path))]
    size = ["--port", "0", "--accounts", "1", "--contacts", "1", "--records", "Opportunity=7"]
    served = processes.start(["sync", "simulator", *given, *size], dict(os.environ))
    try:
        assert served.stdout is not None
        first = served.stdout.readline()
    finally:
        served.send_signal(signal.SIGTERM)
        served.communicate(20)  # which closes its output, too

    assert served.returncode == 0
    assert ", 7 of Opportunity, 5 of Invoice__c" in first


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"records": ["Case"]}, "'Case' is not OBJECT=NUMBER, such as Opportunity=50"),
        ({"records": ["Nothing__c=3"]}, "no describe of Nothing__c"),
        ({"describe": [Path("/nowhere.json")]}, "/nowhere.json: cannot be read"),
        ({"flow": "saml"}, "no login flow 'saml'"),
    ],
)
def test_the_simulator_refuses_what_it_cannot_serve(given: dict[str, Any], told: str) -> None:
    """A describe, a number or a flow that cannot be used is a usage error."""
    with pytest.raises(UsageError, match=re.escape(told)):
        cli.simulator(**{"port": 0, "accounts": 0, "contacts": 0, "credentials_seed": None, **given})


@pytest.mark.parametrize("keep", [False, True])
def test_the_demo_prints_a_url_that_lives(
    keep: bool, sim: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo names its database only where `--keep` leaves it running."""
    demo.show_next_steps(sim, "postgresql:///demo?host=/tmp/x", keep=keep)

    told = capsys.readouterr().out
    assert ("postgresql:///demo" in told) is keep
    assert ("--keep" in told) is not keep
