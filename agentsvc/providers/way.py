"""One way to a provider: an address, asked with one key. How it is doing, told by each answer that is asked for on it.

Whose fault a failure is decides what follows: the address's counts for its breaker, the key's lets the key rest, and the
caller's would be the same on any other way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import Final

from agentsvc.domain.errors import Error, ProviderError, Reason
from agentsvc.domain.events import ModelEvent, ModelFailed
from agentsvc.providers.breaker import Breaker
from agentsvc.providers.latency import Latency


@dataclass(frozen=True, slots=True)
class RoutingConfig:
    """When an address is not asked any more, and when a second way is tried beside the first. All times in seconds.

    ``failures`` of an address in a row (0: however many) close it for ``open_for``, doubled each time up to a minute.
    ``hedge_after`` without a token the question is asked a second time, elsewhere if there is an elsewhere, and the quicker
    answer is taken; 0: never. That costs a second prompt.
    """

    failures: int = 5
    open_for: float = 10.0
    hedge_after: float = 0.0


class Fault(Enum):
    """Whose fault it is that there is no answer."""

    ADDRESS = "address"
    KEY = "key"
    CALLER = "caller"


_OF_ADDRESS: Final = frozenset(
    {
        Reason.PROVIDER_UNREACHABLE,
        Reason.PROVIDER_SERVER_ERROR,
        Reason.PROVIDER_OVERLOADED,
        Reason.FIRST_TOKEN_TIMEOUT,
        Reason.IDLE_TIMEOUT,
        Reason.STREAM_TRUNCATED,
        Reason.MALFORMED_STREAM,
    }
)
# Seconds that a key rests where the vendor does not say how long. Permission is not among them: it is a matter of the
# model asked for, and one agent's wish must not take the key from all others.
_REST: Final = {Reason.PROVIDER_RATE_LIMIT: 1.0, Reason.PROVIDER_QUOTA: 60.0, Reason.PROVIDER_AUTH: 60.0}
_NEVER_SENT: Final = frozenset({Reason.CAPABILITY_MISSING, Reason.INVALID_FIELD})  # a dialect refused to write them


def fault(error: Error) -> Fault:
    """Whose fault ``error`` is. What a vendor says not to try again (a model that gave up) is not its address's."""
    if error.reason in _REST:
        return Fault.KEY
    hopeless = error.reason is Reason.PROVIDER_UNREACHABLE  # a certificate or a name: another address may be better
    return Fault.ADDRESS if error.reason in _OF_ADDRESS and (error.retryable or hopeless) else Fault.CALLER


class Health:
    """How one address is doing, whatever key it is asked with."""

    __slots__ = ("breaker", "clock", "last_failure", "latency", "waiting")

    def __init__(self, config: RoutingConfig | None = None, clock: Callable[[], float] = monotonic) -> None:
        config = config or RoutingConfig()
        self.clock = clock
        self.breaker = Breaker(config.failures, config.open_for, clock)
        self.latency = Latency(clock)
        self.waiting: dict[Attempt, float] = {}  # since when each has had no token yet, oldest first
        self.last_failure: Error | None = None

    @property
    def expected(self) -> float | None:
        """Seconds until a first token: what is usual, or what the one that waits longest has waited, if that is more.

        None where nothing is known. So an address that has fallen silent is avoided long before the first time-out.
        """
        usual = self.latency.expected
        oldest = next(iter(self.waiting.values()), None)
        if usual is None or oldest is None:
            return usual
        return max(usual, self.clock() - oldest)


class Way:
    """An address with one key. ``provider`` and ``place`` are for messages; ways with one address share its ``health``.

    ``in_flight`` counts answers under way. ``asked`` is for the one who chooses: when it was the choice, in choices.
    """

    __slots__ = ("_rested_at", "_rests_until", "asked", "health", "in_flight", "place", "provider")

    def __init__(self, provider: str, health: Health | None = None, place: str = "") -> None:
        self.provider = provider
        self.place = place
        self.health = health or Health()
        self.in_flight = 0
        self.asked = 0
        self._rested_at = self._rests_until = -math.inf

    @property
    def resting(self) -> bool:
        """Whether its key has had enough or is not accepted for now. It can be asked all the same."""
        return self.health.clock() < self._rests_until

    def rest(self, error: Error) -> None:
        """The key was refused. The vendor's word on how long counts."""
        self._rested_at = self.health.clock()
        self._rests_until = self._rested_at + (_REST[error.reason] if error.retry_after is None else error.retry_after)

    def served(self, asked: float) -> None:
        """The key was good for what was ``asked`` then."""
        if asked > self._rested_at:
            self._rests_until = -math.inf

    def refusal(self) -> ProviderError:
        """Why nobody asks here at the moment, and when somebody will."""
        last, wait = self.health.last_failure, self.health.breaker.wait
        cause = f" The last time: {last.message}" if last else ""
        message = f"{self.provider} failed too often in a row and is asked again in {wait:.1f} s.{cause}"
        return ProviderError(Reason.PROVIDER_UNREACHABLE, message, provider=self.provider, retry_after=wait)

    def attempt(self, *, streamed: bool = True) -> Attempt:
        """One answer about to be asked for. One that is not ``streamed`` says nothing about the time to first token."""
        return Attempt(self, streamed=streamed)


class Attempt:
    """The fate of one answer, told while it happens: ``begin`` first, ``close`` last, on every path. What is told of an
    attempt that did not begin is ignored.
    """

    __slots__ = ("_asked", "_begun", "_health", "_open", "_streamed", "_ticket", "_undecided", "_way")

    def __init__(self, way: Way, *, streamed: bool) -> None:
        self._way = way
        self._health = way.health
        self._streamed = streamed
        self._ticket = 0
        self._asked = 0.0
        self._open = self._undecided = self._begun = False

    def begin(self) -> None:
        """The request is about to leave.

        Raises:
            ProviderError: PROVIDER_UNREACHABLE, the breaker of the address is open.
        """
        health = self._health
        ticket = health.breaker.begin()
        if ticket is None:
            raise self._way.refusal()
        self._ticket = ticket
        self._open = self._undecided = True
        self._asked = health.clock()
        self._way.in_flight += 1
        if self._streamed:
            health.waiting[self] = self._asked

    def began(self, *, token: bool) -> None:
        """Its first events are here, a ``token`` among them or only notes."""
        health = self._health
        self._begun = True
        health.breaker.began(self._ticket)
        self._way.served(self._asked)
        if health.waiting.pop(self, None) is not None and token:
            health.latency.add(health.clock() - self._asked)

    def over(self, event: ModelEvent) -> None:
        """Its last event is here: ModelFinished or ModelFailed."""
        if isinstance(event, ModelFailed):
            self.failed(event.error)
        elif self._undecided:
            self._undecided = False
            self._health.breaker.succeeded(self._ticket)

    def failed(self, error: Error) -> None:
        """It failed."""
        if not self._undecided:
            return
        self._undecided = False
        breaker = self._health.breaker
        match fault(error):
            case Fault.ADDRESS:
                self._health.last_failure = error
                breaker.failed(self._ticket, begun=self._begun)
                if error.reason is Reason.FIRST_TOKEN_TIMEOUT:
                    self._outlasted()
            case Fault.KEY:
                self._way.rest(error)
                breaker.began(self._ticket)
            case Fault.CALLER if error.reason in _NEVER_SENT:
                breaker.left(self._ticket)
            case Fault.CALLER:
                breaker.began(self._ticket)

    def close(self) -> None:
        """The end. Nothing decided by then means that the caller has left."""
        if not self._open:
            return
        self._open = False
        self._way.in_flight -= 1
        if self._undecided:
            self._undecided = False
            self._health.breaker.left(self._ticket)
            self._outlasted()
        self._health.waiting.pop(self, None)

    def _outlasted(self) -> None:
        if self._health.waiting.pop(self, None) is not None:
            self._health.latency.outlasted(self._health.clock() - self._asked)
