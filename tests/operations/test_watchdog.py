"""The worker's loop: when jobs run, what counts as activity, and what ends a process that hangs."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
from sqlalchemy import Connection, text

from sync.catalogue.catalogue import CATALOGUE
from sync.errors import (
    ConfigError,
    DatabaseUnavailableError,
    GuardError,
    LoginError,
    OrgChangedError,
    SalesforceError,
    SchemaOutdatedError,
    SyncError,
)
from sync.logs import activity, logger
from sync.operations import worker
from sync.postgres.load import first
from sync.postgres.state.leases import Lease
from sync.postgres.tables import REPLICA, transaction
from sync.replication import apply, pipeline
from sync.replication.verify.work import Verification, long_read
from sync.salesforce.prefetch import as_source, prefetch
from sync.salesforce.session.retry import RetryPolicy
from tests.support.world import World

LONG = timedelta(minutes=45)  # longer than the watchdog waits


class Ended(BaseException):
    """What ends the process here."""


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set in the end, so that no thread of a test outlives it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watchdog that waits for tenths of a second, and ends the test's thread, not the process."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(worker, "WATCHDOG_SECONDS", 0.3)
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(os, "_exit", end)


def working(
    stop: threading.Event,
    jobs: Mapping[str, Callable[[], object]],
    *,
    seconds: float,
    interval: timedelta = LONG,
    attendant: worker.Attendant | None = None,
) -> None:
    """Let the jobs run for so long; `Ended` where the watchdog ends them before."""
    timer = threading.Timer(seconds, stop.set)
    timer.start()
    try:
        worker.run_jobs(jobs, interval, stop, None, attendant)
    finally:
        timer.cancel()


# ── the watchdog ──────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_hangs_ends_the_process(
    quick: None, stop: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job without any activity ends the process with 1, and the log names it; the platform starts another."""
    logger.setup("warning", "logfmt")
    began = time.monotonic()
    with pytest.raises(Ended) as ended:
        working(stop, {"Contact": lambda: stop.wait(), "Account": lambda: None}, seconds=5)

    assert ended.value.args == (1,)
    assert 0.3 < time.monotonic() - began < 3
    assert "event=watchdog objects=Contact " in capsys.readouterr().err


def test_the_end_is_recorded_before_it_comes(
    quick: None, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attendant is told which jobs were silent; if it hangs itself, the process ends all the same."""
    monkeypatch.setattr(worker, "RECORD_SECONDS", 0.1)
    recorded: list[Sequence[str]] = []

    def record(names: Sequence[str], _: timedelta) -> None:
        recorded.append(names)
        stop.wait()

    attendant = worker.Attendant(lambda: None, record)
    with pytest.raises(Ended):
        working(stop, {"Contact": lambda: stop.wait()}, seconds=5, attendant=attendant)

    assert recorded == [["Contact"]]


def test_the_attendant_looks_after_each_attempt(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs at once and after each attempt of a job, failed ones included; neither its failure nor its hanging
    holds up a job."""
    monkeypatch.setattr(worker, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(worker, "FIRST_BACKOFF", 0.05)
    attended: list[int] = []
    ran: list[str] = []

    def job() -> None:
        ran.append("job")
        if len(ran) == 1:
            raise SyncError("Salesforce is away")

    def attend() -> None:
        attended.append(len(ran))
        if len(attended) == 3:
            stop.wait()
        if len(attended) == 2:
            raise ValueError("a mistake")

    attendant = worker.Attendant(attend, lambda *_: None)
    working(stop, {"Contact": job}, seconds=0.8, interval=timedelta(seconds=0.1), attendant=attendant)

    assert len(attended) == 3
    assert len(ran) > 3, "the jobs went on while the attendant hung"


def test_what_attempts_leave_in_cycles_is_freed(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that a failed pass held do not stay until Python looks for reference cycles by itself."""

    class Page:
        """What a frame holds that an exception has passed."""

    monkeypatch.setattr(worker, "SHORTEST_PAUSE", 0.01)
    pages: list[weakref.ref[Page]] = []

    def attempt() -> None:
        page = Page()
        vars(page)["frame"] = page
        pages.append(weakref.ref(page))

    attendant = worker.Attendant(lambda: None, lambda *_: None)
    gc.disable()
    try:
        working(stop, {"Contact": attempt}, seconds=1, attendant=attendant)
    finally:
        gc.enable()

    assert [page() for page in pages] == [None]


def test_the_watchdog_waits_longer_than_any_call() -> None:
    """The longest call and the usual statement fit into the limit, the waits between two attempts, too."""
    from sync.salesforce.session.limits import CONNECT_SECONDS, LONGEST_RETRY_AFTER, RESULTS

    assert CONNECT_SECONDS + RESULTS.answer + RESULTS.body < worker.WATCHDOG_SECONDS <= 3600
    assert max(LONGEST_RETRY_AFTER, RetryPolicy().longest) < worker.WATCHDOG_SECONDS / 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_job_whose_thread_ended_ends_the_process(quick: None, stop: threading.Event) -> None:
    """A job that nobody would ever run again is no idle one."""

    def dying() -> None:
        raise SystemExit

    with pytest.raises(Ended):
        working(stop, {"Contact": dying}, seconds=5)


def test_idle_jobs_are_left_alone(quick: None, stop: threading.Event) -> None:
    """Between two runs, and in the pause after a failure, nothing has to move. A job's work on another object's
    records is its own activity: the other's job stays at rest."""

    def accounts() -> None:
        time.sleep(0.1)  # the contacts' job has ended
        activity.report()

    def failing() -> None:
        raise SyncError("Salesforce is away")

    jobs = {"Account": accounts, "Contact": lambda: None, "Lead": failing}
    working(stop, jobs, seconds=0.8)


def test_what_a_job_left_behind_is_no_activity(quick: None, stop: threading.Event) -> None:
    """A thread that outlives its job, in a call that is not answered, keeps the ended job out of the watch."""

    def job() -> None:
        def late() -> Iterator[int]:
            yield 1
            time.sleep(0.1)
            activity.report()
            yield 2

        assert next(prefetch([as_source(late())], stop)) == 1

    working(stop, {"Contact": job}, seconds=0.8)


def test_an_allowance_is_for_one_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with an allowance is stuck only when that has passed, too; other activity does not shorten it."""
    now = [1000.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pulse = worker.Pulse()
    pulse.beat("Contact")
    pulse.begin("Account")
    pulse.beat("Account", 3600)
    pulse.beat("Account")

    def stuck(seconds: float) -> list[str]:
        now[0] = 1000 + seconds
        return pulse.silent_jobs(1800)

    assert (stuck(1801), stuck(5399), stuck(5401)) == ([], [], ["Account"])
    pulse.rest("Account")
    assert stuck(9999) == []


# ── activity ──────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def noted() -> Iterator[list[float]]:
    """The allowances of all activity within."""
    allowances: list[float] = []
    with activity.report_to(allowances.append):
        yield allowances


@pytest.mark.parametrize("transport", ["bulk"], indirect=True)
def test_each_look_at_a_bulk_job_is_activity(world: World) -> None:
    """A job that stays in progress for hours is looked at again and again: no hang."""
    world.org.create("Contact", {"LastName": "Ann"})
    world.sim.options.bulk_polls = 40

    with noted() as seen:
        pipeline.sync_object(world.context("worker"), "Contact")

    assert len([r for r in world.sim.requests if r.kind == "job"]) >= 40
    assert len(seen) >= 40


def test_each_page_and_each_attempt_is_activity(loaded: World) -> None:
    """Whatever is asked of Salesforce, and tried again, counts, in the threads that fetch ahead, too."""
    loaded.page_by(1)
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        loaded.org.update(id_, {"Title": "Boss"})
    loaded.sim.faults.add("server_unavailable", on="page", times=3)

    with noted() as seen:
        pipeline.sync_object(loaded.context("worker"), "Contact")

    transactions = loaded.sql("SELECT count(*) FROM sync.run")[0][0]
    assert len(seen) >= len([r for r in loaded.sim.requests if r.sobject == "Contact"]) + transactions


def timeout(connection: Connection) -> float:
    """Seconds that a statement may take in this transaction."""
    seconds: int = (
        connection.execute(
            text("SELECT setting::int FROM pg_settings WHERE name = :n"), {"n": "statement_timeout"}
        ).scalar_one()
        / 1000
    )
    return seconds


def test_usual_statements_fit_into_the_limit(loaded: World) -> None:
    """Every transaction is activity, and what it may wait for ends before the watchdog does."""
    with noted() as seen, transaction(loaded.engine) as connection:
        assert timeout(connection) < worker.WATCHDOG_SECONDS / 10

    assert seen == [0]


def test_what_verify_asks_of_whole_tables_has_an_allowance(loaded: World) -> None:
    """Its statements may take longer than the watchdog waits, all of one transaction together."""
    context = loaded.context("worker")
    schema = apply.describe_object(context, CATALOGUE["Contact"])
    with (
        noted() as seen,
        long_read(
            Verification(context, schema, Lease("Contact", "x", 1), 1, schema.at, False, ())
        ) as at_work,
    ):
        assert max(seen) >= 3 * timeout(at_work) > worker.WATCHDOG_SECONDS


def test_making_an_index_has_an_allowance(world: World) -> None:
    """Each index at the end of a first load may take as long as its statement may."""
    with noted() as seen, transaction(world.engine) as connection:
        first.begin_first_load(connection, "Contact")  # which leaves the indexes of an empty table out
        first.end_first_load(connection, "Contact", 1)
        most = timeout(connection)

    assert most > worker.WATCHDOG_SECONDS
    assert seen == [0, *[most] * len(REPLICA["Contact"].indexes)]


# ── when jobs run ─────────────────────────────────────────────────────────────────────────────────────


def test_passes_come_less_often_while_calls_are_short(stop: threading.Event) -> None:
    """The interval is asked for after each pass, and the longest pause after a failure is that of the time."""
    began, passes = time.monotonic(), list[float]()
    intervals = [timedelta(seconds=each) for each in (0.05, 0.05, 30)]

    def passed() -> None:
        passes.append(time.monotonic() - began)

    timer = threading.Timer(0.8, stop.set)
    timer.start()
    worker.run_jobs({"Contact": passed}, timedelta(seconds=10), stop, pace=lambda: intervals.pop(0))
    assert len(passes) == 3
    assert intervals == []

    rhythm = worker.Rhythm(timedelta(seconds=1), lambda: timedelta(minutes=10))
    assert rhythm.renew() == 600
    assert worker.pause_after(SyncError("away"), 400, rhythm.interval) == 600


def test_when_jobs_run(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once and then each interval, give or take a tenth; after a run that took longer at the next multiple;
    after a failure with pauses that double, at most the interval. A stop waits for none of it."""
    monkeypatch.setattr(worker, "FIRST_BACKOFF", 0.1)
    at: dict[str, list[float]] = {"usual": [], "long": [], "failing": []}

    def job(name: str) -> None:
        at[name].append(time.monotonic() - began)
        if name == "long" and len(at[name]) == 1:
            time.sleep(0.4)
        if name == "failing" and len(at[name]) < 4:
            raise SyncError("Salesforce is away")

    began = time.monotonic()
    working(stop, {name: partial(job, name) for name in at}, seconds=1.3, interval=timedelta(seconds=0.3))
    took = time.monotonic() - began

    late = 0.25  # of a busy machine
    pauses = {name: [after - before for before, after in pairwise(runs)] for name, runs in at.items()}
    assert max(runs[0] for runs in at.values()) < late
    # Counted from the beginning: a first run that begins late makes the pause after it shorter.
    assert all(0.27 * number <= run for number, run in enumerate(at["usual"]))
    assert all(pause < 0.34 + late for pause in pauses["usual"])
    assert at["long"][1] > 0.57
    assert pauses["long"][0] < 0.64 + late
    assert 0.07 < pauses["failing"][0] < 0.13 + late
    assert 0.15 < pauses["failing"][1] < 0.25 + late
    assert 0.23 < pauses["failing"][2] < 0.37 + late
    assert took < 1.3 + late


class Waits(threading.Event):
    """A stop event that nobody waits for: each wait is noted, and set after a number of them."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.seconds = most, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        if len(self.seconds) >= self.most:
            self.set()
        return self.is_set()


def pauses(error: Exception, interval: timedelta, most: int) -> list[float]:
    """How long a job that always fails with this error waits between its attempts."""
    stop = Waits(most)

    def failing() -> None:
        raise error

    worker.run_until_done("Contact", failing, worker.Rhythm(interval), stop, worker.Pulse())
    return stop.seconds


def nearly(seconds: list[float], expected: list[float]) -> bool:
    """Whether each is what is expected, give or take the jitter."""
    return all(abs(each - one) <= one * worker.JITTER for each, one in zip(seconds, expected, strict=True))


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("the database's encoding is not UTF8"),
        LoginError("invalid client credentials"),
        OrgChangedError("these tables hold the records of another org"),
        SchemaOutdatedError("run `alembic upgrade head`"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("interval", [timedelta(seconds=30), timedelta(hours=6)], ids=str)
def test_what_a_person_has_to_correct_is_tried_each_hour(error: SyncError, interval: timedelta) -> None:
    """A permanent mistake is tried again after a minute, then after twice as long, at most an hour, whatever the
    interval is; the worker stays alive."""
    expected = [60.0, 120, 240, 480, 960, 1920, 3600, 3600]
    assert nearly(pauses(error, interval, 8), expected)


@pytest.mark.parametrize(
    "error",
    [
        DatabaseUnavailableError("Postgres is not available"),
        SalesforceError("Service Unavailable", passing=True),
        GuardError("too many to be removed unasked"),
        RuntimeError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_pass_is_tried_again_within_the_interval(error: Exception) -> None:
    """An outage, a guard that holds up one kind of work, and a bug are tried again after five seconds, then after
    twice as long, at most the interval."""
    assert nearly(pauses(error, timedelta(seconds=60), 6), [5.0, 10, 20, 40, 60, 60])


def test_a_mistake_after_an_outage_and_the_other_way_round() -> None:
    """What fails next decides how long the pause may be."""
    minute = timedelta(minutes=1)
    assert worker.pause_after(LoginError(), 5, minute) == 60
    assert worker.pause_after(DatabaseUnavailableError(), 3600, minute) == 60
