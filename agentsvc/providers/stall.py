"""When a provider has had the ball for too long."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

_LEAST = 0.01  # seconds: what an attempt must have before it to be worth making


class StallTimer:
    """One timer per answer. What resets it only moves a mark, which the timer looks at when it goes off.

    Until ``begin`` the patience is ``first`` seconds from ``start``, then ``idle`` seconds from each ``run``. ``alarm``
    is called once; it has to make the pending read fail.
    """

    __slots__ = ("_alarm", "_deadline", "_first_deadline", "_handle", "_idle", "_loop", "begun", "fired", "first")

    def __init__(self, first: float, idle: float, alarm: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._alarm = alarm
        self._idle = idle
        self._deadline = self._first_deadline = math.inf
        self._handle: asyncio.TimerHandle | None = None
        self.first = first
        self.begun = self.fired = False

    def start(self) -> None:
        """The request is out. Later attempts do not start it anew."""
        if self._handle is None:
            self._deadline = self._first_deadline = self._loop.time() + self.first
            self._wake_at(self._deadline)

    def allows(self, delay: float) -> bool:
        """Whether ``delay`` seconds from now there is patience left for more than that."""
        return not self.fired and self._loop.time() + delay + _LEAST < self._deadline

    def begin(self) -> None:
        """The first token is here; from now on the shorter look."""
        self.begun = True
        self._wake_at(self._loop.time() + self._idle)

    def hold(self) -> None:
        """The reader has the ball: no time runs."""
        self._deadline = math.inf

    def run(self) -> None:
        """The provider has the ball again."""
        self._deadline = self._loop.time() + self._idle if self.begun else self._first_deadline

    def stop(self) -> None:
        """The answer is over."""
        if self._handle is not None:
            self._handle.cancel()

    def _wake_at(self, when: float) -> None:
        self.stop()
        self._handle = self._loop.call_at(when, self._check)

    def _check(self) -> None:
        now = self._loop.time()
        if now >= self._deadline:
            self.fired = True
            self._alarm()
        else:
            self._wake_at(min(self._deadline, now + self._idle))
