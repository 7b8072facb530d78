"""Consumers' rights: a role reads schema crm, now and after later migrations, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sync.errors import SyncError, UsageError
from sync.postgres import replica_schema
from sync.postgres.bookkeeping import BOOKKEEPING
from sync.postgres.tables import CONSUMERS, quoted

ROLE = text("SELECT oid, rolname, rolsuper FROM pg_roles WHERE rolname = :role")
OWNER = text("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = :schema")
INHERITS = text("""
SELECT pg_has_role(CAST(:role AS name), nspowner, 'MEMBER') FROM pg_namespace WHERE nspname = :schema
""")
MAY_GRANT = text("SELECT pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = :schema), 'USAGE')")
# Rights beyond schema crm: granted to the role itself, or by a role that it belongs to, or to everybody.
BEYOND = text("""
SELECT n.nspname, r.rolname,
       EXISTS (SELECT FROM aclexplode(n.nspacl) AS a WHERE a.grantee = r.oid) AS direct
  FROM pg_namespace AS n, pg_roles AS r
 WHERE n.nspname = ANY (:schemas) AND r.rolname = ANY (CAST(:roles AS text[]))
   AND has_schema_privilege(r.oid, n.oid, 'USAGE')
   AND NOT pg_has_role(r.oid, n.nspowner, 'MEMBER') ORDER BY 1, 2
""")
STILL_READS = text("SELECT has_schema_privilege(CAST(:role AS name), CAST(:schema AS text), 'USAGE')")
# Login roles with the owner's rights; superusers, which every server has, are left out.
SHARING = text("""
SELECT r.rolname FROM pg_roles AS r, pg_namespace AS n
 WHERE n.nspname = :schema AND r.rolcanlogin AND NOT r.rolsuper AND r.oid <> n.nspowner
   AND pg_has_role(r.oid, n.nspowner, 'MEMBER') ORDER BY 1
""")
READING = text("""
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role
  FROM pg_namespace AS n, aclexplode(n.nspacl) AS a
 WHERE n.nspname = :schema AND a.privilege_type = 'USAGE' AND a.grantee <> n.nspowner ORDER BY 1
""")

GRANT = (
    "GRANT USAGE ON SCHEMA {schema} TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}",
    # Views to come; functions to come are granted by the migrations that make them.
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT SELECT ON TABLES TO {role}",
)
REVOKE = (
    "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} REVOKE ALL ON TABLES FROM {role}",
    "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM {role}",
    "REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}",
    "REVOKE ALL ON SCHEMA {schema} FROM {role}",
)


OWN_ROLE = (
    "A consumer that only reads needs a role of its own. On Heroku (Standard plans and larger): "
    "heroku pg:credentials:create DATABASE_URL --name billing; elsewhere: "
    "CREATE ROLE billing LOGIN PASSWORD '…'; then: python -m sync grant billing. Essential plans have a "
    "single credential, the owner's: every consumer there is the owner, and only a larger plan changes that"
)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what in the database: the schema's owner, the roles that share its rights, the readers."""

    owner: str
    sharing: tuple[str, ...]
    readers: tuple[str, ...]
    beyond: tuple[str, ...]  # readers of schema crm with rights on our other schemas


def access(connection: Connection) -> Access:
    """Who owns schema crm, who inherits the owner's rights, and who may use the schema."""
    asked = {"schema": CONSUMERS}
    readers = tuple(connection.execute(READING, asked).scalars())
    more = connection.execute(
        BEYOND, {"roles": [name.strip('"') for name in readers], "schemas": not_published(connection)}
    )
    return Access(
        str(connection.execute(OWNER, asked).scalar_one()),
        tuple(connection.execute(SHARING, asked).scalars()),
        readers,
        tuple(sorted({row.rolname for row in more})),
    )


def not_published(connection: Connection) -> list[str]:
    """Our schemas that consumers do not read."""
    return [replica_schema.in_force(connection), BOOKKEEPING]


def grant(connection: Connection, role: str) -> str:
    """Let an existing role read schema crm, now and in future; a sentence on what it may do.

    UsageError for a role that is not there, or that has the owner's rights: it needs no grant, and nothing
    keeps it from changing what it reads. SyncError where the caller may not grant.
    """
    owner = checked(connection, role)
    if connection.execute(INHERITS, {"role": role, "schema": CONSUMERS}).scalar_one():
        raise UsageError(
            f"role {role} has the rights of {owner}, who owns schema {CONSUMERS}: it reads everything "
            f"already, and may change and delete it, too. {OWN_ROLE}"
        )
    run(connection, GRANT, owner, role)
    found = connection.execute(BEYOND, {"roles": [role], "schemas": not_published(connection)}).all()
    if inherited := [row.nspname for row in found if not row.direct]:
        return (
            f"role {role} reads schema {CONSUMERS}; it reads more through a role that it belongs to: "
            f"{', '.join(inherited)}; to see which: SELECT roleid::regrole FROM pg_auth_members "
            f"WHERE member = {literal(quoted(role))}::regrole"
        )
    if found:
        schemas = ", ".join(row.nspname for row in found)
        return (
            f"role {role} reads schema {CONSUMERS}; it has rights on {schemas}, too, granted "
            f"otherwise and taken back with: REVOKE ALL ON SCHEMA {schemas} FROM {quoted(role)}"
        )
    return f"role {role} reads schema {CONSUMERS}, now and after later migrations, and nothing else"


def revoke(connection: Connection, role: str) -> str:
    """Take back what `grant` gave; a sentence on what the role may still do. Errors as for `grant`."""
    owner = checked(connection, role)
    run(connection, REVOKE, owner, role)
    if connection.execute(STILL_READS, {"role": role, "schema": CONSUMERS}).scalar_one():
        return (
            f"role {role} has no right of its own on schema {CONSUMERS} any more, but has those of a role "
            "that it belongs to, or that everybody has"
        )
    return f"role {role} has no right on schema {CONSUMERS} any more"


def checked(connection: Connection, role: str) -> str:
    """The schema's owner, after making sure that the role is there and that rights may be granted."""
    owner = connection.execute(OWNER, {"schema": CONSUMERS}).scalar()
    if owner is None:
        raise SyncError(f"there is no schema {CONSUMERS} yet: run `alembic upgrade head`")
    if connection.execute(ROLE, {"role": role}).first() is None:
        raise UsageError(f"there is no role {role!r} on this database server. {OWN_ROLE}")
    if not connection.execute(MAY_GRANT, {"schema": CONSUMERS}).scalar_one():
        raise SyncError(
            f"only {owner}, who owns schema {CONSUMERS}, or a member of that role may grant: "
            "set DATABASE_URL to that role's"
        )
    return str(owner)


def run(connection: Connection, statements: Sequence[str], owner: str, role: str) -> None:
    """Run statements for a role; the owner's name comes quoted from the catalogue."""
    for statement in statements:
        connection.execute(
            text(
                statement.format(schema=quoted(CONSUMERS), owner=owner, role=quoted(role)).replace(":", "\\:")
            )
        )


def literal(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"
