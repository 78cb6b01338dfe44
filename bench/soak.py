"""Hours in minutes: a real service under steady traffic with leaving callers and failing vendors must not grow.

    python -m bench.soak 15            so many minutes (15 unless told); the last line is JSON
    make soak MINUTES=60

50 streams a second arrive whether the earlier ones are answered or not; of a hundred, 20 are left by their caller in
some phase and 5 fail by their vendor, in every way there is. The first third warms up, at twice the rate: it takes some
25,000 streams until the cache of 10,000 sessions is full and the heap has found its shape. Then resident memory is
sampled once a second; the slope is that of least squares with its 95 % confidence interval, of which the upper bound
counts. At the end tasks, sockets and runs must be back at what they were. Exit code 1 when anything of this fails.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import grpc
import msgspec
import uvloop

from agentsvc import v1
from agentsvc.providers.script import Call, ErrorFrame, Malformed, Refuse, Reset, Say, Stall, Step, Truncate, Turn
from bench.processes import raise_file_limit, stop_in_order
from tests.e2e.house import collect, read_until
from tests.torture.station import OWN, Station, open_station

RATE: Final = 50.0  # streams a second
WARM_UP_RATE: Final = 100.0
CANCELLED, FAILING = 0.20, 0.05  # shares
LINGER: Final = 0.1  # seconds at most that a caller who is about to leave still listens
MUST: Final = 10.0  # MB an hour; the mark of an hour's run is 1
CONNECTIONS: Final = 4
RETENTION: Final = 20  # seconds ended runs are kept: what is kept must be as much at the end of the warm-up as ever
QUIET: Final = {"AGENTSVC_JOURNAL__RETENTION": str(RETENTION), "AGENTSVC_LOG__LEVEL": "error"}

TEXT: Final = Say("It is eighteen degrees in Paris and the sun will shine until the evening.", delay=0.01)
TALKS: Final[Sequence[tuple[Step, ...]]] = ((TEXT,), (Call("look"), Turn(), TEXT))
FAULTS: Final[Sequence[tuple[Step, ...]]] = (
    (Refuse(500),),
    (Refuse(429, headers={"retry-after": "1"}),),
    (Say("Once"), ErrorFrame()),
    (Say("Once"), Malformed()),
    (Say("Once"), Truncate()),
    (Say("Once"), Reset()),
)
DEPARTURES: Final[Sequence[tuple[tuple[Step, ...], str]]] = (
    ((Stall(),), "run_started"),
    ((TEXT, TEXT), "text_delta"),
    ((Call("wait", {"seconds": 60}), Turn(), TEXT), "tool_call_requested"),
    ((Call("look"), Turn(), Stall()), "tool_result"),
)


class Figures(msgspec.Struct):
    """What came out. Memory in MB, slopes in MB an hour."""

    minutes: float
    streams: int
    ended: dict[str, int]
    resident_before: float
    resident_after: float
    slope: float
    slope_upper: float
    at_rest: bool

    @property
    def sound(self) -> bool:
        return self.at_rest and self.slope_upper <= MUST


def _nothing() -> None:
    """Nobody counts the seconds."""


class Traffic:
    """Callers that come by the clock, over a few connections."""

    def __init__(self, station: Station, agent: str, stubs: Sequence[Any]) -> None:
        self.ended: Counter[str] = Counter()
        self._station = station
        self._agent = agent
        self._stubs = stubs
        self._draw = random.Random(50)
        self._calls: set[asyncio.Task[None]] = set()
        self._number = 0

    async def flow(self, seconds: float, rate: float = RATE, each_second: Callable[[], None] = _nothing) -> None:
        """Traffic for so long. The last ones are still on their way when it ends."""
        began = time.monotonic()
        for number in range(round(seconds * rate)):
            await asyncio.sleep(began + number / rate - time.monotonic())
            if number % round(rate) == 0:
                each_second()
            call = asyncio.create_task(self._one())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def arrive(self) -> None:
        """The last ones have their end."""
        await asyncio.gather(*self._calls)

    async def _one(self) -> None:
        self._number += 1
        stub = self._stubs[self._number % len(self._stubs)]
        lot = self._draw.random()
        behave: Callable[[Any], Awaitable[str]]
        if lot < CANCELLED:
            behave = self._leave
        elif lot < CANCELLED + FAILING:
            behave = self._fail
        else:
            behave = self._listen
        self.ended[await behave(stub)] += 1

    async def _listen(self, stub: Any) -> str:
        answer = await collect(self._station.stream(self._agent, *self._draw.choice(TALKS), stub=stub))
        return answer.status.name

    async def _fail(self, stub: Any) -> str:
        answer = await collect(self._station.stream(self._agent, *self._draw.choice(FAULTS), stub=stub))
        return answer.end.reason if answer.end else answer.status.name

    async def _leave(self, stub: Any) -> str:
        steps, moment = self._draw.choice(DEPARTURES)
        call = self._station.stream(self._agent, *steps, stub=stub)
        await read_until(call, moment)
        await asyncio.sleep(self._draw.uniform(0, LINGER))
        call.cancel()
        return "left"


def slope(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least squares through (seconds, MB): MB an hour, and the upper end of its 95 % confidence interval."""
    xs, ys = zip(*samples, strict=True)
    line = statistics.linear_regression(xs, ys)
    residue = sum((y - line.intercept - line.slope * x) ** 2 for x, y in samples)
    spread = sum((x - statistics.fmean(xs)) ** 2 for x in xs)
    error = (residue / (len(samples) - 2) / spread) ** 0.5
    return line.slope * 3600, (line.slope + statistics.NormalDist().inv_cdf(0.975) * error) * 3600


async def soak(minutes: float) -> Figures:
    """The whole run, and what came out."""
    with tempfile.TemporaryDirectory() as directory:
        async with open_station(Path(directory), **QUIET) as station, AsyncExitStack() as stack:
            agent = await station.agent(tools=["look", "wait"])
            stubs = []
            for _ in range(CONNECTIONS):
                channel = grpc.aio.insecure_channel(station.target, options=OWN)
                await stack.enter_async_context(channel)
                await channel.channel_ready()
                stubs.append(v1.AgentServiceStub(channel))
            traffic = Traffic(station, agent, stubs)
            warm_up = minutes * 60 / 3
            await traffic.flow(min(5.0, warm_up))
            await traffic.arrive()
            rest = await station.inside()
            await traffic.flow(warm_up, WARM_UP_RATE)
            samples: list[tuple[float, float]] = []
            began = time.monotonic()

            def sample() -> None:
                samples.append((time.monotonic() - began, station.process.resident() / 1e6))
                if len(samples) % 60 == 0:
                    print(f"{samples[-1][0] / 60:5.1f} min  {samples[-1][1]:7.1f} MB", flush=True)

            await traffic.flow(minutes * 60 - warm_up, each_second=sample)
            await traffic.arrive()
            at_rest = await _is_at_rest(station, rest)
    found, upper = slope(samples)
    return Figures(
        minutes, traffic.ended.total(), dict(traffic.ended), samples[0][1], samples[-1][1], found, upper, at_rest
    )


async def _is_at_rest(station: Station, rest: Any) -> bool:
    try:
        await station.back_to(rest)
    except AssertionError as left:
        print(left)
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description="Steady traffic against a real service, and whether its memory grows.")
    parser.add_argument("minutes", type=float, nargs="?", default=15.0)
    raise_file_limit()
    stop_in_order()
    figures = uvloop.run(soak(parser.parse_args().minutes))
    print(
        f"{figures.streams} streams: {', '.join(f'{n} {name}' for name, n in sorted(figures.ended.items()))}\n"
        f"resident memory {figures.resident_before:.1f} MB -> {figures.resident_after:.1f} MB, slope "
        f"{figures.slope:+.2f} MB/h, upper bound {figures.slope_upper:+.2f} MB/h (must be under {MUST:g}); "
        f"tasks, sockets and runs {'are back' if figures.at_rest else 'are NOT back'} at rest"
    )
    print(msgspec.json.encode(figures).decode())
    sys.exit(0 if figures.sound else 1)


if __name__ == "__main__":
    main()
