"""The main flow: one object's pass, all objects concurrently, what operators request, and verification.

lease → derived columns of one version → describe → window → (page → rows → merge → progress)… → count checked
→ purged records → cursor → values that change without a stamp

The next pages are fetched and transformed while a page is committed. No transaction waits for Salesforce.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from sync.catalogue.catalogue import CATALOGUE
from sync.errors import (
    FATAL,
    FieldsMovedError,
    LeaseHeldError,
    ObjectsFailedError,
    SyncError,
    UsageError,
)
from sync.logs import logger
from sync.postgres.load import personal
from sync.postgres.state import calls, journal
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication import apply, deletes, opening, recompute, refresh, retention
from sync.replication.apply import ObjectSchema
from sync.replication.budget import pacing
from sync.replication.opening import Opening
from sync.replication.runs import (
    Attempts,
    PageResult,
    Report,
    SyncContext,
    Taken,
    Work,
    run_concurrently,
    run_journalled,
)
from sync.replication.verify import comparison
from sync.replication.windows import (
    Planner,
    advance,
    pass_planner,
    read_window,
    resync_planner,
)
from sync.salesforce.extract.together import Told
from sync.window import Window

log = logger.get(__name__)


def sync_all(context: SyncContext) -> list[Report]:
    """Run one pass over every configured object, concurrently; return a report for each.

    Raises ObjectsFailedError, which names the failed objects, after all have been attempted.
    """
    names = context.settings.sync_objects
    begun = opening.begin(context, names)
    done = {report.object: report for report in begun.reports}
    left = [name for name in names if name not in done]
    found = run_concurrently(left, lambda name: sync_object(context, name, begun.openings.get(name)))
    done |= {report.object: report for report in found}
    reports = [done[name] for name in names]
    refresh_dependants(context)  # also of objects that were busy before
    return reports


def resync(context: SyncContext, names: Sequence[str], since: datetime | None) -> list[Report]:
    """Read everything again that changed since `since` (None: everything), through the same merge.

    Raises ObjectsFailedError after all have been attempted.
    """
    return run_concurrently(names, lambda name: resync_object(context, name, since))


def verify_all(
    context: SyncContext, names: Sequence[str], *, repair: bool, sample: int | None
) -> list[Report]:
    """Compare the objects with the org; the parameters are those of `verify.comparison.examine`.

    Raises ObjectsFailedError after all have been attempted.
    """
    return run_concurrently(names, lambda name: verify_object(context, name, repair=repair, sample=sample))


def sync_object(context: SyncContext, name: str, opened: Opening | None = None) -> Report:
    """Run one object's incremental pass from its cursor to now, then reread queued records and formulas.

    `opened` is what a call for several objects has begun. All three are attempted even if one fails. Raises
    SyncError, or WorkFailedError if several failed.
    """
    left = [opened]

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        yield from retention.apply_retention(context, name, held, run_id)
        begun, left[0] = left[0], None  # after a restart, what was told no longer fits
        told = begun.told if begun else None
        schema = begun.schema if begun and begun.schema else apply.describe_object(context, CATALOGUE[name])
        pacing.check_usage(context)
        attempts = Attempts(name, (*FATAL, FieldsMovedError))
        with attempts.attempt("pass"):
            planner = pass_planner(context, name)
            resumed = yield from read_and_advance(context, schema, held, run_id, planner, told)
            if resumed:
                # A resumed window ends at the time of its interruption; a second window reaches the present.
                schema = apply.describe_object(context, CATALOGUE[name])
                yield from read_and_advance(context, schema, held, run_id, pass_planner(context, name))
        with attempts.attempt("reading of waiting records"), context.session.counting(calls.REREAD):
            yield from refresh.reread(context, schema, held, run_id)
        with attempts.attempt("refresh of formulas"), context.session.counting(calls.REFRESH):
            yield from refresh.refresh(context, schema, held, run_id)
        attempts.check()

    report, run = None, Attempts(name)
    with run.attempt("pass"):
        report = run_work(context, name, work, opened.taken if opened else None)
    # The failure of another object is in that object's journal, and its own pass tries again.
    with suppress(ObjectsFailedError):
        refresh_dependants(context, but=name)
    run.check()
    assert report is not None
    return report


def resync_object(context: SyncContext, name: str, since: datetime | None) -> Report:
    """Read one object's records again that changed since `since` (None: all)."""

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        schema = apply.describe_object(context, CATALOGUE[name])
        pacing.check_usage(context)
        yield from read_and_advance(context, schema, held, run_id, resync_planner(context, name, since))

    report = run_work(context, name, work)
    refresh_dependants(context)
    return report


def read_and_advance(
    context: SyncContext,
    schema: ObjectSchema,
    held: Lease,
    run_id: int,
    planner: Planner,
    told: Told | None = None,
) -> Generator[PageResult, None, bool]:
    """Read one window, apply purges, advance the cursor; return whether the window was a resumed one."""
    plan = yield from read_window(context, schema, held, run_id, planner, told=told)
    deleted = None
    if plan.advances or plan.resumed:
        deleted = yield from deletes.remove_purged(context, schema, held, run_id, plan, told)
    advance(context, schema, held, run_id, plan, deleted)
    return plan.resumed


def refresh_dependants(context: SyncContext, but: str = "") -> None:
    """Reread records that depend on changed records of other objects, at once, under each object's own lease.

    Objects whose lease is held elsewhere are skipped: the holder rereads them at the end of its own pass. The
    object `but` waits for its next pass. Raises ObjectsFailedError after all have been attempted.
    """
    failures: list[tuple[str, SyncError]] = []
    for name in refresh.waiting_objects(context):
        if name != but and name in context.settings.sync_objects and not context.stop.is_set():
            try:
                at_once = replace(context, wait=timedelta())
                if refresh.queue_waiting(at_once, name):
                    run_work(at_once, name, partial(reread, context, name))
            except LeaseHeldError as held:
                log.info("dependants_wait", object=name, reason=str(held)[:200])
            except FATAL:
                raise
            except SyncError as failure:
                failures.append((name, failure))
    if failures:
        raise ObjectsFailedError(failures)


def reread(context: SyncContext, name: str, held: Lease, run_id: int) -> Iterator[PageResult]:
    """Describe one object and reread its queued records."""
    schema = apply.describe_object(context, CATALOGUE[name])
    with context.session.counting(calls.REREAD):
        yield from refresh.reread(context, schema, held, run_id)


def verify_object(context: SyncContext, name: str, *, repair: bool, sample: int | None = 0) -> Report:
    """Compare one object with the org; with `repair`, correct the differences.

    If too many records differ, the repair reads the whole object again. `sample` is the number of rows to
    compare value by value (0: none, None: all).
    """

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        schema = apply.describe_object(context, CATALOGUE[name])
        pacing.check_usage(context)
        found = yield from comparison.examine(context, schema, held, run_id, repair=repair, sample=sample)
        if repair and found.too_many:
            yield from read_and_advance(context, schema, held, run_id, resync_planner(context, name, None))
            schema = apply.describe_object(context, CATALOGUE[name])
            yield from comparison.examine(context, schema, held, run_id, repair=repair, whole=True)

    return run_work(context, name, work)


def begin_scheduled(context: SyncContext, names: Sequence[str]) -> dict[str, Callable[[], None]]:
    """Begin what the worker does for these objects; return what is left to run of each."""
    begun = opening.begin(context, names)
    for report in begun.reports:
        context.on_pass(report.object)
    done = {report.object for report in begun.reports}
    return {
        name: partial(run_scheduled, context, name, begun.openings.get(name))
        for name in names
        if name not in done
    }


def run_scheduled(context: SyncContext, name: str, opened: Opening | None = None) -> None:
    """Run what the worker does for an object: a pass, and once a night a verification with repair.

    `opened` is what a call for several objects has begun. Both are attempted even if one fails. Raises
    SyncError, or WorkFailedError if both failed.
    """
    attempts = Attempts(name)
    with attempts.attempt("pass"):
        sync_object(context, name, opened)
        context.on_pass(name)
    with attempts.attempt("verify"):
        with transaction(context.engine) as connection:
            due = journal.verify_due(connection, name, context.settings.sync_verify_at)
        if due and pacing.may_verify(context, name):
            verify_object(replace(context, command="verify", ignore_budget=True), name, repair=True)
    attempts.check()


def resync_ids(context: SyncContext, name: str, ids: Sequence[str]) -> Report:
    """Read single records again; raise SyncError for Ids that Salesforce does not return."""

    refuse_erased(context, ids)

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        schema = apply.describe_object(context, CATALOGUE[name])
        pacing.check_usage(context)
        found = set[str]()
        for page in apply.by_id(context, schema, ids):
            tally = apply.commit_page(context, schema, held, run_id, page)
            found.update(page.batch.ids)
            yield PageResult(name, Window(None, schema.at), tally, len(found), len(ids))
        if absent := [id_ for id_ in ids if id_ not in found]:
            raise SyncError(
                f"{name}: Salesforce shows no record {', '.join(absent)} (purged, or hidden from the "
                "integration user); its row was left as it is; to have it removed if it is gone: "
                f"python -m sync verify --object {name} --repair"
            )

    return run_work(context, name, work)


def refuse_erased(context: SyncContext, ids: Sequence[str]) -> None:
    """Raise UsageError for records that were erased on request: they are not read again."""
    with transaction(context.engine) as connection:
        erased = personal.find_erased(connection, ids)
    if erased:
        raise UsageError(
            f"{', '.join(erased)}: erased on request, and not stored again; to lift it: "
            f"python -m sync erase --undo --id {' --id '.join(erased)}"
        )


# ── around the flow ───────────────────────────────────────────────────────────────────────────────────


def run_work(context: SyncContext, name: str, work: Work, taken: Taken | None = None) -> Report:
    """Run work under the object's lease, with an entry in the journal.

    It first recomputes derived columns of another version, so that all rows of a table have the version that
    this process writes. A field that is refused meanwhile does not stop the others.
    """

    def steps(held: Lease, run_id: int) -> Iterator[PageResult]:
        yield from recompute.recompute(context, name, held, run_id)
        yield from apply.without_refused(context, name, work)(held, run_id)

    return run_journalled(context, name, steps, taken)


def group_by_object(ids: Sequence[str]) -> dict[str, list[str]]:
    """Group Ids by object, by their prefix; raise UsageError for a prefix outside the catalogue."""
    by_prefix = {sobject.prefix: name for name, sobject in CATALOGUE.items()}
    grouped: dict[str, list[str]] = {}
    for id_ in ids:
        if id_[:3] not in by_prefix:
            known = ", ".join(f"{prefix} ({name})" for prefix, name in by_prefix.items())
            raise UsageError(f"{id_} belongs to no replicated object: Ids here start with {known}")
        grouped.setdefault(by_prefix[id_[:3]], []).append(id_)
    return grouped
