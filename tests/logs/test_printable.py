"""What may be printed: no secret in any form, no character that acts on a terminal, in linear time."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, urlencode

import pytest

from sync.logs import printable
from sync.logs.printable import (
    MASK,
    escape_controls,
    escape_json,
    redact,
    redact_bounded,
)

SECRET = "P4ß/w+rd 'é\"=%&x<1>"
PLAIN = "3MVG9plainKeyOf40LettersAndDigits0123456"
TOKEN = "00D5g000000abcd!AQEAQ_very.secret_rest"
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJ1aWQ6MDA1NWcwMDAwMDAifQ.c2lnbmF0dXJlLW9mLXRoaXM"


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """Only the secrets of each test are known."""
    kept, needles = set(printable._secrets), printable._needles
    printable._tokens.clear()
    printable._secrets.clear()
    printable.hide([SECRET, PLAIN])
    yield
    printable._secrets.clear()
    printable._secrets.update(kept)
    printable._needles = needles


def forms(secret: str) -> list[str]:
    """The secret as other programs write it; written down here without the product's help."""
    raw = secret.encode()
    simple = [
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote(secret, safe="").lower(),
        quote(secret, safe=" +"),
        quote_plus(secret),
        urlencode({"x": secret})[2:],
        "".join(f"%{byte:02X}" for byte in raw),
        "".join(f"%{byte:02x}" for byte in raw),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret)[1:-1].replace("/", "\\/"),
        "".join(f"\\u{ord(char):04x}" for char in secret),
        "".join(f"\\u{ord(char):04X}" for char in secret),
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
        repr(raw)[2:-1],
        html.escape(secret),
        "".join(f"&#{ord(char)};" for char in secret),
        secret.replace("'", "''"),
        secret.replace('"', '""'),
        raw.hex(),
        raw.hex().upper(),
        secret.lower(),
    ]
    twice = [json.dumps(form)[1:-1] for form in simple] + [quote(form, safe="") for form in simple[:6]]
    packed = []
    for text in (secret, f"user:{secret}", f"{secret}:x", f"a:{secret}", f"us:{secret}:y", f"é{secret}"):
        for encoded in (base64.b64encode(text.encode()), base64.urlsafe_b64encode(text.encode())):
            packed += [encoded.decode(), encoded.decode().rstrip("="), quote_plus(encoded.decode())]
    return [*simple, *twice, *packed]


@pytest.mark.parametrize("secret", [SECRET, PLAIN])
def test_every_form_of_a_secret_is_masked(secret: str) -> None:
    """As it is, URL-encoded, in JSON, in Python, in HTML, in hexadecimal, in base64 of a pair: all is masked."""
    for form in forms(secret):
        text = redact(f"before [{form}] after")
        assert form not in text, form
        assert text == f"before [{MASK}] after", form


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        TOKEN.lower(),
        TOKEN.upper(),
        quote(TOKEN, safe=""),
        json.dumps(TOKEN).replace("!", "\\u0021"),
        JWT,
        JWT.lower(),
        f"x\\n{JWT}",
        f"Bearer {JWT}",
        "Bearer abcdef0123456789",
        "bearer abcdef0123456789",
        "BEARER%20abcdef0123456789",
        "OAuth abcdef0123456789",
        "Authorization: Basic abcdef0123456789=",
        "access_token=abcdef0123456789&x=1",
        "ACCESS_TOKEN=abcdef0123456789",
        '{"access_token": "abcdef0123456789"}',
        "{'password': 'abcdef0123456789'}",
        '{\\"client_secret\\":\\"abcdef0123456789\\"}',
        "<sessionId>abcdef0123456789</sessionId>",
        "postgres://app:abcdef0123456789@db.example.com/x",
        "http://abcdef0123456789@proxy.example.com:3128",
        "https://me:abcdef0123456789@proxy.example.com:3128",
        "host=x password=abcdef0123456789 dbname=y",
    ],
)
def test_what_looks_secret_is_masked(text: str) -> None:
    """A token nobody told us, and what stands where a password stands, is masked in any letter case."""
    hidden = redact(text)
    assert MASK in hidden
    for piece in ("abcdef0123456789", "very.secret", "c2lnbmF0dXJl", TOKEN[17:]):
        assert piece.lower() not in hidden.lower()


@pytest.mark.parametrize(
    "text",
    [
        "STALE: Contact is complete through 2026-01-01 00:00:00 UTC; type: python -m sync check",
        "write postgres://user:password@host:5432/name",
        "SALESFORCE_SECURITY_TOKEN belongs to SALESFORCE_PASSWORD: set that too, or unset it",
        "https://surveyjohnson.my.salesforce.com/services/data/v66.0/query",
        'FATAL:  password authentication failed for user "app"',
        "the bearer assertion was refused; basic authentication is off",
        "ann@example.com, 100% of a\\b & c",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Ordinary words and our own advice are left alone."""
    assert redact(text) == text


@pytest.mark.parametrize("weak", ["", "x", "abc", "Contact", "postgres", "2026", "true"])
def test_a_weak_secret_does_not_destroy_the_output(weak: str) -> None:
    """A password of three characters, or one of our own words, is masked where its place gives it away."""
    printable.hide([weak])
    text = "STALE: Contact abc x true postgres 2026-01-01"
    assert redact(text) == text
    if weak:
        assert redact(f"postgres://me:{weak}@db/x password={weak} y") == (
            f"postgres://me:{MASK}@db/x password={MASK} y"
        )


def test_a_short_word_is_masked_where_it_stands_alone() -> None:
    """A short password does not cut holes into longer words, and is masked between other characters."""
    printable.hide(["hunter"])
    assert redact("hunters said: hunter, 'hunter' user:hunter@x") == (
        f"hunters said: {MASK}, '{MASK}' user:{MASK}@x"
    )
    assert base64.b64encode(b"me:hunter").decode() not in redact(base64.b64encode(b"me:hunter").decode())


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    """Each line of a key is a secret; its first and last, which all keys have, are not."""
    printable.hide(
        ["-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"]
    )
    assert redact("-----BEGIN PRIVATE KEY----- 9w0BAQEFAASC") == f"-----BEGIN PRIVATE KEY----- {MASK}"


@pytest.mark.parametrize("cut", range(90, 130, 3))
def test_a_bound_shows_no_part_of_a_secret(cut: int) -> None:
    """Text is bounded before it is searched, and a secret that the bound divides is masked whole."""
    text = "x" * 80 + " " + PLAIN + " " + "y" * 100_000
    short = redact_bounded(text, cut)
    assert short.endswith("…")
    assert len(short) <= cut + len(MASK) + 1
    assert PLAIN[:4] not in short


def test_a_masked_secret_does_not_let_in_what_is_beyond_the_bound() -> None:
    """Where masks make a text shorter, nothing that was not searched whole moves in behind."""
    text = (PLAIN + " ") * 400 + PLAIN[:20]
    assert PLAIN[:4] not in redact_bounded(text, 8000)


@pytest.mark.parametrize("length", [12, 20, len(PLAIN) - 1])
def test_a_secret_that_was_cut_off_elsewhere_is_masked(length: int) -> None:
    """Where a text was shortened before it came here, the beginning of a long secret is masked."""
    assert redact(f"it said {PLAIN[:length]} (advice)") == f"it said {MASK} (advice)"
    packed = base64.b64encode(f"me:{PLAIN}".encode()).decode()[: length + 8]
    assert redact(f"it said {packed} (advice)") == f"it said {MASK} (advice)"


WORST = {
    "jwt": "eyJ",
    "jwt parts": "eyJ.",
    "session": "00D",
    "session letters": "00D5g000000abcdX",
    "percent": "%41",
    "backslash": "\\",
    "unicode": "\\u0041",
    "entity": "&#65;",
    "broken entity": "&#",
    "url": "://",
    "user": "a:",
    "letters": "a",
    "base64": "QUJD",
    "named": "password=",
    "bearer": "Bearer ",
    "spaces": " ",
    "tag": "<",
    "secret": PLAIN,
    "nearly": PLAIN[:-1],
    "packed": base64.b64encode(PLAIN.encode()).decode().rstrip("="),
    "controls": "\x1b\u2028",
}


@pytest.mark.parametrize("part", WORST.values(), ids=WORST)
def test_the_worst_text_takes_linear_time(part: str) -> None:
    """400 kB of what fits a pattern nearly is searched well within two seconds, and bounded at once."""
    text = "://" + part * (400_000 // len(part))
    started = time.process_time()
    redact(text)
    escape_controls(text)
    assert time.process_time() - started < 2
    started = time.process_time()
    redact_bounded(text, 8000)
    assert time.process_time() - started < 0.2


ACTING = "\x00\x07\x08\t\n\x0b\x0c\r\x1b[31m\x7f\x85\x9b2J\u061c\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\ud800"


def test_control_characters_are_shown() -> None:
    """Every character that acts on a terminal or ends a line is printed as an escape."""
    shown = escape_controls(f"a{ACTING}z é 漢 👩‍👩‍👧")
    assert shown == (
        r"a\x00\x07\x08\t\n\x0b\x0c\r\x1b[31m\x7f\x85\x9b2J\u061c\u200e\u200f\u2028\u2029\u202a\u202e"
        r"\u2066\u2069\ufeff\ud800z é 漢 👩‍👩‍👧"
    )


def test_json_keeps_its_values() -> None:
    """JSON output escapes such characters and stays the same JSON."""
    encoded = json.dumps({ACTING: [ACTING, "é"]}, ensure_ascii=False)
    safe = escape_json(encoded)
    assert json.loads(safe) == json.loads(encoded)
    assert escape_controls(safe) == safe
    assert "é" in safe


def test_logins_do_not_make_the_search_longer_for_ever() -> None:
    """The latest tokens are masked, and so are all settings; of a year of logins no more terms are left."""
    tokens = [f"AQEAQ_very.secret_{number:04}" for number in range(500)]
    for token in tokens:
        printable.hide_token(token)
        printable.hide_token(token)

    assert printable.redact(f"key {tokens[-1]} {tokens[-printable.TOKENS]} {SECRET}") == "key *** *** ***"
    searched = printable._needles
    assert len(searched.anywhere) + len(searched.encoded) < 15 * (printable.TOKENS + 2)
    assert printable.redact(f"00D5g000000abcd!{tokens[0]}") == "***"
