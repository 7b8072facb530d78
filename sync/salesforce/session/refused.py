"""A login that was refused: remembered for all objects, and tried again after pauses that grow.

Salesforce locks a user after ten wrong passwords: each attempt has to be worth it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sync.errors import LoginError

FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=5), timedelta(hours=1)
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Refused:
    """Since when logins are refused, why, and from when on another attempt is made; not safe by itself.

    `scale`: what the pauses are multiplied by.
    """

    scale: float = 1
    times: int = 0
    reason: str = ""
    since: datetime = NEVER
    following: datetime = NEVER
    ends: float = 0  # the same moment by the monotonic clock

    def note(self, error: LoginError) -> LoginError:
        """Remember a refusal; the error to raise, which tells since when unless it is the first."""
        now = datetime.now(UTC)
        pause = min(FIRST_PAUSE * 2 ** min(self.times, 10), LONGEST_PAUSE) * self.scale
        self.since = self.since if self.times else now
        self.reason, self.times = str(error), self.times + 1
        self.following, self.ends = now + pause, time.monotonic() + pause.total_seconds()
        return error if self.times == 1 else LoginError(self.describe())

    def check(self) -> None:
        """LoginError while it is too early for another attempt."""
        if self.times and time.monotonic() < self.ends:
            raise LoginError(self.describe())

    def clear(self) -> None:
        """The org has accepted a token."""
        self.times = 0

    def describe(self) -> str:
        """Since when, why, and when another attempt is made."""
        return (
            f"login refused since {utc(self.since)}: {self.reason}; "
            f"next attempt at {utc(self.following)}, or after a restart"
        )


def utc(moment: datetime) -> str:
    """A time of day in UTC, with its date where that is not today's."""
    here = f"{moment:%H:%M} UTC"
    return here if moment.date() == datetime.now(UTC).date() else f"{moment:%Y-%m-%d} {here}"
