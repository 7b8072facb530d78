"""The simulated org's clock: every stamp and every Date header follows it."""

import threading
from datetime import UTC, datetime, timedelta


class Clock:
    """A UTC clock that can be shifted, frozen and resumed; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = timedelta()
        self._frozen: datetime | None = None

    def now(self) -> datetime:
        """The org's present, timezone-aware, with microseconds."""
        with self._lock:
            return self._frozen if self._frozen is not None else datetime.now(UTC) + self._offset

    def stamp(self) -> datetime:
        """The present as Salesforce records it: whole seconds."""
        return self.now().replace(microsecond=0)

    def advance(self, seconds: float) -> None:
        """Move the clock forward (or back, with a negative number), frozen or not."""
        with self._lock:
            if self._frozen is not None:
                self._frozen += timedelta(seconds=seconds)
            else:
                self._offset += timedelta(seconds=seconds)

    def freeze(self, at: datetime | None = None) -> None:
        """Stop the clock, at a given aware moment or where it stands."""
        with self._lock:
            moment = at if at is not None else datetime.now(UTC) + self._offset
            if moment.tzinfo is None:
                raise ValueError("the clock needs an aware datetime")
            self._frozen = moment.astimezone(UTC)

    def resume(self) -> None:
        """Let the clock run again from where it was frozen."""
        with self._lock:
            if self._frozen is not None:
                self._offset = self._frozen - datetime.now(UTC)
                self._frozen = None
