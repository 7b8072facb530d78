"""How findings are printed: a line for each as it comes, and the tables at the end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tests.benchmarks.measure import CHANGED, PLAIN, SLOW, Findings, Measurement

COLUMNS = (
    "contacts",
    "by",
    "what",
    "rows",
    "seconds",
    "rows/s",
    "µs/row",
    "× limit",
    "CPU s",
    "peak MB",
    "written",
    "feed",
)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: numbers to the right, words to the left."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    right = [
        bool(rows) and all(numeric(row[place]) for row in rows) and any(row[place] for row in rows)
        for place in range(len(columns))
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [columns, ["─" * width for width in widths], *rows]
    ]
    return "\n".join(lines)


def numeric(cell: str) -> bool:
    return re.fullmatch(r"([\d.,]+( ×| MB)?|-)?", cell) is not None


def seconds(value: float) -> str:
    """A duration as people say it."""
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"


def optional(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def cells(one: Measurement, findings: Findings) -> list[str]:
    """A measurement as a row of the table of results."""
    limit = findings.limit(one.contacts, one.transport)
    # The limit is that of all rows, from a Salesforce that answers at once.
    ratio = one.seconds / limit if limit and one.what not in (PLAIN, CHANGED, SLOW) else None
    cost = findings.per_row(one.what, one.contacts, one.transport)
    return [
        f"{one.contacts:,}",
        one.transport,
        one.what,
        f"{one.rows:,}",
        f"{one.seconds:.2f}",
        f"{one.rows / one.seconds:,.0f}" if one.rows else "",
        f"{cost * 1e6:.1f}" if cost is not None else "",
        optional(ratio, ".2f"),
        optional(one.cpu, ".2f"),
        optional(one.peak_mb, ".0f"),
        optional(one.written, ","),
        optional(one.feed, ","),
    ]


def progress(one: Measurement, findings: Findings) -> None:
    """A line about what was just measured."""
    by_name = dict(zip(COLUMNS, cells(one, findings), strict=True))
    parts = [f"{one.transport:4} {one.what:25} {one.seconds:8.2f} s"]
    units = {"rows/s": "rows/s", "× limit": "× limit", "peak MB": "MB", "written": "written"}
    parts += [f"{by_name[name]} {unit}" for name, unit in units.items() if by_name[name]]
    print(", ".join(parts), flush=True)


def results(findings: Findings) -> str:
    """The table of results."""
    return table(COLUMNS, [cells(one, findings) for one in findings.measurements])


EXPLANATIONS = (
    "× limit: seconds by those of the limit, which is the same pages downloaded one after the other and thrown",
    "away, then the same rows put into an identical keyed table by psql. µs/row: without the process's start-up",
    "(of each its own, on an empty org); by it scripts and product are compared, at the largest size of both.",
    "The scripts upsert in one transaction for each object; they keep no feed, tombstones, derived columns or",
    "lookup indexes. The worker runs with MALLOC_ARENA_MAX=2, as it is deployed.",
)
