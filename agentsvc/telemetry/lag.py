"""How long the event loop keeps things waiting: a clock that ticks every 100 ms and notices when it is late.

The longest lag since any moment is asked for by every run at its end, and must cost next to nothing. So of all lags
only those are kept that no later one has surpassed: a stack that descends. A new lag pops what is smaller (each is
pushed and popped once), and the longest one since a moment is the first entry that is not older.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from time import perf_counter_ns
from typing import Final

TICK: Final = 0.1  # seconds
_HORIZON: Final = 3600  # seconds that are remembered


class LoopLag:
    """``start`` it on the loop that is watched. Times are readings of ``perf_counter_ns``."""

    def __init__(self) -> None:
        self._times: list[int] = []
        self._lags: list[int] = []  # ns; descending, beside ``_times``
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to tick."""
        self._set()

    def stop(self) -> None:
        """Ticks no more; what was seen is kept."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def since(self, moment_ns: int) -> int:
        """The longest lag since then in microseconds, one that is going on included. At most an hour back."""
        first = bisect_left(self._times, moment_ns)
        longest = 0
        # Only the first can have begun before the moment, and of that the asker suffered what came after it.
        for at, lag in zip(self._times[first : first + 2], self._lags[first : first + 2], strict=True):
            longest = max(longest, min(lag, at - moment_ns))
        if self._timer is not None:
            longest = max(longest, perf_counter_ns() - max(self._due, moment_ns))
        return longest // 1000

    def noticed(self, at_ns: int, lag_ns: int) -> None:
        """A tick at ``at_ns`` was late by ``lag_ns``."""
        times, lags = self._times, self._lags
        while lags and lags[-1] <= lag_ns:
            times.pop()
            lags.pop()
        times.append(at_ns)
        lags.append(lag_ns)
        if at_ns - times[0] > _HORIZON * 1_000_000_000:
            del times[0], lags[0]

    def _set(self) -> None:
        self._due = perf_counter_ns() + int(TICK * 1e9)
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _tick(self) -> None:
        now = perf_counter_ns()
        self.noticed(now, max(0, now - self._due))
        self._set()
