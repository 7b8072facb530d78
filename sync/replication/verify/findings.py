"""The findings of a verify."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from sync.replication.rejects import Group

KEPT = 1_000  # differences that are stored with their Ids; all are counted

Kind = Literal["missing", "stale", "gone", "values", "unfit"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A record that differs.

    `missing`: not in the table. `stale`: another version is in the table. `gone`: Salesforce no longer has it
    (`fields` say how). `values`: the stamp is equal, the `fields` differ. `unfit`: it cannot be stored and
    was not known as rejected.
    """

    id: str
    kind: Kind
    fields: tuple[str, ...] = ()


@dataclass(slots=True)
class Findings:
    """The result of verifying one object through a time."""

    object: str
    through: datetime
    missing: int = 0
    stale: int = 0
    gone: int = 0
    values: int = 0
    unfit: int = 0
    mended: int = 0
    suspects: int = 0
    too_many: bool = False
    listed: int = 0
    compared: int = 0
    buckets: int = 0
    opened: int = 0
    erased: int = 0
    rejected: int = 0
    accepted: int = 0
    reasons: list[tuple[str, int, bool]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    moving: Counter[str] = field(default_factory=Counter)

    def add(self, difference: Difference) -> None:
        """Count a difference; each record counts once."""
        if difference.id in self.seen:
            return
        self.seen.add(difference.id)
        setattr(self, difference.kind, getattr(self, difference.kind) + 1)
        if difference.kind == "values":
            self.moving.update(difference.fields)
        if len(self.differences) < KEPT:
            self.differences.append(difference)

    @property
    def total(self) -> int:
        return self.missing + self.stale + self.gone + self.values + self.unfit

    def note_rejected(self, groups: Iterable[Group]) -> None:
        """Count the records that are known as rejected: the table lacks their current version."""
        for group in groups:
            if group.accepted:
                self.accepted += group.records
            else:
                self.rejected += group.records
            self.reasons.append((group.reason, group.records, group.accepted))

    @property
    def different(self) -> int:
        """The number of storable records that still differ; unconfirmed suspects count if there are too
        many."""
        return self.suspects if self.too_many else max(0, self.total - self.mended)

    @property
    def remaining(self) -> int:
        """The number of remaining differences; rejected records count unless they are accepted."""
        return self.different + self.rejected

    def summary(self) -> dict[str, Any]:
        """Return what the journal stores, as JSON values."""
        numbers = (
            "missing",
            "stale",
            "gone",
            "values",
            "unfit",
            "mended",
            "listed",
            "compared",
            "buckets",
            "opened",
            "erased",
            "rejected",
            "accepted",
        )
        return {name: getattr(self, name) for name in numbers} | {
            "through": self.through.isoformat(),
            "remaining": self.remaining,
            "differences": [asdict(difference) for difference in self.differences],
            "reasons": [list(reason) for reason in self.reasons],
            "fields": [name for name, _ in self.moving.most_common(20)],
        }
