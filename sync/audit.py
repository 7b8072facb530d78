"""check and schema: is everything in place, and does the catalogue still fit the org?"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from sync import apply, extract, grants, ledger, soql
from sync.bookkeeping import BOOKKEEPING
from sync.config import Settings
from sync.errors import SyncError
from sync.mapping import Projection
from sync.objects import CATALOGUE
from sync.session import Session
from sync.session.limits import clip
from sync.session.paths import record_id
from sync.soql import Scope
from sync.tables import TYPES, transaction

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent

ASSIGNED = "SELECT PermissionSetId FROM PermissionSetAssignment WHERE AssigneeId = {user}"
ALL_DATA = (
    "SELECT Id FROM PermissionSet "
    "WHERE Id IN {sets} AND (PermissionsViewAllData = true OR PermissionsModifyAllData = true)"
)
PERMITTED = (
    "SELECT SobjectType, PermissionsViewAllRecords FROM ObjectPermissions "
    "WHERE ParentId IN {sets} AND SobjectType IN {objects}"
)

SERVER = text("""
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS standby,
       current_setting('transaction_read_only') = 'on' AS read_only,
       current_setting('max_connections')::int AS connections,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_connections
""")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: how it is, what to do when it is not well, and the exit code that means."""

    subject: str
    state: Literal["ok", "warning", "failed"]
    detail: str
    remedy: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Mapped:
    """One line of the mapping: a field of the org, the catalogue or both."""

    object: str
    field: str
    column: str
    kept_as: str
    type: str
    state: Literal["mapped", "custom", "hidden", "excluded", "retyped", "unmapped"]


# ── check ─────────────────────────────────────────────────────────────────────────────────────────────


def check(settings: Settings, session: Session, engine: Engine) -> Iterator[Finding]:
    """Everything a run needs, in the order in which it would be missed; nothing is changed."""
    flow, version = settings.flow, settings.salesforce_api_version
    yield Finding("settings", "ok", f"flow {flow}, API {version}, objects {', '.join(settings.sync_objects)}")
    yield from guarded("database", lambda: database(engine))
    newest = yield from guarded("migrations", lambda: migrations(engine))
    if newest:
        yield from guarded("consumers", lambda: consumers(engine))
    user = yield from guarded("login", lambda: login(session))
    if user is None:
        return
    yield from guarded("custom fields", lambda: custom_fields(settings, session))
    sharing = sight(session, user, settings.sync_objects)
    for name in settings.sync_objects:
        yield from guarded(name, partial(an_object, settings, session, name, engine if newest else None))
        yield sharing[name]
    if newest is not None:
        yield from clocks(session, engine, settings.sync_objects[0])
    yield from guarded("API budget", lambda: budget(settings, session))


def guarded(
    subject: str, look: Callable[[], Generator[Finding, None, T]]
) -> Generator[Finding, None, T | None]:
    """An error while looking is a finding, and None; the other things are looked at all the same."""
    try:
        return (yield from look())
    except SyncError as error:
        yield Finding(subject, "failed", str(error), code=error.exit_code)
        return None


def database(engine: Engine) -> Generator[Finding, None, None]:
    with transaction(engine) as connection:
        server = connection.execute(SERVER).one()
    limit = server.connections if server.role_connections in (None, -1) else server.role_connections
    detail = f"PostgreSQL {server.version.split()[0]}, {limit} connections"
    if server.standby or server.read_only:
        yield Finding("database", "failed", detail, "it is read-only: point DATABASE_URL at the leader", 1)
    elif int(server.version.split(".")[0]) < 15:
        yield Finding("database", "warning", detail, "this product is tested with PostgreSQL 15 and later")
    else:
        yield Finding("database", "ok", detail)


def migrations(engine: Engine) -> Generator[Finding, None, bool]:
    """Whether every table of ours is there."""
    with transaction(engine) as connection:
        current = revision(connection)
    head = ScriptDirectory.from_config(Config(str(ROOT / "alembic.ini"))).get_current_head()
    if current == head:
        yield Finding("migrations", "ok", f"at {head}, the newest")
    else:
        yield Finding(
            "migrations",
            "failed",
            f"at {current or 'nothing'}, needs {head}",
            "run `alembic upgrade head`",
            1,
        )
    return current == head


def consumers(engine: Engine) -> Generator[Finding, None, None]:
    """Who may read schema crm, and who may do more than read."""
    with transaction(engine) as connection:
        found = grants.access(connection)
    if found.sharing:
        yield Finding(
            "consumers",
            "warning",
            f"{', '.join(found.sharing)} may change everything: the rights are those of the owner",
            "give each consumer a role of its own and type: python -m sync grant ROLE",
        )
    if "PUBLIC" in found.readers:
        yield Finding(
            "consumers",
            "warning",
            "every role of the server may use schema crm",
            "REVOKE ALL ON SCHEMA crm FROM PUBLIC, then for each consumer: python -m sync grant ROLE",
        )
    if found.beyond:
        yield Finding(
            "consumers",
            "warning",
            f"{', '.join(found.beyond)} read more than schema crm: rejected and deleted records, too",
            "python -m sync grant ROLE names what, and how to take it back",
        )
    if found.readers:
        yield Finding("consumers", "ok", f"read by {', '.join(found.readers)}; owned by {found.owner}")
    else:
        yield Finding(
            "consumers",
            "warning",
            f"no role but the owner, {found.owner}, may read schema crm: a consumer that connects as "
            "the owner may change and delete everything",
            "for each consumer: python -m sync grant ROLE (Essential plans have one credential: "
            "every consumer there is the owner)",
        )


def revision(connection: Connection) -> str | None:
    options = {"version_table_schema": BOOKKEEPING}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def login(session: Session) -> Generator[Finding, None, str]:
    """The Id of the user that is logged in; "" where the org does not tell."""
    instance = session.login()
    yield Finding("login", "ok", f"{session.settings.flow} at {instance}")
    try:
        identity = session.identity()
    except SyncError as error:
        yield Finding(
            "org", "warning", f"userinfo: {error}", "the app may lack the scope `id`; syncing works"
        )
        return ""
    name = clip(identity.get("preferred_username") or identity.get("user_id", "?"), 100)
    yield Finding("org", "ok", f"{clip(identity.get('organization_id', '?'), 20)} as {name}")
    try:
        return record_id(identity.get("user_id"))
    except ValueError:
        return ""


def an_object(
    settings: Settings, session: Session, name: str, engine: Engine | None
) -> Generator[Finding, None, None]:
    """One object; without an engine nothing is known of what its fields were."""
    described, _ = session.describe(name)
    fitted = apply.projection(settings, CATALOGUE[name], described)
    total = extract.count(session, name, Scope())
    detail = f"{total:,} records, {len(fitted.fields)} standard and {len(fitted.custom)} custom fields"
    yield Finding(name, "ok", detail)
    if left_out := session.left_out(name):
        yield Finding(
            f"{name} fields",
            "warning",
            f"left out: {', '.join(left_out)}",
            "their descriptions hold names that Salesforce does not allow; columns keep their values: "
            "see whether a proxy changes Salesforce's answers",
        )
    gone = vanished(engine, name) if engine is not None else {}
    gone = {field: since for field, since in gone.items() if field not in {each.name for each in described}}
    if gone:
        listed = ", ".join(f"{field} (since {since})" for field, since in gone.items())
        yield Finding(
            f"{name} fields",
            "warning",
            f"not shown any more: {listed}",
            "removed, or hidden from the integration user; "
            "columns keep their last values: grant read access if it was not on purpose",
        )
    never = [field for field in fitted.hidden if field not in gone]
    if never:
        yield Finding(
            f"{name} fields",
            "warning",
            f"not visible: {', '.join(never)}",
            "missing in this edition, or grant the integration user read access; columns keep their values",
        )
    if fitted.retyped:
        listed = ", ".join(f"{field} is now {kind}" for field, kind in fitted.retyped)
        yield Finding(f"{name} fields", "warning", listed, "values that no longer fit go to `rejects`")


def clocks(session: Session, engine: Engine, name: str) -> Iterator[Finding]:
    """Whether Salesforce's clock and the database's agree; nothing where one of the two does not answer."""
    try:
        _, at = session.describe(name)
        with transaction(engine) as connection:
            known = connection.execute(apply.CLOCK).scalar_one()
    except SyncError:
        return  # it is among the findings already
    apart = abs((at - known).total_seconds())
    if apart > apply.CLOCKS_APART.total_seconds():
        detail = (
            f"Salesforce's and the database's are {apart:,.0f} seconds apart: nothing is claimed meanwhile"
        )
        remedy = "check the time (NTP) of the database's server, and whether a proxy changes the Date header"
        yield Finding("clock", "failed", detail, remedy, 1)
    else:
        yield Finding("clock", "ok", "Salesforce's and the database's agree")


def custom_fields(settings: Settings, session: Session) -> Generator[Finding, None, None]:
    """Custom fields that settings name and no object shows."""
    named = settings.custom_fields_named
    shown = {field.name for name in settings.sync_objects if named for field in session.describe(name)[0]}
    for setting, names in (
        ("SYNC_CUSTOM_FIELDS", settings.sync_custom_fields),
        ("SYNC_EXCLUDED_FIELDS", settings.sync_excluded_fields),
    ):
        wrong = sorted(n for n in names if "__" in n and n.rpartition(".")[2] not in shown)
        if wrong and not isinstance(names, str):
            yield Finding(
                "custom fields",
                "warning",
                f"{setting} names {', '.join(wrong)}, which no object shows",
                "correct the name (case counts), or grant read access; until then nothing is erased",
            )


def vanished(engine: Engine, name: str) -> dict[str, str]:
    """The fields of an object that the last pass did not see any more, and since when."""
    with transaction(engine) as connection:
        found = ledger.vanished(connection, [name])
    return {field: f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" for _, field, at in found}


def sight(session: Session, user: str, objects: Sequence[str]) -> dict[str, Finding]:
    """Per object whether the user sees all its records; asked once for all of them."""
    reason = "Salesforce shows no permission on the object"
    try:
        seen = view_all(session, user, objects)
    except SyncError as error:
        seen, reason = {}, str(error)
    found = {}
    for name in objects:
        subject = f"{name} sharing"
        if name not in seen:
            detail = f"cannot tell whether it sees all records: {reason}"
            found[name] = Finding(subject, "warning", detail)
        elif seen[name]:
            found[name] = Finding(subject, "ok", "sees all records")
        else:
            found[name] = Finding(
                subject,
                "warning",
                "sees only records that are shared with it: View All is not granted",
                "grant View All (or the system permission View All Data) in its permission set; "
                "without it records that sharing hides look vanished",
            )
    return found


def view_all(session: Session, user: str, objects: Sequence[str]) -> dict[str, bool]:
    """Whether the user has View All on each object, as far as the org tells.

    A profile's permissions are a permission set too, and so are those of a permission set group together.
    """
    if not user:
        raise SyncError("the org does not tell which user is logged in")
    assigned = asked(session, ASSIGNED.format(user=soql.quoted(user)), "PermissionSetId")
    if not any(each for (each,) in assigned):
        raise SyncError("Salesforce shows none of its permission sets")
    sets = soql.listed(str(each) for (each,) in assigned if each)
    if asked(session, ALL_DATA.format(sets=sets), "Id"):
        return dict.fromkeys(objects, True)
    permitted = asked(
        session,
        PERMITTED.format(sets=sets, objects=soql.listed(objects)),
        *("SobjectType", "PermissionsViewAllRecords"),
    )
    granted = {name for name, all_records in permitted if all_records is True}
    return {name: name in granted for name, _ in permitted}


def asked(session: Session, question: str, *names: str) -> list[tuple[Any, ...]]:
    """The records of a query that is not worth trying for long."""
    records: list[tuple[Any, ...]] = session.query(question, names, hasty=True).body["records"]
    return records


def budget(settings: Settings, session: Session) -> Generator[Finding, None, None]:
    usage = session.usage
    if usage is None:
        yield Finding("API budget", "warning", "Salesforce sends no Sforce-Limit-Info; usage is unknown")
        return
    share = settings.sync_api_budget
    detail = f"{usage.used:,} of {usage.limit:,} daily requests used, scheduled work stops at {share:.0%}"
    if usage.used >= share * usage.limit:
        remedy = "wait, raise SYNC_API_BUDGET, or find who uses them"
        yield Finding("API budget", "failed", detail, remedy, 4)
    else:
        yield Finding("API budget", "ok", detail)


# ── schema ────────────────────────────────────────────────────────────────────────────────────────────


def schema(settings: Settings, session: Session, name: str) -> list[Mapped]:
    """The mapping of one object against the org's describe: what is kept where, what is missing or new."""
    described, _ = session.describe(name)
    types = {field.name: field.type for field in described}
    fitted = apply.projection(settings, CATALOGUE[name], described)
    return [*standard_lines(fitted, types), *other_lines(fitted, types)]


def standard_lines(fitted: Projection, types: dict[str, str]) -> Iterator[Mapped]:
    retyped = {field for field, _ in fitted.retyped}
    read = set(fitted.names)
    for field in fitted.sobject.fields:
        if field.name in fitted.hidden:
            state: Any = "hidden"
        elif field.name not in read:
            state = "excluded"
        else:
            state = "retyped" if field.name in retyped else "mapped"
        column = ", ".join([field.column, *(derived.column for derived in field.derived)])
        kept_as = str(TYPES[field.kind].compile()).split(" COLLATE")[0].lower()
        yield Mapped(fitted.sobject.name, field.name, column, kept_as, types.get(field.name, ""), state)


def other_lines(fitted: Projection, types: dict[str, str]) -> Iterator[Mapped]:
    name = fitted.sobject.name
    for field in fitted.custom:
        yield Mapped(name, field.name, f"custom ->> '{field.name}'", "jsonb", field.type, "custom")
    for missing in fitted.hidden:
        if missing not in {field.name for field in fitted.sobject.fields}:
            yield Mapped(name, missing, f"custom ->> '{missing}'", "jsonb", "", "hidden")
    for unmapped in fitted.unmapped:
        yield Mapped(name, unmapped, "", "", types[unmapped], "unmapped")
