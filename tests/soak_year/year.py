"""A year: the org lives, faults strike, the worker works, a consumer follows, and everything is measured."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from sync.simulator import Simulator
from tests.soak_year import checks
from tests.soak_year.checks import Check
from tests.soak_year.clock import Clock, replace_clock
from tests.soak_year.consumer import OBJECTS, Consumer, Replay
from tests.soak_year.measures import Day, Measures
from tests.soak_year.org import ACCOUNTS, CONTACTS, Life
from tests.soak_year.trouble import Trouble
from tests.soak_year.worker import Inside, Outside
from tests.support.consuming import GRANTS, Role, role

DAY = 86_400.0  # seconds
LAST_CHANGES = 90.0  # seconds before a pass
TRIES = 3  # of a failed pass, as the worker retries; then the next pass is one more
SETTINGS = {
    "SYNC_OBJECTS": ",".join(OBJECTS),
    "SYNC_RUN_RETENTION": "30d",
    "SYNC_ALERT_URLS": "",
    "LOG_LEVEL": "warning",
}
LAG = text("SELECT extract(epoch FROM now() - min(complete_through)) / 60 FROM sync.cursor")
INCIDENTS = text("SELECT id, kind, times, closed_at IS NOT NULL AS closed FROM sync.incident")


@dataclass(frozen=True)
class Options:
    """How long, how dense, and which year: the same seed gives the same org."""

    days: int = 365
    passes: int = 20
    seed: int = 1
    accounts: int = ACCOUNTS
    contacts: int = CONTACTS


class Year:
    """All that takes part, for as long as the block of `year` lasts."""

    def __init__(
        self, options: Options, database: str, stack: ExitStack, alerts: str, log: str | None
    ) -> None:
        self.options, self.stack, self.alerts, self.log = options, stack, alerts, log
        self.random = random.Random(options.seed)
        self.database = database
        self.engine = create_engine(make_url(database), poolclass=NullPool)
        self.owner = create_engine(make_url(database), pool_size=1)
        stack.callback(self.owner.dispose)
        replace_clock(self.engine)
        self.clock = Clock(self.owner)
        self.measures = Measures({"days": options.days, "passes": options.passes, "seed": options.seed})
        self.counts: Counter[str] = Counter()
        self.life_done: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.calls = 0
        self.incidents: dict[int, tuple[str, int, bool]] = {}  # those that are pruned, too
        self.new_org()
        self.worker: Inside | Outside = Inside() if log is None else Outside(log)
        stack.callback(self.worker.close)
        shop: Role = stack.enter_context(role(self.engine)).granted(*GRANTS)
        with self.engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA shop AUTHORIZATION {shop.name}"))
        self.consumer = Consumer(shop.engine.url.render_as_string(hide_password=False))
        self.replay = Replay(self.engine)
        self.behind = 0  # days for which the consumer sleeps
        self.on_day: Callable[[int], object] = lambda _: None

    # ── the org ──

    def new_org(self) -> None:
        """Another org behind the settings."""
        self.counts["orgs"] += 1
        seed = self.options.seed + 100 * self.counts["orgs"]
        accounts, contacts = self.options.accounts, self.options.contacts
        size = {"Account": accounts, "Contact": contacts}
        self.sim = self.stack.enter_context(Simulator(accounts, contacts, seed))
        self.clock.follow(self.sim)
        self.life, self.trouble = Life(self.sim, size, seed), Trouble(self.sim, seed)

    def environment(self) -> dict[str, str]:
        minutes = max(1, round(1440 / self.options.passes))
        changing = {
            "DATABASE_URL": self.database,
            "SYNC_INTERVAL": f"{minutes}m",
            "SYNC_BULK_THRESHOLD": self.random.choice(("0", "10000", "10000", "10000")),
            "SYNC_ALERT_URLS": self.alerts,
        }
        found = {**SETTINGS, **self.sim.environment(), **changing}
        return {name: value for name, value in found.items() if value}

    def live(self, seconds: float) -> None:
        """Let time pass in the org, and changes happen at any moment of it."""
        parts = sorted(self.random.uniform(0, seconds - LAST_CHANGES) for _ in range(2))
        self.clock.step(parts[0])
        self.life.minutes()
        self.clock.step(parts[1] - parts[0])
        self.life.minutes()
        self.clock.step(seconds - parts[1])

    # ── the worker ──

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        self.clock.settle()
        return self.worker.ask(do, ahead=self.clock.ahead, **request)

    def start(self) -> None:
        self.ask("start", environment=self.environment())
        self.counts["starts"] += 1

    def passes(self, do: str = "pass", **request: Any) -> None:
        """One pass, and those by which the worker retries."""
        began = time.monotonic()
        answer = self.ask(do, **request)
        pause, tries = 5.0, 1
        while (failed := answer["failed"]) and tries < TRIES:
            self.counts["failed passes"] += len(failed)
            self.clock.step(pause)
            pause, tries = 2 * pause, tries + 1
            answer = self.ask("pass", objects=sorted(failed))
        self.counts["failed passes"] += len(failed)
        today = self.measures.days[-1]
        today.seconds.append(round(time.monotonic() - began, 2))
        with self.owner.connect() as connection:
            lag = connection.execute(LAG).scalar()
        today.lag_minutes.append(round(float(lag or 0), 1))
        if failed and self.log:
            with Path(self.log).open("a") as file:
                file.write(f"{self.clock.now():%F %H:%M} {failed}\n")

    # ── a day ──

    def run(self) -> list[Check]:
        """Live all days; return what must hold at the end."""
        began = time.monotonic()
        for number in range(self.options.days):
            self.measures.days.append(Day(number + 1))
            if number == 0:
                self.first_load()
            else:
                self.life.day(number)
                self.special(number)
            for place in range(self.options.passes):
                self.one_pass(number, place)
            self.close_day()
            self.measures.seconds = time.monotonic() - began
            self.on_day(number + 1)
        found = self.finish()
        self.measures.seconds = time.monotonic() - began
        return found

    def first_load(self) -> None:
        self.clock.step(3600)
        self.start()
        self.ask("pass")
        self.consumer.begin()
        self.replay.follow()

    def one_pass(self, number: int, place: int) -> None:
        self.live(DAY / self.options.passes)
        self.sim.options.page_sizes = self.random.choice((15, 100, 2000))
        self.sim.options.bulk_page_sizes = self.sim.options.page_sizes
        self.trouble.prepare()
        if place == 3 and number % 6 == 1:
            self.trouble.prepare_login()
            self.counts["sessions ended"] += 1
        if place == 5 and number % 7 == 3:
            self.counts["deploys"] += 1
            self.passes("deploy", environment=self.environment(), after=self.random.uniform(0, 0.2))
        elif place == 6 and number % 7 == 5:
            self.start()
            self.passes()
        elif place == 7 and number % 14 == 6 and self.log is not None:
            self.killed()
            self.passes()
        else:
            self.passes()
        self.trouble.clear()
        self.consume()

    def killed(self) -> None:
        """A second worker is killed in the middle of a pass, and leaves its leases."""
        assert self.log is not None
        second = Outside(self.log)
        common = {"ahead": self.clock.ahead, "environment": self.environment()}
        second.ask("start", **common)
        second.ask("die", after=self.random.randint(1, 6), **common)
        second.close()
        self.counts["killed"] += 1
        self.clock.step(600)

    def consume(self) -> None:
        """The consumer is mostly awake, at times killed, and at times away for days or for more than a month."""
        if self.behind == 0 and self.random.random() < 0.7:
            self.consumer.catch_up(dies=self.random.random() < 0.05)

    def special(self, number: int) -> None:
        """What is planned: other orgs, a full budget, a consumer that is away."""
        if number in (150, 250):
            self.replace_org()
        used = 90_000 if number % 45 == 20 else 0
        self.sim.options.limit_used = used - self.sim.api_calls
        self.behind = max(0, self.behind - 1)
        if number in (60, 200):
            self.behind = 45  # longer than the feed is kept
        elif number % 11 == 4 and self.behind == 0:
            self.behind = 3

    def replace_org(self) -> None:
        """Another org behind the settings: the worker refuses it until an operator accepts it."""
        self.measures.days[-1].calls += self.sim.api_calls - self.calls
        self.calls = 0
        self.end_org()
        self.new_org()
        self.start()
        self.passes()
        answer = self.ask("accept")
        assert answer["failed"] == {}, f"another org was not accepted: {answer['failed']}"

    def end_org(self) -> None:
        self.life_done.update(self.life.done)
        self.struck.update(self.trouble.struck)

    def close_day(self) -> None:
        self.ask("prune")
        self.replay.follow()
        today = self.measures.days[-1]
        today.calls += self.sim.api_calls - self.calls
        self.calls = self.sim.api_calls
        self.note_incidents()
        today.memory = self.ask("memory")["mb"]
        self.measures.note_sizes(self.owner)
        assert self.sim.errors == [], self.sim.errors[0]
        self.sim.requests.clear()

    # ── the end ──

    def finish(self) -> list[Check]:
        """Let everything settle, and compare."""
        self.trouble.clear()
        self.sim.options.limit_used = -self.sim.api_calls
        self.life.settle()
        for days in (1, 7):  # for a week a removed field is an incident
            self.clock.step(days * DAY + 7200)
            self.passes()
        self.ask("verify", repair=True)
        self.passes()
        self.consumer.catch_up()
        self.end_org()
        self.note_counts()
        return self.checks()

    def checks(self) -> list[Check]:
        """What must hold of the org, the tables and the consumer as they are now."""
        remaining = self.ask("verify", repair=False)["remaining"]
        different = list(checks.differences(self.engine, self.sim))
        left = [f"{name}: {count} remain" for name, count in remaining.items() if count]
        return [
            Check("the tables equal the org, value by value", different),
            Check("verify --deep all finds no difference", left),
            Check("the feed, replayed, equals the tables", self.replay.differences()),
            Check("the consumer's copy equals the tables", self.consumer.differences()),
            Check("sizes are flat after the first retention period", checks.flat(self.measures)),
            Check("the worker's memory is within 10 %", checks.memory(self.measures)),
            Check("no incident is left open", checks.open_incidents(self.engine)),
        ]

    def note_incidents(self) -> None:
        with self.owner.connect() as connection:
            for row in connection.execute(INCIDENTS):
                self.incidents[row.id] = (row.kind, row.times, row.closed)

    def note_counts(self) -> None:
        self.note_incidents()
        opened: Counter[str] = Counter()
        for kind, times, _ in self.incidents.values():
            opened[kind] += times
        closed = sum(times - (not is_closed) for _, times, is_closed in self.incidents.values())
        struck, calls = sum(self.struck.values()), sum(day.calls for day in self.measures.days)
        self.measures.counts |= {
            **self.counts,
            **{name: self.life_done[name] for name in sorted(self.life_done)},
            "faults": f"{struck:,} of {len(self.struck)} kinds, {struck / max(calls, 1):.1%} of all calls",
            "consumer": f"{self.consumer.followed:,} entries, {self.consumer.reloads} times told to reload, "
            f"{self.consumer.died} times killed",
            "feed": f"{self.replay.seq:,} entries",
            "incidents": f"{sum(opened.values())} opened, {closed} closed: "
            + ", ".join(f"{kind} {opened[kind]}" for kind in sorted(opened)),
        }


@contextmanager
def year(options: Options, database: str, alerts: str = "", log: str | None = None) -> Iterator[Year]:
    """A year in a migrated database of its own; `alerts` is a URL of Apprise ("": none), `log` the worker's log
    (None: the worker runs in this process)."""
    with ExitStack() as stack:
        yield Year(options, database, stack, alerts, log)
