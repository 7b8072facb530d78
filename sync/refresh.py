"""Values that move without a stamp: formulas, roll-ups, late fields, and what looks through other records."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from dataclasses import replace

from sqlalchemy import Connection, text

from sync import apply, logs, state
from sync.apply import View
from sync.extract import Window
from sync.load import Mode
from sync.runs import Link, Step
from sync.state import Lease, Marks
from sync.tables import transaction
from sync.windows import read_window

log = logs.get(__name__)

# More records than this that wait for their turn are read with all others, only the columns that may differ.
ONE_BY_ONE = 10_000
# Records read by their Ids in one pass: a hundred calls. The others wait for the next.
MOST_A_PASS = 20_000

WAITING = text("SELECT DISTINCT object FROM sync.reread ORDER BY 1")
MANY = text("SELECT count(*) FROM sync.reread WHERE object = :object AND NOT whole")
QUEUE = text("""
SELECT record_id FROM sync.reread
 WHERE object = :object AND record_id <> ALL (CAST(:read AS text[])) ORDER BY at, record_id LIMIT :most
""")
DONE = text("DELETE FROM sync.reread WHERE object = :object AND record_id = ANY (:ids) AND at <= :at")
COLUMNS_DONE = text("DELETE FROM sync.reread WHERE object = :object AND NOT whole AND at <= :at")
NOW = text("SELECT clock_timestamp()")


def waiting(link: Link) -> list[str]:
    """Objects of which records are to be read again."""
    with transaction(link.engine) as connection:
        return [row.object for row in connection.execute(WAITING)]


def reread(link: Link, view: View, held: Lease, run_id: int) -> Iterator[Step]:
    """Read again what depends on records that changed: by Id, or the columns of all where those are many.

    Each Id once, so that it ends: records whose formulas look through each other, and give another value
    whenever they are asked, would be queued again by every reading. Those wait for the next pass.
    """
    with transaction(link.engine) as connection:
        many = connection.execute(MANY, {"object": view.name}).scalar_one() > ONE_BY_ONE
        asked = connection.execute(NOW).scalar_one()
    if many:
        yield from read_columns(
            link, view, held, run_id, view.projection.volatile(link.settings.volatile_fields(view.name))
        )
        with transaction(link.engine) as connection:
            state.check_fence(connection, held)
            connection.execute(COLUMNS_DONE, {"object": view.name, "at": asked})
    read: set[str] = set()
    while ids := next_ids(link, view.name, read):
        with transaction(link.engine) as connection:
            asked = connection.execute(NOW).scalar_one()
        done = 0
        for page in apply.by_id(link, view, ids):
            tally = apply.commit_page(link, view, held, run_id, page)
            done += len(page.batch.ids)
            yield Step(view.name, Window(None, view.at), tally, done, len(ids))
        with transaction(link.engine) as connection:
            state.check_fence(connection, held)
            connection.execute(DONE, {"object": view.name, "ids": ids, "at": asked})
        read.update(ids)
    if len(read) >= MOST_A_PASS:
        log.info("reread_continues_next_pass", object=view.name, read=len(read))


def next_ids(link: Link, name: str, read: Collection[str]) -> list[str]:
    """The Ids that have waited longest, without those read in this pass, as far as its budget goes."""
    most = min(ONE_BY_ONE, MOST_A_PASS - len(read))
    with transaction(link.engine) as connection:
        return list(connection.execute(QUEUE, {"object": name, "read": list(read), "most": most}).scalars())


def refresh(link: Link, view: View, held: Lease, run_id: int) -> Iterator[Step]:
    """Read the columns of all records that move without a stamp when it is time, and those that came late."""
    with transaction(link.engine) as connection:
        marks = state.marks(connection, view.name)
    names = due(link, view, marks)
    if not names:
        return
    filled = yield from read_columns(link, view, held, run_id, names)
    with transaction(link.engine) as connection:
        state.check_fence(connection, held)
        whole = set(view.projection.volatile(link.settings.volatile_fields(view.name))) <= set(names)
        state.note_refreshed(connection, view.name, view.at if whole else marks.refreshed_at, filled)


def due(link: Link, view: View, marks: Marks) -> tuple[str, ...]:
    """The fields to read of all records."""
    if marks.complete_through is None:
        return ()
    late = set(marks.backfill)
    moving = view.projection.volatile(link.settings.volatile_fields(view.name))
    if marks.refreshed_at is None or view.at - marks.refreshed_at >= link.settings.sync_volatile_interval:
        late |= set(moving)
    return tuple(name for name in view.projection.names if name in late)


def read_columns(
    link: Link, view: View, held: Lease, run_id: int, names: tuple[str, ...]
) -> Generator[Step, None, tuple[str, ...]]:
    """These columns of all records, through the same merge, into rows whose stamp is the same.

    Returns the names of those that are selected.
    """
    if not names:
        return ()
    log.info("refreshing", object=view.name, fields=",".join(names))
    narrow = replace(view, projection=view.projection.only(names))

    def plan(connection: Connection, seen: View, _: object) -> state.Plan:
        return state.plan_refresh(connection, seen.name, seen.at, seen.projection.fingerprint)

    yield from read_window(link, narrow, held, run_id, plan, Mode.PARTIAL)
    with transaction(link.engine) as connection:
        state.check_fence(connection, held)
        state.clear_progress(connection, view.name, state.REFRESH)
    return narrow.projection.names
