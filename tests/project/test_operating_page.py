"""docs/operating.md against the code: commands, options, exit codes, first lines of status, messages, log events."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from sync.cli import commands as cli
from sync.cli import show
from sync.errors import ObjectsFailedError, SyncError
from sync.operations.alerts.problems import KINDS
from sync.operations.calls import Calls
from sync.operations.running import Running
from sync.operations.status import Freshness, Run, Status, headline, read_status
from sync.postgres import tables
from sync.postgres.pruning import Size
from sync.postgres.state.incidents import Incident
from sync.replication.budget.plan import Deferred
from tests.project.pages import (
    ROOT,
    blocks,
    group,
    log_events,
    messages,
    options,
    parse,
    pattern,
    rows,
    section,
    spans,
)
from tests.support.world import World

PAGE = "docs/operating.md"
# Commands that need more than a dyno has.
DEVELOPMENT = {"demo", "simulator"}


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────


def usage() -> dict[str, str]:
    """What the page says of each command: its options and arguments."""
    [block] = [block for block in blocks(PAGE) if block.language == "usage"]
    lines = [line.removeprefix("python -m sync ").partition(" ") for line in block.text.splitlines()]
    return {name: rest for name, _, rest in lines}


def test_every_command_is_there() -> None:
    """The page lists every command, and no other, and says of each what it does."""
    assert set(usage()) == set(group().commands)
    told = [name for cell, _ in rows(section(PAGE, "Commands")) for name in spans(cell)]
    assert sorted(told) == sorted(group().commands)


@pytest.mark.parametrize("command", sorted(usage()))
def test_every_option_is_there(command: str) -> None:
    """The line of a command has all its options, each with a value that it takes."""
    rest = usage()[command]

    assert set(re.findall(r"--[a-z-]+", rest)) == options(command)
    role = ["ROLE"] if "ROLE" in rest else []
    for part in filter(None, map(str.strip, re.split(r"[][|]", rest))):
        parse([command, *role, *(word for word in part.split() if word not in role)])


def test_what_the_procfile_has() -> None:
    """`heroku run` has every command that operators type; release and worker run what the page says."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    types = dict(line.split(": ", 1) for line in lines)

    assert types.pop("release") in spans(section(PAGE, "Deploy and roll back"))
    assert types == {name: f"python -m sync {name}" for name in set(group().commands) - DEVELOPMENT}


def test_who_needs_the_database_alone() -> None:
    """The commands that need no Salesforce are those that the page names."""
    [line] = re.findall(r"^(.*) need the database alone\.", section(PAGE, "Where commands run"), re.M)
    alone = {
        name
        for name, command in group().commands.items()
        if command.callback and "open_database(" in inspect.getsource(command.callback)
    }
    assert set(spans(line)) == alone


# ── exit codes ────────────────────────────────────────────────────────────────────────────────────────


def test_exit_codes() -> None:
    """The codes of the page are those of errors, and those that a command gives its findings."""

    def codes(kind: type[SyncError]) -> set[int]:
        return {kind.exit_code}.union(*(codes(sub) for sub in kind.__subclasses__()))

    given = {int(code) for code in re.findall(r"typer\.Exit\((\d+)\)", inspect.getsource(cli))}
    listed = [int(row[0]) for row in rows(section(PAGE, "Exit codes"))]

    assert sorted(listed) == sorted(codes(SyncError) | given | {0, 2})
    for quoted, _, _ in rows(section(PAGE, "What else you may see")):
        if found := re.search(r"\(exit (\d+)\)", quoted):
            assert int(found[1]) in listed


def test_what_an_exit_code_means() -> None:
    """The page says of each code, as of each first line, what it means, what consumers see, and what to type."""
    for title in ("Exit codes", "The first line of `status`"):
        for row in rows(section(PAGE, title)):
            assert len(row) == 4, row
            assert all(row), row


def test_several_failures_have_one_code() -> None:
    """One shared reason keeps its code, different ones make 1."""
    first, second = SyncError("a"), SyncError("b")
    second.exit_code = 4  # type: ignore[misc]  # of this instance alone
    assert ObjectsFailedError([("Account", second), ("Contact", second)]).code == 4
    assert ObjectsFailedError([("Account", first), ("Contact", second)]).code == 1


# ── the first line of status ──────────────────────────────────────────────────────────────────────────

FIRST_LINES = [spans(row[0])[0] for row in rows(section(PAGE, "The first line of `status`"))]
NOW = datetime(2026, 1, 31, 2, 30, tzinfo=UTC)
FIELD = (
    "INSERT INTO sync.field (object, field, change, type, size, calculated, formula, relationship, targets, "
    "replicated, at) VALUES ('Contact', 'Title', '{change}', 'string', '', false, '', '', '{{}}', true, now())"
)
VERIFIED = (
    "INSERT INTO sync.run (object, command, owner, outcome, finished_at, error, findings) "
    "VALUES ('Contact', 'verify', 'me', '{outcome}', now(), 'why', '{{\"remaining\": 2}}')"
)
# What the database says in each situation, as the fewest statements that make it.
SITUATIONS = {
    "future": "UPDATE sync.cursor SET complete_through = now() + interval '1 day'",
    "rejected": (
        "INSERT INTO sync.reject (object, record_id, reason, record) VALUES ('Contact', '003', 'why', '{}')"
    ),
    "replaced": "UPDATE sync.org SET replaced_at = now()",
    "refused": "UPDATE sync.cursor SET deletions_refused_at = now()",
    "verify failed": VERIFIED.format(outcome="failed"),
    "different": VERIFIED.format(outcome="succeeded"),
    "lagging": "UPDATE sync.cursor SET covered = complete_through - interval '3 days'",
    "field refused": FIELD.format(change="refused"),
    "field vanished": FIELD.format(change="vanished"),
    "consumer behind": (
        "UPDATE sync.change SET at = now() - interval '29 days'; "
        "INSERT INTO sync.consumer (role, name, epoch, seq) SELECT current_user, 'orders', sync.epoch(), 0"
    ),
    "work deferred": (
        "INSERT INTO sync.run (object, command, owner, outcome, finished_at, api_calls) "
        "VALUES ('Contact', 'resync', 'me', 'succeeded', now(), 2800); "
        "INSERT INTO sync.budget (deferred) SELECT jsonb_build_object('refresh', now() - interval '2 hours')"
    ),
    # It grew by a hundred gigabytes within ten days.
    "full": "INSERT INTO sync.size SELECT (now() AT TIME ZONE 'UTC')::date - 10, -(100::bigint << 30)",
}


def lines_of(world: World) -> dict[str, str]:
    """The first line of `status` in every situation."""
    found = {
        "ok": headline([fresh()], (), {}),
        "deferred": headline([fresh(last_outcome="deferred", last_error="budget")], (), {}),
        "failed": headline([fresh(last_outcome="failed", last_error="503")], (), {}, ["a field is gone"]),
        "stale": headline([fresh(last_outcome="failed", last_error="503")], ("Contact",), {}),
        "none since": headline([fresh()], ("Contact",), {}),
        "at work": headline([fresh()], ("Contact",), {"Contact": "worker.1"}),
        "not loaded": headline([fresh(complete_through=None, lag=None)], ("Contact",), {}),
    }
    for name, statement in SITUATIONS.items():
        with tables.transaction(world.engine) as connection:
            connection.execute(text(statement.replace(":", "\\:")))
            read = read_status(connection, ("Contact",), timedelta(days=1), 20 << 30, timedelta(days=30))
            found[name] = read.headline
            connection.rollback()
    return found


def fresh(**changed: Any) -> Freshness:
    """An object that is well, unless changed."""
    well: dict[str, Any] = {
        "object": "Contact",
        "complete_through": NOW,
        "lag": timedelta(minutes=12),
        "last_outcome": "succeeded",
        "last_finished_at": NOW,
        "last_error": None,
        "rows": 1,
        "tombstones": 0,
        "rejects": 0,
    }
    return Freshness(**(well | changed))


def test_every_first_line_is_there(loaded: World) -> None:
    """Each line of the page is what `status` says in some situation, and each situation has a line of its own."""
    said = lines_of(loaded)

    matched = {
        name: [line for line in FIRST_LINES if pattern(line).match(told)] for name, told in said.items()
    }
    assert {name: said[name] for name, found in matched.items() if not found} == {}
    assert {line for found in matched.values() for line in found} == set(FIRST_LINES)


def test_what_status_gives_to_programs() -> None:
    """The page has each name of `status --json`, and those inside it; no other. Another one asks for a line here."""
    inside = {"objects": Freshness, "running": Running, "incidents": Incident, "runs": Run, "size": Size}
    inside |= {"calls": Calls, "deferred": Deferred}
    found = show.status_document(Status((), (), {}, (), (), ""))
    listed = {spans(row[0])[0]: spans(row[1]) for row in rows(section(PAGE, "Status for programs"))}

    assert set(listed) == set(found)
    assert f"`version` is {found['version']}:" in section(PAGE, "Status for programs")
    for name, kind in inside.items():
        told = [span for span in listed[name] if not span.startswith("--")]
        assert told == [one.name for one in fields(kind)], name


def test_what_to_type_can_be_typed() -> None:
    """Between backticks in the last column of each table stands a command that the command line takes."""
    tables = [
        section(PAGE, title)
        for title in ("Exit codes", "The first line of `status`", "What else you may see")
    ]
    for table in tables:
        for row in rows(table):
            for span in spans(row[-1]):
                words = span.replace("…", "Contact").split()
                if words[0] in group().commands:
                    parse(words)
                else:
                    assert span == "alembic upgrade head" or span.startswith(("SYNC_", "--")), span


# ── connections ───────────────────────────────────────────────────────────────────────────────────────


def test_connections_of_each_command() -> None:
    """The page says of each command how many connections it opens, as the code opens them."""
    listed = rows(section(PAGE, "Connections, memory, temporary space"))
    told = {name: int(row[1].partition(",")[0]) for row in listed for name in spans(row[0])}
    own = {
        name: tables.COMMAND_CONNECTIONS
        for name, command in group().commands.items()
        if re.search(r"open_context\(|COMMAND_CONNECTIONS", inspect.getsource(command.callback or str))
    }

    assert told == own | {"worker": tables.WORKER_CONNECTIONS}
    assert listed[-1][1] == "1"


# ── incidents ─────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_incident_is_there() -> None:
    """The page says of each kind when it opens and closes, and has a section for it, and none for others."""
    kinds = [spans(row[0])[0] for row in rows(section(PAGE, "Alerts"))]
    titles = re.findall(r"^### (\w+)$", section(PAGE, "Alerts"), re.M)

    assert kinds == titles == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_incident_means_and_asks_for(kind: str) -> None:
    """The section of a kind says what consumers see, and names commands that can be typed, that of the message
    among them."""
    told = section(PAGE, kind)
    assert "Consumers see" in told
    assert re.search(r"Type\s`", told)

    named = {span for span in spans(told) if span.split()[0] in group().commands}
    for span in named:
        parse(span.split())
    advised = KINDS[kind].command.removeprefix("python -m sync ")
    parse(advised.split())
    assert advised in named


# ── messages and log events ───────────────────────────────────────────────────────────────────────────


def test_quoted_messages_are_the_codes() -> None:
    """A message that the page quotes is made by the code."""
    for quoted, _, _ in rows(section(PAGE, "What else you may see")):
        for span in spans(quoted):
            assert any(pattern(span).search(message) for message in messages()), span


def test_log_events_that_need_attention() -> None:
    """The page has every warning and error of the log, and no event that the code does not log."""
    listed = {name for cell, _, _ in rows(section(PAGE, "The log")) for name in spans(cell)}
    levels = log_events()
    urgent = set().union(*(levels.get(level, set()) for level in ("warning", "error", "exception")))
    whole = {name for name in urgent if "…" not in name}
    starts = tuple(name.rstrip("…") for name in urgent if "…" in name)

    assert whole - listed == set()
    assert {name for name in listed - whole if not name.startswith(starts)} == set()
    every = set().union(*levels.values())
    text_of = re.sub(r"^\|.*$", "", section(PAGE, "The log"), flags=re.M)
    assert {span for span in spans(text_of) if re.fullmatch(r"[a-z]+_[a-z_]+", span)} <= every | {"retry_s"}


def test_kinds_of_field_changes() -> None:
    """Each kind of change of an org's fields has its event on the page."""
    from sync.postgres import ledger

    source = inspect.getsource(ledger.detect_changes) + inspect.getsource(ledger.difference)
    kinds = set(re.findall(r'"(\w+(?: \w+)?)"', source)) - {"known"}
    listed = {name for cell, _, _ in rows(section(PAGE, "The log")) for name in spans(cell)}

    assert {f"fields_{kind.replace(' ', '_')}" for kind in kinds} <= listed


def test_the_checks_see_what_is_missing() -> None:
    """The comparison of quotations sees a message that the code does not make."""
    unknown: Callable[[str], bool] = lambda quoted: any(pattern(quoted).search(m) for m in messages())  # noqa: E731  a name for a question
    assert unknown("Salesforce counted … and delivered …")
    assert not unknown("Salesforce counted … and delivered nothing of …")
