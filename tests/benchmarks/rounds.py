"""What is done at one size, in which order: limit, product, scripts, a slow Salesforce."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import requests

from tests.benchmarks import limit, others, worker
from tests.benchmarks.database import Server
from tests.benchmarks.measure import (
    CHANGED,
    COPY,
    DOWNLOAD,
    FIRST,
    FULL,
    LIMIT,
    PLAIN,
    REST,
    SCRIPTS,
    SLOW,
    START,
    FailedError,
    Findings,
    Measurement,
    process,
)
from tests.benchmarks.org import Org, simulator
from tests.benchmarks.show import progress, seconds

LATENCY = 0.3  # seconds that a call to the slow Salesforce waits
STARTS = 3  # start-ups measured; the fastest counts
COUNT = "SELECT (SELECT count(*) FROM account) + (SELECT count(*) FROM contact)"


@dataclass(frozen=True, slots=True)
class Bench:
    """A server, a folder for large files, what to do, and what was found."""

    server: Server
    folder: Path
    findings: Findings
    transports: tuple[str, ...]
    rounds: int = 1
    scripts_at: int = 0
    patience: float = 300
    slow_at: int = 0

    # ── every step ──

    def found(self, one: Measurement) -> Measurement:
        """Keep and tell a measurement."""
        self.findings.add(one)
        progress(one, self.findings)
        which = f"{one.what} by {one.transport} at {one.contacts:,}"
        if one.stood_still:
            stopped = f"{one.stood_still:.0f} of {one.seconds:.0f} s"
            self.note(f"{which}: everything was stopped from outside for {stopped}; measure it again")
        for warning in one.warnings:
            self.note(f"{which}: {warning}")
        return one

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Go on with the others when one part fails; it is told at the end."""
        try:
            yield
        except (RuntimeError, requests.RequestException, subprocess.CalledProcessError) as error:
            self.note(f"{what} FAILED: {error}")

    def note(self, text: str) -> None:
        print(f"! {text}", flush=True)
        self.findings.notes.append(text)

    def scripts(self) -> list[str]:
        """The scripts that can be run here, if any shall."""
        return [what for what in SCRIPTS if self.scripts_at and not others.missing(what)]

    # ── the parts ──

    def start_ups(self) -> None:
        """What each process takes on an empty org."""
        for what in SCRIPTS if self.scripts_at else ():
            if missing := others.missing(what):
                self.note(f"{what} was left out: {missing} is not installed (`make bench` does)")
        with simulator(0, 0) as org:
            taken = []
            for _ in range(STARTS):
                with self.server.database() as database:
                    environment = worker.settings(org, database, REST)
                    taken.append(process(["sync", "run"], environment).seconds)
            self.findings.startup[START] = min(taken)
            for what in self.scripts():
                taken = []
                with self.noting(f"start-up of {what}"):
                    for _ in range(STARTS):
                        with self.server.database() as database:
                            taken.append(others.run(what, org, database).seconds)
                    self.findings.startup[what] = min(taken)
        for what, took in self.findings.startup.items():
            print(f"start-up: {what if what in SCRIPTS else 'sync run'}, {took:.2f} s", flush=True)

    def at(self, contacts: int) -> None:
        """Everything at one size."""
        print(f"\n{contacts:,} contacts, {contacts // 5:,} accounts", flush=True)
        with simulator(contacts // 5, contacts) as org:
            for _ in range(self.rounds):
                for transport in self.transports:
                    with self.noting(f"{transport} at {contacts:,}"):
                        self.product(org, contacts, transport)
                    # So that no pass finds what an earlier one changed among the latest ten minutes.
                    org.change_a_tenth("Contact", timedelta(hours=2))
                if contacts == self.slow_at and REST in self.transports:
                    with self.noting(f"{SLOW} at {contacts:,}"):
                        self.slow(org, contacts)
                for what in self.scripts() if contacts <= self.scripts_at else ():
                    with self.noting(f"{what} at {contacts:,}"):
                        self.compare(what, org, contacts)

    def product(self, org: Org, contacts: int, transport: str) -> None:
        """The limit of one transport, and the product beside it."""
        rows = sum(org.look("count", object=name) for name in ("Account", "Contact"))

        def took(what: str, spent: float) -> Measurement:
            return Measurement(what, contacts, transport, rows, spent)

        with self.server.database() as database:
            environment = worker.settings(org, database, transport)

            def ours(what: str, command: str) -> Measurement:
                return worker.measured(
                    what, command, environment, database, contacts=contacts, transport=transport
                )

            downloaded = limit.download(org, transport)
            first = ours(FIRST, "run")
            copied = limit.copy(database, self.folder)
            self.found(took(DOWNLOAD, downloaded))
            self.found(took(COPY, copied))
            self.found(took(LIMIT, downloaded + copied))
            self.found(first)
            if first.rows != rows:
                raise FailedError(f"{first.rows:,} rows were read of {rows:,}")
            self.found(ours(FULL, "resync --full"))
            self.found(ours(PLAIN, "run"))
            org.change_a_tenth("Contact")
            self.found(ours(CHANGED, "run"))

    def slow(self, org: Org, contacts: int) -> None:
        """A first load from a Salesforce that lets every call wait."""
        with self.server.database() as database:
            environment = worker.settings(org, database, REST)
            org.control("options", latency=LATENCY)
            try:
                self.found(
                    worker.measured(SLOW, "run", environment, database, contacts=contacts, transport=REST)
                )
            finally:
                org.control("options", latency=0)

    def compare(self, what: str, org: Org, contacts: int) -> None:
        """What users write, unless it would take too long."""
        known = [
            cost
            for size in self.findings.sizes(what, REST)
            if size < contacts and (cost := self.findings.per_row(what, size, REST)) is not None
        ]
        expected = known[-1] * contacts * 1.2 if known else 0.0
        if expected > self.patience:
            self.note(
                f"{what} was left out at {contacts:,} contacts: it would take about {seconds(expected)}; "
                "compare it per row"
            )
            return
        with self.server.database() as database:
            done = others.run(what, org, database)
            rows = int(database.ask(COUNT))
            self.found(
                Measurement(
                    what,
                    contacts,
                    REST,
                    rows,
                    done.seconds,
                    cpu=done.cpu,
                    peak_mb=done.peak_mb,
                    stood_still=done.stood_still,
                    memory=done.memory,
                )
            )
