"""The beginning of a pass: one call to Salesforce and two short transactions for all objects together.

The first transaction reads which leases nobody holds. The call asks for each object what its own pass would
ask. The second transaction writes only where nobody has held the lease meanwhile: it closes the objects in
which nothing has changed, and takes the leases of the others, which go on with what the call told. An object
stays out that is not loaded, resumes, or was asked too slowly with others before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import Connection, text

from sync.catalogue.catalogue import CATALOGUE
from sync.errors import SalesforceError, SyncError
from sync.logs import logger
from sync.postgres import ledger
from sync.postgres.load.merge import Tally
from sync.postgres.state import cursors, journal, leases, replicated
from sync.postgres.state.calls import DESCRIBE
from sync.postgres.state.cursors import CursorState
from sync.postgres.state.journal import Outcome
from sync.postgres.state.leases import Lease, Unused
from sync.postgres.tables import transaction
from sync.replication import apply, deletes, recompute, refresh, retention, windows
from sync.replication.apply import ObjectSchema
from sync.replication.budget import pacing
from sync.replication.runs import Report, SyncContext, Taken, log_outcome
from sync.salesforce.extract import together
from sync.salesforce.extract.together import Question, Told
from sync.salesforce.session.answers import Deletions
from sync.salesforce.session.composite import MOST_QUERIES
from sync.window import Window

log = logger.get(__name__)

DESCRIBE_SECONDS = 600.0  # between two describes of an object in which nothing changes
# What locks one table must not hold up all objects: each then goes by itself.
LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '2s'")
MOST_LISTED = 1_000  # deleted records that the closing transaction looks up


@dataclass(frozen=True, slots=True)
class Opening:
    """What an object's own pass begins with: the calls made for it, and with its lease what the call told."""

    taken: Taken
    schema: ObjectSchema | None = None
    told: Told | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """The objects whose pass is over, and the openings of those that go on; others begin by themselves."""

    reports: tuple[Report, ...] = ()
    openings: Mapping[str, Opening] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that can be asked about in the call. With `lately`, coverage and deletions are left out: they
    were asked for within SYNC_COVERAGE_INTERVAL."""

    lease: Unused
    schema: ObjectSchema
    cursor: CursorState
    lately: bool


def begin(context: SyncContext, names: Sequence[str]) -> Begun:
    """Begin the passes of these objects. A failure is left to each object's own pass, which meets it, too."""
    sharing = [name for name in names if context.session.learned(name).shared]
    began, calls = time.monotonic(), dict.fromkeys(names, 0)
    candidates: list[Candidate] = []
    try:
        sharing = describe_due(context, sharing, calls)
        pacing.check_usage(context)  # each object's own pass records it
        if sharing and not context.stop.is_set() and context.session.clock() is not None:
            candidates = look(context, sharing)
    except SyncError as error:
        log.info("composite_skipped", reason=str(error)[:300])
    openings = {name: described(made) for name, made in calls.items()}
    for first in range(0, len(candidates), MOST_QUERIES):
        openings.update(ask(context, candidates[first : first + MOST_QUERIES], openings))
    reports = close(context, candidates, openings, began) if candidates else []
    if context.stop.is_set():
        for each in openings.values():
            if each.taken.held:
                leases.release(context.engine, each.taken.held)
        return Begun(tuple(reports))
    kept = {name: each for name, each in openings.items() if each.taken.calls or each.taken.held}
    return Begun(tuple(reports), kept)


def described(calls: int) -> Opening:
    """Return an opening without a lease, that counts the calls of a describe."""
    return Opening(Taken(None, calls, by_kind={DESCRIBE: calls} if calls else {}))


def describe_due(context: SyncContext, names: Sequence[str], calls: dict[str, int]) -> list[str]:
    """Describe objects that this process has not described, and the one whose describe is oldest, if it is
    due; return which objects can take part."""
    session, now = context.session, time.monotonic()
    known = {name: session.last_described(name) for name in names}
    ages = {name: now - found.checked_at for name, found in known.items() if found}
    due = [name for name in names if name not in ages]
    due += [name for name in sorted(ages, key=lambda name: -ages[name])[:1] if ages[name] > DESCRIBE_SECONDS]
    if not due:
        return list(names)
    with transaction(context.engine) as connection:
        steady = cursors.steady_objects(connection, names)
    left_out = set(names) - set(steady)
    for name in due:
        if name in steady:
            with session.counted() as counted:
                try:
                    session.describe(name, best_effort=True)
                except SalesforceError as error:
                    log.info("composite_skipped", object=name, reason=str(error)[:300])
                    left_out.add(name)
            calls[name] += counted.made
    return [name for name in names if name not in left_out]


def look(context: SyncContext, names: Sequence[str]) -> list[Candidate]:
    """Return which objects can be asked: nobody holds their lease, and no other work comes first.

    Where the org is another one, each object's own pass says so.
    """
    at = context.session.clock()
    assert at is not None
    with transaction(context.engine) as connection:
        connection.execute(LOCK_TIMEOUT)
        # First: what is read after it is not older than the fences, the org included.
        unused = leases.unused(connection, names)
        if not apply.is_known_org(connection, context.session.organization()):
            return []
        replicated.note_replicated(connection, context.settings.sync_objects)
        steady = cursors.steady_objects(connection, names)
        found = [
            candidate(connection, context, each, at)
            for each in unused
            if each.object in steady and not recompute.is_due(connection, context, each.object)
        ]
    return [each for each in found if each is not None]


def candidate(connection: Connection, context: SyncContext, lease: Unused, at: datetime) -> Candidate | None:
    """Return an object as it can be asked; None if its clock is wrong, or its describe not known."""
    known = context.session.last_described(lease.object)
    if known is None:
        return None
    schema = apply.object_schema(connection, context, CATALOGUE[lease.object], known.fields, at)
    cursor = cursors.read_cursor(connection, lease.object)
    through = cursor.complete_through
    if schema.clock_error or through is None or through > at + context.settings.sync_overlap:
        return None
    return Candidate(lease, schema, cursor, windows.asked_lately(context, cursor, at))


def other_work(connection: Connection, context: SyncContext, each: Candidate) -> bool:
    """Return whether other work than its window is due in an object."""
    name, verify_at = each.lease.object, context.settings.sync_verify_at
    return (
        each.cursor.deletions_refused_at is not None
        or retention.is_due(connection, context, name, each.cursor)
        or bool(ledger.find_changes(connection, each.schema.projection))
        or each.cursor.hidden != tuple(sorted(each.schema.projection.hidden))
        or bool(refresh.due_fields(context, each.schema, each.cursor))
        or (context.command == "worker" and journal.verify_due(connection, name, verify_at))
    )


def ask(
    context: SyncContext, group: Sequence[Candidate], openings: Mapping[str, Opening]
) -> dict[str, Opening]:
    """Ask about a group of objects in one call; return their openings with what it told.

    The call counts for the first of them.
    """
    questions = [question(context, each) for each in group]
    told: dict[str, Told] = {}
    with context.session.counted() as calls:
        try:
            told = together.ask(context.session, questions)
        except SyncError as error:
            log.info("composite_skipped", reason=str(error)[:300])
    found = {}
    for number, each in enumerate(group):
        taken = openings[each.lease.object].taken
        made = taken.calls + (calls.made if number == 0 else 0)
        taken = replace(taken, calls=made, shared_calls=calls.made if len(group) > 1 else 0)
        heard = told.get(each.lease.object)
        schema = None if heard is None else replace(each.schema, at=heard.at)
        found[each.lease.object] = Opening(taken, schema, heard)
    return found


def question(context: SyncContext, each: Candidate) -> Question:
    """Return what to ask of an object: the same as its own pass asks.

    The delete log is not asked when it may not reach back so far: the own pass then verifies.
    """
    overlap, through = context.settings.sync_overlap, each.cursor.complete_through
    assert through is not None
    end = deletes.floor_to_minute(each.schema.at)
    known = each.cursor.deleted_through or through
    window = None
    if not each.lately and known > each.schema.at - deletes.LOG_SPAN + overlap:
        start = min(deletes.floor_to_minute(known - overlap), end - deletes.SHORTEST)
        window = (start, end)
    return Question(each.schema.projection, through - overlap, window)


def close(
    context: SyncContext, candidates: Sequence[Candidate], openings: dict[str, Opening], began: float
) -> list[Report]:
    """Close the objects in which nothing has changed, and take the leases of the others, in one transaction.

    Those that are closed are taken out of `openings`; of an object whose lease is not to be had, the opening
    loses what was told.
    """
    settled: dict[str, int | Lease | None] = {}
    seconds = time.monotonic() - began
    try:
        with transaction(context.engine) as connection:
            connection.execute(LOCK_TIMEOUT)
            reread = refresh.read_waiting(connection)
            for each in candidates:
                name = each.lease.object
                settled[name] = settle(connection, context, each, openings[name], waiting=name in reread)
    except SyncError as error:
        log.info("composite_skipped", reason=str(error)[:300])
        settled = {}
    reports = []
    for each in candidates:
        name, opening = each.lease.object, openings.pop(each.lease.object)
        found = settled.get(name)
        if isinstance(found, int):
            report = Report(name, window_of(context, opening), Tally(), opening.taken.calls, seconds=seconds)
            log_outcome(report, found, "succeeded")
            reports.append(report)
        elif found is None:
            openings[name] = Opening(opening.taken)
        else:
            openings[name] = replace(opening, taken=replace(opening.taken, held=found))
    return reports


def settle(
    connection: Connection, context: SyncContext, each: Candidate, opening: Opening, *, waiting: bool
) -> int | Lease | None:
    """Close an object in which nothing has changed, and return the number of its entry in the journal; or
    take its lease.

    `waiting`: records of the object are queued to be read. None: nothing was told, another process has held
    the lease, or the work shall stop.
    """
    if opening.told is None:
        return None
    if is_quiet(opening, each) and not waiting:
        closed = close_quiet(connection, context, each, opening)
        if closed is not None:
            return closed
    return None if context.stop.is_set() else leases.take_unused(connection, each.lease, context.owner)


def is_quiet(opening: Opening, each: Candidate) -> bool:
    """Return whether the call says that nothing has changed in an object."""
    told = opening.told
    if told is None or not told.empty:
        return False
    if told.question.deleted is None:
        return each.lately
    end = told.question.deleted[1]
    known = each.cursor.deleted_through or each.cursor.complete_through
    return (
        isinstance(told.coverage, datetime)
        and windows.believable(told.coverage, end, told.at)
        and isinstance(told.deletions, Deletions)
        and known is not None
        and told.deletions.earliest <= known
        and len(told.deletions.records) <= MOST_LISTED
    )


def close_quiet(
    connection: Connection, context: SyncContext, each: Candidate, opening: Opening
) -> int | None:
    """Advance the cursor and write the journal; return the number of the journal's entry.

    None: there is other work, a record of the delete log is live, the clock is wrong, or another process has
    held the lease; nothing is written.
    """
    if other_work(connection, context, each):
        return None
    name, told = each.lease.object, opening.told
    assert told is not None
    listed = list(told.deletions.records) if isinstance(told.deletions, Deletions) else []
    known = apply.reference_time(connection, context)
    if apply.clock_error(name, told.at, known) or (listed and deletes.live_ids(connection, name, listed)):
        return None
    if not leases.pass_by(connection, each.lease):
        return None
    window = window_of(context, opening)
    asked = told.question.deleted
    if asked and isinstance(told.coverage, datetime) and isinstance(told.deletions, Deletions):
        deleted = min(told.deletions.through, asked[1])
        cursors.advance_quiet(connection, name, window, told.coverage, deleted)
    taken = opening.taken
    ended = Outcome("succeeded", window, Tally(), taken.calls, taken.shared_calls, calls=taken.by_kind)
    return journal.note_quiet(connection, name, ended, context.command, context.owner)


def window_of(context: SyncContext, opening: Opening) -> Window:
    """Return the window that the call has read."""
    assert opening.told is not None
    return Window(opening.told.question.since, opening.told.at, context.settings.sync_overlap)
