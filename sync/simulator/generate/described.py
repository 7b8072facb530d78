"""The records of a fresh org for objects that only a describe tells of, the same for the same seed."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sync.simulator import ids, rows, values
from sync.simulator.fields import Field
from sync.simulator.generate.customers import Times, pick
from sync.simulator.generate.plausible import NULLS, hard, plausible
from sync.simulator.objects.schema import SObject
from sync.simulator.org import Org

SHARE, FEWEST = 5, 5  # unless told otherwise: one record to so many contacts, and no fewer than these
HARD_EVERY = 7
_UNKNOWN_PREFIX = "0zz"  # of records that must be referred to, of objects that the org does not have


class UnknownObjectError(ValueError):
    """Records are asked for of an object that no describe tells of."""


def default_count(contacts: int) -> int:
    """How many records of a described object an org with so many contacts gets."""
    return max(FEWEST, contacts // SHARE) if contacts else 0


def populate(org: Org, counts: Mapping[str, int], contacts: int, seed: int) -> None:
    """Give each described object its records; UnknownObjectError for a count of another object."""
    unknown = counts.keys() - set(org.described)
    if unknown:
        known = ", ".join(org.described) or "none"
        raise UnknownObjectError(f"no describe of {', '.join(sorted(unknown))}; described objects: {known}")
    wanted = {name: counts.get(name, default_count(contacts)) for name in org.described}
    pools = {name: [org.next_id(name) for _ in range(count)] for name, count in wanted.items()}
    if any(wanted.values()):
        pools |= {"User": org.staff, "Account": org.ids("Account"), "Contact": org.ids("Contact")}
    for name in org.described:
        _write(org, org.schema.objects[name], pools, seed)


def _write(org: Org, sobject: SObject, pools: Mapping[str, Sequence[str]], seed: int) -> None:
    columns = [field.name for field in sobject.fields.values() if field.stored]
    draw = random.Random(f"{sobject.name} {seed}")
    times = Times(org.clock.now())

    def written() -> Iterator[list[Any]]:
        for number, record_id in enumerate(pools[sobject.name]):
            row = _row(org, sobject, number, record_id, draw, pools)
            stamps = dict(zip(rows.CREATED_MODIFIED_STAMPED, times.next(draw, number), strict=True))
            row |= {name: stamp for name, stamp in stamps.items() if name in row}
            yield [row[name] for name in columns]

    org.store.insert(sobject, columns, written())


def _row(
    org: Org,
    sobject: SObject,
    number: int,
    record_id: str,
    draw: random.Random,
    pools: Mapping[str, Sequence[str]],
) -> rows.Row:
    row: rows.Row = {}
    make = hard if number % HARD_EVERY == HARD_EVERY - 1 else plausible
    for field in sobject.fields.values():
        if not field.stored:
            continue
        if field.name in ("Id", "IsDeleted", "MasterRecordId"):
            value: Any = {"Id": record_id, "IsDeleted": False}.get(field.name)
        elif field.auto_number:
            value = org.next_auto_number(sobject, field)
        elif field.type == "reference":
            value = _reference(org, field, number, record_id, draw, pools)
        elif field.type == "base64":
            value = f"/services/data/v60.0/sobjects/{sobject.name}/{record_id}/{field.name}"
        else:
            value = make(field, draw, number)
        row[field.name] = values.encode(field, value)
    return row | rows.computed_name(sobject, row)


def _reference(
    org: Org,
    field: Field,
    number: int,
    record_id: str,
    draw: random.Random,
    pools: Mapping[str, Sequence[str]],
) -> str | None:
    """A record of the object that the field leads to, an earlier one of its own object; null for none."""
    target = org.schema.target(field)
    pool = pools.get(target.name, ()) if target is not None else ()
    if target is not None and record_id.startswith(target.key_prefix):
        pool = pool[:number]
    if pool and not (field.nillable and draw.random() < NULLS):
        return str(pick(draw, pool))
    return None if field.nillable else ids.make(_UNKNOWN_PREFIX, number)
