"""How Alembic runs here: on the connection it is given, all revisions in one transaction."""

from alembic import context

from controlplane.store.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
