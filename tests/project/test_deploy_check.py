"""The process manager of `make deploy-check` does what a platform does, and its report tells what failed."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from tests.deploy_check import dynos
from tests.deploy_check.__main__ import AbortedError, Report, until
from tests.deploy_check.dynos import Dyno, Release


def dyno(folder: Path, program: str) -> Dyno:
    """A worker that runs a Python program, started."""
    (folder / "worker.py").write_text(program)
    (folder / "Procfile").write_text("release: python release.py\nworker: python worker.py\n")
    environment = Path(sys.executable).parent.parent
    return Dyno(Release(folder, environment), "worker.1", {"GIVEN": "yes"}, folder / "log").start()


WAITS = "import os, signal, time\n{handler}\nprint('up', os.environ['GIVEN'], flush=True)\ntime.sleep(60)"


def test_a_process_that_ends_is_started_again(tmp_path: Path) -> None:
    """An exit is noted, and the process starts again at once; a process that is stopped does not."""
    running = dyno(tmp_path, WAITS.format(handler="signal.signal(signal.SIGTERM, lambda *_: exit(0))"))
    until(lambda: "up yes" in running.text, "it is up", 10)

    running.signal(signal.SIGKILL)
    until(lambda: running.text.count("up yes") == 2, "it is up again", 10)

    assert running.stop()[0] == 0
    assert (running.exits, running.starts) == ([-signal.SIGKILL], 2)


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes first, SIGKILL when the time is over."""
    monkeypatch.setattr(dynos, "KILL_SECONDS", 0.2)
    running = dyno(tmp_path, WAITS.format(handler="signal.signal(signal.SIGTERM, signal.SIG_IGN)"))
    until(lambda: "up yes" in running.text, "it is up", 10)
    began = time.monotonic()

    assert running.stop()[0] == -signal.SIGKILL
    assert time.monotonic() - began >= 0.2


def test_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    """Each check has its line with its time; a failed one names the reason, and the others go on unless they need it."""
    report = Report()

    def fail(error: Exception) -> None:
        raise error

    with report.check("the first"):
        report.note = "4 rows"
    with report.check("the second"):
        fail(AssertionError("exit 3"))
    with pytest.raises(AbortedError), report.check("the third", needed=True):
        fail(OSError("no space"))

    lines = capsys.readouterr().out.splitlines()
    assert report.failed == ["the second", "the third"]
    assert [one.split()[0] for one in lines] == ["ok", "failed", "exit", "failed", "no"]
    assert lines[0].endswith("the first: 4 rows")
