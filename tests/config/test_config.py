"""Settings: what they mean, what is refused with which remedy, and that no secret is ever shown."""

from __future__ import annotations

import base64
import os
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from pydantic import ValidationError

from sync.catalogue.catalogue import CATALOGUE
from sync.cli.wiring import OBJECT_CHOICES
from sync.config.flows import choose_flow
from sync.config.settings import Settings, load_database_settings, load_settings, settings_from
from sync.config.values import parse_duration
from sync.errors import ConfigError
from tests.support.world import ROOT

Load = Callable[[Mapping[str, str]], Settings]

BASE = {
    "DATABASE_URL": "postgres://app:pass-word@db.example.com:5432/customers",
    "SALESFORCE_LOGIN_URL": "https://acme.my.salesforce.com",
    "SALESFORCE_CLIENT_ID": "3MVG9.client",
}
GOOD = BASE | {"SALESFORCE_CLIENT_SECRET": "client-secret-value"}

# As refusals list them.
KNOWN_OBJECTS = ", ".join(CATALOGUE)

# Every setting that is promised, with its default.
DEFAULTS: dict[str, object] = {
    "DATABASE_URL": "required",
    "PGSSLMODE": None,
    "SYNC_REPLICA_SCHEMA": None,
    "SALESFORCE_LOGIN_URL": "required",
    "SALESFORCE_CLIENT_ID": "required",
    "SALESFORCE_CLIENT_SECRET": None,
    "SALESFORCE_USERNAME": None,
    "SALESFORCE_PRIVATE_KEY": None,
    "SALESFORCE_AUDIENCE": None,
    "SALESFORCE_PASSWORD": None,
    "SALESFORCE_SECURITY_TOKEN": None,
    "SALESFORCE_PRIVATE_HOSTS": frozenset(),
    "SALESFORCE_API_VERSION": "66.0",
    "SYNC_OBJECTS": tuple(CATALOGUE),
    "SYNC_INTERVAL": timedelta(minutes=1),
    "SYNC_COVERAGE_INTERVAL": timedelta(),
    "SYNC_OVERLAP": timedelta(minutes=10),
    "SYNC_CUSTOM_FIELDS": "all",
    "SYNC_BULK_THRESHOLD": 10_000,
    "SYNC_API_BUDGET": 0.8,
    "SYNC_API_CALLS_PER_DAY": None,
    "SYNC_CONCURRENT_REQUESTS": 2,
    "SYNC_REQUESTS_PER_HOUR": 100,
    "SYNC_DEFAULT_REGION": "US",
    "SYNC_VOLATILE_FIELDS": frozenset(),
    "SYNC_VOLATILE_INTERVAL": timedelta(hours=24),
    "SYNC_VERIFY_AT": time(3),
    "SYNC_TOMBSTONE_VALUES": "keep",
    "SYNC_TOMBSTONE_RETENTION": timedelta(days=30),
    "SYNC_FEED_RETENTION": timedelta(days=30),
    "SYNC_RUN_RETENTION": timedelta(days=90),
    "SYNC_DATABASE_LIMIT": None,
    "SYNC_EXCLUDED_FIELDS": frozenset(),
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "logfmt",
    "REQUESTS_CA_BUNDLE": None,
    "SYNC_ALERT_URLS": None,
    "SYNC_HEARTBEAT_URL": None,
    "SYNC_MAX_LAG": None,
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Load:
    """Load the settings from exactly these variables, in a directory without a `.env`."""
    for name in [name for name in os.environ if name.lower() in Settings.model_fields]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def load(variables: Mapping[str, str]) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load_settings(OBJECT_CHOICES)

    return load


def refusal(load: Load, variables: Mapping[str, str]) -> list[str]:
    """The problems that are named when these settings are refused."""
    with pytest.raises(ConfigError) as refused:
        load(variables)
    assert refused.value.exit_code == 3
    first, *problems = str(refused.value).split("\n")
    assert first == "settings are missing or wrong (and there is no .env file here):"
    assert all(problem.startswith("  - ") for problem in problems)
    return [problem.removeprefix("  - ") for problem in problems]


def pem(key: PrivateKeyTypes, password: bytes | None = None) -> str:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption).decode()


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


# ── durations and shares ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("1h30m", timedelta(minutes=90)),
        ("2d", timedelta(days=2)),
        ("1d2h3m4s", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        ("0s", timedelta(0)),
        (" 5m ", timedelta(minutes=5)),
    ],
)
def test_durations(text: str, span: timedelta) -> None:
    """A duration is numbers with units, added up."""
    assert parse_duration(text) == span


@pytest.mark.parametrize(
    "text", ["", "10", "m", "10 m", "-5m", "1.5h", "10min", "10M", "1h 30m", "PT10M", "9" * 30 + "d"]
)
def test_durations_refused(text: str) -> None:
    """Anything else is no duration, and the refusal shows how to write one."""
    with pytest.raises(ValueError, match="is not a duration: write 90s, 10m, 1h30m or 2d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "share"), [("80%", 0.8), ("100%", 1.0), ("12.5%", 0.125), (" 5 % ", 0.05), ("0.1%", 0.001)]
)
def test_shares(load: Load, text: str, share: float) -> None:
    """The API budget is a percentage."""
    assert load(GOOD | {"SYNC_API_BUDGET": text}).sync_api_budget == pytest.approx(share)


# ── every setting ─────────────────────────────────────────────────────────────────────────────────────


def test_every_promised_setting_is_one(load: Load) -> None:
    """The settings are the promised ones, no more and no less, each with its promised default."""
    settings = load(GOOD)

    assert {name.upper() for name in Settings.model_fields} - {"DYNO"} == set(DEFAULTS)
    for name, default in DEFAULTS.items():
        if default != "required" and name not in GOOD:
            assert getattr(settings, name.lower()) == default, name


def example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_example_names_every_setting() -> None:
    """`.env.example` names exactly the settings there are, except DYNO, which the platform sets."""
    assert sorted(example()) == sorted({name.upper() for name in Settings.model_fields} - {"DYNO"})


def test_example_shows_the_defaults(load: Load, tmp_path: Path) -> None:
    """`.env.example`, copied and given a secret, works and changes no default."""
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())

    settings = load({"SALESFORCE_CLIENT_ID": "id", "SALESFORCE_CLIENT_SECRET": "secret"})

    for name, default in DEFAULTS.items():
        if default != "required" and name != "SALESFORCE_CLIENT_SECRET":
            assert getattr(settings, name.lower()) == default, name


@pytest.mark.parametrize(
    ("name", "value", "meaning"),
    [
        ("SALESFORCE_LOGIN_URL", "https://acme.my.salesforce.com/", "https://acme.my.salesforce.com"),
        ("SALESFORCE_LOGIN_URL", " https://localhost:8443 ", "https://localhost:8443"),
        ("SALESFORCE_API_VERSION", "v60.0", "60.0"),
        ("SALESFORCE_API_VERSION", "47.0", "47.0"),
        ("SYNC_OBJECTS", "Contact", ("Contact",)),
        ("SYNC_OBJECTS", " Contact , Account,", ("Contact", "Account")),
        ("SYNC_INTERVAL", "30s", timedelta(seconds=30)),
        ("SYNC_OVERLAP", "1h", timedelta(hours=1)),
        ("SYNC_CUSTOM_FIELDS", "ALL", "all"),
        ("SYNC_CUSTOM_FIELDS", " none ", "none"),
        ("SYNC_CUSTOM_FIELDS", "Tier__c, acme__Zone__c", frozenset({"Tier__c", "acme__Zone__c"})),
        ("SYNC_BULK_THRESHOLD", "0", 0),
        ("SYNC_REQUESTS_PER_HOUR", "0", 0),
        ("SYNC_DEFAULT_REGION", "DE", "DE"),
        ("SYNC_DEFAULT_REGION", " gb ", "GB"),
        ("SYNC_VOLATILE_FIELDS", " A__c , Contact.PhotoUrl,", frozenset({"A__c", "Contact.PhotoUrl"})),
        ("SYNC_VOLATILE_FIELDS", " None ", frozenset()),
        ("SYNC_VOLATILE_FIELDS", "NONE", frozenset()),
        ("SYNC_VOLATILE_INTERVAL", "1d12h", timedelta(hours=36)),
        ("SYNC_VERIFY_AT", " 23:30 ", time(23, 30)),
        ("SYNC_VERIFY_AT", "Off", None),
        ("LOG_LEVEL", "WARNING", "warning"),
        ("LOG_FORMAT", "Json", "json"),
        ("DYNO", "worker.1", "worker.1"),
    ],
)
def test_values_are_understood(load: Load, name: str, value: str, meaning: object) -> None:
    """A value means what its setting says, in any usual spelling."""
    assert getattr(load(GOOD | {name: value}), name.lower()) == meaning


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("DATABASE_URL", "nonsense", "is not a URL; write postgres://user:password@host:5432/name"),
        ("DATABASE_URL", "postgres://host:port/name", "is not a URL; write postgres://user:password@host"),
        ("DATABASE_URL", "mysql://host/name", "must start with postgres://, not mysql://"),
        ("DATABASE_URL", "postgres://host", "names no database; write postgres://user:password@host"),
        ("SALESFORCE_LOGIN_URL", "http://acme.my.salesforce.com", "must be https:// and a host, for example"),
        (
            "SALESFORCE_LOGIN_URL",
            "acme.my.salesforce.com",
            "must be https:// and a host, for example https://",
        ),
        ("SALESFORCE_LOGIN_URL", "https://acme.my.salesforce.com/setup", "must be https:// and a host"),
        ("SALESFORCE_LOGIN_URL", "https://me@acme.my.salesforce.com", "must be https:// and a host"),
        ("SALESFORCE_LOGIN_URL", "https://acme.my.salesforce.com?x=1", "must be https:// and a host"),
        ("SALESFORCE_LOGIN_URL", "https://acme.my.salesforce.com#x", "must be https:// and a host"),
        ("SALESFORCE_LOGIN_URL", "https://acme.lightning.force.com", "use the My Domain URL, https://<name>"),
        ("SALESFORCE_LOGIN_URL", "https://acme.my.salesforce-setup.com", "use the My Domain URL, https://"),
        ("SALESFORCE_API_VERSION", "66", "must be a version such as 66.0"),
        ("SALESFORCE_API_VERSION", "latest", "must be a version such as 66.0"),
        ("SALESFORCE_API_VERSION", "46.0", "must be a version such as 66.0 (47.0 or later)"),
        ("SYNC_OBJECTS", "Acount", f"Acount is not in the catalogue; it has {KNOWN_OBJECTS}"),
        ("SYNC_OBJECTS", "account", f"account is not in the catalogue; it has {KNOWN_OBJECTS}"),
        ("SYNC_OBJECTS", "Account,Account", "name each object once, separated by commas"),
        ("SYNC_OBJECTS", ",", "name each object once, separated by commas"),
        ("SYNC_INTERVAL", "10", "'10' is not a duration: write 90s, 10m, 1h30m or 2d"),
        ("SYNC_INTERVAL", "0s", "must be longer than zero, for example 10m"),
        ("SYNC_INTERVAL", "9" * 30 + "d", "is not a duration: write 90s, 10m, 1h30m or 2d"),
        ("SYNC_INTERVAL", "31d", "must be at most 30d, for example 10m"),
        ("SYNC_OVERLAP", "721h", "must be at most 30d, for example 10m"),
        ("SYNC_OVERLAP", "ten", "'ten' is not a duration: write 90s, 10m, 1h30m or 2d"),
        ("SYNC_CUSTOM_FIELDS", "Tier__c,Tier", "Tier is not a custom field's API name: write all, none, or"),
        ("SYNC_CUSTOM_FIELDS", "some", "some is not a custom field's API name: write all, none, or Tier__c"),
        ("SYNC_BULK_THRESHOLD", "-1", "greater than or equal to 0"),
        ("SYNC_BULK_THRESHOLD", "many", "valid integer"),
        ("SYNC_REQUESTS_PER_HOUR", "-1", "greater than or equal to 0"),
        ("SYNC_REQUESTS_PER_HOUR", "100001", "less than or equal to 100000"),
        ("SYNC_API_BUDGET", "80", "'80' is not a share of the daily requests: write for example 80%"),
        ("SYNC_API_BUDGET", "0.8", "'0.8' is not a share of the daily requests: write for example 80%"),
        ("SYNC_API_BUDGET", "0%", "is not a share of the daily requests: write for example 80%"),
        ("SYNC_API_BUDGET", "101%", "is not a share of the daily requests: write for example 80%"),
        ("SYNC_API_BUDGET", "-5%", "is not a share of the daily requests: write for example 80%"),
        ("SYNC_DEFAULT_REGION", "USA", "US"),
        ("SYNC_DEFAULT_REGION", "UK", "US"),
        ("SYNC_DEFAULT_REGION", "XX", "US"),
        (
            "SYNC_VOLATILE_FIELDS",
            "Score__c,Photo Url",
            "Photo Url is not the API name of a field: write for example",
        ),
        (
            "SYNC_VOLATILE_FIELDS",
            "1st__c",
            "1st__c is not the API name of a field: write for example Score__c",
        ),
        (
            "SYNC_VOLATILE_FIELDS",
            "Contact.",
            "Contact. is not the API name of a field: write for example Score__c",
        ),
        ("SYNC_VOLATILE_FIELDS", "A.B.C", "A.B.C is not the API name of a field: write for example Score__c"),
        (
            "SYNC_VOLATILE_FIELDS",
            "Acount.X,Contact.Y,Z",
            f"Acount.X is of no object in the catalogue; it has {KNOWN_OBJECTS}",
        ),
        ("SYNC_VOLATILE_FIELDS", "contact.Y", "contact.Y is of no object in the catalogue; it has Account"),
        ("SYNC_VOLATILE_INTERVAL", "daily", "'daily' is not a duration: write 90s, 10m, 1h30m or 2d"),
        ("SYNC_VOLATILE_INTERVAL", "0s", "must be longer than zero, for example 10m"),
        ("SYNC_VERIFY_AT", "3", "'3' is not a time of day: write for example 03:00 (UTC), or off"),
        ("SYNC_VERIFY_AT", "24:00", "'24:00' is not a time of day: write for example 03:00 (UTC), or off"),
        ("SYNC_VERIFY_AT", "03:00:00", "is not a time of day: write for example 03:00 (UTC), or off"),
        ("SYNC_VERIFY_AT", "3 am", "'3 am' is not a time of day: write for example 03:00 (UTC), or off"),
        ("SYNC_VERIFY_AT", "never", "'never' is not a time of day: write for example 03:00 (UTC), or off"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'logfmt', 'json' or 'pretty'"),
        ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem", "give a PEM file with the CA's"),
    ],
)
def test_wrong_values_are_refused(load: Load, name: str, value: str, says: str) -> None:
    """A wrong value is refused with the variable's name and what to write instead."""
    problems = refusal(load, GOOD | {name: value})

    assert len(problems) == 1
    assert problems[0].startswith(f"{name} ")
    assert says in problems[0].removeprefix(name)


def test_bundle_without_a_certificate_is_refused(load: Load, tmp_path: Path) -> None:
    """A CA file that holds no certificate is found here, not in the middle of a login."""
    (tmp_path / "empty.pem").write_text("no certificate in here\n")

    [problem] = refusal(load, GOOD | {"REQUESTS_CA_BUNDLE": str(tmp_path / "empty.pem")})

    assert problem.startswith("REQUESTS_CA_BUNDLE ")
    assert "holds no certificate" in problem


def test_bundle_may_be_a_file_or_a_directory(load: Load, tmp_path: Path) -> None:
    """A CA file, or a directory of them, is accepted."""
    (tmp_path / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())

    for path in (tmp_path / "ca.pem", tmp_path):
        assert load(GOOD | {"REQUESTS_CA_BUNDLE": str(path)}).requests_ca_bundle == path


def test_settings_cannot_be_changed(load: Load) -> None:
    """What was checked stays as it was checked."""
    with pytest.raises(ValidationError, match="frozen"):
        load(GOOD).sync_objects = ("Contact",)


# ── missing settings, and all at once ─────────────────────────────────────────────────────────────────


def test_nothing_set(load: Load) -> None:
    """With nothing set, everything that is needed is named, with what to write."""
    assert refusal(load, {}) == [
        "DATABASE_URL is not set: postgres://user:password@host:5432/name",
        "SALESFORCE_LOGIN_URL is not set: the org's My Domain URL, https://<name>.my.salesforce.com",
        "SALESFORCE_CLIENT_ID is not set: the consumer key of the connected or external client app",
        "no login flow is complete: set SALESFORCE_CLIENT_SECRET (client credentials), or "
        "SALESFORCE_USERNAME and SALESFORCE_PRIVATE_KEY (JWT bearer), beside SALESFORCE_CLIENT_ID",
    ]


def test_every_problem_at_once(load: Load) -> None:
    """One attempt names every problem: missing, wrong and contradictory settings side by side."""
    problems = refusal(
        load,
        {
            "SALESFORCE_LOGIN_URL": "http://acme.example",
            "SALESFORCE_PRIVATE_KEY": "not a key",
            "SALESFORCE_PASSWORD": "x",
            "SALESFORCE_API_VERSION": "1",
            "SYNC_OBJECTS": "Acount",
            "SYNC_INTERVAL": "soon",
            "SYNC_OVERLAP": "late",
            "SYNC_CUSTOM_FIELDS": "x",
            "SYNC_BULK_THRESHOLD": "x",
            "SYNC_API_BUDGET": "x",
            "SYNC_DEFAULT_REGION": "x",
            "SYNC_VOLATILE_FIELDS": "?",
            "SYNC_VOLATILE_INTERVAL": "x",
            "SYNC_VERIFY_AT": "x",
            "LOG_LEVEL": "x",
            "LOG_FORMAT": "x",
            "REQUESTS_CA_BUNDLE": "/nowhere",
        },
    )

    assert sorted(problem.split()[0] for problem in problems) == sorted(
        [
            *("DATABASE_URL", "SALESFORCE_LOGIN_URL", "SALESFORCE_CLIENT_ID", "SALESFORCE_API_VERSION"),
            *("SALESFORCE_PRIVATE_KEY", "SALESFORCE_PRIVATE_KEY"),  # unreadable, and beside a password
            *("SYNC_OBJECTS", "SYNC_INTERVAL", "SYNC_OVERLAP", "SYNC_CUSTOM_FIELDS", "SYNC_BULK_THRESHOLD"),
            *("SYNC_API_BUDGET", "SYNC_DEFAULT_REGION", "LOG_LEVEL", "LOG_FORMAT", "REQUESTS_CA_BUNDLE"),
            *("SYNC_VOLATILE_FIELDS", "SYNC_VOLATILE_INTERVAL", "SYNC_VERIFY_AT"),
        ]
    )


def test_commands_without_salesforce_need_the_database_alone(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` and its like work, and migrations run, with DATABASE_URL and nothing else."""
    monkeypatch.setenv("DATABASE_URL", "postgres:///customers")

    assert load_database_settings(OBJECT_CHOICES).postgres.database == "customers"
    with pytest.raises(ConfigError):
        load({})


# ── login flows ───────────────────────────────────────────────────────────────────────────────────────

ID = "SALESFORCE_CLIENT_ID"
S, U = "SALESFORCE_CLIENT_SECRET", "SALESFORCE_USERNAME"
K, P = "SALESFORCE_PRIVATE_KEY", "SALESFORCE_PASSWORD"


@pytest.mark.parametrize(
    ("flow", "present"),
    [("client_credentials", {S}), ("jwt", {U, K}), ("password", {S, U, P})],
)
def test_a_complete_set_is_a_flow(flow: str, present: set[str]) -> None:
    """Nobody names the flow: a complete set of settings is one."""
    assert choose_flow(frozenset({ID} | present)) == flow


NOTHING = "no login flow is complete: set SALESFORCE_CLIENT_SECRET"
TWO_WAYS = "SALESFORCE_PRIVATE_KEY and SALESFORCE_PASSWORD are two ways to log in: unset one of them"
KEY_OR_SECRET = "SALESFORCE_PRIVATE_KEY and SALESFORCE_CLIENT_SECRET are two ways to log in: unset the secret"


@pytest.mark.parametrize(
    ("present", "says"),
    [
        (set(), NOTHING),
        ({U}, NOTHING),
        ({S, U}, "add SALESFORCE_PASSWORD, or unset the user name for client credentials"),
        ({K}, "SALESFORCE_PRIVATE_KEY is set, but SALESFORCE_USERNAME is missing"),
        ({P}, "SALESFORCE_PASSWORD is set, but SALESFORCE_CLIENT_SECRET, SALESFORCE_USERNAME is missing"),
        ({S, P}, "SALESFORCE_PASSWORD is set, but SALESFORCE_USERNAME is missing"),
        ({U, P}, "SALESFORCE_PASSWORD is set, but SALESFORCE_CLIENT_SECRET is missing"),
        ({S, K}, KEY_OR_SECRET),
        ({S, U, K}, KEY_OR_SECRET),
        ({K, P}, TWO_WAYS),
        ({U, K, P}, TWO_WAYS),
        ({S, K, P}, TWO_WAYS),
        ({S, U, K, P}, TWO_WAYS),
    ],
)
def test_ambiguous_and_incomplete_sets_are_refused(present: set[str], says: str) -> None:
    """Every other combination is refused, with what to add or to unset."""
    with pytest.raises(ConfigError) as refused:
        choose_flow(frozenset({ID} | present))

    assert says in str(refused.value)


@pytest.mark.parametrize("flow", ["client_credentials", "jwt", "password"])
def test_flow_of_loaded_settings(load: Load, key: rsa.RSAPrivateKey, flow: str) -> None:
    """The flow is chosen by the variables that are set; an empty one counts as not set."""
    sets = {
        "client_credentials": {S: "s", U: "", K: "", P: ""},
        "jwt": {U: "u", K: pem(key), S: "", "SALESFORCE_AUDIENCE": "https://test.salesforce.com"},
        "password": {S: "s", U: "u", P: "p", "SALESFORCE_SECURITY_TOKEN": "t"},
    }

    assert load(BASE | sets[flow]).flow == flow


def test_security_token_needs_its_password(load: Load) -> None:
    """A security token outside the password flow is a misunderstanding, and named as one."""
    assert refusal(load, GOOD | {"SALESFORCE_SECURITY_TOKEN": "t"}) == [
        "SALESFORCE_SECURITY_TOKEN belongs to SALESFORCE_PASSWORD: set that too, or unset it"
    ]


def test_audience_needs_its_key(load: Load) -> None:
    """An audience outside the JWT flow is a misunderstanding, and named as one."""
    assert refusal(load, GOOD | {"SALESFORCE_AUDIENCE": "https://login.salesforce.com"}) == [
        "SALESFORCE_AUDIENCE belongs to SALESFORCE_PRIVATE_KEY: set that too, or unset it"
    ]


@pytest.mark.parametrize("host", ["login.salesforce.com", "test.salesforce.com", "LOGIN.salesforce.com"])
def test_client_credentials_need_my_domain(load: Load, key: rsa.RSAPrivateKey, host: str) -> None:
    """The generic hosts refuse client credentials: said here, before Salesforce says it in its words."""
    assert refusal(load, GOOD | {"SALESFORCE_LOGIN_URL": f"https://{host}/"}) == [
        f"SALESFORCE_LOGIN_URL is {host.lower()}, which refuses the client-credentials flow: "
        "use the org's My Domain URL, https://<name>.my.salesforce.com"
    ]


@pytest.mark.parametrize("host", ["login.salesforce.com", "test.salesforce.com"])
def test_other_flows_take_the_generic_hosts(load: Load, key: rsa.RSAPrivateKey, host: str) -> None:
    """JWT bearer works at login.salesforce.com and test.salesforce.com."""
    settings = load(BASE | {"SALESFORCE_LOGIN_URL": f"https://{host}", U: "u", K: pem(key)})

    assert settings.flow == "jwt"


# ── the private key ───────────────────────────────────────────────────────────────────────────────────


def escaped(text: str) -> str:
    return text.replace("\n", "\\n")


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def wrapped_base64(text: str) -> str:
    return base64.encodebytes(text.encode()).decode()


def as_it_is(text: str) -> str:
    return text


def windows(text: str) -> str:
    return text.replace("\n", "\r\n")


@pytest.mark.parametrize("form", [as_it_is, escaped, in_base64, wrapped_base64, windows])
def test_private_key_forms(load: Load, key: rsa.RSAPrivateKey, form: Callable[[str], str]) -> None:
    """The key is taken as PEM, as PEM with escaped line ends, or as base64 of it: one and the same key."""
    settings = load(BASE | {U: "u", K: form(pem(key))})

    assert settings.salesforce_private_key is not None
    loaded = serialization.load_pem_private_key(
        settings.salesforce_private_key.get_secret_value().encode(), password=None
    )
    assert isinstance(loaded, rsa.RSAPrivateKey)
    assert loaded.private_numbers() == key.private_numbers()


def test_old_pem_is_a_key_too(load: Load, key: rsa.RSAPrivateKey) -> None:
    """What `openssl genrsa` wrote in former times (PKCS#1) works as well."""
    old = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )

    assert load(BASE | {U: "u", K: old.decode()}).flow == "jwt"


UNREADABLE = (
    "SALESFORCE_PRIVATE_KEY is no readable private key; give the unencrypted PEM, the PEM with \\n for line "
    "ends, or its base64"
)


def test_unreadable_keys_are_refused(load: Load, key: rsa.RSAPrivateKey) -> None:
    """Half a key, or anything else that is none, is refused with the three forms."""
    for wrong in (
        pem(key)[:400],
        "nonsense",
        in_base64("nonsense"),
        "%%%",
        in_base64("\udcff".encode("utf-8", "surrogateescape").decode("latin-1")),
    ):
        assert refusal(load, BASE | {U: "u", K: wrong}) == [UNREADABLE]


def test_key_that_cannot_sign_is_refused(load: Load) -> None:
    """Salesforce takes RS256 alone: another kind of key is refused here, not at the first login."""
    [problem] = refusal(load, BASE | {U: "u", K: pem(ec.generate_private_key(ec.SECP256R1()))})

    assert problem.startswith("SALESFORCE_PRIVATE_KEY ")


# ── the database's address ────────────────────────────────────────────────────────────────────────────


def sslmode(settings: Settings) -> object:
    """The TLS mode that libpq will use: the URL's, else the environment's, else its own default."""
    return settings.postgres.query.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_every_scheme_means_psycopg2(load: Load, scheme: str) -> None:
    """Heroku writes postgres://, others postgresql://: both mean the driver that is installed."""
    url = load(GOOD | {"DATABASE_URL": f"{scheme}://u:p%40ss@localhost:6000/customers"}).postgres

    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        *("u", "p@ss", "localhost", 6000, "customers"),
    )


@pytest.mark.parametrize(
    "address",
    [
        "db.example.com/x",
        "10.0.0.5/x",
        "[2001:db8::1]/x",
        "localhost.example.com/x",
        "127.example.com/x",
        "/x?host=db.example.com",
        "/x?host=/var/run/postgresql&host=db.example.com",
        "/x?host=localhost&host=db.example.com",
    ],
)
def test_remote_database_requires_tls(load: Load, address: str) -> None:
    """Customers' data never crosses a network in the clear because somebody forgot a parameter."""
    assert sslmode(load(GOOD | {"DATABASE_URL": f"postgres://u@{address}"})) == "require"


@pytest.mark.parametrize(
    "address",
    [
        *("localhost/x", "127.0.0.1:5433/x", "127.8.9.1/x", "[::1]/x", "/x"),
        *("/x?host=/var/run/postgresql", "/x?host=localhost"),
    ],
)
def test_local_database_needs_no_tls(load: Load, address: str) -> None:
    """A server on this machine, by loopback or Unix socket, is reached as it is."""
    settings = load(GOOD | {"DATABASE_URL": f"postgres://u@{address}"})

    assert "sslmode" not in settings.postgres.query


@pytest.mark.parametrize("mode", ["disable", "prefer", "verify-full"])
def test_url_decides_about_tls(load: Load, mode: str) -> None:
    """A mode in the URL is somebody's decision, whichever it is."""
    settings = load(GOOD | {"DATABASE_URL": f"postgres://u@db.example.com/x?sslmode={mode}"})

    assert settings.postgres.query["sslmode"] == mode


@pytest.mark.parametrize("mode", ["disable", "verify-full"])
def test_environment_decides_about_tls(load: Load, mode: str) -> None:
    """PGSSLMODE is libpq's own variable, and is respected."""
    assert sslmode(load(GOOD | {"PGSSLMODE": mode})) == mode


@pytest.mark.parametrize("mode", ["disable", "verify-full"])
def test_env_file_decides_about_tls(load: Load, tmp_path: Path, mode: str) -> None:
    """PGSSLMODE in `.env` counts too, although libpq itself never sees that file."""
    (tmp_path / ".env").write_text(f"PGSSLMODE={mode}\n")

    assert sslmode(load(GOOD)) == mode


# ── .env ──────────────────────────────────────────────────────────────────────────────────────────────


def test_env_file_is_read(load: Load, tmp_path: Path, key: rsa.RSAPrivateKey) -> None:
    """Settings may stand in `.env` in the working directory, a key over several lines too."""
    (tmp_path / ".env").write_text(
        "# a comment\n"
        'DATABASE_URL="postgres:///customers"\n'
        "export SALESFORCE_LOGIN_URL=https://acme.my.salesforce.com\n"
        "SALESFORCE_CLIENT_ID='client'\n"
        "SALESFORCE_USERNAME=user@example.com\n"
        f'SALESFORCE_PRIVATE_KEY="{pem(key)}"\n'
        "SALESFORCE_CLIENT_SECRET=\n"
        "SYNC_INTERVAL=1h\n"
        "UNKNOWN_TO_US=1\n"
    )

    settings = load({})

    assert (settings.flow, settings.salesforce_client_id) == ("jwt", "client")
    assert settings.sync_interval == timedelta(hours=1)


def test_environment_wins_over_env_file(load: Load, tmp_path: Path) -> None:
    """What is set in the environment counts more than the file."""
    (tmp_path / ".env").write_text("SYNC_INTERVAL=1h\nSYNC_OVERLAP=2h\n")

    settings = load(GOOD | {"SYNC_INTERVAL": "5m"})

    assert (settings.sync_interval, settings.sync_overlap) == (timedelta(minutes=5), timedelta(hours=2))


def test_problems_in_an_env_file_do_not_deny_it(load: Load, tmp_path: Path) -> None:
    """Who has a `.env` is not told that there is none."""
    (tmp_path / ".env").write_text("SYNC_INTERVAL=soon\n")

    with pytest.raises(ConfigError) as refused:
        load(GOOD)

    assert str(refused.value) == (
        "settings are missing or wrong:\n"
        "  - SYNC_INTERVAL 'soon' is not a duration: write 90s, 10m, 1h30m or 2d"
    )


def test_given_values_alone() -> None:
    """The demo's settings are those it is given, whatever the environment holds."""
    settings = settings_from(GOOD | {"SYNC_INTERVAL": "7m"}, OBJECT_CHOICES)

    assert settings.sync_interval == timedelta(minutes=7)
    assert settings.requests_ca_bundle is None


# ── secrets ───────────────────────────────────────────────────────────────────────────────────────────

HIDDEN = "hunter2-hidden"


def secretive(key: rsa.RSAPrivateKey) -> dict[str, dict[str, str]]:
    """Settings of each flow in which everything secret says so."""
    url = f"postgres://app:{HIDDEN}-db@db.example.com/customers"
    base = BASE | {"DATABASE_URL": url}
    return {
        "client_credentials": base | {S: f"{HIDDEN}-client"},
        "jwt": base | {U: "u", K: pem(key)},
        "password": base
        | {S: f"{HIDDEN}-client", U: "u", P: f"{HIDDEN}-pw", "SALESFORCE_SECURITY_TOKEN": f"{HIDDEN}-token"},
    }


@pytest.mark.parametrize("flow", ["client_credentials", "jwt", "password"])
def test_settings_show_no_secret(load: Load, key: rsa.RSAPrivateKey, flow: str) -> None:
    """Printing the settings, their dump or their database URL shows no secret."""
    settings = load(secretive(key)[flow])
    shown: list[Any] = [settings, settings.model_dump(), settings.model_dump_json(), settings.postgres]

    for text in [form(one) for one in shown for form in (str, repr)]:
        assert HIDDEN not in text
        assert not [line for line in pem(key).splitlines()[1:-1] if line in text]


@pytest.mark.parametrize("flow", ["client_credentials", "jwt", "password"])
def test_every_secret_is_known_to_the_logs(load: Load, key: rsa.RSAPrivateKey, flow: str) -> None:
    """The list that the logs redact holds every secret, the database's password alone included."""
    given = secretive(key)[flow]
    wanted = {
        value for name, value in given.items() if name in (S, P, "SALESFORCE_SECURITY_TOKEN", "DATABASE_URL")
    }

    known = set(load(given).secrets)

    sent = {f"{HIDDEN}-pw{HIDDEN}-token"} if flow == "password" else set()
    assert known == wanted | sent | {f"{HIDDEN}-db"} | ({pem(key)} if flow == "jwt" else set())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", HIDDEN),
        ("DATABASE_URL", f"postgres://u:{HIDDEN}@host:{HIDDEN}/x"),
        ("DATABASE_URL", f"mysql://u:{HIDDEN}@host/x"),
        ("DATABASE_URL", f"postgres://u:{HIDDEN}@host"),
        ("SALESFORCE_PRIVATE_KEY", HIDDEN),
        ("SALESFORCE_LOGIN_URL", f"https://u:{HIDDEN}@acme.my.salesforce.com"),
        ("SALESFORCE_PASSWORD", HIDDEN),
        ("SALESFORCE_SECURITY_TOKEN", HIDDEN),
    ],
)
def test_refusals_show_no_secret(load: Load, name: str, value: str) -> None:
    """An error about a secret, and its traceback, do without the secret; so do errors beside one."""
    with pytest.raises(ConfigError) as refused:
        load(GOOD | {"SALESFORCE_CLIENT_SECRET": f"{HIDDEN}-2", "SYNC_INTERVAL": "x", name: value})

    told = "".join(traceback.format_exception(refused.value))
    assert name in told or name == "SALESFORCE_PASSWORD"
    assert "SYNC_INTERVAL" in told
    assert not re.search(HIDDEN, told)
