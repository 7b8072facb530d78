"""Deletions that leave no trace in a query: records that left the recycle bin, by Salesforce's delete log."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync import apply, logs, state, verify
from sync.apply import View
from sync.errors import SalesforceError
from sync.extract import Window
from sync.load import Tally
from sync.runs import Link, Step
from sync.session import Deletions
from sync.state import Lease, Marks
from sync.tables import REPLICA, REPLICAS, quoted, transaction

log = logs.get(__name__)

EVERY = timedelta(minutes=5)  # Salesforce advises against asking more often
# The log keeps 15 days; asking for more would be refused.
LONGEST = timedelta(days=14)
# After a verify that was to make up for the log it is not made again at once.
VERIFIED_LATELY = timedelta(hours=6)
LOST = frozenset({"INVALID_REPLICATION_DATE", "EXCEEDED_ID_LIMIT"})
AT_ONCE = 10_000

LIVE = "SELECT id FROM {table} WHERE deleted_at IS NULL AND id = ANY (:ids)"


def remove_purged(link: Link, view: View, held: Lease, run_id: int) -> Generator[Step, None, datetime | None]:
    """Make tombstones of what the delete log names and Salesforce has no more.

    Returns through when deletions are known; None where Salesforce does not tell. A log that no longer
    reaches back to the last time makes a verify necessary, which repairs.
    """
    with transaction(link.engine) as connection:
        marks = state.marks(connection, view.name)
    since = marks.deleted_through or marks.complete_through
    if since is None:  # a first load: no record is there that could have gone
        return None
    start, end = minute(max(since - link.settings.sync_overlap, view.at - LONGEST)), minute(view.at)
    if end - start <= timedelta(minutes=1) or lately(marks, view.at):
        return marks.deleted_through
    try:
        log_ = link.session.deleted(view.name, start, end)
    except SalesforceError as error:
        if error.code not in LOST:
            if not 400 <= error.status < 500:
                raise
            log.warning("deletions_unknown", object=view.name, reason=str(error)[:300])
            return None
        log_ = None
        reason = str(error)
    if log_ is None or log_.earliest > since or since < view.at - LONGEST:
        reason = reason if log_ is None else f"it begins at {log_.earliest:%Y-%m-%d %H:%M} UTC"
        if marks.verified_through is not None and view.at - marks.verified_through < VERIFIED_LATELY:
            log.warning("deletions_unknown", object=view.name, reason=reason[:300])
            return None
        log.warning("delete_log_gone", object=view.name, reason=reason[:300], instead="verify --repair")
        yield from verify.examine(link, view, held, run_id, repair=True)
    if log_ is not None:
        yield from remove_listed(link, view, held, run_id, log_)
    through = min(log_.through, end) if log_ is not None else end
    with transaction(link.engine) as connection:
        state.check_fence(connection, held)
        state.note_deleted(connection, view.name, through, view.at)
    return through


def lately(marks: Marks, now: datetime) -> bool:
    """Whether the log was asked for a short while ago."""
    return marks.deleted_asked is not None and timedelta() <= now - marks.deleted_asked < EVERY


def remove_listed(link: Link, view: View, held: Lease, run_id: int, listed: Deletions) -> Iterator[Step]:
    """What the log names and a table has live is asked for by its Id: it may have been undeleted since."""
    with transaction(link.engine) as connection:
        suspects = live(connection, view.name, list(listed.records))
    if not suspects:
        return
    found: set[str] = set()
    for page in apply.by_id(link, view, suspects):
        tally = apply.commit_page(link, view, held, run_id, page)
        found.update(page.batch.ids)
        yield Step(view.name, Window(None, view.at), tally, len(found), len(suspects))
    gone = {id_: listed.records[id_] for id_ in suspects if id_ not in found}
    with transaction(link.engine) as connection:
        apply.guard(connection, link, view.name, len(gone))
    removed = apply.remove(link, view.name, held, run_id, gone, "purged")
    if removed:
        log.info("purged", object=view.name, removed=removed)
        yield Step(view.name, Window(None, view.at), Tally(deleted=removed))


def live(connection: Connection, name: str, ids: Sequence[str]) -> list[str]:
    """Those of the Ids whose rows are live."""
    statement = text(LIVE.format(table=f"{REPLICAS}.{quoted(REPLICA[name].name)}"))
    chunks = (list(ids[start : start + AT_ONCE]) for start in range(0, len(ids), AT_ONCE))
    return sorted(row.id for chunk in chunks for row in connection.execute(statement, {"ids": chunk}))


def minute(moment: datetime) -> datetime:
    """The whole minute: replication calls know no seconds."""
    return moment.replace(second=0, microsecond=0)
