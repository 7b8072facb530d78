"""Several requests in one call: their time, their order, and what each answer tells."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.errors import DeferredError, FieldsMovedError, SalesforceError
from sync.salesforce.extract import together
from sync.salesforce.session import composite
from sync.salesforce.session.answers import Answer, Deletions
from sync.salesforce.session.composite import Part, PartAnswer
from sync.salesforce.session.limits import COMPOSITE, TooLargeError, TooLateError
from sync.salesforce.session.session import Session
from tests.support.world import NEVER_WAIT, World

VERSIONS = Part("/services/data/v66.0/queryAll/", {"q": "SELECT Id FROM Contact"})


def session(world: World) -> Session:
    return Session(world.settings, retry=NEVER_WAIT)


def body(*parts: dict[str, Any]) -> bytes:
    return json.dumps({"compositeResponse": parts}).encode()


def part(number: int, content: Any, status: int = 200) -> dict[str, Any]:
    return {"body": content, "httpHeaders": {}, "httpStatusCode": status, "referenceId": f"r{number}"}


def test_the_time_lies_before_every_answer(world: World) -> None:
    """However long the call takes, its time is none of the answers' future, and at most that much earlier."""
    world.sim.options.composite_pause = 0.6
    before = world.sim.clock.now()

    found = session(world).together([VERSIONS, VERSIONS, VERSIONS])

    assert before - timedelta(seconds=4) <= found.at <= before
    assert found.at.microsecond == 0, "stamps are whole seconds, and are compared with it"


def test_answers_are_in_the_order_of_the_requests() -> None:
    """By their references, whatever their order in the body."""
    found = composite.answers(body(part(1, ["b"]), part(0, ["a"], 404)), 2)

    assert [(each.status, each.body) for each in found] == [(404, ["a"]), (200, ["b"])]


@pytest.mark.parametrize(
    "answer",
    [
        *(b"", b"null", b"[]", b"{}", b'{"compositeResponse":null}', b"<html>", b'{"compositeResponse":[]}'),
        *(body(part(1, [])), body({"body": []}), b'{"compositeResponse":[7]}'),
        b'{"compositeResponse":[{"body":"\\ud800"}]}',
        b'{"compositeResponse":' + b"[" * 100_000,
    ],
)
def test_what_is_no_answer(answer: bytes) -> None:
    """Anything else cannot be read: the requests are then sent alone."""
    with pytest.raises(ValueError, match=r"."):
        composite.answers(answer, 1)


def test_a_lone_surrogate_and_every_digit() -> None:
    """A body that the fast decoder refuses is the same as others."""
    record = '{"Id":"1","A":1.50000000000000000001,"B":"\\ud800"}'
    page = '{"totalSize":1,"done":true,"records":[' + record + "]}"
    text = '{"compositeResponse":[{"body":' + page + ',"httpStatusCode":200,"referenceId":"r0"}]}'

    [found] = composite.answers(text.encode(), 1)

    assert found.page(("Id", "A"))["records"] == [("1", Decimal("1.50000000000000000001"))]
    assert found.page(("B",))["records"] == [("\ud800",)]


def settled(world: World, answer: PartAnswer) -> Any:
    return together.settle(session(world), "Contact", "query", answer, lambda found: found.page(("Id",)))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "INVALID_FIELD", FieldsMovedError),
        (404, "NOT_FOUND", SalesforceError),
        (403, "INSUFFICIENT_ACCESS", SalesforceError),
        (400, "MALFORMED_QUERY", SalesforceError),
        (500, "UNKNOWN_EXCEPTION", None),
        (503, "SERVER_UNAVAILABLE", None),
        (401, "INVALID_SESSION_ID", None),
        (400, "QUERY_TIMEOUT", None),
        (304, "", SalesforceError),
    ],
)
def test_a_failed_answer(world: World, status: int, code: str, expected: type[Exception] | None) -> None:
    """A refusal counts as the answer; what another attempt may mend is asked alone."""
    found = settled(world, PartAnswer(status, json.dumps([{"errorCode": code, "message": "m"}]).encode()))

    assert found is None if expected is None else isinstance(found, expected)


def test_the_daily_limit_inside(world: World) -> None:
    """The org's used-up requests defer the object's pass, as they do alone."""
    error = [{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": "TotalRequests Limit exceeded."}]

    assert isinstance(settled(world, PartAnswer(403, json.dumps(error).encode())), DeferredError)


def test_an_answer_that_cannot_be_read(world: World) -> None:
    """It is asked alone, where the usual retries apply."""
    assert settled(world, PartAnswer(200, b'{"records":7}')) is None


def question(world: World, **window: Any) -> tuple[Session, together.Question]:
    from sync.catalogue.catalogue import CATALOGUE
    from sync.replication import apply

    asking = session(world)
    described, at = asking.describe("Contact")
    projection = apply.projection(world.settings, CATALOGUE["Contact"], described)
    end = at.replace(second=0, microsecond=0)
    since = datetime(2020, 1, 1, tzinfo=UTC)
    return asking, together.Question(
        projection, since, window.get("deleted", (end - timedelta(minutes=9), end))
    )


def test_what_is_told(world: World) -> None:
    """A value for each kind of answer, and none for what was not asked."""
    world.org.create("Contact", {"LastName": "Ann"})
    asking, asked = question(world)

    told = together.ask(asking, [asked])["Contact"]

    assert isinstance(told.first, Answer)
    assert told.first.body["totalSize"] == 1
    assert isinstance(told.deletions, Deletions)
    assert asked.deleted is not None
    assert told.coverage == asked.deleted[1]
    told = together.ask(asking, [replace(asked, deleted=None)])["Contact"]
    assert (told.coverage, told.deletions) == (None, None)


def test_a_page_is_smaller_beside_others(world: World) -> None:
    """The records of all first pages together are bounded as those of one."""
    asking, _ = question(world)
    names = tuple(f"F{number}" for number in range(200))

    alone, beside = asking.query_headers(names), asking.query_headers(names, 5)

    assert (alone["Sforce-Query-Options"], beside["Sforce-Query-Options"]) == (
        "batchSize=1000",
        "batchSize=200",
    )


@pytest.mark.parametrize("limit", ["size", "answer"])
def test_too_large_or_too_late(world: World, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object is then asked alone for an hour; a second attempt is not made."""
    from sync.salesforce.session import session as module

    small = replace(COMPOSITE, size=100) if limit == "size" else replace(COMPOSITE, answer=0.3)
    monkeypatch.setattr(module, "COMPOSITE", small)
    asking, asked = question(world)
    world.sim.options.composite_pause = 0.4 if limit == "answer" else 0
    parts = [
        part for kind in (together.coverage_part, together.query_part) for _, part in kind(asking, [asked])
    ]
    began = time.monotonic()

    with pytest.raises(TooLargeError if limit == "size" else TooLateError):
        asking.together(parts)
    assert together.ask(asking, [asked]) == {}

    assert asking.learned("Contact").shared is False
    assert time.monotonic() - began < 3
    assert len([call for call in world.sim.requests if call.kind == "composite"]) == 2


@given(st.binary(max_size=200))
def test_any_bytes(answer: bytes) -> None:
    """Whatever arrives, it is an answer or a ValueError."""
    try:
        composite.answers(answer, 1)
    except ValueError:
        return
    assert b"compositeResponse" in answer
