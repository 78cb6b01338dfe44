"""What Prometheus is told of the ways to a provider."""

from __future__ import annotations

from agentsvc.observation import Observation
from tests.providers.talk import HELLO, text
from tests.providers.ways import SILENT, several
from tests.upstream import reply, stream


def rendered(observation: Observation) -> str:
    families, _ = observation.metrics.render()
    return b"".join(families).decode()


async def test_breakers_failovers_and_hedges_are_numbers_by_provider() -> None:
    observation = Observation()
    async with several(reply(503), SILENT, stream(HELLO), failures=1, open_for=60.0, hedge_after=0.05) as ways:
        observation._watch_pools(ways.providers)
        assert text(await ways.answer()) == "hello"
        told = rendered(observation)
    for line in (
        'agentsvc_provider_breaker{provider="lines"} 0.0',
        'agentsvc_provider_requests_total{provider="lines"} 3.0',
        'agentsvc_provider_failovers_total{provider="lines"} 1.0',
        'agentsvc_provider_hedges_total{provider="lines"} 1.0',
        'agentsvc_provider_hedges_won_total{provider="lines"} 1.0',
        'agentsvc_provider_hedge_tokens_total{provider="lines"} 1.0',
    ):
        assert line in told


async def test_a_provider_that_is_not_asked_shows() -> None:
    observation = Observation()
    async with several(reply(503), failures=1, open_for=60.0) as ways:
        observation._watch_pools(ways.providers)
        await ways.answer()
        assert 'agentsvc_provider_breaker{provider="lines"} 2.0' in rendered(observation)
