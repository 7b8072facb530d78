"""An object or a field declared while the tests run: what its module and its migration would have brought."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from migrations.declare import declaration
from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import SObject
from sync.postgres import tables, views
from sync.postgres.bookkeeping import listing_table, metadata
from sync.postgres.load import personal, sql
from sync.postgres.tables import LISTING, REPLICA
from sync.simulator import Simulator
from sync.simulator.describes import read_describe
from sync.simulator.generate.plausible import plausible
from sync.simulator.org import Org
from tests.support.world import ROOT

Kept = TypeVar("Kept")

OPPORTUNITY = ROOT / "tests" / "simulator" / "opportunity.json"


def generated(describe: Path) -> SObject:
    """The object that the module which is generated from a describe declares."""
    source, _ = declaration(json.loads(describe.read_text()))
    found: dict[str, Any] = {}
    exec(compile(source, str(describe), "exec"), found)  # noqa: S102 — the module is what is tested
    sobject = found["OBJECT"]
    assert isinstance(sobject, SObject)
    return sobject


def register(sobject: SObject) -> None:
    """Have the product of this process replicate an object as declared."""
    if sobject.name in REPLICA:
        metadata.remove(REPLICA[sobject.name])
    CATALOGUE[sobject.name] = sobject
    REPLICA[sobject.name] = tables.replica_table(sobject)
    if sobject.name not in LISTING:
        LISTING[sobject.name] = listing_table(sobject.table)
    forget_statements()


def forget_statements() -> None:
    """What was made for another declaration is made anew."""
    sql.statements.cache_clear()
    personal.build_statement.cache_clear()


@contextmanager
def declared(engine: Engine, sobject: SObject) -> Iterator[SObject]:
    """An object, declared and migrated; afterwards the catalogue is as before."""
    catalogue, replicas, listings = dict(CATALOGUE), dict(REPLICA), dict(LISTING)
    register(sobject)
    try:
        with engine.begin() as connection:
            migrate(connection, sobject.name, new=sobject.name not in catalogue)
        yield sobject
    finally:
        for table in (REPLICA[sobject.name], LISTING[sobject.name]):
            metadata.remove(table)
        restore(CATALOGUE, catalogue)
        restore(REPLICA, replicas)
        restore(LISTING, listings)
        for table in (*REPLICA.values(), *LISTING.values()):
            if table.key not in metadata.tables:
                metadata._add_table(table.name, table.schema, table)
        forget_statements()


def restore(kept: dict[str, Kept], before: dict[str, Kept]) -> None:
    """Give a dictionary that modules share its former contents."""
    kept.clear()
    kept.update(before)


def migrate(connection: Connection, name: str, *, new: bool) -> None:
    """What the generated migration does."""
    replica = REPLICA[name]
    if new:
        connection.execute(CreateTable(replica))
        connection.execute(CreateTable(LISTING[name]))
        present: list[str] = []
    else:
        shown = text("SELECT attname FROM pg_attribute WHERE attrelid = CAST(:t AS regclass) AND attnum > 0")
        there = set(connection.execute(shown, {"t": f"salesforce.{replica.name}"}).scalars())
        for column in (column for column in replica.columns if column.name not in there):
            added = CreateColumn(column).compile(dialect=connection.dialect)
            connection.execute(text(f"ALTER TABLE salesforce.{replica.name} ADD COLUMN {added}"))
        ordered = text(f"{shown.text} ORDER BY attnum")
        present = list(connection.execute(ordered, {"t": f"crm.{replica.name}"}).scalars())
    for index in replica.indexes:
        connection.execute(CreateIndex(index, if_not_exists=True))
    columns = [*present, *(column for column in views.consumer_columns(replica) if column not in present)]
    connection.execute(text(views.consumer_view(replica.name, columns)))
    connection.execute(text(views.freshness(REPLICA).replace("::", "\\:\\:")))
    connection.execute(text(views.resolve_id(REPLICA).replace("::", "\\:\\:")))


def least_record(org: Org, name: str) -> dict[str, Any]:
    """Values for what a new record of an object needs, by the org's own schema; a needed parent is created."""
    schema, draw = org.schema, random.Random(name)
    record: dict[str, Any] = {}
    for field in schema.objects[name].fields.values():
        given = field.defaulted or field.auto_number or not (field.stored and field.createable)
        if field.nillable or given or field.feature:
            continue
        if parent := schema.target(field) if field.type == "reference" else None:
            record[field.name] = org.create(parent.name, least_record(org, parent.name))
        else:
            record[field.name] = plausible(field, draw, 0)
    return record


@contextmanager
def opportunities(engine: Engine, sim: Simulator) -> Iterator[SObject]:
    """Opportunities: declared, migrated, and in the org."""
    described = read_describe(OPPORTUNITY)
    if described.name not in sim.org.described:  # as it is where the catalogue has it
        sim.org.add_object(described)
    with declared(engine, generated(OPPORTUNITY)) as sobject:
        yield sobject
