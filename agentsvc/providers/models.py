"""The models that agents talk to: a provider bound to an endpoint, its key and the connections kept to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp

from agentsvc.domain.agents import LLMConfig
from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field
from agentsvc.domain.events import ModelEvent, ModelFailed
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.client import ProviderClient
from agentsvc.providers.dialect import Decoder, Endpoint, Provider
from agentsvc.providers.exchange import Exchange
from agentsvc.providers.played import PlayedModel
from agentsvc.providers.pool import PoolConfig, PoolStats
from agentsvc.providers.registry import installed
from agentsvc.providers.resolver import check_public_url

_STREAMS = frozenset({"text/event-stream", "application/x-ndjson"})
_AGENTS = "agents"  # the pool of addresses that agents named; no provider has this name
_MOCK = "mock"


class BoundModel:
    """One provider endpoint bound to its key: the ``ChatModel`` of everything that is reached by a socket.

    ``setting`` is what to look at when the address turns out wrong.
    """

    def __init__(self, provider: Provider, endpoint: Endpoint, client: ProviderClient, *, setting: str) -> None:
        self.provider = provider.name
        self.default_model = endpoint.extra.get("model") or provider.default_model
        self.capabilities = provider.capabilities
        self._dialect = provider.dialect
        self.endpoint = endpoint
        self._client = client
        self._setting = setting

    async def stream(self, request: ModelRequest, timeline: Timeline) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One answer, as ``ChatModel.stream`` promises it."""
        exchange = Exchange(
            self._client,
            timeline,
            self._dialect.error,
            provider=self.provider,
            setting=self._setting,
            streamed=request.stream,
        )
        try:
            response = await exchange.response(self._dialect.encode(request, self.endpoint))
            decoder = self._decoder(response, request)
            content = response.content
            over = False
            while not over:
                asked = timeline.now_ns()
                try:
                    chunk = await content.readany()
                except (aiohttp.ClientError, OSError):
                    timeline.waited(asked)
                    events, over = exchange.torn(decoder, content), True
                else:
                    timeline.waited(asked)
                    events, over = (decoder.feed(chunk), False) if chunk else (decoder.close(), True)
                if events:
                    over = exchange.took(events) or over
                    yield events
                    exchange.stall.run()
        except AgentsvcError as failure:
            exchange.close_stages()
            yield (ModelFailed(failure.error),)
        finally:
            exchange.close()

    def _decoder(self, response: aiohttp.ClientResponse, request: ModelRequest) -> Decoder:
        """By what came, not by what was asked for: vendors answer a stream request in one body, and gateways the reverse."""
        kind = response.content_type
        streamed = kind in _STREAMS or (request.stream and kind != "application/json")
        return self._dialect.decoder() if streamed else self._dialect.body_decoder()


class Providers:
    """All configured providers: ``domain.ports.Models``.

    ``endpoints`` are the operator's, by provider id; an empty ``base_url`` there means the provider's public one. An
    operator's key goes to the operator's address only, and to an address of an agent's own only the agent's own key.
    """

    def __init__(
        self, registry: Mapping[str, Provider], endpoints: Mapping[str, Endpoint], config: PoolConfig | None = None
    ) -> None:
        self._registry = registry
        self._endpoints = endpoints
        self._config = config or PoolConfig()
        self._clients: dict[str, ProviderClient] = {}
        self._bound: dict[str, ChatModel] = {}

    def bind(self, config: LLMConfig) -> tuple[ChatModel, str]:
        """The model for an agent's configuration and the model name to ask for.

        Raises:
            AgentsvcError: INVALID_FIELD (unknown provider, no model named and no default, an address or a key that an
                agent must not have), PROVIDER_NOT_CONFIGURED (names the environment variable to set).
        """
        provider = _known(self._registry, config.provider, "llm_config.provider")
        own = config.base_url or config.api_key
        endpoint = self._agents_own(provider, config) if own else self._endpoint(provider)
        model = config.model or endpoint.extra.get("model") or provider.default_model
        if not model:
            raise invalid_field("llm_config.model", f"{provider.name} has no default model: name one")
        if config.base_url:
            return BoundModel(provider, endpoint, self._client(_AGENTS), setting="llm_config.base_url"), model
        if own:
            return self._bind(provider, endpoint), model
        if provider.name not in self._bound:
            self._bound[provider.name] = self._bind(provider, endpoint)
        return self._bound[provider.name], model

    def stats(self) -> Mapping[str, PoolStats]:
        """The gauges of every pool in use, by provider id; ``agents`` is the pool of addresses that agents named."""
        return {name: client.stats() for name, client in self._clients.items()}

    async def warm(self) -> None:
        """Opens connections to every endpoint of the operator's and keeps them open."""
        await asyncio.gather(
            *(
                self._client(name).warm(url)
                for name in self._endpoints
                if (url := self._endpoint(self._registry[name]).base_url)
            )
        )

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def _bind(self, provider: Provider, endpoint: Endpoint) -> ChatModel:
        """A model at the operator's address, or at the provider's public one."""
        if _is_played(provider, endpoint):
            return PlayedModel(provider, self._config)
        if missing := _missing(provider, endpoint, " or ".join(provider.key_env), _setting(provider)):
            raise AgentsvcError(
                Reason.PROVIDER_NOT_CONFIGURED,
                f"{provider.name} is not configured: set {missing} for the service.",
                provider=provider.name,
            )
        return BoundModel(provider, endpoint, self._client(provider.name), setting=_setting(provider))

    def _agents_own(self, provider: Provider, config: LLMConfig) -> Endpoint:
        if not (config.api_key.isascii() and config.api_key.isprintable()):
            raise invalid_field("llm_config.api_key", "must be one line of printable ASCII, as headers are")
        if not config.base_url:
            return Endpoint(self._endpoint(provider).base_url, config.api_key)
        check_public_url(config.base_url, "llm_config.base_url")
        return Endpoint(config.base_url.rstrip("/"), config.api_key)

    def _endpoint(self, provider: Provider) -> Endpoint:
        endpoint = self._endpoints.get(provider.name, Endpoint(""))
        return endpoint if endpoint.base_url else replace(endpoint, base_url=provider.base_url)

    def _client(self, name: str) -> ProviderClient:
        if name not in self._clients:
            self._clients[name] = ProviderClient(self._config, public_only=name == _AGENTS)
        return self._clients[name]


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
    if missing := _missing(found, endpoint, "api_key", "base_url"):
        raise AgentsvcError(
            Reason.PROVIDER_NOT_CONFIGURED, f"connect({found.name!r}) needs {missing}.", provider=found.name
        )
    async with ProviderClient(config) as client:
        yield BoundModel(found, endpoint, client, setting="base_url")


def _known(registry: Mapping[str, Provider], name: str, field: str) -> Provider:
    if found := registry.get(name):
        return found
    raise invalid_field(field, f"{name!r} is not a provider; known are {', '.join(sorted(registry))}")


def _is_played(provider: Provider, endpoint: Endpoint) -> bool:
    return provider.name == _MOCK and not endpoint.base_url


def _missing(provider: Provider, endpoint: Endpoint, key: str, url: str) -> str:
    """The names of what must be said before ``endpoint`` can be used; empty when nothing is missing."""
    keyless = provider.needs_key and not endpoint.api_key
    return " and ".join(name for name, lacks in ((key, keyless), (url, not endpoint.base_url)) if lacks)


def _setting(provider: Provider) -> str:
    return " or ".join(provider.base_url_env) or "the base URL"
