"""A cancelled stream leaves nothing in the native heap (D30): grpc.aio's known defect is 99 bytes for each."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import pytest

from agentsvc import v1
from agentsvc.providers.script import Say, Stall
from tests.e2e.house import read_until
from tests.torture.station import Station, open_station

AT_A_TIME = 20
RETENTION = 0.5  # seconds


async def cancelled(station: Station, agent: str, streams: int) -> None:
    """So many streams, each left by its caller in the middle of the text."""

    async def one() -> None:
        call = station.stream(agent, Say("Once upon"), Stall(), store=False)
        await read_until(call, "text_delta")
        call.cancel()

    for _ in range(streams // AT_A_TIME):
        await asyncio.gather(*(one() for _ in range(AT_A_TIME)))


async def bytes_per_stream(directory: Path, batches: int, size: int) -> float:
    # What ended runs are kept for is not what is looked for here.
    async with open_station(directory, AGENTSVC_JOURNAL__RETENTION=str(RETENTION), AGENTSVC_LOG__LEVEL="error") as station:
        agent = await station.agent("mock")
        await cancelled(station, agent, size)
        before = await station.inside()
        readings = []
        for _ in range(batches + 1):
            await cancelled(station, agent, size)
            await station.back_to(before)
            await asyncio.sleep(RETENTION)
            readings.append((await station.inside()).native)
        print([(b - a)/size for a, b in zip(readings, readings[1:])])
        return statistics.linear_regression(range(len(readings)), readings).slope / size


async def test_a_thousand_cancelled_streams_leave_nothing(tmp_path: Path) -> None:
    assert await bytes_per_stream(tmp_path, 5, 200) < 60


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_twenty_thousand_cancelled_streams_leave_nothing(tmp_path: Path) -> None:
    assert await bytes_per_stream(tmp_path, 10, 2000) < 30
