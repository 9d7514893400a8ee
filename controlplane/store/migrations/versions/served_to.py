"""Until when an image is served, and to whom."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("served", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("served", sa.Column("clients", _TEXT, server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("served", "clients")
    op.drop_column("served", "expires_at")
