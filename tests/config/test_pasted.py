"""Database URLs as people paste them from other tools: understood, or refused with what to write."""

from __future__ import annotations

import pytest

from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import load_database_settings
from sync.errors import ConfigError

HERE = "postgres://user:password@db.example:5432/customers"


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("pgbouncer=true", "pgbouncer, which libpq does not know: leave it out: this product works behind"),
        ("schema=public", "schema, which libpq does not know: leave it out: the schemas are"),
        ("sslmode=no-verify", "sslmode=no-verify, which libpq does not know: write sslmode=require"),
        ("wait=1", "wait, which libpq does not know: leave it out"),
    ],
)
def test_what_libpq_does_not_know_is_named(
    query: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parameter of another tool ends at once, with exit code 3 and what to do."""
    monkeypatch.setenv("DATABASE_URL", f"{HERE}?{query}")

    with pytest.raises(ConfigError, match=complaint) as refused:
        load_database_settings(OBJECT_CHOICES)
    assert refused.value.exit_code == 3
    assert "password@" not in str(refused.value)


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("ssl=true", "require"),
        ("ssl=true&sslmode=verify-full", "verify-full"),
        ("sslmode=disable", "disable"),
    ],
)
def test_what_other_drivers_say_is_understood(query: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ssl=true` means TLS; what libpq knows is left as it is."""
    monkeypatch.setenv("DATABASE_URL", f"{HERE}?{query}")

    assert load_database_settings(OBJECT_CHOICES).postgres.query["sslmode"] == mode
    assert "ssl" not in load_database_settings(OBJECT_CHOICES).postgres.query


def test_parameters_of_libpq_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What libpq knows goes through."""
    monkeypatch.setenv("DATABASE_URL", f"{HERE}?sslmode=verify-full&sslrootcert=ca.pem&application_name=x")

    assert set(load_database_settings(OBJECT_CHOICES).postgres.query) == {
        "sslmode",
        "sslrootcert",
        "application_name",
    }
