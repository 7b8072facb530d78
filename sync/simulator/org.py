"""The org: the life of records, from creation through the recycle bin to the purge."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sync.simulator import admin, ids, rows, values
from sync.simulator.bulk.jobs import Jobs
from sync.simulator.clock import Clock
from sync.simulator.fields import Field
from sync.simulator.objects import staff
from sync.simulator.objects.schema import SObject
from sync.simulator.options import Options
from sync.simulator.queries import Queries
from sync.simulator.rows import Row, Values
from sync.simulator.state import open_state
from sync.simulator.store import quote

AGE = timedelta(days=6 * 365)


class Org:
    """Records and their stamps. Every public call takes the one lock, so tests and server threads may mix.

    A ``stamp`` is the SystemModstamp to write, an aware datetime; without one it is the clock's now.
    """

    def __init__(
        self, path: Path, clock: Clock, options: Options, seed: int = 1, described: Iterable[SObject] = ()
    ) -> None:
        self.state = state = open_state(path, clock, options, described)
        self.lock, self.clock, self.options = state.lock, clock, options
        self.schema, self.store, self.formulas = state.schema, state.store, state.formulas
        self.described_at = clock.stamp()  # when the schema last changed
        self.delete_log_start: int | None = None  # deletions before it are forgotten: the log was purged
        self._numbers = ids.Numbers(seed)
        self.user_id = ""
        born = clock.now() - AGE
        self.staff = self.create_many("User", staff.USERS, born)
        self.user_id = self.staff[0]
        self.organization_id = self.create("Organization", staff.ORGANIZATION, born)
        self.permission_set_id = self.create("PermissionSet", staff.PERMISSION_SET, born)
        assignment = {"AssigneeId": self.user_id, "PermissionSetId": self.permission_set_id}
        self.create("PermissionSetAssignment", assignment, born)
        self.described = [name for name, each in self.schema.objects.items() if each.recorded]
        for name in (*staff.PERMITTED, *self.described):
            self._permit(name, born)
        self.queries = Queries(state, seed)
        self.jobs = Jobs(state, self.queries, seed, self.user_id)

    def close(self) -> None:
        self.jobs.close()
        with self.lock:
            self.store.close()

    def add_object(self, sobject: SObject) -> None:
        """Add an object that ``read_describe`` made; ValueError when the org has one of this name."""
        with self._altering():
            self.schema.add(sobject)
            self.store.create_table(sobject)
            self.store.create_indexes(sobject, self.schema.parent_fields(sobject))
            self.described.append(sobject.name)
            self._permit(sobject.name, self.clock.now())

    def create_indexes(self) -> None:
        """Index all objects; once, when the first records are written."""
        for sobject in self.schema.objects.values():
            self.store.create_indexes(sobject, self.schema.parent_fields(sobject))

    def _permit(self, name: str, stamp: datetime) -> None:
        permission = {"SobjectType": name, "PermissionsRead": True, "PermissionsViewAllRecords": True}
        self.create("ObjectPermissions", {"ParentId": self.permission_set_id, **permission}, stamp)

    # --- reading

    def ids(self, name: str, deleted: bool | None = None) -> list[str]:
        """Ids of an object in byte order; ``deleted`` True: the recycle bin, False: live ones, None: both."""
        with self.lock:
            where = self._where(name, deleted)
            found = self.store.execute(f"SELECT Id FROM {quote(name)} t{where} ORDER BY Id")
            return [row[0] for row in found]

    def count(self, name: str, deleted: bool | None = None) -> int:
        with self.lock:
            where = self._where(name, deleted)
            found = self.store.execute(f"SELECT COUNT(*) FROM {quote(name)} t{where}")
            return int(found.fetchone()[0])

    def record(self, record_id: str) -> Row:
        """A record exactly as REST gives it, hidden fields too; KeyError when it is unknown."""
        with self.lock:
            sobject = self._object(record_id)
            self._stored(record_id, "Id")
            return self.queries.everything(sobject.name, f"WHERE t.Id = '{record_id}'")[0]

    def exists(self, record_id: str, deleted: bool | None = None) -> bool:
        """True for a known record; ``deleted`` as for ``ids``."""
        with self.lock:
            sobject = self.schema.object_of_id(record_id)
            if sobject is None:
                return False
            where = self._where(sobject.name, deleted) or " WHERE true"
            sql = f"SELECT 1 FROM {quote(sobject.name)} t{where} AND Id = ?"
            return self.store.execute(sql, (record_id,)).fetchone() is not None

    def records(self, name: str, deleted: bool | None = None) -> list[Row]:
        """All records of an object, as ``record`` gives them, in the order of their Ids."""
        with self.lock:
            return self.queries.everything(name, self._where(name, deleted) + " ORDER BY t.Id")

    def _where(self, name: str, deleted: bool | None) -> str:
        if deleted is None or not self.schema.objects[name].recyclable:
            return ""
        return f" WHERE t.IsDeleted = {int(deleted)}"

    def _stored(self, record_id: str, *names: str) -> tuple[Any, ...]:
        sobject = self._object(record_id)
        columns = ", ".join(map(quote, names))
        found = self.store.execute(f"SELECT {columns} FROM {quote(sobject.name)} WHERE Id = ?", (record_id,))
        row: tuple[Any, ...] | None = found.fetchone()
        if row is None:
            raise KeyError(f"no record {record_id}")
        return row

    def _object(self, record_id: str) -> SObject:
        sobject = self.schema.object_of_id(record_id)
        if sobject is None:
            raise KeyError(f"no object has records like {record_id}")
        return sobject

    # --- creating and changing

    def create(self, name: str, record: Values, stamp: datetime | None = None) -> str:
        """Insert one record, return its Id; CreatedDate and LastModifiedDate are the stamp unless given."""
        return self.create_many(name, [record], stamp)[0]

    def create_many(self, name: str, records: Iterable[Values], stamp: datetime | None = None) -> list[str]:
        """Insert records that share one stamp, return their Ids; ValueError when a value does not fit."""
        with self.lock, self.store.transaction():
            sobject = self.schema.objects[name]
            moment = self._moment(stamp)
            written = [self._new_row(sobject, record, moment) for record in records]
            self._insert(sobject, written)
            persons = [row for row in written if row.get("IsPersonAccount") and name == "Account"]
            if persons:
                self._insert(
                    self.schema.objects["Contact"], [self._contact_half(row, moment) for row in persons]
                )
            return [str(row["Id"]) for row in written]

    def _new_row(self, sobject: SObject, record: Values, moment: int) -> Row:
        record_id = self.next_id(sobject.name)
        if self.options.person_accounts and rows.is_person(sobject, record):
            contact_id = self.next_id("Contact")
            record = {"IsPersonAccount": True, "PersonContactId": contact_id, **record}
        numbers = {
            field.name: self.next_auto_number(sobject, field)
            for field in sobject.fields.values()
            if field.auto_number and record.get(field.name) is None
        }
        return rows.new_row(sobject, {**record, **numbers}, record_id, moment, self.user_id)

    def _contact_half(self, account: Row, moment: int) -> Row:
        contact = self.schema.objects["Contact"]
        row = rows.new_row(contact, {"LastName": "-"}, account["PersonContactId"], moment, self.user_id)
        row |= rows.contact_half(account)
        return row | rows.computed_name(contact, row)

    def _insert(self, sobject: SObject, written: Sequence[Row]) -> None:
        columns = [field.name for field in sobject.fields.values() if field.stored]
        self.store.insert(sobject, columns, ([row.get(column) for column in columns] for row in written))

    def update(
        self, record_id: str, changes: Values, stamp: datetime | None = None, system_only: bool = False
    ) -> None:
        """Change a record. A stamp in the past is an update that commits late.

        ``system_only`` moves SystemModstamp but not LastModifiedDate, as Salesforce's own jobs do.
        Raises KeyError for an unknown record, ValueError for one in the bin or a value that does not fit.
        """
        with self.lock, self.store.transaction():
            sobject = self._object(record_id)
            if self._in_bin(record_id):
                raise ValueError(f"entity is deleted: {record_id}")
            moment = self._moment(stamp)
            self._write(record_id, rows.encode(sobject, changes), moment, system_only)
            other = self._other_half(record_id)
            mirrored = rows.mirrored(sobject, changes)
            if other is not None and mirrored:
                self._write(other, rows.encode(self._object(other), mirrored), moment, system_only)

    def update_many(self, record_ids: Iterable[str], changes: Values, stamp: datetime | None = None) -> None:
        """Change many records alike in one transaction, with one stamp, as a data load does."""
        with self.lock, self.store.transaction():
            moment = stamp or self.clock.now()
            for record_id in record_ids:
                self.update(record_id, changes, moment)

    def _other_half(self, record_id: str) -> str | None:
        """The contact of a person account, or the account of its contact."""
        name = self._object(record_id).name
        if not self.options.person_accounts or name not in ("Account", "Contact"):
            return None
        partner = "PersonContactId" if name == "Account" else "AccountId"
        is_person, other = self._stored(record_id, "IsPersonAccount", partner)
        return str(other) if is_person and other else None

    def _write(self, record_id: str, changes: Row, moment: int, system_only: bool = False) -> None:
        sobject = self._object(record_id)
        stamps = {name: moment for name in ("SystemModstamp",) if name in sobject.fields}
        if not system_only and "LastModifiedDate" in sobject.fields:
            stamps["LastModifiedDate"] = moment
        if changes.keys() & set(rows.NAME_PARTS):
            known = [name for name in (*rows.NAME_PARTS, "IsPersonAccount") if name in sobject.fields]
            row = dict(zip(known, self._stored(record_id, *known), strict=True)) | changes
            changes = changes | rows.computed_name(sobject, row)
        if stamps or changes:
            self.store.update(sobject, record_id, stamps | changes)

    # --- the recycle bin

    def delete(self, record_id: str, stamp: datetime | None = None) -> None:
        """Move a record and its dependants into the recycle bin; KeyError when it is unknown.

        A record of an object without recycle bin (no IsDeleted) is gone for good.
        """
        with self.lock, self.store.transaction():
            moment = self._moment(stamp)
            for each in self._family(record_id, deleted=False):
                if self._object(each).recyclable:
                    self._write(each, {"IsDeleted": 1}, moment)
                else:
                    self._remove(each)
                self._log_deletion(each, moment)

    def undelete(self, record_id: str, bump: bool | None = None, stamp: datetime | None = None) -> None:
        """Take a record and its dependants out of the bin; ``bump=False`` keeps the stamps."""
        with self.lock, self.store.transaction():
            moment = self._moment(stamp)
            bumps = self.options.undelete_bumps if bump is None else bump
            family = self._family(record_id, deleted=True)
            together = self._stamp(record_id)
            for each in family:
                if self._stamp(each) not in (together, None):
                    continue  # a contact that was in the bin before its account went
                fields = self._object(each).fields
                restored = {
                    "IsDeleted": 0,
                    **({"MasterRecordId": None} if "MasterRecordId" in fields else {}),
                }
                if bumps:
                    self._write(each, restored, moment)
                else:
                    self.store.update(self._object(each), each, restored)
                if not self.options.undeleted_stay_listed:
                    self.store.execute("DELETE FROM delete_log WHERE id = ?", (each,))

    def purge(self, record_id: str, log: bool = True) -> None:
        """Remove a record and its dependants for good, live or from the bin.

        The delete log keeps a trace for getDeleted unless ``log`` is False.
        """
        with self.lock, self.store.transaction():
            for each in self._family(record_id, deleted=None):
                known = self.store.execute("SELECT 1 FROM delete_log WHERE id = ?", (each,)).fetchone()
                if log and (known is None or not self._in_bin(each)):
                    self._log_deletion(each, self._moment(None))
                if not log:
                    self.store.execute("DELETE FROM delete_log WHERE id = ?", (each,))
                self._remove(each)

    def purge_delete_log(self, until: datetime | None = None) -> None:
        """Forget deletions before a moment, as Salesforce's cleaning job does when the log grows too long."""
        with self.lock:
            self.delete_log_start = self._moment(until)
            self.store.execute("DELETE FROM delete_log WHERE stamp < ?", (self.delete_log_start,))

    def merge(self, master_id: str, losers: Sequence[str], stamp: datetime | None = None) -> None:
        """Merge losers into a master: they go to the bin, their children to the master.

        Raises ValueError for an object whose records cannot be merged.
        """
        with self.lock, self.store.transaction():
            sobject = self._object(master_id)
            if not sobject.mergeable or "MasterRecordId" not in sobject.fields:
                raise ValueError(f"{sobject.name} is not mergeable")
            moment = self._moment(stamp)
            for record_id in (master_id, *losers):
                self._stored(record_id, "Id")
            for loser in losers:
                self._reparent(loser, master_id, moment)
                self._write(loser, {"IsDeleted": 1, "MasterRecordId": master_id}, moment)
                self._log_deletion(loser, moment)
            self._write(master_id, {}, moment)

    def _reparent(self, loser: str, master_id: str, moment: int) -> None:
        parent = self._object(master_id).name
        for child in self.schema.objects.values():
            for field in child.fields.values():
                if parent not in field.reference_to or field.name == "MasterRecordId" or not field.stored:
                    continue
                sql = f"SELECT Id FROM {quote(child.name)} WHERE {quote(field.name)} = ?"
                for (record_id,) in self.store.execute(sql, (loser,)).fetchall():
                    self._write(record_id, {field.name: master_id}, moment)

    def _family(self, record_id: str, deleted: bool | None) -> list[str]:
        """The record, and those that share its fate, restricted to one side of the bin."""
        self._stored(record_id, "Id")
        other = self._other_half(record_id)
        account = other if other is not None and self._object(other).name == "Account" else record_id
        members = {account: self._object(account)}
        level = members
        while level:  # dependants have dependants
            level = {each: child for each, child in self._dependants(level) if each not in members}
            members |= level
        return [each for each in members if deleted is None or self._in_bin(each) == deleted]

    def _dependants(self, parents: dict[str, SObject]) -> Iterator[tuple[str, SObject]]:
        """The records that go with some records, and their objects."""
        fields = {each.name: self.schema.dependants(each) for each in parents.values()}
        for record_id, sobject in parents.items():
            for child, field in fields[sobject.name]:
                sql = f"SELECT Id FROM {quote(child.name)} WHERE {quote(field.name)} = ?"
                yield from ((row[0], child) for row in self.store.execute(sql, (record_id,)))

    def _in_bin(self, record_id: str) -> bool:
        return self._object(record_id).recyclable and bool(self._stored(record_id, "IsDeleted")[0])

    def _stamp(self, record_id: str) -> Any:
        name = self._object(record_id).stamp_field
        return None if name is None else self._stored(record_id, name)[0]

    def _remove(self, record_id: str) -> None:
        name = self._object(record_id).name
        self.store.execute(f"DELETE FROM {quote(name)} WHERE Id = ?", (record_id,))

    def _log_deletion(self, record_id: str, moment: int) -> None:
        name = self._object(record_id).name
        self.store.execute("INSERT INTO delete_log VALUES (?, ?, ?)", (name, record_id, moment))

    # --- the schema; none of this moves a stamp

    def add_field(self, name: str, field: Field) -> None:
        """Add a field to an object, null (false) in all records."""
        with self._altering():
            admin.add_field(self.state, name, field)

    def remove_field(self, name: str, field_name: str) -> None:
        with self._altering():
            admin.remove_field(self.state, name, field_name)

    def retype_field(self, name: str, field_name: str, **changes: Any) -> None:
        """Change a field in place, as by ``type="string", length=80``; values follow where they can.

        With person accounts a contact's field and its Person field of Account are one.
        """
        with self._altering():
            admin.retype_field(self.state, name, field_name, changes)
            other = rows.other_half(name, field_name) if self.options.person_accounts else None
            if other is not None:
                admin.retype_field(self.state, *other, changes)

    def change_formula(self, name: str, field_name: str, change: Callable[..., Any] | Any) -> None:
        """Give a calculated field a new function of its inputs, or a value to add to what it gave before."""
        with self._altering():
            admin.change_formula(self.state, name, field_name, change)

    def hide_field(self, name: str, field_name: str) -> None:
        """Take a field from the integration user, as field-level security does."""
        with self._altering():
            admin.show(self.schema.objects[name], field_name, visible=False)

    def show_field(self, name: str, field_name: str) -> None:
        with self._altering():
            admin.show(self.schema.objects[name], field_name, visible=True)

    def hide_object(self, name: str) -> None:
        with self._altering():
            self.schema.objects[name].hidden = True

    def show_object(self, name: str) -> None:
        with self._altering():
            self.schema.objects[name].hidden = False

    @contextmanager
    def _altering(self) -> Iterator[None]:
        with self.lock:
            yield
            self.schema.generation += 1
            # A describe read earlier in this very second must not count as still valid.
            self.described_at = self.clock.stamp() + timedelta(seconds=1)
            for sobject in self.schema.objects.values():
                self.formulas.register(sobject)  # their inputs may have another type now

    # --- helpers

    def next_id(self, name: str) -> str:
        return self._numbers.next_id(self.schema.objects[name].key_prefix)

    def next_auto_number(self, sobject: SObject, field: Field) -> str:
        return self._numbers.next_auto_number(sobject.name, field.name)

    def _moment(self, stamp: datetime | None) -> int:
        return values.seconds(stamp if stamp is not None else self.clock.now())
