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
from sync.salesforce.session.addresses import host_of, is_trusted
from sync.salesforce.session.bodies import first_error
from sync.salesforce.session.http import Http, RedirectedError
from sync.salesforce.session.limits import LONGEST_CODE, clip
from sync.salesforce.session.rules import Transient, network_failure, retry_after

# Remedies for refused logins, by a part of OAuth's "code: message", specific parts first. Without a match
# only the answer is shown.
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
# Parts of "code: message" of temporary refusals.
LOGIN_TRANSIENT = (
    *("token request is already being processed", "retry your request"),
    *("unknown_error:", "server_error:", "temporarily_unavailable:"),
)
# Codes of permanent refusals, whatever the message is; codes that begin with OAUTH_ are permanent, too.
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
    """An access token, the URL of its instance, and the Id of its org (15 characters, "" if unknown)."""

    access: str
    instance: str
    organization: str


TOKEN_PATH = "/services/oauth2/token"  # noqa: S105 — this is a path, not a secret
# Redirects that a login host may answer; 303 would drop the form.
FOLLOWED_REDIRECTS = frozenset({301, 302, 307, 308})
# A token is printable ASCII; one issued as a JWT has some 2,000 characters.
ACCESS_TOKEN = re.compile(r"[!-~]{1,16384}")
ORGANIZATION = re.compile(r"00D[A-Za-z0-9]{12}")


def request_token(settings: Settings, http: Http) -> Token:
    """Request a token, and once more at the org's own host if the login host redirects there.

    Raises LoginError for what an operator has to correct: a refusal, an untrusted redirect or an untrusted
    instance.
    """
    login_url = settings.salesforce_login_url
    try:
        access, body = post_token_request(settings, http, login_url)
    except RedirectedError as redirected:
        own = f"https://{redirected.host}"
        if redirected.status not in FOLLOWED_REDIRECTS or not may_receive_secrets(settings, redirected.host):
            raise LoginError(redirect_message(redirected)) from None
        try:
            access, body = post_token_request(settings, http, own)
        except RedirectedError as again:
            raise LoginError(f"{own} was named by {login_url}, and {redirect_message(again)}") from None
    if not access:
        raise LoginError("the login answered without an access token")
    if not isinstance(access, str) or not ACCESS_TOKEN.fullmatch(access):
        raise LoginError("the login answered with an access token that is not valid in a header")
    return Token(access, instance_of(settings, body), organization_of(access, body))


def post_token_request(settings: Settings, http: Http, url: str) -> tuple[Any, Any]:
    """Send one token request; return the access token and the whole answer."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # simple-salesforce warns of cases that raise here
            form = token_form(settings)
            access, _ = token_login(
                url + TOKEN_PATH, form, "login", settings.salesforce_client_id, None, None, http
            )
    except requests.RequestException as error:
        raise network_failure(error) from None
    except (SalesforceAuthenticationFailed, ValueError, AttributeError):
        # A refusal; or HTML, a list, no instance_url: the answer of a proxy or edge server, not of the org.
        raise login_error(http.last) from None
    return access, http.last.json() if http.last is not None else {}


def may_receive_secrets(settings: Settings, host: str) -> bool:
    """Return whether a host may receive the secrets of the login."""
    return bool(host) and is_trusted(host, settings.salesforce_login_url, settings.salesforce_private_hosts)


def redirect_message(redirected: RedirectedError) -> str:
    """Return the message for a redirect that is not followed."""
    return (
        f"the login answered {redirected.status} and redirects to {redirected.target}, where no secret "
        "is sent: set SALESFORCE_LOGIN_URL to the org's My Domain URL; if it is set, a proxy answers instead"
    )


def instance_of(settings: Settings, body: Any) -> str:
    """Return the instance URL in a token answer; raise LoginError for a host that is not trusted."""
    named = body.get("instance_url") if isinstance(body, dict) else None
    try:
        host = host_of(named)
    except ValueError:
        host = ""
    if not may_receive_secrets(settings, host):
        raise LoginError(
            f"the login names the instance {clip(ascii(named), 200)}, which is not an https URL of the login "
            "host or of a Salesforce domain, so the token was not sent there; check SALESFORCE_LOGIN_URL, "
            "or name the host in SALESFORCE_PRIVATE_HOSTS if it is yours"
        )
    return f"https://{host}"


def organization_of(token: str, body: Any) -> str:
    """Return the org of a token: from the identity URL, or from the start of an opaque token."""
    identity = str(body.get("id") or "") if isinstance(body, dict) else ""
    named = ORGANIZATION.match(identity.partition("/id/")[2])
    if named is None and token[15:16] == "!":
        named = ORGANIZATION.match(token)
    return named[0] if named else ""


def token_form(settings: Settings) -> dict[str, str]:
    """Return the form of the token request; secrets are in the form, which every flow accepts."""
    form = {"client_id": settings.salesforce_client_id}
    if settings.flow == "jwt":
        assertion = jwt.encode(
            {
                "iss": settings.salesforce_client_id,
                "sub": settings.salesforce_username,
                "aud": audience(settings),
                "exp": int(time.time()) + 180,
            },
            secret_text(settings.salesforce_private_key),
            algorithm="RS256",
        )
        return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
    form["client_secret"] = secret_text(settings.salesforce_client_secret)
    if settings.flow == "password":
        password = secret_text(settings.salesforce_password) + secret_text(settings.salesforce_security_token)
        return form | {
            "grant_type": "password",
            "username": settings.salesforce_username or "",
            "password": password,
        }
    return form | {"grant_type": "client_credentials"}


def audience(settings: Settings) -> str:
    """Return the JWT's audience: the production or sandbox login host for Salesforce domains, else the login
    URL."""
    if settings.salesforce_audience:
        return settings.salesforce_audience
    host = urlsplit(settings.salesforce_login_url).hostname or ""
    if not host.endswith(".salesforce.com"):
        return settings.salesforce_login_url
    sandbox = host.startswith("test.") or ".sandbox." in host or ".scratch." in host
    return f"https://{'test' if sandbox else 'login'}.salesforce.com"


def secret_text(secret: Any) -> str:
    """Return the text of a secret ("": not set)."""
    return str(secret.get_secret_value()) if secret is not None else ""


def login_error(response: requests.Response | None) -> Exception:
    """Return the exception for an answer without a token."""
    status, body = (response.status_code, response.content) if response is not None else (0, b"")
    code, message = first_error(body)
    code, message = clip(code, LONGEST_CODE), clip(message)
    if status == 200:
        # A maintenance page. JSON is not quoted: a truncated answer may contain the token.
        shown = (
            "JSON of an unknown form"
            if body.lstrip()[:1] in (b"{", b"[")
            else clip(message, 200) or "nothing"
        )
        what = f"the login answered 200 without a token: {shown}"
        return Transient(SalesforceError(what, status=status, passing=True))
    reason = f"{code}: {message}" if code else message or "no reason is given"
    lower = f"{reason}:".lower()
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
        f"Salesforce refused the login: {reason if code else f'{status}: {reason}'}"
        + (f" ({advice})" if advice else "")
    )
    final = advice or code.lower() in LOGIN_FINAL or code.upper().startswith("OAUTH_")
    return refused if final else Transient(refused, retry_after(response), tries=UNKNOWN_TRIES)
