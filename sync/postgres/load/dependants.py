"""Records that depend on others: a formula reads a field of their parent, or a merge moved them.

A parent may have any number of them. So the transaction that writes a page notes its parents alone; their
children are queued afterwards, in pieces, under the lease of the children's object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, text

from sync.postgres.tables import REPLICA, located, quoted

CHILDREN_A_PIECE = 5_000  # records queued in one transaction
PARENTS_A_PIECE = 500
# Without an index on the look-up: rows read in one transaction, and parents whose children are among them.
ROWS_A_SCAN, PARENTS_A_SCAN = 20_000, 2_000

POSITION = text("SELECT last_seq FROM sync.feed")
# Entries since the transaction began; those of this object are its own: nobody else holds the object's lease.
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
# A page that changes one of these parents meanwhile waits for the end of this transaction; both lock them in
# the order of their Ids. Those of merges come last: they alone may have more children than are read by Id.
PARENTS = """
SELECT record_id, whole, after_id FROM sync.changed_parent
 WHERE child = :child AND lookup = :lookup AND record_id IN (
       SELECT record_id FROM sync.changed_parent
        WHERE child = :child AND lookup = :lookup ORDER BY whole, record_id LIMIT :parents)
 ORDER BY record_id FOR UPDATE
"""
# The index on the look-up is the only one that may be used: where most rows have one parent, statistics let a
# scan of the table look cheap, also for the parents that have no child.
BY_INDEX = text("SET LOCAL enable_seqscan = off")
# A parent without a child that is left has a line with a NULL; the last parent may have more than are here.
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
    """Rows of `object` name others in `column`, and their formulas read `reads` of those: columns as the feed
    names them, none where no formula does, None where it may be any."""

    object: str
    column: str
    reads: frozenset[str] | None = frozenset()

    @property
    def formula(self) -> bool:
        """Whether values of the rows are computed from the others."""
        return self.reads is None or bool(self.reads)


def feed_position(connection: Connection) -> int:
    """The last number of the feed that is committed, or of the caller's transaction."""
    return int(connection.execute(POSITION).scalar_one())


def note_parents(
    connection: Connection, sobject: str, since: int, dependencies: Sequence[Dependency], *, merged: bool
) -> None:
    """Note the records of an object, of those in the feed `since` a number, on which others depend.

    A formula reads one of the columns that changed, or a merge moved others (`merged`: there was a merge).
    At most a line per record and edge, whatever the number of records that depend on it.
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
    """Queue the next children of changed parents for reading, so many as one short transaction may; how many
    they were. Parents whose children are all queued are forgotten."""
    lookup = connection.execute(NEXT_LOOKUP, {"child": child}).scalar()
    if lookup is None:
        return 0
    table = located(connection, REPLICA[child])
    given = {"child": child, "lookup": lookup}
    if connection.execute(INDEXED, {"table": table, "lookup": lookup}).scalar_one():
        return queue_by_index(connection, table, given)
    return queue_by_scan(connection, table, given)


def queue_by_index(connection: Connection, table: str, given: dict[str, str]) -> int:
    """The children of some parents, found by the index on the look-up."""
    statement = text(CHILDREN.format(parents=PARENTS, table=table, lookup=quoted(given["lookup"])))
    limits = {"parents": PARENTS_A_PIECE, "most": CHILDREN_A_PIECE}
    connection.execute(BY_INDEX)
    found: Sequence[Row[tuple[str, bool, str | None]]] = connection.execute(statement, given | limits).all()
    children = {row.id: row.whole for row in found if row.id is not None}
    connection.execute(QUEUE, given | {"ids": list(children), "wholes": list(children.values())})
    done = {row.record_id for row in found}
    if len(found) == CHILDREN_A_PIECE and found[-1].id is not None:
        last = found[-1]
        done.discard(last.record_id)
        connection.execute(PARENTS_DONE_THROUGH, given | {"ids": [last.record_id], "last": last.id})
    connection.execute(PARENTS_DONE, given | {"ids": sorted(done)})
    return len(children)


def queue_by_scan(connection: Connection, table: str, given: dict[str, str]) -> int:
    """The children of some parents among the next rows by Id: without an index on the look-up the whole table
    is gone through, piece by piece."""
    parents = connection.execute(text(PARENTS), given | {"parents": PARENTS_A_SCAN}).all()
    ids = [row.record_id for row in parents]
    after = min((row.after_id for row in parents), default="")
    statement = text(SCAN.format(table=table, lookup=quoted(given["lookup"])))
    found = connection.execute(statement, given | {"ids": ids, "after": after, "rows": ROWS_A_SCAN}).one()
    if found.rows < ROWS_A_SCAN:
        connection.execute(PARENTS_DONE, given | {"ids": ids})
    else:
        connection.execute(PARENTS_DONE_THROUGH, given | {"ids": ids, "last": found.last})
    return int(found.queued)
