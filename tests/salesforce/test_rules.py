"""What an answer of Salesforce means: the table, row by row, and every documented error."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import requests
import urllib3
from simple_salesforce.exceptions import SalesforceGeneralError

from sync.errors import (
    DeferredError,
    FieldsMovedError,
    LoginError,
    QueryLostError,
    SalesforceError,
)
from sync.salesforce.session.bodies import first_error
from sync.salesforce.session.rules import (
    RULES,
    Action,
    Rule,
    Transient,
    Unauthorised,
    classify,
    classify_error,
    network_failure,
    retry_after,
)

# What the call that met the error does, by exception.
EXCEPTION: dict[Action, type[Exception]] = {
    Action.RETRY: Transient,
    Action.DEFER: DeferredError,
    Action.LOGIN: Unauthorised,
    Action.RESTART: QueryLostError,
    Action.REDESCRIBE: FieldsMovedError,
    Action.FAIL: SalesforceError,
}

# status, errorCode, message, what to do: Salesforce's documented and recorded errors.
DOCUMENTED: tuple[tuple[int, str, str, Action], ...] = (
    (400, "MALFORMED_QUERY", "unexpected token: 'FORM'", Action.FAIL),
    (400, "MALFORMED_QUERY", "A query string has to be specified", Action.FAIL),
    (400, "INVALID_FIELD", "\nERROR at Row:1\nNo such column 'X' on entity 'Account'.", Action.REDESCRIBE),
    (400, "INVALID_TYPE", "sObject type 'XYZZY' is not supported.", Action.FAIL),
    (400, "INVALID_QUERY_LOCATOR", "invalid query locator", Action.RESTART),
    (400, "INVALID_QUERY_LOCATOR_FORMAT", "invalid query locator", Action.RESTART),
    (400, "LOCATOR_LOCATION_EXCEEDS_SIZE", "beyond the end", Action.RESTART),
    (400, "QUERY_LOCATOR_EXPIRED", "expired", Action.RESTART),
    (400, "QUERY_LOCATOR_NOT_FOUND", "not found", Action.RESTART),
    (400, "UNAUTHORIZED_USER_FOR_CURSOR", "another user's", Action.RESTART),
    (400, "TEMPORARY_QUERY_MORE_FAILURE", "try again", Action.RETRY),
    (400, "INVALID_QUERY_FILTER_OPERATOR", "invalid operator", Action.FAIL),
    (400, "INVALID_BATCH_SIZE", "batch size", Action.FAIL),
    (400, "NUMBER_OUTSIDE_VALID_RANGE", "Maximum SOQL offset allowed is 2000", Action.FAIL),
    (400, "EXCEEDED_ID_LIMIT", "too many", Action.FAIL),
    (400, "MALFORMED_ID", "Account ID: id value of incorrect type: 001900K0001pPuOAAU", Action.FAIL),
    (400, "QUERY_TIMEOUT", "Your query request was running for too long.", Action.RETRY),
    (400, "OPERATION_TOO_LARGE", "exceeded 100000 distinct who/what's", Action.FAIL),
    (400, "QUERY_TOO_COMPLICATED", "too many formulas", Action.FAIL),
    (400, "INVALID_REPLICATION_DATE", "startDate cannot be more than 30 days ago", Action.FAIL),
    (400, "INVALIDJOB", "InvalidJob : A query job needs its query.", Action.FAIL),
    (400, "INVALIDJOBSTATE", "Aborting already Completed Job not allowed", Action.FAIL),
    (400, "INVALIDENTITY", "Entity 'X' is not supported by the Bulk API.", Action.FAIL),
    (400, "API_ERROR", "Selecting compound data not supported in Bulk Query", Action.FAIL),
    (
        400,
        "LIMIT_EXCEEDED",
        "Max bulk v2 query jobs (10000) per 24 hrs has been reached (10021)",
        Action.FAIL,
    ),
    (409, "API_ERROR", "The job was created with another API version.", Action.FAIL),
    (400, "TXN_SECURITY_METERING_ERROR", "policies took too long to complete.", Action.RETRY),
    (400, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access", Action.RETRY),
    (500, "UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access", Action.RETRY),
    (401, "INVALID_SESSION_ID", "Session expired or invalid", Action.LOGIN),
    (401, "INVALID_SESSION_ID", "This session is not valid for use with the REST API", Action.FAIL),
    (401, "INVALID_SESSION_ID", "This session is not valid for use with the API", Action.FAIL),
    (401, "INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT", Action.LOGIN),
    (401, "INVALID_AUTH_HEADER", "INVALID_HEADER_TYPE", Action.LOGIN),
    (403, "INVALID_AUTH_HEADER", "INVALID_SCOPES", Action.LOGIN),
    (403, "INVALID_JWT_FORMAT", "invalid token", Action.LOGIN),
    (403, "INVALID_AUTH_HEADER", "INVALID_JWT_FORMAT", Action.LOGIN),
    (400, "URL_NOT_RESET", "Destination URL not reset.", Action.LOGIN),
    (404, "URL_NOT_RESET", "Destination URL not reset.", Action.LOGIN),
    (400, "UNKNOWN_EXCEPTION", "Destination URL not reset. The URL returned from login", Action.LOGIN),
    (401, "", "<html>Unauthorized</html>", Action.LOGIN),
    (403, "", "Bad_OAuth_Token", Action.LOGIN),
    (403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.", Action.DEFER),
    (
        403,
        "REQUEST_LIMIT_EXCEEDED",
        "ConcurrentRequests (Concurrent API Requests) Limit exceeded.",
        Action.RETRY,
    ),
    (403, "REQUEST_LIMIT_EXCEEDED", "ConcurrentPerOrgLongTxn Limit exceeded.", Action.RETRY),
    (403, "API_DISABLED_FOR_ORG", "The REST API is not enabled for this Organization.", Action.FAIL),
    (403, "API_CURRENTLY_DISABLED", "API is disabled for this User", Action.FAIL),
    (403, "INSUFFICIENT_ACCESS", "insufficient access rights on object id", Action.FAIL),
    (403, "FUNCTIONALITY_NOT_ENABLED", "This feature is not enabled.", Action.FAIL),
    (404, "NOT_FOUND", "The requested resource does not exist", Action.FAIL),
    (405, "METHOD_NOT_ALLOWED", "HTTP Method 'PUT' not allowed.", Action.FAIL),
    (406, "", "", Action.RETRY),
    (409, "", "", Action.FAIL),
    (410, "GONE", "Requested API version is retired.", Action.FAIL),
    (414, "", "Bad Message 414 reason: URI Too Long", Action.FAIL),
    (415, "UNSUPPORTED_MEDIA_TYPE", "unsupported", Action.FAIL),
    (420, "", "setting things up", Action.RETRY),
    (429, "", "", Action.RETRY),
    (431, "", "", Action.FAIL),
    (500, "UNKNOWN_EXCEPTION", "An unexpected error occurred.", Action.RETRY),
    (500, "", "Server Error", Action.RETRY),
    (502, "", "Bad Gateway", Action.RETRY),
    (503, "SERVER_UNAVAILABLE", "temporarily unavailable", Action.RETRY),
    (503, "", "Service Not Available", Action.RETRY),
    (504, "", "Gateway Timeout", Action.RETRY),
    (418, "SOMETHING_NEW", "nobody knows", Action.FAIL),
)


def answered(status: int, content: Any, **headers: str) -> tuple[SalesforceGeneralError, requests.Response]:
    """An error answer as the client library reports it, with its response."""
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return SalesforceGeneralError("https://acme.my.salesforce.com", status, "query", content), response


def judged(status: int, code: str, message: str, *, lost_on_404: bool = False, **headers: str) -> Exception:
    error, response = answered(status, [{"errorCode": code, "message": message}], **headers)
    return classify_error(error, response, lost_on_404=lost_on_404)


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: f"{rule.status or '*'}-{rule.code or '*'}-{rule.text or '*'}"
)
def test_each_row_decides_for_its_answers(rule: Rule) -> None:
    """An answer that a row describes is treated as the row says: no row above it gets in the way."""
    found = classify(rule.status or 400, rule.code or "", rule.text or "any message")

    assert found is rule


@pytest.mark.parametrize(
    "rule", RULES, ids=lambda rule: f"{rule.status or '*'}-{rule.code or '*'}-{rule.text or '*'}"
)
def test_each_row_tells_a_person_what_to_do(rule: Rule) -> None:
    """An answer that only a person can mend comes with advice; one that a login or a restart mends has none."""
    if rule.action is not Action.RETRY:
        assert bool(rule.advice) == (rule.action in (Action.FAIL, Action.DEFER))


@pytest.mark.parametrize(("status", "code", "message", "action"), DOCUMENTED)
def test_documented_errors(status: int, code: str, message: str, action: Action) -> None:
    """Every error that Salesforce documents, or was recorded answering, leads to its documented action."""
    assert classify(status, code, message).action is action


@pytest.mark.parametrize("action", Action)
def test_actions_are_exceptions(action: Action) -> None:
    """Each action reaches the caller as its own exception, with status, code and message in its words."""
    status, code, message, _ = next(row for row in DOCUMENTED if row[3] is action and row[1])

    error = judged(status, code, message)

    assert type(error) is EXCEPTION[action]
    assert f"Salesforce answered {status} {code}: {message.strip()}" in str(error)
    carried = error.error if isinstance(error, Transient) else error
    if isinstance(carried, SalesforceError):
        assert (carried.status, carried.code) == (status, code)


def test_advice_is_part_of_the_error() -> None:
    """Who reads the error reads the remedy."""
    assert str(judged(410, "GONE", "retired.")) == (
        "Salesforce answered 410 GONE: retired. "
        "(Salesforce has retired this API version: raise SALESFORCE_API_VERSION)"
    )


@pytest.mark.parametrize("code", ["NOT_FOUND", ""])
def test_unknown_locator_or_job_may_be_a_404(code: str) -> None:
    """A 404 to a locator or a job means that it is gone, to anything else that the thing is hidden."""
    lost = judged(404, code, "does not exist", lost_on_404=True)
    hidden = judged(404, code, "does not exist")

    assert type(lost) is QueryLostError
    assert type(hidden) is SalesforceError
    assert lost.status == hidden.status == 404


@pytest.mark.parametrize(("status", "code"), [(500, "UNKNOWN_EXCEPTION"), (401, "INVALID_SESSION_ID")])
def test_other_errors_to_a_locator_are_what_they_are(status: int, code: str) -> None:
    """Only a lost result set restarts the query: a busy server is asked for the same page again."""
    assert type(judged(status, code, "x", lost_on_404=True)) is type(judged(status, code, "x"))


def test_long_messages_are_cut() -> None:
    """An error carries at most 500 characters of Salesforce's message: it quotes whole queries."""
    assert str(judged(400, "MALFORMED_QUERY", "x" * 90_000)) == (
        "Salesforce answered 400 MALFORMED_QUERY: " + "x" * 499 + "…"
    )


# ── reading an answer ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ([{"message": "m", "errorCode": "C"}], "C", "m"),
        ([{"errorCode": "C", "message": "m", "fields": ["Id"]}], "C", "m"),
        ([{"errorCode": "C", "message": "m"}, {"errorCode": "D", "message": "n"}], "C", "m"),
        ([{}], "", ""),
        ({"error": "invalid_grant", "error_description": "ip restricted"}, "invalid_grant", "ip restricted"),
        ({"errorCode": "C", "message": "m"}, "C", "m"),
        ({}, "", ""),
        ([], "", ""),
        (["text"], "", "['text']"),
        ("", "", ""),
        (None, "", ""),
        (b"", "", ""),
        ("Bad_OAuth_Token", "", "Bad_OAuth_Token"),
        ("<html><body><h1>Down</h1><p>for\n maintenance</p></body></html>", "", "Down for maintenance"),
        (
            b"<h1>Bad Message 414</h1><pre>reason: URI Too Long</pre>",
            "",
            "Bad Message 414 reason: URI Too Long",
        ),
        (b"caf\xe9", "", "caf�"),
        (b'[{"message": "m", "errorCode": "C"}]', "C", "m"),
        ('\ufeff {"error": "invalid_grant", "error_description": "d"}', "invalid_grant", "d"),
        (b'{"exceptionCode": "InvalidSessionId", "exceptionMessage": "m"}', "InvalidSessionId", "m"),
        (b'{"error"', "", '{"error"'),
        (
            b"<?xml version='1.0'?><Errors><Error><errorCode>INVALID_SESSION_ID</errorCode>"
            b"<message>Session &amp; more</message></Error></Errors>",
            "INVALID_SESSION_ID",
            "Session & more",
        ),
        (
            '<error xmlns="http://www.force.com/2009/06/asyncapi/dataload">\n<exceptionCode>InvalidSessionId'
            "</exceptionCode>\n<exceptionMessage>Unable to find session</exceptionMessage></error>",
            "InvalidSessionId",
            "Unable to find session",
        ),
        ("<OAuth><error>invalid_grant</error></OAuth>", "invalid_grant", ""),
        (
            "<soapenv:Fault><faultcode>sf:INVALID_LOGIN</faultcode><faultstring>bad</faultstring>",
            "sf:INVALID_LOGIN",
            "bad",
        ),
        ("x" * 1000, "", "x" * 200),
    ],
)
def test_first_error(content: Any, code: str, message: str) -> None:
    """Code and message are found in a list, an object, HTML, bytes, or nothing at all."""
    assert first_error(content) == (code, message)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
@pytest.mark.parametrize(
    "content", [[], {}, "", b"", None, "<html>x</html>", [None], [[]], 7, [{"errorCode": None}]]
)
def test_no_body_is_too_strange(status: int, content: Any) -> None:
    """Whatever the body, an error answer is judged by its status, never a crash."""
    error, response = answered(status, content)

    assert (
        type(classify_error(error, response, lost_on_404=False)) is EXCEPTION[classify(status, "", "").action]
    )


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("", 0),
        ("soon", 0),
        ("-5", 0),
        ("1.5", 1.5),
        ("86400", 86_400),
        ("1e20", 1e20),
        ("9" * 400, 1e80),
        ("1e999", math.inf),
        ("nan", 0),
        ("-inf", 0),
        ("+", 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
        ("12 minutes", 0),
        ("²", 0),
    ],
)
def test_retry_after_in_seconds(header: str, seconds: float) -> None:
    """Retry-After in seconds is taken as it is; anything unreadable counts as absent."""
    _, response = answered(503, "", Retry_After=header)

    assert retry_after(response) == seconds


def test_retry_after_as_a_date() -> None:
    """Retry-After may be a date: what is left until then, nothing when it has passed."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)

    assert 80 < retry_after(answered(503, "", Retry_After=soon)[1]) <= 90
    assert retry_after(answered(503, "", Retry_After=past)[1]) == 0


@pytest.mark.parametrize("zone", ["-0000", "", "+9999"])
def test_retry_after_with_a_strange_zone(zone: str) -> None:
    """A date without a usable zone counts as absent rather than breaking the retry."""
    _, response = answered(503, "", Retry_After=f"Wed, 21 Oct 2099 07:28:00 {zone}".strip())

    assert retry_after(response) >= 0


def test_retry_after_absent() -> None:
    """Without the header, or without an answer, nothing is asked."""
    assert retry_after(answered(503, "")[1]) == 0
    assert retry_after(None) == 0


def test_retry_after_travels_with_the_error() -> None:
    """The wait that the server asks for is known to the one who waits."""
    error = judged(503, "SERVER_UNAVAILABLE", "x", Retry_After="33")

    assert isinstance(error, Transient)
    assert error.retry_after == 33


# ── no answer ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "failure",
    [
        requests.exceptions.ConnectionError("[Errno -2] Name or service not known"),
        requests.exceptions.ConnectTimeout("timed out"),
        requests.exceptions.ReadTimeout("Read timed out."),
        requests.exceptions.ChunkedEncodingError("IncompleteRead(10 bytes read)"),
        requests.exceptions.ContentDecodingError("gzip"),
        requests.exceptions.SSLError("EOF occurred in violation of protocol"),
        requests.exceptions.TooManyRedirects("30"),
        # A body read as it arrives fails in the words of the library below.
        urllib3.exceptions.ProtocolError("Connection broken: IncompleteRead(10 bytes read)"),
        urllib3.exceptions.IncompleteRead(10, 20),
        urllib3.exceptions.DecodeError("gzip"),
        urllib3.exceptions.SSLError("EOF occurred in violation of protocol"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_no_answer_is_tried_again(failure: Exception) -> None:
    """Outages, timeouts and halves of an answer are worth another attempt, and say what happened."""
    error = network_failure(failure)

    assert isinstance(error, Transient)
    assert str(error) == f"no answer from Salesforce: {type(failure).__name__}: {failure}"
    assert isinstance(error.error, SalesforceError)
    assert (error.error.status, error.error.code) == (0, "")


def test_untrusted_certificate_is_not_tried_again() -> None:
    """A certificate that is not trusted stays so: the error names the setting that mends it."""
    error = network_failure(requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"))

    assert isinstance(error, LoginError)
    assert "REQUESTS_CA_BUNDLE" in str(error)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.status or '*'}-{rule.code or '*'}")
def test_rows_are_particular(rule: Rule) -> None:
    """No row matches every answer, and codes are written as Salesforce writes them."""
    assert rule.status is not None or rule.code is not None
    assert rule.code is None or re.fullmatch("[A-Z_]+", rule.code)
