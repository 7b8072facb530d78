"""Working ahead in threads: what is fetched and decoded while something else waits for Postgres."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from sync.errors import StoppedError

T = TypeVar("T")
# Gives its items, one by one, to the function it is called with.
Source = Callable[[Callable[[T], None]], None]

POLL_SECONDS = 0.1


class Abandoned(Exception):
    """Nobody takes the items any more."""


def prefetch(
    sources: Iterable[Source[T]], stop: threading.Event, *, width: int = 1, depth: int = 2
) -> Iterator[T]:
    """The items of all sources, `width` sources at a time, at most `depth` items ahead of who takes them.

    One source keeps its order; several are mixed. A source's error is raised here once the items before it
    are taken; StoppedError as soon as `stop` is set, whatever a source waits for just then: its thread is
    left behind, ends at its next item, and keeps no process alive.
    """
    items: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(depth)
    over, turn, pending = threading.Event(), threading.Lock(), iter(sources)

    def put(kind: str, item: T | BaseException | None) -> None:
        while not over.is_set():
            try:
                items.put((kind, item), timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return
        raise Abandoned

    def work() -> None:
        try:
            while True:
                with turn:
                    source = next(pending, None)
                if source is None:
                    return put("end", None)
                source(lambda item: put("item", item))
        except Abandoned:
            pass
        except BaseException as error:  # noqa: BLE001 — carried to the caller, whatever it is
            with suppress(Abandoned):
                put("error", error)

    for number in range(width):
        # Each thread in the caller's context: API calls count for the object they are made for.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), name=f"prefetch-{number}", daemon=True).start()
    try:
        while width:
            if stop.is_set():
                raise StoppedError
            try:
                kind, item = items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
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
