"""The data dictionary: docs/data-dictionary.md, written from a migrated database by `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

from migrations.autogenerate import ROOT
from sync.config.settings import DatabaseSettings
from sync.demo import embedded
from sync.postgres import tables

PAGE = ROOT / "docs" / "data-dictionary.md"

RELATIONS = text("""
SELECT c.relname AS name, coalesce(obj_description(c.oid, 'pg_class'), '') AS what,
       array_agg(ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod),
                       coalesce(col_description(c.oid, a.attnum), '')] ORDER BY a.attnum) AS columns
  FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'v') GROUP BY c.oid ORDER BY 1
""")
FUNCTIONS = text("""
SELECT p.proname || '(' || pg_get_function_arguments(p.oid) || ')' AS name,
       coalesce(obj_description(p.oid, 'pg_proc'), '') AS what, pg_get_function_result(p.oid) AS result,
       p.proretset AS rows, coalesce(p.proargnames, '{}') AS names,
       ARRAY(SELECT format_type(type, NULL)
               FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]))
                    WITH ORDINALITY AS t (type, place)
              ORDER BY place) AS types
  FROM pg_proc AS p WHERE p.pronamespace = 'crm'::regnamespace ORDER BY 1
""")
HEAD = """# Data dictionary

What consumers read: each view and function of schema `crm`, with what every column means. `make docs` writes
this page from the comments of a migrated database, and a test compares the two: do not edit it.
[consumers.md](consumers.md) says how to work with them.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A view, table or function: its name, what it is, and (name, SQL type, what it is) of its columns.

    The columns of a function are its parameters, then those of its result.
    """

    name: str
    what: str
    columns: tuple[tuple[str, str, str], ...]
    result: str = ""


def main() -> int:
    """Write the page from a server that is started for it."""
    with embedded.postgres() as url:
        target = DatabaseSettings.model_validate({"database_url": url}).postgres
        engine = create_engine(target, poolclass=NullPool)
        embedded.migrate(engine)
        with engine.begin() as connection:
            PAGE.write_text(page(connection), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.relative_to(ROOT)}\n")
    return 0


def page(connection: Connection) -> str:
    """The page of a migrated database."""
    parts = [HEAD, "## Views\n"]
    parts += [section(f"crm.{view.name}", view.what, view.columns) for view in relations(connection, "crm")]
    parts.append("## Functions\n")
    parts += [section(f"crm.{each.name}", each.what, each.columns) for each in functions(connection)]
    parts.append("## Replicas\n")
    parts.append(
        "For operators. A replica has the columns of its view, and those below; deleted records stay in it\n"
        "as tombstones.\n"
    )
    shown = {view.name: {column for column, _, _ in view.columns} for view in relations(connection, "crm")}
    for table in relations(connection, tables.REPLICAS):
        more = [column for column in table.columns if column[0] not in shown.get(table.name, set())]
        parts.append(section(f"{tables.REPLICAS}.{table.name}", table.what, more))
    return "\n".join(parts)


def sections(page: str) -> dict[str, str]:
    """The parts of a page by what they are about."""
    parts = [part.split("\n## ")[0] for part in page.split("\n### ")[1:]]
    return {part.split("`")[1]: part.strip() for part in parts}


def relations(connection: Connection, schema: str) -> list[Entry]:
    """The tables and views of a schema."""
    return [
        Entry(row.name, row.what, tuple((name, kind, what) for name, kind, what in row.columns))
        for row in connection.execute(RELATIONS, {"schema": schema})
    ]


def functions(connection: Connection) -> list[Entry]:
    """The functions of schema crm; a line `name: what it is` of a comment describes a parameter or column."""
    found = []
    for row in connection.execute(FUNCTIONS):
        what, *lines = row.what.strip().splitlines() or [""]
        told = dict(line.partition(": ")[::2] for line in lines)
        columns = [(name, kind, told.get(name, "")) for name, kind in zip(row.names, row.types, strict=True)]
        gives = "rows" if row.rows else f"`{row.result}`"
        what = f"{what} Returns {gives}." if what else ""
        found.append(Entry(row.name, what, tuple(columns), row.result))
    return found


def section(name: str, what: str, columns: Sequence[tuple[str, str, str]]) -> str:
    """The part of the page about one view, table or function."""
    return "\n".join([f"### `{name}`\n", f"{what}\n", *listed(columns)]) + "\n"


def listed(columns: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """Columns as a table, where there are any."""
    if columns:
        yield from ("| name | type | what it is |", "|---|---|---|")
    for name, kind, what in columns:
        yield f"| `{name}` | {kind} | {cell(what)} |"


def cell(what: str) -> str:
    """A comment in a cell of a table; labels of an org may hold what Markdown reads as its own."""
    plain = " ".join(what.split())
    for mark in ("\\", "|", "<", "[", "*"):
        plain = plain.replace(mark, "\\" + mark)
    return plain


if __name__ == "__main__":
    sys.exit(main())
