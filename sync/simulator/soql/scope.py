"""From paths in a query to columns in SQL: visibility, parent joins, calculated fields, functions."""

from dataclasses import dataclass, replace

from sync.simulator.fields import DECIMAL_TYPES, TEXT_TYPES, Field
from sync.simulator.formulas import function_name
from sync.simulator.objects.schema import Schema, SObject
from sync.simulator.soql.errors import invalid_field, malformed, no_such_column, no_such_relationship
from sync.simulator.soql.nodes import Call, Operand, Path
from sync.simulator.store import quote

MAX_LEVELS = 5
AGGREGATES = frozenset({"COUNT", "COUNT_DISTINCT", "MIN", "MAX", "SUM", "AVG"})
_DATE_PARTS = {
    "CALENDAR_YEAR": "CAST(strftime('%Y', {0}) AS INTEGER)",
    "CALENDAR_QUARTER": "(CAST(strftime('%m', {0}) AS INTEGER) + 2) / 3",
    "CALENDAR_MONTH": "CAST(strftime('%m', {0}) AS INTEGER)",
    "DAY_IN_MONTH": "CAST(strftime('%d', {0}) AS INTEGER)",
    "DAY_IN_YEAR": "CAST(strftime('%j', {0}) AS INTEGER)",
    "DAY_IN_WEEK": "CAST(strftime('%w', {0}) AS INTEGER) + 1",
    "WEEK_IN_MONTH": "(CAST(strftime('%d', {0}) AS INTEGER) - 1) / 7 + 1",
    "WEEK_IN_YEAR": "(CAST(strftime('%j', {0}) AS INTEGER) - 1) / 7 + 1",
    "HOUR_IN_DAY": "CAST(strftime('%H', {0}) AS INTEGER)",
    "DAY_ONLY": "strftime('%Y-%m-%d', {0})",
}
DATE_FUNCTIONS = frozenset(_DATE_PARTS)


@dataclass(frozen=True)
class Column:
    """A value the SQL can compute: its field (invented for function results), the expression, the owner."""

    field: Field
    sql: str
    owner: SObject
    aggregate: bool = False
    nullable: bool = True

    @property
    def folded(self) -> str:
        """The expression to compare, sort and group by: text without regard to case."""
        return f"fold({self.sql})" if self.field.type in TEXT_TYPES else self.sql


class Scope:
    """Resolves the paths of one query; remembers which parents must be joined."""

    def __init__(self, schema: Schema, sobject: SObject, alias: str | None) -> None:
        self._schema = schema
        self.sobject = sobject
        self._names = {sobject.name.casefold()} | ({alias.casefold()} if alias else set())
        self._joins: dict[tuple[str, ...], tuple[str, SObject]] = {(): ("t", sobject)}
        self._clauses: list[str] = []

    @property
    def from_sql(self) -> str:
        return f"{quote(self.sobject.name)} t " + " ".join(self._clauses)

    def column(self, operand: Operand) -> Column:
        """The column of a path or function; raises SoqlError when it is unknown, hidden or misused."""
        if isinstance(operand, Call):
            return self._call(operand)
        steps = self.steps(operand)
        owner, relationships = self._owner(operand, steps[:-1])
        field = self._schema.visible_field(owner, steps[-1])
        if field is None:
            raise no_such_column(steps[-1], owner.name, operand.position)
        nullable = field.nillable or bool(relationships)  # the parent itself may be missing
        return Column(field, self._sql(relationships, field), owner, nullable=nullable)

    def steps(self, path: Path) -> list[str]:
        """The names of a path without the alias of the queried object."""
        steps = path.text.split(".")
        if len(steps) > 1 and steps[0].casefold() in self._names:
            # Contact.AccountId names the object itself, unless a relationship has that name.
            relation = self._schema.relation(self.sobject, steps[0])
            if relation is None:
                return steps[1:]
        return steps

    def _owner(self, path: Path, relationships: list[str]) -> tuple[SObject, tuple[str, ...]]:
        if len(relationships) > MAX_LEVELS:
            raise malformed("only 5 levels of relationships are allowed in a field path", path.position)
        owner = self.sobject
        names: list[str] = []
        for relationship in relationships:
            relation = self._schema.relation(owner, relationship)
            if relation is None:
                raise no_such_relationship(relationship, path.position)
            field, owner = relation
            names.append(str(field.relationship))
        return owner, tuple(names)

    def alias_of(self, relationships: tuple[str, ...]) -> str:
        """The SQL alias under which a parent is joined, joining it first if need be."""
        if relationships in self._joins:
            return self._joins[relationships][0]
        child_alias = self.alias_of(relationships[:-1])
        child = self._joins[relationships[:-1]][1]
        field = next(each for each in child.fields.values() if each.relationship == relationships[-1])
        parent = self._schema.target(field)
        assert parent is not None, "a path was resolved through it"
        alias = f"t{len(self._joins)}"
        self._joins[relationships] = (alias, parent)
        source = f"{child_alias}.{quote(field.name)}"
        self._clauses.append(f"LEFT JOIN {quote(parent.name)} {alias} ON {alias}.Id = {source}")
        return alias

    def _sql(self, relationships: tuple[str, ...], field: Field) -> str:
        alias = self.alias_of(relationships)
        if field.formula is None:
            off = field.switch is not None and not getattr(self._schema.options, field.switch)
            return f"{alias}.{quote(field.name)}" + (" * 0" if off else "")
        owner = self._joins[relationships][1]
        arguments = [self._input(relationships, path) for path in field.formula.inputs]
        if field.formula.sql is not None:  # null for a parent that is not there, as its inputs are
            return f"({field.formula.sql.format(*arguments)})"
        call = f"{function_name(owner, field)}({', '.join(arguments)})"
        return call if not relationships else f"CASE WHEN {alias}.Id IS NULL THEN NULL ELSE {call} END"

    def _input(self, relationships: tuple[str, ...], path: str) -> str:
        # A formula reads every field, also those hidden from the user.
        *further, name = path.split(".")
        alias = self.alias_of((*relationships, *further))
        final = self._joins[(*relationships, *further)][1]
        if final.fields[name].formula is not None:
            return self._sql((*relationships, *further), final.fields[name])
        return f"{alias}.{quote(name)}"

    def _call(self, call: Call) -> Column:
        if call.name in _DATE_PARTS:
            return self._date_part(call)
        if call.name not in AGGREGATES or call.argument is None:
            raise malformed(f"unexpected token: '{call.name}('", call.position)
        column = self.column(call.argument)
        field, sql = column.field, column.sql
        if call.name == "COUNT":
            return Column(Field(call.name, "int"), f"COUNT({sql})", column.owner, aggregate=True)
        if not field.can_aggregate:
            raise malformed(
                f"field {field.name} does not support aggregate operator {call.name}", call.position
            )
        if call.name == "COUNT_DISTINCT":
            return Column(
                Field(call.name, "int"), f"COUNT(DISTINCT {column.folded})", column.owner, aggregate=True
            )
        if call.name in ("MIN", "MAX"):
            collation = " COLLATE soql" if field.type in TEXT_TYPES else ""
            return Column(replace(field, formula=None), f"{call.name}({sql}{collation})", column.owner, True)
        if field.type not in DECIMAL_TYPES | {"int"}:
            raise malformed(
                f"field {field.name} does not support aggregate operator {call.name}", call.position
            )
        scale = field.scale + (6 if call.name == "AVG" else 0)
        result = Field(call.name, "double", precision=60, scale=scale)
        return Column(result, f"exact_{call.name.lower()}({sql})", column.owner, aggregate=True)

    def _date_part(self, call: Call) -> Column:
        if call.argument is None:
            raise malformed(f"unexpected token: '{call.name}('", call.position)
        column = self.column(call.argument)
        moment = column.field.type == "datetime"
        if not moment and (column.field.type != "date" or call.name in ("HOUR_IN_DAY", "DAY_ONLY")):
            raise invalid_field(
                f"field {column.field.name} does not support function {call.name}", call.position
            )
        source = f"{column.sql}, 'unixepoch'" if moment else column.sql
        kind = "date" if call.name == "DAY_ONLY" else "int"
        return Column(Field(call.name, kind), _DATE_PARTS[call.name].format(source), column.owner)
