"""Settings of alerts: where they are sent, what is pinged, when an object is stale, which CA is trusted."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pydantic import SecretStr, field_validator
from pydantic_settings import BaseSettings

from sync.config.values import SOURCES, bad_value, parse_duration

# As Apprise, which takes spaces and commas between URLs, and commas within them.
BEGINNING = re.compile(r"(?:^|(?<=[\s,;]))[A-Za-z0-9]{1,32}://")
ALERT_URL = re.compile(r"[A-Za-z][A-Za-z0-9]{0,31}://\S+")
# Parts of a URL that a library or a server may quote alone.
PARTS = re.compile(r"[/?#&=@:,;\s]+")
SHORTEST_PART, LONG_PART = 8, 16  # characters; a shorter part is hidden only within its URL


class AlertSettings(BaseSettings):
    """The settings that say whom to tell, and when."""

    model_config = SOURCES

    sync_alert_urls: SecretStr | None = None
    sync_heartbeat_url: SecretStr | None = None
    sync_max_lag: timedelta | None = None
    requests_ca_bundle: Path | None = None

    @field_validator("sync_alert_urls")
    @classmethod
    def _alert_urls(cls, value: SecretStr | None) -> SecretStr | None:
        urls = [] if value is None else split_urls(value.get_secret_value())
        if odd := [place for place, url in enumerate(urls, 1) if not ALERT_URL.fullmatch(url)]:
            raise bad_value(
                f"has no URL at place {odd[0]}: write URLs of Apprise with spaces or commas between them, "
                "for example json://hooks.example.com/sync or slack://…"
            )
        return value

    @field_validator("sync_heartbeat_url")
    @classmethod
    def _heartbeat_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"https://[^/\s]\S*", value.get_secret_value().strip()):
            raise bad_value("must be one https:// URL, for example https://hc-ping.com/ and the check's UUID")
        return value

    @field_validator("sync_max_lag", mode="before")
    @classmethod
    def _max_lag(cls, value: Any) -> Any:
        try:
            lag = parse_duration(value) if isinstance(value, str) else value
        except ValueError as error:
            raise bad_value(str(error)) from None
        if lag is not None and lag <= timedelta(0):
            raise bad_value("must be longer than zero, for example 1h")
        return lag

    @field_validator("requests_ca_bundle")
    @classmethod
    def _ca_bundle(cls, value: Path | None) -> Path | None:
        try:
            if value is not None and not value.is_dir():
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=str(value))
        except (ssl.SSLError, OSError):
            raise bad_value(
                f"{value} does not exist or holds no certificate: give a PEM file with the CA's"
            ) from None
        return value

    @property
    def alert_urls(self) -> tuple[str, ...]:
        """The URLs that alerts are sent to."""
        return (
            () if self.sync_alert_urls is None else tuple(split_urls(self.sync_alert_urls.get_secret_value()))
        )

    @property
    def heartbeat_url(self) -> str:
        """The URL that is pinged after each complete pass ("": none)."""
        return "" if self.sync_heartbeat_url is None else self.sync_heartbeat_url.get_secret_value().strip()

    @property
    def alert_secrets(self) -> Iterator[str]:
        """The URLs of alerts and of the heartbeat, and those of their parts that can be secret."""
        urls = [*self.alert_urls, *([self.heartbeat_url] if self.heartbeat_url else [])]
        for url in urls:
            yield from url_secrets(url)


def split_urls(value: str) -> list[str]:
    """Split URLs at spaces and commas before a scheme; a comma within a URL is part of it."""
    starts = [found.start() for found in BEGINNING.finditer(value)]
    pieces = [value[start:end] for start, end in pairwise([0, *starts, len(value)])]
    return [url for piece in pieces if (url := piece.strip(" \t\r\n,;"))]


def url_secrets(url: str) -> Iterator[str]:
    """Yield a URL and those of its parts that can be secret: passwords, keys, tokens; no name of a host.

    Words of fewer than 16 letters are not yielded: hidden everywhere, they would make the output unreadable.
    """
    _, _, rest = url.partition("://")
    yield from {url, rest}
    userinfo, at, _ = rest.partition("@")
    if at and ":" in userinfo and "/" not in userinfo:
        password = userinfo.partition(":")[2]
        yield from {password, unquote(password)} - {""}
    for part in PARTS.split(rest):
        telling = len(part) >= LONG_PART or (len(part) >= SHORTEST_PART and re.search(r"\d", part))
        if telling and not is_host(part):
            yield from {part, unquote(part)}


def is_host(part: str) -> bool:
    """Return whether a part of a URL looks like a host: letters, digits, hyphens, and at least one dot."""
    return bool(re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", part))
