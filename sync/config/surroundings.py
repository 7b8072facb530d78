"""What libraries take from the environment themselves: proxies with passwords, and where libpq connects."""

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
    """The credentials in HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and their kin, in either letter case.

    Without a password the user's name is the credential, as some proxies' tokens are.
    """
    for name, value in os.environ.items():
        if not name.lower().endswith("_proxy"):
            continue
        # Not by a parser: a password with characters that should have been escaped is secret, too, and so are
        # the pieces into which libraries cut it before they say that they cannot read it.
        userinfo = value.strip().rpartition("://")[2].rpartition("@")[0]
        user, _, password = userinfo.partition(":")
        pieces = [piece for piece in re.split("[/?#@]", password) if len(piece) >= 4]
        for secret in (userinfo, password or user, *pieces):
            yield from {secret, unquote(secret)} - {""}


def libpq_secrets(url: URL) -> Iterator[str]:
    """The passwords that libpq is given beside the URL's own."""
    given = [url.query.get(name, "") for name in ("password", "sslpassword")]
    for value in (*given, os.environ.get("PGPASSWORD", "")):
        yield from filter(None, [value] if isinstance(value, str) else value)


# ── where libpq connects ──────────────────────────────────────────────────────────────────────────────


def needs_tls(url: URL) -> bool:
    """Whether a connection leaves this machine, as far as can be told, and nothing says how it is secured.

    libpq takes each parameter from the URL, else from the service, else from the environment; values in
    `.env` it never sees. Where `hostaddr` is given it connects there, and `host` is only a name.
    """
    service = one(url.query.get("service")) or os.environ.get("PGSERVICE", "")
    if service:
        # What a service says of the host is not looked up: only whether it decides about TLS itself.
        return not service_sets_sslmode(service, one(url.query.get("servicefile")))
    addresses = listed(url.query.get("hostaddr")) or listed(os.environ.get("PGHOSTADDR"))
    names = listed(url.query.get("host")) or listed(url.host) or listed(os.environ.get("PGHOST"))
    many = max(len(addresses), len(names))
    places = [
        address or name
        for address, name in zip(
            [*addresses, *[""] * (many - len(addresses))], [*names, *[""] * (many - len(names))], strict=True
        )
    ]
    return not all(map(is_local, places))


def is_local(place: str) -> bool:
    """Whether a host is a Unix socket (libpq's default, a path, an abstract name) or a loopback address."""
    if not place or place.startswith(("/", "@")):
        return True
    if place.count(":") == 1:  # SQLAlchemy takes a port from `host=` of the URL's query, too
        place = place.partition(":")[0]
    if place == "localhost":
        return True
    try:
        return ip_address(place).is_loopback
    except ValueError:
        return False


def one(value: str | Sequence[str] | None) -> str:
    """A parameter of the URL; given twice, the last one counts."""
    return value if isinstance(value, str) else value[-1] if value else ""


def listed(value: str | Sequence[str] | None) -> list[str]:
    """The hosts of a parameter, which may be given several times and hold several each."""
    parts = [value] if isinstance(value, str) else list(value or ())
    return [host.strip() for part in parts for host in part.split(",")] if any(parts) else []


def service_sets_sslmode(service: str, file: str = "") -> bool:
    """Whether the connection service file has an `sslmode` in the service's section."""
    folder = os.environ.get("PGSYSCONFDIR")
    places = [
        file or os.environ.get("PGSERVICEFILE") or str(Path.home() / ".pg_service.conf"),
        *([f"{folder}/pg_service.conf"] if folder else []),
    ]
    for place in places:
        try:
            lines = Path(place).read_text(errors="replace").splitlines()
        except OSError:
            continue
        section = ""
        for line in map(str.strip, lines):
            if line.startswith("["):
                section = line.strip("[]")
            elif section == service and line.partition("=")[0] == "sslmode":
                return True
    return False
