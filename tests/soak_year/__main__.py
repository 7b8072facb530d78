"""A year of events in half an hour: `make soak-year`, or `make soak-year ARGS="--days 20"`.

The simulated org, PostgreSQL and the clock of both, a worker's process, a consumer and a receiver of alerts run on
this machine. What does not hold at the end is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.demo import embedded
from sync.logs import logger
from tests.soak_year import chart
from tests.soak_year.checks import Check
from tests.soak_year.measures import Measures, read, summary
from tests.soak_year.year import Options, Year, year
from tests.support.databases import administer, server
from tests.support.receiver import receiver
from tests.support.world import ROOT

PUBLISHED = ROOT / "docs" / "benchmarks"
NAME = "soak_year"
# Of half an hour: what autovacuum looks at each minute, it would look at but once in twelve days.
OFTEN = "ALTER SYSTEM SET autovacuum = on", "ALTER SYSTEM SET autovacuum_naptime = '1s'"
SHOWN_EACH = 30.0  # seconds


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak_year", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--days", type=int, default=365, help="days of the org's time (365)")
    add("--passes", type=int, default=20, help="passes a day (20)")
    add("--seed", type=int, default=1, help="another year (1)")
    add("--results", type=Path, default=ROOT / "soak-results", help="folder for results (soak-results)")
    add("--chart", action="store_true", help="only draw the chart, of the results that are there")
    add("--publish", action="store_true", help="write the results and the chart to docs/benchmarks")
    return parser.parse_args(arguments)


def live(given: argparse.Namespace) -> tuple[Measures, list[Check]]:
    """Live the days that are asked for; what was measured, and what must hold."""
    log = given.results / "worker.log"
    log.unlink(missing_ok=True)
    with ExitStack() as stack:
        url = stack.enter_context(server())
        alerts = stack.enter_context(receiver())
        administer(url, *OFTEN, "SELECT pg_reload_conf()", f"CREATE DATABASE {NAME}")
        stack.callback(administer, url, f"DROP DATABASE {NAME} WITH (FORCE)")
        database = make_url(url).set(database=NAME).render_as_string(hide_password=False)
        embedded.migrate(create_engine(database, poolclass=NullPool))
        asked = Options(given.days, given.passes, given.seed)
        lived = stack.enter_context(year(asked, database, alerts.url, str(log)))
        lived.on_day = Progress(lived)
        try:
            found = lived.run()
        finally:
            lived.measures.counts["alerts"] = f"{len(alerts.messages)} messages"
            lived.measures.write(given.results / "year.json")
        return lived.measures, found


class Progress:
    """A line now and then of how far the year is."""

    def __init__(self, lived: Year) -> None:
        self.lived, self.shown = lived, time.monotonic()

    def __call__(self, day: int) -> None:
        if time.monotonic() - self.shown > SHOWN_EACH:
            self.shown = time.monotonic()
            print(f"day {day}, after {self.lived.measures.seconds / 60:.1f} minutes", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Live a year, or draw one; return 1 if something does not hold."""
    given = options(arguments)
    given.results = given.results.resolve()
    given.results.mkdir(parents=True, exist_ok=True)
    found: list[Check] = []
    if given.chart:
        measures = read(given.results / "year.json")
    else:
        logger.setup("error", "logfmt")
        measures, found = live(given)
        print(summary(measures))
        print(*found, sep="\n")
    folder = PUBLISHED if given.publish else given.results
    if given.publish:
        measures.write(PUBLISHED / "year.json")
    chart.draw(measures, folder / "year.svg")
    return 0 if all(check.holds for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
