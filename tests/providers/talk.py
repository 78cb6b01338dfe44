"""How the client's tests talk: a model of ``lines`` and its upstream, on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from agentsvc.domain.errors import Reason
from agentsvc.domain.events import ModelEvent, ModelFailed, TextDelta
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.lines import LINES, ask
from tests.upstream import Handler, Upstream

HELLO = [b"text hel\n", b"text lo\n", b"usage 3\n", b"end\n"]
QUICK = RetryPolicy(first_delay=0.01)
CONFIG = PoolConfig(retry=QUICK)


def model_for(client: ProviderClient, url: str) -> BoundModel:
    return BoundModel(LINES, Endpoint(url, "secret"), client, setting="LINES_BASE_URL")


@asynccontextmanager
async def talk(
    handler: Handler, config: PoolConfig = CONFIG
) -> AsyncIterator[tuple[BoundModel, Upstream, ProviderClient]]:
    async with Upstream(handler) as upstream, ProviderClient(config) as client:
        yield model_for(client, upstream.url), upstream, client


async def answer(model: BoundModel, timeline: Timeline | None = None, *, streamed: bool = True) -> list[ModelEvent]:
    """All events of one answer."""
    return [event async for events in model.stream(ask(stream=streamed), timeline or Timeline()) for event in events]


def text(events: Sequence[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def kept(client: ProviderClient) -> int:
    """How many connections rest in the pool, for which there is no public word."""
    connector = client.session.connector
    return sum(len(resting) for resting in connector._conns.values()) if connector else 0


def failure(events: Sequence[ModelEvent]) -> ModelFailed:
    assert isinstance(events[-1], ModelFailed), events
    return events[-1]


def reason(events: Sequence[ModelEvent]) -> Reason:
    return failure(events).error.reason


async def close_early(model: BoundModel, batches: int) -> None:
    """Reads that many batches of an answer, then leaves."""
    async with aclosing(model.stream(ask(), Timeline())) as answers:
        for _ in range(batches):
            await anext(answers)
