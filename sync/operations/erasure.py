"""Erase a person on request: empty every copy of the records, and note them so that they are not stored
again.

All of it is one transaction under the leases of the objects: pages that were fetched before are checked
against the note when they are written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
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
    qualified_name,
    quote,
    transaction,
)

log = logger.get(__name__)

ALLOWED = text("SET LOCAL statement_timeout = '15min'")  # the feed is scanned: it has no index on Ids

# Records that were merged into these, directly or indirectly: older values of the same person.
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
# Joins earlier erasures of the same person with the present one.
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
# Lifts all records that were erased together: the links between them are erased, too.
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
# Candidates match a pattern of the address, independent of the lower case of the database's locale.
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
    """A record found by an e-mail address: its state, and the fields that hold the address."""

    object: str
    id: str
    state: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Erased:
    """The result of an erasure: the erased records, the emptied rows of each object, and the survivors of
    merges, which may still hold values of the same person."""

    ids: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]
    survivors: tuple[tuple[str, str], ...]


def find_by_email(connection: Connection, email: str) -> list[Match]:
    """Return the records (live, deleted or rejected) that hold an e-mail address, and those of the same
    persons.

    Raises UsageError for a text that is not an address.
    """
    wanted = normalise_email(email, "")
    if wanted is None:
        raise UsageError(f"{email!r} is not an e-mail address")
    connection.execute(ALLOWED)
    found = [match for sobject in CATALOGUE.values() for match in find_rows(connection, sobject, wanted)]
    for row in connection.execute(ALL_REJECTED):
        if fields := fields_with(json.loads(row.record), wanted):
            found.append(Match(row.object, row.record_id, "rejected", fields))
    by_object: dict[str, list[str]] = {}
    for match in found:
        by_object.setdefault(match.object, []).append(match.id)
    named = {match.id for match in found}
    for name, ids in related_records(connection, by_object).items():
        found += [Match(name, id_, "the same person", ()) for id_ in ids if id_ not in named]
    return found


def find_rows(connection: Connection, sobject: SObject, wanted: str) -> Iterator[Match]:
    """Yield the rows of one object that hold an address, in an e-mail field or a custom field."""
    columns = {
        field.column: field.name
        for field in sobject.fields
        if any(derived.normalise is normalise_email for derived in field.derived)
    }
    statement = BY_EMAIL.format(
        table=table_of(connection, sobject.name),
        columns=f"ARRAY[{', '.join(map(quote, columns))}]::text[]",
        matches="".join(f"{quote(column)} ~* :pattern OR " for column in columns),
    )
    for row in connection.execute(text(statement), {"pattern": pattern_of(wanted)}):
        values = dict(zip(columns.values(), row.columns, strict=True)) | dict(row.custom)
        if fields := fields_with(values, wanted):
            yield Match(sobject.name, row.id, "deleted" if row.deleted else "live", fields)


def fields_with(values: Mapping[str, Any], wanted: str) -> tuple[str, ...]:
    """Return the names of the values that are this address in any spelling."""
    return tuple(
        name
        for name, value in values.items()
        if isinstance(value, str) and normalise_email(value, "") == wanted
    )


def pattern_of(address: str) -> str:
    """Return a regular expression for an address in any case; a letter outside ASCII matches any
    character."""
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
    """Empty every copy of these records, of their twins and of records merged into them; never store them
    again.

    `asked_by` is stored with the erasure. Raises LeaseHeldError if another process holds a lease of one of
    the objects for longer than `wait`.
    """
    with hold_leases(engine, by_object, owner, wait, stop) as held, transaction(engine) as connection:
        connection.execute(ALLOWED)
        for lease in held:
            leases.check_fence(connection, lease)
        persons = list(
            group_persons(
                related_records(connection, {n: [id_]}) for n, ids in by_object.items() for id_ in ids
            )
        )
        ids = join_by_object(persons)
        survivors = tuple(surviving_records(connection, ids))
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
    """Allow these records again, and queue them for the next pass; return the records that had been erased.

    `asked_by` is stored. Raises LeaseHeldError as `erase`.
    """
    with hold_leases(engine, by_object, owner, wait, stop) as held, transaction(engine) as connection:
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
    """Empty the copies of one object's records, with a journal entry; return the number of rows."""
    run_id = journal.open_run(connection, name, "erase", owner)
    rows = personal.erase(connection, name, ids, run_id)
    ended = journal.Outcome("succeeded", None, Tally(read=len(ids), deleted=rows), 0)
    journal.close_run(connection, run_id, name, ended, command="erase", owner=owner)
    return rows


@contextmanager
def hold_leases(
    engine: Engine, by_object: Mapping[str, Sequence[str]], owner: str, wait: timedelta, stop: threading.Event
) -> Iterator[list[Lease]]:
    """Hold the leases of the objects and of their twins, taken in a fixed order."""
    twins = {twin.object for name in by_object if (twin := CATALOGUE[name].twin)}
    with ExitStack() as stack:
        yield [
            stack.enter_context(leases.lease(engine, name, owner, wait, stop))
            for name in sorted({*by_object, *twins})
        ]


def related_records(connection: Connection, by_object: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the given records, their twins (a person account and its contact), and all records merged into
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
    """Yield records of another object that are the same persons, by the lookup of either object."""
    twin = CATALOGUE[name].twin
    if twin is None:
        return
    parameters = {"ids": list(ids)}
    yield twin.object, set(connection.execute(twin_query(connection, TWIN, name), parameters).scalars())
    reverse = CATALOGUE[twin.object].twin
    if reverse is not None and reverse.object == name:
        yield (
            twin.object,
            set(connection.execute(twin_query(connection, TWIN_OF, twin.object), parameters).scalars()),
        )
    for row in connection.execute(REJECTED, parameters | {"object": name}):
        if other := personal.twin_named(name, row.record):
            yield twin.object, {other}
    for row in connection.execute(REJECTED_NAMING, parameters | {"object": twin.object}):
        if personal.twin_named(twin.object, row.record) in ids:
            yield twin.object, {row.record_id}


def twin_query(connection: Connection, statement: str, name: str) -> Any:
    """Return a query for the twins that an object's lookup names."""
    twin = CATALOGUE[name].twin
    assert twin is not None
    flag = quote(snake_case(twin.flag)) if twin.flag else "true"
    return text(
        statement.format(table=table_of(connection, name), column=quote(snake_case(twin.field)), flag=flag)
    )


def surviving_records(connection: Connection, ids: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Yield (merged record, survivor) for survivors that are not erased."""
    for name, those in ids.items():
        if not CATALOGUE[name].mergeable:
            continue
        statement = text(SURVIVORS.format(table=table_of(connection, name)))
        for row in connection.execute(statement, {"ids": list(those)}):
            if row.survivor not in those:
                yield row.id, row.survivor


def group_persons(found: Iterable[Mapping[str, Sequence[str]]]) -> list[dict[str, set[str]]]:
    """Join sets of records that share a record: each result is one person."""
    persons: list[dict[str, set[str]]] = []
    for ids in found:
        person = {name: set(those) for name, those in ids.items()}
        overlapping = [
            known
            for known in persons
            if any(known.get(name, set()) & those for name, those in person.items())
        ]
        for earlier in overlapping:
            persons.remove(earlier)
            for name, those in earlier.items():
                person.setdefault(name, set()).update(those)
        persons.append(person)
    return persons


def join_by_object(persons: Iterable[Mapping[str, set[str]]]) -> dict[str, list[str]]:
    """Return all records of all persons, by object."""
    ids: dict[str, set[str]] = {}
    for person in persons:
        for name, those in person.items():
            ids.setdefault(name, set()).update(those)
    return {name: sorted(those) for name, those in sorted(ids.items())}


def table_of(connection: Connection, name: str) -> str:
    """Return the quoted name of an object's table."""
    return qualified_name(connection, REPLICA[name])
