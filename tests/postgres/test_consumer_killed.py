"""The example consumers while the org lives: in a process that is killed again and again, and within the database.

Planted and found: numbers from a plain sequence, an `undelete` or what depends on an account not told; in the
consumer, the number committed before the copy.
"""

from __future__ import annotations

import itertools
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Timer

import pytest
from sqlalchemy.engine import make_url

from sync.demo import embedded
from sync.replication import pipeline
from tests.support.consuming import GRANTS, Role, role
from tests.support.processes import Process
from tests.support.soak import SOAK
from tests.support.world import ROOT, World

KILLS = 10 if SOAK else 7
ROUNDS = 6 if SOAK else 4
AT_ONCE = 100  # entries that the example polls at once
FOREIGN = "00D000000000001"
# As a busy disk does: between an entry's number and its commit there is time, for others to commit in.
SLOW_COMMITS = """
CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(random() * 0.02);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON sync.change DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION public.dawdle()
"""


class Life:
    """An org that is never at rest, and passes now and then."""

    def __init__(self, world: World, dice: random.Random) -> None:
        self.world, self.org, self.dice = world, world.org, dice
        self.titles = itertools.count(1)

    def live(self, until: Event) -> None:
        """Every kind of change several times, in any order, and on until it is enough."""
        kinds: list[Callable[[], None]] = [
            *(self.create, self.edit, self.edit_many, self.edit_twice_within_a_second, self.edit_account),
            *(self.delete, self.undelete, self.purge, self.merge, self.merge_accounts),
        ]
        for number in itertools.count(1):
            for change in self.dice.sample(kinds, len(kinds)):
                change()
                self.world.sim.clock.advance(self.dice.choice([1, 60, 400]))
                if self.dice.random() < 0.5:
                    self.world.run()
            if number == ROUNDS // 2:
                self.replace_org()
            if number >= ROUNDS and until.is_set():
                break
        self.world.sim.clock.advance(3600)
        self.world.run()

    def pick(self, name: str = "Contact", *, deleted: bool = False) -> Iterator[str]:
        """One record, or none where there is none."""
        if ids := self.org.ids(name, deleted=deleted):
            yield self.dice.choice(ids)

    def create(self) -> None:
        account = self.org.create("Account", {"Name": f"Account {next(self.titles)}"})
        people = [{"LastName": f"n{next(self.titles)}", "AccountId": account} for _ in range(4)]
        self.org.create_many("Contact", people)

    def edit(self) -> None:
        for id_ in self.pick():
            self.org.update(id_, {"Title": f"t{next(self.titles)}"})

    def edit_many(self) -> None:
        """As a data load does: many records share one stamp."""
        some = self.org.ids("Contact", deleted=False)[::2]
        self.org.update_many(some, {"Department": f"d{next(self.titles)}"})

    def edit_twice_within_a_second(self) -> None:
        """Two versions with one stamp, and a pass between them."""
        for id_ in self.pick():
            stamp = self.world.sim.clock.now()
            self.org.update(id_, {"Title": f"t{next(self.titles)}"}, stamp=stamp)
            self.world.run()
            self.org.update(id_, {"Title": f"t{next(self.titles)}"}, stamp=stamp)

    def edit_account(self) -> None:
        """Its contacts look through it, without a stamp of their own."""
        for id_ in self.pick("Account"):
            self.org.update(id_, {"Name": f"Account {next(self.titles)}"})

    def delete(self) -> None:
        for id_ in self.pick("Account" if self.dice.random() < 0.2 else "Contact"):
            self.org.delete(id_)

    def undelete(self) -> None:
        for id_ in self.pick(deleted=True):
            self.org.undelete(id_)

    def purge(self) -> None:
        for id_ in self.pick(deleted=self.dice.random() < 0.5):
            self.org.purge(id_)

    def merge(self) -> None:
        for master, loser in itertools.product(self.pick(), self.pick()):
            if master != loser:
                self.org.merge(master, [loser])

    def merge_accounts(self) -> None:
        for master, loser in itertools.product(self.pick("Account"), self.pick("Account")):
            if master != loser:
                self.org.merge(master, [loser])

    def replace_org(self) -> None:
        """Everything is read anew, and told as one `reload` per object."""
        self.world.sql("UPDATE sync.org SET organization_id = :other", other=FOREIGN)
        pipeline.sync_all(self.world.context(accept_org=True))


class Seen:
    """Every entry that any of the consumers ever read, by its number."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[str, ...]] = {}
        self.again = 0

    def note(self, printed: str) -> None:
        """One process's entries: each number follows the last, from the first that was not committed."""
        lines = printed.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()  # killed while it wrote
        previous = None
        for line in lines:
            assert re.fullmatch(r"\d+ \w+ \w+ \w+\n", line), f"the consumer failed:\n{printed}"
            number, *rest = line.split()
            seq, highest = int(number), max(self.entries, default=0)
            if previous is None:
                assert highest - AT_ONCE < seq <= highest + 1, f"{seq} comes first, after {highest}"
            else:
                assert seq == previous + 1, f"{seq} comes after {previous}"
            previous = seq
            self.again += seq in self.entries
            assert self.entries.setdefault(seq, tuple(rest)) == tuple(rest), f"{seq} is another entry now"


def start(world: World, consumer: Role) -> Process:
    """The example, with the consumer's role for schema crm; the shop's tables lie beside it, as the owner's."""
    urls = (
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        for url in (consumer.engine.url, world.database)
    )
    return world.start("docs.examples.consumer", *urls)


def kill(process: Process, read: str = "") -> str:
    """All that it printed, of which some was read before."""
    process.kill()
    assert process.stdout is not None
    with process.stdout as printed:
        read += printed.read()
    assert process.wait() == -signal.SIGKILL, read
    return read


def live_and_be_killed(world: World, consumer: Role, dice: random.Random) -> str:
    """What a consumer printed that was killed after some time, wherever it was, or at work on an entry."""
    process = start(world, consumer)
    assert process.stdout is not None
    timer = Timer(dice.uniform(0.1, 1), process.kill)
    timer.start()
    read = "".join(itertools.islice(process.stdout, dice.randint(1, 21)))
    timer.cancel()
    return kill(process, read)


def catch_up(world: World, consumer: Role) -> str:
    process = start(world, consumer)
    deadline = time.monotonic() + 20
    while world.sql("SELECT seq FROM sync.consumer") != [(world.last_seq(),)]:
        assert time.monotonic() < deadline, f"the consumer never caught up:\n{kill(process)}"
        time.sleep(0.05)
    return kill(process)


@pytest.fixture
def consumer(loaded: World) -> Iterator[Role]:
    """A role that may do what is granted to consumers."""
    with role(loaded.engine) as new:
        yield new.granted(*GRANTS)


# The feed does not depend on how records are read: by Bulk API it is tried with SOAK.
@pytest.mark.parametrize(
    ("transport", "seed"), [("rest", 1), *([("bulk", 2)] if SOAK else [])], indirect=["transport"]
)
def test_a_killed_consumer_misses_nothing(loaded: World, consumer: Role, seed: int) -> None:
    """Whenever it is killed, the example ends with an exact copy, and each purchase with a contact that is there.

    Every number it ever saw followed the one before, whoever was committing meanwhile.
    """
    loaded.sql(SLOW_COMMITS)
    dice = random.Random(seed)
    seen, enough = Seen(), Event()
    [(began,)] = consumer.ask("SELECT seq FROM crm.subscribe('shop', ARRAY['Account', 'Contact'])")
    seen.entries = dict.fromkeys(range(1, began + 1), ())
    process = start(loaded, consumer)
    while not loaded.sql("SELECT to_regclass('shop.customer')")[0][0] or not loaded.sql(
        "SELECT FROM shop.customer"
    ):
        time.sleep(0.02)
    kill(process)
    loaded.sql("INSERT INTO shop.purchase (contact_id) SELECT contact_id FROM shop.customer")

    with ThreadPoolExecutor(1) as pool:
        life = pool.submit(Life(loaded, random.Random(seed)).live, enough)
        kills = 0
        try:
            while not life.done():
                seen.note(live_and_be_killed(loaded, consumer, dice))
                kills += 1
                if kills == KILLS:
                    enough.set()
        finally:
            enough.set()
        life.result()
    seen.note(catch_up(loaded, consumer))

    assert kills >= KILLS
    assert seen.again, "none was killed in its work"
    assert sorted(seen.entries) == list(range(1, loaded.last_seq() + 1))
    told = {op for name, _, op in filter(None, seen.entries.values()) if name == "Contact"}
    assert told == {"reload", "insert", "update", "delete", "undelete", "merge"}
    copy = dict(map(tuple, loaded.sql("SELECT contact_id, doc::text FROM shop.customer")))
    assert copy == dict(map(tuple, loaded.sql("SELECT contact_id, to_jsonb(c)::text FROM crm.customer AS c")))
    assert loaded.sql("SELECT count(*) FROM shop.purchase")[0][0] == 3
    moved = "SELECT FROM shop.purchase WHERE contact_id IS DISTINCT FROM crm.resolve_id(contact_id)"
    assert loaded.sql(f"{moved} AND crm.resolve_id(contact_id) IS NOT NULL") == []

    # A failover, after which the copy may have anything: the example reads all of it again, and goes on.
    loaded.sql(
        "UPDATE sync.consumer SET epoch = '1.1.1'; DELETE FROM shop.customer; UPDATE shop.position SET seq = 1"
    )
    process = start(loaded, consumer)
    deadline = time.monotonic() + 20
    while loaded.sql("SELECT FROM sync.consumer WHERE epoch <> sync.epoch()"):
        assert time.monotonic() < deadline, f"the consumer never read anew:\n{kill(process)}"
        time.sleep(0.05)
    assert kill(process).count("None reload") == 2
    assert dict(map(tuple, loaded.sql("SELECT contact_id, doc::text FROM shop.customer"))) == copy


def test_a_copy_within_the_database(loaded: World, consumer: Role) -> None:
    """The SQL example, called now and then while the org lives, is exact after each call, also after a rollback."""
    loaded.sql(f"GRANT CREATE ON DATABASE {make_url(loaded.database).database} TO {consumer.name}")
    url = make_url(consumer.engine.url).set(drivername="postgresql").render_as_string(hide_password=False)
    example = ROOT / "docs" / "examples" / "consumer.sql"
    subprocess.run([embedded.psql(), url, "-q", "-v", "ON_ERROR_STOP=1", "-f", example], check=True)
    copy = "SELECT to_jsonb(c)::text FROM shop.customer AS c ORDER BY 1"
    source = "SELECT to_jsonb(c)::text FROM shop.source AS c ORDER BY 1"
    life = Life(loaded, random.Random(3))
    usual = (life.create, life.edit_many, life.edit_account, life.delete, life.undelete)
    for change in (*usual, life.merge, life.merge_accounts, life.purge, life.replace_org, life.create):
        change()
        loaded.sim.clock.advance(3600)
        loaded.run()
        with consumer.connect() as connection:
            connection.exec_driver_sql("SELECT shop.follow()")
            connection.rollback()
        [(worked,)] = consumer.ask("SELECT shop.follow()")
        assert consumer.ask(copy) == consumer.ask(source), change.__name__
    assert worked
    assert consumer.ask("SELECT shop.follow()") == [(0,)]
