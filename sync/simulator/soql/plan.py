"""A checked query as SQL: which rows, in which order, and how their columns become records."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sync.simulator import values
from sync.simulator.fields import COMPOUND_TYPES, Field
from sync.simulator.objects.schema import Schema, SObject
from sync.simulator.soql.conditions import Conditions
from sync.simulator.soql.errors import SoqlError, invalid_field, malformed, no_such_column, no_such_object
from sync.simulator.soql.nodes import Call, Item, Literal, Operand, Path, Query
from sync.simulator.soql.scope import AGGREGATES, DATE_FUNCTIONS, Column, Scope
from sync.simulator.soql.shape import Address, Aggregates, Branch, Leaf

MAX_OFFSET = 2000
FIELDS_LIMIT = 200


@dataclass
class Plan:
    """A query ready to run; ``kind`` is rows, aggregate or count, ``long_texts``, ``formulas`` are counts."""

    kind: str
    sobject: SObject
    from_sql: str = ""
    where_sql: str = ""
    parameters: list[Any] = field(default_factory=list)
    group_sql: str = ""
    having: list[Any] = field(default_factory=list)
    order_sql: str = ""
    ordered: bool = False
    limit: int | None = None
    offset: int = 0
    columns: list[str] = field(default_factory=list)
    shape: Branch | Aggregates | None = None
    flat: list[tuple[str, Column]] = field(default_factory=list)  # rows: dotted names in SELECT order
    compound: bool = False
    long_texts: int = 0
    formulas: int = 0

    def filter_sql(self, deleted_too: bool) -> str:
        """The WHERE clause; it leaves records in the recycle bin out unless they are wanted."""
        terms = [self.where_sql] if self.where_sql else []
        if self.sobject.recyclable and not deleted_too:
            terms.append("t.IsDeleted = 0")
        return " WHERE " + " AND ".join(terms) if terms else ""


class Planner:
    """Turns one syntax tree into a plan; raises SoqlError for what Salesforce would refuse."""

    def __init__(self, schema: Schema, query: Query, now: datetime, refused: Collection[str] = ()) -> None:
        self._refused = refused
        sobject = schema.visible_object(query.source.text)
        if sobject is None:
            raise no_such_object(query.source.text, query.source.position)
        if not sobject.queryable:
            raise SoqlError(
                "INVALID_TYPE_FOR_OPERATION", f"entity type {sobject.name} does not support query"
            )
        self._schema = schema
        self._query = query
        self._now = now
        self._scope = Scope(schema, sobject, query.alias)
        self._plan = Plan("rows", sobject)
        self._positions: dict[str, int] = {}

    def plan(self) -> Plan:
        query, plan = self._query, self._plan
        plan.kind = self._kind()
        if plan.kind == "count":
            self._check_count()
        elif plan.kind == "aggregate":
            self._aggregate()
        else:
            self._rows()
        if query.where is not None:
            conditions = Conditions(self._filter_column, self._now, self._schema.options)
            plan.where_sql = conditions.sql(query.where)
            plan.parameters = conditions.parameters
        self._order()
        plan.limit = _whole(query.limit, "LIMIT")
        plan.offset = _whole(query.offset, "OFFSET") or 0
        if plan.offset > MAX_OFFSET:
            raise SoqlError("NUMBER_OUTSIDE_VALID_RANGE", f"Maximum SOQL offset allowed is {MAX_OFFSET}")
        plan.from_sql = self._scope.from_sql
        return plan

    def _kind(self) -> str:
        operands = [item.operand for item in self._query.items]
        if any(_is_bare_count(operand) for operand in operands):
            return "count"
        if self._query.group or any(_is_aggregate(operand) for operand in operands):
            return "aggregate"
        return "rows"

    def _check_count(self) -> None:
        query = self._query
        if len(query.items) > 1 or query.items[0].alias is not None or query.group or query.order:
            raise malformed(
                "count() cannot be combined with other fields, grouping or order",
                query.items[0].operand.position,
            )

    # --- plain rows

    def _rows(self) -> None:
        root = Branch(self._plan.sobject.name, self._place("t.Id"))
        self._plan.shape = root
        seen: set[str] = set()
        for item in self._query.items:
            if item.alias is not None:
                raise malformed("only aggregate expressions use field aliasing", item.operand.position)
            if isinstance(item.operand, Call):
                self._expand(root, item.operand)
                continue
            steps = self._scope.steps(item.operand)
            name = ".".join(steps).casefold()
            if name in seen:
                raise malformed(f"duplicate field selected: {item.operand.text}", item.operand.position)
            seen.add(name)
            self._select(root, item.operand, steps)

    def _expand(self, root: Branch, call: Call) -> None:
        """FIELDS(ALL|STANDARD|CUSTOM); all and custom need a small LIMIT, whatever else is selected."""
        which = call.argument.text.upper() if call.argument is not None else ""
        if call.name in DATE_FUNCTIONS:
            raise malformed(f"function {call.name} needs GROUP BY", call.position)
        if call.name != "FIELDS" or which not in ("ALL", "STANDARD", "CUSTOM"):
            raise malformed(f"unexpected token: '{call.name}('", call.position)
        limit = _whole(self._query.limit, "LIMIT")
        if which != "STANDARD" and (limit is None or limit > FIELDS_LIMIT):
            raise malformed(
                f"The SOQL FIELDS function must have a LIMIT of at most {FIELDS_LIMIT}", call.position
            )
        for each in self._schema.visible_fields(self._plan.sobject):
            if each.selectable and (which == "ALL" or each.custom == (which == "CUSTOM")):
                self._select(root, Path(each.name, call.position), [each.name])

    def _select(self, root: Branch, path: Path, steps: list[str]) -> None:
        branch, owner = root, self._plan.sobject
        names: tuple[str, ...] = ()
        for step in steps[:-1]:
            relation = self._schema.relation(owner, step)
            if relation is None:
                self._scope.column(path)  # raises the right error
                raise AssertionError(path.text)
            via, owner = relation
            names = (*names, str(via.relationship))
            child = branch.children.get(names[-1])
            if not isinstance(child, Branch):
                child = Branch(owner.name, self._place(f"{self._scope.alias_of(names)}.Id"))
                branch.children[names[-1]] = child
            branch = child
        field_ = self._schema.visible_field(owner, steps[-1])
        if field_ is None or f"{owner.name}.{field_.name}" in self._refused:
            raise no_such_column(steps[-1], owner.name, path.position)
        if field_.type in COMPOUND_TYPES:
            branch.children[field_.name] = self._address(owner, field_, steps[:-1], path.position)
            self._plan.compound = True
        else:
            self._plan.long_texts += field_.custom and field_.long_text
            self._plan.formulas += field_.formula is not None
            column = self._scope.column(path)
            branch.children[field_.name] = self._leaf(column)
            self._plan.flat.append((".".join([*names, field_.name]), column))

    def _address(self, owner: SObject, whole: Field, parents: list[str], position: int) -> Address:
        parts = []
        for part in self._schema.visible_fields(owner):
            if part.compound == whole.name:
                key = _part_name(whole, part)
                leaf = self._leaf(self._scope.column(Path(".".join([*parents, part.name]), position)))
                parts.append((key, leaf))
        return Address(tuple(sorted(parts, key=lambda part: part[0])))

    def _leaf(self, column: Column) -> Leaf:
        return Leaf(column.field, self._place(values.select_sql(column.field, column.sql)))

    def _place(self, sql: str) -> int:
        if sql not in self._positions:
            self._positions[sql] = len(self._plan.columns)
            self._plan.columns.append(sql)
        return self._positions[sql]

    # --- aggregates

    def _aggregate(self) -> None:
        query, plan = self._query, self._plan
        groups = [self._scope.column(operand) for operand in query.group]
        for operand, column in zip(query.group, groups, strict=True):
            if column.aggregate or (isinstance(operand, Path) and not column.field.can_group):
                raise malformed(
                    f"field '{column.field.name}' can not be grouped in a query call", operand.position
                )
        self._groups = {column.sql for column in groups}
        shape = Aggregates()
        for item in query.items:
            name = self._result_name(item, shape)
            if name in shape.children:
                raise malformed(f"duplicate alias: {name}", item.operand.position)
            column = self._grouped(item.operand)
            shape.children[name] = Leaf(
                column.field, self._place(values.select_sql(column.field, column.sql))
            )
        plan.shape = shape
        if groups:
            plan.group_sql = " GROUP BY " + ", ".join(column.folded for column in groups)
        if query.having is not None:
            conditions = Conditions(self._having_column, self._now, self._schema.options)
            plan.group_sql += " HAVING " + conditions.sql(query.having)
            plan.having = conditions.parameters

    def _result_name(self, item: Item, shape: Aggregates) -> str:
        if item.alias is not None:
            return item.alias
        if isinstance(item.operand, Path):
            return self._scope.column(item.operand).field.name
        return f"expr{sum(1 for name in shape.children if name.startswith('expr'))}"

    def _grouped(self, operand: Operand) -> Column:
        column = self._scope.column(operand)
        if not column.aggregate and column.sql not in self._groups:
            raise malformed(f"Field must be grouped or aggregated: {_name(operand)}", operand.position)
        return column

    def _having_column(self, operand: Operand) -> Column:
        column = self._grouped(operand)
        if column.sql.startswith("exact_"):  # computed outside SQL, so SQL cannot compare it
            raise malformed(f"{_name(operand)} is not supported here", operand.position)
        return column

    # --- filter and order

    def _filter_column(self, operand: Operand) -> Column:
        column = self._scope.column(operand)
        if column.aggregate:
            raise malformed("Aggregate functions are not allowed in WHERE", operand.position)
        return column

    def _order(self) -> None:
        terms = []
        for order in self._query.order:
            if self._plan.kind == "aggregate":
                column = self._having_column(order.operand)
            else:
                column = self._filter_column(order.operand)
            if not column.field.can_sort:
                name = column.field.name
                raise invalid_field(
                    f"field '{name}' can not be sorted in a query call", order.operand.position
                )
            direction = " DESC" if order.descending else ""
            nulls = ""
            if column.nullable and order.nulls_last != order.descending:
                nulls = " NULLS LAST" if order.nulls_last else " NULLS FIRST"
            terms.append(column.folded + direction + nulls)
        self._plan.ordered = bool(terms)
        self._plan.order_sql = " ORDER BY " + ", ".join(terms) if terms else ""


def _part_name(whole: Field, part: Field) -> str:
    """The key of a part in its compound: ``BillingCity`` and ``Site__City__s`` are both a ``city``."""
    if part.name.endswith("__s"):
        name = part.name.removesuffix("__s").rpartition("__")[2]
    else:
        name = part.name.removeprefix(whole.name.removesuffix("Address"))
    return name[0].lower() + name[1:]


def _is_bare_count(operand: Operand) -> bool:
    return isinstance(operand, Call) and operand.name == "COUNT" and operand.argument is None


def _is_aggregate(operand: Operand) -> bool:
    return isinstance(operand, Call) and operand.name in AGGREGATES


def _name(operand: Operand) -> str:
    return operand.text if isinstance(operand, Path) else operand.name


def _whole(literal: Literal | None, clause: str) -> int | None:
    if literal is None:
        return None
    if not literal.text.isdecimal() or len(literal.text) > 10:
        raise malformed(f"{clause} needs a whole number, not {literal.text}", literal.position)
    return int(literal.text)
