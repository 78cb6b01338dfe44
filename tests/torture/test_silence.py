"""A silent stream lives while both ends do: pings are permitted, and a peer that is gone is found out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from agentsvc import v1
from agentsvc.providers.script import Call, Say, Stall, Turn
from agentsvc.transport.server import Keepalive, ServerConfig
from tests.e2e.house import collect, open_house, question, read_until
from tests.torture.frames import ACK, Frame, Kind, frame, raw_connection, request
from tests.torture.inside import wait
from tests.torture.station import OWN, open_station
from tests.upstream import Upstream

STREAM_CHAT = "/agentsvc.v1.AgentService/StreamChat"
TOO_MANY_PINGS = b"too_many_pings"


def pinging(target: str, seconds: float) -> grpc.aio.Channel:
    """A client that asks every so many seconds, of which C-core makes at least one, whether the other end is still there."""
    options = (
        *OWN,
        ("grpc.keepalive_time_ms", round(seconds * 1000)),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    )
    return grpc.aio.insecure_channel(target, options=options)


async def pinging_like_go(port: int, every: float, message: bytes, metadata: Any) -> list[Frame]:
    """A call as grpc-go's keepalive with PermitWithoutStream makes it: pings by the clock, before, during and after it.
    All frames that came, the GOAWAY of a server that has had enough among them.
    """
    async with raw_connection(port) as connection:

        async def ping() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await connection.send(frame(Kind.PING, payload=b"still on"))
                    await asyncio.sleep(every)

        pings = asyncio.create_task(ping())
        frames: list[Frame] = []
        try:
            await asyncio.sleep(every * 3)  # while no call is open, which takes a permission of its own
            await connection.send(request(1, STREAM_CHAT, message, metadata))
            ended = False
            while not ended and (found := await connection.answer()) is not None:
                frames.append(found)
                ended = found.kind == Kind.GOAWAY or (found.stream == 1 and bool(found.flags & 1))
        finally:
            pings.cancel()
        return frames


def check_lived(frames: list[Frame]) -> None:
    assert not [found for found in frames if found.kind == Kind.GOAWAY]
    pongs = [found for found in frames if found.kind == Kind.PING and found.flags & ACK]
    assert len(pongs) >= 3
    assert b"waited" in b"".join(found.payload for found in frames if found.kind == Kind.DATA)


SILENT = (Call("wait", {"seconds": 4.5}), Turn(), Say("Awake."))


def patient(**keepalive: float) -> ServerConfig:
    """No heartbeat within the test: its data would count as a sign of life."""
    return ServerConfig("127.0.0.1:0", heartbeat=300.0, keepalive=Keepalive(**keepalive))


async def test_a_silent_tool_outlives_permitted_pings() -> None:
    async with open_house(tools=[wait], server=patient(min_client_interval=0.2)) as house:
        agent = await house.agent(tools=["wait"])
        message = question(agent, *SILENT).SerializeToString()
        async with pinging(house.target, 1.0) as channel:
            python = house.ask(agent, *SILENT, stub=v1.AgentServiceStub(channel))
            go = pinging_like_go(house.service.port, 0.3, message, house.acme.caller)
            answer, frames = await asyncio.gather(python, go)
        assert answer.text == "Awake."
        check_lived(frames)


async def test_pings_beyond_the_permission_are_refused() -> None:
    """What the permission is good for, and the proof that the pings of the test above are sent at all."""
    async with open_house(tools=[wait], server=patient(min_client_interval=60)) as house:
        agent = await house.agent(tools=["wait"])
        message = question(agent, *SILENT).SerializeToString()
        async with pinging(house.target, 1.0) as channel:
            stub = v1.AgentServiceStub(channel)
            python = collect(house.stream(agent, *SILENT, stub=stub))
            go = pinging_like_go(house.service.port, 0.3, message, house.acme.caller)
            answer, frames = await asyncio.gather(python, go)
        assert answer.status is grpc.StatusCode.UNAVAILABLE
        assert TOO_MANY_PINGS in frames[-1].payload


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_tool_silent_for_a_minute_outlives_pings_every_ten_seconds(tmp_path: Path) -> None:
    silent = (Call("wait", {"seconds": 60.0}), Turn(), Say("Awake."))
    async with open_station(tmp_path, AGENTSVC_HEARTBEAT_INTERVAL="300") as station:
        agent = await station.agent(tools=["wait"])
        message = question(agent, *silent).SerializeToString()
        async with pinging(station.target, 10) as channel:
            python = station.ask(agent, *silent, stub=v1.AgentServiceStub(channel))
            go = pinging_like_go(station.process.port, 10, message, station.metadata)
            answer, frames = await asyncio.gather(python, go)
        assert answer.text == "Awake."
        check_lived(frames)


class Tunnel:
    """A TCP proxy that can fall silent: from then on nothing is carried, and nobody is told."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.frozen = False
        self._target = target

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._carry(reader, forth), self._carry(back, writer))
        finally:
            writer.transport.abort()
            forth.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(1 << 16):
                if not self.frozen:
                    writer.write(chunk)


@asynccontextmanager
async def tunnel(target: int) -> AsyncIterator[Tunnel]:
    opened = Tunnel(target)
    ends: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.add(asyncio.create_task(opened.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    opened.port = server.sockets[0].getsockname()[1]
    try:
        yield opened
    finally:
        server.close()
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


async def freed_after(port: int, upstream: Upstream, agent: str, metadata: Any) -> float:
    """Seconds from the moment a caller's packets are lost until the vendor is hung up on."""
    async with tunnel(port) as lost, grpc.aio.insecure_channel(f"127.0.0.1:{lost.port}", options=OWN) as channel:
        stub = v1.AgentServiceStub(channel)
        call = stub.StreamChat(question(agent, Say("Once"), Stall()), metadata=metadata)
        await read_until(call, "text_delta")
        lost.frozen = True
        began = time.monotonic()
        await asyncio.wait_for(_closed(upstream), 60)
        took = time.monotonic() - began
        call.cancel()
        return took


async def _closed(upstream: Upstream) -> None:
    for connection in upstream.connections:
        if connection.requests:
            await connection.closed.wait()


async def test_a_caller_whose_packets_are_lost_frees_its_slot() -> None:
    async with open_house(server=patient(time=1.0, timeout=1.0)) as house:
        agent = await house.agent()
        took = await freed_after(house.service.port, house.upstream, agent, house.acme.caller)
        assert took < 10
        assert (await house.ask(agent, Say("Still here."))).text == "Still here."


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_with_the_settings_of_production_that_takes_less_than_45_seconds() -> None:
    async with open_house() as house:
        agent = await house.agent()
        took = await freed_after(house.service.port, house.upstream, agent, house.acme.caller)
        assert took < 45
