"""What can go wrong, said so that the reader knows what happened and what to type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class SyncError(Exception):
    """The synchronisation failed."""

    exit_code: ClassVar[int] = 1
    outcome: ClassVar[str] = "failed"
    # What consumers see instead of the message, which may contain anything.
    label: ClassVar[str] = "other"

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class UsageError(SyncError):
    """The command was given arguments that do not fit together."""

    exit_code = 2


class ConfigError(SyncError):
    """The settings are missing or wrong."""

    label = "settings"
    exit_code = 3


class ReplicaSchemaError(ConfigError):
    """The setting names another schema than the one that holds the replicas."""


class LoginError(SyncError):
    """Salesforce refused the login."""

    label = "login"
    exit_code = 3


class DeferredError(SyncError):
    """The org's API budget is used up; nothing is wrong, the work waits."""

    label = "api budget"
    exit_code = 4
    outcome = "deferred"


class LeaseHeldError(SyncError):
    """Another process is working on this object."""

    label = "lease held"
    exit_code = 75


class FenceLostError(SyncError):
    """Another process took over this object's lease; this one may no longer write."""

    label = "lease lost"


class StoppedError(SyncError):
    """The process was asked to stop; committed pages are kept and the next run resumes."""

    label = "stopped"
    outcome = "stopped"


class DatabaseUnavailableError(SyncError):
    """Postgres did not answer, or is read-only."""

    label = "database"


class LockedError(DatabaseUnavailableError):
    """Another session of the database holds a lock that this one needs."""

    label = "database lock"


class SchemaOutdatedError(SyncError):
    """The database lacks tables this version needs: run `alembic upgrade head`."""

    label = "schema"


class GuardError(SyncError):
    """More would be removed than a mistake should be able to remove."""

    label = "guard"
    exit_code = 6


class RejectsError(GuardError):
    """More records do not fit than a run may leave out."""

    label = "rejects"


class OrgChangedError(SyncError):
    """The settings lead to another org than the one whose records the tables hold."""

    label = "other org"
    exit_code = 6


class SalesforceError(SyncError):
    """Salesforce answered with an error.

    `status` is the HTTP status (0 where there was no answer), `code` Salesforce's `errorCode` or "";
    `passing`: another attempt, later, may succeed.
    """

    label = "salesforce"

    def __init__(self, message: str, *, status: int = 0, code: str = "", passing: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.passing = passing


class QueryLostError(SalesforceError):
    """The result set behind a locator is gone; the query is asked again from the last committed key."""


class BulkRefusedError(SyncError):
    """The Bulk API cannot answer this query; REST may."""

    label = "salesforce"


class FieldsMovedError(SalesforceError):
    """A selected field is not there any more; the describe has to be read again.

    `fields` are those that Salesforce refuses, as far as its message names one or somebody found them out.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", fields: Sequence[str] = ()) -> None:
        super().__init__(message, status=status, code=code)
        named = message.partition("No such column '")[2].partition("'")[0]
        self.fields = tuple(fields) or ((named,) if named else ())


class CountMismatchError(SyncError):
    """Salesforce counted more records than it delivered."""

    label = "count"


class WorkFailedError(SyncError):
    """Several kinds of work on one object failed, each for a reason of its own; the others were done."""

    def __init__(self, name: str, failures: Sequence[tuple[str, SyncError]]) -> None:
        super().__init__(f"{name}: " + "; ".join(f"the {kind} failed: {error}" for kind, error in failures))
        self.failures = tuple(failures)


# What stops every kind of work on every object alike: attempting the next one would only repeat it.
FATAL = (
    StoppedError,
    DeferredError,
    ConfigError,
    LoginError,
    OrgChangedError,
    LeaseHeldError,
    FenceLostError,
    DatabaseUnavailableError,
    SchemaOutdatedError,
)


class ObjectsFailedError(SyncError):
    """Some objects failed; the others were synchronised."""

    def __init__(self, failures: Sequence[tuple[str, SyncError]]) -> None:
        super().__init__("; ".join(self.describe(name, error) for name, error in failures))
        self.failures = tuple(failures)
        codes = {error.exit_code for _, error in failures}
        # One shared reason keeps its own exit code, so that a script can tell "budget" from "broken".
        self.code = codes.pop() if len(codes) == 1 else 1

    @staticmethod
    def describe(name: str, error: SyncError) -> str:
        """The error with the object's name before it, once."""
        return str(error) if str(error).startswith(name) else f"{name}: {error}"
