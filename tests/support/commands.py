"""A command as it is typed, run in the process of the tests: a process of its own takes a quarter of a second of CPU."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import structlog

from sync.demo.commands import main

ROOT = Path(__file__).resolve().parent.parent.parent


def run_here(arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`python -m sync ARGUMENTS…` with this environment and no other, its output in pipes; an error that the command
    does not handle is raised."""
    stdout, stderr = pipe(), pipe()
    typed = ModuleType("__main__")
    typed.__package__ = "sync"  # from which the help knows what was typed
    with pytest.MonkeyPatch.context() as patch, kept_logging():
        for name in set(os.environ) - set(environment):
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setitem(sys.modules, "__main__", typed)
        patch.setattr(sys, "argv", [str(ROOT / "sync" / "__main__.py"), *arguments])
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", stderr)
        for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
            patch.setattr(module, name, getattr(module, name))  # the command replaces it
        interval = sys.getswitchinterval()
        try:
            main()
            code: int | str | None = 0
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.setswitchinterval(interval)
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(["sync", *arguments], code or 0, printed(stdout), printed(stderr))


def pipe() -> io.TextIOWrapper:
    """A stream that is no terminal."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True)


def printed(stream: io.TextIOWrapper) -> str:
    """All that was written to a stream of ours."""
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@contextmanager
def kept_logging() -> Iterator[None]:
    """Whatever is set up inside, logs go where they went before, at the same levels."""
    root, ours = logging.getLogger(), logging.getLogger("sync")
    handlers, levels, configuration = root.handlers[:], (root.level, ours.level), structlog.get_config()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        ours.setLevel(levels[1])
        structlog.configure(**configuration)
