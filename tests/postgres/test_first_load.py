"""A first load goes on beside readers that keep a transaction open, before its indexes are dropped and after."""

from __future__ import annotations

import time

from sqlalchemy import Connection, text

from sync.postgres.load import first
from sync.postgres.tables import REPLICA, transaction
from sync.replication import pipeline
from sync.replication.runs import PageResult
from tests.support.consuming import GRANTS, role
from tests.support.world import World


def indexes(world: World) -> set[str]:
    """The indexes of contacts that a first load leaves out at its beginning, as far as they are there."""
    found = world.sql("SELECT indexname FROM pg_indexes WHERE tablename = 'contact'")
    return {row.indexname for row in found} & {str(index.name) for index in REPLICA["Contact"].indexes}


def test_a_reader_before_the_indexes_are_dropped(world: World) -> None:
    """They stay in place after a wait of a second at most, and nothing else of the transaction is lost."""
    assert first.LOCK_SECONDS <= 1
    every = indexes(world)
    with role(world.engine) as consumer:
        consumer.granted(*GRANTS)
        with consumer.connect() as idle:
            idle.execute(text("SELECT * FROM crm.contact"))
            began = time.monotonic()
            with transaction(world.engine) as connection:
                first.begin_first_load(connection, "Contact")
                took = time.monotonic() - began
                limit = connection.execute(text("SHOW lock_timeout")).scalar_one()

    assert took < first.LOCK_SECONDS + 1.5
    assert limit == "30s"
    assert indexes(world) == every


def test_a_reader_after_the_indexes_were_dropped(world: World) -> None:
    """Indexes are made beside a reader whose transaction is open; it sees what it saw."""
    world.page_by(1)
    world.org.create_many("Contact", [{"LastName": name} for name in ("Ann", "Bob", "Cid")])
    every, readers, dropped = indexes(world), list[Connection](), list[set[str]]()
    with role(world.engine) as consumer:
        consumer.granted(*GRANTS)

        def read(step: PageResult) -> None:
            if step.tally.written and not readers:
                readers.append(consumer.connect())
                readers[0].execute(text("SELECT * FROM crm.contact"))
                dropped.append(indexes(world))

        try:
            pipeline.sync_object(world.context(on_page=read), "Contact")
            assert readers[0].execute(text("SELECT count(*) FROM crm.contact")).scalar_one() == 3
        finally:
            for reader in readers:
                reader.close()

    assert dropped == [set()]
    assert indexes(world) == every
