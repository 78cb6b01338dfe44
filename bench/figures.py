"""The figures, and what they must and may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MIN_IDLE: Final = 0.30  # of the upstream's and load client's core; with less it is they who are measured
MAX_FOREIGN: Final = 0.25  # of either core; with more it is the neighbours who are measured


class Better(StrEnum):
    """Which way is good."""

    LOWER = "lower"
    HIGHER = "higher"


class Judged(StrEnum):
    """RATIO: service to bare. VALUE: the service's own figure."""

    RATIO = "ratio"
    VALUE = "value"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result, with the bounds of the project's targets; None is no bound."""

    name: str
    title: str
    unit: str
    must: float | None
    aim: float | None
    better: Better = Better.LOWER
    judged: Judged = Judged.RATIO

    def meets(self, bound: float, reached: float) -> bool:
        """Whether ``reached`` is on the good side of ``bound``."""
        return reached <= bound if self.better is Better.LOWER else reached >= bound


FIGURES: Final = {
    figure.name: figure
    for figure in (
        Figure("ttft_p50", "added time to first token, p50", "us", 1.3, 1.1),
        Figure("ttft_p99", "added time to first token, p99", "us", 1.8, 1.3),
        Figure("ttft_thinking_p50", "added time to first token, p50, model thinks 20 ms", "us", 1.3, 1.1),
        Figure("ttft_thinking_p99", "added time to first token, p99, model thinks 20 ms", "us", 1.8, 1.3),
        Figure("flood_32", "flood, 32 streams", "tokens/s", 0.8, 1.0, Better.HIGHER),
        Figure("flood_256", "flood, 256 streams of 800 tokens", "tokens/s", 0.65, 0.8, Better.HIGHER),
        Figure("cpu_token", "CPU per paced token, 200 streams x 50/s", "us", 1.25, 1.1),
        Figure("cpu_request", "CPU of an 8-token request", "us", 2.2, 1.6),
        Figure("memory", "memory per open stream, 1,000 streams", "KB", 1.5, 1.15),
        Figure("latency_300", "added per token, p99, 300 streams x 50/s", "ms", 10.0, None, judged=Judged.VALUE),
        Figure("latency_450", "added per token, p99, 450 streams x 50/s", "ms", None, 10.0, judged=Judged.VALUE),
    )
}
