"""Requests of consumers to read a record now: `crm.request` writes sync.request, the worker sync.answer.

No statement here waits for a consumer: lines of sync.request are added and removed, never changed, and those
of a transaction that is open are invisible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from sync.postgres.state.leases import Lease

COMMAND = "request"  # of the journal's entries
MOST = 200  # records that one reading takes up: one query

PUBLISHED_DIFFERS = text("""
SELECT (SELECT array_agg(concat_ws(' ', object, prefix, per_hour) ORDER BY object) FROM sync.requestable)
       IS DISTINCT FROM
       (SELECT array_agg(concat_ws(' ', object, prefix, CAST(:per_hour AS integer)) ORDER BY object)
          FROM unnest(CAST(:objects AS text[]), CAST(:prefixes AS text[])) AS given (object, prefix))
""")
UNPUBLISH = text("DELETE FROM sync.requestable WHERE object <> ALL (CAST(:objects AS text[]))")
NOT_REPLICATED = text("DELETE FROM sync.request WHERE object <> ALL (CAST(:objects AS text[]))")
PUBLISH = text("""
INSERT INTO sync.requestable (object, prefix, per_hour)
SELECT object, prefix, :per_hour
  FROM unnest(CAST(:objects AS text[]), CAST(:prefixes AS text[])) AS given (object, prefix)
    ON CONFLICT (object) DO UPDATE SET prefix = excluded.prefix, per_hour = excluded.per_hour
""")
WAITING = text(
    "SELECT DISTINCT object FROM sync.request WHERE object = ANY (CAST(:objects AS text[])) ORDER BY 1"
)
HELD = text("""
SELECT fence FROM sync.lease WHERE object = :object AND owner = :owner AND expires_at > clock_timestamp()
""")
# What is taken up is noted before it is read: a request that is made from then on is another one.
TAKE = text("""
INSERT INTO sync.answer AS a (record_id, taken)
SELECT record_id, max(number) FROM sync.request
 WHERE object = :object GROUP BY record_id ORDER BY min(number) LIMIT :most
    ON CONFLICT (record_id) DO UPDATE SET taken = greatest(a.taken, excluded.taken), at = now()
RETURNING record_id, taken
""")
ANSWER = text("""
UPDATE sync.answer AS a
   SET answered = greatest(a.answered, given.number), at = now(),
       found = a.record_id = ANY (CAST(:found AS text[]))
  FROM unnest(CAST(:ids AS text[]), CAST(:numbers AS bigint[])) AS given (id, number)
 WHERE a.record_id = given.id
""")
REMOVE = text("""
DELETE FROM sync.request AS r
 USING unnest(CAST(:ids AS text[]), CAST(:numbers AS bigint[])) AS given (id, number)
 WHERE r.record_id = given.id AND r.number <= given.number
""")
# Pages that other work on the object fetched before may be committed after the reading.
READ_AGAIN = text("""
INSERT INTO sync.reread (object, record_id, whole) SELECT :object, unnest(CAST(:ids AS text[])), true
    ON CONFLICT (object, record_id) DO UPDATE SET whole = true, at = now()
""")
# An hour's readings of one process share an entry of the journal; one that failed ends it.
OPEN_RUN = text("""
SELECT id FROM sync.run
 WHERE object = :object AND command = :command AND owner = :owner AND outcome = 'succeeded'
   AND started_at > now() - interval '1 hour'
 ORDER BY id DESC LIMIT 1
""")
BEGIN_RUN = text("""
INSERT INTO sync.run (object, command, owner) VALUES (:object, :command, :owner) RETURNING id
""")
CLOSE_RUN = text("""
UPDATE sync.run
   SET finished_at = now(), outcome = :outcome, error = :error, error_class = :error_class,
       read = read + :read, inserted = inserted + :inserted, updated = updated + :updated,
       deleted = deleted + :deleted, unchanged = unchanged + :unchanged, rejected = rejected + :rejected,
       nuls_removed = nuls_removed + :nuls, api_calls = api_calls + :api_calls
 WHERE id = :id
""")
DELAYED = text("""
SELECT object, count(DISTINCT record_id) AS records, min(at) AS since FROM sync.request
 GROUP BY object HAVING min(at) < now() - interval '1 minute' ORDER BY object
""")
# A count that its role has locked is left: a role must not hold up its own revocation.
WITHDRAW = text("DELETE FROM sync.request WHERE role = :role")
FORGET_COUNT = text("""
DELETE FROM sync.requester AS q
 USING (SELECT role FROM sync.requester WHERE role = :role FOR UPDATE SKIP LOCKED) AS free
 WHERE q.role = free.role
""")
PRUNE = text("""
DELETE FROM sync.answer AS a
 WHERE a.at < now() - interval '1 day'
   AND NOT EXISTS (SELECT FROM sync.request AS r WHERE r.record_id = a.record_id)
""")
PRUNE_COUNTS = text("""
DELETE FROM sync.requester AS q
 USING (SELECT role FROM sync.requester WHERE since < now() - interval '1 day' FOR UPDATE SKIP LOCKED) AS old
 WHERE q.role = old.role
""")


@dataclass(frozen=True, slots=True)
class Delayed:
    """Records of an object that consumers have asked for, the first of them more than a minute ago."""

    object: str
    records: int
    since: datetime


def publish(connection: Connection, prefixes: Mapping[str, str], per_hour: int) -> None:
    """Store whose records may be asked for, and how often by a role; written only if it has changed.

    `prefixes` maps the objects to the first three characters of their Ids. Requests for other objects are
    removed.
    """
    values = {"objects": list(prefixes), "prefixes": list(prefixes.values()), "per_hour": per_hour}
    if connection.execute(PUBLISHED_DIFFERS, values).scalar_one():
        connection.execute(UNPUBLISH, values)
        connection.execute(NOT_REPLICATED, values)
        connection.execute(PUBLISH, values)


def waiting_objects(connection: Connection, objects: Sequence[str]) -> list[str]:
    """Return which of these objects have requests that wait."""
    return list(connection.execute(WAITING, {"objects": list(objects)}).scalars())


def lease_of(connection: Connection, sobject: str, owner: str) -> Lease | None:
    """Return the lease of an object that a process holds now (None: it does not)."""
    fence = connection.execute(HELD, {"object": sobject, "owner": owner}).scalar()
    return None if fence is None else Lease(sobject, owner, int(fence))


def take(connection: Connection, sobject: str) -> dict[str, int]:
    """Take up the requests that have waited longest; return their Ids, each with its last request.

    At most MOST records; the rest waits.
    """
    taken = connection.execute(TAKE, {"object": sobject, "most": MOST})
    return {row.record_id: row.taken for row in taken}


def answer(
    connection: Connection, sobject: str, taken: Mapping[str, int], found: Sequence[str], *, again: bool
) -> None:
    """Store that the records were read, and which Salesforce has, and remove their requests.

    With `again` they are queued to be read once more, by a pass at its end.
    """
    values = {"ids": list(taken), "numbers": list(taken.values())}
    connection.execute(ANSWER, values | {"found": list(found)})
    connection.execute(REMOVE, values)
    if again:
        connection.execute(READ_AGAIN, {"object": sobject, "ids": list(taken)})


def open_run(connection: Connection, sobject: str, owner: str) -> int:
    """Return the number of the journal's entry for a reading, which the readings of an hour share.

    Entries of passes stay open: one may be under way.
    """
    values = {"object": sobject, "command": COMMAND, "owner": owner}
    known = connection.execute(OPEN_RUN, values).scalar()
    return int(known if known is not None else connection.execute(BEGIN_RUN, values).scalar_one())


def close_run(
    connection: Connection,
    run_id: int,
    tally: Mapping[str, int],
    api_calls: int,
    outcome: str,
    error: str | None = None,
    error_class: str | None = None,
) -> None:
    """Add the counts of a reading to its entry of the journal, and store how it ended."""
    ended = {"outcome": outcome, "error": error, "error_class": error_class, "api_calls": api_calls}
    connection.execute(CLOSE_RUN, {**tally, **ended, "id": run_id})


def delayed(connection: Connection) -> list[Delayed]:
    """Return, for each object, the requests that wait, if the first of them has waited for a minute."""
    return [Delayed(row.object, row.records, row.since) for row in connection.execute(DELAYED)]


def withdraw(connection: Connection, role: str) -> int:
    """Remove the requests of a role that wait; return how many there were."""
    connection.execute(FORGET_COUNT, {"role": role})
    return connection.execute(WITHDRAW, {"role": role}).rowcount


def prune(connection: Connection) -> None:
    """Remove answers that are older than a day, and counts of past hours."""
    connection.execute(PRUNE)
    connection.execute(PRUNE_COUNTS)
