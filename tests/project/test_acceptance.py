"""The run against a team's sandbox, here against the simulator: its guards, its report, and what it leaves behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sync.config.settings import Settings
from sync.errors import GuardError, StoppedError, UsageError
from sync.simulator import Request, Simulator
from tests.acceptance.__main__ import main, more_values, other_login, secrets
from tests.acceptance.facts import FACTS
from tests.acceptance.findings import DIFFERS, HOLDS, NOT_TRIED, Findings
from tests.acceptance.records import PREFIX
from tests.acceptance.report import render
from tests.acceptance.run import Plan, run
from tests.acceptance.story import Pace
from tests.support import processes
from tests.support.commands import kept_logging
from tests.support.world import NEVER_WAIT, World

# What no run of minutes can show.
OPEN = {"B.5.4", "B.7.11", "B.8.6", "B.8.7", "B.8.8", "D.5.1"}


@pytest.fixture
def sandbox() -> Iterator[Simulator]:
    """A developer org with more than a page of 200 contacts."""
    with Simulator(accounts=3, contacts=210) as running:
        yield running
        assert running.errors == []


class Sandbox:
    """A run against the simulator, whose clock jumps where the run waits."""

    def __init__(self, sim: Simulator, database: str) -> None:
        self.world, self.sim = World(sim, database), sim
        self.stop, self.findings = threading.Event(), Findings()

    def wait(self, seconds: float) -> None:
        if self.stop.is_set():
            raise StoppedError
        self.sim.clock.advance(seconds)

    def run(
        self, *, probes_only: bool = False, production: bool = False, logins: Sequence[Settings] = ()
    ) -> Findings:
        plan = Plan(
            production=production,
            logins=logins,
            probes_only=probes_only,
            reference=self.sim.clock.now,
            retry=NEVER_WAIT,
        )
        pace = Pace(20, 600, self.wait, lambda: self.sim.clock.now().timestamp())
        run(self.world.settings, plan, pace, self.stop, self.findings)
        return self.findings

    def left(self) -> list[str]:
        """The live records of runs."""
        return [
            record["Id"]
            for sobject in ("Account", "Contact")
            for record in self.sim.org.records(sobject, deleted=False)
            if PREFIX in record["Name"]
        ]


def test_the_whole_run(sandbox: Simulator, database: str, tmp_path: Path) -> None:
    """Every step of the product succeeds, every fact that can be tried holds, and nothing marked stays."""
    made = Sandbox(sandbox, database)
    logins = []
    for flow in ("jwt", "password"):
        file = tmp_path / flow
        settings = sandbox.environment(flow)
        file.write_text("".join(f"{name}={value!r}\n" for name, value in settings.items()))
        logins.append(other_login(file, made.world.settings))
    found = made.run(logins=logins)
    assert [(step.name, step.failed) for step in found.steps if step.failed] == []
    assert {fact: found.facts[fact].note for fact in found.of(DIFFERS)} == {}
    assert {fact: found.facts[fact].note for fact in found.of(NOT_TRIED) if fact not in OPEN} == {}
    assert made.left() == []
    text = render(found, secrets(made.world.settings, *logins))
    made.world.assert_no_secret(text)
    assert all(f"| {fact.id} |" in text for fact in FACTS)
    names = {
        record["LastName"] for record in sandbox.org.records("Contact") if PREFIX not in record["LastName"]
    }
    assert not [name for name in names if len(name) > 5 and name in text]
    assert made.world.settings.salesforce_login_url not in text


def test_a_planted_difference(sandbox: Simulator, database: str) -> None:
    """What another org answers otherwise is reported as differing, with how; what depends on it is not tried."""
    sandbox.options.composite = False
    sandbox.faults.add("answered", on="limits", times=None, body={"DailyApiRequests": {"Max": 1}})
    found = Sandbox(sandbox, database).run(probes_only=True)
    assert (found.facts["B.10.1"].result, found.facts["B.10.1"].note) == (DIFFERS, "404 NOT_FOUND")
    assert found.facts["B.10.2"].result == NOT_TRIED
    assert (found.facts["B.9.1"].result, found.facts["D.1.1"].result) == (DIFFERS, HOLDS)
    assert "| **differs** | 404 NOT_FOUND |" in render(found, [])


def test_lost_records(sandbox: Simulator, database: str) -> None:
    """A change that the product claims and does not have fails its step, and the report says so."""

    def lose(body: Any) -> Any:
        if isinstance(body, list):  # an error
            return body
        whole = [record for record in body["records"] if len(record) < 20]  # the product reads all fields
        lost = len(body["records"]) - len(whole)
        return {**body, "records": whole, "totalSize": body["totalSize"] - lost}

    sandbox.faults.add("altered", on="query", sobject="Contact", times=None, change=lose)
    made = Sandbox(sandbox, database)
    found = made.run()
    assert found.failed == ["create 2 accounts and 3 contacts"]
    claims = "failed: complete_through claims more than is there: no row of a created Contact"
    assert claims in render(found, [])
    assert made.left() == []


def test_a_refused_write(sandbox: Simulator, database: str) -> None:
    """Without the right to create records the run says so, and tries what it can without them."""
    sandbox.faults.add("insufficient_access", on="create", times=None)
    found = Sandbox(sandbox, database).run()
    assert found.steps[1].failed == "403 INSUFFICIENT_ACCESS"
    assert found.facts["B.7.9"].note == "the probe failed: 403 INSUFFICIENT_ACCESS"
    assert found.facts["B.10.2"].result == HOLDS


@pytest.mark.parametrize(
    ("organization", "allowed"),
    [
        ({"IsSandbox": False, "OrganizationType": "Enterprise Edition"}, False),
        ({"OrganizationType": "Enterprise Edition", "TrialExpirationDate": "2027-01-01T00:00:00Z"}, False),
        ({"IsSandbox": True, "OrganizationType": "Enterprise Edition"}, True),
        ({"IsSandbox": True, "TrialExpirationDate": "2027-01-01T00:00:00Z"}, True),
    ],
)
def test_production_is_refused(
    sandbox: Simulator, database: str, organization: dict[str, object], allowed: bool
) -> None:
    """Nothing is written to an org that is no sandbox, scratch or developer org, unless a flag allows it."""
    sandbox.org.update(sandbox.org.organization_id, organization)
    made = Sandbox(sandbox, database)
    if allowed:
        assert made.run(probes_only=True).about[1][1] in ("sandbox", "scratch org")
        return
    with pytest.raises(GuardError, match="--production"):
        made.run()
    assert [each.kind for each in sandbox.requests] == ["token", "query"]
    assert made.run(production=True, probes_only=True).about[1] == ("org", "production")


def test_a_used_database_is_refused(sandbox: Simulator, database: str) -> None:
    """A database with rows of the product is left alone."""
    made = Sandbox(sandbox, database)
    made.world.run()
    with pytest.raises(GuardError, match=r"salesforce\.account"):
        made.run()


@pytest.mark.parametrize("fatal", [False, True])
def test_cleaning_up(sandbox: Simulator, database: str, fatal: bool) -> None:
    """A run that is stopped, or fails, in the midst of its records removes them all the same."""
    made = Sandbox(sandbox, database)
    written: list[Request] = []

    def strike(call: Callable[..., object]) -> Callable[..., object]:
        def struck(*given: object, **named: object) -> object:
            result = call(*given, **named)
            written.append(sandbox.requests[-1])
            if len(written) == 4:
                if fatal:
                    raise RuntimeError("planted")
                made.stop.set()
            return result

        return struck

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox.org, "create", strike(sandbox.org.create))
        if fatal:
            made.run()
            sandbox._app.errors.clear()
        else:
            with pytest.raises(StoppedError):
                made.run()
    assert len(written) >= 4
    assert made.left() == []
    assert "remove the marked records" in [step.name for step in made.findings.steps if not step.failed]


def test_a_signal(sandbox: Simulator, database: str) -> None:
    """SIGTERM ends the command with 130, after its report and with nothing marked left."""
    made = Sandbox(sandbox, database)
    command = processes.start(["tests.acceptance", "--pause", "60"], made.world.process_environment())
    deadline = time.monotonic() + 30
    while not [each for each in sandbox.requests if each.kind == "create" and each.status]:
        assert command.poll() is None, command.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    command.terminate()
    printed, _ = command.communicate(timeout=30)
    assert command.returncode == 130, printed
    assert "| remove the marked records | ok |" in printed
    assert made.left() == []
    made.world.assert_no_secret(printed)


def test_the_command(
    sandbox: Simulator, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--clean removes what earlier runs left, and nothing else; a refused org ends the command with 6."""
    made = Sandbox(sandbox, database)
    for name, value in made.world.environment.items():
        monkeypatch.setenv(name, value)
    account = sandbox.org.create("Account", {"Name": f"{PREFIX}20260101-000000-abcdef one"})
    sandbox.org.create("Contact", {"LastName": f"{PREFIX}x", "AccountId": account})
    kept = sandbox.org.create("Account", {"Name": f"not {PREFIX}x"})
    with kept_logging():
        assert main(["--clean"]) == 0
        assert capsys.readouterr().out == "2 records removed\n"
        assert sandbox.org.exists(kept, deleted=False)
        sandbox.org.update(sandbox.org.organization_id, {"OrganizationType": "Enterprise Edition"})
        assert main([]) == 6
        assert main(["--with", "Account"]) == 2
    refused = capsys.readouterr()
    assert refused.out == ""
    assert "give --production" in refused.err
    assert "write Account.FIELD=VALUE" in refused.err


def test_values_that_an_org_requires() -> None:
    """--with names an object, a field and a value."""
    assert more_values(["Account.Region__c=EU", "Account.X__c=a=b"]) == {
        "Account": {"Region__c": "EU", "X__c": "a=b"}
    }
    with pytest.raises(UsageError, match=r"Account\.FIELD=VALUE"):
        more_values(["Lead.X=1"])


def test_facts_are_listed_once() -> None:
    """Each fact has an id of its own."""
    assert len({fact.id for fact in FACTS}) == len(FACTS)
