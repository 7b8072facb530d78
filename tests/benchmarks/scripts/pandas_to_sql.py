"""simple-salesforce and pandas: everything into a DataFrame, and that into a table made anew."""

from __future__ import annotations

import pandas as pd

from tests.benchmarks.scripts import given


def main() -> None:
    salesforce, engine = given.salesforce(), given.engine()
    for name, query in given.queries().items():
        records = salesforce.query_all(query, include_deleted=True)["records"]
        columns = [field.lower() for field in given.fields(query)]
        frame = pd.DataFrame([given.values(record) for record in records], columns=columns)
        frame.to_sql(name.lower(), engine, if_exists="replace", index=False, chunksize=1_000, method="multi")


if __name__ == "__main__":
    main()
