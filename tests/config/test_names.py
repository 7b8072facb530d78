"""Variables that are almost settings are refused with the nearest name; other programs' are left alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sync.config.settings import Settings, load_database_settings, load_settings
from sync.errors import ConfigError

GOOD = {
    "DATABASE_URL": "postgres://app:pass-word@db.example.com:5432/customers",
    "SALESFORCE_LOGIN_URL": "https://acme.my.salesforce.com",
    "SALESFORCE_CLIENT_ID": "3MVG9.client",
    "SALESFORCE_CLIENT_SECRET": "client-secret-value",
}
# What Heroku, its add-ons and buildpacks set, and what other programs read.
OTHERS = (
    *("DYNO", "DYNO_RAM", "PORT", "HEROKU_APP_NAME", "HEROKU_RELEASE_VERSION", "HEROKU_POSTGRESQL_PINK_URL"),
    *("DATABASE_CONNECTION_POOL_URL", "DATABASE_URL_BILLING", "TEST_DATABASE_URL", "HEROKUCONNECT_URL"),
    *("PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL", "PGHOST", "PGPASSWORD", "PGSERVICE", "LOG_FILE"),
    *("UV_LOG_LEVEL", "RUST_LOG", "NPM_CONFIG_LOGLEVEL", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "SFDX_LOG_LEVEL"),
    *("MALLOC_ARENA_MAX", "PYTHONUNBUFFERED", "SYNCTHING_HOME", "REDIS_URL", "DATABASE_POOL", "SOAK"),
)


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Mapping[str, str]], list[str]]:
    """What is wrong with exactly these variables, in a directory without a `.env`."""
    for name in [name for name in os.environ if name.lower() in Settings.model_fields]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def found(variables: Mapping[str, str], load: Callable[[], object] = load_settings) -> list[str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        try:
            load()
        except ConfigError as error:
            return [line.removeprefix("  - ") for line in str(error).split("\n")[1:]]
        return []

    return found


Problems = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SYNC_INTERVALL", "SYNC_INTERVAL"),
        ("SYNC_INTERVAL_", "SYNC_INTERVAL"),
        ("sync_intervals", "SYNC_INTERVAL"),
        ("SYNC_VERIFY", "SYNC_VERIFY_AT"),
        ("SYNC_BULK_TRESHOLD", "SYNC_BULK_THRESHOLD"),
        ("SALESFORCE_CLIENT_SECERT", "SALESFORCE_CLIENT_SECRET"),
        ("SALESFROCE_API_VERSION", "SALESFORCE_API_VERSION"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("LOG_FROMAT", "LOG_FORMAT"),
        ("PG_SSLMODE", "PGSSLMODE"),
        ("REQUEST_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    ],
)
def test_almost_a_setting(name: str, nearest: str, problems: Problems) -> None:
    """A variable that is almost a setting is refused, with the name that was meant and without its value."""
    told = f"{name.upper()} is not a setting: did you mean {nearest}? Rename it, or unset it"

    assert problems(GOOD | {name: "hunter2secret"}) == [told]
    assert problems(GOOD | {name: "hunter2secret"}, load_database_settings) == [told]


def test_a_name_with_our_prefix_is_ours(problems: Problems) -> None:
    """With our prefix a name is refused though it is like no setting: it was meant for us."""
    assert problems(GOOD | {"SYNC_QQQ": "1"}) == ["SYNC_QQQ is not a setting: unset it"]


def test_all_problems_are_named_together(problems: Problems) -> None:
    """Misspelt names stand beside everything else that is missing or wrong."""
    variables = {name: value for name, value in GOOD.items() if name != "DATABASE_URL"}
    misspelt = {"DATABASE_URI": "postgres:///x", "SYNC_OBJECT": "Contact", "SYNC_OVERLAP": "late"}

    assert [line.split(" is ")[0] for line in problems(variables | misspelt)] == [
        "DATABASE_URL",
        "SYNC_OVERLAP 'late'",
        "DATABASE_URI",
        "SYNC_OBJECT",
    ]


def test_a_like_of_a_setting_that_is_set_belongs_to_others(problems: Problems) -> None:
    """A name without our prefix is no mistake where the setting itself is there."""
    assert problems(GOOD | {"DATABASE_URI": "postgres:///x", "LOGLEVEL": "1", "LOG_LEVEL": "info"}) == []


def test_others_variables_are_left_alone(problems: Problems) -> None:
    """What the platform sets and other programs read costs nobody anything."""
    assert problems(GOOD | dict.fromkeys(OTHERS, "1")) == []


def test_an_empty_variable_is_not_set(problems: Problems) -> None:
    """An empty value counts as not set, whatever the name."""
    assert problems(GOOD | {"SYNC_INTERVALL": ""}) == []


def test_an_env_file_is_read_for_names(problems: Problems, tmp_path: Path) -> None:
    """A misspelt name in `.env` is one, too."""
    (tmp_path / ".env").write_text("SYNC_INTERVALL=5m\nSYNC_QQQ=\nOTHER=1\n")

    assert problems(GOOD) == [
        "SYNC_INTERVALL is not a setting: did you mean SYNC_INTERVAL? Rename it, or unset it"
    ]
