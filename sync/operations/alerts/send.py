"""The process that sends one message by Apprise: `python -m sync.operations.alerts.send`.

It reads `{"urls": […], "secrets": […], "title": …, "body": …, "type": …}` from stdin, and writes a line of
JSON for each URL as soon as its outcome is known: `{"number": 1, "place": "json://host", "problem": ""}`.
Apprise takes 36 MB and stays loaded, so that the worker never imports it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import apprise

from sync.logs.printable import escape_controls, hide, redact_bounded

LONGEST_REASON = 200
THREADS = 8
SILENT = "was not accepted"


class Reasons(logging.Handler):
    """Keeps what Apprise logs in the thread of one URL: it is the reason why a message was not accepted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.by_thread: dict[int | None, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.by_thread[record.thread] = record.getMessage()

    def of_this_thread(self) -> str:
        """Return what Apprise logged last in this thread, without secrets."""
        said = self.by_thread.pop(threading.get_ident(), "") or SILENT
        return escape_controls(redact_bounded(said, LONGEST_REASON))


def main() -> None:
    """Send the message on stdin; write the outcomes to stdout."""
    request = json.load(sys.stdin)
    hide(request["secrets"])

    def write(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    send(request["urls"], request["title"], request["body"], request["type"], write)


def send(urls: Sequence[str], title: str, body: str, kind: str, write: Callable[[str], None]) -> None:
    """Send one message to all URLs at the same time; `write` gets a line of JSON for each outcome.

    First it gets a line for each URL without an outcome, so that the caller can name one that hangs.
    """
    reasons = Reasons()
    logger = logging.getLogger("apprise")
    logger.handlers[:], logger.propagate = [reasons], False
    logger.setLevel(logging.WARNING)
    found = [apprise.Apprise.instantiate(url) for url in urls]
    notify_type = apprise.NotifyType(kind)
    names = [place(url, server) for url, server in zip(urls, found, strict=True)]
    for number, name in enumerate(names, 1):
        write(json.dumps({"number": number, "place": name}))

    def one(server: apprise.NotifyBase | None) -> str:
        problem = refusal(server)
        if problem or server is None or server.notify(body, title, notify_type):
            return problem
        return reasons.of_this_thread()

    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        sent = {pool.submit(one, server): number for number, server in enumerate(found, 1)}
        for future in as_completed(sent):
            number, error = sent[future], future.exception()
            problem = f"failed with {type(error).__name__}" if error else future.result()
            write(json.dumps({"number": number, "place": names[number - 1], "problem": problem}))


def refusal(server: apprise.NotifyBase | None) -> str:
    """Return why a URL is not used ("": it is)."""
    if server is None:
        return "is not a URL that Apprise knows: see https://github.com/caronc/apprise/wiki"
    if not server.verify_certificate:
        return "turns the verification of TLS off: remove verify=no"
    return ""


def place(url: str, server: apprise.NotifyBase | None) -> str:
    """Return scheme and host of a URL; the scheme alone if the service has a secret in the host's place."""
    scheme, _, _ = url.partition("://")
    if server is None or "host" not in server.template_tokens or not server.host:
        return f"{escape_controls(scheme[:32])}://…"
    port = f":{server.port}" if server.port else ""
    return escape_controls(f"{scheme}://{server.host}{port}")


if __name__ == "__main__":
    main()
