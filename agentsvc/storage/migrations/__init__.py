"""The steps by which databases came to be as they are. alembic runs them; ``schema.migrate`` runs alembic."""
