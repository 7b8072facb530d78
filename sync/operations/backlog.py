"""Consumers that do not keep up with the feed, or wait for records: what operators are told of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import timedelta

from sync.operations.formats import format_duration, format_utc
from sync.postgres.consumers import Backlog
from sync.postgres.state.requests import Delayed

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


def request_warnings(found: Sequence[Delayed]) -> Iterator[tuple[str, bool]]:
    """Yield the requests of consumers that have waited for a minute; none is for the first line."""
    for one in found:
        records = "1 record" if one.records == 1 else f"{one.records:,} records"
        yield (
            f"{one.object}: consumers have asked for {records} since {format_utc(one.since)} and wait: start "
            "the worker; if it runs, its log says why (requests_wait, requests_failed)",
            False,
        )
