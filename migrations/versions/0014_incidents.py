"""incidents: what needs somebody, since when, and when somebody was told"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "incident",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("times", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("told", sa.Text()),
        sa.Column("last_told_at", sa.DateTime(timezone=True)),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.CheckConstraint("told IN ('open', 'over')", name=op.f("incident_told_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("incident_pkey")),
        schema="sync",
        comment="What needs somebody, or needed: at most one open line per kind and object; and what was told.",
    )
    op.create_index(
        op.f("incident_kind_object_idx"),
        "incident",
        ["kind", "object"],
        unique=True,
        schema="sync",
        postgresql_where=sa.text("closed_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("incident", schema="sync")
