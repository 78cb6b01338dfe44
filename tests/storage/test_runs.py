import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import RunState
from agentsvc.domain.messages import Cost, FinishReason, Usage
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import Run
from agentsvc.storage import Storage
from agentsvc.storage.leases import Presence
from agentsvc.storage.tables import leases
from tests.storage.databases import Opening

ENDED = Run(
    "r1",
    "demo",
    "s1",
    "ann",
    "req-1",
    "f00",
    RunState.COMPLETED,
    "Hello.",
    finish_reason=FinishReason.STOP,
    usage=Usage(3, 5, estimated=True),
    cost=Cost(12),
    labels={"team": "a"},
    first_sequence=1,
    last_sequence=9,
    framework_overhead_us=321,
    create_time=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    end_time=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
)


async def test_a_run_comes_back_as_it_ended(storage: Storage) -> None:
    storage.ledger.started("acme", Run("r1", "demo", "s1", request_id="req-1"), None)
    started = await storage.runs.get("acme", "r1")
    assert started is not None
    assert started.state is RunState.RUNNING
    assert started.create_time is not None
    await storage.ledger.ended("acme", ENDED, ())
    assert await storage.runs.get("acme", "r1") == ENDED
    assert await storage.runs.by_request_id("acme", "req-1") == ENDED
    assert await storage.runs.by_request_id("acme", "") is None


async def test_an_ended_run_is_not_reopened(storage: Storage) -> None:
    await storage.ledger.ended("acme", ENDED, ())
    storage.ledger.started("acme", Run("r1", "demo"), None)
    assert await storage.runs.get("acme", "r1") == ENDED


async def test_a_parked_run_is_written_as_it_is_now(storage: Storage) -> None:
    storage.ledger.started("acme", Run("r1", "demo"), None)
    await storage.ledger.barrier()
    storage.ledger.started("acme", Run("r1", "demo", state=RunState.WAITING_INPUT), None)
    [waiting] = (await storage.runs.list("acme", PageRequest(), Filter(states=(RunState.WAITING_INPUT,)))).items
    assert waiting.run_id == "r1"


async def _falls_silent(storage: Storage) -> None:
    """Renews its lease no more, and the lease has run out: what others see of a process that died or was cut off."""
    await storage._renewal.close()
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    async with storage._database.transaction() as connection:
        await connection.execute(
            update(leases).where(leases.c.owner == storage._leases.owner).values(expire_time=long_ago)
        )


async def test_runs_of_a_dead_process_are_interrupted_and_its_living_neighbours_are_not(opened: Opening) -> None:
    async with opened() as ours, opened() as neighbour, opened() as dead:
        ours.ledger.started("acme", Run("ours", "demo"), None)
        neighbour.ledger.started("acme", Run("theirs", "demo"), None)
        dead.ledger.started("acme", Run("orphan", "demo"), None)
        dead.ledger.started("acme", Run("waiting", "demo", state=RunState.WAITING_INPUT), None)
        await dead.ledger.ended("acme", Run("ended", "demo", state=RunState.COMPLETED), ())
        for storage in (ours, neighbour):
            await storage.ledger.barrier()
        await _falls_silent(dead)

        assert await ours.runs.interrupt_orphans() == 2
        assert await ours.runs.interrupt_orphans() == 0

        states = {run.run_id: run.state for run in (await ours.runs.list("acme", PageRequest(), Filter())).items}
        assert states == {
            "ours": RunState.RUNNING,
            "theirs": RunState.RUNNING,
            "orphan": RunState.INTERRUPTED,
            "waiting": RunState.INTERRUPTED,
            "ended": RunState.COMPLETED,
        }
        orphan = await ours.runs.get("acme", "orphan")
        assert orphan is not None
        assert orphan.error is not None
        assert orphan.error.reason is Reason.RUN_INTERRUPTED
        assert orphan.end_time is not None


async def test_the_truth_replaces_an_interruption(opened: Opening) -> None:
    """A process that was only cut off, and not dead, ends its run after all."""
    async with opened() as ours, opened() as cut_off:
        cut_off.ledger.started("acme", Run("r1", "demo"), None)
        await cut_off.ledger.barrier()
        await _falls_silent(cut_off)
        assert await ours.runs.interrupt_orphans() == 1
        await cut_off.ledger.ended("acme", ENDED, ())
        assert await ours.runs.get("acme", "r1") == ENDED


async def test_a_neighbour_that_dies_later_is_found_as_well(opened: Opening) -> None:
    async with opened() as dead, opened() as alive:
        dead.ledger.started("acme", Run("orphan", "demo"), None)
        await dead.ledger.barrier()
        await alive.runs.interrupt_expired()
        [living] = (await alive.runs.list("acme", PageRequest(), Filter())).items
        assert living.state is RunState.RUNNING

        await _falls_silent(dead)
        await alive.runs.interrupt_expired()
        [orphan] = (await alive.runs.list("acme", PageRequest(), Filter())).items
        assert orphan.state is RunState.INTERRUPTED


KILLED = """
import asyncio, os, sys
from agentsvc.domain.runs import Run
from agentsvc.storage import Storage, StorageConfig

async def main():
    storage = await Storage.open(StorageConfig(sys.argv[1]))
    storage.ledger.started("acme", Run("orphan", "demo"), None)
    await storage.ledger.barrier()
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_after_a_crash_the_next_start_on_sqlite_need_not_wait_for_the_lease(opened: Opening, url: str) -> None:
    import sys

    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, url)
    assert await process.wait() == -9
    async with opened() as storage:
        assert await storage.runs.interrupt_orphans() == 1


async def test_presence_tells_who_else_is_there(tmp_path: Path) -> None:
    ours = Presence(f"{tmp_path}/db", 1.0)
    with ours.alone() as alone:
        assert alone
    neighbour = Presence(f"{tmp_path}/db", 1.0)
    with ours.alone() as alone:
        assert not alone
    neighbour.close()
    with ours.alone() as alone:
        assert alone
    ours.close()


async def test_the_lease_is_renewed_while_the_process_lives(opened: Opening) -> None:
    async with opened(lease=0.15) as storage:

        async def expiry() -> datetime:
            [row] = await storage._database.rows(select(leases))
            found: datetime = row.expire_time
            return found

        first = await expiry()
        async with asyncio.timeout(20):
            while await expiry() < first + timedelta(seconds=0.3):  # noqa: ASYNC110 - another task changes the database
                await asyncio.sleep(0.01)
    async with opened() as other:
        [row] = await other._database.rows(select(leases))
        assert row.owner == other._leases.owner
