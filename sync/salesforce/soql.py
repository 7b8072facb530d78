"""Query text. Pure; nothing here talks to anyone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sync.catalogue.mapping import Projection
from sync.window import Key, Scope


def literal(moment: datetime) -> str:
    """A SOQL datetime, in UTC with `Z` (a `+` would have to be escaped), to the second unless finer."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond // 1000:03d}" if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + fraction + "Z"


def quoted(text: str) -> str:
    """A SOQL string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def listed(texts: Iterable[str]) -> str:
    """SOQL strings for IN."""
    return f"({', '.join(map(quoted, texts))})"


def select(projection: Projection, scope: Scope, after: Key | None) -> str:
    """Every visible field of the records in scope, in key order, from `after` on."""
    return (
        f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name}"
        f"{where(scope, after)} ORDER BY SystemModstamp, Id"
    )


def select_unordered(projection: Projection, scope: Scope) -> str:
    """The same in any order: what lets Bulk API work in chunks of Ids."""
    return f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name}{where(scope)}"


def where(scope: Scope, after: Key | None = None, upper: str = "") -> str:
    """SOQL cannot compare tuples: `after` becomes its two cases."""
    lower = ""
    if after is not None:
        stamp = literal(after.stamp)
        lower = f"(SystemModstamp = {stamp} AND Id > {quoted(after.id)}) OR SystemModstamp > {stamp}"
        lower = f"({lower})" if upper or scope.condition else lower
    elif scope.since is not None:
        lower = f"SystemModstamp >= {literal(scope.since)}"
    terms = [term for term in (scope.condition, lower, upper) if term]
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def count(sobject: str, scope: Scope) -> str:
    """How many records are in scope."""
    return f"SELECT COUNT() FROM {sobject}{where(scope)}"


def count_before(sobject: str, scope: Scope, after: Key | None, before: datetime) -> str:
    """How many records in scope, from `after` on, are older than `before`."""
    return f"SELECT COUNT() FROM {sobject}{where(scope, after, f'SystemModstamp < {literal(before)}')}"


def count_up_to(sobject: str, scope: Scope, key: Key) -> str:
    """How many of the records in scope lie at or before `key`."""
    stamp = literal(key.stamp)
    before = f"(SystemModstamp < {stamp} OR (SystemModstamp = {stamp} AND Id <= {quoted(key.id)}))"
    return f"SELECT COUNT() FROM {sobject}{where(scope, None, before)}"


# ── for a comparison by buckets ───────────────────────────────────────────────────────────────────────

# Coarse to fine; what SOQL can group a date and time by, in UTC.
PARTS = {
    "month": ("CALENDAR_YEAR({})", "CALENDAR_MONTH({})"),
    "day": ("DAY_ONLY({})",),
    "hour": ("DAY_ONLY({})", "HOUR_IN_DAY({})"),
}


def buckets(sobject: str, condition: str, field: str, part: str) -> str:
    """Per bucket of `field`: how many records, and the latest stamp."""
    grouped = [function.format(field) for function in PARTS[part]]
    named = ", ".join(f"{function} b{number}" for number, function in enumerate(grouped))
    return (
        f"SELECT {named}, COUNT(Id) n, MIN(SystemModstamp) earliest, "
        f"MAX(SystemModstamp) latest FROM {sobject} WHERE {condition} "
        f"GROUP BY {', '.join(grouped)}"
    )


def by_id(projection: Projection, ids: Sequence[str]) -> str:
    """Every visible field of the named records."""
    return f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name} WHERE Id IN {listed(ids)}"
