"""When incidents open and close, which of them are told now, and the message: pure functions of the time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sync.operations.alerts.problems import KINDS, Kind, Problem
from sync.operations.formats import format_duration, format_utc
from sync.postgres.state.incidents import Incident, Told

# At most one message about an incident in this time; a problem that comes back within it is the same one.
QUIET = timedelta(hours=1)
LISTED = 20  # incidents that a message lists
PAGE = "docs/operating.md"


@dataclass(frozen=True, slots=True)
class Message:
    """A message as Apprise sends it; `type` is failure, success if all that it names is over, or info."""

    title: str
    body: str
    type: str = "failure"


TEST = Message(
    "salesforce-postgres-sync: test",
    "This is a test by `python -m sync alert --test`: alerts arrive here.",
    "info",
)


def opened(known: Iterable[Incident], problems: Iterable[Problem], now: datetime) -> list[Incident]:
    """Return the incident of each problem: the known one, reopened if it was closed, or a new one."""
    latest = {one.key: one for one in known}
    found = []
    for problem in problems:
        before = latest.get(problem.key)
        if before is None:
            found.append(Incident(problem.kind, problem.object, problem.what, now))
        elif before.closed_at is None:
            found.append(replace(before, what=problem.what))
        else:
            times = before.times + 1
            found.append(replace(before, what=problem.what, closed_at=None, times=times))
    return found


def step(known: Sequence[Incident], problems: Sequence[Problem], now: datetime) -> list[Incident]:
    """Return all incidents after an evaluation: problems open them, and what is no problem any more closes.

    `known` are the open incidents and the recently closed ones, the newest of a key last.
    """
    current = {one.key: one for one in opened(known, problems, now)}
    others = [one for one in {one.key: one for one in known}.values() if one.key not in current]
    closed = [one if one.closed_at is not None else replace(one, closed_at=now) for one in others]
    return [*current.values(), *closed]


def state_of(one: Incident) -> Told:
    """Return what a message says of the incident now."""
    return "open" if one.closed_at is None else "over"


def is_due(one: Incident, now: datetime) -> bool:
    """Return whether the incident's state is to be told now: once when it opens, once when it is over.

    Some kinds have to last for a while before they are told.
    """
    state = state_of(one)
    kind = KINDS.get(one.kind)
    if state == "open" and kind is not None and now - one.opened_at < kind.settles:
        return False
    if one.told == state or (one.told is None and state == "over"):
        return False
    return one.last_told_at is None or now - one.last_told_at >= QUIET


def compose(incidents: Sequence[Incident], where: str) -> Message:
    """Return one message about several incidents; `where` names the deployment."""
    ordered = sorted(incidents, key=lambda one: (state_of(one) == "over", one.opened_at))
    first, *others = [f"{name_of(one)}{' is over' if one.closed_at else ''}" for one in ordered]
    more = f" and {len(others)} more" if others else ""
    lines = [describe(one) for one in ordered[:LISTED]]
    if len(ordered) > LISTED:
        lines.append(f"… and {len(ordered) - LISTED} more; type: python -m sync status")
    over = all(one.closed_at is not None for one in ordered)
    return Message(f"{where}: {first}{more}", "\n".join(lines), "success" if over else "failure")


def name_of(one: Incident) -> str:
    """Return an incident's short name."""
    return f"{one.object} {one.kind}" if one.object else one.kind


def describe(one: Incident) -> str:
    """Return one line about an incident: its state, what is wrong, what to type."""
    kind = KINDS.get(one.kind, Kind("python -m sync status", "it is over"))
    if one.closed_at is not None:
        lasted = format_duration(one.closed_at - one.opened_at)
        return f"OVER {name_of(one)}, after {lasted}: {kind.over}"
    again = f" ({one.times} times)" if one.times > 1 else ""
    since = f"since {format_utc(one.opened_at)}{again}"
    return f"OPEN {name_of(one)} {since}: {one.what}; type: {kind.command}; see {PAGE}#{one.kind}"
