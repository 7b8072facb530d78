"""The ways out to a person: a terminal's tables and colours, plain lines for everything else, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sync.logs import printable
from sync.logs.printable import visible, visible_json

COLOURS = {
    "OK": "green",
    "WARNING": "yellow",
    "STALE": "red",
    "NOT LOADED": "red",
    "ok": "green",
    "warning": "yellow",
    "failed": "red",
}
MARKED = "state"  # the column whose cells are words of ours and have colours
PADDING = 2  # characters beside each column of a table
PROSE = 24  # characters of a column of prose below which it is not worth reading


def silence(stream: IO[str]) -> None:
    """Send the rest of the output nowhere: its reader has ended (`| head -1`), and the command need not."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


class PipeConsole(Console):
    """Rich's console, without an exit code of its own where the reader of the output has ended."""

    def on_broken_pipe(self) -> None:
        silence(self.file)


def write(text: str) -> bool:
    """Write to stdout as it is; False where nobody reads it any more."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        silence(sys.stdout)
        return False
    return True


def flush() -> bool:
    """Write what is buffered, which the interpreter would fail to do at its end; False without a reader."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        return False
    return True


def console(*, stderr: bool = False) -> Console:
    """A console that prints what it is given: no markup, no emoji names, no guessing at numbers."""
    stream = sys.stderr if stderr else sys.stdout
    return PipeConsole(
        stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=stderr or not stream.isatty()
    )


def clean(value: object) -> str:
    """A value as it may be printed on one line: the one place through which all text to people goes."""
    return visible(printable.redact(str(value)))


def say(line: str = "", style: str = "") -> None:
    """One line for whoever reads."""
    console().print(Text(clean(line), style=style))


def error(message: str, *, lines: bool = False) -> None:
    """An error, in words, to stderr; `lines`: it is of several lines, each of them made by us."""
    told = "\n".join(map(clean, message.split("\n"))) if lines else clean(message)
    console(stderr=True).print(Text.assemble(("error:", "red"), " ", told))


def as_text(value: object) -> Any:
    """A JSON form of the values our reports hold."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def without_secrets(value: Any) -> Any:
    """The same structure, its texts redacted."""
    if isinstance(value, str):
        return printable.redact(value)
    if isinstance(value, dict):
        return {printable.redact(key): without_secrets(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(each) for each in value]
    return value


def print_json(value: object) -> bool:
    """One line of JSON to stdout; False where nobody reads it any more."""
    encoded = json.dumps(without_secrets(value), default=as_text, ensure_ascii=False)
    return write(visible_json(encoded) + "\n")


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    dispensable: Sequence[str] = (),
    prose: Sequence[str] = (),
) -> None:
    """A table on a terminal, else tab-separated lines under a heading.

    A terminal that is too narrow shows no `dispensable` columns, the first named go first; columns of `prose`
    are wrapped, others never.
    """
    cells = [[clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in [list(columns), *cells]:
            write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        return
    screen = console()
    shown = fitting(columns, cells, dispensable, prose, screen.width)
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None)
    for place in shown:
        numeric = bool(cells) and all(row[place].replace(",", "").isdigit() for row in cells)
        drawn.add_column(
            columns[place],
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=bool(dispensable) and columns[place] not in prose,
        )
    for row in cells:
        # Text, not str: of a str Rich would make markup.
        drawn.add_row(
            *(
                Text(row[place], style=COLOURS.get(row[place], "") if columns[place] == MARKED else "")
                for place in shown
            )
        )
    screen.print(drawn)


def fitting(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    dispensable: Sequence[str],
    prose: Sequence[str],
    width: int,
) -> list[int]:
    """The places of the columns that a table of at most `width` characters shows, as far as it can.

    Of the dispensable columns those that say nothing (0, or empty) go first.
    """

    def natural(place: int) -> int:
        wide = max(map(cell_len, (columns[place], *(row[place] for row in cells))))
        return min(wide, PROSE) if columns[place] in prose else wide

    def telling(column: str) -> bool:
        return any(row[columns.index(column)] not in ("", "0", "none", "never") for row in cells)

    shown = list(range(len(columns)))
    for column in sorted((each for each in dispensable if each in columns), key=telling):
        if sum(natural(place) + PADDING for place in shown) <= width:
            break
        shown.remove(columns.index(column))
    return shown
