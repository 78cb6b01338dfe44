"""The models that agents talk to: a provider bound to an endpoint, its key and the connections kept to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
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
        provider = self._registry.get(config.provider)
        if provider is None:
            known = ", ".join(sorted(self._registry))
            raise invalid_field("llm_config.provider", f"{config.provider!r} is not a provider; known are {known}")
        model = config.model or provider.default_model
        if not model:
            raise invalid_field("llm_config.model", f"{provider.name} has no default model: name one")
        if config.base_url or config.api_key:
            return self._agents_own(provider, config), model
        if provider.name not in self._bound:
            self._bound[provider.name] = self._operators(provider)
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

    def _operators(self, provider: Provider) -> ChatModel:
        endpoint = self._endpoint(provider)
        if provider.name == _MOCK and not endpoint.base_url:
            return PlayedModel(provider, self._config)
        missing = [*provider.key_env[:1]] if provider.needs_key and not endpoint.api_key else []
        if not endpoint.base_url:
            missing += provider.base_url_env[:1]
        if missing:
            raise AgentsvcError(
                Reason.PROVIDER_NOT_CONFIGURED,
                f"{provider.name} is not configured: set {' and '.join(missing)} for the service.",
                provider=provider.name,
            )
        return BoundModel(provider, endpoint, self._client(provider.name), setting=_setting(provider))

    def _agents_own(self, provider: Provider, config: LLMConfig) -> ChatModel:
        if not (config.api_key.isascii() and config.api_key.isprintable()):
            raise invalid_field("llm_config.api_key", "must be one line of printable ASCII, as headers are")
        if not config.base_url:
            endpoint = Endpoint(self._endpoint(provider).base_url, config.api_key)
            return BoundModel(provider, endpoint, self._client(provider.name), setting=_setting(provider))
        check_public_url(config.base_url, "llm_config.base_url")
        endpoint = Endpoint(config.base_url.rstrip("/"), config.api_key)
        return BoundModel(provider, endpoint, self._client(_AGENTS), setting="llm_config.base_url")

    def _endpoint(self, provider: Provider) -> Endpoint:
        endpoint = self._endpoints.get(provider.name, Endpoint(""))
        return endpoint if endpoint.base_url else replace(endpoint, base_url=provider.base_url)

    def _client(self, name: str) -> ProviderClient:
        if name not in self._clients:
            self._clients[name] = ProviderClient(self._config, public_only=name == _AGENTS)
        return self._clients[name]


def _setting(provider: Provider) -> str:
    return provider.base_url_env[0] if provider.base_url_env else "the base URL"
