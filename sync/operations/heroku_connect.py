"""Views shaped like Heroku Connect's tables, for applications that read those: made, remade and dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import SObject
from sync.errors import SyncError, UsageError
from sync.postgres import heroku_connect, replica_schema
from sync.postgres.heroku_connect import View
from sync.postgres.tables import allow_long, quote, transaction

DEFAULT_SCHEMA = "heroku_connect"
OTHER_COLUMNS, DEPENDENT = "42P16", "2BP01"


def make_views(engine: Engine, objects: Sequence[str], schema: str, ids_from: str | None) -> Iterator[str]:
    """Make or remake the view of each object in a schema; yield a sentence about each.

    `ids_from` is the schema of Heroku Connect's tables whose column `id` is taken over (None: new numbers).
    Raises UsageError where the schema or the numbers cannot be used, SyncError where something depends on a
    view that must be dropped.
    """
    sobjects = [CATALOGUE[name] for name in objects]
    taken: dict[str, int] = {}
    with transaction(engine) as connection:
        check_schema(connection, sobjects, schema)
        if ids_from is not None:  # all of them or none: it works once
            check_ids(connection, sobjects, ids_from)
            allow_long(connection)
            taken = {each.name: heroku_connect.adopt_numbers(connection, each, ids_from) for each in sobjects}
        if not connection.exec_driver_sql(f"SELECT to_regnamespace('{schema}') IS NOT NULL").scalar():
            connection.exec_driver_sql(f"CREATE SCHEMA {quote(schema)}")
    for sobject in sobjects:
        # Numbers first, without a lock; then those of records that were added meanwhile.
        with transaction(engine) as connection:
            allow_long(connection)
            heroku_connect.number_records(connection, sobject)
        with transaction(engine) as connection:
            allow_long(connection)
            if heroku_connect.watch(connection, sobject):
                heroku_connect.number_records(connection, sobject)
            view = heroku_connect.describe_view(connection, schema, sobject)
            replace_view(connection, view)
        yield describe(view, schema, taken.get(sobject.name, 0))


def describe(view: View, schema: str, taken: int) -> str:
    """What was made, as a sentence."""
    name = f"{schema}.{heroku_connect.table_name(view.sobject)}"
    told = f"{name}: {len(view.columns)} columns, {view.custom} of them of custom fields"
    if taken:
        told += f"; {taken} records keep the id that they had"
    if not view.custom:
        told += "; no custom field is known: after a pass that finds some, run this command again"
    return told


def check_schema(connection: Connection, sobjects: Sequence[SObject], schema: str) -> None:
    """Raise UsageError where a schema holds the replicas, or what is in the way of the views."""
    if schema == replica_schema.schema_in_use(connection):
        raise UsageError(
            f"the schema {schema} holds this product's replicas: choose another one, for example "
            f"python -m sync heroku-connect --schema {DEFAULT_SCHEMA}, and let the applications' search_path "
            "name it"
        )
    wanted = {*map(heroku_connect.table_name, sobjects), *heroku_connect.SYSTEM_TABLES}
    others = [name for name, ours in heroku_connect.relations(connection, schema).items() if not ours]
    if in_the_way := [name for name in others if name in wanted]:
        raise UsageError(
            f"the schema {schema} holds tables that are not this product's ({', '.join(in_the_way)}): while "
            "Heroku Connect runs, choose another schema with --schema; afterwards rename its schema: "
            f"ALTER SCHEMA {schema} RENAME TO {schema[:56]}_before"
        )


def check_ids(connection: Connection, sobjects: Sequence[SObject], schema: str) -> None:
    """Raise UsageError where numbers cannot be taken over from Heroku Connect's tables."""
    there = heroku_connect.relations(connection, schema)
    if missing := [n for n in map(heroku_connect.table_name, sobjects) if there.get(n, True)]:
        raise UsageError(
            f"--ids-from {schema}: the schema has no table {', '.join(missing)} of Heroku Connect; name the "
            "schema that has, and with SYNC_OBJECTS the objects that are in it"
        )
    if numbered := [each.name for each in sobjects if heroku_connect.has_numbers(connection, each)]:
        raise UsageError(
            f"--ids-from {schema}: records of {', '.join(numbered)} have numbers already, and a record keeps "
            "its number for ever: run the command without --ids-from"
        )


def replace_view(connection: Connection, view: View) -> None:
    """Make a view, or remake it; one whose columns go away or change their type is dropped first.

    New columns go to its end. Rights that others have on it stay.
    """
    present = heroku_connect.present_columns(connection, view)
    try:
        with connection.begin_nested():
            heroku_connect.create_view(connection, view, present)
        return
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") != OTHER_COLUMNS:
            raise
    rights = heroku_connect.rights(connection, view)
    drop_view(connection, view.name)
    heroku_connect.create_view(connection, view, present)
    for grant in rights:
        connection.exec_driver_sql(grant)


def drop_view(connection: Connection, name: str) -> None:
    """Drop a view; SyncError where something depends on it."""
    try:
        connection.exec_driver_sql(f"DROP VIEW {name}")
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", "") != DEPENDENT:
            raise
        detail = " ".join(str(error.orig).partition("DETAIL:")[2].partition("HINT:")[0].split())
        plain = name.replace('"', "")
        raise SyncError(
            f"the view {plain} cannot be dropped: {detail.rstrip('.')}. Drop what depends "
            "on it, run this command again, and make it again afterwards; the view is as before"
        ) from None


def drop_views(engine: Engine, schema: str) -> Iterator[str]:
    """Drop the views of a schema, and the schema where it is empty then; yield a sentence.

    New records get numbers as long as views are in some schema; numbers that were given are kept.
    """
    with transaction(engine) as connection:
        ours = [name for name, own in heroku_connect.relations(connection, schema).items() if own]
        for name in ours:
            drop_view(connection, f"{quote(schema)}.{quote(name)}")
        if ours and not heroku_connect.relations(connection, schema):
            connection.exec_driver_sql(f"DROP SCHEMA {quote(schema)}")
        if not heroku_connect.any_view(connection):
            for sobject in CATALOGUE.values():
                heroku_connect.unwatch(connection, sobject)
    told = ", ".join(f"{schema}.{name}" for name in ours)
    yield f"dropped {told}; records keep their numbers" if ours else f"the schema {schema} has no such view"
