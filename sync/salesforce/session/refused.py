"""A refused login: shared by all objects, and repeated after growing pauses.

Salesforce locks a user after ten wrong passwords, so attempts must be rare.
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
    """The state of refused logins: since when, why, and the time of the next attempt. Not thread-safe by
    itself.

    `scale` multiplies the pauses.
    """

    scale: float = 1
    times: int = 0
    reason: str = ""
    since: datetime = NEVER
    next_attempt: datetime = NEVER
    ends: float = 0  # `next_attempt` by the monotonic clock

    def note(self, error: LoginError) -> LoginError:
        """Record a refusal; return the error to raise, which includes the time of the first refusal from the
        second on."""
        now = datetime.now(UTC)
        pause = min(FIRST_PAUSE * 2 ** min(self.times, 10), LONGEST_PAUSE) * self.scale
        self.since = self.since if self.times else now
        self.reason, self.times = str(error), self.times + 1
        self.next_attempt, self.ends = now + pause, time.monotonic() + pause.total_seconds()
        return error if self.times == 1 else LoginError(self.describe())

    def check(self) -> None:
        """Raise LoginError before the time of the next attempt."""
        if self.times and time.monotonic() < self.ends:
            raise LoginError(self.describe())

    def clear(self) -> None:
        """Forget the refusals: the org has accepted a token."""
        self.times = 0

    def describe(self) -> str:
        """Return since when, why, and when the next attempt is made."""
        return (
            f"login refused since {utc(self.since)}: {self.reason}; "
            f"next attempt at {utc(self.next_attempt)}, or after a restart"
        )


def utc(moment: datetime) -> str:
    """Return a time of day in UTC, with its date if that is not today."""
    here = f"{moment:%H:%M} UTC"
    return here if moment.date() == datetime.now(UTC).date() else f"{moment:%Y-%m-%d} {here}"
