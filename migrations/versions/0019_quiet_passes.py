"""quiet passes: consecutive passes that change nothing share a line of the journal"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    for name in ("passes", "shared_calls"):
        op.add_column("run", sa.Column(name, sa.Integer(), server_default="0", nullable=False), schema="sync")


def downgrade() -> None:
    for name in ("shared_calls", "passes"):
        op.drop_column("run", name, schema="sync")
