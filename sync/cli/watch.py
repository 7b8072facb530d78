"""`status --watch`: the state of the replication, read and printed again and again."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from rich.console import Group
from rich.live import Live
from rich.text import Text

from sync.cli import show
from sync.cli.screen import clean, console, flush, print_json, write
from sync.cli.wiring import duration_option
from sync.errors import SyncError, UsageError
from sync.operations.running import Speeds
from sync.operations.status import Status

EVERY, LEAST = timedelta(seconds=2), timedelta(seconds=1)
Show = Callable[[Status, SyncError | None], bool]


def interval_option(value: str | None, *, watching: bool) -> timedelta:
    """Parse the time between two readings; raise UsageError."""
    if value is None:
        return EVERY
    if not watching:
        raise UsageError("--interval needs --watch: without it the state is read once")
    if (every := duration_option(value)) < LEAST:
        raise UsageError(f"--interval {value}: give at least 1s, since each reading asks the database")
    return every


def watch(read: Callable[[], Status], every: timedelta, stop: threading.Event, *, as_json: bool) -> None:
    """Show what `read` returns, at once and then at each interval, until `stop` is set or the reader ends.

    A terminal shows one picture that is redrawn. Elsewhere each reading is a line of JSON, or lines of text:
    the summary and the runs that are going on. The first reading raises SyncError; a later one that fails is
    shown, and the next is tried.
    """
    found, failure, speeds = read(), None, Speeds()
    with drawing() if sys.stdout.isatty() and not as_json else printing(as_json=as_json) as show_it:
        while True:
            if failure is None:
                found = replace(found, running=speeds.measure(found.running, found.at))
            if not show_it(found, failure) or stop.wait(every.total_seconds()):
                return
            try:
                found, failure = read(), None
            except SyncError as error:
                failure = error


@contextmanager
def drawing() -> Iterator[Show]:
    """Yield a function that redraws the state in its place; the last picture stays when the block ends."""
    # What does not fit the height is cut off at its end: the first line is the most important one.
    with Live(
        console=console(),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    ) as live:

        def draw(found: Status, failure: SyncError | None) -> bool:
            picture = Group(heading(found, failure), *show.status_parts(found))
            live.update(picture, refresh=True)
            return True

        yield draw


def heading(found: Status, failure: SyncError | None) -> Text:
    """Return the line above the state: when it was read, or why it could not be read again."""
    at = f"{found.at:%Y-%m-%d %H:%M:%S} UTC, until Ctrl-C"
    if failure is None:
        return Text(at, style="dim")
    return Text.assemble(("error:", "red"), f" {clean(failure)}; the state of {at}:")


@contextmanager
def printing(*, as_json: bool) -> Iterator[Show]:
    """Yield a function that prints the state as lines, and returns False if their reader has ended."""

    def print_lines(found: Status, failure: SyncError | None) -> bool:
        if as_json:
            document = show.status_document(found)
            read = print_json(document if failure is None else error_document(failure))
        else:
            at = f"{found.at:%Y-%m-%dT%H:%M:%SZ}"
            lines = [found.headline, *(show.describe_running(one, found.at) for one in found.running)]
            told = [f"{at} {line}" for line in lines] if failure is None else [f"error: {failure}"]
            read = all(write(clean(line) + "\n") for line in told)
        return read and flush()

    yield print_lines


def error_document(failure: SyncError) -> dict[str, object]:
    """Return the document in place of a state that could not be read."""
    return {"version": show.STATUS_VERSION, "error": str(failure)}
