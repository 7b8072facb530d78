"""The versions of derived columns: by what computation the values of each are made."""

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
    """The version of each derived column of an object; a column is absent while its rows may be mixed."""
    return {row.column_name: row.version for row in connection.execute(NOTED, {"object": sobject})}


def forget_derived(connection: Connection, sobject: str, columns: Sequence[str]) -> None:
    """From now on the rows may hold values of several versions in these columns."""
    connection.execute(FORGET, {"object": sobject, "columns": list(columns)})


def note_derived(connection: Connection, sobject: str, versions: Mapping[str, str]) -> None:
    """All rows of an object hold values of these versions, by column; other columns are not kept up."""
    connection.execute(CLEAR, {"object": sobject})
    given = {"object": sobject, "columns": list(versions), "versions": list(versions.values())}
    connection.execute(NOTE, given)
