"""Bytes that no decent client sends: the service answers what can be answered, stays healthy, and gives the memory back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # no stubs

from agentsvc import v1
from agentsvc.providers.script import Say
from tests.e2e.house import Answer, collect
from tests.torture.frames import (
    CANCEL,
    END_HEADERS,
    PREFACE,
    Kind,
    RawConnection,
    frame,
    opening,
    raw_connection,
    request,
    tcp,
)
from tests.torture.station import OWN, Station, open_station

STREAM_CHAT = "/agentsvc.v1.AgentService/StreamChat"
HEALTHY_WITHIN = 1.0  # seconds
GIVEN_BACK, KEPT = 32 << 20, 48 << 20  # bytes
METHODS = ("StreamChat", "SubscribeRun", "Chat", "GetRun", "ListRuns", "CancelRun", "SubmitToolResults")
INSIDE = ("Traceback", 'File "', "site-packages", ".py")


@asynccontextmanager
async def healthy(station: Station) -> AsyncIterator[None]:
    """Somebody else asks for the service's health all the time, and always gets it within a second."""
    slowest, asked = 0.0, 0

    async def ask() -> None:
        nonlocal slowest, asked
        async with grpc.aio.insecure_channel(station.target, options=OWN) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                began = time.monotonic()
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
                slowest = max(slowest, time.monotonic() - began)
                asked += 1
                await asyncio.sleep(0.02)

    asking = asyncio.create_task(ask())
    try:
        while not asked and not asking.done():  # noqa: ASYNC110 - the task beside it counts
            await asyncio.sleep(0.01)
        yield
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    assert asked
    assert slowest < HEALTHY_WITHIN


def check_says_nothing(answer: Answer | grpc.aio.AioRpcError | str) -> None:
    """No line of code is told to anybody."""
    told = str(answer)
    assert not [sign for sign in INSIDE if sign in told], told


async def oversized(station: Station, rng: random.Random) -> None:
    """10 MB are parsed and refused in words, 40 MB by gRPC itself."""
    for megabytes, reason in ((10, "INVALID_FIELD"), (10, "INVALID_FIELD"), (40, "")):
        answer = await collect(station.stream("demo", message="x" * (megabytes << 20)))
        assert answer.end is not None
        assert answer.end.reason == reason
        assert answer.end.code == ("INVALID_ARGUMENT" if reason else "RESOURCE_EXHAUSTED")
        check_says_nothing(answer.end.message)


async def metadata(station: Station, rng: random.Random) -> None:
    """A thousand keys, and one of a megabyte."""
    many = tuple((f"key-{number}", "value") for number in range(1000))
    for extra in (many, (("key", "x" * (1 << 20)),)):
        call = station.agents.ListRuns(v1.ListRunsRequest(), metadata=(*station.metadata, *extra), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        check_says_nothing(refused.value.details() or "")


async def noise_as_requests(station: Station, rng: random.Random) -> None:
    """Random bytes where a message should be, for every method."""
    for method in METHODS:
        for size in (1, 10, 1000, 100_000):
            call: Any = station.channel.unary_stream(f"/agentsvc.v1.AgentService/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"\xff" + rng.randbytes(size), metadata=station.metadata, timeout=10).read()
            assert refused.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}
            check_says_nothing(refused.value)


async def noise_as_http2(station: Station, rng: random.Random) -> None:
    """Random bytes from the first one on, behind the preface, in frames, and inside header blocks."""

    async def throw(data: bytes) -> None:
        async with tcp(station.process.port) as (reader, writer), asyncio.timeout(10):
            with contextlib.suppress(OSError):
                writer.write(data)
                await writer.drain()
                writer.write_eof()
                while received := await reader.read(1 << 16):
                    check_says_nothing(received.decode("latin-1"))

    for _ in range(50):
        noise = rng.randbytes(rng.choice((1, 9, 100, 10_000)))
        settled = PREFACE + frame(Kind.SETTINGS)
        odd = frame(rng.randrange(256), rng.randrange(256), rng.getrandbits(31), noise)
        broken = frame(Kind.HEADERS, END_HEADERS, 1, noise)
        await asyncio.gather(*(throw(data) for data in (noise, settled + noise, settled + odd * 20, settled + broken)))
    await throw(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")


async def oversized_headers(station: Station, rng: random.Random) -> None:
    """A header block that never ends, frame after frame, until the service has had enough."""
    async with raw_connection(station.process.port) as connection:
        await connection.send(frame(Kind.HEADERS, 0, 1, b"\x00\x01a\x01b"))
        with contextlib.suppress(OSError):
            for _ in range(2_000):
                await connection.send(frame(Kind.CONTINUATION, 0, 1, b"\x00\x7f\x81\x7d" + b"k" * 16_380))
                await asyncio.sleep(0)


async def slow_lorises(station: Station, rng: random.Random) -> None:
    """Two hundred connections that have begun to say something, and never say the rest."""
    call = PREFACE + frame(Kind.SETTINGS) + opening(1, STREAM_CHAT, station.metadata)
    half = frame(Kind.DATA, 0, 1, b"\0\0\0\4\0x")
    beginnings = (b"", PREFACE[:10], PREFACE, PREFACE + frame(Kind.SETTINGS)[:5], call, call + half)
    async with AsyncExitStack() as stack:
        for number in range(200):
            _, writer = await stack.enter_async_context(tcp(station.process.port))
            writer.write(beginnings[number % len(beginnings)])
        assert (await station.ask("demo", options=v1.ChatOptions(model="mock-echo"), message="hello")).text == "hello"


async def rapid_resets(station: Station, rng: random.Random, streams: int = 1000) -> None:
    """CVE-2023-44487: calls that are taken back in the moment in which they are made."""
    message = v1.StreamChatRequest(agent_id="demo", message="hello", store=False).SerializeToString()
    told = 0
    while told < streams:
        async with raw_connection(station.process.port) as connection:
            answers = asyncio.create_task(_listen(connection))
            with contextlib.suppress(OSError):
                for number in range(1, 401, 2):
                    call = request(number, STREAM_CHAT, message, station.metadata)
                    await connection.send(call + frame(Kind.RST_STREAM, 0, number, CANCEL))
                    told += 1
            answers.cancel()


async def _listen(connection: RawConnection) -> None:
    while await connection.answer() is not None:
        pass


ATTACKS: tuple[Callable[[Station, random.Random], Awaitable[None]], ...] = (
    oversized,
    metadata,
    noise_as_requests,
    noise_as_http2,
    oversized_headers,
    slow_lorises,
    rapid_resets,
)


async def survive(station: Station, *attacks: Callable[[Station, random.Random], Awaitable[None]]) -> None:
    """All attacks while others are served; then nothing is left of them."""
    rng = random.Random(4)
    agent = await station.agent()
    before = await station.inside()
    for attack in attacks:
        after = [before]
        for _ in range(3):
            async with healthy(station):
                await attack(station, rng)
            after.append(await station.back_to(before, GIVEN_BACK, attack.__name__))
        # The allocators keep pages for the next time; what they have kept twice is enough for the third time.
        assert after[3].resident - after[2].resident < KEPT, attack.__name__
        assert (await station.ask(agent, Say("Still here."))).text == "Still here."
    check_says_nothing(station.log)
    for line in station.log.splitlines():
        assert json.loads(line)["event"], line  # no line of the log is theirs


async def test_hostile_bytes(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        await survive(station, *ATTACKS)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_ten_thousand_rapid_resets(tmp_path: Path) -> None:
    async with open_station(tmp_path) as station:
        await survive(station, lambda station, rng: rapid_resets(station, rng, 10_000))
