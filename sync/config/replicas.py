"""The name of the schema of the replicas: it is not used otherwise, and needs no quotes in SQL."""

from __future__ import annotations

from string import ascii_lowercase, digits

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from sync.config.values import bad_value

LETTERS = frozenset(ascii_lowercase + digits + "_")
LONGEST = 63  # bytes; PostgreSQL truncates longer names
# Schemas of PostgreSQL, and our own schemas with fixed names.
TAKEN = frozenset({"crm", "sync", "public", "information_schema"})
RESERVED = frozenset({*RESERVED_WORDS, "collation", "concurrently", "tablesample"})


def schema_name(value: str) -> str:
    """Return the name, or refuse one that needs quotes in SQL, is too long, or names another schema."""
    rule = "write lower-case letters, digits and underscores, no digit first, for example crm_replica"
    if not value or value[0] in digits or not LETTERS.issuperset(value):
        raise bad_value(f"{value[:LONGEST]!r} is not a schema name: {rule}")
    if len(value) > LONGEST:
        raise bad_value(f"has {len(value)} characters, and PostgreSQL takes {LONGEST}: write a shorter name")
    if value in TAKEN or value.startswith("pg_"):
        raise bad_value(
            f"{value} is taken: pg_…, {', '.join(sorted(TAKEN))} have another use; write another name"
        )
    if value in RESERVED:
        raise bad_value(f"{value} is a reserved word of SQL: write another name, for example {value}_replica")
    return value
