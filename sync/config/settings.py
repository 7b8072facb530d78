"""Read the environment and `.env` into frozen settings. Nothing else reads the environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import phonenumbers
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from sync.config.alerts import AlertSettings
from sync.config.budget import BudgetSettings
from sync.config.fields import Selection, field_names, fields_of_object, object_names
from sync.config.flows import (
    Flow,
    LoginSettings,
    choose_flow,
    login_problems,
    present_settings,
)
from sync.config.keys import check_signing_key
from sync.config.names import find_misspelt, read_variable_names
from sync.config.pasted import translate_ssl, url_problems
from sync.config.replicas import schema_name
from sync.config.storage import StorageSettings
from sync.config.surroundings import libpq_secrets, needs_tls, proxy_secrets
from sync.config.values import (
    bad_value,
    parse_duration,
    readable_pem,
)
from sync.errors import ConfigError
from sync.logs.printable import escape_controls

LONGEST, LONGEST_RETENTION = timedelta(days=30), timedelta(days=36_500)
# What the usual lag may exceed two intervals and the overlap by: the time that passes take.
LAG_MARGIN = timedelta(minutes=5)


class DatabaseSettings(AlertSettings, StorageSettings, BudgetSettings):
    """The settings of commands that only read the database; a field's name is the variable's in lower
    case."""

    database_url: SecretStr
    pgsslmode: str | None = None
    sync_replica_schema: str | None = None
    sync_objects: Annotated[tuple[str, ...], NoDecode] = ()
    sync_interval: timedelta = timedelta(minutes=1)
    sync_coverage_interval: timedelta = timedelta(0)  # zero: each pass asks
    sync_overlap: timedelta = timedelta(minutes=10)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["logfmt", "json", "pretty"] = "logfmt"
    dyno: str = "local"

    @field_validator(
        *("sync_interval", "sync_coverage_interval", "sync_overlap", "sync_volatile_interval"),
        mode="before",
        check_fields=False,
    )
    @classmethod
    def _duration(cls, value: Any) -> Any:
        try:
            return parse_duration(value) if isinstance(value, str) else value
        except ValueError as error:
            raise bad_value(str(error)) from None

    @field_validator("sync_interval", "sync_volatile_interval", check_fields=False)
    @classmethod
    def _interval(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise bad_value("must be longer than zero, for example 10m")
        return value

    @field_validator("sync_interval", "sync_coverage_interval", "sync_overlap")
    @classmethod
    def _not_for_ever(cls, value: timedelta) -> timedelta:
        if value > LONGEST:
            raise bad_value(f"must be at most {LONGEST.days}d, for example 10m")
        return value

    @field_validator("sync_objects", mode="before")
    @classmethod
    def _objects(cls, value: Any) -> Any:
        return object_names(value) if isinstance(value, str) else value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _database_url(cls, value: SecretStr) -> SecretStr:
        try:
            url = make_url(value.get_secret_value())
        except (ArgumentError, ValueError):
            raise bad_value("is not a URL; write postgres://user:password@host:5432/name") from None
        if url.drivername.split("+")[0] not in ("postgres", "postgresql"):
            raise bad_value(f"must start with postgres://, not {url.drivername}://")
        if not url.database:
            raise bad_value("names no database; write postgres://user:password@host:5432/name")
        if found := list(url_problems(url)):
            raise bad_value("; it ".join(found))
        return value

    @field_validator("sync_replica_schema")
    @classmethod
    def _replica_schema(cls, value: str | None) -> str | None:
        return None if value is None else schema_name(value.strip())

    @property
    def postgres(self) -> URL:
        """The URL for psycopg2; it requires TLS unless the server is local or a parameter decides."""
        url = translate_ssl(make_url(self.database_url.get_secret_value()))
        url = url.set(drivername="postgresql+psycopg2")
        # In the URL, because libpq reads PGSSLMODE from the environment only, not from .env.
        mode = self.pgsslmode or ("require" if needs_tls(url) else None)
        if "sslmode" not in url.query and mode is not None:
            url = url.update_query_dict({"sslmode": mode})
        return url

    @property
    def max_lag(self) -> timedelta:
        """The lag above which an object is stale: the setting, or else what passes in time do not exceed."""
        between = max(self.sync_interval, self.sync_coverage_interval)
        return self.sync_max_lag or 2 * between + self.sync_overlap + LAG_MARGIN

    @property
    def secrets(self) -> tuple[str, ...]:
        """All values that must never be printed, including those that libraries read from the environment."""
        database_url = self.database_url.get_secret_value()
        url = make_url(database_url)
        own = [database_url, str(url.password)] if url.password else []
        return tuple(dict.fromkeys([*own, *libpq_secrets(url), *proxy_secrets(), *self.alert_secrets]))


class Settings(DatabaseSettings):
    """Every setting of the product."""

    salesforce_login_url: str
    salesforce_client_id: str
    salesforce_client_secret: SecretStr | None = None
    salesforce_username: str | None = None
    salesforce_private_key: SecretStr | None = None
    salesforce_audience: str | None = None
    salesforce_password: SecretStr | None = None
    salesforce_security_token: SecretStr | None = None
    salesforce_private_hosts: Annotated[frozenset[str], NoDecode] = frozenset()
    salesforce_api_version: str = "66.0"
    sync_custom_fields: Annotated[str | frozenset[str], NoDecode] = "all"
    sync_bulk_threshold: int = Field(default=10_000, ge=0)
    sync_requests_per_hour: int = Field(default=100, ge=0, le=100_000)
    sync_default_region: str = "US"
    sync_volatile_fields: Annotated[frozenset[str], NoDecode] = frozenset()
    sync_volatile_interval: timedelta = timedelta(hours=24)
    sync_verify_at: time | None = time(3)
    sync_tombstone_values: Literal["keep", "erase"] = "keep"
    sync_tombstone_retention: timedelta | None = timedelta(days=30)
    sync_excluded_fields: Annotated[frozenset[str], NoDecode] = frozenset()

    @field_validator("sync_custom_fields", mode="before")
    @classmethod
    def _custom(cls, value: Any) -> Any:
        if not isinstance(value, str) or value.strip().lower() in ("all", "none"):
            return value.strip().lower() if isinstance(value, str) else value
        names = frozenset(part.strip() for part in value.split(",") if part.strip())
        if bad := sorted(name for name in names if not re.fullmatch(r"\w+", name) or "__" not in name[1:-1]):
            raise bad_value(
                f"{', '.join(bad)} is not a custom field's API name: write all, none, or Tier__c,Region__c"
            )
        return names

    @field_validator("sync_volatile_fields", "sync_excluded_fields", mode="before")
    @classmethod
    def _fields(cls, value: Any) -> Any:
        return field_names(value) if isinstance(value, str) else value

    @field_validator("sync_verify_at", mode="before")
    @classmethod
    def _verify_at(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.strip().lower() == "off":
            return None
        try:
            return datetime.strptime(value.strip(), "%H:%M").time()  # noqa: DTZ007 — a time of day, in UTC
        except ValueError:
            raise bad_value(
                f"{value!r} is not a time of day: write for example 03:00 (UTC), or off"
            ) from None

    @field_validator("sync_tombstone_values", mode="before")
    @classmethod
    def _tombstone_values(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().lower() not in ("keep", "erase"):
            raise bad_value("must be keep or erase")
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("sync_tombstone_retention", mode="before")
    @classmethod
    def _retention(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.strip().lower() == "off":
            return None
        try:
            kept = parse_duration(value)
        except ValueError as error:
            raise bad_value(f"{error}, or off to keep the values of deleted records for ever") from None
        if kept > LONGEST_RETENTION:
            raise bad_value(f"must be at most {LONGEST_RETENTION.days}d; write off to keep values for ever")
        return kept

    @field_validator("sync_default_region")
    @classmethod
    def _region(cls, value: str) -> str:
        region = value.strip().upper()
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise bad_value(
                f"{value!r} is not a region with phone numbers: write two letters such as US or DE"
            )
        return region

    @field_validator("salesforce_login_url")
    @classmethod
    def _login_url(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if not re.fullmatch(r"https://[^/\s@?#]+", value):
            raise bad_value("must be https:// and a host, for example https://acme.my.salesforce.com")
        if ".lightning.force.com" in value or ".salesforce-setup.com" in value:
            raise bad_value("is a page for browsers: use the My Domain URL, https://<name>.my.salesforce.com")
        return value

    @field_validator("salesforce_private_hosts", mode="before")
    @classmethod
    def _private_hosts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = frozenset(part.strip().lower() for part in value.split(",") if part.strip())
        if invalid := sorted(name for name in names if not re.fullmatch(r"[a-z0-9_.-]+(:[0-9]{1,5})?", name)):
            raise bad_value(f"{', '.join(invalid)} is not a host name: write crm.example.net,localhost:8443")
        return names

    @field_validator("salesforce_api_version")
    @classmethod
    def _version(cls, value: str) -> str:
        value = value.strip().lstrip("v")
        if not re.fullmatch(r"[0-9]{2,3}\.0", value) or float(value) < 47:
            raise bad_value("must be a version such as 66.0 (47.0 or later)")
        return value

    @field_validator("salesforce_private_key")
    @classmethod
    def _private_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        pem = readable_pem(value.get_secret_value())
        check_signing_key(pem)
        return SecretStr(pem)

    @property
    def tombstone_values_kept(self) -> timedelta | None:
        """How long the values of a deleted record are kept (None: for ever)."""
        return timedelta(0) if self.sync_tombstone_values == "erase" else self.sync_tombstone_retention

    def excluded_fields(self, sobject: str) -> frozenset[str]:
        """Return the names of an object's fields that must not be read."""
        return fields_of_object(self.sync_excluded_fields, sobject)

    def volatile_fields(self, sobject: str) -> frozenset[str]:
        """Return the names of an object's fields whose values change without a stamp, from the settings."""
        return fields_of_object(self.sync_volatile_fields, sobject)

    @property
    def custom_fields_named(self) -> frozenset[str]:
        """The custom fields that the settings name, without their objects; the org may lack some of them."""
        selected = self.sync_custom_fields
        named = self.sync_excluded_fields | (frozenset() if isinstance(selected, str) else selected)
        return frozenset(name.rpartition(".")[2] for name in named if "__" in name)

    @property
    def flow(self) -> Flow:
        """The login flow that the present settings select."""
        return choose_flow(present_settings(self))

    @property
    def secrets(self) -> tuple[str, ...]:
        secret = (
            self.salesforce_client_secret,
            self.salesforce_private_key,
            self.salesforce_password,
            self.salesforce_security_token,
        )
        values = [value.get_secret_value() for value in secret if value is not None]
        if self.salesforce_password is not None and self.salesforce_security_token is not None:
            values.append(values[-2] + values[-1])  # the login request sends them joined
        return (*super().secrets, *values)


@dataclass(frozen=True, slots=True)
class ObjectChoices:
    """The names of all objects that can be replicated, and `problems`: the check of a selection."""

    objects: tuple[str, ...] = ()
    problems: Callable[[Sequence[str], frozenset[str], frozenset[str]], Iterable[str]] = lambda *_: ()


ANY_OBJECTS = ObjectChoices()
AnySettings = TypeVar("AnySettings", bound=DatabaseSettings)


def load_settings(known: ObjectChoices = ANY_OBJECTS) -> Settings:
    """Read all settings from the environment and `.env`; raise ConfigError, which names all problems."""
    return load(Settings, known, login_problems(LoginSettings()))


def load_database_settings(known: ObjectChoices = ANY_OBJECTS) -> DatabaseSettings:
    """Read the settings of commands that need no Salesforce; raises ConfigError as `load_settings`."""
    return load(DatabaseSettings, known, [])


def load(kind: type[AnySettings], known: ObjectChoices, others: Sequence[str]) -> AnySettings:
    """Read settings of a kind; raise ConfigError for their problems and the `others`."""
    problems = [*misnamed_variables(), *others]
    chosen = read_selection()
    found = known.problems(chosen.sync_objects, chosen.sync_volatile_fields, chosen.sync_excluded_fields)
    problems += [problem for problem in found if problem.split()[0].lower() in kind.model_fields]
    try:
        settings = kind()
    except ValidationError as error:
        raise settings_error([*describe_errors(error), *problems]) from None
    if problems:
        raise settings_error(problems)
    return with_objects(settings, known)


def read_selection() -> Selection:
    """Read the selection without malformed values, which are reported with the settings."""
    try:
        return Selection()
    except ValidationError as error:
        malformed = {str(problem["loc"][0]) for problem in error.errors()}
        return Selection(**{name: Selection.model_fields[name].default for name in malformed})


def with_objects(settings: AnySettings, known: ObjectChoices) -> AnySettings:
    """Return the settings with all objects if none are selected."""
    if settings.sync_objects:
        return settings
    return settings.model_copy(update={"sync_objects": known.objects})


class GivenSettings(Settings):
    """Settings that come from the given variables only, not from the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 — the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 — left out on purpose
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 — left out on purpose
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 — left out on purpose
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_from(values: Mapping[str, str], known: ObjectChoices = ANY_OBJECTS) -> Settings:
    """Build settings from the given variables only, not from the environment; for the demo and tests."""
    fields = {name.lower(): value for name, value in values.items()}
    return with_objects(GivenSettings(**fields), known)  # type: ignore[arg-type]  # validated


def misnamed_variables() -> list[str]:
    """Return messages for variables whose names are probably misspelt settings."""
    known = {name.upper() for name in Settings.model_fields}
    return list(find_misspelt(read_variable_names(Settings), known))


HINTS = {
    "DATABASE_URL": ": postgres://user:password@host:5432/name",
    "SALESFORCE_LOGIN_URL": ": the org's My Domain URL, https://<name>.my.salesforce.com",
    "SALESFORCE_CLIENT_ID": ": the consumer key of the connected or external client app",
}


def describe_errors(error: ValidationError) -> list[str]:
    """Return one line for each wrong setting, without its value, which may be a secret."""
    lines = []
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        name = ".".join(str(part) for part in problem["loc"]).upper()
        missing = problem["type"] == "missing"
        lines.append(f"{name} {'is not set' + HINTS.get(name, '') if missing else problem['msg']}")
    return lines


def settings_error(lines: list[str]) -> ConfigError:
    """Return the error that lists all problems of the settings."""
    found = "" if Path(".env").exists() else " (and there is no .env file here)"
    listed = "\n".join(f"  - {escape_controls(line)}" for line in lines)
    return ConfigError(f"settings are missing or wrong{found}:\n{listed}")
