"""The benchmark: the product against what this machine allows, and against what users write today.

`make bench`, or `make bench ARGS="--contacts 10000,100000"`. Simulator, PostgreSQL, worker and scripts run as
processes of their own on one machine; what counts are the ratios. A missed bar is said, and is no failure.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import charts, machine, show
from tests.benchmarks.bars import bars, printed
from tests.benchmarks.database import server
from tests.benchmarks.measure import TRANSPORTS, Findings
from tests.benchmarks.rounds import Bench
from tests.support.world import ROOT

PUBLISHED = ROOT / "docs" / "benchmarks"


def sizes(text: str) -> list[int]:
    return sorted({int(part.replace("_", "")) for part in text.split(",")})


def transports(text: str) -> tuple[str, ...]:
    known = {name.lower(): name for name in TRANSPORTS}
    wanted = [part.strip().lower() for part in text.split(",")]
    if unknown := set(wanted) - set(known):
        raise argparse.ArgumentTypeError(f"no transport {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(known[name] for name in wanted)


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add(
        "--contacts",
        type=sizes,
        default=[10_000, 100_000, 1_000_000],
        help="sizes, with commas; a fifth as many accounts (10000,100000,1000000)",
    )
    add("--transports", type=transports, default=TRANSPORTS, help="rest, bulk or both (rest,bulk)")
    add("--rounds", type=int, default=1, help="how often limit and product are measured; the best counts (1)")
    add(
        "--scripts-at",
        type=int,
        default=100_000,
        help="the largest size at which the scripts run; 0: none (100000)",
    )
    add(
        "--patience",
        type=float,
        default=300,
        help="seconds beyond which a script is left out at a larger size (300)",
    )
    add(
        "--slow-at",
        type=int,
        default=100_000,
        help="the size read with 300 ms a call, or else the next smaller one; 0: none (100000)",
    )
    add("--database-url", help="a server whose user may create databases (an embedded one)")
    add("--results", type=Path, default=ROOT / "bench-results", help="folder for results (bench-results)")
    add(
        "--publish",
        action="store_true",
        help="copy them to docs/benchmarks",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    findings, facts = Findings(), machine.machine()
    given.results = given.results.resolve()
    given.results.mkdir(parents=True, exist_ok=True)
    with server(given.database_url) as postgres, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        facts |= {f"postgres {name}": value for name, value in postgres.facts.items()}
        print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
        bench = Bench(
            postgres,
            Path(folder),
            findings,
            given.transports,
            rounds=given.rounds,
            scripts_at=given.scripts_at,
            patience=given.patience,
            slow_at=max((size for size in given.contacts if size <= given.slow_at), default=0),
        )
        bench.start_ups()
        for contacts in given.contacts:
            bench.at(contacts)
            write(findings, facts, given)  # so that nothing is lost if a larger size fails
    judged = bars(findings)
    print(f"\n{show.results(findings)}\n\n" + "\n".join(show.EXPLANATIONS))
    print(f"\n{printed(judged)}\n")
    for note in findings.notes:
        print(f"! {note}")
    missed = sum(bar.verdict == "NOT REACHED" for bar in judged)
    measured = sum(bar.value is not None for bar in judged)
    print(
        f"{measured - missed} of {len(judged)} bars reached, {missed} missed, {len(judged) - measured} not measured"
    )
    files = [write(findings, facts, given), *charts.draw(findings, given.results)]
    if given.publish:
        PUBLISHED.mkdir(parents=True, exist_ok=True)
        files += [Path(shutil.copy(file, PUBLISHED)) for file in files]
    print(
        "\n".join(
            f"written: {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}" for file in files
        )
    )


def write(findings: Findings, facts: dict[str, str], given: argparse.Namespace) -> Path:
    """All that was found, as JSON."""
    asked = ("contacts", "transports", "rounds", "scripts_at", "patience", "slow_at")
    file: Path = given.results / "benchmark.json"
    content = {
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": facts,
        "options": {name: getattr(given, name) for name in asked},
        **findings.as_json(),
        "bars": [asdict(bar) | {"verdict": bar.verdict} for bar in bars(findings)],
    }
    items = ",\n".join(f'"{name}": {as_json(value)}' for name, value in content.items())
    file.write_text(f"{{\n{items}\n}}\n")
    return file


def as_json(value: object) -> str:
    """JSON with a line for each item of a list, so that versions can be compared."""
    if not isinstance(value, list) or not value:
        return json.dumps(value, ensure_ascii=False)
    return "[\n " + ",\n ".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n]"


if __name__ == "__main__":
    main()
