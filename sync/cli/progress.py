"""The progress of a command: a bar on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sync.cli.screen import clean, console
from sync.logs import logger
from sync.replication.runs import PageResult, SyncContext

log = logger.get(__name__)

SECONDS_BETWEEN_LINES = 30  # Heroku closes a one-off's connection after an hour of silence


@contextmanager
def progress(context: SyncContext) -> Iterator[SyncContext]:
    """Return the context with a progress bar on a terminal, or with a log line each half minute elsewhere."""
    if not sys.stdout.isatty():
        yield replace(context, on_page=LineEvery(SECONDS_BETWEEN_LINES))
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        console=console(),
        transient=True,
    ) as bar:
        tasks: dict[str, TaskID] = {}
        started: dict[str, tuple[float, int]] = {}

        def on_page(result: PageResult) -> None:
            if result.object not in tasks:
                tasks[result.object] = bar.add_task(clean(result.object), total=None, rate="")
                started[result.object] = (time.monotonic(), 0)
                return
            since, read = started[result.object]
            started[result.object] = (since, read + result.tally.read)
            speed = (read + result.tally.read) / max(time.monotonic() - since, 0.001)
            bar.update(
                tasks[result.object],
                completed=result.received,
                total=result.expected,
                rate=f"{speed:,.0f} rows/s",
            )

        yield replace(context, on_page=on_page)


class LineEvery:
    """Logs the progress of an object, at most once in each period of `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.said: dict[str, float] = {}

    def __call__(self, result: PageResult) -> None:
        now = time.monotonic()
        if now - self.said.setdefault(result.object, now) >= self.seconds:
            self.said[result.object] = now
            log.info("progress", object=result.object, received=result.received, expected=result.expected)
