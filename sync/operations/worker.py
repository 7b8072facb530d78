"""The unattended worker: a thread for each job, signals, watchdog.

A signal only sets an event; jobs look at it between pages; the main thread does the rest. A worker never
exits because Postgres or Salesforce is away: it backs off and goes on.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import FrameType

import sync
from sync.errors import DeferredError, StoppedError, SyncError
from sync.logs import activity, logger

log = logger.get(__name__)

SHUTDOWN_SECONDS = 25  # Heroku kills after 30
# Without any activity while a job is at work. The longest call to Salesforce, a page of Bulk results, may
# take 23 minutes; a statement that may take longer is given an allowance.
WATCHDOG_SECONDS = 1800
LOOK_SECONDS = 5  # between two looks at the jobs
FIRST_BACKOFF, JITTER = 5.0, 0.2
LONGEST_SPREAD = 30.0  # seconds by which a run may be earlier or later: jobs and workers spread over time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Every signal that asks for an end, first or repeated, sets the event and does nothing else."""

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield
    finally:
        # Heroku may repeat the signal. Ignored, it is so to the very end; a handler of Python's would be
        # replaced by the deadly default while the interpreter shuts down.
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if stop.is_set() else handler)


class Pulse:
    """When each job at work was last active; a job that waits for its next run is left out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """The job is at work from now on."""
        with self._lock:
            self._active[name] = time.monotonic()

    def beat(self, name: str, allowance: float = 0) -> None:
        """The job is active now; it may be silent for `allowance` seconds beyond the limit.

        A thread that a job has left behind may still call this: a job that has ended stays left out.
        """
        with self._lock:
            if name in self._active:
                self._active[name] = max(time.monotonic() + allowance, self._active[name])

    def rest(self, name: str) -> None:
        """The job has ended."""
        with self._lock:
            self._active.pop(name, None)

    def stuck(self, seconds: float) -> list[str]:
        """Jobs at work that have been silent for longer than the seconds and their allowance."""
        with self._lock:
            now = time.monotonic()
            return [name for name, active in self._active.items() if now - active > seconds]


def work(jobs: Mapping[str, Callable[[], object]], interval: timedelta, stop: threading.Event) -> None:
    """Run every job at once and then each interval, until the event is set; returns when all have ended.

    Each job has a thread of its own, and all times are monotonic: a clock that is set changes nothing. A job
    that fails is tried again after a growing pause, at most the interval; one that does not end within the
    shutdown time, or is silent for WATCHDOG_SECONDS, is cut off by ending the process.
    """
    pulse = Pulse()
    threads = [
        threading.Thread(target=repeat, args=(name, job, interval, stop, pulse), name=name, daemon=True)
        for name, job in jobs.items()
    ]
    for thread in threads:
        thread.start()
    log.info(
        "worker_started",
        version=sync.__version__,
        interval_s=int(interval.total_seconds()),
        objects=",".join(jobs),
    )
    while not stop.wait(LOOK_SECONDS):
        ended = [thread.name for thread in threads if not thread.is_alive() and not stop.is_set()]
        if stuck := ended or pulse.stuck(WATCHDOG_SECONDS):
            log.error("watchdog", objects=",".join(stuck), minutes=WATCHDOG_SECONDS // 60)
            os._exit(1)
    log.info("worker_stopping")
    deadline = threading.Timer(SHUTDOWN_SECONDS, cut_off)
    deadline.daemon = True
    deadline.start()
    for thread in threads:
        thread.join()
    deadline.cancel()
    log.info("worker_stopped")


def repeat(
    name: str, job: Callable[[], object], interval: timedelta, stop: threading.Event, pulse: Pulse
) -> None:
    """Run a job at once and then each interval, give or take a tenth of it, until the event is set.

    A run that takes longer than the interval is followed by the next one at the next multiple of it.
    """
    seconds = interval.total_seconds()
    spread, pause = min(LONGEST_SPREAD, seconds / 10), 0.0
    while not stop.wait(pause):
        began = time.monotonic()
        persist(name, job, interval, stop, pulse)
        left = seconds - (time.monotonic() - began) % seconds
        pause = max(0.0, left + random.uniform(-spread, spread))


def cut_off() -> None:
    """The last resort before SIGKILL; every page is one transaction, so nothing is half done."""
    log.error("shutdown_forced", seconds=SHUTDOWN_SECONDS)
    os._exit(1)


def persist(
    name: str, job: Callable[[], object], interval: timedelta, stop: threading.Event, pulse: Pulse
) -> None:
    """One scheduled run, repeated with growing pauses until it succeeds, is deferred, or is to stop."""
    backoff = min(FIRST_BACKOFF, interval.total_seconds())
    while not stop.is_set():
        pulse.begin(name)
        try:
            with activity.reported_to(partial(pulse.beat, name)):
                job()
            return
        except StoppedError:
            return
        except DeferredError as deferred:
            log.warning("deferred", object=name, reason=str(deferred))
            return
        except SyncError as error:
            log.error("object_failed", object=name, error=str(error), retry_s=round(backoff))
        except Exception:
            log.exception("object_crashed", object=name, retry_s=round(backoff))
        finally:
            pulse.rest(name)
        stop.wait(backoff * random.uniform(1 - JITTER, 1 + JITTER))
        backoff = min(backoff * 2, interval.total_seconds())
