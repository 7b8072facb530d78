"""The guard of the org: another org behind the same settings writes nothing, unless an operator accepts it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from sync.errors import (
    FenceLostError,
    GuardError,
    ObjectsFailedError,
    OrgChangedError,
    SyncError,
)
from sync.postgres.state import leases
from sync.replication import pipeline
from sync.replication.runs import PageResult, SyncContext
from sync.replication.verify import comparison
from sync.salesforce.session.login import organization_of
from sync.simulator import Simulator, oauth
from sync.simulator.oauth import OAuth
from sync.simulator.wire import json_answer
from tests.support.world import LONG_AGO, World

BOTH = pytest.mark.parametrize("transport", ["rest", "bulk"], indirect=True)
FOREIGN = "00D000000000001"


@pytest.fixture
def other(loaded: World, transport: str) -> Iterator[World]:
    """The same database with another org behind the settings: one account, two contacts."""
    with (
        Simulator(seed=2) as sim,
        World(sim, loaded.database, SYNC_BULK_THRESHOLD="0" if transport == "bulk" else "10000") as world,
    ):
        world.transport = transport
        world.acme = world.org.create("Account", {"Name": "Other"}, stamp=LONG_AGO)
        people = [{"LastName": name, "AccountId": world.acme} for name in ("Xan", "Yve")]
        world.ann, world.bob = world.org.create_many("Contact", people, stamp=LONG_AGO)
        world.seen = loaded.seen
        yield world
        assert world.org.jobs.all() == [], "a Bulk job was left at Salesforce"


def state(world: World) -> dict[str, Any]:
    """All that a refused org must not touch."""
    tables = (
        "cursor",
        "progress",
        "field",
        "org",
        "change",
        "feed",
        "reject",
        "reread",
        "changed_parent",
        "listing_contact",
    )
    kept = {name: sorted(map(str, world.sql(f"SELECT * FROM sync.{name}"))) for name in tables}
    return kept | {name: world.rows(name) for name in ("Account", "Contact")}


def known(world: World) -> str:
    return str(world.sql("SELECT organization_id FROM sync.org")[0][0])


def code(error: SyncError) -> int:
    return error.code if isinstance(error, ObjectsFailedError) else error.exit_code


def accept(world: World) -> None:
    pipeline.sync_all(world.context(accept_org=True))


def live(world: World, name: str = "Contact") -> set[str]:
    return {id_ for id_, row in world.rows(name).items() if row["deleted_at"] is None}


# ── who is it ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("token", "body", "expected"),
    [
        (
            "00DxxAAAA000001!AQ.x",
            {"id": "https://login.salesforce.com/id/00D5g000000AbCdEAK/0055g"},
            "00D5g000000AbCd",
        ),
        (
            "eyJh.eyJz.c2ln",
            {"id": "https://test.salesforce.com/id/00D5g000000AbCdEAK/0055g"},
            "00D5g000000AbCd",
        ),
        (
            "eyJh.eyJz.c2ln",
            {"id": "https://acme.my.salesforce.com/id/00D5g000000AbCd/0055g"},
            "00D5g000000AbCd",
        ),
        ("00D5g000000AbCd!AQ.x", {}, "00D5g000000AbCd"),
        ("00D5g000000AbCd!AQ.x", {"id": ""}, "00D5g000000AbCd"),
        ("00D5g000000AbCd!AQ.x", {"id": None}, "00D5g000000AbCd"),
        ("00D5g000000AbCd!AQ.x", {"id": 7}, "00D5g000000AbCd"),
        ("00D5g000000AbCd!AQ.x", [], "00D5g000000AbCd"),
        ("00D5g000000AbCd!AQ.x", {"id": "https://proxy.example/who/1"}, "00D5g000000AbCd"),
        ("eyJh.eyJz.c2ln", {}, ""),
        ("eyJh.eyJz.c2ln", None, ""),
        ("x00D5g000000AbCd!AQ", {"id": "/id/0055g000000AbCdEAK/00D"}, ""),
    ],
)
def test_organization_of(token: str, body: Any, expected: str) -> None:
    """The identity URL names the org, else an opaque token does, else it is not known."""
    assert organization_of(token, body) == expected


@pytest.mark.parametrize(
    ("token_format", "identity", "flow"),
    [
        ("opaque", True, "client_credentials"),
        ("opaque", False, "jwt"),
        ("jwt", True, "password"),
        ("jwt", False, "client_credentials"),
    ],
)
def test_the_org_is_known_however_one_logs_in(
    sim: Simulator,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    token_format: str,
    identity: bool,
    flow: str,
) -> None:
    """Whatever the token looks like, and where it comes without `id`, it is the same 15 characters."""
    sim.options.token_format = token_format
    if not identity:
        monkeypatch.setattr(OAuth, "identity", property(lambda _: ""))
    with World(sim, database) as world:
        world.environment = {"DATABASE_URL": database, **sim.environment(flow)}
        session = world.context().session

        assert session.organization() == sim.org.organization_id[:15]

        asked = [request.kind for request in sim.requests].count("userinfo")
        assert asked == (1 if token_format == "jwt" and not identity else 0)


@pytest.fixture
def silent(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """An org whose login does not tell which it is."""
    sim.options.token_format = "jwt"
    monkeypatch.setattr(OAuth, "identity", property(lambda _: ""))
    return sim


def asked_userinfo(sim: Simulator) -> int:
    return [request.kind for request in sim.requests].count("userinfo")


def test_userinfo_is_asked_once_for_a_token(world: World, silent: Simulator) -> None:
    """What userinfo told is remembered as long as the token, and no longer."""
    session = world.context().session

    assert [session.organization() for _ in range(3)] == [silent.org.organization_id[:15]] * 3
    assert asked_userinfo(silent) == 1

    silent.revoke_tokens()
    session.describe("Contact")
    assert [session.organization() for _ in range(3)] == [silent.org.organization_id[:15]] * 3
    assert asked_userinfo(silent) == 2


def test_userinfo_with_a_dead_token_is_of_the_new_one(world: World, silent: Simulator) -> None:
    """A token that ended before userinfo was asked is replaced, and the answer remembered for the new one."""
    session = world.context().session
    session.login()
    silent.revoke_tokens()

    assert {session.organization() for _ in range(3)} == {silent.org.organization_id[:15]}
    assert asked_userinfo(silent) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (["00D5g000000AbCd"], "userinfo is not an object"),
        ("00D5g000000AbCd", "userinfo is not an object"),
        ([["organization_id", "00D5g000000AbCd"]], "userinfo is not an object"),
        (7, "userinfo is not an object"),
        (None, "userinfo is not an object"),
        ({}, "userinfo names no organization_id"),
        ({"organization_id": None}, "userinfo names no organization_id"),
        ({"organization_id": ["00D5g000000AbCd"]}, "userinfo names no organization_id"),
        ({"organization_id": "none of yours"}, "userinfo names no organization_id"),
    ],
)
def test_an_odd_userinfo_tells_nothing(
    world: World,
    silent: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    body: Any,
    reason: str,
) -> None:
    """A body that is no object, or names no org, is a warning; the next call asks again, and may know."""
    session = world.context().session
    session.login()
    with monkeypatch.context() as odd:
        odd.setattr(oauth, "json_answer", lambda _: json_answer(body))
        assert session.organization() == ""
    assert "org_unknown" in caplog.text
    assert reason in caplog.text

    assert session.organization() == silent.org.organization_id[:15]


def test_an_org_that_does_not_tell_stops_nothing(loaded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither the login nor userinfo tell, work goes on and the org that is known stays known."""
    loaded.sim.options.token_format = "jwt"
    monkeypatch.setattr(OAuth, "identity", property(lambda _: ""))
    loaded.sim.faults.add("insufficient_access", on="/services/oauth2/userinfo", times=None)
    before = known(loaded)
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.row(loaded.ann)["title"] == "Boss"
    assert known(loaded) == before


# ── remembered and refused ────────────────────────────────────────────────────────────────────────────


def test_the_first_org_is_remembered(loaded: World) -> None:
    """The first run notes the org; the same org is welcome again, also after a new login."""
    assert known(loaded) == loaded.org.organization_id[:15]
    loaded.sim.revoke_tokens()
    loaded.run()
    assert loaded.sql("SELECT count(*) FROM sync.org")[0][0] == 1


Ask = Callable[[World], object]
ASKS: dict[str, Ask] = {
    "run": lambda world: world.run(),
    "resync": lambda world: pipeline.resync(world.context("resync"), ["Contact"], None),
    "resync --since": lambda world: pipeline.resync(world.context("resync"), ["Contact"], LONG_AGO),
    "resync --id": lambda world: pipeline.resync_ids(world.context("resync"), "Contact", [world.ann]),
    "verify": lambda world: pipeline.verify_object(world.context("verify"), "Contact", repair=False),
    "verify --repair": lambda world: pipeline.verify_object(
        world.context("verify", approve=True), "Contact", repair=True
    ),
    "worker": lambda world: pipeline.run_scheduled(world.context("worker"), "Contact"),
    "what waits": lambda world: pipeline.refresh_dependants(world.context()),
}


@pytest.mark.parametrize("ask", ASKS)
def test_another_org_is_refused(loaded: World, other: World, ask: str) -> None:
    """Whatever is asked for, nothing of another org is written, and the cursors stay; the error says what to do."""
    assert other.org.organization_id != loaded.org.organization_id
    loaded.sql(
        "INSERT INTO sync.reread (object, record_id, whole) VALUES ('Contact', :id, true)", id=loaded.ann
    )
    before = state(loaded)

    with pytest.raises((OrgChangedError, ObjectsFailedError), match="run --accept-org") as refused:
        ASKS[ask](other)

    assert code(refused.value) == 6
    assert known(loaded) in str(refused.value)
    assert other.org.organization_id[:15] in str(refused.value)
    assert state(loaded) == before
    assert {request.kind for request in other.sim.requests} <= {"token", "userinfo", "describe"}


def test_refused_commands_exit_with_6(loaded: World, other: World) -> None:
    """The same as processes."""
    before = state(loaded)

    for command in (["run"], ["resync", "--id", other.ann], ["verify", "--repair", "--approve"]):
        done = other.command(*command)
        assert done.returncode == 6, done.stdout + done.stderr
        assert "--accept-org" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    assert state(loaded) == before


def test_the_right_org_goes_on(loaded: World, other: World) -> None:
    """When the settings are mended nothing has to be read anew."""
    with pytest.raises(ObjectsFailedError):
        other.run()
    loaded.org.update(loaded.ann, {"Title": "Boss"})

    loaded.run()

    assert loaded.news(loaded.seen) == [("update", loaded.ann)]
    loaded.assert_equal()


# ── accepted ──────────────────────────────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("small", [True, False], ids=["listed", "by buckets"])
def test_accepted(loaded: World, other: World, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    """Everything is read anew and told as one `reload` per object; verify removes what only the old org had."""
    if not small:
        monkeypatch.setattr(comparison, "SMALL", 0)
    accept(other)

    assert known(other) == other.org.organization_id[:15]
    assert sorted((c.op, c.object) for c in other.feed(other.seen)) == [
        ("reload", "Account"),
        ("reload", "Contact"),
    ]
    assert {other.ann, other.bob} < live(other)
    other.run()
    with pytest.raises(ObjectsFailedError) as refused:
        loaded.run()
    assert code(refused.value) == 6

    seen = other.last_seq()
    for name in ("Account", "Contact"):
        pipeline.verify_object(other.context("verify", approve=True), name, repair=True)

    assert (live(other), live(other, "Account")) == ({other.ann, other.bob}, {other.acme})
    gone = {loaded.acme, loaded.bolt, loaded.ann, loaded.bob, loaded.cid}
    assert set(other.news(seen)) == {("delete", id_) for id_ in gone}
    assert {other.row(id_)["deleted_reason"] for id_ in gone} == {"vanished"}


def test_accepted_commands(loaded: World, other: World) -> None:
    """The same as processes: `run --accept-org`, then `verify --repair --approve` ends clean."""
    done = other.command("run", "--accept-org")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify --repair --approve" in done.stdout + done.stderr

    mended = other.command("verify", "--repair", "--approve", "--json")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert {each["object"]: each["gone"] for each in json.loads(mended.stdout)} == {
        "Account": 2,
        "Contact": 3,
    }
    assert live(other) == {other.ann, other.bob}
    assert loaded.command("run").returncode == 6


def test_a_large_old_org_is_not_removed_unasked(loaded: World, other: World) -> None:
    """The guard holds here, too: more than a hundred records are removed by --approve alone."""
    loaded.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(120)])
    loaded.run()
    accept(other)

    with pytest.raises(GuardError):
        pipeline.verify_object(other.context("verify"), "Contact", repair=True)
    assert len(live(other)) == 125

    pipeline.verify_object(other.context("verify", approve=True), "Contact", repair=True)
    assert live(other) == {other.ann, other.bob}


def test_accepting_the_same_org_changes_nothing(loaded: World) -> None:
    """`--accept-org` where nothing has to be accepted is a usual run."""
    before = loaded.sql("SELECT * FROM sync.org")

    accept(loaded)

    assert loaded.sql("SELECT * FROM sync.org") == before
    assert loaded.feed(loaded.seen) == []


@BOTH
def test_accepted_and_killed(loaded: World, other: World) -> None:
    """A run that accepted an org and died is taken up by a usual one, which reads the rest."""
    other.page_by(1)

    def die(step: PageResult) -> None:
        if step.received:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.sync_object(other.context(accept_org=True, on_page=die), "Contact")
    other.run()

    assert {other.ann, other.bob} < live(other)
    assert sorted((c.op, c.object) for c in other.feed(other.seen)) == [
        ("reload", "Account"),
        ("reload", "Contact"),
    ]
    with pytest.raises(ObjectsFailedError):
        loaded.run()


@BOTH
def test_a_copy_whose_records_are_older(loaded: World) -> None:
    """In a copy the Ids are the same and stamps may be earlier; the rows are what the accepted org has."""
    loaded.org.update(loaded.ann, {"Title": "production"}, stamp=LONG_AGO + timedelta(days=1))
    pipeline.resync(loaded.context("resync"), ["Contact"], None)
    loaded.sql("UPDATE sync.org SET organization_id = :o", o=FOREIGN)
    loaded.org.update(loaded.ann, {"Title": "sandbox"}, stamp=LONG_AGO)

    accept(loaded)

    assert loaded.row(loaded.ann)["title"] == "sandbox"
    loaded.assert_equal()


def test_rejects_of_the_old_org_go_with_it(loaded: World, other: World) -> None:
    """What the old org had and could not be stored is listed no more once another org took its place."""
    loaded.org.retype_field("Contact", "Birthdate", type="string", length=80)
    loaded.org.update(loaded.ann, {"Birthdate": "in spring"})
    loaded.run()
    assert loaded.sql("SELECT record_id FROM sync.reject") == [(loaded.ann,)]

    accept(other)
    pipeline.verify_object(other.context("verify", approve=True), "Contact", repair=True)

    assert other.sql("SELECT record_id FROM sync.reject") == []


# ── accepted while others are at work ─────────────────────────────────────────────────────────────────


@BOTH
@pytest.mark.parametrize("work", ["worker", "resync", "verify --repair"])
def test_accepted_while_the_other_org_is_read(loaded: World, other: World, work: str) -> None:
    """A process that reads the replaced org loses its lease: neither a page of it nor its cursor is written after the
    other org was accepted, and that one is read from the beginning."""
    loaded.page_by(1)
    for id_ in (loaded.ann, loaded.bob, loaded.cid):
        loaded.org.update(id_, {"Title": "Boss"}, stamp=loaded.sim.clock.now() - timedelta(hours=1))
    loaded.sql("UPDATE sync.cursor SET complete_through = complete_through - interval '2 hours'")
    accepted: list[int] = []

    def accept_now(step: PageResult) -> None:
        if step.object == "Contact" and (step.received or step.tally.read) and not accepted:
            pipeline.sync_object(other.context(accept_org=True), "Account")
            accepted.append(other.last_seq())

    reading: dict[str, Callable[[SyncContext, str], object]] = {
        "worker": pipeline.sync_object,
        "resync": partial(pipeline.resync_object, since=None),
        "verify --repair": partial(pipeline.verify_object, repair=True),
    }

    with pytest.raises(FenceLostError):
        reading[work](loaded.context(on_page=accept_now), "Contact")
    for job in loaded.org.jobs.all():  # of the replaced org, which deletes it in seven days
        loaded.org.jobs.remove(job)

    assert other.news(accepted[0]) == []
    assert other.cursor("Contact") is None
    other.run()
    assert {other.ann, other.bob} < live(other)
    assert ("reload", None) in other.news(accepted[0])


def test_accepting_waits_for_a_commit_under_way(loaded: World, other: World) -> None:
    """A transaction that holds another object's lease is waited for, and its process loses the lease afterwards."""
    held = leases.acquire(loaded.engine, "Contact", "slow", timedelta(0), loaded.stop)
    context = other.context(accept_org=True)
    accepting = threading.Thread(target=pipeline.sync_object, args=(context, "Account"))
    with leases.fenced_transaction(loaded.engine, held):
        accepting.start()
        accepting.join(0.5)
        assert accepting.is_alive()
        assert loaded.sql("SELECT organization_id FROM sync.org") == [(loaded.org.organization_id[:15],)]
    accepting.join(20)

    assert known(loaded) == other.org.organization_id[:15]
    with pytest.raises(FenceLostError), leases.fenced_transaction(loaded.engine, held):
        pass
    assert leases.acquire(loaded.engine, "Contact", "next", timedelta(0), loaded.stop).fence > held.fence
