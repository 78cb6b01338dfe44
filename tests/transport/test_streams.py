from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentsvc.transport.streams import Pulse


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_wait_without_end_is_broken_by_silence_again_and_again() -> None:
    pulse = Pulse(0.01)
    assert [await pulse.silent(forever) for _ in range(3)] == [True, True, True]
    pulse.stop()


async def test_a_wait_that_ends_in_time_is_no_silence() -> None:
    pulse = Pulse(60)
    assert not await pulse.silent(lambda: asyncio.sleep(0))
    pulse.stop()


async def test_silence_counts_from_the_last_message() -> None:
    pulse, loop = Pulse(0.2), asyncio.get_running_loop()
    loop.call_later(0.1, pulse.felt)
    began = loop.time()
    assert await pulse.silent(forever)
    assert loop.time() - began >= 0.29
    pulse.stop()


async def test_what_is_no_wait_is_never_broken_off() -> None:
    pulse = Pulse(0.01)
    await asyncio.sleep(0.05)  # a write that a shut window holds up
    pulse.stop()


async def test_a_caller_that_leaves_in_silence_is_not_taken_for_silence() -> None:
    left = asyncio.Event()

    async def handler() -> None:
        pulse = Pulse(60)
        try:
            await pulse.silent(forever)
        finally:
            left.set()
            pulse.stop()

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left.is_set()


async def test_a_caller_that_leaves_in_the_very_moment_of_a_heartbeat_has_left() -> None:
    async def handler() -> bool:
        pulse = Pulse(60)
        asyncio.get_running_loop().call_soon(leave_and_beat, pulse, asyncio.current_task())
        return await pulse.silent(forever)

    def leave_and_beat(pulse: Pulse, task: asyncio.Task[Any] | None) -> None:
        assert task is not None
        task.cancel()
        pulse._last = float("-inf")
        pulse._look()
        pulse.stop()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(handler())


async def test_a_task_keeps_no_trace_of_the_heartbeats_it_had() -> None:
    pulse = Pulse(0.01)
    await pulse.silent(forever)
    pulse.stop()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.timeout(5):
        await asyncio.sleep(0.01)
