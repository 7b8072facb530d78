"""What a run found: the result of each step and each fact, and what was measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

from sync.errors import ObjectsFailedError, SalesforceError, StoppedError, SyncError, WorkFailedError
from sync.logs import logger
from tests.acceptance.facts import FACTS

log = logger.get(__name__)

# What an answer of another form than expected raises: a run goes on with its next step or probe.
UNFIT = (ValueError, LookupError, TypeError, AttributeError)
HOLDS, DIFFERS, NOT_TRIED = "holds", "differs", "not tried"


class UnexpectedAnswerError(Exception):
    """Salesforce answered other than a probe needs; the message has status and code alone."""


FAILURES = (SyncError, UnexpectedAnswerError, requests.RequestException)


@dataclass(slots=True)
class Verdict:
    """What a run found about a fact, and how."""

    result: str = NOT_TRIED
    note: str = ""


@dataclass(slots=True)
class Step:
    """A step of the product: what was done, how long it took, its API calls, and why it failed ("": it did not)."""

    name: str
    seconds: float = 0.0
    calls: int = 0
    note: str = ""
    failed: str = ""


@dataclass(slots=True)
class Findings:
    """The results of a run so far. Notes hold numbers, codes and names of the API, never values of records."""

    facts: dict[str, Verdict] = field(default_factory=lambda: {fact.id: Verdict() for fact in FACTS})
    steps: list[Step] = field(default_factory=list)
    measured: list[tuple[str, str]] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)

    def check(self, fact: str, holds: object, note: str = "") -> bool:
        """Note whether a fact holds, and how; a fact that differs once stays so."""
        verdict = self.facts[fact]
        if verdict.result != DIFFERS:
            verdict.result, verdict.note = (HOLDS if holds else DIFFERS), note
        return bool(holds)

    def not_tried(self, *facts: str, why: str) -> None:
        """Note why facts stay open; what is known of them stays."""
        for fact in facts:
            if self.facts[fact].result == NOT_TRIED:
                self.facts[fact].note = why

    def measure(self, what: str, value: str) -> None:
        """Note a measured value."""
        self.measured.append((what, value))

    @contextmanager
    def probing(self, *facts: str) -> Iterator[None]:
        """Run a probe of facts; what it cannot decide because of an error stays not tried."""
        try:
            yield
        except StoppedError:
            raise
        except (*FAILURES, *UNFIT) as error:
            log.warning("probe_failed", facts=", ".join(facts), reason=str(error)[:300])
            self.not_tried(*facts, why=f"the probe failed: {describe(error)}")

    @contextmanager
    def step(self, name: str, now: Callable[[], float] = time.monotonic) -> Iterator[Step]:
        """Time a step of the product; a failure is noted, and the run goes on."""
        step = Step(name)
        self.steps.append(step)
        began = now()
        try:
            yield step
        except StoppedError:
            step.failed = "stopped"
            raise
        except (*FAILURES, *UNFIT, AssertionError) as error:
            log.error("step_failed", step=name, reason=str(error)[:500])
            step.failed = describe(error)
        finally:
            step.seconds = now() - began

    @property
    def failed(self) -> list[str]:
        """The steps that failed."""
        return [step.name for step in self.steps if step.failed]

    def of(self, result: str) -> list[str]:
        """The ids of the facts with a result."""
        return [fact for fact, verdict in self.facts.items() if verdict.result == result]


def describe(error: BaseException) -> str:
    """An error without external text: messages of Salesforce may quote values of records."""
    if isinstance(error, ObjectsFailedError | WorkFailedError):
        return "; ".join(f"{name}: {describe(failure)}" for name, failure in error.failures)
    if isinstance(error, AssertionError | UnexpectedAnswerError):
        return str(error)  # written here
    if isinstance(error, SalesforceError):
        return f"{type(error).__name__} {error.status} {error.code}".strip()
    return type(error).__name__
