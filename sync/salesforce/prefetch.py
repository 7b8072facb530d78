"""Work ahead in threads: fetch and decode the next items while the consumer waits for Postgres."""

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
# Calls the given function with each of its items.
Source = Callable[[Callable[[T], None]], object]

POLL_SECONDS = 0.1


class ChannelClosed(Exception):
    """The consumer takes no more items."""


class Channel(Generic[T]):
    """The state that producers and consumer share; the lock `turn` guards the sources that have not begun."""

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
        raise ChannelClosed

    def next_source(self, *, first: bool) -> Source[T] | None:
        """Return the next source to begin; every thread but the first waits until the consumer waits."""
        while not first and not self.waiting.wait(POLL_SECONDS):
            if self.over.is_set():
                raise ChannelClosed
        with self.turn:
            source = next(self.pending, None)
            if source is None:
                self.waiting.set()  # lets the other threads end, too
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
    """Yield the items of all sources: `width` sources at a time, at most `depth` items ahead of the consumer.

    Each thread holds one more item. With `patience` (seconds), a further source begins only when the consumer
    has waited for that long: if processing is the bottleneck, more threads only slow each other down.
    The order of one source is kept; the items of several are mixed. An error of a source is raised here after
    the items before it. StoppedError is raised as soon as `stop` is set, even while a source waits; its
    daemon thread ends at its next item.
    """
    channel = Channel(sources, depth, patience)
    try:
        for number in range(width):
            # In the caller's context, so that API calls count for the caller's object.
            target = partial(contextvars.copy_context().run, run_sources, channel, first=number == 0)
            threading.Thread(target=target, name=f"prefetch-{number}", daemon=True).start()
        yield from received(channel, stop, width)
    finally:
        channel.over.set()


def run_sources(channel: Channel[T], *, first: bool) -> None:
    """Run sources one after the other, in a thread."""
    try:
        while source := channel.next_source(first=first):
            source(lambda item: channel.put("item", item))
        channel.put("end", None)
    except ChannelClosed:
        pass
    except BaseException as error:  # noqa: BLE001 — passed to the consumer, which raises it
        with suppress(ChannelClosed):
            channel.put("error", error)


def received(channel: Channel[T], stop: threading.Event, threads: int) -> Iterator[T]:
    """Yield the items until all threads have ended."""
    waited = 0.0
    while threads:
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
            yield item  # type: ignore[misc]  # the source gave an item of this type
        elif kind == "error":
            assert isinstance(item, BaseException)
            raise item
        else:
            threads -= 1
        del item  # do not hold it in memory while the next is made


def as_source(items: Iterable[T]) -> Source[T]:
    """Turn an iterable into a source."""

    def source(emit: Callable[[T], None]) -> None:
        for item in items:
            emit(item)
            del item

    return source
