"""The replicas lie in the schema that was chosen at the first migration, beside whatever `salesforce` holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool
from typer.testing import CliRunner

from migrations import replicas
from sync.config.settings import settings_from
from sync.demo import embedded
from sync.demo.commands import app
from sync.errors import ConfigError, ReplicaSchemaError, SyncError
from sync.operations import erasure, grants, status
from sync.operations.audit import checks
from sync.postgres import replica_schema, tables
from sync.replication import pipeline
from sync.simulator import Simulator
from tests.conftest import NUMBERS, administer
from tests.postgres.test_migrations import SCHEMAS, alembic, catalog
from tests.support.consuming import role
from tests.support.databases import create
from tests.support.world import LONG_AGO, ROOT, World

CHOSEN = "crm_replica"
# What Heroku Connect makes: tables of the same names, with columns of its own.
HEROKU_CONNECT = (
    "CREATE SCHEMA salesforce",
    *(
        f"CREATE TABLE salesforce.{table} (id serial PRIMARY KEY, sfid varchar(18) COLLATE ucs_basic, "
        "name varchar(255), isdeleted boolean, systemmodstamp timestamp, _hc_lastop varchar(32), _hc_err text)"
        for table in ("account", "contact")
    ),
    "CREATE UNIQUE INDEX hcu_idx_account_sfid ON salesforce.account (sfid)",
    "CREATE TABLE salesforce._hcmeta (id serial PRIMARY KEY, hcver integer, org_id varchar(50))",
    "INSERT INTO salesforce.account (sfid, name) VALUES ('001000000000001AAA', 'Theirs')",
    "INSERT INTO salesforce.contact (sfid, name) VALUES ('003000000000001AAA', 'Theirs')",
)
THEIRS = (
    "SELECT xmin::text, t::text FROM salesforce.account AS t UNION ALL "
    "SELECT xmin::text, t::text FROM salesforce.contact AS t ORDER BY 2"
)


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def one(engine: Engine, statement: str) -> Any:
    with engine.begin() as connection:
        return connection.execute(text(statement)).scalar()


@pytest.fixture
def empty(empty_database: str) -> Engine:
    return create_engine(empty_database, poolclass=NullPool)


@pytest.fixture(scope="module")
def renamed_template(server: str) -> Iterator[str]:
    """The name of a database in which Heroku Connect has `salesforce`, and our replicas another schema."""
    name = f"sync_renamed_{os.getpid()}"
    create(server, name)
    engine = create_engine(make_url(server).set(database=name), poolclass=NullPool)
    execute(engine, *HEROKU_CONNECT)
    embedded.migrate(engine, replicas=CHOSEN)
    yield name
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def beside(server: str, renamed_template: str, sim: Simulator, transport: str) -> Iterator[World]:
    """An org with two accounts and three contacts, and a database that Heroku Connect uses, too."""
    name = f"sync_test_{os.getpid()}_beside_{next(NUMBERS)}"
    create(server, name, renamed_template)
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    with World(sim, url, SYNC_BULK_THRESHOLD="0" if transport == "bulk" else "10000") as world:
        world.transport = transport
        world.acme, world.bolt = world.org.create_many(
            "Account", [{"Name": "Acme"}, {"Name": "Bolt"}], stamp=LONG_AGO
        )
        people = [{"LastName": name, "AccountId": world.acme} for name in ("Ann", "Bob", "Cid")]
        world.ann, world.bob, world.cid = world.org.create_many("Contact", people, stamp=LONG_AGO)
        theirs = world.sql(THEIRS)
        yield world
        assert world.sql(THEIRS) == theirs, "what Heroku Connect has was written to"
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


# ── the whole product beside Heroku Connect ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
def test_passes_and_proof(beside: World) -> None:
    """Loading, changes, deletions, merges and a repairing verify work in the chosen schema alone."""
    beside.run()
    beside.assert_equal()
    assert one(beside.engine, f"SELECT count(*) FROM {CHOSEN}.contact") == 3
    found = beside.sql("SELECT indexname FROM pg_indexes WHERE schemaname = :s", s=CHOSEN)
    assert {"contact_email_normalized_idx", "account_website_host_idx"} <= {row[0] for row in found}

    beside.org.update(beside.ann, {"Email": "Ann@X.example"})
    beside.org.merge(beside.bob, [beside.cid])
    beside.sim.clock.advance(60)
    beside.run()
    beside.assert_equal()
    assert {row[0] for row in beside.sql("SELECT op FROM crm.changes(2)")} == {"update", "merge"}
    assert beside.sql("SELECT crm.resolve_id(:id)", id=beside.cid) == [(beside.bob,)]

    beside.sim.clock.advance(3600)
    beside.run()
    beside.sql(f"UPDATE {CHOSEN}.contact SET title = 'tampered' WHERE id = :id", id=beside.ann)
    beside.sql(f"DELETE FROM {CHOSEN}.account WHERE id = :id", id=beside.bolt)
    pipeline.verify_all(beside.context("verify"), ["Account", "Contact"], repair=True, sample=None)
    beside.assert_equal()


def test_a_purge_and_a_resync(beside: World) -> None:
    """What is purged becomes a tombstone there, and a resync writes there."""
    beside.run()
    beside.sim.clock.advance(3600)
    beside.org.purge(beside.cid)
    beside.sim.clock.advance(60)
    beside.sql(f"UPDATE {CHOSEN}.contact SET title = 'tampered' WHERE id = :id", id=beside.ann)

    beside.run()
    pipeline.resync(beside.context("resync"), ["Contact"], None)

    assert beside.row(beside.cid)["deleted_reason"] == "purged"
    assert beside.row(beside.ann)["title"] is None


def test_privacy_and_dependants(beside: World) -> None:
    """Excluded fields, the values of tombstones, and contacts that a merge of accounts moved are written there."""
    beside.org.update(beside.ann, {"Title": "Boss", "AccountId": beside.bolt})
    beside.org.update(beside.bob, {"Title": "Chief"})
    beside.run()
    beside.sim.clock.advance(3600)
    beside.org.delete(beside.cid)
    beside.org.merge(beside.acme, [beside.bolt])
    beside.environment |= {"SYNC_EXCLUDED_FIELDS": "Contact.Title", "SYNC_TOMBSTONE_VALUES": "erase"}

    beside.run()

    assert beside.sql(f"SELECT DISTINCT title FROM {CHOSEN}.contact") == [(None,)]
    assert (beside.row(beside.cid)["deleted_reason"], beside.row(beside.cid)["last_name"]) == (
        "deleted",
        None,
    )
    assert beside.row(beside.ann)["account_id"] == beside.acme
    assert beside.row(beside.bolt)["deleted_reason"] == "merged"


def test_consumers_and_operators(beside: World) -> None:
    """`check`, `status`, `grant` and `erase` look at the chosen schema, and a consumer reads it by schema crm."""
    beside.run()
    context = beside.context("check")
    found = {each.subject: each for each in checks.check(context.settings, context.session, beside.engine)}
    assert {each.subject for each in found.values() if each.state == "failed"} == set()

    with tables.transaction(beside.engine) as connection:
        assert status.read_status(connection, ["Account", "Contact"], timedelta(minutes=30)).stale == ()
    assert beside.sql("SELECT object, rows FROM crm.freshness ORDER BY 1") == [("Account", 2), ("Contact", 3)]
    with role(beside.engine) as consumer:
        with tables.transaction(beside.engine) as connection:
            assert grants.grant(connection, consumer.name).endswith("and nothing else")
        assert len(consumer.ask("SELECT * FROM crm.customer")) == 3
        consumer.granted(f"USAGE ON SCHEMA {CHOSEN}")
        with tables.transaction(beside.engine) as connection:
            assert f"it has rights on {CHOSEN}, too" in grants.grant(connection, consumer.name)

    ids = pipeline.group_by_object([beside.ann])
    done = erasure.erase(beside.engine, ids, "test", "request 7", timedelta(seconds=5), beside.stop)
    assert done.rows == {"Contact": 1}
    assert beside.row(beside.ann)["last_name"] is None


def test_rights_name_the_chosen_schema(beside: World) -> None:
    """A role without any right is told to be granted what it needs in the chosen schema, not in another."""
    with role(beside.engine) as stranger:
        engine = tables.engine(stranger.engine.url, owner="test")
        try:
            context = beside.context("check")
            found = {each.subject: each for each in checks.check(context.settings, context.session, engine)}
            remedy = found["migrations"].remedy
            assert f"GRANT USAGE ON SCHEMA {CHOSEN}, sync, crm TO " in remedy
            for statement in re.findall(r"GRANT [^;]+(?=;)", remedy):
                beside.sql(statement)
            again = {each.subject: each for each in checks.check(context.settings, context.session, engine)}
        finally:
            engine.dispose()
    assert {each.subject for each in again.values() if each.state == "failed"} == set()


def test_who_holds_a_lock_is_found(beside: World) -> None:
    """A session that holds a lock in the chosen schema is named, one that uses Heroku Connect's tables is not."""
    ours, theirs = (create_engine(beside.database, poolclass=NullPool).connect() for _ in range(2))
    engine = tables.engine(beside.settings.postgres, owner="release")
    with ours, theirs:
        ours.execute(text(f"LOCK TABLE {CHOSEN}.contact IN SHARE MODE"))
        theirs.execute(text("LOCK TABLE salesforce.contact IN SHARE MODE"))
        pid = ours.execute(text("SELECT pg_backend_pid()")).scalar_one()

        named = tables.describe_blockers(engine)
    engine.dispose()

    assert f"process {pid} " in named
    assert named.count("process ") == 1


def test_no_statement_of_the_migrations_names_another_schema(beside: World) -> None:
    """Neither functions nor views of ours name `salesforce` in a database whose replicas are elsewhere."""
    bodies = [
        row[0]
        for statement in (
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = ANY ('{crm,sync}'::regnamespace[])",
            "SELECT pg_get_viewdef(oid) FROM pg_class WHERE relkind = 'v' AND relnamespace = 'crm'::regnamespace",
        )
        for row in beside.sql(statement)
    ]

    assert any(f"{CHOSEN}.contact" in body for body in bodies)
    assert not [body for body in bodies if re.search(r"\bsalesforce\.", body)]


def test_the_schemas_are_the_same_but_for_the_name(beside: World, database: str) -> None:
    """Tables, columns, keys and indexes in the chosen schema are those of the usual one."""
    usual = create_engine(database, poolclass=NullPool)
    mine = create_engine(beside.database, poolclass=NullPool)

    there = catalog(mine, (CHOSEN, "sync", "crm"))
    expected = catalog(usual, SCHEMAS)

    def plain(found: object) -> str:
        return re.sub(rf"\b{CHOSEN}\b", "salesforce", str(found))

    for name, lines in expected.items():
        assert sorted(map(plain, there[name])) == sorted(map(plain, lines)), name


# ── the setting ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "is taken") for name in ("crm", "sync", "public", "information_schema", "pg_toast", "pg_x")),
        *(
            (name, "is not a schema name")
            for name in ("CRM", "my schema", 'a"b', "a-b", "1a", "ä", " ", "a.b", "a;b")
        ),
        ("a" * 64, "has 64 characters"),
        *((name, "is a reserved word") for name in ("user", "order", "left")),
    ],
)
def test_names_that_cannot_be_are_refused(name: str, reason: str) -> None:
    """A reserved, too long or odd name of a schema is refused at once, with the rule."""
    with pytest.raises(ValueError, match=reason):
        settings_from({"DATABASE_URL": "postgres://a:b@c/d", "SYNC_REPLICA_SCHEMA": name})


@pytest.mark.parametrize("name", ["salesforce", "a" * 63, "_crm2", "heroku_connect"])
def test_names_that_can_be_are_taken(sim: Simulator, name: str) -> None:
    """Lower-case letters, digits and underscores, up to 63."""
    given = {"DATABASE_URL": "postgres://a:b@c/d", **sim.environment(), "SYNC_REPLICA_SCHEMA": name}
    assert settings_from(given).sync_replica_schema == name


def test_the_first_migration_beside_heroku_connect(empty_database: str, empty: Engine) -> None:
    """`alembic upgrade head` refuses a schema that holds something of others in one line that names the setting;
    with the setting it works, and the name is remembered."""
    execute(empty, *HEROKU_CONNECT)
    theirs = one(empty, f"SELECT md5(string_agg(x::text, '')) FROM ({THEIRS}) AS x")

    refused = alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database)

    assert refused.returncode == 3
    assert len(refused.stderr.splitlines()) == 1
    assert "the schema salesforce is there already and holds what is not this product's" in refused.stderr
    remedy = re.search(r"SYNC_REPLICA_SCHEMA=(\w+)", refused.stderr)
    assert remedy is not None
    left = "SELECT count(*) FROM pg_namespace WHERE nspname IN ('sync', 'crm')"
    assert one(empty, left) == 0

    done = alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database, SYNC_REPLICA_SCHEMA=remedy[1])
    assert done.returncode == 0, done.stderr
    assert one(empty, "SELECT name FROM sync.replica_schema") == remedy[1]
    assert one(empty, f"SELECT count(*) FROM {remedy[1]}.contact") == 0
    assert one(empty, f"SELECT md5(string_agg(x::text, '')) FROM ({THEIRS}) AS x") == theirs

    other = alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database, SYNC_REPLICA_SCHEMA="other")
    assert (other.returncode, len(other.stderr.splitlines())) == (3, 1)
    assert f"set SYNC_REPLICA_SCHEMA={remedy[1]}, or unset it" in other.stderr
    assert alembic(ROOT, "upgrade", "head", DATABASE_URL=empty_database).returncode == 0


def test_an_empty_schema_that_is_there_is_used(empty: Engine) -> None:
    """An empty schema is no obstacle: somebody may have made it for the replicas."""
    execute(empty, "CREATE SCHEMA salesforce")

    embedded.migrate(empty)

    assert one(empty, "SELECT count(*) FROM salesforce.contact") == 0


def test_a_schema_that_the_role_may_not_use(empty: Engine) -> None:
    """An empty schema of somebody else, without the right to create in it, ends the first migration with the remedy."""
    execute(empty, f"CREATE SCHEMA {CHOSEN}")
    with role(empty) as poor:
        execute(empty, f"GRANT CREATE ON DATABASE {empty.url.database} TO {poor.name}")
        with pytest.raises(ReplicaSchemaError, match="grant it CREATE and USAGE on the schema"):
            embedded.migrate(poor.engine, replicas=CHOSEN)
        poor.granted(f"USAGE, CREATE ON SCHEMA {CHOSEN}")

        embedded.migrate(poor.engine, replicas=CHOSEN)

        assert poor.ask(f"SELECT count(*) FROM {CHOSEN}.contact") == [(0,)]


def test_a_schema_sync_of_others_is_named(empty: Engine) -> None:
    """A schema sync that holds something of others ends the first migration with its tables, nothing changed."""
    execute(
        empty, "CREATE SCHEMA sync", "CREATE TABLE sync.cursor (id int)", "CREATE TABLE sync.job (id int)"
    )

    with pytest.raises(SyncError, match=r"the schema sync is there already .* \(cursor, job\): rename it"):
        embedded.migrate(empty, replicas=CHOSEN)

    assert one(empty, "SELECT to_regclass('sync.alembic_version') IS NULL")
    assert one(empty, f"SELECT to_regnamespace('{CHOSEN}') IS NULL")


def test_a_database_of_an_earlier_release(empty: Engine) -> None:
    """A database that was migrated before the name was a setting has `salesforce`, and remembers it from now on."""
    embedded.migrate(empty, "0007")
    execute(empty, "DROP TABLE sync.replica_schema")
    execute(
        empty, "INSERT INTO salesforce.account (id, is_deleted, system_modstamp) VALUES ('001', false, now())"
    )
    with pytest.raises(ReplicaSchemaError, match="has its replicas in the schema salesforce"):
        embedded.migrate(empty, replicas=CHOSEN)

    engine = tables.engine(empty.url, owner="test")
    with tables.transaction(engine) as connection:
        assert replica_schema.schema_in_use(connection) == "salesforce"
    embedded.migrate(empty)

    assert one(empty, "SELECT name FROM sync.replica_schema") == "salesforce"
    assert one(empty, "SELECT count(*) FROM salesforce.account") == 1
    engine.dispose()


def test_down_and_up_again(empty: Engine) -> None:
    """Every migration is undone in the chosen schema, and after the first one another name may be chosen."""
    execute(empty, *HEROKU_CONNECT)
    embedded.migrate(empty, replicas=CHOSEN)
    settings = Config(str(ROOT / "alembic.ini"))
    with empty.begin() as connection:
        settings.attributes["connection"] = connection
        command.downgrade(settings, "0007")
    embedded.migrate(empty)
    assert one(empty, "SELECT name FROM sync.replica_schema") == CHOSEN

    with empty.begin() as connection:
        settings.attributes["connection"] = connection
        command.downgrade(settings, "base")
    assert one(empty, f"SELECT to_regnamespace('{CHOSEN}') IS NULL")
    embedded.migrate(empty, replicas="another")

    assert one(empty, "SELECT name FROM sync.replica_schema") == "another"
    assert one(empty, "SELECT count(*) FROM another.contact") == 0


def test_a_migration_is_not_generated_against_another_schema(empty: Engine) -> None:
    """A generated migration would make the replicas anew in `salesforce`: it is refused with what to do."""
    embedded.migrate(empty, replicas=CHOSEN)
    settings = Config(str(ROOT / "alembic.ini"))
    with empty.begin() as connection:
        settings.attributes["connection"] = connection
        with pytest.raises(ReplicaSchemaError, match="as `make migration` does"):
            command.check(settings)


@pytest.mark.parametrize(
    "arguments", [["status"], ["run"], ["verify"], ["changes"], ["rejects"], ["grant", "x"], ["worker"]]
)
def test_another_name_ends_every_command(
    beside: World, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command whose setting names another schema than the remembered one ends with both and the remedy."""
    for name, value in beside.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SYNC_REPLICA_SCHEMA", "salesforce")

    result = CliRunner().invoke(app, arguments)

    assert isinstance(result.exception, ReplicaSchemaError)
    assert result.exception.exit_code == ConfigError.exit_code == 3
    assert "SYNC_REPLICA_SCHEMA is salesforce, and this database" in str(result.exception)
    assert f"set SYNC_REPLICA_SCHEMA={CHOSEN}, or unset it" in str(result.exception)
    assert beside.sim.requests == []


def test_check_names_another_name(beside: World) -> None:
    """`check` names the setting among everything else that it finds."""
    context = beside.context("check")
    engine = tables.engine(beside.settings.postgres, owner="test", replicas="salesforce")
    try:
        found = {each.subject: each for each in checks.check(context.settings, context.session, engine)}
    finally:
        engine.dispose()

    assert (found["database"].state, found["database"].code) == ("failed", 3)
    assert CHOSEN in found["database"].detail
    assert "SYNC_REPLICA_SCHEMA" in found["database"].remedy
    assert found["login"].state == "ok"


@pytest.mark.parametrize("name", [None, CHOSEN])
def test_the_remembered_name_may_be_left_out(beside: World, name: str | None) -> None:
    """With the setting left out, or the remembered name in it, passes go on; the database is asked once."""
    engine = tables.engine(beside.settings.postgres, owner="test", replicas=name)
    try:
        with tables.transaction(engine) as connection:
            assert replica_schema.schema_in_use(connection) == CHOSEN
        with tables.transaction(engine) as connection:
            assert connection.execute(tables.REPLICA["Contact"].select()).all() == []
            assert tables.qualified_name(connection, tables.REPLICA["Contact"]) == f'"{CHOSEN}"."contact"'
    finally:
        engine.dispose()


def test_two_databases_in_one_process(world: World, beside: World) -> None:
    """Statements are kept by the name of the schema: databases with different ones do not mix."""
    for _ in range(2):
        beside.org.update(beside.ann, {"Title": "Boss"})
        for each in (beside, world):
            each.run()
            each.assert_equal()


def test_the_comparison_in_the_documentation_works(beside: World) -> None:
    """The query of docs/operating.md names the records that only one of the two products has."""
    beside.run()
    queries = re.findall(
        r"```sql\n(SELECT h\.sfid.*?;)\n```", (ROOT / "docs" / "operating.md").read_text(), re.S
    )

    assert [set(beside.sql(query)) for query in queries] == [
        {("003000000000001AAA", None), (None, beside.ann), (None, beside.bob), (None, beside.cid)}
    ]


# ── one place ─────────────────────────────────────────────────────────────────────────────────────────


def test_migrations_name_the_schema_where_it_is_translated() -> None:
    """Migrations name the schema as `salesforce.table`, `SCHEMA salesforce` or schema="salesforce", and not otherwise:
    those are run with the chosen name."""
    for path in sorted((ROOT / "migrations" / "versions").glob("*.py")):
        rest = replicas.NAME.sub("", path.read_text()).replace('schema="salesforce"', "")
        assert not re.search(r"\bsalesforce\b", rest), path.name


def test_modules_do_not_name_the_schema() -> None:
    """Statements are given a table's place by `located`: the schema of the metadata is not in their text."""
    naming = {
        str(path.relative_to(ROOT / "sync"))
        for path in (ROOT / "sync").rglob("*.py")
        if "simulator" not in path.parts
        and re.search(r"\bREPLICAS\b|\bsalesforce\.(\{|account|contact)", path.read_text())
    }

    assert naming <= {"postgres/tables.py", "postgres/views.py", "operations/audit/postgres.py"}
