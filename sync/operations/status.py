"""The state of the replication from the database: freshness, journal, rejects, and a one-line summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from sync.operations.backlog import consumer_warnings, request_warnings
from sync.operations.calls import Calls, calls_of, deferred_warning
from sync.operations.formats import format_bytes, format_duration, format_utc, truncate
from sync.operations.running import Running, running
from sync.postgres import consumers, ledger, pruning
from sync.postgres.consumers import Backlog
from sync.postgres.pruning import Size
from sync.postgres.state import requests
from sync.postgres.state.incidents import Incident, read_open
from sync.postgres.state.requests import Delayed
from sync.replication.budget import pacing
from sync.replication.budget.plan import Deferred, Rules
from sync.replication.rejects import describe_groups, reject_groups

FRESHNESS = text("""
SELECT f.object, f.complete_through, f.lag, f.last_outcome, f.last_finished_at, r.error, f.rows, f.tombstones,
       f.rejects, f.verified_through, f.estimated
  FROM crm.freshness AS f
  LEFT JOIN LATERAL (
       SELECT error FROM sync.run
        WHERE object = f.object AND outcome <> 'running' AND command NOT IN ('verify', 'erase', 'request')
        ORDER BY id DESC LIMIT 1
       ) AS r ON true
 WHERE f.object = ANY (:objects)
""")
RUNS = text("""
SELECT id, object, command, owner, started_at, finished_at, outcome, since, until, complete_through, read,
       inserted, updated, deleted, unchanged, rejected, nuls_removed, api_calls, passes, error
  FROM sync.run WHERE object = ANY (:objects) ORDER BY id DESC LIMIT :limit
""")
WORKING = text("""
SELECT object, owner FROM sync.lease
 WHERE owner IS NOT NULL AND expires_at > clock_timestamp() AND object = ANY (:objects) ORDER BY object
""")
# A capped lag: `complete_through` is later than the time that Salesforce covers.
LAGGING = text("""
SELECT object, covered FROM sync.cursor
 WHERE object = ANY (:objects) AND covered < complete_through AND now() - covered > interval '1 day'
 ORDER BY object
""")
FUTURE = text("""
SELECT object, complete_through FROM sync.cursor
 WHERE object = ANY (:objects) AND complete_through > now() + interval '5 minutes'
 ORDER BY object
""")
# The last verify of each object; a failed one is `overdue` if none succeeded for two days.
VERIFIED = text("""
SELECT DISTINCT ON (r.object) r.object, r.started_at, r.outcome, r.error, r.error_class,
       (r.findings ->> 'remaining')::bigint - coalesce((r.findings ->> 'rejected')::bigint, 0) AS remaining,
       k.complete_through - coalesce(k.verified_through, r.started_at - interval '1 day') > interval '2 days'
           AS overdue
  FROM sync.run AS r JOIN sync.cursor AS k ON k.object = r.object
 WHERE r.command = 'verify' AND r.outcome <> 'running' AND r.object = ANY (:objects)
 ORDER BY r.object, r.id DESC
""")
# Another org was accepted, and no verify since then has shown that no records of the first org are left.
OTHER_ORG = text("""
SELECT p.object, o.replaced_at
  FROM sync.org AS o, sync.replicated AS p LEFT JOIN sync.cursor AS k USING (object)
 WHERE o.replaced_at IS NOT NULL AND k.verified_through IS NULL AND p.object = ANY (:objects) ORDER BY 1
""")
REFUSED = text("""
SELECT object, deletions_refused_at AS since FROM sync.cursor
 WHERE deletions_refused_at IS NOT NULL AND object = ANY (:objects) ORDER BY 1
""")
NOW = text("SELECT now()")
NO_CALLS, RULES = Calls(), Rules()
NO_SIZE, NEVER = Size(0, None), datetime.min.replace(tzinfo=UTC)
WARN_DAYS, URGENT_DAYS = 30, 7  # days until the database reaches its limit
BEHIND = (
    0.8  # share of the feed's retention after which a consumer is behind: what it has not read is pruned soon
)
NEWS = timedelta(days=7)  # how long a vanished field appears in the first line
REJECTS = text("""
SELECT object, record_id, reason, record::text AS record, system_modstamp, first_seen, last_seen, run_id
  FROM sync.reject WHERE object = ANY (:objects) ORDER BY object, record_id
""")


@dataclass(frozen=True, slots=True)
class Freshness:
    """How far one object is complete, and how its last finished run ended.

    `rows` and `tombstones` are `estimated` if the table is large.
    """

    object: str
    complete_through: datetime | None
    lag: timedelta | None
    last_outcome: str | None
    last_finished_at: datetime | None
    last_error: str | None
    rows: int
    tombstones: int
    rejects: int
    verified_through: datetime | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """One entry of the journal; `passes` is how many it stands for, none of which changed anything (0: it is
    of a run of its own)."""

    id: int
    object: str
    command: str
    owner: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str
    since: datetime | None
    until: datetime | None
    complete_through: datetime | None
    read: int
    inserted: int
    updated: int
    deleted: int
    unchanged: int
    rejected: int
    nuls_removed: int
    api_calls: int
    passes: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that could not be stored, as JSON, and the reason."""

    object: str
    record_id: str
    reason: str
    record: str
    system_modstamp: datetime | None
    first_seen: datetime
    last_seen: datetime
    run_id: int | None


@dataclass(frozen=True, slots=True)
class Status:
    """All that `status` prints: `stale` are the objects with too large a lag, `warnings` are other
    problems, `incidents` are the open ones, `running` what is going on, `consumers` those of the feed,
    `calls` those of the API, `deferred` is the work that waits for them, `at` is the time of the reading,
    `requests` are those of consumers that have waited for a minute."""

    objects: tuple[Freshness, ...]
    runs: tuple[Run, ...]
    working: dict[str, str]
    stale: tuple[str, ...]
    warnings: tuple[str, ...]
    headline: str
    size: Size = NO_SIZE
    size_limit: int | None = None
    incidents: tuple[Incident, ...] = ()
    running: tuple[Running, ...] = ()
    consumers: tuple[Backlog, ...] = ()
    calls: Calls = NO_CALLS
    deferred: tuple[Deferred, ...] = ()
    at: datetime = NEVER
    requests: tuple[Delayed, ...] = ()


def freshness(connection: Connection, objects: Sequence[str]) -> tuple[Freshness, ...]:
    """Return one entry for each object; an object without a cursor was never complete."""
    rows = {row.object: row for row in connection.execute(FRESHNESS, {"objects": list(objects)})}
    unknown = (None, None, None, None, None, 0, 0, 0, None, False)
    return tuple(Freshness(*rows[name]) if name in rows else Freshness(name, *unknown) for name in objects)


def runs(connection: Connection, objects: Sequence[str], limit: int = 10) -> tuple[Run, ...]:
    """Return the last runs, the newest first."""
    rows = connection.execute(RUNS, {"objects": list(objects), "limit": limit})
    return tuple(Run(*row) for row in rows)


def rejects(connection: Connection, objects: Sequence[str]) -> list[Rejected]:
    """Return the rejected records of these objects."""
    return [Rejected(*row) for row in connection.execute(REJECTS, {"objects": list(objects)})]


def read_status(
    connection: Connection,
    objects: Sequence[str],
    max_lag: timedelta,
    size_limit: int | None = None,
    feed_retention: timedelta | None = None,
    rules: Rules = RULES,
) -> Status:
    """Read everything from one snapshot; an object with a lag above `max_lag` is stale.

    `size_limit` is the size of the database's plan in bytes; without `feed_retention` no consumer is behind.
    `rules` are those of the plan of API calls.
    """
    found = freshness(connection, objects)
    working = {row.object: row.owner for row in connection.execute(WORKING, {"objects": list(objects)})}
    stale = tuple(f.object for f in found if f.lag is None or f.lag > max_lag)
    size = pruning.size(connection)
    backlogs, delayed = tuple(consumers.backlogs(connection)), tuple(requests.delayed(connection))
    plan, stored = pacing.read_plan(connection, rules)
    problems = [
        *deferred_warning(plan.deferred, stored.at),
        *size_warnings(size, size_limit),
        *warnings(connection, objects),
        *consumer_warnings(backlogs, feed_retention),
        *request_warnings(delayed),
    ]
    line = headline(found, stale, working, [what for what, urgent in problems if urgent])
    texts = tuple(what for what, _ in problems)
    opened = tuple(read_open(connection))
    journal, now_running = runs(connection, objects), running(connection, objects)
    return Status(
        *(found, journal, working, stale, texts, line, size, size_limit, opened, now_running, backlogs),
        *(calls_of(plan), plan.deferred, stored.at),
        delayed,
    )


def size_warnings(size: Size, limit: int | None) -> Iterator[tuple[str, bool]]:
    """Yield the warning about a database that reaches its plan's size soon, and whether it is urgent."""
    left = size.days_left(limit)
    if limit is None or left is None or left >= WARN_DAYS:
        return
    when = "is reached" if left == 0 else f"is reached in {left:,.0f} days"
    yield (
        f"the database has {format_bytes(size.bytes)}, and its limit of {format_bytes(limit)} {when}: over "
        "it the credential may only read, delete and truncate; type: python -m sync prune, or choose a "
        "larger plan and set SYNC_DATABASE_LIMIT",
        left < URGENT_DAYS,
    )


def warnings(connection: Connection, objects: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield problems that exist although the last pass succeeded, and whether the first line shows them."""
    parameters = {"objects": list(objects)}
    for row in connection.execute(FUTURE, parameters):
        yield (
            f"{row.object} is recorded as complete through {format_utc(row.complete_through)}, which is in "
            "the future: a clock was wrong, and changes may be missing; type: "
            f"python -m sync resync --object {row.object} --full",
            True,
        )
    yield from rejects_by_reason(connection, objects)
    for name in other_org(connection, objects):
        yield name, True
    for row in connection.execute(REFUSED, parameters):
        yield (
            f"{row.object}: Salesforce refuses getDeleted since {format_utc(row.since)}: records that left "
            "the recycle bin are found by verify alone, each night or when you type: "
            f"python -m sync verify --object {row.object} --repair",
            True,
        )
    for row in connection.execute(VERIFIED, parameters):
        if row.outcome == "failed" and (row.remaining or row.overdue):
            yield (
                f"{row.object}: the verify of {format_utc(row.started_at)} failed: "
                f"{truncate(row.error, 300)}",
                True,
            )
        elif row.remaining:
            what = f"{row.remaining:,} found different at {format_utc(row.started_at)}"
            yield f"{row.object}: {what}; type: python -m sync verify --object {row.object} --repair", True
    for row in connection.execute(LAGGING, parameters):
        yield (
            f"{row.object}: Salesforce's latestDateCovered is {format_utc(row.covered)}: a transaction "
            "hangs; only 24 hours of its lag count, the nightly verify finds what commits later than that",
            True,
        )
    for name, field, since in ledger.all_refused(connection, list(objects)):
        yield (
            f"{name}.{field}: describe lists it and queries refuse it since {format_utc(since)}: it is "
            "left out, its last values are kept, and it is tried again each day; correct the field or its "
            f"package, or exclude it by {name}.{field} in SYNC_EXCLUDED_FIELDS, which erases its values",
            True,
        )
    now = connection.execute(NOW).scalar_one()
    for name, gone, since in ledger.vanished(connection, list(objects)):
        yield (
            f"{name}.{gone} is not shown any more since {format_utc(since)}: removed, or hidden from the "
            "integration user; its last values are kept",
            now - since < NEWS,
        )


def rejects_by_reason(connection: Connection, objects: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield the rejected records of each object; accepted ones do not appear in the first line."""
    found = reject_groups(connection, objects)
    for name in objects:
        unaccepted = [group for group in found if group.object == name and not group.accepted]
        if unaccepted:
            count, since = (
                sum(group.records for group in unaccepted),
                min(group.since for group in unaccepted),
            )
            yield (
                f"{name}: {describe_count(count)} rejected since {format_utc(since)} "
                f"({describe_groups(unaccepted)}): consumers see "
                f"an older version of them, or none; type: python -m sync rejects --object {name}",
                True,
            )
        accepted = [group for group in found if group.object == name and group.accepted]
        if accepted:
            count = sum(group.records for group in accepted)
            yield (
                f"{name}: {describe_count(count)} rejected for accepted reasons "
                f"({describe_groups(accepted)})",
                False,
            )


def describe_count(count: int) -> str:
    """Return a number of records, as the start of a sentence."""
    return "1 record is" if count == 1 else f"{count:,} records are"


def other_org(connection: Connection, objects: Sequence[str]) -> list[str]:
    """Return, for each object, what to do after another org was accepted."""
    return [
        f"{row.object}: the org was replaced on {format_utc(row.replaced_at)}, and records of the first one "
        f"may be left; type: python -m sync verify --object {row.object} --repair --approve"
        for row in connection.execute(OTHER_ORG, {"objects": list(objects)})
    ]


def headline(
    found: Sequence[Freshness], stale: Sequence[str], working: dict[str, str], warned: Sequence[str] = ()
) -> str:
    """Return one line for the operator: what is wrong, what consumers see, what to type."""
    for state in found:
        if state.object not in stale:
            continue
        busy = f"; {working[state.object]} is working on it" if state.object in working else ""
        if state.complete_through is None:
            tail = busy or "; type: python -m sync run"
            failed = (
                f", the last run {state.last_outcome} ({truncate(state.last_error)})"
                if state.last_error
                else ""
            )
            seen = f"consumers see {'about ' if state.estimated else ''}{state.rows:,} rows"
            return f"NOT LOADED: {state.object} has never been complete{failed}: {seen}{tail}"
        assert state.lag is not None
        why = f"the last run {state.last_outcome}" if state.last_outcome else "no run is in the journal"
        why += f" ({truncate(state.last_error)})" if state.last_error else ", none since" if not busy else ""
        tail = busy or "; type: python -m sync check"
        return (
            f"STALE: {state.object} is complete through {format_utc(state.complete_through)}, "
            f"{format_duration(state.lag)} ago; "
            f"{why}: consumers see the state of that time{tail}"
        )
    oldest = max((state.lag for state in found if state.lag is not None), default=timedelta(0))
    *others, last = [state.object for state in found]
    names = f"{', '.join(others)} and {last}" if others else last
    tail = ""
    broken = [state for state in found if state.last_outcome not in (None, "succeeded")][:1]
    endings = [
        f"the last run of {state.object} {state.last_outcome}: {truncate(state.last_error)}"
        for state in broken
    ]
    if warned:
        # A present failure comes before older warnings; a stopped run is not a failure.
        failing = any(state.last_outcome != "stopped" for state in broken)
        first, *others = [*endings, *warned] if failing else [*warned, *endings]
        more = f" (and {len(others)} more)" if others else ""
        return f"WARNING: {first}{more}; consumers see every change up to {format_duration(oldest)} ago{tail}"
    tail += "".join(f"; {how}" for how in endings)
    holds = "holds" if len(found) == 1 else "hold"
    return f"OK: {names} {holds} every change up to {format_duration(oldest)} ago{tail}"
