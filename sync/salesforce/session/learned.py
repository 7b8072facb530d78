"""What an org's refusals teach about its queries: remembered for the life of the process, never stored."""

from __future__ import annotations

import time
from dataclasses import dataclass

# Bytes of a query in a URL, after escaping: Salesforce takes 16,384 with the headers, some proxies less.
LONGEST_QUERY, SHORTEST_QUERY = 15_000, 2_000
# Formulas in a query that was too complicated, at first; fewer while it still is.
FORMULAS = 20
PAUSE_OF_JOBS = 3600.0  # seconds


@dataclass(slots=True)
class Learned:
    """How the queries of one object have to be asked.

    `longest`: bytes that a query may have in a URL. `formulas`: how many one query may have, None while
    nothing is known. `slow`: whether queries in an order are not finished in time.
    """

    longest: int = LONGEST_QUERY
    formulas: int | None = None
    slow: bool = False
    _jobs_from: float = 0.0

    @property
    def jobs(self) -> bool:
        """Whether Bulk jobs are worth a try: not for an hour after one was refused or took too long."""
        return time.monotonic() >= self._jobs_from

    def without_jobs(self) -> None:
        """Ask for no Bulk job for an hour: a refusal may take minutes to be one."""
        self._jobs_from = time.monotonic() + PAUSE_OF_JOBS

    def shorter(self) -> bool:
        """Ask shorter queries from now on; False where they cannot be any shorter."""
        before, self.longest = self.longest, max(SHORTEST_QUERY, self.longest // 2)
        return self.longest < before

    def simpler(self, formulas: int) -> bool:
        """Ask for fewer formulas at once than that many; False where a single one is refused."""
        before = min(formulas, self.formulas or formulas)
        self.formulas = min(FORMULAS, max(1, before // 2)) if before <= FORMULAS else FORMULAS
        return self.formulas < before
