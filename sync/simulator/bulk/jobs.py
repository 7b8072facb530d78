"""Bulk query jobs: how they begin, are processed, end and are forgotten, and what an org allows of them."""

import random
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sync.simulator import ids
from sync.simulator.bulk.csv_rows import Dialect
from sync.simulator.bulk.results import Result
from sync.simulator.queries import Queries
from sync.simulator.soql.errors import SoqlError
from sync.simulator.soql.plan import Plan
from sync.simulator.state import OrgState

UPLOADED, RUNNING = "UploadComplete", "InProgress"
COMPLETE, FAILED, ABORTED = "JobComplete", "Failed", "Aborted"
ENDED = (COMPLETE, FAILED, ABORTED)
IN_SELECT_ORDER_SINCE = 50  # before, columns came in alphabetical order
DEFAULT_PAGE = 50_000
MOST_SNAPSHOTS = 50  # large results; of more, the oldest goes with its job
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Page:
    """A piece of a result: where it begins and ends, and the locator of the next one."""

    start: int
    end: int
    next_locator: str | None


@dataclass
class Job:
    """One query job: what was asked, how far it is, and the pages that were given of its result."""

    id: str
    number: int
    operation: str
    soql: str
    sobject: str
    version: str
    dialect: Dialect
    created_by: str
    created: datetime
    polls: int  # how many GETs are still to find it unfinished
    chunked: bool  # PK chunking applies to its query
    changed: datetime
    state: str = UPLOADED
    ended: datetime | None = None
    message: str | None = None
    result: Result | None = None
    milliseconds: int = 0
    begun: float = field(default_factory=time.monotonic)
    polled: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)
    # Locators are words without meaning: of each, the row it leads to and the page size it was made for.
    locators: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    words: dict[tuple[int, int | None], str] = field(default_factory=dict)
    sizes: dict[tuple[int, int | None], int] = field(default_factory=dict)

    @property
    def deleted_too(self) -> bool:
        return self.operation == "queryAll"


class NoSuchLocator(Exception):
    """A locator that this job never gave."""


class Jobs:
    """The org's jobs by Id. One lock guards the list of them, and each has one for its own progress."""

    def __init__(self, state: OrgState, queries: Queries, seed: int, created_by: str) -> None:
        self._state = state
        self._queries = queries
        self._created_by = created_by
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._objects: dict[str, str] = {}  # of every job there ever was
        self._made: list[datetime] = []
        self._stored: list[tuple[datetime, int]] = []  # when, and how many bytes
        self._random = random.Random(f"jobs {seed}")
        self._pages = 0

    def close(self) -> None:
        with self._lock:
            for job in list(self._jobs.values()):
                self.remove(job)

    # --- what there is

    def find(self, job_id: str) -> Job | None:
        with self._lock:
            self._expire()
            return self._jobs.get(ids.normalize(job_id) or "")

    def all(self) -> list[Job]:
        """Living jobs, the oldest first."""
        with self._lock:
            self._expire()
            return list(self._jobs.values())

    def sobject_of(self, job_id: str) -> str | None:
        """The object a job reads or read, for the request log."""
        return self._objects.get(ids.normalize(job_id) or "")

    def made_today(self) -> int:
        """Jobs of the last 24 hours, deleted ones and those of others among them."""
        with self._lock:
            since = self._state.clock.now() - DAY
            self._made = [each for each in self._made if each > since]
            return self._state.options.bulk_jobs_used + len(self._made)

    def stored_today(self) -> int:
        """Kilobytes of results of the last 24 hours, those of others among them."""
        with self._lock:
            since = self._state.clock.now() - DAY
            self._stored = [each for each in self._stored if each[0] > since]
            return self._state.options.bulk_storage_used_kb + sum(size for _, size in self._stored) // 1024

    # --- a job's life

    def create(self, operation: str, soql: str, plan: Plan, version: str, dialect: Dialect) -> Job:
        with self._lock:
            number = len(self._objects) + 1
            now = self._state.clock.now()
            job = Job(
                id=ids.make("750", 1_000_000 + number * 3),
                number=number,
                operation=operation,
                soql=soql,
                sobject=plan.sobject.name,
                version=version,
                dialect=dialect,
                created_by=self._created_by,
                created=now,
                changed=now,
                polls=self._state.options.bulk_polls,
                chunked=not plan.ordered and plan.limit is None,
            )
            self._jobs[job.id] = job
            self._objects[job.id] = job.sobject
            self._made.append(now)
        return job

    def advance(self, job: Job, polled: bool = False) -> None:
        """Let a job get as far as it should be by now; ``polled`` by a client asking for it.

        The first poll of a job that has to be polled finds it waiting, the next one has it processed.
        """
        with job.lock:
            if job.state in ENDED or (job.polls > 0 and not polled):
                return
            waiting = job.polls > 0
            job.polls -= waiting
            if waiting and not job.polled:
                job.polled = True
                return
            if job.result is None:
                self._process(job)
            elapsed = time.monotonic() - job.begun
            if not waiting and job.state == RUNNING and elapsed >= self._state.options.bulk_seconds:
                self.end(job, COMPLETE)

    def _process(self, job: Job) -> None:
        job.begun = time.monotonic()
        try:
            with self._state.lock:
                plan = self._queries.plan(job.soql)
            if float(job.version) < IN_SELECT_ORDER_SINCE:
                plan.flat.sort()
            job.result = Result(self._state, plan, job.deleted_too, job.dialect, job.number)
        except SoqlError as problem:  # the schema changed since the job was created
            text = f"InvalidBatch : Failed to process query: {problem.code}: {problem.text(job.soql)}"
            self.end(job, FAILED, text)
            return
        job.state, job.changed = RUNNING, self._state.clock.now()
        with self._lock:
            self._stored.append((job.changed, job.result.bytes))
            large = [each for each in self._jobs.values() if each.result is not None and each.result.large]
            if len(large) > MOST_SNAPSHOTS:
                self.remove(large[0])

    def end(self, job: Job, state: str, message: str | None = None) -> None:
        """Bring a job to one of its three ends."""
        with job.lock:
            job.state, job.message = state, message
            job.ended = job.changed = self._state.clock.now()
            job.milliseconds = int((time.monotonic() - job.begun) * 1000)

    def remove(self, job: Job) -> None:
        """Forget a job and its result."""
        with self._lock:
            self._jobs.pop(job.id, None)
            if job.result is not None:
                job.result.close()

    def _expire(self) -> None:
        ttl = timedelta(seconds=self._state.options.job_ttl)
        now = self._state.clock.now()
        for job in [each for each in self._jobs.values() if now - (each.ended or each.created) > ttl]:
            self.remove(job)

    # --- pages

    def page(self, job: Job, locator: str | None, most: int | None) -> Page:
        """The page a locator leads to, the first one without; the same page for the same arguments."""
        assert job.result is not None
        with self._lock:
            start, bound = (0, None) if locator is None else job.locators.get(locator, (-1, None))
            if start < 0:
                raise NoSuchLocator
            size = self._size(job, start, min(filter(None, (most, bound)), default=None))
            end = min(start + size, job.result.total)
            return Page(start, end, None if end >= job.result.total else self.word(job, end, bound))

    def word(self, job: Job, start: int, bound: int | None) -> str:
        """The locator of the page that begins at a row."""
        with self._lock:
            if (start, bound) not in job.words:
                word = "".join(self._random.choices(ids.ALPHABET, k=11))
                job.words[start, bound] = word
                job.locators[word] = (start, bound)
            return job.words[start, bound]

    def _size(self, job: Job, start: int, most: int | None) -> int:
        if (start, most) not in job.sizes:
            sizes = self._state.options.bulk_page_sizes
            if isinstance(sizes, list | tuple) and sizes:
                sizes = sizes[self._pages % len(sizes)]
                self._pages += 1
            size = sizes if isinstance(sizes, int) else DEFAULT_PAGE if most is None else most
            job.sizes[start, most] = max(1, size if most is None else min(size, most))
        return job.sizes[start, most]
