"""Where the time of one run went: marks on one monotonic clock, cut into stages that callers see.

Critical stages follow each other without overlap from the call's arrival to the first delta and sum to the time to
first token; side stages run beside them. All readings are ``time.perf_counter_ns``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter_ns

from agentsvc.domain.quick import quick


class Stage(StrEnum):
    """The critical stages, in the order in which a request passes them."""

    AUTH = "auth"
    ADMISSION = "admission"
    AGENT = "agent"
    SESSION = "session"
    MEMORY = "memory"
    PROMPT = "prompt"
    POOL = "pool"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    REQUEST = "request"
    FIRST_TOKEN = "first_token"  # noqa: S105 - a stage, not a password


@quick
@dataclass(frozen=True, slots=True)
class StageTiming:
    """One stage: start and duration in microseconds since the call arrived."""

    stage: str
    start_us: int
    duration_us: int
    critical: bool = True


@quick
@dataclass(frozen=True, slots=True)
class AnswerTiming:
    """One answer of a model, as a span of its own: when it was asked for, when its first and its last chunk were here.

    A chunk is what one read brought; times are readings of the timeline's clock. ``first_ns`` is 0 when nothing came or
    the answer was asked for in one body. ``failure`` is the reason it failed of, empty when it did not.
    """

    provider: str
    model: str
    asked_ns: int
    first_ns: int
    last_ns: int
    chunks: int
    failure: str = ""


class Timeline:
    """Collects the stages of one run. Closing a critical stage opens the next: no gap, no overlap.

    ``waited_ns`` is time spent on others (provider, tools, parked, configured delays): what is left of the total is ours.
    ``answered`` from the run's first token on: later answers of models add to ``waited_ns``, but no stages. All of them
    are in ``answers``. ``clock`` is what they are read from.
    """

    __slots__ = ("_cut", "_stages", "_timings", "answered", "answers", "clock", "started_ns", "waited_ns")

    def __init__(self, started_ns: int | None = None, clock: Callable[[], int] = perf_counter_ns) -> None:
        self.clock = clock
        self.started_ns = clock() if started_ns is None else started_ns
        self._cut = self.started_ns
        self._stages: list[tuple[str, int, int, bool]] = []
        self._timings: tuple[StageTiming, ...] = ()  # made when asked for, since most are asked for twice
        self.waited_ns = 0
        self.answered = False
        self.answers: list[AnswerTiming] = []

    def reached(self, stage: str, at_ns: int | None = None) -> None:
        """The critical path leaves ``stage`` now; it had entered it when the one before ended."""
        now = self.clock() if at_ns is None else max(at_ns, self._cut)
        self._stages.append((stage, self._cut, now, True))
        self._cut = now
        self._timings = ()

    def held_back(self) -> None:
        """The first token leaves only now: what a buffer held it back for belongs to the last critical stage."""
        now = self.clock()
        for position in range(len(self._stages) - 1, -1, -1):
            stage, start, _, critical = self._stages[position]
            if critical:
                self._stages[position] = stage, start, now, True
                self._cut = now
                self._timings = ()
                return

    def waited(self, since_ns: int) -> None:
        """From ``since_ns`` until now somebody else had the ball."""
        self.waited_ns += self.clock() - since_ns

    def elapsed_us(self) -> int:
        """Microseconds since the call arrived."""
        return (self.clock() - self.started_ns) // 1000

    def overhead_us(self) -> int:
        """Microseconds that were ours: all of the time but what others had the ball for."""
        return max(0, self.clock() - self.started_ns - self.waited_ns) // 1000

    def timings(self) -> tuple[StageTiming, ...]:
        """The stages so far. Starts are truncated and durations are differences of truncated ends, so sums hold exactly."""
        if not self._timings:
            origin = self.started_ns
            self._timings = tuple(
                StageTiming(name, (start - origin) // 1000, (end - origin) // 1000 - (start - origin) // 1000, critical)
                for name, start, end, critical in self._stages
            )
        return self._timings
