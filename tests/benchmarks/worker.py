"""The product, measured as its users run it: `python -m sync …` as a process of its own."""

from __future__ import annotations

from collections.abc import Mapping

from tests.benchmarks.database import Database
from tests.benchmarks.measure import OBJECTS, REST, Measurement, counts, number, process
from tests.benchmarks.org import Org

NEVER = str(2**31)
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}  # as app.json sets it
LAST_SEQ = "SELECT last_seq FROM sync.feed"


def settings(org: Org, database: Database, transport: str) -> dict[str, str]:
    """The environment of a worker that reads everything one way."""
    threshold = NEVER if transport == REST else "0"
    return {
        **ENVIRONMENT,
        **org.settings,
        "DATABASE_URL": database.url,
        "SYNC_BULK_THRESHOLD": threshold,
        "SYNC_OBJECTS": ",".join(OBJECTS),
    }


def measured(
    what: str,
    command: str,
    environment: Mapping[str, str],
    database: Database,
    *,
    contacts: int,
    transport: str,
) -> Measurement:
    """Run a command of the product; what it took and what it wrote."""
    database.settle()
    before = int(database.ask(LAST_SEQ))
    done = process(["sync", *command.split()], environment)
    table = done.table
    return Measurement(
        what,
        contacts,
        transport,
        rows=sum(counts(table, "read")),
        seconds=done.seconds,
        cpu=done.cpu,
        peak_mb=done.peak_mb,
        written=sum(counts(table, "inserted", "updated", "deleted")),
        feed=int(database.ask(LAST_SEQ)) - before,
        calls={row["object"]: number(row["API calls"]) for row in table},
        stood_still=done.stood_still,
        memory=done.memory,
        warnings=done.warnings,
    )
