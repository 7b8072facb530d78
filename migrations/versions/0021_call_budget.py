"""call budget: API calls of a run by kind, the org's usage, and which kinds of work are deferred since when"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column(
        "run", sa.Column("calls", JSONB(), server_default=sa.text("'{}'"), nullable=False), schema="sync"
    )
    op.create_table(
        "budget",
        sa.Column("single", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=True),
        sa.Column("daily_limit", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deferred", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.CheckConstraint("single", name=op.f("budget_single_check")),
        sa.PrimaryKeyConstraint("single", name=op.f("budget_pkey")),
        schema="sync",
        comment="The org's API requests as last seen, and which kinds of work are deferred since when.",
    )


def downgrade() -> None:
    op.drop_table("budget", schema="sync")
    op.drop_column("run", "calls", schema="sync")
