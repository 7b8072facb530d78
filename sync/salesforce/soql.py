"""Build SOQL text; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sync.catalogue.mapping import Projection
from sync.window import Key, Scope


def datetime_literal(moment: datetime) -> str:
    """Return a SOQL datetime in UTC, with `Z` (a `+` would need escaping); milliseconds only if there are
    some."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond // 1000:03d}" if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + fraction + "Z"


def quote(text: str) -> str:
    """Return a SOQL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def in_list(texts: Iterable[str]) -> str:
    """Return SOQL string literals for IN."""
    return f"({', '.join(map(quote, texts))})"


def select(projection: Projection, scope: Scope, after: Key | None) -> str:
    """Select all visible fields of the records in scope after a key, in key order."""
    return (
        f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name}"
        f"{where_clause(scope, after)} ORDER BY SystemModstamp, Id"
    )


def select_unordered(projection: Projection, scope: Scope) -> str:
    """Select the same records in any order, which lets the Bulk API split the query into chunks by Id."""
    return f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name}{where_clause(scope)}"


def where_clause(scope: Scope, after: Key | None = None, upper: str = "") -> str:
    """Return the WHERE clause; `after` becomes two cases, since SOQL cannot compare tuples."""
    lower = ""
    if after is not None:
        stamp = datetime_literal(after.stamp)
        lower = f"(SystemModstamp = {stamp} AND Id > {quote(after.id)}) OR SystemModstamp > {stamp}"
        lower = f"({lower})" if upper or scope.condition else lower
    elif scope.since is not None:
        lower = f"SystemModstamp >= {datetime_literal(scope.since)}"
    terms = [term for term in (scope.condition, lower, upper) if term]
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def count(sobject: str, scope: Scope) -> str:
    """Count the records in scope."""
    return f"SELECT COUNT() FROM {sobject}{where_clause(scope)}"


def count_before(sobject: str, scope: Scope, after: Key | None, before: datetime) -> str:
    """Count the records in scope, after a key, that are older than `before`."""
    upper = f"SystemModstamp < {datetime_literal(before)}"
    return f"SELECT COUNT() FROM {sobject}{where_clause(scope, after, upper)}"


def count_up_to(sobject: str, scope: Scope, key: Key) -> str:
    """Count the records in scope at or before `key`."""
    stamp = datetime_literal(key.stamp)
    before = f"(SystemModstamp < {stamp} OR (SystemModstamp = {stamp} AND Id <= {quote(key.id)}))"
    return f"SELECT COUNT() FROM {sobject}{where_clause(scope, None, before)}"


# ── buckets ───────────────────────────────────────────────────────────────────────────────────────────

# From coarse to fine: the SOQL functions that group a datetime, in UTC.
PARTS = {
    "month": ("CALENDAR_YEAR({})", "CALENDAR_MONTH({})"),
    "day": ("DAY_ONLY({})",),
    "hour": ("DAY_ONLY({})", "HOUR_IN_DAY({})"),
}


def count_buckets(sobject: str, condition: str, field: str, part: str) -> str:
    """Count the records of each bucket of `field`, with the earliest and the latest stamp."""
    grouped = [function.format(field) for function in PARTS[part]]
    named = ", ".join(f"{function} b{number}" for number, function in enumerate(grouped))
    return (
        f"SELECT {named}, COUNT(Id) n, MIN(SystemModstamp) earliest, "
        f"MAX(SystemModstamp) latest FROM {sobject} WHERE {condition} "
        f"GROUP BY {', '.join(grouped)}"
    )


def by_id(projection: Projection, ids: Sequence[str]) -> str:
    """Select all visible fields of the records with these Ids."""
    return f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name} WHERE Id IN {in_list(ids)}"
