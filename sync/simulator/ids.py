"""Salesforce record Ids: 15 case-sensitive base-62 characters and a 3-character checksum of their case."""

import re
from functools import lru_cache

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CHECKSUM = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"
_WELL_FORMED = re.compile(r"[0-9A-Za-z]{15}(?:[0-9A-Za-z]{3})?", re.ASCII)
# Real Ids carry the pod they were born on after the prefix; ours is invented.
_POD = "5g"


@lru_cache(maxsize=65536)
def _checksum(chunk: str) -> str:
    return _CHECKSUM[sum(1 << place for place, letter in enumerate(chunk) if "A" <= letter <= "Z")]


def to18(id15: str) -> str:
    """The 18-character form of a 15-character Id."""
    return id15 + _checksum(id15[:5]) + _checksum(id15[5:10]) + _checksum(id15[10:15])


def normalize(text: str) -> str | None:
    """The 18-character form of a 15- or 18-character Id, or None when the text is no Id."""
    if not _WELL_FORMED.fullmatch(text):
        return None
    full = to18(text[:15])
    return full if len(text) == 15 or text == full else None


def base62(number: int, width: int) -> str:
    """A non-negative number in the Id alphabet, left-padded with zeros to the width."""
    digits = []
    while number:
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits)).rjust(width, "0")


def make(prefix: str, number: int) -> str:
    """The Id of the number-th record of a key prefix; the byte order of Ids is the order of the numbers."""
    return to18(prefix + _POD + base62(number, 10))


class Numbers:
    """Counts the Ids of each key prefix and the values of each auto number; another seed, other Ids."""

    def __init__(self, seed: int) -> None:
        self._first = 1_000_000 + seed * 7_919
        self._ids: dict[str, int] = {}
        self._auto: dict[tuple[str, str], int] = {}

    def next_id(self, prefix: str) -> str:
        # Neighbours differ in more than the last letter's case.
        self._ids[prefix] = self._ids.get(prefix, self._first) + 7
        return make(prefix, self._ids[prefix])

    def next_auto_number(self, sobject: str, field: str) -> str:
        """The next value, such as ``INV-00001``; the letters are the first of the object's name."""
        key = (sobject, field)
        self._auto[key] = self._auto.get(key, 0) + 1
        bare = sobject.removesuffix("__c").rpartition("__")[2]
        return f"{bare[:3].upper()}-{self._auto[key]:05}"
