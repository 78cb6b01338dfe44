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
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, aclosing
from typing import Final

import aiohttp
import msgspec
import uvloop

from bench.callers import Aiohttp, Caller, Direct, Grpc
from bench.http2 import Call
from bench.jobs import Flood, Idle, Job, Paced, Reading, Ttft, Upstream
from bench.processes import BenchError, Meter, anonymous_kb, raise_file_limit
from bench.upstream import STAMP_BYTES, WORD_BYTES

GAP_SECONDS: Final = 0.004  # between two calls of ttft: what a call leaves to do must not fall on the next one
SETTLE_SECONDS: Final = 0.5
_TTFT_WARM_UP: Final = 25  # rounds: each stored session is asked once before
SAFETY_SECONDS: Final = 60.0
_SEED: Final = 20_000_331


def _check(call: Call, expected: int) -> None:
    if call.text_bytes != expected:
        raise BenchError(f"an answer had {call.text_bytes} bytes of text instead of {expected}")


async def ttft(job: Ttft) -> Reading:
    async with AsyncExitStack() as opened:

        async def use(caller: Caller) -> Caller:
            return await opened.enter_async_context(aclosing(caller))

        callers = {target.name: await use(await Grpc.open(target, 1)) for target in job.targets}
        callers |= {
            "direct": await use(await Direct.open(job.upstream, 1)),
            "aiohttp": await use(Aiohttp(job.upstream)),
        }
        taken: dict[str, list[float]] = {name: [] for name in callers}
        meter = Meter(job.cores, tested=job.targets[0].pid, upstream=job.upstream.pid)
        order = list(callers)
        draw = random.Random(_SEED)
        for round_ in range(_TTFT_WARM_UP + job.rounds):
            draw.shuffle(order)
            for name in order:
                meter.start()
                began = time.monotonic_ns()
                call = callers[name].ask()
                await call.done
                meter.stop()
                _check(call, job.tokens * WORD_BYTES)
                if round_ >= _TTFT_WARM_UP:
                    taken[name].append((call.first_text_ns - began) / 1000)
                await asyncio.sleep(GAP_SECONDS)
    return Reading(meter.usage(), job.rounds, microseconds=taken)


async def flood(job: Flood) -> Reading:
    async with aclosing(await Grpc.open(job.target)) as caller:

        async def ask(rounds: int) -> None:
            for _ in range(rounds):
                call = caller.ask()
                await call.done
                _check(call, job.tokens * WORD_BYTES)

        async def all_streams(rounds: int) -> None:
            await asyncio.gather(*(ask(rounds) for _ in range(job.streams)))

        await all_streams(1)  # opens the connections, fills the caches
        meter = Meter(job.cores, tested=job.target.pid, upstream=job.upstream.pid)
        meter.start()
        await all_streams(job.rounds)
        meter.stop()
    return Reading(meter.usage(), job.streams * job.rounds)


async def paced(job: Paced) -> Reading:
    draw = random.Random(_SEED)
    way: Caller = await (Grpc.open(job.target) if job.target else Direct.open(job.upstream, job.streams))
    async with aclosing(way) as caller:
        began = time.monotonic()
        calls: list[Call] = []
        for at in sorted(draw.uniform(0, job.ramp) for _ in range(job.streams)):
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            calls.append(caller.ask([]))
        await asyncio.sleep(began + job.ramp + SETTLE_SECONDS - time.monotonic())
        meter = Meter(job.cores, tested=job.target.pid if job.target else None, upstream=job.upstream.pid)
        meter.start()
        opened = time.monotonic_ns()
        await asyncio.sleep(job.window)
        closed = time.monotonic_ns()
        meter.stop()
        usage = meter.usage()
        for call in calls:
            await call.done
            _check(call, job.tokens * STAMP_BYTES)
    took = _ages([arrival for call in calls for arrival in call.arrivals or () if opened <= arrival[0] < closed])
    return Reading(usage, len(took), microseconds={"token": took})


def _ages(arrivals: Iterable[tuple[int, bytes]]) -> list[float]:
    """What each stamped token took from leaving the upstream, in microseconds."""
    return [
        (now - int(text[i + 1 : i + STAMP_BYTES])) / 1000
        for now, text in arrivals
        for i in range(0, len(text), STAMP_BYTES)
    ]


async def idle(job: Idle) -> Reading:
    calls: list[Call] = []
    async with aiohttp.ClientSession() as session, aclosing(await Grpc.open(job.target)) as caller:

        async def opened(streams: int) -> int:
            """So many streams are open; the memory then."""
            calls.extend(caller.ask() for _ in range(streams - len(calls)))
            while (await _stats(session, job.upstream))["open"] < streams:
                if failed := [call for call in calls if call.done.done()]:
                    failed[0].done.result()
                await asyncio.sleep(0.05)
            return await _settled(lambda: anonymous_kb(job.target.pid))

        warm_up = job.streams // 20  # what exists once is not counted to the streams
        before = await opened(warm_up)
        meter = Meter(job.cores, tested=job.target.pid, upstream=job.upstream.pid)
        meter.start()
        after = await opened(job.streams)
        meter.stop()
        for call in calls:
            call.end(None)
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
