"""The state of one verify, and its reading of windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from sync.catalogue.mapping import Projection
from sync.logs import activity
from sync.postgres.state import leases, plans
from sync.postgres.state.leases import Lease
from sync.postgres.tables import allow_long, transaction
from sync.replication.apply import ObjectSchema
from sync.replication.runs import SyncContext
from sync.replication.verify.findings import Findings
from sync.salesforce.extract import bulk, extraction
from sync.salesforce.extract.pages import RowBuilder
from sync.window import Page, Window

STATEMENT_SECONDS = 1800  # timeout of one statement of a comparison


@dataclass(slots=True)
class Verification:
    """The state of one verify."""

    context: SyncContext
    schema: ObjectSchema
    held: Lease
    run_id: int
    through: datetime
    repair: bool
    erased: Sequence[str]
    refused: int = 0  # queries that exceeded a limit of Salesforce
    found: Findings = field(init=False)

    def __post_init__(self) -> None:
        self.found = Findings(self.schema.name, self.through)


@contextmanager
def long_read(work: Verification) -> Iterator[Connection]:
    """Open a transaction for up to three long statements that read whole tables."""
    with transaction(work.context.engine) as connection:
        connection.execute(text("SET LOCAL work_mem = '64MB'"))
        allow_long(connection, STATEMENT_SECONDS)
        activity.report(3 * STATEMENT_SECONDS)
        yield connection


def read_pages(
    work: Verification, projection: Projection, window: Window, build_rows: RowBuilder
) -> Iterator[Page]:
    """Yield all pages of a window from its beginning; its Bulk job is deleted in any case."""
    context, name, job = work.context, work.schema.name, None
    with transaction(context.engine) as connection:
        leases.check_fence(connection, work.held)
        plan = plans.plan_listing(connection, name, window)
    if plan.orphan is not None:
        bulk.delete_job(context.session, plan.orphan)
    try:
        for page in extraction.pages(
            context.session,
            projection,
            window,
            plan.start,
            build_rows,
            threshold=context.settings.sync_bulk_threshold,
            ahead=context.ahead,
        ):
            job = page.progress.job
            yield page
            with transaction(context.engine) as connection:
                leases.check_fence(connection, work.held)
                plans.save_progress(connection, name, plan, page.progress, page.at)
            del page
    finally:
        if job is not None:
            bulk.delete_job(context.session, job)
    with transaction(context.engine) as connection:
        plans.clear_progress(connection, name, plan.purpose)
