"""Named consumers of the feed as operators see them, and the roles that may see values before a change.

Consumers call `crm.subscribe`, `crm.poll` and `crm.ack`, which alone write `sync.consumer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, text

# Of each consumer: how many entries it has not acknowledged, the age of the oldest one of its objects, and
# whether crm.poll says reload. A consumer whose role was dropped is none.
BACKLOGS = text("""
SELECT c.role, c.name, c.objects, greatest(f.last_seq - c.seq, 0) AS entries, now() - e.at AS age,
       c.epoch <> sync.epoch() OR c.seq > f.last_seq OR (
           c.seq < f.last_seq AND NOT EXISTS (SELECT FROM sync.change AS n WHERE n.seq = c.seq + 1)
       ) AS lost
  FROM sync.consumer AS c
  JOIN pg_roles AS r ON r.rolname = c.role
 CROSS JOIN sync.feed AS f
  LEFT JOIN LATERAL (
       SELECT min(first.at) AS at
         FROM unnest(coalesce(c.objects, ARRAY(SELECT object FROM sync.replicated))) AS o (object)
        CROSS JOIN LATERAL (
              SELECT at FROM sync.change AS n
               WHERE n.object = o.object AND n.seq > c.seq ORDER BY n.seq LIMIT 1
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
END = text("DELETE FROM sync.consumer WHERE role = :role AND (CAST(:name AS text) IS NULL OR name = :name)")


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
        connection.execute(FORGET_ALL)


def may_see_old_values(connection: Connection, role: str) -> bool:
    """Return whether a role's consumers see values before a change."""
    return bool(connection.execute(MAY_SEE, {"role": role}).scalar_one())


def end_consumers(connection: Connection, role: str, name: str | None = None) -> int:
    """End a role's consumer of this name, or all of them; return how many there were."""
    return connection.execute(END, {"role": role, "name": name}).rowcount
