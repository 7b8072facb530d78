"""The charts: rows/s of all that was measured, and the worker's memory over time."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.bars import PEAK_MB
from tests.benchmarks.measure import (
    BULK,
    CHANGED,
    FIRST,
    FULL,
    LIMIT,
    REST,
    SCRIPTS,
    TRANSPORTS,
    Findings,
)

BARS = (
    *((LIMIT, BULK), (FIRST, BULK), (FULL, BULK), (LIMIT, REST), (FIRST, REST), (FULL, REST)),
    *((script, REST) for script in SCRIPTS),
)
COLOURS = ("#9aa5b1", "#1b6ca8", "#7fb2d9", "#c3b8a5", "#c1662f", "#e3ab86", "#777777", "#999999", "#bbbbbb")


def draw(findings: Findings, folder: Path) -> list[Path]:
    """Draw all charts; their files. None, and nothing drawn, where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no charts: matplotlib is not installed (`make bench` does, from requirements-bench.txt)")
        return []
    matplotlib.use("Agg")
    return [rates(findings, folder / "rows-per-second.png"), memory(findings, folder / "memory.png")]


def rates(findings: Findings, file: Path) -> Path:
    """Rows/s by size: the limit, a first load, an unchanged repeat, the scripts."""
    from matplotlib import pyplot

    sizes = sorted({one.contacts for one in findings.measurements})
    figure, axes = pyplot.subplots(figsize=(11, 5.5), layout="constrained")
    shown = [(what, by) for what, by in BARS if findings.sizes(what, by)]
    width = 0.85 / max(len(shown), 1)
    for place, (what, by) in enumerate(shown):
        heights = []
        for size in sizes:
            one = findings.get(what, size, by)
            heights.append(one.rows / one.seconds if one else 0)
        positions = [number - 0.425 + width * (place + 0.5) for number in range(len(sizes))]
        colour = COLOURS[BARS.index((what, by))]
        drawn = axes.bar(positions, heights, width * 0.92, label=f"{what}, {by}", color=colour)
        axes.bar_label(drawn, [f"{h / 1000:.1f}k" if h else "" for h in heights], fontsize=7, padding=1)
    axes.set_xticks(range(len(sizes)), [f"{size:,} contacts" for size in sizes])
    axes.set_ylabel("rows per second")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.07), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return file


def memory(findings: Findings, file: Path) -> Path:
    """The worker's memory during first load, unchanged repeat and a changed tenth, a panel for each size."""
    from matplotlib import pyplot

    sizes = sorted({one.contacts for one in findings.measurements if one.what == FIRST})
    figure, panels = pyplot.subplots(
        1,
        max(len(sizes), 1),
        figsize=(4.2 * max(len(sizes), 1) + 1, 4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    styles = {FIRST: "-", FULL: "--", CHANGED: ":"}
    for axes, size in zip(panels[0], sizes, strict=False):
        for by in TRANSPORTS:
            for what, style in styles.items():
                one = findings.get(what, size, by)
                if one is None or not one.memory:
                    continue
                colour = COLOURS[BARS.index((FIRST, by))]
                times, held = zip(*one.memory, strict=True)
                axes.plot(times, held, style, color=colour, linewidth=1.2, label=f"{what}, {by}")
        axes.axhline(PEAK_MB, color="#b00020", linewidth=0.8)
        axes.set(title=f"{size:,} contacts", xlabel="seconds", ylim=(0, PEAK_MB * 1.15), xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("resident memory of the worker, MB")
    handles, labels = panels[0][-1].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=3, loc="outside lower center", frameon=False)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)
    return file
