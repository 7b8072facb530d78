"""Requests at once: a process sends at most so many to an org, in the order in which they were asked for."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from sync.errors import StoppedError
from sync.logs import activity

POLL_SECONDS = 0.1


class Slots:
    """At most `most` requests at once; safe to use from several threads.

    A streamed answer holds its slot to its end, and it may have to wait for the work that reads it. That work
    may send other requests meanwhile: they use the slot of its own stream, which rests until the work goes
    on. Otherwise a work whose streams hold all slots would wait for itself.
    """

    def __init__(self, most: int, stop: threading.Event) -> None:
        self.stop = stop
        self._free = most
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._streams: Counter[Hashable] = Counter()

    @contextmanager
    def taken(self, work: Hashable, *, stream: bool = False) -> Iterator[None]:
        """Hold a slot inside the block; `work` is what the request is for, `stream` an answer read while it
        arrives.

        Raises StoppedError as soon as the process is asked to stop, also while it waits.
        """
        with self._lock:
            borrowed = not stream and self._streams[work] > 0
        if not borrowed:
            self._take()
        try:
            if stream:
                self._note_stream(work, 1)
            yield
        finally:
            if stream:
                self._note_stream(work, -1)
            if not borrowed:
                self._give()

    def _note_stream(self, work: Hashable, change: int) -> None:
        with self._lock:
            self._streams[work] += change
            if not self._streams[work]:
                del self._streams[work]

    def _take(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            mine = threading.Event()
            self._waiting.append(mine)
        while not mine.wait(POLL_SECONDS):
            activity.report()  # another request is at work, and has its own limits
            if self.stop.is_set():
                self._leave(mine)
                raise StoppedError

    def _leave(self, mine: threading.Event) -> None:
        """Wait no longer; pass a slot on that was given meanwhile."""
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return
        self._give()

    def _give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # the slot goes to the one that has waited longest
            else:
                self._free += 1
