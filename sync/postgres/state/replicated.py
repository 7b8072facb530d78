"""Which objects are replicated now."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

REPLICATED = text("""
WITH gone AS (DELETE FROM sync.replicated WHERE object <> ALL (CAST(:objects AS text[])))
INSERT INTO sync.replicated (object) SELECT unnest(CAST(:objects AS text[])) ON CONFLICT DO NOTHING
""")
REPLICATED_DIFFERS = text("""
SELECT (SELECT array_agg(object ORDER BY object) FROM sync.replicated)
       IS DISTINCT FROM ARRAY(SELECT unnest(CAST(:objects AS text[])) ORDER BY 1)
""")


def note_replicated(connection: Connection, objects: Sequence[str]) -> None:
    """Store the objects that are replicated now; written only if they have changed."""
    values = {"objects": list(objects)}
    if connection.execute(REPLICATED_DIFFERS, values).scalar_one():
        connection.execute(REPLICATED, values)
