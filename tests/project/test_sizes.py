"""docs/operating.md against a real database: the bytes of a row, of an entry of the feed, and of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from sqlalchemy.engine import make_url

from sync.simulator import Simulator
from tests.project.pages import rows, section, spans
from tests.support.databases import administer
from tests.support.world import World

PAGE = "docs/operating.md"
ACCOUNTS, CONTACTS, CHANGED, RUNS = 600, 3_000, 1_500, 2_000
TOLERANCE = 0.25
BYTES = "SELECT pg_total_relation_size('{table}') / count(*) FROM {table}"
# The entries of two real passes again and again, as each interval makes them.
MORE_RUNS = """
INSERT INTO sync.run (object, command, owner, started_at, finished_at, outcome, since, until, complete_through, read,
                      inserted, updated, deleted, unchanged, api_calls)
SELECT object, 'worker', 'worker.1/4/0a1b2c3d', started_at, finished_at, outcome, since, until, complete_through,
       read, inserted, updated, deleted, unchanged, api_calls
  FROM (SELECT * FROM sync.run ORDER BY id DESC LIMIT 2) AS last, generate_series(1, :n)
"""


@pytest.fixture
def fresh(server: str, template: str) -> Iterator[str]:
    """The URL of a database of which no page has been used before."""
    name = f"sync_test_{os.getpid()}_sizes"
    administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def test_what_things_take(fresh: str) -> None:
    """The page's bytes are what the product's tables and indexes take for generated customers."""
    listed = {
        spans(row[0])[0]: int(row[1].replace(",", ""))
        for row in rows(section(PAGE, "Size"))
        if row[1].replace(",", "").isdigit()
    }
    with Simulator(accounts=ACCOUNTS, contacts=CONTACTS) as sim, World(sim, fresh) as world:
        world.run()
        found = {name: world.sql(BYTES.format(table=name))[0][0] for name in listed if "salesforce" in name}
        for number, row in enumerate(world.sql("SELECT id FROM salesforce.contact LIMIT :n", n=CHANGED)):
            world.org.update(row.id, {"Title": f"Chief {number}", "Phone": f"+1 415 555 {number:04d}"})
        world.run()
        world.sql(MORE_RUNS, n=RUNS // 2)
        # Of the ring's partitions one is filled; the others have empty pages alone.
        [(entry,)] = world.sql(BYTES.format(table="sync.change_0"))
        [(run,)] = world.sql(BYTES.format(table="sync.run"))
        world.engine.dispose()

    found |= {"sync.change": entry, "sync.run": run}
    assert found == pytest.approx(listed, rel=TOLERANCE)
