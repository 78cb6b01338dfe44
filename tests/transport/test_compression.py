"""gzip on the wire: the flag byte before each message, seen between a real client and the real service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from agentsvc import v1
from agentsvc.domain.events import ModelEvent, TextDelta
from agentsvc.domain.ports import ModelRequest
from tests.transport.house import CALLER, FINISHED, bearer, open_house

LONG = "All work and no play makes a long answer. " * 500  # 21 KB
IDENTITY_ONLY = {"options": [("grpc.compression_enabled_algorithms_bitset", 1)]}


async def tells(request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
    """Says many small words, then a lot at once."""
    for word in ("All", " work", " and", " no", " play. "):
        yield [TextDelta(word)]
        await asyncio.sleep(0)
    yield [TextDelta(LONG), FINISHED]


class Wiretap:
    """Between a client and the service; ``messages`` are (flag, length) of what the service sent, in order."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._sent = bytearray()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: bytearray) -> None:
            while chunk := await source.read(1 << 16):
                record += chunk
                sink.write(chunk)

        upward = asyncio.create_task(pump(reader, up_writer, bytearray()))
        downward = asyncio.create_task(pump(up_reader, writer, self._sent))
        try:
            await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (upward, downward):
                task.cancel()
            for transport in (writer.transport, up_writer.transport):
                transport.abort()

    @property
    def messages(self) -> list[tuple[int, int]]:
        data, at = bytearray(), 0
        while at + 9 <= len(self._sent):  # RFC 9113 4.1
            length, kind = int.from_bytes(self._sent[at : at + 3]), self._sent[at + 3]
            if kind == 0:
                data += self._sent[at + 9 : at + 9 + length]
            at += 9 + length
        found, at = [], 0
        while at < len(data):
            length = int.from_bytes(data[at + 1 : at + 5])
            found.append((data[at], length))
            at += 5 + length
        return found


@asynccontextmanager
async def tapped(**channel: Any) -> AsyncIterator[tuple[Wiretap, Any]]:
    async with open_house(tells) as house:
        tap = Wiretap(house.server.port)
        connections: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(
            lambda *ends: connections.append(asyncio.create_task(tap.carry(*ends))), "127.0.0.1", 0
        )
        try:
            port = server.sockets[0].getsockname()[1]
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", **channel) as through:
                yield tap, v1.AgentServiceStub(through)
        finally:
            server.close()
            await asyncio.gather(*connections)


async def answered(stub: Any) -> v1.Run:
    question = v1.StreamChatRequest(agent_id="demo", message="hi")
    events = [response.event async for response in stub.StreamChat(question, metadata=bearer(CALLER))]
    found = await stub.GetRun(v1.GetRunRequest(run_id=events[0].run_started.run_id), metadata=bearer(CALLER))
    run: v1.Run = found.run
    assert run.text.endswith(LONG)
    return run


async def test_a_client_that_compresses_gets_large_messages_compressed_and_small_deltas_not() -> None:
    async with tapped(compression=grpc.Compression.Gzip) as (tap, stub):
        await answered(stub)
        *streamed, record = tap.messages
    assert record[0] == 1
    assert record[1] < len(LONG) / 10
    assert {flag for flag, _ in streamed[:6]} == {0}  # run_started and the words
    large = [length for flag, length in streamed if flag]
    assert len(large) == 2  # the long delta and generation_completed
    assert max(large) < len(LONG) / 10


async def test_small_answers_leave_as_they_are() -> None:
    async with tapped(compression=grpc.Compression.Gzip) as (tap, stub):
        await stub.ListRuns(v1.ListRunsRequest(), metadata=bearer(CALLER))
        assert [flag for flag, _ in tap.messages] == [0]


async def test_a_client_that_accepts_no_compression_gets_none() -> None:
    async with tapped(**IDENTITY_ONLY) as (tap, stub):
        await answered(stub)
        assert {flag for flag, _ in tap.messages} == {0}


@pytest.mark.parametrize("channel", [{"compression": grpc.Compression.Gzip}, IDENTITY_ONLY], ids=["gzip", "none"])
async def test_what_would_stop_the_event_loop_for_long_leaves_as_it_is(
    channel: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentsvc.transport.compression._MOST", 20_000)
    async with tapped(**channel) as (tap, stub):
        await answered(stub)
        assert {flag for flag, _ in tap.messages} == {0}
