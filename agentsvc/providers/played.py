"""The scripted provider without a socket: the same bytes through the same decoder, each write being one read."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence

from agentsvc.domain.errors import AgentsvcError
from agentsvc.domain.events import ModelEvent, ModelFailed, ModelFinished
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.providers import mock
from agentsvc.providers.dialect import Decoder, Endpoint, Provider
from agentsvc.providers.exchange import blame, bring_token, timed_out
from agentsvc.providers.pool import PoolConfig


class PlayedModel:
    """The provider ``mock`` while no address is set for it. Delays, fails and stalls as told, but is never asked twice."""

    def __init__(self, provider: Provider, config: PoolConfig) -> None:
        self.provider = provider.name
        self.default_model = provider.default_model
        self.capabilities = provider.capabilities
        self._dialect = provider.dialect
        self._config = config

    async def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One answer, as ``ChatModel.stream`` promises it."""
        try:
            body = self._dialect.encode(request, Endpoint("http://mock.invalid")).body
        except AgentsvcError as failure:
            yield (ModelFailed(failure.error),)
            return
        moves = mock.answer(body)
        head = next(moves)
        if isinstance(head, mock.Head) and head.status != 200:
            refusal = b"".join(move.data for move in moves if isinstance(move, mock.Data))
            yield (ModelFailed(self._dialect.error(head.status, head.headers, refusal)),)
            return
        if not timeline.answered:
            timeline.reached(Stage.REQUEST)
        decoder = self._dialect.decoder() if request.stream else self._dialect.body_decoder()
        patience = self._config.first_token_timeout if request.stream else self._config.answer_timeout
        begun = over = False
        while not over:
            asked = timeline.clock()
            events, over = await self._read(moves, decoder, patience, begun=begun)
            timeline.waited(asked)
            if events:
                begun, patience = True, self._config.idle_timeout
                over = over or isinstance(events[-1], ModelFinished | ModelFailed)
                if not timeline.answered and (over or bring_token(events)):
                    timeline.reached(Stage.FIRST_TOKEN)
                    timeline.answered = bring_token(events)
                yield events

    async def _read(
        self, moves: Iterator[mock.Wire], decoder: Decoder, patience: float, *, begun: bool
    ) -> tuple[Sequence[ModelEvent], bool]:
        """What the next writes bring, up to one that says something; True if there is nothing behind it."""
        spent = 0.0
        for move in moves:
            match move:
                case mock.Data(delay, data):
                    pass
                case mock.Hang():
                    delay, data = math.inf, b""
                case _:
                    break
            # Even without a delay the loop gets its turn: a flood must not keep it from everybody else.
            await asyncio.sleep(min(delay, patience - spent))
            spent += delay
            if spent >= patience:
                return blame(decoder.close(), timed_out(self.provider, patience, begun=begun)), True
            if events := decoder.feed(data):
                return events, False
        return decoder.close(), True
