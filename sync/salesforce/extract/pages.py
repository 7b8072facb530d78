"""What extraction gives, whichever way it came: a window's records in pages, and how far they reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sync.catalogue.transform import Batch, Record
from sync.errors import CountMismatchError, QueryLostError

# What is made of records as soon as they have come, in the thread they came in.
RowBuilder = Callable[[Sequence[Record]], Batch]

# A page may be short or empty. So many in a row without a record lead nowhere.
EMPTY_PAGES = 20

SECOND = "%Y-%m-%dT%H:%M:%S"  # how a stamp begins: as texts they compare like moments, in UTC


def visit(name: str, url: str, visited: set[str]) -> None:
    """QueryLostError for a page asked for before: a server or a cache between would lead us in circles."""
    if url in visited:
        raise QueryLostError(f"{name}: Salesforce names the same page again and again")
    visited.add(url)


def endless(name: str, what: str) -> CountMismatchError:
    return CountMismatchError(
        f"{name}: Salesforce names page after page, {what}; "
        "the cursor stays where it was and the next run reads the window again"
    )


def mismatch(name: str, counted: str, received: int) -> CountMismatchError:
    return CountMismatchError(
        f"{name}: Salesforce counted {counted} records and delivered {received:,}; "
        "the cursor stays where it was and the next run reads the window again"
    )
