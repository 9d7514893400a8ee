"""What a person decided about an operation on its way."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column(
        "operations", sa.Column("decision", _TEXT, nullable=False, server_default=sa.text("''"))
    )


def downgrade() -> None:
    op.drop_column("operations", "decision")
