"""Working ahead in threads: what is fetched and decoded while something else waits for Postgres."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TypeVar

from sync.errors import StoppedError

T = TypeVar("T")
# Gives its items, one by one, to the function it is called with.
Source = Callable[[Callable[[T], None]], None]

POLL_SECONDS = 0.1


class Abandoned(Exception):
    """Nobody takes the items any more."""


def prefetch(
    sources: Iterable[Source[T]],
    stop: threading.Event,
    *,
    width: int = 1,
    depth: int = 2,
    patience: float = 0,
) -> Iterator[T]:
    """The items of all sources, `width` sources at a time, at most `depth` items (and one in each
    thread's hands) ahead of who takes them.

    With `patience` (seconds) a source beside the first is begun only when items were waited for that long:
    where the work and not the wire is the limit, more threads only get into each other's way.

    One source keeps its order; several are mixed. A source's error is raised here once the items before it
    are taken; StoppedError as soon as `stop` is set, whatever a source waits for just then: its thread is
    left behind, ends at its next item, and keeps no process alive.
    """
    items: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    over, turn, pending = threading.Event(), threading.Lock(), iter(sources)
    waiting = threading.Event()
    if not patience:
        waiting.set()

    def put(kind: str, item: T | BaseException | None) -> None:
        while not over.is_set():
            try:
                items.put((kind, item), timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return
        raise Abandoned

    def work(first: bool) -> None:
        try:
            while True:
                while not first and not waiting.wait(POLL_SECONDS):
                    if over.is_set():
                        return None
                with turn:
                    source = next(pending, None)
                    if source is None:
                        waiting.set()  # for the others, to see it too
                    elif patience:
                        waiting.clear()
                if source is None:
                    return put("end", None)
                source(lambda item: put("item", item))
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 — carried to the caller, whatever it is
            with suppress(Abandoned):
                put("error", error)

    waited = 0.0
    try:
        for number in range(width):
            # Each thread in the caller's context: API calls count for the object they are made for.
            context = contextvars.copy_context()
            target = partial(context.run, work, number == 0)
            threading.Thread(target=target, name=f"prefetch-{number}", daemon=True).start()
        while width:
            if stop.is_set():
                raise StoppedError
            try:
                kind, item = items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                waited += POLL_SECONDS
                if waited >= patience:
                    waiting.set()
                continue
            waited = 0.0
            if kind == "item":
                yield item  # type: ignore[misc]  # an item is what its source gave
            elif kind == "error":
                assert isinstance(item, BaseException)
                raise item
            else:
                width -= 1
            del item  # not one more in memory while the next is made
    finally:
        over.set()


def each(items: Iterable[T]) -> Source[T]:
    """An iterable as a source."""

    def source(give: Callable[[T], None]) -> None:
        for item in items:
            give(item)
            del item

    return source
