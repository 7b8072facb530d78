"""Signs of activity: work on an object reports that it moves, so that a watchdog can tell it from a hang.

A page, a poll of a job, a retry and a statement under way are activity; none of them need bring a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Called with the seconds of an allowance; threads that fetch ahead inherit it.
LISTENER: ContextVar[Callable[[float], None] | None] = ContextVar("activity", default=None)


@contextmanager
def reported_to(listener: Callable[[float], None]) -> Iterator[None]:
    """Report the activity within, also that of threads that inherit this context, to a function.

    `listener` is called with the seconds that the work may be silent beyond the usual limit.
    """
    token = LISTENER.set(listener)
    try:
        yield
    finally:
        LISTENER.reset(token)


def note(allowance: float = 0) -> None:
    """The work is active now, and may be silent for `allowance` seconds beyond the usual limit.

    The allowance is for a single statement whose own limit is longer than is usual.
    """
    if (listener := LISTENER.get()) is not None:
        listener(allowance)
