"""The soak of a year: two days of it hold, each final check can fail, and its clock is that of org and database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tests.project.pages import ROOT, blocks
from tests.soak_year import checks
from tests.soak_year.checks import Check
from tests.soak_year.measures import Day, Measures, read, summary
from tests.soak_year.year import Options, Year, year
from tests.support.databases import administer

MB = 1 << 20


@pytest.fixture
def lived(server: str, template: str) -> Iterator[Year]:
    """Two days of a year that starts, in a database of its own: its clock is replaced for good."""
    name = f"sync_soak_{os.getpid()}"
    administer(server, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        database = make_url(server).set(database=name).render_as_string(hide_password=False)
        with year(Options(days=2, passes=2, accounts=6, contacts=30), database) as lived:
            yield lived
    finally:
        administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def failed(found: list[Check]) -> list[str]:
    return [check.name for check in found if not check.holds]


def write(lived: Year, statement: str) -> None:
    with lived.engine.begin() as connection:
        connection.execute(text(statement))


def test_two_days(lived: Year) -> None:
    """All holds after two days; a consumer that misses one change is found, and so are other tables and feeds."""
    assert failed(lived.run()) == []

    days = lived.measures.days
    assert [len(day.lag_minutes) for day in days[:2]] == [2, 5]
    assert sum(day.calls for day in days) > 30
    assert lived.life_done["edited"] > 20
    assert lived.consumer.followed > 20

    id_, other = lived.sim.org.ids("Contact", deleted=False)[:2]
    lived.sim.org.update(id_, {"LastName": "Missed"})
    lived.passes()
    last = "SELECT seq FROM sync.change ORDER BY seq DESC LIMIT 1"
    with lived.engine.connect() as connection:
        lived.consumer.misses = connection.execute(text(last)).scalar_one()
    lived.consumer.catch_up()
    assert lived.consumer.differences() == [id_]
    assert failed(lived.checks()) == ["the consumer's copy equals the tables"]

    write(lived, "DELETE FROM shop.contact; DELETE FROM shop.account")
    write(lived, f"UPDATE salesforce.contact SET title = 'Else' WHERE id = '{other}'")
    write(lived, f"DELETE FROM sync.change WHERE seq = ({last})")
    lived.replay.seq -= 1
    assert failed(lived.checks()) == [
        "the tables equal the org, value by value",
        "verify --deep all finds no difference",
        "the feed, replayed, equals the tables",
        "the consumer's copy equals the tables",
    ]


def test_one_clock(lived: Year) -> None:
    """Each clock of the database, defaults and views follow the org's; a transaction keeps its time."""
    lived.clock.step(40 * 86_400)
    lived.clock.settle()
    write(lived, "INSERT INTO sync.run (object, command, owner) VALUES ('Contact', 'run', 'x')")
    write(lived, "UPDATE sync.cursor SET complete_through = now()")
    clocks = "now(), statement_timestamp(), clock_timestamp(), (SELECT max(started_at) FROM sync.run)"
    with lived.engine.connect() as connection:
        for at in connection.execute(text(f"SELECT {clocks}")).one():
            assert abs((at - lived.clock.now()).total_seconds()) < 30
        assert connection.execute(text("SELECT now() = now()")).scalar_one()
        lag = "SELECT extract(epoch FROM lag) FROM crm.freshness WHERE object = 'Contact'"
        assert abs(connection.execute(text(lag)).scalar_one()) < 30


def made(days: int, **values: float) -> Measures:
    """A year whose feed, replicas and memory grow by so much a day, in MB."""
    grows = {"feed": 0.0, "replicas": 0.0, "memory": 0.0, **values}

    def day(number: int) -> Day:
        sizes = {
            "sync.change": (int((10 + grows["feed"] * number) * MB), MB),
            "salesforce.contact": (int((10 + grows["replicas"] * number) * MB), MB),
        }
        memory, lags = 100 + grows["memory"] * number, [10.0, 11.0]
        return Day(number + 1, 200, sizes, number, memory, lags, [0.1, 0.2])

    return Measures({"days": days}, [day(number) for number in range(days)], {"orgs": 1}, 90.0)


def test_what_grows_is_found() -> None:
    """Sizes and memory that go on growing are a failure; replicas may grow by their tombstones."""
    assert checks.flat(made(365)) == []
    assert checks.flat(made(365, feed=0.001, replicas=0.0009)) == []
    assert checks.flat(made(365, feed=0.05)) == ["schema sync has 1.56 times its size of day 130"]
    assert checks.flat(made(365, replicas=0.01))
    assert checks.flat(made(100, feed=1)) is None
    assert checks.memory(made(365)) == []
    assert checks.memory(made(365, memory=0.1))
    assert checks.memory(made(10, memory=9)) is None


def test_the_summary(tmp_path: Path) -> None:
    """Percentiles, quarters and counts are printed, and a year is read from its file as it was written."""
    measures = made(365)
    measures.write(tmp_path / "year.json")

    shown = summary(measures)

    assert "lag after a pass, of the org's time: p50 11.0 min, p99 11.0 min, worst 11.0 min" in shown
    assert "365 days, 730 passes in 1.5 minutes" in shown
    assert [line for line in shown.splitlines() if "day 91" in line and "day 365" in line]
    assert summary(read(tmp_path / "year.json")).splitlines()[:6] == shown.splitlines()[:6]


def test_the_page() -> None:
    """docs/guarantees.md shows the summary of the published year."""
    shown = [block.text.strip() for block in blocks("docs/guarantees.md") if block.language == "text"]

    assert shown == [summary(read(ROOT / "docs" / "benchmarks" / "year.json"))]
