"""Text that may be printed: without secrets in any form, and without characters that act on a terminal.

A secret is found as it is, in any letter case, and behind any mixture of URL, JSON, Python and HTML escapes
(the text is searched again after each is undone), in hexadecimal, and inside base64 at any position, so that
`user:password` of Basic authentication needs no list of users. Every search takes linear time.
"""

from __future__ import annotations

import base64
import html
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

MASK = "***"
BEGINNING = 12  # characters of a longer secret that are enough to know it by: somebody may have cut it off
MARGIN = 8_000  # characters read beyond a bound, so that a secret that begins before it is seen whole
ESCAPED_TWICE = 3  # how often escapes are undone: a URL in JSON in a log line of a library

Span = tuple[int, int]

# Words that our own output is made of. Where a password is one of them, or has fewer than four characters,
# masking every occurrence would destroy the output and give the password away; it is masked where its place
# says what it is (`password=…`, `user:…@host`), and encoded.
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
# The value after a name that says that it is secret: `name=…`, `"name": "…"`, `<name>…`.
NAMED = re.compile(
    rf"(?:{KEYS})(?:[=>]|[\"']\s?[:=]\s?[\"'])(?P<value>[^\s\"'&,;<>(){{}}\[\]]+)", re.IGNORECASE
)
SCHEME = re.compile(r"\b(?:basic|bearer|oauth)\s(?P<value>[^\s\"',;<>]{8,})", re.IGNORECASE)
# Of a URL; libpq needs the user's name to be told, an http proxy's may be the secret itself.
USERINFO = re.compile(r"://(?P<user>[^\s/@:\"'<>]*+)(?P<colon>:)?+(?P<password>[^\s/@\"'<>]*+)@")
# 15 or 18 characters of org Id, "!", then the key.
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
    """What is searched for: `anywhere` in lower case, `words` standing alone, `encoded` inside base64."""

    anywhere: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()


_secrets: set[str] = set()
_needles = Needles()


def hide(secrets: Iterable[str]) -> None:
    """Never print these values again, nor the lines of one that has several, in any form.

    Parameters: `secrets`, the values as they are; empty ones are ignored.
    """
    global _needles
    for secret in secrets:
        lines = [line for line in secret.splitlines() if not line.startswith("-----")]
        _secrets.update(part for part in (secret.strip(), *lines) if part)
    _needles = needles(frozenset(_secrets))  # a copy: another thread may log in meanwhile


def needles(secrets: Iterable[str]) -> Needles:
    """What to search for, the longest first."""
    anywhere: set[str] = set()
    words: set[str] = set()
    encoded: set[str] = set()
    for secret in secrets:
        raw = secret.encode("utf-8", "surrogatepass")
        encoded.update(core[:BEGINNING] for core in base64_cores(raw) if len(core) >= 5)
        if len(secret) < 4 or secret.lower() in COMMON or (secret.isdigit() and len(secret) < 8):
            continue
        anywhere.add(raw.hex())
        if (secret.isalnum() and len(secret) < 8) or (secret.isalpha() and len(secret) < 12):
            words.add(secret)
            continue
        # A form's space, and the quotes of SQL and CSV, which no escape character marks.
        for char, written in (("", ""), (" ", "+"), ("'", "''"), ('"', '""')):
            anywhere.add(lowered(secret.replace(char, written) if char else secret))
    return Needles(*(tuple(sorted(found, key=len, reverse=True)) for found in (anywhere, words, encoded)))


def base64_cores(raw: bytes) -> Iterator[str]:
    """The characters that base64 of any text around these bytes must contain, for each of three positions."""
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw).decode()
        first = -(-before * 8 // 6)  # the characters that the bytes before have a part in
        last = (before + len(raw)) * 8 // 6  # and those that only the bytes given decide
        core = text[first:last]
        yield core
        yield core.translate({ord("+"): "-", ord("/"): "_"})


def lowered(text: str) -> str:
    """Lower case, character by character: of the same length."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


# ── redaction ─────────────────────────────────────────────────────────────────────────────────────────


def redact(text: str) -> str:
    """The text without any known secret in any form, or anything that looks like an access token."""
    return masked(text, secret_spans(text), len(text))


def bounded(text: str, most: int) -> str:
    """The redacted text of at most so many characters of the original, with an ellipsis where it was longer.

    It is cut before it is searched: what is beyond costs nothing. A secret that the cut divides is masked.
    """
    if len(text) <= most:
        return redact(text)
    return masked(text, secret_spans(text[: most + MARGIN]), most) + "…"


def masked(text: str, spans: Iterable[Span], most: int) -> str:
    """The first `most` characters with every span in them replaced."""
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
    """Where the text says something secret, escapes undone as often as they may be nested."""
    spans: list[Span] = []
    steps: list[Callable[[int, int], Span]] = []
    for _ in range(1 + ESCAPED_TWICE):
        for start, end in plain_spans(text):
            for origin in reversed(steps):
                start, end = origin(start, end)
            spans.append((start, end))
        if ESCAPE.search(text) is None:
            break
        text, step = unescaped(text)
        steps.append(step)
    return spans


def plain_spans(text: str) -> Iterator[Span]:
    """Where the text says something secret, as it stands."""
    known = _needles
    lower = lowered(text)
    for needle in known.anywhere:
        yield from beginnings(lower, needle)
    for word in known.words:
        for start, end in occurrences(text, word):
            before, after = text[start - 1 : start], text[end : end + 1]
            if not (before.isalnum() or after.isalnum()):
                yield start, end
    for core in known.encoded:
        yield from base64_runs(text, core)
    yield from token_spans(text)
    for found in NAMED.finditer(text):
        yield found.span("value")
    for found in SCHEME.finditer(text):
        if not (found["value"].isalpha() and found["value"].islower()):  # but "basic authentication"
            yield found.span("value")
    yield from userinfo_spans(text)


def occurrences(text: str, needle: str) -> Iterator[Span]:
    at = text.find(needle)
    while at >= 0:
        yield at, at + len(needle)
        at = text.find(needle, at + len(needle))


def beginnings(text: str, needle: str) -> Iterator[Span]:
    """Occurrences of a secret, and of its beginning where it was cut off before it came here.

    Not of one that begins as a word may, or with a user's name.
    """
    start = needle[:BEGINNING]
    if len(needle) < BEGINNING + 4 or ":" in needle or not re.search("[0-9]", start):
        yield from occurrences(text, needle)
        return
    for at, end in occurrences(text, start):
        while end - at < len(needle) and text[end : end + 1] == needle[end - at]:
            end += 1
        yield at, end


def base64_runs(text: str, core: str) -> Iterator[Span]:
    """The whole runs of base64 around a part that is known."""
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
    """Access tokens, which are not known in advance: opaque ones, and JWTs."""
    for found in SESSION.finditer(text):
        yield found.span()
    for found in RUN.finditer(text):
        at = found[0].find("eyJ")
        if at >= 0 and found[0].count(".", at) >= 2:
            yield found.start() + at, found.end()
            continue
        # In another letter case it takes the length of a token to tell one from a host's name.
        at = found[0].lower().find("eyj")
        parts = found[0][at:].split(".", 2) if at >= 0 else []
        if len(parts) == 3 and min(len(parts[0]), len(parts[1])) >= 16:
            yield found.start() + at, found.end()


def userinfo_spans(text: str) -> Iterator[Span]:
    """User and password of http URLs, the password alone of others; not the placeholder of our own advice."""
    for found in USERINFO.finditer(text):
        if found["password"] == "password":  # noqa: S105 — the word itself, in `postgres://user:password@host`
            continue
        if text[max(0, found.start() - 4) : found.start()].lower() in ("http", "ttps") or not found["colon"]:
            yield found.start("user"), found.end("password")
        elif found["password"]:
            yield found.span("password")


# ── escapes ───────────────────────────────────────────────────────────────────────────────────────────


def unescaped(text: str) -> tuple[str, Callable[[int, int], Span]]:
    """The text with one layer of escapes undone, and the way from its positions back to the given text's."""
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
        add(character(found), found.end() - found.start(), same=False)
    add(text[old:], len(text) - old, same=True)
    old_starts.append(len(text))

    def origin(start: int, end: int) -> Span:
        first, last = bisect_right(new_starts, start) - 1, bisect_right(new_starts, end - 1) - 1
        begin = old_starts[first] + (start - new_starts[first] if verbatim[first] else 0)
        stop = old_starts[last] + (end - new_starts[last]) if verbatim[last] else old_starts[last + 1]
        return begin, stop

    return "".join(parts), origin


def character(found: re.Match[str]) -> str:
    """What one escape, or a run of them, stands for."""
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

# C0 and C1 (line ends, U+0085 and the introducers of terminal sequences among them), line and paragraph
# separator, what changes the direction of writing, and half surrogates, which no stream can encode.
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


def visible(text: str) -> str:
    """One line that only shows: every control character as an escape such as `\\x1b`, `\\n` or `\\u2028`."""
    return text if text.isascii() and text.isprintable() else text.translate(SHOWN)


def visible_lines(lines: Sequence[str]) -> str:
    """Lines of ours, none of which can begin another one."""
    return "\n".join(map(visible, lines))


def visible_json(encoded: str) -> str:
    """JSON with the same values, its control characters as escapes; `encoded` is one line."""
    return encoded if encoded.isascii() and encoded.isprintable() else encoded.translate(IN_JSON)
