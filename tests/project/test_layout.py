"""The architecture: which package imports which, who knows what library, and what is written in one place only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from sync.catalogue.catalogue import CATALOGUE
from tests.project.layout import (
    BELOW_ALL,
    MOST_ENTRIES,
    MOST_FILES,
    MOST_LAYERS,
    OWNED,
    PACKAGES,
    PLAYS_ON_IT,
    PURE,
    SHARED,
    SIMULATOR,
    layers,
)
from tests.support.world import ROOT

SYNC = ROOT / "sync"
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


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the product with its name below sync (`postgres.load.merge`); the simulator is not of it."""
    for path in sorted(SYNC.rglob("*.py")):
        parts = path.relative_to(SYNC).with_suffix("").parts
        if parts[0] not in (SIMULATOR, "__main__", "__init__"):
            yield ".".join(parts).removesuffix(".__init__"), path


def package(module: str) -> str:
    return module.split(".")[0]


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


def packages_used(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("sync.")}


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


# ── packages ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_packages_are_the_architecture() -> None:
    """`ls sync/` shows the packages of the layout and nothing else, few enough to be seen at a glance."""
    entries = {
        path.stem for path in SYNC.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }

    assert entries - {"__init__", "__main__", SIMULATOR} == set(PACKAGES) | BELOW_ALL
    assert len(entries - {"__init__"}) <= MOST_ENTRIES


def test_layers_are_few() -> None:
    """Packages import in one direction, in few layers, and Salesforce and Postgres never each other."""
    assert len(layers()) <= MOST_LAYERS
    assert "postgres" not in PACKAGES["salesforce"]
    assert "salesforce" not in PACKAGES["postgres"]


@pytest.mark.parametrize("name", [*PACKAGES, *sorted(BELOW_ALL)])
def test_packages_import_what_they_may(name: str) -> None:
    """A package imports those that it may, and no library that another one alone may know."""
    foreign = set().union(*(owned for owner, owned in OWNED.items() if owner != name))
    foreign |= {library for library, owners in SHARED.items() if name not in owners}
    allowed = {name} | (PACKAGES[name] | BELOW_ALL if name in PACKAGES else set())
    if name == PLAYS_ON_IT:
        allowed.add(SIMULATOR)
    for path in (path for module, path in modules() if package(module) == name):
        assert packages_used(path) <= allowed, path.name
        assert not libraries(path) & foreign, path.name


def test_the_layout_allows_no_more_than_is_used() -> None:
    """What a package may import is what it does import: the picture of it is true."""
    used: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for module, path in modules():
        if package(module) in PACKAGES:
            used[package(module)] |= packages_used(path) - BELOW_ALL - {package(module), SIMULATOR}

    assert used == PACKAGES


def test_packages_stay_small() -> None:
    """A package has a dozen files at most, and one further level below it."""
    folders = [path.parent for path in SYNC.rglob("__init__.py") if SIMULATOR not in path.parts]
    sizes = {folder: len([*folder.glob("*.py")]) - 1 for folder in folders}

    assert {folder.name: size for folder, size in sizes.items() if size > MOST_FILES} == {}
    assert max(len(folder.relative_to(SYNC).parts) for folder in folders) <= 2


def test_packages_introduce_themselves() -> None:
    """A package's `__init__` is a docstring that says where to start reading; it hides no origin of a name."""
    for module, path in modules():
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text())
            [only] = tree.body
            assert isinstance(only, ast.Expr), module
            start = re.search(r"Start with `(\w+)`", ast.get_docstring(tree) or "")
            assert start is not None, module
            assert (path.parent / f"{start[1]}.py").is_file() or (path.parent / start[1]).is_dir(), module


def test_no_module_needs_itself() -> None:
    """Imports have one direction inside the packages, too: no module is imported by what it imports."""
    known = {f"sync.{module}": imports(path) for module, path in modules()}

    order = TopologicalSorter({name: (used & set(known)) - {name} for name, used in known.items()})

    assert set(order.static_order()) == set(known)


def test_a_dyno_needs_no_development_packages() -> None:
    """Simulator, embedded PostgreSQL and the demo's story are imported inside functions: a dyno lacks them."""
    absent = {"simulator", "embedded", "demo.demo"}
    for module, path in modules():
        if module.startswith("demo.") and module != "demo.commands":
            continue
        top_level = ast.Module([n for n in ast.parse(path.read_text()).body if not is_function(n)], [])
        named = {
            name
            for node in ast.walk(top_level)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sync")
            for name in [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        }
        assert not [name for name in named if any(each in name for each in absent)], module


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_only_the_session_talks_to_salesforce() -> None:
    """Transport ends in one package: nobody else knows the HTTP and retry libraries."""
    users = {module for module, path in modules() if libraries(path) & TRANSPORT}

    assert {module.rpartition(".")[0] for module in users} == {"salesforce.session"}


def test_apprise_is_loaded_by_its_own_process_alone() -> None:
    """The library that sends alerts takes 36 MB and stays loaded: nothing imports the module that imports it."""
    users = {module for module, path in modules() if "apprise" in libraries(path)}

    assert users == {"operations.alerts.send"}
    assert not [module for module, path in modules() if "sync.operations.alerts.send" in imports(path)]


def test_the_simulator_stands_alone() -> None:
    """The simulator shares no code with the product: a wrong belief must not pass on both sides."""
    for path in sorted((SYNC / SIMULATOR).rglob("*.py")):
        assert packages_used(path) <= {SIMULATOR}, path.name
        assert "sync" not in imports(path) - {f"sync.{SIMULATOR}"}, path.name
        assert not libraries(path) & {"simple_salesforce", "tenacity", "sqlalchemy", "psycopg2"}, path.name


def test_the_middle_is_pure() -> None:
    """Mapping, transformation and query text talk to nobody and keep nothing."""
    pure = {module: path for module, path in modules() if module.startswith(PURE)}

    assert {module for module, path in pure.items() if libraries(path) & IMPURE} == set()
    assert set(PURE) <= set(pure)


# ── one place for each decision ───────────────────────────────────────────────────────────────────────


def test_only_config_reads_the_environment() -> None:
    """Settings come from one room; nobody looks at a variable of his own."""
    readers = set()
    for module, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            named = (
                node.attr
                if isinstance(node, ast.Attribute)
                else node.id
                if isinstance(node, ast.Name)
                else ""
            )
            if named in ("environ", "getenv", "environb", "BaseSettings"):
                readers.add(package(module))

    assert readers == {"config"}


def test_object_names_stand_in_the_catalogue() -> None:
    """A new object is one declaration: no other module names an object, in code, a comment or documentation."""
    name = re.compile(r"\b(Account|Contact)\b")
    knowing = {
        f"{module}:{number}"
        for module, path in modules()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if name.search(line) and package(module) not in ("catalogue", "demo")
    }

    assert knowing == set()


def test_table_names_come_from_the_catalogue() -> None:
    """No query names a replica or its view: their names follow from the catalogue."""
    name = re.compile(rf"\b(salesforce|crm)\.({'|'.join(each.table for each in CATALOGUE.values())})\b")
    knowing = {package(module) for module, path in modules() for text in strings(path) if name.search(text)}

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
    broad = {module: caught for module, path in modules() if (caught := handlers(path))}

    assert {module for module, caught in broad.items() if "Exception" in caught} == {
        "replication.runs",
        "operations.worker",
    }
    assert sum(caught.count("Exception") for caught in broad.values()) == 2
    # Session and prefetch carry a thread's exception to its caller, whatever it is; nobody swallows one.
    others = {module for module, caught in broad.items() if set(caught) - {"Exception"}}
    assert others <= {"salesforce.session.connection", "salesforce.session.retry", "salesforce.prefetch"}


def test_time_is_a_parameter() -> None:
    """Only the edges read this machine's clock; windows are made of Salesforce's. The worker's loop does not: a
    clock that is set back would stop it as long."""
    readers = {
        module
        for module, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr in ("now", "utcnow", "today") or ast.unparse(node.func) == "time.time")
    }

    assert {module.removesuffix(module.split(".")[-1]) for module in readers} == {
        "cli.",
        "salesforce.session.",
    }


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
