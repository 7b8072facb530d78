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

from sync.config import Settings
from sync.errors import LoginError, SalesforceError
from sync.session.hosts import host_of, trusted
from sync.session.http import Http, RedirectedError
from sync.session.limits import LONGEST_CODE, clip
from sync.session.rules import Transient, network_failure, retry_after

# OAuth's answers to a login that a person can mend; the rest is shown as it came.
LOGIN_ADVICE = {
    "request not supported on this domain": "set SALESFORCE_LOGIN_URL to the org's My Domain URL",
    "no client credentials user enabled": "set a Run As user in the app's client-credentials flow",
    "invalid client credentials": "check SALESFORCE_CLIENT_SECRET",
    "client identifier invalid": "check SALESFORCE_CLIENT_ID (a new app needs up to ten minutes)",
    "user hasn't approved this consumer": "pre-authorise the user for the app (permission set or profile)",
    "user is not admin approved to access this app": "pre-authorise the user for the app",
    "audience is invalid": "set SALESFORCE_AUDIENCE to https://login.salesforce.com or https://test.salesforce.com",
    "invalid assertion": "the certificate in the app does not belong to SALESFORCE_PRIVATE_KEY",
    "authentication failure": "check SALESFORCE_USERNAME, SALESFORCE_PASSWORD and SALESFORCE_SECURITY_TOKEN",
    "ip restricted": "allow this network in the app's or profile's IP policy",
    "inactive user": "activate the integration user",
}
LOGIN_TRANSIENT = ("token request is already being processed",)


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, the URL of its instance, and the org's Id (15 characters, "" where it is not said)."""

    access: str
    instance: str
    organization: str


TOKEN_PATH = "/services/oauth2/token"  # noqa: S105 — a path
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
        access, body = ask(settings, http, login_url)
    except RedirectedError as redirected:
        own = f"https://{redirected.host}"
        if redirected.status not in LEADS_ON or not permitted(settings, redirected.host):
            raise LoginError(elsewhere(redirected)) from None
        try:
            access, body = ask(settings, http, own)
        except RedirectedError as again:
            raise LoginError(f"{own} was named by {login_url}, and {elsewhere(again)}") from None
    if not access:
        raise LoginError("the login answered without an access token")
    if not isinstance(access, str) or not ACCESS_TOKEN.fullmatch(access):
        raise LoginError("the login answered with an access token that no header can carry")
    return Token(access, instance_of(settings, body), organization_of(access, body))


def ask(settings: Settings, http: Http, url: str) -> tuple[Any, Any]:
    """The access token and the whole answer of one token request."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # simple-salesforce warns where we raise
            form = grant(settings)
            access, _ = token_login(
                url + TOKEN_PATH, form, "login", settings.salesforce_client_id, None, None, http
            )
    except SalesforceAuthenticationFailed as error:
        raise login_failure(error, http.last) from None
    except requests.RequestException as error:
        raise network_failure(error) from None
    except (ValueError, AttributeError) as error:
        # HTML instead of JSON, a list instead of an object, no instance_url: an edge answered, not the org.
        status = http.last.status_code if http.last is not None else 0
        what = f"the login answered {status} with something else than a token: {clip(error)}"
        raise Transient(SalesforceError(what)) from None
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


def login_failure(error: SalesforceAuthenticationFailed, response: requests.Response | None) -> Exception:
    """The exception that a refused token request means."""
    code, message = clip(error.code or "", LONGEST_CODE), clip(error.auth_message or "")
    status = response.status_code if response is not None else 0
    if status == 200:
        # simple-salesforce could not read the body: a maintenance page, not the org's answer.
        what = f"the login answered 200 with something else than a token: {clip(message, 200)}"
        return Transient(SalesforceError(what, status=status))
    if status >= 500 or status in (420, 429) or any(text in message for text in LOGIN_TRANSIENT):
        return Transient(
            SalesforceError(f"login: {status} {code} {clip(message, 200)}", status=status),
            retry_after(response),
        )
    advice = next((advice for text, advice in LOGIN_ADVICE.items() if text in message.lower()), "")
    return LoginError(f"Salesforce refused the login: {code}: {message}" + (f" ({advice})" if advice else ""))
