"""Phone numbers: what becomes E.164, and that the fast path never says anything else than phonenumbers."""

from __future__ import annotations

import random
import re
from collections import Counter

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneMetadata, PhoneNumber, PhoneNumberFormat, PhoneNumberType

from sync.catalogue import phones
from sync.catalogue.phones import (
    NotPlainError,
    e164,
    parsed,
    plain,
)
from tests.support.soak import SOAK, some_of

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
# Regions that share their country code with others: their rules are the least simple.
SHARING = sorted(
    region
    for regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.values()
    for region in regions
    if len(regions) > 1
)
TYPES = [kind for kind in PhoneNumberType.values() if kind != PhoneNumberType.UNKNOWN]
FORMATS = (
    PhoneNumberFormat.E164,
    PhoneNumberFormat.INTERNATIONAL,
    PhoneNumberFormat.NATIONAL,
    PhoneNumberFormat.RFC3966,
)
ENDS = (
    " ",
    "-",
    ".",
    ")",
    "(",
    "/",
    "x",
    " x",
    " x ",
    "ext",
    " ext ",
    " ext. ",
    " EXT",
    ";ext=",
    "#",
    " or ",
    ",",
)
WIDE = str.maketrans("0123456789+-()./ ", "０１２３４５６７８９＋－（）．／　")


# ── what becomes of a number ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "region", "number"),
    [
        ("(415) 555-2671", "US", "+14155552671"),
        ("415.555.2671", "US", "+14155552671"),
        ("4155552671", "US", "+14155552671"),
        ("1-415-555-2671", "US", "+14155552671"),
        ("+1 415 555 2671", "DE", "+14155552671"),
        ("011 49 30 901820", "US", "+4930901820"),
        ("0049 30 901820", "DE", "+4930901820"),
        ("(030) 90 18 20", "DE", "+4930901820"),
        ("+44 (0)20 7946 0958", "US", "+442079460958"),
        ("415-555-2671 ext. 12", "US", "+14155552671"),
        ("415-555-2671 x12", "US", "+14155552671"),
        ("tel:+1-415-555-2671", "US", "+14155552671"),
        ("\u202d+1 415 555 2671\u202c", "US", "+14155552671"),
        ("+１ ４１５ ５５５ ２６７１", "US", "+14155552671"),
        ("1-800-FLOWERS", "US", "+18003569377"),
        ("030 901820", "US", None),
        ("555-2671", "US", None),
        ("123", "US", None),
        ("", "US", None),
        ("call me", "US", None),
        ("+999 12345678", "US", None),
        ("9" * 400, "US", None),
        ("415-555-2671 or 415-555-2672", "US", None),
    ],
)
def test_phone(raw: str, region: str, number: str | None) -> None:
    """A valid number in any usual notation becomes E.164, by its own country code or the default region."""
    assert e164(raw, region) == number


@pytest.mark.parametrize(
    "raw", ["(415) 555-2671", "+49 30 901820", "0049 30 901820", "1-800-356-9377", "+39 06 698 12345"]
)
def test_e164_is_stable(raw: str) -> None:
    """A number that was normalised is normalised to itself, in whatever region."""
    number = e164(raw, "DE" if raw.startswith("00") else "US")

    assert number is not None
    assert {e164(number, region) for region in ("US", "DE", "IT", "JP")} == {number}


def test_zeros_that_belong_to_a_number_stay() -> None:
    """Italian numbers keep their zero; elsewhere a trunk zero goes."""
    assert e164("06 698 12345", "IT") == e164("+39 06 698 12345", "US") == "+390669812345"
    assert e164("030 901820", "DE") == e164("+49 30 901820", "US") == "+4930901820"


@pytest.mark.parametrize(
    "raw",
    [
        *("1-800-FLOWERS", "tel:+1-415-555-2671", "٤١٥٥٥٥٢٦٧١", "415-555-2671;ext=12", "415‑555‑2671"),
        *("(415) 555-2671 or 2672", "415-555-2671#12", "415-555-2671 ext. 1234567", "a4155552671"),
        *("", "+", "((", "12345", "\n4155552671", "4155552671\n"),
    ],
)
def test_other_notations_are_left_to_the_library(raw: str) -> None:
    """The fast path takes digits, plain punctuation and plain extensions; the rest is not its business."""
    with pytest.raises(NotPlainError):
        plain(raw, "US")
    assert e164(raw, "US") == parsed(raw, "US")


@settings(derandomize=True, deadline=None, database=None, max_examples=some_of(400))
@given(
    st.text() | st.text(alphabet="+0123456789 ()-./x#;ext０５＋（）－", max_size=25),
    st.sampled_from(["US", "DE", "IT", "AR", "MX"]),
)
def test_any_text(raw: str, region: str) -> None:
    """Whatever the text, the result is null or well-formed E.164, and deriving it again changes nothing."""
    number = e164(raw, region)

    assert number == parsed(raw, region)
    if number is not None:
        assert re.fullmatch(r"\+[1-9]\d{3,14}", number)
        assert e164(number, region) == number


# ── the fast path says what phonenumbers says ─────────────────────────────────────────────────────────


class Dialler:
    """Numbers of all regions and types in all manners, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.examples: dict[str, list[PhoneNumber]] = {}
        for region in REGIONS:
            found = (phonenumbers.example_number_for_type(region, kind) for kind in TYPES)
            self.examples[region] = [number for number in found if number is not None]

    def case(self) -> tuple[str, str]:
        """A text, and the default region for it."""
        choice, chance = self.chance.choice, self.chance.random
        home = choice(REGIONS) if chance() < 0.6 else choice(SHARING)
        number = choice(self.examples[home])
        neighbours = phonenumbers.COUNTRY_CODE_TO_REGION_CODE[number.country_code or 0]
        region = choice([home, home, choice(neighbours), choice(REGIONS)])
        raw = self.written(number, home, region)
        if chance() < 0.5:
            raw = self.mutated(raw)
        if chance() < 0.2:
            raw = self.punctuated(raw)
        if chance() < 0.1:
            raw = choice(["0", "1", "00", "+", "8", "(0)", "9", "+0", "01", "("]) + raw
        if chance() < 0.1:
            raw += choice(ENDS) + str(self.chance.randrange(10 ** choice([1, 3, 4, 6, 8]))) * (chance() < 0.8)
        if chance() < 0.05:
            raw = raw.translate(WIDE)
        return raw, region

    def written(self, number: PhoneNumber, home: str, region: str) -> str:
        """A number as people and systems write it."""
        national = phonenumbers.national_significant_number(number)
        code = str(number.country_code)
        match self.chance.randrange(9):
            case 0:
                return str(phonenumbers.format_number(number, self.chance.choice(FORMATS)))
            case 1:
                return str(national)
            case 2:
                return code + national
            case 3:
                return f"+{code}{national}"
            case 4:
                own = PhoneMetadata.metadata_for_region(home, None)
                trunk = (own and own.national_prefix) or self.chance.choice("0189")
                return str(trunk) + national
            case 5:
                away = self.chance.choice(["00", "011", "0011", "010", "8~10", "119", "810"])
                return away + code + national
            case 6:
                return str(phonenumbers.format_out_of_country_calling_number(number, region))
            case 7:
                return f"+{code} (0){national}"
        return "".join(self.chance.choices("0123456789", k=self.chance.randrange(4, 16)))

    def mutated(self, raw: str) -> str:
        """With one to three digits changed, left out or added."""
        letters = list(raw)
        for _ in range(self.chance.randrange(1, 4)):
            places = [at for at, letter in enumerate(letters) if letter[:1].isdigit()]
            if not places:
                break
            at = self.chance.choice(places)
            digit = self.chance.choice("0123456789")
            letters[at] = self.chance.choice([digit, digit, digit, "", letters[at] + digit])
        return "".join(letters)

    def punctuated(self, raw: str) -> str:
        cursor = [" ", "-", ".", "(", ")", " (", ") ", " - ", "/", " / ", "//", "  "]
        return "".join(
            letter + (self.chance.choice(cursor) if self.chance.random() < 0.25 else "") for letter in raw
        )


@pytest.mark.parametrize("seed", range(4 if SOAK else 1))
def test_plain_says_what_phonenumbers_says(seed: int) -> None:
    """In ten thousand numbers of all regions, the fast path settles most, and never differs."""
    dialler = Dialler(seed)
    outcomes: Counter[str] = Counter()
    different = []
    for _ in range(10_000):
        raw, region = dialler.case()
        try:
            fast = plain(raw, region)
        except NotPlainError:
            outcomes["left"] += 1
            continue
        outcomes["null" if fast is None else "number"] += 1
        if fast != (slow := parsed(raw, region)):
            different.append((raw, region, fast, slow))

    assert different == []
    # Else it would have been easy.
    assert outcomes["number"] > 2_000
    assert outcomes["null"] > 1_000


@pytest.mark.parametrize(
    ("raw", "region"),
    [
        # Regions that share a country code, with the code but without its plus.
        *(("61300223456", "CC"), ("61215345608", "CX"), ("61791241234", "CX"), ("61300223456", "AU")),
        *(("1 310-1234", "SX"), ("13100340", "JM"), ("1(3) 10.47.49", "DO"), ("1 310-1234", "CA")),
        *(("447911123456", "GB"), ("447911123456", "JE"), ("390669812345", "VA"), ("79123456789", "KZ")),
        # Digits that begin like the region's own code, or like its prefixes.
        *(
            ("1 415 555 2671", "US"),
            ("49 30 901820", "DE"),
            ("8 912 345-67-89", "RU"),
            ("0 11 15 2345-6789", "AR"),
        ),
        *(
            ("(0)30 901820", "DE"),
            ("+49 (0)30 901820", "US"),
            ("+0049 30 901820", "DE"),
            ("00 49 30 901820", "US"),
        ),
        *(
            ("5216641234567", "MX"),
            ("+52 1 664 123 4567", "US"),
            ("0055 11 91234-5678", "BR"),
            ("999999", "US"),
        ),
        # Extensions, and what is like one.
        *(
            ("415-555-2671 x12", "US"),
            ("415-555-2671x", "US"),
            ("415-555-2671 ext. 12", "US"),
            ("4155552671 12", "US"),
        ),
        *(
            ("030 901820-0", "DE"),
            ("030 / 901820", "DE"),
            ("030//901820", "DE"),
            ("415-555-2671 / 2672", "US"),
        ),
        *(
            ("x4155552671", "US"),
            ("415x555x2671", "US"),
            ("415 ext 5552671", "US"),
            ("+１ ４１５ ５５５ ２６７１", "DE"),
        ),
        *(
            ("+1４１５5552671", "DE"),
            ("４１５５５５２６７１ x１２", "US"),
            ("911 x1", "US"),
            ("+1 x4155552671", "US"),
        ),
        # What looks like a number and is none, and what looks like none.
        *(("415-555-26712", "US"), ("415-555-267", "US"), ("0000000000", "US"), ("+1 000 000 0000", "US")),
        *(("+800 1234 5678", "US"), ("+979 123 456 789", "US"), ("+0 415 555 2671", "US"), ("+1", "US")),
        *(("(((415", "US"), ("415-555-2671 ", "US"), ("4155552671-----", "US"), ("+(1)4155552671", "US")),
    ],
)
def test_plain_where_it_is_hard(raw: str, region: str) -> None:
    """Where numbering plans are least plain the fast path agrees, or leaves the number alone."""
    try:
        assert plain(raw, region) == parsed(raw, region)
    except NotPlainError:
        assert e164(raw, region) == parsed(raw, region)


@pytest.mark.parametrize("kind", TYPES)
def test_every_regions_examples(kind: int) -> None:
    """The example of every type of number in every region, abroad and at home, is what phonenumbers makes it."""
    for region in REGIONS:
        number = phonenumbers.example_number_for_type(region, kind)
        if number is None:
            continue
        for form in FORMATS:
            raw = phonenumbers.format_number(number, form)
            for default in (region, "US"):
                assert e164(raw, default) == parsed(raw, default), f"{raw} in {default}"


def test_usual_numbers_take_the_fast_path() -> None:
    """The notations of most customers are settled without the library: that is what the fast path is for."""
    for raw, region in (
        ("(415) 555-2671", "US"),
        ("415-555-2671", "US"),
        ("4155552671", "US"),
        ("1-415-555-2671", "US"),
        ("+1 415 555 2671", "DE"),
        ("+49 30 901820", "US"),
        ("+44 20 7946 0958", "US"),
        ("030 901820", "DE"),
        ("01 42 68 53 00", "FR"),
        ("044 668 18 00", "CH"),
    ):
        assert plain(raw, region) == parsed(raw, region)
        assert plain(raw, region) is not None


def test_every_region_that_a_setting_may_name_has_rules() -> None:
    """The default region is any that phonenumbers knows; none of them fails, in whatever letters."""
    for region in REGIONS:
        for raw in ("4155552671", "030 901820", "+49 30 901820"):
            assert e164(raw, region) == parsed(raw, region)
    assert phones.numbering("XX") is None
