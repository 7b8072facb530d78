"""How long a call may take to be read, held below HTTP: also against a server that sends a byte a second."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sync.salesforce.session.limits import RATE_SECONDS

CURRENT = threading.local()


class Watch:
    """Ends the reading of one call: after `seconds`, or below `rate` bytes a second (0: any)."""

    def __init__(self, seconds: float, rate: int = 0) -> None:
        self.seconds, self.rate = seconds, rate
        self.ends = time.monotonic() + seconds
        self.waited, self.came = 0.0, 0
        self.reason = ""

    def left(self) -> float:
        """Seconds that one read may take; TimeoutError when there are none left."""
        left = self.ends - time.monotonic()
        if left <= 0:
            self.reason = f"the answer was not complete after {self.seconds:,.0f} seconds"
        elif self.rate and self.waited >= RATE_SECONDS:
            if self.came < self.rate * RATE_SECONDS:
                self.reason = f"fewer than {self.rate:,} bytes a second came for {RATE_SECONDS:.0f} seconds"
            self.waited, self.came = 0.0, 0
        if self.reason:
            raise TimeoutError(self.reason)
        return min(left, RATE_SECONDS - self.waited) if self.rate else left

    def note(self, seconds: float, size: int) -> None:
        """A read took so long and brought so many bytes; what its reader does in between is not counted."""
        self.waited += seconds
        self.came += size


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Hold what this thread reads within to a watch."""
    before, CURRENT.watch = getattr(CURRENT, "watch", None), watch
    try:
        yield
    finally:
        CURRENT.watch = before


class WatchedSocket(ssl.SSLSocket):
    """A TLS socket whose reads end by its thread's watch: a timeout alone begins anew with every byte."""

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        watch: Watch | None = getattr(CURRENT, "watch", None)
        if watch is None:
            return super().read(len, buffer)
        usual, left, began = self.gettimeout(), watch.left(), time.monotonic()
        shorter = usual is None or left < usual
        if shorter:
            self.settimeout(left)
        try:
            got: Any = super().read(len, buffer)
        except TimeoutError:
            watch.note(time.monotonic() - began, 0)
            if shorter:
                watch.left()
            raise
        finally:
            if shorter:
                self.settimeout(usual)
        watch.note(time.monotonic() - began, got if isinstance(got, int) else got.__len__())
        return got
