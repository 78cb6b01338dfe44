"""What alembic runs around the steps: on the connection, and in the transaction, that ``schema`` has opened."""

from alembic import context

from agentsvc.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
