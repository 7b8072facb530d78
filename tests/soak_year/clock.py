"""One clock for the org, the database and what a session remembers: the machine's, and so much ahead of it.

The database's part of it: functions of pg_catalog that give the time are replaced in the database of the soak
alone. Every statement of the product finds them there by their names, so that no statement is changed for the
soak, and all ages are true: of entries and runs, of tombstones, of incidents, and the lag that consumers see.
To set stored times back instead would need a second calendar for what Salesforce stamps.

Between two steps the clock runs as the machine's does: leases, locks and timeouts last their real time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Engine, text

from sync.replication import opening
from sync.salesforce import learned
from sync.salesforce.session import connection, refused, session
from sync.simulator import Simulator

# pg_catalog.transaction_timestamp is left: now() is made of it.
CLOCKS = {
    "now": ("transaction_timestamp", "STABLE"),
    "statement_timestamp": ("statement_timestamp_real", "STABLE"),
    "clock_timestamp": ("clock_timestamp_real", "VOLATILE"),
}
AHEAD = """
CREATE SCHEMA clock;
CREATE TABLE clock.ahead (by interval NOT NULL);
INSERT INTO clock.ahead VALUES ('0');
"""
REPLACE = """
ALTER FUNCTION pg_catalog.{name}() RENAME TO {name}_real;
CREATE FUNCTION pg_catalog.{name}() RETURNS timestamptz LANGUAGE plpgsql {volatility} SECURITY DEFINER AS $$
BEGIN
    RETURN pg_catalog.{source}() + (SELECT by FROM clock.ahead);
END $$;
"""
# Defaults and views know a function by its number, not by its name.
DEFAULTS = """
SELECT format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', d.adrelid::regclass, a.attname,
              replace(pg_get_expr(d.adbin, d.adrelid), '_real()', '()'))
  FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
 WHERE pg_get_expr(d.adbin, d.adrelid) LIKE '%\\_real()%'
"""
VIEWS = """
SELECT format('CREATE OR REPLACE VIEW %s %s AS %s', oid::regclass,
              'WITH (' || nullif(array_to_string(reloptions, ', '), '') || ')',
              replace(pg_get_viewdef(oid), '_real()', '()'))
  FROM pg_class WHERE relkind = 'v' AND relnamespace = 'crm'::regnamespace
   AND pg_get_viewdef(oid) LIKE '%\\_real()%'
"""
STEP = text("UPDATE clock.ahead SET by = make_interval(secs => :seconds)")
# What remembers when something was, for an hour or so: a session that lasts a year of minutes would never ask again.
REMEMBERING = (connection, learned, opening, refused, session)


def replace_clock(engine: Engine) -> None:
    """Let a migrated database tell the time of the soak; needs a superuser, and is never undone."""
    with engine.begin() as owner:
        owner.execute(text(AHEAD))
        for name, (source, volatility) in CLOCKS.items():
            owner.execute(text(REPLACE.format(name=name, source=source, volatility=volatility)))
        for statement in (DEFAULTS, VIEWS):
            for (change,) in owner.execute(text(statement)).all():
                owner.execute(text(change.replace(":", "\\:")))


class Clock:
    """The clock of a soak: how far it is ahead of the machine's, for all that follow it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ahead = 0.0  # seconds
        self.org: Simulator | None = None

    def follow(self, org: Simulator) -> None:
        """Let another org follow this clock."""
        self.org = org
        org.clock.advance(self.ahead)

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead)

    def step(self, seconds: float) -> None:
        """Move the org's clock on; the database's follows before anything is asked of it (`settle`)."""
        self.ahead += seconds
        if self.org is not None:
            self.org.clock.advance(seconds)

    def settle(self) -> None:
        """Move the database's clock to where the org's stands."""
        with self.engine.begin() as owner:
            owner.execute(STEP, {"seconds": self.ahead})


class Memory:
    """The monotonic clock of the sessions of one process."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@contextmanager
def aging_sessions() -> Iterator[Memory]:
    """Let what sessions remember age with the soak's clock, inside the block."""
    memory = Memory()
    stepped: Any = SimpleNamespace(monotonic=memory.monotonic, time=time.time)
    before = {module: vars(module)["time"] for module in REMEMBERING}
    for module in REMEMBERING:
        vars(module)["time"] = stepped
    try:
        yield memory
    finally:
        for module, own in before.items():
            vars(module)["time"] = own
