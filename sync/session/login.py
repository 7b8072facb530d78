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
from sync.session.http import Http
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


def request_token(settings: Settings, http: Http) -> Token:
    """One token request."""
    url = f"{settings.salesforce_login_url}/services/oauth2/token"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # simple-salesforce warns where we raise
            token, instance = token_login(
                url, grant(settings), "login", settings.salesforce_client_id, None, None, http
            )
    except SalesforceAuthenticationFailed as error:
        raise login_failure(error, http.last) from None
    except requests.RequestException as error:
        raise network_failure(error) from None
    except (ValueError, AttributeError) as error:
        # HTML instead of JSON, a list instead of an object, no instance_url: an edge answered, not the org.
        status = http.last.status_code if http.last is not None else 0
        raise Transient(
            SalesforceError(f"the login answered {status} with something else than a token: {error}")
        ) from None
    if not token:
        raise LoginError("the login answered without an access token")
    body = http.last.json() if http.last is not None else {}
    return Token(str(token), f"https://{instance}", organization_of(str(token), body))


def organization_of(token: str, body: Any) -> str:
    """The org that a token is of: its identity URL names it, and an opaque token begins with it."""
    identity = str(body.get("id") or "") if isinstance(body, dict) else ""
    found = re.search(r"/id/(00D\w{12})", identity) or re.match(r"(00D\w{12})!", token)
    return found[1] if found else ""


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
    code, message = str(error.code or ""), str(error.auth_message or "")
    status = response.status_code if response is not None else 0
    if status == 200:
        # simple-salesforce could not read the body: a maintenance page, not the org's answer.
        what = f"the login answered 200 with something else than a token: {message[:200]}"
        return Transient(SalesforceError(what, status=status))
    if status >= 500 or status in (420, 429) or any(text in message for text in LOGIN_TRANSIENT):
        return Transient(
            SalesforceError(f"login: {status} {code} {message[:200]}", status=status), retry_after(response)
        )
    advice = next((advice for text, advice in LOGIN_ADVICE.items() if text in message.lower()), "")
    return LoginError(f"Salesforce refused the login: {code}: {message}" + (f" ({advice})" if advice else ""))
