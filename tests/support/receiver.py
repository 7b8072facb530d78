"""A plain webhook on this machine: it keeps what it is sent, and answers as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Receiver:
    """What has arrived: the path and the JSON of each message."""

    url: str
    paths: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    hold: threading.Event | None = None  # no answer before it is set


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A running one; `url` is in the notation of Apprise."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            there.paths.append(self.path)
            there.messages.append(json.loads(body))
            if there.hold is not None:
                there.hold.wait(30)
            self.send_response(there.status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        there = Receiver(f"json://127.0.0.1:{server.server_port}")
        serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        serving.start()
        try:
            yield there
        finally:
            server.shutdown()
            serving.join(5)
