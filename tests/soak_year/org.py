"""What a living org does in a year: changes by the minute, a recycle bin that empties, fields that come and go."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sync.simulator import Field, Simulator

ACCOUNTS, CONTACTS = 40, 300  # that live at a time
IN_BIN = timedelta(days=15)  # then Salesforce purges a record
MOST_FIELDS = 4  # custom fields of ours at a time
TEXTS = {"Contact": ("Title", "Department", "Description"), "Account": ("Site", "Description", "Industry")}
CITIES = ("Oslo", "Wien", "København", "Kraków", "東京", "São Paulo", "Ulm")
UNFIT = "in spring"  # for a date


class Life:
    """The life of one org, the same for the same seed; `size` is how many records of each object live."""

    def __init__(self, sim: Simulator, size: Mapping[str, int], seed: int) -> None:
        self.sim, self.org, self.size = sim, sim.org, size
        self.random = random.Random(seed)
        self.numbers = itertools.count(1)
        self.binned: dict[str, datetime] = {}
        self.hidden: dict[tuple[str, str], int] = {}  # until which day
        self.added: list[tuple[str, str]] = []
        self.unfit: tuple[str, int] | None = None  # the record whose date is none, and until which day
        self.done: dict[str, int] = {}

    # ── between two passes ──

    def minutes(self) -> None:
        """Some of what happens between two passes: some tens of changes."""
        live = {name: self.org.ids(name, deleted=False) for name in ("Account", "Contact")}
        for _ in range(self.random.randint(6, 14)):
            self._edit("Contact", self.random.choice(live["Contact"]))
        for _ in range(self.random.randint(0, 2)):
            self._edit("Account", self.random.choice(live["Account"]))
        if self.random.random() < 0.3:
            self._many_at_once(live["Contact"])
        if self.random.random() < 0.15:
            self._leave("Contact", live["Contact"])
        if self.random.random() < 0.03:
            self._leave("Account", live["Account"])
        if self.random.random() < 0.1:
            self._come_back()
        if self.random.random() < 0.05:
            self._merge(self.random.choice(("Contact", "Contact", "Account")))
        self._grow()
        if self.random.random() < 0.1:
            self._commit_late(live["Contact"])

    def _count(self, what: str, number: int = 1) -> None:
        self.done[what] = self.done.get(what, 0) + number

    def _edit(self, name: str, id_: str) -> None:
        field = self.random.choice(self._texts(name))
        value: object = f"{self.random.choice(CITIES)} {next(self.numbers)}"[:40]
        if self.random.random() < 0.05:
            value = None
        self.org.update(id_, {field: value})
        self._count("edited")

    def _texts(self, name: str) -> list[str]:
        known = self.org.schema.objects[name].fields
        own = [field for each, field in self.added if each == name and known[field].type == "string"]
        return [field for field in (*TEXTS[name], *own) if field in known]

    def _many_at_once(self, ids: list[str]) -> None:
        some = self.random.sample(ids, min(len(ids), self.random.randint(5, 25)))
        self.org.update_many(some, {"Department": f"d{next(self.numbers)}"})
        self._count("edited", len(some))

    def _leave(self, name: str, ids: list[str]) -> None:
        id_ = self.random.choice(ids)
        before = set(self.org.ids(deleted=True, name="Contact"))
        self.org.delete(id_)
        gone = {id_, *(set(self.org.ids(deleted=True, name="Contact")) - before)}
        self.binned |= dict.fromkeys(gone, self.sim.clock.now())
        self._count("deleted", len(gone))

    def _come_back(self) -> None:
        binned = [id_ for id_ in self.org.ids("Contact", deleted=True) if id_ in self.binned]
        if binned:
            self.org.undelete(self.random.choice(binned), bump=self.random.random() < 0.9)
            self._count("undeleted")

    def _merge(self, name: str) -> None:
        master, loser = self.random.sample(self.org.ids(name, deleted=False), 2)
        self.org.merge(master, [loser])
        self.binned[loser] = self.sim.clock.now()
        self._count("merged")

    def _grow(self) -> None:
        """New records where some have gone."""
        for name, wanted in self.size.items():
            missing = wanted - self.org.count(name, deleted=False)
            if missing > 0 and self.random.random() < 0.5:
                self.org.create_many(name, [self._new(name) for _ in range(min(missing, 8))])
                self._count("created", min(missing, 8))

    def _new(self, name: str) -> dict[str, object]:
        number = next(self.numbers)
        if name == "Account":
            return {"Name": f"Company {number}", "Website": f"https://c{number}.example"}
        account = self.random.choice(self.org.ids("Account", deleted=False))
        email = f"P.{number}@Example.com"
        return {"LastName": f"Person {number}", "AccountId": account, "Email": email, "Phone": "415 555 2671"}

    def _commit_late(self, ids: list[str]) -> None:
        """A change that becomes visible some minutes after its stamp."""
        id_ = self.random.choice(ids)
        stamp = self.sim.clock.stamp() - timedelta(minutes=self.random.randint(1, 8))
        found = set(self.org.ids("Contact", deleted=False))
        if id_ in found and datetime.fromisoformat(self.org.record(id_)["SystemModstamp"]) <= stamp:
            self.org.update(id_, {"Title": "late"}, stamp=stamp)
            self._count("committed late")

    # ── once a day ──

    def day(self, number: int) -> None:
        """What happens once a day: the bin, the schema, and at times the delete log."""
        self._empty_bin()
        for (name, field), until in list(self.hidden.items()):
            if number >= until:
                self.org.show_field(name, field)
                del self.hidden[name, field]
        if self.unfit is not None and number >= self.unfit[1]:
            self._fit()
        self.random.choice(self._schema_changes(number))()
        if number % 30 == 29:
            self.org.purge_delete_log(self.sim.clock.now() - timedelta(days=13))
            self._count("delete log purged")

    def _schema_changes(self, number: int) -> list[Callable[[], Any]]:
        nothing = [lambda: None] * 12
        return [
            *nothing,
            lambda: self._hide(number),
            self._add_field,
            self._remove_field,
            self._retype,
            self._fill,
            lambda: self._make_unfit(number),
            self._change_formula,
        ]

    def _empty_bin(self) -> None:
        """Purge what has been in the bin for 15 days; now and then somebody empties it by hand, without a trace."""
        now, by_hand, there = self.sim.clock.now(), self.random.random() < 0.02, self._bin()
        for id_, at in list(self.binned.items()):
            if id_ not in there:
                del self.binned[id_]  # undeleted, or purged with its account
            elif by_hand or now - at > IN_BIN:
                self.org.purge(id_, log=not by_hand)
                there = self._bin()
                self._count("purged without a trace" if by_hand else "purged")

    def _bin(self) -> set[str]:
        return {id_ for name in TEXTS for id_ in self.org.ids(name, deleted=True)}

    def _hide(self, number: int) -> None:
        name = self.random.choice(("Account", "Contact"))
        field = self.random.choice(TEXTS[name])
        if (name, field) not in self.hidden and field in self.org.schema.objects[name].fields:
            self.org.hide_field(name, field)
            self.hidden[name, field] = number + self.random.randint(1, 3)
            self._count("fields hidden")

    def _add_field(self) -> None:
        name = self.random.choice(("Account", "Contact"))
        if len(self.added) < MOST_FIELDS:
            field = Field(f"Soak{next(self.numbers)}__c", "string", length=40)
            self.org.add_field(name, field)
            self.added.append((name, field.name))
            self._count("fields added")
            self._fill()

    def _remove_field(self) -> None:
        if len(self.added) == MOST_FIELDS:
            name, field = self.added.pop(0)
            self.org.remove_field(name, field)
            self._count("fields removed")

    def _retype(self) -> None:
        """A text becomes a number, with what no number holds; or a number a text."""
        if self.added:
            name, field = self.random.choice(self.added)
            text = self.org.schema.objects[name].fields[field].type == "string"
            changes: dict[str, Any] = (
                {"type": "double", "precision": 12, "scale": 2, "length": 0}
                if text
                else {"type": "string", "length": 40, "precision": 0, "scale": 0}
            )
            self.org.retype_field(name, field, **changes)
            self._count("fields retyped")
            self._fill()

    def _fill(self) -> None:
        if self.added:
            name, field = self.random.choice(self.added)
            text = self.org.schema.objects[name].fields[field].type == "string"
            ids = self.org.ids(name, deleted=False)
            value: object = f"v{next(self.numbers)}" if text else self.random.randint(1, 10**6)
            self.org.update_many(self.random.sample(ids, len(ids) // 4), {field: value})
            self._count("edited", len(ids) // 4)

    def _make_unfit(self, number: int) -> None:
        """A date becomes a text, and one record has what no date holds: it is rejected for some days."""
        if self.unfit is None:
            self.org.retype_field("Contact", "Birthdate", type="string", length=80)
            id_ = self.random.choice(self.org.ids("Contact", deleted=False))
            self.org.update(id_, {"Birthdate": UNFIT})
            self.unfit = (id_, number + self.random.randint(1, 3))
            self._count("fields retyped")

    def _fit(self) -> None:
        assert self.unfit is not None
        id_ = self.unfit[0]
        if id_ in self.org.ids("Contact", deleted=False):
            self.org.update(id_, {"Birthdate": None})
        self.org.retype_field("Contact", "Birthdate", type="date", length=0)
        self.unfit = None

    def _change_formula(self) -> None:
        if self.random.random() < 0.3:
            self.org.change_formula("Contact", "Account_Display__c", "!")
            self._count("formulas changed")

    def settle(self) -> None:
        """The end: what is hidden is shown, and no record is unfit any more."""
        for name, field in list(self.hidden):
            self.org.show_field(name, field)
        self.hidden.clear()
        if self.unfit is not None:
            self._fit()
