"""A person erased on request: every copy of a record emptied, and a note that keeps it from coming back.

All of it is one transaction under the leases of the objects concerned: whatever was fetched before is checked
against the note when it is written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from sync import load, logs, state
from sync.errors import SyncError, UsageError
from sync.load import Tally
from sync.mapping import SObject, snake_case
from sync.objects import CATALOGUE
from sync.state import Lease
from sync.tables import REPLICA, REPLICAS, quoted, transaction
from sync.transform import normalise_email

log = logs.get(__name__)

ALLOWED = text("SET LOCAL statement_timeout = '15min'")  # the feed is gone through, and has no index on Ids

# Records that were merged into these, at any distance: the same person's older values.
LOSERS = """
WITH RECURSIVE merged AS (
    SELECT id FROM {table} WHERE id = ANY (CAST(:ids AS text[]))
    UNION
    SELECT t.id FROM {table} AS t JOIN merged ON t.master_record_id = merged.id WHERE t.deleted_at IS NOT NULL
)
SELECT id FROM merged
"""
TWIN = (
    "SELECT {column} FROM {table} WHERE id = ANY (CAST(:ids AS text[])) AND {flag} AND {column} IS NOT NULL"
)
TWIN_OF = "SELECT id FROM {table} WHERE {column} = ANY (CAST(:ids AS text[])) AND {flag}"
REJECTED = text("""
SELECT record_id, record::text AS record FROM sync.reject
 WHERE object = :object AND record_id = ANY (CAST(:ids AS text[]))
""")
SURVIVORS = """
SELECT id, master_record_id AS survivor FROM {table}
 WHERE id = ANY (CAST(:ids AS text[])) AND master_record_id IS NOT NULL ORDER BY 1
"""
NOTE = text("""
INSERT INTO sync.erased (object, record_id, asked_by)
SELECT :object, id, :asked_by FROM unnest(CAST(:ids AS text[])) AS id
    ON CONFLICT (record_id) WHERE lifted_at IS NULL DO NOTHING
""")
LIFT = text("""
UPDATE sync.erased SET lifted_at = now(), lifted_by = :asked_by
 WHERE record_id = ANY (CAST(:ids AS text[])) AND lifted_at IS NULL RETURNING object, record_id
""")
REREAD = text("""
INSERT INTO sync.reread (object, record_id, whole)
SELECT :object, id, true FROM unnest(CAST(:ids AS text[])) AS id
    ON CONFLICT (object, record_id) DO UPDATE SET whole = true, at = now()
""")
# By the normalised column, the field itself however it is written, and every custom field.
BY_EMAIL = """
SELECT id, deleted_at IS NOT NULL AS deleted,
       array_remove(ARRAY[{columns}], NULL)
       || ARRAY(SELECT key FROM jsonb_each_text(custom) WHERE lower(btrim(value)) = :email ORDER BY key)
       AS found
  FROM {table}
 WHERE {matches} OR EXISTS (SELECT FROM jsonb_each_text(custom) WHERE lower(btrim(value)) = :email)
 ORDER BY id
"""
REJECTED_WITH = text("""
SELECT object, record_id FROM sync.reject
 WHERE position(lower(:email) IN lower(record::text)) > 0 ORDER BY 1, 2
""")


@dataclass(frozen=True, slots=True)
class Match:
    """A record that an e-mail address leads to: where it is, and in which fields."""

    object: str
    id: str
    state: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: the records noted, how many rows of each object it emptied, and the survivors of
    merges that hold values of the same person still."""

    ids: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]
    survivors: tuple[tuple[str, str], ...]


def matching(connection: Connection, email: str) -> list[Match]:
    """The records, live, deleted or rejected, that hold this e-mail address; UsageError for what is none."""
    wanted = normalise_email(email, "")
    if wanted is None:
        raise UsageError(f"{email!r} is no e-mail address")
    connection.execute(ALLOWED)
    found = []
    for sobject in CATALOGUE.values():
        for row in connection.execute(by_email(sobject), {"email": wanted}):
            where = "deleted" if row.deleted else "live"
            found.append(Match(sobject.name, row.id, where, tuple(row.found)))
    for row in connection.execute(REJECTED_WITH, {"email": wanted}):
        found.append(Match(row.object, row.record_id, "rejected", ()))
    return found


def by_email(sobject: SObject) -> Any:
    """The query for one object's records with an e-mail address."""
    columns = {
        field.column: field.name
        for field in sobject.fields
        if any(derived.normalise is normalise_email for derived in field.derived)
    }
    tests = {name: f"lower(btrim({quoted(column)})) = :email" for column, name in columns.items()}
    listed = ", ".join(f"CASE WHEN {test} THEN '{name}' END" for name, test in tests.items())
    return text(
        BY_EMAIL.format(
            table=table_of(sobject.name),
            columns=listed or "NULL::text",
            matches=" OR ".join(tests.values()) or "false",
        )
    )


def erase(
    engine: Engine,
    by_object: Mapping[str, Sequence[str]],
    owner: str,
    asked_by: str,
    wait: timedelta,
    stop: threading.Event,
) -> Erased:
    """Empty every copy of these records, of their twins and of what was merged into them, and keep them out.

    LeaseHeldError where another process works on one of the objects for longer than `wait`.
    """
    with working(engine, by_object, owner, wait, stop) as leases:
        with transaction(engine) as connection:
            connection.execute(ALLOWED)
            for lease in leases:
                state.check_fence(connection, lease)
            ids = closure(connection, by_object)
            survivors = tuple(kept_elsewhere(connection, ids))
            for name, those in ids.items():
                connection.execute(NOTE, {"object": name, "ids": those, "asked_by": asked_by})
            rows = {name: erase_object(connection, name, those, owner) for name, those in ids.items()}
        for name in ids:
            forget_statistics(engine, name)
    log.warning("erased", records=sum(map(len, ids.values())), rows=sum(rows.values()), asked_by=asked_by)
    return Erased({name: tuple(those) for name, those in ids.items()}, rows, survivors)


def lift(
    engine: Engine,
    by_object: Mapping[str, Sequence[str]],
    owner: str,
    asked_by: str,
    wait: timedelta,
    stop: threading.Event,
) -> Mapping[str, tuple[str, ...]]:
    """Let these records be stored again, and have them read by the next pass; those that were erased."""
    with working(engine, by_object, owner, wait, stop) as leases, transaction(engine) as connection:
        for lease in leases:
            state.check_fence(connection, lease)
        found: dict[str, list[str]] = {}
        wanted = [id_ for ids in closure(connection, by_object).values() for id_ in ids]
        for row in connection.execute(LIFT, {"ids": wanted, "asked_by": asked_by}):
            found.setdefault(row.object, []).append(row.record_id)
        for name, ids in found.items():
            connection.execute(REREAD, {"object": name, "ids": ids})
    return {name: tuple(ids) for name, ids in found.items()}


def erase_object(connection: Connection, name: str, ids: Sequence[str], owner: str) -> int:
    """Empty the copies of one object's records, with its journal line; how many rows there were."""
    run_id = state.open_run(connection, name, "erase", owner)
    rows = load.erase(connection, name, ids, run_id)
    tally = Tally(read=len(ids), deleted=rows)
    state.close_run(connection, run_id, name, "succeeded", window=None, tally=tally, api_calls=0, error=None)
    return rows


@contextmanager
def working(
    engine: Engine, by_object: Mapping[str, Sequence[str]], owner: str, wait: timedelta, stop: threading.Event
) -> Iterator[list[Lease]]:
    """The leases of the objects and of their twins, always taken in the same order."""
    twins = {twin.object for name in by_object if (twin := CATALOGUE[name].twin)}
    with ExitStack() as stack:
        yield [
            stack.enter_context(state.lease(engine, name, owner, wait, stop))
            for name in sorted({*by_object, *twins})
        ]


def closure(connection: Connection, by_object: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The records given, their twins (a person account and its contact), and all that were merged into
    them."""
    found = {name: set(ids) for name, ids in by_object.items()}
    while True:
        before = {name: len(ids) for name, ids in found.items()}
        for name in list(found):
            found[name].update(
                connection.execute(
                    text(LOSERS.format(table=table_of(name))), {"ids": sorted(found[name])}
                ).scalars()
            )
            for other, ids in twins_of(connection, name, sorted(found[name])):
                found.setdefault(other, set()).update(ids)
        if {name: len(ids) for name, ids in found.items()} == before:
            return {name: sorted(ids) for name, ids in sorted(found.items()) if ids}


def twins_of(connection: Connection, name: str, ids: Sequence[str]) -> Iterator[tuple[str, set[str]]]:
    """Records of another object that are the same persons, by either one's look-up."""
    twin = CATALOGUE[name].twin
    if twin is None:
        return
    asked = {"ids": list(ids)}
    yield twin.object, set(connection.execute(twin_query(TWIN, name), asked).scalars())
    back = CATALOGUE[twin.object].twin
    if back is not None and back.object == name:
        yield twin.object, set(connection.execute(twin_query(TWIN_OF, twin.object), asked).scalars())
    for row in connection.execute(REJECTED, asked | {"object": name}):
        record = json.loads(row.record)
        other = record.get(twin.field)
        if (
            isinstance(other, str)
            and len(other) == 18
            and (twin.flag is None or record.get(twin.flag) is True)
        ):
            yield twin.object, {other}


def twin_query(statement: str, name: str) -> Any:
    """A query for the twins that an object's look-up names."""
    twin = CATALOGUE[name].twin
    assert twin is not None
    flag = quoted(snake_case(twin.flag)) if twin.flag else "true"
    return text(statement.format(table=table_of(name), column=quoted(snake_case(twin.field)), flag=flag))


def kept_elsewhere(connection: Connection, ids: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Records that survived the merge of one of these, and are not erased with it."""
    for name, those in ids.items():
        statement = text(SURVIVORS.format(table=table_of(name)))
        for row in connection.execute(statement, {"ids": list(those)}):
            if row.survivor not in those:
                yield row.id, row.survivor


def forget_statistics(engine: Engine, name: str) -> None:
    """Refresh the planner's statistics, which hold values of rows as they were; a failure is only logged."""
    try:
        with transaction(engine) as connection:
            connection.execute(ALLOWED)
            connection.execute(text(f"ANALYZE {table_of(name)}"))
    except SyncError as error:
        log.warning("statistics_not_refreshed", object=name, reason=str(error))


def table_of(name: str) -> str:
    return f"{REPLICAS}.{quoted(REPLICA[name].name)}"
