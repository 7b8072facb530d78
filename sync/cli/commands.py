"""The commands and their exit codes."""

from __future__ import annotations

import gc
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Annotated

import typer

import sync
from sync.catalogue.mapping import full_id
from sync.cli import progress, screen, show, watch
from sync.cli.wiring import (
    duration_option,
    lease_owner,
    open_context,
    open_database,
    open_keeper,
    sample_option,
    selected_objects,
    time_option,
)
from sync.errors import (
    ConfigError,
    ObjectsFailedError,
    SyncError,
    UsageError,
)
from sync.logs import logger, printable
from sync.operations import erasure, pruning, status, worker
from sync.operations.audit import checks, mapped
from sync.postgres import feed, tables
from sync.replication import pipeline, requests, runs
from sync.replication import rejects as rejected
from sync.replication.budget import estimates, pacing
from sync.replication.runs import SyncContext

MINUTE = timedelta(minutes=1)  # the longest pause after a failure of a job that goes on for ever

app = typer.Typer(
    help="Keeps Postgres an exact, fresh, provable copy of a Salesforce org's customers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it prints local variables, and those may hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Objects = Annotated[list[str] | None, typer.Option("--object", help="Only this object; may be repeated.")]
Wait = Annotated[
    str, typer.Option("--wait", help="How long to wait for another process that holds the lease.")
]
IgnoreBudget = Annotated[
    bool, typer.Option("--ignore-budget", help="Begin although the budget of API calls is used up.")
]


def main() -> None:
    """Run a command; print errors as one message and exit with their code."""
    # A commit waits for Postgres a dozen times, and after each wait for the threads that transform pages: by
    # default up to 5 ms each time.
    sys.setswitchinterval(0.001)
    logger.watch_crashes()
    try:
        app()
    except ObjectsFailedError as failed:
        for name, error in failed.failures:
            screen.error(failed.describe(name, error))
        sys.exit(failed.code)
    except SyncError as error:
        screen.error(str(error), lines=isinstance(error, ConfigError))
        sys.exit(error.exit_code)
    finally:
        screen.flush()
        logger.watch_crashes()  # Typer has replaced the hook


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────


def print_version(wanted: bool) -> None:
    """Print the version and exit, if requested."""
    if wanted:
        screen.say(f"salesforce-postgres-sync {sync.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Keeps Postgres an exact, fresh, provable copy of a Salesforce org's customers."""


@app.command("worker")
def run_worker() -> None:
    """Run unattended: a pass at once, then one at each SYNC_INTERVAL, until SIGTERM."""
    with open_context("worker", timedelta(minutes=10)) as context:
        settings, keeper = context.settings, open_keeper(context)
        context = replace(context, on_pass=keeper.note_pass)
        jobs = {name: partial(pipeline.run_scheduled, context, name) for name in settings.sync_objects}
        keep = settings.sync_feed_retention, settings.sync_run_retention
        beside = {
            "prune": (partial(pruning.scheduled, context.engine, *keep, context.stop), pruning.EACH),
            "requests": (partial(requests.answer_requests, replace(context, command="request")), MINUTE),
        }
        attendant = worker.Attendant(keeper.attend, keeper.note_stuck)
        begin = partial(pipeline.begin_scheduled, context)
        pace = partial(pacing.next_interval, context)
        gc.freeze()  # what is loaded by now stays: after each attempt only the rest is looked through
        worker.run_jobs(jobs, settings.sync_interval, context.stop, beside, attendant, begin, pace)


@app.command()
def run(
    wait: Wait = "10m",
    accept_org: Annotated[
        bool,
        typer.Option("--accept-org", help="Accept another org than the one whose records the tables hold."),
    ] = False,
    ignore_budget: IgnoreBudget = False,
) -> None:
    """Run one incremental pass over all objects, then exit."""
    with open_context("run", duration_option(wait)) as context, progress.progress(context) as context:
        context = replace(context, accept_org=accept_org, ignore_budget=ignore_budget)
        pacing.check(context)
        reports = pipeline.sync_all(context)
        left = other_org(context) if accept_org else []
    show.reports(reports)
    for line in left:
        screen.say(line)


@app.command()
def resync(
    objects: Objects = None,
    since: Annotated[
        str | None, typer.Option(help="Read again what changed since this time, e.g. 2026-01-31T00:00Z.")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Read this record again; may be repeated.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Read everything again (the default).")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the records and API calls it would take; change nothing.")
    ] = False,
    ignore_budget: IgnoreBudget = False,
    wait: Wait = "10m",
) -> None:
    """Read records again, through the same merge: readers are not disturbed, only differences are written."""
    if sum((since is not None, bool(ids), full)) > 1:
        raise UsageError("--since, --id and --full exclude each other: give one of them")
    start = time_option(since) if since is not None else None
    by_object = pipeline.group_by_object([full_id(id_) for id_ in ids]) if ids else {}
    with open_context("resync", duration_option(wait)) as context:
        context = replace(context, ignore_budget=ignore_budget)
        if not dry_run:
            pacing.check(context)
        names = selected_objects(objects, context.settings)
        if objects and (others := set(by_object) - set(names)):
            raise UsageError(f"the Ids belong to {', '.join(sorted(others))}, not to {', '.join(names)}")
        if dry_run and ids:
            show.estimates(estimates.of_ids(context, by_object))
        elif dry_run:
            show.estimates(estimates.of_resync(context, names, start))
        elif ids:
            show.reports(
                runs.run_concurrently(
                    list(by_object), lambda n: pipeline.resync_ids(context, n, by_object[n])
                )
            )
        else:
            with progress.progress(context) as watched:
                reports = pipeline.resync(watched, names, start)
            show.reports(reports)


@app.command()
def verify(
    objects: Objects = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read again what differs; remove what is proved deleted.")
    ] = False,
    deep: Annotated[
        str | None,
        typer.Option("--deep", help="Also compare all values, of this number of records or of `all`."),
    ] = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="Let --repair remove more than the guard allows.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what it would list, and its API calls; compare nothing."),
    ] = False,
    ignore_budget: IgnoreBudget = False,
    wait: Wait = "10m",
    as_json: Json = False,
) -> None:
    """Compare Salesforce and Postgres; exit 5 if differences remain, 6 if the guard refuses to remove."""
    if approve and not repair:
        raise UsageError("--approve needs --repair: alone it approves nothing")
    sample = sample_option(deep)
    with open_context("verify", duration_option(wait)) as context:
        names = selected_objects(objects, context.settings)
        if dry_run:
            show.estimates(estimates.of_verify(context, names, sample))
            return
        with progress.progress(context) as watched:
            watched = replace(watched, approve=approve, ignore_budget=ignore_budget)
            pacing.check(watched)
            reports = pipeline.verify_all(watched, names, repair=repair, sample=sample)
    show.verified(reports, as_json=as_json)
    if any((report.findings or {}).get("remaining") for report in reports):
        raise typer.Exit(5)


@app.command("status")
def print_status(
    as_json: Json = False,
    max_lag: Annotated[
        str | None,
        typer.Option(
            "--max-lag",
            help="The lag above which an object is stale; default: SYNC_MAX_LAG.",
        ),
    ] = None,
    watching: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Print it again and again, until Ctrl-C; the exit code is 0."),
    ] = False,
    interval: Annotated[
        str | None, typer.Option("--interval", help="The time between two readings of --watch; default: 2s.")
    ] = None,
) -> None:
    """Print freshness, rows, last runs, rejects; exit 1 if the first line says STALE or NOT LOADED."""
    every = watch.interval_option(interval, watching=watching)
    with open_database() as (settings, engine):
        allowed = duration_option(max_lag) if max_lag else settings.max_lag

        def read() -> status.Status:
            with tables.transaction(engine) as connection:
                return status.read_status(
                    *(connection, settings.sync_objects, allowed),
                    settings.sync_database_limit,
                    settings.sync_feed_retention,
                    pacing.rules_of(settings),
                )

        if watching:
            stop = threading.Event()
            with worker.stopping_on_signals(stop):
                watch.watch(read, every, stop, as_json=as_json)
            return
        found = read()
    show.status(found, as_json=as_json)
    if found.stale:
        raise typer.Exit(1)


@app.command()
def check(as_json: Json = False) -> None:
    """Test settings, login, org, permissions, every mapped field, API budget, database, migrations."""
    with open_context("check", timedelta(0)) as context:
        findings = list(checks.check(context.settings, context.session, context.engine))
    show.findings(findings, as_json=as_json)
    codes = {finding.code for finding in findings if finding.state == "failed"}
    if codes:
        raise typer.Exit(3 if 3 in codes else min(codes))


@app.command()
def schema(objects: Objects = None, as_json: Json = False) -> None:
    """Print the mapping against the org's describe: mapped, custom, hidden, retyped and unmapped fields."""
    with open_context("schema", timedelta(0)) as context:
        names = selected_objects(objects, context.settings)
        lines = [line for name in names for line in mapped.schema(context.settings, context.session, name)]
    show.mapping(lines, as_json=as_json)


@app.command()
def rejects(
    objects: Objects = None,
    every: Annotated[bool, typer.Option("--all", help="List the records, not only their reasons.")] = False,
    accept: Annotated[
        str | None, typer.Option("--accept", help="Let passes succeed despite this reason.")
    ] = None,
    refuse: Annotated[str | None, typer.Option("--refuse", help="Withdraw an acceptance.")] = None,
    as_json: Json = False,
) -> None:
    """Print records that could not be stored, by reason; each is removed when a later version can be
    stored."""
    if sum((every, accept is not None, refuse is not None)) > 1:
        raise UsageError("--all, --accept and --refuse exclude each other: give one of them")
    with open_database() as (settings, engine), tables.transaction(engine) as connection:
        names = selected_objects(objects, settings)
        if accept is not None:
            who = f"{settings.postgres.username or 'owner'} on {settings.dyno}"
            for name in rejected.accept(connection, names, accept, who):
                screen.say(f'{name}: "{accept}" is accepted: passes succeed, and status and verify name it')
        elif refuse is not None:
            for name in rejected.withdraw(connection, names, refuse):
                screen.say(f'{name}: "{refuse}" is not accepted any more')
        elif every:
            show.rejects(status.rejects(connection, names), as_json=as_json)
        else:
            show.reject_groups(rejected.reject_groups(connection, names), as_json=as_json)


@app.command(name="changes")
def changes_(
    after: Annotated[
        int | None, typer.Option(help="Entries after this number; default: the last twenty.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new entries.")] = False,
    as_json: Json = False,
) -> None:
    """Print the change feed, in the order of commits."""
    stop = threading.Event()
    with open_database() as (_, engine), worker.stopping_on_signals(stop):
        if after is None:
            with tables.transaction(engine) as connection:
                after = max(0, feed.last_number(connection) - 20)
        show.changes(feed.stream_changes(engine, after, follow=follow, stop=stop), as_json=as_json)


@app.command()
def erase(
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="The record of a person; may be repeated.")
    ] = None,
    email: Annotated[
        str | None,
        typer.Option("--email", help="List the records with this address, and ask before erasing them."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase what --email lists without asking.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Let the records of --id be stored again.")] = False,
    by: Annotated[
        str | None, typer.Option("--by", help="Who requested it, or the number of the request; stored.")
    ] = None,
    wait: Wait = "10m",
) -> None:
    """Erase a person: empty every copy of the record that is stored here, and never store it again."""
    if bool(ids) == (email is not None) or (undo and not ids):
        raise UsageError("give either --id (may be repeated) or --email; --undo needs --id")
    wait_time, stop = duration_option(wait), threading.Event()
    connections = tables.COMMAND_CONNECTIONS
    with open_database(connections) as (settings, engine), worker.stopping_on_signals(stop):
        if email is not None:
            with tables.transaction(engine) as connection:
                found = erasure.find_by_email(connection, email)
            show.matches(found)
            ids = [match.id for match in found]
            if not ids or not (yes or confirmed(len(ids))):
                raise typer.Exit(0 if not ids else 2)
        by_object = pipeline.group_by_object([full_id(id_) for id_ in ids or ()])
        me, who = lease_owner(settings), printable.escape_controls(by or "")[:200]
        who = who or f"{settings.postgres.username or 'owner'} on {settings.dyno}"
        if undo:
            show.lifted(erasure.lift(engine, by_object, me, who, wait_time, stop))
        else:
            show.erased(erasure.erase(engine, by_object, me, who, wait_time, stop))


def other_org(context: SyncContext) -> list[str]:
    """Return what to do after another org was accepted."""
    with tables.transaction(context.engine) as connection:
        return status.other_org(connection, context.settings.sync_objects)


def confirmed(count: int) -> bool:
    """Ask at the terminal; without a terminal the answer is no."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        screen.say("nothing was erased: add --yes, or name the records with --id")
        return False
    what = "this record, and never store it" if count == 1 else f"these {count} records, and never store them"
    return typer.confirm(f"Erase {what} again?")
