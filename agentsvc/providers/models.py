"""The models that agents talk to: a provider bound to an endpoint, its key and the connections kept to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from agentsvc.domain.agents import LLMConfig
from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.providers import BreakerState, ProviderStatus
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Endpoint, Provider
from agentsvc.providers.fleet import Fleet, FleetStats
from agentsvc.providers.played import PlayedModel
from agentsvc.providers.pool import PoolConfig, PoolStats
from agentsvc.providers.pools import Pools
from agentsvc.providers.registry import installed
from agentsvc.providers.resolver import check_public_url
from agentsvc.providers.status import best, place, status
from agentsvc.providers.token_exchange import TokenModel
from agentsvc.providers.way import Health, RoutingConfig, Way

_MOCK = "mock"


class Providers:
    """All configured providers: ``domain.ports.Models``, and ``domain.ports.ProviderDirectory``.

    ``endpoints`` are the operator's, by provider id: one way to it, or several; an empty ``base_url`` there means the
    provider's public one. An operator's key goes to the operator's addresses only, and to an address of an agent's own
    only the agent's own key. ``prompt_tokens`` guesses the tokens of a request that nobody counted.
    """

    def __init__(
        self,
        registry: Mapping[str, Provider],
        endpoints: Mapping[str, Endpoint | Sequence[Endpoint]],
        config: PoolConfig | None = None,
        routing: RoutingConfig | None = None,
        prompt_tokens: Callable[[ModelRequest], int] = lambda _: 0,
    ) -> None:
        self._registry = registry
        self._told = {name: (one,) if isinstance(one, Endpoint) else tuple(one) for name, one in endpoints.items()}
        self._config = config or PoolConfig()
        self._routing = routing or RoutingConfig()
        self._prompt_tokens = prompt_tokens
        self._pools = Pools(self._config)
        self._health: dict[str, dict[str, Health]] = {}
        self._bound: dict[str, ChatModel] = {}

    def bind(self, config: LLMConfig) -> tuple[ChatModel, str]:
        """The model for an agent's configuration and the model name to ask for.

        Raises:
            AgentsvcError: INVALID_FIELD (unknown provider, no model named and no default, an address or a key that an
                agent must not have), PROVIDER_NOT_CONFIGURED (names the environment variable to set).
        """
        provider = _known(self._registry, config.provider, "llm_config.provider")
        own = config.base_url or config.api_key
        endpoint = self._agents_own(provider, config) if own else self._endpoints(provider)[0]
        model = config.model or endpoint.extra.get("model") or provider.default_model
        if not model:
            raise invalid_field("llm_config.model", f"{provider.name} has no default model: name one")
        if own:
            # What one tenant's address or key does to its breaker is nobody else's concern.
            return self._bind(provider, endpoint, Way(provider.name, Health(self._routing)), config.base_url), model
        if provider.name not in self._bound:
            self._bound[provider.name] = self._bind_all(provider)
        return self._bound[provider.name], model

    def stats(self) -> Mapping[str, PoolStats]:
        """The gauges of every pool in use, by provider id; ``agents`` is the pool of addresses that agents named."""
        return self._pools.stats()

    def fleets(self) -> Mapping[str, FleetStats]:
        """What choosing among several ways has led to, by the id of each provider that has them."""
        return {name: model.stats for name, model in self._bound.items() if isinstance(model, Fleet)}

    def breakers(self) -> Mapping[str, BreakerState]:
        """Whether a provider is asked, by the id of each that was asked for: as much as the best of its addresses."""
        return {
            name: best([health.breaker.state for health in places.values()]) for name, places in self._health.items()
        }

    def providers(self) -> Sequence[ProviderStatus]:
        """All of them, by name."""
        return [self._status(provider) for _, provider in sorted(self._registry.items())]

    async def warm(self) -> None:
        """Opens connections to every address of the operator's and keeps them open."""
        ways = {name: self._endpoints(self._registry[name]) for name in self._told}
        urls = {(name, endpoint.base_url) for name, all_ways in ways.items() for endpoint in all_ways}
        await asyncio.gather(*(self._client(name, url).warm(url) for name, url in urls if url))

    async def close(self) -> None:
        """Closes all connections."""
        await self._pools.close()

    def _bind_all(self, provider: Provider) -> ChatModel:
        """The operator's ways to a provider, as one model."""
        endpoints = self._endpoints(provider)
        if _is_played(provider, endpoints[0]):
            return PlayedModel(provider, self._config)
        models: dict[Way, ChatModel] = {}
        for endpoint in endpoints:
            health = self._health.get(provider.name, {}).get(endpoint.base_url) or Health(self._routing)
            way = Way(provider.name, health, place(endpoint))
            models[way] = self._bind(provider, endpoint, way)
            self._health.setdefault(provider.name, {})[endpoint.base_url] = health
        if len(models) == 1 and not self._routing.hedge_after:
            return next(iter(models.values()))
        return Fleet(models, self._routing.hedge_after, self._prompt_tokens)

    def _bind(self, provider: Provider, endpoint: Endpoint, way: Way, own_url: str = "") -> ChatModel:
        """A model on one way. ``own_url``: an agent named the address."""
        if own_url:
            return BoundModel(provider, endpoint, self._pools.agents_own(), setting="llm_config.base_url", way=way)
        if _is_played(provider, endpoint):
            return PlayedModel(provider, self._config)
        if missing := " and ".join(_missing(provider, endpoint, " or ".join(provider.key_env), _setting(provider))):
            raise AgentsvcError(
                Reason.PROVIDER_NOT_CONFIGURED,
                f"{provider.name} is not configured: set {missing} for the service.",
                provider=provider.name,
            )
        client = self._client(provider.name, endpoint.base_url)
        return _reached(provider, endpoint, client, _setting(provider), way)

    def _agents_own(self, provider: Provider, config: LLMConfig) -> Endpoint:
        if not (config.api_key.isascii() and config.api_key.isprintable()):
            raise invalid_field("llm_config.api_key", "must be one line of printable ASCII, as headers are")
        if not config.base_url:
            return Endpoint(self._endpoints(provider)[0].base_url, config.api_key)
        check_public_url(config.base_url, "llm_config.base_url")
        return Endpoint(config.base_url.rstrip("/"), config.api_key)

    def _endpoints(self, provider: Provider) -> tuple[Endpoint, ...]:
        """The operator's ways to it; at least one, be it without a key."""
        told = self._told.get(provider.name) or (Endpoint(""),)
        return tuple(one if one.base_url else replace(one, base_url=provider.base_url) for one in told)

    def _client(self, name: str, base_url: str) -> ProviderClient:
        """Where there are several ways, going to the next one takes the place of asking again."""
        return self._pools.client(name, base_url, retries=len(self._told.get(name, ())) <= 1)

    def _status(self, provider: Provider) -> ProviderStatus:
        endpoints, name = self._endpoints(provider), provider.name
        key, url = (names[0] if names else "" for names in (provider.key_env, provider.base_url_env))
        missing = () if _is_played(provider, endpoints[0]) else _missing(provider, endpoints[0], key, url)
        return status(provider, endpoints, missing, self._health.get(name, {}), partial(self._pools.idle, name))


@asynccontextmanager
async def connect(
    provider: str | Provider,
    *,
    api_key: str = "",
    base_url: str = "",
    extra: Mapping[str, str] | None = None,
    config: PoolConfig | None = None,
) -> AsyncGenerator[ChatModel, None]:
    """A provider's model in your own process, to hand to an Agent.

    ``provider`` is the id of one that is installed, or one of your own. ``base_url`` empty: the provider's public address.
    ``extra``: see ``Endpoint``. Nothing is read from the environment; leaving the block closes the connections.

    Raises:
        AgentsvcError: INVALID_FIELD (no such provider), PROVIDER_NOT_CONFIGURED (names the argument that is missing).
    """
    found = provider if isinstance(provider, Provider) else _known(installed(), provider, "provider")
    endpoint = Endpoint((base_url or found.base_url).rstrip("/"), api_key, extra or {})
    config = config or PoolConfig()
    if _is_played(found, endpoint):
        yield PlayedModel(found, config)
        return
    if missing := " and ".join(_missing(found, endpoint, "api_key", "base_url")):
        raise AgentsvcError(
            Reason.PROVIDER_NOT_CONFIGURED, f"connect({found.name!r}) needs {missing}.", provider=found.name
        )
    async with ProviderClient(config) as client:
        yield _reached(found, endpoint, client, "base_url", Way(found.name))


def _reached(provider: Provider, endpoint: Endpoint, client: ProviderClient, setting: str, way: Way) -> ChatModel:
    """The model at an endpoint; one that asks for a token first where the endpoint holds what a token is given for."""
    model = BoundModel(provider, endpoint, client, setting=setting, way=way)
    if provider.tokens is None or not provider.tokens.serves(endpoint):
        return model
    desk = BoundModel(replace(provider, dialect=provider.tokens), endpoint, client, setting=setting)
    return TokenModel(model, provider.tokens, desk)


def _known(registry: Mapping[str, Provider], name: str, field: str) -> Provider:
    if found := registry.get(name):
        return found
    raise invalid_field(field, f"{name!r} is not a provider; known are {', '.join(sorted(registry))}")


def _is_played(provider: Provider, endpoint: Endpoint) -> bool:
    return provider.name == _MOCK and not endpoint.base_url


def _missing(provider: Provider, endpoint: Endpoint, key: str, url: str) -> tuple[str, ...]:
    """The names of what must be said before ``endpoint`` can be used; empty when nothing is missing."""
    keyless = provider.needs_key and not endpoint.api_key
    return tuple(name for name, lacks in ((key, keyless), (url, not endpoint.base_url)) if lacks)


def _setting(provider: Provider) -> str:
    return " or ".join(provider.base_url_env) or "the base URL"
