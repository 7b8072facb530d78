"""replica schema and listings: the schema that was chosen is remembered; one listing table an object"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations import replicas
from sync.postgres.replica_schema import STANDARD

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None

OBJECTS = ("account", "contact")
# An older release that verifies at this moment goes on: its table stays, and is emptied only when it is not
# in use.
GIVE_BACK = """
DO $$
BEGIN
    SET LOCAL lock_timeout = '1s';
    LOCK TABLE sync.listing IN ACCESS EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM sync.listing) THEN
        TRUNCATE sync.listing;
    END IF;
EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
    NULL;
END
$$
"""
BEFORE, AFTER = (
    "What a verify has listed so far; empty between two of them.",
    "What a verify of an older release has listed so far; this one has a table for each object.",
)


def upgrade() -> None:
    if not sa.inspect(op.get_bind()).has_table("replica_schema", schema="sync"):
        replicas.remember(STANDARD)  # migrated when the name was no setting
    for name in OBJECTS:
        op.create_table(
            f"listing_{name}",
            sa.Column("record_id", sa.Text(collation="C"), nullable=False),
            sa.Column("system_modstamp", sa.DateTime(timezone=True), nullable=False),
            sa.PrimaryKeyConstraint("record_id", name=op.f(f"listing_{name}_pkey")),
            schema="sync",
            comment="What a verify of the object has listed so far; empty between two of them.",
            prefixes=["UNLOGGED"],
        )
    op.execute(GIVE_BACK)
    op.create_table_comment("listing", AFTER, existing_comment=BEFORE, schema="sync")


def downgrade() -> None:
    op.create_table_comment("listing", BEFORE, existing_comment=AFTER, schema="sync")
    for name in reversed(OBJECTS):
        op.drop_table(f"listing_{name}", schema="sync")
    # The name of the replicas' schema stays: forgotten, it would be taken for the usual one.
