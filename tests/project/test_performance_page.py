"""docs/performance.md against the published measurements."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.benchmarks.measure import (
    BULK,
    CHANGED,
    FIRST,
    FULL,
    LIMIT,
    PANDAS,
    PLAIN,
    REST,
    ROW_BY_ROW,
    SLOW,
    VALUES,
)
from tests.project.pages import ROOT, rows, section

PAGE = "docs/performance.md"
# The measurement of each row of the table, by the beginning of what the row says.
MEASURED = {
    "limit": LIMIT,
    "first load": FIRST,
    "`resync --full`": FULL,
    "`run`, 10 % changed": CHANGED,
    "script: `query_all_iter`, `execute_values`": VALUES,
    "script: `query_all_iter`, SQLAlchemy": ROW_BY_ROW,
    "script: pandas": PANDAS,
}
PUBLISHED = json.loads((ROOT / "docs" / "benchmarks" / "benchmark.json").read_text())


def measured(what: str, contacts: int, transport: str) -> dict[str, Any] | None:
    """One published measurement; None where it was not made."""
    found = [
        one
        for one in PUBLISHED["measurements"]
        if (one["what"], one["contacts"], one["transport"]) == (what, contacts, transport)
    ]
    return found[0] if found else None


def cells(what: str, contacts: int, transport: str) -> list[str]:
    """What the table says of a measurement: rows a second, how many times the limit, peak memory."""
    one, limit = measured(what, contacts, transport), measured(LIMIT, contacts, transport)
    if one is None or limit is None:
        return ["", "", ""]
    ratio = "" if what == CHANGED else f"{one['seconds'] / limit['seconds']:.2f}"
    peak = f"{one['peak_mb']:,.0f} MB" if one["peak_mb"] else ""
    return [f"{one['rows'] / one['seconds']:,.0f}", ratio, peak]


def table() -> list[tuple[int, list[str]]]:
    """The rows of the page's table with the number of contacts, which stands once for several rows."""
    contacts, found = 0, []
    for first, *rest in rows(section(PAGE, "Results")):
        contacts = int(first.replace(",", "")) if first else contacts
        found.append((contacts, rest))
    return found


@pytest.mark.parametrize(("contacts", "row"), table())
def test_numbers_are_the_published_ones(contacts: int, row: list[str]) -> None:
    """Each number of the table is that of docs/benchmarks/benchmark.json."""
    [what] = [name for start, name in MEASURED.items() if row[0].startswith(start)]

    assert row[1:] == cells(what, contacts, BULK) + cells(what, contacts, REST)


def test_what_the_text_says_of_them() -> None:
    """The seconds in the text below the table are published, too."""
    text = section(PAGE, "Results")
    slow = measured(SLOW, 100_000, REST)
    assert slow is not None
    assert f"{slow['rows']:,} records by REST take {slow['seconds']:.1f} s" in text
    unchanged = [one["seconds"] for one in PUBLISHED["measurements"] if one["what"] == PLAIN]
    assert max(unchanged) < 1
    million = measured(FIRST, 1_000_000, BULK)
    assert million is not None
    assert 1_000_000 * million["seconds"] / million["rows"] < 60, "the README says less than a minute"
    assert million["peak_mb"] < 200, "the README says less than 200 MB"
