"""The house: who may import whom, who talks to what, and what is written down in one place only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from sync.catalogue.objects import CATALOGUE
from tests.support.world import ROOT

# What each package may import beside what stands below all: errors, logs and the values of window.
PACKAGES = {
    "config": {"catalogue"},
    "catalogue": set(),
    "window": {"catalogue"},
    "salesforce": {"catalogue", "config", "window"},
    "postgres": {"catalogue", "config", "window"},
    "replication": {"salesforce", "postgres", "catalogue", "config", "window"},
    "operations": {"replication", "salesforce", "postgres", "catalogue", "config", "window"},
    "demo": {"cli", "operations", "replication", "salesforce", "postgres", "catalogue", "config", "window"},
    "cli": {"demo", "operations", "replication", "salesforce", "postgres", "catalogue", "config", "window"},
}
BELOW_ALL = {"errors", "logs"}
# Third-party libraries that one package alone may import.
OWNED = {
    "salesforce": {"requests", "simple_salesforce", "tenacity", "urllib3", "certifi"},
    "cli": {"typer", "rich", "click"},
    "config": {"pydantic", "pydantic_settings"},
}
# Inside and across packages, a module imports only from modules above it.
ORDER = (
    *(
        "errors",
        "activity",
        "printable",
        "derivation",
        "mapping",
        "phones",
        "values",
        "transform",
        "objects",
        "config",
        "logs",
        "window",
        "session",
        "soql",
        "prefetch",
    ),
    *(
        "extract",
        "locks",
        "bookkeeping",
        "replica_schema",
        "tables",
        "load",
        "state",
        "changes",
        "runs",
        "ledger",
        "rejects",
        "apply",
        "verify",
        "deletes",
        "windows",
        "refresh",
        "retention",
        "recompute",
        "pipeline",
        "erasure",
        "grants",
        "audit",
        "report",
        "embedded",
        "schedule",
        "screen",
        "show",
    ),
    *("demo", "wiring", "commands"),
)
SYNC = ROOT / "sync"
FOLDERS = {path.name for path in SYNC.iterdir() if (path / "__init__.py").is_file()}
TRANSPORT = {"requests", "simple_salesforce", "tenacity", "urllib3"}
# What reaches out of the process, keeps time, or keeps state: nothing for a pure module.
IMPURE = {
    *(
        "os",
        "io",
        "sys",
        "time",
        "socket",
        "ssl",
        "threading",
        "subprocess",
        "logging",
        "structlog",
        "random",
    ),
    *("sqlalchemy", "psycopg2", "alembic", "pydantic_settings", *TRANSPORT),
}


def modules(*, simulator: bool = False) -> Iterator[tuple[str, Path]]:
    """Every module of the product with its room's name; the simulator is a house of its own."""
    for path in sorted(SYNC.rglob("*.py")):
        room = room_of(path.relative_to(SYNC).with_suffix("").parts)
        if (room == "simulator") == simulator and room:
            yield room, path


def room_of(parts: Sequence[str]) -> str:
    """The module or folder of a package that a path or a dotted name leads to; "" for a package itself."""
    if parts[0] in ("config", "simulator") or (parts[0] == "logs" and parts[1:] in ((), ("__init__",))):
        return parts[0]
    last = parts[1] if parts[0] in FOLDERS and len(parts) > 1 else parts[0]
    return "" if last.startswith("__") or last in FOLDERS - {"demo"} else last


def imports(path: Path) -> set[str]:
    """The dotted names a module imports, wherever it does so; `from a import b` counts as a and as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def rooms_used(path: Path) -> set[str]:
    names = (tuple(name.split(".")[1:]) for name in imports(path) if name.startswith("sync."))
    return {room for parts in names if (room := room_of(parts))} & {*ORDER, "simulator"}


def strings(path: Path) -> Iterator[str]:
    """Every string of a module that is not documentation, the fixed parts of f-strings included."""
    tree = ast.parse(path.read_text())
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


# ── rooms ─────────────────────────────────────────────────────────────────────────────────────────────


def test_packages_are_the_architecture() -> None:
    """`ls sync/` shows at most fourteen entries, and all of them have their place."""
    entries = {path.stem for path in SYNC.iterdir() if path.suffix == ".py" or path.name in FOLDERS}

    assert entries - {"__init__", "__main__", "simulator"} == set(PACKAGES) | BELOW_ALL
    assert len(entries - {"__init__"}) <= 14


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_what_they_may(package: str) -> None:
    """A package imports those that it may, and no library that another one alone may know."""
    foreign = set().union(*(owned for owner, owned in OWNED.items() if owner != package))
    allowed = (
        PACKAGES[package] | BELOW_ALL | {package} | ({"simulator"} if package in ("demo", "cli") else set())
    )
    for path in sorted((SYNC / package).rglob("*.py")) or [SYNC / f"{package}.py"]:
        used = {name.split(".")[1] for name in imports(path) if name.startswith("sync.")}
        assert used <= allowed, path.name
        assert not libraries(path) & foreign, path.name


def test_every_room_is_in_the_list() -> None:
    """A new module has its place in the order before it has imports."""
    assert {room for room, _ in modules()} == set(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_rooms_import_from_above(room: str) -> None:
    """A module imports only from those above it in the list."""
    above = set(ORDER[: ORDER.index(room) + 1])
    # The demo plays on the simulator and cli starts it; both import it only when they are asked to.
    allowed = above | ({"simulator"} if room in ("demo", "commands") else set())

    for path in (path for each, path in modules() if each == room):
        assert rooms_used(path) <= allowed, path.name


def test_no_module_needs_itself() -> None:
    """Inside a folder imports have one direction, too: no module is imported by what it imports."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for _, path in modules()}
    known = {name.removesuffix(".__init__"): imports(path) for name, path in paths.items()}

    order = TopologicalSorter({name: (used & set(known)) - {name} for name, used in known.items()})

    assert set(order.static_order()) == set(known)


def test_a_dyno_needs_no_development_packages() -> None:
    """Simulator and embedded PostgreSQL are imported inside functions: a dyno does not have them."""
    absent = {"simulator", "embedded", "demo"}
    for room, path in modules():
        if room in absent:
            continue
        top_level = ast.Module([n for n in ast.parse(path.read_text()).body if not is_function(n)], [])
        named = {
            part
            for node in ast.walk(top_level)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sync")
            for part in [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        }
        assert not named & absent, path.name


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_only_the_session_talks_to_salesforce() -> None:
    """Transport ends in one room: nobody else knows the HTTP and retry libraries."""
    assert {room for room, path in modules() if libraries(path) & TRANSPORT} == {"session"}


def test_the_simulator_stands_alone() -> None:
    """The simulator shares no code with the product: a wrong belief must not pass on both sides."""
    for _, path in modules(simulator=True):
        assert rooms_used(path) <= {"simulator"}, path.name
        assert "sync" not in imports(path) - {"sync.simulator"}, path.name
        assert not libraries(path) & {"simple_salesforce", "tenacity", "sqlalchemy", "psycopg2"}, path.name


@pytest.mark.parametrize(
    "room",
    ["errors", "printable", "derivation", "mapping", "phones", "values", "transform", "objects", "soql"],
)
def test_the_middle_is_pure(room: str) -> None:
    """Mapping, transformation and query text talk to nobody and keep nothing."""
    [path] = [path for each, path in modules() if each == room]
    assert not libraries(path) & IMPURE


# ── one place for each decision ───────────────────────────────────────────────────────────────────────


def test_only_config_reads_the_environment() -> None:
    """Settings come from one room; nobody looks at a variable of his own."""
    readers = set()
    for room, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            named = (
                node.attr
                if isinstance(node, ast.Attribute)
                else node.id
                if isinstance(node, ast.Name)
                else ""
            )
            if named in ("environ", "getenv", "environb", "BaseSettings"):
                readers.add(room)

    assert readers == {"config"}


def test_object_names_stand_in_the_catalogue() -> None:
    """A new object is one declaration: no other module knows an object by its name."""
    name = re.compile(rf"\b({'|'.join(CATALOGUE)})\b")
    knowing = {room for room, path in modules() for text in strings(path) if name.search(text)}

    assert knowing <= {"objects", "demo"}


def test_table_names_come_from_the_catalogue() -> None:
    """No query names a replica or its view: their names follow from the catalogue."""
    name = re.compile(rf"\b(salesforce|crm)\.({'|'.join(each.table for each in CATALOGUE.values())})\b")
    knowing = {room for room, path in modules() for text in strings(path) if name.search(text)}

    assert knowing <= {"demo"}


def handlers(path: Path) -> list[str]:
    """The broad exception classes that a module catches."""
    caught = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            caught += [
                getattr(kind, "id", "everything")
                for kind in kinds
                if kind is None or getattr(kind, "id", "") in ("Exception", "BaseException")
            ]
    return caught


def test_broad_handlers_are_two() -> None:
    """`except Exception` stands twice: around an object's run and around a scheduled job."""
    broad = {room: caught for room, path in modules() if (caught := handlers(path))}

    assert {room for room, caught in broad.items() if "Exception" in caught} <= {
        "pipeline",
        "runs",
        "schedule",
    }
    assert sum(caught.count("Exception") for caught in broad.values()) == 2
    # Session and prefetch carry a thread's exception to its caller, whatever it is; nobody swallows one.
    assert {room for room, caught in broad.items() if set(caught) - {"Exception"}} <= {"session", "prefetch"}


def test_time_is_a_parameter() -> None:
    """Only the edges read this machine's clock; windows are made of Salesforce's. The worker's loop does not: a
    clock that is set back would stop it as long."""
    readers = {
        room
        for room, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr in ("now", "utcnow", "today") or ast.unparse(node.func) == "time.time")
    }

    assert readers <= {"wiring", "session"}


# ── manners ───────────────────────────────────────────────────────────────────────────────────────────


def python_files() -> list[Path]:
    return [
        path for folder in ("sync", "tests", "migrations") for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def test_modules_stay_small() -> None:
    """A module that outgrows a page of thought is split by meaning; 420 lines are the most."""
    sizes = {str(path.relative_to(SYNC)): len(path.read_text().splitlines()) for _, path in modules()}

    assert {name: size for name, size in sizes.items() if size > 420} == {}
    assert not {"utils.py", "helpers.py", "common.py", "misc.py"} & set(sizes)


def test_exceptions_to_the_rules_have_reasons() -> None:
    """A `noqa` or `type: ignore` says why it is there."""
    mute = re.compile(r"#\s*(noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[\w, -]+\])?)\s*$")
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in python_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mute.search(line)
    ]

    assert silent == []


def test_every_test_opens_with_its_promise() -> None:
    """A test begins with one sentence that says what is promised."""
    mute = [
        f"{path.name}::{node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not (ast.get_docstring(node) or "").rstrip().endswith((".", "!", "?"))
    ]

    assert mute == []


def test_every_module_says_what_it_is_for() -> None:
    """Every module opens with a sentence."""
    mute = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.name != "__main__.py"
        and path.read_text().strip()
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]

    assert mute == []
