"""One endpoint of a provider, bound to its key: where a question becomes bytes and bytes become its answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import aiohttp

from agentsvc.domain.errors import AgentsvcError
from agentsvc.domain.events import ModelEvent, ModelFailed
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Decoder, Endpoint, Provider
from agentsvc.providers.exchange import Exchange
from agentsvc.providers.response import Response
from agentsvc.providers.way import Way

_STREAMS = frozenset({"text/event-stream", "application/x-ndjson"})


class BoundModel:
    """One provider endpoint bound to its key: the ``ChatModel`` of everything that is reached by a socket.

    ``setting`` is what to look at when the address turns out wrong. ``way`` is told how the answers go; None: one of its own.
    """

    def __init__(
        self, provider: Provider, endpoint: Endpoint, client: ProviderClient, *, setting: str, way: Way | None = None
    ) -> None:
        self.provider = provider.name
        self.default_model = endpoint.extra.get("model") or provider.default_model
        self.capabilities = provider.capabilities
        self._dialect = provider.dialect
        self.endpoint = endpoint
        self._client = client
        self._setting = setting
        self._way = way or Way(provider.name)

    async def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One answer, as ``ChatModel.stream`` promises it."""
        attempt = self._way.attempt(streamed=request.stream)
        exchange = Exchange(
            self._client,
            timeline,
            self._dialect.error,
            provider=self.provider,
            setting=self._setting,
            streamed=request.stream,
            attempt=attempt,
        )
        try:
            attempt.begin()
            response = await exchange.response(self._dialect.encode(request, self.endpoint))
            decoder = self._decoder(response, request)
            taken, stall, clock = response.taken, exchange.stall, timeline.clock
            asked, over = clock(), False
            while not over:
                try:
                    while (chunk := taken()) is None:
                        await response.arrival()
                    broken = False
                except (aiohttp.ClientError, OSError):
                    chunk, broken = b"", True
                now = clock()
                timeline.waited_ns += now - asked
                asked = now
                if chunk:
                    events = decoder.feed(chunk)
                else:
                    events, over = exchange.torn(decoder) if broken else decoder.close(), True
                if events:
                    over = exchange.took(events) or over
                    stall.since_ns = 0  # the reader has the ball
                    yield events
                    stall.since_ns = asked = clock()
        except AgentsvcError as failure:
            exchange.close_stages()
            attempt.failed(failure.error)
            yield (ModelFailed(failure.error),)
        finally:
            exchange.close()

    def _decoder(self, response: Response, request: ModelRequest) -> Decoder:
        """By what came, not by what was asked for: vendors answer a stream request in one body, and gateways the reverse."""
        kind = response.content_type
        streamed = kind in _STREAMS or (request.stream and kind != "application/json")
        return self._dialect.decoder(self._client.config.line_limit) if streamed else self._dialect.body_decoder()
