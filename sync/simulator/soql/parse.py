"""SOQL text to syntax tree, by a LALR grammar that takes nothing Salesforce would refuse."""

import re
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from sync.simulator.soql.errors import malformed, too_complicated
from sync.simulator.soql.nodes import (
    Call,
    Compare,
    Condition,
    Item,
    Join,
    Literal,
    Not,
    Operand,
    Order,
    Path,
    Query,
)

MAX_SOQL = 100_000
MAX_STRING = 4_000

# AND and OR do not mix without parentheses, and NOT stands alone in its level, as in the documented grammar.
GRAMMAR = r"""
query: SELECT item ("," item)* FROM PATH [PATH] [where] [group] [order] [limit] [offset]
item: operand [PATH]
?operand: path | call
path: PATH
call: PATH "(" [path] ")"

where: WHERE _condition
_condition: term | conjunction | disjunction | negation
conjunction: term (AND term)+
disjunction: term (OR term)+
negation: NOT term
?term: compare | "(" _condition ")"
compare: operand OPERATOR literal
       | operand LIKE literal -> like
       | operand IN "(" literal ("," literal)* ")" -> among
       | operand NOT IN "(" literal ("," literal)* ")" -> not_among
       | operand INCLUDES "(" literal ("," literal)* ")" -> includes
       | operand EXCLUDES "(" literal ("," literal)* ")" -> excludes
!literal: STRING | NUMBER | DATE | DATETIME | TIME | RANGE | PATH | NULL

group: GROUP BY operand ("," operand)* [having]
having: HAVING _condition
order: ORDER BY ordering ("," ordering)*
ordering: operand [direction] [nulls]
!direction: ASC | DESC
!nulls: NULLS (FIRST | LAST)
limit: LIMIT NUMBER
offset: OFFSET NUMBER

SELECT.4: /select\b/i
FROM.4: /from\b/i
WHERE.4: /where\b/i
AND.4: /and\b/i
OR.4: /or\b/i
NOT.4: /not\b/i
LIKE.4: /like\b/i
IN.4: /in\b/i
INCLUDES.4: /includes\b/i
EXCLUDES.4: /excludes\b/i
NULL.4: /null\b/i
GROUP.4: /group\b/i
HAVING.4: /having\b/i
ORDER.4: /order\b/i
BY.4: /by\b/i
ASC.4: /asc\b/i
DESC.4: /desc\b/i
NULLS.4: /nulls\b/i
FIRST.4: /first\b/i
LAST.4: /last\b/i
LIMIT.4: /limit\b/i
OFFSET.4: /offset\b/i
USING.4: /using\b/i
WITH.4: /with\b/i
TYPEOF.4: /typeof\b/i

OPERATOR: "=" | "!=" | "<>" | "<=" | ">=" | "<" | ">"
STRING: /'(?:\\.|[^'\\])*'/s
DATETIME.3: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)(?![\w:])/
TIME.3: /\d\d:\d\d:\d\d(?:\.\d{1,3})?Z(?![\w:])/
DATE.2: /\d{4}-\d\d-\d\d(?![\w:-])/
NUMBER: /[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?(?![\w:-])/
RANGE.3: /[A-Za-z_]+:\d{1,9}(?![\w:-])/
PATH.1: /[A-Za-z]\w*(?:\.[A-Za-z]\w*)*/
%ignore /[ \t\r\n\f]+/
"""

_ESCAPES = {"n": "\n", "N": "\n", "r": "\r", "R": "\r", "t": "\t", "T": "\t", "b": "\b", "B": "\b", "f": "\f"}
_ESCAPES |= {"F": "\f", '"': '"', "'": "'", "\\": "\\"}
_BEFORE_FROM = re.compile(r"(?:(?!\bfrom\b)[^'])*[\w)]\s+(\w+)\s+", re.IGNORECASE)
_KINDS = {"NUMBER": "number", "DATE": "date", "DATETIME": "datetime", "TIME": "time", "STRING": "string"}


@lru_cache(maxsize=1)
def _parser() -> Lark:
    """The parser, which builds our nodes as it goes: with a tree between it takes half as long again."""
    return Lark(
        GRAMMAR,
        start="query",
        parser="lalr",
        lexer="basic",
        maybe_placeholders=True,
        transformer=_Builder(),
    )


@lru_cache(maxsize=128)
def parse(soql: str) -> Query:
    """The query's syntax tree; raises SoqlError MALFORMED_QUERY when the text is no query we know."""
    if not soql.strip():
        raise malformed("A query string has to be specified")
    if len(soql) > MAX_SOQL:
        raise malformed(f"SOQL statements cannot be longer than {MAX_SOQL} characters.")
    try:
        query: Query = _parser().parse(soql)  # type: ignore[assignment]  # what the transformer makes
    except UnexpectedInput as problem:
        raise _syntax_error(problem, soql) from None
    except RecursionError:
        raise too_complicated() from None
    return query


def _syntax_error(problem: UnexpectedInput, soql: str) -> Exception:
    if isinstance(problem, UnexpectedCharacters):
        position = problem.pos_in_stream or 0
        return malformed(
            f"line {problem.line}:{problem.column} no viable alternative at character "
            f"'{soql[position : position + 1]}'",
            position,
        )
    if isinstance(problem, UnexpectedToken) and problem.token.type != "$END":
        token, position = str(problem.token), problem.token.start_pos or 0
        stray = _BEFORE_FROM.fullmatch(soql, 0, position)
        if stray is not None:  # SELECT Id FORM Account: we took FORM for an alias, Salesforce names it
            token, position = stray[1], stray.start(1)
        return malformed(f"unexpected token: '{token}'", position)
    return malformed("unexpected token: '<EOF>'", len(soql))


def unescape(text: str, position: int, pattern: bool = False) -> str:
    r"""A string literal's value. For LIKE patterns the escapes ``\_`` and ``\%`` stay, as does ``\\``."""

    def one(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "uU" and len(code) == 5:
            return chr(int(code[1:], 16))
        if pattern and code in "_%\\":
            return "\\" + code
        if code in "_%":
            return code
        if code not in _ESCAPES:
            raise malformed(
                f"Invalid string literal '{text}'. Illegal character sequence '\\{code}' in string literal.",
                position,
            )
        return _ESCAPES[code]

    return re.sub(r"\\([uU][0-9A-Fa-f]{4}|.)", one, text, flags=re.DOTALL)


@v_args(inline=True)
class _Builder(Transformer[Token, Any]):
    """Builds our nodes, bottom up."""

    def path(self, token: Token) -> Path:
        return Path(str(token), token.start_pos or 0)

    def call(self, name: Token, argument: Path | None) -> Call:
        return Call(str(name).upper(), argument, name.start_pos or 0)

    def item(self, operand: Operand, alias: Token | None) -> Item:
        return Item(operand, None if alias is None else str(alias))

    def literal(self, token: Token) -> Literal:
        raw = str(token)
        position = token.start_pos or 0
        if token.type == "STRING":
            if len(raw) - 2 > MAX_STRING:
                raise malformed(f"string literal longer than {MAX_STRING} characters", position)
            return Literal("string", unescape(raw[1:-1], position), position, raw[1:-1])
        kind: Any = _KINDS.get(token.type, "word")
        return Literal(kind, raw, position, raw)

    def compare(self, operand: Operand, operator: Token, value: Literal) -> Compare:
        text = str(operator).replace("<>", "!=")
        return Compare(operand, text, (value,), operator.start_pos or 0)

    def like(self, operand: Operand, operator: Token, value: Literal) -> Compare:
        return Compare(operand, "LIKE", (value,), operator.start_pos or 0)

    def among(self, operand: Operand, operator: Token, *values: Literal) -> Compare:
        return Compare(operand, "IN", values, operator.start_pos or 0)

    def not_among(self, operand: Operand, operator: Token, _: Token, *values: Literal) -> Compare:
        return Compare(operand, "NOT IN", values, operator.start_pos or 0)

    def includes(self, operand: Operand, operator: Token, *values: Literal) -> Compare:
        return Compare(operand, "INCLUDES", values, operator.start_pos or 0)

    def excludes(self, operand: Operand, operator: Token, *values: Literal) -> Compare:
        return Compare(operand, "EXCLUDES", values, operator.start_pos or 0)

    def conjunction(self, *parts: Any) -> Condition:
        return Join("AND", tuple(part for part in parts if not isinstance(part, Token)))

    def disjunction(self, *parts: Any) -> Condition:
        return Join("OR", tuple(part for part in parts if not isinstance(part, Token)))

    def negation(self, _: Token, term: Condition) -> Condition:
        return Not(term)

    def where(self, _: Token, condition: Condition) -> Condition:
        return condition

    def having(self, _: Token, condition: Condition) -> Condition:
        return condition

    def group(self, _: Token, __: Token, *parts: Any) -> tuple[tuple[Operand, ...], Condition | None]:
        return parts[:-1], parts[-1]

    def direction(self, token: Token) -> str:
        return str(token).upper()

    def nulls(self, _: Token, token: Token) -> str:
        return str(token).upper()

    def ordering(self, operand: Operand, direction: str | None, nulls: str | None) -> Order:
        # Salesforce's default is nulls first, in both directions.
        return Order(operand, direction == "DESC", nulls == "LAST")

    def order(self, _: Token, __: Token, *orders: Order) -> tuple[Order, ...]:
        return orders

    def limit(self, _: Token, number: Token) -> Literal:
        return Literal("number", str(number), number.start_pos or 0)

    def offset(self, _: Token, number: Token) -> Literal:
        return Literal("number", str(number), number.start_pos or 0)

    def query(self, _: Token, *parts: Any) -> Query:
        items = tuple(part for part in parts if isinstance(part, Item))
        _from, source, alias, where, group, order, limit, offset = parts[len(items) :]
        grouping, having = group if group is not None else ((), None)
        return Query(
            items=items,
            source=Path(str(source), source.start_pos),
            alias=None if alias is None else str(alias),
            where=where,
            group=grouping,
            having=having,
            order=order or (),
            limit=limit,
            offset=offset,
        )
