"""Samples for log-based metrics, in the form of l2met: lag, memory, size, incidents, consumers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sync.postgres.consumers import Backlog

MIB = 1 << 20
# ru_maxrss counts bytes on macOS and KiB elsewhere (getrusage(2)).
RSS_UNIT = 1 if sys.platform == "darwin" else 1 << 10


def samples(
    lags: Mapping[str, timedelta | None],
    size: int,
    incidents: Sequence[object],
    backlogs: Sequence[Backlog] = (),
) -> dict[str, object]:
    """Return the keys and values of one log line.

    `lags` are the objects' lags (None: never complete, and left out), `size` is the size of the database in
    bytes, `incidents` are the open ones. The memory is the most that the process has had. Of the consumers of
    the feed, the slowest one counts.
    """
    lag = {
        f"sample#sync.lag.{name}": f"{round(value.total_seconds())}s"
        for name, value in sorted(lags.items())
        if value is not None
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT
    return {
        **lag,
        "sample#sync.memory": f"{peak // MIB}MB",
        "sample#sync.database_size": f"{size // MIB}MB",
        "sample#sync.incidents": len(incidents),
        "sample#sync.feed_backlog": max((one.entries for one in backlogs), default=0),
    }
