"""The API calls of the last 24 hours, the forecast, and what is deferred, for operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sync.operations.formats import format_duration, format_utc
from sync.replication.budget.plan import WORKS, Deferred, Plan

LASTING = timedelta(hours=1)  # how long work is deferred before somebody is told
TITLES = {
    "pass": "passes",
    "describe": "describe",
    "reread": "reread",
    "refresh": "refresh",
    "verify": "verify",
    "resync": "resync",
    "on_demand": "on demand",
    "other": "other",
}


@dataclass(frozen=True, slots=True)
class Calls:
    """The API calls of the last 24 hours: `by_kind` and in all (`made`), those of 24 hours to come
    (`forecast`) and those allowed, and the `interval` between two passes now, which may be `stretched`."""

    made: int = 0
    by_kind: Mapping[str, int] = field(default_factory=dict)
    forecast: int = 0
    allowance: int = 0
    interval: timedelta = timedelta(0)
    stretched: bool = False


def calls_of(plan: Plan) -> Calls:
    """Return what a plan says of the calls."""
    return Calls(plan.used, dict(plan.spent), plan.forecast, plan.allowance, plan.interval, plan.stretched)


def describe_calls(calls: Calls) -> str:
    """Return the calls as one line."""
    kinds = ", ".join(f"{TITLES[kind]} {made:,}" for kind, made in calls.by_kind.items())
    pace = f"a pass each {format_duration(calls.interval)}"
    return (
        f"API calls in 24 hours: {calls.made:,} of {calls.allowance:,}{f' ({kinds})' if kinds else ''}; "
        f"at this pace {calls.forecast:,} a day; {pace}"
        + (" (stretched to stay within SYNC_API_CALLS_PER_DAY)" if calls.stretched else "")
    )


def lasting(deferred: Mapping[str, datetime], now: datetime) -> tuple[str, ...]:
    """Return the kinds of work that are deferred for so long that somebody is told."""
    return tuple(WORKS[work] for work, since in deferred.items() if now - since >= LASTING)


def deferred_warning(deferred: Sequence[Deferred], now: datetime) -> Iterator[tuple[str, bool]]:
    """Yield the warning about work that is deferred, and whether it is urgent."""
    if not deferred:
        return
    since = min(one.since for one in deferred)
    named = ", ".join(WORKS[one.work] for one in deferred)
    reason = deferred[0].reason
    setting = "SYNC_API_BUDGET" if "SYNC_API_BUDGET" in reason else "SYNC_API_CALLS_PER_DAY"
    yield (
        f"deferred since {format_utc(since)}: {named}; {reason}; it goes on by itself when calls leave the "
        f"last 24 hours, or raise {setting}",
        now - since >= LASTING,
    )
