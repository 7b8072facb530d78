"""Every pattern that meets text from outside takes time in proportion to it: its worst case shows."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simple_salesforce.api import Salesforce

from sync.catalogue import (
    mapping,
    phones,
    transform,
    values,
)
from sync.config import alerts, fields
from sync.config.values import parse_duration
from sync.postgres import ledger
from sync.salesforce.session import addresses, bodies, http, login
from tests.support.world import ROOT

SIZE = 400_000
CPU_SECONDS = 2.0
Feed = Callable[[str], object]
N = SIZE


def no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def no_target(text: str) -> None:
    with pytest.raises(ValueError, match="not an https URL"):
        addresses.target_of(text)


# A module's pattern as it is written there, how it is asked, and texts that a careless form of it would not end
# with: long runs of what it repeats, followed by what it does not expect.
WORST: dict[tuple[str, str], tuple[Feed, tuple[str, ...]]] = {
    ("salesforce/session/addresses.py", "PATH"): (
        addresses.PATH.fullmatch,
        ("/a" * (N // 2) + "!", "/" + "a" * N + "!", "/" * N),
    ),
    ("salesforce/session/addresses.py", "QUERY"): (
        addresses.QUERY.fullmatch,
        ("a" * N + "#", "%aa" * (N // 3) + "%", "%" * N),
    ),
    ("salesforce/session/addresses.py", "ID"): (addresses.ID.fullmatch, ("a" * N,)),
    ("salesforce/session/addresses.py", "JOB"): (
        addresses.JOB.fullmatch,
        ("/services/data/v" + "6" * N, "a" * N),
    ),
    ("salesforce/session/addresses.py", "HOST"): (
        addresses.HOST.fullmatch,
        ("a" * N + "!", "a." * (N // 2), "a.a:" + "1" * N, "-" * N),
    ),
    ("salesforce/session/addresses.py", "[/?#]"): (
        no_target,
        ("https://" + "a" * N, "https://" + "/" * N, "?" * N),
    ),
    ("salesforce/session/http.py", "CHARSET"): (
        http.CHARSET.search,
        tuple(
            text[: http.LONGEST_CONTENT_TYPE]
            for text in ("charset=" * N, "charset" * N, "charset=" + "x" * N)
        ),
    ),
    ("salesforce/session/http.py", "USAGE"): (
        http.USAGE.search,
        ("api-usage=" + "1" * N, "api-usage=1/" * (N // 12), "a" * N),
    ),
    ("salesforce/session/bodies.py", "XML_CODE"): (
        bodies.XML_CODE.search,
        ("<error>" * (N // 7), "<" + "a" * N, "<a:" * (N // 3), "<error>" + "a" * N),
    ),
    ("salesforce/session/bodies.py", "XML_MESSAGE"): (
        bodies.XML_MESSAGE.search,
        (
            "<message>" * (N // 9),
            "<" + "a" * N,
            "<message>" + "a" * N,
            ("<message>" + "a" * 5000) * (N // 5009),
        ),
    ),
    ("salesforce/session/login.py", "ACCESS_TOKEN"): (login.ACCESS_TOKEN.fullmatch, ("a" * N + "\n",)),
    ("salesforce/session/login.py", "ORGANIZATION"): (login.ORGANIZATION.match, ("00D" + "a" * N,)),
    ("postgres/ledger.py", "TOKEN"): (ledger.TOKEN.findall, ("a" * N, "a." * (N // 2), "." * N, " " * N)),
    ("catalogue/mapping.py", "NAME"): (mapping.NAME.fullmatch, ("a" * N, "_" * N)),
    ("catalogue/mapping.py", "WORD_BORDER"): (mapping.snake_case, ("aA" * (N // 2), "A" * N)),
    ("catalogue/mapping.py", "STANDARD"): (mapping.STANDARD.fullmatch, ("A" * N + "_",)),
    ("catalogue/mapping.py", "CUSTOM"): (
        mapping.CUSTOM.fullmatch,
        ("a" * N, "a__" * (N // 3), "_" * N, "a" + "_" * N, "a__" * (N // 3) + "c", "a__a" + "_" * N + "é"),
    ),
    ("catalogue/transform.py", "SCHEME"): (transform.SCHEME.match, ("a" * N, "a+-." * (N // 4) + ":/")),
    ("catalogue/transform.py", "HOST"): (
        transform.HOST.fullmatch,
        ("a" * N + "!", "a-" * (N // 2), "a." * (N // 2), "a" + "-" * N),
    ),
    ("catalogue/transform.py", "EMAIL"): (
        transform.EMAIL.fullmatch,
        ("a" * N, "a@" + "." * N, "a@" + "a." * (N // 2), "a@" * (N // 2), "a@" + "a." * (N // 2) + "@"),
    ),
    ("catalogue/values.py", "NUMBER"): (
        values.NUMBER.fullmatch,
        ("1" * N + "x", "1." + "1" * N + "e", "1e" + "1" * N + "x"),
    ),
    ("catalogue/transform.py", r"[^\x00-\x7f]"): (transform.plain_json, ("é" * (N // 2), '"' * N)),
    ("catalogue/phones.py", "PLAIN"): (
        phones.PLAIN.fullmatch,
        ("1" * N, "(" * N, "+1 " * (N // 3), "1" * 20 + " " * N),
    ),
    ("catalogue/phones.py", "NEVER"): (phones.NEVER.match, ("1" * N,)),
    ("config/alerts.py", "BEGINNING"): (
        alerts.split_urls,
        (" " * N, "a" * N, "a " * (N // 2), "a://" * (N // 4), "," * N + "a://", "a:// " * (N // 5)),
    ),
    ("config/alerts.py", "ALERT_URL"): (alerts.ALERT_URL.fullmatch, ("a" * N, "a://" + "a" * N + " ")),
    ("config/alerts.py", "PARTS"): (alerts.PARTS.split, ("/" * N, "a" * N, "a/" * (N // 2))),
    ("config/alerts.py", r"https://[^/\s]\S*"): (
        re.compile(r"https://[^/\s]\S*").fullmatch,
        ("https://" + "a" * N + " ",),
    ),
    ("config/alerts.py", r"\d"): (re.compile(r"\d").search, ("a" * N,)),
    ("config/alerts.py", r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+"): (
        alerts.is_host,
        ("a" * N, "a." * (N // 2), "a.a" * (N // 3) + "!"),
    ),
    ("config/budget.py", r"[0-9]{1,9}"): (re.compile(r"[0-9]{1,9}").fullmatch, ("1" * N,)),
    ("config/budget.py", r"[0-9]{1,3}"): (re.compile(r"[0-9]{1,3}").fullmatch, ("1" * N,)),
    ("config/budget.py", r"(\d+(?:\.\d+)?)\s*%"): (
        re.compile(r"(\d+(?:\.\d+)?)\s*%").fullmatch,
        ("1" * N, "1." + "1" * N, "1" + " " * N),
    ),
    ("config/storage.py", r"(\d{1,6}(?:\.\d{1,3})?)\s*([kmgt]b)"): (
        re.compile(r"(\d{1,6}(?:\.\d{1,3})?)\s*([kmgt]b)").fullmatch,
        ("1" * N, "1." + "1" * N, "1" + " " * N),
    ),
    ("config/settings.py", r"\w+"): (re.compile(r"\w+").fullmatch, ("_" * N + "!",)),
    ("config/settings.py", r"https://[^/\s@?#]+"): (
        re.compile(r"https://[^/\s@?#]+").fullmatch,
        ("https://" + "a" * N + "/",),
    ),
    ("config/settings.py", r"[a-z0-9_.-]+(:[0-9]{1,5})?"): (
        re.compile(r"[a-z0-9_.-]+(:[0-9]{1,5})?").fullmatch,
        ("a" * N + "!", "a" * N + ":" + "1" * 9),
    ),
    ("config/settings.py", r"[0-9]{2,3}\.0"): (re.compile(r"[0-9]{2,3}\.0").fullmatch, ("6" * N,)),
    ("config/fields.py", "NAME"): (fields.NAME.fullmatch, ("a" * N + "!", "a." * (N // 2), "a." + "_" * N)),
    ("config/keys.py", "-----BEGIN ([A-Z0-9 ]+)-----"): (
        re.compile("-----BEGIN ([A-Z0-9 ]+)-----").search,
        ("-" * N, "-----BEGIN " + "A" * N, "-----BEGIN " * (N // 11)),
    ),
    ("config/keys.py", "-----[^-]+-----"): (
        lambda text: re.sub("-----[^-]+-----", "", text),
        ("-" * N, "-----a" * (N // 6), "-----" + "a" * N),
    ),
    ("config/surroundings.py", "[/?#@]"): (re.compile("[/?#@]").split, ("/" * N, "a" * N)),
    ("config/values.py", r"(\d+[smhd])+"): (
        re.compile(r"(\d+[smhd])+").fullmatch,
        ("1" * N, "1s" * (N // 2) + "x"),
    ),
    ("config/values.py", r"(\d+)([smhd])"): (
        no_duration,
        ("1" * N, "1s" * 9 + "1" * N),
    ),
}
# Made of phonenumbers' own metadata, and asked of at most 31 characters, which PLAIN lets through.
OF_METADATA = {"catalogue/phones.py"}
# Text from outside that no pattern meets, but code of ours or of a library that could be slow.
ELSEWHERE: dict[str, tuple[Feed, tuple[str, ...]]] = {
    "an error page": (
        bodies.first_error,
        ("<" * N, "<a" * (N // 2), "<>" * (N // 2), ">" * N, " " * N),
    ),
    "a usage header": (
        Salesforce.parse_api_usage,
        (("per-app-api-usage=" * 40)[: http.LONGEST_USAGE], "1" * http.LONGEST_USAGE),
    ),
}


def patterns() -> Iterator[tuple[str, str]]:
    """Where a pattern is written: its module, and its name there, or itself where it has none."""
    for path in sorted((ROOT / "sync").rglob("*.py")):
        inside = path.relative_to(ROOT / "sync")
        # Those of printable.py have their worst cases in test_printable.py.
        if inside.parts[0] == "simulator" or inside == Path("logs/printable.py"):
            continue
        tree = ast.parse(path.read_text())
        named = {
            id(node.value): node.targets[0].id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id.isupper()
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
                first = node.args[0]
                text = str(first.value) if isinstance(first, ast.Constant) else None
                if id(node) in named or text is not None:
                    yield str(inside), named.get(id(node)) or str(text)
                else:
                    assert str(inside) in OF_METADATA, (
                        f"{inside}: a pattern made of data: {ast.unparse(node)}"
                    )


def test_every_pattern_has_its_worst_case() -> None:
    """A pattern that is added has its worst case here; one that is gone leaves it."""
    assert set(patterns()) - {(name, "(?!)") for name in OF_METADATA} == set(WORST)


@pytest.mark.parametrize("where", WORST, ids=lambda where: f"{where[0]}-{where[1]}")
def test_worst_cases(where: tuple[str, str]) -> None:
    """400 kB of the worst that can be sent to a pattern take a moment."""
    feed, texts = WORST[where]
    for text in texts:
        assert cpu(feed, text) < CPU_SECONDS, text[:40]


@pytest.mark.parametrize("what", ELSEWHERE)
def test_worst_cases_elsewhere(what: str) -> None:
    """The same where code that is no pattern reads text from outside."""
    feed, texts = ELSEWHERE[what]
    for text in texts:
        assert cpu(feed, text) < CPU_SECONDS, text[:40]


def cpu(feed: Feed, text: str) -> float:
    """Seconds of CPU that one text takes."""
    started = time.process_time()
    feed(text)
    return time.process_time() - started


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html><body><h1>Down</h1></body></html>", "Down"),
        ("1 < 2 and 3 > 2", "1 2"),
        ("<<<", ""),
        ("<a", "a"),
        ("a<b>c<d", "a c d"),
        ("<script>x()</script>y", "x() y"),
    ],
)
def test_tags_are_left_out(page: str, text: str) -> None:
    """Of an error page the text between its tags is kept, and of half a tag what there is."""
    assert " ".join(bodies.strip_tags(page).split()) == text
