"""The kinds of misbehaviour: the table FAULTS names each with one line on what it does."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sync.simulator.queries import Distortion
from sync.simulator.wire import HTML, Answer, error, html, json_answer, uri_too_long


@dataclass(frozen=True)
class Fate:
    """What befalls a Bulk job: the state it goes to, or None when it vanishes."""

    state: str | None
    message: str | None = None


# What a fault does to the connection and the response's headers, rather than to a resource's answer.
_OF_CONNECTION = (
    *("hang", "reset", "truncate", "clean", "rows", "no_date", "date_shift", "no_limit_info", "without"),
)


@dataclass
class Effect:
    """What a due fault does to a call: answer in the org's stead, or bend the true answer."""

    answer: Answer | None = None
    revoke: bool = False  # end the session the call came with
    delay: float = 0.0
    hang: bool = False
    reset: bool = False
    truncate: bool = False
    rows: int | None = None  # truncate a page of Bulk results after so many rows
    clean: bool = False  # truncated, yet properly ended
    no_date: bool = False
    date_shift: float = 0.0
    no_limit_info: bool = False
    distortion: Distortion = field(default_factory=Distortion)
    without: tuple[str, ...] = ()  # headers that got lost
    fate: Fate | None = None
    alter: Callable[[Any], Any] | None = None  # makes another JSON body of the true one
    miscounted: int = 0  # by how much numberRecordsProcessed is wrong

    def take_connection(self, inner: "Effect") -> bool:
        """Take over what a subrequest's fault does to the connection; True when it does anything to it."""
        taken = {name: value for name in _OF_CONNECTION if (value := getattr(inner, name))}
        for name, value in taken.items():
            setattr(self, name, value)
        return bool(taken)


Build = Callable[[dict[str, Any]], Effect]


@dataclass(frozen=True)
class Kind:
    """One kind of fault: what it does, and where it strikes unless told otherwise."""

    text: str
    build: Build
    on: str = "any"


def _errors(status: int, code: str, message: str, *, revoke: bool = False, **headers: str) -> Build:
    """A refusal with a JSON body; ``message=`` and ``retry_after=`` may be given with the fault."""

    def build(params: dict[str, Any]) -> Effect:
        answer = error(status, code, str(params.get("message", message)))
        answer.headers += [(name.replace("_", "-"), value) for name, value in headers.items()]
        _retry_after(answer, params)
        return Effect(answer, revoke=bool(params.get("revoke", revoke)))

    return build


def _page(status: int, title: str, text: str = "") -> Build:
    """A refusal with an HTML body."""

    def build(params: dict[str, Any]) -> Effect:
        answer = html(status, title, text)
        _retry_after(answer, params)
        return Effect(answer, revoke=bool(params.get("revoke", False)))

    return build


def _empty(status: int) -> Build:
    def build(params: dict[str, Any]) -> Effect:
        answer = Answer(status, b"", HTML)
        _retry_after(answer, params)
        return Effect(answer)

    return build


def _retry_after(answer: Answer, params: dict[str, Any]) -> None:
    if params.get("retry_after") is not None:
        answer.headers.append(("Retry-After", str(params["retry_after"])))


def _oauth(code: str, description: str, status: int = 400) -> Build:
    return lambda params: Effect(
        json_answer({"error": code, "error_description": params.get("message", description)}, status)
    )


def _distort(make: Callable[[int], Distortion]) -> Build:
    return lambda params: Effect(
        distortion=replace(make(int(params.get("rows", 1))), counted=bool(params.get("header", False)))
    )


def _truncate(params: dict[str, Any]) -> Effect:
    rows = params.get("rows")
    return Effect(
        truncate=True, rows=None if rows is None else int(rows), clean=bool(params.get("clean", False))
    )


_SFORCE = {
    "number": ("sforce-numberofrecords",),
    "locator": ("sforce-locator",),
    "both": ("sforce-numberofrecords", "sforce-locator"),
}


def _without_sforce(params: dict[str, Any]) -> Effect:
    which = params.get("which", "both")
    if which not in _SFORCE:
        raise ValueError(f"which is one of {', '.join(_SFORCE)}, not {which!r}")
    return Effect(without=_SFORCE[which])


def _altered(params: dict[str, Any]) -> Effect:
    """From Python ``change=`` may be a function of the body; from elsewhere ``set=`` and ``add=`` do."""
    change, given, more = params.get("change"), params.get("set", {}), params.get("add", {})

    def alter(body: Any) -> Any:
        return {**body, **given, **{name: [*body[name], *items] for name, items in more.items()}}

    return Effect(alter=change or alter)


def _answered(params: dict[str, Any]) -> Effect:
    status = int(params.get("status", 200))
    if "text" in params:
        return Effect(Answer(status, str(params["text"]).encode(), str(params.get("kind", HTML))))
    return Effect(
        json_answer(params["change"](None) if "change" in params else params.get("body", {}), status)
    )


_UNKNOWN = (
    "An unexpected error occurred. Please include this ErrorId if you contact support: "
    "1000000001-10000 (-1000000001)"
)
_EXPIRED = "Session expired or invalid"

FAULTS: dict[str, Kind] = {
    # --- sessions
    "session_expired": Kind(
        "401 INVALID_SESSION_ID, and the token is dead from now on (revoke=False: only this once)",
        _errors(401, "INVALID_SESSION_ID", _EXPIRED, revoke=True, WWW_Authenticate="Token"),
    ),
    "invalid_jwt_format": Kind(
        "401 INVALID_AUTH_HEADER / INVALID_JWT_FORMAT, as an expired JWT access token gets; the token dies",
        _errors(401, "INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT", revoke=True),
    ),
    "invalid_scopes": Kind(
        "401 INVALID_AUTH_HEADER / INVALID_SCOPES", _errors(401, "INVALID_AUTH_HEADER", "INVALID_SCOPES")
    ),
    "unauthorized_html": Kind("401 with an HTML page", _page(401, "Unauthorized")),
    # --- permissions and configuration
    "api_disabled_for_org": Kind(
        "403 API_DISABLED_FOR_ORG",
        _errors(403, "API_DISABLED_FOR_ORG", "The REST API is not enabled for this Organization."),
    ),
    "api_currently_disabled": Kind(
        "403 API_CURRENTLY_DISABLED",
        _errors(403, "API_CURRENTLY_DISABLED", "API is disabled for this User"),
    ),
    "insufficient_access": Kind(
        "403 INSUFFICIENT_ACCESS",
        _errors(403, "INSUFFICIENT_ACCESS", "insufficient access rights on object id"),
    ),
    "functionality_not_enabled": Kind(
        "403 FUNCTIONALITY_NOT_ENABLED",
        _errors(403, "FUNCTIONALITY_NOT_ENABLED", "This feature is not enabled."),
    ),
    "not_found": Kind("404 NOT_FOUND", _errors(404, "NOT_FOUND", "The requested resource does not exist")),
    "gone": Kind(
        "410 GONE, as for a retired version", _errors(410, "GONE", "Requested API version is retired.")
    ),
    # --- limits
    "request_limit": Kind(
        "403 REQUEST_LIMIT_EXCEEDED, the daily kind",
        _errors(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded."),
    ),
    "concurrent_limit": Kind(
        "403 REQUEST_LIMIT_EXCEEDED, the concurrent kind",
        _errors(
            403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentRequests (Concurrent API Requests) Limit exceeded."
        ),
    ),
    "too_many_requests": Kind("429 without a body; retry_after= adds the header", _empty(429)),
    # --- queries
    "query_timeout": Kind(
        "400 QUERY_TIMEOUT",
        _errors(400, "QUERY_TIMEOUT", "Your query request was running for too long."),
        on="query",
    ),
    "malformed_query": Kind(
        "400 MALFORMED_QUERY",
        _errors(400, "MALFORMED_QUERY", "unexpected token: 'CALENDAR_YEAR'"),
        on="query",
    ),
    "operation_too_large": Kind(
        "400 OPERATION_TOO_LARGE",
        _errors(400, "OPERATION_TOO_LARGE", "exceeded 100000 distinct ids"),
        on="query",
    ),
    "query_too_complicated": Kind(
        "400 QUERY_TOO_COMPLICATED",
        _errors(400, "QUERY_TOO_COMPLICATED", "The query is too complicated to run."),
        on="query",
    ),
    "invalid_field": Kind(
        "400 INVALID_FIELD, as if the schema had just changed",
        _errors(400, "INVALID_FIELD", "No such column 'Gone__c' on entity 'Contact'."),
        on="query",
    ),
    "transaction_security": Kind(
        "400 TXN_SECURITY_METERING_ERROR",
        _errors(
            400, "TXN_SECURITY_METERING_ERROR", "Transaction security policies took too long to complete."
        ),
    ),
    "invalid_query_locator": Kind(
        "400 INVALID_QUERY_LOCATOR",
        _errors(400, "INVALID_QUERY_LOCATOR", "invalid query locator"),
        on="page",
    ),
    "query_more_failure": Kind(
        "400 TEMPORARY_QUERY_MORE_FAILURE, the same address works again",
        _errors(400, "TEMPORARY_QUERY_MORE_FAILURE", "temporary failure, please try again"),
        on="page",
    ),
    "invalid_replication_date": Kind(
        "400 INVALID_REPLICATION_DATE",
        _errors(400, "INVALID_REPLICATION_DATE", "startDate before org replication enabled date"),
        on="deleted",
    ),
    "exceeded_id_limit": Kind(
        "400 EXCEEDED_ID_LIMIT, as for more than 600,000 ids",
        _errors(400, "EXCEEDED_ID_LIMIT", "exceeded the limit of 600000 ids"),
        on="updated",
    ),
    "missing_rows": Kind(
        "a page silently lacks rows= records, totalSize and Sforce-NumberOfRecords still count them "
        "(header=True: only the job's numberRecordsProcessed does)",
        _distort(lambda rows: Distortion(missing=rows)),
        on="query",
    ),
    "repeated_rows": Kind(
        "a page carries its first rows= records twice",
        _distort(lambda rows: Distortion(repeated=rows)),
        on="query",
    ),
    "empty_page": Kind(
        "a page without records that is not the last; its nextRecordsUrl continues where it stood",
        _distort(lambda _rows: Distortion(empty=True)),
        on="query",
    ),
    # --- Bulk API 2.0 queries
    "job_failed": Kind(
        "a job fails; message= is its errorMessage, None for none",
        lambda params: Effect(
            fate=Fate("Failed", params.get("message", "InternalServerError : Retried more than 15 times"))
        ),
        on="job",
    ),
    "job_aborted": Kind(
        "an administrator aborts a job", lambda _params: Effect(fate=Fate("Aborted")), on="job"
    ),
    "job_gone": Kind(
        "a job vanishes with its results: 404 from now on", lambda _params: Effect(fate=Fate(None)), on="job"
    ),
    "processed_wrong": Kind(
        "a job's numberRecordsProcessed is n= too many (or too few)",
        lambda params: Effect(miscounted=int(params.get("n", 1))),
        on="job",
    ),
    "no_sforce_headers": Kind(
        "a page of results without the headers a proxy does not know; which= number, locator or both",
        _without_sforce,
        on="results",
    ),
    "bulk_entity": Kind(
        "400 INVALIDENTITY: the Bulk API does not know the object",
        _errors(400, "INVALIDENTITY", "Entity 'Contact' is not supported by the Bulk API."),
        on="job_create",
    ),
    "bulk_compound": Kind(
        "400 API_ERROR, as for selected addresses",
        _errors(400, "API_ERROR", "Selecting compound data not supported in Bulk Query"),
        on="job_create",
    ),
    "bulk_job_limit": Kind(
        "400 LIMIT_EXCEEDED: too many query jobs in 24 hours",
        _errors(400, "LIMIT_EXCEEDED", "Max bulk v2 query jobs (10000) per 24 hrs has been reached (10021)"),
        on="job_create",
    ),
    "bulk_storage_limit": Kind(
        "400 LIMIT_EXCEEDED: too large results in 24 hours",
        _errors(
            400,
            "LIMIT_EXCEEDED",
            "Max bulk v2 query result size stored (1000000000) kb per 24 hrs has been exceeded",
        ),
        on="job_create",
    ),
    # --- the platform and the road to it
    "not_acceptable": Kind("406 without a body", _empty(406)),
    "uri_too_long": Kind(
        "414 as the web server says it",
        lambda _params: Effect(uri_too_long()),
    ),
    "headers_too_large": Kind("431 without a body", _empty(431)),
    "edge_no_route": Kind(
        "420 HTML: the edge does not know the host yet",
        _page(420, "We are setting things up", "This page refreshes automatically."),
    ),
    "unknown_exception": Kind("500 UNKNOWN_EXCEPTION", _errors(500, "UNKNOWN_EXCEPTION", _UNKNOWN)),
    "server_error_html": Kind("500 HTML", _page(500, "Server Error")),
    "bad_gateway_html": Kind("502 HTML: the edge could not reach the instance", _page(502, "Bad Gateway")),
    "unavailable_html": Kind(
        "503 HTML from the content network; retry_after= adds the header",
        _page(503, "Service Not Available", "Please try again in a few minutes."),
    ),
    "server_unavailable": Kind(
        "503 SERVER_UNAVAILABLE; retry_after= adds the header",
        _errors(503, "SERVER_UNAVAILABLE", "The server is temporarily unavailable."),
    ),
    "gateway_timeout_html": Kind("504 HTML", _page(504, "Gateway Timeout")),
    "html_ok": Kind("200 with a maintenance page instead of JSON", _page(200, "Scheduled Maintenance")),
    "redirect": Kind(
        "302, or status=, to location=",
        lambda params: Effect(
            Answer(int(params.get("status", 302)), b"", HTML, [("Location", str(params["location"]))])
        ),
    ),
    "truncated": Kind(
        "the true answer, cut off in the middle of its body (Bulk: rows= after so many rows; "
        "clean=True: the stream ends as if all were well)",
        _truncate,
    ),
    "altered": Kind(
        "the true answer with other contents: the keys of set= replaced, the lists of add= extended",
        _altered,
    ),
    "answered": Kind(
        "200 with body= as JSON, or text= of kind=, instead of the true answer; status= for another status",
        _answered,
    ),
    "reset": Kind("the connection is reset (RST) instead of an answer", lambda _params: Effect(reset=True)),
    "slow": Kind(
        "the true answer after delay= seconds", lambda params: Effect(delay=float(params.get("delay", 1)))
    ),
    "hang": Kind("no answer while the client keeps the connection", lambda _params: Effect(hang=True)),
    "wrong_date": Kind(
        "the true answer with a Date header that is seconds= ahead",
        lambda params: Effect(date_shift=float(params.get("seconds", 10_800))),
    ),
    "no_date": Kind("the true answer without its Date header", lambda _params: Effect(no_date=True)),
    "no_limit_info": Kind(
        "the true answer without Sforce-Limit-Info", lambda _params: Effect(no_limit_info=True)
    ),
    # --- the token endpoint
    "token_busy": Kind(
        "400 invalid_grant: token request is already being processed",
        _oauth("invalid_grant", "token request is already being processed"),
        on="token",
    ),
    "token_wrong_domain": Kind(
        "400 invalid_grant: request not supported on this domain",
        _oauth("invalid_grant", "request not supported on this domain"),
        on="token",
    ),
    "token_no_user": Kind(
        "400 invalid_grant: no client credentials user enabled",
        _oauth("invalid_grant", "no client credentials user enabled"),
        on="token",
    ),
    "token_unknown_client": Kind(
        "400 invalid_client_id: client identifier invalid",
        _oauth("invalid_client_id", "client identifier invalid"),
        on="token",
    ),
    "token_wrong_secret": Kind(
        "400 invalid_client: invalid client credentials",
        _oauth("invalid_client", "invalid client credentials"),
        on="token",
    ),
    "token_unsupported_grant": Kind(
        "400 unsupported_grant_type: grant type not supported",
        _oauth("unsupported_grant_type", "grant type not supported"),
        on="token",
    ),
    "token_ip_restricted": Kind(
        "400 invalid_grant: ip restricted", _oauth("invalid_grant", "ip restricted"), on="token"
    ),
    "token_inactive_user": Kind(
        "400 invalid_grant: inactive user", _oauth("invalid_grant", "inactive user"), on="token"
    ),
    "token_inactive_organization": Kind(
        "400 invalid_grant: inactive organization",
        _oauth("invalid_grant", "inactive organization"),
        on="token",
    ),
    "token_login_hours": Kind(
        "400 invalid_grant: invalid login hours", _oauth("invalid_grant", "invalid login hours"), on="token"
    ),
    "token_rate_limit": Kind(
        "400 invalid_grant: rate limit exceeded", _oauth("invalid_grant", "rate limit exceeded"), on="token"
    ),
    "token_not_approved": Kind(
        "400 invalid_app_access: user is not admin approved to access this app",
        _oauth("invalid_app_access", "user is not admin approved to access this app"),
        on="token",
    ),
    "token_consumer_not_approved": Kind(
        "400 invalid_grant: user hasn't approved this consumer",
        _oauth("invalid_grant", "user hasn't approved this consumer"),
        on="token",
    ),
    "token_app_blocked": Kind(
        "400 OAUTH_APP_BLOCKED: this app is blocked by admin",
        _oauth("OAUTH_APP_BLOCKED", "this app is blocked by admin"),
        on="token",
    ),
    "token_audience": Kind(
        "400 invalid_grant: audience is invalid", _oauth("invalid_grant", "audience is invalid"), on="token"
    ),
    "token_assertion": Kind(
        "400 invalid_grant: invalid assertion", _oauth("invalid_grant", "invalid assertion"), on="token"
    ),
    "token_expired_code": Kind(
        "400 invalid_grant: expired authorization code",
        _oauth("invalid_grant", "expired authorization code"),
        on="token",
    ),
    "token_authentication_failure": Kind(
        "400 invalid_grant: authentication failure",
        _oauth("invalid_grant", "authentication failure"),
        on="token",
    ),
    "token_expired_refresh": Kind(
        "400 invalid_grant: expired access/refresh token",
        _oauth("invalid_grant", "expired access/refresh token"),
        on="token",
    ),
    "token_unavailable_html": Kind("503 HTML", _page(503, "Service Not Available"), on="token"),
}
