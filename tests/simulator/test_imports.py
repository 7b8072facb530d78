"""The simulator's modules: their imports have one direction, and none leads to the product."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import sync.simulator

FOLDER = Path(sync.simulator.__file__).parent
LARGEST_PACKAGE = 25  # modules in one folder


def name_of(path: Path) -> str:
    """The dotted name of a module; a package goes by its own name."""
    parts = path.relative_to(FOLDER).with_suffix("").parts
    return ".".join(["sync.simulator", *parts]).removesuffix(".__init__")


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of ``known`` that a file imports, also inside functions and for type checkers only."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path.name} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            used |= (inner & known) or {node.module}
    return used


def test_no_module_is_imported_by_what_it_imports() -> None:
    """The imports between the simulator's modules form no cycle."""
    paths = {name_of(path): path for path in FOLDER.rglob("*.py")}
    graph = {name: imported(path, set(paths)) & set(paths) for name, path in paths.items()}

    order = list(TopologicalSorter(graph).static_order())  # raises CycleError with the cycle

    assert set(order) == set(paths)


def test_the_simulator_imports_nothing_of_the_product() -> None:
    """Every import of the package ``sync`` stays inside the simulator."""
    paths = {name_of(path): path for path in FOLDER.rglob("*.py")}
    used = {name for path in paths.values() for name in imported(path, set(paths))}

    assert {name for name in used if name.split(".")[0] == "sync"} <= set(paths)


def test_folders_stay_small() -> None:
    """A folder of the simulator can be read at a glance."""
    folders = {path.parent for path in FOLDER.rglob("*.py")}

    assert {folder.name for folder in folders if len(list(folder.glob("*.py"))) > LARGEST_PACKAGE} == set()
