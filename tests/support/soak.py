"""How much `make test` tries of what has many combinations; `make soak` sets SOAK and tries all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import combinations
from typing import Any, TypeVar

SOAK = "SOAK" in os.environ
Case = TypeVar("Case")


def some_of(number: int) -> int:
    """How many of so many examples of a property are tried: a fifth, all with SOAK."""
    return number if SOAK else number // 5


def covering(cases: Sequence[Case], features: Callable[[Any], Iterable[Hashable]]) -> list[Case]:
    """Cases, in their order, in which each feature of any of them occurs; with SOAK all of them.

    Each time the one that adds most is taken, the first of several.
    """
    if SOAK:
        return list(cases)
    left = {feature for case in cases for feature in features(case)}
    taken: set[int] = set()
    while left:
        best = max(range(len(cases)), key=lambda place: (len(left & set(features(cases[place]))), -place))
        taken.add(best)
        left -= set(features(cases[best]))
    return [cases[place] for place in sorted(taken)]


def pairs(case: Sequence[Hashable]) -> list[Hashable]:
    """The features of a case of any matrix: each two of its values together."""
    return list(combinations(enumerate(case), 2))


def pairs_with_first(case: Sequence[Hashable]) -> list[Hashable]:
    """The features of (way, fault, place): each fault by each way, and each place of each way."""
    way, *others = case
    return [(way, position, value) for position, value in enumerate(others)]
