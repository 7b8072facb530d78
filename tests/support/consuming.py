"""A consumer's role on a database of ours: what it may do, and what it tries."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

NUMBERS = itertools.count(1)
# What the documentation of every release told operators to grant.
GRANTS = (
    "USAGE ON SCHEMA crm",
    "SELECT ON ALL TABLES IN SCHEMA crm",
    "EXECUTE ON ALL FUNCTIONS IN SCHEMA crm",
)


class Role:
    """A login role of the server, and connections that are its own."""

    def __init__(self, owner: Engine, name: str) -> None:
        self.owner, self.name = owner, name
        url = make_url(owner.url).set(username=name, password="reader")
        self.engine = create_engine(url, poolclass=NullPool)

    def connect(self) -> Connection:
        return self.engine.connect()

    def ask(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        """The rows of one statement in a transaction of its own."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def refusal(self, statement: str) -> tuple[str, str]:
        """The message and the hint of a statement that is refused."""
        with pytest.raises(DBAPIError) as error:
            self.ask(statement)
        assert isinstance(error.value.orig, psycopg2.Error)
        return str(error.value.orig.diag.message_primary), str(error.value.orig.diag.message_hint)

    def granted(self, *grants: str) -> Role:
        with self.owner.begin() as connection:
            for grant in grants:
                connection.execute(text(f"GRANT {grant} TO {self.name}"))
        return self


@contextmanager
def role(owner: Engine) -> Iterator[Role]:
    """A role without any right, gone afterwards with everything it owns."""
    name = f"consumer_{os.getpid()}_{next(NUMBERS)}"
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {name} LOGIN PASSWORD 'reader'"))
    try:
        yield Role(owner, name)
    finally:
        with owner.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {name} CASCADE"))
            connection.execute(text(f"DROP ROLE {name}"))
