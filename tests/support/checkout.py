"""A copy of the project in which anything may be changed, and what is typed in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.databases import folder_of_servers
from tests.support.world import ROOT

COPIED = ("alembic.ini", "pyproject.toml")


@dataclass(frozen=True)
class Checkout:
    """The product and its migrations, in a folder of their own."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> Checkout:
        """A new copy of the working tree."""
        for name in ("sync", "migrations", "docs/salesforce"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in COPIED:
            shutil.copy(ROOT / name, folder / name)
        return cls(folder)

    def python(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m …` of a new interpreter, which has imported nothing, with these settings and no others."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return subprocess.run(
            [sys.executable, "-m", *command],
            # Where a PostgreSQL of its own may have its files.
            env={**kept, "TMPDIR": str(folder_of_servers()), **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def succeed(self, *command: str, **environment: str) -> str:
        """The output of a command that must not fail."""
        done = self.python(*command, **environment)
        assert done.returncode == 0, done.stderr or done.stdout
        return done.stdout

    def files(self) -> set[str]:
        """The names of all files, below the folder."""
        return {
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and ".ruff_cache" not in path.parts
        }
