"""When a provider has had the ball for too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

_LEAST = 0.01  # seconds: what an attempt must have before it to be worth making


class StallTimer:
    """One timer per answer. What resets it only moves a mark, which the timer looks at when it goes off.

    Until ``begin`` the patience is ``first`` seconds from ``start``, then ``idle`` seconds from ``since_ns``, the reading
    of ``perf_counter_ns`` at which the provider got the ball; 0 while the reader has it. ``alarm`` is called once; it has
    to make the pending read fail.
    """

    __slots__ = ("_alarm", "_due", "_handle", "_idle", "_loop", "begun", "fired", "first", "since_ns")

    def __init__(self, first: float, idle: float, alarm: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._alarm = alarm
        self._idle = idle
        self._due = 0  # a reading: the end of the patience for the first token
        self._handle: asyncio.TimerHandle | None = None
        self.first = first
        self.since_ns = 0
        self.begun = self.fired = False

    def start(self) -> None:
        """The request is out. Later attempts do not start it anew."""
        if self._handle is None:
            self._due = perf_counter_ns() + int(self.first * 1e9)
            self._handle = self._loop.call_later(self.first, self._check)

    def allows(self, delay: float) -> bool:
        """Whether ``delay`` seconds from now there is patience left for more than that."""
        return not self.fired and (self._handle is None or delay + _LEAST < self._left(perf_counter_ns()))

    @property
    def patience(self) -> float | None:
        """Seconds left for a further attempt; None before the first was sent."""
        return None if self._handle is None else max(0.0, self._left(perf_counter_ns()))

    def begin(self) -> None:
        """The first token is here; from now on the shorter look."""
        self.begun = True
        if self._handle is None or self._idle < (self._due - perf_counter_ns()) * 1e-9:
            self._wake_in(self._idle)

    def stop(self) -> None:
        """The answer is over. Nothing of it is held on to: it need not wait for the collector to be freed."""
        self._rest()
        self._alarm = _nothing

    def _rest(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()

    def _left(self, now: int) -> float:
        """Seconds of patience that are left."""
        if not self.begun:
            return (self._due - now) * 1e-9
        return self._idle - (now - self.since_ns) * 1e-9 if self.since_ns else self._idle

    def _wake_in(self, seconds: float) -> None:
        self._rest()
        self._handle = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        left = self._left(perf_counter_ns())
        if left <= 0:
            self.fired = True
            self._alarm()
        else:
            self._wake_in(min(left, self._idle))


def _nothing() -> None:
    """Nobody is to be woken any more."""
