"""The pages hold together: links lead somewhere, what they name exists, nothing is said twice, each block has a rule."""

from __future__ import annotations

import importlib.util
import json
import re
from collections import defaultdict
from itertools import takewhile

import pytest
from alembic.config import CommandLine

from sync.config.settings import Settings, settings_from
from tests.project.pages import (
    PAGES,
    ROOT,
    Block,
    all_blocks,
    anchors,
    commands,
    group,
    links,
    options,
    parse,
    prose,
    read,
    spans,
    sync_arguments,
)

# Where the blocks of a language are tested; a language without a rule is refused.
RULES = {
    "sh": "each command is parsed below; test_examples runs those of the product",
    "usage": "test_operating_page: every command and option, and no other",
    "sql": "test_examples runs each statement against a loaded database",
    "python": "test_examples compiles and runs each",
    "dotenv": "each line is parsed as a setting below",
    "mermaid": "test_architecture_page draws it again",
    "dataprime": "test_log_queries holds fields and patterns against lines of the log",
    "text": "output, which nobody types",
}
# Targets that a later change of the Makefile brings.
ANNOUNCED = {"object", "field"}
# Written from a database, in which views share columns.
GENERATED = "docs/data-dictionary.md"
# Variables of the environment that are no settings of ours.
FOREIGN = {"MALLOC_ARENA_MAX", "TEST_DATABASE_URL", "DATABASE_URL", "PGSSLMODE", "DYNO"}
NEEDED = {
    "DATABASE_URL": "postgres://localhost/customers",
    "SALESFORCE_LOGIN_URL": "https://acme.my.salesforce.com",
    "SALESFORCE_CLIENT_ID": "id",
    "SALESFORCE_CLIENT_SECRET": "a secret",
}


def names() -> set[str]:
    return {name.upper() for name in Settings.model_fields}


# ── the pages themselves ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """A link leads to a file that exists, and to a heading that is in it."""
    for link in links(page):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(str(path.relative_to(ROOT))), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    """A test that a page names, by its path below `tests/`, exists, and so does a path of ours."""
    for name in re.findall(r"(?:\w+/)*\btest_\w+\.py\b", read(page)):
        assert (ROOT / "tests" / name.removeprefix("tests/")).exists(), name
    for span in spans(prose(page)):
        if re.fullmatch(r"(sync|tests|migrations|docs|\.ci)/[\w./-]*", span) and "opportunity" not in span:
            assert (ROOT / span).exists(), span


def test_nothing_is_said_twice() -> None:
    """No sentence of more than eight words, and no row of a table, stands in two places."""
    said: dict[str, list[str]] = defaultdict(list)
    for page in set(PAGES) - {GENERATED}:
        for part in re.split(r"\n\s*\n|\n(?=[-|#] ?)|(?<=[.:;?!]) ", prose(page)):
            sentence = " ".join(re.sub(r"[*`|]|\]\([^)]*\)|^[-#\d. ]+", " ", part).lower().split())
            if len(sentence.split()) > 8:
                said[sentence].append(page)

    assert {sentence: where for sentence, where in said.items() if len(where) > 1} == {}


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_are_named_exist(page: str) -> None:
    """A name in capitals with a prefix of ours is a setting, or is shown as a refused one."""
    shown = {"SYNC_INTERVALL"} if page == "docs/settings.md" else set()
    found = set(re.findall(r"\b(?:SYNC|SALESFORCE|LOG)_[A-Z_]+\b", read(page)))

    assert found <= names() | shown


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_the_text_exist(page: str) -> None:
    """A command between backticks is one that the command line takes."""
    for span in spans(prose(page)):
        words = span.removesuffix(" …").split()
        if words[:3] == ["python", "-m", "sync"] and words[3:] not in ([], ["…"]):
            assert words[3] in group().commands, span
            assert {word for word in words[4:] if word.startswith("--")} <= options(words[3]), span
        elif words[:1] == ["make"]:
            for word in words[1:]:
                assert "=" in word or word in targets() | ANNOUNCED, span


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


# ── each block has a rule ─────────────────────────────────────────────────────────────────────────────


def test_every_block_has_a_rule() -> None:
    """A block says its language, and a rule covers the language."""
    assert [str(block) for block in all_blocks() if block.language not in RULES] == []


@pytest.mark.parametrize("block", all_blocks("text"), ids=str)
def test_nobody_types_a_text(block: Block) -> None:
    """A block without a rule holds nothing that somebody would type."""
    typed = re.compile(
        r"^\s*(\$|python|make|heroku|git|alembic|createdb|openssl|select|insert|alter)\b", re.I
    )

    assert [line for line in block.text.splitlines() if typed.match(line)] == []


@pytest.mark.parametrize("block", all_blocks("dotenv"), ids=str)
def test_settings_in_blocks_are_taken(block: Block) -> None:
    """A line of a `.env` is a setting with a value that is taken."""
    given = dict(line.split("=", 1) for line in block.text.splitlines())

    assert set(given) <= names()
    settings_from(NEEDED | given)


@pytest.mark.parametrize("block", all_blocks("sh"), ids=str)
def test_commands_in_blocks_are_taken(block: Block) -> None:
    """Every command of a shell block is one that its program takes."""
    for command in commands(block):
        if (arguments := sync_arguments(command)) is not None:
            parse(arguments)
            if command[0] == "heroku":
                assert arguments[0] in procfile(), command
        else:
            assert command[0] in CHECKS, f"no rule for {' '.join(command)}"
            CHECKS[command[0]](command)


def procfile() -> dict[str, str]:
    lines = (ROOT / "Procfile").read_text().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def check_make(command: list[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for word in command[1:]:
        variable, assigned, _ = word.partition("=")
        if command[1] in ANNOUNCED - targets():
            assert variable in {*ANNOUNCED, "NAME", "OBJECT", "INDEX", "DESCRIBE"}, command
        elif assigned:
            assert f"$({variable})" in text, command
        else:
            assert word in targets(), command


def check_module(command: list[str]) -> None:
    assert command[1] == "-m", command
    assert importlib.util.find_spec(command[2]), command


def check_heroku(command: list[str]) -> None:
    """The form of Heroku's own commands: they need an account."""
    match command[1:]:
        case ["create"]:
            pass
        case ["addons:create", plan]:
            assert plan in json.loads((ROOT / "app.json").read_text())["addons"]
        case ["ps:scale", what]:
            assert what.split("=")[0] in procfile()
            assert what.split("=")[1].isdigit()
        case ["config:set", *given]:
            values = dict(one.split("=", 1) for one in given)
            assert set(values) <= names() | FOREIGN, command
            ours = {name: value for name, value in values.items() if name in names() and value != "…"}
            settings_from(NEEDED | ours)
        case ["ps:restart", process]:
            assert process in procfile()
        case ["pg:credentials:rotate", "DATABASE_URL"]:
            pass
        case ["pg:credentials:create", "DATABASE_URL", "--name", role]:
            assert role.isidentifier()
        case _:
            raise AssertionError(f"no rule for {' '.join(command)}")


def check_alembic(command: list[str]) -> None:
    CommandLine().parser.parse_args(command[1:])


def check_createdb(command: list[str]) -> None:
    """test_examples makes a database with these options in SQL."""
    assert command[1:-1] == ["--encoding", "UTF8", "--locale", "C", "--template", "template0"]


def check_git(command: list[str]) -> None:
    assert command[1:] == ["push", "heroku", "main"]


def check_sf(command: list[str]) -> None:
    """The form of commands of Salesforce's command line, which is not a part of this project."""
    known = {
        ("org", "login", "web"): {"--alias", "--instance-url"},
        ("project", "generate"): {"--name"},
        ("project", "deploy", "start"): {"--source-dir", "--target-org"},
        ("org", "assign", "permset"): {"--name", "--on-behalf-of", "--target-org"},
        ("sobject", "describe"): {"--sobject", "--target-org", "--json"},
    }
    words = tuple(word for word in takewhile(lambda word: not word.startswith("-"), command[1:]))
    assert {word for word in command if word.startswith("-")} <= known[words], command


def check_cp(command: list[str]) -> None:
    """What is copied is there."""
    assert (ROOT / command[1]).exists(), command


def check_folder(command: list[str]) -> None:
    """A folder of the reader's own."""


def check_openssl(command: list[str]) -> None:
    """test_examples runs these."""
    assert command[1] in ("genrsa", "req")


CHECKS = {
    "make": check_make,
    "python": check_module,
    "heroku": check_heroku,
    "alembic": check_alembic,
    "createdb": check_createdb,
    "git": check_git,
    "openssl": check_openssl,
    "sf": check_sf,
    "cp": check_cp,
    "mkdir": check_folder,
    "cd": check_folder,
}


def test_the_command_parser_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """The check of commands sees an option that does not exist."""
    with pytest.raises(Exception, match="No such option"):
        parse(["run", "--fast"])
    assert "--accept-org" in options("run")
