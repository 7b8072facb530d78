"""Releases, built from their requirements alone, and a small process manager that does what a platform does."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KILL_SECONDS = 30  # between SIGTERM and SIGKILL
MIGRATIONS = "migrations/versions"


@dataclass(frozen=True)
class Release:
    """The files of a release, and the virtual environment that was built for it."""

    folder: Path
    environment: Path

    def process(self, name: str) -> list[str]:
        """Return the command of a process type of the Procfile."""
        lines = (self.folder / "Procfile").read_text().splitlines()
        return shlex.split(dict(line.split(": ", 1) for line in lines)[name])

    def surroundings(self, dyno: str, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a dyno: the settings, and nothing of ours."""
        return {
            "PATH": f"{self.environment / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "LANG": "en_US.UTF-8",
            "PYTHONUNBUFFERED": "true",
            "WEB_CONCURRENCY": "2",
            "MALLOC_ARENA_MAX": "2",
            "DYNO": dyno,
            **settings,
        }

    def one_off(
        self, name: str, *arguments: str, settings: Mapping[str, str], seconds: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a process type once, as `heroku run -x` and the release phase do; its output in one text."""
        return subprocess.run(
            [*self.process(name), *arguments],
            cwd=self.folder,
            env=self.surroundings("release.1" if name == "release" else "run.1", settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )


# ── builds ────────────────────────────────────────────────────────────────────────────────────────────


def git(*arguments: str) -> str:
    """Run git in this project; return its output."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607  the one in PATH
    if done.returncode:
        raise AssertionError(f"git {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def copy_working_tree(target: Path) -> None:
    """Copy the files that git knows, or would add, as they are now."""
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        source = ROOT / name
        if name and source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)


def commit_before() -> str:
    """Return the last commit without the newest revision; AssertionError where the history does not go back."""
    newest = max(path.name for path in (ROOT / MIGRATIONS).glob("[0-9]*.py"))
    revision = newest.partition("_")[0]
    for commit in git("rev-list", "--first-parent", "HEAD").split():
        files = git("ls-tree", "--name-only", commit, f"{MIGRATIONS}/").split()
        if not files:
            break
        if not any(Path(file).name.startswith(f"{revision}_") for file in files):
            return commit
    raise AssertionError(f"no commit has the migrations without {newest}: fetch the whole history")


def copy_commit(commit: str, target: Path) -> None:
    """Write the files of a commit."""
    target.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(
        ["git", "archive", commit],  # noqa: S607  the one in PATH
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)  # noqa: S607  the one in PATH


def install(requirements: Path, environment: Path) -> str:
    """Make a clean virtual environment with these requirements and nothing else; return what pip says of it."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    for arguments in (["install", "--quiet", "--require-hashes", "-r", str(requirements)], ["check"]):
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"pip {arguments[0]}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout.strip()


def megabytes(environment: Path) -> float:
    """Return the size of the packages of an environment, without pip and compiled files."""
    [packages] = (environment / "lib").glob("python*/site-packages")
    files = (path for path in packages.rglob("*") if path.is_file() and not path.is_symlink())
    ours = [p for p in files if p.relative_to(packages).parts[0] != "pip" and p.suffix != ".pyc"]
    return sum(path.stat().st_size for path in ours) / 1e6


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Dyno:
    """One process of a release: started again when it ends, at once and then after growing pauses."""

    release: Release
    name: str
    settings: Mapping[str, str]
    log: Path
    starts: int = 0
    exits: list[int] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Dyno:
        """Start the process, and a thread that watches it."""
        self._launch()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _launch(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.release.process(self.name.split(".")[0]),
                cwd=self.release.folder,
                env=self.release.surroundings(self.name, self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.starts += 1

    def _watch(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            code = self._process.wait()
            if self._stopping.wait(pause):
                return
            self.exits.append(code)
            pause = min(pause * 2 or 1, 60)
            self._launch()

    @property
    def text(self) -> str:
        """What the process has printed."""
        return self.log.read_text() if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the dyno."""
        os.killpg(self._process.pid, number)

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM, and SIGKILL after 30 s; return the exit code (-9: killed) and the seconds it took."""
        self._stopping.set()
        began = time.monotonic()
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            code = self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            code = self._process.wait()
        return code, time.monotonic() - began
