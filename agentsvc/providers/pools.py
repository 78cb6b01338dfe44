"""All kept connections of the process: one ``ProviderClient`` per address of a provider, one for those that agents named."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Final

from agentsvc.providers.client import ProviderClient
from agentsvc.providers.pool import PoolConfig, PoolStats

AGENTS: Final = "agents"  # the pool of addresses that agents named; no provider has this name


class Pools:
    """Made empty; a client is there from its first use on."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._clients: dict[tuple[str, str, bool], ProviderClient] = {}

    def client(self, provider: str, base_url: str, *, retries: bool = True) -> ProviderClient:
        """The connections to one address of a provider. Without ``retries`` whoever asks has somebody else to ask."""
        key = provider, base_url, retries
        if key not in self._clients:
            policy = self._config.retry if retries else replace(self._config.retry, max_retries=0)
            self._clients[key] = ProviderClient(replace(self._config, retry=policy))
        return self._clients[key]

    def agents_own(self) -> ProviderClient:
        """The connections to all addresses that agents named."""
        key = AGENTS, "", True
        if key not in self._clients:
            self._clients[key] = ProviderClient(self._config, public_only=True)
        return self._clients[key]

    def stats(self) -> Mapping[str, PoolStats]:
        """Gauges and counters by provider, over all of its addresses; ``AGENTS`` for those that agents named."""
        found: dict[str, PoolStats] = {}
        for (provider, _, _), client in self._clients.items():
            stats = client.stats()
            found[provider] = _sum(found[provider], stats) if provider in found else stats
        return found

    def idle(self, provider: str, base_url: str) -> int:
        """How many open connections to this address nobody uses at the moment."""
        stats = [client.stats() for key, client in self._clients.items() if key[:2] == (provider, base_url)]
        return sum(max(0, each.open_connections - each.in_flight) for each in stats)

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))


def _sum(one: PoolStats, other: PoolStats) -> PoolStats:
    return PoolStats(*(getattr(one, field.name) + getattr(other, field.name) for field in fields(PoolStats)))
