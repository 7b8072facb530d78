"""privacy: persons erased on request, tombstones emptied in time, values of excluded fields erased"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None

# Earlier releases quoted the value that did not fit. What stays is the field and the class of the error.
REASONS = """
UPDATE sync.reject
   SET reason = CASE WHEN reason ~ '^[A-Za-z0-9_]+[:] '
                     THEN split_part(array_to_string((string_to_array(reason, ': '))[1:2], ': '), ', got ', 1)
                     ELSE 'refused by Postgres' END
"""
# An older release would store erased persons again, and the proof of their erasure would be gone.
KEEP_THE_PROOF = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM sync.erased) THEN
        RAISE EXCEPTION 'sync.erased names erased persons, whom an earlier release would store again'
            USING HINT = 'Stay at this revision; an earlier release runs on it, but erases nobody.';
    END IF;
END
$$
"""
OPS = "op IN ('insert', 'update', 'delete', 'undelete', 'merge', 'reload'{erase})"
TABLES = ("account", "contact")


def upgrade() -> None:
    op.create_table(
        "erased",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("cause_id", sa.Text(collation="C"), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifted_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("erased_pkey")),
        schema="sync",
        comment="Records erased on request, and never stored again unless lifted: the proof, never pruned.",
    )
    op.create_index(
        op.f("erased_record_id_idx"),
        "erased",
        ["record_id"],
        unique=True,
        schema="sync",
        postgresql_where=sa.text("lifted_at IS NULL"),
    )
    op.add_column("cursor", sa.Column("emptied_through", sa.DateTime(timezone=True)), schema="sync")
    op.add_column("cursor", sa.Column("selection", sa.Text()), schema="sync")
    op.drop_constraint(op.f("change_op_check"), "change", schema="sync")
    op.create_check_constraint(
        op.f("change_op_check"), "change", OPS.format(erase=", 'erase'"), schema="sync"
    )
    op.execute(REASONS)
    for table in TABLES:
        op.create_index(
            op.f(f"{table}_deleted_at_idx"),
            table,
            ["deleted_at"],
            unique=False,
            schema="salesforce",
            postgresql_where=sa.text("deleted_at IS NOT NULL"),
        )


def downgrade() -> None:
    for table in TABLES:
        op.drop_index(op.f(f"{table}_deleted_at_idx"), table_name=table, schema="salesforce")
    op.execute(KEEP_THE_PROOF)
    # The older release knows no erasure; its feed says that the record is gone.
    op.drop_constraint(op.f("change_op_check"), "change", schema="sync")
    op.execute("UPDATE sync.change SET op = 'delete' WHERE op = 'erase'")
    op.create_check_constraint(op.f("change_op_check"), "change", OPS.format(erase=""), schema="sync")
    op.drop_column("cursor", "selection", schema="sync")
    op.drop_column("cursor", "emptied_through", schema="sync")
    op.drop_table("erased", schema="sync")
