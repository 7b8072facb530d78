"""Apply records to tables: an object's schema, one transaction for each page, and the guard of removals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from math import ceil

from sqlalchemy import Connection, text

from sync.catalogue import transform
from sync.catalogue.mapping import (
    PLACING,
    DescribedField,
    Projection,
    SObject,
    project,
)
from sync.config.settings import Settings
from sync.errors import FieldsMovedError, GuardError, OrgChangedError
from sync.logs import logger
from sync.postgres import ledger
from sync.postgres.load import dependants, first, merge
from sync.postgres.load.dependants import Dependency
from sync.postgres.load.merge import Tally
from sync.postgres.load.sql import Mode
from sync.postgres.state import cursors, leases, plans
from sync.postgres.state.leases import Lease
from sync.postgres.state.plans import Plan
from sync.postgres.tables import (
    REPLICA,
    allow_long,
    qualified_name,
    transaction,
)
from sync.replication.runs import PageResult, SyncContext, Work
from sync.salesforce.extract import extraction
from sync.salesforce.extract.pages import RowBuilder
from sync.window import Page

log = logger.get(__name__)

# A lost permission looks like a mass deletion. Up to FEW removals are never refused.
FEW = 10
# Up to GUARDED_COUNT removals are refused above this share of the records held.
GUARDED_COUNT, GUARDED_SHARE_OF_FEW = 100, 0.5
# More removals are refused above this share.
GUARDED_SHARE = 0.01
# The records held: live rows and rejected records. Removals count both.
HELD = """
SELECT count(*) FROM (
    SELECT FROM {table} WHERE deleted_at IS NULL
     UNION ALL SELECT FROM sync.reject WHERE object = :object LIMIT :most) AS held
"""
REMOVALS_PER_TRANSACTION = 10_000

# Refusals of fields, one after the other, after which the work fails.
MAX_REFUSALS = 50

# The largest accepted difference between the clocks of Salesforce and of the database.
MAX_CLOCK_DIFFERENCE = timedelta(minutes=5)
CLOCK = text("SELECT clock_timestamp()")

ORG = text("""
INSERT INTO sync.org AS o (organization_id) VALUES (:org)
ON CONFLICT (single) DO UPDATE SET organization_id = o.organization_id
RETURNING organization_id
""")
KNOWN_ORG = text("SELECT EXISTS (SELECT FROM sync.org WHERE organization_id = :org)")
ACCEPT = text("UPDATE sync.org SET organization_id = :org, accepted_at = now(), replaced_at = now()")


@dataclass(frozen=True, slots=True)
class ObjectSchema:
    """An object as this org shows it: its projection, Salesforce's time, and the lookups that lead to it."""

    projection: Projection
    at: datetime
    dependencies: tuple[Dependency, ...] = ()
    # Why complete_through must not follow this clock; "" if it agrees with the reference clock.
    clock_error: str = ""

    @property
    def name(self) -> str:
        return self.projection.sobject.name


def describe_object(context: SyncContext, sobject: SObject) -> ObjectSchema:
    """Describe an object; first check that the org is the one whose records the tables hold.

    Raises OrgChangedError for another org.
    """
    organization = context.session.organization()
    described, at = context.session.describe(sobject.name)
    with transaction(context.engine) as connection:
        check_org(connection, context, organization)
        schema = object_schema(connection, context, sobject, described, at)
    if schema.clock_error:
        # A single server may send a wrong Date header: the answer to a second request decides.
        described, at = context.session.describe(sobject.name)
        with transaction(context.engine) as connection:
            schema = object_schema(connection, context, sobject, described, at)
    return schema


def object_schema(
    connection: Connection,
    context: SyncContext,
    sobject: SObject,
    described: Sequence[DescribedField],
    at: datetime,
) -> ObjectSchema:
    """Return an object as a describe shows it at a time of Salesforce's clock."""
    refused = ledger.refused(connection, sobject.name, described)
    return ObjectSchema(
        projection(context.settings, sobject, described, refused),
        at,
        ledger.dependencies(connection, sobject.name),
        clock_error(sobject.name, at, reference_time(connection, context)),
    )


def projection(
    settings: Settings,
    sobject: SObject,
    described: Sequence[DescribedField],
    refused: frozenset[str] = frozenset(),
) -> Projection:
    """Return the fields to replicate, from the describe and the settings, without those that queries
    refuse."""
    excluded = settings.excluded_fields(sobject.name)
    return project(sobject, described, settings.sync_custom_fields, excluded, refused)


def without_refused(context: SyncContext, name: str, work: Work) -> Work:
    """Wrap work so that it restarts without a field that vanished since the describe or that queries refuse.

    One field must not stop the others. Raises FieldsMovedError after MOST_REFUSED refusals.
    """

    def all_but_those(held: Lease, run_id: int) -> Iterator[PageResult]:
        refusals: set[tuple[str, ...]] = set()
        while True:
            try:
                yield from work(held, run_id)
            except FieldsMovedError as moved:
                if moved.fields in refusals or len(refusals) == MAX_REFUSALS:
                    raise
                refusals.add(moved.fields)
                exclude_refused(context, name, held, moved)
            else:
                return

    return all_but_those


def exclude_refused(context: SyncContext, name: str, held: Lease, moved: FieldsMovedError) -> None:
    """Leave refused fields out for a day, and record them in the ledger.

    Raises `moved` if one of them is a field that no query can do without.
    """
    described, _ = context.session.describe(name, refresh=True)
    log.warning("fields_moved", object=name, reason=str(moved)[:300])
    for field in described:
        if field.name.lower() in map(str.lower, moved.fields):
            if field.name in PLACING:
                raise moved
            log.warning("field_refused", object=name, field=field.name, instead="it is left out for a day")
            with transaction(context.engine) as connection:
                leases.check_fence(connection, held)
                ledger.refuse(connection, name, field)


def reference_time(connection: Connection, context: SyncContext) -> datetime:
    """Return the time of the clock that Salesforce's clock is compared with."""
    now: datetime = context.reference() if context.reference else connection.execute(CLOCK).scalar_one()
    return now


def clock_error(name: str, at: datetime, known: datetime) -> str:
    """Return an error message if Salesforce's clock and the reference differ too much, or ""."""
    if abs(at - known) <= MAX_CLOCK_DIFFERENCE:
        return ""
    salesforce_time, database_time = (f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" for moment in (at, known))
    return (
        f"{name}: Salesforce's answers are dated {salesforce_time} UTC and the database's clock "
        f"says {database_time}: one of them is wrong, so complete_through stays where it is; rows that were "
        "read are kept. Check the time (NTP) of the database's server, and whether a proxy before Salesforce "
        "changes the Date header"
    )


def is_known_org(connection: Connection, organization: str) -> bool:
    """Return whether the tables hold the records of this org ("": Salesforce did not tell which)."""
    return not organization or bool(connection.execute(KNOWN_ORG, {"org": organization}).scalar_one())


def check_org(connection: Connection, context: SyncContext, organization: str) -> None:
    """Remember the first org; raise OrgChangedError for another one, unless the operator accepts it.

    An accepted org restarts all cursors, and other processes lose their leases.
    """
    if not organization:
        return
    known = str(connection.execute(ORG, {"org": organization}).scalar_one())
    if known == organization:
        return
    if not context.accept_org:
        raise OrgChangedError(
            f"these tables hold the records of org {known}, and the settings now lead to org {organization}: "
            "nothing was written. If the org was copied or refreshed and shall replace the other, type: "
            "python -m sync run --accept-org; else mend SALESFORCE_LOGIN_URL and the credentials"
        )
    connection.execute(ACCEPT, {"org": organization})
    # Other processes must not write what they have read of the replaced org, under a lease or before they
    # take one. A process that takes one later has read the org's row after its fence, or waits here for the
    # lock on that row.
    leases.revoke_others(connection, context.owner)
    cursors.reset_cursors(connection)
    log.warning(
        "org_accepted",
        before=known,
        now=organization,
        remedy="records that only the other org has are removed by: python -m sync verify --repair --approve",
    )


def row_builder(context: SyncContext, projection: Projection) -> RowBuilder:
    """Return the function that transforms records into rows."""
    return partial(transform.build, projection, region=context.settings.sync_default_region)


def commit_page(
    context: SyncContext,
    schema: ObjectSchema,
    held: Lease,
    run_id: int,
    page: Page,
    plan: Plan | None = None,
    mode: Mode = Mode.USUAL,
) -> Tally:
    """Commit one page in one transaction: fence, rows, feed, rejects, progress; return its counts.

    No I/O but the database's happens inside. `plan` is the window that the page belongs to (None: records
    read by Id).
    """
    with leases.fenced_transaction(context.engine, held) as connection:
        announce = plan is None or not plan.first_load
        if not announce:
            first.relax_durability(connection)
        since = dependants.feed_position(connection)
        tally = merge.merge(
            connection,
            schema.projection,
            page.batch,
            run_id,
            announce=announce,
            mode=mode,
            keep=context.settings.tombstone_values_kept,
        )
        if announce and tally.written:
            dependants.note_parents(
                connection, schema.name, since, schema.dependencies, merged=tally.merged > 0
            )
        if page.batch.ids or page.batch.rejects:
            plans.count_commit(connection, schema.name)
        if plan is not None:
            plans.save_progress(connection, schema.name, plan, page.progress, page.at)
    return tally


def by_id(context: SyncContext, schema: ObjectSchema, ids: Sequence[str]) -> Iterator[Page]:
    """Yield pages of the records with these Ids as they are now."""
    return extraction.by_id(context.session, schema.projection, ids, row_builder(context, schema.projection))


def guard(connection: Connection, context: SyncContext, name: str, count: int) -> None:
    """Raise GuardError for more removals than an operator must approve.

    It counts no more of the records held than the decision needs: counting millions may take minutes.
    """
    if context.approve or count <= FEW:
        return
    allow_long(connection)
    share = GUARDED_SHARE if count > GUARDED_COUNT else GUARDED_SHARE_OF_FEW
    held = connection.execute(
        text(HELD.format(table=qualified_name(connection, REPLICA[name]))),
        {"object": name, "most": ceil(count / share)},
    ).scalar_one()
    if count > share * held:
        raise GuardError(
            f"{name}: {count:,} of {held:,} live records are gone from Salesforce, or hidden from the "
            f"integration user: too many to be removed unasked; see `check`, and if they are gone indeed, "
            f"type: python -m sync verify --object {name} --repair --approve"
        )


def remove(
    context: SyncContext, name: str, held: Lease, run_id: int, gone: Mapping[str, datetime], reason: str
) -> int:
    """Turn records that are proved deleted into tombstones; return how many of them were live.

    `gone` maps Ids to the times of their deletion.
    """
    left, removed = iter(gone.items()), 0
    while chunk := dict(islice(left, REMOVALS_PER_TRANSACTION)):
        with leases.fenced_transaction(context.engine, held) as connection:
            keep = context.settings.tombstone_values_kept
            plans.count_commit(connection, name)
            removed += merge.remove(connection, name, chunk, reason, run_id, keep)
    return removed
