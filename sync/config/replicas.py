"""The name of the schema that holds the replicas: which ones are free, and need no quotes in SQL."""

from __future__ import annotations

from string import ascii_lowercase, digits

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from sync.config.values import wrong

LETTERS = frozenset(ascii_lowercase + digits + "_")
LONGEST = 63  # bytes; PostgreSQL cuts the rest off
# What PostgreSQL keeps for itself or shares, and our own schemas of a fixed name.
TAKEN = frozenset({"crm", "sync", "public", "information_schema"})
RESERVED = frozenset({*RESERVED_WORDS, "collation", "concurrently", "tablesample"})


def schema_name(value: str) -> str:
    """The name, where it needs no quotes in any SQL and no other schema has it; otherwise what is wrong."""
    rule = "write lower-case letters, digits and underscores, no digit first, for example crm_replica"
    if not value or value[0] in digits or not LETTERS.issuperset(value):
        raise wrong(f"{value[:LONGEST]!r} is no schema name: {rule}")
    if len(value) > LONGEST:
        raise wrong(f"has {len(value)} characters, and PostgreSQL takes {LONGEST}: write a shorter name")
    if value in TAKEN or value.startswith("pg_"):
        raise wrong(f"{value} is taken: pg_…, {', '.join(sorted(TAKEN))} are not for replicas; write another")
    if value in RESERVED:
        raise wrong(f"{value} is a reserved word of SQL: write another name, for example {value}_replica")
    return value
