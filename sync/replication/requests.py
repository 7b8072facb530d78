"""Requests of consumers (`crm.request`): records read now, beside the passes.

each second: what waits? → lease → taken up → read by Id → merged → answered

A pass or a verify of this process may hold the object's lease, for minutes. The reading then uses the same
lease: its transactions lock the fence, so that they and those of the pass follow each other, and a merge
never replaces a newer record. Pages that the pass had fetched before may be committed after the reading, so
its records are queued to be read again at the end of a pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta

from sync.catalogue.catalogue import CATALOGUE
from sync.errors import (
    FATAL,
    DeferredError,
    FenceLostError,
    LeaseHeldError,
    StoppedError,
    SyncError,
)
from sync.logs import logger, printable
from sync.postgres import ledger
from sync.postgres.load.merge import Tally
from sync.postgres.state import calls, journal, leases
from sync.postgres.state import requests as waiting
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication import apply, opening, recompute, refresh
from sync.replication.apply import ObjectSchema
from sync.replication.budget import pacing
from sync.replication.runs import PageResult, Report, SyncContext, measures
from sync.window import Window

log = logger.get(__name__)

LOOK_SECONDS = 1.0  # between two looks for requests
# Seconds of the first pause after a failure of an object, and of the longest one.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0


@dataclass(slots=True)
class Pauses:
    """The objects whose requests wait after a failure: until when (seconds of the monotonic clock), and for
    how long."""

    until: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)  # another process has the lease, and the log says so

    def over(self, name: str) -> bool:
        """Return whether an object may be read."""
        return time.monotonic() >= self.until.get(name, 0.0)

    def lengthen(self, name: str) -> float:
        """Begin the next pause, twice as long as the one before; return its seconds."""
        self.seconds[name] = min(max(2 * self.seconds.get(name, 0.0), FIRST_PAUSE), LONGEST_PAUSE)
        self.until[name] = time.monotonic() + self.seconds[name]
        return self.seconds[name]

    def end(self, name: str) -> None:
        """Forget why requests of an object waited."""
        self.until.pop(name, None)
        self.seconds.pop(name, None)
        self.held.discard(name)


def answer_requests(context: SyncContext) -> None:
    """Answer requests until the process is asked to stop: a job of the worker.

    Raises SyncError if the database does not answer, and for what stops all work.
    """
    publish(context)
    pauses = Pauses()
    while not context.stop.wait(LOOK_SECONDS):
        answer_waiting(context, pauses)


def publish(context: SyncContext) -> None:
    """Store for `crm.request` which objects are replicated, and how often a role may ask."""
    prefixes = {name: CATALOGUE[name].prefix for name in context.settings.sync_objects}
    with transaction(context.engine) as connection:
        waiting.publish(connection, prefixes, context.settings.sync_requests_per_hour)


def answer_waiting(context: SyncContext, pauses: Pauses) -> None:
    """Look once for requests, and answer those of each object; after a failure they wait for a pause.

    Raises SyncError if the database does not answer, and for what stops all work.
    """
    with transaction(context.engine) as connection:
        names = waiting.waiting_objects(connection, context.settings.sync_objects)
    for name in names:
        if context.stop.is_set() or not pauses.over(name):
            continue
        try:
            answer_object(context, name)
            pauses.end(name)
        except (LeaseHeldError, FenceLostError) as held:
            if name not in pauses.held:
                log.info("requests_wait", object=name, reason=str(held)[:200])
                pauses.held.add(name)
        except SyncError as failure:
            if isinstance(failure, FATAL) and not isinstance(failure, DeferredError):
                raise
            log.warning(
                "requests_failed", object=name, error=str(failure), retry_s=round(pauses.lengthen(name))
            )


def answer_object(context: SyncContext, name: str) -> None:
    """Read the records of an object that have waited longest, under the lease that this process has or takes.

    During a first load they wait: a commit beside a Bulk job makes the job begin again. Raises LeaseHeldError
    if another process holds the lease, FenceLostError if it ended meanwhile, DeferredError above the API
    budget, and whatever the reading raises; the requests then wait on.
    """
    if not refresh.is_loaded(context, name):
        return
    pacing.check_work(context, calls.ON_DEMAND)
    with transaction(context.engine) as connection:
        held = waiting.lease_of(connection, name, context.owner)
    if held is not None:
        read_taken(context, name, held, shared=True)
        return
    with leases.lease(context.engine, name, context.owner, timedelta(), context.stop) as held:
        read_taken(context, name, held, shared=False)


def read_taken(context: SyncContext, name: str, held: Lease, *, shared: bool) -> None:
    """Take up requests, read their records, and answer; with an entry in the journal.

    `shared`: other work of this process holds the lease.
    """
    with transaction(context.engine) as connection:
        leases.check_fence(connection, held)
        taken = waiting.take(connection, name)
        if not taken:
            return
        run_id = waiting.open_run(connection, name, context.owner)
    began, tally, window, found = time.monotonic(), Tally(), None, set[str]()

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        if not shared:
            yield from recompute.recompute(context, name, held, run_id)
        yield from read_pages(context, name, held, run_id, list(taken), found)

    outcome, error, label = "failed", "the reading ended with an unexpected error; see the log", "unexpected"
    with context.session.counted() as calls:
        try:
            for result in apply.without_refused(context, name, work)(held, run_id):
                tally, window = tally + result.tally, result.window
            with transaction(context.engine) as connection:
                leases.check_fence(connection, held)
                waiting.answer(connection, name, taken, sorted(found), again=shared)
            outcome, error, label = "succeeded", "", ""
        except SyncError as failure:
            outcome, error, label = failure.outcome, str(failure), failure.label
            raise
        finally:
            report = Report(name, window, tally, calls.made, None, time.monotonic() - began)
            record(context, report, run_id, outcome, error, label)
            log.info(
                "requests_read",
                object=name,
                outcome=outcome,
                run=run_id,
                records=len(taken),
                absent=len(taken) - len(found),
                api_calls=calls.made,
                **measures(report),
            )


def read_pages(
    context: SyncContext, name: str, held: Lease, run_id: int, ids: Sequence[str], found: set[str]
) -> Iterator[PageResult]:
    """Read records by Id and merge them, as they are now; add the Ids that Salesforce has to `found`."""
    schema = known_schema(context, name) or apply.describe_object(context, CATALOGUE[name])
    for page in apply.by_id(context, schema, ids):
        if context.stop.is_set():
            raise StoppedError
        tally = apply.commit_page(context, schema, held, run_id, page)
        found.update(page.batch.ids)
        yield PageResult(name, Window(None, schema.at), tally, len(found), len(ids))


def known_schema(context: SyncContext, name: str) -> ObjectSchema | None:
    """Return the object as it was described lately; None if it was not, or if passes know other fields since.

    Values of a field that this describe does not show would be lost.
    """
    known, at = context.session.last_described(name), context.session.clock()
    if known is None or at is None or time.monotonic() - known.checked_at > opening.DESCRIBE_SECONDS:
        return None
    organization = context.session.organization()
    with transaction(context.engine) as connection:
        apply.check_org(connection, context, organization)
        schema = apply.object_schema(connection, context, CATALOGUE[name], known.fields, at)
        return None if ledger.find_changes(connection, schema.projection) else schema


def record(context: SyncContext, report: Report, run_id: int, outcome: str, error: str, label: str) -> None:
    """Add a reading to its entry of the journal; a failure is only logged."""
    text = printable.redact_bounded(error, journal.LONGEST_ERROR) or None
    try:
        with transaction(context.engine) as connection:
            waiting.close_run(
                connection, run_id, asdict(report.tally), report.api_calls, outcome, text, label or None
            )
    except SyncError as failure:
        log.warning("journal_not_written", object=report.object, reason=str(failure))
