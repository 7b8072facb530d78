"""The limits of every answer, in size, rate and time, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sync.errors import SalesforceError

MIB = 1 << 20

CONNECT_SECONDS = 10
# A query may run for two minutes before Salesforce answers QUERY_TIMEOUT.
READ_SECONDS = 150

# An error body is a list with a code and a message, or an HTML page. It is truncated before it is decoded or
# searched: the rest adds nothing.
ERROR_BYTES = 1 << 16
# Characters of external texts in an error: Salesforce's longest messages quote the start of a query.
LONGEST_MESSAGE, LONGEST_CODE = 500, 80

# Salesforce refuses a larger batchSize. Records are counted during decoding, since even a short record takes
# memory for each field.
RECORDS_PER_PAGE = 2_000
# Values in a page: several pages are in memory at once, in several forms, and the process has 512 MB.
VALUES_PER_PAGE = 200_000
# JSON objects in an answer of another form: a describe has some 60,000, most of them picklist values.
OBJECTS_PER_ANSWER = 1_000_000
# No org holds more records of an object. A larger number is not a count, and arithmetic with it may not end.
LARGEST_COUNT = 10**12

# The longest Retry-After (seconds) that a call waits for. A longer one defers the work.
LONGEST_RETRY_AFTER = 120.0

# A streamed body may have 1 GB; Salesforce ends its retrieval after 20 minutes. A server has stalled if it
# sends less than RATE bytes a second (compressed) during RATE_SECONDS of waiting.
RATE, RATE_SECONDS = 1024, 30.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of one kind of call.

    `size`: bytes of its body after decompression. `answer`: seconds until the headers. `body`: seconds from
    there to the end of the body. `rate`: the least bytes a second (0: any).
    """

    size: int
    answer: float
    body: float
    rate: int = 0


# A token answer has about 2 kB, 6 kB with a JWT. 30 seconds in all: a login blocks all other calls.
TOKEN = Allowance(MIB // 4, 20, 10)
# Job information, a list of result pages, userinfo: a few kB. 60 seconds in all.
RESOURCE = Allowance(4 * MIB, 45, 15)
# A describe of 900 fields with long picklists has 5 MB. 60 seconds in all.
DESCRIBE = Allowance(32 * MIB, 45, 15)
# 2,000 records of 400 fields with some long texts are tens of MB, 600,000 deleted Ids (the most that
# getDeleted returns) 48 MB. A larger answer, decoded, does not fit into a dyno of 512 MB.
QUERY = Allowance(64 * MIB, READ_SECONDS, 120)
# A pass begins with it, for several objects: a slow query must not hold up the others. What is not answered
# in time is asked alone.
COMPOSITE = Allowance(64 * MIB, 45, 45)
# Streamed row by row, so its size is not limited.
RESULTS = Allowance(0, READ_SECONDS, 20 * 60, RATE)


class TooLargeError(SalesforceError):
    """An answer is larger than its allowance."""


class TooLateError(SalesforceError):
    """An answer did not arrive within its allowance."""


def clip(text: object, most: int = LONGEST_MESSAGE) -> str:
    """Truncate an external text to `most` characters."""
    whole = str(text)
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def count(value: Any) -> int:
    """Return a number of records from JSON; raise ValueError for anything but a whole number up to
    LARGEST_COUNT."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, Decimal):  # 17.0 is valid; int() of 1e999999999 would not end
        whole = value.is_finite() and value.adjusted() < 13 and value == value.to_integral_value()
    if not whole or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"{clip(repr(value), 40)} is not a number of records")
    return int(value)
