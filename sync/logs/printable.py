"""Make text printable: mask secrets in any form, and escape characters that control a terminal.

A secret is found literally, in any letter case, behind any nesting of URL, JSON, Python and HTML escapes (the
text is searched again after each layer is undone), in hexadecimal, and inside base64 at any position, so that
`user:password` of Basic authentication needs no list of users. Every search takes linear time.
"""

from __future__ import annotations

import base64
import html
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

MASK = "***"
PREFIX = 12  # first characters of a longer secret that identify it: a library may have truncated the text
MARGIN = 8_000  # characters searched beyond a limit, so that a secret across the limit is found whole
TOKENS = 20  # latest access tokens that are searched for: each one makes every later log line slower
ESCAPE_LAYERS = 3  # layers of escapes that are undone: a URL in JSON in a library's log line

Span = tuple[int, int]

# Common words of our own output. If a password is one of them, or shorter than four characters, masking every
# occurrence would make the output unreadable and reveal the password. It is masked only where its context
# identifies it (`password=…`, `user:…@host`) and where it is encoded.
COMMON = frozenset(
    re.findall(
        r"\w+",
        """account accounts admin administrator api bearer changeme check client connection contact contacts
        database default error failed false heroku host https insert localhost login none null object objects
        passwd password pgsql postgres postgresql public record records root salesforce secret server status
        success succeeded sync test token true unknown update user username worker""",
    )
)
KEYS = (
    "access_token|refresh_token|id_token|client_secret|client_assertion|assertion|security_token|"
    "sessionid|session_id|passphrase|password|passwd|pwd|secret|authorization|proxy-authorization|sid"
)
# The value after a name of a secret: `name=…`, `"name": "…"`, `<name>…`.
NAMED = re.compile(
    rf"(?:{KEYS})(?:[=>]|[\"']\s?[:=]\s?[\"'])(?P<value>[^\s\"'&,;<>(){{}}\[\]]+)", re.IGNORECASE
)
SCHEME = re.compile(r"\b(?:basic|bearer|oauth)\s(?P<value>[^\s\"',;<>]{8,})", re.IGNORECASE)
# User and password in a URL. The user name of an HTTP proxy may be the secret; that of Postgres is none.
USERINFO = re.compile(r"://(?P<user>[^\s/@:\"'<>]*+)(?P<colon>:)?+(?P<password>[^\s/@\"'<>]*+)@")
# A session Id: the org Id with 15 or 18 characters, "!", then the key.
SESSION = re.compile(r"00d[a-z0-9]{12,15}![\w.]+", re.IGNORECASE)
RUN = re.compile(r"[\w.-]{10,}")
BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")
ESCAPE = re.compile(
    r"(?P<url>(?:%[0-9a-f]{2})+)|(?P<json>(?:\\u[0-9a-f]{4})+)|(?P<bytes>(?:\\x[0-9a-f]{2})+)"
    r"|\\(?P<char>[\\/\"'nrtbf])|(?P<entity>&(?:amp|lt|gt|quot|apos|#\d{1,6}|#x[0-9a-f]{1,5});)",
    re.IGNORECASE,
)
CHARACTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Needles:
    """The search terms: `anywhere` (lower case), `words` (whole words only), `encoded` (inside base64)."""

    anywhere: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()


_secrets: set[str] = set()
_tokens: deque[str] = deque(maxlen=TOKENS)
_needles = Needles()


def hide(secrets: Iterable[str]) -> None:
    """Mask these values in all output from now on, in any form; of a value with several lines also each line.

    Empty values are ignored.
    """
    global _needles
    for secret in secrets:
        lines = [line for line in secret.splitlines() if not line.startswith("-----")]
        _secrets.update(part for part in (secret.strip(), *lines) if part)
    _needles = build_needles(frozenset((*_secrets, *_tokens)))  # a copy: another thread may add secrets


def hide_token(token: str) -> None:
    """Mask an access token in all output from now on, until TOKENS later ones have replaced it.

    An older one is still masked where it looks like a token.
    """
    if token not in _tokens:
        _tokens.append(token)
    hide(())


def build_needles(secrets: Iterable[str]) -> Needles:
    """Return the search terms of the secrets, the longest first."""
    anywhere: set[str] = set()
    words: set[str] = set()
    encoded: set[str] = set()
    for secret in secrets:
        raw = secret.encode("utf-8", "surrogatepass")
        encoded.update(core[:PREFIX] for core in base64_cores(raw) if len(core) >= 5)
        if len(secret) < 4 or secret.lower() in COMMON or (secret.isdigit() and len(secret) < 8):
            continue
        anywhere.add(raw.hex())
        if (secret.isalnum() and len(secret) < 8) or (secret.isalpha() and len(secret) < 12):
            words.add(secret)
            continue
        # The space of a form, and the doubled quotes of SQL and CSV, have no escape character.
        for char, written in (("", ""), (" ", "+"), ("'", "''"), ('"', '""')):
            anywhere.add(lower_each(secret.replace(char, written) if char else secret))
    return Needles(*(tuple(sorted(found, key=len, reverse=True)) for found in (anywhere, words, encoded)))


def base64_cores(raw: bytes) -> Iterator[str]:
    """Yield the characters that base64 of any text around these bytes must contain, for each of three
    offsets."""
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode()
        first = -(-before * 8 // 6)  # skips the characters that the preceding bytes influence
        last = (before + len(raw)) * 8 // 6  # the end of the characters that only these bytes decide
        core = text[first:last]
        yield core
        yield core.translate({ord("+"): "-", ord("/"): "_"})


def lower_each(text: str) -> str:
    """Lower the case of each character; the length stays the same."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


# ── redaction ─────────────────────────────────────────────────────────────────────────────────────────


def redact(text: str) -> str:
    """Mask every known secret, in any form, and everything that looks like an access token."""
    return mask_spans(text, secret_spans(text), len(text))


def redact_bounded(text: str, most: int) -> str:
    """Redact the first `most` characters of a text; add an ellipsis if it was longer.

    Text far beyond the limit is not searched. A secret across the limit is masked.
    """
    if len(text) <= most:
        return redact(text)
    return mask_spans(text, secret_spans(text[: most + MARGIN]), most) + "…"


def mask_spans(text: str, spans: Iterable[Span], most: int) -> str:
    """Return the first `most` characters with the spans in them masked."""
    parts: list[str] = []
    at = 0
    for start, end in sorted(spans):
        if start >= most:
            break
        if start >= at:
            parts += [text[at:start], MASK]
        at = max(at, end)
    return "".join([*parts, text[at:most]])


def secret_spans(text: str) -> list[Span]:
    """Return the spans of secrets, undoing up to ESCAPE_LAYERS layers of escapes."""
    spans: list[Span] = []
    steps: list[Callable[[int, int], Span]] = []
    for _ in range(1 + ESCAPE_LAYERS):
        for start, end in literal_spans(text):
            for origin in reversed(steps):
                start, end = origin(start, end)
            spans.append((start, end))
        if ESCAPE.search(text) is None:
            break
        text, step = unescape(text)
        steps.append(step)
    return spans


def literal_spans(text: str) -> Iterator[Span]:
    """Yield the spans of secrets in a text, without undoing escapes."""
    known = _needles
    lower = lower_each(text)
    for needle in known.anywhere:
        yield from find_truncated(lower, needle)
    for word in known.words:
        for start, end in find_all(text, word):
            before, after = text[start - 1 : start], text[end : end + 1]
            if not (before.isalnum() or after.isalnum()):
                yield start, end
    for core in known.encoded:
        yield from find_base64_runs(text, core)
    yield from token_spans(text)
    for found in NAMED.finditer(text):
        yield found.span("value")
    for found in SCHEME.finditer(text):
        if not (found["value"].isalpha() and found["value"].islower()):  # not "basic authentication"
            yield found.span("value")
    yield from userinfo_spans(text)


def find_all(text: str, needle: str) -> Iterator[Span]:
    """Yield the spans of a search term."""
    at = text.find(needle)
    while at >= 0:
        yield at, at + len(needle)
        at = text.find(needle, at + len(needle))


def find_truncated(text: str, needle: str) -> Iterator[Span]:
    """Yield the spans of a secret, whole or truncated.

    A truncated secret is not searched if its prefix looks like a word or holds a user's name.
    """
    start = needle[:PREFIX]
    if len(needle) < PREFIX + 4 or ":" in needle or not re.search("[0-9]", start):
        yield from find_all(text, needle)
        return
    for at, end in find_all(text, start):
        while end - at < len(needle) and text[end : end + 1] == needle[end - at]:
            end += 1
        yield at, end


def find_base64_runs(text: str, core: str) -> Iterator[Span]:
    """Yield the whole base64 runs around a known part."""
    begin = 0
    at = text.find(core)
    while at >= 0:
        start, end = at, at + len(core)
        while start > begin and text[start - 1] in BASE64:
            start -= 1
        while end < len(text) and text[end] in BASE64:
            end += 1
        yield start, end
        begin = end
        at = text.find(core, end)


def token_spans(text: str) -> Iterator[Span]:
    """Yield the spans of access tokens, which are not known in advance: opaque ones and JWTs."""
    for found in SESSION.finditer(text):
        yield found.span()
    for found in RUN.finditer(text):
        at = found[0].find("eyJ")
        if at >= 0 and found[0].count(".", at) >= 2:
            yield found.start() + at, found.end()
            continue
        # In another letter case, only the length tells a token from a host name.
        at = found[0].lower().find("eyj")
        parts = found[0][at:].split(".", 2) if at >= 0 else []
        if len(parts) == 3 and min(len(parts[0]), len(parts[1])) >= 16:
            yield found.start() + at, found.end()


def userinfo_spans(text: str) -> Iterator[Span]:
    """Yield the spans of user and password in HTTP URLs, and of the password in other URLs.

    The word `password` in our own example URL is not masked.
    """
    for found in USERINFO.finditer(text):
        if found["password"] == "password":  # noqa: S105 — the word itself, in `postgres://user:password@host`
            continue
        if text[max(0, found.start() - 4) : found.start()].lower() in ("http", "ttps") or not found["colon"]:
            yield found.start("user"), found.end("password")
        elif found["password"]:
            yield found.span("password")


# ── escapes ───────────────────────────────────────────────────────────────────────────────────────────


def unescape(text: str) -> tuple[str, Callable[[int, int], Span]]:
    """Undo one layer of escapes; return the text and a function that maps its spans to those of the input."""
    parts: list[str] = []
    old_starts, new_starts, verbatim = [], [], []
    old = new = 0

    def add(part: str, size: int, *, same: bool) -> None:
        nonlocal old, new
        parts.append(part)
        old_starts.append(old)
        new_starts.append(new)
        verbatim.append(same)
        old, new = old + size, new + len(part)

    for found in ESCAPE.finditer(text):
        if found.start() > old:
            add(text[old : found.start()], found.start() - old, same=True)
        add(decode_escape(found), found.end() - found.start(), same=False)
    add(text[old:], len(text) - old, same=True)
    old_starts.append(len(text))

    def origin(start: int, end: int) -> Span:
        first, last = bisect_right(new_starts, start) - 1, bisect_right(new_starts, end - 1) - 1
        begin = old_starts[first] + (start - new_starts[first] if verbatim[first] else 0)
        stop = old_starts[last] + (end - new_starts[last]) if verbatim[last] else old_starts[last + 1]
        return begin, stop

    return "".join(parts), origin


def decode_escape(found: re.Match[str]) -> str:
    """Decode one escape, or a run of them."""
    if found["char"]:
        return CHARACTERS.get(found["char"], found["char"])
    if found["entity"]:
        return html.unescape(found["entity"])
    if found["json"]:
        return bytes.fromhex(re.sub(r"\\u", "", found["json"], flags=re.IGNORECASE)).decode(
            "utf-16-be", "replace"
        )
    raw = bytes.fromhex(re.sub(r"%|\\x", "", found["url"] or found["bytes"], flags=re.IGNORECASE))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


# ── control characters ────────────────────────────────────────────────────────────────────────────────

# C0 and C1 (including line ends, U+0085 and the start of terminal sequences), line and paragraph separators,
# characters that change the writing direction, and lone surrogates, which no stream can encode.
CONTROLS = (
    *range(0x20),
    *range(0x7F, 0xA0),
    *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    0xFEFF,
    *range(0xD800, 0xE000),
)
SHOWN = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in CONTROLS} | {
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    ord("\t"): "\\t",
}
IN_JSON = {code: f"\\u{code:04x}" for code in CONTROLS}


def escape_controls(text: str) -> str:
    r"""Escape every control character, such as `\\x1b`, `\\n` or `\\u2028`; the result is one line."""
    return text if text.isascii() and text.isprintable() else text.translate(SHOWN)


def escape_lines(lines: Sequence[str]) -> str:
    """Join lines after escaping each: no value in them can start a line of its own."""
    return "\n".join(map(escape_controls, lines))


def escape_json(encoded: str) -> str:
    """Escape the control characters of JSON text (one line); its values stay equal."""
    return encoded if encoded.isascii() and encoded.isprintable() else encoded.translate(IN_JSON)
