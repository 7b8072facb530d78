"""Run all tests of `check`, in the order in which a run depends on them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from functools import partial

from sqlalchemy import Engine

from sync.config.settings import Settings
from sync.operations.audit import org, postgres
from sync.operations.audit.findings import Finding, run_test
from sync.postgres.tables import quote, schemas
from sync.salesforce.session.session import Session


def check(settings: Settings, session: Session, engine: Engine) -> Iterator[Finding]:
    """Test everything that a run needs, in the order of dependence; nothing is changed."""
    flow, version = settings.flow, settings.salesforce_api_version
    yield Finding("settings", "ok", f"flow {flow}, API {version}, objects {', '.join(settings.sync_objects)}")
    known = yield from database(engine)
    migrated = engine if known else None
    user = yield from run_test("login", lambda: org.login(session, migrated))
    if user is None:
        return
    yield from run_test("custom fields", lambda: org.custom_fields(settings, session))
    sharing = org.sharing(session, user, settings.sync_objects)
    for name in settings.sync_objects:
        fitted = yield from run_test(name, partial(org.check_object, settings, session, name, migrated))
        if fitted is not None:
            yield from run_test(f"{name} query", partial(org.query, session, fitted))
        yield sharing[name]
    if migrated is not None:
        yield from org.clocks(session, migrated, settings.sync_objects[0])
    yield from run_test("API budget", lambda: org.budget(settings, session))


def database(engine: Engine) -> Generator[Finding, None, bool]:
    """Yield findings about the database; return whether all our tables exist."""
    writable = yield from run_test("database", lambda: postgres.database(engine))
    if writable is None:
        return False  # every other test would fail for the same reason
    rights = postgres.grant_statements(quote(engine.url.username or "ROLE"), schemas(engine))
    migrated = yield from run_test("migrations", lambda: postgres.migrations(engine), rights)
    if migrated and writable:
        yield from run_test("writing", lambda: postgres.writing(engine), rights)
    if migrated:
        yield from run_test("consumers", lambda: postgres.consumers(engine))
        yield from run_test("database size", lambda: postgres.size(engine))
    return bool(migrated)
