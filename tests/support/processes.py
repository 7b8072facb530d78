"""Real Python processes without the half second of imports: each is forked from one that has imported the product.

`python -m tests.support.processes FD` is that one; it has a single thread, does nothing but fork, and ends with its socket.
What an interpreter reads of its environment when it starts (PYTHON…) is that one's: a test of it starts its own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent.parent
# What `python -m sync` imports at once, and what its commands import later.
IMPORTED = (
    "sync.demo.commands",
    "sync.operations.worker",
    "sync.cli.show",
    "psycopg2.extras",
    "sqlalchemy.dialects.postgresql.psycopg2",
)
CHUNK = 1 << 16
ONE_AT_A_TIME = threading.Lock()
PID = 4  # bytes of a process's number


class Process:
    """A process that goes on: what tests use of `subprocess.Popen`, for one that is not our child."""

    def __init__(self, arguments: Sequence[str], pid: int, status: int, stdout: IO[str] | None) -> None:
        self.args, self.pid, self.stdout = list(arguments), pid, stdout
        self.returncode: int | None = None
        self._status = status

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        """The exit code, once there is one; minus the signal that ended it."""
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 32) or b"1")
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that is still to be read of its output; TimeoutExpired when it goes on for longer."""
        output: list[str] = []

        def read() -> None:
            if self.stdout is not None and not self.stdout.closed:
                with self.stdout as printed:
                    output.append(printed.read())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(timeout)
        return "".join(output), None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path = ROOT) -> Process:
    """`python -m ARGUMENTS…`, its output and its errors together in one pipe."""
    reading, writing = os.pipe()
    try:
        pid, status = fork(arguments, environment, cwd, writing, writing)
    finally:
        os.close(writing)
    return Process(arguments, pid, status, os.fdopen(reading, encoding="utf-8"))


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path = ROOT,
    timeout: float = 90,
    stdout: IO[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """`python -m ARGUMENTS…` until it ends; TimeoutExpired, and killed, when it takes longer than the seconds.

    With `stdout` its output goes there, and is not in what is returned.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as stderr:
        pid, status = fork(arguments, environment, cwd, (stdout or output).fileno(), stderr.fileno())
        process = Process(arguments, pid, status, None)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        printed = []
        for stream in (output, stderr):
            stream.seek(0)
            printed.append(stream.read().decode())
    return subprocess.CompletedProcess(process.args, code, *printed)


def fork(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, stdout: int, stderr: int
) -> tuple[int, int]:
    """A new process: its pid, and the pipe on which its exit code will come."""
    reading, writing = os.pipe()
    try:
        request = json.dumps([list(arguments), dict(environment), str(cwd)])
        with ONE_AT_A_TIME:
            socket.send_fds(server(), [request.encode() + b"\n"], [stdout, stderr, writing])
            os.close(writing)
            pid = os.read(reading, PID)
    except BaseException:
        os.close(reading)
        raise
    if not pid:
        os.close(reading)
        raise RuntimeError("the server that forks the tests' processes has ended: see its error above")
    return int.from_bytes(pid, "big"), reading


@cache
def server() -> socket.socket:
    """The connection to this test process's own server; it ends when the connection does."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# ── the server ────────────────────────────────────────────────────────────────────────────────────────


def serve(descriptor: int) -> None:
    """Fork for each request. Returns in the server when its client has gone; in a process, ends as it ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what was imported stays shared between the processes
    signal.signal(signal.SIGCHLD, reap)
    with socket.socket(fileno=descriptor) as requests:
        while True:
            request, descriptors, *_ = socket.recv_fds(requests, CHUNK, 3)
            if not request:
                return
            while not request.endswith(b"\n"):  # one request at a time: its client waits for the pid
                request += requests.recv(CHUNK)
            if os.fork() == 0:
                requests.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                arguments, environment, cwd = json.loads(request)
                become(arguments, environment, cwd, descriptors)
                return
            for each in descriptors:
                os.close(each)


def reap(*_: object) -> None:
    """Take note of all that have ended, so that their time counts as ours."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def become(arguments: list[str], environment: dict[str, str], cwd: str, descriptors: list[int]) -> None:
    """The parent waits and says how its child ended; the child is what `python -m ARGUMENTS…` would be."""
    stdout, stderr, status = descriptors
    if pid := os.fork():
        os.write(status, pid.to_bytes(PID, "big"))
        _, how = os.waitpid(pid, 0)
        os.write(status, str(os.waitstatus_to_exitcode(how)).encode())
        os._exit(0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for each in descriptors:
        os.close(each)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(cwd)
    sys.argv[:] = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
