"""One migrated database for many tests: its rows are put back after each; what changed its schema is made again."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.demo import embedded

# Everything of a schema that a test could change, as one hash: tables, columns, constraints, functions, triggers,
# views, rights, and settings of the database. Indexes count by their definition: a first load makes them anew.
# Rights count by what they allow: those of a role that is gone leave behind the list that stood for none.
FINGERPRINT = """
WITH ours AS (
    SELECT oid, nspname FROM pg_namespace
     WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
), relation AS (
    SELECT c.*, nspname FROM pg_class AS c JOIN ours ON ours.oid = c.relnamespace
)
SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
    SELECT concat_ws(' ', nspname, relname, relkind, relowner, reloptions, coalesce(
               relacl, acldefault(CAST(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END AS "char"), relowner))) AS line
      FROM relation WHERE relkind <> 'i'
    UNION ALL
    SELECT pg_get_indexdef(oid) FROM relation WHERE relkind = 'i'
    UNION ALL
    SELECT concat_ws(' ', attrelid, attname, atttypid, attnotnull, attidentity, attacl, attisdropped)
      FROM relation JOIN pg_attribute ON attrelid = relation.oid WHERE relkind NOT IN ('i', 'S') AND attnum > 0
    UNION ALL
    SELECT concat_ws(' ', conrelid, conname, contype, convalidated) FROM pg_constraint
     WHERE connamespace IN (SELECT oid FROM ours)
    UNION ALL
    SELECT concat_ws(' ', adrelid, adnum, xmin) FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM relation)
    UNION ALL
    SELECT concat_ws(' ', oid, pronamespace, proname, proargtypes, prorettype, prosrc, prosqlbody, proowner, prosecdef,
                     provolatile, proconfig, coalesce(proacl, acldefault('f', proowner)))
      FROM pg_proc WHERE pronamespace IN (SELECT oid FROM ours)
    UNION ALL
    SELECT concat_ws(' ', typnamespace, typname, typacl) FROM pg_type
     WHERE typnamespace IN (SELECT oid FROM ours)
    UNION ALL
    SELECT concat_ws(' ', tgrelid, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT concat_ws(' ', ev_class, rulename, xmin) FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM relation)
    UNION ALL
    SELECT concat_ws(' ', polrelid, polname) FROM pg_policy
    UNION ALL
    SELECT concat_ws(' ', nspname, nspowner, coalesce(nspacl, acldefault('n', nspowner))) FROM pg_namespace WHERE oid IN (SELECT oid FROM ours)
    UNION ALL
    SELECT concat_ws(' ', defaclrole, defaclnamespace, defaclobjtype, defaclacl) FROM pg_default_acl
    UNION ALL
    SELECT concat_ws(' ', extname, evtname) FROM pg_extension FULL JOIN pg_event_trigger ON false
    UNION ALL
    SELECT concat_ws(' ', setrole, setconfig) FROM pg_db_role_setting AS s JOIN pg_database AS d
        ON d.oid = s.setdatabase WHERE datname = current_database()
    UNION ALL
    SELECT concat_ws(' ', datdba, datallowconn, datconnlimit, datacl) FROM pg_database
     WHERE datname = current_database()
) AS lines
"""
TABLES = """
SELECT oid::regclass::text FROM pg_class  -- of a partitioned table its partitions
 WHERE relnamespace IN ('sync'::regnamespace, 'salesforce'::regnamespace) AND relkind = 'r' ORDER BY 1
"""
SEQUENCES = "SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences ORDER BY 1"
# What a test has left behind. Connections between two transactions are kept for the next test: a new one reads the
# catalog again, which takes longer than most statements.
OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
   AND NOT (application_name = %(kept)s AND state = 'idle')
"""
OWNER = "test"  # of the connections that are kept
SHARED = "_shared_"  # in the name of a database that many tests use
MEMORY = Path("/dev/shm")  # noqa: S108  what is made there has a name that nobody can guess
ROOM = 2 << 30  # bytes: the log of a server alone may have one gigabyte
TIME = re.compile(rb"\b20\d\d-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?\+00\b")
RECENT = timedelta(days=2)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a PostgreSQL whose owner may create databases: TEST_DATABASE_URL, else one that ends with this.

    Ours alone, and gone afterwards, it need not survive a power cut. Its files are in memory where there is room: a
    database has three hundred, and on disk it takes a quarter of a second of CPU to make one.
    """
    with ExitStack() as stack:
        if url := os.environ.get("TEST_DATABASE_URL"):
            yield as_driven(url)
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(folder_of_servers()))
            url = as_driven(stack.enter_context(embedded.postgres()))
        # Nor is it there for long enough to be vacuumed, or for a query to be worth compiling.
        dispensable = ("fsync", "full_page_writes", "synchronous_commit", "autovacuum", "jit")
        administer(url, *(f"ALTER SYSTEM SET {name} = off" for name in dispensable))
        administer(url, "SELECT pg_reload_conf()")
        yield url


def folder_of_servers() -> Path:
    """Where the files of a server are made: in memory, or where temporary files are."""
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
    return MEMORY if roomy else Path(tempfile.gettempdir())


def as_driven(url: str) -> str:
    """The URL with the driver that SQLAlchemy is to use."""
    return make_url(url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


def create(server: str, name: str, template: str = "template1") -> None:
    """Make a database. Copied as files it takes half of the CPU that it takes by way of the log."""
    administer(server, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")


def administer(server: str, *statements: str) -> None:
    """Run statements outside any transaction."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    """One transaction of psycopg2, times in UTC."""
    connection = connect(url)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def connect(url: str) -> Connection:
    dsn = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg2.connect(dsn, options="-c timezone=UTC")


class Rows:
    """The rows of all our tables, and the sequences, as they were when this was made."""

    def __init__(self, url: str) -> None:
        self.taken = datetime.now(UTC)
        self.tables: dict[str, bytes] = {}
        with connected(url) as connection, connection.cursor() as cursor:
            cursor.execute(TABLES)
            for (table,) in cursor.fetchall():
                rows = io.BytesIO()
                cursor.copy_expert(f"COPY {table} TO STDOUT", rows)
                self.tables[table] = rows.getvalue()
            cursor.execute(SEQUENCES)
            self.sequences: list[tuple[str, int, bool]] = []
            for (sequence,) in cursor.fetchall():
                cursor.execute(f"SELECT last_value, is_called FROM {sequence}")
                self.sequences.append((sequence, *cursor.fetchone()))  # type: ignore[misc]  # there is one row

    def put_back(self, connection: Connection) -> None:
        """Replace all rows; times of the last two days move on by the time that has passed since."""
        passed = timedelta(seconds=(datetime.now(UTC) - self.taken) // timedelta(seconds=1))

        def later(found: re.Match[bytes]) -> bytes:
            at = datetime.fromisoformat(found[0].decode())
            if self.taken - at > RECENT:
                return found[0]
            return str(at + passed).encode()

        with connection.cursor() as cursor:
            cursor.execute("; ".join(f"DELETE FROM {table}" for table in self.tables))
            for table, rows in self.tables.items():
                if rows:
                    cursor.copy_expert(f"COPY {table} FROM STDIN", io.BytesIO(TIME.sub(later, rows)))
            for sequence, value, called in self.sequences:
                cursor.execute("SELECT setval(%s::regclass, %s, %s)", (sequence, value, called))


class Databases:
    """The database that the tests of one process share, one after the other."""

    def __init__(self, server: str, template: str) -> None:
        self.server, self.template = server, template
        self.prefix = "sync_test"
        self.made = 0
        self.name = ""
        self.fingerprint = ""
        self.empty: Rows | None = None
        self.loaded: dict[str, Rows] = {}  # the rows of states that several tests begin with
        self.connection: Connection | None = (
            None  # to the database, kept: a new one reads the whole catalog again
        )

    def url(self) -> str:
        return make_url(self.server).set(database=self.name).render_as_string(hide_password=False)

    def take(self) -> str:
        """The URL of a database as the migrations leave it, which nobody else uses."""
        if not self.name or not self._restored():
            self.drop()
            self.made += 1
            self.name = f"{self.prefix}_{os.getpid()}{SHARED}{self.made}"
            create(self.server, self.name, self.template)
            with connected(self.url()) as connection:
                self.fingerprint = fingerprint(connection)
            self.empty = self.empty or Rows(self.url())
        return self.url()

    def load(self, state: str, load: Callable[[], object]) -> bool:
        """Bring the database to a state that `load` makes of the empty one; whether the rows were copied.

        The same org gives the same rows: the first test of a process loads them, for the others they are copied.
        """
        if state in self.loaded:
            with connected(self.url()) as connection:
                self.loaded[state].put_back(connection)
            return True
        load()
        self.loaded[state] = Rows(self.url())
        return False

    def _restored(self) -> bool:
        """Whether the rows could be put back and the schema is as it was."""
        assert self.empty is not None
        for _ in range(2):  # a test may have ended the connection that was kept
            try:
                with self._kept() as connection:
                    with connection.cursor() as cursor:
                        cursor.execute(OTHERS, {"kept": f"sync {OWNER}"})
                    if fingerprint(connection) != self.fingerprint:
                        return False
                    self.empty.put_back(connection)
                return True
            except psycopg2.Error:
                self._leave()
        return False

    def _kept(self) -> Connection:
        if self.connection is None:
            self.connection = connect(self.url())
        return self.connection

    def _leave(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def drop(self) -> None:
        self._leave()
        if self.name:
            administer(self.server, f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
            self.name = ""


def fingerprint(connection: Connection) -> str:
    with connection.cursor() as cursor:
        cursor.execute(FINGERPRINT)
        (found,) = cursor.fetchone()  # type: ignore[misc]  # an aggregate has one row
    return str(found)
