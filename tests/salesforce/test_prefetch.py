"""Working ahead: order, bounds, errors, stopping, and that nothing is kept longer than it is needed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.errors import StoppedError
from sync.salesforce.prefetch import Source, as_source, prefetch

Give = Callable[[Any], None]
SOON = 5.0  # seconds that no test waits, unless it fails


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture(autouse=True)
def no_dying_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No thread of any test may end in an exception that nobody catches."""
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: died.append(args.exc_value))
    yield
    assert died == []


def until(true: Callable[[], bool]) -> bool:
    """Whether it becomes true soon."""
    deadline = time.monotonic() + SOON
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    return true()


def take(came: Iterator[Any], into: list[Any]) -> None:
    """Take all that comes, and keep what came before an error."""
    for item in came:
        into.append(item)


class Worker:
    """A source whose thread is known, and that can be held up."""

    def __init__(self, *items: Any, wait: threading.Event | None = None, error: BaseException | None = None):
        self.items, self.wait, self.error = items, wait, error
        self.thread: threading.Thread | None = None
        self.given = 0
        self.begun = threading.Event()

    def __call__(self, give: Give) -> None:
        self.thread = threading.current_thread()
        self.begun.set()
        for item in self.items:
            give(item)
            self.given += 1
        if self.wait is not None:
            self.wait.wait(SOON)
        if self.error is not None:
            raise self.error

    def ended(self) -> bool:
        assert self.thread is not None
        return until(lambda: not self.thread.is_alive())  # type: ignore[union-attr]  # asserted a line up


# ── what comes, and in which order ────────────────────────────────────────────────────────────────────


def test_one_source_keeps_its_order(stop: threading.Event) -> None:
    """The items of one source come in their order, each once."""
    assert list(prefetch([as_source(range(100))], stop)) == list(range(100))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_nothing_to_take(stop: threading.Event, width: int) -> None:
    """No source, and sources without items, are an end like any other."""
    assert list(prefetch([], stop, width=width)) == []
    assert list(prefetch([as_source([]), as_source([])], stop, width=width)) == []


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 12), max_size=8),
    width=st.integers(1, 4),
    depth=st.integers(1, 4),
    patience=st.sampled_from([0.0, 0.001, 0.3]),
)
def test_several_sources_are_mixed(sizes: list[int], width: int, depth: int, patience: float) -> None:
    """Every item of every source comes once, and those of one source in their order, however they mix."""
    sources = [as_source([(place, n) for n in range(size)]) for place, size in enumerate(sizes)]
    came = list(prefetch(sources, threading.Event(), width=width, depth=depth, patience=patience))

    for place, size in enumerate(sizes):
        assert [n for source, n in came if source == place] == list(range(size))
    assert len(came) == sum(sizes)


def test_one_source_does_not_hold_the_other_up(stop: threading.Event) -> None:
    """While one source waits, the items of the other come."""
    wait = threading.Event()
    slow, quick = Worker("slow", wait=wait), Worker(*range(10))
    came = []
    for item in prefetch([slow, quick], stop, width=2):
        came.append(item)
        if len(came) == 11:
            wait.set()

    assert sorted(map(str, came)) == sorted(["slow", *map(str, range(10))])


def test_sources_are_asked_for_when_it_is_their_turn(stop: threading.Event) -> None:
    """A list of sources may itself be read page by page: none is asked for long before it is needed."""
    asked = []

    def sources() -> Iterator[Source[int]]:
        for number in range(10):
            asked.append(number)
            yield as_source([number])

    came = prefetch(sources(), stop, depth=1)
    assert asked == []
    assert next(came) == 0
    time.sleep(0.05)
    assert len(asked) <= 3
    assert [*came] == list(range(1, 10))


@pytest.mark.parametrize("width", [2, 4])
def test_one_at_a_time_asks_for_the_next_source(stop: threading.Event, width: int) -> None:
    """Several threads share one list of sources, which may take its time to name the next."""

    def sources() -> Iterator[Source[int]]:
        for number in range(6):
            time.sleep(0.01)
            yield as_source([number])

    assert sorted(prefetch(sources(), stop, width=width)) == list(range(6))


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_never_further_ahead_than_asked(stop: threading.Event, depth: int) -> None:
    """At most `depth` items wait to be taken; the source makes one more and is held up with it."""
    worker = Worker(*range(50))
    came = prefetch([worker], stop, depth=depth)
    for taken in range(1, 41):
        next(came)
        assert until(lambda: worker.given == taken + depth)  # noqa: B023 — called at once
        time.sleep(0.002)
        assert worker.given == taken + depth
    came.close()  # type: ignore[attr-defined]  # it is a generator


@pytest.mark.parametrize("width", [1, 2, 3])
def test_never_more_sources_than_asked(stop: threading.Event, width: int) -> None:
    """So many sources are read side by side, and no more."""
    lock, now, most = threading.Lock(), 0, 0

    def source(give: Give) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        give(None)
        with lock:
            now -= 1

    assert len(list(prefetch([source] * 9, stop, width=width, depth=9))) == 9
    assert most == width


def test_a_consumer_is_not_waited_for_by_the_work(stop: threading.Event) -> None:
    """While the consumer is busy the next item is being made: that is what this is for."""
    made = threading.Event()

    def source(give: Give) -> None:
        give(1)
        give(2)
        made.set()

    came = prefetch([source], stop, depth=1)
    assert next(came) == 1
    assert made.wait(SOON)
    assert next(came) == 2
    assert list(came) == []


# ── patience ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_source_is_not_begun_without_need(stop: threading.Event) -> None:
    """While the items of one source come in time, none is begun beside it; and the end is not waited for."""
    first, second, third = Worker(*range(200)), Worker("b"), Worker("c")
    began = time.monotonic()
    came = prefetch([first, second, third], stop, width=3, patience=60)
    for number in range(200):
        assert next(came) == number
        assert second.thread is None or number > 190  # the last ones may still wait to be taken
    assert list(came) == ["b", "c"]

    assert first.thread is second.thread is third.thread
    assert time.monotonic() - began < 10


def test_a_second_source_is_begun_when_the_first_is_slow(stop: threading.Event) -> None:
    """When items were waited for as long as patience lasts, the next source is read beside the slow one."""
    wait = threading.Event()
    slow, quick = Worker("a", wait=wait), Worker("b")
    came = prefetch([slow, quick], stop, width=2, patience=0.2)
    assert next(came) == "a"
    assert not quick.begun.is_set()

    started = time.monotonic()
    assert next(came) == "b"
    assert 0.15 < time.monotonic() - started < 2
    wait.set()
    assert list(came) == []
    assert slow.thread is not quick.thread


def test_a_busy_consumer_is_no_reason_for_more(stop: threading.Event) -> None:
    """Patience is that of one who waits: while the consumer works, no source is begun on that account."""
    first, second = Worker(*range(6)), Worker("b")
    came = prefetch([first, second], stop, width=2, depth=1, patience=0.2)
    for number in range(4):
        assert next(came) == number
        time.sleep(0.15)

    assert second.thread is None
    assert list(came) == [4, 5, "b"]


@pytest.mark.parametrize("way", ["stop", "close"])
def test_a_thread_that_never_got_its_turn_ends(stop: threading.Event, way: str) -> None:
    """A thread that waits for its turn ends with the others."""
    before = threading.active_count()
    wait = threading.Event()
    came = prefetch([Worker(1, 2, wait=wait)], stop, width=4, patience=60)
    next(came)
    assert threading.active_count() > before
    if way == "stop":
        stop.set()
        with pytest.raises(StoppedError):
            next(came)
    else:
        came.close()  # type: ignore[attr-defined]  # it is a generator
    wait.set()

    assert until(lambda: threading.active_count() <= before)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────


class Odd(BaseException):
    """What nobody foresaw."""


@pytest.mark.parametrize("error", [ValueError("x"), StoppedError(), Odd("y"), SystemExit(3)])
def test_an_error_comes_after_the_items_before_it(stop: threading.Event, error: BaseException) -> None:
    """A source's error, whatever it is, reaches the consumer as itself, once what came before is taken."""
    came: list[int] = []
    with pytest.raises(type(error)) as raised:
        take(prefetch([Worker(*range(7), error=error)], stop, depth=3), came)

    assert raised.value is error
    assert came == list(range(7))


def test_an_error_ends_the_others(stop: threading.Event) -> None:
    """After an error no further item is made by anybody, and no further source is begun."""
    endless, never = Worker(*range(100_000)), Worker("never")
    late = threading.Event()
    came: list[int] = []
    threading.Timer(0.05, late.set).start()

    with pytest.raises(ValueError, match="x"):
        take(prefetch([endless, Worker(error=ValueError("x"), wait=late), never], stop, width=2), came)

    assert endless.ended()
    assert endless.given < 100_000
    assert never.thread is None


def test_a_second_error_is_nobodys(stop: threading.Event) -> None:
    """Of two sources that fail the first one's error is told; the other ends without a word."""
    late = threading.Event()
    second = Worker(error=KeyError("second"), wait=late)
    with pytest.raises(ValueError, match="first"):
        list(prefetch([Worker(error=ValueError("first")), second], stop, width=2))
    late.set()

    if second.thread is not None:
        assert second.ended()


def test_an_error_in_the_list_of_sources(stop: threading.Event) -> None:
    """A list of sources that breaks off is an error like that of a source."""

    def sources() -> Iterator[Source[int]]:
        yield as_source([1, 2])
        raise LookupError("no more pages")

    came: list[int] = []
    with pytest.raises(LookupError, match="no more pages"):
        take(prefetch(sources(), stop), came)
    assert came == [1, 2]


def test_an_errors_traceback_leads_to_the_source(stop: threading.Event) -> None:
    """Who reads the traceback sees where in the source it happened."""
    with pytest.raises(ValueError, match="x") as raised:
        list(prefetch([Worker(error=ValueError("x"))], stop))

    assert "__call__" in [entry.name for entry in raised.traceback]


# ── stopping ──────────────────────────────────────────────────────────────────────────────────────────


def test_stop_does_not_wait_for_a_source(stop: threading.Event) -> None:
    """A stop is told at once, whatever a source waits for; the source's thread keeps no process alive."""
    wait = threading.Event()
    worker = Worker(1, wait=wait)
    came = prefetch([worker], stop)
    assert next(came) == 1
    threading.Timer(0.1, stop.set).start()

    started = time.monotonic()
    with pytest.raises(StoppedError):
        next(came)

    assert time.monotonic() - started < 1
    assert worker.thread is not None
    assert worker.thread.is_alive()
    assert worker.thread.daemon
    wait.set()
    assert worker.ended()


def test_stop_leaves_what_was_fetched(stop: threading.Event) -> None:
    """After a stop not even the items at hand are given: a dyno has seconds."""
    worker = Worker(*range(10))
    came = prefetch([worker], stop, depth=5)
    next(came)
    assert until(lambda: worker.given == 6)
    stop.set()

    with pytest.raises(StoppedError):
        next(came)
    assert worker.ended()
    assert list(came) == []


def test_a_stopped_source_says_nothing_more(stop: threading.Event) -> None:
    """A source that meets the stop as well, a little later, ends without a traceback on anybody's screen."""
    worker = Worker(1, wait=stop, error=StoppedError())
    came = prefetch([worker], stop)
    next(came)
    stop.set()
    with suppress(StoppedError):
        next(came)

    assert worker.ended()


def test_stop_before_the_first_item(stop: threading.Event) -> None:
    """Asked to stop before it began, it gives nothing."""
    stop.set()
    with pytest.raises(StoppedError):
        next(prefetch([as_source(range(3))], stop))


@pytest.mark.parametrize("way", ["close", "forget", "error"])
def test_an_abandoned_consumer_ends_the_threads(stop: threading.Event, way: str) -> None:
    """Who takes no more items leaves no thread behind: they end at their next item."""
    workers = [Worker(*range(100_000)), Worker(*range(100_000))]
    came = prefetch(workers, stop, width=2)
    next(came)
    assert all(worker.begun.wait(SOON) for worker in workers)
    match way:
        case "close":
            came.close()  # type: ignore[attr-defined]  # it is a generator
        case "error":
            with pytest.raises(ZeroDivisionError):
                came.throw(ZeroDivisionError())  # type: ignore[attr-defined]  # likewise
    del came
    gc.collect()

    assert all(worker.ended() for worker in workers)
    assert all(worker.given < 100_000 for worker in workers)


def test_nothing_is_begun_before_the_first_item_is_wanted(stop: threading.Event) -> None:
    """Made and never used, it starts no thread."""
    worker = Worker(1)
    came = prefetch([worker], stop)
    time.sleep(0.05)
    del came

    assert worker.thread is None


def test_threads_end_with_their_sources(stop: threading.Event) -> None:
    """When all is taken no thread is left."""
    before = threading.active_count()
    workers = [Worker(n) for n in range(5)]

    assert sorted(prefetch(workers, stop, width=3)) == [0, 1, 2, 3, 4]
    assert all(worker.ended() for worker in workers)
    assert until(lambda: threading.active_count() <= before)


# ── what threads inherit, and what they keep ──────────────────────────────────────────────────────────

WHO: ContextVar[str] = ContextVar("who", default="nobody")


@pytest.mark.parametrize("width", [1, 3])
def test_threads_inherit_the_context(stop: threading.Event, width: int) -> None:
    """Sources see the context of who takes the items: API calls are counted for the object they are made for."""

    def source(give: Give) -> None:
        give(WHO.get())
        WHO.set("the source")

    token = WHO.set("the consumer")
    try:
        came = list(prefetch([source] * width, stop, width=width))
        assert WHO.get() == "the consumer"
    finally:
        WHO.reset(token)

    assert set(came) <= {"the consumer", "the source"}
    assert "the consumer" in came


class Large:
    """An item whose memory matters."""


@pytest.fixture
def no_cycles() -> Iterator[None]:
    """What is freed here is freed by counting references, at once."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.usefixtures("no_cycles")
def test_items_are_not_kept(stop: threading.Event, width: int) -> None:
    """While the next item is waited for, the last one is gone: a page is large."""
    wait = threading.Event()
    known: list[weakref.ref[Large]] = []

    def large() -> Iterator[Large]:
        for _ in range(3):
            made = Large()
            known.append(weakref.ref(made))
            yield made
            del made
        wait.wait(10 * SOON)

    came = prefetch([as_source(large())], stop, width=width, depth=1)
    for _ in range(3):
        next(came)
    rest: list[object] = []
    waiting = threading.Thread(target=lambda: rest.extend(came))
    waiting.start()

    assert until(lambda: not any(ref() for ref in known))
    wait.set()
    waiting.join(SOON)
    assert rest == []


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (1, 3), (2, 1), (3, 2)])
@pytest.mark.usefixtures("no_cycles")
def test_memory_is_bounded(stop: threading.Event, width: int, depth: int) -> None:
    """No more items live than wait, are being made, and are in the consumer's hands."""
    alive: weakref.WeakSet[Large] = weakref.WeakSet()
    lock, most = threading.Lock(), 0

    def source(give: Give) -> None:
        nonlocal most
        for _ in range(30):
            made = Large()
            with lock:
                alive.add(made)
                most = max(most, len(alive))
            give(made)
            del made

    for item in prefetch([source] * width, stop, width=width, depth=depth):
        del item
        time.sleep(0.001)

    assert most <= width + depth + 1
    assert until(lambda: len(alive) == 0)


@pytest.mark.usefixtures("no_cycles")
def test_an_abandoned_queue_is_freed(stop: threading.Event) -> None:
    """Items that nobody will take are freed with their threads."""
    known: list[weakref.ref[Large]] = []

    def large() -> Iterator[Large]:
        for _ in range(10):
            made = Large()
            known.append(weakref.ref(made))
            yield made
            del made

    came = prefetch([as_source(large())], stop, depth=3)
    next(came)
    assert until(lambda: len(known) == 5)
    came.close()  # type: ignore[attr-defined]  # it is a generator
    del came

    assert until(lambda: not any(ref() for ref in known))
    assert len(known) == 5
