"""One run: the guards, the product's story, the probes, and the cleaning up, which nothing skips."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import FrameType

from sqlalchemy import Engine, text

from sync.config.settings import Settings
from sync.demo import embedded
from sync.errors import StoppedError, UsageError
from sync.logs import logger
from sync.postgres import tables
from sync.replication.runs import SyncContext
from sync.salesforce.session.retry import RetryPolicy
from sync.salesforce.session.session import Session
from tests.acceptance import bulk, composite, replication, rest
from tests.acceptance.client import Client
from tests.acceptance.findings import FAILURES, Findings, describe
from tests.acceptance.org import check_database, check_org
from tests.acceptance.records import Marked, remaining, remove
from tests.acceptance.story import OBJECTS, Pace, Story

log = logger.get(__name__)

CONNECTIONS = 4
CLEANUPS = 5  # attempts, with the pause of the run between two


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run may do: an org that is production, a used database, values that the org requires, more logins."""

    production: bool = False
    used_database: bool = False
    more: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    logins: Sequence[Settings] = ()
    probes_only: bool = False
    reference: Callable[[], datetime] | None = None  # as in SyncContext
    retry: RetryPolicy = field(default_factory=RetryPolicy)


def run(settings: Settings, plan: Plan, pace: Pace, stop: threading.Event, findings: Findings) -> None:
    """Run everything, and note in `findings` what was found.

    Raises GuardError where the org or the database is refused, and UsageError for unfit settings, before
    anything is written; LoginError. StoppedError is raised after the marked records are removed.
    """
    if missing := [name for name in OBJECTS if name not in settings.sync_objects]:
        raise UsageError(f"SYNC_OBJECTS lacks {', '.join(missing)}: add it, or unset SYNC_OBJECTS")
    client = Client(settings, stop)
    kind = check_org(client, production=plan.production)
    engine = tables.engine(
        settings.postgres, owner="acceptance", size=CONNECTIONS, replicas=settings.sync_replica_schema
    )
    try:
        if not plan.probes_only:
            check_database(engine, used=plan.used_database)
            embedded.migrate(engine, replicas=settings.sync_replica_schema)
        tell_about(findings, settings, client, kind, engine)
        marked = Marked(client, client.now(), plan.more)
        log.info("marked", name=marked.marker)
        with removing(marked, findings, pace):
            if not plan.probes_only:
                session = Session(settings, stop, plan.retry)
                context = SyncContext(
                    *(settings, session, engine, "acceptance", "run", stop),
                    wait=timedelta(minutes=1),
                    reference=plan.reference,
                )
                Story(context, marked, findings, pace).tell()
            probe(client, marked, findings, pace, [settings, *plan.logins])
    finally:
        engine.dispose()


def probe(client: Client, marked: Marked, findings: Findings, pace: Pace, logins: Sequence[Settings]) -> None:
    """Try all facts; a probe that fails leaves its facts open, and the next one goes on."""
    rest.probe_logins(client, logins, findings)
    rest.probe_service(client, findings)
    rest.probe_queries(client, marked, findings)
    rest.probe_groups(client, marked, findings)
    rest.probe_pages(client, findings)
    rest.probe_describe(client, findings)
    composite.probe(client, marked, findings)
    bulk.probe(client, marked, findings, pace)
    replication.probe(client, marked, findings, pace)


def tell_about(findings: Findings, settings: Settings, client: Client, kind: str, engine: Engine) -> None:
    """Note what the run was: nothing that names the org, the user or a host."""
    with engine.connect() as connection:
        server = str(connection.scalar(text("SHOW server_version"))).split()[0]
    findings.about += [
        ("begun", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("org", kind),
        ("API version", settings.salesforce_api_version),
        ("login flow", settings.flow),
        ("objects", ", ".join(settings.sync_objects)),
        ("PostgreSQL", server),
    ]


@contextmanager
def removing(marked: Marked, findings: Findings, pace: Pace) -> Iterator[None]:
    """Remove the run's records at the end, whatever it was, with signals held off meanwhile."""
    try:
        yield
    finally:
        with ignoring_signals():
            clean(marked, findings, pace)


def clean(marked: Marked, findings: Findings, pace: Pace) -> None:
    """Remove the run's records, in several attempts; the step fails if some stay."""
    client = marked.client
    client.stop = threading.Event()  # the run may be stopped; this is not
    with findings.step("remove the marked records", pace.now) as step:
        for attempt in range(CLEANUPS):
            try:
                step.note = f"{remove(client, marked.marker)} removed"
                break
            except FAILURES as error:
                log.warning("cleanup_failed", attempt=attempt + 1, reason=describe(error))
                try:
                    pace.wait(pace.pause)
                except StoppedError:
                    client.stop.wait(1)
        left = remaining(client, marked.marker)
        assert not left, f"{len(left)} records stay: delete those whose name begins with {marked.marker}"


@contextmanager
def ignoring_signals() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM inside the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the run: what waits or works raises StoppedError soon."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
