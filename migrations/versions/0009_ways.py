"""ways to read: the epoch of records, how long a job takes, what did not add up, what is too slow"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | None = None
depends_on: str | None = None

CHANGES = (
    *("known", "added", "vanished", "returned", "retyped", "resized", "formula", "selected"),
    "left out",
)


def upgrade() -> None:
    op.add_column(
        "lease",
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        schema="sync",
    )
    op.add_column(
        "progress",
        sa.Column("epoch", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        schema="sync",
    )
    op.add_column("progress", sa.Column("began_at", sa.DateTime(timezone=True)), schema="sync")
    op.add_column(
        "progress",
        sa.Column("total", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        schema="sync",
    )
    op.add_column(
        "progress",
        sa.Column("mismatches", sa.Integer(), server_default=sa.text("0"), nullable=False),
        schema="sync",
    )
    op.execute("UPDATE sync.progress SET mismatches = 1 WHERE stepwise")
    op.drop_column("progress", "stepwise", schema="sync")
    op.add_column("cursor", sa.Column("slow_since", sa.DateTime(timezone=True)), schema="sync")
    allow((*CHANGES, "refused"))
    op.execute(
        "COMMENT ON TABLE sync.lease IS 'One writer per object; the fence grows with each owner, "
        "the epoch with each commit of records.'"
    )


def downgrade() -> None:
    op.execute(
        "COMMENT ON TABLE sync.lease IS 'One writer per object; the fence grows with every owner, "
        "and a stale one cannot commit.'"
    )
    op.execute("UPDATE sync.field SET change = 'left out' WHERE change = 'refused'")
    allow(CHANGES)
    op.drop_column("cursor", "slow_since", schema="sync")
    op.add_column(
        "progress",
        sa.Column("stepwise", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema="sync",
    )
    op.execute("UPDATE sync.progress SET stepwise = mismatches > 0")
    op.drop_column("progress", "mismatches", schema="sync")
    op.drop_column("progress", "total", schema="sync")
    op.drop_column("progress", "began_at", schema="sync")
    op.drop_column("progress", "epoch", schema="sync")
    op.drop_column("lease", "epoch", schema="sync")


def allow(changes: tuple[str, ...]) -> None:
    """Let the ledger of fields name these changes."""
    op.drop_constraint(op.f("field_change_check"), "field", schema="sync")
    listed = ", ".join(f"'{change}'" for change in changes)
    op.create_check_constraint(op.f("field_change_check"), "field", f"change IN ({listed})", schema="sync")
