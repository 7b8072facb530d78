"""derived versions: by which version of its computation each derived column is filled"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Empty: nobody knows by what the rows that are there were computed. The next pass computes them again.
    op.create_table(
        "derived",
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("column_name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("object", "column_name", name=op.f("derived_pkey")),
        schema="sync",
        comment="The version of the computation that filled each derived column; without one it is mixed.",
    )


def downgrade() -> None:
    op.drop_table("derived", schema="sync")
