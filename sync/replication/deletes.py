"""Deletions that leave no trace in a query: records that left the recycle bin, by Salesforce's delete log."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from sync.errors import SalesforceError, SyncError
from sync.logs import logger
from sync.postgres.load.merge import Tally
from sync.postgres.state import cursors, leases
from sync.postgres.state.cursors import Marks, Plan
from sync.postgres.state.leases import Lease
from sync.postgres.tables import REPLICA, located, transaction
from sync.replication import apply
from sync.replication.apply import View
from sync.replication.runs import Link, Step
from sync.replication.verify import comparison
from sync.salesforce.session.answers import Deletions
from sync.window import Window

log = logger.get(__name__)

EVERY = timedelta(minutes=5)  # Salesforce advises against asking more often
# The log keeps 15 days; asking for more would be refused.
LONGEST = timedelta(days=14)
# A verify that made up for a lost log is not made again at once when the log is lost still.
VERIFIED_LATELY = timedelta(minutes=30)
LOST = frozenset({"INVALID_REPLICATION_DATE", "EXCEEDED_ID_LIMIT"})
AT_ONCE = 10_000

LIVE = """
SELECT id FROM {table} WHERE deleted_at IS NULL AND id = ANY (:ids)
UNION SELECT record_id FROM sync.reject WHERE object = :object AND record_id = ANY (:ids)
"""


def remove_purged(
    link: Link, view: View, held: Lease, run_id: int, plan: Plan
) -> Generator[Step, None, datetime | None]:
    """Make tombstones of what the delete log names and Salesforce has no more.

    Returns through when deletions are known; None where Salesforce does not tell. A log that no longer
    reaches back to the last time makes a verify necessary, which repairs.
    """
    with transaction(link.engine) as connection:
        marks = cursors.marks(connection, view.name)
        # Not ahead of any answer of the window: one server's wrong Date must not count as known. A window
        # that was taken up again began long ago.
        if not plan.resumed:
            view = replace(view, at=min(view.at, cursors.earliest(connection, view.name, plan)))
    since = marks.deleted_through or marks.complete_through
    if since is None:  # a first load: no record is there that could have gone
        return None
    end = minute(view.at)
    if plan.resumed:
        # Other work may have asked meanwhile, before records came in that were read in the beginning.
        since = min(since, plan.window.until)
    elif lately(marks, view.at, EVERY):
        return marks.deleted_through
    if end - minute(since) <= timedelta():
        return marks.deleted_through
    try:
        listed = ask(link, view, since, end)
    except SalesforceError as error:
        if error.passing or not 400 <= error.status < 500:
            raise
        log.warning("deletions_unknown", object=view.name, reason=str(error)[:300], instead="nightly verify")
        with transaction(link.engine) as connection:
            leases.check_fence(connection, held)
            cursors.note_deletions_refused(connection, view.name, refused=True)
        return None
    if listed is None:
        if lately(marks, view.at, VERIFIED_LATELY) and since > view.at - VERIFIED_LATELY:
            log.warning("deletions_unknown", object=view.name, reason="the delete log was lost again")
            return marks.deleted_through
        log.warning("delete_log_gone", object=view.name, since=since.isoformat(), instead="verify --repair")
        found = yield from comparison.examine(link, view, held, run_id, repair=True, whole=True)
        through = end
        if found.different:
            raise SyncError(
                f"{view.name}: the delete log no longer reaches back to {since:%Y-%m-%d %H:%M} UTC, and "
                f"{found.different:,} differences remain; type: "
                f"python -m sync verify --object {view.name} --repair"
            )
    else:
        yield from remove_listed(link, view, held, run_id, listed)
        through = min(listed.through, end)
    with transaction(link.engine) as connection:
        leases.check_fence(connection, held)
        cursors.note_deleted(connection, view.name, through, view.at)
        cursors.note_deletions_refused(connection, view.name, refused=False)
    return through


def ask(link: Link, view: View, since: datetime, end: datetime) -> Deletions | None:
    """What the log tells since a time, and of a while before it where it still can; None where it is lost."""
    if since < view.at - LONGEST:
        return None
    shortest = timedelta(minutes=2)
    for start in dict.fromkeys((since - link.settings.sync_overlap, since)):
        start = min(minute(start), end - shortest)
        try:
            listed = link.session.deleted(view.name, max(start, minute(view.at - LONGEST)), end)
        except SalesforceError as error:
            if error.code not in LOST:
                raise
            log.info("delete_log_refused", object=view.name, reason=str(error)[:200])
            continue
        if listed.earliest <= since:
            return listed
    return None


def lately(marks: Marks, now: datetime, span: timedelta) -> bool:
    """Whether the log was asked for a short while ago."""
    return marks.deleted_asked is not None and timedelta() <= now - marks.deleted_asked < span


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
    """Those of the Ids whose rows are live, or whose records could not be stored."""
    statement = text(LIVE.format(table=located(connection, REPLICA[name])))
    chunks = (list(ids[start : start + AT_ONCE]) for start in range(0, len(ids), AT_ONCE))
    return sorted(
        row.id for chunk in chunks for row in connection.execute(statement, {"object": name, "ids": chunk})
    )


def minute(moment: datetime) -> datetime:
    """The whole minute: replication calls know no seconds."""
    return moment.replace(second=0, microsecond=0)
