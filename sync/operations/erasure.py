"""A person erased on request: every copy of a record emptied, and a note that keeps it from coming back.

All of it is one transaction under the leases of the objects concerned: whatever was fetched before is checked
against the note when it is written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, text

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import SObject, snake_case
from sync.catalogue.transform import normalise_email
from sync.errors import UsageError
from sync.logs import logger
from sync.postgres.load import first, personal
from sync.postgres.load.merge import Tally
from sync.postgres.state import journal, leases
from sync.postgres.state.leases import Lease
from sync.postgres.tables import (
    REPLICA,
    located,
    quoted,
    transaction,
)

log = logger.get(__name__)

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
INSERT INTO sync.erased (object, record_id, asked_by, cause_id)
SELECT :object, id, :asked_by, :cause FROM unnest(CAST(:ids AS text[])) AS id
    ON CONFLICT (record_id) WHERE lifted_at IS NULL DO NOTHING
""")
# What was erased of a person before belongs together with what is erased now.
CAUSE = text("""
WITH before AS (
    SELECT min(cause_id) AS cause, array_agg(cause_id) AS causes
      FROM sync.erased WHERE lifted_at IS NULL AND record_id = ANY (CAST(:ids AS text[]))
), joined AS (
    UPDATE sync.erased SET cause_id = before.cause FROM before
     WHERE lifted_at IS NULL AND cause_id = ANY (before.causes) AND cause_id <> before.cause
)
SELECT coalesce(cause, :first) FROM before
""")
# All that was erased together: the link between them is erased, too.
LIFT = text("""
UPDATE sync.erased SET lifted_at = now(), lifted_by = :asked_by
 WHERE lifted_at IS NULL AND cause_id IN (
       SELECT cause_id FROM sync.erased WHERE lifted_at IS NULL AND record_id = ANY (CAST(:ids AS text[])))
RETURNING object, record_id
""")
REREAD = text("""
INSERT INTO sync.reread (object, record_id, whole)
SELECT :object, id, true FROM unnest(CAST(:ids AS text[])) AS id
    ON CONFLICT (object, record_id) DO UPDATE SET whole = true, at = now()
""")
# Candidates: what matches a pattern of the address, whatever the database's locale takes for lower case.
BY_EMAIL = """
SELECT id, deleted_at IS NOT NULL AS deleted, {columns} AS columns,
       ARRAY(SELECT ARRAY[key, value] FROM jsonb_each_text(custom) WHERE value ~* :pattern) AS custom
  FROM {table}
 WHERE {matches} EXISTS (SELECT FROM jsonb_each_text(custom) WHERE value ~* :pattern)
 ORDER BY id
"""
ALL_REJECTED = text("SELECT object, record_id, record::text AS record FROM sync.reject ORDER BY 1, 2")
REJECTED_NAMING = text("""
SELECT record_id, record::text AS record FROM sync.reject
 WHERE object = :object
   AND EXISTS (SELECT FROM unnest(CAST(:ids AS text[])) AS id WHERE position(id IN record::text) > 0)
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
    """The records, live, deleted or rejected, that hold this e-mail address, and those that are the same
    persons; UsageError for what is no address."""
    wanted = normalise_email(email, "")
    if wanted is None:
        raise UsageError(f"{email!r} is no e-mail address")
    connection.execute(ALLOWED)
    found = [match for sobject in CATALOGUE.values() for match in stored(connection, sobject, wanted)]
    for row in connection.execute(ALL_REJECTED):
        if fields := fields_with(json.loads(row.record), wanted):
            found.append(Match(row.object, row.record_id, "rejected", fields))
    by_object: dict[str, list[str]] = {}
    for match in found:
        by_object.setdefault(match.object, []).append(match.id)
    named = {match.id for match in found}
    for name, ids in closure(connection, by_object).items():
        found += [Match(name, id_, "the same person", ()) for id_ in ids if id_ not in named]
    return found


def stored(connection: Connection, sobject: SObject, wanted: str) -> Iterator[Match]:
    """The rows of one object that hold an address, in a field made for one or in a custom field."""
    columns = {
        field.column: field.name
        for field in sobject.fields
        if any(derived.normalise is normalise_email for derived in field.derived)
    }
    statement = BY_EMAIL.format(
        table=table_of(connection, sobject.name),
        columns=f"ARRAY[{', '.join(map(quoted, columns))}]::text[]",
        matches="".join(f"{quoted(column)} ~* :pattern OR " for column in columns),
    )
    for row in connection.execute(text(statement), {"pattern": pattern_of(wanted)}):
        values = dict(zip(columns.values(), row.columns, strict=True)) | dict(row.custom)
        if fields := fields_with(values, wanted):
            yield Match(sobject.name, row.id, "deleted" if row.deleted else "live", fields)


def fields_with(values: Mapping[str, Any], wanted: str) -> tuple[str, ...]:
    """The names of the values that are this address, however it is written."""
    return tuple(
        name
        for name, value in values.items()
        if isinstance(value, str) and normalise_email(value, "") == wanted
    )


def pattern_of(address: str) -> str:
    """A regular expression for an address in any case; a letter that is not ASCII may be any character."""
    return "".join(
        char if char.isascii() and char.isalnum() else "." if char.isascii() else ".{1,3}" for char in address
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
    with working(engine, by_object, owner, wait, stop) as held, transaction(engine) as connection:
        connection.execute(ALLOWED)
        for lease in held:
            leases.check_fence(connection, lease)
        persons = list(
            together(closure(connection, {n: [id_]}) for n, ids in by_object.items() for id_ in ids)
        )
        ids = merged(persons)
        survivors = tuple(kept_elsewhere(connection, ids))
        for person in persons:
            every = sorted(id_ for those in person.values() for id_ in those)
            cause = connection.execute(CAUSE, {"ids": every, "first": every[0]}).scalar_one()
            for name, those in person.items():
                connection.execute(
                    NOTE, {"object": name, "ids": sorted(those), "asked_by": asked_by, "cause": cause}
                )
        rows = {name: erase_object(connection, name, those, owner) for name, those in ids.items()}
        for name in ids:
            first.analyse_all(connection, name)  # the statistics hold samples of values
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
    with working(engine, by_object, owner, wait, stop) as held, transaction(engine) as connection:
        for lease in held:
            leases.check_fence(connection, lease)
        found: dict[str, list[str]] = {}
        wanted = [id_ for ids in by_object.values() for id_ in ids]
        for row in connection.execute(LIFT, {"ids": wanted, "asked_by": asked_by}):
            found.setdefault(row.object, []).append(row.record_id)
        for name, ids in found.items():
            connection.execute(REREAD, {"object": name, "ids": ids})
    return {name: tuple(ids) for name, ids in found.items()}


def erase_object(connection: Connection, name: str, ids: Sequence[str], owner: str) -> int:
    """Empty the copies of one object's records, with its journal line; how many rows there were."""
    run_id = journal.open_run(connection, name, "erase", owner)
    rows = personal.erase(connection, name, ids, run_id)
    tally = Tally(read=len(ids), deleted=rows)
    succeeded = partial(journal.close_run, connection, run_id, name, "succeeded")
    succeeded(window=None, tally=tally, api_calls=0, error=None)
    return rows


@contextmanager
def working(
    engine: Engine, by_object: Mapping[str, Sequence[str]], owner: str, wait: timedelta, stop: threading.Event
) -> Iterator[list[Lease]]:
    """The leases of the objects and of their twins, always taken in the same order."""
    twins = {twin.object for name in by_object if (twin := CATALOGUE[name].twin)}
    with ExitStack() as stack:
        yield [
            stack.enter_context(leases.lease(engine, name, owner, wait, stop))
            for name in sorted({*by_object, *twins})
        ]


def closure(connection: Connection, by_object: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The records given, their twins (a person account and its contact), and all that were merged into
    them."""
    found = {name: set(ids) for name, ids in by_object.items()}
    while True:
        before = {name: len(ids) for name, ids in found.items()}
        for name in list(found):
            if CATALOGUE[name].mergeable:
                losers = text(LOSERS.format(table=table_of(connection, name)))
                found[name].update(connection.execute(losers, {"ids": sorted(found[name])}).scalars())
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
    yield twin.object, set(connection.execute(twin_query(connection, TWIN, name), asked).scalars())
    back = CATALOGUE[twin.object].twin
    if back is not None and back.object == name:
        yield (
            twin.object,
            set(connection.execute(twin_query(connection, TWIN_OF, twin.object), asked).scalars()),
        )
    for row in connection.execute(REJECTED, asked | {"object": name}):
        if other := personal.twin_named(name, row.record):
            yield twin.object, {other}
    for row in connection.execute(REJECTED_NAMING, asked | {"object": twin.object}):
        if personal.twin_named(twin.object, row.record) in ids:
            yield twin.object, {row.record_id}


def twin_query(connection: Connection, statement: str, name: str) -> Any:
    """A query for the twins that an object's look-up names."""
    twin = CATALOGUE[name].twin
    assert twin is not None
    flag = quoted(snake_case(twin.flag)) if twin.flag else "true"
    return text(
        statement.format(table=table_of(connection, name), column=quoted(snake_case(twin.field)), flag=flag)
    )


def kept_elsewhere(connection: Connection, ids: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Records that survived the merge of one of these, and are not erased with it."""
    for name, those in ids.items():
        if not CATALOGUE[name].mergeable:
            continue
        statement = text(SURVIVORS.format(table=table_of(connection, name)))
        for row in connection.execute(statement, {"ids": list(those)}):
            if row.survivor not in those:
                yield row.id, row.survivor


def together(found: Iterable[Mapping[str, Sequence[str]]]) -> list[dict[str, set[str]]]:
    """What belongs to one person each: sets of records that share one are the same person's."""
    persons: list[dict[str, set[str]]] = []
    for ids in found:
        person = {name: set(those) for name, those in ids.items()}
        same = [one for one in persons if any(one.get(name, set()) & those for name, those in person.items())]
        for other in same:
            persons.remove(other)
            for name, those in other.items():
                person.setdefault(name, set()).update(those)
        persons.append(person)
    return persons


def merged(persons: Iterable[Mapping[str, set[str]]]) -> dict[str, list[str]]:
    """All records of all persons, by object."""
    ids: dict[str, set[str]] = {}
    for person in persons:
        for name, those in person.items():
            ids.setdefault(name, set()).update(those)
    return {name: sorted(those) for name, those in sorted(ids.items())}


def table_of(connection: Connection, name: str) -> str:
    return located(connection, REPLICA[name])
