"""Requests at once: never more than allowed, in their order, without a work that waits for itself, and stoppable."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sync.errors import StoppedError
from sync.salesforce.prefetch import Source, prefetch
from sync.salesforce.session.retry import RetryPolicy
from sync.salesforce.session.session import Session
from sync.salesforce.slots import Slots
from sync.simulator import Simulator
from tests.support.world import NEVER_WAIT, settings_of

SOON = 5.0  # seconds that no test waits, unless it fails


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    stop = threading.Event()
    yield stop
    stop.set()


def until(true: Callable[[], bool]) -> bool:
    """Whether it becomes true soon."""
    deadline = time.monotonic() + SOON
    while not true() and time.monotonic() < deadline:
        time.sleep(0.002)
    return true()


class Gauge:
    """How many are inside at once, and how many there were at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize("most", [2, 3])
def test_never_more_at_once(stop: threading.Event, most: int) -> None:
    """Many works, with streams among them: never more are inside, all of them are used, and all come in."""
    slots, inside = Slots(most, stop), Gauge()
    chance = random.Random(most)
    plans = [(work, chance.random() < 0.3) for work in range(60)]

    def use(plan: tuple[int, bool]) -> int:
        with slots.taken(plan[0], stream=plan[1]), inside:
            time.sleep(0.001)
        return plan[0]

    with ThreadPoolExecutor(12) as pool:
        assert sorted(pool.map(use, plans)) == list(range(60))
    assert inside.most == most
    assert (slots._free, slots._streams) == (most, {})


def test_in_the_order_of_asking(stop: threading.Event) -> None:
    """The one that has waited longest is next: no object waits for ever beside busy ones."""
    slots, came = Slots(1, stop), list[int]()

    def wait(number: int) -> None:
        with slots.taken(number):
            came.append(number)

    with slots.taken("first"):
        threads = []
        for number in range(8):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            assert until(lambda number=number: len(slots._waiting) == number + 1)  # type: ignore[misc]  # mypy infers no lambda with a default
    for thread in threads:
        thread.join(SOON)
    assert came == list(range(8))


def test_a_stop_ends_the_waiting(stop: threading.Event) -> None:
    """What waits ends at once when the process is asked to stop, and takes no slot with it."""
    slots, ended = Slots(1, stop), list[BaseException]()

    def wait() -> None:
        try:
            with slots.taken("waiting"):
                pass
        except StoppedError as error:
            ended.append(error)

    with slots.taken("first"):
        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert until(lambda: len(slots._waiting) == 3)
        stop.set()
        for thread in threads:
            thread.join(SOON)
    assert len(ended) == 3
    assert slots._free == 1


def test_a_slot_given_to_one_that_leaves_goes_on(stop: threading.Event) -> None:
    """A slot that comes in the moment of a stop is not lost."""
    slots, mine = Slots(1, stop), threading.Event()
    slots._take()
    slots._waiting.append(mine)
    slots._give()
    slots._leave(mine)
    assert slots._free == 1


def test_a_work_does_not_wait_for_its_own_streams(stop: threading.Event) -> None:
    """Streams hold all slots and wait for the work that reads them; its own request goes out, that of others waits."""
    slots, others = Slots(2, stop), list[int]()

    def source(emit: Callable[[int], None]) -> None:
        with slots.taken("mine", stream=True):
            for item in range(20):
                emit(item)

    def other() -> None:
        with slots.taken("other"):
            others.append(len(slots._streams))

    sources: list[Source[int]] = [source, source]
    waiting = threading.Thread(target=other)
    read = list[int]()
    for item in prefetch(sources, stop, width=2, depth=1):
        if not read:
            assert until(lambda: slots._free == 0)
            waiting.start()
        with slots.taken("mine"):
            read.append(item)
    waiting.join(SOON)

    assert sorted(read) == sorted([*range(20)] * 2)
    assert len(others) == 1
    assert slots._free == 2


def test_a_session_sends_no_more_at_once(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever threads ask for at once, so many requests are under way as the setting says; a retry's pause is none
    of them."""
    chosen = {"DATABASE_URL": "postgres://localhost/none", "SYNC_CONCURRENT_REQUESTS": "3"}
    settings = settings_of(tuple({**sim.environment(), **chosen}.items()))
    session, inside = Session(settings, retry=NEVER_WAIT), Gauge()
    send = session._connection.send

    def watched(*args: object, **kwargs: object) -> object:
        with inside:
            return send(*args, **kwargs)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(session._connection, "send", watched)
    sim.options.latency = 0.02
    sim.faults.add("unavailable_html", on="query", times=3)
    with ThreadPoolExecutor(9) as pool:
        for future in [pool.submit(session.query, "SELECT Id FROM Contact", ("Id",)) for _ in range(18)]:
            future.result()
    assert inside.most == 3


# ── an org that is busy ───────────────────────────────────────────────────────────────────────────────


class Pauses(threading.Event):
    """A request to stop that never comes, and what was waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout or 0)
        return super().wait(0)


def refused(sim: Simulator, **policy: object) -> tuple[Session, Pauses]:
    settings = settings_of(tuple({**sim.environment(), "DATABASE_URL": "postgres://localhost/none"}.items()))
    pauses = Pauses()
    sim.faults.add("concurrent_limit", on="query", times=None)
    return Session(settings, pauses, RetryPolicy(**policy)), pauses  # type: ignore[arg-type]  # passed on


def test_a_busy_org_is_given_growing_pauses(sim: Simulator) -> None:
    """REQUEST_LIMIT_EXCEEDED of the concurrent kind: 5, 10, 20, 40, 60 seconds, up to twelve minutes; then it fails."""
    session, pauses = refused(sim)

    with pytest.raises(Exception, match="lower SYNC_CONCURRENT_REQUESTS"):
        session.query("SELECT Id FROM Contact")

    for waited, most in zip(pauses.waited, [5, 10, 20, 40, *[60] * 11], strict=False):
        assert 0.75 * most <= waited <= most
    assert len(pauses.waited) == 14


def test_a_busy_org_is_not_pressed_for_what_is_not_needed(sim: Simulator) -> None:
    """A call with a fallback gets two attempts, as ever."""
    session, pauses = refused(sim)

    with pytest.raises(Exception, match="Concurrent"):
        session.query("SELECT Id FROM Contact", best_effort=True)

    assert len(pauses.waited) == 1


def test_other_failures_get_no_more_attempts(sim: Simulator) -> None:
    """A server that is away is left after six attempts, also when it was busy before."""
    session, pauses = refused(sim)
    sim.faults.clear()
    sim.faults.add("concurrent_limit", on="query", times=3)
    sim.faults.add("unavailable_html", on="query", times=None)

    with pytest.raises(Exception, match="503"):
        session.query("SELECT Id FROM Contact")

    assert len(pauses.waited) == 5
