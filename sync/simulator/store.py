"""The org's rows in a private SQLite file: order, counts and groups in flat memory."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sync.simulator.fields import Field
from sync.simulator.objects.schema import SObject


class Store:
    """One table per object, one column per stored field. Not locked: the org's lock guards it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.nul: set[tuple[str, str]] = set()  # objects and fields that hold, or held, a text with NUL in it
        self._additions: dict[str, Callable[[sqlite3.Connection], None]] = {}  # what SQL may call, by name
        self._snapshots = 0
        self._db = self._connect(cache_kb=65_536)
        self._db.execute("PRAGMA journal_mode=MEMORY")

    def _connect(self, cache_kb: int) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, cached_statements=512)
        for pragma in ("synchronous=OFF", "temp_store=MEMORY", f"cache_size=-{cache_kb}"):
            db.execute(f"PRAGMA {pragma}")
        return db

    def close(self) -> None:
        self._db.close()

    def snapshot(self) -> sqlite3.Connection:
        """A connection for one thread at a time that sees the rows as they are now, whatever comes.

        Until the caller gives it to ``release``, later changes pile up in a log.
        """
        if self._snapshots == 0:
            if self._db.execute("PRAGMA journal_mode=WAL").fetchone() != ("wal",):
                raise RuntimeError("the store cannot keep a log: somebody is reading")
            # Or every write would look in vain for what can be taken out of the log, at ever greater cost.
            self._db.execute("PRAGMA wal_autocheckpoint=0")
        db = self._connect(cache_kb=8_192)  # rows are read in their order, and once
        self._snapshots += 1
        for add in self._additions.values():
            add(db)
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # reading is what begins it
        return db

    def release(self, snapshot: sqlite3.Connection) -> None:
        """Close a snapshot; with the last one the log goes too."""
        snapshot.close()
        self._snapshots -= 1
        if self._snapshots == 0:
            self._db.execute("PRAGMA journal_mode=MEMORY")

    def function(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Make a Python function callable from SQL; not deterministic, since formulas may change."""
        self._add(name, lambda db: db.create_function(name, arguments, function))

    def aggregate(self, name: str, aggregate: Any) -> None:
        self._add(name, lambda db: db.create_aggregate(name, 1, aggregate))

    def collation(self, name: str, compare: Callable[[str, str], int]) -> None:
        self._add(name, lambda db: db.create_collation(name, compare))

    def _add(self, name: str, add: Callable[[sqlite3.Connection], None]) -> None:
        self._additions[name] = add
        add(self._db)

    def create_table(self, sobject: SObject) -> None:
        columns = ", ".join(_declare(field) for field in sobject.fields.values() if field.stored)
        self._db.execute(f"CREATE TABLE {quote(sobject.name)} ({columns})")

    def create_indexes(self, sobject: SObject, parents: Iterable[str]) -> None:
        """Serve windows of the stamp in key order, and deletes that take the children of ``parents``."""
        table = quote(sobject.name)
        if sobject.stamp_field is not None:
            stamps = f"{sobject.stamp_field}, Id" + (", IsDeleted" if sobject.recyclable else "")
            self._db.execute(f"CREATE INDEX {quote(sobject.name + '_stamp')} ON {table} ({stamps})")
        for name in parents:
            index = quote(f"{sobject.name}_{name}")
            self._db.execute(f"CREATE INDEX {index} ON {table} ({quote(name)})")

    def add_column(self, sobject: SObject, field: Field) -> None:
        self._db.execute(f"ALTER TABLE {quote(sobject.name)} ADD COLUMN {_declare(field)}")
        if field.type == "boolean":
            self._db.execute(f"UPDATE {quote(sobject.name)} SET {quote(field.name)} = 0")

    def drop_column(self, sobject: SObject, field: Field) -> None:
        self._db.execute(f"DROP INDEX IF EXISTS {quote(f'{sobject.name}_{field.name}')}")
        self._db.execute(f"ALTER TABLE {quote(sobject.name)} DROP COLUMN {quote(field.name)}")

    def insert(self, sobject: SObject, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows in one transaction; missing columns are null."""
        names = ", ".join(map(quote, columns))
        marks = ", ".join("?" * len(columns))
        with self.transaction():
            self._db.executemany(
                f"INSERT INTO {quote(sobject.name)} ({names}) VALUES ({marks})",
                (row if self._clean(row) else self._noted(sobject, columns, row) for row in rows),
            )

    @staticmethod
    def _clean(row: Iterable[Any]) -> bool:
        return "\0" not in "".join([value for value in row if type(value) is str])

    def _noted(self, sobject: SObject, columns: Iterable[str], row: Sequence[Any]) -> Sequence[Any]:
        named = zip(columns, row, strict=True)
        self.nul |= {(sobject.name, name) for name, value in named if "\0" in str(value)}
        return row

    def update(self, sobject: SObject, record_id: str, changes: dict[str, Any]) -> None:
        self._noted(sobject, changes, list(changes.values()))
        settings = ", ".join(f"{quote(name)} = ?" for name in changes)
        self._db.execute(
            f"UPDATE {quote(sobject.name)} SET {settings} WHERE Id = ?",
            (*changes.values(), record_id),
        )

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._db.execute(sql, parameters)

    def transaction(self) -> "_Transaction":
        return _Transaction(self._db)


class _Transaction:
    """BEGIN … COMMIT around a block, ROLLBACK when it fails; nested blocks join the outer one."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._outermost = not db.in_transaction

    def __enter__(self) -> None:
        if self._outermost:
            self._db.execute("BEGIN")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._outermost:
            self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _declare(field: Field) -> str:
    kind = (
        "INTEGER" if field.type in ("boolean", "int", "double", "currency", "percent", "datetime") else "TEXT"
    )
    return f"{quote(field.name)} {kind}" + (" PRIMARY KEY" if field.name == "Id" else "")
