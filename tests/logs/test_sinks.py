"""What leaves the process as text: each log format, tables, errors and JSON keep to one line and mean nothing."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from sync.cli import commands as cli
from sync.cli import screen, show
from sync.errors import ConfigError, SyncError
from sync.logs import logger, printable
from sync.logs.printable import CONTROLS
from sync.operations.audit.findings import Finding
from sync.operations.audit.mapped import Mapped
from sync.operations.status import Freshness, Rejected, Run, Status
from sync.postgres.feed import Change
from tests.logs.test_printable import ACTING, forms

SECRET = "S3cr3t/pässword+'x"
EVIL = f"[red]x[/red] [/] [link=http://evil]y[/link] :warning: {ACTING} \\[bold] tail\\"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FORMATS = ["logfmt", "json", "pretty"]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging, hooks and known secrets are as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    kept, needles = set(printable._secrets), printable._needles
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    printable._secrets.clear()
    printable._secrets.update(kept)
    printable._needles = needles
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


class Terminal(io.StringIO):
    """A stream that says that a person reads it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[False, True], ids=["pipe", "terminal"])
def printed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What an action prints: to a pipe, and to a terminal without colours and wide enough for a whole line."""
    monkeypatch.setenv("COLUMNS", "2000")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("TTY_COMPATIBLE", "0")  # for Rich alone: a dumb terminal has eighty columns there

    def captured(action: Callable[..., None], *arguments: Any) -> str:
        stream = Terminal() if request.param else io.StringIO()
        with redirect_stdout(stream), redirect_stderr(stream):
            action(*arguments)
        return stream.getvalue()

    return captured


def acting(text: str) -> set[str]:
    """The characters of a text that act on a terminal, but for the line ends and tabs that we write."""
    return {char for char in text if ord(char) in CONTROLS} - {"\n", "\t"}


# ── logs ──────────────────────────────────────────────────────────────────────────────────────────────


def crash(text: str) -> None:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.get("sync.test").exception("crashed", what=text)


def library(text: str) -> None:
    logging.getLogger("urllib3").warning("no answer from %s", text)


def library_crash(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("alembic").exception("job failed")


def warning(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # what an earlier test captured ended with that test
        logging.captureWarnings(True)
        warnings.warn(text, UserWarning, stacklevel=1)


def uncaught(text: str) -> None:
    logger.watch_crashes()
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)


def uncaught_in_a_thread(text: str) -> None:
    logger.watch_crashes()

    def run() -> None:
        raise RuntimeError(text)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


WAYS: list[Callable[[str], None]] = [
    lambda text: logger.get("sync.test").warning("event", value=text),
    lambda text: logger.get("sync.test").warning(text),
    lambda text: logger.get("sync.test").warning("event", value={"nested": [text]}),
    lambda text: logger.get("sync.test").warning("event", value=SyncError(text)),
    *(crash, library, library_crash, warning, uncaught, uncaught_in_a_thread),
]


@pytest.mark.parametrize("form", FORMATS)
def test_a_log_line_is_one_line_that_only_shows(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a value holds, it begins no line, acts on no terminal, and JSON stays JSON with the value intact."""
    logger.setup("debug", form)
    for way in WAYS:
        way(EVIL)
        printed = capsys.readouterr().err
        assert acting(printed) == set()
        # On a terminal a traceback has a line of its own, which begins with that word.
        own = form == "pretty" and "\nTraceback" in printed
        assert printed.count("\n") == 1 + own, printed
        if form == "json":
            json.loads(printed)
    logger.get("sync.test").warning("event", value=EVIL)
    printed = capsys.readouterr().err
    if form == "json":
        assert json.loads(printed)["value"] == EVIL
    else:
        assert r"\x1b[31m" in printed
        assert r"\u2028" in printed


@pytest.mark.parametrize("form", FORMATS)
def test_no_way_into_the_log_shows_a_secret(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Events, tracebacks, warnings, libraries' lines, crashes of any thread: each form of a secret is masked."""
    logger.setup("debug", form, [SECRET])
    for way in WAYS:
        way(" | ".join(forms(SECRET)))
        printed = capsys.readouterr().err
        assert printable.MASK in printed
        for shape in forms(SECRET):
            assert shape not in printed, shape


def test_a_line_that_cannot_be_made_does_not_show_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    """A library's malformed log call is reported without its arguments, in one line."""
    logger.setup("debug", "logfmt", [SECRET])
    logging.getLogger("urllib3").warning("%d requests", SECRET)
    printed = capsys.readouterr().err
    assert "event=log_failed" in printed
    assert printed.count("\n") == 1
    assert SECRET not in printed


def test_a_long_value_is_cut_before_it_is_searched(capsys: pytest.CaptureFixture[str]) -> None:
    """A value of megabytes costs no more than its bound, and shows no part of a secret at the cut."""
    logger.setup("debug", "logfmt", ["S" * 10 + "3cret-" + "t" * 20])
    logger.get("sync.test").warning(
        "event", value="x" * 7_990 + "S" * 10 + "3cret-" + "t" * 20 + "<" * 5_000_000
    )
    printed = capsys.readouterr().err
    assert len(printed) < 8_200
    assert "S" not in printed


def test_a_line_below_the_level_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What is not shown is neither rendered nor searched for secrets."""

    class Costly:
        def __str__(self) -> str:
            raise AssertionError("rendered")

    logger.setup("info", "logfmt")
    logger.get("sync.test").debug("call", value=Costly())
    logger.get("sync.test").info("run", value="shown")
    assert capsys.readouterr().err.count("event=") == 1


def test_a_crash_before_the_logs_are_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback of a crash at start is redacted, too."""
    structlog.reset_defaults()
    printable.hide([SECRET])
    uncaught(f"x {SECRET} \x1b[31m")
    printed = capsys.readouterr().err
    assert "RuntimeError" in printed
    assert SECRET not in printed
    assert acting(printed) == set()


def test_a_crash_of_a_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that nobody foresaw ends a command with a redacted log line, not with Python's traceback."""
    printable.hide([SECRET])

    def fail() -> None:
        logger.setup("info", "logfmt")
        raise RuntimeError(f"odd: {SECRET}")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(RuntimeError) as crashed:
        cli.main()
    sys.excepthook(RuntimeError, crashed.value, crashed.tb)
    printed = capsys.readouterr().err
    assert "event=crashed" in printed
    assert SECRET not in printed


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────


def a_status(text: str) -> Status:
    fresh = Freshness(text, NOW, timedelta(1), text, NOW, text, 1, 2, 3, NOW)
    run = Run(1, text, text, text, NOW, NOW, text, NOW, NOW, NOW, 0, 0, 0, 0, 0, 0, 0, 0, 0, text)
    return Status((fresh,), (run,), {text: text}, (text,), (text,), f"STALE: {text}")


def printings(text: str) -> dict[str, Callable[[bool], None]]:
    """Everything that a command can print, with the same text wherever one comes from outside."""
    change = Change(1, text, text, text, (text,), 1, NOW, text)
    record = json.dumps({"LastName": text})
    rejected = Rejected(text, text, text, record, NOW, NOW, NOW, 1)
    finding = Finding(text, "failed", text, text)
    mapped = Mapped(text, text, text, text, text, "mapped")
    return {
        "changes": lambda as_json: show.changes([change], as_json=as_json),
        "rejects": lambda as_json: show.rejects([rejected], as_json=as_json),
        "status": lambda as_json: show.status(a_status(text), as_json=as_json),
        "check": lambda as_json: show.findings([finding], as_json=as_json),
        "schema": lambda as_json: show.mapping([mapped], as_json=as_json),
        "error": lambda _: screen.error(text),
        "settings": lambda _: screen.error(f"two lines:\n  - {text.replace(chr(10), ' ')}", lines=True),
        "say": lambda _: screen.say(text),
    }


@pytest.mark.parametrize("name", printings(""))
@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_printed_only_shows(name: str, as_json: bool, printed: Callable[..., str]) -> None:
    """Markup in data is printed, not obeyed; no control character gets through; JSON keeps the value."""
    told = printed(printings(EVIL)[name], as_json)
    assert acting(told) == set()
    if told.startswith(("[{", "{")):
        assert EVIL in str(values(json.loads(told)))
    else:
        assert "[red]x[/red] [/] [link=http://evil]y[/link] :warning: " in told
        assert r"\x1b[31m" in told
        assert "\\[bold] tail\\" in told


def values(found: Any) -> list[Any]:
    """All values in a JSON document, joined so that a text may be looked for."""

    class Texts(list[Any]):
        def __str__(self) -> str:
            return " ".join(map(str, self))

    texts = Texts()

    def walk(one: Any) -> None:
        for each in one.values() if isinstance(one, dict) else one if isinstance(one, list) else ():
            walk(each)
        if isinstance(one, str):
            texts.append(one)

    walk(found)
    return texts


@pytest.mark.parametrize("name", printings(""))
@pytest.mark.parametrize("as_json", [False, True])
def test_no_command_prints_a_secret(name: str, as_json: bool, printed: Callable[..., str]) -> None:
    """Tables, lines, errors and JSON mask every form of a secret."""
    printable.hide([SECRET])
    for form in forms(SECRET):
        told = printed(printings(f"it said <{form}> there")[name], as_json)
        assert printable.MASK in told
        assert form not in told.replace("\\\\", "\\"), form


def test_data_gets_no_colour_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that happens to hold the word ok is no mark of ours: only the column of states has colours."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen.table("", ("subject", "what"), [("ok", "failed")])
    assert "\x1b[32m" not in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()
    screen.table("", ("subject", "state"), [("x", "ok")])
    assert "\x1b[32mok" in stream.getvalue()


def test_an_error_of_settings_keeps_its_lines(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """All wrong settings are listed one a line; of other errors, whose text may be anybody's, a line end is shown."""
    for error, lines in ((ConfigError("a:\n  - b"), 2), (SyncError("a\nerror: forged"), 1)):

        def fail(error: SyncError = error) -> None:
            raise error

        monkeypatch.setattr(cli, "app", fail)
        with suppress(SystemExit):
            cli.main()
        assert capsys.readouterr().err.count("\n") == lines
