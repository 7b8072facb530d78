"""`status --watch`: what is drawn, what a pipe gets, and that a lost database does not end it."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sync.cli import commands, watch
from sync.errors import UsageError
from sync.operations.running import Running, Speeds
from sync.operations.status import Status, read_status
from sync.postgres import tables
from sync.replication import pipeline, runs
from tests.support import processes
from tests.support.databases import SHARED
from tests.support.world import World

NOW = datetime(2026, 11, 23, 16, 52, 10, tzinfo=UTC)
AT_ONCE = timedelta(0)


class Terminal(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


def read(world: World) -> Status:
    with tables.transaction(world.engine) as connection:
        return read_status(connection, ("Account", "Contact"), timedelta(days=1))


def watch_for(
    world: World, readings: int, act: Callable[[int], None] = lambda _: None, *, as_json: bool = False
) -> None:
    """Watch a world for so many readings; `act` is called before each with its number."""
    stop, count = threading.Event(), 0

    def read_next() -> Status:
        nonlocal count
        count += 1
        act(count)
        if count == readings:
            stop.set()
        return read(world)

    watch.watch(read_next, AT_ONCE, stop, as_json=as_json)


def on_terminal(patch: pytest.MonkeyPatch, lines: int = 40) -> Terminal:
    """From now on commands print to a terminal of a hundred columns and so many lines."""
    stream = Terminal()
    patch.setattr(sys, "stdout", stream)
    for name, value in {"COLUMNS": "100", "LINES": str(lines), "TERM": "xterm"}.items():
        patch.setenv(name, value)
    return stream


def pictures(stream: Terminal) -> list[list[str]]:
    """What was drawn, picture by picture: each begins with the time of its reading, or with an error."""
    told = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n")
    parts = re.split(r"^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, until Ctrl-C|error: )", told, flags=re.M)
    return [part.splitlines() for part in parts if part.strip()]


# ── what moves ────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_seen_while_it_goes_on(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows and the calls of a run move with its pages, and the run is gone when it has ended."""
    monkeypatch.setattr(runs, "NOTE_SECONDS", 0.0)
    loaded.page_by(1)
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        loaded.org.update(id_, {"Title": "Boss"})
    seen: list[Running] = []

    def look(result: runs.PageResult) -> None:
        if result.object == "Contact":
            seen.extend(one for one in read(loaded).running if one.object == "Contact")

    pipeline.sync_all(loaded.context(on_page=look))

    assert {one.command for one in seen} == {"run"}
    assert sorted({one.read for one in seen}) == [one.read for one in seen if one.read in (0, 1, 2, 3)][:4]
    assert [one.api_calls for one in seen] == sorted(one.api_calls for one in seen)
    assert (seen[0].read, seen[-1].read) == (0, 3)
    assert seen[-1].api_calls > seen[0].api_calls > 0
    assert read(loaded).running == ()


def test_a_run_of_a_process_that_has_ended_is_not_shown(loaded: World) -> None:
    """What the journal calls running without a lease goes on no more."""
    insert = "INSERT INTO sync.run (object, command, owner) VALUES ('Contact', 'run', 'gone')"
    loaded.sql(insert)
    assert read(loaded).running == ()

    loaded.sql("UPDATE sync.lease SET owner = 'x', expires_at = now() + interval '1 minute'")
    assert [(one.object, one.read) for one in read(loaded).running] == [("Contact", 0)]


def test_the_speed_is_that_of_the_last_seconds() -> None:
    """Rows a second come from the readings of the last quarter of a minute; a new run begins anew."""
    speeds, one = Speeds(), Running("Contact", 7, "resync", NOW, 0, 3)
    told: list[float | None] = []
    for second, rows in ((0, 0), (2, 200), (4, 400), (20, 400), (22, 400)):
        [found] = speeds.measure([replace(one, read=rows)], NOW + timedelta(seconds=second))
        told.append(found.rows_per_second)

    assert told == [None, 100, 100, 0, 0]
    assert speeds.measure([replace(one, run=8)], NOW)[0].rows_per_second is None
    assert list(speeds.readings) == [8]


# ── what is drawn and printed ─────────────────────────────────────────────────────────────────────────


def test_the_picture_is_redrawn(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading is one picture in the place of the last: lag, rows, runs, and a run that goes on with its speed."""
    terminal = on_terminal(monkeypatch)

    def act(number: int) -> None:
        if number == 1:
            loaded.sql("UPDATE sync.lease SET owner = 'x', expires_at = now() + interval '1 minute'")
            loaded.sql("INSERT INTO sync.run (object, command, owner) VALUES ('Contact', 'resync', 'x')")
        loaded.sql("UPDATE sync.run SET read = :n, api_calls = 4 WHERE outcome = 'running'", n=5000 * number)

    watch_for(loaded, 3, act)

    drawn = pictures(terminal)
    # Rich draws the last picture once more when it ends.
    assert len(drawn) >= 3
    assert all(" until Ctrl-C" in one[0] and one[1].startswith("OK: Account") for one in drawn)
    [line] = [line for line in drawn[2] if line.startswith("Contact: resync for ")]
    assert re.search(r", 15,000 rows read \([\d,]+ rows/s\), 4 API calls$", line.rstrip())
    assert "\x1b[1A" in terminal.getvalue()  # the cursor goes up: nothing scrolls


def test_what_does_not_fit_is_cut_at_the_end(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal of six lines the first six are drawn: the summary is one of them."""
    terminal = on_terminal(monkeypatch, lines=6)
    watch_for(loaded, 2)

    first = pictures(terminal)[0]
    assert first[1].startswith("OK: ")
    assert len(first) <= 7


@pytest.mark.parametrize("drawing", [True, False])
def test_a_lost_database_is_shown(
    drawing: bool, loaded: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reading that fails is shown with the state before it, and the next ones are tried."""
    stream = on_terminal(monkeypatch) if drawing else Terminal()
    name = loaded.engine.url.database
    with loaded.elsewhere() as admin:

        def act(number: int) -> None:
            if number == 2:
                loaded.engine.dispose()
                admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            if number == 3:
                admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

        try:
            watch_for(loaded, 3, act)
        finally:
            admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    assert SHARED in str(name)
    if drawing:
        one, two, three, *_ = pictures(stream)
        assert two[0].startswith("error: Postgres is not available: ")
        assert "; the state of 20" in " ".join(map(str.strip, two))
        assert one[1] in two
        assert three[0].startswith("20")
    else:
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] == "error:" for line in lines] == [False, True, False]


def test_a_pipe_gets_lines(loaded: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a reading is a line with its time; with --json it is the document of `status --json`."""
    watch_for(loaded, 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ OK: Account and Contact hold ", lines[0])

    watch_for(loaded, 2, as_json=True)
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["version"] for one in documents] == [1, 1]
    assert documents[0]["at"] < documents[1]["at"]
    assert documents[0]["headline"].startswith("OK")


@pytest.mark.parametrize(("interval", "why"), [("0s", "at least 1s"), ("soon", "soon"), ("5s", None)])
def test_the_interval(interval: str, why: str | None) -> None:
    """The interval is a time of at least a second, and goes with --watch alone."""
    if why is None:
        assert watch.interval_option(interval, watching=True) == timedelta(seconds=5)
    else:
        with pytest.raises(UsageError, match=why):
            watch.interval_option(interval, watching=True)
    with pytest.raises(UsageError, match="--interval needs --watch"):
        commands.print_status(interval=interval)


def test_ctrl_c_ends_it_with_0(loaded: World) -> None:
    """On a real terminal it draws until Ctrl-C, and ends with 0 although an object is stale."""
    loaded.sql("UPDATE sync.cursor SET complete_through = now() - interval '3 hours'")
    ours, theirs = pty.openpty()
    environment = loaded.process_environment(TERM="xterm", COLUMNS="100", LINES="40")
    pid, status = processes.fork(
        ["sync", "status", "--watch", "--interval", "1s"], environment, processes.ROOT, theirs, theirs
    )
    process = processes.Process(["sync"], pid, status, None)
    try:
        os.close(theirs)
        told, deadline = b"", time.monotonic() + 30
        while told.count(b"STALE\x1b[0m: Account is complete through") < 2 and time.monotonic() < deadline:
            told += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        os.set_blocking(ours, False)
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(ours)
    assert told.count(b"until Ctrl-C") >= 2
    assert b"Traceback" not in told
