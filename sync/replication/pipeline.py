"""The story: one object's pass, all objects side by side, what an operator asks for, and the proof.

lease → derived columns of one version → describe → window → (page → rows → merge → progress)… → count checked
→ purged records → cursor → values that move without a stamp

While a page is being committed the next are fetched and transformed; no transaction waits for Salesforce.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from math import ceil

from sync.catalogue.objects import CATALOGUE
from sync.errors import (
    FATAL,
    DeferredError,
    FieldsMovedError,
    LeaseHeldError,
    ObjectsFailedError,
    SyncError,
    UsageError,
)
from sync.logs import logger
from sync.postgres.load import personal
from sync.postgres.state import journal
from sync.postgres.state.leases import Lease
from sync.postgres.tables import transaction
from sync.replication import apply, deletes, recompute, refresh, retention
from sync.replication.apply import ObjectSchema
from sync.replication.runs import (
    Attempts,
    PageResult,
    Report,
    SyncContext,
    Work,
    for_each,
    journalled,
)
from sync.replication.verify import comparison
from sync.replication.windows import (
    Planner,
    advance,
    pass_planner,
    read_window,
    resync_planner,
)
from sync.salesforce.extract import extraction, parts
from sync.window import Scope, Window

log = logger.get(__name__)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a resync would take."""

    object: str
    records: int
    api_calls: int


def sync_all(context: SyncContext) -> list[Report]:
    """One pass over every object, side by side; ObjectsFailedError names the failed, after all have run."""
    reports = for_each(context.settings.sync_objects, lambda name: sync_object(context, name))
    refresh_dependants(context)  # of those that were busy before
    return reports


def resync(context: SyncContext, names: Sequence[str], since: datetime | None) -> list[Report]:
    """Read everything changed since `since` again (None: everything), through the same merge."""
    return for_each(names, lambda name: resync_object(context, name, since))


def verify_all(
    context: SyncContext, names: Sequence[str], *, repair: bool, sample: int | None
) -> list[Report]:
    """Compare the objects with the org; see `verify.examine`."""
    return for_each(names, lambda name: verify_object(context, name, repair=repair, sample=sample))


def sync_object(context: SyncContext, name: str) -> Report:
    """One object's incremental pass, from where the cursor stands to now, and what is to be read again.

    Each is attempted, whatever became of the others; SyncError, or WorkFailedError where several failed.
    """

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        yield from retention.forget(context, name, held, run_id)
        schema = apply.describe_object(context, CATALOGUE[name])
        check_budget(context)
        attempts = Attempts(name, (*FATAL, FieldsMovedError))
        with attempts.attempt("pass"):
            resumed = yield from read_and_advance(context, schema, held, run_id, pass_planner(context, name))
            if resumed:
                # A window taken up again is complete as of its interruption; another one brings us to now.
                schema = apply.describe_object(context, CATALOGUE[name])
                yield from read_and_advance(context, schema, held, run_id, pass_planner(context, name))
        with attempts.attempt("reading of waiting records"):
            yield from refresh.reread(context, schema, held, run_id)
        with attempts.attempt("refresh of formulas"):
            yield from refresh.refresh(context, schema, held, run_id)
        attempts.check()

    report, run = None, Attempts(name)
    with run.attempt("pass"):
        report = run_work(context, name, work)
    # A failure of another object is in its own journal, and its own pass tries again.
    with suppress(ObjectsFailedError):
        refresh_dependants(context, but=name)
    run.check()
    assert report is not None
    return report


def resync_object(context: SyncContext, name: str, since: datetime | None) -> Report:
    """One object's records changed since `since`, read again."""

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        schema = apply.describe_object(context, CATALOGUE[name])
        yield from read_and_advance(context, schema, held, run_id, resync_planner(context, name, since))

    report = run_work(context, name, work)
    refresh_dependants(context)
    return report


def read_and_advance(
    context: SyncContext, schema: ObjectSchema, held: Lease, run_id: int, planner: Planner
) -> Generator[PageResult, None, bool]:
    """One window, what was purged meanwhile, then the cursor; whether the window was taken up again."""
    plan = yield from read_window(context, schema, held, run_id, planner)
    deleted = None
    if plan.advances or plan.resumed:
        deleted = yield from deletes.remove_purged(context, schema, held, run_id, plan)
    advance(context, schema, held, run_id, plan, deleted)
    return plan.resumed


def refresh_dependants(context: SyncContext, but: str = "") -> None:
    """Read again what depends on changed records of others, at once, under the lease of each object.

    Objects whose lease is held elsewhere are skipped: the holder reads theirs at the end of its own pass.
    `but` is left to its next pass. ObjectsFailedError names the failed, after all have been attempted.
    """
    failures: list[tuple[str, SyncError]] = []
    for name in refresh.waiting(context):
        if name != but and name in context.settings.sync_objects and not context.stop.is_set():
            try:
                at_once = replace(context, wait=timedelta())
                if refresh.prepare(at_once, name):
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
    yield from refresh.reread(context, apply.describe_object(context, CATALOGUE[name]), held, run_id)


def verify_object(context: SyncContext, name: str, *, repair: bool, sample: int | None = 0) -> Report:
    """Compare one object with the org; with `repair` mend it, by a whole reading where too much differs."""

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        schema = apply.describe_object(context, CATALOGUE[name])
        found = yield from comparison.examine(context, schema, held, run_id, repair=repair, sample=sample)
        if repair and found.too_many:
            yield from read_and_advance(context, schema, held, run_id, resync_planner(context, name, None))
            schema = apply.describe_object(context, CATALOGUE[name])
            yield from comparison.examine(context, schema, held, run_id, repair=repair, whole=True)

    return run_work(context, name, work)


def scheduled(context: SyncContext, name: str) -> None:
    """What the worker does for an object: a pass, and once a night the proof, which repairs.

    Each is attempted, whatever became of the other; SyncError, or WorkFailedError where both failed.
    """
    attempts = Attempts(name)
    with attempts.attempt("pass"):
        sync_object(context, name)
    with attempts.attempt("verify"):
        if journal.verify_due(context.engine, name, context.settings.sync_verify_at):
            verify_object(replace(context, command="verify"), name, repair=True)
    attempts.check()


def resync_ids(context: SyncContext, name: str, ids: Sequence[str]) -> Report:
    """Read single records again; SyncError names those that Salesforce does not show."""

    refuse_erased(context, ids)

    def work(held: Lease, run_id: int) -> Iterator[PageResult]:
        schema = apply.describe_object(context, CATALOGUE[name])
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
    """UsageError for records that are erased on request: they are not read again."""
    with transaction(context.engine) as connection:
        erased = personal.erased(connection, ids)
    if erased:
        raise UsageError(
            f"{', '.join(erased)}: erased on request, and not stored again; to lift it: "
            f"python -m sync erase --undo --id {' --id '.join(erased)}"
        )


# ── around the story ──────────────────────────────────────────────────────────────────────────────────


def run_work(context: SyncContext, name: str, work: Work) -> Report:
    """Run the work under the object's lease, journalled.

    Before it, derived columns of another version are computed again: whatever writes a row finds all others
    of the version that it writes. A field that is refused in the midst of it does not stop the others.
    """

    def steps(held: Lease, run_id: int) -> Iterator[PageResult]:
        yield from recompute.recompute(context, name, held, run_id)
        yield from apply.without_refused(context, name, work)(held, run_id)

    return journalled(context, name, steps)


def check_budget(context: SyncContext) -> None:
    """Leave the rest of the org's API requests to others; an operator's resync is not held back."""
    usage, share = context.session.usage, context.settings.sync_api_budget
    if context.command in ("run", "worker") and usage is not None and usage.used >= share * usage.limit:
        raise DeferredError(
            f"the org has used {usage.used:,} of its {usage.limit:,} daily API requests, more than "
            f"SYNC_API_BUDGET ({share:.0%}) leaves to this work; it goes on when there is room"
        )


def estimate(context: SyncContext, names: Sequence[str], since: datetime | None) -> list[Estimate]:
    """How many records and API calls a resync would take; one counting query per object, nothing changes."""
    records = {name: extraction.count(context.session, name, Scope(since)) for name in names}
    threshold = context.settings.sync_bulk_threshold
    # A describe, and what getUpdated and getDeleted tell.
    return [Estimate(name, n, 3 + extraction.calls(n, threshold)) for name, n in records.items()]


def estimate_ids(context: SyncContext, by_object: Mapping[str, Sequence[str]]) -> list[Estimate]:
    """What reading these Ids again would take: a describe and the queries per object."""
    refuse_erased(context, [id_ for ids in by_object.values() for id_ in ids])
    per_query = parts.IDS_PER_QUERY
    return [Estimate(name, len(ids), 1 + ceil(len(ids) / per_query)) for name, ids in by_object.items()]


def objects_of(ids: Sequence[str]) -> dict[str, list[str]]:
    """Ids by the object that their prefix names; UsageError for a prefix outside the catalogue."""
    by_prefix = {sobject.prefix: name for name, sobject in CATALOGUE.items()}
    grouped: dict[str, list[str]] = {}
    for id_ in ids:
        if id_[:3] not in by_prefix:
            known = ", ".join(f"{prefix} ({name})" for prefix, name in by_prefix.items())
            raise UsageError(f"{id_} belongs to no replicated object: Ids here start with {known}")
        grouped.setdefault(by_prefix[id_[:3]], []).append(id_)
    return grouped
