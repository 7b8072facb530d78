"""The problems that open an incident, as a pure function of what is known of the replication.

Another kind is a line in KINDS, a function in PROBLEMS, and a section of docs/operating.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from sync.operations.backlog import is_behind
from sync.operations.formats import format_utc
from sync.operations.status import URGENT_DAYS, WARN_DAYS, describe_count
from sync.postgres.consumers import Backlog
from sync.postgres.state.incidents import Incident

# Passes of one object that fail in a row before it is an incident: the worker retries after 5 s, 10 s, 20 s …
FAILURES = 5
# The share of SYNC_API_BUDGET above which it is nearly used.
NEARLY = 0.9
# How long Postgres may be away: a failover takes one or two minutes.
PATIENCE = timedelta(minutes=3)
NAMED = 5  # fields that a text names


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of incident: what the operator types, and what its end means."""

    command: str
    over: str
    settles: timedelta = timedelta(0)  # what is over within this time is not told


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "stale": Kind("python -m sync status", "the copy is fresh again"),
        "login": Kind("python -m sync check", "Salesforce accepts the login again"),
        "failing": Kind("python -m sync status", "a pass has succeeded"),
        "rejects": Kind("python -m sync rejects", "no rejected record is left"),
        "rejects_exceeded": Kind("python -m sync rejects", "a pass was within the limit again"),
        "guard": Kind("python -m sync status", "the guard does not refuse any more"),
        "field_vanished": Kind("python -m sync schema", "the fields are shown again, or gone for a week"),
        "verify": Kind("python -m sync verify --repair", "a verify has left no difference"),
        "api_budget": Kind(
            "python -m sync check", "there is room in the API budget again", timedelta(minutes=1)
        ),
        "watchdog": Kind("python -m sync status", "a pass has succeeded since the restart"),
        "database_full": Kind("python -m sync prune", "the database is far from its limit again"),
        "consumer_behind": Kind("python -m sync status", "the consumer has caught up, read anew, or ended"),
        "database": Kind("python -m sync check", "Postgres answers and accepts what is written"),
    }
)
# What the process knows itself, without the database.
OF_THE_PROCESS = frozenset({"database"})
# Classes of errors that have a kind of their own.
REFUSALS = {
    "guard": "the run would remove more records than it may without approval",
    "other org": "the settings lead to another org than the one whose records the tables hold",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong now: a kind, an object ("": all of them), and a sentence without values of records."""

    kind: str
    object: str
    what: str

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.object


@dataclass(frozen=True, slots=True)
class Pass:
    """A finished run, other than a verify: its outcome, and the class of its error."""

    outcome: str
    error_class: str | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """The last finished verify: differences that remain, and whether it is long since one succeeded."""

    at: datetime
    failed: bool
    remaining: int
    overdue: bool
    error_class: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectState:
    """What the database knows of one object.

    `lag` is None for an object that was never complete, whose first run began `tried_for` ago. `passes` are
    the last finished ones, the newest first.
    """

    object: str
    complete_through: datetime | None = None
    lag: timedelta | None = None
    tried_for: timedelta | None = None
    passes: tuple[Pass, ...] = ()
    rejects: int = 0
    vanished: tuple[str, ...] = ()
    verified: Verified | None = None

    @property
    def last(self) -> Pass:
        """The last pass that was not stopped."""
        return next((one for one in self.passes if one.outcome != "stopped"), Pass("none"))

    @property
    def last_success(self) -> datetime | None:
        """When the last successful pass ended."""
        return next((one.finished_at for one in self.passes if one.outcome == "succeeded"), None)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known at one moment.

    `usage` is the share of SYNC_API_BUDGET that the org has used (None: unknown), `known` are the incidents
    so far. `days_left` is the time until the database reaches SYNC_DATABASE_LIMIT (None: unknown),
    `consumers` are those of the feed, whose entries are kept for `feed_retention`. `deferred` is the work
    that has waited for API calls for an hour.
    """

    objects: tuple[ObjectState, ...]
    max_lag: timedelta
    usage: float | None = None
    known: Sequence[Incident] = ()
    days_left: float | None = None
    consumers: Sequence[Backlog] = ()
    feed_retention: timedelta | None = None
    deferred: Sequence[str] = ()


def find_problems(observed: Observed) -> list[Problem]:
    """Return everything that is wrong, each kind and object once."""
    found = [problem for look in PROBLEMS for problem in look(observed)]
    return list({problem.key: problem for problem in found}.values())


def stale(observed: Observed) -> Iterator[Problem]:
    for one in observed.objects:
        if one.complete_through is not None and one.lag is not None and one.lag > observed.max_lag:
            through = format_utc(one.complete_through)
            yield Problem("stale", one.object, f"complete through {through}: consumers see that state")
        elif one.lag is None and one.tried_for is not None and one.tried_for > observed.max_lag:
            yield Problem("stale", one.object, "never complete: the first load has not finished")


def login(observed: Observed) -> Iterator[Problem]:
    if any(one.last.error_class == "login" for one in observed.objects):
        yield Problem("login", "", "Salesforce refuses the login: nothing is read")


def failing(observed: Observed) -> Iterator[Problem]:
    """Yield objects whose passes fail; a deferred or stopped one neither fails nor succeeds."""
    for one in observed.objects:
        failures = 0
        for run in one.passes:
            failures += run.outcome in ("failed", "abandoned")
            if run.outcome == "succeeded" or failures == FAILURES:
                break
        if failures == FAILURES and one.last.error_class not in (*REFUSALS, "login", "rejects"):
            reason = one.last.error_class or "unknown"
            yield Problem("failing", one.object, f"{FAILURES} or more passes in a row failed ({reason})")


def rejects(observed: Observed) -> Iterator[Problem]:
    for one in observed.objects:
        if one.rejects:
            yield Problem("rejects", one.object, f"{describe_count(one.rejects)} rejected and not stored")
        if one.last.error_class == "rejects":
            yield Problem(
                "rejects_exceeded", one.object, "a run refused to go on: too many records cannot be stored"
            )


def guard(observed: Observed) -> Iterator[Problem]:
    for one in observed.objects:
        verified = one.verified.error_class if one.verified is not None else None
        if reason := REFUSALS.get(one.last.error_class or "") or REFUSALS.get(verified or ""):
            yield Problem("guard", one.object, reason)


def vanished(observed: Observed) -> Iterator[Problem]:
    for one in observed.objects:
        if one.vanished:
            named = ", ".join(one.vanished[:NAMED])
            more = f" and {len(one.vanished) - NAMED} more" if len(one.vanished) > NAMED else ""
            yield Problem("field_vanished", one.object, f"not shown any more: {named}{more}")


def verify(observed: Observed) -> Iterator[Problem]:
    for one in observed.objects:
        last = one.verified
        if last is None or last.error_class in REFUSALS:
            continue
        if last.remaining:
            what = f"{last.remaining:,} found different at {format_utc(last.at)}"
            yield Problem("verify", one.object, what)
        elif last.failed and last.overdue:
            yield Problem("verify", one.object, f"no verify has succeeded for two days ({last.error_class})")


def api_budget(observed: Observed) -> Iterator[Problem]:
    if any(one.last.outcome == "deferred" for one in observed.objects):
        yield Problem("api_budget", "", "SYNC_API_BUDGET is used up: passes are deferred")
    elif observed.deferred:
        what = f"SYNC_API_CALLS_PER_DAY is nearly used: {', '.join(observed.deferred)} deferred for an hour"
        yield Problem("api_budget", "", what)
    elif observed.usage is not None and observed.usage >= NEARLY:
        yield Problem("api_budget", "", f"more than {NEARLY:.0%} of SYNC_API_BUDGET is used")


def database_full(observed: Observed) -> Iterator[Problem]:
    left = observed.days_left
    if left is not None and left < WARN_DAYS:
        within = next(days for days in (0, URGENT_DAYS, WARN_DAYS) if left <= days)
        when = f"in less than {within} days" if within else "now"
        yield Problem("database_full", "", f"the database reaches SYNC_DATABASE_LIMIT {when}")


def consumer_behind(observed: Observed) -> Iterator[Problem]:
    """Yield consumers whose entries are pruned soon, or were pruned, until they have read the views again."""
    for one in observed.consumers:
        if one.lost:
            what = "it has lost entries of the feed, and reads the views again when it polls next"
            yield Problem("consumer_behind", one.label, what)
        elif is_behind(one, observed.feed_retention):
            what = "it has not acknowledged entries of the feed that are pruned soon (SYNC_FEED_RETENTION)"
            yield Problem("consumer_behind", one.label, what)


def watchdog(observed: Observed) -> Iterator[Problem]:
    """Yield restarts by the watchdog, which the ended process has recorded, until a pass succeeds."""
    for incident in observed.known:
        if incident.kind == "watchdog" and incident.closed_at is None:
            # A job that is no object's is over as soon as any object's pass succeeds.
            mine = [one for one in observed.objects if one.object == incident.object] or observed.objects
            ended = [one.last_success for one in mine if one.last_success is not None]
            if not any(at > incident.opened_at for at in ended):
                yield Problem("watchdog", incident.object, incident.what)


PROBLEMS: tuple[Callable[[Observed], Iterator[Problem]], ...] = (
    *(stale, login, failing, rejects, guard, vanished, verify, api_budget, database_full, consumer_behind),
    watchdog,
)


def without_database(known: Sequence[Incident], away: timedelta | None) -> list[Problem]:
    """Return the problems of a process whose database is `away` for so long (None: it is not).

    What only the database tells stays as it was.
    """
    if away is None:
        return []
    found = [
        Problem(one.kind, one.object, one.what)
        for one in known
        if one.closed_at is None and one.kind not in OF_THE_PROCESS
    ]
    return [*found, *database(away)]


def database(away: timedelta | None) -> Iterator[Problem]:
    """Yield that Postgres is away, or refuses what is written, for longer than a failover takes."""
    if away is not None and away >= PATIENCE:
        yield Problem("database", "", "Postgres does not answer, or refuses what is written")
