"""Which moves wait for their turn, and which have it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "admissions",
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("move", sa.Uuid(), nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("source", _TEXT, nullable=False),
        sa.Column("target", _TEXT, nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("operation", name="pk_admissions"),
    )


def downgrade() -> None:
    op.drop_table("admissions")
