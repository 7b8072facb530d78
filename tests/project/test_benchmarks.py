"""The benchmark's pieces work: it downloads all there is, runs what it compares, and judges numbers rightly."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import requests

from sync.salesforce import soql
from sync.simulator import Simulator
from sync.window import Scope
from tests.benchmarks import __main__ as benchmark
from tests.benchmarks import charts, limit, others, rounds, show, watch, worker
from tests.benchmarks.bars import bars, printed
from tests.benchmarks.database import Database, plain
from tests.benchmarks.measure import (
    BULK,
    CHANGED,
    DOWNLOAD,
    FIRST,
    FULL,
    LIMIT,
    OBJECTS,
    REST,
    ROW_BY_ROW,
    SCRIPTS,
    SLOW,
    START,
    TRANSPORTS,
    VALUES,
    FailedError,
    Findings,
    Measurement,
    process,
)
from tests.benchmarks.org import Org
from tests.support.soak import SOAK

ACCOUNTS, CONTACTS = 20, 130


@pytest.fixture
def populated() -> Iterator[Simulator]:
    """An org with hard and ordinary records."""
    with Simulator(accounts=ACCOUNTS, contacts=CONTACTS) as running:
        running.org.delete(running.org.ids("Contact")[-1])
        yield running
        assert running.errors == []


@pytest.fixture
def org(populated: Simulator) -> Iterator[Org]:
    """The same as the benchmark holds it."""
    org = Org(populated.environment(), populated.control_token)
    with org.http:
        yield org


@pytest.fixture
def target(database: str) -> Database:
    """A migrated, empty database."""
    return Database(plain(database))


# ── what is measured ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", OBJECTS)
def test_the_limit_downloads_every_record(populated: Simulator, org: Org, name: str) -> None:
    """The pages of the limit hold every record of the org, deleted ones too, by REST and by Bulk API."""
    populated.options.page_sizes = populated.options.bulk_page_sizes = [7, 40]
    everything = sorted(populated.org.ids(name))
    headers = org.log_in()

    by_rest = list(limit.rest_pages(org, headers, soql.select(org.projection(name), Scope(), None)))
    job = limit.completed_job(org, headers, name)
    by_bulk = list(limit.bulk_pages(org, headers, job))

    assert len(by_rest) > 1 < len(by_bulk)
    assert sorted(each["Id"] for page in by_rest for each in json.loads(page)["records"]) == everything
    tables = [csv.DictReader(io.StringIO(page.decode(), newline="")) for page in by_bulk]
    assert sorted(row["Id"] for table in tables for row in table) == everything


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_limit_leaves_nothing_behind(populated: Simulator, org: Org, transport: str) -> None:
    """A download is timed by itself, compressed, with batches of 2,000; its Bulk jobs are deleted."""
    assert limit.download(org, transport) > 0

    assert populated.org.jobs.all() == []
    kinds = {"job_create", "results", "job_delete"} if transport == BULK else {"query"}
    asked = [each for each in populated.requests if each.kind in kinds]
    assert {each.kind for each in asked} == kinds
    assert {each.sobject for each in asked} == set(OBJECTS)


@pytest.mark.parametrize("fault", ["html_ok", "server_error_html", "truncated"])
def test_a_page_that_is_none_is_an_error(populated: Simulator, org: Org, fault: str) -> None:
    """A download that would end too early fails, and is not taken for a fast one."""
    populated.options.page_sizes = 50
    populated.faults.add(fault, on="page")

    with pytest.raises((RuntimeError, requests.RequestException)):
        list(limit.rest_pages(org, org.log_in(), "SELECT Id FROM Contact"))


@pytest.mark.parametrize("transport", TRANSPORTS if SOAK else TRANSPORTS[-1:])
def test_the_product_beside_the_limit(
    populated: Simulator, org: Org, target: Database, tmp_path: Path, transport: str
) -> None:
    """The product runs as a process, by the transport that was asked for; psql copies the rows it wrote."""
    settings = worker.settings(org, target, transport)
    first = worker.measured(FIRST, "run", settings, target, contacts=CONTACTS, transport=transport)

    assert (first.rows, first.written, first.feed) == (ACCOUNTS + CONTACTS, ACCOUNTS + CONTACTS, 2)
    assert first.cpu
    assert first.seconds > first.cpu / 2
    assert first.peak_mb
    assert set(first.calls or {}) == set(OBJECTS)
    assert ("results" in {each.kind for each in populated.requests}) == (transport == BULK)

    assert limit.copy(target, tmp_path) > 0
    same = (
        "SELECT count(*) FROM (SELECT * FROM salesforce.contact INTERSECT SELECT * FROM bench.contact) AS s"
    )
    assert target.ask(same) == target.ask("SELECT count(*) FROM salesforce.contact") == CONTACTS
    assert list(tmp_path.iterdir()) == []


def test_a_tenth_changes(populated: Simulator, org: Org) -> None:
    """A tenth of the living contacts get another value, and another one the next time."""
    living = CONTACTS - 1
    seen = set()
    for _ in range(2):
        assert org.change_a_tenth("Contact") == -(-living // 10)
        titles = [populated.org.record(id_)["Title"] for id_ in populated.org.ids("Contact", deleted=False)]
        changed = [title for title in titles if str(title).startswith("Promoted")]
        assert len(changed) == -(-living // 10)
        seen.update(changed)
        populated.clock.advance(2)
    assert len(seen) == 2
    org.change_a_tenth("Contact", timedelta(hours=2))
    changed_ids = populated.org.ids("Contact", deleted=False)[::10]
    stamps = {str(populated.org.record(id_)["SystemModstamp"])[:13] for id_ in changed_ids}
    assert stamps <= {f"{populated.clock.now() - timedelta(hours=hours):%Y-%m-%dT%H}" for hours in (2, 3)}


# The scripts differ in a few lines each.
@pytest.mark.parametrize("script", SCRIPTS if SOAK else [*SCRIPTS][:1])
def test_scripts_copy_everything(org: Org, target: Database, script: str) -> None:
    """A script's tables hold all records of the org with all their fields, whether it is run once or twice."""
    if missing := others.missing(script):
        pytest.skip(f"{missing} is not installed")
    for _ in range(2):
        others.run(script, org, target)

        assert target.ask(rounds.COUNT) == ACCOUNTS + CONTACTS
    columns = (
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' AND table_name = "
    )
    assert target.ask(f"{columns}'contact'") == len(org.projection("Contact").names)
    same = (
        "SELECT count(*) FROM (SELECT id, lastname FROM contact INTERSECT SELECT c.id, c.lastname FROM contact c "
        "JOIN account a ON a.id = c.accountid) AS s"
    )
    assert target.ask(same) > 0


def test_a_process_is_watched_without_its_parent() -> None:
    """The peak of a small process is its own, however large the process that asks; a failure is told."""
    ballast = bytearray(b"x") * (300 << 20)

    done = process(["timeit", "-n1", "-r1", "import time; time.sleep(0.5)"], {})
    with pytest.raises(FailedError, match="ended with 1"):
        process(["timeit", "no Python"], {})

    assert len(ballast) == 300 << 20
    assert done.seconds >= 0.5
    assert done.cpu < done.seconds
    assert 1 < done.peak_mb < 100
    if sys.platform == "linux":
        assert done.memory
        assert max(held for _, held in done.memory) <= done.peak_mb * 1.05


def test_a_process_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody tells the memory of a running process, everything else is measured."""
    monkeypatch.setattr(watch, "resident", lambda _: None)

    found = watch.watch([sys.executable, "-c", "print()"])

    assert (found["code"], found["memory"], found["stood_still"]) == (0, [], 0)
    assert found["seconds"]


def test_standing_still_is_told(tmp_path: Path) -> None:
    """Time for which everything was stopped is known, and is not mistaken for the command's own."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-c", "import time; time.sleep(2.5)"]
    watcher = subprocess.Popen([sys.executable, watch.__file__, str(report), *command])
    time.sleep(0.5)
    watcher.send_signal(signal.SIGSTOP)
    time.sleep(1.6)
    watcher.send_signal(signal.SIGCONT)

    assert watcher.wait(20) == 0
    assert 1.2 < json.loads(report.read_text())["stood_still"] < 2.5


# ── how it is judged ──────────────────────────────────────────────────────────────────────────────────


def findings() -> Findings:
    """Two sizes by both transports, all bars just reached."""
    found = Findings(startup={START: 1.0, VALUES: 0.5, ROW_BY_ROW: 0.5})
    for size, peak in ((10_000, 150.0), (100_000, 165.0)):
        rows = size * 12 // 10
        for by, ratio in ((REST, 1.3), (BULK, 1.0)):
            seconds = 1 + rows / 10_000 * (1.2 if size == 100_000 else 1.0)
            found.add(Measurement(LIMIT, size, by, rows, seconds / ratio))
            found.add(Measurement(FIRST, size, by, rows, seconds, peak_mb=peak, written=rows, feed=2))
            found.add(Measurement(FULL, size, by, rows, seconds / ratio, peak_mb=140.0, written=0, feed=0))
    ours = found.per_row(FIRST, 10_000, REST)
    assert ours == pytest.approx(1e-4)
    found.add(Measurement(VALUES, 10_000, REST, 12_000, 0.5 + 4.0001e-4 * 12_000))
    found.add(Measurement(ROW_BY_ROW, 10_000, REST, 12_000, 0.5 + 12.0001e-4 * 12_000))
    calls = {"Account": 20, "Contact": 100}
    found.add(Measurement(SLOW, 100_000, REST, 120_000, 36.0, calls=calls))
    return found


def verdicts(found: Findings) -> list[str]:
    return [bar.verdict for bar in bars(found)]


def test_bars_are_reached_at_their_border() -> None:
    """What is exactly at every bar has reached it."""
    assert verdicts(findings()) == ["reached"] * 13


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        (Measurement(FIRST, 100_000, BULK, 120_000, 15.5), "first load by Bulk"),
        (Measurement(FIRST, 100_000, REST, 120_000, 15.5), "first load by REST"),
        (Measurement(FULL, 100_000, BULK, 120_000, 15.5, written=0, feed=0), "resync --full by Bulk"),
        (Measurement(FULL, 100_000, REST, 120_000, 10.0, written=1, feed=0), "resync --full by REST"),
        (Measurement(FULL, 100_000, REST, 120_000, 10.0, written=0, feed=1), "resync --full by REST"),
        (Measurement(CHANGED, 100_000, REST, 12_000, 2.0, peak_mb=201.0), "peak memory by REST"),
        (Measurement(CHANGED, 100_000, BULK, 12_000, 2.0, peak_mb=166.0), "largest peak by Bulk"),
        (Measurement(FIRST, 100_000, BULK, 120_000, 15.5), "cost of a row by Bulk"),
        (Measurement(VALUES, 10_000, REST, 12_000, 5.2), "faster than execute_values"),
        (Measurement(ROW_BY_ROW, 10_000, REST, 12_000, 14.8), "faster than row by row"),
        (Measurement(SLOW, 100_000, REST, 120_000, 36.1, calls={"Account": 20, "Contact": 100}), "300 ms"),
    ],
)
def test_bars_are_missed(worse: Measurement, missed: str) -> None:
    """Each bar is missed by what lies just beyond it, and says so in words."""
    found = findings()
    found.measurements = [
        one
        for one in found.measurements
        if (one.what, one.contacts, one.transport) != (worse.what, worse.contacts, worse.transport)
    ]
    found.add(worse)

    names = [bar.name for bar in bars(found) if bar.verdict == "NOT REACHED"]

    assert any(name.startswith(missed) for name in names), names
    assert "NOT REACHED" in printed(bars(found))


def test_what_was_not_measured_is_no_success() -> None:
    """Without measurements no bar is reached, and none is missed."""
    assert verdicts(Findings()) == ["not measured"] * 13


def test_waiting_or_working() -> None:
    """A slow Salesforce is compared with the longer of two: the waits of one object, and the work."""
    found = findings()
    bar = bars(found)[-1]
    assert bar.value == pytest.approx(36 / 30)

    found.add(Measurement(SLOW, 100_000, REST, 120_000, 15.4, calls={"Account": 1, "Contact": 2}))
    assert bars(found)[-1].value == pytest.approx(15.4 / 15.4)


def test_start_up_is_no_cost_of_a_row() -> None:
    """What the start of a process takes is left out; where nothing else is left, nothing is claimed."""
    found = Findings(startup={START: 1.0, VALUES: 3.0})
    for what in (FIRST, VALUES, LIMIT):
        found.add(Measurement(what, 10, REST, 100, 3.0))

    assert found.per_row(FIRST, 10, REST) == pytest.approx(0.02)
    assert found.per_row(LIMIT, 10, REST) == pytest.approx(0.03)
    assert found.per_row(VALUES, 10, REST) is None
    assert found.per_row(FIRST, 20, REST) is None


def test_of_several_rounds_the_fastest_counts() -> None:
    """Noise makes things slower, never faster: the best time is kept, and the worst of what must not grow."""
    found = Findings()
    for seconds, peak, written in ((3.0, 150.0, 0), (2.0, 140.0, 0), (4.0, 145.0, 1)):
        found.add(Measurement(FULL, 10, REST, 12, seconds, peak_mb=peak, written=written))
        found.add(Measurement(DOWNLOAD, 10, REST, 12, seconds))

    (full, download) = found.measurements
    assert (full.seconds, full.peak_mb, full.written, full.feed) == (2.0, 150.0, 1, None)
    assert (download.seconds, download.peak_mb) == (2.0, None)


def test_a_script_that_would_take_too_long_is_left_out() -> None:
    """What is left out is told, with how long it would have taken."""
    found = Findings(startup={ROW_BY_ROW: 1.0})
    found.add(Measurement(ROW_BY_ROW, 1_000, REST, 1_200, 13.0))
    bench = rounds.Bench(None, Path(), found, TRANSPORTS, patience=1_000)  # type: ignore[arg-type]  # not asked

    bench.compare(ROW_BY_ROW, Org({}), 100_000)

    assert found.notes == [
        "script: row by row was left out at 100,000 contacts: it would take about 20 min; compare it per row"
    ]


# ── how it is told ────────────────────────────────────────────────────────────────────────────────────


def test_tables_are_aligned() -> None:
    """Numbers stand to the right, words to the left, and nothing is cut."""
    drawn = show.table(("what", "rows", "ratio"), [["a", "1,000", "1.20 ×"], ["long", "20", "-"]])

    assert drawn.splitlines() == [
        "what   rows   ratio",
        "────  ─────  ──────",
        "a     1,000  1.20 ×",
        "long     20       -",
    ]


def test_results_are_ratios() -> None:
    """The table of results has every measurement, with its ratio to the limit of its size and transport."""
    lines = show.results(findings()).splitlines()

    assert lines[0].split()[:3] == ["contacts", "by", "what"]
    assert len(lines) == 2 + len(findings().measurements)
    one = findings().get(FIRST, 100_000, REST)
    assert one is not None
    cells = dict(zip(show.COLUMNS, show.cells(one, findings()), strict=True))
    assert (cells["seconds"], cells["rows/s"], cells["× limit"]) == ("15.40", "7,792", "1.30")
    assert (cells["µs/row"], cells["peak MB"], cells["written"], cells["CPU s"]) == (
        "120.0",
        "165",
        "120,000",
        "",
    )


def test_options() -> None:
    """Sizes are sorted, transports are known by any case, and a wrong one is refused."""
    given = benchmark.options(["--contacts", "100_000,2000", "--transports", "bulk"])

    assert given.contacts == [2_000, 100_000]
    assert given.transports == (BULK,)
    with pytest.raises(SystemExit):
        benchmark.options(["--transports", "soap"])


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_no_charts_without_matplotlib(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without matplotlib nothing is drawn, and that is said."""
    assert charts.draw(findings(), tmp_path) == []
    assert "no charts" in capsys.readouterr().out


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_charts_are_drawn(tmp_path: Path) -> None:
    """With matplotlib there is a picture of the rates and one of the memory, also where little was measured."""
    for found in (findings(), Findings(measurements=findings().measurements[:1])):
        files = charts.draw(found, tmp_path)

        assert [file.name for file in files] == ["rows-per-second.png", "memory.png"]
        assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


@pytest.mark.timeout(300)  # a dozen processes, one after the other, on a machine that may be busy
@pytest.mark.skipif(not SOAK, reason="takes a quarter of a minute; its pieces are above: make soak")
def test_a_whole_run(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One small run from beginning to end: its tables are printed, its JSON names no place of this machine."""
    monkeypatch.setattr(rounds, "STARTS", 1)
    monkeypatch.setattr(rounds, "LATENCY", 0.05)
    monkeypatch.setattr(charts, "draw", lambda *_: [])
    monkeypatch.setattr(benchmark, "PUBLISHED", tmp_path / "docs")

    where = ["--results", str(tmp_path), "--publish", "--database-url", server]
    benchmark.main(["--contacts", "100", "--transports", "rest", "--scripts-at", "0", *where])

    said = capsys.readouterr().out
    for part in ("cpu: ", "postgres server_version: ", LIMIT, SLOW, "not measured", "bars reached"):
        assert part in said
    text = (tmp_path / "benchmark.json").read_text()
    assert (tmp_path / "docs" / "benchmark.json").read_text() == text
    written = json.loads(text)
    assert {one["what"] for one in written["measurements"]} >= {LIMIT, FIRST, FULL, CHANGED, SLOW}
    assert written["notes"] == []
    assert len(written["bars"]) == 13
    for place in (str(tmp_path), str(Path(__file__).parent), "/tmp/"):  # noqa: S108  not used as one
        assert place not in text
