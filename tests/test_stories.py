"""Org before · what changes · expected rows and feed."""

from __future__ import annotations

from tests.world import LONG_AGO, World


def test_first_load_holds_everything_and_says_reload_once(world: World) -> None:
    """A first load brings every record and one `reload` per object, not a feed entry per record."""
    account = world.org.create("Account", {"Name": "Acme"}, stamp=LONG_AGO)
    world.org.create_many(
        "Contact", [{"LastName": f"n{i}", "AccountId": account} for i in range(50)], stamp=LONG_AGO
    )

    world.run()

    world.assert_equal()
    assert sorted((c.op, c.object, c.record_id) for c in world.feed()) == [
        ("reload", "Account", None),
        ("reload", "Contact", None),
    ]
