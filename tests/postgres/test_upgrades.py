"""Migrations on databases that are in use: data, consumers' grants, a consumer's view, an open transaction."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.pool import NullPool

from sync.demo import embedded
from tests.postgres.test_migrations import REVISIONS, alembic
from tests.support.consuming import GRANTS, Role, role
from tests.support.soak import SOAK
from tests.support.world import ROOT

# Schema crm is whole, and was documented, from the second revision on.
EARLIER = [revision for revision in REVISIONS[:-1] if revision >= "0002"]
# Grants and views of a consumer are made anew by some migrations: the upgrade from an earlier revision runs them all,
# so that the first, the last, and each third one between are enough.
TRIED = [
    revision for place, revision in enumerate(EARLIER) if SOAK or place % 3 == 0 or revision == EARLIER[-1]
]
# From these an upgrade changes a view that consumers read: 0007 is the last that does.
LOCKING = [revision for revision in EARLIER if revision < "0007"]
IMPATIENT = ("-x", "lock_timeout=300ms")
ROWS = (
    "INSERT INTO salesforce.account (id, is_deleted, system_modstamp, name) "
    "VALUES ('001000000000001AAA', false, now(), 'Acme')",
    "INSERT INTO salesforce.contact (id, is_deleted, system_modstamp, account_id, email, deleted_at) "
    "VALUES ('003000000000001AAA', false, now(), '001000000000001AAA', 'ann@x.example', NULL), "
    "('003000000000002AAA', true, now(), NULL, 'gone@x.example', now())",
    "UPDATE sync.cursor SET complete_through = now()",
    "INSERT INTO sync.change (seq, object, record_id, op) VALUES (1, 'Contact', '003000000000001AAA', 'insert')",
    "UPDATE sync.feed SET last_seq = 1",
    "INSERT INTO sync.run (object, command, owner, outcome, error, finished_at) "
    "VALUES ('Contact', 'run', 'x', 'failed', repeat('x', 5000), now())",
)


@pytest.fixture
def empty(empty_database: str) -> Engine:
    return create_engine(empty_database, poolclass=NullPool)


@pytest.fixture
def consumer(empty: Engine) -> Iterator[Role]:
    with role(empty) as found:
        yield found


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def in_use(engine: Engine, consumer: Role, revision: str) -> None:
    """A database at a revision, with rows, a consumer's grants of that time, and a view of its own."""
    embedded.migrate(engine, revision)
    execute(engine, *ROWS, "CREATE SCHEMA billing")
    consumer.granted(*GRANTS, "ALL ON SCHEMA billing")
    consumer.ask("CREATE VIEW billing.payer AS SELECT contact_id, account_name FROM crm.customer")


def upgrade(engine: Engine, x: str | None = None) -> None:
    settings = Config(str(ROOT / "alembic.ini"), cmd_opts=Namespace(x=[x] if x else []))
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")


@pytest.mark.parametrize("revision", TRIED)
def test_consumers_keep_what_they_had(empty: Engine, consumer: Role, revision: str) -> None:
    """After an upgrade from any earlier revision a consumer reads what it read, by its own view, too; nobody
    else may call the functions."""
    in_use(empty, consumer, revision)

    upgrade(empty)

    assert consumer.ask("SELECT * FROM billing.payer") == [("003000000000001AAA", "Acme")]
    assert consumer.ask("SELECT seq, op FROM crm.changes(0)") == [(1, "insert")]
    assert consumer.ask("SELECT crm.resolve_id('003000000000001AAA')") == [("003000000000001AAA",)]
    assert consumer.ask("SELECT crm.wait_until('2000-01-01')") == [(True,)]
    assert consumer.ask("SELECT last_error FROM crm.freshness WHERE object = 'Contact'") == [("unknown",)]
    with role(empty) as stranger, pytest.raises(ProgrammingError, match="permission denied"):
        stranger.granted("USAGE ON SCHEMA crm").ask("SELECT * FROM crm.changes(0)")


def test_an_open_transaction_ends_an_upgrade_with_its_name(
    empty_database: str, empty: Engine, consumer: Role
) -> None:
    """An upgrade that a consumer's open transaction holds up ends soon, names process, role and the command that
    ends it, leaves everything as it was, and succeeds when it is run again."""
    in_use(empty, consumer, LOCKING[-1])
    with consumer.connect() as idle:
        pid = idle.execute(text("SELECT pg_backend_pid()")).scalar_one()
        idle.execute(text("SELECT * FROM crm.freshness")).all()

        done = alembic(ROOT, *IMPATIENT, "upgrade", "head", DATABASE_URL=empty_database)

        assert done.returncode == 1
        assert f"process {pid} of role {consumer.name}" in done.stderr
        assert f"SELECT pg_terminate_backend({pid})" in done.stderr
        assert "Traceback" not in done.stderr
        execute(empty, f"SELECT pg_terminate_backend({pid})")
        idle.invalidate()

    assert alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database).returncode == 0
    assert consumer.ask("SELECT count(*) FROM crm.freshness") == [(2,)]


@pytest.mark.parametrize("revision", LOCKING)
def test_what_an_open_transaction_stopped_is_done_afterwards(
    empty: Engine, consumer: Role, revision: str
) -> None:
    """From any earlier revision an upgrade that was stopped by a lock has changed nothing, and can be repeated."""
    in_use(empty, consumer, revision)
    with consumer.connect() as idle:
        idle.execute(text("SELECT * FROM crm.freshness")).all()
        with pytest.raises(DBAPIError, match="lock timeout"):
            upgrade(empty, x="lock_timeout=50ms")
        with empty.connect() as connection:
            assert (
                connection.execute(text("SELECT version_num FROM sync.alembic_version")).scalar() == revision
            )

    upgrade(empty)
    assert consumer.ask("SELECT count(*) FROM crm.freshness") == [(2,)]


def test_a_view_on_a_function_is_named(empty_database: str, empty: Engine, consumer: Role) -> None:
    """What depends on a function that a migration remakes ends it with one line that names it, and nothing changed."""
    in_use(empty, consumer, "0003")
    consumer.ask("CREATE VIEW billing.feed AS SELECT * FROM crm.changes(0)")

    done = alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database)

    assert done.returncode == 1
    assert "view billing.feed depends on function" in done.stderr
    assert "Traceback" not in done.stderr
    assert "CASCADE" not in done.stderr
    consumer.ask("DROP VIEW billing.feed")
    assert alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database).returncode == 0


def test_a_schema_that_is_there_is_named(empty_database: str, empty: Engine) -> None:
    """A schema crm of somebody else ends the first migration with one line and no trace of it."""
    execute(empty, "CREATE SCHEMA crm")

    done = alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database)

    assert done.returncode == 1
    assert 'schema "crm" already exists; the schemas sync and crm must be' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    with empty.begin() as connection:
        left = "SELECT nspname FROM pg_namespace WHERE nspname = ANY ('{sync,salesforce,crm}')"
        assert connection.execute(text(left)).scalars().all() == ["crm"]


def test_a_role_that_may_not_create_is_told(empty: Engine) -> None:
    """Without CREATE on the database one line says what the role needs."""
    with role(empty) as poor:
        url = poor.engine.url.render_as_string(hide_password=False).replace("+psycopg2", "")
        done = alembic(ROOT, "upgrade", "head", DATABASE_URL=url)

    assert done.returncode == 1
    assert "the role needs CREATE on the database" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_proof_is_not_dropped(empty: Engine) -> None:
    """A database that names erased persons is not taken back to a release that would store them again."""
    upgrade(empty)
    execute(
        empty,
        "INSERT INTO sync.erased (object, record_id, asked_by, cause_id) VALUES ('Contact', '003', 'x', '003')",
    )
    settings = Config(str(ROOT / "alembic.ini"), cmd_opts=Namespace(x=[]))
    with empty.begin() as connection:
        settings.attributes["connection"] = connection
        with pytest.raises(DBAPIError, match="names erased persons"), connection.begin_nested():
            command.downgrade(settings, "0005")


def test_a_release_waits_for_one_that_migrates(empty_database: str, empty: Engine) -> None:
    """A release that finds another one migrating waits for it, and gives up when that takes too long."""
    upgrade(empty)
    with empty.connect() as other:
        transaction = other.begin()
        other.execute(text("LOCK TABLE sync.alembic_version IN SHARE ROW EXCLUSIVE MODE"))
        done = alembic(ROOT, *IMPATIENT, "upgrade", "head", DATABASE_URL=empty_database)
        transaction.rollback()

    assert done.returncode == 1
    assert "sync.alembic_version" in done.stderr
    assert done.stderr.endswith("run `alembic upgrade head` again\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Birthdate: not a date: 'in spring'", "Birthdate: not a date"),
        ("Score__c: expected a number, got 'Ann'", "Score__c: expected a number"),
        ("Id: missing", "Id: missing"),
        ('invalid input syntax for type date: "Ann"', "refused by Postgres"),
    ],
)
def test_reasons_lose_the_values_that_they_quoted(empty: Engine, before: str, after: str) -> None:
    """What an older release kept as the reason of a reject is cut to the field and the class of the error."""
    embedded.migrate(empty, "0005")
    with empty.begin() as connection:
        statement = "INSERT INTO sync.reject (object, record_id, reason, record) VALUES ('Contact', '003', :why, '{}')"
        connection.execute(text(statement), {"why": before})

    upgrade(empty)

    with empty.begin() as connection:
        assert connection.execute(text("SELECT reason FROM sync.reject")).scalar() == after
