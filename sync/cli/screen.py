"""Output: tables and colours on a terminal, plain lines elsewhere, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import IO, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from sync.logs import printable
from sync.logs.printable import escape_controls, escape_json

COLOURS = {
    "OK": "green",
    "WARNING": "yellow",
    "STALE": "red",
    "NOT LOADED": "red",
    "ok": "green",
    "warning": "yellow",
    "failed": "red",
}
MARKED = "state"  # the column whose cells are coloured
PADDING = 2  # characters beside each column of a table
PROSE = 24  # the least width of a column of prose, in characters


def discard_output(stream: IO[str]) -> None:
    """Discard the rest of the output: its reader has ended (`| head -1`), and the command must not fail."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


class PipeConsole(Console):
    """A Rich console that does not exit if the reader of the output has ended."""

    def on_broken_pipe(self) -> None:
        discard_output(self.file)


def write(text: str) -> bool:
    """Write to stdout unchanged; return False if its reader has ended."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        discard_output(sys.stdout)
        return False
    return True


def flush() -> bool:
    """Flush stdout before the interpreter does, which would fail; return False if its reader has ended."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output(sys.stdout)
        return False
    return True


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged: no markup, no emoji names, no highlighting."""
    stream = sys.stderr if stderr else sys.stdout
    return PipeConsole(
        stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=stderr or not stream.isatty()
    )


def clean(value: object) -> str:
    """Redact a value and escape its control characters; all text for people passes through here."""
    return escape_controls(printable.redact(str(value)))


def say(line: str = "", style: str = "") -> None:
    """Print one line."""
    console().print(Text(clean(line), style=style))


def error(message: str, *, lines: bool = False) -> None:
    """Print an error to stderr; `lines`: the message has several lines, all written by this product."""
    cleaned = "\n".join(map(clean, message.split("\n"))) if lines else clean(message)
    console(stderr=True).print(Text.assemble(("error:", "red"), " ", cleaned))


def as_text(value: object) -> Any:
    """Return the JSON form of dates, times, durations and other values."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def without_secrets(value: Any) -> Any:
    """Return the same structure with all texts redacted."""
    if isinstance(value, str):
        return printable.redact(value)
    if isinstance(value, dict):
        return {printable.redact(key): without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


def print_json(value: object) -> bool:
    """Print one line of JSON; return False if the reader of stdout has ended."""
    encoded = json.dumps(without_secrets(value), default=as_text, ensure_ascii=False)
    return write(escape_json(encoded) + "\n")


@dataclass(frozen=True, slots=True)
class Grid:
    """A table that fits the width of the terminal.

    On a narrow one `dispensable` columns are dropped, the first named first. Only `prose` columns are
    wrapped.
    """

    title: str
    columns: Sequence[str]
    rows: Iterable[Sequence[object]]
    dispensable: Sequence[str] = ()
    prose: Sequence[str] = ()

    def cells(self) -> list[list[str]]:
        """Return the rows as clean texts."""
        return [[clean(cell) for cell in row] for row in self.rows]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Draw the columns for which there is room."""
        cells, columns = self.cells(), self.columns
        shown = fitting_columns(columns, cells, self.dispensable, self.prose, options.max_width)
        drawn = Table(
            title=self.title, title_justify="left", title_style="bold", header_style="dim", box=None
        )
        for index in shown:
            numeric = bool(cells) and all(row[index].replace(",", "").isdigit() for row in cells)
            drawn.add_column(
                columns[index],
                justify="right" if numeric else "left",
                overflow="fold",
                no_wrap=bool(self.dispensable) and columns[index] not in self.prose,
            )
        for row in cells:
            # Text, not str: Rich would interpret a str as markup.
            drawn.add_row(
                *(
                    Text(row[index], style=COLOURS.get(row[index], "") if columns[index] == MARKED else "")
                    for index in shown
                )
            )
        yield drawn


def put(*parts: Text | Grid) -> None:
    """Print lines, and tables: drawn on a terminal, tab-separated with a heading elsewhere."""
    for part in parts:
        if isinstance(part, Grid) and not sys.stdout.isatty():
            for row in [list(part.columns), *part.cells()]:
                write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
        else:
            console().print(part)


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    dispensable: Sequence[str] = (),
    prose: Sequence[str] = (),
) -> None:
    """Print one table."""
    put(Grid(title, columns, rows, dispensable, prose))


def fitting_columns(
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    dispensable: Sequence[str],
    prose: Sequence[str],
    width: int,
) -> list[int]:
    """Return the indexes of the columns that fit into `width` characters.

    Dispensable columns without information (0 or empty) are dropped first.
    """

    def natural_width(index: int) -> int:
        widest = max(map(cell_len, (columns[index], *(row[index] for row in cells))))
        return min(widest, PROSE) if columns[index] in prose else widest

    def has_information(column: str) -> bool:
        return any(row[columns.index(column)] not in ("", "0", "none", "never") for row in cells)

    shown = list(range(len(columns)))
    for column in sorted((column for column in dispensable if column in columns), key=has_information):
        if sum(natural_width(index) + PADDING for index in shown) <= width:
            break
        shown.remove(columns.index(column))
    return shown
