"""ListProviders: all providers, by name, page by page, as this process sees them; for admins alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import Parse

from agentsvc import v1
from agentsvc.client import AgentError
from agentsvc.domain.ports import ProviderDirectory
from agentsvc.domain.providers import BreakerState, Capabilities, EndpointStatus, ProviderStatus, TimeToFirstToken
from agentsvc.engine.sessions import Sessions
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.models import Providers
from agentsvc.providers.registry import PROVIDERS
from agentsvc.transport.inquiry import json_of, providers_of
from agentsvc.transport.server import Server, ServerConfig
from tests.transport.house import ADMIN, CALLER, SessionShelf, bearer, open_house
from tests.transport.rpc import refused

BUSY = ProviderStatus(
    "openai",
    "OpenAI",
    configured=True,
    missing_settings=(),
    default_model="gpt-5-mini",
    capabilities=Capabilities(tools=True, reasoning=True, images=True, tool_choice=False),
    breaker=BreakerState.HALF_OPEN,
    ttft=TimeToFirstToken(0.25, 0.5, 1.5, 42),
    endpoints=(
        EndpointStatus("eu", "eu.example:8443", BreakerState.OPEN, 0),
        EndpointStatus("us", "us.example", BreakerState.HALF_OPEN, 3),
    ),
)
BARE = ProviderStatus("acme", "Acme", False, ("ACME_API_KEY", "ACME_BASE_URL"), "", Capabilities())
REAL = Providers(PROVIDERS, {"openai": (Endpoint("", "k1"), Endpoint("", "k2")), "ollama": Endpoint("")})


class Told:
    def __init__(self, *statuses: ProviderStatus) -> None:
        self.statuses = statuses

    def providers(self) -> Sequence[ProviderStatus]:
        return self.statuses


@asynccontextmanager
async def serving(directory: ProviderDirectory) -> AsyncIterator[str]:
    """A server whose providers are these; its address."""
    async with open_house() as house:
        sessions = Sessions(SessionShelf(house.shelves))
        server = Server(
            ServerConfig("127.0.0.1:0"),
            house.authenticator,
            house.runs,
            house.catalog,
            sessions,
            directory=directory,
        )
        await server.start()
        try:
            yield f"127.0.0.1:{server.port}"
        finally:
            await server.stop()


@asynccontextmanager
async def asking(directory: ProviderDirectory) -> AsyncIterator[Any]:
    """The stub's ListProviders."""
    async with serving(directory) as target, grpc.aio.insecure_channel(target) as channel:
        stub: Any = v1.ProviderServiceStub(channel)
        yield stub.ListProviders


async def listed(list_providers: Any, **fields: Any) -> v1.ListProvidersResponse:
    request = v1.ListProvidersRequest(**fields)
    response: v1.ListProvidersResponse = await list_providers(request, metadata=bearer(ADMIN))
    return response


async def test_all_that_is_known_of_a_provider_is_told() -> None:
    async with asking(Told(BUSY)) as list_providers:
        (provider,) = (await listed(list_providers)).providers
    assert provider == v1.Provider(
        provider="openai",
        display_name="OpenAI",
        configured=True,
        default_model="gpt-5-mini",
        host="eu.example:8443",
        capabilities=v1.ProviderCapabilities(
            streaming=True, tools=True, parallel_tool_calls=True, reasoning=True, images=True
        ),
        breaker_state=v1.BREAKER_STATE_HALF_OPEN,
        ttft=v1.TimeToFirstToken(p50_ms=250.0, p95_ms=500.0, p99_ms=1500.0, samples=42),
        warm_connections=3,
        endpoints=[
            v1.ProviderEndpoint(region="eu", host="eu.example:8443", breaker_state=v1.BREAKER_STATE_OPEN),
            v1.ProviderEndpoint(
                region="us", host="us.example", breaker_state=v1.BREAKER_STATE_HALF_OPEN, warm_connections=3
            ),
        ],
    )


async def test_one_that_is_not_configured_names_its_settings_and_nothing_else() -> None:
    async with asking(Told(BARE)) as list_providers:
        (provider,) = (await listed(list_providers)).providers
    assert provider == v1.Provider(
        provider="acme",
        display_name="Acme",
        missing_settings=["ACME_API_KEY", "ACME_BASE_URL"],
        capabilities=v1.ProviderCapabilities(streaming=True, tools=True, parallel_tool_calls=True, tool_choice=True),
    )


async def test_every_provider_is_there_by_name_and_no_key_is() -> None:
    async with asking(REAL) as list_providers:
        response = await listed(list_providers)
    assert [each.provider for each in response.providers] == sorted(PROVIDERS)
    found = {each.provider: each for each in response.providers}
    assert {name for name, each in found.items() if each.configured} == {"openai", "ollama", "mock"}
    assert found["openai"].host == "api.openai.com"
    assert len(found["openai"].endpoints) == 1
    azure = PROVIDERS["azure"]
    assert list(found["azure"].missing_settings) == [azure.key_env[0], azure.base_url_env[0]]
    assert b"k1" not in response.SerializeToString()


@pytest.mark.parametrize("configured", [True, False])
async def test_the_configured_ones_can_be_asked_for_and_the_others(configured: bool) -> None:
    async with asking(Told(BARE, BUSY)) as list_providers:
        response = await listed(list_providers, configured=configured)
    assert [each.configured for each in response.providers] == [configured]


@pytest.mark.parametrize("size", [1, 7, 24, 1000])
async def test_pages_of_any_size_make_the_same_list(size: int) -> None:
    names: list[str] = []
    async with asking(REAL) as list_providers:
        token = ""
        while True:
            page = await listed(list_providers, page_size=size, page_token=token, configured=False)
            assert len(page.providers) <= size
            names += [each.provider for each in page.providers]
            if not (token := page.next_page_token):
                break
    assert names == [name for name in sorted(PROVIDERS) if name not in {"openai", "ollama", "mock"}]


async def test_a_page_token_of_another_list_or_of_ones_own_is_refused() -> None:
    async with asking(REAL) as list_providers:
        of_all = (await listed(list_providers, page_size=1)).next_page_token
        for token, fields in ((of_all, {"configured": True}), ("mine", {}), ("bm9uZQ==", {})):
            request = v1.ListProvidersRequest(page_token=token, **fields)
            found = await refused(list_providers(request, metadata=bearer(ADMIN)))
            assert (found.reason, found.fields) == ("INVALID_FIELD", ("page_token",))


async def test_a_caller_learns_nothing() -> None:
    async with asking(REAL) as list_providers:
        found = await refused(list_providers(v1.ListProvidersRequest(), metadata=bearer(CALLER)))
    assert found.reason == "PERMISSION_DENIED"


async def test_an_operators_command_reads_what_the_service_writes() -> None:
    async with serving(Told(BARE, BUSY)) as target:
        assert await providers_of(target, ADMIN) == [BARE, BUSY]
        with pytest.raises(AgentError, match="PERMISSION_DENIED"):
            await providers_of(target, CALLER)
    assert await providers_of(target, ADMIN) is None  # nobody is there any more


async def test_for_scripts_it_is_the_contracts_own_json() -> None:
    async with asking(Told(BARE, BUSY)) as list_providers:
        response = await listed(list_providers)
    told = json_of([BARE, BUSY])
    assert Parse(told, v1.ListProvidersResponse()) == response
    assert '"configured": false' in told
