"""A migrated database as new for each test; a fresh simulated org per test; no mocks of ours."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from sync.demo import embedded
from sync.logs import printable
from sync.simulator import Simulator, simulator
from sync.simulator.transport import certificates
from tests.support import databases as databases_of_tests
from tests.support.databases import Databases
from tests.support.databases import administer as administer
from tests.support.world import LONG_AGO, World

NUMBERS = itertools.count(1)
# Modules with a test of a minute, and with tests that wait for time to pass.
LONGEST = ("test_model.py", "test_consumer_killed.py")
WAITING = ("test_worker.py",)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: a third of the time tests wait, for processes and for time to pass.

    A single file has as many as there are cores when it runs the product as a whole, and else none: to start a
    worker takes longer than its tests. Nor has a single test one.
    """
    cores = os.cpu_count() or 1
    if len(config.args) > 1 or not (file := Path(config.args[0].partition("::")[0])).is_file():
        return cores + 1
    return cores if "::" not in config.args[0] and "World" in file.read_text() else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests that mostly wait among those that compute, and begin with the longest."""
    first = [item for item in items if item.path.name in LONGEST]
    waiting = [item for item in items if item.path.name in WAITING]
    others = [item for item in items if item.path.name not in LONGEST + WAITING]
    every = len(others) // (2 * len(waiting) + 1) + 1  # all of them in the first half
    for place, item in enumerate(waiting):
        others.insert(place * every, item)
    items[:] = [*first, *others]


def pytest_collection_finish() -> None:
    """Keep the garbage collector from examining all modules and collected tests again and again.

    By default it runs after each 2,000 new objects, on a heap of a million that stay until the process ends: 6 % of
    the suite's CPU. Cycles are still collected; memory grows by some megabytes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


@pytest.fixture(autouse=True)
def own_secrets() -> Iterator[None]:
    """What one test has hidden from the output is not hidden in the next."""
    known, searched = set(printable._secrets), printable._needles
    yield
    printable._secrets.clear()
    printable._secrets.update(known)
    printable._needles = searched


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL whose owner may create databases."""
    with databases_of_tests.server() as url:
        try:
            create_engine(url, poolclass=NullPool).connect().close()
        except OperationalError as error:
            pytest.exit(
                f"no PostgreSQL at TEST_DATABASE_URL ({error.orig}); unset it for the embedded one", 3
            )
        yield url


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a migrated database that tests clone."""
    name = f"sync_template_{os.getpid()}"
    databases_of_tests.create(server, name)
    engine = create_engine(make_url(server).set(database=name), poolclass=NullPool)
    embedded.migrate(engine)
    yield name
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """The URL of a database without any table of ours."""
    name = f"sync_test_{os.getpid()}_{next(NUMBERS)}"
    databases_of_tests.create(server, name)
    yield make_url(server).set(database=name).render_as_string(hide_password=False)
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def databases(server: str, template: str) -> Iterator[Databases]:
    """The database that is put back between tests: a new one for each costs a tenth of a second."""
    databases = Databases(server, template)
    yield databases
    databases.drop()


@pytest.fixture
def database(databases: Databases) -> str:
    """The URL of a migrated, empty database."""
    return databases.take()


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All simulators of a run show one certificate, and the public authorities are one that nobody has heard of.

    Reading the authorities takes twenty milliseconds: for each new path, and for requests with each connection.
    """
    made = certificates(tmp_path_factory.mktemp("simulators"))
    public, _ = certificates(tmp_path_factory.mktemp("public"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "certificates", lambda folder: made)
        patch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(public))
        yield


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """An empty org over HTTPS."""
    with Simulator() as running:
        yield running


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> str:
    """How windows are read: "rest" or "bulk"; tests that hold for both are parametrised by it."""
    return str(getattr(request, "param", "rest"))


@pytest.fixture
def world(sim: Simulator, database: str, transport: str, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """An org, a database, and the product between them; no test of it may have logged a secret, and no Bulk job
    may be left behind."""
    with World(sim, database, SYNC_BULK_THRESHOLD="0" if transport == "bulk" else "10000") as world:
        world.transport = transport
        yield world
        world.assert_no_secret(caplog.text)
        assert world.org.jobs.all() == [] or world.unfinished(), "a Bulk job was left at Salesforce"


@pytest.fixture
def loaded(world: World, databases: Databases) -> World:
    """A first load behind us: two accounts, three contacts, all long ago."""
    world.acme = world.org.create("Account", {"Name": "Acme"}, stamp=LONG_AGO)
    world.bolt = world.org.create("Account", {"Name": "Bolt"}, stamp=LONG_AGO)
    world.ann, world.bob, world.cid = world.org.create_many(
        "Contact",
        [{"LastName": name, "AccountId": world.acme} for name in ("Ann", "Bob", "Cid")],
        stamp=LONG_AGO,
    )
    databases.load(f"loaded by {world.transport}", world.run)
    world.sim.requests.clear()  # a copy has asked for nothing
    world.seen = world.last_seq()
    return world
