"""Misbehaviour on command: faults that wait for the calls they are meant for."""

import threading
from dataclasses import dataclass
from typing import Any

from sync.simulator.faults.kinds import FAULTS, Effect
from sync.simulator.wire import Call


@dataclass
class Fault:
    """A fault that waits for its calls; ``fired`` counts the calls it struck."""

    name: str
    on: str
    after: int
    times: int | None
    sobject: str | None
    params: dict[str, Any]
    seen: int = 0
    fired: int = 0
    number: int = 0

    @property
    def spent(self) -> bool:
        return self.times is not None and self.fired >= self.times

    def matches(self, call: Call) -> bool:
        if self.sobject is not None and (call.log.sobject or "").casefold() != self.sobject.casefold():
            return False
        return call.path.startswith(self.on) if self.on.startswith("/") else self.on in ("any", call.log.kind)


class Faults:
    """The faults in force; safe to change while the server runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._count = 0

    def add(
        self,
        name: str,
        on: str | None = None,
        after: int = 0,
        times: int | None = 1,
        sobject: str | None = None,
        **params: Any,
    ) -> Fault:
        """Let a fault strike: skip ``after`` matching calls, then ``times`` calls (None: for ever).

        ``on`` is token, describe, query (first pages), aggregate (queries that group), page (further
        pages), limits, updated, deleted, job_create, job (a look at it), results, result_pages, job_abort,
        job_delete, jobs (the list), composite (the call as a whole), another kind of the request log, any, or
        the beginning of a path. A subrequest of a composite call is struck as the call that it is; what
        breaks the connection, shapes headers or answers HTML then strikes the composite call.
        ValueError for an unknown name.
        """
        if name not in FAULTS:
            raise ValueError(f"no fault {name!r}; there are {', '.join(sorted(FAULTS))}")
        FAULTS[name].build(params)  # wrong parameters fail here rather than in the server
        with self._lock:
            self._count += 1
            fault = Fault(name, on or FAULTS[name].on, after, times, sobject, params, number=self._count)
            self._faults.append(fault)
            return fault

    def remove(self, fault: Fault) -> None:
        with self._lock:
            self._faults = [each for each in self._faults if each is not fault]

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def strike(self, call: Call) -> Effect | None:
        """The effect due on this call, of the first fault whose turn it is; all that match count it."""
        due: Fault | None = None
        with self._lock:
            for fault in self._faults:
                if fault.spent or not fault.matches(call):
                    continue
                fault.seen += 1
                if due is None and fault.seen > fault.after:
                    fault.fired += 1
                    due = fault
        if due is None:
            return None
        call.log.fault = due.name
        return FAULTS[due.name].build(due.params)
