"""Rules that no other test would see broken: each is here because a bug planted in it escaped."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from sync.errors import FenceLostError, ObjectsFailedError, SalesforceError
from sync.logs import printable
from sync.postgres.state import leases
from sync.replication import pipeline
from sync.replication.runs import PageResult
from sync.salesforce.session.limits import Allowance
from sync.simulator import replication
from tests.support.hostile import ONCE, TOKEN, Asked, answer, hostile
from tests.support.world import LONG_AGO, World

MINUTE = timedelta(minutes=1)


def test_the_feed_tells_a_page_in_the_order_of_its_stamps(loaded: World) -> None:
    """Changes that come in one page are told in the order in which Salesforce committed them, not by their Ids."""
    now = loaded.sim.clock.now()
    for minutes, id_ in ((3, loaded.cid), (2, loaded.ann), (1, loaded.bob)):
        loaded.org.update(id_, {"Title": "Boss"}, stamp=now - minutes * MINUTE)

    loaded.run()

    assert [id_ for _, id_ in loaded.news(loaded.seen)] == [loaded.cid, loaded.ann, loaded.bob]


def test_the_cursor_moves_under_the_fence(loaded: World) -> None:
    """A process that was overtaken after all else of its pass was done does not declare the window complete."""
    loaded.sim.clock.advance(120)
    loaded.run()  # the delete log was asked just now, and is not asked again
    loaded.org.update(loaded.ann, {"Title": "Boss"})
    loaded.sim.clock.advance(60)
    cursor = loaded.cursor("Contact")

    def overtaken(step: PageResult) -> None:
        if step.received:
            loaded.expire_leases()
            leases.acquire(loaded.engine, "Contact", "successor", timedelta(0), loaded.stop)

    with pytest.raises(FenceLostError):
        pipeline.sync_object(loaded.context(on_page=overtaken), "Contact")

    assert loaded.cursor("Contact") == cursor


def test_progress_that_lacks_a_record_is_discarded(world: World) -> None:
    """A record shows up before the place where a load broke off: the next run begins anew, and does not fail."""
    world.page_by(2)
    world.org.create_many("Contact", [{"LastName": f"n{i}"} for i in range(5)], stamp=LONG_AGO)
    world.sim.faults.add("reset", on="page", sobject="Contact", times=None)
    with pytest.raises(ObjectsFailedError):
        world.run()
    assert len(world.rows("Contact")) == 2
    world.sim.faults.clear()
    world.org.create("Contact", {"LastName": "shown later"}, stamp=LONG_AGO - timedelta(days=1))

    world.run()

    world.assert_equal()


def test_a_log_that_says_that_it_was_cut_off_is_not_believed(
    loaded: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An org need not refuse a window that begins before its delete log does: `earliestDateAvailable` decides."""
    true = replication.deleted
    loaded.sim.clock.advance(3 * 3600)
    loaded.org.purge(loaded.ann, log=False)
    loaded.sim.clock.advance(3 * 3600)
    cut = {"earliestDateAvailable": f"{loaded.sim.clock.now() - timedelta(hours=1):%Y-%m-%dT%H:%M:%S.000Z}"}
    monkeypatch.setattr(replication, "deleted", lambda *given: true(*given) | cut)

    loaded.run()

    assert loaded.row(loaded.ann)["deleted_reason"] == "vanished"


def test_a_verify_that_leaves_differences_proves_nothing(loaded: World) -> None:
    """`verified_through` stays where it is until nothing differs any more: the next verify looks there again."""
    loaded.sql("DELETE FROM salesforce.contact WHERE id = :id", id=loaded.ann)
    proved = "SELECT verified_through FROM sync.cursor WHERE object = 'Contact'"

    pipeline.verify_object(loaded.context("verify"), "Contact", repair=False)
    before = loaded.sql(proved)
    pipeline.verify_object(loaded.context("verify"), "Contact", repair=True)

    assert before == [(None,)]
    assert loaded.sql(proved) == [(loaded.cursor("Contact"),)]


def test_a_record_that_only_the_listing_lacks_stays(loaded: World) -> None:
    """A record that is undeleted while a verify works is not in the listing, and is not gone: a look-up finds it."""
    loaded.sim.clock.advance(3600)
    loaded.run()
    loaded.org.delete(loaded.ann)

    def undelete(step: PageResult) -> None:
        if step.received and loaded.ann not in loaded.org.ids("Contact", deleted=False):
            loaded.org.undelete(loaded.ann, bump=False)

    found = pipeline.verify_object(
        loaded.context("verify", on_page=undelete), "Contact", repair=True
    ).findings

    assert found is not None
    assert found["gone"] == 0
    assert loaded.row(loaded.ann)["deleted_at"] is None


def test_the_access_token_is_hidden(tmp_path: Path) -> None:
    """The key of a token is not printed once it was issued, also where nothing says that it is one."""
    key = TOKEN.partition("!")[2] or TOKEN
    with hostile(tmp_path) as there:
        there.session().login()

    assert key not in printable.redact(f"it was {key} that came")


def test_no_more_of_a_body_is_read_than_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is too large is given up at its bound: the rest is not fetched to be thrown away."""
    monkeypatch.setattr("sync.salesforce.session.session.QUERY", Allowance(1 << 20, 30, 30))
    sent: list[int] = []

    def pages(_: Asked) -> Iterator[bytes]:
        yield answer(b"", chunked=True, Content_Length=str(64 << 20))[0]
        for number in range(64):
            yield b" " * (1 << 20)
            sent.append(number)

    with hostile(tmp_path) as there:
        there.answers = pages
        session = there.session(ONCE)
        session.login()
        with pytest.raises(SalesforceError, match="larger than 1 MB"):
            session.query("SELECT Id FROM Contact")

    assert len(sent) < 32  # some are on their way when the connection is closed
