"""Tests of the database: server, migrations, consumers, and writes that are rolled back."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.exc import DBAPIError

from sync.operations import grants
from sync.operations.audit.findings import ROOT, Finding
from sync.operations.formats import format_bytes
from sync.postgres import replica_schema
from sync.postgres.bookkeeping import BOOKKEEPING, metadata
from sync.postgres.tables import (
    REPLICA,
    REPLICAS,
    qualified_name,
    quote,
    schemas,
    transaction,
)

SERVER = text("""
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS standby,
       current_setting('transaction_read_only') = 'on' AS read_only,
       current_setting('max_connections')::int AS connections, current_user::text AS role,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_connections
""")
# ── test statements, all rolled back ──
LOCK_TIMEOUT = text("SET LOCAL lock_timeout = '5s'")
# PostgreSQL checks privileges even if no row is affected. OVERRIDING, since identity columns refuse values.
RIGHTS = {
    "INSERT": "INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {table} WHERE false",
    "UPDATE": "UPDATE {table} SET {column} = {column} WHERE false",
    "DELETE": "DELETE FROM {table} WHERE false",
}
JOURNAL = """
INSERT INTO sync.run (id, object, command, owner) OVERRIDING SYSTEM VALUE VALUES (-1, '-', 'check', 'check');
INSERT INTO sync.lease (object, owner, expires_at) VALUES ('-', 'check', '-infinity');
UPDATE sync.lease SET fence = fence + 1 WHERE object = '-'
"""
ROW = """
INSERT INTO {table} (id, is_deleted, system_modstamp) VALUES ('000000000000000AAA', false, '-infinity');
UPDATE {table} SET synced_at = now() WHERE id = '000000000000000AAA';
DELETE FROM {table} WHERE id = '000000000000000AAA'
"""
TEMPORARY = "CREATE TEMPORARY TABLE pg_temp.check_stage ON COMMIT DROP AS SELECT 1 AS one"
NO_RIGHT = "42501"
WHO = text("SELECT current_user::text AS role, current_database()::text AS database")
FOREIGN = text("""
SELECT c.relowner::regrole::text AS owner, count(*) AS tables
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY (:schemas) AND c.relkind = 'r' AND NOT pg_has_role(c.relowner, 'USAGE')
 GROUP BY 1 ORDER BY 2 DESC
""")
# ── size ──
SIZE = text("SELECT pg_database_size(current_database())")
# The bytes of a row of each table, including indexes, by the planner's statistics.
PER_ROW = text("""
SELECT n.nspname || '.' || c.relname AS name, pg_total_relation_size(c.oid) / c.reltuples AS bytes
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY (:schemas) AND c.relkind = 'r' AND c.reltuples > 0
""")
# The passes of the last week, without first loads and full resyncs (`since` is null), which are exceptions.
WEEK = text("""
SELECT object, sum(inserted)::float AS inserted, sum(inserted + updated + deleted)::float AS changed,
       count(*)::float AS runs,
       extract(epoch FROM now() - min(min(started_at)) OVER ())::float / 86400 AS days
  FROM sync.run WHERE started_at > now() - interval '7 days' AND since IS NOT NULL GROUP BY object
""")


def database(engine: Engine) -> Generator[Finding, None, bool]:
    """Test whether the database answers and accepts writes."""
    with transaction(engine) as connection:
        server = connection.execute(SERVER).one()
    limit = server.connections if server.role_connections in (None, -1) else server.role_connections
    detail = f"PostgreSQL {server.version.split()[0]}, {limit} connections"
    if server.standby:
        detail_standby = f"{detail}; it is a read-only standby"
        yield Finding("database", "failed", detail_standby, "point DATABASE_URL at the leader", 1)
        return False
    if server.read_only:
        yield Finding(
            "database",
            "failed",
            f"{detail}; its transactions are read-only",
            "with psql: SET default_transaction_read_only = off; "
            f"ALTER ROLE {quote(server.role)} SET default_transaction_read_only = off",
            1,
        )
        return False
    if int(server.version.split(".")[0]) < 15:
        yield Finding("database", "warning", detail, "this product is tested with PostgreSQL 15 and later")
    else:
        yield Finding("database", "ok", detail)
    return True


def migrations(engine: Engine) -> Generator[Finding, None, bool]:
    """Test whether all our tables exist."""
    with transaction(engine) as connection:
        current = revision(connection)
    scripts = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini")))
    head = scripts.get_current_head()
    if current == head:
        yield Finding("migrations", "ok", f"at {head}, the newest")
        return True
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        yield Finding(
            "migrations",
            "warning",
            f"the database is at {current}, and this release, which ends at {head}, is older than it",
            "deploy the newer release again, or leave it: migrations only add, so this release works, too",
        )
        return True
    detail = f"at {current or 'nothing'}, needs {head}"
    yield Finding("migrations", "failed", detail, "run `alembic upgrade head`", 1)
    return False


def revision(connection: Connection) -> str | None:
    """Return the current migration (None: not migrated)."""
    options = {"version_table_schema": BOOKKEEPING}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def consumers(engine: Engine) -> Generator[Finding, None, None]:
    """Test who may read schema crm, and who may do more than read."""
    with transaction(engine) as connection:
        found = grants.access(connection)
    if found.sharing:
        yield Finding(
            "consumers",
            "warning",
            f"{', '.join(found.sharing)} may change everything: the rights are those of the owner",
            "give each consumer a role of its own and type: python -m sync grant ROLE",
        )
    if "PUBLIC" in found.readers:
        yield Finding(
            "consumers",
            "warning",
            "every role of the server may use schema crm",
            "REVOKE ALL ON SCHEMA crm FROM PUBLIC, then for each consumer: python -m sync grant ROLE",
        )
    if found.beyond:
        yield Finding(
            "consumers",
            "warning",
            f"{', '.join(found.beyond)} read more than schema crm: rejected and deleted records, too",
            "python -m sync grant ROLE names what, and how to take it back",
        )
    if found.readers:
        yield Finding("consumers", "ok", f"read by {', '.join(found.readers)}; owned by {found.owner}")
    else:
        yield Finding(
            "consumers",
            "warning",
            f"no role but the owner, {found.owner}, may read schema crm: a consumer that connects as "
            "the owner may change and delete everything",
            "for each consumer: python -m sync grant ROLE (Essential plans have one credential: "
            "every consumer there is the owner)",
        )


# ── writing ───────────────────────────────────────────────────────────────────────────────────────────


def writing(engine: Engine) -> Generator[Finding, None, None]:
    """Write to every table as a pass does, in a transaction that is rolled back; yield what is not
    permitted."""
    tables = [table for table in metadata.sorted_tables if table.schema in (REPLICAS, BOOKKEEPING)]
    with transaction(engine) as connection:
        connection.execute(LOCK_TIMEOUT)
        who = connection.execute(WHO).one()
        savepoint = connection.begin_nested()
        lacks = (
            {}
            if is_allowed(connection, *all_writes(connection, tables))
            else missing_rights(connection, tables)
        )
        temporary = is_allowed(connection, TEMPORARY)
        savepoint.rollback()
        foreign_owners = connection.execute(FOREIGN, {"schemas": written_schemas(connection)}).all()
    role = quote(who.role)
    if lacks:
        listed = "; ".join(f"{right} in {', '.join(names)}" for right, names in lacks.items())
        yield Finding(
            "writing",
            "failed",
            f"role {who.role} may not {listed}",
            grant_statements(role, schemas(engine)),
            1,
        )
    else:
        detail = f"every right in {len(tables)} tables; rows were written and rolled back"
        yield Finding("writing", "ok", detail)
    if not temporary:
        yield Finding(
            "temporary tables",
            "failed",
            f"role {who.role} may not create temporary tables, which every page is loaded through",
            f"as the database's owner: GRANT TEMPORARY ON DATABASE {quote(who.database)} TO {role}",
            1,
        )
    for owner, count in foreign_owners:
        yield Finding(
            "ownership",
            "warning",
            f"{count} tables belong to {owner}, whose rights role {who.role} does not have: migrations, and "
            "the indexes of a first load, need them",
            f"set DATABASE_URL to that role's, or type as an administrator: GRANT {owner} TO {role}",
        )


def written_schemas(connection: Connection) -> list[str]:
    """Return the schemas that a pass writes."""
    return [replica_schema.schema_in_use(connection), BOOKKEEPING]


def grant_statements(role: str, schemas: Sequence[str]) -> str:
    """Return the statements that grant a role what a pass needs; `role` is quoted."""
    listed = ", ".join(schemas)
    return (
        f"as the tables' owner: GRANT USAGE ON SCHEMA {listed} TO {role}; "
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {listed} TO {role}; "
        "on a hosted database over its plan's size (heroku pg:info) they are taken away again until it is "
        "smaller, or the plan larger"
    )


def all_writes(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """Return statements that need every privilege, and that write one row into each replica and the
    journal."""
    rights = [right.format(**table_names(connection, table)) for table in tables for right in RIGHTS.values()]
    rows = [ROW.format(table=qualified_name(connection, table)) for table in REPLICA.values()]
    return [*rights, JOURNAL, *rows]


def table_names(connection: Connection, table: Table) -> dict[str, str]:
    """Return the quoted names of a table and one of its columns."""
    return {"table": qualified_name(connection, table), "column": quote(list(table.columns)[-1].name)}


def is_allowed(connection: Connection, *statements: str) -> bool:
    """Return whether the role has the privileges for these statements; other errors are raised."""
    step = connection.begin_nested()
    try:
        connection.execute(text("; ".join(statements)))
    except DBAPIError as error:
        step.rollback()
        if getattr(error.orig, "pgcode", "") != NO_RIGHT:
            raise
        return False
    step.commit()
    return True


def missing_rights(connection: Connection, tables: Sequence[Table]) -> dict[str, list[str]]:
    """Return the tables that lack a privilege, by privilege."""
    found: dict[str, list[str]] = {}
    for table in tables:
        for right, statement in RIGHTS.items():
            if not is_allowed(connection, statement.format(**table_names(connection, table))):
                found.setdefault(right, []).append(qualified_name(connection, table).replace('"', ""))
    return found or {"write": ["rows"]}


# ── size ──────────────────────────────────────────────────────────────────────────────────────────────


def size(engine: Engine) -> Generator[Finding, None, None]:
    """Report the size of the database and its estimated growth."""
    with transaction(engine) as connection:
        whole = int(connection.execute(SIZE).scalar_one())
        grown = growth(connection)
    more = f", about {format_bytes(grown)} more a day" if grown is not None else ""
    limit = "the plan's limit is not known to the database (heroku pg:info shows it)"
    yield Finding("database size", "ok", f"{format_bytes(whole)}{more}; {limit}")


def growth(connection: Connection) -> float | None:
    """Return the bytes a day that the passes of the last week added (None: less than a day of journal)."""
    weeks = connection.execute(WEEK).all()
    if not weeks or weeks[0].days < 1:
        return None
    found = connection.execute(PER_ROW, {"schemas": written_schemas(connection)})
    per_row = {row.name: float(row.bytes) for row in found}

    def of(name: str) -> float:
        return per_row.get(name, 0.0)

    replicas, total = replica_schema.schema_in_use(connection), 0.0
    for row in weeks:
        table = REPLICA.get(row.object)
        total += row.inserted * of(f"{replicas}.{table.name}") if table is not None else 0.0
        total += row.changed * of(f"{BOOKKEEPING}.change") + row.runs * of(f"{BOOKKEEPING}.run")
    return total / float(weeks[0].days)
