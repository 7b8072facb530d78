"""heroku connect: the numbers of records in views shaped like its tables, and what gives them to new ones"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | None = None
depends_on: str | None = None

# For statement triggers on replicas, which the command heroku-connect makes; the argument is the object.
# Rows that a merge updates are not among those added.
NUMBER = """
CREATE FUNCTION sync.number_for_heroku_connect()
RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO sync.heroku_connect_id (record_id, object)
    SELECT added.id, TG_ARGV[0] FROM added
        ON CONFLICT (record_id) DO NOTHING;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "heroku_connect_id",
        sa.Column("record_id", sa.Text(collation="C"), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("heroku_connect_id_pkey")),
        schema="sync",
        comment="The column `id` of views shaped like Heroku Connect's tables: a record keeps its number for "
        "ever.",
    )
    op.create_index(
        op.f("heroku_connect_id_object_number_idx"),
        "heroku_connect_id",
        ["object", "number"],
        unique=True,
        schema="sync",
    )
    op.execute(NUMBER)
    op.execute("REVOKE EXECUTE ON FUNCTION sync.number_for_heroku_connect() FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION sync.number_for_heroku_connect()")
    op.drop_table("heroku_connect_id", schema="sync")
