"""Leases: one writer for each object, and no commit by a process that lost its lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from sync.errors import (
    FenceLostError,
    LeaseHeldError,
    StoppedError,
    SyncError,
)
from sync.logs import logger
from sync.postgres.tables import transaction

log = logger.get("sync.postgres.state")

LEASE_SECONDS, RENEW_SECONDS, POLL_SECONDS = 30, 8, 0.5

SEED = text("""
INSERT INTO sync.lease (object, expires_at)
SELECT CAST(:object AS text), clock_timestamp()
 WHERE NOT EXISTS (SELECT 1 FROM sync.lease WHERE object = :object)
ON CONFLICT DO NOTHING
""")
# A locked row belongs to a holder that commits a page now: the lease is held, so do not wait in a
# transaction.
TAKE = text("""
UPDATE sync.lease SET owner = :owner, fence = fence + 1,
       expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE object = (SELECT object FROM sync.lease
                  WHERE object = :object AND (owner IS NULL OR expires_at < clock_timestamp())
                    FOR UPDATE SKIP LOCKED)
RETURNING fence
""")
UNUSED = text("""
SELECT object, fence FROM sync.lease
 WHERE object = ANY (CAST(:objects AS text[])) AND owner IS NULL ORDER BY object
""")
# The fence grows with each owner: as long as it is the same, the lease that had no owner still has none.
TAKE_UNUSED = text("""
UPDATE sync.lease SET owner = :owner, fence = fence + 1,
       expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE object = :object AND fence = :fence
RETURNING fence
""")
PASS_BY = text("""
UPDATE sync.lease SET fence = fence + 1 WHERE object = :object AND fence = :fence
""")
RENEW = text("""
UPDATE sync.lease SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE object = (SELECT object FROM sync.lease
                  WHERE object = :object AND owner = :owner AND fence = :fence
                    FOR UPDATE SKIP LOCKED)
""")
RELEASE = text("""
UPDATE sync.lease SET owner = NULL WHERE object = :object AND owner = :owner AND fence = :fence
""")
# The row lock lasts until commit: no process can take over the lease while a page is committed.
FENCE = text("""
UPDATE sync.lease SET expires_at = clock_timestamp() + make_interval(secs => :seconds)
 WHERE object = :object AND owner = :owner AND fence = :fence
RETURNING fence
""")
# In the order in which a transaction that checks several fences locks them.
REVOKE = text("""
UPDATE sync.lease SET owner = NULL, fence = fence + 1
 WHERE object IN (SELECT object FROM sync.lease WHERE owner IS DISTINCT FROM :owner
                   ORDER BY object FOR UPDATE)
""")
# No owner: a process that is taking it, or ends its work with this very commit.
HOLDER = text("""
SELECT coalesce(owner, 'another process') AS owner, expires_at FROM sync.lease WHERE object = :object
""")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one object; every writing transaction checks its `fence`."""

    object: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class Unused:
    """A lease that nobody held when its `fence` was read."""

    object: str
    fence: int


@contextmanager
def lease(
    engine: Engine, sobject: str, owner: str, wait: timedelta, stop: threading.Event
) -> Iterator[Lease]:
    """Hold an object's lease inside the block.

    Waits up to `wait` for the lease. Raises LeaseHeldError, which names the holder, if the wait is too short,
    and StoppedError if `stop` is set.
    """
    with holding(engine, acquire(engine, sobject, owner, wait, stop)) as held:
        yield held


@contextmanager
def holding(engine: Engine, held: Lease) -> Iterator[Lease]:
    """Keep a lease that was taken inside the block, renewed by a thread, and release it at the end."""
    done = threading.Event()
    thread = threading.Thread(
        target=renew, args=(engine, held, done), name=f"lease-{held.object}", daemon=True
    )
    thread.start()
    try:
        yield held
    finally:
        done.set()
        thread.join()
        release(engine, held)


def release(engine: Engine, held: Lease) -> None:
    """Release a lease; a failure is only logged."""
    try:
        with transaction(engine) as connection:
            connection.execute(RELEASE, asdict(held))
    except SyncError as error:
        # It expires by itself; an error of the work must not be hidden by this one.
        log.warning("lease_not_released", object=held.object, reason=str(error))


def unused(connection: Connection, objects: Sequence[str]) -> list[Unused]:
    """Return which of these objects' leases nobody holds, by object; nothing is locked or written."""
    rows = connection.execute(UNUSED, {"objects": list(objects)})
    return [Unused(row.object, row.fence) for row in rows]


def take_unused(connection: Connection, seen: Unused, owner: str) -> Lease | None:
    """Take a lease with the commit, unless another process has held it since; None: it has."""
    values = asdict(seen) | {"owner": owner, "seconds": LEASE_SECONDS}
    fence = connection.execute(TAKE_UNUSED, values).scalar()
    return None if fence is None else Lease(seen.object, owner, int(fence))


def pass_by(connection: Connection, seen: Unused) -> bool:
    """Take and release a lease at once, in one write; return whether no other process has held it since.

    The row lock lasts until the commit, so what the transaction writes after this is fenced, as under a lease
    that was held since `seen` was read.
    """
    return connection.execute(PASS_BY, asdict(seen)).rowcount == 1


def acquire(engine: Engine, sobject: str, owner: str, wait: timedelta, stop: threading.Event) -> Lease:
    """Return the lease as soon as it is free."""
    deadline = time.monotonic() + wait.total_seconds()
    logged = False
    while True:
        if stop.is_set():
            raise StoppedError
        with transaction(engine) as connection:
            connection.execute(SEED, {"object": sobject})
            fence = connection.execute(
                TAKE, {"object": sobject, "owner": owner, "seconds": LEASE_SECONDS}
            ).scalar()
            holder = connection.execute(HOLDER, {"object": sobject}).one() if fence is None else None
        if holder is None:
            return Lease(sobject, owner, int(fence or 0))
        if time.monotonic() >= deadline:
            raise LeaseHeldError(
                f"{sobject}: {holder.owner} holds the lease (until {holder.expires_at:%H:%M:%S} UTC, "
                "renewed while that process runs); wait longer with --wait, or stop that process"
            )
        if not logged:
            log.info("lease_waiting", object=sobject, holder=holder.owner)
            logged = True
        stop.wait(POLL_SECONDS)


def renew(engine: Engine, held: Lease, done: threading.Event) -> None:
    """Renew the lease until `done` is set.

    The fence detects a lost lease; the work itself detects an unreachable database.
    """
    while not done.wait(RENEW_SECONDS):
        try:
            with transaction(engine, urgent=True) as connection:
                connection.execute(RENEW, asdict(held) | {"seconds": LEASE_SECONDS})
        except SyncError as error:
            log.warning("lease_not_renewed", object=held.object, reason=str(error))


def check_fence(connection: Connection, held: Lease) -> None:
    """Check the fence, as the first statement of every writing transaction.

    Raises FenceLostError if another process took over the lease.
    """
    if connection.execute(FENCE, asdict(held) | {"seconds": LEASE_SECONDS}).scalar() is None:
        raise FenceLostError(
            f"{held.object}: another process took over the lease; nothing of this page was written"
        )


def revoke_others(connection: Connection, owner: str) -> None:
    """Revoke the leases of all other processes, and those that nobody holds: after the commit no other
    process can write what it has read.

    Waits for their transactions that are being committed.
    """
    connection.execute(REVOKE, {"owner": owner})


@contextmanager
def fenced_transaction(engine: Engine, held: Lease) -> Iterator[Connection]:
    """Open a writing transaction that may take long; raise FenceLostError if another process took over the
    lease.

    Its row lock blocks other processes and also the renewal. A lease that is about to expire is therefore
    renewed with the commit; otherwise a waiting process would take it right after.
    """
    with transaction(engine) as connection:
        check_fence(connection, held)
        began = time.monotonic()
        yield connection
        if time.monotonic() - began > RENEW_SECONDS:
            check_fence(connection, held)
