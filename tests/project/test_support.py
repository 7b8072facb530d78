"""What other tests stand on: a database as new, processes as real ones, subsets that leave nothing out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import processes, soak
from tests.support.databases import Databases, connected

PATH = {"PATH": os.environ["PATH"]}


@pytest.fixture
def own(server: str, template: str) -> Iterator[Databases]:
    """Databases of this test alone."""
    databases = Databases(server, template)
    databases.prefix = "sync_support"
    yield databases
    databases.drop()


def execute(url: str, statement: str) -> None:
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(statement)


def ask(url: str, question: str) -> object:
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        return cursor.fetchall()


def test_rows_and_numbers_are_put_back(own: Databases) -> None:
    """What one test wrote the next does not see; what the migrations wrote it does, and numbers begin anew."""
    first = own.take()
    cursors = ask(first, "SELECT object FROM sync.cursor ORDER BY 1")
    opened = "INSERT INTO sync.run (object, command, owner) VALUES ('Contact', 'run', 'x') RETURNING id"
    number = ask(first, opened)
    execute(first, "DELETE FROM sync.cursor; UPDATE sync.feed SET last_seq = 7")

    second = own.take()

    assert second == first
    assert ask(second, "SELECT object FROM sync.cursor ORDER BY 1") == cursors != []
    assert ask(second, "SELECT last_seq FROM sync.feed") == [(0,)]
    assert ask(second, opened) == number


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE public.more (id int)",
        "ALTER TABLE salesforce.contact ADD COLUMN more text",
        "ALTER TABLE salesforce.contact ADD CONSTRAINT more CHECK (id <> '')",
        "DROP INDEX salesforce.contact_account_id_idx",
        "DROP TABLE sync.field",
        "GRANT USAGE ON SCHEMA crm TO PUBLIC",
        "CREATE FUNCTION public.more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE OR REPLACE VIEW crm.freshness AS TABLE crm.freshness",
    ],
)
def test_a_changed_schema_is_not_used_again(own: Databases, change: str) -> None:
    """A test that changed a table, a view, a function or a right leaves its database to nobody."""
    first = own.take()
    execute(first, change)

    assert own.take() != first


def test_a_process_is_a_real_one() -> None:
    """It has the arguments, environment and exit code of `python -m`, and ends by the signal that is sent to it."""
    done = processes.run(["sync", "nonsense"], PATH)
    real = subprocess.run(
        [sys.executable, "-m", "sync", "nonsense"],
        env=PATH,
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (real.returncode, real.stdout, real.stderr)
    assert done.returncode == 2

    serving = processes.start(["http.server", "0", "--bind", "127.0.0.1"], PATH)
    assert serving.stdout is not None
    with serving.stdout:
        assert "Serving" in serving.stdout.readline()
        assert serving.poll() is None
        serving.send_signal(signal.SIGKILL)
        assert serving.wait(10) == -signal.SIGKILL


def test_a_subset_leaves_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fault by each way and each place of each way stays in the thinned matrix; with SOAK everything does."""
    cases = [
        (way, fault, place)
        for way in "rb"
        for fault in "abcde"
        for place in range(4)
        if (way, place) != ("r", 3)
    ]

    monkeypatch.setattr(soak, "SOAK", False)
    some = soak.covering(cases, soak.pairs_with_first)

    assert {(way, fault) for way, fault, _ in some} == {(way, fault) for way, fault, _ in cases}
    assert {(way, place) for way, _, place in some} == {(way, place) for way, _, place in cases}
    assert len(some) == 10
    monkeypatch.setattr(soak, "SOAK", True)
    assert soak.covering(cases, soak.pairs_with_first) == cases
