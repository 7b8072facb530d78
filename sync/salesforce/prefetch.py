"""Working ahead in threads: what is fetched and decoded while something else waits for Postgres."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from sync.errors import StoppedError

T = TypeVar("T")
# Gives its items, one by one, to the function it is called with.
Source = Callable[[Callable[[T], None]], object]

POLL_SECONDS = 0.1


class Abandoned(Exception):
    """Nobody takes the items any more."""


class Channel(Generic[T]):
    """What the makers of items and their taker share; `turn` guards the sources still to begin."""

    def __init__(self, sources: Iterable[Source[T]], depth: int, patience: float) -> None:
        self.items: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
        self.pending = iter(sources)
        self.turn = threading.Lock()
        self.over = threading.Event()
        self.patience = patience
        self.waiting = threading.Event()
        if not patience:
            self.waiting.set()

    def put(self, kind: str, item: T | BaseException | None) -> None:
        while not self.over.is_set():
            try:
                self.items.put((kind, item), timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return
        raise Abandoned

    def next_source(self, *, first: bool) -> Source[T] | None:
        """The source to begin; any but the first thread waits until its taker waits."""
        while not first and not self.waiting.wait(POLL_SECONDS):
            if self.over.is_set():
                raise Abandoned
        with self.turn:
            source = next(self.pending, None)
            if source is None:
                self.waiting.set()  # the other threads are to end, too
            elif self.patience:
                self.waiting.clear()
        return source


def prefetch(
    sources: Iterable[Source[T]],
    stop: threading.Event,
    *,
    width: int = 1,
    depth: int = 2,
    patience: float = 0,
) -> Iterator[T]:
    """The items of all sources, `width` sources at a time, at most `depth` items (and one in each thread's
    hands) ahead of who takes them.

    With `patience` (seconds) a source beside the first is begun only when items were waited for that long:
    where the work and not the wire is the limit, more threads only get into each other's way.

    One source keeps its order; several are mixed. A source's error is raised here once the items before it
    are taken; StoppedError as soon as `stop` is set, whatever a source waits for just then: its thread is
    left behind, ends at its next item, and keeps no process alive.
    """
    channel = Channel(sources, depth, patience)
    try:
        for number in range(width):
            # Each thread in the caller's context: API calls count for the object they are made for.
            target = partial(contextvars.copy_context().run, work, channel, first=number == 0)
            threading.Thread(target=target, name=f"prefetch-{number}", daemon=True).start()
        yield from received(channel, stop, width)
    finally:
        channel.over.set()


def work(channel: Channel[T], *, first: bool) -> None:
    """One source after the other, in a thread of its own."""
    try:
        while source := channel.next_source(first=first):
            source(lambda item: channel.put("item", item))
        channel.put("end", None)
    except Abandoned:
        pass
    except BaseException as error:  # noqa: BLE001 — carried to the caller, whatever it is
        with suppress(Abandoned):
            channel.put("error", error)


def received(channel: Channel[T], stop: threading.Event, working: int) -> Iterator[T]:
    """The items as they come, until all threads have ended."""
    waited = 0.0
    while working:
        if stop.is_set():
            raise StoppedError
        try:
            kind, item = channel.items.get(timeout=POLL_SECONDS)
        except queue.Empty:
            waited += POLL_SECONDS
            if waited >= channel.patience:
                channel.waiting.set()
            continue
        waited = 0.0
        if kind == "item":
            yield item  # type: ignore[misc]  # an item is what its source gave
        elif kind == "error":
            assert isinstance(item, BaseException)
            raise item
        else:
            working -= 1
        del item  # not one more in memory while the next is made


def as_source(items: Iterable[T]) -> Source[T]:
    """An iterable as a source."""

    def source(emit: Callable[[T], None]) -> None:
        for item in items:
            emit(item)
            del item

    return source
