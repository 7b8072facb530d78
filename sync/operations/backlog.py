"""Named consumers that do not keep up with the feed: what operators are told of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta

from sync.operations.formats import format_duration
from sync.postgres.consumers import Backlog

# The share of the feed's retention after which what a consumer has not read is pruned soon.
BEHIND = 0.8


def is_behind(one: Backlog, retention: timedelta | None) -> bool:
    """Return whether entries that a consumer has not read are pruned soon."""
    return retention is not None and one.age is not None and one.age >= BEHIND * retention


def consumer_warnings(found: Sequence[Backlog], retention: timedelta | None) -> Iterator[tuple[str, bool]]:
    """Yield consumers that lose entries soon, or have lost some; only the former are for the first line."""
    for one in found:
        how = f"type: python -m sync revoke {shlex.quote(one.role)} --consumer {one.name}"
        if one.lost:
            yield (
                f"consumer {one.label} has lost entries of the feed: it reads the views again when it polls "
                f"next; if nobody needs it any more, {how}",
                False,
            )
        elif is_behind(one, retention):
            assert one.age is not None
            yield (
                f"consumer {one.label} has not acknowledged entries of {format_duration(one.age)} ago, which "
                f"are pruned soon: start it, or, if nobody needs it any more, {how}",
                True,
            )
