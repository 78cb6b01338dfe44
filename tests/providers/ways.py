"""Several ways to the vendor of ``lines``: an upstream for each address, a key or more at each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from agentsvc.domain.agents import LLMConfig
from agentsvc.domain.events import ModelEvent
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.fleet import FleetStats
from agentsvc.providers.models import Providers
from agentsvc.providers.pool import PoolConfig
from agentsvc.providers.way import RoutingConfig
from tests.providers.lines import LINES, ask
from tests.providers.talk import CONFIG, HELLO
from tests.upstream import Call, Handler, Upstream, stream

SILENT = stream([], finish="stall")
DOWN = "http://127.0.0.1:9"  # the discard port: nobody listens
NAMES = ("eu", "us", "asia")


@dataclass
class Ways:
    providers: Providers
    model: ChatModel
    upstreams: Sequence[Upstream]

    @property
    def requests(self) -> list[int]:
        """How many each address got."""
        return [len(upstream.requests) for upstream in self.upstreams]

    @property
    def keys(self) -> Counter[str]:
        """How many came with which key."""
        headers = (request.headers for upstream in self.upstreams for request in upstream.requests)
        return Counter(each["authorization"].removeprefix("Bearer ") for each in headers)

    @property
    def stats(self) -> FleetStats:
        return self.providers.fleets()["lines"]

    async def answer(self, timeline: Timeline | None = None, **fields: Any) -> list[ModelEvent]:
        """All events of one answer."""
        batches = self.model.stream(ask(**fields), timeline or Timeline())
        return [event async for events in batches for event in events]

    async def answers(self, number: int, at_once: int = 1) -> list[list[ModelEvent]]:
        """So many answers, ``at_once`` at a time."""
        found: list[list[ModelEvent]] = []
        while len(found) < number:
            found += await asyncio.gather(*(self.answer() for _ in range(at_once)))
        return found


@asynccontextmanager
async def several(
    *places: Handler | str, keys: Sequence[str] = ("k",), config: PoolConfig = CONFIG, **routing: Any
) -> AsyncIterator[Ways]:
    """An address for each handler, or at a URL where nobody is; ``routing``: what RoutingConfig is to say."""
    async with AsyncExitStack() as opened:
        urls, upstreams = [], []
        for place in places:
            if not isinstance(place, str):
                upstreams.append(await opened.enter_async_context(Upstream(place)))
            urls.append(place if isinstance(place, str) else upstreams[-1].url)
        named = zip(NAMES, urls, strict=False) if len(urls) > 1 else [("", urls[0])]
        endpoints = [Endpoint(url, key, {"region": name} if name else {}) for name, url in named for key in keys]
        providers = Providers({"lines": LINES}, {"lines": endpoints}, config, RoutingConfig(**routing), _words)
        opened.push_async_callback(providers.close)
        yield Ways(providers, providers.bind(LLMConfig("lines"))[0], upstreams)


def slow(seconds: float) -> Handler:
    """Greets after so long."""
    return stream([seconds, *HELLO])


def by_key(**handlers: Handler) -> Handler:
    """Answers each key in its own manner."""

    async def handler(call: Call) -> None:
        await handlers[call.request.headers["authorization"].removeprefix("Bearer ")](call)

    return handler


def patient(seconds: float) -> PoolConfig:
    return replace(CONFIG, first_token_timeout=seconds)


def _words(request: ModelRequest) -> int:
    return sum(len(message.text.split()) for message in request.messages)
