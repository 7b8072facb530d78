"""The unattended worker: APScheduler, signals, watchdog.

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
from datetime import UTC, datetime, timedelta
from types import FrameType

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

import sync
from sync import logs
from sync.errors import DeferredError, StoppedError, SyncError

log = logs.get(__name__)

SHUTDOWN_SECONDS = 25  # Heroku kills after 30
WATCHDOG_MINUTES = 30  # without a committed page while a pass is running
FIRST_BACKOFF, JITTER = 5.0, 0.2

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
    """When work was last seen to move, per object; idle objects are left out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}

    def beat(self, name: str) -> None:
        with self._lock:
            self._seen[name] = time.monotonic()

    def rest(self, name: str) -> None:
        with self._lock:
            self._seen.pop(name, None)

    def stuck(self, seconds: float) -> list[str]:
        """Objects that were working and have not moved for so long."""
        with self._lock:
            now = time.monotonic()
            return [name for name, seen in self._seen.items() if now - seen > seconds]


def work(
    jobs: Mapping[str, Callable[[], object]], interval: timedelta, stop: threading.Event, pulse: Pulse
) -> None:
    """Run every job at once and then each interval, until the event is set; returns when all have ended.

    A job that fails is tried again after a growing pause, at most the interval; one that does not end
    within the shutdown time is cut off by ending the process.
    """
    scheduler = BackgroundScheduler(
        timezone=UTC,
        executors={"default": ThreadPoolExecutor(len(jobs))},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": 3600},
    )
    for name, job in jobs.items():
        scheduler.add_job(
            persist,
            "interval",
            args=(name, job, interval, stop, pulse),
            id=name,
            seconds=interval.total_seconds(),
            jitter=int(min(30, interval.total_seconds() / 10)),
            next_run_time=datetime.now(UTC),
        )
    scheduler.start()
    log.info(
        "worker_started",
        version=sync.__version__,
        interval_s=int(interval.total_seconds()),
        objects=",".join(jobs),
    )
    while not stop.wait(5):
        if stuck := pulse.stuck(WATCHDOG_MINUTES * 60):
            log.error("watchdog", objects=",".join(stuck), minutes=WATCHDOG_MINUTES)
            os._exit(1)
    log.info("worker_stopping")
    deadline = threading.Timer(SHUTDOWN_SECONDS, cut_off)
    deadline.daemon = True
    deadline.start()
    scheduler.pause()
    scheduler.shutdown(wait=True)
    deadline.cancel()
    log.info("worker_stopped")


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
        pulse.beat(name)
        try:
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
