"""What Salesforce's answers hold, once they are read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sync.catalogue.mapping import DescribedField
from sync.errors import SalesforceError
from sync.salesforce.session.limits import clip


@dataclass(frozen=True, slots=True)
class Usage:
    """The org's API requests of the last 24 hours, from Sforce-Limit-Info."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded body, Salesforce's clock when it answered, and how many logins there had been by then."""

    body: Any
    at: datetime
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Described:
    """An object's fields, the names of unusable ones, when they last changed by its word, and when asked."""

    fields: tuple[DescribedField, ...]
    left_out: tuple[str, ...]
    modified: str
    asked: float


@dataclass(frozen=True, slots=True)
class Deletions:
    """A window of the delete log: when each record was deleted, since when the log is whole, through when."""

    records: dict[str, datetime]
    earliest: datetime
    through: datetime


def covered(answer: Answer) -> datetime:
    """The `latestDateCovered` of a replication call."""
    try:
        return moment(answer.body["latestDateCovered"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SalesforceError(
            f"latestDateCovered cannot be read: {clip(repr(error), 200)}", status=200
        ) from None


def moment(text: str) -> datetime:
    """A date and time of the API's, in UTC."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return found.astimezone(UTC)
