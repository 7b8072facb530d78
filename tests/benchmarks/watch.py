"""Runs one command, and writes down as JSON what it took: `watch.py REPORT COMMAND ARGUMENT…`.

A process of its own, and one that imports little: on Linux the peak that the kernel reports of a process
begins with that of its parent, and the benchmark itself may be larger than the worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

INTERVAL = 0.2  # seconds between two looks at the memory
LONG = 1.0  # seconds by which a look may be late
TO_MB = 1 / 2**20 if sys.platform == "darwin" else 1 / 2**10  # of ru_maxrss


def resident(pid: int) -> float | None:
    """The memory that a process holds now, in MB; None when it has ended, and where there is no /proc."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return None


def watch(command: list[str]) -> dict[str, object]:
    """Run a command to its end: exit code, seconds, CPU seconds, peak in MB, and its memory over time.

    `stood_still` are the seconds for which this process, which does nothing but look, could not: somebody
    stopped it, or the whole machine, and what was measured meanwhile is worth nothing.
    """
    memory: list[tuple[float, float]] = []
    gaps: list[float] = []
    ended = threading.Event()
    started = time.monotonic()
    process = subprocess.Popen(command)

    def sample() -> None:
        looked = started
        while not ended.wait(INTERVAL):
            now = time.monotonic()
            gaps.append(now - looked - INTERVAL)
            looked = now
            if (held := resident(process.pid)) is not None:
                memory.append((round(now - started, 2), round(held, 1)))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    ended.set()
    sampler.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "code": process.returncode,
        "seconds": seconds,
        "stood_still": sum(gap for gap in gaps if gap > LONG),
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss * TO_MB,
        "memory": memory,
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(watch(sys.argv[2:])))
