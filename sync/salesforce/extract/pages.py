"""What REST and the Bulk API have in common: row builders, and the checks of page URLs and counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sync.catalogue.transform import Batch, Record
from sync.errors import CountMismatchError, QueryLostError

# Turns records into rows, in the thread that receives them.
RowBuilder = Callable[[Sequence[Record]], Batch]

# A page may be short or empty. More consecutive empty pages than this count as endless.
EMPTY_PAGES = 20

STAMP_FORMAT = (
    "%Y-%m-%dT%H:%M:%S"  # the first 19 characters of a stamp, in UTC: as texts they compare like times
)


def check_new_url(name: str, url: str, visited: set[str]) -> None:
    """Raise QueryLostError for a page that was requested before: a server or cache repeats its URL."""
    if url in visited:
        raise QueryLostError(f"{name}: Salesforce returns the URL of a page that was already read")
    visited.add(url)


def endless_error(name: str, what: str) -> CountMismatchError:
    """Return the error for too many pages."""
    return CountMismatchError(
        f"{name}: Salesforce returns more and more pages, {what}; "
        "the cursor stays where it was and the next run reads the window again"
    )


def mismatch_error(name: str, counted: str, received: int) -> CountMismatchError:
    """Return the error for a count that differs."""
    return CountMismatchError(
        f"{name}: Salesforce counted {counted} records and delivered {received:,}; "
        "the cursor stays where it was and the next run reads the window again"
    )
