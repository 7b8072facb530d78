"""What a pass asks of several objects in one call, and what the answers tell of each object.

An answer inside the call counts as if it had been asked for alone. What it lacks is asked alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sync.catalogue.mapping import Projection
from sync.errors import SalesforceError, SyncError
from sync.logs import logger
from sync.salesforce import soql
from sync.salesforce.extract import parts
from sync.salesforce.session.answers import Answer, Deletions, deletions, latest_covered
from sync.salesforce.session.bodies import first_error
from sync.salesforce.session.composite import Part, PartAnswer, Together, replication_window
from sync.salesforce.session.limits import TooLargeError, TooLateError, clip
from sync.salesforce.session.rules import exception_for
from sync.salesforce.session.session import Session
from sync.window import Scope

log = logger.get(__name__)
T = TypeVar("T")

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of one object: the records changed since a time, and the replication calls.

    `deleted` is the window of getDeleted, in whole minutes; getUpdated is asked for its last minute. None:
    neither is asked.
    """

    projection: Projection
    since: datetime
    deleted: tuple[datetime, datetime] | None

    @property
    def name(self) -> str:
        return self.projection.sobject.name


@dataclass(frozen=True, slots=True)
class Told:
    """What the call told of one object: a value, or Salesforce's refusal; None: it is to be asked alone.

    `at` is a time of Salesforce's clock before all answers.
    """

    question: Question
    at: datetime
    coverage: datetime | SyncError | None = None
    deletions: Deletions | SyncError | None = None
    first: Answer | SyncError | None = None

    @property
    def empty(self) -> bool:
        """Whether the query found no record."""
        return isinstance(self.first, Answer) and self.first.body["totalSize"] == 0


def ask(session: Session, questions: Sequence[Question]) -> dict[str, Told]:
    """Return what one call tells of each object; nothing where the call is refused or does not succeed.

    After a refusal, and after an answer that is too late or too large, the objects stay out of such calls for
    an hour. Raises SyncError for what no other call could do either.
    """
    asked = [part for kind in (coverage_part, deleted_part, query_part) for part in kind(session, questions)]
    try:
        together = session.together([part for _, part in asked])
    except SalesforceError as error:
        passing = error.passing and error.status != 200
        if not passing or isinstance(error, TooLargeError | TooLateError):
            for question in questions:
                session.learned(question.name).alone()
        log.warning(
            "composite_failed",
            objects=",".join(question.name for question in questions),
            reason=clip(error, 300),
            instead="each object is asked alone, " + ("this time" if passing else "for an hour"),
        )
        return {}
    answers = {key: answer for (key, _), answer in zip(asked, together.answers, strict=True)}
    return {question.name: read(session, question, answers, together) for question in questions}


Asked = list[tuple[tuple[str, str], Part]]


def coverage_part(session: Session, questions: Sequence[Question]) -> Asked:
    """Return the getUpdated requests: first of all, since a transaction that is open now may commit later."""
    return [
        (
            (question.name, "updated"),
            Part(
                session.replication_path(question.name, "updated"),
                replication_window(question.deleted[1] - MINUTE, question.deleted[1]),
            ),
        )
        for question in questions
        if question.deleted
    ]


def deleted_part(session: Session, questions: Sequence[Question]) -> Asked:
    """Return the getDeleted requests."""
    return [
        (
            (question.name, "deleted"),
            Part(session.replication_path(question.name, "deleted"), replication_window(*question.deleted)),
        )
        for question in questions
        if question.deleted
    ]


def query_part(session: Session, questions: Sequence[Question]) -> Asked:
    """Return the first query of each object's window."""
    found: Asked = []
    for question in questions:
        main = parts.of_window(question.projection, session.learned(question.name))[0]
        text = soql.select(main, Scope(question.since), None)
        headers = session.query_headers(main.names, len(questions))
        found.append(((question.name, "query"), Part(session.query_path, {"q": text}, headers)))
    return found


def read(
    session: Session,
    question: Question,
    answers: Mapping[tuple[str, str], PartAnswer],
    together: Together,
) -> Told:
    """Return what the answers tell of one object."""
    name = question.name
    main = parts.of_window(question.projection, session.learned(name))[0]

    def answer(body: Any) -> Answer:
        return Answer(body, together.at, together.generation)

    start = question.deleted[0] if question.deleted else question.since

    def value(kind: str, use: Callable[[PartAnswer], T]) -> T | SyncError | None:
        found = answers.get((name, kind))
        return None if found is None else settle(session, name, kind, found, use)

    return Told(
        question,
        together.at,
        value("updated", lambda found: latest_covered(answer(found.body))),
        value("deleted", lambda found: deletions(answer(found.body), start)),
        value("query", lambda found: answer(found.page(main.names))),
    )


def settle(
    session: Session, name: str, kind: str, found: PartAnswer, use: Callable[[PartAnswer], T]
) -> T | SyncError | None:
    """Return the value of an answer, or Salesforce's refusal; None if another attempt may succeed.

    A query that was too slow keeps the object out of such calls for an hour: it must not hold up others.
    """
    if found.status == 200:
        try:
            return use(found)
        except ValueError:
            return None
        except SalesforceError as error:
            return error
    code, message = first_error(found.body)
    failure = exception_for(found.status, code, message)
    if code == "QUERY_TIMEOUT":
        session.learned(name).alone()
    if isinstance(failure, SyncError):
        return failure
    log.info("asked_alone", object=name, what=kind, reason=clip(failure, 200))
    return None
