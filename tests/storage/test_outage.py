"""PostgreSQL itself goes away: paused, stopped, restarted. A server of its own, for the others need theirs."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import psutil  # type: ignore[import-untyped]  # it ships no types
import pytest

from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.runs import Run, TokenRole
from agentsvc.storage import Storage, StorageConfig, migrate
from tests.storage.databases import running_postgres

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with running_postgres() as server:
        asyncio.run(migrate(server.get_uri()))
        yield server


@pytest.fixture
async def storage(server: Any) -> AsyncIterator[Storage]:
    async with await Storage.open(StorageConfig(server.get_uri(), timeout=TIMEOUT, pool_size=2)) as storage:
        yield storage


@contextmanager
def paused(server: Any) -> Iterator[None]:
    """The machine that hangs: connections stay open and nothing answers."""
    postmaster = psutil.Process(server.get_pid())
    postmaster.suspend()  # first: it must not fork a process that goes on
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


async def refused(attempt: Any) -> None:
    """STORAGE_UNAVAILABLE, and soon."""
    began = time.monotonic()
    with pytest.raises(AgentsvcError) as refusal:
        await attempt
    assert refusal.value.reason is Reason.STORAGE_UNAVAILABLE
    assert refusal.value.error.retry_after is not None
    assert time.monotonic() - began < 10 * TIMEOUT


async def test_a_hanging_server_is_told_in_time_and_nothing_is_lost(storage: Storage, server: Any) -> None:
    known = await storage.tokens.create("acme", TokenRole.CALLER)
    principal = await storage.authenticator.authenticate(known.text)
    unknown = known.text[:-3] + "abc"
    with paused(server):
        landed = storage.ledger.ended("acme", Run("paused", "demo", text="kept"), ())
        await asyncio.gather(
            refused(storage.agents.get("acme", "demo")),
            refused(storage.tokens.create("acme", TokenRole.CALLER)),
            refused(storage.runs.get("acme", "paused")),
            refused(storage.authenticator.authenticate(unknown)),
        )
        assert await storage.authenticator.authenticate(known.text) == principal
        assert not landed.done()
    async with asyncio.timeout(30):
        await landed
    run = await storage.runs.get("acme", "paused")
    assert run is not None
    assert run.text == "kept"
    with pytest.raises(AgentsvcError) as refusal:
        await storage.authenticator.authenticate(unknown)
    assert refusal.value.reason is Reason.UNAUTHENTICATED


async def test_a_server_that_dies_and_comes_back_costs_no_write(storage: Storage, server: Any) -> None:
    await storage.ledger.ended("acme", Run("before", "demo"), ())
    await asyncio.to_thread(server._stop)
    await refused(storage.agents.get("acme", "demo"))
    landed = storage.ledger.ended("acme", Run("during", "demo"), ())
    await refused(storage.runs.get("acme", "before"))
    await asyncio.to_thread(server.ensure_postgres_running)
    async with asyncio.timeout(30):
        await landed
    assert await storage.runs.get("acme", "during") is not None
    assert await storage.runs.get("acme", "before") is not None


async def test_connections_that_a_restart_has_cut_cost_no_caller_an_error(storage: Storage, server: Any) -> None:
    await asyncio.gather(*(storage.agents.get("acme", "demo") for _ in range(4)))  # the pool is full
    await asyncio.to_thread(server._stop)
    await asyncio.to_thread(server.ensure_postgres_running)
    for _ in range(4):
        assert await storage.agents.get("acme", "demo") is None


async def test_a_pool_that_is_used_up_is_told_in_time(storage: Storage) -> None:
    async with storage._database.transaction(60.0), storage._database.transaction(60.0):
        await refused(storage.agents.get("acme", "demo"))
    assert await storage.agents.get("acme", "demo") is None


async def test_a_server_out_of_reach_is_a_clear_error_at_the_start() -> None:
    for url in ("postgresql://localhost:1/db", "postgresql:///db?host=/nowhere"):
        await refused(Storage.open(StorageConfig(url, timeout=TIMEOUT)))
