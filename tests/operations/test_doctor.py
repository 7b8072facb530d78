"""`check` tries instead of looking: what a pass would fail by it finds, and what it names works when typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.operations import formats
from sync.operations.audit import checks, mapped, postgres
from sync.operations.audit.findings import Finding
from sync.postgres import tables
from sync.simulator import Simulator
from sync.simulator.fields import Field
from tests.support.consuming import Role, role
from tests.support.world import World

OURS = "salesforce, sync, crm"
ALL_RIGHTS = (f"USAGE ON SCHEMA {OURS}", f"ALL ON ALL TABLES IN SCHEMA {OURS}")


def checked(world: World, engine: Engine | None = None) -> dict[str, Finding]:
    """What `check` finds, by subject; every failure has a remedy and an exit code."""
    context = world.context("check")
    found = list(checks.check(context.settings, context.session, engine or world.engine))
    for one in found:
        assert one.state != "failed" or (one.remedy and one.code), one
    return {one.subject: one for one in found}


def failed(found: dict[str, Finding]) -> set[str]:
    return {subject for subject, one in found.items() if one.state == "failed"}


@pytest.fixture
def worker(world: World) -> Iterator[Role]:
    """A role with every right on the tables that is not their owner."""
    with role(world.engine) as found:
        yield found.granted(*ALL_RIGHTS)


@contextmanager
def connected(role: Role) -> Iterator[Engine]:
    """The product's own engine, as that role."""
    engine = tables.engine(role.engine.url, owner="test")
    try:
        yield engine
    finally:
        engine.dispose()


def typed(world: World, remedy: str) -> None:
    """Type the statements of a remedy as the owner."""
    for statement in re.findall(r"(?:GRANT|ALTER|SET) [^;]+?(?=;|$)", remedy):
        world.sql(statement)


# ── rights ────────────────────────────────────────────────────────────────────────────────────────────


def test_all_is_well(loaded: World) -> None:
    """A database and an org in which passes run give no failure, and a check leaves no trace."""
    names = ("run", "lease", "cursor", "change", "reject", "field", "org")
    before = [loaded.sql(f"SELECT * FROM sync.{name} ORDER BY 1") for name in names]

    found = checked(loaded)

    assert failed(found) == set()
    assert found["writing"].state == "ok"
    assert "temporary tables" not in found
    assert "ownership" not in found
    assert before == [loaded.sql(f"SELECT * FROM sync.{name} ORDER BY 1") for name in names]
    assert len(loaded.rows("Contact")) == 3
    assert loaded.run()[0].tally.rejected == 0


def test_taken_rights_are_found(world: World, worker: Role) -> None:
    """A role that may only read and delete, as over a plan's size, is told which rights it lacks, and where."""
    world.sql(f"REVOKE INSERT, UPDATE ON ALL TABLES IN SCHEMA salesforce, sync FROM {worker.name}")

    with connected(worker) as engine:
        lost = checked(world, engine)
        typed(world, lost["writing"].remedy)
        mended = checked(world, engine)

    assert failed(lost) == {"writing"}
    assert lost["writing"].detail.startswith(f"role {worker.name} may not INSERT in ")
    assert "UPDATE in " in lost["writing"].detail
    assert "sync.run" in lost["writing"].detail
    assert "salesforce.contact" in lost["writing"].detail
    assert "heroku pg:info" in lost["writing"].remedy
    assert failed(mended) == set()


@pytest.mark.parametrize(("right", "table"), [("INSERT", "sync.field"), ("DELETE", "sync.reject")])
def test_one_missing_right_is_found(world: World, worker: Role, right: str, table: str) -> None:
    """One right on one table, however seldom needed, is named."""
    world.sql(f"REVOKE {right} ON {table} FROM {worker.name}")

    with connected(worker) as engine:
        found = checked(world, engine)

    assert found["writing"].detail == f"role {worker.name} may not {right} in {table}"


def test_no_right_at_all(world: World) -> None:
    """A role that may not even look into our schemas is told what to grant, once for each thing to see."""
    with role(world.engine) as stranger, connected(stranger) as engine:
        lost = checked(world, engine)
        typed(world, lost["migrations"].remedy)
        assert failed(checked(world, engine)) == set()

    assert failed(lost) == {"migrations"}


def test_no_temporary_tables(world: World, worker: Role) -> None:
    """Every page is loaded through a temporary table: a role that may make none is told what to type."""
    database = make_url(world.database).database
    world.sql(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")

    with connected(worker) as engine:
        lost = checked(world, engine)
        typed(world, lost["temporary tables"].remedy)
        mended = checked(world, engine)

    assert failed(lost) == {"temporary tables"}
    assert failed(mended) == set()


def test_not_the_owner(world: World, worker: Role) -> None:
    """Tables of another owner are a warning: migrations and a first load's indexes need its rights."""
    with connected(worker) as engine:
        lost = checked(world, engine)
        world.sql(lost["ownership"].remedy.rpartition(": ")[2])
        mended = checked(world, engine)

    assert (lost["ownership"].state, failed(lost)) == ("warning", set())
    assert worker.name in lost["ownership"].detail
    assert "ownership" not in mended


def test_read_only_by_default(world: World, worker: Role) -> None:
    """A role whose transactions are read-only by default is told how to change that, as it has to be typed."""
    world.sql(f"ALTER ROLE {worker.name} SET default_transaction_read_only = on")

    with connected(worker) as engine:
        lost = checked(world, engine)
    statements = lost["database"].remedy.partition(": ")[2].split("; ")
    with create_engine(
        worker.engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT"
    ).connect() as typing:
        for statement in statements:
            typing.execute(text(statement))
    with connected(worker) as engine:
        mended = checked(world, engine)

    assert failed(lost) == {"database"}
    assert "read-only" in lost["database"].detail
    assert failed(mended) == set()


def test_a_failing_trigger_is_found(world: World) -> None:
    """What somebody put on a replica, and what fails there, fails here: a row is really written."""
    world.sql(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE EXCEPTION 'not here'; END$$"
    )
    world.sql(
        "CREATE TRIGGER no BEFORE INSERT ON salesforce.contact FOR EACH ROW EXECUTE FUNCTION public.no()"
    )

    found = checked(world)

    assert failed(found) == {"writing"}
    assert "not here" in found["writing"].detail


def test_a_lock_in_the_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that somebody else has locked is no missing right: who has it is told, and what ends it."""
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT", text("SET LOCAL lock_timeout = '50ms'"))
    with create_engine(world.database, poolclass=NullPool).begin() as other:
        other.execute(text("LOCK TABLE sync.reject IN SHARE ROW EXCLUSIVE MODE"))
        found = checked(world)

    assert failed(found) == {"writing"}
    assert "pg_terminate_backend" in found["writing"].detail
    assert found["writing"].remedy.startswith("end the session that the error names")


def test_a_database_that_is_not_there(world: World) -> None:
    """One cause is told once, and the org is looked at all the same."""
    engine = tables.engine(make_url("postgresql+psycopg2://me:x@127.0.0.1:9/none"), owner="test")

    found = checked(world, engine)

    assert failed(found) == {"database"}
    assert found["Contact"].state == "ok"


# ── migrations, org ───────────────────────────────────────────────────────────────────────────────────


def test_a_newer_database(world: World) -> None:
    """After a rollback of the release nothing is to be upgraded: the database is newer, and works."""
    world.sql("UPDATE sync.alembic_version SET version_num = '9999'")

    found = checked(world)

    assert found["migrations"].state == "warning"
    assert "9999" in found["migrations"].detail
    assert "older" in found["migrations"].detail
    assert "alembic" not in found["migrations"].remedy
    assert "deploy the newer release" in found["migrations"].remedy
    assert found["writing"].state == "ok"


def test_an_older_database(world: World) -> None:
    """Where migrations are missing the command is named."""
    world.sql("UPDATE sync.alembic_version SET version_num = '0003'")

    found = checked(world)

    assert failed(found) == {"migrations"}
    assert found["migrations"].remedy == "run `alembic upgrade head`"
    assert " of the catalogue's are not visible" in found["Contact fields"].detail


def test_another_org(loaded: World) -> None:
    """Settings that lead to another org than the remembered one are a failure, 6, that names both ways out."""
    loaded.sql("UPDATE sync.org SET organization_id = '00D000000000001'")

    found = checked(loaded)

    assert failed(found) == {"org"}
    assert found["org"].code == 6
    assert "00D000000000001" in found["org"].detail
    assert "SALESFORCE_LOGIN_URL" in found["org"].remedy
    assert found["org"].remedy.endswith("python -m sync run --accept-org")


# ── the org's answers ─────────────────────────────────────────────────────────────────────────────────


def test_a_refused_query_is_found(loaded: World) -> None:
    """A field that describe lists and the query refuses is named, with what leaves it out."""
    loaded.org.add_field("Contact", Field("Gone__c", "string", length=20))
    loaded.sim.faults.add("invalid_field", on="query", sobject="Contact", after=1, times=None)

    found = checked(loaded)

    assert failed(found) == {"Contact query"}
    assert "No such column 'Gone__c'" in found["Contact query"].detail
    assert "Contact.Gone__c in SYNC_EXCLUDED_FIELDS" in found["Contact query"].remedy
    loaded.sim.faults.clear()
    loaded.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Gone__c"
    assert failed(checked(loaded)) == set()


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ("query_too_complicated", "SYNC_EXCLUDED_FIELDS"),
        ("insufficient_access", "read access"),
        ("uri_too_long", "proxy"),
        ("unavailable_html", "status.salesforce.com"),
    ],
)
def test_every_refusal_has_a_remedy(loaded: World, fault: str, word: str) -> None:
    """Whatever Salesforce answers to the object's own query, there is something to do."""
    loaded.sim.faults.add(fault, on="query", sobject="Contact", after=1, times=None)

    found = checked(loaded)

    assert failed(found) == {"Contact query"}
    assert word in found["Contact query"].remedy


def widened(world: World) -> None:
    """So many custom fields that the query is too long for a URL."""
    for number in range(420):
        world.org.add_field(
            "Contact", Field(f"A_custom_field_of_some_length_{number}__c", "string", length=9)
        )


def test_a_long_query_is_tried_by_bulk(loaded: World) -> None:
    """A query that no URL carries is tried the way that it would be read, and no job is left behind."""
    widened(loaded)

    found = checked(loaded)

    assert failed(found) == set()
    assert found["Account query"].detail.startswith("REST answers ")
    assert re.search(r"REST answers for its \d+ fields in 2 queries", found["Contact query"].detail)
    assert found["Contact query"].detail.endswith("Bulk API answers it")
    assert loaded.org.jobs.all() == []


def test_fields_are_told_by_number(loaded: World) -> None:
    """What an edition never has, and what the catalogue leaves out, are numbers: a loss stands out."""
    loaded.org.hide_field("Contact", "Title")
    loaded.run()

    context = loaded.context("check")
    found = list(checks.check(context.settings, context.session, context.engine))
    lost, never = [one for one in found if one.subject == "Contact fields"]

    assert re.search(r"and \d+ standard fields outside the catalogue$", checked(loaded)["Contact"].detail)
    assert (lost.state, never.state) == ("warning", "ok")
    assert "Title" in lost.detail
    hidden = [
        line.field
        for line in mapped.schema(context.settings, context.session, "Contact")
        if line.state == "hidden"
    ]
    assert never.detail.startswith(f"{len(hidden) - 1} of the catalogue's have never been visible")
    assert "python -m sync schema --object Contact" in never.detail


# ── size ──────────────────────────────────────────────────────────────────────────────────────────────


def test_size_and_growth(loaded: World) -> None:
    """The size is Postgres's; the growth is what the last week's passes wrote, first loads left out."""
    size = checked(loaded)["database size"]
    assert re.match(r"\d+\.\d MB; the plan's limit is not known", size.detail)

    loaded.sql("DELETE FROM sync.run")
    for days in (4, 2):
        loaded.sql(
            "INSERT INTO sync.run (object, command, owner, outcome, since, started_at, inserted) VALUES "
            "('Contact', 'worker', 'w', 'succeeded', now(), now() - make_interval(days => :days), 1000)",
            days=days,
        )
    with loaded.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE salesforce.contact, sync.change, sync.run"))
    with tables.transaction(loaded.engine) as connection:
        grown = postgres.growth(connection)
        per_contact = connection.execute(
            text("SELECT pg_total_relation_size('salesforce.contact') / 3.0")
        ).scalar_one()

    assert grown is not None
    assert grown >= 2000 * float(per_contact) / 4 * 0.99
    assert re.match(r"\d+\.\d MB, about \d+\.\d MB more a day;", checked(loaded)["database size"].detail)


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 kB"), (831_488, "812 kB"), (1_258_291, "1.2 MB"), (3.5 * 2**30, "3.5 GB")]
)
def test_bytes(count: float, told: str) -> None:
    """A number of bytes is told in the unit that matters."""
    assert formats.format_bytes(count) == told


def test_a_login_that_fails_has_a_remedy(sim: Simulator, world: World) -> None:
    """A refused login ends the look at the org, with what to mend."""
    sim.faults.add("token_wrong_secret", on="token", times=None)

    found = checked(world)

    assert failed(found) == {"login"}
    assert found["login"].code == 3
