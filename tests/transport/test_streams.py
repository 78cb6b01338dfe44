"""The pulse of a stream: it breaks a silence, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from agentsvc.transport.streams import Pulse


async def waited(pulse: Pulse, *, ends_after: float | None = None) -> bool:
    """One wait as a stream makes it, ended after so many seconds; whether the silence broke it."""
    loop = asyncio.get_running_loop()
    future = pulse.waiting = loop.create_future()
    if ends_after is not None:
        loop.call_later(ends_after, lambda: future.done() or future.set_result(None))
    await future
    pulse.waiting = None
    due, pulse.due = pulse.due, False
    return due


async def test_a_wait_without_end_is_broken_by_silence_again_and_again() -> None:
    pulse = Pulse(0.01)
    assert [await waited(pulse) for _ in range(3)] == [True, True, True]
    pulse.stop()


async def test_a_wait_that_ends_in_time_is_no_silence() -> None:
    pulse = Pulse(60)
    assert not await waited(pulse, ends_after=0)
    pulse.stop()


async def test_a_nudge_ends_a_wait_and_is_no_silence() -> None:
    pulse = Pulse(60)
    assert not pulse.nudge()  # nobody waits
    asyncio.get_running_loop().call_soon(pulse.nudge)
    assert not await waited(pulse)
    pulse.stop()


async def test_silence_counts_from_the_last_message() -> None:
    pulse, loop = Pulse(0.2), asyncio.get_running_loop()
    loop.call_later(0.1, pulse.felt)
    began = loop.time()
    assert await waited(pulse)
    assert loop.time() - began >= 0.29
    pulse.stop()


async def test_what_is_no_wait_is_never_broken_off() -> None:
    pulse = Pulse(0.01)
    await asyncio.sleep(0.05)  # a write that a shut window holds up
    assert not pulse.due
    pulse.stop()


async def test_a_message_in_the_very_moment_of_a_heartbeat_takes_its_place() -> None:
    pulse, loop = Pulse(60), asyncio.get_running_loop()

    def message_and_look() -> None:
        assert pulse.waiting is not None
        pulse.waiting.set_result(None)
        pulse._last = float("-inf")
        pulse._look()

    loop.call_soon(message_and_look)
    assert not await waited(pulse)
    pulse.stop()


async def test_a_caller_that_leaves_in_silence_has_left() -> None:
    async def handler() -> None:
        pulse = Pulse(60)
        try:
            await waited(pulse)
        finally:
            pulse.stop()

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
