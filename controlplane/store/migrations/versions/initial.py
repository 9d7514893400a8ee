"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_COUNTED = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _control()
    _vault()


def _control() -> None:
    op.create_table(
        "artefacts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("site", _TEXT, nullable=False),
        sa.Column("instance", sa.Uuid(), nullable=False),
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("anchor", _TEXT, nullable=True),
        sa.Column("ref", _TEXT, nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", _TEXT, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_artefacts"),
    )
    op.create_index("ix_artefacts_instance", "artefacts", ["instance"], unique=False)
    op.create_index("ix_artefacts_operation", "artefacts", ["operation"], unique=False)
    op.create_index("ix_artefacts_site", "artefacts", ["site"], unique=False)
    op.create_table(
        "audit_checkpoints",
        sa.Column("number", _COUNTED, autoincrement=True, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_audit_checkpoints"),
    )
    op.create_index("ix_audit_checkpoints_size", "audit_checkpoints", ["size"], unique=False)
    op.create_table(
        "audit_entries",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("operation", _TEXT, nullable=False),
        sa.Column("request", _TEXT, nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_audit_entries"),
    )
    op.create_index(
        "ix_audit_entries_tenant_sequence", "audit_entries", ["tenant", "sequence"], unique=False
    )
    op.create_table(
        "audit_tree",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("peaks", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_tree"),
    )
    op.create_table(
        "credentials",
        sa.Column("site", sa.Uuid(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("site", name="pk_credentials"),
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
    )
    op.create_table(
        "leases",
        sa.Column("instance", sa.Uuid(), nullable=False),
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("instance", name="pk_leases"),
    )
    op.create_index("ix_leases_operation", "leases", ["operation"], unique=False)
    op.create_table(
        "operations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("subject", sa.Uuid(), nullable=False),
        sa.Column("subject_name", _TEXT, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("request", _TEXT, nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("workspace", _TEXT, nullable=False),
        sa.Column("order", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("phase", _TEXT, nullable=False),
        sa.Column("plan", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("plan_digest", _TEXT, nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("problem", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_operations"),
    )
    op.create_index("ix_operations_number", "operations", ["number"], unique=True)
    op.create_index(
        "ix_operations_page", "operations", ["tenant", "workspace", "number"], unique=False
    )
    op.create_index(
        "ix_operations_subject_number", "operations", ["subject", "number"], unique=False
    )
    op.create_index(
        "uq_operations_name", "operations", ["tenant", "workspace", "name"], unique=True
    )
    op.create_table(
        "outbox",
        sa.Column("seq", _COUNTED, autoincrement=True, nullable=False),
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("what", _TEXT, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "placements",
        sa.Column("instance", sa.Uuid(), nullable=False),
        sa.Column("site", _TEXT, nullable=False),
        sa.Column("copy", sa.Uuid(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("switched_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("switched_by", sa.Uuid(), nullable=True),
        sa.Column("switched_under", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("instance", name="pk_placements"),
    )
    op.create_index("ix_placements_site", "placements", ["site"], unique=False)
    op.create_table(
        "progress",
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("what", _TEXT, nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("sent", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("operation", "what", name="pk_progress"),
    )
    op.create_table(
        "resources",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("workspace", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("annotations", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("extensions", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("status", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("conditions", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("status_version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("modified_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("removed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_resources"),
    )
    op.create_index("ix_resources_kind", "resources", ["kind", "name", "id"], unique=False)
    op.create_index(
        "ix_resources_page",
        "resources",
        ["kind", "tenant", "workspace", "name", "id"],
        unique=False,
    )
    op.create_index(
        "uq_resources_name",
        "resources",
        ["kind", "tenant", "workspace", "name"],
        unique=True,
        sqlite_where=sa.text("removed = 0"),
        postgresql_where=sa.text("NOT removed"),
    )
    op.create_table(
        "sequencer",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sequencer"),
    )
    op.create_table(
        "served",
        sa.Column("token_sha256", _TEXT, nullable=False),
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("point", _TEXT, nullable=False),
        sa.Column("disk", sa.BigInteger(), nullable=False),
        sa.Column("format", _TEXT, nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", _TEXT, nullable=False),
        sa.Column("sha512", _TEXT, nullable=False),
        sa.Column("domain", _TEXT, nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name="pk_served"),
    )
    op.create_index("ix_served_operation", "served", ["operation"], unique=False)
    op.create_table(
        "settings",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("value", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
    )
    op.create_table(
        "steps",
        sa.Column("operation", sa.Uuid(), nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("provider_seconds", sa.Double(), nullable=False),
        sa.Column("copy_seconds", sa.Double(), nullable=False),
        sa.Column("message", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("operation", "name", name="pk_steps"),
    )
    op.create_table(
        "tenants",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
    )
    op.create_table(
        "wrapped_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("purpose", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("wrapped_by", _TEXT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_wrapped_keys"),
        sa.UniqueConstraint(
            "purpose", "owner", "version", name="uq_wrapped_keys_purpose_owner_version"
        ),
    )
    op.create_table(
        "resource_labels",
        sa.Column("resource", sa.Uuid(), nullable=False),
        sa.Column("key", _TEXT, nullable=False),
        sa.Column("value", _TEXT, nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["resource"], ["resources.id"], name="fk_resource_labels_resource", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("resource", "key", name="pk_resource_labels"),
    )
    op.create_index(
        "ix_resource_labels_key_number_resource",
        "resource_labels",
        ["key", "number", "resource"],
        unique=False,
    )
    op.create_index(
        "ix_resource_labels_key_value_resource",
        "resource_labels",
        ["key", "value", "resource"],
        unique=False,
    )
    op.create_table(
        "users",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("password", _TEXT, nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name="fk_users_tenant"),
        sa.PrimaryKeyConstraint("name", name="pk_users"),
    )
    op.create_index("ix_users_tenant", "users", ["tenant"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user", _TEXT, nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("note", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(["user"], ["users.name"], name="fk_tokens_user"),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
    )
    op.create_index("ix_tokens_user", "tokens", ["user"], unique=False)


def _vault() -> None:
    op.create_table(
        "vault_closed",
        sa.Column("point", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("point", name="pk_vault_closed"),
    )
    op.create_table(
        "vault_damages",
        sa.Column("pack", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("domain", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("pack", "position", name="pk_vault_damages"),
    )
    op.create_index("ix_vault_damages_domain", "vault_damages", ["domain"], unique=False)
    op.create_table(
        "vault_holds",
        sa.Column("point", sa.Uuid(), nullable=False),
        sa.Column("pack", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("point", "pack", name="pk_vault_holds"),
    )
    op.create_index("ix_vault_holds_pack", "vault_holds", ["pack"], unique=False)
    op.create_table(
        "vault_points",
        sa.Column("point", sa.Uuid(), nullable=False),
        sa.Column("domain", _TEXT, nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("instance", sa.Uuid(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("head", sa.LargeBinary(), nullable=False),
        sa.Column("root", _TEXT, nullable=False),
        sa.Column("disks", sa.JSON(), nullable=False),
        sa.Column("committed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("forgotten", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("point", name="pk_vault_points"),
        sa.UniqueConstraint(
            "tenant", "instance", "sequence", name="uq_vault_points_tenant_instance_sequence"
        ),
    )
    op.create_table(
        "vault_sessions",
        sa.Column("number", _COUNTED, autoincrement=True, nullable=False),
        sa.Column("point", sa.Uuid(), nullable=False),
        sa.Column("disk", sa.BigInteger(), nullable=False),
        sa.Column("domain", _TEXT, nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("token", _TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("chunk", sa.BigInteger(), nullable=False),
        sa.Column("copied", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_vault_sessions"),
        sa.UniqueConstraint("point", "disk", name="uq_vault_sessions_point_disk"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "vault_leaves",
        sa.Column("session", _COUNTED, nullable=False),
        sa.Column("leaf", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("pack", sa.LargeBinary(), nullable=True),
        sa.Column("position", sa.BigInteger(), nullable=True),
        sa.Column("blob", sa.LargeBinary(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("read", sa.BigInteger(), nullable=False),
        sa.Column("fresh", sa.BigInteger(), nullable=False),
        sa.Column("stored", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session"],
            ["vault_sessions.number"],
            name="fk_vault_leaves_session",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session", "leaf", name="pk_vault_leaves"),
    )
    op.create_table(
        "vault_packs",
        sa.Column("pack", sa.LargeBinary(), nullable=False),
        sa.Column("domain", _TEXT, nullable=False),
        sa.Column("state", _TEXT, nullable=False),
        sa.Column("session", _COUNTED, nullable=True),
        sa.Column("condemned_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("waits_for", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["session"], ["vault_sessions.number"], name="fk_vault_packs_session"
        ),
        sa.PrimaryKeyConstraint("pack", name="pk_vault_packs"),
    )
    op.create_index("ix_vault_packs_domain_state", "vault_packs", ["domain", "state"], unique=False)
    op.create_index("ix_vault_packs_session", "vault_packs", ["session"], unique=False)
    op.create_index(
        "ix_vault_packs_state_condemned_at", "vault_packs", ["state", "condemned_at"], unique=False
    )


def downgrade() -> None:
    op.drop_table("tokens")
    op.drop_table("vault_packs")
    op.drop_table("vault_leaves")
    op.drop_table("users")
    op.drop_table("resource_labels")
    op.drop_table("wrapped_keys")
    op.drop_table("vault_sessions")
    op.drop_table("vault_points")
    op.drop_table("vault_holds")
    op.drop_table("vault_damages")
    op.drop_table("vault_closed")
    op.drop_table("tenants")
    op.drop_table("steps")
    op.drop_table("settings")
    op.drop_table("served")
    op.drop_table("sequencer")
    op.drop_table("resources")
    op.drop_table("progress")
    op.drop_table("placements")
    op.drop_table("outbox")
    op.drop_table("operations")
    op.drop_table("leases")
    op.drop_table("events")
    op.drop_table("credentials")
    op.drop_table("audit_tree")
    op.drop_table("audit_entries")
    op.drop_table("audit_checkpoints")
    op.drop_table("artefacts")
