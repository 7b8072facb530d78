"""Send a message in a short process of its own, limited in time; a dead service stops nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from sync.config.alerts import url_secrets
from sync.config.surroundings import child_environment
from sync.logs.printable import redact
from sync.operations.alerts.incidents import Message
from sync.salesforce.session.http import trusted_certificates

LIMIT = 30.0  # seconds for one message to all URLs, the start of the process included
LOOK = 0.2  # seconds between two looks at the request to stop
ROOT = Path(__file__).resolve().parents[3]  # of the package, for `python -m`


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message at one URL: `place` is its scheme and host, `problem` is "" for accepted."""

    number: int
    place: str
    problem: str = ""

    @property
    def accepted(self) -> bool:
        return not self.problem


@dataclass(frozen=True, slots=True)
class Sender:
    """Where messages go: URLs of Apprise, and a private CA that is trusted beside the public ones."""

    urls: Sequence[str]
    ca_bundle: Path | None = None
    limit: float = LIMIT

    def __call__(self, message: Message, stop: threading.Event) -> list[Outcome]:
        """Send a message to all URLs; return an outcome for each.

        It ends after `limit` seconds, or as soon as `stop` is set: what has no outcome then did not arrive.
        """
        request = asdict(message) | {"title": redact(message.title), "body": redact(message.body)}
        request["urls"] = list(self.urls)
        request["secrets"] = [secret for url in self.urls for secret in url_secrets(url)]
        try:
            with certificates(self.ca_bundle) as trusted:
                output = communicate(started(trusted), json.dumps(request), self.limit, stop)
        except OSError as error:
            problem = f"the sending process did not start ({error.strerror})"
            return [Outcome(number, f"URL {number}", problem) for number in range(1, len(self.urls) + 1)]
        return outcomes(output, len(self.urls), self.limit)


def started(trusted: Path | None) -> subprocess.Popen[str]:
    """Start the sending process; the URLs, which are secrets, reach it by stdin alone."""
    return subprocess.Popen(
        [sys.executable, "-m", "sync.operations.alerts.send"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=child_environment(trusted),
        text=True,
    )


def communicate(process: subprocess.Popen[str], given: str, limit: float, stop: threading.Event) -> str:
    """Return the output of a process, which is killed after `limit` seconds or when `stop` is set."""
    ends = time.monotonic() + limit
    remaining: str | None = given
    while True:
        try:
            return process.communicate(remaining, timeout=LOOK)[0]
        except subprocess.TimeoutExpired:
            remaining = None
            if stop.is_set() or time.monotonic() >= ends:
                process.kill()
                return process.communicate()[0]


def outcomes(output: str, count: int, limit: float) -> list[Outcome]:
    """Read the lines of the sending process; a URL without an outcome was not answered in time."""
    late = f"no answer within {limit:.0f} seconds"
    found = {number: Outcome(number, f"URL {number}", late) for number in range(1, count + 1)}
    for line in output.splitlines():
        try:
            told = json.loads(line)
            number, name, problem = told["number"], str(told["place"]), str(told.get("problem", late))
        except (ValueError, KeyError, TypeError):
            continue  # the process was killed within a line
        found[number] = Outcome(number, name, problem)
    return [found[number] for number in sorted(found)]


@contextmanager
def certificates(ca_bundle: Path | None) -> Iterator[Path | None]:
    """Provide a file of the public CAs and the private one: Apprise trusts one file."""
    if ca_bundle is None:
        yield None
        return
    with NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(trusted_certificates(ca_bundle))
        file.flush()
        yield Path(file.name)
