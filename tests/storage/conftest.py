"""Both databases, for real: SQLite in a file, PostgreSQL from a wheel. Made once a session, emptied for every test."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentsvc.storage import Storage, StorageConfig, migrate
from agentsvc.storage.tables import metadata
from tests.storage.databases import SECRET_KEY, Opening, administer, running_postgres

EMPTIED = ", ".join(table.name for table in metadata.sorted_tables if table.name != "changes")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A server whose database "postgres" is at this version."""
    with running_postgres() as server:
        asyncio.run(migrate(server.get_uri()))
        yield server


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is at this version."""
    file = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    asyncio.run(migrate(f"sqlite:///{file}"))
    return file


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of this version."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite"), tmp_path / "agentsvc.db")
        return f"sqlite:///{tmp_path}/agentsvc.db"
    server = request.getfixturevalue("postgres")
    administer(server, f"TRUNCATE {EMPTIED}")
    return str(server.get_uri())


@pytest.fixture
def opened(url: str) -> Opening:
    """Opens the database once more, as another process would: ``async with opened(pool_size=1) as storage``."""

    @asynccontextmanager
    async def open_storage(**settings: Any) -> AsyncIterator[Storage]:
        config: dict[str, Any] = {"url": url, "secret_key": SECRET_KEY, "timeout": 5.0} | settings
        async with await Storage.open(StorageConfig(**config)) as storage:
            yield storage

    return open_storage


@pytest.fixture
async def storage(opened: Opening) -> AsyncIterator[Storage]:
    async with opened() as storage:
        yield storage
