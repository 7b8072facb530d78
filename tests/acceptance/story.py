"""What the product does with the marked records: each change in the org, and what must be in the database then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from sync.catalogue.mapping import snake_case
from sync.postgres.tables import REPLICA, qualified_name, transaction
from sync.replication import pipeline
from sync.replication.runs import SyncContext
from tests.acceptance.findings import Findings, Step
from tests.acceptance.records import TRICKY, Marked

OBJECTS = ("Account", "Contact")
ENTRIES = "SELECT seq, record_id, op, coalesce(changed, '{}') FROM crm.changes(:after, 1000)"
POSITION = "SELECT coalesce(max(seq), 0) FROM sync.change"
FRESHNESS = "SELECT object, complete_through, claim, loaded FROM crm.freshness"


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run waits: seconds between two looks, and for how long at most; the clock of both."""

    pause: float
    patience: float
    wait: Callable[[float], None]  # raises StoppedError once the run is to stop
    now: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a change must have left: the fields it set, its operation in the feed, and whether it is a tombstone."""

    sobject: str
    id: str
    op: str
    fields: tuple[str, ...] = ()
    deleted: bool = False


class Story:
    """The steps in their order; each runs passes until what it changed is in the database."""

    def __init__(self, context: SyncContext, marked: Marked, findings: Findings, pace: Pace) -> None:
        self.context, self.marked, self.findings, self.pace = context, marked, findings, pace
        self.written: tuple[datetime, float] | None = (
            None  # the stamp of the last change, and when it was made
        )

    def tell(self) -> None:
        """All steps; the first that fails ends those that build on it."""
        with self.findings.step("first load of all objects", self.pace.now) as step:
            self.passes(step, lambda: "" if all(row[3] for row in self.sql(FRESHNESS)) else "not loaded")
        if step.failed or not self.create():
            return
        self.edit()
        self.reparent()
        self.delete()
        self.delete_parent()
        self.claim()
        self.quiet()
        self.verify()

    # ── the steps ──

    def create(self) -> bool:
        """Two accounts and three contacts; return whether they are there."""
        with self.findings.step("create 2 accounts and 3 contacts", self.pace.now) as step:
            make = self.marked.create
            self.one = make("Account", "one", Phone="+1 415 555 0100", Description=TRICKY)
            self.two = make("Account", "two", Website="https://www.example.com/a")
            self.ann = make(
                *("Contact", "Ann"),
                AccountId=self.one,
                FirstName="Ann",
                Email="Ann.Acceptance@Example.com",
                Birthdate="1970-02-28",
            )
            self.bob = make("Contact", "Bob", AccountId=self.one, Title="")
            self.cid = make("Contact", "Cid", AccountId=self.one)
            self.settle(
                step,
                Expected("Account", self.one, "insert", ("Phone", "Description")),
                Expected("Account", self.two, "insert", ("Website",)),
                Expected("Contact", self.ann, "insert", ("AccountId", "Email", "FirstName")),
                Expected("Contact", self.bob, "insert", ("AccountId", "Title")),
                Expected("Contact", self.cid, "insert", ("AccountId",)),
            )
        return not step.failed

    def edit(self) -> None:
        with self.findings.step("edit a contact and its account", self.pace.now) as step:
            self.marked.update("Contact", self.ann, Title="Director", FirstName=None)
            self.marked.update("Account", self.one, Phone="+1 415 555 0101")
            self.settle(
                step,
                Expected("Contact", self.ann, "update", ("Title", "FirstName")),
                Expected("Account", self.one, "update", ("Phone",)),
            )

    def reparent(self) -> None:
        with self.findings.step("move a contact to the other account", self.pace.now) as step:
            self.marked.update("Contact", self.ann, AccountId=self.two)
            self.settle(step, Expected("Contact", self.ann, "update", ("AccountId",)))

    def delete(self) -> None:
        with self.findings.step("delete a contact", self.pace.now) as step:
            self.marked.delete("Contact", self.bob)
            self.settle(step, Expected("Contact", self.bob, "delete", deleted=True))

    def delete_parent(self) -> None:
        with self.findings.step("delete an account with a contact", self.pace.now) as step:
            self.marked.delete("Account", self.one)
            self.settle(
                step,
                Expected("Account", self.one, "delete", deleted=True),
                Expected("Contact", self.cid, "delete", deleted=True),
            )

    def claim(self) -> None:
        """Wait until the database claims the last change."""
        with self.findings.step("complete_through passes the last change", self.pace.now) as step:
            assert self.written is not None, "no change was written"
            stamp, at = self.written
            self.passes(
                step, lambda: "" if self.claimed() >= stamp else "complete_through stays before the change"
            )
            self.findings.measure("from a change to its claim", f"{self.pace.now() - at:,.0f} s")
            claims = sorted({str(row[2]) for row in self.sql(FRESHNESS)})
            self.findings.measure("what the claim rests on", ", ".join(claims))

    def quiet(self) -> None:
        """One more pass: its API calls, if nobody else changes records."""
        with self.findings.step("a pass over all objects", self.pace.now) as step:
            reports = pipeline.sync_all(self.context)
            step.calls = sum(report.api_calls for report in reports)
            step.note = f"{sum(report.tally.read for report in reports):,} records read"

    def verify(self) -> None:
        with self.findings.step("verify: tables and org are equal", self.pace.now) as step:
            names = self.context.settings.sync_objects
            reports = pipeline.verify_all(self.context, names, repair=False, sample=0)
            step.calls = sum(report.api_calls for report in reports)
            different = {
                report.object: report.findings["remaining"]
                for report in reports
                if report.findings is not None and report.findings["remaining"]
            }
            assert not different, "different: " + ", ".join(
                f"{n:,} of {name}" for name, n in different.items()
            )

    # ── passes and what they must leave ──

    def settle(self, step: Step, *expected: Expected) -> None:
        """Run passes until all that is expected is in the tables and in the feed; AssertionError if it never is."""
        at, after = self.pace.now(), self.sql(POSITION)[0][0]
        # As the org has them: it may lower the case of an email, or end lines with CRLF.
        records = [
            self.marked.read(each.sobject, each.id, "SystemModstamp", *each.fields) for each in expected
        ]
        self.written = max(moment(record["SystemModstamp"]) for record in records), at
        self.passes(step, lambda: self.missing(expected, records))
        entries = list(self.entries(after))
        for each in expected:
            # An automation of the org may add updates.
            ops = [op for id_, op, _ in entries if id_ == each.id]
            assert each.op in ops, f"the feed has {ops} for the {each.op} of {each.sobject}"
            changed = {name for id_, _, names in entries if id_ == each.id for name in names}
            columns = {snake_case(name) for name in each.fields}
            assert each.op != "update" or columns <= changed, (
                f"the feed's entry of {each.sobject} names {sorted(changed)}, not all of {sorted(columns)}"
            )
        self.findings.measure(f"until visible: {step.name}", f"{self.pace.now() - at:,.0f} s")

    def entries(self, after: int) -> Iterator[tuple[str, str, Sequence[str]]]:
        """The entries of the feed after a number: Id, operation, and the columns that changed."""
        while rows := self.sql(ENTRIES, after=after):
            yield from ((row[1], row[2], row[3]) for row in rows)
            after = max(row[0] for row in rows)

    def passes(self, step: Step, problem: Callable[[], str]) -> None:
        """Run passes until there is no problem; AssertionError with the problem that lasts."""
        ends, number = self.pace.now() + self.pace.patience, 0
        while True:
            step.calls += sum(report.api_calls for report in pipeline.sync_all(self.context))
            number += 1
            step.note = f"{number} pass{'es' if number > 1 else ''}"
            found = problem()
            if not found:
                return
            assert self.pace.now() < ends, f"{found} after {self.pace.patience:,.0f} s"
            self.pace.wait(self.pace.pause)

    def missing(self, expected: Sequence[Expected], records: Sequence[Mapping[str, Any]]) -> str:
        """What is not in the tables yet ("": nothing); AssertionError where the claim says that it is."""
        claimed = self.claimed()
        for each, record in zip(expected, records, strict=True):
            problem = self.difference(each, record)
            late = claimed > moment(record["SystemModstamp"])
            assert not (problem and late), f"complete_through claims more than is there: {problem}"
            if problem:
                return problem
        return ""

    def difference(self, expected: Expected, record: Mapping[str, Any]) -> str:
        """How a row differs from its record in the fields that the change set ("": in none)."""
        with transaction(self.context.engine) as connection:
            table = qualified_name(connection, REPLICA[expected.sobject])
            found = connection.execute(text(f"SELECT * FROM {table} WHERE id = :id"), {"id": expected.id})
            row = found.mappings().one_or_none()
        if row is None:
            return f"no row of a created {expected.sobject}"
        if (row["deleted_at"] is not None) != expected.deleted:
            return f"{expected.sobject}: a tombstone is {'missing' if expected.deleted else 'there'}"
        wrong = [name for name in expected.fields if row[snake_case(name)] != record[name]]
        return f"{expected.sobject}: other values of {', '.join(wrong)}" if wrong else ""

    def claimed(self) -> datetime:
        """What the database claims of all objects."""
        rows = self.sql(FRESHNESS)
        never = datetime.min.replace(tzinfo=UTC)
        return min((row[1] or never for row in rows), default=never)

    def sql(self, statement: str, **parameters: object) -> Sequence[Any]:
        with transaction(self.context.engine) as connection:
            return connection.execute(text(statement), parameters).all()


def moment(value: str) -> datetime:
    """A time as the API writes it."""
    return datetime.fromisoformat(value.replace("+0000", "+00:00").replace("Z", "+00:00"))
