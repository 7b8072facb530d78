"""The ASGI application: finds the resource, lets faults strike, checks the session, sends the bytes."""

import asyncio
import json
import threading
import time
import traceback
import zlib
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from sync.simulator import ids
from sync.simulator.api.composite import Composite
from sync.simulator.api.routes import Route, routes
from sync.simulator.api.writes import Writes
from sync.simulator.bulk.api import Bulk, query_of
from sync.simulator.bulk.results import Closed
from sync.simulator.control import Control, Guard
from sync.simulator.faults.active import Faults
from sync.simulator.faults.kinds import Effect
from sync.simulator.oauth import OAuth
from sync.simulator.org import Org
from sync.simulator.queries import Queries
from sync.simulator.rest import Rest, queried_object
from sync.simulator.sessions import Sessions
from sync.simulator.transport import connected, reset
from sync.simulator.wire import (
    HTML,
    Answer,
    Call,
    Refusal,
    Request,
    error,
    html,
    json_answer,
    not_found,
    pretty,
    uri_too_long,
)

CHUNK = 64 * 1024
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class App:
    """One simulated Salesforce as an ASGI application."""

    def __init__(
        self,
        org: Org,
        sessions: Sessions,
        oauth: OAuth,
        queries: Queries,
        faults: Faults,
        guard: Guard,
    ) -> None:
        self._org = org
        self._sessions = sessions
        self._queries = queries
        self._faults = faults
        self.requests: list[Request] = []
        self.api_calls = 0
        self._counting = threading.Lock()
        self.errors: list[str] = []  # tracebacks of our own mistakes
        self.stopping = asyncio.Event()
        rest = Rest(org, queries, lambda: self.api_calls)
        self._rest = rest
        self._control = Control(guard, org, faults, sessions, self.requests, lambda: self.api_calls)
        self.before_subrequest: Callable[[Request], None] | None = None
        composite = Composite(org, self._subrequest, self._wait)
        self._routes = routes(rest, Bulk(org), oauth, self._control, composite, Writes(org))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        call, route, too_long = self._call(scope, await _body(receive))
        effect = self._faults.strike(call) if call.log.kind != "control" else None
        effect = effect or Effect()
        latency = effect.delay + (self._org.options.latency if call.log.kind != "control" else 0)
        if latency:
            await self._pause(latency, receive)
        answer = too_long or Answer(0)
        if too_long is None and not (effect.hang or effect.reset):
            answer = await asyncio.to_thread(self._answer, call, route, effect)
        if effect.hang:  # by a fault of the call, or of a subrequest
            await self._pause(None, receive)
            return
        if effect.reset:
            reset(scope)
            return
        call.log.status = answer.status
        await self._send(call, answer, effect, scope, send)

    def _call(self, scope: dict[str, Any], body: bytes) -> tuple[Call, Route | None, Answer | None]:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        url = (scope["raw_path"] + b"?" + scope["query_string"]).decode("latin-1")
        call, route = self._logged(scope["method"], url, headers, body)
        return call, route, _oversized(scope, self._org.options.longest_uri)

    def _logged(
        self, method: str, url: str, headers: dict[str, str], body: bytes, inside: bool = False
    ) -> tuple[Call, Route | None]:
        """The call, entered in the request log under its kind, and the route that answers it."""
        raw_path, _, query = url.partition("?")
        path = unquote(raw_path)
        params = dict(parse_qsl(query, keep_blank_values=True))
        address = path + (f"?{query}" if query else "")
        log = Request(method, address, "unknown", at=self._org.clock.now(), inside=inside)
        call = Call(method, path, params, headers, body, log)
        route = self._route(call)
        if route is not None:
            log.kind = route.kind
            log.sobject = call.groups.get("sobject")
            if route.kind in ("query", "job_create"):
                log.soql = params.get("q") if route.kind == "query" else query_of(body)
                log.sobject = queried_object(log.soql or "")
                if route.kind == "query" and " GROUP BY " in (log.soql or "").upper():
                    log.kind = "aggregate"
            elif route.kind == "page":
                log.sobject = self._queries.sobject_of(call.groups["locator"])
            elif "job" in call.groups:
                log.job = ids.normalize(call.groups["job"])
                log.sobject = self._org.jobs.sobject_of(call.groups["job"])
        if log.kind != "control":
            self.requests.append(log)
        return call, route

    def _subrequest(
        self, outer: Call, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> tuple[Answer, Effect, Request]:
        """Answer a subrequest as any request, in the session of the call that carries it."""
        call, route = self._logged(method, url, headers, body, inside=True)
        if self.before_subrequest is not None:
            self.before_subrequest(call.log)
            call.log.at = self._org.clock.now()
        effect = self._faults.strike(call) or Effect()
        self._wait(effect.delay)
        call.session = outer.session
        answer = self._answer(call, route, effect)
        call.log.status = answer.status
        return answer, effect, call.log

    def _wait(self, seconds: float) -> None:
        """Wait in a thread, but no longer than the server stays."""
        end = time.monotonic() + seconds
        while not self.stopping.is_set() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _route(self, call: Call) -> Route | None:
        """The first route that knows the address and the method, or else the address at least."""
        best: Route | None = None
        for route in self._routes:
            found = route.pattern.fullmatch(call.path)
            if found is None or (best is not None and call.method not in route.methods.split()):
                continue
            call.groups = {name: value or "" for name, value in found.groupdict().items()}
            best = route
            if call.method in route.methods.split():
                break
        return best

    def _answer(self, call: Call, route: Route | None, effect: Effect) -> Answer:
        try:
            if effect.revoke:
                self._sessions.revoke(_bearer(call))
            if effect.answer is not None:
                return effect.answer
            if route is None and not call.path.startswith("/services/data/"):
                return html(404, "URL No Longer Exists")
            if route is None or route.api:
                self._admit(call, route)
            if route is None:
                return not_found()
            if call.method not in route.methods.split():
                same = [each.methods for each in self._routes if each.pattern == route.pattern]
                allowed = " ".join(same).replace(" ", ",")
                return error(
                    405,
                    "METHOD_NOT_ALLOWED",
                    f"HTTP Method '{call.method}' not allowed. Allowed are {allowed}",
                )
            answer = route.answer(call, effect)
            if effect.alter is not None:
                answer.body = json_answer(effect.alter(json.loads(answer.body))).body
            return answer
        except Refusal as refusal:
            return refusal.answer
        except Exception:  # noqa: BLE001  a mistake of ours must show, and must not hang the client
            self.errors.append(traceback.format_exc())
            return error(500, "UNKNOWN_EXCEPTION", "the simulator failed; see its errors")

    def _admit(self, call: Call, route: Route | None) -> None:
        """Check the session and the version, and count the call; of a subrequest check the version."""
        if call.log.inside:
            if route is not None:
                self._rest.check_version(call.version)
            return
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if "authorization" in call.headers and scheme.lower() not in ("bearer", "oauth"):
            raise Refusal(_unauthorized("INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE"))
        if self._sessions.use(token) is None:
            if token.count(".") == 2 and token.startswith("eyJ"):
                raise Refusal(_unauthorized("INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT"))
            raise Refusal(_unauthorized("INVALID_SESSION_ID", "Session expired or invalid"))
        call.session = token
        if route is None or "version" not in call.groups:
            return
        self._rest.check_version(call.version)
        options = self._org.options
        if options.enforce_limit and self._rest.usage() >= options.limit_max:
            raise Refusal(error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."))
        with self._counting:
            self.api_calls += 1
        call.log.counted = True

    # --- sending

    async def _pause(self, seconds: float | None, receive: Receive) -> None:
        """Wait, but no longer than the client or the server stays."""
        waits = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(self.stopping.wait())]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def _send(
        self, call: Call, answer: Answer, effect: Effect, scope: dict[str, Any], send: Send
    ) -> None:
        try:
            await self._deliver(call, answer, effect, scope, send)
        except Closed:  # the job whose result this is was deleted meanwhile
            reset(scope)
        except Exception:  # noqa: BLE001  a mistake of ours must show
            self.errors.append(traceback.format_exc())
            reset(scope)

    async def _deliver(
        self, call: Call, answer: Answer, effect: Effect, scope: dict[str, Any], send: Send
    ) -> None:
        headers, pieces = await asyncio.to_thread(self._finish, call, answer, effect)
        broken = effect.truncate and not effect.clean
        if (broken and effect.rows is None) or not self._org.options.chunked:
            body = b"".join(await asyncio.to_thread(list, pieces))
            if not self._org.options.chunked and answer.status not in (204, 304):
                headers.append((b"content-length", str(len(body) + broken).encode()))
            pieces = iter([body[: max(1, len(body) // 2)] if broken and effect.rows is None else body])
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        while (piece := await self._next(pieces, answer)) is not None:
            if self.stopping.is_set() or not connected(scope):
                return
            for at in range(0, len(piece), CHUNK):
                await send({"type": "http.response.body", "body": piece[at : at + CHUNK], "more_body": True})
        if broken:
            await asyncio.sleep(0.05)  # let what was sent reach the client
            reset(scope, politely=True)
            return
        await send({"type": "http.response.body", "body": b""})

    async def _next(self, pieces: Iterator[bytes], answer: Answer) -> bytes | None:
        """The next piece of a body; what has still to be made is made in a thread."""
        return next(pieces, None) if answer.stream is None else await asyncio.to_thread(next, pieces, None)

    def _finish(
        self, call: Call, answer: Answer, effect: Effect
    ) -> tuple[list[tuple[bytes, bytes]], Iterator[bytes]]:
        """The headers and the body of an answer: pretty print, gzip, cookies, date, limits."""
        options = self._org.options
        body = answer.body
        headers = [*answer.headers]
        if answer.status != 204:
            headers.append(("Content-Type", answer.media_type))
        if not effect.no_date:
            now = self._org.clock.now().replace(microsecond=0) + timedelta(seconds=effect.date_shift)
            headers.append(("Date", format_datetime(now, usegmt=True)))
        data = call.path.startswith("/services/data/v")
        if data and answer.media_type != HTML:
            headers.append(("Cache-Control", "no-cache,must-revalidate,max-age=0,no-store,private"))
            if options.send_limit_info and call.session and not effect.no_limit_info:
                headers.append(("Sforce-Limit-Info", self._rest.limit_info()))
            if body and call.headers.get("x-prettyprint") == "1":
                body = pretty(body)
        if options.cookies and call.log.kind != "control":
            headers.append(("Set-Cookie", "BrowserId=simulator0; domain=localhost; path=/; secure"))
            headers.append(("Set-Cookie", "CookieConsentPolicy=0:1; path=/; secure"))
        pieces = iter([body] if body else []) if answer.stream is None else answer.stream
        if effect.truncate and effect.clean and effect.rows is None:
            body = b"".join(pieces)
            pieces = iter([body[: len(body) // 2]])
        if options.gzip and (body or answer.stream) and "gzip" in call.headers.get("accept-encoding", ""):
            pieces = _compressed(pieces)
            headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
        if answer.stream is None:
            pieces = iter(list(pieces))  # compressed here, in a thread
        wire = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return [(name, value) for name, value in wire if name.decode() not in effect.without], pieces


def _compressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    for piece in pieces:
        packed = packer.compress(piece)
        if packed:
            yield packed
    yield packer.flush()


def _unauthorized(code: str, message: str) -> Answer:
    answer = error(401, code, message)
    answer.headers.append(("WWW-Authenticate", "Token"))
    return answer


def _oversized(scope: dict[str, Any], most: int) -> Answer | None:
    """The web server's refusal of a URI, or of URI and headers together, beyond so many bytes."""
    uri = len(scope["raw_path"]) + len(scope["query_string"]) + 1
    if uri > most:
        return uri_too_long()
    head = uri + sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    return Answer(431, b"", HTML) if head > most else None


def _bearer(call: Call) -> str:
    return call.headers.get("authorization", "").partition(" ")[2]


async def _body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
