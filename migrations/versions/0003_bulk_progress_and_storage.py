"""bulk progress and storage"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None

# Room in each block for the next version of its rows, and vacuum before a twentieth of them is dead: replicas
# are updated far more often than they grow.
STORAGE = {
    "fillfactor": 90,
    "autovacuum_vacuum_scale_factor": 0.05,
    "autovacuum_analyze_scale_factor": 0.02,
}
TABLES = ("account", "contact")


def upgrade() -> None:
    op.add_column("progress", sa.Column("job", sa.Text(), nullable=True), schema="sync")
    op.add_column(
        "progress",
        sa.Column("page_url", sa.Text(), server_default=sa.text("''"), nullable=False),
        schema="sync",
    )
    for table in TABLES:
        settings = ", ".join(f"{name} = {value}" for name, value in STORAGE.items())
        op.execute(f"ALTER TABLE salesforce.{table} SET ({settings})")


def downgrade() -> None:
    for table in TABLES:
        op.execute(f"ALTER TABLE salesforce.{table} RESET ({', '.join(STORAGE)})")
    op.drop_column("progress", "page_url", schema="sync")
    op.drop_column("progress", "job", schema="sync")
