"""Bringing a database to this version's tables, and telling whether it is there. The steps are in ``migrations``."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.storage.database import Database, StorageConfig

_PATIENCE = 600.0  # seconds; a migration may rewrite a table
_LOCK = 0x6167656E74737663  # "agentsvc": whoever migrates a PostgreSQL database holds this advisory lock


async def migrate(url: str) -> None:
    """Upgrades the database to this version. Safe to run from several processes at once; nothing is lost or half done.

    Raises:
        ValueError: not a database URL.
        AgentsvcError: STORAGE_UNAVAILABLE.
    """
    database = Database(StorageConfig(url))
    try:
        await upgrade(database)
    finally:
        await database.close()


async def upgrade(database: Database) -> None:
    """As ``migrate``, on an open database."""
    async with database.transaction(_PATIENCE) as connection:
        if database.dialect == "postgresql":
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.run_sync(_upgrade)


async def check(database: Database) -> None:
    """Nothing when the database is at this version.

    Raises:
        AgentsvcError: STORAGE_UNAVAILABLE, not retryable, telling to run ``agentsvc migrate``.
    """
    async with database.transaction() as connection:
        stored = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_heads())
    heads = ScriptDirectory.from_config(_config()).get_heads()
    if set(stored) != set(heads):
        raise AgentsvcError(
            Reason.STORAGE_UNAVAILABLE,
            f"The database is at version {', '.join(stored) or 'none'} and this agentsvc needs {', '.join(heads)}: "
            "run `agentsvc migrate` first.",
            retryable=False,
        )


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
