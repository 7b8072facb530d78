"""What an org's refusals show about its queries: kept in memory for the life of the process."""

from __future__ import annotations

import time
from dataclasses import dataclass

# Bytes of an escaped query in a URL: Salesforce accepts 16,384 with the headers, some proxies fewer.
LONGEST_QUERY, SHORTEST_QUERY = 15_000, 2_000
# Formulas in a query after the first refusal as too complicated; fewer after further ones.
FORMULAS = 20
PAUSE_OF_JOBS = PAUSE_OF_SHARING = 3600.0  # seconds


@dataclass(slots=True)
class Learned:
    """The limits for queries of one object.

    `longest`: bytes of a query in a URL. `formulas`: formulas in one query (None: no limit known). `slow`:
    whether ordered queries do not finish in time.
    """

    longest: int = LONGEST_QUERY
    formulas: int | None = None
    slow: bool = False
    _jobs_from: float = 0.0
    _shared_from: float = 0.0

    @property
    def jobs(self) -> bool:
        """Whether Bulk jobs may be tried: not for an hour after one was refused or too slow."""
        return time.monotonic() >= self._jobs_from

    def without_jobs(self) -> None:
        """Create no Bulk job for an hour: a refusal may take minutes."""
        self._jobs_from = time.monotonic() + PAUSE_OF_JOBS

    @property
    def shared(self) -> bool:
        """Whether the object may be asked in one call with others: not for an hour after such a call was
        refused, too slow or too large."""
        return time.monotonic() >= self._shared_from

    def alone(self) -> None:
        """Ask the object alone for an hour."""
        self._shared_from = time.monotonic() + PAUSE_OF_SHARING

    def shorter(self) -> bool:
        """Halve the length of later queries; return False if they cannot be shorter."""
        before, self.longest = self.longest, max(SHORTEST_QUERY, self.longest // 2)
        return self.longest < before

    def simpler(self, formulas: int) -> bool:
        """Reduce the formulas in later queries below this number; return False if a single one is refused."""
        before = min(formulas, self.formulas or formulas)
        self.formulas = min(FORMULAS, max(1, before // 2)) if before <= FORMULAS else FORMULAS
        return self.formulas < before
