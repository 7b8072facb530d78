"""Runs the product against a team's own sandbox, tries every fact it believes, and prints a report.

    python -m tests.acceptance --report report.md

The SALESFORCE_* settings name the org; its user may create, edit and delete accounts and contacts. DATABASE_URL
names an empty database; without it the embedded server is used. Everything it makes is marked, and removed at
the end, also after SIGINT or SIGTERM. Ends with 0 where all went well, 1 where a step failed or a fact
differs, 2 for wrong arguments, 3 for settings or the login, 6 where the org or the database is refused, and 130
where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings

from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import Settings, load_settings, settings_from
from sync.config.values import SOURCES
from sync.demo import embedded
from sync.errors import StoppedError, SyncError, UsageError
from sync.logs import logger
from tests.acceptance.client import Client
from tests.acceptance.findings import DIFFERS, Findings
from tests.acceptance.org import check_org
from tests.acceptance.records import NAMES, PREFIX, remove
from tests.acceptance.report import render
from tests.acceptance.run import Plan, run, stopping
from tests.acceptance.story import Pace

STOPPED = 130


class Where(BaseSettings):
    """The database that the environment or `.env` names."""

    model_config = SOURCES
    database_url: SecretStr | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parser().parse_args(arguments)
    stop = threading.Event()
    with stopping(stop):
        try:
            with database():
                settings = load_settings(OBJECT_CHOICES)
                logger.setup("info", settings.log_format, settings.secrets, "acceptance")
                if chosen.clean:
                    return clean(settings, stop, production=chosen.production)
                return report(settings, chosen, stop)
        except StoppedError:
            return STOPPED
        except SyncError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m tests.acceptance",
        description="Run the product against a sandbox of yours, and report what holds.",
    )
    made.add_argument("--report", type=Path, metavar="FILE", help="write the report there, too")
    made.add_argument("--production", action="store_true", help="allow an org that is no sandbox")
    made.add_argument("--used-database", action="store_true", help="allow a database that is in use")
    made.add_argument("--probes-only", action="store_true", help="try the facts, load nothing")
    made.add_argument(
        "--with",
        dest="more",
        action="append",
        default=[],
        metavar="OBJECT.FIELD=VALUE",
        help="a value that the org requires of new records; may be repeated",
    )
    made.add_argument(
        "--login",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="another login to try: lines NAME=VALUE of its SALESFORCE_* settings; may be repeated",
    )
    made.add_argument("--pause", type=float, default=15, help="seconds between two looks (15)")
    made.add_argument("--patience", type=float, default=1800, help="seconds to wait for one thing (1800)")
    made.add_argument("--clean", action="store_true", help="only remove the marked records of earlier runs")
    return made


@contextmanager
def database() -> Iterator[None]:
    """The database of the settings, or the embedded server for the time of the run."""
    if Where().database_url is not None:
        yield
        return
    with embedded.postgres() as url:
        os.environ["DATABASE_URL"] = url
        try:
            yield
        finally:
            del os.environ["DATABASE_URL"]


def report(settings: Settings, chosen: argparse.Namespace, stop: threading.Event) -> int:
    """Run, print the report, and return the exit code."""

    def wait(seconds: float) -> None:
        if stop.wait(seconds):
            raise StoppedError

    plan = Plan(
        production=chosen.production,
        used_database=chosen.used_database,
        more=more_values(chosen.more),
        logins=[other_login(path, settings) for path in chosen.login],
        probes_only=chosen.probes_only,
    )
    findings, pace = Findings(), Pace(chosen.pause, chosen.patience, wait, time.monotonic)
    try:
        run(settings, plan, pace, stop, findings)
    finally:
        if findings.about:  # nothing was refused; what is known is shown, also of a run that was stopped
            text = render(findings, secrets(settings, *plan.logins))
            sys.stdout.write(text)
            if chosen.report is not None:
                chosen.report.write_text(text, encoding="utf-8")
    return int(bool(findings.failed or findings.of(DIFFERS)))


def secrets(*logins: Settings) -> list[str]:
    """What no report may hold: secrets of the settings, and what names the org or its user."""
    named = [
        value
        for each in logins
        for value in (each.salesforce_client_id, each.salesforce_username, each.salesforce_login_url)
        if value
    ]
    return [*named, *(secret for each in logins for secret in each.secrets)]


def more_values(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """Values of new records by object and field; raise UsageError for another form."""
    values: dict[str, dict[str, str]] = {}
    for each in given:
        name, equals, value = each.partition("=")
        sobject, dot, field = name.partition(".")
        if not (equals and dot and field) or sobject not in NAMES:
            raise UsageError(f"--with {each}: write Account.FIELD=VALUE or Contact.FIELD=VALUE")
        values.setdefault(sobject, {})[field] = value
    return values


def other_login(path: Path, settings: Settings) -> Settings:
    """The settings of a file, for a login alone; raise UsageError for a file that cannot be read."""
    try:
        pairs = [line.strip().partition("=") for line in path.read_text().splitlines() if "=" in line]
    except OSError as error:
        raise UsageError(f"--login {path}: {error.strerror}") from None
    given = {name.removeprefix("export ").strip(): value.strip().strip("'\"") for name, _, value in pairs}
    common = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "SALESFORCE_LOGIN_URL": settings.salesforce_login_url,
        "SALESFORCE_PRIVATE_HOSTS": ",".join(settings.salesforce_private_hosts),
        **({"REQUESTS_CA_BUNDLE": str(settings.requests_ca_bundle)} if settings.requests_ca_bundle else {}),
    }
    try:
        return settings_from(common | given, OBJECT_CHOICES)
    except ValidationError as error:
        names = ", ".join(str(each["loc"][0]).upper() for each in error.errors())
        raise UsageError(f"--login {path}: missing or wrong: {names}") from None


def clean(settings: Settings, stop: threading.Event, *, production: bool) -> int:
    """Remove the marked records of all runs, also of those that go on."""
    client = Client(settings, stop)
    check_org(client, production=production)
    sys.stdout.write(f"{remove(client, PREFIX)} records removed\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
