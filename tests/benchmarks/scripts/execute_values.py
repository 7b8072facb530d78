"""simple-salesforce and psycopg2's execute_values: upserts of a thousand records, all in one transaction."""

from __future__ import annotations

from itertools import islice
from typing import Any, cast

from psycopg2.extensions import connection as Psycopg2Connection
from psycopg2.extras import execute_values

from tests.benchmarks.scripts import given

AT_ONCE = 1_000


def main() -> None:
    salesforce, engine = given.salesforce(), given.engine()
    for name, query in given.queries().items():
        table = given.table(salesforce, name, query)
        columns = [column.name for column in table.columns]
        upsert = (
            f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES %s ON CONFLICT (id) DO UPDATE SET "
            + ", ".join(f"{column} = excluded.{column}" for column in columns)
        )
        with engine.begin() as connection:
            table.create(connection, checkfirst=True)
            direct = cast("Psycopg2Connection", connection.connection.dbapi_connection)
            records = salesforce.query_all_iter(query, include_deleted=True)
            with direct.cursor() as cursor:
                while some := list(islice(records, AT_ONCE)):
                    rows: list[tuple[Any, ...]] = []
                    for record in some:
                        value = given.values(record)
                        rows.append(tuple(value[column] for column in columns))
                    execute_values(cursor, upsert, rows, page_size=AT_ONCE)


if __name__ == "__main__":
    main()
