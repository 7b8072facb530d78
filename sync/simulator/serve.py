"""The simulator in the foreground, for people and other processes."""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sync.simulator.simulator import Simulator


def serve(
    port: int = 8443,
    accounts: int = 1000,
    contacts: int = 3000,
    seed: int = 1,
    flow: str = "client_credentials",
    credentials_seed: int | None = None,
    describes: Iterable[Path] = (),
    others: Mapping[str, int] | None = None,
) -> None:
    """Run until SIGINT or SIGTERM; prints the CA file and the settings to paste into another shell.

    The same ``credentials_seed`` makes the same credentials, so that settings stay valid over a restart.
    ``describes`` and ``others`` are as for ``Simulator``: files of further objects, and numbers of records.
    ``flow`` is client_credentials, jwt or password (else ValueError); OSError when the port is taken.
    """
    with (
        _stopped_by_signal() as stop,
        Simulator(
            accounts,
            contacts,
            seed,
            port,
            credentials_seed=credentials_seed,
            describes=describes,
            others=others,
        ) as simulator,
    ):
        settings = simulator.environment(flow)
        org = simulator.org
        more = "".join(f", {org.count(name)} of {name}" for name in org.described)
        lines = [
            f"# A simulated Salesforce at {simulator.url}: {accounts} accounts, {contacts} contacts{more}.",
            f"# Its certificate authority: {simulator.ca_file}",
            "# Faults, clock, records (Ctrl-C ends it):",
            f"# curl --cacert {simulator.ca_file} -H 'X-Simulator-Token: {simulator.control_token}' "
            f"{simulator.url}/simulator",
            *(f"export {name}={_quoted(value)}" for name, value in settings.items()),
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        stop.wait()


def record_count(text: str) -> tuple[str, int]:
    """An object and a number of records from ``Opportunity=50``; ValueError for another form."""
    name, _, number = text.partition("=")
    if not name or not number.isdecimal():
        raise ValueError(f"{text!r} is not OBJECT=NUMBER, such as Opportunity=50")
    return name, int(number)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


@contextmanager
def _stopped_by_signal() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; the handlers that were there come back afterwards."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
