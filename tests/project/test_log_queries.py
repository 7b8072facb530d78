"""The queries of docs/operating.md for log add-ons, against the lines that the product logs."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta

import pytest

from sync.logs import logger
from sync.operations.alerts.keeper import Keeper
from sync.postgres.load.merge import Tally
from sync.replication import runs
from sync.replication.runs import Report
from tests.project.pages import blocks, rows, section, spans
from tests.support.world import World

PAGE = "docs/operating.md"
QUERIES = [block for block in blocks(PAGE) if block.language == "dataprime"]


@pytest.fixture
def lines(loaded: World, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines of the log as a dyno writes them: runs that succeed and fail, metrics, and an incident that opens."""
    logger.setup("info", "logfmt", dyno="worker.1")
    loaded.run()
    failed = Report("Contact", None, Tally(), 3)
    runs.record_outcome(loaded.context(), failed, 0, "failed", "Salesforce answered 503")
    loaded.sql("UPDATE sync.cursor SET complete_through = now() - interval '3 hours'")
    objects = loaded.settings.sync_objects
    Keeper(loaded.engine, objects, timedelta(hours=1), lambda: datetime.now(UTC), "acme").attend()
    return capsys.readouterr().err.splitlines()


def values(lines: list[str]) -> dict[str, str]:
    """The values of all keys of the lines, as an add-on that parses logfmt has them."""
    return dict(word.split("=", 1) for line in lines for word in shlex.split(line))


def test_coralogix_finds_its_fields(lines: list[str]) -> None:
    """Each field of a query is logged, each pattern finds the number, and what is summed is a plain number."""
    logged, asked = values(lines), set[str]()
    for block in QUERIES:
        asked |= set(re.findall(r"\$d(?:\['([^']+)'\])", block.text))
        plain = re.findall(r"\$d\['([^']+)'\]:num", block.text)
        assert all(logged[name].isdigit() for name in plain)
        patterns = re.findall(r"extract \$d\['([^']+)'\] into \w+ using regexp\(e=/(.+?)/\)", block.text)
        for name, pattern in patterns:
            assert re.fullmatch(pattern.replace("?<", "?P<"), logged[name]), (name, logged[name])
        assert set(re.findall(r"\$d\.(\w+)", block.text)) <= set(logged)
    assert asked <= set(logged)
    listed = {name for row in rows(section(PAGE, "Metrics")) for name in spans(row[0])}
    metrics = {name for name in listed if re.match(r"(sample|measure|count)#", name)}
    assert metrics == {name for name in logged if "#" in name and not name.endswith("lag.Account")}
    assert metrics - asked == {"sample#sync.incidents", "sample#sync.feed_backlog"}


def test_papertrail_finds_lines(lines: list[str]) -> None:
    """Each search matches a line: all of its words are in it, and none that it leaves out."""
    searches = [spans(row[0])[0] for row in rows(section(PAGE, "In Papertrail"))]
    assert len(searches) == 6
    for search in searches:
        words = shlex.split(search)
        wanted = [word for word in words if not word.startswith("-")]
        unwanted = [word[1:] for word in words if word.startswith("-")]
        found = [line for line in lines if all(word in line for word in wanted)]
        assert [line for line in found if not any(word in line for word in unwanted)], search
