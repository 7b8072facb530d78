"""What the README and the house files promise is what the code does."""

from __future__ import annotations

import inspect
import re
from datetime import time

import pytest
import typer

from sync.cli import commands as cli
from sync.config.settings import Settings
from sync.config.values import parse_duration
from sync.demo.commands import app
from sync.errors import SyncError
from tests.support.world import ROOT

README = (ROOT / "README.md").read_text()
# Not a setting: Heroku's name for this process.
HEROKU = {"DYNO"}
# Commands that need more than a dyno has.
DEVELOPMENT = {"demo", "simulator"}


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def options(command: str) -> set[str]:
    """The options of a command, as its --help lists them."""
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    names = {name for p in group.commands[command].params for name in p.opts if name.startswith("--")}
    return names - {"--help"}


def test_settings_table_is_complete() -> None:
    """The README names every setting, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", section("Settings"), re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == {name.upper() for name in Settings.model_fields} - HEROKU


def test_settings_table_gives_the_defaults() -> None:
    """Where the README gives a default in parentheses, it is the code's."""
    for name, default, meaning in (
        ("SALESFORCE_API_VERSION", "66.0", "66.0"),
        ("SYNC_BULK_THRESHOLD", "10000", 10_000),
        ("SYNC_DEFAULT_REGION", "US", "US"),
        ("SYNC_CUSTOM_FIELDS", "all", "all"),
        ("SYNC_VOLATILE_INTERVAL", "24h", parse_duration("24h")),
        ("SYNC_VERIFY_AT", "03:00", time.fromisoformat("03:00")),
        ("SYNC_TOMBSTONE_VALUES", "keep", "keep"),
        ("SYNC_TOMBSTONE_RETENTION", "30d", parse_duration("30d")),
    ):
        assert Settings.model_fields[name.lower()].default == meaning
        row = next(line for line in section("Settings").splitlines() if line.startswith(f"| `{name}`"))
        assert f"`{default}`" in row


def test_commands_and_options_exist() -> None:
    """Every `python -m sync` line of the README names a command and options that exist."""
    lines = re.findall(r"python -m sync (\w+)([^\n#`]*)", README)
    assert {name for name, _ in lines} >= {
        "worker",
        "run",
        "resync",
        "verify",
        "status",
        "check",
        "schema",
        "rejects",
        "changes",
    }
    for name, rest in lines:
        assert set(re.findall(r"--[a-z-]+", rest)) <= options(name), name


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "resync",
        "verify",
        "status",
        "check",
        "schema",
        "rejects",
        "changes",
        "grant",
        "revoke",
        "erase",
    ],
)
def test_operate_lists_every_option(command: str) -> None:
    """An option that exists is in the README's list of commands."""
    line = next(li for li in section("Operate").splitlines() if li.startswith(f"python -m sync {command} "))
    assert set(re.findall(r"--[a-z-]+", line)) == options(command)


def test_exit_codes_are_the_code_s() -> None:
    """The README's exit codes are those that errors carry, and those that a command gives its findings."""

    def codes(kind: type[SyncError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(sub) for sub in kind.__subclasses__()))

    found = {int(code) for code in re.findall(r"typer\.Exit\((\d+)\)", inspect.getsource(cli))}
    assert found == {1, 5}
    line = section("Operate").split("Exit codes:")[1].split("\n\n")[0]
    assert {int(code) for code in re.findall(r"(?:^|·)\s*(\d+) ", line)} == codes(SyncError) | found | {0}


def test_make_targets_exist() -> None:
    """Every `make x` of the README is a target."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in re.findall(r"make ([a-z ]+)", README):
        for word in line.split():
            if word in ("demo", "test", "lint", "bench", "migration"):
                assert word in targets
    assert "migration" in targets


def test_procfile_runs_what_exists() -> None:
    """Every process type runs a command that exists, and `heroku run` has every command that operators type."""
    types = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert types.pop("release") == "alembic upgrade head"
    assert types.pop("worker") == "python -m sync worker"
    group = typer.main.get_command(app)
    assert hasattr(group, "commands")
    assert set(types) == set(group.commands) - {"worker", *DEVELOPMENT}
    assert types == {name: f"python -m sync {name}" for name in types}


def test_requirements_are_pinned_and_name_no_host() -> None:
    """What Heroku installs is pinned with hashes, and no committed file names a download address."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        packages = re.findall(r"^[a-z0-9-]+(?:\[\w+\])?==\S+", text, re.M | re.I)
        assert len(packages) > 20
        assert text.count("--hash=sha256:") >= len(packages)
        assert "://" not in text
        assert "index" not in text
