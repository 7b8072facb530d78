"""What must hold at the end of the year."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy import Engine, text

from sync.postgres import tables
from sync.simulator import Simulator
from tests.soak_year.consumer import OBJECTS
from tests.soak_year.measures import Day, Measures
from tests.support.world import compare

# Days after which nothing more is kept than before: failed runs are kept longest.
FLAT_AFTER = 130
MONTH = 30
FLAT = 1.15  # the last month against the first one after FLAT_AFTER
PER_TOMBSTONE = 1_000  # bytes, with indexes and the room that updates leave
WARM = 7  # days after which memory is compared
MEMORY = 1.10


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and what does not (None: too short a soak to tell)."""

    name: str
    problems: Sequence[str] | None

    @property
    def holds(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.problems is None:
            return f"not measured  {self.name}"
        shown = "; ".join(self.problems[:5]) + (f"; … {len(self.problems)}" if len(self.problems) > 5 else "")
        return f"{'ok    ' if self.holds else 'FAILED'}        {self.name}{': ' + shown if shown else ''}"


def differences(engine: Engine, org: Simulator) -> Iterator[str]:
    """What differs between the org and the tables, value by value."""
    for name in OBJECTS:
        with tables.transaction(engine) as connection:
            found = connection.execute(tables.REPLICA[name].select()).mappings()
            rows = {row["id"]: dict(row) for row in found}
        live = {id_ for id_, row in rows.items() if row["deleted_at"] is None}
        expected = {record["Id"]: record for record in org.org.records(name, deleted=False)}
        yield from (f"{id_} is live in one of them alone" for id_ in sorted(live ^ set(expected)))
        for id_ in sorted(live & set(expected)):
            if different := compare(expected[id_], rows[id_], set()):
                yield f"{id_}: {different}"


def flat(measures: Measures) -> list[str] | None:
    """Whether the bookkeeping grows no more, and the replicas by their tombstones alone."""
    days = measures.days
    if len(days) < FLAT_AFTER + 2 * MONTH:
        return None
    first, last = days[FLAT_AFTER : FLAT_AFTER + MONTH], days[-MONTH:]
    problems = []
    before = fmean(measures.bookkeeping(day) for day in first)
    after = fmean(measures.bookkeeping(day) for day in last)
    if after > before * FLAT:
        problems.append(f"schema sync has {after / before:.2f} times its size of day {FLAT_AFTER}")
    grown = fmean(map(replicas, last)) - fmean(map(replicas, first))
    more = fmean(day.tombstones for day in last) - fmean(day.tombstones for day in first)
    if grown > max(more * PER_TOMBSTONE, 1 << 19):
        problems.append(f"the replicas have grown by {grown:,.0f} bytes for {more:,.0f} tombstones")
    return problems


def replicas(day: Day) -> int:
    return sum(sum(both) for name, both in day.sizes.items() if name.startswith("salesforce."))


def memory(measures: Measures) -> list[str] | None:
    """Whether the worker holds no more at the end than after a week."""
    known = [day.memory for day in measures.days if day.memory is not None]
    if len(known) < 3 * WARM:
        return None
    start, end = fmean(known[WARM - 3 : WARM + 4]), fmean(known[-WARM:])
    return [f"{start:.1f} MB, at the end {end:.1f} MB"] if end > start * MEMORY else []


OPEN = text("SELECT kind || ' ' || object FROM sync.incident WHERE closed_at IS NULL ORDER BY id")


def open_incidents(engine: Engine) -> list[str]:
    """The incidents that are open although all is well."""
    with engine.connect() as connection:
        return [str(row[0]) for row in connection.execute(OPEN)]
