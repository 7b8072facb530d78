"""First sync, unchanged repeat and ten percent changed: rows/s and the worker's peak memory.

`make bench ARGS="--contacts 100000"`. The simulator, PostgreSQL and the product run as processes of their
own; memory is the product's own, as the kernel counts it (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import requests
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync import embedded
from tests.world import ROOT


@contextmanager
def simulator(accounts: int, contacts: int) -> Iterator[dict[str, str]]:
    """A simulated org in its own process; the settings to use it."""
    size = ["--accounts", str(accounts), "--contacts", str(contacts)]
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "sync", "simulator", "--port", "0", *size],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    settings: dict[str, str] = {}
    for line in process.stdout:
        if found := re.search(r"export (\w+)='(.*)'", line):
            settings[found[1]] = found[2]
        if "SALESFORCE_CLIENT_SECRET" in settings and "REQUESTS_CA_BUNDLE" in settings:
            break
    try:
        yield settings
    finally:
        process.terminate()
        process.wait(20)


def measured(settings: Mapping[str, str], *arguments: str) -> tuple[float, float, list[list[str]]]:
    """Run a command; seconds, peak memory in MB, and the tab-separated lines it printed."""
    environment = {"PATH": os.environ["PATH"], **settings}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "sync", *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    lines = [line.rstrip("\n").split("\t") for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{arguments} ended with {process.returncode}"
    return time.monotonic() - started, usage.ru_maxrss / 1024, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contacts", type=int, default=100_000)
    size = parser.parse_args().contacts
    accounts = size // 5
    results = []
    with embedded.postgres() as url, simulator(accounts, size) as org:
        engine = create_engine(make_url(url).set(drivername="postgresql+psycopg2"), poolclass=NullPool)
        embedded.migrate(engine)
        settings = {"DATABASE_URL": url, **org}
        control = f"{org['SALESFORCE_LOGIN_URL']}/simulator"
        assert requests.get(f"{control}/requests", verify=org["REQUESTS_CA_BUNDLE"], timeout=30).ok
        for name, arguments in (
            ("first sync", ["run"]),
            ("unchanged pass", ["run"]),
            ("full resync, nothing changed", ["resync", "--full"]),
        ):
            seconds, peak, lines = measured(settings, *arguments)
            read = sum(int(line[1].replace(",", "")) for line in lines[1:])
            results.append({"what": name, "rows": read, "seconds": round(seconds, 1), "peak_mb": round(peak)})
            rate = f"{read / seconds:,.0f} rows/s" if read else "-"
            print(f"{name:30} {read:>9,} rows {seconds:7.1f} s {rate:>16} {peak:6.0f} MB", flush=True)
    print(json.dumps(results))


main()
