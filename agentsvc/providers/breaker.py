"""Whether an address is asked at all: a circuit breaker, so that nobody waits for a vendor that is down.

    CLOSED     all pass; opens when too many answers in a row failed before their first token, or after it
    OPEN       none pass for a pause, which doubles from one opening to the next until an answer is complete again
    HALF_OPEN  one at a time passes, the probe: its first sign of life closes, its failure opens again

No socket and no timer: the state is a matter of what was told and what the clock says.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from agentsvc.domain.providers import BreakerState

LONGEST: Final = 60.0  # seconds a pause grows to


class Breaker:
    """``failures`` in a row open it for ``open_for`` seconds; 0 failures: never.

    Answers that begin and then break off make a row of their own: else the first token of each would end it. ``begin``
    gives a ticket under which the answer's fate is told; what is told of a time before the last change is too old to count.
    """

    __slots__ = ("_clock", "_closed", "_early", "_first", "_late", "_limit", "_pause", "_probing", "_round", "_until")

    def __init__(self, failures: int, open_for: float, clock: Callable[[], float] = monotonic) -> None:
        self._limit = failures
        self._first = self._pause = open_for
        self._clock = clock
        self._closed = True
        self._probing = False
        self._early = self._late = self._round = 0
        self._until = 0.0

    @property
    def state(self) -> BreakerState:
        """As of now."""
        if self._closed:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._probing or self.wait == 0.0 else BreakerState.OPEN

    @property
    def wait(self) -> float:
        """Seconds until the next request may pass; 0 when it may now."""
        return 0.0 if self._closed else max(0.0, self._until - self._clock())

    def begin(self) -> int | None:
        """A ticket for one request, None when it must not pass."""
        if not self._closed:
            if self.wait:
                return None
            # A probe that brings nothing for the length of a pause, not even its failure, keeps the next one waiting no longer.
            self._probing, self._until = True, self._clock() + self._pause
            self._round += 1
        return self._round

    def began(self, ticket: int) -> None:
        """A first token, or a refusal that is no fault of the address: it is there."""
        if ticket == self._round:
            self._early = 0
            self._closed, self._probing = True, False

    def succeeded(self, ticket: int) -> None:
        """A complete answer."""
        if ticket == self._round:
            self.began(ticket)
            self._late = 0
            self._pause = self._first

    def failed(self, ticket: int, *, begun: bool) -> None:
        """The address failed the request, before anything of an answer or after it had ``begun``."""
        if ticket != self._round:
            return
        if begun:
            self._late += 1
        else:
            self._early += 1
        if not self._closed or 0 < self._limit <= max(self._early, self._late):
            self._open()

    def left(self, ticket: int) -> None:
        """Nobody knows how it would have gone: the caller went away first. If it was the probe, the next one is."""
        if ticket == self._round and self._probing:
            self._probing, self._until = False, self._clock()

    def _open(self) -> None:
        self._closed = self._probing = False
        self._until = self._clock() + self._pause
        self._pause = min(2 * self._pause, max(LONGEST, self._first))
        self._round += 1
