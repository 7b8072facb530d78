"""Named consumers of the feed as operators see them, and the roles that may see values before a change.

Consumers call `crm.subscribe`, `crm.poll` and `crm.ack`, which write `sync.consumer`; operators end them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text

from sync.postgres.tables import allow_long

# Of each consumer: how many entries it has not acknowledged, the age of the oldest one of its objects, and
# whether crm.poll says reload. A consumer whose role was dropped is none. Each costs the reading of a few
# entries, by the indexes on seq and on (object, seq), whatever the statistics say.
BACKLOGS = text("""
SELECT c.role, c.name, c.objects, greatest(f.last_seq - c.seq, 0) AS entries, now() - e.at AS age,
       c.epoch <> sync.epoch() OR c.seq > f.last_seq OR (c.seq < f.last_seq AND next.kept IS NULL) AS lost
  FROM sync.consumer AS c
  JOIN pg_roles AS r ON r.rolname = c.role
 CROSS JOIN sync.feed AS f
  LEFT JOIN LATERAL (
       SELECT true AS kept FROM sync.change AS n WHERE n.seq = c.seq + 1 LIMIT 1
       ) AS next ON true
  LEFT JOIN LATERAL (
       SELECT min(first.at) AS at
         FROM unnest(coalesce(c.objects, ARRAY(SELECT object FROM sync.replicated))) AS o (object)
        CROSS JOIN LATERAL (
              SELECT at FROM sync.change AS n
               WHERE (n.object, n.seq) > (o.object, c.seq) AND n.object <= o.object
               ORDER BY n.object, n.seq LIMIT 1
              ) AS first
       ) AS e ON true
 ORDER BY lost DESC, age DESC NULLS LAST, c.role, c.name
""")
ALLOW = text("INSERT INTO sync.old_values (role) VALUES (:role) ON CONFLICT (role) DO NOTHING")
WITHDRAW = text("DELETE FROM sync.old_values WHERE role = :role")
MAY_SEE = text("SELECT EXISTS (SELECT FROM sync.old_values WHERE role = :role)")
FORGET_ALL = text(
    "UPDATE sync.change SET old = NULL WHERE old IS NOT NULL AND NOT EXISTS (SELECT FROM sync.old_values)"
)
END = text("DELETE FROM sync.consumer WHERE role = :role AND name = :name")
# A consumer that a transaction of its role has locked is left: a role must not hold up its own revocation.
END_ALL = text("""
WITH ended AS (
    DELETE FROM sync.consumer AS c USING (
        SELECT d.role, d.name FROM sync.consumer AS d WHERE d.role = :role FOR UPDATE SKIP LOCKED
    ) AS free WHERE c.role = free.role AND c.name = free.name RETURNING 1
)
SELECT count(*) AS ended,
       (SELECT count(*) FROM sync.consumer AS c WHERE c.role = :role) - count(*) AS locked
  FROM ended
""")
# A role that was dropped, or has another name now: a new role of the old name was not allowed this.
WITHDRAW_DROPPED = text(
    "DELETE FROM sync.old_values AS v WHERE v.role NOT IN (SELECT r.rolname FROM pg_roles AS r)"
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """A named consumer and how far it is behind.

    `objects` are those that it follows (None: all), `entries` the numbers of the feed after its own, `age` is
    that of the oldest entry that it has to read (None: none). `lost`: it has to read the views again.
    """

    role: str
    name: str
    objects: tuple[str, ...] | None
    entries: int
    age: timedelta | None
    lost: bool

    @property
    def label(self) -> str:
        return f"{self.role}/{self.name}"


def backlogs(connection: Connection) -> Sequence[Backlog]:
    """Return all consumers, those first that lost entries, then by the age of what they have not read."""
    return [
        Backlog(r.role, r.name, None if r.objects is None else tuple(r.objects), r.entries, r.age, r.lost)
        for r in connection.execute(BACKLOGS)
    ]


def allow_old_values(connection: Connection, role: str) -> None:
    """Let the consumers of a role see values before a change, from now on."""
    connection.execute(ALLOW, {"role": role})


def withdraw_old_values(connection: Connection, role: str) -> None:
    """Take that back; without any such role, what the feed has kept is erased."""
    if connection.execute(WITHDRAW, {"role": role}).rowcount:
        forget_unseen(connection)


def withdraw_from_dropped_roles(connection: Connection) -> None:
    """Take it back from roles that are no more, as `withdraw_old_values` does."""
    if connection.execute(WITHDRAW_DROPPED).rowcount:
        forget_unseen(connection)


def forget_unseen(connection: Connection) -> None:
    """Erase the old values of the feed if no role may see them."""
    allow_long(connection)
    connection.execute(FORGET_ALL)


def may_see_old_values(connection: Connection, role: str) -> bool:
    """Return whether a role's consumers see values before a change."""
    return bool(connection.execute(MAY_SEE, {"role": role}).scalar_one())


def end_consumer(connection: Connection, role: str, name: str) -> bool:
    """End a role's consumer of this name; return whether there was one."""
    return connection.execute(END, {"role": role, "name": name}).rowcount > 0


def end_consumers(connection: Connection, role: str) -> tuple[int, int]:
    """End a role's consumers; return how many, and how many an open transaction of the role has locked."""
    row = connection.execute(END_ALL, {"role": role}).one()
    return row.ended, row.locked
