"""The beginning of a pass: one call to Salesforce and two short transactions for all objects together.

The first transaction takes the leases that are free. The call asks for each object what its own pass would
ask. Objects in which nothing has changed are closed by the second transaction; the others go on, each with
its lease and with what the call told. An object stays out that is not loaded, resumes, or was asked too
slowly with others before.
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
from sync.postgres.state.leases import Lease
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
    """What an object's own pass begins with: the lease, and what the call told (None: it was not asked)."""

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
    """An object that takes part in the call; `lately`: coverage and deletions were asked for within
    SYNC_COVERAGE_INTERVAL, and are not asked for again."""

    held: Lease
    schema: ObjectSchema
    cursor: CursorState
    lately: bool


def begin(context: SyncContext, names: Sequence[str]) -> Begun:
    """Begin the passes of these objects. A failure is left to each object's own pass, which meets it, too."""
    sharing = [name for name in names if context.session.learned(name).shared]
    began, calls = time.monotonic(), dict.fromkeys(names, 0)
    openings: dict[str, Opening] = {}
    try:
        sharing = describe_due(context, sharing, calls)
        pacing.check_usage(context)  # each object's own pass records it
        if sharing and not context.stop.is_set() and context.session.clock() is not None:
            openings, candidates = take(context, sharing)
    except SyncError as error:
        log.info("composite_skipped", reason=str(error)[:300])
    openings = {
        name: opened(openings.get(name), made) for name, made in calls.items() if made or name in openings
    }
    held = [each.taken.held for each in openings.values() if each.taken.held is not None]
    if not held:
        return Begun(openings=openings)
    with leases.renewing(context.engine, held):
        for first in range(0, len(candidates), MOST_QUERIES):
            openings.update(ask(context, candidates[first : first + MOST_QUERIES], openings))
        reports = close(context, candidates, openings, began)
    if context.stop.is_set():
        for each in held:
            leases.release(context.engine, each)
        return Begun(tuple(reports))
    return Begun(tuple(reports), openings)


def opened(opening: Opening | None, described: int) -> Opening:
    """Return an opening, or one without a lease, that counts the calls of a describe."""
    held = opening.taken.held if opening is not None else None
    return Opening(Taken(held, described, by_kind={DESCRIBE: described} if described else {}))


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


def take(context: SyncContext, names: Sequence[str]) -> tuple[dict[str, Opening], list[Candidate]]:
    """Take the leases that are free; return an opening for each of them, and which objects can be asked."""
    organization = context.session.organization()
    at = context.session.clock()
    assert at is not None
    openings, candidates = {}, []
    with transaction(context.engine) as connection:
        connection.execute(LOCK_TIMEOUT)
        apply.check_org(connection, context, organization)
        replicated.note_replicated(connection, context.settings.sync_objects)
        taken = leases.take_free(connection, names, context.owner)
        steady = cursors.steady_objects(connection, names)
        for held in taken:
            openings[held.object] = Opening(Taken(held))
            if held.object not in steady or recompute.is_due(connection, context, held.object):
                continue
            if (found := candidate(connection, context, held, at)) is not None:
                candidates.append(found)
    return openings, candidates


def candidate(connection: Connection, context: SyncContext, held: Lease, at: datetime) -> Candidate | None:
    """Return an object as it can be asked; None if its clock is wrong, or its describe not known."""
    known = context.session.last_described(held.object)
    if known is None:
        return None
    schema = apply.object_schema(connection, context, CATALOGUE[held.object], known.fields, at)
    cursor = cursors.read_cursor(connection, held.object)
    through = cursor.complete_through
    if schema.clock_error or through is None or through > at + context.settings.sync_overlap:
        return None
    return Candidate(held, schema, cursor, windows.asked_lately(context, cursor, at))


def other_work(connection: Connection, context: SyncContext, each: Candidate) -> bool:
    """Return whether other work than its window is due in an object."""
    name, verify_at = each.held.object, context.settings.sync_verify_at
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
        taken = openings[each.held.object].taken
        made = taken.calls + (calls.made if number == 0 else 0)
        taken = replace(taken, calls=made, shared_calls=calls.made if len(group) > 1 else 0)
        heard = told.get(each.held.object)
        schema = None if heard is None else replace(each.schema, at=heard.at)
        found[each.held.object] = Opening(taken, schema, heard)
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
    """Close the objects in which nothing has changed, in one transaction; take them out of `openings`."""
    quiet = {each.held.object: each for each in candidates if is_quiet(openings[each.held.object], each)}
    if not quiet:
        return []
    reports, seconds = [], time.monotonic() - began
    try:
        with transaction(context.engine) as connection:
            connection.execute(LOCK_TIMEOUT)
            reread = refresh.read_waiting(connection)
            closed = {
                name: run
                for name, each in quiet.items()
                if name not in reread
                and not other_work(connection, context, each)
                and (run := close_one(connection, context, each, openings[name])) is not None
            }
    except SyncError as error:
        log.info("composite_skipped", reason=str(error)[:300])
        return []
    for name, run in closed.items():
        opening = openings.pop(name)
        report = Report(name, window_of(context, opening), Tally(), opening.taken.calls, seconds=seconds)
        log_outcome(report, run, "succeeded")
        reports.append(report)
    return reports


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


def close_one(connection: Connection, context: SyncContext, each: Candidate, opening: Opening) -> int | None:
    """Advance the cursor, write the journal and release the lease; return the number of the journal's entry.

    None: a record of the delete log is live, the clock is wrong, or the lease is lost; nothing is written.
    """
    name, told = each.held.object, opening.told
    assert told is not None
    listed = list(told.deletions.records) if isinstance(told.deletions, Deletions) else []
    known = apply.reference_time(connection, context)
    if apply.clock_error(name, told.at, known) or (listed and deletes.live_ids(connection, name, listed)):
        return None
    if not leases.give_back(connection, each.held):
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
