"""What a verify lists of an object lies in a table of its own, which takes no space once it has ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import NullPool

from sync.catalogue.catalogue import CATALOGUE
from sync.demo import embedded
from sync.errors import SyncError
from sync.operations import erasure
from sync.postgres import tables
from sync.replication import pipeline
from sync.replication.verify import listing
from tests.support.consuming import role
from tests.support.world import World

LEFT = "INSERT INTO sync.{table} ({columns}) SELECT {values}, now() FROM generate_series(1, 20000) AS n"
LEFT_OF_CONTACT = LEFT.format(
    table="listing_contact", columns="record_id, system_modstamp", values="'003' || lpad(n::text, 15, '0')"
)
LEFT_BY_OLDER = LEFT.format(
    table="listing", columns="object, record_id, system_modstamp", values="'Contact', '003' || n"
)
RIGHTS = (
    "USAGE ON SCHEMA salesforce, sync, crm",
    "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA salesforce, sync, crm",
)


def size(world: World, table: str = "listing_contact") -> int:
    """Bytes that a table takes, its rows alone."""
    return int(world.sql(f"SELECT pg_relation_size('sync.{table}')")[0][0])


def verified(world: World, engine: Engine | None = None) -> None:
    """One verify of Contact that repairs, and finds nothing."""
    context = world.context("verify")
    context = replace(context, engine=engine) if engine is not None else context
    findings = pipeline.verify_object(context, "Contact", repair=True).findings
    assert findings is not None
    assert (findings["remaining"], findings["differences"]) == (0, [])
    assert findings["listed"] == 3


def test_every_object_has_its_table(database: str) -> None:
    """Each object of the catalogue has a listing of its own, with the Id as key, that is not written to the log."""
    engine = create_engine(database, poolclass=NullPool)
    statement = """
        SELECT c.relname, c.relpersistence::text, pg_get_constraintdef(k.oid)
          FROM pg_class AS c LEFT JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype = 'p'
         WHERE c.relnamespace = 'sync'::regnamespace AND c.relname LIKE 'listing\\_%' AND c.relkind = 'r'
    """
    with engine.begin() as connection:
        found = {tuple(row) for row in connection.execute(text(statement))}

    assert found == {(f"listing_{one.table}", "u", "PRIMARY KEY (record_id)") for one in CATALOGUE.values()}
    assert {table.name for table in tables.LISTING.values()} == {name for name, *_ in found}


def test_space_is_given_back(loaded: World) -> None:
    """A verify begins with an empty listing, whatever a killed one has left, and leaves none of its space."""
    loaded.sql(LEFT_OF_CONTACT)
    assert size(loaded) > 1_000_000

    verified(loaded)

    assert size(loaded) == 0


def test_space_is_given_back_after_a_failure(loaded: World) -> None:
    """A verify that fails while it lists leaves none of its space either."""
    loaded.page_by(1)
    loaded.sim.faults.add("missing_rows", on="query", times=None)

    with pytest.raises(SyncError, match="counted"):
        verified(loaded)

    assert size(loaded) == 0


def test_a_role_that_may_not_truncate(loaded: World) -> None:
    """A role that has no right but those on rows empties its listing, too."""
    loaded.sql(LEFT_OF_CONTACT)
    with role(loaded.engine) as worker:
        engine = tables.engine(worker.granted(*RIGHTS).engine.url, owner="test")
        try:
            verified(loaded, engine)
        finally:
            engine.dispose()

    assert loaded.sql("SELECT count(*) FROM sync.listing_contact") == [(0,)]


@pytest.mark.parametrize("table", ["listing_contact", "listing_account"])
def test_a_reader_is_no_obstacle(loaded: World, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """A stale process that still reads a listing does not stop the verify that comes after it."""
    monkeypatch.setattr(listing, "LOCK_TIMEOUT", text("SET LOCAL lock_timeout = '50ms'"))
    loaded.sql(LEFT_OF_CONTACT)
    with create_engine(loaded.database, poolclass=NullPool).connect() as stale:
        stale.execute(text(f"SELECT count(*) FROM sync.{table}"))

        verified(loaded)

    assert loaded.sql("SELECT count(*) FROM sync.listing_contact") == [(0,)]


def test_an_erased_person_is_in_no_listing(loaded: World) -> None:
    """Erasing takes a record out of the listing, and out of what an older release has listed."""
    loaded.sql("INSERT INTO sync.listing_contact VALUES (:id, now())", id=loaded.ann)
    loaded.sql("INSERT INTO sync.listing VALUES ('Contact', :id, now())", id=loaded.ann)

    ids = pipeline.group_by_object([loaded.ann])
    erasure.erase(loaded.engine, ids, "test", "request 7", timedelta(seconds=5), loaded.stop)

    assert loaded.sql("SELECT FROM sync.listing_contact") == []
    assert loaded.sql("SELECT FROM sync.listing") == []


@pytest.mark.parametrize("in_use", [False, True])
def test_an_upgrade_gives_back_what_was_kept(empty_database: str, in_use: bool) -> None:
    """The space of the listing that all objects shared is given back, but not under an older release that lists."""
    engine = create_engine(empty_database, poolclass=NullPool)
    embedded.migrate(engine, "0007")
    with engine.begin() as connection:
        connection.execute(text(LEFT_BY_OLDER))
        if not in_use:
            connection.execute(text("DELETE FROM sync.listing"))

    embedded.migrate(engine)

    with engine.begin() as connection:
        assert (
            connection.execute(text("SELECT pg_relation_size('sync.listing')")).scalar_one() > 0
        ) == in_use
