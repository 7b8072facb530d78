"""The commands `demo` and `simulator`; importing this module adds them to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sync.cli import administration  # noqa: F401  # adds its commands
from sync.cli.commands import app, main
from sync.errors import SyncError, UsageError

__all__ = ["app", "main"]


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running until Ctrl-C.")] = False,
    accounts: Annotated[int, typer.Option(min=10, help="Accounts in the simulated org.")] = 2_000,
    contacts: Annotated[int, typer.Option(min=50, help="Contacts in the simulated org.")] = 10_000,
) -> None:
    """Run everything on this machine: simulator, embedded Postgres, migrations, sync, changes, result."""
    from sync.demo import demo as story

    story.play(accounts, contacts, keep=keep)


@app.command()
def simulator(
    port: Annotated[int, typer.Option(help="0: any free port.")] = 8443,
    accounts: Annotated[int, typer.Option(min=0)] = 2_000,
    contacts: Annotated[int, typer.Option(min=0)] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed creates the same org.")] = 1,
    flow: Annotated[str, typer.Option(help="client_credentials, jwt or password.")] = "client_credentials",
    credentials_seed: Annotated[
        int | None, typer.Option(help="The same seed creates the same credentials; default: new ones.")
    ] = None,
    describe: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="One more object: its describe as JSON.")
    ] = None,
    records: Annotated[
        list[str] | None,
        typer.Option(metavar="OBJECT=NUMBER", help="The records of an object that a describe declares."),
    ] = None,
) -> None:
    """Run only the local Salesforce, over HTTPS; print the settings to use it with."""
    try:
        from sync.simulator.serve import record_count, serve
    except ImportError as missing:
        raise SyncError(
            f"the simulator needs more than a dyno has ({missing.name}): pip install -r requirements-dev.txt"
        ) from None
    try:
        others = dict(map(record_count, records or ()))
        serve(port, accounts, contacts, seed, flow, credentials_seed, describe or (), others)
    except ValueError as problem:  # a describe, a number or a flow that cannot be used
        raise UsageError(str(problem)) from None
