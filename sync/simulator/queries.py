"""Queries answered in pages: a cursor keeps the order at query time, values are read page by page."""

import random
import sqlite3
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from sync.simulator import ids
from sync.simulator.soql import functions
from sync.simulator.soql.errors import SoqlError, too_complicated
from sync.simulator.soql.parse import parse
from sync.simulator.soql.plan import Plan, Planner
from sync.simulator.state import OrgState

DEFAULT_PAGE = 2000
SMALLEST_PAGE = 200
WIDE_PAGE = 200  # two or more custom long texts selected
MAX_GROUPS = 2000
MAX_OPEN_ROWS = 20_000_000  # over all cursors, eight bytes each; then the oldest goes


_DECODER = msgspec.json.Decoder(float_hook=Decimal)


@dataclass
class Cursor:
    """A running query: row numbers in order, and for snapshots the rows themselves."""

    locator: str
    soql: str
    plan: Plan
    generation: int
    rows: "array[int]"
    session: str
    opened: float
    batch: int | None
    deleted_too: bool
    snapshot: dict[int, Sequence[Any]] | None = None
    sizes: dict[int, int] = field(default_factory=dict)  # offset → page size, so a page repeats itself
    total: int = 0


@dataclass
class Page:
    """What one page answers."""

    records: list[Any]
    total: int
    done: bool
    next_path: str | None = None


@dataclass(frozen=True)
class Distortion:
    """How a fault falsifies a page: rows dropped from its middle, repeated, or held back altogether."""

    missing: int = 0
    repeated: int = 0
    empty: bool = False
    counted: bool = False  # Bulk: the header with the number of records tells of what the page has


class BadLocator(Exception):
    """The locator names no living cursor."""


class ForeignSession(Exception):
    """The locator belongs to another session."""


class Queries:
    """Runs SOQL against the org and keeps the open cursors."""

    def __init__(self, state: OrgState, seed: int) -> None:
        self._state = state
        self._cursors: OrderedDict[str, Cursor] = OrderedDict()
        self._random = random.Random(f"locators {seed}")
        self._pages = 0
        functions.register(state.store)

    def query(
        self,
        soql: str,
        *,
        deleted_too: bool,
        session: str,
        version: str,
        batch: int | None,
        distort: Distortion,
    ) -> Page:
        """The first page of a query; raises SoqlError when the query is refused."""
        with self._state.lock:
            plan = self.plan(soql)
            if plan.ordered and self._state.options.ordered_time_out:
                raise SoqlError("QUERY_TIMEOUT", "Your query request was running for too long.")
            where = plan.filter_sql(deleted_too)
            try:
                if plan.kind == "count":
                    return Page([], self._count(plan, where), done=True)
                if plan.kind == "aggregate":
                    return self._aggregate(plan, where, version)
                cursor = self._open(soql, plan, where, session, batch, deleted_too)
                return self._page(cursor, 0, version, distort)
            except sqlite3.OperationalError as problem:
                if (
                    "too large" in str(problem)
                    or "parser stack" in str(problem)
                    or "too many" in str(problem)
                ):
                    raise too_complicated() from None
                raise

    def more(self, locator: str, offset: int, *, session: str, version: str, distort: Distortion) -> Page:
        """A further page; raises BadLocator when the cursor is unknown or too old, ForeignSession.

        Raises SoqlError when the schema changed meanwhile so that the query is no longer possible.
        """
        with self._state.lock:
            cursor = self._cursors.get(locator)
            options = self._state.options
            if cursor is None or not 0 <= offset <= cursor.total:
                raise BadLocator
            if self._state.clock.now().timestamp() - cursor.opened > options.locator_ttl:
                raise BadLocator
            if options.locator_bound_to_session and cursor.session != session:
                raise ForeignSession
            if cursor.generation != self._state.schema.generation and cursor.snapshot is None:
                cursor.plan, cursor.generation = self.plan(cursor.soql), self._state.schema.generation
            if options.pages_live:
                cursor.rows = self._select(cursor.plan, cursor.plan.filter_sql(cursor.deleted_too))
            return self._page(cursor, offset, version, distort)

    def _select(self, plan: Plan, where: str) -> "array[int]":
        sql = f"SELECT t.rowid FROM {plan.from_sql}{where}{plan.order_sql}"
        if plan.limit is not None or plan.offset:
            sql += f" LIMIT {-1 if plan.limit is None else plan.limit} OFFSET {plan.offset}"
        return array("q", (row[0] for row in self._state.store.execute(sql, plan.parameters)))

    def plan(self, soql: str) -> Plan:
        """The checked query; raises SoqlError when Salesforce would refuse it. The caller holds the lock."""
        state, options = self._state, self._state.options
        plan = Planner(state.schema, parse(soql), state.clock.now(), options.refused_fields).plan()
        if options.formulas_max is not None and plan.formulas > options.formulas_max:
            raise too_complicated()
        return plan

    def read(self, soql: str, version: str, deleted_too: bool = False) -> list[Any]:
        """All records of a query at once, whatever the page size; no cursor stays open."""
        with self._state.lock:
            plan = self.plan(soql)
            where = plan.filter_sql(deleted_too)
            sql = f"SELECT {', '.join(plan.columns)} FROM {plan.from_sql}{where}{plan.order_sql}"
            return self._records(plan, self._state.store.execute(sql, plan.parameters).fetchall(), version)

    def everything(self, name: str, condition: str = "") -> list[dict[str, Any]]:
        """Records with all their fields as REST gives them, hidden ones too; numbers as Decimal."""
        with self._state.lock:
            schema = self._state.schema.unrestricted()
            fields = ", ".join(
                field.name for field in schema.visible_fields(schema.objects[name]) if field.selectable
            )
            plan = Planner(schema, parse(f"SELECT {fields} FROM {name}"), self._state.clock.now()).plan()
            sql = f"SELECT {', '.join(plan.columns)} FROM {plan.from_sql} {condition}"
            rows = self._state.store.execute(sql).fetchall()
            encoded = msgspec.json.encode(self._records(plan, rows, "60.0"))
            decoded: list[dict[str, Any]] = _DECODER.decode(encoded)
            return decoded

    def sobject_of(self, locator: str) -> str | None:
        """The object an open cursor reads."""
        cursor = self._cursors.get(locator)
        return None if cursor is None else cursor.plan.sobject.name

    def _count(self, plan: Plan, where: str) -> int:
        sql = f"SELECT COUNT(*) FROM {plan.from_sql}{where}"
        total = int(self._state.store.execute(sql, plan.parameters).fetchone()[0])
        total = max(0, total - plan.offset)
        return total if plan.limit is None else min(total, plan.limit)

    def _aggregate(self, plan: Plan, where: str, version: str) -> Page:
        sql = (
            f"SELECT {', '.join(plan.columns)} FROM {plan.from_sql}{where}{plan.group_sql}{plan.order_sql}"
            f" LIMIT {-1 if plan.limit is None else plan.limit} OFFSET {plan.offset}"
        )
        rows = self._state.store.execute(sql, [*plan.parameters, *plan.having]).fetchall()
        if len(rows) > MAX_GROUPS:
            raise SoqlError(
                "EXCEEDED_ID_LIMIT",
                "Aggregate query does not support queryMore(), use LIMIT to restrict the results to a "
                "single batch",
            )
        return Page(self._records(plan, rows, version), len(rows), done=True)

    def _open(
        self, soql: str, plan: Plan, where: str, session: str, batch: int | None, deleted_too: bool
    ) -> Cursor:
        rows = self._select(plan, where)
        if self._state.options.shuffle_unordered and not plan.ordered:
            shuffled = rows.tolist()
            random.Random(len(shuffled)).shuffle(shuffled)
            rows = array("q", shuffled)
        locator = "0r8" + "".join(self._random.choices(ids.ALPHABET, k=15))
        opened = self._state.clock.now().timestamp()
        cursor = Cursor(
            locator, soql, plan, self._state.schema.generation, rows, session, opened, batch, deleted_too
        )
        cursor.total = len(rows)
        if not self._state.options.values_live:
            cursor.snapshot = {
                rowid: row
                for at in range(0, len(rows), DEFAULT_PAGE)
                for rowid, row in self._read(cursor, rows[at : at + DEFAULT_PAGE]).items()
            }
        self._cursors[locator] = cursor
        while (
            len(self._cursors) > 1 and sum(len(each.rows) for each in self._cursors.values()) > MAX_OPEN_ROWS
        ):
            self._cursors.popitem(last=False)
        return cursor

    def _page(self, cursor: Cursor, offset: int, version: str, distort: Distortion) -> Page:
        size = 0 if distort.empty else self._size(cursor, offset)
        end = min(offset + size, len(cursor.rows))
        chunk = cursor.rows[offset:end]
        found = cursor.snapshot if cursor.snapshot is not None else self._read(cursor, chunk)
        rows = [found[rowid] for rowid in chunk if rowid in found]
        rows += rows[: distort.repeated]
        middle = max(0, len(rows) // 2 - distort.missing // 2)
        del rows[middle : middle + distort.missing]
        page = Page(self._records(cursor.plan, rows, version), cursor.total, done=end >= len(cursor.rows))
        if not page.done:
            page.next_path = f"/services/data/v{version}/query/{cursor.locator}-{end}"
        return page

    def _size(self, cursor: Cursor, offset: int) -> int:
        if offset not in cursor.sizes:
            sizes = self._state.options.page_sizes
            if isinstance(sizes, int):
                size = sizes
            elif sizes:
                size = sizes[self._pages % len(sizes)]
                self._pages += 1
            else:
                size = max(SMALLEST_PAGE, min(cursor.batch or DEFAULT_PAGE, DEFAULT_PAGE))
                if cursor.plan.long_texts >= 2:
                    size = min(size, WIDE_PAGE)
            cursor.sizes[offset] = max(1, size)
        return cursor.sizes[offset]

    def _read(self, cursor: Cursor, chunk: "array[int]") -> dict[int, Sequence[Any]]:
        """The rows of a chunk as they are now; those gone meanwhile are missing."""
        plan = cursor.plan
        alive = " AND t.IsDeleted = 0" if plan.sobject.recyclable and not cursor.deleted_too else ""
        sql = (
            f"SELECT t.rowid, {', '.join(plan.columns)} FROM {plan.from_sql}"
            f" WHERE t.rowid IN ({', '.join(map(str, chunk))}){alive}"
        )
        return {row[0]: row[1:] for row in self._state.store.execute(sql)}

    def _records(self, plan: Plan, rows: Sequence[Sequence[Any]], version: str) -> list[Any]:
        if plan.shape is None or not rows:
            return []
        records: list[Any] = plan.shape.build(list(zip(*rows, strict=True)), self._state.options, version)
        return records
