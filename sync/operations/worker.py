"""The unattended worker: passes at each interval, one thread for each job, signals, watchdog.

A signal only sets an event, which jobs check between pages. The worker ends by itself only where a restart
helps: a hanging job. It does not exit while Postgres or Salesforce is unavailable, and neither for a mistake
that a person has to correct: it retries with growing pauses. A platform restarts a process that exits with
growing pauses, too, reports it as crashed, and a restart corrects nothing.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from queue import SimpleQueue
from types import FrameType

import sync
from sync.errors import (
    ConfigError,
    DeferredError,
    LoginError,
    OrgChangedError,
    SchemaOutdatedError,
    StoppedError,
    SyncError,
)
from sync.logs import activity, logger

log = logger.get(__name__)

SHUTDOWN_SECONDS = 25  # Heroku kills after 30
# The longest silence of a running job. The longest call to Salesforce, a page of Bulk results, may take 23
# minutes; a statement that may take longer has an allowance.
WATCHDOG_SECONDS = 1800
LOOK_SECONDS = 5  # between two checks of the jobs
# Seconds of the first pause after a failure; the longest one is the interval.
FIRST_BACKOFF, JITTER = 5.0, 0.2
ATTEND_SECONDS = 60  # the longest time between two runs of the attendant
SHORTEST_PAUSE = 1.0  # seconds between them: objects end their passes at about the same time
JOIN_SECONDS = 5  # for the attendant to end; it holds nothing that a successor waits for
RECORD_SECONDS = 10  # for recording that the watchdog ends the process
# What only a person can correct, and the first and the longest pause: an attempt is of no use until then.
PERMANENT = (ConfigError, LoginError, OrgChangedError, SchemaOutdatedError)
FIRST_PERMANENT_BACKOFF, LONGEST_PERMANENT_BACKOFF = 60.0, 3600.0
LONGEST_SPREAD = (
    30.0  # seconds by which a run may be earlier or later, so that jobs and workers do not run in step
)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set the event on every signal that requests an end, inside the block."""

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        # Heroku may repeat the signal. It stays ignored until the process ends: Python replaces its own
        # handlers by the default, which kills, while the interpreter shuts down.
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if stop.is_set() else handler)


@dataclass(frozen=True, slots=True)
class Attendant:
    """What runs beside the jobs, in a thread of its own.

    `attend` runs after each attempt of a job and at least each minute, `note_stuck` before the watchdog ends
    the process, with the silent jobs and the limit of silence.
    """

    attend: Callable[[], object]
    note_stuck: Callable[[Sequence[str], timedelta], object]


class Pulse:
    """The time of each running job's last activity; jobs that wait for their next run are left out.

    `rested` is set whenever an attempt of a job ends.
    """

    def __init__(self) -> None:
        self.rested = threading.Event()
        self._lock = threading.Lock()
        self._active: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """Mark the job as running."""
        with self._lock:
            self._active[name] = time.monotonic()

    def beat(self, name: str, allowance: float = 0) -> None:
        """Record activity of a running job; it may then be silent for `allowance` seconds beyond the limit.

        A thread that a job abandoned may still call this; a job that has ended stays left out.
        """
        with self._lock:
            if name in self._active:
                self._active[name] = max(time.monotonic() + allowance, self._active[name])

    def rest(self, name: str) -> None:
        """Mark the job as ended."""
        with self._lock:
            self._active.pop(name, None)
        self.rested.set()

    def silent_jobs(self, seconds: float) -> list[str]:
        """Return running jobs that were silent for longer than these seconds and their allowance."""
        with self._lock:
            now = time.monotonic()
            return [name for name, active in self._active.items() if now - active > seconds]


Job = Callable[[], object]
# Begins the passes of these objects together; returns what is left to run of each.
Begin = Callable[[Sequence[str]], Mapping[str, Job]]
PASSES = "passes"  # the job that begins them


class Turns:
    """What each object's thread is to run next: it has one turn at a time."""

    def __init__(self, names: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._next: dict[str, SimpleQueue[Job | None]] = {name: SimpleQueue() for name in names}

    def idle(self) -> list[str]:
        """Return the objects whose threads wait."""
        with self._lock:
            return [name for name in self._next if name not in self._busy]

    def give(self, name: str, job: Job) -> None:
        """Let an object's thread run this job."""
        with self._lock:
            self._busy.add(name)
        self._next[name].put(job)

    def take(self, name: str) -> Job | None:
        """Wait for a job; None: there is none any more."""
        return self._next[name].get()

    def done(self, name: str) -> None:
        """Note that an object's thread waits again."""
        with self._lock:
            self._busy.discard(name)

    def end(self) -> None:
        """Let all threads end after their turns."""
        for each in self._next.values():
            each.put(None)


@dataclass(slots=True)
class Rhythm:
    """The interval between two runs of a job; `pace` gives it anew after each run (None: it stays)."""

    interval: timedelta
    pace: Callable[[], timedelta] | None = None

    def renew(self) -> float:
        """Return the seconds of the interval from now on."""
        if self.pace is not None:
            self.interval = self.pace()
        return self.interval.total_seconds()


def run_jobs(
    jobs: Mapping[str, Job],
    interval: timedelta,
    stop: threading.Event,
    beside: Mapping[str, tuple[Job, timedelta]] | None = None,
    attendant: Attendant | None = None,
    begin: Begin | None = None,
    pace: Callable[[], timedelta] | None = None,
) -> None:
    """Run every job at once and then at each interval, until `stop` is set; return when all have ended.

    `jobs` are the passes, by object, and `begin` begins those whose threads wait; `pace` gives the interval
    after each pass (None: it does not change). `beside` are other jobs, each with an interval of its own;
    `attendant` looks after all of them.

    Each job has its own thread. Times are monotonic, so that changes of the system clock have no effect. A
    failed job is retried after a growing pause (`pause_after`). The process exits with 1 if a job does
    not end within SHUTDOWN_SECONDS or is silent for WATCHDOG_SECONDS.
    """
    pulse, turns, rhythm = Pulse(), Turns(list(jobs)), Rhythm(interval, pace)
    passes = partial(give_turns, turns, jobs, begin)
    threads = [
        threading.Thread(target=repeat, args=(name, job, each, stop, pulse), name=name, daemon=True)
        for name, (job, each) in {
            PASSES: (passes, rhythm),
            **{name: (job, Rhythm(each)) for name, (job, each) in (beside or {}).items()},
        }.items()
    ]
    threads += [
        threading.Thread(
            target=run_turns, args=(name, job, rhythm, stop, pulse, turns), name=name, daemon=True
        )
        for name, job in jobs.items()
    ]
    attending = threading.Thread(target=attend_regularly, args=(attendant, stop, pulse.rested), daemon=True)
    for thread in (*threads, attending):
        thread.start()
    log.info(
        "worker_started",
        version=sync.__version__,
        interval_s=int(interval.total_seconds()),
        objects=",".join(jobs),
    )
    while not stop.wait(LOOK_SECONDS):
        dead = [thread.name for thread in threads if not thread.is_alive() and not stop.is_set()]
        if stuck := dead or pulse.silent_jobs(WATCHDOG_SECONDS):
            log.error("watchdog", objects=",".join(stuck), minutes=WATCHDOG_SECONDS // 60)
            record_stuck(attendant, stuck)
            os._exit(1)
    log.info("worker_stopping")
    deadline = threading.Timer(SHUTDOWN_SECONDS, force_exit)
    deadline.daemon = True
    deadline.start()
    turns.end()
    for thread in threads:
        thread.join()
    attending.join(JOIN_SECONDS)
    deadline.cancel()
    log.info("worker_stopped")


def repeat(name: str, job: Callable[[], object], rhythm: Rhythm, stop: threading.Event, pulse: Pulse) -> None:
    """Run a job at once and then at each interval (± a tenth), until `stop` is set.

    After a run that takes longer than the interval, the next one starts at the next multiple of it.
    """
    pause = 0.0
    while not stop.wait(pause):
        began = time.monotonic()
        run_until_done(name, job, rhythm, stop, pulse)
        seconds = rhythm.renew()
        spread = min(LONGEST_SPREAD, seconds / 10)
        left = seconds - (time.monotonic() - began) % seconds
        pause = max(0.0, left + random.uniform(-spread, spread))


def give_turns(turns: Turns, jobs: Mapping[str, Job], begin: Begin | None) -> None:
    """Begin the passes of the objects whose threads wait, and give each thread what is left to run.

    If that fails, each gets its own job.
    """
    idle = turns.idle()
    left: Mapping[str, Job] = {name: jobs[name] for name in idle}
    try:
        if begin is not None and idle:
            left = begin(idle)
    finally:
        for name, job in left.items():
            turns.give(name, job)


def run_turns(name: str, job: Job, rhythm: Rhythm, stop: threading.Event, pulse: Pulse, turns: Turns) -> None:
    """Run what an object is given, until there is nothing any more; after a failure, its own job."""
    while (given := turns.take(name)) is not None:
        # What was begun is ended also when the process is asked to stop: it holds a lease.
        run_until_done(name, partial(run_next, [job, given]), rhythm, stop, pulse, once=True)
        turns.done(name)


def run_next(jobs: list[Job]) -> None:
    """Run the last of these jobs and take it out, but for the first one."""
    (jobs.pop() if len(jobs) > 1 else jobs[0])()


def attend_regularly(attendant: Attendant | None, stop: threading.Event, rested: threading.Event) -> None:
    """Attend at once, after each attempt of a job and at least each ATTEND_SECONDS, until `stop` is set."""
    while attendant is not None and not stop.is_set():
        rested.clear()
        attend = partial(attend_and_collect, attendant)
        run_until_done("alerts", attend, Rhythm(timedelta(seconds=ATTEND_SECONDS)), stop, Pulse())
        due = time.monotonic() + ATTEND_SECONDS
        while not (stop.wait(SHORTEST_PAUSE) or rested.is_set() or time.monotonic() >= due):
            pass


def attend_and_collect(attendant: Attendant) -> None:
    """Free what attempts have left in reference cycles, and attend.

    An exception holds the frames that it passed, and these hold pages of records. Python by itself looks for
    old cycles only after more new objects than a worker makes in days.
    """
    gc.collect()
    attendant.attend()


def record_stuck(attendant: Attendant | None, stuck: Sequence[str]) -> None:
    """Record that the watchdog ends the process; whatever hangs must not hold it up."""
    if attendant is not None:
        args = (stuck, timedelta(seconds=WATCHDOG_SECONDS))
        recording = threading.Thread(target=attendant.note_stuck, args=args, daemon=True)
        recording.start()
        recording.join(RECORD_SECONDS)


def force_exit() -> None:
    """Exit before Heroku sends SIGKILL; pages are transactions, so no page is half written."""
    log.error("shutdown_forced", seconds=SHUTDOWN_SECONDS)
    os._exit(1)


def run_until_done(
    name: str, job: Job, rhythm: Rhythm, stop: threading.Event, pulse: Pulse, *, once: bool = False
) -> None:
    """Run a job, with growing pauses after failures, until it succeeds, is deferred or stopped.

    The longest pause is the interval of that time. `once`: the first attempt is made in any case.
    """
    pause = 0.0
    while once or not stop.is_set():
        once = False
        pulse.begin(name)
        try:
            with activity.report_to(partial(pulse.beat, name)):
                job()
            return
        except StoppedError:
            return
        except DeferredError as deferred:
            log.warning("deferred", object=name, reason=str(deferred))
            return
        except SyncError as error:
            pause = pause_after(error, pause, rhythm.interval)
            log.error("object_failed", object=name, error=str(error), retry_s=round(pause))
        except Exception as error:
            pause = pause_after(error, pause, rhythm.interval)
            log.exception("object_crashed", object=name, retry_s=round(pause))
        finally:
            pulse.rest(name)
        stop.wait(pause * random.uniform(1 - JITTER, 1 + JITTER))


def pause_after(error: Exception, before: float, interval: timedelta) -> float:
    """Return the seconds to wait after a failure, without jitter.

    `before` is the pause after the failure before this one, in seconds; 0 if there was none. Each pause is
    twice as long: from five seconds to the interval, from a minute to an hour for what only a person can
    correct.
    """
    if isinstance(error, PERMANENT):
        first, longest = FIRST_PERMANENT_BACKOFF, LONGEST_PERMANENT_BACKOFF
    else:
        first, longest = FIRST_BACKOFF, interval.total_seconds()
    return min(max(2 * before, first), longest)
