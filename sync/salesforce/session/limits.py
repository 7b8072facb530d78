"""How large, how slow and how long an answer may be: every bound of the session, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sync.errors import SalesforceError

MIB = 1 << 20

CONNECT_SECONDS = 10
# A query may run for two minutes before Salesforce answers QUERY_TIMEOUT.
READ_SECONDS = 150

# An error body is a list with a code and a sentence, or a page of HTML. It is cut here before any JSON
# decoder or pattern sees it: the rest would tell nobody more.
ERROR_BYTES = 1 << 16
# What an error keeps of texts from outside: Salesforce's own longest messages quote a query's beginning.
LONGEST_MESSAGE, LONGEST_CODE = 500, 80

# Salesforce refuses a batchSize beyond it. Records are counted while they are decoded, since each of them
# takes a place per field, whatever its bytes.
RECORDS_PER_PAGE = 2_000
# Values in a page, where we may choose: pages are in memory several at once, in several forms, and all of the
# process has 512 MB.
VALUES_PER_PAGE = 200_000
# JSON objects in an answer of another form: a describe has some 60,000, most of them picklist values.
OBJECTS_PER_ANSWER = 1_000_000
# No org holds more records of an object; what is larger is no count, and arithmetic with it may not end.
LARGEST_COUNT = 10**12

# The longest time that a call waits in its place because Retry-After says so. A longer one defers the work.
LONGEST_RETRY_AFTER = 120.0

# A body that is streamed may have 1 GB; Salesforce ends its retrieval after 20 minutes. A server that sends
# less than RATE bytes a second, before decompression, over so many seconds of waiting has stalled.
RATE, RATE_SECONDS = 1024, 30.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one kind of call may take.

    `size`: bytes of its body after decompression. `answer`: seconds until the headers are there; `body`:
    seconds from there to the end of the body. `rate`: the least bytes a second, 0 for any.
    """

    size: int
    answer: float
    body: float
    rate: int = 0


# A token answer has about 2 kB, 6 kB with a JWT. 30 seconds in all: a login holds up every other call.
TOKEN = Allowance(MIB // 4, 20, 10)
# Job information, a list of result pages, userinfo: a few kB. 60 seconds in all.
RESOURCE = Allowance(4 * MIB, 45, 15)
# A describe of 900 fields with long picklists has 5 MB. 60 seconds in all.
DESCRIBE = Allowance(32 * MIB, 45, 15)
# 2,000 records of 400 fields with some long texts are tens of MB, 600,000 deleted Ids (the most that
# getDeleted tells) 48 MB. More than this, decoded, does not fit beside the rest into a dyno of 512 MB.
QUERY = Allowance(64 * MIB, READ_SECONDS, 120)
# Streamed: read row by row, never kept.
RESULTS = Allowance(0, READ_SECONDS, 20 * 60, RATE)


class TooLargeError(SalesforceError):
    """An answer is larger than its kind may be."""


def clip(text: object, most: int = LONGEST_MESSAGE) -> str:
    """A text from outside, cut after so many characters."""
    said = str(text)
    return said if len(said) <= most else said[: most - 1] + "…"


def count(value: Any) -> int:
    """A number of records as JSON has it; ValueError for what is no whole number from 0 to a trillion."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if isinstance(value, Decimal):  # 17.0; of 1e999999999 int() would not end
        whole = value.is_finite() and value.adjusted() < 13 and value == value.to_integral_value()
    if not whole or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"{clip(repr(value), 40)} is no number of records")
    return int(value)
