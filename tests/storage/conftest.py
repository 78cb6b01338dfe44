"""Both databases, for real: SQLite in a file, PostgreSQL from a wheel (one server per session, one database per test)."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentsvc.storage import Storage, StorageConfig, migrate
from tests.storage.databases import SECRET_KEY, Opening, administer, start_postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server whose database "migrated" is at this version."""
    server = start_postgres(tmp_path_factory.mktemp("postgres") / "data")
    administer(server, "CREATE DATABASE migrated")
    asyncio.run(migrate(server.get_uri(database="migrated")))
    yield server
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh database, already migrated where that is not done by opening it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/agentsvc.db"
        return
    server = request.getfixturevalue("postgres")
    name = f"test_{next(_numbers)}"
    administer(server, f"CREATE DATABASE {name} TEMPLATE migrated")
    yield server.get_uri(database=name)
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def opened(url: str) -> Opening:
    """Opens the database once more, as another process would: ``async with opened(pool_size=1) as storage``."""

    @asynccontextmanager
    async def open_storage(**settings: Any) -> AsyncIterator[Storage]:
        config = {"url": url, "secret_key": SECRET_KEY, "timeout": 5.0} | settings
        async with await Storage.open(StorageConfig(**config)) as storage:
            yield storage

    return open_storage


@pytest.fixture
async def storage(opened: Opening) -> AsyncIterator[Storage]:
    async with opened() as storage:
        yield storage
