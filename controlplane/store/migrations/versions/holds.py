"""Which recovery point the disks of a retained copy equal."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("artefacts", sa.Column("holds", sa.Uuid(), nullable=True))


def downgrade() -> None:
    op.drop_column("artefacts", "holds")
