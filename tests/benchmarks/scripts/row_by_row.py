"""simple-salesforce and SQLAlchemy, an upsert for each record, all in one transaction."""

from __future__ import annotations

from sqlalchemy.dialects.postgresql import insert

from tests.benchmarks.scripts import given


def main() -> None:
    salesforce, engine = given.salesforce(), given.engine()
    for name, query in given.queries().items():
        table = given.table(salesforce, name, query)
        statement = insert(table)
        upsert = statement.on_conflict_do_update(
            index_elements=["id"],
            set_={column.name: statement.excluded[column.name] for column in table.columns},
        )
        with engine.begin() as connection:
            table.create(connection, checkfirst=True)
            for record in salesforce.query_all_iter(query, include_deleted=True):
                connection.execute(upsert, given.values(record))


if __name__ == "__main__":
    main()
