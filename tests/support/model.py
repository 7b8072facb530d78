"""The model: everything a Salesforce can do, interleaved with everything we do, and what must hold meanwhile.

A machine of Hypothesis: it picks steps at random, and when an assertion fails it finds a short way there.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import text
from sqlalchemy.engine import make_url

from sync.errors import FenceLostError, ObjectsFailedError, SyncError
from sync.postgres import tables
from sync.replication import pipeline, requests
from sync.replication.requests import Pauses
from sync.replication.runs import PageResult, SyncContext
from sync.simulator import Field, Simulator
from tests.conftest import administer
from tests.support.databases import create
from tests.support.declared import opportunities
from tests.support.world import World, compare

NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Subject:
    """The object whose records the model lets live: what one needs, two of its texts, and what it can do."""

    name: str
    values: dict[str, object]
    texts: tuple[str, str]
    formula: str = ""
    mergeable: bool = False


CONTACTS = Subject(
    "Contact", {"LastName": "new"}, ("Title", "Department"), "Account_Display__c", mergeable=True
)
# An object that no module knows by its name, and that was generated from a describe.
OPPORTUNITIES = Subject(
    "Opportunity",
    {"Name": "new", "StageName": "Prospecting", "CloseDate": "2026-12-31"},
    ("NextStep", "Description"),
)
OVERLAP = timedelta(minutes=10)
NUMBER = st.integers(0, 10_000)
# What strikes a call now and then; each must be survived, or end the run with nothing lost.
FAULTS = (
    *("unknown_exception", "truncated", "missing_rows", "repeated_rows", "html_ok", "session_expired"),
    *("unavailable_html", "reset", "invalid_query_locator", "missing_rows"),
)
SPOILED = ("missing_rows", "missing_rows", "truncated", "repeated_rows")
PLACES = ("any", "query", "page", "composite")


class Dies(Exception):
    """The process ends here."""


class Truth(RuleBasedStateMachine):
    """One org, one database, and a consumer that knows nothing but the feed."""

    server: str
    template: str
    subject = CONTACTS

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        name = f"sync_model_{threading.get_ident()}_{next(NUMBERS)}"
        create(self.server, name, self.template)
        self.stack.callback(administer, self.server, f"DROP DATABASE {name} WITH (FORCE)")
        url = make_url(self.server).set(database=name).render_as_string(hide_password=False)
        self.sim = self.stack.enter_context(Simulator())
        self.world = self.stack.enter_context(World(self.sim, url))
        self.org = self.world.org
        self.name, (self.text, self.other) = self.subject.name, self.subject.texts
        self.objects = ("Account", self.name)
        if self.subject is OPPORTUNITIES:
            self.stack.enter_context(opportunities(self.world.engine, self.sim))
        self.world.environment["SYNC_OBJECTS"] = ",".join(self.objects)
        self.titles = itertools.count(1)
        # An open transaction: when it began, and what it will write.
        self.opened: datetime | None = None
        # Records whose change left no stamp: only a verify, or a schedule, can find it.
        self.silent: set[str] = set()
        # Fields shown again, which the next pass fills in old records.
        self.late: set[str] = set()
        # A worker: one session for all its passes, whose estimate of Salesforce's time is as old as its last answer.
        self.worker = self.world.context("worker")
        self.untold: set[str] = set()  # committed late, without a sign, since the last pass
        self.told_late = 0  # seconds
        self.refusal: Any = None  # of getUpdated, while a transaction is open
        self.purged: dict[str, datetime] = {}
        self.copy: dict[str, dict[str, Any]] = {}
        self.seen = 0

    @initialize(bulk=st.booleans(), pages=st.sampled_from([2, 3, 2000]))
    def begin(self, bulk: bool, pages: int) -> None:
        """A small org, loaded, by either way, in pages of few records or in one."""
        self.world.environment["SYNC_BULK_THRESHOLD"] = "0" if bulk else "10000"
        self.world.page_by(pages)
        long_ago = self.now() - timedelta(days=40)
        account = self.org.create("Account", {"Name": "Acme"}, stamp=long_ago)
        self.org.create_many(self.name, [self.record(AccountId=account) for _ in range(5)], long_ago)
        self.world.environment["SYNC_REQUESTS_PER_HOUR"] = "100000"
        requests.publish(self.world.context("request"))
        self.world.run()

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.stack.close()

    # ── the org ──

    def now(self) -> datetime:
        return self.sim.clock.now().replace(microsecond=0)

    def pick(self, number: int, name: str = "", *, deleted: bool = False) -> str | None:
        ids = self.org.ids(name or self.name, deleted=deleted)
        return ids[number % len(ids)] if ids else None

    def record(self, **values: object) -> dict[str, object]:
        """What a new record of the subject needs."""
        return {**self.subject.values, **values}

    def touched(self, *ids: str) -> None:
        """A stamp tells of these now."""
        self.silent.difference_update(ids)

    @rule(count=st.integers(1, 4), number=NUMBER)
    def create(self, count: int, number: int) -> None:
        account = self.pick(number, "Account")
        self.org.create_many(self.name, [self.record(AccountId=account)] * count)

    @rule()
    def create_account(self) -> None:
        self.org.create("Account", {"Name": f"Account {next(self.titles)}"})

    @rule(number=NUMBER)
    def edit(self, number: int) -> None:
        if id_ := self.pick(number):
            self.org.update(id_, {self.text: f"t{next(self.titles)}"})
            self.touched(id_)

    @rule(number=NUMBER)
    def edit_account(self, number: int) -> None:
        if id_ := self.pick(number, "Account"):
            self.org.update(id_, {"Name": f"Account {next(self.titles)}"})
            self.touched(id_)

    @rule()
    def edit_many_on_one_stamp(self) -> None:
        ids = self.org.ids(self.name, deleted=False)
        self.org.update_many(ids, {self.other: f"d{next(self.titles)}"})
        self.touched(*ids)

    @rule(number=NUMBER)
    def edit_again_within_the_second(self, number: int) -> None:
        """Two versions with one stamp, and a pass may read between them."""
        if id_ := self.pick(number):
            stamp = self.now()
            self.org.update(id_, {self.text: f"t{next(self.titles)}"}, stamp=stamp)
            self.pass_()
            self.org.update(id_, {self.text: f"t{next(self.titles)}"}, stamp=stamp)
            self.touched(id_)

    @rule(number=NUMBER, minutes=st.integers(1, 9))
    def commit_late(self, number: int, minutes: int) -> None:
        """A transaction that getUpdated did not tell of: its stamp may be claimed, and the next pass finds it."""
        stamp = self.now() - timedelta(minutes=minutes)
        id_ = self.pick(number)
        if id_ and datetime.fromisoformat(self.org.record(id_)["SystemModstamp"]) <= stamp:
            self.org.update(id_, {self.text: "late"}, stamp=stamp)
            self.touched(id_)
            self.untold.add(id_)
        self.untold.add(self.org.create(self.name, self.record(), stamp=stamp))

    @precondition(lambda self: self.opened is None)
    @rule(late=st.sampled_from([0, 120]), refused=st.booleans(), log=st.booleans())
    def open_transaction(self, late: int, refused: bool, log: bool) -> None:
        """A long transaction: getUpdated covers nothing after its beginning, or minutes before, or is refused; the
        delete log covers no more, or does not care."""
        self.opened, self.told_late = self.now(), late
        self.sim.options.delete_log_lag = None if log else 0
        if refused:
            self.refusal = self.sim.faults.add("not_found", on="updated", times=None)

    @precondition(lambda self: self.opened is not None)
    @rule()
    def commit_transaction(self) -> None:
        assert self.opened is not None
        # Where Salesforce does not tell, the overlap is all that holds a claim back.
        longest = timedelta(hours=23) if self.refusal is None else OVERLAP
        if self.now() - self.opened < longest:
            self.not_claimed(self.opened)
            self.org.create(self.name, self.record(), stamp=self.opened)
        if self.refusal is not None:
            self.sim.faults.remove(self.refusal)
        self.opened = self.refusal = self.sim.options.delete_log_lag = None
        self.sim.options.latest_date_covered_lag = 0

    @rule(number=NUMBER, account=st.booleans())
    def delete(self, number: int, account: bool) -> None:
        if id_ := self.pick(number, "Account" if account else self.name):
            children = [c["Id"] for c in self.org.records(self.name, deleted=False) if c["AccountId"] == id_]
            self.org.delete(id_)
            self.touched(id_, *children)

    @rule(number=NUMBER, bump=st.booleans())
    def undelete(self, number: int, bump: bool) -> None:
        if id_ := self.pick(number, deleted=True):
            self.org.undelete(id_, bump=bump)
            (self.touched if bump else self.silent.add)(id_)

    @rule(number=NUMBER, log=st.booleans())
    def purge(self, number: int, log: bool) -> None:
        if id_ := self.pick(number, deleted=bool(number % 2)):
            self.org.purge(id_, log=log)
            self.silent.add(id_)
            if log:
                self.purged[id_] = self.now()

    @rule(number=NUMBER)
    def merge(self, number: int) -> None:
        master, loser = self.pick(number), self.pick(number + 1)
        if self.subject.mergeable and master and loser and master != loser:
            self.org.merge(master, [loser])
            self.touched(master, loser)

    @rule(number=NUMBER)
    def merge_accounts(self, number: int) -> None:
        master, loser = self.pick(number, "Account"), self.pick(number + 1, "Account")
        if master and loser and master != loser:
            children = [c["Id"] for c in self.org.records(self.name, deleted=None) if c["AccountId"] == loser]
            self.org.merge(master, [loser])
            self.touched(master, loser, *children)

    @rule()
    def change_formula(self) -> None:
        if self.subject.formula:
            self.org.change_formula(self.name, self.subject.formula, "!")

    @rule(which=st.sampled_from([0, 1, 2]))
    def hide_field(self, which: int) -> None:
        name = (self.text, self.other, "Rank__c")[which]
        if name in self.org.schema.objects[self.name].fields:
            self.org.hide_field(self.name, name)

    @rule(which=st.sampled_from([0, 1, 2]))
    def show_field(self, which: int) -> None:
        name = (self.text, self.other, "Rank__c")[which]
        if name in self.org.schema.objects[self.name].hidden_fields:
            self.org.show_field(self.name, name)
            self.late.add(name)

    @rule()
    def add_field(self) -> None:
        if "Rank__c" not in self.org.schema.objects[self.name].fields:
            self.org.add_field(self.name, Field("Rank__c", "string", length=20))

    @rule(number=NUMBER)
    def fill_field(self, number: int) -> None:
        id_ = self.pick(number)
        if id_ and "Rank__c" in self.org.schema.objects[self.name].fields:
            self.org.update(id_, {"Rank__c": f"r{next(self.titles)}"})
            self.touched(id_)

    @rule(minutes=st.sampled_from([1, 6, 20, 90, 1500]))
    def time_passes(self, minutes: int) -> None:
        self.sim.clock.advance(minutes * 60)

    @rule(fault=st.sampled_from(FAULTS), after=st.integers(0, 4), place=st.sampled_from(PLACES))
    def trouble(self, fault: str, after: int, place: str) -> None:
        """A fault that will strike sooner or later."""
        self.sim.faults.add(fault, on=place, after=after, times=1)

    @rule(fault=st.sampled_from(SPOILED), place=st.sampled_from(PLACES[1:3]))
    def trouble_while_much_is_new(self, fault: str, place: str) -> None:
        """A fault in a pass over changes that are old enough to be claimed."""
        self.org.create_many(self.name, [self.record()] * 5)
        self.sim.clock.advance(20 * 60)
        self.sim.faults.add(fault, on=place, times=1, sobject=self.name)
        self.pass_()

    @rule()
    def lose_token(self) -> None:
        self.sim.revoke_tokens()

    # ── the product ──

    def pass_(self, context: SyncContext | None = None, **changed: Any) -> None:
        """One pass; a fault may fail it, and then it has claimed nothing."""
        self.lag()
        with suppress(ObjectsFailedError):
            pipeline.sync_all(context or self.world.context(**changed))
            self.late.clear()
            self.untold.clear()

    @rule()
    def run_as_worker(self) -> None:
        """A pass of a process that has passed before."""
        self.pass_(self.worker)

    @rule(on=st.booleans())
    def refuse_composite(self, on: bool) -> None:
        """Each object by itself from now on, or all with one call again."""
        self.sim.options.composite = not on

    def lag(self) -> None:
        if self.opened is not None:
            open_for = (self.now() - self.opened).total_seconds()
            self.sim.options.latest_date_covered_lag = open_for + 1 + self.told_late

    @rule()
    def run(self) -> None:
        self.pass_()

    @rule(full=st.booleans())
    def resync(self, full: bool) -> None:
        self.lag()
        since = None if full else self.now() - timedelta(days=1)
        with suppress(ObjectsFailedError):
            pipeline.resync(self.world.context("resync"), self.objects, since)

    @rule(deep=st.booleans())
    def verify(self, deep: bool) -> None:
        self.lag()
        with suppress(SyncError):
            pipeline.verify_all(
                self.world.context("verify", approve=True),
                self.objects,
                repair=True,
                sample=None if deep else 0,
            )

    @rule(number=NUMBER, deleted=st.booleans(), beside=st.booleans())
    def request(self, number: int, deleted: bool, beside: bool) -> None:
        """A consumer asks for a record, between two passes or during one: once answered, its row is the org's."""
        id_, stamps = self.pick(number, deleted=deleted), list[int]()
        if id_ is None:
            return

        def ask(_: PageResult | None = None) -> None:
            if not stamps:
                stamps.extend(self.world.sql("SELECT crm.request(:id)", id=id_)[0])
                with suppress(SyncError):
                    requests.answer_waiting(replace(context, command="request"), Pauses())

        self.lag()
        context = self.world.context(on_page=ask, ahead=1)
        if beside:
            with suppress(ObjectsFailedError):
                pipeline.sync_all(context)
                self.late.clear()
                self.untold.clear()
        ask()
        done = self.world.sql("SELECT crm.wait_for(:id, :stamp, '0s')", id=id_, stamp=stamps[0])[0][0]
        if done and id_ in self.org.ids(self.name, deleted=None):
            hidden = set(self.org.schema.objects[self.name].hidden_fields)
            different = compare(self.org.record(id_), self.world.rows(self.name)[id_], hidden)
            assert different == {}, f"{id_} was asked for and read: {different}"

    @rule(step=st.integers(1, 6), verify=st.booleans())
    def die(self, step: int, verify: bool) -> None:
        """The process ends between two transactions, and its lease with it."""
        left = itertools.count(1)

        def on_page(_: PageResult) -> None:
            if next(left) >= step:
                raise Dies

        self.lag()
        context = self.world.context("verify" if verify else "run", on_page=on_page, approve=True)
        for name in self.objects:
            with suppress(Dies, SyncError):
                if verify:
                    pipeline.verify_object(context, name, repair=True)
                else:
                    pipeline.sync_object(context, name)
        self.world.expire_leases()

    @rule(number=NUMBER)
    def overtaken(self, number: int) -> None:
        """A process that stood still while another took its work over must not commit any more."""
        self.sim.faults.clear()
        if id_ := self.pick(number):
            self.org.update(id_, {self.text: f"t{next(self.titles)}"})
            self.touched(id_)
        overtaken: list[PageResult] = []

        def on_page(step: PageResult) -> None:
            if not overtaken:
                overtaken.append(step)
                self.world.expire_leases()
                pipeline.sync_object(self.world.context(), self.name)

        self.lag()
        try:
            pipeline.sync_object(self.world.context(on_page=on_page), self.name)
        except FenceLostError:
            return
        raise AssertionError("a process committed without its lease")

    @rule()
    def two_workers(self) -> None:
        """Two processes at once: one waits for the other."""
        self.lag()
        threads = [threading.Thread(target=self.pass_) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # ── a consumer ──

    @rule(most=st.integers(1, 20), dies=st.booleans())
    def consume(self, most: int, dies: bool) -> None:
        """Read the feed from the number remembered, and each record named; a consumer that dies forgets both."""
        copy, seen = dict(self.copy), self.seen
        for change in self.world.sql("SELECT * FROM crm.changes(:after, :max)", after=seen, max=most):
            seen = change.seq
            if change.object != self.name:
                continue
            if change.op == "reload":
                copy = {row["id"]: row for row in self.shown()}
                continue
            copy.pop(change.record_id, None)
            copy |= {row["id"]: row for row in self.shown(change.record_id)}
        if not dies:
            self.copy, self.seen = copy, seen

    def shown(self, id_: str | None = None) -> list[dict[str, Any]]:
        with tables.transaction(self.world.engine) as connection:
            rows = connection.execute(
                text(f"SELECT * FROM crm.{self.name.lower()} WHERE CAST(:id AS text) IS NULL OR id = :id"),
                {"id": id_},
            )
            return [dict(row) for row in rows.mappings()]

    # ── what must hold ──

    def not_claimed(self, stamp: datetime) -> None:
        """What is committed only now was not said to be there."""
        for name in self.objects:
            claimed = self.world.cursor(name)
            assert claimed is None or claimed <= stamp, (
                f"{name}: complete through {claimed}, and now {stamp} commits"
            )

    @invariant()
    def claims_hold(self) -> None:
        """Every change that Salesforce committed before `complete_through` is in the tables."""
        for name in self.objects:
            claimed = self.world.cursor(name)
            if claimed is None:
                continue
            rows = self.world.rows(name)
            hidden = set(self.org.schema.objects[name].hidden_fields) | {"Rank__c"} | self.late
            for record in self.org.records(name):
                stamp = datetime.fromisoformat(record["SystemModstamp"])
                if stamp < claimed and record["Id"] not in self.silent | self.untold:
                    assert record["Id"] in rows, (
                        f"{record['Id']} is missing, of {stamp}; complete through {claimed}"
                    )
                    different = compare(record, rows[record["Id"]], hidden | self.moving(name))
                    assert different == {}, (
                        f"{record['Id']}: {different}, of {stamp}; complete through {claimed}"
                    )
            for id_, at in self.purged.items():
                if id_ in rows and at + timedelta(minutes=1) < claimed:
                    assert rows[id_]["deleted_at"] is not None, f"{id_} was purged at {at}; through {claimed}"

    def moving(self, name: str) -> set[str]:
        """Fields whose values move without a stamp."""
        return {field.name for field in self.org.schema.objects[name].fields.values() if field.formula}

    def settle(self) -> None:
        """Quiescence: no fault, no open transaction, a pass, the schedule, a verify; then all is equal."""
        self.sim.faults.clear()
        if self.opened is not None:
            self.commit_transaction()
        for name in list(self.org.schema.objects[self.name].hidden_fields):
            self.org.show_field(self.name, name)
        for _ in range(2):
            self.sim.clock.advance(26 * 3600)
            pipeline.sync_all(self.world.context())
            pipeline.verify_all(
                self.world.context("verify", approve=True), self.objects, repair=True, sample=0
            )
        self.silent.clear()
        self.claims_hold()
        for name in self.objects:
            live = {id_ for id_, row in self.world.rows(name).items() if row["deleted_at"] is None}
            assert live == set(self.org.ids(name, deleted=False)), f"{name}: other records than in the org"
            for id_ in live:
                different = compare(self.org.record(id_), self.world.rows(name)[id_], set())
                assert different == {}, f"{id_}: {different}"
        again = pipeline.verify_all(self.world.context("verify"), self.objects, repair=False, sample=None)
        assert [(report.findings or {})["differences"] for report in again] == [[], []]
        self.consume(10_000, dies=False)
        assert self.copy == {row["id"]: row for row in self.shown()}, "the feed tells something else"
        assert self.org.jobs.all() == [] or self.world.unfinished(), "a Bulk job was left at Salesforce"
