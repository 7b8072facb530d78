"""The examples of the pages, for real: commands against an org and a database, SQL as a consumer's role, Python."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import Field, Kind
from sync.cli import commands as cli
from sync.config.keys import check_signing_key
from sync.operations import grants
from sync.postgres import tables
from tests.project.pages import (
    PAGES,
    Block,
    all_blocks,
    blocks,
    commands,
    read,
    rows,
    section,
    sync_arguments,
)
from tests.project.test_pages import ANNOUNCED, targets
from tests.support.asking import answer, open_requests
from tests.support.consuming import Role, role
from tests.support.databases import administer, connected
from tests.support.receiver import receiver
from tests.support.world import World

# Commands that go on until they are stopped, or take minutes.
NOT_RUN = {"worker", "demo", "simulator"}
ENDLESS = {"--watch"}  # tests/cli/test_watch.py runs it, in this process and in one of its own
# Without a terminal a command does not ask: it lists, and says how to go on.
ASKS = ["erase", "--email"]
# Pages whose SQL is for a consumer's role; that of the others is for the owner of the database.
CONSUMERS = ("README.md", "docs/consumers.md")
# Examples that a test of their own runs: the first words of each, and that test.
ELSEWHERE = {"SELECT h.sfid": "test_the_comparison_in_the_documentation_works"}
# Pages whose blocks only make sense together, in a database of their own; and the test that runs them.
STORIES = {"docs/leaving-heroku-connect.md": "test_the_page_leads_from_heroku_connect_to_the_views"}


@pytest.fixture
def ready(loaded: World) -> Iterator[tuple[World, Role]]:
    """The records that the examples ask for, and a consumer's role that the operator has given access."""
    loaded.org.update(loaded.ann, {"Email": "Ann@Example.com", "Phone": "(415) 555-2671", "Tier__c": "Gold"})
    loaded.org.update(loaded.acme, {"Website": "https://www.Example.com/about"})
    loaded.org.merge(loaded.bob, [loaded.cid])
    loaded.run()
    with role(loaded.engine) as consumer, receiver() as there:
        loaded.environment["SYNC_ALERT_URLS"] = there.url
        with tables.transaction(loaded.engine) as connection:
            grants.grant(connection, consumer.name)
        yield loaded, consumer


def known(text: str, world: World, consumer: Role) -> str:
    """An example with names that are known here."""
    return (
        re.sub(r"\bbilling\b", consumer.name, text)
        .replace("003…", world.bob)
        .replace("0035g0000004WPnAAM", world.cid)
        .replace("48211", "0")
    )


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────


def typed() -> list[list[str]]:
    """The commands of ours in the shell blocks of all pages, in order, each once."""
    found: list[list[str]] = []
    for block in all_blocks("sh"):
        for words in commands(block):
            arguments = None if block.page in STORIES else sync_arguments(words)
            if not arguments or arguments[0] in NOT_RUN or ENDLESS.intersection(arguments):
                continue
            if arguments not in found:
                found.append(arguments)
    return found


def test_commands_run(
    ready: tuple[World, Role], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed one after the other, each command of the pages does its work."""
    world, consumer = ready
    for arguments in typed():
        code = run(world, [known(word, world, consumer) for word in arguments], monkeypatch)
        printed = capsys.readouterr()

        assert code == (2 if arguments[:2] == ASKS else 0), (arguments, printed.err)
        assert printed.out.strip(), arguments
        assert "Traceback" not in printed.err


def run(world: World, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of `python -m sync ARGUMENTS…`, in this process."""
    with monkeypatch.context() as patch:
        for name, value in world.environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["sync", *arguments])
        patch.setattr(sys, "excepthook", sys.excepthook)
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_keys_are_made_as_shown(tmp_path: Path) -> None:
    """The commands that make a key make one that is taken, and its certificate."""
    made = [
        words for block in blocks("docs/security.md") if block.language == "sh" for words in commands(block)
    ]
    for words in made:
        if words[0] == "openssl":
            subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)

    check_signing_key((tmp_path / "key.pem").read_text())
    assert "BEGIN CERTIFICATE" in (tmp_path / "cert.pem").read_text()


def test_databases_are_made_as_shown(server: str) -> None:
    """The options of `createdb` make a database that is taken: its encoding is UTF8."""
    [words] = [words for block in all_blocks("sh") for words in commands(block) if words[0] == "createdb"]
    given = dict(zip(words[1:-1:2], words[2:-1:2], strict=True))
    name = f"sync_test_{os.getpid()}_shown"
    administer(
        server,
        f"CREATE DATABASE {name} ENCODING '{given['--encoding']}' LOCALE '{given['--locale']}' "
        f"TEMPLATE {given['--template']}",
    )
    try:
        target = make_url(server).set(database=name, drivername="postgresql+psycopg2")
        engine = tables.engine(target, owner="test")
        with tables.transaction(engine) as connection:
            assert connection.exec_driver_sql("SHOW server_encoding").scalar() == "UTF8"
        engine.dispose()
    finally:
        administer(server, f"DROP DATABASE {name} WITH (FORCE)")


# ── SQL ───────────────────────────────────────────────────────────────────────────────────────────────


def statements(block: Block) -> list[str]:
    """The statements of a block, without comments."""
    text = re.sub(r"--.*$", "", block.text, flags=re.M)
    return [one.strip() for one in text.split(";") if one.strip()]


def example(block: Block) -> bool:
    """Whether the block is run here, and not by a test of its own."""
    return block.page not in STORIES and not block.text.startswith(tuple(ELSEWHERE))


# What the look-ups of docs/consumers.md find, by a part of each: the one record that was meant.
FOUND: dict[str, Callable[[World], object]] = {
    "email_normalized =": lambda world: world.ann,
    "IN (phone_e164": lambda world: world.ann,
    "website_host =": lambda world: world.acme,
    "'Gold'": lambda world: world.ann,
    "crm.resolve_id(": lambda world: world.bob,
    "crm.wait_until(": lambda _: True,
    "crm.request(": lambda world: world.sql("SELECT number FROM sync.request")[0].number,
    "bool_and": lambda _: True,
}


def test_consumers_sql_runs(ready: tuple[World, Role]) -> None:
    """Each statement of the consumers' pages gives a consumer's role rows, and the look-ups find what was meant."""
    world, consumer = ready
    open_requests(world)
    asked = [one for block in all_blocks("sql") if block.page in CONSUMERS for one in statements(block)]
    seen = set()
    for statement in asked:
        found = [row[0] for row in consumer.ask(known(statement, world, consumer))]

        assert found, statement
        assert found[0] is not None, statement
        for part in [part for part in FOUND if part in statement]:
            assert found == [FOUND[part](world)], statement
            seen.add(part)
    assert seen == set(FOUND)


def test_everything_in_crm_is_told(database: str) -> None:
    """docs/consumers.md lists all views and functions of schema `crm`, and no page names another one."""
    with connected(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'crm'::regnamespace "
            "UNION SELECT proname FROM pg_proc WHERE pronamespace = 'crm'::regnamespace"
        )
        there = {name for (name,) in cursor.fetchall()}
    listed = {
        name
        for cell, _ in rows(section("docs/consumers.md", "What is there"))
        for name in re.findall(r"crm\.(\w+)", cell)
    }
    named = {name for page in PAGES for name in re.findall(r"\bcrm\.(\w+)", read(page))}

    declared = {sobject.table for sobject in CATALOGUE.values()} - {"account", "contact"}
    assert listed - declared == there - declared
    assert declared <= there
    assert named - there <= {"opportunity", "example"}  # of an object to come, and a host


@pytest.mark.parametrize(
    "block",
    [b for b in all_blocks("sql") if b.page not in CONSUMERS and example(b)],
    ids=str,
)
def test_operators_sql_runs(block: Block, loaded: World) -> None:
    """Each statement for operators runs as the owner of the database."""
    with role(loaded.engine) as worker, tables.transaction(loaded.engine) as connection:
        for statement in statements(block):
            connection.exec_driver_sql(re.sub(r"\bworker\b", worker.name, statement))
        connection.rollback()


def test_examples_without_a_run_have_one_elsewhere() -> None:
    """A block that is left out here is run by a test of its own."""
    tests = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    for block in all_blocks("sql"):
        if block.page in STORIES:
            assert f"def {STORIES[block.page]}(" in tests
        elif not example(block):
            [named] = [test for start, test in ELSEWHERE.items() if block.text.startswith(start)]
            assert f"def {named}(" in tests


# ── Python ────────────────────────────────────────────────────────────────────────────────────────────


class Consumer:
    """A system of another team: its position, what it did, and its connection, as the examples name them."""

    def __init__(self, connected: Role, world: World) -> None:
        self.role, self.world = connected, world
        self.seen, self.slept = list[Any](), 0

    def names(self) -> dict[str, Any]:
        return {
            "connection": SimpleNamespace(transaction=lambda: self.role.engine.begin()),
            "apply": self.seen.append,
            "query": self.query,
            "query_value": lambda sql, *values: self.query(sql, *values)[0][0],
            "contact_id": self.world.ann,
            "change_in_salesforce": lambda id_: self.world.org.update(id_, {"Title": "Boss"}),
            "time": SimpleNamespace(sleep=self.sleep, monotonic=time.monotonic),
            "Field": Field,
            "TEXT": Kind.TEXT,
        }

    def query(self, sql: str, *values: object) -> Any:
        """The rows of a statement in a transaction of its own; a worker answers what it asks for."""
        with self.role.engine.begin() as connection:
            found = connection.exec_driver_sql(sql, values).all()
        if "crm.request(" in sql:
            answer(self.world)
        return found

    def sleep(self, seconds: float) -> None:
        """Where the example would wait for more, it has read everything."""
        self.slept += 1
        raise StopIteration


def follows(consumer: Consumer, world: World) -> None:
    assert [change.seq for change in consumer.seen] == [change.seq for change in world.feed()]
    assert (world.sql("SELECT seq FROM sync.consumer"), consumer.slept) == ([(world.last_seq(),)], 1)


def waits(consumer: Consumer, world: World) -> None:
    assert consumer.slept == 0


def asks(consumer: Consumer, world: World) -> None:
    assert world.row(world.ann)["title"] == "Boss"


def declares(consumer: Consumer, world: World) -> None:
    assert Field("Customer_Number__c", Kind.TEXT).column == "customer_number__c"


PYTHON: dict[str, Callable[[Consumer, World], None]] = {
    "while True:": follows,
    "written_at": waits,
    "change_in_salesforce": asks,
    'Field("Customer_Number__c"': declares,
}


def test_python_runs(ready: tuple[World, Role]) -> None:
    """Each Python example of a page does what the page says of it."""
    world, connected = ready
    # What is complete through a time after this test began has every write of it.
    world.sql("UPDATE sync.cursor SET complete_through = now() + interval '1 hour'")
    open_requests(world)
    connected.ask("SELECT crm.subscribe('orders')")
    world.sql("UPDATE sync.consumer SET seq = 0")
    for block in all_blocks("python"):
        consumer = Consumer(connected, world)
        code = compile(block.text, str(block), "exec")
        [check] = [found for start, found in PYTHON.items() if block.text.startswith(start)]
        if check is declares and "field" in ANNOUNCED - targets():
            continue  # no catalogue takes it yet
        with suppress(StopIteration):
            exec(code, consumer.names())  # noqa: S102  the example itself
        check(consumer, world)
