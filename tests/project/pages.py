"""The product's pages, README.md, SECURITY.md and docs/*.md, as tests read them: sections, tables, code blocks, links."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import typer

from sync.demo.commands import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "SECURITY.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page: where it begins, its language ("" where none is given), its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    return (ROOT / page).read_text()


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """The fenced blocks of a page, in order."""
    text = read(page)
    return tuple(
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])
        for found in FENCE.finditer(text)
    )


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages; every block where none is given."""
    return [block for page in PAGES for block in blocks(page) if not languages or block.language in languages]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", read(page))


def section(page: str, title: str) -> str:
    """What stands below a heading, down to the next one of the same level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n", read(page), re.M)
    assert found, f"{page} has no section {title!r}"
    rest = read(page)[found.end() :]
    return re.split(rf"^#{{1,{len(found[1])}}} ", rest, maxsplit=1, flags=re.M)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows of a text, without headers and rules."""
    lines = [line for line in FENCE.sub("", text).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = {place for place, row in enumerate(cells) if all(set(cell) <= set("-:") for cell in row)}
    return [row for place, row in enumerate(cells) if not {place, place + 1} & rules]


def spans(text: str) -> list[str]:
    """The texts between single backticks."""
    return SPAN.findall(text)


def anchors(page: str) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[str]:
    """Where the links of a page lead."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a shell block as words: continued lines joined, comments removed, && split."""
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        command: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                yield command
                command = []


def sync_arguments(command: Sequence[str]) -> list[str] | None:
    """The arguments of `python -m sync`, typed as that or by `heroku run -x`; None for another command."""
    match list(command):
        case ["python", "-m", "sync", *arguments]:
            return arguments
        case ["heroku", "run", "-x", name, "--", *arguments]:
            return [name, *arguments]
        case ["heroku", "run", "-x", name]:
            return [name]
        case ["heroku", "run", "-x", name, argument] if name in ("grant", "revoke"):
            return [name, argument]
        case ["heroku", "run", *rest]:
            raise AssertionError(f"heroku run {' '.join(rest)}: write heroku run -x COMMAND -- OPTIONS")
    return None


# ── the command line ──────────────────────────────────────────────────────────────────────────────────


def group() -> typer.core.TyperGroup:
    """The real command line."""
    found = typer.main.get_command(app)
    assert isinstance(found, typer.core.TyperGroup)
    return found


def parse(arguments: Sequence[str]) -> None:
    """Parse arguments as `python -m sync` does; click's UsageError for what it does not know."""
    name, *rest = arguments
    found = group()
    assert name in found.commands, f"there is no command {name}"
    with found.make_context("python -m sync", ["--help"], resilient_parsing=True) as context:
        found.commands[name].make_context(name, rest, parent=context)


def options(command: str) -> set[str]:
    """The long options of a command, as its --help lists them."""
    names = [name for one in group().commands[command].params for name in (*one.opts, *one.secondary_opts)]
    return {name for name in names if name.startswith("--")} - {"--help"}


# ── what the code says ────────────────────────────────────────────────────────────────────────────────


def modules() -> list[Path]:
    """The modules of the product, without the simulator and the one that runs when it is imported."""
    every = sorted((ROOT / "sync").rglob("*.py"))
    return [path for path in every if "simulator" not in path.parts and path.name != "__main__.py"]


@cache
def trees() -> dict[Path, ast.Module]:
    """The modules, parsed."""
    return {path: ast.parse(path.read_text()) for path in modules()}


@cache
def messages() -> tuple[str, ...]:
    """Every text in the code, with `…` for each value that is put into it."""
    found = []
    for path, tree in trees().items():
        constants = vars(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(template(node, constants))
    return tuple(found)


def template(node: ast.JoinedStr, constants: Mapping[str, object] = MappingProxyType({})) -> str:
    """An f-string with `…` for each value but those of a module's constants."""
    parts = []
    for part in node.values:
        value: object = None
        if isinstance(part, ast.Constant):
            value = part.value
        elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
            value = constants.get(part.value.id)
        parts.append(value if isinstance(value, str) else "…")
    return "".join(parts)


def pattern(quoted: str) -> re.Pattern[str]:
    """What a quotation with `…` for what it leaves out stands for."""
    return re.compile(".*".join(map(re.escape, quoted.split("…"))), re.S)


@cache
def log_events() -> dict[str, set[str]]:
    """The names of log events by level; `fields_…` for one whose end is a value."""
    found: dict[str, set[str]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and ast.unparse(node.func.value) == "log"
                and node.func.attr in ("debug", "info", "warning", "error", "exception", "log")
            ):
                name = node.args[1 if node.func.attr == "log" else 0]
                text = template(name) if isinstance(name, ast.JoinedStr) else str(ast.literal_eval(name))
                found.setdefault(node.func.attr, set()).add(text)
    return found
