"""What one verify works with, and how it reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection, text

from sync.catalogue.mapping import Projection
from sync.logs import activity
from sync.postgres.state import cursors, leases
from sync.postgres.state.leases import Lease
from sync.postgres.tables import allow_long, transaction
from sync.replication.apply import ObjectSchema
from sync.replication.runs import SyncContext
from sync.replication.verify.findings import Findings
from sync.salesforce.extract import bulk, extraction
from sync.salesforce.extract.pages import RowBuilder
from sync.window import Page, Window

STATEMENT_SECONDS = 1800  # that one statement of a comparison may take


@dataclass(slots=True)
class Work:
    """What one verify works with."""

    context: SyncContext
    schema: ObjectSchema
    held: Lease
    run_id: int
    through: datetime
    repair: bool
    erased: Sequence[str]
    refused: int = 0  # groupings that were too much for Salesforce
    found: Findings = field(init=False)

    def __post_init__(self) -> None:
        self.found = Findings(self.schema.name, self.through)


@contextmanager
def looking(work: Work) -> Iterator[Connection]:
    """A transaction that reads whole tables, and may take its time: up to three statements."""
    with transaction(work.context.engine) as connection:
        connection.execute(text("SET LOCAL work_mem = '64MB'"))
        allow_long(connection, STATEMENT_SECONDS)
        activity.note(3 * STATEMENT_SECONDS)
        yield connection


def pages(work: Work, projection: Projection, window: Window, build_rows: RowBuilder) -> Iterator[Page]:
    """All pages of a window, from its beginning; a Bulk job that reads it is deleted, whoever ends it."""
    context, name, job = work.context, work.schema.name, None
    with transaction(context.engine) as connection:
        leases.check_fence(connection, work.held)
        plan = cursors.plan_listing(connection, name, window)
    if plan.orphan is not None:
        bulk.discard(context.session, plan.orphan)
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
                cursors.save_progress(connection, name, plan, page.progress, page.at)
            del page
    finally:
        if job is not None:
            bulk.discard(context.session, job)
    with transaction(context.engine) as connection:
        cursors.clear_progress(connection, name, plan.purpose)
