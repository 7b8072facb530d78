"""The three login flows: settings → token request → access token and instance."""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
import requests
from simple_salesforce.exceptions import SalesforceAuthenticationFailed
from simple_salesforce.login import token_login

from sync.config.settings import Settings
from sync.errors import LoginError, SalesforceError
from sync.salesforce.session.addresses import host_of, trusted
from sync.salesforce.session.bodies import first_error
from sync.salesforce.session.http import Http, RedirectedError
from sync.salesforce.session.limits import LONGEST_CODE, clip
from sync.salesforce.session.rules import Transient, network_failure, retry_after

# OAuth's answers to a login that a person can mend, by a part of "code: message", particular before general;
# the rest is shown as it came.
LOGIN_ADVICE = {
    "request not supported on this domain": "set SALESFORCE_LOGIN_URL to the org's My Domain URL",
    "no client credentials user enabled": "set a Run As user in the app's client-credentials flow",
    "invalid client credentials": "check SALESFORCE_CLIENT_SECRET",
    "client identifier invalid": "check SALESFORCE_CLIENT_ID (a new app needs up to ten minutes)",
    "oauth_ec_app_not_found": "check SALESFORCE_CLIENT_ID, and install the External Client App in this org",
    "app_not_found": "install the External Client App in this org; or SALESFORCE_LOGIN_URL is another org's",
    "not installed in this org": "install the External Client App in this org",
    "oauth_app_blocked": "unblock the app in Setup, Connected Apps OAuth Usage",
    "unsupported_grant_type": "enable this flow in the app's OAuth settings, or use another flow",
    "expired authorization": "set this machine's clock (NTP): an assertion is valid for three minutes",
    "rate exceeded": "wait an hour, and find what else logs in as this user so often",
    "rate limit exceeded": "wait an hour, and find what else logs in as this user so often",
    "user hasn't approved this consumer": "pre-authorise the user for the app (permission set or profile)",
    "user is not admin approved to access this app": "pre-authorise the user for the app",
    "audience is invalid": "set SALESFORCE_AUDIENCE to "
    "https://login.salesforce.com or https://test.salesforce.com",
    "invalid assertion": "the certificate in the app does not belong to SALESFORCE_PRIVATE_KEY",
    "authentication failure": "check SALESFORCE_USERNAME, SALESFORCE_PASSWORD and SALESFORCE_SECURITY_TOKEN",
    "ip restricted": "allow this network in the app's or profile's IP policy",
    "invalid login hours": "allow the integration user's profile to log in at all hours",
    "inactive user": "activate the integration user",
}
# Passing, by a part of "code: message" too.
LOGIN_TRANSIENT = (
    *("token request is already being processed", "retry your request"),
    *("unknown_error:", "server_error:", "temporarily_unavailable:"),
)
# Codes that another attempt would meet again, whatever the message says; so are those that begin with OAUTH_.
LOGIN_FINAL = frozenset(
    {
        *("invalid_grant", "invalid_client", "invalid_client_id", "invalid_request", "invalid_scope"),
        *("invalid_app_access", "unauthorized_client", "unsupported_grant_type", "access_denied"),
        *("app_not_found", "inactive_user", "inactive_org", "redirect_uri_mismatch"),
    }
)
UNKNOWN_TRIES = 3


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, the URL of its instance, and the org's Id (15 characters, "" where it is not said)."""

    access: str
    instance: str
    organization: str


TOKEN_PATH = "/services/oauth2/token"  # noqa: S105 — this is a path, not a secret
# Answers that a login host may lead on with; 303 would have the form sent nowhere.
LEADS_ON = frozenset({301, 302, 307, 308})
# A token is printable ASCII; one issued as a JWT has some 2,000 characters.
ACCESS_TOKEN = re.compile(r"[!-~]{1,16384}")
ORGANIZATION = re.compile(r"00D[A-Za-z0-9]{12}")


def request_token(settings: Settings, http: Http) -> Token:
    """One token request; one more where the login host names the org's own host, at most once.

    LoginError for what a person has to mend: a refusal, a redirect or an instance that is not Salesforce's.
    """
    login_url = settings.salesforce_login_url
    try:
        access, body = post_token_request(settings, http, login_url)
    except RedirectedError as redirected:
        own = f"https://{redirected.host}"
        if redirected.status not in LEADS_ON or not permitted(settings, redirected.host):
            raise LoginError(elsewhere(redirected)) from None
        try:
            access, body = post_token_request(settings, http, own)
        except RedirectedError as again:
            raise LoginError(f"{own} was named by {login_url}, and {elsewhere(again)}") from None
    if not access:
        raise LoginError("the login answered without an access token")
    if not isinstance(access, str) or not ACCESS_TOKEN.fullmatch(access):
        raise LoginError("the login answered with an access token that no header can carry")
    return Token(access, instance_of(settings, body), organization_of(access, body))


def post_token_request(settings: Settings, http: Http, url: str) -> tuple[Any, Any]:
    """The access token and the whole answer of one token request."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # simple-salesforce warns where we raise
            form = grant(settings)
            access, _ = token_login(
                url + TOKEN_PATH, form, "login", settings.salesforce_client_id, None, None, http
            )
    except requests.RequestException as error:
        raise network_failure(error) from None
    except (SalesforceAuthenticationFailed, ValueError, AttributeError):
        # A refusal; or HTML, a list, no instance_url: an edge answered, not the org.
        raise login_failure(http.last) from None
    return access, http.last.json() if http.last is not None else {}


def permitted(settings: Settings, host: str) -> bool:
    """Whether this host may be sent the secrets of the login."""
    return bool(host) and trusted(host, settings.salesforce_login_url, settings.salesforce_private_hosts)


def elsewhere(redirected: RedirectedError) -> str:
    """What to do about a redirect that is not followed."""
    return (
        f"the login answered {redirected.status} and leads to {redirected.target}, where no secret is sent: "
        "set SALESFORCE_LOGIN_URL to the org's My Domain URL; if that is set, a proxy answers in its place"
    )


def instance_of(settings: Settings, body: Any) -> str:
    """The URL of the instance that a token answer names; LoginError for one that is not Salesforce's."""
    named = body.get("instance_url") if isinstance(body, dict) else None
    try:
        host = host_of(named)
    except ValueError:
        host = ""
    if not permitted(settings, host):
        raise LoginError(
            f"the login names the instance {clip(ascii(named), 200)}, which is no https URL of the login "
            "host or of a Salesforce domain, so the token was not sent there; check SALESFORCE_LOGIN_URL, "
            "or name the host in SALESFORCE_PRIVATE_HOSTS if it is yours"
        )
    return f"https://{host}"


def organization_of(token: str, body: Any) -> str:
    """The org that a token is of: its identity URL names it, and an opaque token begins with it."""
    identity = str(body.get("id") or "") if isinstance(body, dict) else ""
    named = ORGANIZATION.match(identity.partition("/id/")[2])
    if named is None and token[15:16] == "!":
        named = ORGANIZATION.match(token)
    return named[0] if named else ""


def grant(settings: Settings) -> dict[str, str]:
    """The form of the token request; in the form, not in a header, since every flow takes it there."""
    form = {"client_id": settings.salesforce_client_id}
    if settings.flow == "jwt":
        assertion = jwt.encode(
            {
                "iss": settings.salesforce_client_id,
                "sub": settings.salesforce_username,
                "aud": audience(settings),
                "exp": int(time.time()) + 180,
            },
            plain(settings.salesforce_private_key),
            algorithm="RS256",
        )
        return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    form["client_secret"] = plain(settings.salesforce_client_secret)
    if settings.flow == "password":
        password = plain(settings.salesforce_password) + plain(settings.salesforce_security_token)
        return form | {
            "grant_type": "password",
            "username": settings.salesforce_username or "",
            "password": password,
        }
    return form | {"grant_type": "client_credentials"}


def audience(settings: Settings) -> str:
    """Who the JWT is for: production or sandbox login whatever My Domain is asked, else the server."""
    if settings.salesforce_audience:
        return settings.salesforce_audience
    host = urlsplit(settings.salesforce_login_url).hostname or ""
    if not host.endswith(".salesforce.com"):
        return settings.salesforce_login_url
    sandbox = host.startswith("test.") or ".sandbox." in host or ".scratch." in host
    return f"https://{'test' if sandbox else 'login'}.salesforce.com"


def plain(secret: Any) -> str:
    return str(secret.get_secret_value()) if secret is not None else ""


def login_failure(response: requests.Response | None) -> Exception:
    """The exception that a token request's answer without a token means."""
    status, body = (response.status_code, response.content) if response is not None else (0, b"")
    code, message = first_error(body)
    code, message = clip(code, LONGEST_CODE), clip(message)
    if status == 200:
        # A maintenance page. JSON is not quoted: what is cut off in the middle may hold the token.
        shown = (
            "JSON of another form" if body.lstrip()[:1] in (b"{", b"[") else clip(message, 200) or "nothing"
        )
        what = f"the login answered 200 with something else than a token: {shown}"
        return Transient(SalesforceError(what, status=status, passing=True))
    told = f"{code}: {message}" if code else message or "no reason is given"
    lower = f"{told}:".lower()
    if (
        status >= 500
        or status in (420, 429)
        or not body.strip()
        or any(text in lower for text in LOGIN_TRANSIENT)
    ):
        what = f"login: {status} {code}".strip() + f": {clip(message, 200) or 'no reason is given'}"
        return Transient(SalesforceError(what, status=status, passing=True), retry_after(response))
    advice = next((advice for text, advice in LOGIN_ADVICE.items() if text in lower), "")
    refused = LoginError(
        f"Salesforce refused the login: {told if code else f'{status}: {told}'}"
        + (f" ({advice})" if advice else "")
    )
    final = advice or code.lower() in LOGIN_FINAL or code.upper().startswith("OAUTH_")
    return refused if final else Transient(refused, retry_after(response), tries=UNKNOWN_TRIES)
