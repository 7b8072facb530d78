"""Where a run is allowed: an org that is no production, and a database that holds nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, text

from sync.errors import GuardError
from sync.postgres.tables import REPLICA, quote, schemas
from tests.acceptance.client import Client, codes, said

ORGANIZATION = "SELECT IsSandbox, OrganizationType, TrialExpirationDate FROM Organization"
# The tables of the database that are not the server's own.
TABLES = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
 ORDER BY 1, 2
"""
PRODUCTION = "production"


def kind_of_org(client: Client) -> str:
    """scratch org, sandbox, developer org, or production, which is said of every other org, too."""
    answer = client.get("query", q=ORGANIZATION)
    if answer.status_code == 400 and "INVALID_FIELD" in codes(answer):  # hidden from the user
        answer = client.get("query", q="SELECT IsSandbox FROM Organization")
    if answer.status_code != 200 or not answer.json().get("records"):
        raise GuardError(
            f"the kind of the org cannot be read from Organization ({said(answer)}): let the user read "
            "IsSandbox, or give --production to make, change and delete marked records there all the same"
        )
    return named(answer.json()["records"][0])


def named(organization: Mapping[str, Any]) -> str:
    """The kind of an org by its own record.

    A trial is a customer's, unless it says that it is a sandbox, as a scratch org does.
    """
    if organization.get("IsSandbox") is True:
        return "scratch org" if organization.get("TrialExpirationDate") else "sandbox"
    return "developer org" if organization.get("OrganizationType") == "Developer Edition" else PRODUCTION


def check_org(client: Client, *, production: bool) -> str:
    """The kind of the org; raise GuardError for a production org unless it is allowed."""
    if production:
        try:
            return kind_of_org(client)
        except GuardError:
            return "unknown"
    kind = kind_of_org(client)
    if kind == PRODUCTION:
        raise GuardError(
            "this org is no sandbox, scratch or developer org, and nothing was written: set SALESFORCE_* to a "
            "sandbox, or give --production to make, change and delete marked records there all the same"
        )
    return kind


def check_database(engine: Engine, *, used: bool) -> None:
    """Raise GuardError for a database that holds tables of others, or rows of the product, unless allowed."""
    if used:
        return
    filled = {*(table.name for table in REPLICA.values()), "run", "org"}  # by any work on any object
    with engine.connect() as connection:
        ours = schemas(connection)
        busy = [
            f"{schema}.{table}"
            for schema, table in connection.execute(text(TABLES))
            if schema not in ours
            or (
                table in filled
                and connection.scalar(text(f"SELECT EXISTS (SELECT FROM {quote(schema)}.{quote(table)})"))
            )
        ]
    if busy:
        raise GuardError(
            f"DATABASE_URL leads to a database in use ({', '.join(busy[:3])}): name an empty one, "
            "unset it for the embedded server, or give --used-database to work in this one"
        )
