"""Every failure, every sink, every form: no secret is found in a log, on a screen or in the journal."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from sync.cli import screen, show
from sync.cli.wiring import OBJECT_CHOICES
from sync.config.settings import settings_from
from sync.errors import ObjectsFailedError, SyncError
from sync.logs import logger
from sync.operations import status
from sync.postgres import tables
from sync.replication import pipeline
from sync.salesforce.session.session import Session
from tests.logs.test_printable import forms
from tests.logs.test_sinks import restored
from tests.support.world import NEVER_WAIT, World

DATABASE = "dB/pässword+'x&1"
PROXY = "pr0xy p@ss/w%rd"
WRONG = 'Wr0ng"client+secret/9'

__all__ = ["restored"]


def proxies(port: int) -> list[str]:
    """Proxies that are not there: one whose port is none, which is quoted whole, and one without escapes."""
    escaped = f"http://me:{quote(PROXY, safe='')}@127.0.0.1"
    return [f"{escaped}:{port}", f"{escaped}:99999", f"http://me:{PROXY}@127.0.0.1:{port}"]


@pytest.fixture
def secretive(world: World) -> World:
    """A world whose database, proxy and client have passwords full of characters that are written differently."""
    url = make_url(world.database).set(username="postgres", password=DATABASE)
    world.environment["DATABASE_URL"] = url.render_as_string(hide_password=False)
    return world


def attempt(world: World, **changed: Any) -> None:
    """One pass as the command `run` makes it, its errors said as the command says them."""
    settings = settings_from(world.environment, OBJECT_CHOICES)
    logger.setup("debug", "logfmt", settings.secrets)
    context = replace(world.context(), settings=settings, session=Session(settings, world.stop, NEVER_WAIT))
    try:
        show.reports(pipeline.sync_all(replace(context, **changed)))
    except ObjectsFailedError as failed:
        for name, error in failed.failures:
            screen.error(failed.describe(name, error))
    except SyncError as error:
        screen.error(str(error))


def login_refused(world: World) -> None:
    world.environment["SALESFORCE_CLIENT_SECRET"] = WRONG
    attempt(world)


def login_refused_with_an_echo(world: World) -> None:
    for text in islice(echoes(DATABASE), 3):
        world.sim.faults.add("token_wrong_secret", message=text)
        attempt(world)


def proxy_refused(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for proxy in proxies(port):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HTTPS_PROXY", proxy)
            patch.delenv("NO_PROXY", raising=False)
            attempt(world)


def database_refused(world: World) -> None:
    for parameters in ("", "?channel_binding=nonsense", "?hostaddr=nonsense"):
        given = f"postgres://me:{quote(DATABASE, safe='')}@127.0.0.1:9/x{parameters}"
        settings = settings_from(world.environment | {"DATABASE_URL": given}, OBJECT_CHOICES)
        logger.setup("debug", "logfmt", settings.secrets)
        engine = tables.engine(settings.postgres, owner="test")
        with pytest.raises(SyncError) as refused, tables.transaction(engine):
            pass
        screen.error(str(refused.value))
        logger.get("sync.test").error("database", exc_info=refused.value)


def answers_with_an_echo(world: World) -> None:
    world.environment["SYNC_OBJECTS"] = "Contact"
    for text in echoes(DATABASE):
        world.sim.faults.add("insufficient_access", on="query", message=text)
        attempt(world)


def jobs_that_fail_with_an_echo(world: World) -> None:
    world.environment["SYNC_BULK_THRESHOLD"] = "0"
    world.sim.faults.add("job_failed", times=2, message=next(echoes(DATABASE)))
    attempt(world)


def crash(world: World) -> None:
    def fail(_: object) -> None:
        raise RuntimeError(" ".join(forms(DATABASE)))

    attempt(world, on_page=fail)


def records_that_do_not_fit(world: World) -> None:
    world.org.retype_field("Contact", "Birthdate", type="string", length=250)
    world.org.create("Contact", {"LastName": "x", "Birthdate": DATABASE})
    world.sql(
        f"ALTER TABLE salesforce.account ADD CONSTRAINT odd CHECK (name <> '{DATABASE.replace(chr(39), chr(39) * 2)}')"
    )
    world.org.create("Account", {"Name": DATABASE})
    attempt(world)


def echoes(*secrets: str) -> Iterator[str]:
    """Messages that hold every form of the secrets, as much as an error may say at once."""
    message = ""
    for form in [form for secret in secrets for form in dict.fromkeys(forms(secret))]:
        if len(message) + len(form) > 480:
            yield message
            message = ""
        message += f" <{form}>"
    yield message


FAILURES: list[Callable[[World], None]] = [
    *(login_refused, login_refused_with_an_echo, proxy_refused, database_refused, answers_with_an_echo),
    *(jobs_that_fail_with_an_echo, crash, records_that_do_not_fit),
]


@pytest.mark.parametrize("fail", FAILURES)
def test_no_failure_shows_a_secret(
    fail: Callable[[World], None],
    secretive: World,
    capfd: pytest.CaptureFixture[str],
    restored: None,
) -> None:
    """Whatever fails, log, screen, journal, rejects' reasons and freshness hold no form of any secret."""
    known = secretive.sim.credentials
    fail(secretive)
    with tables.transaction(secretive.engine) as connection:
        found = status.read_status(
            connection, secretive.settings.sync_objects, secretive.settings.sync_interval
        )
        rejected = status.rejects(connection, secretive.settings.sync_objects)
    for as_json in (True, False):
        show.status(found, as_json=as_json)
        show.rejects(rejected, as_json=as_json)
    sinks = dict(zip(("stdout", "stderr"), capfd.readouterr(), strict=True))
    for name, query in {
        "journal": "SELECT coalesce(error, '') || coalesce(findings::text, '') FROM sync.run",
        "reasons": "SELECT reason FROM sync.reject",
        "freshness": "SELECT f::text FROM crm.freshness AS f",
    }.items():
        sinks[name] = "\n".join(row[0] for row in secretive.sql(query))

    told = sinks["stderr"] + sinks["journal"]
    assert "error" in told or "reject" in sinks["stdout"], "nothing failed"
    for secret in (DATABASE, PROXY, WRONG, known.client_secret, known.password, known.security_token):
        for form in forms(secret):
            for sink, printed in sinks.items():
                assert form not in printed, f"{form} in {sink}"
    assert "!AQ" not in "".join(sinks.values())
