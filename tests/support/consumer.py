"""A consumer as another team would write it: `python -m tests.support.consumer DATABASE_URL` copies `crm.contact`.

It knows psycopg2, `crm.changes()` and `crm.contact`, and nothing of the product. Each entry is printed as
soon as it is read; the copy and the number of the last entry are committed together.
"""

from __future__ import annotations

import sys
import time

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import RealDictCursor

AT_ONCE = 7
POLL_SECONDS = 0.05

OWN = """
CREATE SCHEMA IF NOT EXISTS replica;
CREATE TABLE IF NOT EXISTS replica.contact (id text PRIMARY KEY, doc jsonb NOT NULL);
CREATE TABLE IF NOT EXISTS replica.position (
    single bool PRIMARY KEY DEFAULT true CHECK (single),
    seq bigint NOT NULL
);
INSERT INTO replica.position (seq) VALUES (0) ON CONFLICT DO NOTHING;
"""
# Locked: what a killed process sent last may still be on its way to a commit.
POSITION = "SELECT seq FROM replica.position FOR UPDATE"
REMEMBER = "UPDATE replica.position SET seq = %s"
CHANGES = "SELECT * FROM crm.changes(after => %s, max => %s)"
FORGET_ALL = "DELETE FROM replica.contact"
COPY_ALL = "INSERT INTO replica.contact SELECT c.id, to_jsonb(c) FROM crm.contact AS c"
COPY_ONE = """
INSERT INTO replica.contact SELECT c.id, to_jsonb(c) FROM crm.contact AS c WHERE c.id = %s
ON CONFLICT (id) DO UPDATE SET doc = excluded.doc
"""
FORGET_ONE = "DELETE FROM replica.contact WHERE id = %s"


def follow(cursor: Cursor, op: str, record_id: str | None) -> None:
    """Bring the copy to what `crm.contact` holds now of what an entry names."""
    if op == "reload":
        cursor.execute(FORGET_ALL)
        cursor.execute(COPY_ALL)
        return
    cursor.execute(COPY_ONE, [record_id])
    if cursor.rowcount == 0:
        cursor.execute(FORGET_ONE, [record_id])


def consume(connection: Connection) -> int:
    """The next entries in one transaction; how many there were."""
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(POSITION)
        [position] = cursor.fetchall()
        cursor.execute(CHANGES, [position["seq"], AT_ONCE])
        entries = cursor.fetchall()
        for entry in entries:
            print(entry["seq"], entry["object"], entry["record_id"], entry["op"], flush=True)
            if entry["object"] == "Contact":
                follow(cursor, entry["op"], entry["record_id"])
        if entries:
            cursor.execute(REMEMBER, [entries[-1]["seq"]])
    return len(entries)


def main(url: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(OWN)
    while True:
        if not consume(connection):
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
