"""A copy of the project in which anything may be changed, and what is typed in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.databases import folder_of_servers
from tests.support.world import ROOT

COPIED = ("alembic.ini", "pyproject.toml")
# Runs modules one after the other, and prints the exit code and the output of each.
DRIVER = """
import contextlib, io, json, runpy, sys
done = []
for module, *arguments in json.loads(sys.argv[1]):
    sys.argv, output, code = [module, *arguments], io.StringIO(), 0
    with contextlib.redirect_stdout(output):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
    done.append((code, output.getvalue()))
print(json.dumps(done))
"""


@dataclass(frozen=True)
class Checkout:
    """The product and its migrations, in a folder of their own."""

    folder: Path

    @classmethod
    def at(cls, folder: Path, *folders: str) -> Checkout:
        """A new copy of the working tree, or of some folders of it."""
        for name in folders or ("sync", "migrations", "docs/salesforce"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in COPIED:
            shutil.copy(ROOT / name, folder / name)
        return cls(folder)

    def python(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python …` of a new interpreter, which has imported nothing, with these settings and no others."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [sys.executable, *command],
            # Where a PostgreSQL of its own may have its files.
            env={**kept, "TMPDIR": str(folder_of_servers()), **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def succeed(self, *command: str, **environment: str) -> str:
        """The output of `python -m …`, which must not fail."""
        done = self.python("-m", *command, **environment)
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    def succeed_all(self, *commands: Sequence[str], **environment: str) -> list[str]:
        """The outputs of several commands of Python modules, one after the other in one interpreter: none may fail."""
        done = self.python("-c", DRIVER, json.dumps(commands), **environment)
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        for command, (code, output) in zip(commands, results, strict=True):
            assert code == 0, f"{' '.join(command)}: {done.stderr or output}"
        return [output for _, output in results]

    def files(self) -> set[str]:
        """The names of all files, below the folder."""
        return {
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and ".ruff_cache" not in path.parts
        }
