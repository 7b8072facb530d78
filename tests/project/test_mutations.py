"""The table of planted bugs fits the code, and what plants them tells a catch from an escape."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutate import ROOT, planted, problems, selected, verdict
from tests.mutations import MUTATIONS, Mutation

SIMPLE = Mutation("cursor: wrong", "code.py", "a == 1", "a == 2", ("test_code.py::test_it[some-value]",))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A module with a line of code, and a test of it."""
    (tmp_path / "code.py").write_text("good = a == 1\n")
    (tmp_path / "test_code.py").write_text("def test_it(some: str) -> None:\n    pass\n")
    return tmp_path


def test_every_bug_can_be_planted() -> None:
    """Each text is in its module exactly once, and each test that is named exists."""
    assert [problem for mutation in MUTATIONS for problem in problems(mutation, ROOT)] == []


def test_there_are_enough_of_them() -> None:
    """At least forty, each with a name of its own."""
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 40


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, []),
        (
            {"before": "a == 3"},
            ["cursor: wrong: code.py has its text 0 times, and must have it once: 'a == 3'"],
        ),
        ({"before": "o"}, ["cursor: wrong: code.py has its text 2 times, and must have it once: 'o'"]),
        ({"module": "other.py"}, ["cursor: wrong: there is no other.py"]),
        ({"after": "a == 1"}, ["cursor: wrong: the replacement changes nothing"]),
        ({"tests": ()}, ["cursor: wrong: no test is named"]),
        ({"tests": ("test_code.py::test_no",)}, ["cursor: wrong: there is no test_code.py::test_no"]),
        ({"tests": ("test_no.py::test_it",)}, ["cursor: wrong: there is no test_no.py::test_it"]),
    ],
)
def test_an_entry_that_does_not_fit_is_named(tree: Path, changed: dict[str, object], told: list[str]) -> None:
    """What is wrong with an entry is told with its name."""
    entry = {field: getattr(SIMPLE, field) for field in Mutation.__slots__} | changed

    assert problems(Mutation(**entry), tree) == told


def test_a_bug_is_taken_away_again(tree: Path) -> None:
    """A module has the bug while it is planted, and is as before afterwards, whatever happens."""
    seen = []

    def interrupted() -> None:
        with planted(tree, SIMPLE):
            seen.append((tree / "code.py").read_text())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert seen == ["good = a == 2\n"]
    assert (tree / "code.py").read_text() == "good = a == 1\n"


@pytest.mark.parametrize(
    ("code", "output", "found"),
    [
        (0, "1 passed", "escaped"),
        (1, "FAILED tests/test_code.py::test_it - assert 2 == 1", "caught"),
        # Neither code that cannot be imported nor a fixture that fails says anything of the test.
        (1, "ERROR tests/test_code.py::test_it - fixture", "unclear"),
        (2, "ERROR tests/test_code.py - SyntaxError", "unclear"),
        (4, "ERROR: not found: tests/test_code.py::test_it", "unclear"),
        (-9, "", "unclear"),
    ],
)
def test_what_a_run_says(code: int, output: str, found: str) -> None:
    """Only a test that failed caught a bug."""
    assert verdict(code, output) == found


def test_words_select() -> None:
    """A word selects by name or module, in any letter case; several select more; none selects all."""
    other = Mutation("feed: wrong", "sync/load/sql.py", "", "", ())
    both = [SIMPLE, other]

    assert selected(both, []) == both
    assert selected(both, ["Cursor"]) == [SIMPLE]
    assert selected(both, ["SQL", "code"]) == both
    assert selected(both, ["lease"]) == []
