"""SECURITY.md: every secret is in it, and a rotation of the database's role works as it is written."""

from __future__ import annotations

import re

import psycopg2
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from sync.config.settings import Settings
from tests.project.pages import blocks, rows, section, spans
from tests.support.databases import administer, connected

PAGE = "SECURITY.md"


def test_every_secret_is_there() -> None:
    """Each setting that holds a secret has a row: what it can do, what not, and where it is kept."""
    secret = {
        name.upper() for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
    }
    found = rows(section(PAGE, "What each secret can do"))
    named = {span for row in found for span in spans(row[0])}

    assert SecretStr.__name__ == "SecretStr"
    assert len(secret) >= 5
    assert secret <= named
    assert all(len(row) == 4 and all(row) for row in found)


def test_a_second_role_acts_as_the_owner(database: str) -> None:
    """With the page's statements a second role logs in, owns what it makes, and the first one's login ends."""
    mine = f"test_worker_{make_url(database).database}"
    url = make_url(database)
    text = "".join(block.text for block in blocks(PAGE) if block.language == "sql")
    asked = [
        re.sub(r"\bworker(_next)?\b", rf"{mine}\1", one).strip() for one in text.split(";") if one.strip()
    ]
    administer(database, f"CREATE ROLE {mine} LOGIN", f"GRANT CREATE ON DATABASE {url.database} TO {mine}")
    try:
        administer(database, *asked)
        with connected(as_role(database, f"{mine}_next")) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA of_test")
            cursor.execute(
                "SELECT current_user, nspowner::regrole::text FROM pg_namespace WHERE nspname = 'of_test'"
            )
            assert cursor.fetchone() == (mine, mine)
        assert refused(as_role(database, mine))
    finally:
        administer(
            database,
            "DROP SCHEMA IF EXISTS of_test CASCADE",
            f"REVOKE CREATE ON DATABASE {url.database} FROM {mine}",
            f"DROP ROLE IF EXISTS {mine}_next",
            f"DROP ROLE {mine}",
        )


def as_role(database: str, name: str) -> str:
    """The URL of the database for a role."""
    url = make_url(database).set(username=name, password="a long random password")
    return url.render_as_string(hide_password=False)


def refused(url: str) -> bool:
    """Whether a role may not log in."""
    try:
        with connected(url):
            return False
    except psycopg2.OperationalError as error:
        return "not permitted to log in" in str(error)
