"""The errors of the product. Each message states what happened, to which object or setting, and what to
do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class SyncError(Exception):
    """The synchronisation failed."""

    exit_code: ClassVar[int] = 1
    outcome: ClassVar[str] = "failed"
    # The reason that consumers see: the message itself may contain values of records.
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
    """The org's API budget is used up; the work is deferred to a later run."""

    label = "api budget"
    exit_code = 4
    outcome = "deferred"


class LeaseHeldError(SyncError):
    """Another process holds the lease of this object."""

    label = "lease held"
    exit_code = 75


class FenceLostError(SyncError):
    """Another process took over this object's lease; this process may no longer write."""

    label = "lease lost"


class StoppedError(SyncError):
    """The process was asked to stop; committed pages are kept and the next run resumes."""

    label = "stopped"
    outcome = "stopped"


class DatabaseUnavailableError(SyncError):
    """Postgres did not answer, or is read-only."""

    label = "database"


class LockedError(DatabaseUnavailableError):
    """Another database session holds a lock that this statement needs."""

    label = "database lock"


class SchemaOutdatedError(SyncError):
    """The database lacks tables that this version needs: run `alembic upgrade head`."""

    label = "schema"


class GuardError(SyncError):
    """The run would remove more records than it may without approval."""

    label = "guard"
    exit_code = 6


class RejectsError(GuardError):
    """More records cannot be stored than a run may reject."""

    label = "rejects"


class OrgChangedError(SyncError):
    """The settings lead to another org than the one whose records the tables hold."""

    label = "other org"
    exit_code = 6


class SalesforceError(SyncError):
    """Salesforce answered with an error.

    `status` is the HTTP status (0: no answer), `code` is Salesforce's `errorCode` or "". `passing` is true if
    a later attempt may succeed.
    """

    label = "salesforce"

    def __init__(self, message: str, *, status: int = 0, code: str = "", passing: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.passing = passing


class QueryLostError(SalesforceError):
    """The result set of a query locator is gone; the query starts again after the last committed record."""


class BulkRefusedError(SyncError):
    """The Bulk API cannot answer this query; REST may."""

    label = "salesforce"


class FieldsMovedError(SalesforceError):
    """A selected field no longer exists or is refused; the object has to be described again.

    `fields` are the names of the refused fields: those given, else the one that Salesforce's message names.
    """

    def __init__(self, message: str, *, status: int = 0, code: str = "", fields: Sequence[str] = ()) -> None:
        super().__init__(message, status=status, code=code)
        named = message.partition("No such column '")[2].partition("'")[0]
        self.fields = tuple(fields) or ((named,) if named else ())


class CountMismatchError(SyncError):
    """Salesforce counted more records than it delivered."""

    label = "count"


class WorkFailedError(SyncError):
    """Several kinds of work on one object failed; the other kinds are done."""

    def __init__(self, name: str, failures: Sequence[tuple[str, SyncError]]) -> None:
        super().__init__(f"{name}: " + "; ".join(f"the {kind} failed: {error}" for kind, error in failures))
        self.failures = tuple(failures)


# Errors that stop all work on all objects: the next attempt would meet the same error.
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
        # A shared exit code is kept, so that a script can tell a used-up budget from a failure.
        self.code = codes.pop() if len(codes) == 1 else 1

    @staticmethod
    def describe(name: str, error: SyncError) -> str:
        """Return the error's message, with the object's name before it once."""
        return str(error) if str(error).startswith(name) else f"{name}: {error}"
