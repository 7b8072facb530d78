"""The frame of the work on an object: its lease, journal entry and log line; objects run concurrently."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from sync.config.settings import Settings
from sync.errors import (
    FATAL,
    ObjectsFailedError,
    SyncError,
    WorkFailedError,
)
from sync.logs import logger, printable
from sync.postgres.load.merge import Tally
from sync.postgres.state import journal, leases
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.salesforce.session.connection import Calls
from sync.salesforce.session.session import Session
from sync.window import Window

log = logger.get(__name__)

NOTE_SECONDS = 2.0  # between two notes of what a running run has done; short runs note nothing
LEVELS = {"succeeded": logging.INFO, "stopped": logging.INFO, "deferred": logging.WARNING}


@dataclass(frozen=True, slots=True)
class PageResult:
    """A committed page: its counts, and the progress in the window. The first result has no page."""

    object: str
    window: Window
    tally: Tally = field(default_factory=Tally)
    received: int = 0
    expected: int | None = None
    findings: Mapping[str, Any] | None = None  # the summary of a verify, in its last result


@dataclass(frozen=True, slots=True)
class SyncContext:
    """What work on an object needs: settings, session, engine, and the options of the command."""

    settings: Settings
    session: Session
    engine: Engine
    owner: str
    command: str
    stop: threading.Event = field(default_factory=threading.Event)
    wait: timedelta = timedelta(minutes=10)
    on_page: Callable[[PageResult], None] = lambda _: None
    on_pass: Callable[[str], None] = lambda _: None  # after an object's scheduled pass has succeeded
    ahead: int = 1  # pages to fetch and transform while one is committed
    approve: bool = False  # an operator approves more removals than the guard allows
    # The clock to compare Salesforce's clock with; None: the database's.
    reference: Callable[[], datetime] | None = None
    accept_org: bool = False  # an operator accepts another org than the one whose records the tables hold
    ignore_budget: bool = False  # an operator lets this work begin although API calls are used up
    typed: str = ""  # the command as it was typed, for errors that name it again


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one object's run."""

    object: str
    window: Window | None
    tally: Tally
    api_calls: int
    findings: Mapping[str, Any] | None = None
    seconds: float = 0.0
    calls: Mapping[str, int] = field(default_factory=dict)  # API calls of named kinds, within `api_calls`


@dataclass(frozen=True, slots=True)
class Taken:
    """A lease that is held already (None: there is none), and the API calls made before the run that count as
    the object's."""

    held: Lease | None
    calls: int = 0
    shared_calls: int = 0
    by_kind: Mapping[str, int] = field(default_factory=dict)  # those of named kinds, within `calls`


Work = Callable[[Lease, int], Iterator[PageResult]]


def run_journalled(context: SyncContext, name: str, work: Work, taken: Taken | None = None) -> Report:
    """Run work under the object's lease; write its outcome to the journal and to one log line in any case.

    `taken` is a lease that is held already. Raises LeaseHeldError if the lease stays held, and whatever the
    work raises.
    """
    lease = (
        leases.lease(context.engine, name, context.owner, context.wait, context.stop)
        if taken is None or taken.held is None
        else leases.holding(context.engine, taken.held)
    )
    with lease as held, context.session.counted() as calls:
        if taken is not None:
            calls.made, calls.by_kind = taken.calls, Counter(taken.by_kind)
        with transaction(context.engine) as connection:
            leases.check_fence(connection, held)
            run_id = journal.open_run(connection, name, context.command, context.owner)
        tally, window, findings, began = Tally(), None, None, time.monotonic()
        noted = began
        outcome, error = "failed", "the run ended with an unexpected error; the log has the traceback"
        label: str | None = "unexpected"
        try:
            for result in work(held, run_id):
                tally, findings = tally + result.tally, result.findings or findings
                # Records read by Id have no window of their own: the pass keeps that of its cursor.
                if window is None or window.since is None or result.window.since is not None:
                    window = result.window
                if time.monotonic() - noted >= NOTE_SECONDS:
                    note_counts(context, run_id, tally, calls)
                    noted = time.monotonic()
                context.on_page(result)
            outcome, error, label = "succeeded", "", None
        except SyncError as failure:
            outcome, error, label = failure.outcome, str(failure), failure.label
            raise
        finally:
            seconds, kinds = time.monotonic() - began, dict(calls.by_kind)
            report = Report(name, window, tally, calls.made, findings, seconds, kinds)
            record_outcome(context, report, run_id, outcome, error, label, taken.shared_calls if taken else 0)
    return report


def note_counts(context: SyncContext, run_id: int, tally: Tally, calls: Calls) -> None:
    """Store what a run has done so far; a database that does not answer is found by the work itself."""
    with suppress(SyncError), transaction(context.engine) as connection:
        journal.note_counts(connection, run_id, tally, calls.made, dict(calls.by_kind))


@dataclass(slots=True)
class Attempts:
    """The kinds of work on an object: each is attempted, even if an earlier one failed."""

    name: str
    fatal: tuple[type[SyncError], ...] = FATAL
    failures: list[tuple[str, SyncError]] = field(default_factory=list)

    @contextmanager
    def attempt(self, kind: str) -> Iterator[None]:
        """Collect the failure of this kind of work; an error in `fatal` is raised at once."""
        try:
            yield
        except self.fatal:
            raise
        except SyncError as failure:
            self.failures.append((kind, failure))

    def check(self) -> None:
        """Raise the failure, or WorkFailedError for several."""
        if len(self.failures) == 1:
            raise self.failures[0][1]
        if self.failures:
            raise WorkFailedError(self.name, self.failures)


def record_outcome(
    context: SyncContext,
    report: Report,
    run_id: int,
    outcome: str,
    error: str,
    label: str | None = None,
    shared_calls: int = 0,
) -> None:
    """Write the run's log line and its journal entry; `label` is the class of the error."""
    log_outcome(report, run_id, outcome, error)
    ended = journal.Outcome(
        outcome,
        report.window,
        report.tally,
        report.api_calls,
        shared_calls,
        printable.redact_bounded(error, journal.LONGEST_ERROR) or None,
        label,
        report.findings,
        report.calls,
    )
    try:
        with transaction(context.engine) as connection:
            journal.close_run(
                connection, run_id, report.object, ended, command=context.command, owner=context.owner
            )
    except SyncError as failure:
        # The error of the work itself propagates; the next run marks this entry as abandoned.
        log.warning("journal_not_written", object=report.object, reason=str(failure))


def log_outcome(report: Report, run_id: int, outcome: str, error: str = "") -> None:
    """Write the log line of a run."""
    tally = report.tally
    log.log(
        LEVELS.get(outcome, logging.ERROR),
        "object_synced",
        object=report.object,
        outcome=outcome,
        run=run_id,
        read=tally.read,
        inserted=tally.inserted,
        updated=tally.updated,
        deleted=tally.deleted,
        unchanged=tally.unchanged,
        rejected=tally.rejected,
        api_calls=report.api_calls,
        **measures(report),
        **({"nuls_removed": tally.nuls} if tally.nuls else {}),
        **({"error": error} if error else {}),
    )


def measures(report: Report) -> dict[str, object]:
    """Return what log-based metrics count of a run, in the form of l2met."""
    tally = report.tally
    return {
        "source": report.object,
        "measure#sync.duration": f"{round(1000 * report.seconds)}ms",
        "count#sync.rows_read": tally.read,
        "count#sync.rows_written": tally.inserted + tally.updated + tally.deleted,
        "count#sync.api_calls": report.api_calls,
    }


def run_concurrently(names: Sequence[str], work: Callable[[str], Report]) -> list[Report]:
    """Run the work for every object, concurrently; raise ObjectsFailedError, which names all failed
    objects."""
    reports: list[Report] = []
    failures: list[tuple[str, SyncError]] = []
    with ThreadPoolExecutor(max_workers=max(1, len(names)), thread_name_prefix="object") as pool:
        for name, future in [(name, pool.submit(work, name)) for name in names]:
            try:
                reports.append(future.result())
            except SyncError as failure:
                failures.append((name, failure))
            except Exception as failure:
                log.exception("object_crashed", object=name)
                failures.append((name, SyncError(f"unexpected {type(failure).__name__}: {failure}")))
    if failures:
        raise ObjectsFailedError(failures)
    return reports
