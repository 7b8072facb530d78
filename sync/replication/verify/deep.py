"""Compare the values of a sample of records, or of all records."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sqlalchemy import func, select

from sync.postgres.load.merge import Tally
from sync.postgres.tables import REPLICA
from sync.replication import apply
from sync.replication.runs import PageResult
from sync.replication.verify.work import Work, looking, pages
from sync.window import Page, Window


def compare(work: Work, sample: int | None, judged: Callable[[Page], Tally]) -> Iterator[PageResult]:
    """Classify the pages of a random sample of records (None: of all records)."""
    if sample is None:
        yield from everything(work, judged)
        return
    table = REPLICA[work.schema.name]
    with looking(work) as connection:
        drawn = select(table.c.id).where(table.c.deleted_at.is_(None)).order_by(func.random()).limit(sample)
        ids = sorted(connection.execute(drawn).scalars())
    for page in apply.by_id(work.context, work.schema, ids):
        work.found.compared += len(page.batch.ids)
        tally = judged(page)
        yield PageResult(work.schema.name, Window(None, work.schema.at), tally, work.found.compared, len(ids))


def everything(work: Work, judged: Callable[[Page], Tally]) -> Iterator[PageResult]:
    """Classify all records, read as in a first load."""
    window, projection = Window(None, work.schema.at), work.schema.projection
    for page in pages(work, projection, window, apply.row_builder(work.context, projection)):
        tally = judged(page) if page.batch.ids else Tally()
        work.found.compared += len(page.batch.ids)
        yield PageResult(work.schema.name, window, tally, page.received, page.expected)
