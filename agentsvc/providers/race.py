"""Answers asked for side by side until one of them brings a token; the connections of the others are closed then.

Each runner has a timeline of its own, since two that wait at the same time have not waited twice. What the winner's says
is written on the run's, behind the time for which others had been waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain

from agentsvc.domain.events import ModelEvent, ModelFailed, ModelFinished
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.providers.exchange import bring_token
from agentsvc.providers.way import Fault, Way, fault


def given_up(events: Sequence[ModelEvent]) -> ModelFailed | None:
    """How an answer failed without a token, if another way may do better; ``events`` are what it brought."""
    match events:
        case [*_, ModelFailed(error) as failed] if fault(error) is not Fault.CALLER and not bring_token(events):
            return failed
        case _:
            return None


class Runner:
    """One of the answers, being read up to its first token or its end. Made in a running loop; ``close`` it."""

    def __init__(self, way: Way, model: ChatModel, request: ModelRequest, timeline: Timeline) -> None:
        self.way = way
        self.timeline = Timeline(timeline.clock(), timeline.clock)
        self.batches = model.stream(request, self.timeline)
        self._held: list[Sequence[ModelEvent]] = []
        self._written: int | None = None
        self._closing: asyncio.Task[None] | None = None
        self.task = asyncio.create_task(self._read(), name=f"ask {way.provider} {way.place}".rstrip())

    @property
    def events(self) -> tuple[ModelEvent, ...]:
        """What it has brought."""
        return tuple(chain.from_iterable(self._held))

    @property
    def failed(self) -> ModelFailed | None:
        """How it dropped out; None while it runs and when it has won, be it with an error that any other would bring too."""
        if not self.task.done():
            return None
        self.task.result()  # a bug is nobody's defeat: it is raised
        return given_up(self.events)

    def write(self, timeline: Timeline, since_ns: int) -> None:
        """Its time is the run's. Others had been waited for from ``since_ns`` until it was asked.

        Called again, it writes what has been waited since.
        """
        own = self.timeline
        if self._written is None:
            timeline.waited_ns += own.started_ns - since_ns
            self._write_stages(timeline, since_ns)
        timeline.waited_ns += own.waited_ns - (self._written or 0)
        self._written = own.waited_ns
        timeline.answered = timeline.answered or own.answered

    def drop(self) -> asyncio.Task[None]:
        """Closes its connection at once. Idempotent; who wants to see it closed waits for what is returned."""
        if self._closing is None:
            self.task.cancel()
            self._closing = asyncio.create_task(self._close(), name=f"leave {self.task.get_name()}")
        return self._closing

    async def _read(self) -> None:
        async for batch in self.batches:
            self._held.append(batch)
            if bring_token(batch) or isinstance(batch[-1], ModelFinished | ModelFailed):
                return

    def _write_stages(self, timeline: Timeline, since_ns: int) -> None:
        if timeline.answered:
            return
        own = self.timeline
        if own.started_ns > since_ns:
            timeline.reached(Stage.FIRST_TOKEN, own.started_ns)
        for stage in own.timings():
            timeline.reached(stage.stage, own.started_ns + (stage.start_us + stage.duration_us) * 1000)

    async def _close(self) -> None:
        await asyncio.wait({self.task})
        if not self.task.cancelled():
            self.task.exception()  # looked at: else the collector complains of it
        await self.batches.aclose()


class Race:
    """The runners of one answer. ``close`` it, in whatever state it is."""

    def __init__(self, request: ModelRequest, timeline: Timeline) -> None:
        self.runners: list[Runner] = []
        self.running: list[Runner] = []
        self._request = request
        self._timeline = timeline

    def enter(self, way: Way, model: ChatModel) -> None:
        """One more sets out."""
        runner = Runner(way, model, self._request, self._timeline)
        self.runners.append(runner)
        self.running.append(runner)

    async def decided(self, patience: float | None) -> Sequence[Runner]:
        """Those who have a token, or their end, as soon as there are any; empty after ``patience`` seconds without."""
        tasks = {runner.task for runner in self.running}
        done, _ = await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        decided = [runner for runner in self.running if runner.task in done]
        self.running = [runner for runner in self.running if runner.task not in done]
        return decided

    async def close(self) -> None:
        """All of them are gone, and their connections with them."""
        if self.runners:
            # Waited for, not awaited: who is cancelled here must not cancel the closing.
            await asyncio.wait([runner.drop() for runner in self.runners])
