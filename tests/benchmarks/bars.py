"""The bars: what the product promises of its speed and its memory, judged by what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.benchmarks.measure import (
    BULK,
    CHANGED,
    FIRST,
    FULL,
    LIMIT,
    PLAIN,
    REST,
    ROW_BY_ROW,
    SLOW,
    VALUES,
    Findings,
    Measurement,
)
from tests.benchmarks.show import table

FIRST_LOAD = {BULK: 1.0, REST: 1.3}
REPEAT = 1.0
PEAK_MB, PEAK_SPREAD = 200, 1.10
COST_GROWTH = 1.2
FASTER = {VALUES: 4, ROW_BY_ROW: 12}
LATENCY, WAITING = 0.3, 1.2


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise, what was measured (None: not in this run), and the wanted value."""

    name: str
    value: float | None
    wanted: float
    unit: str = "×"
    at_least: bool = False
    remark: str = ""
    broken: bool = False  # whatever the value

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        met = self.value >= self.wanted if self.at_least else self.value <= self.wanted
        return "reached" if met and not self.broken else "NOT REACHED"


def bars(findings: Findings) -> list[Bar]:
    """Every bar, in the order of what matters most."""
    found: list[Bar] = []
    for transport in (BULK, REST):
        found.append(first_load(findings, transport))
    for transport in (BULK, REST):
        found.append(unchanged(findings, transport))
    for transport in (BULK, REST):
        found += memory(findings, transport)
    for transport in (BULK, REST):
        found.append(growth(findings, transport))
    found += [faster(findings, script, wanted) for script, wanted in FASTER.items()]
    found.append(slow(findings))
    return found


def largest(findings: Findings, what: str, transport: str) -> Measurement | None:
    sizes = findings.sizes(what, transport)
    return findings.get(what, sizes[-1], transport) if sizes else None


def by_limit(findings: Findings, one: Measurement | None) -> float | None:
    limit = findings.limit(one.contacts, one.transport) if one else None
    return one.seconds / limit if one and limit else None


def at(one: Measurement | None) -> str:
    return f"at {one.contacts:,} contacts" if one else ""


def first_load(findings: Findings, transport: str) -> Bar:
    one = largest(findings, FIRST, transport)
    name = f"first load by {transport}, of the limit"
    return Bar(name, by_limit(findings, one), FIRST_LOAD[transport], remark=at(one))


def unchanged(findings: Findings, transport: str) -> Bar:
    one = largest(findings, FULL, transport)
    name = f"resync --full by {transport} where nothing changed, of the limit, nothing written"
    remark = f"{at(one)}, {one.written:,} written, {one.feed:,} in the feed" if one else ""
    return Bar(
        name,
        by_limit(findings, one),
        REPEAT,
        remark=remark,
        broken=one is not None and bool(one.written or one.feed),
    )


def peaks(findings: Findings, transport: str) -> dict[int, float]:
    """The worker's highest peak at each size, of all its passes."""
    found: dict[int, float] = {}
    for one in findings.measurements:
        if one.what in (FIRST, FULL, PLAIN, CHANGED) and one.transport == transport and one.peak_mb:
            found[one.contacts] = max(one.peak_mb, found.get(one.contacts, 0))
    return dict(sorted(found.items()))


def memory(findings: Findings, transport: str) -> Iterator[Bar]:
    found = peaks(findings, transport)
    yield Bar(f"peak memory by {transport}", max(found.values(), default=None), PEAK_MB, "MB")
    spread = max(found.values()) / min(found.values()) if len(found) > 1 else None
    remark = ", ".join(f"{peak:.0f} MB at {size:,}" for size, peak in found.items())
    yield Bar(f"largest peak by {transport}, of the smallest", spread, PEAK_SPREAD, remark=remark)


def growth(findings: Findings, transport: str) -> Bar:
    sizes = findings.sizes(FIRST, transport)
    costs = {size: findings.per_row(FIRST, size, transport) for size in sizes}
    name = f"cost of a row by {transport} at the largest size, of that at the smallest"
    known = [cost for cost in costs.values() if cost]
    value = known[-1] / known[0] if len(known) > 1 else None
    remark = ", ".join(f"{cost * 1e6:.1f} µs at {size:,}" for size, cost in costs.items() if cost)
    return Bar(name, value, COST_GROWTH, remark=remark)


def faster(findings: Findings, script: str, wanted: float) -> Bar:
    """A row of ours against a script's, both by REST, at the largest size that both were run at."""
    name = f"faster than {script.removeprefix('script: ')}, per row by REST"
    for size in reversed(findings.sizes(script, REST)):
        theirs, ours = findings.per_row(script, size, REST), findings.per_row(FIRST, size, REST)
        if theirs and ours:
            limit = findings.per_row(LIMIT, size, REST)
            remark = f"at {size:,} contacts" + (f", the limit {theirs / limit:.1f} ×" if limit else "")
            return Bar(name, theirs / ours, wanted, at_least=True, remark=remark)
    return Bar(name, None, wanted, at_least=True)


def slow(findings: Findings) -> Bar:
    """Objects are read side by side: the one with most calls tells how long there is to wait."""
    name = "300 ms a call: first load by REST, of waiting or working, whichever is longer"
    one = largest(findings, SLOW, REST)
    working = findings.get(FIRST, one.contacts, REST) if one else None
    if one is None or working is None:
        return Bar(name, None, WAITING)
    waiting = LATENCY * max((one.calls or {}).values(), default=0)
    remark = f"{one.seconds:.1f} s; waiting {waiting:.1f} s, working {working.seconds:.1f} s"
    return Bar(name, one.seconds / max(waiting, working.seconds), WAITING, remark=f"{at(one)}: {remark}")


def printed(found: Sequence[Bar]) -> str:
    """The table of bars."""

    def amount(bar: Bar, value: float) -> str:
        return f"{value:.0f} MB" if bar.unit == "MB" else f"{value:.3f} ×"

    rows = [
        [
            bar.name,
            amount(bar, bar.value) if bar.value is not None else "-",
            ("≥ " if bar.at_least else "≤ ") + amount(bar, bar.wanted),
            bar.verdict,
            bar.remark,
        ]
        for bar in found
    ]
    return table(("bar", "measured", "wanted", "verdict", "remark"), rows)
