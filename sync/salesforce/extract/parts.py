"""Records with more fields than one query can hold: read by several queries, joined by Id and stamp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import ceil, inf
from operator import itemgetter
from urllib.parse import quote_plus

from sync.catalogue.mapping import PLACING, Projection, is_id
from sync.catalogue.transform import Batch, Record
from sync.errors import SalesforceError
from sync.salesforce import soql
from sync.salesforce.extract.pages import RowBuilder
from sync.salesforce.extract.rest import by_id as asked_by_id
from sync.salesforce.learned import Learned
from sync.salesforce.session.session import Session
from sync.window import Key, Page, Progress, Scope

IDS_PER_QUERY, BYTES_PER_ID = 200, 28  # an Id with its quotes and comma, escaped
BETWEEN_NAMES = len(quote_plus(", "))
ROUNDS = 4  # readings of a record that changes between two of its parts


class RestlessError(SalesforceError):
    """Records kept changing while their parts were read; all others were read."""


def split(projection: Projection, formulas: int | None, room: float) -> list[Projection]:
    """Split the fields into as few queries as possible, each with `room` bytes in a URL and `formulas`
    formulas.

    A field that is too long for any query gets its own. Id, SystemModstamp and IsDeleted are in each query.
    """
    calculated = calculated_fields(projection)
    empty = query_length(projection.only(()))
    groups: list[list[str]] = [[]]
    size, found = empty, 0
    # Formulas come last, so that stored fields are read together.
    for name in sorted((n for n in projection.names if n not in PLACING), key=calculated.__contains__):
        needed = len(quote_plus(name)) + BETWEEN_NAMES
        full = size + needed > room or (formulas is not None and name in calculated and found >= formulas)
        if groups[-1] and full:
            groups.append([])
            size, found = empty, 0
        groups[-1].append(name)
        size, found = size + needed, found + (name in calculated)
    return [projection.only(group) for group in groups] if len(groups) > 1 else [projection]


def calculated_fields(projection: Projection) -> set[str]:
    """Return the selected fields that are formulas or roll-ups."""
    return {field.name for field in projection.described if field.calculated} & set(projection.names)


def query_length(projection: Projection) -> int:
    """Return the largest number of bytes that a window's query takes in a URL."""
    latest = Key(datetime.max.replace(tzinfo=UTC), "0" * 18)
    return len(quote_plus(soql.select(projection, Scope(latest.stamp), latest)))


def of_window(projection: Projection, learned: Learned) -> list[Projection]:
    """The parts in which a window is read by REST: the first by its query, the others by its records' Ids."""
    return with_rest(projection, learned, split(projection, learned.formulas, learned.longest)[0])


def of_job(projection: Projection, learned: Learned) -> list[Projection]:
    """The parts of a Bulk job, whose query is in no URL."""
    return with_rest(projection, learned, split(projection, learned.formulas, inf)[0])


def of_ids(projection: Projection, learned: Learned) -> list[Projection]:
    """The parts in which records are read by their Ids."""
    room_for_ids = min(IDS_PER_QUERY * BYTES_PER_ID, learned.longest // 2)
    return split(projection, learned.formulas, learned.longest - room_for_ids)


def with_rest(projection: Projection, learned: Learned, first: Projection) -> list[Projection]:
    left = set(projection.names) - set(first.names)
    return [first, *(of_ids(projection.only(left), learned) if left else ())]


def as_they_are(records: Sequence[Record]) -> Batch:
    """A batch of records that are not made into rows."""
    return Batch(records=records, ids=[str(record[0]) for record in records])


def join_pages(
    session: Session,
    projection: Projection,
    parts: Sequence[Projection],
    pages: Iterator[Page],
    build_rows: RowBuilder,
) -> Iterator[Page]:
    """Pages of the first part's records, as they are, with the other parts; `make` makes the whole ones.

    RestlessError at the end, after all others, where records changed whenever another part was asked for.
    """
    restless_ids: list[str] = []
    joined_progress = Progress()
    for page in pages:
        records, left = join_records(session, projection, parts, page.batch.records)
        restless_ids += left
        # From the first of those on nothing is claimed to be read.
        joined_progress = joined_progress if restless_ids else page.progress
        yield replace(page, batch=build_rows(records) if records else Batch(), progress=joined_progress)
        del page, records
    if restless_ids:
        raise RestlessError(
            f"{projection.sobject.name}: {', '.join(restless_ids[:3])} changed again and again while read in "
            f"{len(parts)} parts ({len(restless_ids):,} in all); a later run reads what changes less often"
        )


def by_id(session: Session, part: Projection, ids: Sequence[str], build_rows: RowBuilder) -> Iterator[Page]:
    """The records with these Ids, as many at once as a URL has room for beside the fields."""
    return asked_by_id(session, part, ids, ids_per_query(session, part), build_rows)


def ids_per_query(session: Session, part: Projection) -> int:
    """The number of Ids that a query for this part may have in its URL."""
    room = session.learned(part.sobject.name).longest - query_length(part)
    return max(1, min(IDS_PER_QUERY, room // BYTES_PER_ID))


def estimate_calls(session: Session, projection: Projection, ids: int) -> int:
    """Estimate the API calls for reading so many records by Id."""
    groups = of_ids(projection, session.learned(projection.sobject.name))
    return sum(ceil(ids / ids_per_query(session, part)) for part in groups)


def join_records(
    session: Session, projection: Projection, parts: Sequence[Projection], records: Sequence[Record]
) -> tuple[list[Record], list[str]]:
    """Records of the first part with the values of the others, each as it was at one moment.

    One that changed between two parts is asked for again; one that is gone by now is left out. The second
    list has the Ids of those that changed each time.
    """
    names = [name for part in parts for name in part.names]
    in_order = itemgetter(*map(names.index, projection.names))
    version_getters = [
        itemgetter(part.names.index("IsDeleted"), part.names.index("SystemModstamp")) for part in parts
    ]
    identity = parts[0].names.index("Id")
    blank = tuple("" for part in parts[1:] for _ in part.names)
    # What has no Id is rejected further on; nobody can be asked for the rest of it.
    whole = [in_order((*record, *blank)) for record in records if not is_id(str(record[identity]))]
    current = {record[identity]: record for record in records if is_id(str(record[identity]))}
    for _ in range(ROUNDS):
        if not current:
            break
        others = [read_part(session, part, list(current)) for part in parts[1:]]
        moved = []
        for id_, record in current.items():
            pieces = [record, *(other[id_] for other in others if id_ in other)]
            if len(pieces) < len(parts):
                continue
            if len({version(*get(piece)) for get, piece in zip(version_getters, pieces, strict=True)}) > 1:
                moved.append(id_)
            else:
                whole.append(in_order(tuple(value for piece in pieces for value in piece)))
        current = read_part(session, parts[0], moved)
    return whole, list(current)


def version(deleted: str, stamp: str) -> tuple[str, str]:
    """What is the same in two parts of a record as of one moment; APIs write the time zone in two ways."""
    return deleted, stamp[:19]


def read_part(session: Session, part: Projection, ids: Sequence[str]) -> dict[str, Record]:
    """A part of the records with these Ids."""
    identity = part.names.index("Id")
    pages = by_id(session, part, ids, as_they_are)
    return {record[identity]: record for page in pages for record in page.batch.records}
