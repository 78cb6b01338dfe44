"""What operators are told of a provider: its settings, its addresses, and how these are doing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final
from urllib.parse import urlsplit

from agentsvc.domain.providers import BreakerState, EndpointStatus, ProviderStatus
from agentsvc.providers.dialect import Endpoint, Provider
from agentsvc.providers.latency import percentiles
from agentsvc.providers.way import Health

REGION: Final = "region"  # in Endpoint.extra: the operator's name for an address

_BEST_FIRST: Final = (BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN)


def host(base_url: str) -> str:
    """Host and port as they stand in a URL, without path and credentials."""
    return urlsplit(base_url).netloc.rpartition("@")[2]


def place(endpoint: Endpoint) -> str:
    """What people call an address: its region, else its host."""
    return endpoint.extra.get(REGION) or host(endpoint.base_url)


def best(states: Sequence[BreakerState]) -> BreakerState:
    """Whether a provider is asked that has addresses in these states: as much as the best of them."""
    return min(states, key=_BEST_FIRST.index, default=BreakerState.CLOSED)


def status(
    provider: Provider,
    endpoints: Sequence[Endpoint],
    missing: Sequence[str],
    health: Mapping[str, Health],
    idle: Callable[[str], int],
) -> ProviderStatus:
    """``endpoints`` in the order of preference, the same address once per key; ``health`` of those asked so far, by address.

    ``missing`` settings: not configured. ``idle`` connections of an address.
    """
    default_model = endpoints[0].extra.get("model") or provider.default_model
    told = (
        provider.name,
        provider.title or provider.name,
        not missing,
        tuple(missing),
        default_model,
        provider.capabilities,
    )
    if missing:
        return ProviderStatus(*told)
    places = {endpoint.base_url: endpoint for endpoint in reversed(endpoints) if endpoint.base_url}
    found = tuple(_endpoint(places[url], health.get(url), idle(url)) for url in reversed(places))
    times = chain.from_iterable(each.latency.recent() for each in health.values())
    return ProviderStatus(*told, best([each.breaker for each in found]), percentiles(times), found)


def _endpoint(endpoint: Endpoint, health: Health | None, idle: int) -> EndpointStatus:
    state = health.breaker.state if health else BreakerState.CLOSED
    return EndpointStatus(endpoint.extra.get(REGION, ""), host(endpoint.base_url), state, idle)
