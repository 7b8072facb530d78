"""The error rules: one table from status, errorCode and message to the action."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum

import requests
from simple_salesforce.exceptions import SalesforceError as ClientError

from sync.errors import (
    DeferredError,
    FieldsMovedError,
    LoginError,
    QueryLostError,
    SalesforceError,
    SyncError,
)
from sync.salesforce.session.bodies import first_error
from sync.salesforce.session.limits import LONGEST_CODE, TooLateError, clip


class Action(Enum):
    """The action for an error."""

    RETRY = "retry"
    DEFER = "defer"
    LOGIN = "login"
    RESTART = "restart"
    REDESCRIBE = "redescribe"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern of status, errorCode and message (None: any), its action, and the advice for operators.

    `busy`: the org runs too many requests at once, so attempts go on for longer, with longer pauses.
    """

    status: int | None
    code: str | None
    text: str | None
    action: Action
    advice: str = ""
    tries: int = 0  # the most attempts (0: as many as the policy allows)
    busy: bool = False


# Statuses of edge servers and content networks.
EDGE = (520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 598, 599)

# The first matching rule decides; specific rules come first.
RULES: tuple[Rule, ...] = (
    Rule(
        None,
        "REQUEST_LIMIT_EXCEEDED",
        "TotalRequests",
        Action.DEFER,
        "the org's daily API requests are used up",
    ),
    # Concurrent ones: 25 that take 20 seconds or longer in an org, 5 in a trial.
    Rule(
        None,
        "REQUEST_LIMIT_EXCEEDED",
        None,
        Action.RETRY,
        "other integrations of the org have long requests open: find them, or lower SYNC_CONCURRENT_REQUESTS",
        busy=True,
    ),
    # "… with the REST API", "… with the API": a new login gets the same kind of session.
    Rule(
        None,
        "INVALID_SESSION_ID",
        "session is not valid for use with the",
        Action.FAIL,
        "add the scope `api` to the app, and let its and the user's session policies allow API access",
    ),
    Rule(None, "INVALID_SESSION_ID", None, Action.LOGIN),
    Rule(None, "INVALID_AUTH_HEADER", None, Action.LOGIN),
    # After a move of the org or a sandbox refresh, the old token ends without a 401.
    Rule(None, "INVALID_JWT_FORMAT", None, Action.LOGIN),
    Rule(403, None, "INVALID_JWT_FORMAT", Action.LOGIN),
    Rule(None, "URL_NOT_RESET", None, Action.LOGIN),
    Rule(None, "UNKNOWN_EXCEPTION", "Destination URL not reset", Action.LOGIN),
    Rule(401, None, None, Action.LOGIN),
    Rule(403, None, "Bad_OAuth_Token", Action.LOGIN),
    Rule(None, "INVALID_QUERY_LOCATOR", None, Action.RESTART),
    Rule(None, "INVALID_QUERY_LOCATOR_FORMAT", None, Action.RESTART),
    Rule(None, "LOCATOR_LOCATION_EXCEEDS_SIZE", None, Action.RESTART),
    Rule(None, "QUERY_LOCATOR_EXPIRED", None, Action.RESTART),
    Rule(None, "QUERY_LOCATOR_NOT_FOUND", None, Action.RESTART),
    Rule(None, "UNAUTHORIZED_USER_FOR_CURSOR", None, Action.RESTART),
    Rule(None, "TEMPORARY_QUERY_MORE_FAILURE", None, Action.RETRY),
    # Each attempt takes two minutes, and there is a fallback.
    Rule(None, "QUERY_TIMEOUT", None, Action.RETRY, tries=2),
    Rule(
        None,
        "TXN_SECURITY_METERING_ERROR",
        None,
        Action.RETRY,
        "exempt the integration user from transaction security policies",
    ),
    Rule(None, "UNABLE_TO_LOCK_ROW", None, Action.RETRY),
    Rule(None, "SERVER_UNAVAILABLE", None, Action.RETRY),
    Rule(None, "UNKNOWN_EXCEPTION", None, Action.RETRY),
    Rule(None, "INVALID_FIELD", None, Action.REDESCRIBE),
    *(
        Rule(
            None,
            "INVALID_TYPE",
            f"'{name}'",
            Action.FAIL,
            "give the integration user the permission View Setup and Configuration",
        )
        for name in ("PermissionSetAssignment", "PermissionSet", "ObjectPermissions")
    ),
    Rule(None, "INVALID_TYPE", None, Action.FAIL, "give the integration user read access to the object"),
    Rule(None, "INSUFFICIENT_ACCESS", None, Action.FAIL, "give the integration user read access"),
    Rule(
        None,
        "API_DISABLED_FOR_ORG",
        None,
        Action.FAIL,
        "this org or edition has no API access, or the app is new",
    ),
    Rule(
        None,
        "API_CURRENTLY_DISABLED",
        None,
        Action.FAIL,
        "give the integration user the permission API Enabled; if it has that, Salesforce has an outage",
    ),
    Rule(
        None,
        "OPERATION_TOO_LARGE",
        None,
        Action.FAIL,
        "give the integration user View All on the object, so that sharing is not computed for each record",
    ),
    Rule(406, None, None, Action.RETRY),
    Rule(408, None, None, Action.RETRY),
    Rule(
        410, None, None, Action.FAIL, "Salesforce has retired this API version: raise SALESFORCE_API_VERSION"
    ),
    *(
        Rule(status, None, None, Action.FAIL, "a query is too long for a URL: name fewer SYNC_CUSTOM_FIELDS")
        for status in (413, 414, 431)
    ),
    Rule(420, None, None, Action.RETRY),
    Rule(429, None, None, Action.RETRY),
    Rule(404, None, None, Action.FAIL, "hidden by permissions, or wrong SALESFORCE_API_VERSION"),
    *(Rule(status, None, None, Action.RETRY) for status in (500, 502, 503, 504, 507, 508, 509, *EDGE)),
)
UNKNOWN = Rule(None, None, None, Action.FAIL)


class Transient(Exception):
    """A failure that another attempt may avoid; this error stays inside the package.

    `error`: the error to raise after the last attempt. `retry_after`: the least seconds to wait. `tries`: the
    most attempts (0: as many as the policy allows). `busy`: the org runs too many requests at once.
    """

    def __init__(
        self, error: SyncError, retry_after: float = 0, *, tries: int = 0, busy: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.tries = tries
        self.busy = busy


class Unauthorised(Exception):
    """The token is not accepted; this error stays inside the package.

    `lasting`: a new token does not help, and the message states the reason.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


def classify(status: int, code: str, message: str) -> Rule:
    """Return the rule for one error answer."""
    for rule in RULES:
        if (
            rule.status in (None, status)
            and rule.code in (None, code)
            and (rule.text is None or rule.text in message)
        ):
            return rule
    return UNKNOWN


def classify_error(error: ClientError, response: requests.Response | None, *, lost_on_404: bool) -> Exception:
    """Return the exception for an error answer; `lost_on_404` is for pages and jobs, which may disappear."""
    code, message = first_error(error.content)
    wait = retry_after(response)
    return exception_for(int(error.status), code, message, wait, lost_on_404=lost_on_404)


def exception_for(
    status: int, code: str, message: str, wait: float = 0, *, lost_on_404: bool = False
) -> Exception:
    """Return the exception for a status, an errorCode and a message; `wait` is Retry-After in seconds."""
    rule = classify(status, code, message)
    what = f"Salesforce answered {status} {clip(code, LONGEST_CODE)}".strip() + f": {clip(message.strip())}"
    if rule.advice:
        what += f" ({rule.advice})"
    # An unknown locator may be a 404 or an INVALID_QUERY_LOCATOR; a dead token may be a 404, too.
    lost = lost_on_404 and status == 404 and rule.action is not Action.LOGIN
    match Action.RESTART if lost else rule.action:
        case Action.LOGIN:
            return Unauthorised(what)
        case Action.DEFER:
            return DeferredError(what)
        case Action.RETRY:
            passing = SalesforceError(what, status=status, code=code, passing=True)
            return Transient(passing, wait, tries=rule.tries, busy=rule.busy)
        case Action.RESTART:
            return QueryLostError(what, status=status, code=code)
        case Action.REDESCRIBE:
            return FieldsMovedError(what, status=status, code=code)
        case Action.FAIL:
            return SalesforceError(what, status=status, code=code)


def network_failure(error: Exception) -> Exception:
    """Return the exception for a missing or incomplete answer."""
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return LoginError(
            f"the server's certificate is not trusted: {clip(error)} "
            "(a private CA goes into REQUESTS_CA_BUNDLE)"
        )
    what = f"no answer from Salesforce: {type(error).__name__}: {clip(error)}"
    late = isinstance(error, requests.Timeout) and not isinstance(error, requests.ConnectTimeout)
    kind = TooLateError if late else SalesforceError
    return Transient(kind(what, passing=True))


def retry_after(response: requests.Response | None) -> float:
    """Return the seconds of Retry-After (a number, also infinite, or a date); 0 without one."""
    value = response.headers.get("Retry-After", "").strip() if response is not None else ""
    if value[:1] in "0123456789.+-":
        try:
            seconds = float(value[:LONGEST_CODE])
        except ValueError:
            return 0.0
        return seconds if seconds > 0 else 0.0  # NaN gives 0
    try:
        until = parsedate_to_datetime(value[:LONGEST_CODE])
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0
