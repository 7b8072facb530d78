"""The values of Salesforce's answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sync.catalogue.mapping import DescribedField
from sync.errors import SalesforceError
from sync.salesforce.session.addresses import record_id
from sync.salesforce.session.limits import clip


@dataclass(frozen=True, slots=True)
class Usage:
    """The org's API requests in the last 24 hours, from the header Sforce-Limit-Info."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded body, Salesforce's time of the answer, and the number of logins before it."""

    body: Any
    at: datetime
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Described:
    """An object's describe: its fields, the names of unusable ones, its Last-Modified, and when it was read
    (seconds of the monotonic clock)."""

    fields: tuple[DescribedField, ...]
    left_out: tuple[str, ...]
    modified: str
    asked_at: float
    checked_at: float  # when Salesforce last said that nothing has changed


@dataclass(frozen=True, slots=True)
class Deletions:
    """A window of the delete log: the time of each deletion, and the range in which the log is complete."""

    records: dict[str, datetime]
    earliest: datetime
    through: datetime


def deletions(answer: Answer, start: datetime) -> Deletions:
    """Return what getDeleted answered for a window from `start`; raise SalesforceError if it is malformed."""
    try:
        listed = answer.body["deletedRecords"]
        records = {record_id(record["id"]): parse_time(record["deletedDate"]) for record in listed}
        available = answer.body.get("earliestDateAvailable")
        earliest = parse_time(available) if available else start
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise SalesforceError(f"getDeleted cannot be read: {clip(repr(error), 200)}", status=200) from None
    return Deletions(records, earliest, latest_covered(answer))


def latest_covered(answer: Answer) -> datetime:
    """Return the `latestDateCovered` of a replication call; raise SalesforceError if it is missing or
    malformed."""
    try:
        return parse_time(answer.body["latestDateCovered"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SalesforceError(
            f"latestDateCovered cannot be read: {clip(repr(error), 200)}", status=200
        ) from None


def parse_time(text: str) -> datetime:
    """Return a datetime of the API in UTC; raise ValueError without a time zone."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return found.astimezone(UTC)
