"""Consumers' privileges: a role reads schema crm, now and after later migrations, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from sync.errors import SyncError, UsageError
from sync.postgres import consumers, replica_schema
from sync.postgres.bookkeeping import BOOKKEEPING
from sync.postgres.state import requests
from sync.postgres.tables import CONSUMERS, quote

ROLE = text("SELECT oid, rolname, rolsuper FROM pg_roles WHERE rolname = :role")
OWNER = text("SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = :schema")
INHERITS = text("""
SELECT pg_has_role(CAST(:role AS name), nspowner, 'MEMBER') FROM pg_namespace WHERE nspname = :schema
""")
MAY_GRANT = text("SELECT pg_has_role((SELECT nspowner FROM pg_namespace WHERE nspname = :schema), 'USAGE')")
# Privileges beyond schema crm: granted to the role, to a role that it is a member of, or to PUBLIC.
BEYOND = text("""
SELECT n.nspname, r.rolname,
       EXISTS (SELECT FROM aclexplode(n.nspacl) AS a WHERE a.grantee = r.oid) AS direct
  FROM pg_namespace AS n, pg_roles AS r
 WHERE n.nspname = ANY (:schemas) AND r.rolname = ANY (CAST(:roles AS text[]))
   AND has_schema_privilege(r.oid, n.oid, 'USAGE')
   AND NOT pg_has_role(r.oid, n.nspowner, 'MEMBER') ORDER BY 1, 2
""")
STILL_READS = text("SELECT has_schema_privilege(CAST(:role AS name), CAST(:schema AS text), 'USAGE')")
# Login roles with the owner's privileges, without superusers, which every server has.
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
    # For later views; for later functions the migrations that create them grant the privilege.
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
    """Who may access schema crm: its owner, the roles that share the owner's privileges, the readers."""

    owner: str
    sharing: tuple[str, ...]
    readers: tuple[str, ...]
    beyond: tuple[str, ...]  # readers of schema crm with privileges on our other schemas


def access(connection: Connection) -> Access:
    """Return who owns schema crm, who inherits the owner's privileges, and who may use the schema."""
    parameters = {"schema": CONSUMERS}
    readers = tuple(connection.execute(READING, parameters).scalars())
    wider = connection.execute(
        BEYOND, {"roles": [name.strip('"') for name in readers], "schemas": private_schemas(connection)}
    )
    return Access(
        str(connection.execute(OWNER, parameters).scalar_one()),
        tuple(connection.execute(SHARING, parameters).scalars()),
        readers,
        tuple(sorted({row.rolname for row in wider})),
    )


def private_schemas(connection: Connection) -> list[str]:
    """Return our schemas that consumers must not read."""
    return [replica_schema.schema_in_use(connection), BOOKKEEPING]


def grant(connection: Connection, role: str, *, old_values: bool | None = None) -> str:
    """Let an existing role read schema crm, now and later; return a sentence on what it may do.

    With `old_values` its named consumers see the values before a change, too; False takes that back, None
    leaves it. Raises UsageError for a role that does not exist or that has the owner's privileges (it needs
    no grant, and nothing prevents it from changing data), SyncError if the caller may not grant.
    """
    owner = check_role(connection, role)
    if connection.execute(INHERITS, {"role": role, "schema": CONSUMERS}).scalar_one():
        raise UsageError(
            f"role {role} has the rights of {owner}, who owns schema {CONSUMERS}: it reads everything "
            f"already, and may change and delete it, too. {OWN_ROLE}"
        )
    run_statements(connection, GRANT, owner, role)
    if old_values:
        consumers.allow_old_values(connection, role)
    elif old_values is False:
        consumers.withdraw_old_values(connection, role)
    with_old = (
        "; its consumers see values before a change in crm.poll, kept from now on"
        if consumers.may_see_old_values(connection, role)
        else ""
    )
    found = connection.execute(BEYOND, {"roles": [role], "schemas": private_schemas(connection)}).all()
    if inherited := [row.nspname for row in found if not row.direct]:
        return (
            f"role {role} reads schema {CONSUMERS}{with_old}; it reads more through a role that it belongs "
            f"to: {', '.join(inherited)}; to see which: SELECT roleid::regrole FROM pg_auth_members "
            f"WHERE member = {literal(quote(role))}::regrole"
        )
    if found:
        schemas = ", ".join(row.nspname for row in found)
        return (
            f"role {role} reads schema {CONSUMERS}{with_old}; it has rights on {schemas}, too, granted "
            f"otherwise and taken back with: REVOKE ALL ON SCHEMA {schemas} FROM {quote(role)}"
        )
    return f"role {role} reads schema {CONSUMERS}, now and after later migrations, and nothing else{with_old}"


def revoke(connection: Connection, role: str) -> str:
    """Take back what `grant` gave; return a sentence on what the role may still do. Errors as for `grant`."""
    owner = check_role(connection, role)
    run_statements(connection, REVOKE, owner, role)
    consumers.withdraw_old_values(connection, role)
    ended, locked = consumers.end_consumers(connection, role)
    withdrawn = requests.withdraw(connection, role)
    tail = f"; {ended} of its consumers of the feed ended" if ended else ""
    if withdrawn:
        tail += f"; {withdrawn} of its requests withdrawn"
    if locked:
        tail += (
            f"; {locked} of its consumers stayed, because an open transaction of the role holds them: "
            f"when it has ended, type `python -m sync revoke {shlex.quote(role)}` again"
        )
    if connection.execute(STILL_READS, {"role": role, "schema": CONSUMERS}).scalar_one():
        return (
            f"role {role} has no right of its own on schema {CONSUMERS} any more, but has those of a role "
            f"that it belongs to, or that everybody has{tail}"
        )
    return f"role {role} has no right on schema {CONSUMERS} any more{tail}"


def end_consumer(connection: Connection, role: str, name: str) -> str:
    """End one named consumer of a role, which keeps its access; return a sentence. Raises UsageError."""
    if not consumers.end_consumer(connection, role, name):
        raise UsageError(f"role {role} has no consumer {name!r}; to see all of them: python -m sync status")
    return f"consumer {role}/{name} ended; role {role} still reads schema {CONSUMERS}"


def check_role(connection: Connection, role: str) -> str:
    """Return the schema's owner; raise an error if the role does not exist or the caller may not grant."""
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


def run_statements(connection: Connection, statements: Sequence[str], owner: str, role: str) -> None:
    """Run statements for a role; `owner` comes quoted from the system catalog."""
    for statement in statements:
        connection.execute(
            text(statement.format(schema=quote(CONSUMERS), owner=owner, role=quote(role)).replace(":", "\\:"))
        )


def literal(value: str) -> str:
    """Return an SQL string literal."""
    return "'" + value.replace("'", "''") + "'"
