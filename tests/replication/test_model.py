"""The machine of tests/support/model.py, and proof that it finds bugs.

Planted and found: claims without asking for the coverage, an overlap that is not read again, `>` for `>=` in the
merge, no fence, the cursor moved before the last page, the count ignored. `SOAK=200 pytest tests/replication/test_model.py` looks further, each time elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.exc import NoResultFound

from sync.errors import CountMismatchError
from sync.postgres.load import sql
from sync.postgres.state import leases, plans
from sync.replication import apply, opening
from sync.salesforce.extract import rest, together
from sync.salesforce.extract.together import Question
from sync.salesforce.session import session
from sync.window import Window
from tests.support.model import OPPORTUNITIES, OVERLAP, Truth

EXAMPLES = int(os.environ.get("SOAK", "4"))
HOW: dict[str, Any] = {
    "stateful_step_count": 25,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "derandomize": "SOAK" not in os.environ,
    "print_blob": False,
}


def machine(server: str, template: str) -> type[Truth]:
    return type("Truth", (Truth,), {"server": server, "template": template})


@pytest.mark.timeout(3600)
def test_whatever_happens_the_tables_equal_the_org(server: str, template: str) -> None:
    """Random interleavings of an org's life and ours: claims hold at every step, and at rest all is equal."""
    run_state_machine_as_test(machine(server, template), settings=settings(max_examples=EXAMPLES, **HOW))


@pytest.mark.timeout(3600)
def test_so_do_those_of_a_generated_object(server: str, template: str) -> None:
    """The same of an object that was generated from a describe: nothing in the code knows only two objects."""
    generated = type("Generated", (machine(server, template),), {"subject": OPPORTUNITIES})
    run_state_machine_as_test(generated, settings=settings(max_examples=max(2, EXAMPLES // 3), **HOW))


# ── planted bugs ──────────────────────────────────────────────────────────────────────────────────────


def claims_without_coverage(patch: pytest.MonkeyPatch) -> None:
    for module in (session, together):  # asked alone, and with the call for all objects
        patch.setattr(module, "latest_covered", lambda told: told.at.replace(second=0, microsecond=0))


def nothing_read_again(patch: pytest.MonkeyPatch) -> None:
    window = Window
    patch.setattr(
        plans,
        "Window",
        lambda since, until, overlap=OVERLAP: window(since and since + overlap, until, overlap),
    )
    patch.setattr(
        opening, "Question", lambda projection, since, asked: Question(projection, since + OVERLAP, asked)
    )


def greater_for_greater_or_equal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sql, "USUAL", sql.USUAL.replace(">=", ">"))
    patch.setattr(sql.Mode.USUAL, "_value_", sql.USUAL)
    sql.statements.cache_clear()


def no_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(leases, "check_fence", lambda *_: None)


def cursor_before_the_last_page(patch: pytest.MonkeyPatch) -> None:
    commit = apply.commit_page

    def eager(
        context: Any,
        schema: Any,
        held: Any,
        run_id: int,
        page: Any,
        plan: Any = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        tally = commit(context, schema, held, run_id, page, plan, *rest, **named)
        if plan is not None and plan.advances:
            with context.engine.begin() as connection:
                connection.exec_driver_sql(
                    "UPDATE sync.cursor SET complete_through = greatest(complete_through, %s) WHERE object = %s",
                    (plan.window.until, schema.name),
                )
        return tally

    patch.setattr(apply, "commit_page", eager)


def count_ignored(patch: pytest.MonkeyPatch) -> None:
    pages = rest.read_result_set

    def trusting(*arguments: Any, **named: Any) -> Iterator[Any]:
        try:
            yield from pages(*arguments, **named)
        except CountMismatchError:
            return

    patch.setattr(rest, "read_result_set", trusting)


@pytest.mark.skipif("SOAK" not in os.environ, reason="takes minutes: make soak")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "plant",
    [
        claims_without_coverage,
        nothing_read_again,
        greater_for_greater_or_equal,
        no_fence,
        cursor_before_the_last_page,
        count_ignored,
    ],
)
def test_the_machine_finds_planted_bugs(
    server: str, template: str, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in the cursor, the merge, the fence or the count does not get by."""
    plant(monkeypatch)
    how = settings(max_examples=150, phases=[Phase.generate], **HOW)

    # Without its fence a process overwrites what another remembers, and then misses it: that is found, too.
    with pytest.raises((AssertionError, ExceptionGroup, NoResultFound)):
        run_state_machine_as_test(machine(server, template), settings=how)
    sql.statements.cache_clear()
