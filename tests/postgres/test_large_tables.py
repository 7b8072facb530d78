"""What goes through a whole table is bounded, estimated, or given the time that it takes in a large one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event, text

from sync.cli import show
from sync.errors import GuardError, RejectsError
from sync.operations import status, worker
from sync.postgres import tables
from sync.postgres.state import leases
from sync.postgres.tables import transaction
from sync.replication import apply, pipeline, rejects, retention
from sync.replication.verify import comparison
from tests.support.world import World

ROWS = """
INSERT INTO salesforce.contact (id, is_deleted, system_modstamp, last_name, deleted_at)
SELECT '003' || lpad(n::text, 12, '0') || 'AAA', n % 10 = 0, now(), repeat('x', :wide),
       CASE WHEN n % 10 = 0 THEN now() END
  FROM generate_series(1, :rows) AS n
"""
REJECTS = """
INSERT INTO sync.reject (object, record_id, reason, record, run_id)
SELECT 'Contact', n::text, 'too long', '{}', 1 FROM generate_series(1, :rows) AS n
"""


def rows_read(connection: Connection, table: str) -> int:
    """Rows of a table that this transaction has read so far."""
    found = (
        "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE relname = :t"
    )
    return int(connection.execute(text(found), {"t": table}).scalar_one())


@pytest.fixture(autouse=True)
def new_connections(world: World) -> None:
    """Connections that have read nothing: what one has read for an earlier test may still count."""
    world.engine.dispose()


@contextmanager
def limits(world: World) -> Iterator[Mapping[str, float]]:
    """The seconds that each statement may take, by its text."""
    seen: dict[str, float] = {}

    def look(connection: Connection, _cursor: Any, statement: str, *_: object) -> None:
        other = connection.connection.cursor()
        other.execute("SELECT extract(epoch FROM current_setting('statement_timeout')::interval)")
        [(seconds,)] = other.fetchall()
        seen[statement] = float(seconds)

    event.listen(world.engine, "before_cursor_execute", look)
    yield seen
    event.remove(world.engine, "before_cursor_execute", look)


# ── estimated ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def large(world: World) -> World:
    """A table of contacts that is larger than what is counted: one row in each page, a tenth of them tombstones."""
    world.sql("TRUNCATE salesforce.contact")  # and what earlier tests left in the statistics
    world.sql("ALTER TABLE salesforce.contact SET (fillfactor = 10, autovacuum_enabled = false)")
    world.sql(ROWS, rows=17_000, wide=500)
    return world


def test_rows_of_a_large_table_are_estimated(large: World, capsys: pytest.CaptureFixture[str]) -> None:
    """crm.freshness and `status` count no large table; they say that the numbers are estimates."""
    large.sql("ANALYZE salesforce.contact (id)")

    with transaction(large.engine) as connection:
        found = status.read_status(connection, ["Account", "Contact"], timedelta(hours=1))
        assert rows_read(connection, "contact") == 0

    account, contact = found.objects
    assert (account.rows, account.estimated) == (0, False)
    assert contact.estimated
    assert abs(contact.rows - 15_300) < 300
    assert abs(contact.tombstones - 1_700) < 300
    show.status(found, as_json=False)
    assert f"~{contact.rows:,}" in capsys.readouterr().out


def test_rows_of_a_table_that_was_never_analysed(large: World) -> None:
    """While a first load is under way there are no statistics, and no index on tombstones: the size is known."""
    large.sql("DROP INDEX salesforce.contact_deleted_at_idx")

    with transaction(large.engine) as connection:
        [_, contact] = status.freshness(connection, ["Account", "Contact"])
        assert rows_read(connection, "contact") == 0

    assert contact.estimated
    assert contact.rows > 100_000  # eight to a page
    assert contact.tombstones == 0


def test_a_small_table_is_counted(loaded: World) -> None:
    """Up to 128 MB the numbers are exact."""
    loaded.org.delete(loaded.cid)
    loaded.run()

    found = loaded.sql("SELECT object, rows, tombstones, estimated FROM crm.freshness ORDER BY 1")

    assert found == [("Account", 2, 0, False), ("Contact", 2, 1, False)]


def test_an_estimate_is_said_as_such(loaded: World) -> None:
    """The first line of a first load that is under way tells about how many rows consumers see."""
    with transaction(loaded.engine) as connection:
        [one] = status.freshness(connection, ["Nothing"])
    line = status.headline([replace(one, rows=4_000, estimated=True)], ["Nothing"], {})

    assert "consumers see about 4,000 rows" in line


# ── bounded ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_verify_counts_no_more_rows_than_it_needs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a table is small is known after so many rows."""
    monkeypatch.setattr(comparison, "SMALL", 10)
    world.sql(ROWS, rows=2_000, wide=1)

    with transaction(world.engine) as connection:
        assert comparison.is_large(connection, "Contact")
        assert not comparison.is_large(connection, "Account")
        assert rows_read(connection, "contact") <= 11


def test_outstanding_rejects_count_no_more_rows_than_they_need(world: World) -> None:
    """Whether rejected records are too large a share is known after a hundred times as many rows."""
    world.sql(ROWS, rows=15_000, wide=1)  # a tenth of them tombstones
    world.sql(REJECTS, rows=101)

    with transaction(world.engine) as connection:
        rejects.check(connection, "Contact", 2, 0)
        assert rows_read(connection, "contact") < 12_000
        connection.execute(text("DELETE FROM salesforce.contact WHERE id > '003000000003000AAA'"))
        with pytest.raises(RejectsError, match=r"101 records cannot be stored, beside 2,700 stored ones"):
            rejects.check(connection, "Contact", 2, 0)


# ── given their time ──────────────────────────────────────────────────────────────────────────────────


def test_long_statements_are_no_hang() -> None:
    """Two statements over a whole table end before the watchdog does, and take longer than the usual limit lets."""
    assert 120 < 2 * tables.LONG_SECONDS < worker.WATCHDOG_SECONDS


def long(seen: Mapping[str, float], *parts: str) -> bool:
    """Whether the statements with these parts were made, and may take their time."""
    made = {part: [seconds for statement, seconds in seen.items() if part in statement] for part in parts}
    assert all(made.values()), f"not made: {[part for part, limit in made.items() if not limit]}"
    return all(seconds >= tables.LONG_SECONDS for limit in made.values() for seconds in limit)


def test_what_a_verify_reads_whole(loaded: World) -> None:
    """The listing that is cleared, the comparison, and the sample of a verify."""
    with limits(loaded) as seen:
        pipeline.verify_object(loaded.context("verify"), "Contact", repair=False, sample=2)

    assert long(seen, 'TRUNCATE "sync"."listing_contact"', '"listing_contact" AS l', "ORDER BY random()")


def test_what_a_guard_counts(world: World) -> None:
    """The guard against mass removal counts as many rows as a hundred times the removals."""
    with limits(world) as seen, transaction(world.engine) as connection, pytest.raises(GuardError):
        apply.guard(connection, world.context(), "Contact", 60_000)

    assert long(seen, "AS held")


def test_what_a_pass_reads_whole(loaded: World) -> None:
    """Tombstones that come of age, for which a first load under way has no index, and the rejected records."""
    loaded.sql(
        "UPDATE salesforce.contact SET deleted_at = now() - interval '31 days' WHERE id = :i", i=loaded.cid
    )
    loaded.sql("UPDATE sync.cursor SET emptied_through = NULL, selection = ''")
    loaded.environment["SYNC_EXCLUDED_FIELDS"] = "Contact.Title"
    held = leases.acquire(loaded.engine, "Contact", "me", timedelta(0), loaded.stop)

    with limits(loaded) as seen:
        list(retention.apply_retention(loaded.context(), "Contact", held, 1))
        with transaction(loaded.engine) as connection:
            rejects.check(connection, "Contact", 1, 0)

    assert long(seen, "deleted_at > ", "WITH due AS", "DELETE FROM sync.reject", "FROM sync.reject AS r")
