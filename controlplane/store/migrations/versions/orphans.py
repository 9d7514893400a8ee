"""What the last sweep of each site found unaccounted for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "orphans",
        sa.Column("site", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("ref", _TEXT, nullable=False),
        sa.Column("artefact", sa.Uuid(), nullable=False),
        sa.Column("instance", sa.Uuid(), nullable=False),
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("site", "kind", "ref", name="pk_orphans"),
    )


def downgrade() -> None:
    op.drop_table("orphans")
