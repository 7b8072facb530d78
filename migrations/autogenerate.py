"""A migration from the catalogue, without a database: `python -m migrations.autogenerate MESSAGE`."""

from __future__ import annotations

import ast
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.operations import ops
from alembic.script import Script, ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from migrations import permissions
from sync.config.settings import DatabaseSettings
from sync.demo import embedded

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    message = " ".join(" ".join(arguments).split())
    if not message:
        sys.stderr.write('say what changes: make migration MESSAGE="contact gets a nickname"\n')
        return 2
    written = generate(message)
    if written is None:
        sys.stdout.write(
            "the migrations already make what sync/catalogue/objects and sync/postgres/tables.py say\n"
        )
        return 0
    format_file(written)
    sys.stdout.write(f"wrote {written.relative_to(ROOT)}; read it, then: make test\n")
    if permissions.refresh():
        file = permissions.SHIPPED.relative_to(ROOT)
        sys.stdout.write(f"wrote {file}; deploy it as docs/salesforce-setup.md says\n")
    return 0


def generate(message: str) -> Path | None:
    """Migrate a server of our own to the newest revision and write what is missing; None if nothing is."""
    alembic = Config(str(ROOT / "alembic.ini"), cmd_opts=Namespace(quiet=True, x=None))
    seen: list[ops.MigrationScript] = []

    def see(_context: Any, _revision: Any, directives: list[ops.MigrationScript]) -> None:
        seen.extend(directives)

    with embedded.postgres() as url:
        target = DatabaseSettings.model_validate({"database_url": url}).postgres
        engine = create_engine(target, poolclass=NullPool)
        embedded.migrate(engine)
        with engine.begin() as connection:
            alembic.attributes["connection"] = connection
            script = command.revision(
                alembic,
                message,
                autogenerate=True,
                rev_id=following(alembic),
                process_revision_directives=see,
            )
    assert isinstance(script, Script)
    written = Path(script.path)
    if all(one.upgrade_ops is None or one.upgrade_ops.is_empty() for one in seen):
        written.unlink()
        return None
    return written


def following(alembic: Config) -> str:
    """The next number: revisions are counted, so that they sort."""
    heads = ScriptDirectory.from_config(alembic).get_heads()
    if len(heads) > 1:
        raise SystemExit(f"two branches grew ({', '.join(heads)}): rebase one migration onto the other")
    return f"{int(heads[0]) + 1 if heads else 1:04d}"


def format_file(path: Path) -> None:
    """As a person would have written it: SQL looks like SQL, and `make lint` has nothing to say."""
    path.write_text(unfold(path.read_text()))
    for arguments in (("check", "--fix", "--quiet"), ("format", "--quiet")):
        subprocess.run([sys.executable, "-m", "ruff", *arguments, str(path)], cwd=ROOT, check=True)


def unfold(source: str) -> str:
    """Alembic's remarks gone, and each SQL text of several lines written in several lines."""
    lines = [line for line in source.splitlines() if not line.strip().startswith("# ###")]
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            row = node.lineno - 1
            plain = "\\" not in node.value and '"""' not in node.value and node.value[-1] != '"'
            if node.lineno == node.end_lineno and plain:
                folded = lines[row].encode()
                before, after = folded[: node.col_offset], folded[node.end_col_offset :]
                lines[row] = f'{before.decode()}"""\n{node.value}\n"""{after.decode()}'
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
