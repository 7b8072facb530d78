"""What is measured: one command or download, its rows, its seconds; and all that one benchmark found."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks import watch
from tests.support.world import ROOT

REST, BULK = "REST", "Bulk"
TRANSPORTS = (REST, BULK)
# What is measured, whatever else a team has declared.
OBJECTS = ("Account", "Contact")

# The names of measurements, as they are printed.
DOWNLOAD, COPY = "simulator alone: download", "psql \\copy"
LIMIT = "limit: download + \\copy"
FIRST, FULL, PLAIN, CHANGED = "first load", "resync --full, unchanged", "run, unchanged", "run, 10 % changed"
SLOW = "first load, 300 ms a call"
ROW_BY_ROW, VALUES, PANDAS = "script: row by row", "script: execute_values", "script: pandas to_sql"
SCRIPTS = {ROW_BY_ROW: "row_by_row", VALUES: "execute_values", PANDAS: "pandas_to_sql"}
START = "start-up"  # of a command: what it takes on an empty org


# What the product warns of, but for the fields that no simulated org shows.
NEWS = re.compile(r"level=(warning|error) event=(?!fields_hidden)")


class FailedError(RuntimeError):
    """A measured command did not end well."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing done once at one size; memory over time as (seconds, MB)."""

    what: str
    contacts: int
    transport: str
    rows: int
    seconds: float
    cpu: float | None = None
    peak_mb: float | None = None
    written: int | None = None
    feed: int | None = None
    calls: dict[str, int] | None = None
    stood_still: float = 0.0  # seconds for which everything was stopped
    memory: list[tuple[float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of the product's log


@dataclass(slots=True)
class Findings:
    """All that was measured; of what was done several times the fastest, with the largest peak of all."""

    measurements: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    startup: dict[str, float] = field(default_factory=dict)  # seconds on an empty org, by measurement

    def add(self, found: Measurement) -> None:
        before = self.get(found.what, found.contacts, found.transport)
        if before is None:
            self.measurements.append(found)
            return
        worst = {
            name: max(values)
            for name in ("peak_mb", "written", "feed")
            if None not in (values := (getattr(before, name), getattr(found, name)))
        }
        best = replace(min(before, found, key=lambda one: one.seconds), **worst)
        self.measurements[self.measurements.index(before)] = best

    def get(self, what: str, contacts: int, transport: str) -> Measurement | None:
        for one in self.measurements:
            if (one.what, one.contacts, one.transport) == (what, contacts, transport):
                return one
        return None

    def sizes(self, what: str, transport: str) -> list[int]:
        """The sizes at which something was measured, the smallest first."""
        return sorted(m.contacts for m in self.measurements if (m.what, m.transport) == (what, transport))

    def limit(self, contacts: int, transport: str) -> float | None:
        """The seconds of the limit at a size."""
        found = self.get(LIMIT, contacts, transport)
        return found.seconds if found else None

    def per_row(self, what: str, contacts: int, transport: str) -> float | None:
        """Seconds per row, without the start-up of the process where it was one; None where less is left than
        can be told from it."""
        found = self.get(what, contacts, transport)
        if found is None or not found.rows:
            return None
        own = what if what in SCRIPTS else START
        start = 0.0 if what in (DOWNLOAD, COPY, LIMIT) else self.startup.get(own, 0.0)
        return (found.seconds - start) / found.rows if found.seconds > start else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a process printed and took."""

    output: str
    seconds: float
    cpu: float
    peak_mb: float
    stood_still: float
    memory: list[tuple[float, float]]
    warnings: list[str]

    @property
    def table(self) -> list[dict[str, str]]:
        """The tab-separated table that it printed, by column."""
        lines = [line.split("\t") for line in self.output.splitlines() if "\t" in line]
        return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def process(arguments: Sequence[str], settings: Mapping[str, str]) -> Outcome:
    """Run `python -m …` to its end with these settings and nothing else of the machine's; FailedError if it
    does not end well."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [sys.executable, watch.__file__, str(report), sys.executable, "-m", *arguments],
            env={**kept, **settings},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        said = "\n".join(done.stderr.splitlines()[-10:])
        if done.returncode:
            raise FailedError(f"{' '.join(arguments)} could not be watched:\n{said}")
        found = json.loads(report.read_text())
    if found["code"]:
        raise FailedError(f"{' '.join(arguments)} ended with {found['code']}:\n{said}")
    return Outcome(
        output=done.stdout,
        seconds=found["seconds"],
        cpu=found["cpu"],
        peak_mb=found["peak_mb"],
        stood_still=found["stood_still"],
        memory=[(float(at), float(held)) for at, held in found["memory"]],
        warnings=[line for line in done.stderr.splitlines() if NEWS.search(line)],
    )


def number(cell: str) -> int:
    """A count as the product prints it."""
    return int(cell.replace(",", ""))


def counts(table: Sequence[Mapping[str, str]], *columns: str) -> Iterator[int]:
    """The sum of some columns, row by row."""
    return (sum(number(row[column]) for column in columns) for row in table)
