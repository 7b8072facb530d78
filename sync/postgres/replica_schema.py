"""The schema of the replicas: chosen at the first migration, remembered in the database, the same for all."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, text

from sync.errors import ReplicaSchemaError

# The name in the metadata and in the migrations; a statement is run with the chosen one in its place.
STANDARD = "salesforce"
SETTING = "SYNC_REPLICA_SCHEMA"
# Execution options: what the setting says, and SQLAlchemy's own, which holds the schema that is in force.
WANTED, TRANSLATED = "replica_schema", "schema_translate_map"

# Catalogues only: they can be read by a role without any right, and no error ends the transaction.
MAY_READ = text("""
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = 'sync' AND c.relname = 'replica_schema'
""")
REMEMBERED = text("SELECT name FROM sync.replica_schema")
REMEMBER = text("INSERT INTO sync.replica_schema (name) VALUES (:name)")
# Where the name may not be read, or was not yet a setting: the tables that the views of their names show.
SHOWN = text("""
SELECT tn.nspname
  FROM pg_class AS v
  JOIN pg_namespace AS vn ON vn.oid = v.relnamespace
  JOIN pg_rewrite AS r ON r.ev_class = v.oid
  JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
  JOIN pg_class AS t ON t.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass
  JOIN pg_namespace AS tn ON tn.oid = t.relnamespace
 WHERE vn.nspname = 'crm' AND v.relkind = 'v' AND t.relname = v.relname AND t.relkind = 'r' LIMIT 1
""")


def want(engine: Engine, name: str | None) -> None:
    """Have an engine's connections refuse a database that remembers another schema; None: take any."""
    engine.update_execution_options(**{WANTED: name})


def settle(connection: Connection) -> str:
    """Have a connection's statements name the schema of the replicas; its name.

    The database is asked once an engine. ReplicaSchemaError where it remembers another name than the
    setting says.
    """
    options = connection.get_execution_options()
    if TRANSLATED in options:
        return in_force(connection)
    wanted, name = options.get(WANTED), remembered(connection)
    if name is None:
        name = wanted or STANDARD  # not migrated yet: the next transaction asks again
    else:
        check(wanted, name)
        connection.engine.update_execution_options(**{TRANSLATED: {STANDARD: name}})
    connection.execution_options(**{TRANSLATED: {STANDARD: name}})
    return name


def in_force(connection: Connection | Engine) -> str:
    """The schema of the replicas, as the statements of a connection, or of an engine's next one, name it."""
    names = connection.get_execution_options().get(TRANSLATED, {})
    return str(names.get(STANDARD, STANDARD))


def remembered(connection: Connection) -> str | None:
    """The schema that holds the replicas of this database; None before the first migration."""
    readable = connection.execute(MAY_READ).scalar()
    name = connection.execute(REMEMBERED if readable else SHOWN).scalar()
    return None if name is None else str(name)


def check(wanted: str | None, name: str) -> None:
    """ReplicaSchemaError where a setting is there and is not the name that the database remembers."""
    if wanted is not None and wanted != name:
        raise ReplicaSchemaError(
            f"{SETTING} is {wanted}, and this database has its replicas in the schema {name}, chosen at the "
            f"first migration: set {SETTING}={name}, or unset it; replicas in another schema need another "
            "database in DATABASE_URL"
        )
