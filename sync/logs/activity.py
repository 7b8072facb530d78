"""Signs of activity, by which a watchdog tells slow work on an object from a hang.

A page, a poll of a job, a retry and a running statement are activity, with or without records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Receives the allowance in seconds; threads that fetch ahead inherit the variable.
LISTENER: ContextVar[Callable[[float], None] | None] = ContextVar("activity", default=None)


@contextmanager
def report_to(listener: Callable[[float], None]) -> Iterator[None]:
    """Report activity inside the block to a listener, also from threads that inherit this context.

    `listener` receives the seconds by which the next silence may exceed the usual limit.
    """
    token = LISTENER.set(listener)
    try:
        yield
    finally:
        LISTENER.reset(token)


def report(allowance: float = 0) -> None:
    """Report activity; the next silence may exceed the usual limit by `allowance` seconds.

    The allowance is for a single statement whose own timeout is longer than usual.
    """
    if (listener := LISTENER.get()) is not None:
        listener(allowance)
