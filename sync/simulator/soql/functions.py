"""What SQLite cannot do alone: text without regard to case, LIKE as SOQL has it, exact sums."""

import re
from functools import lru_cache

from sync.simulator.soql.conditions import fold
from sync.simulator.store import Store


def register(store: Store) -> None:
    """Make SOQL's functions known to the store."""
    store.function("fold", 1, lambda text: None if text is None else fold(text))
    store.function("soql_like", 2, like)
    store.function("soql_includes", 2, includes)
    store.aggregate("exact_sum", ExactSum)
    store.aggregate("exact_avg", ExactAverage)
    store.collation("soql", _collate)


def _collate(left: str, right: str) -> int:
    one, other = fold(left), fold(right)
    return (one > other) - (one < other)


def like(text: str | None, pattern: str) -> int:
    r"""1 when the text matches: ``%`` any run, ``_`` one character, ``\%`` and ``\_`` themselves."""
    return int(text is not None and _compiled(pattern).fullmatch(text) is not None)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    tokens = re.findall(r"\\.|.", pattern, flags=re.DOTALL)
    wild = {"%": ".*", "_": "."}
    parts = [wild.get(token) or re.escape(token[-1]) for token in tokens]
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)


def includes(stored: str | None, wanted: str) -> int:
    """1 when a multi-select value has all the choices named, which are parted by semicolons."""
    if stored is None:
        return 0
    chosen = set(fold(stored).split(";"))
    return int(all(choice in chosen for choice in fold(wanted).split(";")))


class ExactSum:
    """SUM over scaled integers beyond 63 bits; the answer is text, since SQLite has no larger integer."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.count = 0

    def step(self, value: int | None) -> None:
        if value is not None:
            self.total = (self.total or 0) + value
            self.count += 1

    def finalize(self) -> str | None:
        return None if self.total is None else str(self.total)


class ExactAverage(ExactSum):
    """AVG with six more digits than its field."""

    def finalize(self) -> str | None:
        return None if self.total is None else str(self.total * 10**6 // self.count)
