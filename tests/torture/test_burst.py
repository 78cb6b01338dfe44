"""Thousands of streams at once: each is answered, or refused in words; none is dropped on the floor."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentsvc import v1
from tests.e2e.house import Answer, collect
from tests.torture.station import OWN, Station, open_station

CONNECTIONS = 8
REFUSALS = {"LIMIT_EXCEEDED", "OVERLOADED"}


async def opened_at_once(station: Station, streams: int) -> list[Answer]:
    """So many answers, asked for in one turn of the loop over eight connections."""
    async with AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(station.target, options=OWN) for _ in range(CONNECTIONS)]
        for channel in channels:
            await stack.enter_async_context(channel)
        stubs: list[Any] = [v1.AgentServiceStub(channel) for channel in channels]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        options = v1.ChatOptions(model="mock-echo")
        request = v1.StreamChatRequest(agent_id="demo", message="hello", options=options, store=False)
        calls = [
            stubs[number % CONNECTIONS].StreamChat(request, metadata=station.metadata) for number in range(streams)
        ]
        return await asyncio.gather(*(collect(call) for call in calls))


async def burst(directory: Path, streams: int) -> None:
    async with open_station(directory) as station:
        await opened_at_once(station, CONNECTIONS)
        before = await station.inside()
        began = time.monotonic()
        answers = await opened_at_once(station, streams)
        for answer in answers:
            if answer.status is grpc.StatusCode.OK:
                assert answer.check().text == "hello"
            else:
                assert answer.end is not None
                assert answer.end.reason in REFUSALS, answer.end
                assert "grpc-retry-pushback-ms" in answer.end.trailers
        told = Counter(answer.status.name for answer in answers)
        print(f"{streams} streams in {time.monotonic() - began:.1f} s: {dict(told)}")  # noqa: T201 - the figure
        assert told.total() == streams
        assert told["OK"] > 0
        await station.back_to(before)


async def test_six_hundred_streams_opened_at_once(tmp_path: Path) -> None:
    await burst(tmp_path, 600)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_three_thousand_streams_opened_at_once(tmp_path: Path) -> None:
    await burst(tmp_path, 3000)
