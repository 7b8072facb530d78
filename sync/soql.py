"""Query text. Pure; nothing here talks to anyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sync.mapping import Projection


@dataclass(frozen=True, slots=True)
class Key:
    """A place in the order (SystemModstamp, Id): the last record of a committed page."""

    stamp: datetime
    id: str


def literal(moment: datetime) -> str:
    """A SOQL datetime, in UTC with `Z` (a `+` would have to be escaped), to the second unless finer."""
    moment = moment.astimezone(UTC)
    fraction = f".{moment.microsecond // 1000:03d}" if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + fraction + "Z"


def quoted(text: str) -> str:
    """A SOQL string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def select(projection: Projection, since: datetime | None, after: Key | None) -> str:
    """Every visible field of the window's records, in key order, from `after` on."""
    return (
        f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name}"
        f"{where(since, after)} ORDER BY SystemModstamp, Id"
    )


def select_unordered(projection: Projection, since: datetime | None) -> str:
    """The same in any order: what lets Bulk API work in chunks of Ids."""
    return f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name}{where(since, None)}"


def where(since: datetime | None, after: Key | None) -> str:
    """SOQL cannot compare tuples: `after` becomes its two cases."""
    if after is not None:
        stamp = literal(after.stamp)
        return f" WHERE (SystemModstamp = {stamp} AND Id > {quoted(after.id)}) OR SystemModstamp > {stamp}"
    return f" WHERE SystemModstamp >= {literal(since)}" if since is not None else ""


def count(sobject: str, since: datetime | None) -> str:
    """How many records a window holds."""
    return f"SELECT COUNT() FROM {sobject}{where(since, None)}"


def count_before(sobject: str, since: datetime | None, after: Key | None, before: datetime) -> str:
    """How many records of a window, from `after` on, are older than `before`."""
    lower = where(since, after).removeprefix(" WHERE ")
    upper = f"SystemModstamp < {literal(before)}"
    return f"SELECT COUNT() FROM {sobject} WHERE {f'({lower}) AND {upper}' if lower else upper}"


def count_up_to(sobject: str, since: datetime | None, key: Key) -> str:
    """How many of a window's records lie at or before `key`."""
    stamp = literal(key.stamp)
    before = f"(SystemModstamp < {stamp} OR (SystemModstamp = {stamp} AND Id <= {quoted(key.id)}))"
    lower = f"SystemModstamp >= {literal(since)} AND " if since is not None else ""
    return f"SELECT COUNT() FROM {sobject} WHERE {lower}{before}"


def by_id(projection: Projection, ids: Sequence[str]) -> str:
    """Every visible field of the named records."""
    listed = ", ".join(quoted(id_) for id_ in ids)
    return f"SELECT {', '.join(projection.names)} FROM {projection.sobject.name} WHERE Id IN ({listed})"
