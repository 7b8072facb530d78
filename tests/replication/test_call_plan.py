"""The plan of API calls: bounds and order by any spending, and days of a worker in a loop over minutes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.postgres.state.calls import ON_DEMAND, PASS, REFRESH, RESYNC, VERIFY, Spent
from sync.replication.budget.plan import (
    LONGEST_INTERVAL,
    LONGEST_UNVERIFIED,
    RELAX,
    THINNED,
    Plan,
    Rules,
    allowance,
    make_plan,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULES = Rules(MINUTE, 1_000)
ORDER = list(THINNED)


def plan_of(total: int, before: Mapping[str, datetime] | None = None, *, calls: int = 1_000) -> Plan:
    """The plan after so many calls that were no usual passes."""
    return make_plan(Spent({PASS: total}), Rules(MINUTE, calls), NOON, before=before)


def works(plan: Plan) -> list[str]:
    return [one.work for one in plan.deferred]


def waits(work: str, plan: Plan) -> bool:
    return work in works(plan)


@pytest.mark.parametrize(
    ("limit", "chosen", "allowed"),
    [
        (None, None, 3_000),
        (100_000, None, 10_000),
        (15_000, None, 3_000),
        (5_000, None, 2_500),
        (1, None, 1),
        (100_000, 700, 700),
        (1_000, 900, 900),
        (None, 700, 700),
    ],
)
def test_allowance(limit: int | None, chosen: int | None, allowed: int) -> None:
    """By default a tenth of the org's limit or 3,000, but never more than half of the limit."""
    assert allowance(limit, chosen) == allowed


SPENT = st.builds(
    Spent,
    st.dictionaries(st.sampled_from([PASS, REFRESH, VERIFY, ON_DEMAND]), st.integers(0, 20_000)),
    st.floats(0, 50),
    st.integers(0, 1_440),
)
RULE = st.builds(
    Rules,
    st.timedeltas(timedelta(seconds=1), timedelta(hours=2)),
    st.none() | st.integers(1, 20_000),
    st.sampled_from([0.5, 0.8, 1.0]),
)
BEFORE = st.sets(st.sampled_from(ORDER)).map(lambda found: dict.fromkeys(found, NOON))


@given(SPENT, RULE, BEFORE, st.none() | st.integers(0, 200_000), st.none() | st.integers(1, 200_000))
def test_bounds_of_a_plan(
    spent: Spent,
    rules: Rules,
    before: dict[str, datetime],
    used: int | None,
    limit: int | None,
) -> None:
    """Whatever was spent: no pass comes sooner than the setting, none later than ten minutes or the setting, and
    what waits says why and since when."""
    plan = make_plan(spent, rules, NOON + MINUTE, used=used, limit=limit, before=before)

    assert rules.interval <= plan.interval <= max(rules.interval, LONGEST_INTERVAL)
    assert plan.stretched == (plan.interval > rules.interval)
    assert plan.forecast >= 0
    for one in plan.deferred:
        assert one.since == before.get(one.work, NOON + MINUTE)
        assert one.reason == plan.refusal(one.work) != ""
    if plan.stopped:
        assert works(plan) == [PASS, *ORDER]
        assert plan.refusal(RESYNC) == plan.stopped
    elif not before:
        assert works(plan) == ORDER[: len(works(plan))]
    assert bool(plan.refusal(RESYNC)) == bool(plan.refusal(VERIFY))


@given(st.integers(0, 1_500), st.integers(0, 1_500))
def test_more_calls_never_give_more(one: int, other: int) -> None:
    """With more calls spent the interval is not shorter, and not less work waits."""
    low, high = plan_of(min(one, other)), plan_of(max(one, other))

    assert low.interval <= high.interval
    assert set(works(low)) <= set(works(high))


@given(st.integers(0, 1_500), BEFORE, st.lists(st.integers(-14, 14), max_size=20))
def test_it_does_not_flap(level: int, before: dict[str, datetime], moves: list[int]) -> None:
    """Around any level, calls that come and go by one and a half per cent change what waits once at most."""
    states, waiting = [], before
    for move in [0, *moves]:
        plan = plan_of(max(0, level + move), waiting)
        waiting = {one.work: one.since for one in plan.deferred}
        states.append(set(waiting))

    for work in ORDER:
        present = [work in state for state in states]
        changes = sum(a != b for a, b in pairwise(present))
        assert changes <= 1


def test_the_order_of_thinning() -> None:
    """First the interval grows, then requests wait, then refresh, then verify, and operators' work with it."""
    assert (plan_of(799).stretched, works(plan_of(799))) == (False, [])
    assert (plan_of(820).stretched, works(plan_of(820))) == (True, [])
    assert (plan_of(850).interval, works(plan_of(850))) == (LONGEST_INTERVAL, [ON_DEMAND])
    assert works(plan_of(900)) == [ON_DEMAND, REFRESH]
    assert works(plan_of(950)) == [ON_DEMAND, REFRESH, VERIFY]
    assert [bool(plan_of(950).refusal(work)) for work in (RESYNC, PASS)] == [True, False]
    assert plan_of(1_000).refusal(PASS) == (
        "1,000 of the 1,000 API calls are used that SYNC_API_CALLS_PER_DAY allows in 24 hours"
    )


def test_passes_that_are_to_come_are_named() -> None:
    """On the first day the reason names what passes will take, too: the calls so far alone would not explain it."""
    first_hour = Spent({PASS: 60}, 1, 60, timedelta(hours=1))
    plan = make_plan(first_hour, Rules(MINUTE, 200), NOON)

    assert works(plan) == ORDER
    assert plan.deferred[0].reason == (
        "60 of the 200 API calls are used that SYNC_API_CALLS_PER_DAY allows in 24 hours, and passes take 138 more "
        "until a day of them is over"
    )


def test_what_waits_goes_on_well_below() -> None:
    """Work goes on when the calls have dropped by three per cent of the allowance, and not before."""
    since = {ON_DEMAND: NOON - MINUTE}
    still = plan_of(int(1_000 * (THINNED[ON_DEMAND] - RELAX)), since)

    assert [(one.work, one.since) for one in still.deferred] == [(ON_DEMAND, NOON - MINUTE)]
    assert works(plan_of(int(1_000 * (THINNED[ON_DEMAND] - RELAX)) - 1, since)) == []


def test_the_interval_is_planned_ahead() -> None:
    """Passes that would spend more than 80 % in a day come less often from the beginning; a first load, which is no
    usual pass, changes nothing."""
    frugal = make_plan(Spent({PASS: 30}, 0.5, 60), RULES, NOON)
    costly = make_plan(Spent({PASS: 60}, 1, 60), RULES, NOON)
    loaded = make_plan(Spent({PASS: 660}, 1, 60), Rules(MINUTE, 10_000), NOON)

    assert (frugal.interval, frugal.forecast) == (MINUTE, 720)
    assert (costly.interval, costly.forecast) == (timedelta(seconds=108), 800)
    assert (loaded.interval, loaded.forecast) == (MINUTE, 2_040)


def test_the_orgs_own_count_stops_everything() -> None:
    """Above SYNC_API_BUDGET nothing runs, and passes are tried each ten minutes only."""
    stopped = make_plan(Spent(), RULES, NOON, used=800, limit=1_000)
    near = make_plan(Spent(), RULES, NOON, used=799, limit=1_000)

    assert stopped.interval == LONGEST_INTERVAL
    assert stopped.refusal(PASS).startswith("the org has used 800 of its 1,000 daily API requests")
    assert (near.stopped, works(near)) == ("", [])


# ── days in a loop over minutes ───────────────────────────────────────────────────────────────────────


@dataclass
class Worker:
    """A worker in a loop over minutes: passes, requests, a refresh and a verify a day, and an operator."""

    rules: Rules
    a_pass: int
    refresh: int
    verify: int
    requests: Callable[[int], int]
    operator: Callable[[int], int] = lambda _: 0
    made: deque[tuple[int, str, int]] = field(default_factory=deque)
    total: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, datetime] = field(default_factory=dict)
    next_pass: float = 0
    refreshed: int = -1_440
    verified: int = -1_440
    plans: list[Plan] = field(default_factory=list)
    verifies: list[int] = field(default_factory=list)

    def spend(self, minute: int, kind: str, calls: int) -> None:
        self.made.append((minute, kind, calls))
        self.total[kind] += calls
        self.total["passes"] += kind == PASS

    def run(self, minutes: int) -> None:
        for minute in range(minutes):
            while self.made and self.made[0][0] <= minute - 1_440:
                _, kind, calls = self.made.popleft()
                self.total[kind] -= calls
                self.total["passes"] -= kind == PASS
            self.step(minute)

    def step(self, minute: int) -> None:
        spent = {kind: n for kind, n in self.total.items() if kind != "passes" and n}
        passes = self.total["passes"]
        span = min(minute, 1_440) * MINUTE
        usual = Spent(spent, self.a_pass if passes else 0, passes, span)
        plan = make_plan(usual, self.rules, NOON + minute * MINUTE, before=self.waiting)
        self.waiting = {one.work: one.since for one in plan.deferred}
        self.plans.append(plan)
        self.spend(minute, RESYNC, self.operator(minute))
        if minute >= self.next_pass:
            self.spend(minute, PASS, self.a_pass)
            self.next_pass = minute + plan.interval / MINUTE
        if not plan.refusal(ON_DEMAND):
            self.spend(minute, ON_DEMAND, self.requests(minute))
        if minute - self.refreshed >= 1_440 and not plan.refusal(REFRESH):
            self.spend(minute, REFRESH, self.refresh)
            self.refreshed = minute
        late = (minute - self.verified) * MINUTE >= LONGEST_UNVERIFIED
        if minute - self.verified >= 1_440 and (late or not plan.refusal(VERIFY)):
            self.spend(minute, VERIFY, self.verify)
            self.verified = minute
            self.verifies.append(minute)

    def first(self, true: Callable[[Plan], bool]) -> int:
        return next((minute for minute, plan in enumerate(self.plans) if true(plan)), -1)


def test_a_usual_day_is_not_thinned() -> None:
    """With the defaults a pass a minute, a describe each ten minutes, refresh and verify fit into the least
    allowance: nothing is stretched, nothing waits."""
    worker = Worker(Rules(MINUTE), 1, 40, 60, lambda minute: int(minute % 10 == 0))
    worker.run(3 * 1_440)

    assert max(plan.used for plan in worker.plans) < 0.8 * 3_000
    assert not any(plan.stretched or plan.deferred for plan in worker.plans)
    assert len(worker.verifies) == 3


@pytest.mark.parametrize("calls", [300, 600, 1_000, 1_400])
@pytest.mark.parametrize("asked", [0, 1, 20])
def test_days_stay_within_the_allowance(calls: int, asked: int) -> None:
    """Whatever consumers ask for, no 24 hours take more than the allowance, and each day has its passes."""
    worker = Worker(Rules(MINUTE, calls), 1, 10, 12, lambda _: asked)
    worker.run(4 * 1_440)

    assert max(plan.used for plan in worker.plans) <= calls
    assert all(plan.interval <= LONGEST_INTERVAL for plan in worker.plans)
    assert len(worker.verifies) >= 2


def test_a_day_with_an_operators_burst() -> None:
    """A resync takes nine tenths of the allowance: passes slow down, then requests, refresh and verify wait, in this
    order; a day later all of it runs as before."""
    burst = range(600, 700)
    worker = Worker(
        Rules(MINUTE, 3_000), 1, 40, 60, lambda minute: int(minute % 5 == 0), lambda m: 25 * (m in burst)
    )
    worker.run(4 * 1_440)

    starts = [worker.first(lambda plan: plan.stretched)]
    starts += [worker.first(partial(waits, work)) for work in ORDER]
    assert starts == sorted(starts)
    assert 600 < starts[0] < starts[-1] < 720
    over = [minute for minute, plan in enumerate(worker.plans) if plan.deferred]
    assert over[-1] < 700 + 1_440
    assert not worker.plans[-1].stretched
    # Each of them began once: none came back after it had ended.
    for work in ORDER:
        present = [work in works(plan) for plan in worker.plans]
        assert sum(now and not then for then, now in pairwise(present)) == 1


def test_verify_waits_three_days_at_most() -> None:
    """An operator spends more than the allowance day by day: verify still runs, each third day."""
    worker = Worker(Rules(MINUTE, 1_000), 1, 10, 12, lambda _: 5, lambda _: 2)
    worker.run(9 * 1_440)

    gaps = [b - a for a, b in pairwise(worker.verifies)]
    assert max(gaps) * MINUTE == LONGEST_UNVERIFIED
    assert worker.plans[-1].interval == LONGEST_INTERVAL
