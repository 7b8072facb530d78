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
from sync.replication.apply import View
from sync.replication.runs import Link
from sync.replication.verify.findings import Findings
from sync.salesforce.extract import bulk, extraction
from sync.salesforce.extract.pages import Make
from sync.window import Page, Window

STATEMENT_SECONDS = 1800  # that one statement of a comparison may take


@dataclass(slots=True)
class Work:
    """What one verify works with."""

    link: Link
    view: View
    held: Lease
    run_id: int
    through: datetime
    repair: bool
    erased: Sequence[str]
    refused: int = 0  # groupings that were too much for Salesforce
    found: Findings = field(init=False)

    def __post_init__(self) -> None:
        self.found = Findings(self.view.name, self.through)


@contextmanager
def looking(work: Work) -> Iterator[Connection]:
    """A transaction that reads whole tables, and may take its time: up to three statements."""
    with transaction(work.link.engine) as connection:
        connection.execute(text("SET LOCAL work_mem = '64MB'"))
        allow_long(connection, STATEMENT_SECONDS)
        activity.note(3 * STATEMENT_SECONDS)
        yield connection


def pages(work: Work, projection: Projection, window: Window, make: Make) -> Iterator[Page]:
    """All pages of a window, from its beginning; a Bulk job that reads it is deleted, whoever ends it."""
    link, name, job = work.link, work.view.name, None
    with transaction(link.engine) as connection:
        leases.check_fence(connection, work.held)
        plan = cursors.plan_listing(connection, name, window)
    if plan.orphan is not None:
        bulk.discard(link.session, plan.orphan)
    try:
        for page in extraction.pages(
            link.session,
            projection,
            window,
            plan.start,
            make,
            threshold=link.settings.sync_bulk_threshold,
            ahead=link.ahead,
        ):
            job = page.progress.job
            yield page
            with transaction(link.engine) as connection:
                leases.check_fence(connection, work.held)
                cursors.save_progress(connection, name, plan, page.progress, page.at)
            del page
    finally:
        if job is not None:
            bulk.discard(link.session, job)
    with transaction(link.engine) as connection:
        cursors.clear_progress(connection, name, plan.purpose)
