"""One pool per address, and their numbers by provider."""

from __future__ import annotations

from agentsvc.providers.pool import PoolConfig, PoolStats, RetryPolicy
from agentsvc.providers.pools import AGENTS, Pools
from tests.providers.talk import CONFIG, HELLO, answer, model_for
from tests.upstream import Upstream, stream


async def test_an_address_has_one_pool_whoever_asks() -> None:
    pools = Pools(CONFIG)
    assert pools.client("acme", "https://a.example") is pools.client("acme", "https://a.example")
    assert pools.client("acme", "https://a.example") is not pools.client("acme", "https://b.example")
    assert pools.agents_own() is pools.agents_own()
    await pools.close()


async def test_who_has_somebody_else_to_ask_does_not_ask_again() -> None:
    pools = Pools(PoolConfig(retry=RetryPolicy(max_retries=7, max_delay=1.0)))
    assert pools.client("acme", "https://a.example").config.retry.max_retries == 7
    assert pools.client("acme", "https://a.example", retries=False).config.retry == RetryPolicy(0, max_delay=1.0)
    await pools.close()


async def test_the_numbers_of_a_provider_are_those_of_all_its_addresses() -> None:
    pools = Pools(CONFIG)
    async with Upstream(stream(HELLO)) as one, Upstream(stream(HELLO)) as other:
        for upstream in (one, other, one):
            await answer(model_for(pools.client("acme", upstream.url), upstream.url))
        pools.agents_own()
        assert pools.stats() == {"acme": PoolStats(0, 2, 3, 0, 0), AGENTS: PoolStats(0, 0, 0, 0, 0)}
        assert (pools.idle("acme", one.url), pools.idle("acme", "https://c.example")) == (1, 0)
        await pools.close()
        assert not one.open
        assert not other.open
