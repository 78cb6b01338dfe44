"""A token that stands in for the key: asked for once for everybody, renewed before it ends, asked for anew when refused.

This file has no socket. Where tokens are given out is a ``ChatModel`` like any other, which speaks a ``TokenDialect``: so
its connections, time-outs, retries and errors are those of every request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from time import monotonic
from typing import Protocol

from agentsvc.domain.errors import Error, ProviderError
from agentsvc.domain.events import Annotation, ModelEvent, ModelFailed, TextDelta
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.timeline import Stage, Timeline
from agentsvc.providers.dialect import Endpoint, TokenDialect

_RENEWED_AT = 0.9  # of a token's life; the request that finds it so waits for the new one
_PAUSE = 60.0  # seconds between attempts to renew a token that is still good
_NOTHING = ModelRequest("", ())


class Bound(ChatModel, Protocol):
    """A model whose next request goes out with what ``endpoint`` holds then."""

    endpoint: Endpoint


class Tokens:
    """The token of one endpoint. ``clock`` counts seconds."""

    def __init__(self, desk: ChatModel, clock: Callable[[], float] = monotonic) -> None:
        self._desk = desk
        self._clock = clock
        self._asking = asyncio.Lock()
        self._answers = 0
        self._latest: str | Error = ""
        self._token = ""
        self._renew_at = self._ends_at = 0.0

    @property
    def kept(self) -> str:
        """The token, while it is young enough; else empty."""
        return self._token if self._clock() < self._renew_at else ""

    async def ask(self) -> str:
        """A new token, or the old one while it lives and no new one is to be had.

        Those who ask while an answer is awaited share it, be it a token or a failure; when the one who asked leaves,
        the next asks.

        Raises:
            ProviderError: why there is none.
        """
        seen = self._answers
        async with self._asking:
            if self._answers == seen:
                asked = self._clock()
                self._keep(await self._answer(), asked)
            latest = self._latest
        if not isinstance(latest, Error):
            return latest
        if self._clock() < self._ends_at:
            return self._token
        raise ProviderError.of(latest)

    def forget(self, token: str) -> None:
        """The vendor does not take ``token`` any more. Nothing happens if another one has taken its place already."""
        if token == self._token:
            self._renew_at = self._ends_at = 0.0

    async def _answer(self) -> tuple[str, float] | Error:
        """A token and the seconds it lives."""
        token, life = "", 0.0
        async with aclosing(self._desk.stream(_NOTHING, Timeline())) as answer:
            async for events in answer:
                for event in events:
                    match event:
                        case TextDelta(text):
                            token += text
                        case Annotation("expires_in", seconds):
                            life = float(seconds)
                        case ModelFailed(error):
                            return error
        return token, life

    def _keep(self, answer: tuple[str, float] | Error, asked: float) -> None:
        self._answers += 1
        if isinstance(answer, Error):
            self._latest = answer
            self._renew_at = min(asked + _PAUSE, self._ends_at)
        else:
            self._latest, life = answer
            self._token = self._latest
            self._renew_at, self._ends_at = asked + life * _RENEWED_AT, asked + life


class TokenModel:
    """A ``ChatModel``: ``model`` with the token that ``desk`` gives for its endpoint.

    A request refused for its token is sent once more, with a new one: nothing of an answer had come.
    """

    def __init__(
        self, model: Bound, dialect: TokenDialect, desk: ChatModel, clock: Callable[[], float] = monotonic
    ) -> None:
        self.provider = model.provider
        self.default_model = model.default_model
        self.capabilities = model.capabilities
        self._model = model
        self._dialect = dialect
        self._tokens = Tokens(desk, clock)
        self._carried = ""

    async def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One answer, as ``ChatModel.stream`` promises it. Waiting for a token belongs to the stage REQUEST."""
        for renewed in (False, True):
            try:
                token = self._tokens.kept or await self._ask(timeline)
            except ProviderError as failure:
                yield (ModelFailed(failure.error),)
                return
            self._carry(token)
            async with aclosing(self._model.stream(request, timeline)) as answer:
                first = await anext(answer)
                if renewed or not self._refused(first):
                    yield first
                    async for events in answer:
                        yield events
                    return
            self._tokens.forget(token)

    async def _ask(self, timeline: Timeline) -> str:
        asked = timeline.clock()
        try:
            return await self._tokens.ask()
        finally:
            timeline.waited(asked)
            if not timeline.answered:
                timeline.reached(Stage.REQUEST)

    def _carry(self, token: str) -> None:
        if token != self._carried:
            endpoint = self._model.endpoint
            self._model.endpoint = replace(endpoint, extra={**endpoint.extra, "access_token": token})
            self._carried = token

    def _refused(self, events: Sequence[ModelEvent]) -> bool:
        match events:
            case [ModelFailed(error)]:
                return self._dialect.refused(error)
            case _:
                return False
