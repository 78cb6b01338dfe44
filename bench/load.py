"""The load client: one process, one job, one reading.

    ttft    one call at a time, in turn over all ways to the same answer, the order drawn anew each round
    flood   so many streams at a time, each asking again when it has its answer, so many rounds
    paced   so many streams of stamped tokens, started at random moments of a ramp; only the window after it counts
    idle    so many streams that have sent nothing yet, and the memory they hold

Every answer is checked for its length, so no figure counts work that was not done. Run by ``bench.run`` as
``python -m bench.load``, job on standard input and reading on standard output, both JSON.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Final, Protocol, TypeAlias

import aiohttp
import msgspec
import uvloop
from yarl import URL

from bench import http1, http2
from bench.http2 import Call
from bench.processes import BenchError, Cores, Meter, Usage, anonymous_kb, raise_file_limit
from bench.upstream import STAMP_BYTES, WORD_BYTES

CONNECTIONS: Final = 8  # one multiplexed connection would stay on one of grpc's workers
GAP_SECONDS: Final = 0.004  # between two calls of ttft: what a call leaves to do must not fall on the next one
SETTLE_SECONDS: Final = 0.5
SAFETY_SECONDS: Final = 60.0
_SEED: Final = 20_000_331


class Upstream(msgspec.Struct):
    """Where it listens, and the request to send when going there directly."""

    port: int
    pid: int
    body: bytes


class Target(msgspec.Struct):
    """A gRPC server that answers from the upstream. ``requests`` are serialised and used in turn."""

    name: str
    port: int
    pid: int
    path: str
    metadata: list[tuple[str, str]]
    requests: list[bytes]


class Ttft(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    targets: list[Target]
    rounds: int
    tokens: int


class Flood(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    target: Target
    streams: int
    rounds: int
    tokens: int


class Paced(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    target: Target | None  # None: straight to the upstream
    streams: int
    ramp: float
    window: float
    tokens: int


class Idle(msgspec.Struct, tag=True):
    cores: Cores
    upstream: Upstream
    target: Target
    streams: int


Job: TypeAlias = Ttft | Flood | Paced | Idle


class Reading(msgspec.Struct):
    """``microseconds``: by way, what each call of ttft took to its first text, or (key "token") what tokens took from
    leaving the upstream. ``count``: requests of flood, tokens of paced, streams of idle. ``kilobytes``: idle only.
    """

    usage: Usage
    count: int = 0
    kilobytes: int = 0
    microseconds: dict[str, list[float]] = {}


class Caller(Protocol):
    """A way to get an answer."""

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call: ...
    async def close(self) -> None: ...


class Grpc:
    """Calls of one target over a few connections in turn."""

    def __init__(self, target: Target, connections: Sequence[http2.Connection]) -> None:
        self._head = http2.headers(target.path, target.metadata)
        self._requests = cycle(target.requests)
        self._all = connections
        self._connections = cycle(connections)

    @classmethod
    async def open(cls, target: Target, connections: int = CONNECTIONS) -> Grpc:
        return cls(target, [await http2.connect(target.port) for _ in range(connections)])

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call:
        call = Call(arrivals)
        next(self._connections).call(self._head, next(self._requests), call)
        return call

    async def close(self) -> None:
        for connection in self._all:
            connection.close()


class Direct:
    """Calls of the upstream itself, as light as can be; every stream at a time has a connection."""

    def __init__(self, upstream: Upstream, connections: Sequence[http1.Connection]) -> None:
        self._request = http1.request(upstream.body)
        self._all = connections
        self._connections = cycle(connections)

    @classmethod
    async def open(cls, upstream: Upstream, connections: int) -> Direct:
        return cls(upstream, [await http1.connect(upstream.port) for _ in range(connections)])

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call:
        call = Call(arrivals)
        next(self._connections).ask(self._request, call)
        return call

    async def close(self) -> None:
        for connection in self._all:
            connection.close()


class Aiohttp:
    """Calls of the upstream itself as a Python caller without the service would make them."""

    def __init__(self, upstream: Upstream) -> None:
        self._url = URL(f"http://127.0.0.1:{upstream.port}/v1/chat/completions")
        self._body = upstream.body
        self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._task: asyncio.Task[None] | None = None

    def ask(self, arrivals: list[tuple[int, bytes]] | None = None) -> Call:
        call = Call(arrivals)
        self._task = asyncio.create_task(self._fetch(call))
        return call

    async def _fetch(self, call: Call) -> None:
        async with self._session.post(self._url, data=self._body) as response:
            while data := await response.content.readany():
                if text := b"".join(http1.TEXT.findall(data)):
                    call.arrived(text, time.monotonic_ns())
        call.end(None)

    async def close(self) -> None:
        await self._session.close()


def _check(call: Call, expected: int) -> None:
    if call.text_bytes != expected:
        raise BenchError(f"an answer had {call.text_bytes} bytes of text instead of {expected}")


async def ttft(job: Ttft) -> Reading:
    callers: dict[str, Caller] = {target.name: await Grpc.open(target, 1) for target in job.targets}
    callers |= {"direct": await Direct.open(job.upstream, 1), "aiohttp": Aiohttp(job.upstream)}
    taken: dict[str, list[float]] = {name: [] for name in callers}
    meter = Meter(job.cores, tested=job.targets[0].pid, upstream=job.upstream.pid)
    order = list(callers)
    draw = random.Random(_SEED)
    warm_up = max(5, len(job.targets[0].requests))
    for round_ in range(warm_up + job.rounds):
        draw.shuffle(order)
        for name in order:
            meter.start()
            began = time.monotonic_ns()
            call = callers[name].ask()
            await call.done
            meter.stop()
            _check(call, job.tokens * WORD_BYTES)
            if round_ >= warm_up:
                taken[name].append((call.first_text_ns - began) / 1000)
            await asyncio.sleep(GAP_SECONDS)
    for caller in callers.values():
        await caller.close()
    return Reading(meter.usage(), job.rounds, microseconds=taken)


async def flood(job: Flood) -> Reading:
    caller = await Grpc.open(job.target)

    async def ask(rounds: int) -> None:
        for _ in range(rounds):
            call = caller.ask()
            await call.done
            _check(call, job.tokens * WORD_BYTES)

    async def all_streams(rounds: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(job.streams):
                group.create_task(ask(rounds))

    await all_streams(1)  # opens the connections, fills the caches
    meter = Meter(job.cores, tested=job.target.pid, upstream=job.upstream.pid)
    meter.start()
    await all_streams(job.rounds)
    meter.stop()
    await caller.close()
    return Reading(meter.usage(), job.streams * job.rounds)


async def paced(job: Paced) -> Reading:
    caller: Caller = await (Grpc.open(job.target) if job.target else Direct.open(job.upstream, job.streams))
    draw = random.Random(_SEED)
    began = time.monotonic()
    calls: list[Call] = []
    for at in sorted(draw.uniform(0, job.ramp) for _ in range(job.streams)):
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        calls.append(caller.ask([]))
    await asyncio.sleep(began + job.ramp + SETTLE_SECONDS - time.monotonic())
    meter = Meter(job.cores, tested=job.target.pid if job.target else job.upstream.pid, upstream=job.upstream.pid)
    meter.start()
    opened = time.monotonic_ns()
    await asyncio.sleep(job.window)
    closed = time.monotonic_ns()
    meter.stop()
    for call in calls:
        await call.done
        _check(call, job.tokens * STAMP_BYTES)
    await caller.close()
    arrivals = [a for call in calls for a in call.arrivals or () if opened <= a[0] < closed]
    took = [
        (now - int(text[i + 1 : i + STAMP_BYTES])) / 1000
        for now, text in arrivals
        for i in range(0, len(text), STAMP_BYTES)
    ]
    return Reading(meter.usage(), len(took), microseconds={"token": took})


async def idle(job: Idle) -> Reading:
    caller = await Grpc.open(job.target)
    async with aiohttp.ClientSession() as session:

        async def opened(streams: int) -> None:
            calls.extend(caller.ask() for _ in range(streams - len(calls)))
            while (await _stats(session, job.upstream))["open"] < streams:
                if failed := [call for call in calls if call.done.done()]:
                    failed[0].done.result()
                await asyncio.sleep(0.05)

        calls: list[Call] = []
        warm_up = job.streams // 20  # what exists once is not counted to the streams
        await opened(warm_up)
        before = await _settled(lambda: anonymous_kb(job.target.pid))
        meter = Meter(job.cores, tested=job.target.pid, upstream=job.upstream.pid)
        meter.start()
        await opened(job.streams)
        after = await _settled(lambda: anonymous_kb(job.target.pid))
        meter.stop()
    for call in calls:
        call.end(None)
    await caller.close()
    return Reading(meter.usage(), job.streams - warm_up, kilobytes=after - before)


async def _stats(session: aiohttp.ClientSession, upstream: Upstream) -> dict[str, int]:
    async with session.get(f"http://127.0.0.1:{upstream.port}/stats") as response:
        stats: dict[str, int] = await response.json(content_type=None)
        return stats


async def _settled(read: Callable[[], int]) -> int:
    """The first reading, in KB, that half a second of others agrees with to 64; after five seconds the last one."""
    readings = [read()]
    while len(readings) < 50:
        await asyncio.sleep(0.1)
        readings.append(read())
        last = readings[-5:]
        if len(last) == 5 and max(last) - min(last) <= 64:
            break
    return readings[-1]


async def perform(job: Job) -> Reading:
    """Does the job.

    Raises:
        BenchError, CallFailedError: a call failed, or its answer was not what the upstream had sent.
        TimeoutError: it took longer than any sound run does.
    """
    async with asyncio.timeout(SAFETY_SECONDS):
        match job:
            case Ttft():
                return await ttft(job)
            case Flood():
                return await flood(job)
            case Paced():
                return await paced(job)
            case Idle():
                return await idle(job)


def main() -> None:
    raise_file_limit()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    gc.disable()  # a job is short, and a pause of ours would be counted as the service's
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(perform(job))))


if __name__ == "__main__":
    main()
