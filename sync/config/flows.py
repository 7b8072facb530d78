"""The three login flows: which one the settings select, and which settings are missing or too many."""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from sync.config.values import SOURCES
from sync.errors import ConfigError

Flow = Literal["client_credentials", "jwt", "password"]

# The settings of each flow. The settings that are present select the flow; no setting names it.
FLOWS: dict[Flow, frozenset[str]] = {
    "client_credentials": frozenset({"SALESFORCE_CLIENT_ID", "SALESFORCE_CLIENT_SECRET"}),
    "jwt": frozenset({"SALESFORCE_CLIENT_ID", "SALESFORCE_USERNAME", "SALESFORCE_PRIVATE_KEY"}),
    "password": frozenset(
        {"SALESFORCE_CLIENT_ID", "SALESFORCE_CLIENT_SECRET", "SALESFORCE_USERNAME", "SALESFORCE_PASSWORD"}
    ),
}
GENERIC_HOSTS = {"login.salesforce.com", "test.salesforce.com"}


class LoginSettings(BaseSettings):
    """The login settings, all optional, so that their problems are reported together with all others."""

    model_config = SOURCES
    salesforce_login_url: str | None = None
    salesforce_client_id: str | None = None
    salesforce_client_secret: SecretStr | None = None
    salesforce_username: str | None = None
    salesforce_private_key: SecretStr | None = None
    salesforce_audience: str | None = None
    salesforce_password: SecretStr | None = None
    salesforce_security_token: SecretStr | None = None


def present_settings(settings: BaseSettings) -> frozenset[str]:
    """Return the names of the login settings that are present."""
    return frozenset(
        name for name in frozenset().union(*FLOWS.values()) if getattr(settings, name.lower()) is not None
    )


def login_problems(login: LoginSettings) -> list[str]:
    """Return what is ambiguous or incomplete in the login settings, each with its remedy."""
    try:
        flow = choose_flow(present_settings(login) | {"SALESFORCE_CLIENT_ID"})
    except ConfigError as error:
        return [str(error)]
    problems = []
    if login.salesforce_security_token is not None and flow != "password":
        problems.append("SALESFORCE_SECURITY_TOKEN belongs to SALESFORCE_PASSWORD: set that too, or unset it")
    if login.salesforce_audience is not None and flow != "jwt":
        problems.append("SALESFORCE_AUDIENCE belongs to SALESFORCE_PRIVATE_KEY: set that too, or unset it")
    host = (login.salesforce_login_url or "").strip().removeprefix("https://").split("/")[0].lower()
    if flow == "client_credentials" and host in GENERIC_HOSTS:
        problems.append(
            f"SALESFORCE_LOGIN_URL is {host}, which refuses the client-credentials flow: "
            "use the org's My Domain URL, https://<name>.my.salesforce.com"
        )
    return problems


def choose_flow(present: frozenset[str]) -> Flow:
    """Return the flow that exactly these settings select.

    Raises ConfigError, with the remedy, if they select none or several.
    """
    for flow, needed in FLOWS.items():
        if present == needed:
            return flow
    if {"SALESFORCE_PRIVATE_KEY", "SALESFORCE_PASSWORD"} <= present:
        raise ConfigError(
            "SALESFORCE_PRIVATE_KEY and SALESFORCE_PASSWORD are two ways to log in: unset one of them"
        )
    if "SALESFORCE_PRIVATE_KEY" in present and "SALESFORCE_CLIENT_SECRET" in present:
        raise ConfigError(
            "SALESFORCE_PRIVATE_KEY and SALESFORCE_CLIENT_SECRET are two ways to log in: unset the "
            "secret for the JWT bearer flow, or the key and SALESFORCE_USERNAME for client credentials"
        )
    if present == FLOWS["client_credentials"] | {"SALESFORCE_USERNAME"}:
        raise ConfigError(
            "SALESFORCE_USERNAME with a client secret is half of the password flow: add SALESFORCE_PASSWORD, "
            "or unset the user name for client credentials"
        )
    key_settings: tuple[tuple[Flow, str], ...] = (
        ("jwt", "SALESFORCE_PRIVATE_KEY"),
        ("password", "SALESFORCE_PASSWORD"),
    )
    for flow, setting in key_settings:
        if setting in present:
            missing = sorted(FLOWS[flow] - present)
            raise ConfigError(f"{setting} is set, but {', '.join(missing)} is missing")
    raise ConfigError(
        "no login flow is complete: set SALESFORCE_CLIENT_SECRET (client credentials), or "
        "SALESFORCE_USERNAME and SALESFORCE_PRIVATE_KEY (JWT bearer), beside SALESFORCE_CLIENT_ID"
    )
