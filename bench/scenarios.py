"""What is done to get the figures: each scenario once, as samples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import median
from typing import Final, TypeAlias

import msgspec

from bench.jobs import Flood, Idle, Job, Paced, Reading, Target, Ttft, Upstream
from bench.load import SETTLE_SECONDS
from bench.processes import ROOT, BenchError, Cores, pinned
from bench.report import Sample
from bench.targets import Way, openai_body

Starter: TypeAlias = Callable[[], AbstractContextManager[Way]]

DIRECT: Final = "direct"

_TTFT_TOKENS: Final = 3
_TTFT_SESSIONS: Final = 25
_TTFT_THINKING: Final = 20  # ms
_PACED_PER_SECOND: Final = 50
_PACED_MARGIN: Final = 0.3  # seconds that a paced stream goes on after the window, so that none ends inside it
_IDLE_STREAMS: Final = 1_000
_LATENCY_STREAMS: Final = (300, 450)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything; ``window`` in seconds. ``starts_per_second``: how fast paced streams begin, slowly enough
    that the window sees streams and not their beginnings.
    """

    repetitions: int
    ttft_rounds: int
    flood_tokens: int
    flood_rounds: int
    requests: int
    starts_per_second: int
    window: float


FULL: Final = Scale(
    repetitions=3,
    ttft_rounds=300,
    flood_tokens=30_000,
    flood_rounds=5,
    requests=2_400,
    starts_per_second=150,
    window=3.0,
)
QUICK: Final = Scale(
    repetitions=1,
    ttft_rounds=60,
    flood_tokens=10_000,
    flood_rounds=2,
    requests=240,
    starts_per_second=400,
    window=0.8,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """``ways`` are running; ``starters`` start them afresh, for where what was before would show."""

    cores: Cores
    scale: Scale
    upstream: Upstream
    starters: tuple[Starter, ...]
    ways: tuple[Way, ...]

    def turned(self) -> Bench:
        """The same, the other way round: who comes second in one repetition comes first in the next."""
        return replace(self, starters=self.starters[::-1], ways=self.ways[::-1])

    def ttft(self) -> Iterator[Sample]:
        """One call at a time in stored conversations: to an upstream that answers at once, and to one that thinks first.

        No model answers in the instant in which it is asked. What is done right behind the provider's request (run_started,
        the row, timers) is done while it thinks; where the upstream answers at once it is in the token's way.
        """
        for figure, model in (
            ("ttft", f"paced-{_TTFT_TOKENS}-1-0"),
            ("ttft_thinking", f"thinking-{_TTFT_TOKENS}-1-{_TTFT_THINKING}"),
        ):
            targets = [way.target(model, _TTFT_SESSIONS) for way in self.ways]
            reading = self._do(Ttft(self.cores, self._asked(model), targets, self.scale.ttft_rounds, _TTFT_TOKENS))
            base = median(reading.microseconds[DIRECT])
            added = {way: [us - base for us in values] for way, values in reading.microseconds.items()}
            for name, share in (("p50", 0.50), ("p99", 0.99)):
                values = {way: percentile(us, share) for way, us in added.items()}
                yield Sample(f"{figure}_{name}", values, [reading.usage])

    def flood(self) -> Iterator[Sample]:
        """As many tokens as go through, every answer a new conversation."""
        for figure, streams, rounds, tokens in (
            ("flood_32", 32, 1, self.scale.flood_tokens),
            ("flood_256", 256, self.scale.flood_rounds, 800),
        ):
            readings = self._flood(streams, rounds, tokens)
            values = {way: r.count * tokens / r.usage.seconds for way, r in readings.items()}
            yield Sample(figure, values, [r.usage for r in readings.values()])

    def requests(self) -> Iterator[Sample]:
        """Eight callers with short answers that come in one piece: what a call costs beside its tokens."""
        readings = self._flood(8, self.scale.requests // 8, 8)
        values = {way: r.usage.tested_cpu / r.count * 1e6 for way, r in readings.items()}
        yield Sample("cpu_request", values, [r.usage for r in readings.values()])

    def paced(self) -> Iterator[Sample]:
        """What a token costs that comes alone."""
        readings = self._paced(200)
        values = {way: r.usage.tested_cpu / r.count * 1e6 for way, r in readings.items()}
        yield Sample("cpu_token", values, [r.usage for r in readings.values()])

    def latency(self) -> Iterator[Sample]:
        """What a token loses on its way through a busy process, beside the direct way's usual time."""
        for streams in _LATENCY_STREAMS:
            readings = self._paced(streams, direct=True)
            base = median(readings[DIRECT].microseconds["token"])
            values = {way: (percentile(r.microseconds["token"], 0.99) - base) / 1000 for way, r in readings.items()}
            yield Sample(f"latency_{streams}", values, [r.usage for r in readings.values()])

    def memory(self) -> Iterator[Sample]:
        """Streams that wait for their first token, in a process that has done nothing else."""
        readings = {}
        for start in self.starters:
            with start() as way:
                readings[way.name] = self._do(Idle(self.cores, self._asked("idle"), way.target("idle"), _IDLE_STREAMS))
        values = {way: r.kilobytes / r.count for way, r in readings.items()}
        yield Sample("memory", values, [r.usage for r in readings.values()])

    def _flood(self, streams: int, rounds: int, tokens: int) -> Mapping[str, Reading]:
        model = f"flood-{tokens}"
        upstream = self._asked(model)
        return {
            way.name: self._do(Flood(self.cores, upstream, way.target(model), streams, rounds, tokens))
            for way in self.ways
        }

    def _paced(self, streams: int, *, direct: bool = False) -> Mapping[str, Reading]:
        ramp, window = streams / self.scale.starts_per_second, self.scale.window
        tokens = round((ramp + SETTLE_SECONDS + window + _PACED_MARGIN) * _PACED_PER_SECOND)
        interval = 1000 // _PACED_PER_SECOND
        model = f"stamped-{tokens}-{interval}-{interval}"
        targets: dict[str, Target | None] = {way.name: way.target(model) for way in self.ways}
        if direct:
            targets[DIRECT] = None
        upstream = self._asked(model)
        return {
            name: self._do(Paced(self.cores, upstream, target, streams, ramp, window, tokens))
            for name, target in targets.items()
        }

    def _asked(self, model: str) -> Upstream:
        return msgspec.structs.replace(self.upstream, body=openai_body(model))

    def _do(self, job: Job) -> Reading:
        with pinned(self.cores.load):
            load = subprocess.run(
                [sys.executable, "-m", "bench.load"],
                cwd=ROOT,
                input=msgspec.json.encode(job),
                stdout=subprocess.PIPE,
                check=False,
            )
        if load.returncode:
            raise BenchError(f"the load client failed in {type(job).__name__.lower()}; its last words are above")
        return msgspec.json.decode(load.stdout, type=Reading)


SCENARIOS: Final[Mapping[str, Callable[[Bench], Iterator[Sample]]]] = {
    "ttft": Bench.ttft,
    "flood": Bench.flood,
    "requests": Bench.requests,
    "paced": Bench.paced,
    "memory": Bench.memory,
    "latency": Bench.latency,
}


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
