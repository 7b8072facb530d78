"""Incidents: what opens and closes them, who is told when, and that nothing of it can hold up a pass."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sync.cli.wiring import open_keeper
from sync.errors import SyncError
from sync.logs import logger
from sync.operations.alerts.delivery import Outcome
from sync.operations.alerts.incidents import Message, compose, is_due, state_of, step
from sync.operations.alerts.keeper import Keeper, Ways
from sync.operations.alerts.problems import (
    FAILURES,
    KINDS,
    ObjectState,
    Observed,
    Pass,
    Problem,
    Verified,
    find_problems,
)
from sync.postgres import tables
from sync.postgres.state.incidents import Incident, read_open
from sync.replication import pipeline
from tests.support.hostile import answer, hostile
from tests.support.world import World

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MAX_LAG = timedelta(minutes=35)
GOOD, BAD = Pass("succeeded", None, NOON), Pass("failed", "salesforce", NOON)
WELL = ObjectState("Contact", NOON, timedelta(minutes=12), passes=(GOOD,))


# ── what is wrong ─────────────────────────────────────────────────────────────────────────────────────


def ended(label: str, outcome: str = "failed") -> tuple[Pass, ...]:
    """A last pass that ended so, after one that succeeded."""
    return (Pass(outcome, label, NOON), GOOD)


@pytest.mark.parametrize(
    ("state", "kinds"),
    [
        (WELL, set()),
        (replace(WELL, lag=MAX_LAG), set()),
        (replace(WELL, lag=MAX_LAG + MINUTE), {"stale"}),
        (ObjectState("Contact"), set()),
        (ObjectState("Contact", tried_for=MAX_LAG), set()),
        (ObjectState("Contact", tried_for=MAX_LAG + MINUTE), {"stale"}),
        (replace(WELL, passes=ended("login")), {"login"}),
        (replace(WELL, passes=(Pass("stopped"), *ended("login"))), {"login"}),
        (replace(WELL, passes=(GOOD, *ended("login"))), set()),
        (replace(WELL, passes=(BAD,) * (FAILURES - 1)), set()),
        (replace(WELL, passes=(BAD,) * FAILURES), {"failing"}),
        (replace(WELL, passes=(BAD, Pass("stopped"), *(BAD,) * (FAILURES - 1), GOOD)), {"failing"}),
        (replace(WELL, passes=(BAD, GOOD, *(BAD,) * FAILURES)), set()),
        (replace(WELL, passes=(Pass("abandoned", "process ended"),) * FAILURES), {"failing"}),
        (replace(WELL, passes=(Pass("failed", "guard"),) * FAILURES), {"guard"}),
        (replace(WELL, rejects=2), {"rejects"}),
        (replace(WELL, rejects=200, passes=ended("rejects")), {"rejects", "rejects_exceeded"}),
        (replace(WELL, passes=ended("guard")), {"guard"}),
        (replace(WELL, passes=ended("other org")), {"guard"}),
        (replace(WELL, verified=Verified(NOON, True, 900, True, "guard")), {"guard"}),
        (replace(WELL, vanished=("Title",)), {"field_vanished"}),
        (replace(WELL, verified=Verified(NOON, False, 0, False)), set()),
        (replace(WELL, verified=Verified(NOON, False, 2, False)), {"verify"}),
        (replace(WELL, verified=Verified(NOON, True, 0, False, "salesforce")), set()),
        (replace(WELL, verified=Verified(NOON, True, 0, True, "salesforce")), {"verify"}),
        (replace(WELL, passes=ended("api budget", "deferred")), {"api_budget"}),
    ],
)
def test_what_is_a_problem(state: ObjectState, kinds: set[str]) -> None:
    """Each state of an object has the problems that it should have, and no other."""
    found = find_problems(Observed((state,), MAX_LAG))

    assert {one.kind for one in found} == kinds
    assert {one.object for one in found} <= {"Contact", ""}


def test_the_budget_is_nearly_used() -> None:
    """The last answer of Salesforce tells the usage, before anything is deferred."""
    assert find_problems(Observed((WELL,), MAX_LAG, 0.89)) == []
    assert [one.kind for one in find_problems(Observed((WELL,), MAX_LAG, 0.9))] == ["api_budget"]


def test_work_that_waits_for_an_hour() -> None:
    """Work that our own allowance defers for an hour is told, and named; a stop of all passes comes first."""
    [found] = find_problems(Observed((WELL,), MAX_LAG, deferred=("refresh", "verify")))
    assert (found.kind, found.what) == (
        "api_budget",
        "SYNC_API_CALLS_PER_DAY is nearly used: refresh, verify deferred for an hour",
    )
    stopped = replace(WELL, passes=ended("api budget", "deferred"))
    [found] = find_problems(Observed((stopped,), MAX_LAG, deferred=("pass", "refresh")))
    assert "SYNC_API_BUDGET is used up" in found.what


@pytest.mark.parametrize(
    ("days", "what"),
    [
        (None, None),
        (30, None),
        (29, "in less than 30 days"),
        (7, "in less than 7 days"),
        (0, "SYNC_DATABASE_LIMIT now"),
    ],
)
def test_the_database_is_nearly_full(days: float | None, what: str | None) -> None:
    """Growth that reaches the limit within a month is told, and within a week again as such."""
    found = find_problems(Observed((WELL,), MAX_LAG, days_left=days))

    assert [one.kind for one in found] == (["database_full"] if what else [])
    assert all(one.what.endswith(what or "") for one in found)


def test_the_keeper_knows_the_limit(loaded: World, place: Place) -> None:
    """The worker's evaluation holds the growth of the database against the limit."""
    loaded.sql("INSERT INTO sync.size SELECT (now() AT TIME ZONE 'UTC')::date - 2, 1000")
    clock = Clock()
    keeper(loaded, place, clock, size_limit=1 << 40).attend()
    assert loaded.sql("SELECT kind FROM sync.incident") == []
    keeper(loaded, place, clock, size_limit=1 << 20).attend()
    assert [row.kind for row in loaded.sql("SELECT kind FROM sync.incident")] == ["database_full"]


@pytest.mark.parametrize("name", ["Contact", "prune"])
def test_a_restart_is_over_after_a_pass(name: str) -> None:
    """What the watchdog recorded stays open until a pass has succeeded since."""
    restarted = Incident("watchdog", name, "was silent", NOON)
    before, after = (
        replace(WELL, passes=(replace(GOOD, finished_at=NOON + at),)) for at in (-MINUTE, MINUTE)
    )

    assert [one.key for one in find_problems(Observed((before,), MAX_LAG, known=[restarted]))] == [
        ("watchdog", name)
    ]
    assert find_problems(Observed((after,), MAX_LAG, known=[restarted])) == []


def test_many_fields_make_one_short_problem() -> None:
    """A lost permission hides a hundred fields: one incident of the object, with some of their names."""
    [found] = find_problems(
        Observed((replace(WELL, vanished=tuple(f"F{i}__c" for i in range(100))),), MAX_LAG)
    )

    assert found.what == "not shown any more: F0__c, F1__c, F2__c, F3__c, F4__c and 95 more"


# ── once, and again when it is over ───────────────────────────────────────────────────────────────────

STALE = Problem("stale", "Contact", "complete through 11:00")


def told_in(story: Sequence[tuple[int, bool]], until: int) -> list[tuple[int, str]]:
    """(minute, state) of each message, with an evaluation each minute; the problem changes at given minutes."""
    known: list[Incident] = []
    told: list[tuple[int, str]] = []
    wrong = False
    for minute in range(until):
        now = NOON + minute * MINUTE
        wrong = dict(story).get(minute, wrong)
        known = step(known, [STALE] if wrong else [], now)
        for place, one in enumerate(known):
            if is_due(one, now):
                told.append((minute, state_of(one)))
                known[place] = replace(one, told=state_of(one), last_told_at=now)
    return told


@pytest.mark.parametrize(
    ("story", "told"),
    [
        ([], []),
        ([(5, True)], [(5, "open")]),
        ([(5, True), (200, False)], [(5, "open"), (200, "over")]),
        ([(5, True), (10, False)], [(5, "open"), (65, "over")]),
        ([(5, True), (10, False), (20, True)], [(5, "open")]),
        ([(5, True), (10, False), (20, True), (30, False)], [(5, "open"), (65, "over")]),
        ([(5, True), (10, False), (70, True)], [(5, "open"), (65, "over"), (125, "open")]),
        ([(5, True), (100, False), (300, True)], [(5, "open"), (100, "over"), (300, "open")]),
    ],
)
def test_once_and_again_when_it_is_over(story: list[tuple[int, bool]], told: list[tuple[int, str]]) -> None:
    """A message when it opens, one when it is over, at most one an hour, and none for what has gone back."""
    assert told_in(story, 400) == told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [([0, 5], []), ([0, 59, 60, 90], [(60, "open")]), ([0, 5, None, 20], [])],
)
def test_a_budget_that_is_used_up_for_seconds_is_not_told(
    seconds: list[int | None], told: list[tuple[int, str]]
) -> None:
    """One refusal that the next pass does not meet opens and closes an incident without a message."""
    used_up, known, found, now = Problem("api_budget", "", "used up"), list[Incident](), [], NOON
    for second in [*seconds, None]:
        now = now if second is None else NOON + timedelta(seconds=second)
        known = step(known, [] if second is None else [used_up], now)
        for place, one in enumerate(known):
            if is_due(one, now):
                found.append((second or 0, state_of(one)))
                known[place] = replace(one, told=state_of(one), last_told_at=now)

    assert found == told
    assert [one.closed_at is None for one in known] == [False]


def test_an_incident_remembers() -> None:
    """A problem that comes back soon is the same incident, counted; its text is the newest."""
    [opened] = step([], [STALE], NOON)
    [closed] = step([opened], [], NOON + MINUTE)
    [again] = step([closed], [replace(STALE, what="worse")], NOON + 2 * MINUTE)

    assert (opened.opened_at, opened.closed_at, opened.times) == (NOON, None, 1)
    assert closed.closed_at == NOON + MINUTE
    assert (again.opened_at, again.closed_at, again.times, again.what) == (NOON, None, 2, "worse")
    assert step([closed], [], NOON + HOUR) == [closed]


def test_the_message() -> None:
    """A message says where, what, since when, what to type and where to read; what is over comes last."""
    opened = Incident("stale", "Contact", STALE.what, NOON, times=3)
    over = Incident("login", "", "refused", NOON, NOON + HOUR)

    both = compose([over, opened], "acme.my.salesforce.com")

    assert both == Message(
        "acme.my.salesforce.com: Contact stale and 1 more",
        "OPEN Contact stale since 2026-01-31 12:00:00 UTC (3 times): complete through 11:00; "
        "type: python -m sync status; see docs/operating.md#stale\n"
        "OVER login, after 1h 00m: Salesforce accepts the login again",
        "failure",
    )
    assert compose([over], "acme") == Message("acme: login is over", both.body.splitlines()[1], "success")
    many = compose([replace(opened, object=f"O{i}") for i in range(50)], "acme")
    assert many.body.endswith("… and 30 more; type: python -m sync status")


# ── recorded in the database ──────────────────────────────────────────────────────────────────────────


@dataclass
class Place:
    """Where messages arrive in these tests; `accepts` is what it does with them."""

    accepts: bool = True
    messages: list[Message] = field(default_factory=list)

    def __call__(self, message: Message, _stop: threading.Event) -> list[Outcome]:
        self.messages.append(message)
        return [Outcome(1, "json://127.0.0.1", "" if self.accepts else "no")]

    @property
    def titles(self) -> list[str]:
        return [message.title.partition(": ")[2] for message in self.messages]


@dataclass
class Clock:
    """The time that a keeper sees."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def keeper(world: World, place: Place, clock: Clock, **more: Any) -> Keeper:
    """A keeper as a worker has it after a start."""
    return Keeper(world.engine, ("Account", "Contact"), MAX_LAG, clock, "acme", Ways(place), **more)


def late(world: World, minutes: int) -> None:
    """Let Contact be complete through a moment so long ago."""
    world.sql(
        "UPDATE sync.cursor SET complete_through = now() - :ago WHERE object = 'Contact'",
        ago=timedelta(minutes=minutes),
    )


def lines(world: World) -> list[tuple[str, str, bool, int, str | None]]:
    return [
        tuple(row)
        for row in world.sql(
            "SELECT kind, object, closed_at IS NULL, times, told FROM sync.incident ORDER BY id"
        )
    ]


def test_restarts_neither_repeat_nor_forget(loaded: World, place: Place, clock: Clock) -> None:
    """What one process has told, the next does not repeat; it tells the end."""
    keeper(loaded, place, clock).attend()
    assert (place.titles, lines(loaded)) == ([], [])
    late(loaded, 60)

    for _ in range(3):
        keeper(loaded, place, clock).attend()
        clock.now += MINUTE
    assert place.titles == ["Contact stale"]
    assert lines(loaded) == [("stale", "Contact", True, 1, "open")]

    late(loaded, 1)
    clock.now += HOUR
    for _ in range(2):
        keeper(loaded, place, clock).attend()
    assert place.titles == ["Contact stale", "Contact stale is over"]
    assert lines(loaded) == [("stale", "Contact", False, 1, "over")]


def test_deferred_work_is_told_after_an_hour(loaded: World, place: Place, clock: Clock) -> None:
    """The keeper reads since when work waits; it tells when an hour has passed and a minute more."""
    since = clock.now - timedelta(minutes=30)
    loaded.sql("INSERT INTO sync.budget DEFAULT VALUES")
    save = "UPDATE sync.budget SET deferred = jsonb_build_object('refresh', CAST(:at AS text))"
    loaded.sql(save, at=since.isoformat())
    keeping = keeper(loaded, place, clock)
    keeping.attend()
    assert lines(loaded) == []
    loaded.sql(save, at=(since - HOUR).isoformat())
    for _ in range(3):
        keeping.attend()
        clock.now += MINUTE

    assert place.titles == ["api_budget"]
    assert "refresh deferred for an hour" in place.messages[0].body


def test_of_two_workers_one_tells(loaded: World, clock: Clock) -> None:
    """During a deploy two workers evaluate side by side: a message that one is sending the other leaves."""
    late(loaded, 60)
    second, inside = Place(), Place()

    class Overlapping(Place):
        def __call__(self, message: Message, stop: threading.Event) -> list[Outcome]:
            keeper(loaded, inside, clock).attend()
            return super().__call__(message, stop)

    first = Overlapping()
    keeper(loaded, first, clock).attend()
    keeper(loaded, second, clock).attend()

    assert (first.titles, inside.titles, second.titles) == (["Contact stale"], [], [])


def test_without_urls_incidents_are_recorded(loaded: World, place: Place, clock: Clock) -> None:
    """Without SYNC_ALERT_URLS `status` shows the incidents; once it is set they are told."""
    late(loaded, 60)
    silent = Keeper(loaded.engine, ("Account", "Contact"), MAX_LAG, clock, "acme")
    silent.attend()
    assert lines(loaded) == [("stale", "Contact", True, 1, None)]

    keeper(loaded, place, clock).attend()
    assert place.titles == ["Contact stale"]


def test_a_dead_service_is_tried_again_with_pauses(
    loaded: World, place: Place, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A message that nobody accepts is sent again after growing pauses, and recorded as told only then."""
    late(loaded, 60)
    place.accepts = False
    at = []
    keeping = keeper(loaded, place, clock)
    began = clock.now
    for minute in range(20):
        before = len(place.messages)
        keeping.attend()
        if len(place.messages) > before:
            at.append(minute)
        clock.now = began + (minute + 1) * MINUTE
    assert at == [0, 1, 3, 7, 15]
    assert lines(loaded)[0][4] is None
    assert "json://127.0.0.1: no" in caplog.text

    place.accepts = True
    clock.now += HOUR
    keeping.attend()
    assert lines(loaded)[0][4] == "open"


@contextmanager
def only_readable(world: World) -> Iterator[None]:
    """The database of a standby, or of a plan that is full."""
    name = world.sql("SELECT current_database()")[0][0]
    with world.elsewhere() as admin:
        admin(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        world.engine.dispose()
        try:
            yield
        finally:
            admin(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            world.engine.dispose()


def test_kept_in_memory_while_the_database_takes_nothing(loaded: World, place: Place, clock: Clock) -> None:
    """While the database may only be read, incidents are told all the same, once; afterwards they are stored."""
    keeping = keeper(loaded, place, clock)
    late(loaded, 60)
    with only_readable(loaded):
        for _ in range(6):
            keeping.attend()
            clock.now += MINUTE
        assert place.titles == ["Contact stale", "database"]
        assert lines(loaded) == []
    for _ in range(3):
        keeping.attend()
        clock.now += MINUTE

    assert place.titles == ["Contact stale", "database"]
    assert lines(loaded) == [
        ("stale", "Contact", True, 1, "open"),
        ("database", "", False, 1, "open"),
    ]
    clock.now += HOUR
    keeper(loaded, place, clock).attend()
    assert place.titles[2:] == ["database is over"]


def test_what_nobody_was_told_is_kept_in_memory(loaded: World, clock: Clock) -> None:
    """Without URLs, too, an incident keeps the time at which it was first seen."""
    silent = Keeper(loaded.engine, ("Account", "Contact"), MAX_LAG, clock, "acme")
    late(loaded, 60)
    began = clock.now
    with only_readable(loaded):
        for _ in range(2):
            silent.attend()
            clock.now += MINUTE
    silent.attend()

    assert loaded.sql("SELECT kind, opened_at FROM sync.incident") == [("stale", began)]


def test_a_short_outage_is_no_incident(loaded: World, place: Place, clock: Clock) -> None:
    """A failover of two minutes is told nobody; what was open stays open without the database."""
    late(loaded, 60)
    keeping = keeper(loaded, place, clock)
    keeping.attend()
    away = tables.engine(loaded.engine.url.set(database="nowhere"), owner="test")
    there, keeping.engine = keeping.engine, away
    for _ in range(3):
        clock.now += MINUTE
        keeping.attend()
    away.dispose()
    assert [(one.kind, one.closed_at) for one in keeping.known] == [("stale", None)]
    keeping.engine = there
    keeping.attend()

    assert place.titles == ["Contact stale"]
    assert len(lines(loaded)) == 1


def test_all_kinds_are_read_from_the_database(loaded: World, place: Place, clock: Clock) -> None:
    """Each kind that the database tells opens from what runs leave there."""
    columns = "(object, command, owner, outcome, error_class, finished_at, findings)"
    for name, command, outcome, label, findings in (
        ("Account", "worker", "failed", "login", None),
        ("Contact", "worker", "failed", "rejects", None),
        ("Contact", "verify", "succeeded", None, '{"remaining": 3, "rejected": 1}'),
    ):
        loaded.sql(
            f"INSERT INTO sync.run {columns} VALUES (:o, :c, 'x', :e, :l, now(), CAST(:f AS jsonb))",
            o=name,
            c=command,
            e=outcome,
            l=label,
            f=findings,
        )
    reject = "INSERT INTO sync.reject (object, record_id, reason, record) VALUES ('Contact', :id, :why, '{}')"
    loaded.sql(reject, id="003a", why="Birthdate: not a date")
    loaded.sql(reject, id="003b", why="Title: too long")
    loaded.sql(
        "INSERT INTO sync.accepted (object, reason, accepted_by) VALUES ('Contact', 'Title: too long', 'x')"
    )
    loaded.sql(
        "INSERT INTO sync.field (object, field, change, type, size, calculated, formula, relationship, targets, "
        "replicated) VALUES ('Contact', 'Title', 'vanished', 'string', '', false, '', '', '{}', true)"
    )
    late(loaded, 60)

    keeper(loaded, place, clock).attend()

    with tables.transaction(loaded.engine) as connection:
        found = {one.key: one.what for one in read_open(connection)}
    assert set(found) == {
        ("login", ""),
        *((kind, "Contact") for kind in ("stale", "rejects", "rejects_exceeded", "field_vanished", "verify")),
    }
    assert found["rejects", "Contact"] == "1 record is rejected and not stored"
    assert found["verify", "Contact"].startswith("2 found different at ")
    [message] = place.messages
    assert message.body.count("OPEN ") == len(found)


def test_a_first_load_may_take_its_time(world: World, place: Place, clock: Clock) -> None:
    """An object that was never complete is stale when its first run began longer ago than the lag that is
    allowed."""
    keeping = keeper(world, place, clock)
    begun = "INSERT INTO sync.run (object, command, owner, started_at) VALUES ('Contact', 'worker', 'x', now() - :ago)"
    keeping.attend()
    world.sql(begun, ago=timedelta(minutes=34))
    keeping.attend()
    assert place.titles == []

    world.sql("DELETE FROM sync.run")
    world.sql(begun, ago=timedelta(minutes=36))
    keeping.attend()
    assert place.titles == ["Contact stale"]


def test_the_watchdogs_restart(loaded: World, place: Place, clock: Clock) -> None:
    """The process that ends records it, the next one tells it; it is over after a pass, also the second time."""
    for _ in range(2):
        keeper(loaded, place, clock).note_stuck(["Contact"], timedelta(minutes=30))
        keeper(loaded, place, clock).attend()
        assert [line[:3] for line in lines(loaded)] == [("watchdog", "Contact", True)]
        loaded.run()
        loaded.sql("UPDATE sync.run SET finished_at = :at", at=clock.now + MINUTE)
        clock.now += 2 * MINUTE
        keeper(loaded, place, clock).attend()
        assert [line[:3] for line in lines(loaded)] == [("watchdog", "Contact", False)]

    assert place.titles == ["Contact watchdog"]
    assert "silent for 30 minutes" in place.messages[0].body


def test_the_watchdog_without_a_database(loaded: World, place: Place, clock: Clock) -> None:
    """Where the database does not take it, the ending process tells it itself."""
    keeping = keeper(loaded, place, clock)
    keeping.engine = tables.engine(loaded.engine.url.set(database="nowhere"), owner="test")
    keeping.note_stuck(["Contact"], timedelta(minutes=30))
    keeping.engine.dispose()

    assert place.titles == ["Contact watchdog"]


# ── the heartbeat ─────────────────────────────────────────────────────────────────────────────────────


def test_the_heartbeat_follows_complete_passes(
    loaded: World, place: Place, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """One ping after each pass of all objects; a failure is logged once, until it works again."""
    pings: list[bool] = []
    works = False

    def ping() -> None:
        pings.append(works)
        if not works:
            raise SyncError("answered 500")

    keeping = keeper(loaded, place, clock)
    keeping.ways = Ways(place, ping)

    def passed(*names: str) -> int:
        for name in names:
            keeping.note_pass(name)
        keeping.attend()
        return len(pings)

    assert [passed(), passed("Contact"), passed("Contact"), passed("Account"), passed()] == [0, 0, 0, 1, 1]
    assert passed("Account", "Contact") == 2
    assert caplog.text.count("heartbeat_failed") == 1
    works = True
    assert passed("Account", "Contact") == 3
    works = False
    assert passed("Account", "Contact") == 4
    assert caplog.text.count("heartbeat_failed") == 2


def test_a_worker_is_wired(loaded: World, tmp_path: Path) -> None:
    """With its settings a worker pings after the passes of both objects, over TLS of a private CA, and knows how
    much of its budget is used."""
    with hostile(tmp_path) as there:
        there.answers = lambda _: answer(b"OK")
        both = tmp_path / "both.pem"
        known = Path(loaded.environment["REQUESTS_CA_BUNDLE"]).read_text()
        both.write_text(known + Path(there.ca_file).read_text())
        loaded.environment["REQUESTS_CA_BUNDLE"] = str(both)
        loaded.environment["SYNC_HEARTBEAT_URL"] = f"{there.url}/beat"
        context = loaded.context("worker")
        keeping = open_keeper(context)
        context = replace(context, on_pass=keeping.note_pass)

        for name in ("Account", "Contact"):
            assert there.asked == []
            pipeline.run_scheduled(context, name)
            keeping.attend()

    assert [asked.path for asked in there.asked] == ["/beat"]
    usage, session = keeping.usage(), context.session.usage
    assert session is not None
    assert usage == pytest.approx(session.used / session.limit / 0.8)


def test_samples_of_metrics(
    loaded: World, place: Place, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once a minute a line of the log has lag, memory, size and incidents as samples of l2met."""
    logger.setup("info", "logfmt")
    late(loaded, 60)
    keeping = keeper(loaded, place, clock)
    for _ in range(4):
        keeping.attend()
        clock.now += MINUTE / 2
    logged = [line for line in capsys.readouterr().err.splitlines() if "event=metrics" in line]

    assert len(logged) == 2
    assert re.search(
        r" sample#sync\.lag\.Account=\d+s sample#sync\.lag\.Contact=360\ds sample#sync\.memory=\d+MB "
        r"sample#sync\.database_size=\d+MB sample#sync\.incidents=1 ",
        logged[1],
    )


def test_every_kind_has_an_end() -> None:
    """Every kind says what to type, and what its end means."""
    for kind in KINDS.values():
        assert kind.command.startswith("python -m sync ")
        assert kind.over


def test_nothing_is_written_while_nothing_changes(loaded: World, place: Place, clock: Clock) -> None:
    """An evaluation that finds what the last one found writes no line."""
    keeping = keeper(loaded, place, clock)
    late(loaded, 60)
    keeping.attend()
    before = loaded.sql("SELECT xmin::text FROM sync.incident")
    keeping.attend()

    assert loaded.sql("SELECT xmin::text FROM sync.incident") == before
