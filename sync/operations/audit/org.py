"""Tests of the org: the login, which org it is, what the user sees, whether queries work."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from datetime import UTC
from typing import Any

from sqlalchemy import Engine, text

from sync.catalogue.catalogue import CATALOGUE
from sync.catalogue.mapping import Projection
from sync.catalogue.selection import indispensable
from sync.config.settings import Settings
from sync.errors import FieldsMovedError, SalesforceError, SyncError
from sync.operations.audit.findings import CHECK_AGAIN, Finding, remedy
from sync.postgres import ledger
from sync.postgres.tables import transaction
from sync.replication import apply
from sync.replication.budget import plan
from sync.salesforce import soql
from sync.salesforce.extract import bulk, extraction
from sync.salesforce.session.addresses import record_id
from sync.salesforce.session.limits import clip
from sync.salesforce.session.session import Session
from sync.window import Scope

ASSIGNED = "SELECT PermissionSetId FROM PermissionSetAssignment WHERE AssigneeId = {user}"
ALL_DATA = (
    "SELECT Id FROM PermissionSet "
    "WHERE Id IN {sets} AND (PermissionsViewAllData = true OR PermissionsModifyAllData = true)"
)
PERMITTED = (
    "SELECT SobjectType, PermissionsViewAllRecords FROM ObjectPermissions "
    "WHERE ParentId IN {sets} AND SobjectType IN {objects}"
)

REMEMBERED = text("SELECT organization_id FROM sync.org")
BULK_SECONDS = 60.0  # the longest wait for one record; after it, an accepted job counts as success


def login(session: Session, engine: Engine | None = None) -> Generator[Finding, None, str]:
    """Test the login; return the Id of the user ("" if the org does not return it).

    Without an engine, the org is not compared with that of the tables.
    """
    instance = session.login()
    yield Finding("login", "ok", f"{session.settings.flow} at {instance}")
    reached = session.organization()
    known = stored_org(engine) if engine is not None else ""
    if reached and known and reached != known:
        yield Finding(
            "org",
            "failed",
            f"the settings lead to org {reached}, and the tables hold the records of org {known}",
            "correct SALESFORCE_LOGIN_URL and the credentials; if this org shall replace the other, type: "
            "python -m sync run --accept-org",
            6,
        )
    try:
        identity = session.identity()
    except SyncError as error:
        yield Finding(
            "org", "warning", f"userinfo: {error}", "the app may lack the scope `id`; syncing works"
        )
        return ""
    name = clip(identity.get("preferred_username") or identity.get("user_id", "?"), 100)
    if not known or reached in (known, ""):
        yield Finding("org", "ok", f"{clip(identity.get('organization_id', '?'), 20)} as {name}")
    try:
        return record_id(identity.get("user_id"))
    except ValueError:
        return ""


def stored_org(engine: Engine) -> str:
    """Return the org whose records the tables hold ("": before the first pass)."""
    with transaction(engine) as connection:
        return str(connection.execute(REMEMBERED).scalar() or "")


def check_object(
    settings: Settings, session: Session, name: str, engine: Engine | None
) -> Generator[Finding, None, Projection]:
    """Test one object and its fields; without an engine, fields that vanished are not known."""
    described, _ = session.describe(name)
    fitted = apply.projection(settings, CATALOGUE[name], described)
    total = extraction.count(session, name, Scope())
    detail = f"{total:,} records, {len(fitted.fields)} standard and {len(fitted.custom)} custom fields"
    if fitted.unmapped:
        detail += f", and {len(fitted.unmapped)} standard fields outside the catalogue"
    yield Finding(name, "ok", detail)
    yield from fields(session, fitted, vanished(engine, name) if engine is not None else None)
    return fitted


def fields(
    session: Session, fitted: Projection, lost: dict[str, str] | None
) -> Generator[Finding, None, None]:
    """Yield problems of an object's fields; `lost` maps vanished fields to their times (None: not known)."""
    name = fitted.sobject.name
    subject = f"{name} fields"
    if left_out := session.left_out(name):
        yield Finding(
            subject,
            "warning",
            f"left out: {', '.join(left_out)}",
            "their descriptions hold names that Salesforce does not allow; columns keep their values: "
            "see whether a proxy changes Salesforce's answers",
        )
    shown = {field.name for field in fitted.described}
    gone = {field: since for field, since in (lost or {}).items() if field not in shown}
    if gone:
        listed = ", ".join(f"{field} (since {since})" for field, since in gone.items())
        yield Finding(
            subject,
            "warning",
            f"not shown any more: {listed}",
            "removed, or hidden from the integration user; "
            "columns keep their last values: grant read access if it was not on purpose",
        )
    of_catalogue = {field.name for field in fitted.sobject.fields}
    if wanted := [field for field in fitted.hidden if field not in gone and field not in of_catalogue]:
        yield Finding(
            subject,
            "warning",
            f"named in SYNC_CUSTOM_FIELDS and not visible: {', '.join(wanted)}",
            "grant the integration user read access, or take them out of SYNC_CUSTOM_FIELDS",
        )
    if never := [field for field in fitted.hidden if field not in gone and field in of_catalogue]:
        # Every org lacks some fields: a list of all would hide a permission that was lost.
        yield Finding(
            subject,
            "ok",
            f"{len(never)} of the catalogue's {'are not' if lost is None else 'have never been'} visible, as "
            "editions lack some: "
            f"python -m sync schema --object {name} names them (hidden)",
        )
    if fitted.retyped:
        listed = ", ".join(f"{field} is now {kind}" for field, kind in fitted.retyped)
        yield Finding(subject, "warning", listed, "values that no longer fit go to `rejects`")


# ── the object's own query ────────────────────────────────────────────────────────────────────────────


def query(session: Session, fitted: Projection) -> Generator[Finding, None, None]:
    """Query one record with all fields as a pass does: queries may refuse a field that describe lists."""
    subject = f"{fitted.sobject.name} query"
    count = len(fitted.names)
    try:
        queries = extraction.probe(session, fitted)
        if queries == 1:
            yield Finding(subject, "ok", f"REST answers the query for its {count} fields")
            return
        by_job = by_bulk(session, fitted)
    except SalesforceError as error:
        yield Finding(subject, "failed", str(error), query_remedy(fitted, error), error.exit_code)
    else:
        answered = (
            f"REST answers for its {count} fields in {queries} queries, since one may not name them all"
        )
        yield Finding(subject, "ok", f"{answered}; {by_job}")


def by_bulk(session: Session, fitted: Projection) -> str:
    """Read one record by a Bulk job, then delete the job; return the result. Raises SalesforceError if it
    fails."""
    jobs = f"/services/data/v{session.version}/jobs/query"
    question = soql.select_unordered(fitted, Scope()) + " LIMIT 1"
    created = session.resource("POST", jobs, {"operation": "queryAll", "query": question})
    job = session.path(f"{jobs}/{created.body['id']}")
    try:
        waited, pause = 0.0, 0.5
        while waited < BULK_SECONDS:
            info = session.resource("GET", job).body
            if info["state"] == "JobComplete":
                return "Bulk API answers it"
            if info["state"] in ("Failed", "Aborted"):
                why = clip(info.get("errorMessage") or "Salesforce gives no reason")
                raise SalesforceError(f"Bulk API accepted the query and failed: {why}", status=400)
            session.pause(pause)
            waited, pause = waited + pause, min(pause * 1.5, 5.0)
    except (KeyError, TypeError, AttributeError):
        raise SalesforceError("Bulk API returns no state of the job", status=200) from None
    finally:
        bulk.delete_job(session, job)
    return f"Bulk API accepts it, and had not answered after {BULK_SECONDS:.0f} s"


def query_remedy(fitted: Projection, error: SalesforceError) -> str:
    """Return what to do about a query that Salesforce refuses."""
    name, message = fitted.sobject.name, str(error)
    needed = indispensable(fitted.sobject)
    words = {word.strip("'\".,:;()[]") for word in message.split()}
    named = [field for field in fitted.names if field not in needed and field in words]
    if named and (isinstance(error, FieldsMovedError) or error.code.startswith("INVALID_FIELD")):
        return (
            f"describe lists {named[0]} and the query refuses it: correct the field or its package; "
            f"or exclude it by {name}.{named[0]} in SYNC_EXCLUDED_FIELDS, which erases its stored values, "
            f"{CHECK_AGAIN}"
        )
    if error.code == "QUERY_TOO_COMPLICATED":
        return f"name the custom fields that you need in SYNC_CUSTOM_FIELDS, fewer formulas, {CHECK_AGAIN}"
    if error.status in (414, 431):
        return (
            f"raise the limit of the proxy before Salesforce, or name fewer SYNC_CUSTOM_FIELDS, {CHECK_AGAIN}"
        )
    return remedy(error)


# ── what the user sees ────────────────────────────────────────────────────────────────────────────────


def vanished(engine: Engine, name: str) -> dict[str, str]:
    """Return the fields of an object that the last pass no longer saw, with their times."""
    with transaction(engine) as connection:
        found = ledger.vanished(connection, [name])
    return {field: f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" for _, field, at in found}


def sharing(session: Session, user: str, objects: Sequence[str]) -> dict[str, Finding]:
    """Return, for each object, a finding on whether the user sees all its records; the queries serve all
    objects."""
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
    """Return whether the user has View All on each object, as far as the org returns it.

    The permissions of a profile, and those of a permission set group, count as permission sets, too.
    """
    if not user:
        raise SyncError("the org does not tell which user is logged in")
    assigned = query_records(session, ASSIGNED.format(user=soql.quote(user)), "PermissionSetId")
    if not any(set_id for (set_id,) in assigned):
        raise SyncError("Salesforce shows none of its permission sets")
    sets = soql.in_list(str(set_id) for (set_id,) in assigned if set_id)
    if query_records(session, ALL_DATA.format(sets=sets), "Id"):
        return dict.fromkeys(objects, True)
    permitted = query_records(
        session,
        PERMITTED.format(sets=sets, objects=soql.in_list(objects)),
        *("SobjectType", "PermissionsViewAllRecords"),
    )
    granted = {name for name, all_records in permitted if all_records is True}
    return {name: name in granted for name, _ in permitted}


def query_records(session: Session, question: str, *names: str) -> list[tuple[Any, ...]]:
    """Return the records of a query with few retries."""
    records: list[tuple[Any, ...]] = session.query(question, names, best_effort=True).body["records"]
    return records


def budget(settings: Settings, session: Session) -> Generator[Finding, None, None]:
    """Compare the org's API usage with the budget."""
    usage = session.usage
    if usage is None:
        yield Finding("API budget", "warning", "Salesforce sends no Sforce-Limit-Info; usage is unknown")
        return
    share = settings.sync_api_budget
    own = plan.allowance(usage.limit, settings.sync_api_calls_per_day)
    detail = (
        f"{usage.used:,} of {usage.limit:,} daily requests used, all work stops at {share:.0%}; "
        f"at most {own:,} a day by this product"
    )
    if usage.used >= share * usage.limit:
        remedy = "wait, raise SYNC_API_BUDGET, or find who uses them"
        yield Finding("API budget", "failed", detail, remedy, 4)
    else:
        yield Finding("API budget", "ok", detail)


def clocks(session: Session, engine: Engine, name: str) -> Iterator[Finding]:
    """Compare Salesforce's clock with the database's; yield nothing if one of them does not answer."""
    try:
        _, at = session.describe(name)
        with transaction(engine) as connection:
            known = connection.execute(apply.CLOCK).scalar_one()
    except SyncError:
        return  # another finding reports it
    difference = abs((at - known).total_seconds())
    if difference > apply.MAX_CLOCK_DIFFERENCE.total_seconds():
        seconds = f"{difference:,.0f} seconds"
        detail = f"Salesforce's and the database's are {seconds} apart: nothing is claimed meanwhile"
        mend = "check the time (NTP) of the database's server, and whether a proxy changes the Date header"
        yield Finding("clock", "failed", detail, mend, 1)
    else:
        yield Finding("clock", "ok", "Salesforce's and the database's agree")


def custom_fields(settings: Settings, session: Session) -> Generator[Finding, None, None]:
    """Yield custom fields that the settings name and no object shows."""
    named = settings.custom_fields_named
    shown = {field.name for name in settings.sync_objects if named for field in session.describe(name)[0]}
    for setting, names in (
        ("SYNC_CUSTOM_FIELDS", settings.sync_custom_fields),
        ("SYNC_EXCLUDED_FIELDS", settings.sync_excluded_fields),
    ):
        unknown = sorted(n for n in names if "__" in n and n.rpartition(".")[2] not in shown)
        if unknown and not isinstance(names, str):
            yield Finding(
                "custom fields",
                "warning",
                f"{setting} names {', '.join(unknown)}, which no object shows",
                "correct the name (case counts), or grant read access; until then nothing is erased",
            )
