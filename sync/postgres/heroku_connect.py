"""Views shaped like the tables of Heroku Connect: their SQL, and the numbers in their column `id`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sync.catalogue.mapping import NUMBER_TYPES, Kind, SObject
from sync.postgres.bookkeeping import BOOKKEEPING
from sync.postgres.ledger import CURRENT
from sync.postgres.tables import REPLICA, qualified_name, quote

IDS = f"{BOOKKEEPING}.heroku_connect_id"
TRIGGER = "heroku_connect_id"
SYSTEM_TABLES = ("_hcmeta", "_trigger_log", "_trigger_log_archive")
# Columns that Heroku Connect adds to those of the fields, in the order of a new view.
FIRST = ("id", "sfid", "isdeleted", "systemmodstamp", "createddate", "_hc_lastop", "_hc_err")

# These views alone read the numbers.
OURS = f"""
SELECT r.ev_class FROM pg_rewrite AS r
  JOIN pg_class AS v ON v.oid = r.ev_class AND v.relkind = 'v'
  JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
 WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = '{IDS}'::regclass
"""
ANY_VIEW = text(f"SELECT EXISTS ({OURS})")
# Every relation of a schema, and whether it is one of these views.
RELATIONS = text(f"""
SELECT c.relname AS name, c.oid IN ({OURS}) AS ours
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname = :schema ORDER BY 1
""")
COLUMNS = text(
    "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:view) AND attnum > 0 ORDER BY attnum"
)
# The rights that others have on a view, as the statements that give them again.
RIGHTS = text("""
SELECT format('GRANT %s ON {view} TO %s', a.privilege_type,
              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END)
  FROM pg_class AS c, aclexplode(c.relacl) AS a
 WHERE c.oid = to_regclass(:view) AND a.grantee <> c.relowner
""")
# All custom fields that the column `custom` holds: a vanished one keeps its last values.
CUSTOM = text(f"""
SELECT field, type FROM ({CURRENT.format(where="WHERE object = :object")}) AS f
 WHERE replicated AND position('__' IN field) > 0 ORDER BY field
""")
NUMBERED = text(f"SELECT EXISTS (SELECT FROM {IDS} WHERE object = :object)")
FILL = f"""
INSERT INTO {IDS} (record_id, object)
SELECT t.id, :object FROM {{table}} AS t
 WHERE NOT EXISTS (SELECT FROM {IDS} AS n WHERE n.record_id = t.id) ORDER BY t.id
    ON CONFLICT (record_id) DO NOTHING
"""
ADOPT = f"""
INSERT INTO {IDS} (record_id, object, number)
SELECT h.sfid, :object, h.id FROM {{table}} AS h WHERE length(h.sfid) = 18
"""
# A new number is above all that are taken over.
ADVANCE = text(f"""
SELECT setval(pg_get_serial_sequence('{IDS}', 'number'), greatest(max(number), 1)) FROM {IDS}
""")
WATCH = f"""
CREATE OR REPLACE TRIGGER {TRIGGER} AFTER INSERT ON {{table}} REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION {BOOKKEEPING}.number_for_heroku_connect({{object}})
"""
WATCHED = text(
    "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass(:table) AND tgname = :name)"
)
VIEW = f"""
CREATE OR REPLACE VIEW {{view}} AS
SELECT {{columns}}
  FROM {{table}} AS t JOIN {IDS} AS n ON n.record_id = t.id AND n.object = {{object}}
 WHERE t.deleted_at IS NULL
"""
COMMENT = "COMMENT ON VIEW {view} IS {text}"

# A value of another type than its field has now must not fail a reader: it is null until it is read again.
DATE = (
    r"(?!0000)(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|"
    r"02-(0[1-9]|1\d|2[0-8]))|(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
TIME = r"T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-](0\d|1[0-4]):?[0-5]\d)"
DOUBLE = "CASE WHEN {value} = 0 OR abs({value}) BETWEEN 1e-300 AND 1e300 THEN {value}::double precision END"
IS_NUMBER = "CASE WHEN jsonb_typeof({json}) = 'number' THEN {number} END"
TYPED = {
    "boolean": "CASE WHEN jsonb_typeof({json}) = 'boolean' THEN ({json})::boolean END",
    "date": f"CASE WHEN {{text}} ~ '^{DATE}$' THEN ({{text}})::date END".replace("{4}", "{{4}}"),
    "datetime": (
        f"CASE WHEN {{text}} ~ '^{DATE}{TIME}$' THEN ({{text}})::timestamptz AT TIME ZONE 'UTC' END"
    ).replace("{4}", "{{4}}"),
    "multipicklist": (
        "CASE WHEN jsonb_typeof({json}) = 'array' THEN (SELECT string_agg(e.value, ';' ORDER BY e.place) "
        "FROM jsonb_array_elements_text({json}) WITH ORDINALITY AS e (value, place)) ELSE {text} END"
    ),
    **dict.fromkeys(
        NUMBER_TYPES, IS_NUMBER.replace("{number}", DOUBLE.replace("{value}", "({json})::numeric"))
    ),
    **dict.fromkeys(
        ("int", "long"),
        IS_NUMBER.replace("{number}", "CASE WHEN abs(({json})::numeric) < 1e18 THEN ({json})::bigint END"),
    ),
}


@dataclass(frozen=True, slots=True)
class View:
    """One view: its quoted name with its schema, its object, the SQL of its columns, how many of them are
    custom fields without a column in the replica."""

    name: str
    sobject: SObject
    columns: dict[str, str]
    custom: int


def table_name(sobject: SObject) -> str:
    """Return the name of an object's table in Heroku Connect."""
    return sobject.name.lower()


def relations(connection: Connection, schema: str) -> dict[str, bool]:
    """Return the relations of a schema by name, and whether each is one of these views."""
    return {row.name: row.ours for row in connection.execute(RELATIONS, {"schema": schema})}


def any_view(connection: Connection) -> bool:
    """Return whether any schema has one of these views."""
    return bool(connection.execute(ANY_VIEW).scalar())


def describe_view(connection: Connection, schema: str, sobject: SObject) -> View:
    """Return the view of an object, with the custom fields that the ledger has now."""
    found = dict(standard_columns(sobject))
    custom = [
        row for row in connection.execute(CUSTOM, {"object": sobject.name}) if row.field.lower() not in found
    ]
    found |= {row.field.lower(): custom_column(row.field, row.type) for row in custom}
    return View(f"{quote(schema)}.{quote(table_name(sobject))}", sobject, found, len(custom))


def standard_columns(sobject: SObject) -> Iterator[tuple[str, str]]:
    """Yield the columns of the fields of the catalogue and of Heroku Connect itself, each with its SQL."""
    fields = {field.name.lower(): field for field in sobject.fields if field.kind is not Kind.ID}
    system = {
        "id": "n.number",
        "sfid": "t.id",
        "_hc_lastop": "'SYNCED'::character varying(32)",
        "_hc_err": "NULL::text",
    }
    for name in dict.fromkeys([*FIRST, *fields]):
        if name in system:
            yield name, system[name]
        elif name in fields:
            yield name, column(f"t.{quote(fields[name].column)}", fields[name].kind)


def column(value: str, kind: Kind) -> str:
    """Return the SQL of a column as Heroku Connect has it: times in UTC without a zone, picks in one text."""
    if kind is Kind.DATETIME:
        return f"{value} AT TIME ZONE 'UTC'"
    if kind is Kind.MULTIPICKLIST:
        return f"array_to_string({value}, ';')"
    return DOUBLE.format(value=value) if kind is Kind.NUMBER else value


def custom_column(field: str, kind: str) -> str:
    """Return the SQL of a custom field's column, typed by the type of its describe; text by default."""
    name = literal(field)
    return TYPED.get(kind, "{text}").format(json=f"(t.custom -> {name})", text=f"(t.custom ->> {name})")


def literal(value: str) -> str:
    """Return an SQL string literal."""
    return "'" + value.replace("'", "''") + "'"


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────


def number_records(connection: Connection, sobject: SObject) -> int:
    """Give each record of an object that has none a number; return how many were given."""
    statement = FILL.format(table=qualified_name(connection, REPLICA[sobject.name]))
    return connection.execute(text(statement), {"object": sobject.name}).rowcount


def adopt_numbers(connection: Connection, sobject: SObject, schema: str) -> int:
    """Take the column `id` of Heroku Connect's table in a schema over; return how many were taken."""
    table = f"{quote(schema)}.{quote(table_name(sobject))}"
    taken = connection.execute(text(ADOPT.format(table=table)), {"object": sobject.name}).rowcount
    connection.execute(ADVANCE)
    return taken


def has_numbers(connection: Connection, sobject: SObject) -> bool:
    """Return whether any record of an object has a number."""
    return bool(connection.execute(NUMBERED, {"object": sobject.name}).scalar())


def watch(connection: Connection, sobject: SObject) -> bool:
    """Let each new record of an object get its number in the transaction that adds it; return whether this
    is new.

    It waits for the transaction that writes the object, and lets readers read.
    """
    table = qualified_name(connection, REPLICA[sobject.name])
    if connection.execute(WATCHED, {"table": table, "name": TRIGGER}).scalar():
        return False
    connection.exec_driver_sql(WATCH.format(table=table, object=literal(sobject.name)))
    return True


def unwatch(connection: Connection, sobject: SObject) -> None:
    """Give new records of an object no number any more; those that have one keep it."""
    table = qualified_name(connection, REPLICA[sobject.name])
    connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {TRIGGER} ON {table}")


# ── views ─────────────────────────────────────────────────────────────────────────────────────────────


def present_columns(connection: Connection, view: View) -> list[str]:
    """Return the columns that a view has in the database, in order; none where it is not there."""
    return list(connection.execute(COLUMNS, {"view": view.name}).scalars())


def rights(connection: Connection, view: View) -> list[str]:
    """Return the statements that give the rights on a view again."""
    statement = text(RIGHTS.text.replace("{view}", view.name))
    return list(connection.execute(statement, {"view": view.name}).scalars())


def create_view(connection: Connection, view: View, order: Sequence[str]) -> None:
    """Make a view, or remake it where its columns stay; `order` names those that come first."""
    names = dict.fromkeys([*(name for name in order if name in view.columns), *view.columns])
    table = qualified_name(connection, REPLICA[view.sobject.name])
    columns = ",\n       ".join(f"{view.columns[name]} AS {quote(name)}" for name in names)
    statement = VIEW.format(view=view.name, columns=columns, table=table, object=literal(view.sobject.name))
    connection.exec_driver_sql(statement)
    what = f"Live records of {view.sobject.name}, in the shape of Heroku Connect's table."
    connection.exec_driver_sql(COMMENT.format(view=view.name, text=literal(what)))
