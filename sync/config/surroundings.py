"""What libraries read from the environment themselves: proxies with passwords, CAs, libpq's connection."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy.engine import URL

# ── proxies ───────────────────────────────────────────────────────────────────────────────────────────


def proxy_secrets() -> Iterator[str]:
    """Yield the credentials in HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and similar variables, in either letter
    case.

    Without a password, the user name is the credential: some proxies use a token there.
    """
    for name, value in os.environ.items():
        if not name.lower().endswith("_proxy"):
            continue
        # No URL parser: a password with unescaped characters is a secret, too, and so are the parts of it
        # that libraries quote when they fail to parse the URL.
        userinfo = value.strip().rpartition("://")[2].rpartition("@")[0]
        user, _, password = userinfo.partition(":")
        pieces = [piece for piece in re.split("[/?#@]", password) if len(piece) >= 4]
        for secret in (userinfo, password or user, *pieces):
            yield from {secret, unquote(secret)} - {""}


def libpq_secrets(url: URL) -> Iterator[str]:
    """Yield the passwords that libpq gets beside the one in the URL's authority."""
    passwords = [url.query.get(name, "") for name in ("password", "sslpassword")]
    for value in (*passwords, os.environ.get("PGPASSWORD", "")):
        yield from filter(None, [value] if isinstance(value, str) else value)


# Settings of ours that are secret or lead to secrets, by the beginnings of their names.
OURS = ("SALESFORCE_", "SYNC_", "DATABASE_URL", "PG")
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def child_environment(ca_file: Path | None) -> dict[str, str]:
    """Return the environment of a process that sends alerts: proxies, but none of our settings.

    `ca_file` holds the CAs that it trusts (None: the public ones).
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(OURS) and name not in CA_VARIABLES
    }
    return kept if ca_file is None else kept | {"REQUESTS_CA_BUNDLE": str(ca_file)}


# ── libpq's connection ────────────────────────────────────────────────────────────────────────────────


def needs_tls(url: URL) -> bool:
    """Return whether the connection may leave this machine without a setting that decides about TLS.

    libpq takes each parameter from the URL, else from the service, else from the environment; it does not see
    `.env`. It connects to `hostaddr` if that is given; `host` is then only a name (PostgreSQL documentation,
    "Parameter Key Words").
    """
    service = last_value(url.query.get("service")) or os.environ.get("PGSERVICE", "")
    if service:
        # The service's host is not looked up, only whether the service sets `sslmode`.
        return not service_sets_sslmode(service, last_value(url.query.get("servicefile")))
    addresses = split_hosts(url.query.get("hostaddr")) or split_hosts(os.environ.get("PGHOSTADDR"))
    names = (
        split_hosts(url.query.get("host")) or split_hosts(url.host) or split_hosts(os.environ.get("PGHOST"))
    )
    many = max(len(addresses), len(names))
    hosts = [
        address or name
        for address, name in zip(
            [*addresses, *[""] * (many - len(addresses))], [*names, *[""] * (many - len(names))], strict=True
        )
    ]
    return not all(map(is_local, hosts))


def is_local(host: str) -> bool:
    """Return whether a host is a Unix socket (libpq's default, a path, an abstract name) or a loopback
    address."""
    if not host or host.startswith(("/", "@")):
        return True
    if host.count(":") == 1:  # SQLAlchemy accepts `host=name:port` in the URL's query
        host = host.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def last_value(value: str | Sequence[str] | None) -> str:
    """Return a parameter of the URL; of several values the last one, as libpq does."""
    return value if isinstance(value, str) else value[-1] if value else ""


def split_hosts(value: str | Sequence[str] | None) -> list[str]:
    """Return the hosts of a parameter, which may occur several times and hold several hosts each."""
    parts = [value] if isinstance(value, str) else list(value or ())
    return [host.strip() for part in parts for host in part.split(",")] if any(parts) else []


def service_sets_sslmode(service: str, file: str = "") -> bool:
    """Return whether the connection service file sets `sslmode` in the section of the service."""
    folder = os.environ.get("PGSYSCONFDIR")
    paths = [
        file or os.environ.get("PGSERVICEFILE") or str(Path.home() / ".pg_service.conf"),
        *([f"{folder}/pg_service.conf"] if folder else []),
    ]
    for path in paths:
        try:
            lines = Path(path).read_text(errors="replace").splitlines()
        except OSError:
            continue
        section = ""
        for line in map(str.strip, lines):
            if line.startswith("["):
                section = line.strip("[]")
            elif section == service and line.partition("=")[0] == "sslmode":
                return True
    return False
