"""A consumer stays a consumer: no call of ours, and none of theirs, runs their code with our rights."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.pool import NullPool

from sync.errors import (
    LockedError,
    ObjectsFailedError,
    SyncError,
    UsageError,
)
from sync.operations import grants
from sync.operations.audit import postgres
from sync.postgres import tables
from sync.postgres.load import merge, sql
from sync.postgres.state import journal, leases
from sync.replication import pipeline
from tests.support.asking import open_requests
from tests.support.consuming import GRANTS, Role, role
from tests.support.world import ROOT, World

# Valid arguments for every function of schema crm that runs with the owner's rights.
CALLS = {
    "changes": "crm.changes(0, 10)",
    "resolve_id": "crm.resolve_id('001000000000001AAA')",
    "feed_position": "crm.feed_position()",
    "wait_until": "crm.wait_until(pg_catalog.now(), '0s')",
    "complete_through": "crm.complete_through(ARRAY['Contact'])",
    "changes_since": "crm.feed_position() AS p, LATERAL crm.changes_since(p.epoch, p.seq, 10)",
    "subscribe": "crm.subscribe('orders')",
    "poll": "crm.subscribe('orders') AS s, LATERAL crm.poll('orders', (10 + 0 * s.seq)::pg_catalog.int4)",
    "ack": "crm.subscribe('orders') AS s, LATERAL crm.ack('orders', s.seq)",
    "unsubscribe": "crm.subscribe('orders') AS s, LATERAL crm.unsubscribe(substr('orders', s.seq::pg_catalog.int4))",
    "request": "crm.request('003000000000002AAA')",
    "wait_for": "crm.wait_for('003000000000001AAA', 1, '0s')",
}
DEFINERS = """
SELECT p.proname, p.proconfig, has_function_privilege('public', p.oid, 'EXECUTE') AS public
  FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = 'crm'::regnamespace AND p.prosecdef
"""
# Types that a call might name: as domains of the caller's, their checks are the caller's code.
SHADOWED = ("timestamptz", "interval", "text", "int8", "int4", "bool", "name")


def answered(world: World) -> None:
    """A worker has started, and has answered the request that `wait_for` of CALLS waits for."""
    open_requests(world)
    world.sql("INSERT INTO sync.answer (record_id, taken, answered) VALUES ('003000000000001AAA', 1, 1)")


@pytest.fixture
def consumer(world: World) -> Iterator[Role]:
    answered(world)
    with role(world.engine) as found:
        yield found.granted(*GRANTS)


@pytest.fixture
def trap(world: World) -> None:
    """A table that shows whose rights a piece of code had."""
    world.sql("CREATE TABLE public.caught (who text)")
    world.sql("GRANT INSERT ON public.caught TO PUBLIC")


def caught(world: World) -> set[str]:
    return {row[0] for row in world.sql("SELECT who FROM public.caught")}


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────


def test_every_definer_function_has_a_safe_search_path(world: World) -> None:
    """A function with its owner's rights looks into pg_catalog, then pg_temp, and nowhere else; no right is
    everybody's."""
    found = {row.proname: (row.proconfig, row.public) for row in world.sql(DEFINERS)}

    assert found == {name: (["search_path=pg_catalog, pg_temp"], False) for name in CALLS}


def test_every_function_is_granted_by_role(world: World) -> None:
    """A function that a migration forgot to take from PUBLIC is found in the catalogue."""
    open_to_all = world.sql(
        "SELECT p.oid::regprocedure::text FROM pg_catalog.pg_proc AS p "
        "WHERE p.pronamespace = ANY ('{crm,sync,salesforce}'::regnamespace[]) "
        "AND has_function_privilege('public', p.oid, 'EXECUTE')"
    )

    assert open_to_all == []


@pytest.mark.parametrize("function", CALLS)
def test_types_of_the_caller_are_not_ours(world: World, consumer: Role, trap: None, function: str) -> None:
    """Domains in the caller's temporary schema, named like types, run nothing with the owner's rights."""
    with consumer.connect() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION pg_temp.evil() RETURNS boolean LANGUAGE plpgsql AS $$ "
                "BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END $$"
            )
        )
        for name in SHADOWED:
            connection.execute(
                text(f"CREATE DOMAIN pg_temp.{name} AS pg_catalog.{name} CHECK (pg_temp.evil())")
            )
        connection.execute(text(f"SELECT * FROM {CALLS[function]}"))
        connection.commit()

    assert caught(world) - {consumer.name} == set()


def test_functions_in_public_are_not_ours(world: World, consumer: Role, trap: None) -> None:
    """A better match in `public` for a function that our statements call is not called by them."""
    world.sql(f"GRANT CREATE ON SCHEMA public TO {consumer.name}")
    body = "BEGIN INSERT INTO public.caught VALUES (current_user); RETURN {}; END"
    for signature, returns, value in (
        ("make_interval(secs integer)", "interval", "interval '30 s'"),
        ("pg_notify(text, pg_catalog.varchar)", "void", "NULL"),
        ("coalesce_(text)", "text", "NULL"),
        ("num_nonnulls(text)", "integer", "1"),
    ):
        returned = body.format(value) if returns != "void" else body.replace("RETURN {};", "")
        consumer.ask(
            f"CREATE FUNCTION public.{signature} RETURNS {returns} LANGUAGE plpgsql AS $${returned}$$"
        )

    leases.acquire(world.engine, "Contact", "test", timedelta(0), world.stop)
    world.expire_leases()
    world.org.create("Account", {"Name": "Acme"})
    world.run()

    assert caught(world) == set()


def test_migrations_look_into_pg_catalog_alone(empty_database: str) -> None:
    """Whatever others made in `public` of the database, a migration sees none of it by its bare name."""
    owner = create_engine(empty_database, poolclass=NullPool)
    settings = Config(str(ROOT / "alembic.ini"))
    with owner.begin() as connection:
        connection.execute(text("CREATE TABLE public.cursor (object text)"))
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")

        assert connection.execute(text("SHOW search_path")).scalar() == "pg_catalog, pg_temp"
        assert connection.execute(text("SELECT to_regclass('cursor')")).scalar() is None


def test_every_transaction_begins_with_the_search_path(world: World) -> None:
    """Whatever the database or the role say, a transaction of ours looks into pg_catalog and pg_temp alone."""
    name = world.engine.url.database
    world.sql(f'ALTER DATABASE "{name}" SET search_path = public')
    world.engine.dispose()

    assert world.sql("SHOW search_path") == [("pg_catalog, pg_temp",)]


# ── rights ────────────────────────────────────────────────────────────────────────────────────────────


def granting(engine: Engine, name: str) -> str:
    with tables.transaction(engine) as connection:
        return grants.grant(connection, name)


def test_grant_and_revoke(loaded: World) -> None:
    """A granted role reads everything in `crm`, views to come included, and nothing else; revoked, nothing."""
    answered(loaded)
    with role(loaded.engine) as consumer:
        for _ in range(2):
            assert granting(loaded.engine, consumer.name).endswith("and nothing else")
        loaded.sql("CREATE VIEW crm.later AS SELECT id FROM salesforce.contact")
        for readable in ("crm.account", "crm.contact", "crm.customer", "crm.freshness", "crm.later"):
            assert consumer.ask(f"SELECT count(*) FROM {readable}")[0][0] > 0
        for call in CALLS.values():
            consumer.ask(f"SELECT * FROM {call}")
        for forbidden in (
            "SELECT * FROM salesforce.contact",
            "SELECT * FROM sync.run",
            "DELETE FROM crm.contact",
            "CREATE VIEW crm.mine AS SELECT 1",
        ):
            with pytest.raises(ProgrammingError, match="permission denied"):
                consumer.ask(forbidden)

        for ended in ("; 1 of its consumers of the feed ended; 1 of its requests withdrawn", ""):
            with tables.transaction(loaded.engine) as connection:
                said = grants.revoke(connection, consumer.name)
            assert said == f"role {consumer.name} has no right on schema crm any more{ended}"
        loaded.sql("CREATE VIEW crm.much_later AS SELECT 1 AS one")
        loaded.sql(f"GRANT USAGE ON SCHEMA crm TO {consumer.name}")
        for schema in ("crm.account", "crm.later", "crm.much_later", CALLS["changes"]):
            with pytest.raises(ProgrammingError, match="permission denied"):
                consumer.ask(f"SELECT * FROM {schema}")


def test_grant_explains_what_cannot_be_granted(world: World) -> None:
    """A role that is not there, the owner, and members of the owner's role are refused with what to do instead."""
    owner = world.sql("SELECT current_user")[0][0]
    with role(world.engine) as member:
        world.sql(f"GRANT {owner} TO {member.name}")
        for name, reason in (
            ("nobody'; DROP", "there is no role"),
            (owner, f"has the rights of {owner}"),
            (member.name, f"has the rights of {owner}"),
        ):
            with pytest.raises(UsageError, match=reason) as refused:
                granting(world.engine, name)
            assert "pg:credentials:create" in str(refused.value)
            assert "Essential plans have a single credential" in str(refused.value)
    with (
        role(world.engine) as stranger,
        pytest.raises(SyncError, match="or a member of that role may grant"),
    ):
        granting(stranger.engine, stranger.name)


def test_grant_names_rights_that_are_more(loaded: World) -> None:
    """Rights on our other schemas that somebody else granted are named, with the statement that ends them."""
    with role(loaded.engine) as consumer, tables.transaction(loaded.engine) as connection:
        connection.execute(text(f"GRANT USAGE ON SCHEMA salesforce TO {consumer.name}"))
        said = grants.grant(connection, consumer.name)
        remedy = said.partition("taken back with: ")[2]
        connection.execute(text(remedy))

        assert grants.grant(connection, consumer.name).endswith("and nothing else")


def test_grant_tells_rights_of_a_group(loaded: World) -> None:
    """Rights that come through another role are named as such, and `check` names who has them."""
    with role(loaded.engine) as consumer:
        loaded.sql(f"GRANT pg_read_all_data TO {consumer.name}")
        said = granting(loaded.engine, consumer.name)
        assert "through a role that it belongs to: salesforce, sync" in said
        assert "REVOKE" not in said
        assert loaded.sql(said.partition("to see which: ")[2].replace("::", "\\:\\:")) == [
            ("pg_read_all_data",)
        ]
        found = list(postgres.consumers(loaded.engine))

    assert any(consumer.name in one.detail and one.state == "warning" for one in found)


def test_grant_command(world: World) -> None:
    """The command grants by the name it is given, and ends with 2 for a role that is not there."""
    with role(world.engine) as consumer:
        done = world.command("grant", consumer.name)
        assert (done.returncode, consumer.ask("SELECT count(*) FROM crm.account")) == (0, [(0,)])
        assert world.command("grant", "nobody").returncode == 2


def test_check_names_who_shares_the_owners_rights(world: World) -> None:
    """`check` tells who reads schema crm, who may change it all, and what a database of one role means."""
    [alone] = list(postgres.consumers(world.engine))
    assert alone.state == "warning"
    assert "Essential plans have one credential" in alone.remedy

    owner = world.sql("SELECT current_user")[0][0]
    with role(world.engine) as member, role(world.engine) as reader:
        world.sql(f"GRANT {owner} TO {member.name}")
        reader.granted(*GRANTS)
        world.sql("GRANT USAGE ON SCHEMA crm TO PUBLIC")
        found = list(postgres.consumers(world.engine))

    assert [one.state for one in found] == ["warning", "warning", "ok"]
    assert member.name in found[0].detail
    assert "every role" in found[1].detail
    assert reader.name in found[2].detail


# ── what a consumer may cost ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("crm.changes(NULL)", "after is NULL.*HINT:  Pass the last seq"),
        ("crm.changes(0, NULL)", "max is NULL.*HINT:  Ask for at most 10000"),
        ("crm.changes(0, 10001)", "max is 10001.*HINT:  Ask for at most 10000"),
        ("crm.changes(0, 0)", "max is 0"),
        ("crm.wait_until(now(), '1000 years')", "timeout is 1000 years.*HINT:  Remember now"),
        ("crm.wait_until(now(), '61 seconds')", "at most 00:01:00"),
        ("crm.wait_until(now(), '1200 months -36000 days')", "at most 00:01:00"),
        ("crm.wait_until(NULL)", "must not be NULL"),
        ("crm.wait_until(now(), NULL)", "must not be NULL"),
    ],
)
def test_unbounded_calls_are_errors_with_a_hint(
    world: World, consumer: Role, call: str, complaint: str
) -> None:
    """What would cost too much, or silently give nothing, is an error that says what to write instead."""
    with pytest.raises(DBAPIError, match=f"(?s){complaint}"):
        consumer.ask(f"SELECT * FROM {call}")


def test_the_largest_calls_are_answered(loaded: World, consumer: Role) -> None:
    """The limits themselves are allowed."""
    assert len(consumer.ask("SELECT * FROM crm.changes(0, 10000)")) == 2
    longest = "SELECT crm.wait_until('1000-01-01', '60 seconds', ARRAY['Account'])"
    assert consumer.ask(longest) == [(True,)]


def test_a_waiting_consumer_holds_no_lock_of_ours(loaded: World) -> None:
    """While somebody waits, whatever a migration alters can be altered at once."""
    with role(loaded.engine) as consumer:
        consumer.granted(*GRANTS)
        waiting = threading.Thread(
            target=lambda: consumer.ask("SELECT crm.wait_until(now() + interval '1 day', '1500ms')")
        )
        waiting.start()
        try:
            time.sleep(0.3)
            held = loaded.sql(
                "SELECT l.relation::regclass::text FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) "
                "WHERE a.usename = :name AND l.relation IS NOT NULL AND a.query LIKE '%wait_until%'",
                name=consumer.name,
            )
            loaded.sql("SET LOCAL lock_timeout = '100ms'; ALTER TABLE sync.cursor ADD COLUMN later int")
        finally:
            waiting.join()

    assert held == []


@pytest.mark.parametrize(("full", "notified"), [("0.5", 1), ("0", 0)])
def test_a_full_notification_queue_is_not_filled_further(world: World, full: str, notified: int) -> None:
    """No notification is queued above a share of the queue: a full one aborts the commit of every notifier."""
    assert "usage() < 0.5" in str(sql.NOTIFY)
    with world.engine.connect() as listening:
        listening.detach()  # one that listens is not for the next test
        driver: Any = listening.connection.dbapi_connection
        listening.execute(text("LISTEN sync_change"))
        listening.commit()
        world.sql(str(sql.NOTIFY).replace("usage() < 0.5", f"usage() < {full}"))
        listening.execute(text("SELECT 1"))

        assert len(driver.notifies) == notified


def test_an_advisory_lock_of_somebody_is_no_concern(
    world: World, consumer: Role, empty_database: str
) -> None:
    """No advisory lock is used: any role could hold it for ever."""
    for folder in ("sync", "migrations"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "advisory" not in path.read_text().replace("an advisory lock has no owner", ""), path.name


def test_an_open_transaction_of_a_reader_does_not_stop_a_first_load(world: World) -> None:
    """A consumer that leaves a transaction open delays a first load by a second at most."""
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(3)])
    with role(world.engine) as consumer:
        consumer.granted(*GRANTS)
        with consumer.connect() as idle:
            idle.execute(text("SELECT * FROM crm.contact"))
            world.run()

            assert len(world.rows("Contact")) == 3
    indexes = {row[0] for row in world.sql("SELECT indexname FROM pg_indexes WHERE tablename = 'contact'")}
    assert indexes >= {index.name for index in tables.REPLICA["Contact"].indexes}


def test_a_row_lock_is_named_and_passes(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that meets somebody's row lock fails in bounded time, names the session, and the next succeeds."""
    monkeypatch.setattr(tables, "BEGIN", text(f"{tables.SEARCH_PATH}; SET LOCAL lock_timeout = '200ms'"))
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    other = create_engine(
        loaded.engine.url, poolclass=NullPool, connect_args={"application_name": "run: DROP SCHEMA"}
    )
    with other.connect() as consumer:
        pid = consumer.execute(text("SELECT pg_backend_pid()")).scalar()
        consumer.execute(text("SELECT FROM salesforce.contact WHERE id = :id FOR UPDATE"), {"id": loaded.ann})
        with pytest.raises(ObjectsFailedError) as failed:
            loaded.run()
    [(name, error)] = failed.value.failures
    assert name == "Contact"
    assert isinstance(error, LockedError)
    assert f"process {pid} of role" in str(error)
    assert "idle in transaction" in str(error)
    assert "DROP" not in str(error)
    assert f"SELECT pg_terminate_backend({pid})" in str(error)
    assert loaded.sql("SELECT last_error FROM crm.freshness WHERE object = 'Contact'") == [("database lock",)]

    loaded.run()
    assert loaded.row(loaded.ann)["title"] == "Boss"


# ── what consumers are told of errors ─────────────────────────────────────────────────────────────────


def test_consumers_see_a_class_of_error(loaded: World) -> None:
    """`crm.freshness` gives the class and the time of a failure, never its text; the journal has 2,000 characters."""
    loaded.org.hide_object("Contact")
    with pytest.raises(ObjectsFailedError):
        loaded.run()

    [row] = loaded.sql("SELECT * FROM crm.freshness WHERE object = 'Contact'")
    assert (row.last_outcome, row.last_error) == ("failed", "salesforce")
    assert row.last_finished_at is not None
    [(error,)] = loaded.sql("SELECT error FROM sync.run WHERE object = 'Contact' ORDER BY id DESC LIMIT 1")
    assert "INVALID_TYPE" in error or "404" in error or "Contact" in error


def test_the_journal_keeps_errors_short(loaded: World) -> None:
    """An error of five megabytes leaves 2,000 characters in the journal."""
    with tables.transaction(loaded.engine) as connection:
        run_id = journal.open_run(connection, "Contact", "run", "test")
        ended = journal.Outcome("failed", None, merge.Tally(), 0, error="x" * 5_000_000, error_class="other")
        journal.close_run(connection, run_id, "Contact", ended, command="run", owner="test")

    assert loaded.sql("SELECT length(error) FROM sync.run WHERE id = :id", id=run_id) == [(2000,)]


def test_every_error_has_a_class(world: World) -> None:
    """Each kind of error that can end a run has a class of its own kind for consumers, in a word or two."""

    def kinds(kind: type[SyncError]) -> set[type[SyncError]]:
        return {kind}.union(*(kinds(sub) for sub in kind.__subclasses__()))

    assert all(len(kind.label) < 20 for kind in kinds(SyncError))
    assert len({kind.label for kind in kinds(SyncError)}) > 10


# ── a role that is not the owner ──────────────────────────────────────────────────────────────────────


def test_a_role_with_all_rights_that_owns_nothing(world: World) -> None:
    """A worker whose role has every right but ownership loads, follows and erases as the owner does."""
    ann, bob = world.org.create_many("Contact", [{"LastName": name} for name in ("Ann", "Bob")])
    with role(world.engine) as worker:
        for schema in ("salesforce", "sync", "crm"):
            worker.granted(
                f"USAGE ON SCHEMA {schema}",
                f"SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema}",
                f"EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema}",
            )
        context = world.context()
        reports = pipeline.sync_all(replace(context, engine=worker.engine))
        world.org.update(ann, {"Title": "Boss"})
        world.org.delete(bob)
        pipeline.sync_all(replace(context, engine=worker.engine))

    assert [one.tally.inserted for one in reports] == [0, 2]
    assert world.row(ann)["title"] == "Boss"
    assert world.row(bob)["deleted_at"] is not None
