"""The database: one engine for SQLite and PostgreSQL, short reads, short transactions.

No connection outlives a call into this module, so a stream never holds one (and a pool of ten serves thousands of runs).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import URL, Connection, Engine, Executable, Row, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from agentsvc.storage.failures import translated, unavailable

T = TypeVar("T")
AnyRow = Row[*tuple[Any, ...]]

_GOODBYE = 0.25  # seconds; SQLAlchemy would wait 2 for the farewell of a connection whose call timed out
_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
}


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where things are kept and how patiently. Times in seconds.

    ``url``: ``sqlite:///file`` or ``postgresql://user:password@host/name``. ``timeout`` bounds every call: waiting for
    a connection, connecting, the statement itself. ``batch_window``: how long the end of a run waits for others to share its
    commit; ``start_window``: how long its beginning waits for its end. ``backlog_bytes`` bounds what the ledger keeps while the database is
    away. ``lease`` is how long after its last sign of life a process counts as dead.
    """

    url: str = field(repr=False)
    secret_key: str = field(default="", repr=False)
    pool_size: int = 10
    timeout: float = 2.0
    batch_window: float = 0.01
    start_window: float = 0.05
    backlog_bytes: int = 64 << 20
    poll_interval: float = 0.5
    lease: float = 30.0


def parse_url(text: str) -> URL:
    """The URL with the asyncio driver filled in and libpq's ``sslmode`` in asyncpg's word for it.

    Raises:
        ValueError: not a database URL, a database that is not supported, or SQLite without a file.
    """
    try:
        url = make_url(text)
        url = url.set(drivername=_DRIVERS[url.drivername])
    except (ArgumentError, KeyError):
        raise ValueError("the database URL must begin with sqlite:///, or postgresql://") from None
    if url.get_backend_name() == "sqlite" and (url.database or ":memory:") == ":memory:":
        raise ValueError("a SQLite URL must name a file, as in sqlite:///agentsvc.db")
    if sslmode := url.query.get("sslmode"):
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": sslmode})
    return url


class Database:
    """A pool of connections. ``dialect`` is "sqlite" or "postgresql"."""

    def __init__(self, config: StorageConfig) -> None:
        self.url = parse_url(config.url)
        self.dialect = self.url.get_backend_name()
        self._timeout = config.timeout
        self._engine = _engine(self.url, config)
        # Reads are single statements: without BEGIN and ROLLBACK around them PostgreSQL answers in one round trip.
        autocommit = {"isolation_level": "AUTOCOMMIT"} if self.dialect == "postgresql" else {"reads": True}
        self._reader = self._engine.execution_options(**autocommit)
        self._worker = _Worker(self.url, config) if self.dialect == "sqlite" else None

    async def reach(self) -> None:
        """Whether SQLite's file can be opened at all, found out before aiosqlite tries: when it fails to connect, its
        thread still reports to an event loop that may be closed by then.

        Raises:
            AgentsvcError: STORAGE_UNAVAILABLE.
        """
        if self._worker:
            try:
                await asyncio.to_thread(lambda: sqlite3.connect(self.url.database or "").close())
            except sqlite3.Error as error:
                raise unavailable() from error

    async def rows(self, statement: Executable) -> Sequence[AnyRow]:
        """What a single read returns.

        Raises:
            AgentsvcError: STORAGE_UNAVAILABLE.
        """
        with translated():
            async with asyncio.timeout(self._timeout), self._reader.connect() as connection:
                return (await connection.execute(statement)).all()

    async def row(self, statement: Executable) -> AnyRow | None:
        """The first row of a single read, None when there is none."""
        return next(iter(await self.rows(statement)), None)

    @asynccontextmanager
    async def transaction(self, timeout: float | None = None) -> AsyncIterator[AsyncConnection]:  # noqa: ASYNC109 - a bound of this call, default the configured one
        """A transaction, committed at the end of the block. SQLite takes its write lock at the start.

        Raises:
            AgentsvcError: STORAGE_UNAVAILABLE, ALREADY_EXISTS for a broken constraint, INTERNAL for a refused statement.
        """
        with translated():
            async with asyncio.timeout(timeout or self._timeout), self._engine.begin() as connection:
                yield connection

    async def work(self, job: Callable[[Connection, T], None], argument: T, timeout: float) -> None:  # noqa: ASYNC109 - a bound of this call
        """A transaction whose many statements ``job`` executes on a synchronous connection.

        aiosqlite crosses to its thread and back three times per statement, which costs more than the statement. So for
        SQLite the whole job crosses once; there ``StorageConfig.timeout`` bounds the wait for the write lock instead.

        Raises:
            AgentsvcError: as ``transaction``.
        """
        if self._worker:
            with translated():
                await self._worker.run(job, argument)
        else:
            async with self.transaction(timeout) as connection:
                await connection.run_sync(job, argument)

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An INSERT that knows ON CONFLICT, in this database's dialect."""
        return postgresql.insert(table) if self.dialect == "postgresql" else sqlite.insert(table)

    async def close(self) -> None:
        """Closes every connection."""
        if self._worker:
            await self._worker.close()
        await self._engine.dispose()


class _Worker:
    """A thread with a SQLite connection of its own."""

    def __init__(self, url: URL, config: StorageConfig) -> None:
        self._engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True, pool_size=1, max_overflow=0)
        _prepare_sqlite(self._engine, config)
        self._thread = ThreadPoolExecutor(1, "storage-worker")

    async def run(self, job: Callable[[Connection, T], None], argument: T) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._in_transaction, job, argument)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown(wait=False)

    def _in_transaction(self, job: Callable[[Connection, T], None], argument: T) -> None:
        with self._engine.begin() as connection:
            job(connection, argument)


def require_tenant(tenant_id: str) -> None:
    """A store call without a tenant is a bug of its caller, never a look at everybody's rows (ValueError)."""
    if not tenant_id:
        raise ValueError("a store call needs a tenant")


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # untyped, see above
    """Says goodbye to the server, but does not wait for a server that hangs."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's own signature
        await super().close(timeout=min(timeout or _GOODBYE, _GOODBYE))


def _engine(url: URL, config: StorageConfig) -> AsyncEngine:
    shared: dict[str, Any] = {
        "poolclass": AsyncAdaptedQueuePool,
        "max_overflow": 0,
        "pool_timeout": config.timeout,
        "hide_parameters": True,  # what people said does not belong in a log
    }
    if url.get_backend_name() == "postgresql":
        return create_async_engine(
            url,
            pool_size=config.pool_size,
            pool_pre_ping=True,  # one round trip, and a restarted server costs no caller an error
            connect_args={"timeout": config.timeout, "connection_class": _Connection},
            **shared,
        )
    # Every SQLite connection is a thread; readers do not block each other, and there is only ever one writer.
    engine = create_async_engine(url, pool_size=min(config.pool_size, 4), **shared)
    _prepare_sqlite(engine.sync_engine, config)
    return engine


def _prepare_sqlite(engine: Engine, config: StorageConfig) -> None:
    def prepare(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver shall not begin transactions on its own: _begin_sqlite does
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(config.timeout * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", _begin_sqlite)


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later fails at once when another one wrote in between,
    # busy_timeout or not. IMMEDIATE waits its turn.
    if not connection.get_execution_options().get("reads"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
