"""Plant the bugs of tests/mutations.py one at a time, and see that tests fail: `python -m tests.mutate [WORD…]`.

Each bug is planted in a scratch copy of the working tree, in which its tests are run; there is a copy for each core. A
word selects the bugs whose name or module contains it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from queue import SimpleQueue

from tests.mutations import MUTATIONS, Mutation
from tests.support.databases import server

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 60  # that a test may take with a bug in the code, which may never end
PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--timeout={SECONDS}", "--tb=line", "-rfE")
TESTS_FAILED = 1  # pytest's exit code; others say that they could not be run
PARALLEL = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a bug (caught, escaped, or unclear), how long its tests took, and what pytest printed."""

    verdict: str
    seconds: float
    output: str


def main(words: Sequence[str]) -> int:
    """Plant the bugs that the words select, all where there are none; 0 when each is caught, 1 when one escapes,
    2 when that cannot be told."""
    chosen = selected(MUTATIONS, words)
    if not chosen:
        return fail(f"no mutation has {' or '.join(words)} in its name or module")
    if wrong := [problem for mutation in chosen for problem in problems(mutation, ROOT)]:
        return fail(*wrong)
    # One PostgreSQL for all runs of pytest: starting one takes longer than most of the tests.
    with server() as url, ExitStack() as stack:
        copies = [stack.enter_context(scratch_copy()) for _ in range(min(PARALLEL, len(chosen)))]
        if not_whole := whole(copies[0], url, chosen):
            return fail("these tests fail although nothing is planted:", not_whole)
        began, verdicts = time.monotonic(), []
        for mutation, attempted in zip(chosen, attempts(copies, url, chosen), strict=True):
            say(f"{attempted.verdict:8} {attempted.seconds:5.1f} s  {mutation.name} ({mutation.module})")
            if attempted.verdict == "unclear":
                say(attempted.output[-3000:])
            verdicts.append(attempted.verdict)
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in ("caught", "escaped", "unclear"))
    say(f"{counts}, in {time.monotonic() - began:.0f} s")
    return 2 if "unclear" in verdicts else 1 if "escaped" in verdicts else 0


def selected(mutations: Sequence[Mutation], words: Sequence[str]) -> list[Mutation]:
    """Those whose name or module contains one of the words, in any letter case; all where there is no word."""
    return [
        one
        for one in mutations
        if not words or any(word.lower() in f"{one.name} {one.module}".lower() for word in words)
    ]


def problems(mutation: Mutation, root: Path) -> list[str]:
    """Why a mutation cannot be planted in a tree, or its tests cannot be run there; none where all is well."""
    path, found = root / mutation.module, []
    count = path.read_text().count(mutation.before) if path.is_file() else 0
    if not path.is_file():
        found.append(f"there is no {mutation.module}")
    elif count != 1:
        text = mutation.before.strip()[:80]
        found.append(f"{mutation.module} has its text {count} times, and must have it once: {text!r}")
    if mutation.before == mutation.after:
        found.append("the replacement changes nothing")
    if not mutation.tests:
        found.append("no test is named")
    found += [
        f"there is no {test}" for test in mutation.tests if function_of(test) not in functions(root, test)
    ]
    return [f"{mutation.name}: {problem}" for problem in found]


def function_of(test: str) -> str:
    """The function of a node id: without file and parameters."""
    return test.partition("::")[2].partition("[")[0]


def functions(root: Path, test: str) -> frozenset[str]:
    """The functions of a node id's file."""
    return functions_in(root / test.partition("::")[0])


@cache
def functions_in(path: Path) -> frozenset[str]:
    """The functions that a module defines; none where there is no such file."""
    if not path.is_file():
        return frozenset()
    return frozenset(re.findall(r"^def (\w+)\(", path.read_text(), re.MULTILINE))


@contextmanager
def scratch_copy() -> Iterator[Path]:
    """A temporary copy of the working tree's files that are not ignored, with the same virtual environment."""
    given = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(given, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory(prefix="sync-mutations-") as folder:
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():  # else it was removed, and that is not committed yet
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(folder) / name)
        if (ROOT / ".venv").exists():
            (Path(folder) / ".venv").symlink_to((ROOT / ".venv").resolve())
        yield Path(folder)


def run(copy: Path, url: str, *arguments: str) -> tuple[int, str]:
    """The exit code and the output of Python in a copy."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "TEST_DATABASE_URL": url}
    environment.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # each run would compile what the one before it has compiled
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def whole(copy: Path, url: str, chosen: Sequence[Mutation]) -> str:
    """What is wrong where the tests cannot be run without a bug, or one of them fails; "" where all pass."""
    _, imported = run(copy, url, "-c", "import sync; print(sync.__file__)")
    if not Path(imported.strip()).is_relative_to(copy):
        return f"they would import {imported.strip()}, which is not in the copy {copy}"
    tests = list(dict.fromkeys(test for mutation in chosen for test in mutation.tests))
    code, output = run(
        copy, url, *PYTEST, "--collect-only", *tests
    )  # in parallel, what is missing is not named
    if code == 0:
        parallel = ("-n", str(PARALLEL), "--dist", "loadgroup") if len(tests) > 4 else ()
        code, output = run(copy, url, *PYTEST, *parallel, *tests)
    return output if code else ""


def attempts(copies: Sequence[Path], url: str, chosen: Sequence[Mutation]) -> Iterator[Attempt]:
    """What became of each bug, in the order given; in each copy there is one at a time."""
    free: SimpleQueue[Path] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def attempt(mutation: Mutation) -> Attempt:
        copy, began = free.get(), time.monotonic()
        try:
            with planted(copy, mutation):
                code, output = run(copy, url, *PYTEST, "-x", *mutation.tests)
        finally:
            free.put(copy)
        return Attempt(verdict(code, output), time.monotonic() - began, output)

    with ThreadPoolExecutor(len(copies)) as pool:
        yield from pool.map(attempt, chosen)


@contextmanager
def planted(copy: Path, mutation: Mutation) -> Iterator[None]:
    """The module with the bug, while the context lasts."""
    path = copy / mutation.module
    good = path.read_text()
    write(path, good.replace(mutation.before, mutation.after))
    try:
        yield
    finally:
        write(path, good)


def write(path: Path, source: str) -> None:
    """Write a module, and remove its compiled form: it counts as current by its size and its second alone."""
    path.write_text(source)
    Path(cache_from_source(str(path))).unlink(missing_ok=True)


def verdict(code: int, output: str) -> str:
    """What a run of pytest says of a bug. A test that failed caught it; code that cannot be imported, or a fixture
    that fails, is a bug that nobody would commit, and proves nothing."""
    if code == 0:
        return "escaped"
    return "caught" if code == TESTS_FAILED and re.search("^FAILED ", output, re.M) else "unclear"


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def fail(*lines: str) -> int:
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
