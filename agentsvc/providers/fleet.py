"""Several ways to one provider, as one ``ChatModel``: the best one is asked, and the next one when it fails before its
first token. What an answer has begun with, it ends with.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from agentsvc.domain.events import Annotation, ModelEvent, ModelFailed, ModelFinished
from agentsvc.domain.messages import Usage
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.providers import BreakerState
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.exchange import bring_token
from agentsvc.providers.race import Race, Runner, given_up
from agentsvc.providers.way import Way

LOOK: Final = 20  # of so many answers one goes to the way that was asked longest ago, so that ranks stay true


@dataclass(frozen=True, slots=True)
class FleetStats:
    """Counters since the start. ``failovers``: answers that another way was asked for, after a failure. ``hedges``: those
    that were asked for twice at the same time; the second won ``hedges_won`` of them. ``hedge_tokens``: about how many
    tokens of prompts were paid for in vain.
    """

    failovers: int = 0
    hedges: int = 0
    hedges_won: int = 0
    hedge_tokens: int = 0


class Fleet:
    """``ways``, in the operator's order of preference, and the model behind each, which tells its way how its answers go.

    ``hedge_after`` in seconds, 0: never. ``prompt_tokens`` guesses what a request costs that nobody counted.
    """

    def __init__(
        self, ways: Mapping[Way, ChatModel], hedge_after: float, prompt_tokens: Callable[[ModelRequest], int]
    ) -> None:
        first = next(iter(ways.values()))
        self.provider = first.provider
        self.default_model = first.default_model
        self.capabilities = first.capabilities
        self.stats = FleetStats()
        self._ways = ways
        self._hedge_after = hedge_after
        self._prompt_tokens = prompt_tokens
        self._choices = 0

    def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One answer, as ``ChatModel.stream`` promises it.

        With all breakers open it is ModelFailed PROVIDER_UNREACHABLE at once, with the time of the first to be asked again.
        """
        if self._hedge_after and request.stream:
            return self._hedged(request, timeline)
        return self._in_turn(request, timeline)

    async def _in_turn(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        outcome = _Failures()
        tried: list[Way] = []
        while (way := self._choose(tried)) is not None:
            if tried:
                self._count(failovers=1)
            tried.append(way)
            begun = False
            async with aclosing(self._ways[way].stream(request, timeline)) as batches:
                async for batch in batches:
                    if not begun:
                        if failed := given_up(batch):
                            outcome.add(failed)
                            break
                        begun = bring_token(batch)
                    yield outcome.billed(batch) if outcome.spent else batch
                else:
                    return
        yield (outcome.told or self._nobody(),)

    async def _hedged(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        since, race, outcome = timeline.clock(), Race(request, timeline), _Failures()
        winner: Runner | None = None
        try:
            winner = await self._winner(race, outcome)
            if winner is None:
                timeline.waited(since)
                yield (outcome.told or self._nobody(),)
                return
            losers = [runner for runner in race.runners if runner is not winner and not runner.failed]
            for loser in losers:
                loser.drop()
            winner.write(timeline, since)
            notes = [self._booked(loser, winner, request) for loser in losers]
            yield outcome.billed((*notes, *winner.events))
            async for batch in winner.batches:
                yield outcome.billed(batch) if outcome.spent else batch
        finally:
            await race.close()
            if winner is not None:
                winner.write(timeline, since)

    async def _winner(self, race: Race, outcome: _Failures) -> Runner | None:
        """The one whose answer is taken; None when all have failed."""
        tried: list[Way] = []
        hedged = False
        while True:
            if not race.running:
                if (way := self._choose(tried)) is None:
                    return None
                if tried:
                    self._count(failovers=1)
                tried.append(way)
                race.enter(way, self._ways[way])
            decided = await race.decided(None if hedged else self._hedge_after)
            for runner in decided:
                if not (failed := runner.failed):
                    return runner
                outcome.add(failed)
            if not decided:
                hedged = True
                if (way := self._second(tried)) is not None:
                    self._count(hedges=1)
                    tried.append(way)
                    race.enter(way, self._ways[way])

    def _choose(self, tried: Sequence[Way]) -> Way | None:
        """The best way that was not tried yet; now and then another one. None: there is none that may be asked."""
        ways = [way for way in self._ways if way not in tried and not way.health.breaker.wait]
        if not ways:
            return None
        self._choices += 1
        fresh = [way for way in ways if not way.resting] if self._choices % LOOK == 0 else []
        way = min(fresh, key=lambda way: way.asked) if fresh else min(ways, key=_rank)
        way.asked = self._choices
        return way

    def _second(self, tried: Sequence[Way]) -> Way | None:
        """Where the question goes a second time: to the next way, else to the same one on another connection."""
        ways = [way for way in self._ways if way.health.breaker.state is BreakerState.CLOSED and not way.resting]
        return min((way for way in ways if way not in tried), key=_rank, default=None) or min(
            (way for way in ways if way in tried), key=_rank, default=None
        )

    def _booked(self, loser: Runner, winner: Runner, request: ModelRequest) -> Annotation:
        """What is told of a hedge, after it was counted."""
        tokens = self._prompt_tokens(request)
        won = loser.timeline.started_ns < winner.timeline.started_ns
        self._count(hedges_won=won, hedge_tokens=tokens)
        waited = (winner.timeline.clock() - loser.timeline.started_ns) * 1e-9
        by = f" by {winner.way.place}" if winner.way is not loser.way else ""
        lost = f"{loser.way.place or loser.way.provider} was overtaken{by} after {waited:.3f} s"
        return Annotation("hedge", f"{lost}; about {tokens} input tokens more")

    def _nobody(self) -> ModelFailed:
        return ModelFailed(min(self._ways, key=lambda way: way.health.breaker.wait).refusal().error)

    def _count(self, **more: int) -> None:
        self.stats = replace(self.stats, **{name: getattr(self.stats, name) + by for name, by in more.items()})


class _Failures:
    """The ways that failed before the one that answered: what is told if none does, and what they cost."""

    def __init__(self) -> None:
        self.told: ModelFailed | None = None
        self.spent: Usage | None = None

    def add(self, failed: ModelFailed) -> None:
        """One more. The first that a retry may mend is the one to tell."""
        if self.told is None or not self.told.error.retryable:
            self.told = failed
        if failed.usage is not None:
            self.spent = failed.usage if self.spent is None else self.spent + failed.usage

    def billed(self, batch: Sequence[ModelEvent]) -> Sequence[ModelEvent]:
        """``batch``; if it ends the answer, with what the others cost, where the vendor counts."""
        match batch:
            case [*before, ModelFinished(usage=Usage() as usage) | ModelFailed(usage=Usage() as usage) as last] if (
                self.spent
            ):
                return (*before, replace(last, usage=usage + self.spent))
            case _:
                return batch


def _rank(way: Way) -> tuple[bool, bool, float, int, int]:
    """The least is the best. An address that nobody knows is tried, by one at a time."""
    health = way.health
    expected = health.expected
    if expected is None:
        expected = math.inf if health.waiting else -1.0
    return way.resting, health.breaker.state is not BreakerState.CLOSED, expected, way.in_flight, way.asked
