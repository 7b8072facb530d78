"""The HTTPS server in a thread, with its own certificate authority, and a way to break its connections."""

import asyncio
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import trustme
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# Answers of 414 and 431 are ours to give, so the parser must accept far longer heads than Salesforce does.
MAX_HEAD = 256 * 1024
KEEP_ALIVE = 120
_connections: dict[tuple[int, int], asyncio.Transport] = {}  # by the ports of server and client


class Protocol(H11Protocol):
    """Remembers each connection by its ports, so that a fault can reach the socket."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._ports = (transport.get_extra_info("sockname")[1], transport.get_extra_info("peername")[1])
        _connections[self._ports] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        _connections.pop(self._ports, None)
        super().connection_lost(exc)


def reset(scope: dict[str, Any], politely: bool = False) -> None:
    """Break the connection of a request: by RST, or politely with an ordinary close."""
    transport = _connections.get((scope["server"][1], scope["client"][1]))
    if transport is None:
        return
    if not politely:
        endpoint = transport.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def connected(scope: dict[str, Any]) -> bool:
    """False once the client of a request has gone."""
    return (scope["server"][1], scope["client"][1]) in _connections


def certificates(folder: Path) -> tuple[Path, Path]:
    """Make an authority and a certificate for localhost; the authority's PEM file and the server's."""
    authority = trustme.CA(organization_name="Salesforce simulator")
    ca_file, server_file = folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(server_file)
    )
    server_file.chmod(0o600)
    return ca_file, server_file


class _Uvicorn(uvicorn.Server):
    """Uvicorn that ends at once: it would wait a fifth of a second, and tests start hundreds of servers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for each in sockets or []:
            each.close()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=2)


class Server:
    """An HTTPS server on 127.0.0.1 in a daemon thread."""

    def __init__(self, port: int) -> None:
        # asyncio turns Nagle's delay off only for sockets that name their protocol.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", port))
        except OSError:
            self._socket.close()
            raise
        self._thread: threading.Thread | None = None
        self.port: int = self._socket.getsockname()[1]

    def start(self, app: Any, server_file: Path) -> None:
        """Serve the application; returns once connections are accepted, RuntimeError if never."""
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="critical",  # broken connections are our business, not news
            access_log=False,
            date_header=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            h11_max_incomplete_event_size=MAX_HEAD,
            ssl_certfile=str(server_file),
            ssl_keyfile=str(server_file),
        )
        self._app = app
        self._server = _Uvicorn(config)
        self._thread = threading.Thread(target=self._run, name="salesforce-simulator", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the simulator's server did not start on port {self.port}")
            time.sleep(0.005)

    def _run(self) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._server.serve(sockets=[self._socket]))
            self._loop.run_until_complete(asyncio.sleep(0))  # aborted transports close on the next turn
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()

    def stop(self) -> None:
        """Close all connections, those kept alive too, and end the thread; twice is harmless."""
        if self._thread is None:
            self._socket.close()
            return
        self._loop.call_soon_threadsafe(self._hang_up)
        self._thread.join(timeout=10)
        self._thread = None

    def _hang_up(self) -> None:
        self._app.stopping.set()
        self._server.stopping.set()
        for ports, transport in list(_connections.items()):
            if ports[0] == self.port:
                transport.abort()
