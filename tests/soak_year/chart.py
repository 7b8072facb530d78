"""The chart of a year: sizes, memory and lag."""

from __future__ import annotations

from pathlib import Path

from tests.soak_year.measures import MB, Measures, percentile


def draw(measures: Measures, file: Path) -> Path | None:
    """Draw the chart as SVG; None, and nothing drawn, where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        print("no chart: matplotlib is not installed; to draw it, type: make soak-chart")
        return None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "year"
    from matplotlib import pyplot

    days = [day.number for day in measures.days]
    figure, panels = pyplot.subplots(3, 1, figsize=(10, 9), sharex=True, layout="constrained")
    sizes, memory, lag = panels
    names = sorted({name for day in measures.days for name in day.sizes})
    for name in names:
        sizes.plot(days, [sum(day.sizes.get(name, (0, 0))) / MB for day in measures.days], label=name)
    sizes.set(title="tables with their indexes", ylabel="MB", ylim=(0, None))
    sizes.legend(fontsize=8, ncols=3, frameon=False)
    memory.plot(days, [day.memory for day in measures.days], color="#1b6ca8")
    memory.set(title="resident memory of the worker", ylabel="MB", ylim=(0, None))
    lag.plot(days, [percentile(day.lag_minutes, 0.5) for day in measures.days], label="p50 of the day")
    lag.plot(days, [max(day.lag_minutes, default=0) for day in measures.days], label="worst of the day")
    lag.set(title="lag after a pass, in the org's time", ylabel="minutes", xlabel="day", yscale="log")
    lag.legend(fontsize=8, frameon=False)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
    print(f"written: {file}")
    return file
