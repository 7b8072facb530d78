"""Database URLs written for other tools: what libpq does not understand, and what to write instead."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
from psycopg2.extensions import make_dsn
from sqlalchemy.engine import URL

TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Parameters of other drivers and tools, with their remedies.
REMEDIES = {
    "pgbouncer": "leave it out: this product works behind PgBouncer as it is",
    "schema": "leave it out: the schemas are sync, crm, and the replicas' (SYNC_REPLICA_SCHEMA)",
    "connection_limit": "leave it out: the worker opens at most a handful of connections",
    "pool_timeout": "leave it out",
}


def translate_ssl(url: URL) -> URL:
    """Return the URL with the `ssl=true` of other drivers replaced by libpq's `sslmode=require`."""
    if str(url.query.get("ssl", "")).lower() not in ("true", "1", "require"):
        return url
    url = url.difference_update_query(["ssl"])
    return url if "sslmode" in url.query else url.update_query_dict({"sslmode": "require"})


def url_problems(url: URL) -> Iterator[str]:
    """Yield what libpq does not understand in the URL, each with its remedy."""
    url = translate_ssl(url)
    mode = url.query.get("sslmode")
    if mode is not None and mode not in TLS_MODES:
        yield (
            f"has sslmode={mode}, which libpq does not know: write sslmode=require (encrypted, the server "
            "is not verified) or sslmode=verify-full with sslrootcert"
        )
    for name in url.query:
        try:
            make_dsn(**{name: "x"})
        except psycopg2.ProgrammingError:
            yield f"has the parameter {name}, which libpq does not know: {REMEDIES.get(name, 'leave it out')}"
