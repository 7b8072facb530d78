"""Phone numbers in E.164.

phonenumbers decides. It takes some thirty microseconds a number, most of them for notations that few numbers
have: those in plain digits and punctuation are matched with its own patterns for valid numbers at once.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberDesc

from sync.catalogue.derivation import derivation

PLAIN = re.compile(r"\(?(\+?)([0-9][0-9 ()./-]{5,30}?)(?: *(?:x|ext\.?) *[0-9]{1,6})?")
PUNCTUATION = str.maketrans("", "", " ()./-")
FULL_WIDTH = str.maketrans("０１２３４５６７８９＋－（）．／", "0123456789+-()./")
TYPES = (  # the most frequent first
    *("mobile", "fixed_line", "toll_free", "premium_rate", "shared_cost", "voip", "personal_number"),
    *("pager", "uan", "voicemail"),
)
NEVER = re.compile(r"(?!)")


class NotPlainError(Exception):
    """A notation that only the library understands."""


@dataclass(frozen=True, slots=True)
class Numbering:
    """A region's rules: what begins a number with more than its national digits, and which are valid.

    `replaced`: what is stripped may have to be replaced by other digits. `valid` holds the regions that share
    the country code, the main one first: the digits that lead to each (None: any), and its valid numbers;
    `elsewhere` is what may lead to another than the main one.
    """

    code: str
    abroad: re.Pattern[str]
    general: re.Pattern[str]
    prefixed: re.Pattern[str]
    replaced: bool
    elsewhere: re.Pattern[str]
    valid: tuple[tuple[re.Pattern[str] | None, re.Pattern[str]], ...]

    def is_valid(self, national: str) -> bool:
        if not self.elsewhere.match(national):
            return self.valid[0][1].fullmatch(national) is not None
        for leading, pattern in self.valid:
            if leading is None:
                if pattern.fullmatch(national):
                    return True
            elif leading.match(national):
                return pattern.fullmatch(national) is not None
        return False


@derivation(
    "e164",
    1,
    regional=True,
    library=f"phonenumbers {phonenumbers.__version__}",
    meaning="the number as +14155552671 (E.164), without extension; null where it is not a valid one",
)
@lru_cache(maxsize=8_000)  # switchboards; most numbers are one person's
def e164(raw: str, region: str) -> str | None:
    """`(415) 555-1212` → `+14155551212`; None where no valid number is in it. Extensions are dropped."""
    try:
        return plain(raw, region)
    except NotPlainError:
        pass
    return parsed(raw, region)


def parsed(raw: str, region: str) -> str | None:
    """Any notation."""
    try:
        number = phonenumbers.parse(raw, region)
    except phonenumbers.NumberParseException as refusal:
        # The library keeps the traceback in a variable: a cycle, which would hold all callers and their page.
        traceback.clear_frames(refusal.__traceback__)
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def plain(raw: str, region: str) -> str | None:
    """What `parsed` gives, for digits and punctuation; NotPlainError where that is not sure."""
    found = PLAIN.fullmatch(raw if raw.isascii() else raw.translate(FULL_WIDTH))
    if found is None:
        raise NotPlainError
    national = found[2].translate(PUNCTUATION)
    if found[1]:
        code = next((c for c in (national[:1], national[:2], national[:3]) if regions(c)), "")
        national, rules = national[len(code) :], numbering(regions(code)[0]) if code else None
    else:
        rules = numbering(region)
    if rules is None or (not found[1] and rules.abroad.match(national)):
        raise NotPlainError
    if not found[1] and national.startswith(rules.code):
        # The country code without its plus, if it cannot be anything else.
        rest = national[len(rules.code) :]
        doubtful = rules.general.fullmatch(national) or not rules.general.fullmatch(rest)
        if doubtful or rules.prefixed.match(rest) or not rules.is_valid(rest):
            raise NotPlainError
        return f"+{rules.code}{rest}"
    if prefix := rules.prefixed.match(national):
        national = national[prefix.end() :]
        # Without a valid number behind it, it may be no prefix.
        if rules.replaced or not rules.valid[0][1].fullmatch(national):
            raise NotPlainError
        return f"+{rules.code}{national}"
    return f"+{rules.code}{national}" if rules.is_valid(national) else None


def regions(code: str) -> tuple[str, ...]:
    """The regions of a country code, the main one first."""
    return COUNTRY_CODE_TO_REGION_CODE.get(int(code), ()) if code[:1] != "0" else ()


@lru_cache(maxsize=300)
def numbering(region: str) -> Numbering | None:
    """A region's rules; None where its numbers are in no region's plan."""
    own = PhoneMetadata.metadata_for_region(region.upper(), None)
    if own is None:
        return None
    code, prefix = str(own.country_code), own.national_prefix_for_parsing or ""
    sharing = [PhoneMetadata.metadata_for_region(name, None) for name in regions(code)]
    if sharing[0] is None or (sharing[0].leading_digits is not None and len(sharing) > 1):
        return None
    return Numbering(
        code,
        re.compile(own.international_prefix or "(?!)"),
        re.compile((own.general_desc and own.general_desc.national_number_pattern) or "(?!)"),
        re.compile(prefix) if prefix else NEVER,
        bool(own.national_prefix_transform_rule),
        re.compile("|".join(f"(?:{one.leading_digits or ''})" for one in sharing[1:] if one) or "(?!)"),
        tuple(
            (re.compile(one.leading_digits) if one.leading_digits else None, valid_numbers(one))
            for one in sharing
            if one is not None
        ),
    )


def valid_numbers(region: PhoneMetadata) -> re.Pattern[str]:
    """A pattern for the valid numbers of a region: they match its general description and that of a type."""
    types = dict.fromkeys(numbers_of(getattr(region, name)) for name in TYPES)
    return re.compile(f"(?={numbers_of(region.general_desc)}$)(?:{'|'.join(types)})")


def numbers_of(desc: PhoneNumberDesc | None) -> str:
    """A pattern for the numbers of one description, of the lengths they may have."""
    if desc is None or not desc.national_number_pattern:
        return "(?!)"
    lengths = "|".join(f"[0-9]{{{length}}}" for length in desc.possible_length if length > 0)
    return (f"(?=(?:{lengths})$)" if lengths else "") + f"(?:{desc.national_number_pattern})"
