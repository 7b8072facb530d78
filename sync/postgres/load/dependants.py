"""Records that depend on others: a formula reads a field of their parent, or a merge reparented them.

A parent may have millions of children. The transaction that writes a page therefore notes only the parents;
their children are queued later, in short transactions, under the lease of the children's object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, text

from sync.postgres.tables import REPLICA, qualified_name, quote

CHILDREN_A_PIECE = 5_000  # children queued in one transaction
PARENTS_A_PIECE = 500
# Without an index on the lookup: rows scanned in one transaction, and parents whose children it looks for.
ROWS_A_SCAN, PARENTS_A_SCAN = 20_000, 2_000

POSITION = text("SELECT last_seq FROM sync.feed")
# Entries since the transaction began. All of this object are its own: the lease excludes other writers.
NOTE = text("""
INSERT INTO sync.changed_parent AS p (child, lookup, record_id, whole)
SELECT :child, :lookup, parent.id, bool_or(c.op = 'merge')
  FROM sync.change AS c
 CROSS JOIN LATERAL unnest(ARRAY[c.record_id, c.survivor_id]) AS parent (id)
 WHERE c.seq > :since AND c.object = :object AND parent.id IS NOT NULL
   AND (c.op = 'merge'
        OR (:formula AND (c.op <> 'update' OR :any OR c.changed && CAST(:reads AS text[]))))
 GROUP BY parent.id ORDER BY parent.id
    ON CONFLICT (child, lookup, record_id)
    DO UPDATE SET whole = p.whole OR excluded.whole, after_id = '', at = now()
""")
NEXT_LOOKUP = text("SELECT lookup FROM sync.changed_parent WHERE child = :child ORDER BY whole LIMIT 1")
INDEXED = text("""
SELECT EXISTS (
    SELECT FROM pg_index AS i
      JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = CAST(:table AS regclass) AND a.attname = :lookup
       AND i.indisvalid AND i.indpred IS NULL)
""")
# A page that changes one of these parents waits for the end of this transaction; both lock them in the order
# of their Ids. Parents of merges come last: only they may have more children than are read by Id.
PARENTS = """
SELECT record_id, whole, after_id FROM sync.changed_parent
 WHERE child = :child AND lookup = :lookup AND record_id IN (
       SELECT record_id FROM sync.changed_parent
        WHERE child = :child AND lookup = :lookup ORDER BY whole, record_id LIMIT :parents)
 ORDER BY record_id FOR UPDATE
"""
# Only the index on the lookup may be used: if most rows have the same parent, the planner considers a scan of
# the table cheap, even for parents without children.
BY_INDEX = text("SET LOCAL enable_seqscan = off")
# A parent without further children has one row with NULL; the last parent may have more children than these.
CHILDREN = """
WITH parents AS MATERIALIZED ({parents})
SELECT p.record_id, p.whole, c.id
  FROM parents AS p
  LEFT JOIN LATERAL (
       SELECT id FROM {table}
        WHERE {lookup} = p.record_id AND deleted_at IS NULL AND id || '' > p.after_id
        ORDER BY id || '' LIMIT :most
       ) AS c ON true
 ORDER BY p.whole, p.record_id, c.id LIMIT :most
"""
SCAN = """
WITH piece AS MATERIALIZED (
    SELECT id, {lookup} AS parent, deleted_at FROM {table} WHERE id > :after ORDER BY id LIMIT :rows
), queued AS (
    INSERT INTO sync.reread AS r (object, record_id, whole)
    SELECT :child, piece.id, p.whole
      FROM piece JOIN sync.changed_parent AS p ON p.record_id = piece.parent
     WHERE p.child = :child AND p.lookup = :lookup AND p.record_id = ANY (CAST(:ids AS text[]))
       AND piece.deleted_at IS NULL AND piece.id > p.after_id
        ON CONFLICT (object, record_id) DO UPDATE SET whole = r.whole OR excluded.whole, at = now()
 RETURNING 1
)
SELECT max(id) AS last, count(*) AS rows, (SELECT count(*) FROM queued) AS queued FROM piece
"""
QUEUE = text("""
INSERT INTO sync.reread AS r (object, record_id, whole)
SELECT :child, id, whole FROM unnest(CAST(:ids AS text[]), CAST(:wholes AS boolean[])) AS given (id, whole)
    ON CONFLICT (object, record_id) DO UPDATE SET whole = r.whole OR excluded.whole, at = now()
""")
PARENTS_DONE = text("""
DELETE FROM sync.changed_parent
 WHERE child = :child AND lookup = :lookup AND record_id = ANY (CAST(:ids AS text[]))
""")
PARENTS_DONE_THROUGH = text("""
UPDATE sync.changed_parent SET after_id = greatest(after_id, :last)
 WHERE child = :child AND lookup = :lookup AND record_id = ANY (CAST(:ids AS text[]))
""")


@dataclass(frozen=True, slots=True)
class Dependency:
    """Rows of `object` refer to other records in `column`.

    `reads` are the columns of the referred records, as the feed names them, that formulas of the rows read
    (empty: none, None: possibly any).
    """

    object: str
    column: str
    reads: frozenset[str] | None = frozenset()

    @property
    def formula(self) -> bool:
        """Whether formulas of the rows read the referred records."""
        return self.reads is None or bool(self.reads)


def feed_position(connection: Connection) -> int:
    """Return the last number of the feed: the last committed one, or the caller's own."""
    return int(connection.execute(POSITION).scalar_one())


def note_parents(
    connection: Connection, sobject: str, since: int, dependencies: Sequence[Dependency], *, merged: bool
) -> None:
    """Note the records of an object, changed in the feed after `since`, that other records depend on.

    Records depend on it if a formula reads a changed column, or if a merge reparented them (`merged`: the
    page had a merge). It writes at most one row for each record and dependency, however many children there
    are.
    """
    for dependency in dependencies:
        if merged or dependency.formula:
            values = {
                "child": dependency.object,
                "lookup": dependency.column,
                "object": sobject,
                "since": since,
            }
            values |= {
                "formula": dependency.formula,
                "any": dependency.reads is None,
                "reads": sorted(dependency.reads or ()),
            }
            connection.execute(NOTE, values)


def queue_children(connection: Connection, child: str) -> int:
    """Queue the next children of changed parents, as many as one short transaction can; return their number.

    Parents whose children are all queued are deleted.
    """
    lookup = connection.execute(NEXT_LOOKUP, {"child": child}).scalar()
    if lookup is None:
        return 0
    table = qualified_name(connection, REPLICA[child])
    parameters = {"child": child, "lookup": lookup}
    if connection.execute(INDEXED, {"table": table, "lookup": lookup}).scalar_one():
        return queue_by_index(connection, table, parameters)
    return queue_by_scan(connection, table, parameters)


def queue_by_index(connection: Connection, table: str, parameters: dict[str, str]) -> int:
    """Queue the children of some parents, found by the index on the lookup."""
    statement = text(CHILDREN.format(parents=PARENTS, table=table, lookup=quote(parameters["lookup"])))
    limits = {"parents": PARENTS_A_PIECE, "most": CHILDREN_A_PIECE}
    connection.execute(BY_INDEX)
    found: Sequence[Row[tuple[str, bool, str | None]]] = connection.execute(
        statement, parameters | limits
    ).all()
    children = {row.id: row.whole for row in found if row.id is not None}
    connection.execute(QUEUE, parameters | {"ids": list(children), "wholes": list(children.values())})
    done = {row.record_id for row in found}
    if len(found) == CHILDREN_A_PIECE and found[-1].id is not None:
        last = found[-1]
        done.discard(last.record_id)
        connection.execute(PARENTS_DONE_THROUGH, parameters | {"ids": [last.record_id], "last": last.id})
    connection.execute(PARENTS_DONE, parameters | {"ids": sorted(done)})
    return len(children)


def queue_by_scan(connection: Connection, table: str, parameters: dict[str, str]) -> int:
    """Queue the children of some parents among the next rows by Id.

    Without an index on the lookup, this scans the whole table, in several transactions.
    """
    parents = connection.execute(text(PARENTS), parameters | {"parents": PARENTS_A_SCAN}).all()
    ids = [row.record_id for row in parents]
    after = min((row.after_id for row in parents), default="")
    statement = text(SCAN.format(table=table, lookup=quote(parameters["lookup"])))
    found = connection.execute(
        statement, parameters | {"ids": ids, "after": after, "rows": ROWS_A_SCAN}
    ).one()
    if found.rows < ROWS_A_SCAN:
        connection.execute(PARENTS_DONE, parameters | {"ids": ids})
    else:
        connection.execute(PARENTS_DONE_THROUGH, parameters | {"ids": ids, "last": found.last})
    return int(found.queued)
