"""Consumers that ask for records, and the worker's turns that answer them."""

from __future__ import annotations

from typing import Any

from sync.replication import requests
from sync.replication.requests import Pauses
from sync.replication.runs import SyncContext
from tests.support.consuming import Role
from tests.support.world import World


def open_requests(world: World) -> None:
    """What the worker does when it starts: it says which objects it has, and how often a role may ask."""
    requests.publish(world.context("request"))


def ask(role: Role, id_: str) -> int:
    """Ask for a record in a transaction of its own; the number."""
    [(number,)] = role.ask("SELECT crm.request(:id)", id=id_)
    return int(number)


def wait(role: Role, id_: str, stamp: int | None, timeout: str = "0s") -> bool:
    """Wait for the record in a transaction of its own."""
    [(done,)] = role.ask(
        "SELECT crm.wait_for(:id, CAST(:stamp AS bigint), CAST(:timeout AS interval))",
        id=id_,
        stamp=stamp,
        timeout=timeout,
    )
    return bool(done)


def answer(world: World, context: SyncContext | None = None, pauses: Pauses | None = None) -> None:
    """One turn of the worker's job."""
    requests.answer_waiting(context or world.context("request"), pauses or Pauses())


def waiting(world: World) -> list[Any]:
    """The Ids that wait, in the order of the requests."""
    return [row.record_id for row in world.sql("SELECT record_id FROM sync.request ORDER BY number")]
