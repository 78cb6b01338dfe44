import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.storage import Storage, StorageConfig, migrate
from agentsvc.storage.tables import metadata
from tests.storage.databases import administer


def drift(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    found: list[Any] = compare_metadata(context, metadata)
    return found


async def test_the_migrations_make_the_tables_that_the_code_expects(storage: Storage) -> None:
    async with storage._database.transaction() as connection:
        assert await connection.run_sync(drift) == []


async def test_the_migrations_make_the_partial_indexes(storage: Storage) -> None:
    """Which alembic does not compare."""

    def predicates(connection: Connection) -> dict[str, bool]:
        indexes = inspect(connection).get_indexes("runs")
        return {str(i["name"]): any("where" in option for option in i.get("dialect_options", {})) for i in indexes}

    async with storage._database.transaction() as connection:
        assert await connection.run_sync(predicates) == {
            "ix_runs_open": True,
            "ix_runs_recent": False,
            "uq_runs_request_id": True,
        }


async def test_migrating_again_and_at_once_is_harmless(url: str) -> None:
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    async with await Storage.open(StorageConfig(url)) as storage:
        rows = await storage._database.rows(text("SELECT version_num FROM alembic_version"))
        assert [row.version_num for row in rows] == ["0001"]


async def test_sqlite_is_migrated_by_opening_it(tmp_path: Path) -> None:
    async with await Storage.open(StorageConfig(f"sqlite:///{tmp_path}/new.db")) as storage:
        assert await storage.agents.get("acme", "demo") is None


@pytest.fixture
def empty(postgres: Any) -> Any:
    administer(postgres, "CREATE DATABASE empty")
    yield postgres.get_uri(database="empty")
    administer(postgres, "DROP DATABASE empty WITH (FORCE)")


async def test_postgresql_is_not_migrated_behind_its_operators_back(empty: str) -> None:
    with pytest.raises(AgentsvcError, match="agentsvc migrate") as refusal:
        await Storage.open(StorageConfig(empty))
    assert refusal.value.reason is Reason.STORAGE_UNAVAILABLE
    assert not refusal.value.error.retryable
    await asyncio.gather(migrate(empty), migrate(empty))
    async with await Storage.open(StorageConfig(empty)) as storage:
        assert await storage.agents.get("acme", "demo") is None
