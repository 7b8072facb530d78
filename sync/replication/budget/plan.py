"""The plan of API calls: what may run now, and how often passes run, by the calls of the last 24 hours.

A pure function of what was spent. Above 80 % of the allowance the interval between two passes grows, up to
ten minutes; then work waits, in the order of THINNED. Passes themselves never wait for the allowance. Work
that waits goes on by itself when the calls of 24 hours have dropped well below the share at which it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil

from sync.postgres.state.calls import DAY, ON_DEMAND, PASS, REFRESH, RESYNC, VERIFY, Spent

# The default allowance: a share of the org's limit or the least number, but not more than half of the limit.
DEFAULT_SHARE, LEAST_CALLS, LARGEST_SHARE = 0.1, 3_000, 0.5
# Shares of the allowance: passes are planned to stay below the first; at the second their interval is the
# longest.
STRETCH, LONGEST_AT = 0.8, 0.85
LONGEST_INTERVAL = timedelta(minutes=10)
# The work that waits, in this order, and the share of the allowance from which on it does.
THINNED: Mapping[str, float] = {ON_DEMAND: 0.85, REFRESH: 0.9, VERIFY: 0.95}
RELAX = 0.03  # so far below its share the calls must drop before the work goes on
# However many calls are used: an object that no verify has compared for so long is verified.
LONGEST_UNVERIFIED = timedelta(days=3)
WORKS = {PASS: "passes", ON_DEMAND: "requests of consumers", REFRESH: "refresh", VERIFY: "verify"}


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that a plan follows: the interval between passes, the allowance (None: the default), and
    the share of the org's daily requests above which nothing runs."""

    interval: timedelta = timedelta(minutes=1)
    calls_per_day: int | None = None
    share: float = 0.8


@dataclass(frozen=True, slots=True)
class Deferred:
    """A kind of work that waits: since when, and why."""

    work: str
    since: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What may run now.

    `forecast` are the calls of 24 hours if passes go on in this interval and other work takes as much as in
    the last 24 hours. `stopped` is why nothing runs ("": the org has requests left).
    """

    spent: Mapping[str, int] = field(default_factory=dict)
    used: int = 0
    allowance: int = LEAST_CALLS
    forecast: int = 0
    interval: timedelta = LONGEST_INTERVAL
    stretched: bool = False
    stopped: str = ""
    deferred: tuple[Deferred, ...] = ()

    def refusal(self, work: str) -> str:
        """Return why this kind of work may not begin now; "" if it may.

        A resync waits with verify. A pass of `run` waits once the whole allowance is used.
        """
        if self.stopped:
            return self.stopped
        if work == PASS:
            return spent_reason(self.used, self.allowance) if self.used >= self.allowance else ""
        waits_with = VERIFY if work == RESYNC else work
        return next((one.reason for one in self.deferred if one.work == waits_with), "")


def allowance(limit: int | None, calls_per_day: int | None) -> int:
    """Return the calls that may be made in 24 hours; `limit` is the org's (None: unknown)."""
    if calls_per_day is not None:
        return calls_per_day
    if limit is None:
        return LEAST_CALLS
    return max(1, min(max(int(limit * DEFAULT_SHARE), LEAST_CALLS), int(limit * LARGEST_SHARE)))


def make_plan(
    spent: Spent,
    rules: Rules,
    now: datetime,
    *,
    used: int | None = None,
    limit: int | None = None,
    before: Mapping[str, datetime] | None = None,
) -> Plan:
    """Return the plan at this moment.

    `used` and `limit` are the org's daily requests as it told them (None: unknown). `before` is the work that
    waits so far, and since when.
    """
    before = before or {}
    allowed = allowance(limit, rules.calls_per_day)
    stopped = stop_reason(used, limit, rules.share)
    interval = LONGEST_INTERVAL if stopped else interval_for(spent, rules.interval, allowed)
    interval = max(interval, rules.interval)
    share = committed(spent) / allowed
    waiting = [
        work
        for work, least in THINNED.items()
        if stopped or share >= (least - RELAX if work in before else least)
    ]
    if stopped:
        waiting.insert(0, PASS)
    reason = stopped or spent_reason(spent.total, allowed, committed(spent) - spent.total)
    return Plan(
        spent.by_kind,
        spent.total,
        allowed,
        forecast(spent, interval),
        interval,
        interval > rules.interval,
        stopped,
        tuple(Deferred(work, before.get(work, now), reason) for work in waiting),
    )


def interval_for(spent: Spent, usual: timedelta, allowed: int) -> timedelta:
    """Return the interval between two passes: the usual one, or up to LONGEST_INTERVAL.

    It is long enough for the forecast to stay below STRETCH of the allowance. It grows further once more than
    that is committed.
    """
    if usual >= LONGEST_INTERVAL:
        return usual
    room = STRETCH * allowed - other_calls(spent)
    planned = spent.a_pass * DAY.total_seconds() / max(room, 1)
    over = (committed(spent) / allowed - STRETCH) / (LONGEST_AT - STRETCH)
    grown = usual + min(1.0, max(0.0, over)) * (LONGEST_INTERVAL - usual)
    seconds = max(ceil(planned), grown.total_seconds(), usual.total_seconds())
    return min(timedelta(seconds=seconds), LONGEST_INTERVAL)


def committed(spent: Spent) -> float:
    """Return the calls of the last 24 hours, and those of the passes that run in any case until a whole day
    of passes is among them: from then on the oldest ones leave as fast as new ones come."""
    return spent.total + spent.a_pass * ((DAY - spent.span) / LONGEST_INTERVAL)


def other_calls(spent: Spent) -> float:
    """Return the calls that were not those of usual passes."""
    return max(0.0, spent.total - spent.a_pass * spent.passes)


def forecast(spent: Spent, interval: timedelta) -> int:
    """Return the calls of 24 hours at this interval; other work takes as many as in the last 24 hours."""
    return round(other_calls(spent) + spent.a_pass * (DAY / interval))


def stop_reason(used: int | None, limit: int | None, share: float) -> str:
    """Return why nothing may run by the org's own count of its daily requests; "" if there is room."""
    if used is None or limit is None or used < share * limit:
        return ""
    return (
        f"the org has used {used:,} of its {limit:,} daily API requests, more than "
        f"SYNC_API_BUDGET ({share:.0%}) leaves to this work"
    )


def spent_reason(spent: int, allowed: int, to_come: float = 0) -> str:
    """Return what a plan says of the allowance; `to_come` are the calls of passes until a day of them is
    over."""
    used = f"{spent:,} of the {allowed:,} API calls are used that SYNC_API_CALLS_PER_DAY allows in 24 hours"
    rest = f", and passes take {to_come:,.0f} more until a day of them is over" if to_come >= 1 else ""
    return used + rest
