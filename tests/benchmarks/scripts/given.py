"""What every script is given by the benchmark: a session, a database, the queries, and tables to fill."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from simple_salesforce.api import Salesforce
from sqlalchemy import Boolean, Column, Date, DateTime, MetaData, Numeric, Table, Text, create_engine
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.types import TypeEngine

TYPES: dict[str, type[TypeEngine[Any]]] = {
    **dict.fromkeys(("double", "currency", "percent", "int", "long"), Numeric),
    "boolean": Boolean,
    "date": Date,
    "datetime": DateTime,
}


def salesforce() -> Salesforce:
    """A client of the org, with the token it is given."""
    url, token = os.environ["SALESFORCE_LOGIN_URL"], os.environ["TOKEN"]
    return Salesforce(session_id=token, instance_url=url, version="66.0")


def queries() -> dict[str, str]:
    """A query for each object."""
    return dict(json.loads(os.environ["QUERIES"]))


def engine() -> Engine:
    """The database."""
    return create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg2"))


def fields(query: str) -> list[str]:
    """The names that a query selects."""
    return query.removeprefix("SELECT ").partition(" FROM ")[0].split(", ")


def table(client: Any, name: str, query: str) -> Table:
    """A table for an object: a column for each selected field, keyed by Id, without any other index."""
    types = {each["name"]: each["type"] for each in getattr(client, name).describe()["fields"]}
    columns = [
        Column(
            field.lower(),
            DateTime(timezone=True) if types[field] == "datetime" else TYPES.get(types[field], Text)(),
            primary_key=field == "Id",
        )
        for field in fields(query)
    ]
    return Table(name.lower(), MetaData(), *columns)


def values(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a row. PostgreSQL stores no NUL character, and Salesforce does."""
    return {
        name.lower(): value.replace("\0", "") if isinstance(value, str) else value
        for name, value in record.items()
        if name != "attributes"
    }
