"""Compare the values of a sample of records, or of all records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import func, select

from sync.postgres.load.merge import Tally
from sync.postgres.tables import REPLICA
from sync.replication import apply
from sync.replication.runs import PageResult
from sync.replication.verify.work import Verification, long_read, read_pages
from sync.window import Page, Window


def classify_sample(
    work: Verification, sample: int | None, classify: Callable[[Page], Tally]
) -> Iterator[PageResult]:
    """Classify the pages of a random sample of records (None: of all records)."""
    if sample is None:
        yield from classify_all(work, classify)
        return
    table = REPLICA[work.schema.name]
    with long_read(work) as connection:
        drawn = select(table.c.id).where(table.c.deleted_at.is_(None)).order_by(func.random()).limit(sample)
        ids = sorted(connection.execute(drawn).scalars())
    for page in apply.by_id(work.context, work.schema, ids):
        work.found.compared += len(page.batch.ids)
        tally = classify(page)
        yield PageResult(work.schema.name, Window(None, work.schema.at), tally, work.found.compared, len(ids))


def classify_all(work: Verification, classify: Callable[[Page], Tally]) -> Iterator[PageResult]:
    """Classify all records, read as in a first load."""
    window, projection = Window(None, work.schema.at), work.schema.projection
    for page in read_pages(work, projection, window, apply.row_builder(work.context, projection)):
        tally = classify(page) if page.batch.ids else Tally()
        work.found.compared += len(page.batch.ids)
        yield PageResult(work.schema.name, window, tally, page.received, page.expected)
