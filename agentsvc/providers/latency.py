"""How soon the answers of one address begin: what was measured lately, for operators, and what to expect, for ranking."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final

from agentsvc.domain.providers import TimeToFirstToken

KEPT: Final = 128  # values
HORIZON: Final = 600.0  # seconds; what is older says nothing about now
WEIGHT: Final = 0.2  # of a new value in the moving average


class Latency:
    """Times to first token, in seconds. Telling it of one costs the same however many it has heard of."""

    __slots__ = ("_at", "_clock", "_expected", "_measured", "_recent")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._recent: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._expected = 0.0
        self._measured = False
        self._at = -math.inf

    @property
    def expected(self) -> float | None:
        """The moving average; None when nothing was heard for ``HORIZON``."""
        return self._expected if self._clock() - self._at <= HORIZON else None

    def add(self, seconds: float) -> None:
        """An answer began after so long."""
        now = self._clock()
        self._learn(now, seconds, measured=True)
        self._recent.append((now, seconds))

    def outlasted(self, seconds: float) -> None:
        """An answer was given up after so long without a token: it would have taken longer still.

        Otherwise only the quick answers of a slow address would ever count.
        """
        now = self._clock()
        if seconds > self._expected or now - self._at > HORIZON:
            self._learn(now, seconds, measured=False)

    def recent(self) -> list[float]:
        """The last ``KEPT`` values that are not older than ``HORIZON``, oldest first."""
        since = self._clock() - HORIZON
        return [seconds for at, seconds in self._recent if at >= since]

    def _learn(self, now: float, seconds: float, *, measured: bool) -> None:
        known = self._measured and now - self._at <= HORIZON
        self._expected = self._expected + WEIGHT * (seconds - self._expected) if known else seconds
        self._measured = measured or known
        self._at = now


def percentiles(times: Iterable[float]) -> TimeToFirstToken | None:
    """By nearest rank, so that each is a time that was measured; None of nothing."""
    ordered = sorted(times)
    if not ordered:
        return None
    p50, p95, p99 = (ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in (50, 95, 99))
    return TimeToFirstToken(p50, p95, p99, len(ordered))
