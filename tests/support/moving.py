"""What tests of fields and values share: silent changes, what was asked for, and a death half-way."""

from __future__ import annotations

from typing import Any

import pytest

from sync.replication import pipeline
from sync.replication.runs import PageResult
from tests.support.world import LONG_AGO, World

BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
# What every query of some columns asks for, too.
PLACING = {"Id", "IsDeleted", "SystemModstamp"}


def silently(world: World, id_: str, **values: Any) -> None:
    """Change a record without moving its stamp."""
    world.org.update(id_, values, stamp=LONG_AGO)


def selects(world: World, name: str = "Contact") -> list[set[str]]:
    """The fields of the queries that read all records of an object, whichever way they were asked."""
    return [
        set(request.soql.split(" FROM ")[0].removeprefix("SELECT ").split(", "))
        for request in world.sim.requests
        if request.kind in ("query", "job_create")
        and request.sobject == name
        and request.soql is not None
        and "WHERE" not in request.soql
        and "COUNT()" not in request.soql
    ]


def custom(world: World, name: str) -> list[Any]:
    """The values of a custom field of Ann, Bob and Cid."""
    return [world.row(id_)["custom"].get(name) for id_ in (world.ann, world.bob, world.cid)]


def told(world: World, after: int | None = None) -> list[tuple[str, str | None, tuple[str, ...]]]:
    """The feed as (op, record, what changed)."""
    seen = world.seen if after is None else after
    return [(change.op, change.record_id, tuple(change.changed)) for change in world.feed(seen)]


def waiting(world: World) -> int:
    """The records that are to be read again, and the changed ones whose children are."""
    tables = ("reread", "changed_parent")
    return sum(int(world.sql(f"SELECT count(*) FROM sync.{table}")[0][0]) for table in tables)


class Killed(BaseException):
    """What ends a process here."""


def refreshing(step: PageResult, name: str = "Contact") -> bool:
    """Whether a step is of a reading of all records."""
    return step.object == name and step.window.since is None


def killed_while_refreshing(world: World, pages: int = 1) -> None:
    """A pass that dies when so many pages of a reading of all records have been committed."""

    def die(step: PageResult) -> None:
        if refreshing(step) and step.received >= pages:
            raise Killed

    with pytest.raises(Killed):
        pipeline.sync_object(world.context(on_page=die), "Contact")
