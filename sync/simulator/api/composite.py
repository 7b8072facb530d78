"""The Composite resource: up to 25 requests in one call, one after the other, each with its own answer.

Documented: the limits, the order, one API call for the series, the references ``@{id.field}``, the headers
that a subrequest must not set, the roll back of ``allOrNone``, the headers of an answer (Location or
Last-Modified, no Date), and a 304 with a null body. Believed: the codes and messages of the refusals, and
that the session is checked once, when the call arrives. A fault may answer 401 to a subrequest and end the
session for later calls; the rest of the series goes on.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import msgspec

from sync.simulator.faults.kinds import Effect
from sync.simulator.org import Org
from sync.simulator.wire import HTML, Answer, Call, Refusal, Request, error, json_answer, not_found, refuse

MAX_SUBREQUESTS = 25
MAX_QUERIES = 5
INHERITED = ("accept", "authorization", "content-type")
QUERIES = ("query", "aggregate", "page", "retrieve")
_SUPPORTED = re.compile(r"/services/data/v[\d.]+/(?:sobjects|query|queryAll|composite/sobjects)(?:[/?].*|$)")
_QUERY = re.compile(r"/services/data/v[\d.]+/(?:query|queryAll|composite/sobjects)(?:[/?]|$)")
_REFERENCE_ID = re.compile(r"\w+", re.ASCII)
_REFERENCE = re.compile(r"@\{(\w+)((?:\.\w+|\[\d+\])+)\}", re.ASCII)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]", re.ASCII)
_HALTED = "The transaction was rolled back since another operation in the same transaction failed."


class Subrequest(msgspec.Struct, rename={"reference": "referenceId", "headers": "httpHeaders"}):
    """One request of a series as it was sent."""

    method: str
    url: str
    reference: str
    body: Any = None
    headers: dict[str, str] | None = None


class _Series(msgspec.Struct, rename={"requests": "compositeRequest"}):
    requests: list[Subrequest]
    allOrNone: bool = False
    collateSubrequests: bool = False


_DECODER = msgspec.json.Decoder(_Series, float_hook=Decimal)  # numbers keep every digit


class _Result(msgspec.Struct, rename="camel"):
    body: Any
    http_headers: dict[str, str]
    http_status_code: int
    reference_id: str


class _RolledBack(Exception):
    """A subrequest failed in a series that succeeds or fails as a whole."""


# Answers one subrequest of a call: its method, URL, headers and body go the way of any request.
Run = Callable[[Call, str, str, dict[str, str], bytes], tuple[Answer, Effect, Request]]


class Composite:
    """Answers a series of requests; ``pause`` waits between two of them."""

    def __init__(self, org: Org, run: Run, pause: Callable[[float], None]) -> None:
        self._org = org
        self._run = run
        self._pause = pause

    def answer(self, call: Call, effect: Effect) -> Answer:
        """The series' answer; what a fault does to a subrequest's connection is added to ``effect``.

        Raises Refusal for a series that is malformed or too long, and where the edge answers.
        """
        options = self._org.options
        if not options.composite:
            if options.composite_refusal == "NOT_FOUND":
                raise Refusal(not_found())
            raise refuse(403, options.composite_refusal, "This feature is not enabled for this user.")
        series = _read(call.body)
        results: list[_Result] = []
        if not series.allOrNone:
            self._work(call, effect, series, results)
            return json_answer({"compositeResponse": results})
        try:
            with self._org.lock, self._org.store.transaction():
                self._work(call, effect, series, results)
        except _RolledBack:
            halted = msgspec.Raw(error(400, "PROCESSING_HALTED", _HALTED).body)
            failed = len(results) - 1
            results += [_Result(None, {}, 0, each.reference) for each in series.requests[len(results) :]]
            for number, each in enumerate(results):
                if number != failed:
                    each.body, each.http_headers, each.http_status_code = halted, {}, 400
        return json_answer({"compositeResponse": results})

    def _work(self, call: Call, effect: Effect, series: _Series, results: list[_Result]) -> None:
        bodies: dict[str, Any] = {}
        for number, each in enumerate(series.requests):
            if number:
                self._pause(self._org.options.composite_pause)
            answer = self._one(call, effect, each, bodies)
            failed = answer.status >= 400
            results.append(
                _Result(
                    msgspec.Raw(answer.body) if answer.body else None,
                    {name: value for name, value in answer.headers if name != "WWW-Authenticate"},
                    answer.status,
                    each.reference,
                )
            )
            if failed and series.allOrNone:
                raise _RolledBack
            if answer.body and not failed:
                bodies[each.reference] = msgspec.json.decode(answer.body)

    def _one(self, call: Call, effect: Effect, each: Subrequest, bodies: dict[str, Any]) -> Answer:
        try:
            url = _resolved_url(each.url, bodies)
            body = b"" if each.body is None else json_answer(_resolved(each.body, bodies)).body
        except LookupError as problem:
            return error(400, "PROCESSING_HALTED", f"Invalid reference specified. {problem.args[0]}")
        if _SUPPORTED.fullmatch(url) is None:
            return error(400, "PROCESSING_HALTED", f"Composite does not support the resource {url[:100]}")
        given = {name.lower(): value for name, value in (each.headers or {}).items()}
        inherited = {name: call.headers[name] for name in INHERITED if name in call.headers}
        answer, inner, log = self._run(call, each.method, url, inherited | given, body)
        if effect.take_connection(inner):
            call.log.fault = log.fault
        if answer.media_type == HTML:  # a page of the edge or a proxy, which know no subrequests
            call.log.fault = log.fault
            raise Refusal(answer)
        return answer


def _read(body: bytes) -> _Series:
    """The checked series; raises Refusal."""
    try:
        series = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise refuse(
            400, "JSON_PARSER_ERROR", f"The HTTP entity body is no composite request: {problem}"
        ) from None
    if not series.requests:
        raise refuse(400, "INVALID_INPUT", "compositeRequest holds no subrequests")
    if len(series.requests) > MAX_SUBREQUESTS:
        raise refuse(400, "LIMIT_EXCEEDED", f"compositeRequest holds more than {MAX_SUBREQUESTS} subrequests")
    if sum(_QUERY.match(each.url) is not None for each in series.requests) > MAX_QUERIES:
        raise refuse(
            400, "LIMIT_EXCEEDED", f"compositeRequest holds more than {MAX_QUERIES} queries and collections"
        )
    seen: set[str] = set()
    for each in series.requests:
        if _REFERENCE_ID.fullmatch(each.reference) is None:
            raise refuse(
                400, "INVALID_INPUT", f"Provided referenceId ('{each.reference}') must be alphanumeric"
            )
        if each.reference in seen:
            raise refuse(400, "INVALID_INPUT", f"Duplicate referenceId: {each.reference}")
        seen.add(each.reference)
        refused = sorted(name for name in each.headers or {} if name.lower() in INHERITED)
        if refused:
            raise refuse(400, "INVALID_INPUT", f"httpHeaders must not hold {', '.join(refused)}")
    return series


def _resolved_url(url: str, bodies: dict[str, Any]) -> str:
    return _REFERENCE.sub(lambda found: quote(str(_value(found, bodies)), safe=""), url)


def _resolved(value: Any, bodies: dict[str, Any]) -> Any:
    """A body with its references replaced; raises LookupError with the reference that has no value."""
    if isinstance(value, dict):
        return {name: _resolved(each, bodies) for name, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, bodies) for each in value]
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole is not None:
        return _value(whole, bodies)
    return _REFERENCE.sub(lambda found: str(_value(found, bodies)), value)


def _value(found: re.Match[str], bodies: dict[str, Any]) -> Any:
    value: Any = bodies.get(found[1])
    try:
        for name, position in _STEP.findall(found[2]):
            value = value[name] if name else value[int(position)]
    except (LookupError, TypeError):
        raise LookupError(f"No value for {found[1]}{found[2]} found in {found[1]}") from None
    return value
