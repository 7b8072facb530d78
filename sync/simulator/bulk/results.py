"""The stored result of a Bulk query job: a snapshot of rows in an order of its own, as lines of CSV."""

import random
import sqlite3
import threading
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec

from sync.simulator import values
from sync.simulator.bulk import csv_rows
from sync.simulator.bulk.csv_rows import Column, Dialect
from sync.simulator.queries import Distortion
from sync.simulator.soql import scope
from sync.simulator.soql.plan import Plan
from sync.simulator.state import OrgState

SMALL = 2_000  # rows; so few are rendered at once and kept
LARGEST_CHUNK = 100_000  # rows, as Salesforce cuts large tables by their keys
PIECE = 1_000  # rows rendered at a time
SAMPLE = 200  # rows that tell the size of a large result
_ENCODE = msgspec.json.Encoder().encode


class Closed(Exception):
    """The result was deleted while somebody read it."""


class Result:
    """What a query found at one moment; ``close`` it, or the snapshot lives on."""

    def __init__(self, state: OrgState, plan: Plan, deleted_too: bool, dialect: Dialect, number: int) -> None:
        self._state = state
        self._options = replace(state.options)
        columns = [
            Column(name, column.field, column.sql, nul=_nul(column, state.store.nul))
            for name, column in plan.flat
        ]
        row = csv_rows.row_sql(columns, dialect, self._options)
        source = f"json_each(?) wanted CROSS JOIN {plan.from_sql} WHERE t.rowid = wanted.value"
        self.header = csv_rows.header(columns, dialect)
        self._lines_sql = f"SELECT CAST({row} AS BLOB) FROM {source}"
        self._piece_sql = f"SELECT CAST(group_concat({row}, '') AS BLOB) FROM {source}"
        # Pages take turns at it. SQLite's threads stand in each other's way when they allocate memory: two
        # that render are hardly faster than one, while what follows, gzip and TLS, does run side by side.
        self._reading = threading.Lock()
        self._kept: list[bytes] | None = None
        with state.lock:
            where = plan.filter_sql(deleted_too)
            db = state.store.snapshot()
        self._snapshot: sqlite3.Connection | None = db
        try:
            self._add_functions(db)
            self._order = _ordered(plan, _rowids(db, plan, where), self._options.bulk_order, number)
            self.total = len(self._order)
            sample = self._lines(db, self._order[:: max(1, self.total // SAMPLE)])
            self.bytes = sum(map(len, sample)) * self.total // max(1, len(sample))
            if self.total <= SMALL:
                self._kept = self._lines(db, self._order)
        except BaseException:
            self.close()
            raise
        if self._kept is not None:
            self.close()

    @property
    def large(self) -> bool:
        """True while a snapshot is held."""
        return self._snapshot is not None

    def close(self) -> None:
        """Let go of the snapshot; pages that are being read break off."""
        with self._reading, self._state.lock:
            if self._snapshot is not None:
                self._state.store.release(self._snapshot)
                self._snapshot = None

    def lines(self, start: int, end: int, distort: Distortion) -> Iterator[bytes]:
        """The lines of some rows without header, in pieces; a distortion drops or repeats some of them."""
        places = list(range(start, end))
        places = places[: distort.repeated] + places
        middle = max(0, len(places) // 2 - distort.missing // 2)
        del places[middle : middle + distort.missing]
        for at in range(0, len(places), PIECE):
            some = places[at : at + PIECE]
            if self._kept is not None:
                yield b"".join([self._kept[place] for place in some])
                continue
            wanted = _ENCODE([self._order[place] for place in some])
            with self._reading:
                if self._snapshot is None:
                    raise Closed
                (piece,) = self._snapshot.execute(self._piece_sql, (wanted,)).fetchone()
            yield csv_rows.finished(piece)

    def _lines(self, db: sqlite3.Connection, rowids: Sequence[int]) -> list[bytes]:
        rows = db.execute(self._lines_sql, (_ENCODE(list(rowids)),))
        return [csv_rows.finished(line) for (line,) in rows]

    def _add_functions(self, db: sqlite3.Connection) -> None:
        options = self._options

        def number(scaled: int | None, scale: int) -> str | None:
            return None if scaled is None else values.number_text(scaled, scale, options)

        db.create_function(csv_rows.NUMBER, 2, number)
        db.create_function(csv_rows.TEXT, 1, csv_rows.nul_free)


def _nul(column: scope.Column, known: set[tuple[str, str]]) -> bool:
    """True when NUL may occur in a column: a field that ever held it, or a formula of who knows which."""
    if column.field.formula is not None:
        return bool(known)
    return (column.owner.name, column.field.name) in known


def _rowids(db: sqlite3.Connection, plan: Plan, where: str) -> "array[int]":
    sql = f"SELECT t.rowid FROM {plan.from_sql}{where}{plan.order_sql or ' ORDER BY t.Id'}"
    if plan.limit is not None:
        sql += f" LIMIT {plan.limit}"
    return array("q", (row[0] for row in db.execute(sql, plan.parameters)))


def _ordered(plan: Plan, rowids: "array[int]", order: str, number: int) -> "array[int]":
    """Rows as a job delivers them: chunks by Id, in the order in which they happened to be finished."""
    if plan.ordered or order == "id" or len(rowids) < 2:
        return rowids
    size = 1 if order == "shuffled" else max(1, min(LARGEST_CHUNK, len(rowids) // 5))
    starts = list(range(0, len(rowids), size))
    random.Random(number).shuffle(starts)
    if starts == sorted(starts):
        starts.reverse()
    ordered = array("q")
    for start in starts:
        ordered += rowids[start : start + size]
    return ordered
