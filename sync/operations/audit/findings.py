"""Findings: each with its state, its remedy and the exit code that it causes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from sync.errors import (
    ConfigError,
    DatabaseUnavailableError,
    DeferredError,
    LockedError,
    LoginError,
    ReplicaSchemaError,
    SalesforceError,
    SchemaOutdatedError,
    SyncError,
)
from sync.postgres.replica_schema import SETTING

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[3]

CHECK_AGAIN = "then type: python -m sync check"
# Remedies by the class of an error, specific classes first; the error itself states what happened.
REMEDIES: tuple[tuple[type[SyncError], str], ...] = (
    (ReplicaSchemaError, f"set or unset {SETTING} as the error says, {CHECK_AGAIN}"),
    (ConfigError, f"set DATABASE_URL as the error says, {CHECK_AGAIN}"),
    (LoginError, f"correct the SALESFORCE_ settings, or the app and its user in Setup, {CHECK_AGAIN}"),
    (DeferredError, f"wait until the org has used fewer requests in 24 hours, {CHECK_AGAIN}"),
    (SchemaOutdatedError, "run `alembic upgrade head`"),
    (LockedError, f"end the session that the error names, or wait for its end, {CHECK_AGAIN}"),
    (
        DatabaseUnavailableError,
        "check that the server runs and the URL is right (psql \"$DATABASE_URL\" -c 'SELECT 1'), "
        f"{CHECK_AGAIN}",
    ),
    (SyncError, f"correct what the error names, {CHECK_AGAIN}"),
)
NO_ACCESS = frozenset({"INVALID_TYPE", "INSUFFICIENT_ACCESS", "NOT_FOUND"})


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one test: its state, the remedy, and the exit code that it causes."""

    subject: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""
    code: int = 0


def run_test(
    subject: str, look: Callable[[], Generator[Finding, None, T]], otherwise: str = ""
) -> Generator[Finding, None, T | None]:
    """Run one test; an error becomes a finding and the result None, so that the other tests still run.

    `otherwise` is the remedy for an error without a class of its own.
    """
    try:
        return (yield from look())
    except SyncError as error:
        what = otherwise if otherwise and type(error) is SyncError else remedy(error)
        yield Finding(subject, "failed", str(error), what, error.exit_code)
        return None


def remedy(error: SyncError) -> str:
    """Return what to do about an error."""
    if isinstance(error, SalesforceError):
        if error.code in NO_ACCESS or error.status == 404:
            return f"grant the integration user read access to the object in a permission set, {CHECK_AGAIN}"
        if error.passing or error.status >= 500:
            return f"see https://status.salesforce.com for the org's instance, {CHECK_AGAIN}"
    return next(what for kind, what in REMEDIES if isinstance(error, kind))
