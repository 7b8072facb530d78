"""A TLS server that answers whatever a test wants, byte by byte if need be, and a proxy that only tunnels."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import lru_cache
from pathlib import Path

import trustme

from sync.config.settings import settings_from
from sync.salesforce.session.retry import RetryPolicy
from sync.salesforce.session.session import Session
from tests.support.world import NEVER_WAIT

ONCE = RetryPolicy(attempts=1)
TOKEN = "00Dxx0000000001!the.token"
PAGE = b'{"totalSize": 0, "done": true, "records": []}'


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


Answers = Callable[[Asked], Iterable[bytes]]


def answer(
    body: bytes = PAGE, status: int = 200, *, chunked: bool = False, date: datetime | None = None, **more: str
) -> list[bytes]:
    """An answer's bytes; `more` are headers, with `_` for `-`."""
    headers = {
        "Content-Type": "application/json;charset=UTF-8",
        "Date": format_datetime(date or datetime.now(UTC), usegmt=True),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    headers |= {} if chunked else {"Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items() if value)]
    return ["\r\n".join([*lines, "", ""]).encode(), body]


@lru_cache(maxsize=1)
def bomb(size: int) -> bytes:
    """So many bytes of JSON white space before a page, compressed some hundred times smaller."""
    packer = zlib.compressobj(1, wbits=31)
    mega = b" " * (1 << 20)
    pieces = [packer.compress(mega) for _ in range(size >> 20)]
    return b"".join([*pieces, packer.compress(PAGE), packer.flush()])


@dataclass
class Hostile:
    """A server, what it answers, and what it was asked."""

    host: str
    ca_file: str
    instance: str = ""
    answers: Answers = lambda _: answer()
    token: Answers | None = None
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://{self.host}"

    def reply(self, asked: Asked) -> Iterable[bytes]:
        if asked.path.endswith("/token"):
            if self.token is not None:
                return self.token(asked)
            body = {"access_token": TOKEN, "instance_url": self.instance or self.url}
            return answer(json.dumps(body).encode())
        return self.answers(asked)

    def session(self, retry: RetryPolicy = NEVER_WAIT, **settings: str) -> Session:
        return Session(
            settings_from(
                {
                    "DATABASE_URL": "postgres:///unused",
                    "SALESFORCE_LOGIN_URL": self.url,
                    "SALESFORCE_CLIENT_ID": "client",
                    "SALESFORCE_CLIENT_SECRET": "the secret",
                    "REQUESTS_CA_BUNDLE": self.ca_file,
                    **settings,
                }
            ),
            retry=retry,
        )


def read_request(stream: socket.SocketIO | Iterator[bytes]) -> Asked | None:
    """The next request of a connection; None at its end."""
    readline, read = stream.readline, stream.read  # type: ignore[union-attr]  # a buffered reader
    first = readline().decode("latin-1").split()
    if not first:
        return None
    headers: dict[str, str] = {}
    while line := readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Asked(first[0], first[1], headers, read(int(headers.get("content-length", 0))).decode())


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that hands each connection to `serve` in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def accept() -> None:
        while not ended.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    def guarded(connection: socket.socket) -> None:
        with suppress(OSError, ValueError), connection:
            serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        ended.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@contextmanager
def hostile(folder: Path) -> Iterator[Hostile]:
    """A running one with a CA of its own."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    there = Hostile("", str(folder / "ca.pem"))

    def serve(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as connection, connection.makefile("rb") as stream:
            while (asked := read_request(stream)) is not None:
                there.asked.append(asked)
                for piece in there.reply(asked):
                    connection.sendall(piece)

    with listening(serve) as port:
        there.host = f"localhost:{port}"
        yield there


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """The URL of an HTTP proxy that answers CONNECT alone, and where it was asked to connect to."""
    connected: list[str] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with ExitStack() as open_ends, client.makefile("rb", buffering=0) as stream:
            asked = read_request(stream)
            if asked is None or asked.method != "CONNECT":
                client.sendall(b"HTTP/1.1 405 X\r\nContent-Length: 0\r\n\r\n")
                return
            connected.append(asked.path)
            name, _, port = asked.path.rpartition(":")
            server = open_ends.enter_context(socket.create_connection((name, int(port)), timeout=10))
            server.settimeout(None)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join(10)

    with listening(serve) as port:
        yield f"http://127.0.0.1:{port}", connected
