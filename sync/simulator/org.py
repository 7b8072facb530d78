"""The org: the life of records, from creation through the recycle bin to the purge."""

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sync.simulator import ids, values
from sync.simulator.clock import Clock
from sync.simulator.formulas import Formulas
from sync.simulator.options import Options
from sync.simulator.queries import Queries
from sync.simulator.schema import Schema, SObject
from sync.simulator.store import Store, quote

Values = dict[str, Any]


class Org:
    """Records and their stamps. Every public call takes the one lock, so tests and server threads may mix."""

    def __init__(self, path: Path, clock: Clock, options: Options, seed: int = 1) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.options = options
        self.schema = Schema(options)
        self.store = Store(path)
        self.formulas = Formulas(self.schema, self.store)
        self.described_at = clock.stamp()  # when the schema last changed
        self._numbers = dict.fromkeys(self.schema.objects, 1_000_000 + seed * 7_919)
        for sobject in self.schema.objects.values():
            self.store.create_table(sobject)
            self.formulas.register(sobject)
        self.store.execute("CREATE TABLE delete_log (object TEXT, id TEXT, stamp INTEGER)")
        self.delete_log_start: int | None = None  # deletions before it are forgotten: the log was purged
        self._born = values.seconds(clock.now()) - 6 * 365 * 86400
        self._create_staff()
        self.user_id, self.organization_id = self.staff[0], self.ids("Organization")[0]
        self.queries = Queries(self, seed)

    def close(self) -> None:
        with self.lock:
            self.store.close()

    # --- reading

    def ids(self, name: str, deleted: bool | None = None) -> list[str]:
        """Ids of an object in byte order; ``deleted`` True: the recycle bin, False: live ones, None: both."""
        with self.lock:
            where = self._where(name, deleted)
            rows = self.store.execute(f"SELECT Id FROM {quote(name)} t{where} ORDER BY Id")
            return [row[0] for row in rows]

    def count(self, name: str, deleted: bool | None = None) -> int:
        with self.lock:
            where = self._where(name, deleted)
            found = self.store.execute(f"SELECT COUNT(*) FROM {quote(name)} t{where}")
            return int(found.fetchone()[0])

    def record(self, record_id: str) -> Values:
        """A record exactly as REST gives it, all fields, also those hidden from the user; KeyError when unknown."""
        with self.lock:
            sobject = self._object(record_id)
            self.stored(record_id, "Id")
            return self.queries.everything(sobject.name, f"WHERE t.Id = '{record_id}'")[0]

    def records(self, name: str, deleted: bool | None = None) -> list[Values]:
        """All records of an object, as ``record`` gives them, in the order of their Ids."""
        with self.lock:
            return self.queries.everything(name, self._where(name, deleted) + " ORDER BY t.Id")

    def _where(self, name: str, deleted: bool | None) -> str:
        if deleted is None or not self.schema.objects[name].recyclable:
            return ""
        return f" WHERE t.IsDeleted = {int(deleted)}"

    def exists(self, record_id: str) -> bool:
        with self.lock:
            return self._stored(record_id) is not None

    def stored(self, record_id: str, *names: str) -> tuple[Any, ...]:
        """Stored forms of some fields of a record; raises KeyError when there is no such record."""
        with self.lock:
            sobject = self._object(record_id)
            row = self.store.execute(
                f"SELECT {', '.join(map(quote, names))} FROM {quote(sobject.name)} WHERE Id = ?",
                (record_id,),
            ).fetchone()
            if row is None:
                raise KeyError(f"no record {record_id}")
            return tuple(row)

    def _stored(self, record_id: str) -> int | None:
        """None when there is no such record, else whether it is in the recycle bin."""
        try:
            return int(self.stored(record_id, "IsDeleted")[0])
        except KeyError:
            return None

    def _object(self, record_id: str) -> SObject:
        sobject = self.schema.object_of_id(record_id)
        if sobject is None:
            raise KeyError(f"no object has records like {record_id}")
        return sobject

    # --- writing

    def create(self, name: str, record: Values, stamp: datetime | None = None) -> str:
        """Insert one record and return its Id; ``stamp`` is its SystemModstamp (and the other dates unless given)."""
        return self.create_many(name, [record], stamp)[0]

    def create_many(self, name: str, records: Iterable[Values], stamp: datetime | None = None) -> list[str]:
        """Insert records that share one stamp and return their Ids; raises ValueError for a value that does not fit."""
        with self.lock:
            sobject = self.schema.objects[name]
            moment = self._moment(stamp)
            rows = [self._new_row(sobject, record, moment) for record in records]
            columns = [field.name for field in sobject.fields.values() if field.stored]
            self.store.insert(sobject, columns, [[row.get(column) for column in columns] for row in rows])
            return [str(row["Id"]) for row in rows]

    def _new_row(self, sobject: SObject, record: Values, stamp: int) -> Values:
        row: Values = {
            field.name: 0 for field in sobject.fields.values() if field.type == "boolean" and field.stored
        }
        row |= {"Id": self.next_id(sobject.name), "SystemModstamp": stamp}
        row |= {"CreatedDate": stamp, "LastModifiedDate": stamp}
        if "OwnerId" in sobject.fields:
            row |= dict.fromkeys(("OwnerId", "CreatedById", "LastModifiedById"), self.user_id)
            row["PhotoUrl"] = f"/services/images/photo/{row['Id']}"
        row |= self._encode(sobject, record)
        complete_name(sobject, row)
        for field in sobject.fields.values():
            if not field.nillable and field.stored and field.feature is None and row.get(field.name) is None:
                raise ValueError(f"{sobject.name}: required field missing: {field.name}")
        return row

    def _encode(self, sobject: SObject, record: Values) -> Values:
        encoded: Values = {}
        for name, value in record.items():
            field = sobject.fields.get(name)
            if field is None or not field.stored:
                raise ValueError(f"{sobject.name} has no writable field {name}")
            encoded[name] = values.encode(field, value)
        return encoded

    def update(
        self, record_id: str, changes: Values, stamp: datetime | None = None, system_only: bool = False
    ) -> None:
        """Change a record. A stamp in the past is an update that commits late.

        ``system_only`` moves SystemModstamp but not LastModifiedDate, as Salesforce's own jobs do.
        """
        with self.lock:
            sobject = self._object(record_id)
            if self._stored_state(sobject, record_id):
                raise ValueError(f"entity is deleted: {record_id}")
            moment = self._moment(stamp)
            self._write(sobject, record_id, self._encode(sobject, changes), moment, system_only)
            self._mirror(record_id, changes, moment)

    def _stored_state(self, sobject: SObject, record_id: str) -> bool:
        column = "IsDeleted" if sobject.recyclable else "Id"
        found = self.stored(record_id, column)[0]
        return bool(found) if sobject.recyclable else False

    def _write(
        self, sobject: SObject, record_id: str, changes: Values, stamp: int, system_only: bool = False
    ) -> None:
        stamps = {"SystemModstamp": stamp}
        if not system_only:
            stamps["LastModifiedDate"] = stamp
        names = NAME_PARTS.get(sobject.name, ())
        if "Name" in sobject.fields and any(name in changes for name in names):
            parts = dict(zip(names, self.stored(record_id, *names), strict=True))
            changes = {**changes, "Name": None, **{name: changes.get(name, parts[name]) for name in names}}
            complete_name(sobject, changes)
            if changes["Name"] is None:
                changes.pop("Name")
        self.store.update(sobject, record_id, {**stamps, **changes})

    def delete(self, record_id: str, stamp: datetime | None = None) -> None:
        """Move a record into the recycle bin, an account with all its contacts; raises KeyError when it is unknown."""
        with self.lock:
            moment = self._moment(stamp)
            for each in self._family(record_id, deleted=False):
                self._write(self._object(each), each, {"IsDeleted": 1}, moment)
                self._log_deletion(each, moment)

    def undelete(self, record_id: str, bump: bool | None = None, stamp: datetime | None = None) -> None:
        """Take a record (and an account's contacts) out of the bin; ``bump`` False leaves the stamps alone."""
        with self.lock:
            moment = self._moment(stamp)
            bumps = self.options.undelete_bumps if bump is None else bump
            for each in self._family(record_id, deleted=True):
                restored = {"IsDeleted": 0, "MasterRecordId": None}
                if bumps:
                    self._write(self._object(each), each, restored, moment)
                else:
                    self.store.update(self._object(each), each, restored)
                if not self.options.undeleted_stay_listed:
                    self.store.execute("DELETE FROM delete_log WHERE id = ?", (each,))

    def purge(self, record_id: str, log: bool = True) -> None:
        """Remove a record for good, live or from the bin, an account with its contacts.

        The delete log keeps a trace for getDeleted unless ``log`` is False.
        """
        with self.lock:
            for each in self._family(record_id, deleted=None):
                sobject = self._object(each)
                known = self.store.execute("SELECT 1 FROM delete_log WHERE id = ?", (each,)).fetchone()
                if log and known is None:
                    self._log_deletion(each, self._moment(None))
                if not log:
                    self.store.execute("DELETE FROM delete_log WHERE id = ?", (each,))
                self.store.execute(f"DELETE FROM {quote(sobject.name)} WHERE Id = ?", (each,))

    def purge_delete_log(self, until: datetime | None = None) -> None:
        """Forget deletions before a moment, as Salesforce's cleaning job does when the log grows too long."""
        with self.lock:
            self.delete_log_start = self._moment(until)
            self.store.execute("DELETE FROM delete_log WHERE stamp < ?", (self.delete_log_start,))

    def merge(self, master_id: str, losers: Sequence[str], stamp: datetime | None = None) -> None:
        """Merge losers into a master: they go to the bin with MasterRecordId, their children to the master."""
        with self.lock:
            moment = self._moment(stamp)
            sobject = self._object(master_id)
            self.stored(master_id, "Id")
            for loser in losers:
                self.stored(loser, "Id")
                self._reparent(sobject, loser, master_id, moment)
                self._write(sobject, loser, {"IsDeleted": 1, "MasterRecordId": master_id}, moment)
                self._log_deletion(loser, moment)
            self._write(sobject, master_id, {}, moment)

    def _reparent(self, parent: SObject, loser: str, master_id: str, moment: int) -> None:
        for child in self.schema.objects.values():
            for field in child.fields.values():
                if (
                    parent.name not in field.reference_to
                    or field.name == "MasterRecordId"
                    or not field.stored
                ):
                    continue
                rows = self.store.execute(
                    f"SELECT Id FROM {quote(child.name)} WHERE {quote(field.name)} = ?",
                    (loser,),
                ).fetchall()
                for (record_id,) in rows:
                    self._write(child, record_id, {field.name: master_id}, moment)

    def _family(self, record_id: str, deleted: bool | None) -> list[str]:
        """The record, and the contacts that share an account's fate, restricted to one side of the bin."""
        sobject = self._object(record_id)
        self.stored(record_id, "Id")
        members = [record_id]
        if sobject.name == "Account":
            rows = self.store.execute("SELECT Id FROM Contact WHERE AccountId = ?", (record_id,))
            members += [row[0] for row in rows]
        return [each for each in members if deleted is None or self._stored(each) == int(deleted)]

    def _log_deletion(self, record_id: str, stamp: int) -> None:
        name = self._object(record_id).name
        self.store.execute("INSERT INTO delete_log VALUES (?, ?, ?)", (name, record_id, stamp))

    # --- helpers

    def next_id(self, name: str) -> str:
        self._numbers[name] += 7  # neighbours differ in more than the last letter's case
        return ids.make(self.schema.objects[name].key_prefix, self._numbers[name])

    def _moment(self, stamp: datetime | None) -> int:
        return values.seconds(stamp if stamp is not None else self.clock.now())

    def _mirror(self, record_id: str, changes: Values, stamp: int) -> None:
        """Carry a change over to the other half of a person account."""
        if self.options.person_accounts:
            self.people.mirror(record_id, changes, stamp)

    def _create_staff(self) -> None:
        since = values.EPOCH.fromtimestamp(self._born, values.EPOCH.tzinfo)
        people = (("Integration", "User"), ("Ada", "Okonkwo"), ("Jürgen", "Weiß"), ("Mei", "Tanaka"))
        self.user_id = ""
        self.staff = self.create_many(
            "User",
            [
                {
                    "FirstName": first,
                    "LastName": last,
                    "Username": "integration@simulator.example"
                    if last == "User"
                    else f"user{place}@simulator.example",
                    "Email": f"user{place}@simulator.example",
                    "IsActive": True,
                }
                for place, (first, last) in enumerate(people)
            ],
            since,
        )
        self.create(
            "Organization",
            {
                "Name": "Simulator",
                "IsSandbox": False,
                "OrganizationType": "Developer Edition",
                "InstanceName": "SIM0",
                "LanguageLocaleKey": "en_US",
                "TimeZoneSidKey": "Europe/Berlin",
            },
            since,
        )


NAME_PARTS = {"Contact": ("FirstName", "LastName"), "User": ("FirstName", "LastName")}


def complete_name(sobject: SObject, row: Values) -> None:
    """Set a person's Name from its parts; accounts and organizations keep the name they were given."""
    if sobject.name in NAME_PARTS:
        row["Name"] = " ".join(part for part in (row.get("FirstName"), row.get("LastName")) if part) or None
