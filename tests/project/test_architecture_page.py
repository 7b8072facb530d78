"""docs/architecture.md and the picture in the README against the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from tests.project import diagram
from tests.project.layout import PACKAGES, layers
from tests.project.pages import PAGES, ROOT, blocks, prose, rows, section
from tests.replication.test_kill import BORDERS
from tests.support.world import World

PAGE = "docs/architecture.md"
MOST_HOPS = 6


def test_the_picture_is_drawn_from_the_layout() -> None:
    """The README's diagram is what the layout's data makes; `python -m tests.project.diagram` prints it."""
    drawn = [block.text for block in blocks("README.md") if block.language == "mermaid"]

    assert drawn == [diagram.mermaid()]
    assert [block for page in PAGES for block in blocks(page) if block.language == "mermaid"] == [
        block for block in blocks("README.md") if block.language == "mermaid"
    ]


def test_every_package_is_in_the_picture() -> None:
    """Each package of `sync/` has its words in the picture."""
    folders = {path.name for path in (ROOT / "sync").iterdir() if (path / "__init__.py").exists()}
    assert folders - {"logs"} <= set(diagram.CONTENTS)
    assert set(PACKAGES) | {"simulator"} == set(diagram.CONTENTS)


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, by their dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def layer(module: str) -> int:
    """The place of a module's package in the layout, 0 the lowest."""
    return next(place for place, packages in enumerate(layers()) if module.split(".")[1] in packages)


def test_the_way_of_a_record_leads_down() -> None:
    """At most six files; each is called by one before it, and none calls one before it but of a package below."""
    way = re.findall(r"^\d\. \[(sync/[\w/]+\.py)\]", section(PAGE, "How one record travels"), re.M)
    names = [name.removesuffix(".py").replace("/", ".") for name in way]
    uses = [imported(ROOT / name) for name in way]

    assert 4 <= len(way) <= MOST_HOPS
    for place in range(1, len(way)):
        assert any(names[place] in earlier for earlier in uses[:place]), f"nobody calls {way[place]}"
        back = {name for name in names[:place] if name in uses[place]}
        assert all(layer(name) < layer(names[place]) for name in back), f"{way[place]} calls back"


def test_every_transaction_is_there() -> None:
    """The transactions of the page are as many as those at which the tests kill a pass by REST."""
    told: list[int] = []
    for number, _, _ in rows(section(PAGE, "What each transaction holds")):
        first, _, last = number.partition("–")
        told += range(int(first), int(last or first) + 1)

    assert told == list(range(1, BORDERS["rest", "pass"] + 1))
    more = {2: "two", 3: "three", 4: "four", 5: "five"}[BORDERS["bulk", "pass"] - BORDERS["rest", "pass"]]
    assert f"By Bulk API there are {more} more" in section(PAGE, "What each transaction holds")


def transactions(world: World) -> list[str]:
    """The SQL of each transaction of a pass by REST that reads three pages."""
    world.environment["SYNC_OBJECTS"] = "Contact"
    world.page_by(2)
    world.run()
    world.org.create_many("Contact", [{"LastName": f"new{i}"} for i in range(5)])
    world.sim.clock.advance(60)
    open_ones: dict[int, list[str]] = {}
    committed: list[str] = []

    def note(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        open_ones.setdefault(id(connection), []).append(statement)

    def end(connection: Any) -> None:
        committed.append(" ".join(open_ones.pop(id(connection), [])))

    event.listen(Engine, "before_cursor_execute", note)
    event.listen(Engine, "commit", end)
    try:
        world.run()
    finally:
        event.remove(Engine, "before_cursor_execute", note)
        event.remove(Engine, "commit", end)
    return committed


def test_each_transaction_holds_what_is_told(world: World) -> None:
    """Each transaction of a pass touches the tables that the page names for it."""
    made = transactions(world)
    told = rows(section(PAGE, "What each transaction holds"))

    assert len(made) == BORDERS["rest", "pass"]
    for number, holds, _ in told:
        first, _, last = number.partition("–")
        for place in range(int(first), int(last or first) + 1):
            for table in re.findall(r"`(sync\.\w+)`", holds):
                assert table in made[place - 1], f"transaction {place} does not touch {table}"


def test_the_ten_words() -> None:
    """The glossary has ten words, and each is used outside it."""
    words = [word for word, _ in rows(section(PAGE, "The ten words"))]
    used = " ".join(prose(page) for page in PAGES if page != PAGE)

    assert len(words) == len(set(words)) == 10
    assert [word for word in words if not re.search(rf"\b{word}", used)] == []


def test_tables_that_are_named_exist() -> None:
    """A table of schema `sync` that a page names is one of ours."""
    from sync.postgres.bookkeeping import metadata

    ours = {f"{table.schema}.{table.name}" for table in metadata.tables.values()}
    for page in PAGES:
        named = set(re.findall(r"`(sync\.[a-z_]+)(?:\.\w+)?`", prose(page)))
        assert named <= ours, page
