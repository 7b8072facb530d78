"""short writes: what each pass changes in a cursor lies together, before what it leaves as it is

An update writes to the WAL what lies between the first and the last changed column, and all of the row where its
page has no room for another version.
"""

from __future__ import annotations

from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | None = None
depends_on: str | None = None

# The longest columns, which passes do not change.
COLUMNS = {
    "hidden": "text[] NOT NULL DEFAULT '{}'",
    "backfill": "text[] NOT NULL DEFAULT '{}'",
    "selection": "text",
}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE sync.cursor ADD COLUMN moved {kind}")
        op.execute(f"UPDATE sync.cursor SET moved = {name}")
        op.execute(f"ALTER TABLE sync.cursor DROP COLUMN {name}")
        op.execute(f"ALTER TABLE sync.cursor RENAME COLUMN moved TO {name}")
    op.execute("ALTER TABLE sync.cursor SET (fillfactor = 50)")


def downgrade() -> None:
    op.execute("ALTER TABLE sync.cursor RESET (fillfactor)")
