"""The worker of the soak: it makes the calls of `python -m sync worker`, one after the other, when it is told to.

`python -m tests.soak_year.worker` is a process of its own: a line of JSON says what to do, a line answers.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sync.cli.wiring import OBJECT_CHOICES, lease_owner, open_engine, open_keeper
from sync.config.settings import settings_from
from sync.errors import SyncError
from sync.logs import logger
from sync.operations import pruning
from sync.operations.worker import Attendant, attend_and_collect
from sync.postgres import tables
from sync.replication import pipeline
from sync.replication.runs import PageResult, SyncContext
from sync.salesforce.session.retry import RetryPolicy
from sync.salesforce.session.session import Session
from tests.benchmarks.watch import resident
from tests.soak_year.clock import Memory, aging_sessions
from tests.support.world import ROOT

NEVER_WAIT = RetryPolicy(scale=0)
WAIT = timedelta(seconds=20)  # for a lease
MALLOC = {"MALLOC_ARENA_MAX": "2"}  # as app.json sets it: else each thread's memory is kept apart, and grows
Answer = dict[str, Any]


class Worker:
    """One release of the worker: settings, session, engine and incidents, until it is closed."""

    def __init__(self, environment: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        self.settings = settings_from(dict(environment), OBJECT_CHOICES)
        self.stop = threading.Event()
        owner = lease_owner(self.settings)
        session = Session(self.settings, self.stop, NEVER_WAIT)
        self.engine = open_engine(self.settings, owner, tables.WORKER_CONNECTIONS)
        context = SyncContext(self.settings, session, self.engine, owner, "worker", self.stop, WAIT)
        self.keeper = open_keeper(context)
        self.keeper.clock = clock
        self.attendant = Attendant(self.keeper.attend, self.keeper.note_stuck)
        self.context = replace(context, on_pass=self.keeper.note_pass)
        self.pool = ThreadPoolExecutor(len(self.settings.sync_objects))

    def passes(self, names: Sequence[str]) -> dict[str, str]:
        """Run what is scheduled for these objects as a worker does; return the failed ones and their errors."""
        left = pipeline.begin_scheduled(self.context, names)
        running = {name: self.pool.submit(job) for name, job in left.items()}
        return {name: error for name, one in running.items() if (error := failure(one.result))}

    def close(self) -> None:
        self.stop.set()
        self.pool.shutdown()
        self.engine.dispose()


def failure(result: Callable[[], object]) -> str:
    """What a call failed with ("": it did not)."""
    try:
        result()
    except SyncError as error:
        return f"{type(error).__name__}: {error}"
    return ""


class Work:
    """What the process of the worker does; its methods are what it can be told."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.environment: dict[str, str] = {}
        self.worker: Worker | None = None

    def do(self, request: Mapping[str, Any]) -> Answer:
        """Do what a request says, at the time that it gives."""
        self.memory.ahead = float(request.get("ahead", 0))
        began = time.monotonic()
        answer: Answer = getattr(self, f"do_{request['do']}")(request)
        return answer | {"seconds": time.monotonic() - began}

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.memory.ahead)

    @property
    def there(self) -> Worker:
        assert self.worker is not None, "start comes first"
        return self.worker

    def do_start(self, request: Mapping[str, Any]) -> Answer:
        """Start a worker in place of the one before, if there is one."""
        self.environment = dict(request["environment"])
        if self.worker is not None:
            self.worker.close()
        self.worker = Worker(self.environment, self.now)
        return {}

    def do_pass(self, request: Mapping[str, Any]) -> Answer:
        failed = self.there.passes(request.get("objects") or self.there.settings.sync_objects)
        attend_and_collect(self.there.attendant)
        return {"failed": failed}

    def do_deploy(self, request: Mapping[str, Any]) -> Answer:
        """A new worker starts while the old one works, which is stopped meanwhile."""
        old, self.worker = self.there, Worker(request["environment"], self.now)
        objects = self.worker.settings.sync_objects
        with ThreadPoolExecutor(2) as both:
            first, second = both.submit(old.passes, objects), both.submit(self.worker.passes, objects)
            time.sleep(float(request.get("after", 0.05)))
            old.stop.set()
            first.result()
            failed = second.result()
        old.close()
        attend_and_collect(self.worker.attendant)
        return {"failed": failed}

    def do_accept(self, _: Mapping[str, Any]) -> Answer:
        """Accept another org, as `python -m sync run --accept-org`."""
        context = replace(self.there.context, command="run", accept_org=True)
        return {"failed": {"all": error} if (error := failure(lambda: pipeline.sync_all(context))) else {}}

    def do_prune(self, _: Mapping[str, Any]) -> Answer:
        settings = self.there.settings
        keep = settings.sync_feed_retention, settings.sync_run_retention
        pruning.scheduled(self.there.engine, *keep, self.there.stop)
        return {}

    def do_verify(self, request: Mapping[str, Any]) -> Answer:
        """Verify all values, as `python -m sync verify --deep all [--repair] --approve`."""
        context = replace(self.there.context, command="verify", approve=True)
        names, repair = self.there.settings.sync_objects, bool(request["repair"])
        reports = pipeline.verify_all(context, names, repair=repair, sample=None)
        return {"remaining": {one.object: (one.findings or {}).get("remaining") for one in reports}}

    def do_die(self, request: Mapping[str, Any]) -> Answer:
        """Die in the middle of a pass, as by SIGKILL, after so many pages or other steps."""
        left = int(request["after"])

        def die(_: PageResult) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        self.there.context = replace(self.there.context, on_page=die)
        return self.do_pass(request)

    def do_memory(self, _: Mapping[str, Any]) -> Answer:
        return {"mb": resident(os.getpid())}

    def do_close(self, _: Mapping[str, Any]) -> Answer:
        if self.worker is not None:
            self.worker.close()
            self.worker = None
        return {}


class Inside:
    """The worker in this process."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.work = Work(self.stack.enter_context(aging_sessions()))

    def ask(self, do: str, **request: Any) -> Answer:
        return self.work.do({"do": do, **request})

    def close(self) -> None:
        with self.stack:
            self.work.do({"do": "close"})


class Outside:
    """The worker in a process of its own, whose log goes to a file; it can be killed."""

    def __init__(self, log: str) -> None:
        with open(log, "a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak_year.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, **MALLOC},
                text=True,
            )

    def ask(self, do: str, **request: Any) -> Answer:
        """The answer; none of a process that has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            if do == "die":
                return {}
            raise AssertionError(f"the worker has ended with {self.process.wait()}: see its log")
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def main() -> None:
    """Do what lines of stdin say, until there are none."""
    sys.setswitchinterval(0.001)  # as `python -m sync`
    gc.freeze()  # as a worker
    logger.setup("warning", "logfmt")
    with aging_sessions() as memory:
        work = Work(memory)
        for line in sys.stdin:
            sys.stdout.write(json.dumps(work.do(json.loads(line)), default=str) + "\n")
            sys.stdout.flush()
        work.do({"do": "close", "ahead": memory.ahead})


if __name__ == "__main__":
    main()
