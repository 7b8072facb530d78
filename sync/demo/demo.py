"""The demo: an org, a database, a first sync, some changes, and what consumers see of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from sync.cli import progress, screen, show
from sync.cli.screen import say
from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import settings_from
from sync.demo import embedded
from sync.errors import SyncError
from sync.logs import logger, printable
from sync.operations import status, worker
from sync.postgres import feed, tables
from sync.replication import pipeline, requests
from sync.replication.budget import pacing
from sync.replication.runs import SyncContext
from sync.salesforce.session.session import Session

if TYPE_CHECKING:
    from sync.simulator import Simulator

CUSTOMER = text("SELECT * FROM crm.customer WHERE contact_id = :id")
SHOWN = (
    *("contact_id", "full_name", "title", "email", "email_normalized", "phone", "phone_e164"),
    *("account_id", "account_name", "billing_city", "parent_account_name", "changed_at"),
)


def play(accounts: int, contacts: int, *, keep: bool) -> None:
    """Run the demo; with `keep`, leave the worker running until Ctrl-C."""
    try:
        from sync.simulator import Simulator
    except ImportError as missing:
        raise SyncError(
            f"the demo needs more than a dyno has ({missing.name}): pip install -r requirements-dev.txt"
        ) from None
    logger.setup("error", "pretty")
    stop = threading.Event()
    with worker.stopping_on_signals(stop):
        title(f"A Salesforce org of {accounts:,} accounts and {contacts:,} contacts, and a PostgreSQL")
        with Simulator(accounts=accounts, contacts=contacts) as org, embedded.postgres() as url:
            with open_context(org, url, stop) as context:
                tell_story(context, org)
            show_next_steps(org, url, keep=keep)
            if keep:
                run_worker(org, url, stop)


def tell_story(context: SyncContext, sim: Simulator) -> None:
    """Run and show the steps: first sync, changes, second sync, verification, result."""
    embedded.migrate(context.engine)
    org = sim.org
    # The last records: the first ones of a generated org are special cases.
    moved, edited, doomed, revived, winner, loser = org.ids("Contact", deleted=False)[-6:]
    org.delete(revived)

    title("1. The first sync")
    first = run_pass(context)
    before = customer(context.engine, moved)

    title("2. Six things happen in Salesforce")
    other = next(
        id_
        for id_ in reversed(org.ids("Account", deleted=False))
        if org.record(id_)["ParentId"] and id_ != org.record(moved)["AccountId"]
    )
    newcomer = org.create(
        "Contact",
        {"FirstName": "Ada", "LastName": "Newcomer", "Email": "Ada.Newcomer@Example.com", "AccountId": other},
    )
    org.update(moved, {"AccountId": other, "Email": "  New.Address@Example.COM ", "Phone": "(415) 555-2671"})
    org.update(edited, {"Title": "Chief of Everything"})
    org.delete(doomed)
    org.undelete(revived)
    org.merge(winner, [loser])
    for line in (
        f"{newcomer} is created",
        f"{moved} moves to account {other}, with a new email and phone",
        f"{edited} gets a title",
        f"{doomed} is deleted",
        f"{revived} comes back from the recycle bin",
        f"{loser} is merged into {winner}",
    ):
        say(f"  {line}")

    seen = newest(context.engine)
    title("3. An incremental pass")
    second = run_pass(context)

    title(f"4. What the change feed says: select * from crm.changes({seen})")
    show.changes(feed.stream_changes(context.engine, seen, follow=False, stop=context.stop), as_json=False)

    title(f"5. The collated customer {moved}, before and after: select * from crm.customer")
    after = customer(context.engine, moved)
    rows = [(name, before[name], after[name], "<" if before[name] != after[name] else "") for name in SHOWN]
    screen.table("", ("column", "before", "after", ""), rows)

    title(f"6. The proof: {winner} is purged without a trace; python -m sync verify --repair")
    org.purge(winner, log=False)
    session = Session(context.settings, context.stop)
    proof = replace(context, command="verify", session=session)
    show.verified(
        pipeline.verify_all(proof, context.settings.sync_objects, repair=True, sample=0), as_json=False
    )

    title("7. Status")
    with tables.transaction(context.engine) as connection:
        settings = context.settings
        found = status.read_status(
            connection, settings.sync_objects, settings.max_lag, rules=pacing.rules_of(settings)
        )
    show.status(found, as_json=False)

    title("8. API calls")
    say(f"  first sync: {first}, incremental pass: {second}, and one login each")


def run_pass(context: SyncContext) -> int:
    """Run one pass over all objects; return the API calls it took."""
    session = Session(context.settings, context.stop)
    with progress.progress(replace(context, session=session)) as watched:
        done = pipeline.sync_all(watched)
    show.reports(done)
    return sum(report.api_calls for report in done)


def show_next_steps(sim: Simulator, url: str, *, keep: bool) -> None:
    """Print how to explore the demo."""
    title("Look around")
    if not keep:
        say("  Everything ends here. To look around with psql, and to try the commands:")
        say("  make demo ARGS=--keep   keeps it running, with the worker, until Ctrl-C")
        return
    say(f"  {embedded.psql()} '{url}'")
    say("  select * from crm.customer limit 5;  select * from crm.freshness;")
    say()
    say("  For `python -m sync status`, `check`, `resync` … in another terminal:")
    for name, value in settings_of(sim, url).items():
        sys.stdout.write(f"  export {name}='{value}'\n")  # credentials of this demo only, meant to be copied


def run_worker(sim: Simulator, url: str, stop: threading.Event) -> None:
    """Run the worker as on a dyno, every thirty seconds."""
    title("The worker is running; Ctrl-C ends everything")
    logger.setup("info", "pretty")
    with open_context(sim, url, stop, "worker") as context:
        jobs = {
            name: partial(pipeline.run_scheduled, context, name) for name in context.settings.sync_objects
        }
        begin = partial(pipeline.begin_scheduled, context)
        answer = partial(requests.answer_requests, replace(context, command="request"))
        beside = {"requests": (answer, timedelta(minutes=1))}
        worker.run_jobs(jobs, timedelta(seconds=30), stop, beside, begin=begin)


def settings_of(sim: Simulator, url: str) -> Mapping[str, str]:
    return {"DATABASE_URL": url, **sim.environment()}


@contextmanager
def open_context(
    sim: Simulator, url: str, stop: threading.Event, command: str = "demo"
) -> Iterator[SyncContext]:
    """Open the demo's settings, engine and session."""
    settings = settings_from(settings_of(sim, url), OBJECT_CHOICES)
    printable.hide(settings.secrets)
    engine = tables.engine(settings.postgres, owner="demo")
    try:
        session = Session(settings, stop)
        yield SyncContext(settings, session, engine, "demo", command, stop, reference=sim.clock.now)
    finally:
        engine.dispose()


def customer(engine: Engine, id_: str) -> Mapping[str, Any]:
    with tables.transaction(engine) as connection:
        return dict(connection.execute(CUSTOMER, {"id": id_}).mappings().one())


def newest(engine: Engine) -> int:
    with tables.transaction(engine) as connection:
        return feed.last_number(connection)


def title(line: str) -> None:
    say()
    say(line, style="bold")
