"""HTTPS of one thread: limited in time and size, without redirects, with private CAs beside public ones."""

from __future__ import annotations

import io
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any, TextIO

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter

from sync.errors import SalesforceError, SyncError
from sync.salesforce.session.addresses import target_of
from sync.salesforce.session.bodies import decode
from sync.salesforce.session.limits import (
    CONNECT_SECONDS,
    ERROR_BYTES,
    MIB,
    RATE_SECONDS,
    READ_SECONDS,
    TOKEN,
    Allowance,
    TooLargeError,
    clip,
)

CURRENT = threading.local()


class Watch:
    """Limits the reading of one call: to `seconds`, and to at least `rate` bytes a second (0: any rate)."""

    def __init__(self, seconds: float, rate: int = 0) -> None:
        self.seconds, self.rate = seconds, rate
        self.ends = time.monotonic() + seconds
        self.waited, self.received = 0.0, 0
        self.reason = ""

    def left(self) -> float:
        """Return the seconds that one read may take; raise TimeoutError if none are left."""
        left = self.ends - time.monotonic()
        if left <= 0:
            self.reason = f"the answer was not complete after {self.seconds:,.0f} seconds"
        elif self.rate and self.waited >= RATE_SECONDS:
            if self.received < self.rate * RATE_SECONDS:
                self.reason = (
                    f"fewer than {self.rate:,} bytes a second arrived for {RATE_SECONDS:.0f} seconds"
                )
            self.waited, self.received = 0.0, 0
        if self.reason:
            raise TimeoutError(self.reason)
        return min(left, RATE_SECONDS - self.waited) if self.rate else left

    def note(self, seconds: float, size: int) -> None:
        """Record the duration and the bytes of a read; the time between reads does not count."""
        self.waited += seconds
        self.received += size


@contextmanager
def watch_reads(watch: Watch) -> Iterator[None]:
    """Apply a watch to what this thread reads inside the block."""
    before, CURRENT.watch = getattr(CURRENT, "watch", None), watch
    try:
        yield
    finally:
        CURRENT.watch = before


class WatchedSocket(ssl.SSLSocket):
    """A TLS socket whose reads obey the thread's watch: a socket timeout restarts with every byte."""

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        watch: Watch | None = getattr(CURRENT, "watch", None)
        if watch is None:
            return super().read(len, buffer)
        usual, left, began = self.gettimeout(), watch.left(), time.monotonic()
        shorter = usual is None or left < usual
        if shorter:
            self.settimeout(left)
        try:
            got: Any = super().read(len, buffer)
        except TimeoutError:
            watch.note(time.monotonic() - began, 0)
            if shorter:
                watch.left()
            raise
        finally:
            if shorter:
                self.settimeout(usual)
        watch.note(time.monotonic() - began, got if isinstance(got, int) else got.__len__())
        return got


CHUNK = 1 << 16  # bytes that one read decodes
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# The org's usage, at any position in Sforce-Limit-Info; `per-app-api-usage` is the usage of one app.
USAGE = re.compile(r"(?<![\w-])api-usage=([0-9]{1,12})/([0-9]{1,12})(?![0-9])")
# The accepted encodings: a name from a server is not passed to Python's codec registry.
CHARSET = re.compile(r"charset=\"?([A-Za-z0-9_-]{1,20})", re.IGNORECASE)
ENCODINGS = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii"), "utf-8"),
    **dict.fromkeys(("iso-8859-1", "latin1"), "iso-8859-1"),
    **dict.fromkeys(("windows-1252", "cp1252"), "cp1252"),
}
LONGEST_CONTENT_TYPE = 200
LONGEST_USAGE = 500
LONGEST_DATE = 64


class RedirectedError(Exception):
    """A server answered with a redirect; this error stays inside the package.

    `host` is the redirect's target ("": not an https URL).
    """

    def __init__(self, response: requests.Response) -> None:
        self.status = response.status_code
        location = response.headers["Location"]
        try:
            self.host = target_of(location)
        except ValueError:
            self.host = ""
        self.target = f"https://{self.host}" if self.host else clip(ascii(location), 200)
        super().__init__(f"{self.status} to {self.target}")


class TooSlowError(requests.Timeout):
    """An answer took longer than its allowance."""


@lru_cache(maxsize=8)
def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """Return a TLS context with the public and the private CAs; cached, since building it takes about 20
    ms."""
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_bundle is not None and ca_bundle.is_dir():
        context.load_verify_locations(capath=str(ca_bundle))
    elif ca_bundle is not None:
        context.load_verify_locations(cafile=str(ca_bundle))
    context.sslsocket_class = WatchedSocket
    return context


def trusted_certificates(ca_bundle: Path) -> str:
    """Return the public and the private CAs as one PEM text, for a process that takes a single file."""
    files = sorted(ca_bundle.iterdir()) if ca_bundle.is_dir() else [ca_bundle]
    texts = [path.read_text(errors="replace") for path in (Path(certifi.where()), *files) if path.is_file()]
    return "\n".join(text for text in texts if "-----BEGIN CERTIFICATE-----" in text)


class Http(requests.Session):
    """A requests session for https only, which obeys a call's allowance and follows no redirect."""

    def __init__(self, ca_bundle: Path | None = None) -> None:
        super().__init__()
        self.last: requests.Response | None = None
        # Without this, requests would use ~/.netrc and overwrite the Authorization header.
        self.auth = lambda request: request
        self.hooks["response"].append(self._note)
        self.adapters.clear()  # no adapter for http: nothing is sent unencrypted
        # No cookies: the API needs none, and no answer may influence the next request.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.mount("https://", Adapter(ca_bundle))

    def request(  # type: ignore[override]  # ours has what a call may take; the client library passes it on
        self,
        method: str,
        url: str,
        *args: Any,
        allowance: Allowance = TOKEN,
        stream: bool = False,
        **kwargs: Any,
    ) -> requests.Response:
        """Send one request and read its answer within `allowance`; with `stream`, leave the body of a success
        unread.

        Raises RedirectedError for a redirect, TooLargeError and TooSlowError beyond the allowance, and errors
        of requests.
        """
        kwargs["timeout"] = CONNECT_SECONDS, min(READ_SECONDS, allowance.answer)
        kwargs["stream"] = True  # `read_body` reads the body of other answers, within its limits
        with read_within(Watch(CONNECT_SECONDS + allowance.answer)):
            response = super().request(method, url, *args, **kwargs)
        usage = response.headers.get("Sforce-Limit-Info", "")
        if len(usage) > LONGEST_USAGE or not USAGE.search(usage):
            response.headers.pop("Sforce-Limit-Info", None)
        if response.status_code in REDIRECTS and "Location" in response.headers:
            response.close()
            raise RedirectedError(response)
        if not stream or response.status_code >= 300:
            read_body(response, allowance)
        return response

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return no target: requests would follow it with our secret, and read its body without a limit."""

    def merge_environment_settings(self, *args: Any, **kwargs: Any) -> Any:
        # Proxies come from the environment. REQUESTS_CA_BUNDLE is a setting, which the adapter applies.
        return {**super().merge_environment_settings(*args, **kwargs), "verify": True}

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        self.last = response


def read_body(response: requests.Response, allowance: Allowance) -> None:
    """Read the body of an answer; of an error at most ERROR_BYTES."""
    failed = response.status_code >= 300
    most = ERROR_BYTES if failed else allowance.size
    pieces, size = [], 0
    with read_within(Watch(allowance.body)):
        while size <= most and (piece := response.raw.read(CHUNK, decode_content=True)):
            pieces.append(piece)
            size += len(piece)
    if size > most:
        response.close()  # the rest is not read
        if not failed:
            raise TooLargeError(f"the answer is larger than {most / MIB:.0f} MB and was not read", status=200)
    # requests has no public way to set a body.
    response._content = b"".join(pieces)[:most]
    response._content_consumed = True  # type: ignore[attr-defined]  # the stubs do not know it


PING = Allowance(ERROR_BYTES, 10, 5)


def ping(url: str, ca_bundle: Path | None) -> None:
    """Send a GET by https and ignore the body; raise SyncError unless the answer is a success.

    The error names neither the URL nor the host: they may be secret.
    """
    with Http(ca_bundle) as http:
        try:
            with http.request("GET", url, allowance=PING, stream=True) as response:
                status = response.status_code
        except RedirectedError as redirected:
            status = redirected.status
        except (requests.RequestException, urllib3.exceptions.HTTPError, TooLargeError) as error:
            raise SyncError(f"no answer ({type(error).__name__})") from None
    if status >= 300:
        raise SyncError(f"answered {status}")


@contextmanager
def read_within(watch: Watch) -> Iterator[None]:
    """Read within a watch; errors of urllib3 and of the watch are raised as errors of requests."""
    try:
        with watch_reads(watch):
            yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError) as error:
        if watch.reason:
            raise TooSlowError(watch.reason) from None
        if isinstance(error, requests.RequestException):
            raise
        raise requests.exceptions.ChunkedEncodingError(error) from None


class ExactAnswer(requests.Response):
    """A response whose numbers keep every digit and whose text is UTF-8."""

    def json(self, **_: Any) -> Any:
        return decode(self.content)

    @property
    def text(self) -> str:
        # requests would guess the encoding, which takes seconds, or use a codec that the server names.
        return self.content.decode("utf-8", "replace")


class Adapter(HTTPAdapter):
    """An adapter with exact answers and REQUESTS_CA_BUNDLE, for direct connections and proxies."""

    def __init__(self, ca_bundle: Path | None) -> None:
        self.ca_bundle = ca_bundle
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        return super().init_poolmanager(*args, ssl_context=tls_context(self.ca_bundle), **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        kwargs["ssl_context"] = tls_context(self.ca_bundle)
        if proxy.lower().startswith("https://"):
            kwargs["proxy_ssl_context"] = tls_context(self.ca_bundle)
        return super().proxy_manager_for(proxy, **kwargs)

    def build_response(self, *args: Any, **kwargs: Any) -> requests.Response:
        response = super().build_response(*args, **kwargs)
        # requests has no option for the class; wrapping json() would create a cycle that keeps pages in
        # memory.
        response.__class__ = ExactAnswer
        return response


def csv_lines(response: requests.Response) -> TextIO:
    """Return a CSV body as a text stream, in the encoding that it declares: older orgs send ISO-8859-1.

    Raises ValueError for other content types (maintenance pages, proxies). Reading raises UnicodeDecodeError
    if the encoding is wrong.
    """
    kind = response.headers.get("Content-Type", "")
    if not kind.startswith("text/csv"):
        raise ValueError(f"not CSV but {clip(kind, 100)}")
    charset = CHARSET.search(kind[:LONGEST_CONTENT_TYPE])
    encoding = ENCODINGS.get(charset[1].lower()) if charset else "utf-8"
    if encoding is None:
        raise ValueError(f"CSV in an unknown encoding: {clip(kind, 100)}")
    raw = response.raw
    raw.decode_content = True
    raw.auto_close = False  # the wrappers read once more at the end
    text = io.TextIOWrapper(io.BufferedReader(raw, CHUNK), encoding=encoding, newline="")
    text._CHUNK_SIZE = CHUNK  # type: ignore[attr-defined]  # eight times its default
    return text


def server_time(response: requests.Response) -> datetime:
    """Return Salesforce's time of the answer, from its Date header; raise SalesforceError without one."""
    try:
        return parsedate_to_datetime(response.headers["Date"][:LONGEST_DATE]).astimezone(UTC)
    except (KeyError, ValueError, TypeError, OverflowError):
        raise SalesforceError("the answer carries no readable Date header; a proxy may remove it") from None
