"""The worker's job beside the passes: evaluate what is wrong, record it, tell it, and ping the heartbeat.

Nothing here can slow or stop a pass: it runs in a thread of its own, in short transactions, and messages are
sent by a process that is limited in time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from sync.errors import SyncError
from sync.logs import logger
from sync.operations import metrics
from sync.operations.alerts.delivery import Outcome
from sync.operations.alerts.incidents import QUIET, Message, compose, is_due, opened, state_of, step
from sync.operations.alerts.observe import read_objects
from sync.operations.alerts.problems import (
    ObjectState,
    Observed,
    Problem,
    database,
    find_problems,
    without_database,
)
from sync.operations.calls import lasting
from sync.postgres import consumers, pruning
from sync.postgres.consumers import Backlog
from sync.postgres.state import calls, incidents
from sync.postgres.state.incidents import Incident
from sync.postgres.tables import transaction

log = logger.get(__name__)

MEASURE_EACH = timedelta(minutes=1)
CLAIM = timedelta(minutes=2)  # longer than a message takes; then another process may tell it
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(minutes=30)  # after a message that nobody took

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Ways:
    """How the outside is reached: by messages (None: no URL is set) and by a ping (None: no heartbeat).

    `ping` raises SyncError if it was not answered.
    """

    send: Callable[[Message, threading.Event], Sequence[Outcome]] | None = None
    ping: Callable[[], None] | None = None


@dataclass(slots=True)
class Keeper:
    """The incidents of a deployment, as far as this process knows them.

    `clock` gives the time in UTC, `usage` the share of SYNC_API_BUDGET that is used (None: unknown), `where`
    names the deployment in messages. While the database is away, incidents are kept here.
    """

    engine: Engine
    objects: Sequence[str]
    max_lag: timedelta
    clock: Callable[[], datetime]
    where: str
    ways: Ways = field(default_factory=Ways)
    usage: Callable[[], float | None] = lambda: None
    stop: threading.Event = field(default_factory=threading.Event)
    known: list[Incident] = field(default_factory=list)
    unsaved: dict[Key, Incident] = field(default_factory=dict)
    away_since: datetime | None = None
    not_before: datetime | None = None
    pause: timedelta = FIRST_PAUSE
    passed: set[str] = field(default_factory=set)
    silent: bool = False  # the last ping failed
    measured_at: datetime | None = None
    size_limit: int | None = None  # bytes
    days_left: float | None = None  # until the database reaches it, as of the last measurement
    feed_retention: timedelta | None = None
    deferred: Sequence[str] = ()  # work that has waited for API calls for an hour
    backlogs: Sequence[Backlog] = ()  # of the consumers of the feed, as of the last measurement

    # ── called by the worker ──

    def attend(self) -> None:
        """Evaluate, record and tell what is wrong; ping if all objects have passed since the last ping."""
        self._ping()
        now = self.clock()
        before, problems = self._look(now)
        known = self._save(before, step(before, problems, now), now)
        self.known = self._tell(known, now)

    def note_pass(self, name: str) -> None:
        """Note that an object's pass is complete."""
        self.passed.add(name)

    def note_stuck(self, names: Sequence[str], silent_for: timedelta) -> None:
        """Record that the watchdog ends this process; the next process tells it.

        If the database does not take it, it is told here and now.
        """
        now, minutes = self.clock(), round(silent_for.total_seconds() / 60)
        what = f"the worker was restarted: its job was silent for {minutes} minutes"
        problems = [Problem("watchdog", name, what) for name in names]
        try:
            with transaction(self.engine) as connection:
                known = incidents.read(connection, now - QUIET)
                # It is over when a pass succeeds after this restart.
                found = [replace(one, opened_at=now) for one in opened(known, problems, now)]
                incidents.save(connection, found)
        except SyncError:
            if self.ways.send is not None:
                self.ways.send(compose(opened([], problems, now), self.where), self.stop)

    # ── what is wrong ──

    def _look(self, now: datetime) -> tuple[list[Incident], list[Problem]]:
        """Return the incidents so far and the present problems; without the database, what is known here."""
        try:
            with transaction(self.engine) as connection:
                stored = incidents.read(connection, now - QUIET)
                found = read_objects(connection, self.objects)
                waiting = calls.read_stored(connection)
                self.deferred = lasting(waiting.deferred, waiting.at)
                self._measure(connection, found, stored, now)
        except SyncError as error:
            self._note_away(now, error)
            known = list(self.known)
            return known, without_database(known, self._away(now))
        known = merged(stored, self.unsaved)
        observed = Observed(
            *(found, self.max_lag, self.usage(), known, self.days_left, self.backlogs, self.feed_retention),
            self.deferred,
        )
        problems = find_problems(observed)
        return known, [*problems, *database(self._away(now))]

    def _measure(
        self, connection: Connection, found: Sequence[ObjectState], stored: Sequence[Incident], now: datetime
    ) -> None:
        """Log the samples of metrics, once a minute."""
        if self.measured_at is None or now - self.measured_at >= MEASURE_EACH:
            self.measured_at = now
            lags = {one.object: one.lag for one in found}
            size, opened = pruning.size(connection), [one for one in stored if one.closed_at is None]
            self.days_left = size.days_left(self.size_limit)
            self.backlogs = consumers.backlogs(connection)
            log.info("metrics", **metrics.samples(lags, size.bytes, opened, self.backlogs))

    def _away(self, now: datetime) -> timedelta | None:
        return None if self.away_since is None else now - self.away_since

    def _note_away(self, now: datetime, error: SyncError) -> None:
        if self.away_since is None:
            self.away_since = now
            log.warning("incidents_in_memory", reason=str(error)[:200])

    # ── recording ──

    def _save(self, before: list[Incident], after: list[Incident], now: datetime) -> list[Incident]:
        """Store what has changed; return the incidents with their ids. What cannot be stored stays here."""
        old = {one.key: one for one in before}
        changed = [one for one in after if old.get(one.key) != one]
        for one in changed:
            log_change(old.get(one.key), one)
        waiting = {one.key: one for one in after if one in changed or one.key in self.unsaved}
        try:
            with transaction(self.engine) as connection:
                made = incidents.save(connection, list(waiting.values()))
                incidents.note_told(connection, [one for key, one in waiting.items() if key in self.unsaved])
        except SyncError as error:
            self._note_away(now, error)
            self.unsaved |= waiting
            return after
        self.unsaved.clear()
        self.away_since = None
        # Another process has opened what is still without an id: it is read at the next evaluation.
        numbered = [replace(one, id=one.id or made.get(one.key)) for one in after]
        return [one for one in numbered if one.id is not None]

    # ── telling ──

    def _tell(self, known: list[Incident], now: datetime) -> list[Incident]:
        """Send one message about all incidents that are due; return the incidents with what was told."""
        due = [one for one in known if is_due(one, now)]
        if self.ways.send is None or (self.not_before is not None and now < self.not_before):
            return known
        if not (mine := self._claim(due, now)):
            return known
        outcomes = self.ways.send(compose(mine, self.where), self.stop)
        refused = [one for one in outcomes if not one.accepted]
        if refused and not self.stop.is_set():
            places = "; ".join(f"{one.place}: {one.problem}" for one in refused)
            log.warning("alert_failed", places=places, incidents=len(mine))
        if len(refused) == len(outcomes):
            self.not_before, self.pause = now + self.pause, min(2 * self.pause, LONGEST_PAUSE)
            self._note(mine, told=False)
            return known
        self.not_before, self.pause = None, FIRST_PAUSE
        told = {one.key: replace(one, told=state_of(one), last_told_at=now) for one in mine}
        log.info("alert_sent", incidents=",".join(" ".join(filter(None, key)) for key in told))
        self._note(list(told.values()), told=True)
        return [told.get(one.key, one) for one in known]

    def _claim(self, due: list[Incident], now: datetime) -> list[Incident]:
        """Return the incidents that this process tells: two workers run side by side during a deploy."""
        numbers = [one.id for one in due if one.id is not None]
        if not numbers:
            return due
        try:
            with transaction(self.engine) as connection:
                mine = incidents.claim(connection, numbers, now, CLAIM)
        except SyncError:
            return due
        return [one for one in due if one.id is None or one.id in mine]

    def _note(self, mine: list[Incident], *, told: bool) -> None:
        """Store that incidents were told, or give up their claim."""
        stored = [one for one in mine if one.id is not None and one.key not in self.unsaved]
        try:
            with transaction(self.engine) as connection:
                if told:
                    incidents.note_told(connection, stored)
                else:
                    incidents.release(connection, [one.id for one in stored if one.id is not None])
        except SyncError:
            stored = []
        if told:
            self.unsaved |= {one.key: one for one in mine if one not in stored}

    # ── the heartbeat ──

    def _ping(self) -> None:
        """Ping once after each complete pass of all objects; a failure is logged once and changes nothing."""
        if self.ways.ping is None or not self.passed.issuperset(self.objects):
            return
        self.passed.clear()
        try:
            self.ways.ping()
        except SyncError as error:
            if not self.silent:
                log.warning("heartbeat_failed", reason=str(error))
            self.silent = True
        else:
            self.silent = False


def merged(stored: Iterable[Incident], unsaved: dict[Key, Incident]) -> list[Incident]:
    """Return the stored incidents, with what this process could not store in their place."""
    found = {one.key: one for one in stored}
    for key, mine in unsaved.items():
        found[key] = replace(mine, id=found[key].id if key in found else mine.id)
    return list(found.values())


def log_change(before: Incident | None, after: Incident) -> None:
    """Log that an incident opens or closes."""
    was_open = before is not None and before.closed_at is None
    if after.closed_at is None and not was_open:
        log.warning("incident_opened", kind=after.kind, object=after.object, what=after.what)
    elif after.closed_at is not None and was_open:
        log.info("incident_closed", kind=after.kind, object=after.object)
