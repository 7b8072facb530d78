"""changed parents, whose children are queued later and in pieces"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0009"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "changed_parent",
        sa.Column("child", sa.Text(), nullable=False),
        sa.Column("lookup", sa.Text(), nullable=False),
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("after_id", sa.Text(collation="C"), server_default=sa.text("''"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("child", "lookup", "record_id", name=op.f("changed_parent_pkey")),
        schema="sync",
        comment="Changed records whose children (rows of `child` naming them in `lookup`) are not all in "
        "sync.reread yet: those with an Id after `after_id`.",
    )


def downgrade() -> None:
    op.drop_table("changed_parent", schema="sync")
