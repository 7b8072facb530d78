"""Commands around the replication: alerts, pruning, consumers; importing this module adds them."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from sync.cli import screen, show
from sync.cli.commands import app
from sync.cli.wiring import open_database, open_settings, schema_option, sender
from sync.errors import ConfigError, SyncError, UsageError
from sync.operations import grants, heroku_connect, pruning, worker
from sync.operations.alerts import incidents
from sync.postgres import tables


@app.command()
def alert(
    test: Annotated[
        bool, typer.Option("--test", help="Send a test message to each of SYNC_ALERT_URLS.")
    ] = False,
) -> None:
    """Send a test message; exit 1 unless every URL of SYNC_ALERT_URLS accepts it."""
    if not test:
        raise UsageError("alert sends a test message alone: add --test")
    stop, settings = threading.Event(), open_settings()
    if (send := sender(settings)) is None:
        raise ConfigError("SYNC_ALERT_URLS is not set: write URLs of Apprise, see docs/settings.md")
    with worker.stopping_on_signals(stop):
        outcomes = send(incidents.TEST, stop)
    for one in outcomes:
        if one.accepted:
            screen.say(f"{one.number}. {one.place}: accepted")
    if failed := [one for one in outcomes if not one.accepted]:
        raise SyncError("; ".join(f"{one.number}. {one.place}: {one.problem}" for one in failed))


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
) -> None:
    """Remove old entries of the feed and of the journal now, as the worker does each hour."""
    stop = threading.Event()
    with open_database() as (settings, engine), worker.stopping_on_signals(stop):
        keep = settings.sync_feed_retention, settings.sync_run_retention
        found = pruning.prunable(engine, *keep) if dry_run else list(pruning.prune(engine, *keep, stop))
    show.pruned(found, dry_run=dry_run)
    if any(one.waiting for one in found):
        raise typer.Exit(1)


@app.command()
def grant(
    role: Annotated[str, typer.Argument(help="An existing role of the database.", show_default=False)],
    old_values: Annotated[
        bool | None,
        typer.Option(
            "--old-values/--no-old-values",
            help="Whether its consumers of the feed see values before a change.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Let a consumer's role read schema crm, now and after later migrations, and nothing else."""
    with open_database() as (_, engine), tables.transaction(engine) as connection:
        done = grants.grant(connection, role, old_values=old_values)
    screen.say(done)


@app.command()
def revoke(
    role: Annotated[str, typer.Argument(help="An existing role of the database.", show_default=False)],
    consumer: Annotated[
        str | None,
        typer.Option("--consumer", help="End this consumer of the feed alone; the role keeps its access."),
    ] = None,
) -> None:
    """Take back what `grant` gave, and end the role's consumers of the feed."""
    with open_database() as (_, engine), tables.transaction(engine) as connection:
        if consumer is not None:
            done = grants.end_consumer(connection, role, consumer)
        else:
            done = grants.revoke(connection, role)
    screen.say(done)


@app.command("heroku-connect")
def heroku_connect_(
    schema: Annotated[
        str, typer.Option("--schema", help="The schema of the views; it is made where it is not there.")
    ] = heroku_connect.DEFAULT_SCHEMA,
    ids_from: Annotated[
        str | None,
        typer.Option("--ids-from", help="Take over the column id of Heroku Connect's tables in this schema."),
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the views of the schema.")] = False,
) -> None:
    """Make or remake views shaped like Heroku Connect's tables, for applications that only read."""
    if drop and ids_from is not None:
        raise UsageError("--drop and --ids-from exclude each other: give one of them")
    where = schema_option("--schema", schema)
    source = schema_option("--ids-from", ids_from) if ids_from is not None else None
    with open_database() as (settings, engine):
        done = (
            heroku_connect.drop_views(engine, where)
            if drop
            else heroku_connect.make_views(engine, settings.sync_objects, where, source)
        )
        for line in done:
            screen.say(line)
