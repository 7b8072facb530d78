"""The schema of the replicas: chosen at the first migration and stored in the database."""

from __future__ import annotations

from sqlalchemy import Connection, Engine, text

from sync.errors import ReplicaSchemaError

# The name in the metadata and in the migrations; statements run with the chosen name in its place.
STANDARD = "salesforce"
SETTING = "SYNC_REPLICA_SCHEMA"
# Execution options: the schema in the settings, and SQLAlchemy's own option for the schema in use.
WANTED, TRANSLATED = "replica_schema", "schema_translate_map"

# Reads system catalogs only: every role may read them, so no error aborts the transaction.
MAY_READ = text("""
SELECT has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = 'sync' AND c.relname = 'replica_schema'
""")
REMEMBERED = text("SELECT name FROM sync.replica_schema")
REMEMBER = text("INSERT INTO sync.replica_schema (name) VALUES (:name)")
# If the table is not readable or does not exist yet: the schema of the tables behind the consumer views.
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


def expect_schema(engine: Engine, name: str | None) -> None:
    """Let an engine's connections refuse a database whose replicas are in another schema (None: accept
    any)."""
    engine.update_execution_options(**{WANTED: name})


def resolve_schema(connection: Connection) -> str:
    """Let a connection's statements use the schema of the replicas; return its name.

    It queries the database once for each engine. Raises ReplicaSchemaError if the setting names another
    schema.
    """
    options = connection.get_execution_options()
    if TRANSLATED in options:
        return schema_in_use(connection)
    wanted, name = options.get(WANTED), stored_schema(connection)
    if name is None:
        name = wanted or STANDARD  # not migrated yet: the next transaction queries again
    else:
        check_schema(wanted, name)
        connection.engine.update_execution_options(**{TRANSLATED: {STANDARD: name}})
    connection.execution_options(**{TRANSLATED: {STANDARD: name}})
    return name


def schema_in_use(connection: Connection | Engine) -> str:
    """Return the schema of the replicas that a connection's statements use, or those of an engine's next
    connection."""
    names = connection.get_execution_options().get(TRANSLATED, {})
    return str(names.get(STANDARD, STANDARD))


def stored_schema(connection: Connection) -> str | None:
    """Return the schema of the replicas of this database (None: before the first migration)."""
    readable = connection.execute(MAY_READ).scalar()
    name = connection.execute(REMEMBERED if readable else SHOWN).scalar()
    return None if name is None else str(name)


def check_schema(wanted: str | None, name: str) -> None:
    """Raise ReplicaSchemaError if the setting names another schema than the database."""
    if wanted is not None and wanted != name:
        raise ReplicaSchemaError(
            f"{SETTING} is {wanted}, and this database has its replicas in the schema {name}, chosen at the "
            f"first migration: set {SETTING}={name}, or unset it; replicas in another schema need another "
            "database in DATABASE_URL"
        )
