"""Rejected records: their number and age by reason, and the limit above which a run fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from sqlalchemy import Connection, func, select, text

from sync.catalogue.transform import Reject
from sync.errors import RejectsError, UsageError
from sync.postgres.tables import REPLICA, allow_long

# A run fails if it rejects more than both of these.
GUARDED_COUNT, GUARDED_SHARE = 100, 0.01

GROUPS = text("""
SELECT r.object, r.reason, count(*) AS records, min(r.first_seen) AS since, max(r.last_seen) AS latest,
       bool_or(a.reason IS NOT NULL) AS accepted,
       count(*) FILTER (WHERE r.run_id = CAST(:run_id AS bigint)) AS of_run
  FROM sync.reject AS r
  LEFT JOIN sync.accepted AS a ON a.object = r.object AND a.reason = r.reason
 WHERE r.object = ANY (CAST(:objects AS text[]))
 GROUP BY r.object, r.reason
 ORDER BY r.object, accepted, records DESC, r.reason
""")
KNOWN = text("""
SELECT record_id, system_modstamp FROM sync.reject
 WHERE object = :object AND record_id = ANY (CAST(:ids AS text[]))
""")
ACCEPT = text("""
INSERT INTO sync.accepted (object, reason, accepted_by) VALUES (:object, :reason, :accepted_by)
    ON CONFLICT (object, reason) DO NOTHING
""")
REFUSE = text("DELETE FROM sync.accepted WHERE object = :object AND reason = :reason RETURNING object")


@dataclass(frozen=True, slots=True)
class Group:
    """The rejected records with one reason (a field and a class of error).

    `records` is their number, `of_run` the number of those that the given run met, `accepted` whether an
    operator accepts the reason.
    """

    object: str
    reason: str
    records: int
    since: datetime
    latest: datetime
    accepted: bool
    of_run: int = 0


def reject_groups(connection: Connection, objects: Sequence[str], run_id: int | None = None) -> list[Group]:
    """Return the rejected records of these objects by reason: unaccepted reasons first, then by number."""
    allow_long(connection)  # an accepted reason may have millions of records
    rows = connection.execute(GROUPS, {"objects": list(objects), "run_id": run_id})
    return [Group(r.object, r.reason, r.records, r.since, r.latest, r.accepted, r.of_run) for r in rows]


def new_rejects(connection: Connection, name: str, found: Sequence[Reject]) -> list[Reject]:
    """Return the rejects that are not yet stored in the same version."""
    if not found:
        return []
    rows = connection.execute(KNOWN, {"object": name, "ids": [reject.id for reject in found]})
    known = {row.record_id: row.system_modstamp for row in rows}
    return [
        reject
        for reject in found
        if reject.id not in known
        or (reject.stamp and datetime.fromisoformat(reject.stamp) != known[reject.id])
    ]


def check(connection: Connection, name: str, run_id: int, read: int) -> None:
    """Raise RejectsError if the run rejected too many of the records it `read`, or if too many are
    outstanding.

    Records rejected for accepted reasons do not count.
    """
    found = [group for group in reject_groups(connection, [name], run_id) if not group.accepted]
    outstanding, rejected = sum(group.records for group in found), sum(group.of_run for group in found)
    if outstanding <= GUARDED_COUNT:
        return
    # Count only as many rows as decide whether the outstanding records exceed their share.
    table, most = REPLICA[name], ceil(outstanding / GUARDED_SHARE)
    some = select(table.c.id).where(table.c.deleted_at.is_(None)).limit(most).subquery()
    rows = connection.execute(select(func.count()).select_from(some)).scalar_one()
    if exceeds_limits(rejected, read):
        what = f"{rejected:,} of {read:,} records that were read cannot be stored"
    elif exceeds_limits(outstanding, rows + outstanding):
        what = f"{outstanding:,} records cannot be stored, beside {rows:,} stored ones"
    else:
        return
    raise RejectsError(
        f"{name}: {what}: {describe_groups(found)}; complete_through does not advance. To list them: "
        f"python -m sync rejects --object {name}; correct the values in Salesforce, or exclude the field "
        "(SYNC_EXCLUDED_FIELDS), or continue without these records: "
        f'python -m sync rejects --object {name} --accept "{found[0].reason}"'
    )


def exceeds_limits(count: int, total: int) -> bool:
    """Return whether `count` exceeds both limits."""
    return count > GUARDED_COUNT and count > GUARDED_SHARE * total


def describe_groups(found: Iterable[Group], most: int = 5) -> str:
    """Return the reasons with their numbers of records, at most `most` of them, as one text."""
    listed = [f"{group.reason} ({group.records:,})" for group in found]
    more = f", and {len(listed) - most} more reasons" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def accept(connection: Connection, objects: Sequence[str], reason: str, accepted_by: str) -> list[str]:
    """Accept a reason for those objects that have records rejected for it; return their names.

    Accepted records no longer stop a pass. Raises UsageError, which names the existing reasons, if there is
    none.
    """
    found = reject_groups(connection, objects)
    names = [group.object for group in found if group.reason == reason]
    if not names:
        reasons = ", ".join(f'"{group.reason}"' for group in found) or "none"
        raise UsageError(f'no record is rejected for "{reason}"; the reasons are: {reasons}')
    for name in names:
        connection.execute(ACCEPT, {"object": name, "reason": reason, "accepted_by": accepted_by})
    return names


def withdraw(connection: Connection, objects: Sequence[str], reason: str) -> list[str]:
    """Withdraw an acceptance; return the objects. Raises UsageError if there is none."""
    names = [
        name for name in objects if connection.execute(REFUSE, {"object": name, "reason": reason}).first()
    ]
    if not names:
        raise UsageError(f'"{reason}" is not accepted for {", ".join(objects)}')
    return names
