"""How fresh the tables are: edits seen through a worker with default settings, and a day of its passes.

`make fresh`, or `make fresh ARGS="--edits 5 --passes 60"`. The worker is a process of its own, each call to the
simulated org takes 0.3 seconds, and the times are real. The day is lived with a stepped clock, in a minute or two.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from statistics import median

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import settings_from
from sync.demo import embedded
from sync.logs import logger
from sync.postgres import tables
from sync.replication import pipeline
from sync.replication.runs import SyncContext
from sync.salesforce.session.session import Session
from sync.simulator import Simulator
from tests.soak_year.clock import Clock, aging_sessions, replace_clock
from tests.support import processes
from tests.support.databases import administer, server
from tests.support.world import NEVER_WAIT

SEEN = text("SELECT title, now() FROM crm.customer WHERE contact_id = :id")
CLAIMED = text("SELECT crm.complete_through()")
BYTES = text("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
ROWS = text("SELECT count(*) FROM sync.run")
DEAD = text(
    "SELECT coalesce(sum(n_dead_tup), 0)::int, coalesce(sum(n_tup_upd), 0)::int, coalesce(sum(n_tup_hot_upd), 0)::int"
    " FROM pg_stat_user_tables WHERE schemaname = 'sync'"
)
SIZE = text(
    "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c"
    " WHERE c.relkind = 'r' AND c.relnamespace = 'sync'::regnamespace"
)
NOT_CALLS = ("token", "userinfo", "control")


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.freshness", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--edits", type=int, default=20, help="edits to follow; 0: none (20)")
    add("--each", type=float, default=13.0, help="seconds between two edits (13)")
    add("--latency", type=float, default=0.3, help="seconds that each call takes (0.3)")
    add("--passes", type=int, default=1440, help="passes of the day; 0: none (1440)")
    return parser.parse_args(arguments)


def org() -> Simulator:
    """An org of fifty accounts and two hundred contacts."""
    return Simulator(accounts=50, contacts=200, seed=7)


def live(given: argparse.Namespace, url: str) -> list[tuple[float, float]]:
    """For each edit the seconds until a consumer reads it, and until complete_through has passed it."""
    found: list[tuple[float, float]] = []
    with org() as sim:
        sim.options.latency = given.latency
        environment = {"DATABASE_URL": url, "SYNC_OBJECTS": "Account,Contact", **sim.environment()}
        worker = processes.start(["sync", "worker"], environment)
        engine = create_engine(make_url(url), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        try:
            wait_for_load(engine)
            ids = sim.org.ids("Contact", deleted=False)
            threads = []
            for number in range(given.edits):
                one = threading.Thread(
                    target=follow, args=(sim, engine, ids[number], f"edit {number}", found)
                )
                one.start()
                threads.append(one)
                time.sleep(given.each)
            for one in threads:
                one.join()
            calls = Counter(call.kind for call in sim.requests if call.counted)
            print(f"calls of the live worker: {dict(calls)}")
        finally:
            worker.terminate()
            worker.communicate()
    return found


def wait_for_load(engine: Engine) -> None:
    """Wait until all objects are loaded."""
    while True:
        with engine.connect() as connection:
            if connection.execute(text("SELECT bool_and(loaded) FROM crm.freshness")).scalar():
                return
        time.sleep(0.2)


def follow(sim: Simulator, engine: Engine, id_: str, title: str, found: list[tuple[float, float]]) -> None:
    """Edit a contact, and note when a consumer sees it and when the claim has passed it."""
    sim.org.update(id_, {"Title": title})
    at, began, seen = sim.clock.now(), time.monotonic(), None
    while True:
        with engine.connect() as connection:
            row = connection.execute(SEEN, {"id": id_}).one()
            if seen is None and row.title == title:
                seen = time.monotonic() - began
            claimed = connection.execute(CLAIMED).scalar_one()
        if claimed >= at:
            assert seen is not None, "the claim has passed an edit that is not there"
            found.append((seen, time.monotonic() - began))
            return
        time.sleep(0.25)


def day(given: argparse.Namespace, url: str) -> None:
    """Live a day of passes over an org in which nothing changes; print what it cost."""
    owner = create_engine(make_url(url), poolclass=NullPool)
    replace_clock(owner)
    clock = Clock(owner)
    with org() as sim, aging_sessions() as memory:
        clock.follow(sim)
        settings = settings_from(
            {"DATABASE_URL": url, "SYNC_OBJECTS": "Account,Contact", **sim.environment()}, OBJECT_CHOICES
        )
        engine = tables.engine(settings.postgres, owner="fresh", size=4, replicas=None)
        stop = threading.Event()
        context = SyncContext(settings, Session(settings, stop, NEVER_WAIT), engine, "fresh/1", "run", stop)
        for _ in range(2):
            pipeline.sync_all(context)
        sim.requests.clear()
        with owner.connect() as connection:
            rows, wal, size = (connection.execute(each).scalar_one() for each in (ROWS, BYTES, SIZE))
        began, cpu, stepping = time.monotonic(), time.process_time(), 0
        for _ in range(given.passes):
            clock.step(60)
            memory.ahead = clock.ahead
            stepping += settle(clock, owner)
            pipeline.sync_all(context)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        with owner.connect() as connection:
            rows = connection.execute(ROWS).scalar_one() - rows
            wal = connection.execute(BYTES).scalar_one() - wal - stepping
            grown = connection.execute(SIZE).scalar_one() - size
            dead, updates, hot = connection.execute(DEAD).one()
        kinds = Counter(call.kind for call in sim.requests if call.counted)
        engine.dispose()
    calls = sum(kinds.values())
    print(
        f"{given.passes} quiet passes over two objects, one a minute of the org's time, took {seconds:.0f} s"
    )
    print(f"  API calls: {calls} ({', '.join(f'{kind} {n}' for kind, n in kinds.items())})")
    print(f"  CPU a pass: {1000 * cpu / given.passes:.1f} ms, with the simulator's in the same process")
    print(f"  rows of sync.run: {rows}; WAL: {wal / given.passes:.0f} bytes a pass, with autovacuum's")
    print(f"  updates {updates}, of them {hot} without a new index entry; dead rows at the end: {dead}")
    print(f"  schema sync grew by {grown / 1024:.0f} kB")


def settle(clock: Clock, owner: Engine) -> int:
    """Move the database's clock, which no real database does; return the bytes of WAL that it took."""
    with owner.connect() as connection:
        before = connection.execute(BYTES).scalar_one()
        clock.settle()
        return int(connection.execute(BYTES).scalar_one() - before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if an edit was claimed later than three minutes after it."""
    given = options(arguments)
    logger.setup("error", "logfmt")
    worst = timedelta()
    with ExitStack() as stack:
        url = stack.enter_context(server())
        databases = {}
        for name in ("fresh_live", "fresh_day"):
            administer(url, "ALTER SYSTEM SET autovacuum = on", f"CREATE DATABASE {name}")
            stack.callback(administer, url, f"DROP DATABASE {name} WITH (FORCE)")
            databases[name] = make_url(url).set(database=name).render_as_string(hide_password=False)
            embedded.migrate(create_engine(databases[name], poolclass=NullPool))
        administer(url, "SELECT pg_reload_conf()")
        if given.passes:
            day(given, databases["fresh_day"])
        if given.edits:
            found = live(given, databases["fresh_live"])
            for what, times in zip(("read by a consumer", "claimed"), zip(*found, strict=True), strict=True):
                print(f"{len(times)} edits {what}: median {median(times):.1f} s, worst {max(times):.1f} s")
            worst = timedelta(seconds=max(claimed for _, claimed in found))
    return int(worst > timedelta(minutes=3))


if __name__ == "__main__":
    sys.exit(main())
