"""What is measured over the year, what is printed of it, and the JSON from which the chart is drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

MB = 1 << 20
# Partitions count for their table.
SIZES = text("""
SELECT CASE WHEN n.nspname = 'sync' AND c.relname LIKE 'change\\_%' THEN 'sync.change'
            WHEN n.nspname = 'salesforce' OR c.relname = 'run' THEN n.nspname || '.' || c.relname
            ELSE 'sync, the rest' END AS name,
       sum(pg_table_size(c.oid))::bigint AS tables, sum(pg_indexes_size(c.oid))::bigint AS indexes
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname IN ('salesforce', 'sync') AND c.relkind = 'r'
 GROUP BY 1 ORDER BY 1
""")
TOMBSTONES = text("""
SELECT (SELECT count(*) FROM salesforce.account WHERE deleted_at IS NOT NULL)
     + (SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NOT NULL)
""")
QUARTER = 91  # days
Sizes = dict[str, tuple[int, int]]


@dataclass
class Day:
    """One day: calls, sizes as (table, indexes) in bytes, memory in MB, and the worst lag after a pass."""

    number: int
    calls: int = 0
    sizes: Sizes = field(default_factory=dict)
    tombstones: int = 0
    memory: float | None = None
    lag_minutes: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Measures:
    """All days, and what was counted over all of them."""

    options: dict[str, Any] = field(default_factory=dict)
    days: list[Day] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def note_sizes(self, engine: Engine) -> None:
        with engine.connect() as connection:
            found = connection.execute(SIZES).all()
            self.days[-1].sizes = {row.name: (row.tables, row.indexes) for row in found}
            self.days[-1].tombstones = connection.execute(TOMBSTONES).scalar_one()

    def bookkeeping(self, day: Day) -> int:
        """The bytes of schema sync."""
        return sum(sum(both) for name, both in day.sizes.items() if name.startswith("sync"))

    def write(self, file: Path) -> None:
        """Write everything as JSON, a line for each day."""
        file.parent.mkdir(parents=True, exist_ok=True)
        days = ",\n".join(json.dumps(asdict(day)) for day in self.days)
        rest = {"options": self.options, "counts": self.counts, "seconds": self.seconds}
        head = json.dumps(rest, ensure_ascii=False, indent=1)[:-2]
        file.write_text(f'{head},\n "days": [\n{days}\n]\n}}\n')


def read(file: Path) -> Measures:
    """Read what `write` has written."""
    content = json.loads(file.read_text())
    days = [Day(**day) for day in content.pop("days")]
    return Measures(days=days, **content)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def spread(values: Sequence[float], unit: str, form: str) -> str:
    """p50, p99 and the worst, as text; `form` is the format of a number."""
    shown = (percentile(values, 0.5), percentile(values, 0.99), max(values, default=0))
    return ", ".join(
        f"{name} {value:,{form}} {unit}".rstrip()
        for name, value in zip(("p50", "p99", "worst"), shown, strict=True)
    )


def summary(measures: Measures) -> str:
    """What the year was like, as lines."""
    days, counts = measures.days, dict(measures.counts)
    lags = [lag for day in days for lag in day.lag_minutes]
    seconds = [second for day in days for second in day.seconds]
    memory = [day.memory for day in days if day.memory is not None]
    calls = [float(day.calls) for day in days]
    lines = [
        f"{len(days)} days, {len(seconds):,} passes in {measures.seconds / 60:.1f} minutes",
        f"lag after a pass, of the org's time: {spread(lags, 'min', '.1f')}",
        f"a pass, in real time: {spread(seconds, 's', '.2f')}",
        f"API calls a day: {spread(calls, '', '.0f')}",
    ]
    if memory:
        lines.append(
            f"memory of the worker: {memory[0]:.1f} MB on the first day, {memory[-1]:.1f} MB on the last"
        )
    lines += [f"{name}: {value}" for name, value in counts.items()]
    return "\n".join([*lines, "", *size_table(days)])


def size_table(days: Sequence[Day]) -> list[str]:
    """Table and index sizes at the end of each quarter."""
    ends = sorted({min(number, len(days)) for number in range(QUARTER, len(days) + QUARTER, QUARTER)})[:5]
    if len(ends) == 5:
        ends = [*ends[:3], ends[4]]  # the last quarter has a day or two more
    names = sorted({name for day in days for name in day.sizes})
    title = f"{'MB: table + indexes':20}" + "".join(f"{f'day {end}':>16}" for end in ends)
    lines = [title]
    for name in names:
        cells = [days[end - 1].sizes.get(name, (0, 0)) for end in ends]
        shown = "".join(f"{f'{table / MB:.2f} + {index / MB:.2f}':>16}" for table, index in cells)
        lines.append(f"{name:20}{shown}")
    tombstones = "".join(f"{days[end - 1].tombstones:>16,}" for end in ends)
    return [*lines, f"{'tombstones':20}{tombstones}"]
