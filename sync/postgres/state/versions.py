"""The versions of derived columns: the computation that produced the stored values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

NOTED = text("SELECT column_name, version FROM sync.derived WHERE object = :object")
FORGET = text("DELETE FROM sync.derived WHERE object = :object AND column_name = ANY (:columns)")
CLEAR = text("DELETE FROM sync.derived WHERE object = :object")
NOTE = text("""
INSERT INTO sync.derived (object, column_name, version)
SELECT :object, * FROM unnest(CAST(:columns AS text[]), CAST(:versions AS text[]))
""")


def derived_versions(connection: Connection, sobject: str) -> dict[str, str]:
    """Return the version of each derived column of an object; a column with mixed versions is absent."""
    return {row.column_name: row.version for row in connection.execute(NOTED, {"object": sobject})}


def forget_derived(connection: Connection, sobject: str, columns: Sequence[str]) -> None:
    """Note that the rows may hold values of several versions in these columns."""
    connection.execute(FORGET, {"object": sobject, "columns": list(columns)})


def note_derived(connection: Connection, sobject: str, versions: Mapping[str, str]) -> None:
    """Note that all rows hold values of these versions, by column; other columns are deleted from the
    table."""
    connection.execute(CLEAR, {"object": sobject})
    parameters = {"object": sobject, "columns": list(versions), "versions": list(versions.values())}
    connection.execute(NOTE, parameters)
