"""The story: one object's pass, all objects side by side, an operator's resync.

lease → describe → window → (page → rows → merge → progress)… → count checked → cursor

While a page is being committed the next are fetched and transformed; no transaction waits for Salesforce.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import ceil

from sqlalchemy import Connection

from sync import extract, load, logs, state, transform
from sync.errors import (
    CountMismatchError,
    DeferredError,
    FieldsMovedError,
    StoppedError,
    SyncError,
    UsageError,
)
from sync.extract import Make, Page, Window
from sync.load import Tally
from sync.mapping import Projection, SObject, project
from sync.objects import CATALOGUE
from sync.runs import Link, Report, Step, for_each, journalled
from sync.state import Lease, Plan
from sync.tables import transaction

log = logs.get(__name__)

LARGE = 100_000  # rows written after which the planner's statistics are refreshed at once


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a resync would take."""

    object: str
    records: int
    api_calls: int


Planner = Callable[[Connection, datetime, str], Plan]


def sync_all(link: Link) -> list[Report]:
    """One pass over every object, side by side; ObjectsFailedError names the failed, after all have run."""
    return for_each(link.settings.sync_objects, lambda name: sync_object(link, name))


def resync(link: Link, names: Sequence[str], since: datetime | None) -> list[Report]:
    """Read everything changed since `since` again (None: everything), through the same merge."""
    return for_each(names, lambda name: resync_object(link, name, since))


def sync_object(link: Link, name: str) -> Report:
    """One object's incremental pass, from where the cursor stands to now."""
    sobject = CATALOGUE[name]

    def work(held: Lease, run_id: int) -> Iterator[Step]:
        def plan(connection: Connection, now: datetime, selected: str) -> Plan:
            return state.plan_pass(connection, name, now, link.settings.sync_overlap, selected)

        done = yield from read_window(link, sobject, held, run_id, plan)
        if done.resumed:
            # A window taken up again is complete as of its interruption; another one brings us to now.
            yield from read_window(link, sobject, held, run_id, plan)

    return journalled(link, name, work)


def resync_object(link: Link, name: str, since: datetime | None) -> Report:
    """One object's records changed since `since`, read again."""

    def work(held: Lease, run_id: int) -> Iterator[Step]:
        def plan(connection: Connection, now: datetime, selected: str) -> Plan:
            return state.plan_resync(connection, name, since, now, link.settings.sync_overlap, selected)

        yield from read_window(link, CATALOGUE[name], held, run_id, plan)

    return journalled(link, name, work)


def read_window(
    link: Link, sobject: SObject, held: Lease, run_id: int, planner: Planner
) -> Generator[Step, None, Plan]:
    """Describe, plan, read; once more from the last committed page when a field vanished in between."""
    try:
        return (yield from read_window_once(link, sobject, held, run_id, planner))
    except FieldsMovedError as moved:
        log.warning("fields_moved", object=sobject.name, reason=str(moved)[:300])
        return (yield from read_window_once(link, sobject, held, run_id, planner))


def read_window_once(
    link: Link, sobject: SObject, held: Lease, run_id: int, planner: Planner
) -> Generator[Step, None, Plan]:
    """One window, page by page; the cursor moves only when Salesforce's count has been met."""
    projection, now = look(link, sobject)
    check_budget(link)
    plan = begin(link, projection, held, planner, now)
    yield Step(sobject.name, plan.window)

    job, written = plan.start.job, 0
    try:
        for page in pages(link, projection, plan):
            tally = commit_page(link, projection, held, run_id, page, plan)
            job, written = page.progress.job, written + tally.written
            step = Step(sobject.name, plan.window, tally, page.received, page.expected)
            del page
            yield step
            if link.stop.is_set():
                raise StoppedError
    except CountMismatchError:
        with transaction(link.engine) as connection:
            state.check_fence(connection, held)
            state.distrust(connection, sobject.name, plan.purpose)
        if job is not None:
            extract.discard(link.session, job)
        raise

    if job is not None:
        extract.discard(link.session, job)
    with transaction(link.engine) as connection:
        state.check_fence(connection, held)
        state.advance(connection, sobject.name, plan)
        if plan.first_load:
            load.end_first_load(connection, sobject.name, run_id)
    if plan.first_load or written > LARGE:
        analyse(link, sobject)
    return plan


def analyse(link: Link, sobject: SObject) -> None:
    """Fresh statistics; without them queries are slower for a while, and nothing else is wrong."""
    try:
        with transaction(link.engine) as connection:
            load.analyse(connection, sobject.name)
    except SyncError as error:
        log.warning("statistics_not_refreshed", object=sobject.name, reason=str(error))


def begin(link: Link, projection: Projection, held: Lease, planner: Planner, now: datetime) -> Plan:
    """Plan the window, and note which fields are hidden."""
    name = projection.sobject.name
    with transaction(link.engine) as connection:
        state.check_fence(connection, held)
        plan = planner(connection, now, projection.fingerprint)
        hidden, shown = state.note_hidden(connection, name, projection.hidden)
        if plan.first_load:
            load.begin_first_load(connection, name)
    if hidden:
        log.warning("fields_hidden", object=name, fields=",".join(hidden))
    if shown:
        remedy = f"old records get them with: python -m sync resync --object {name} --full"
        log.warning("fields_shown", object=name, fields=",".join(shown), remedy=remedy)
    if plan.orphan is not None:
        extract.discard(link.session, plan.orphan)
    return plan


def pages(link: Link, projection: Projection, plan: Plan) -> Iterator[Page]:
    """The window's pages as rows, some of them ahead of who commits them."""
    return extract.pages(
        link.session,
        projection,
        plan.window,
        plan.start,
        maker(link, projection),
        threshold=link.settings.sync_bulk_threshold,
        stepwise=plan.stepwise,
        ahead=link.ahead,
    )


def maker(link: Link, projection: Projection) -> Make:
    """What is made of records."""
    return partial(transform.build, projection, region=link.settings.sync_default_region)


def commit_page(
    link: Link,
    projection: Projection,
    held: Lease,
    run_id: int,
    page: Page,
    plan: Plan | None,
) -> Tally:
    """One page in one transaction, in which nothing waits: fence, rows, feed, rejects, progress."""
    with transaction(link.engine) as connection:
        state.check_fence(connection, held)
        announce = plan is None or not plan.first_load
        if not announce:
            load.unhurried(connection)
        tally = load.merge(connection, projection, page.batch, run_id, announce=announce)
        if plan is not None:
            state.save_progress(connection, projection.sobject.name, plan, page.progress, page.at)
    return tally


def resync_ids(link: Link, name: str, ids: Sequence[str]) -> Report:
    """Read single records again; SyncError names those that Salesforce does not show."""
    sobject = CATALOGUE[name]

    def work(held: Lease, run_id: int) -> Iterator[Step]:
        projection, now = look(link, sobject)
        window, found = Window(None, now), set[str]()
        for page in extract.by_id(link.session, projection, ids, maker(link, projection)):
            tally = commit_page(link, projection, held, run_id, page, None)
            found.update(page.batch.ids)
            yield Step(name, window, tally, len(found), len(ids))
        if absent := [id_ for id_ in ids if id_ not in found]:
            raise SyncError(
                f"{name}: Salesforce shows no record {', '.join(absent)} (purged, or hidden from the "
                "integration user); its row was left as it is"
            )

    return journalled(link, name, work)


def estimate(link: Link, names: Sequence[str], since: datetime | None) -> list[Estimate]:
    """How many records and API calls a resync would take; one counting query per object, nothing changes."""
    records = {name: extract.count(link.session, name, since) for name in names}
    threshold = link.settings.sync_bulk_threshold
    return [Estimate(name, n, 1 + extract.calls(n, threshold)) for name, n in records.items()]


def estimate_ids(by_object: Mapping[str, Sequence[str]]) -> list[Estimate]:
    """What reading these Ids again would take: a describe and the queries per object."""
    per_query = extract.IDS_PER_QUERY
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


# ── around the story ──────────────────────────────────────────────────────────────────────────────────


def look(link: Link, sobject: SObject) -> tuple[Projection, datetime]:
    """The object as this org shows it now, and Salesforce's clock."""
    described, now = link.session.describe(sobject.name)
    return project(sobject, described, link.settings.sync_custom_fields), now


def check_budget(link: Link) -> None:
    """Leave the rest of the org's API requests to others; an operator's resync is not held back."""
    usage, share = link.session.usage, link.settings.sync_api_budget
    if link.command != "resync" and usage is not None and usage.used >= share * usage.limit:
        raise DeferredError(
            f"the org has used {usage.used:,} of its {usage.limit:,} daily API requests, more than "
            f"SYNC_API_BUDGET ({share:.0%}) leaves to this work; it goes on when there is room"
        )
