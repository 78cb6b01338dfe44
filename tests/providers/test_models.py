"""Which model an agent's configuration means, and whose key goes where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentsvc.domain.agents import LLMConfig
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFinished, TextDelta
from agentsvc.domain.timeline import Timeline
from agentsvc.providers.bound import BoundModel
from agentsvc.providers.dialect import Endpoint, Provider
from agentsvc.providers.models import Providers
from agentsvc.providers.registry import PROVIDERS
from tests.providers.lines import LINES, Lines, ask
from tests.upstream import Upstream, stream

AZURE_LIKE = Provider(name="azurish", dialect=Lines(), key_env=("AZ_KEY",), base_url_env=("AZ_URL",))
LOCAL = Provider(name="local", dialect=Lines(), base_url="http://127.0.0.1:1", needs_key=False, default_model="tiny")
REGISTRY = {"lines": LINES, "azurish": AZURE_LIKE, "local": LOCAL, "mock": PROVIDERS["mock"]}
HELLO = [b"text hello\n", b"end\n"]


def refused(providers: Providers, config: LLMConfig) -> AgentsvcError:
    with pytest.raises(AgentsvcError) as refusal:
        providers.bind(config)
    return refusal.value


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    refusal = refused(Providers(REGISTRY, {}), LLMConfig("opnai"))
    assert refusal.reason is Reason.INVALID_FIELD
    assert refusal.error.violations[0].field == "llm_config.provider"
    assert "azurish, lines, local, mock" in refusal.error.message


@pytest.mark.parametrize(
    ("endpoints", "named"),
    [({}, "set LINES_API_KEY and LINES_BASE_URL"), ({"lines": Endpoint("https://x.example")}, "set LINES_API_KEY for")],
)
def test_a_provider_without_its_settings_is_refused_with_their_names(
    endpoints: dict[str, Endpoint], named: str
) -> None:
    refusal = refused(Providers(REGISTRY, endpoints), LLMConfig("lines"))
    assert refusal.reason is Reason.PROVIDER_NOT_CONFIGURED
    assert named in refusal.error.message


def test_every_provider_of_ours_says_what_it_needs() -> None:
    providers = Providers(PROVIDERS, {})
    for name, provider in PROVIDERS.items():
        lacking = [provider.key_env] * provider.needs_key + [provider.base_url_env] * (not provider.base_url)
        needed = [" or ".join(names) for names in lacking]
        if name != "mock" and needed:
            told = refused(providers, LLMConfig(name, "any")).error.message
            assert f"set {' and '.join(needed)} for" in told


def test_a_model_must_be_named_where_the_provider_has_no_default() -> None:
    refusal = refused(Providers(REGISTRY, {"azurish": Endpoint("https://x.example", "k")}), LLMConfig("azurish"))
    assert refusal.error.violations[0].field == "llm_config.model"


def test_the_model_is_the_agents_or_else_the_providers_default() -> None:
    providers = Providers(REGISTRY, {})
    assert providers.bind(LLMConfig("local"))[1] == "tiny"
    assert providers.bind(LLMConfig("local", "huge"))[1] == "huge"


async def test_an_operators_endpoint_gets_the_operators_key_and_is_shared() -> None:
    async with Upstream(stream(HELLO)) as upstream:
        providers = Providers(REGISTRY, {"lines": Endpoint(upstream.url, "operators")})
        for _ in range(3):
            model, _ = providers.bind(LLMConfig("lines"))
            async for _ in model.stream(ask(), Timeline()):
                pass
        assert {request.headers["authorization"] for request in upstream.requests} == {"Bearer operators"}
        assert len(upstream.connections) == 1
        assert providers.stats()["lines"].requests == 3
        await providers.close()
        assert not upstream.open


async def test_an_agents_own_key_replaces_the_operators() -> None:
    async with Upstream(stream(HELLO)) as upstream:
        providers = Providers(REGISTRY, {"lines": Endpoint(upstream.url, "operators")})
        model, _ = providers.bind(LLMConfig("lines", api_key="agents"))
        async for _ in model.stream(ask(), Timeline()):
            pass
        assert upstream.requests[0].headers["authorization"] == "Bearer agents"
        await providers.close()


def test_the_operator_may_set_the_default_model() -> None:
    providers = Providers(REGISTRY, {"azurish": Endpoint("https://x.example", "k", {"model": "theirs"})})
    model, name = providers.bind(LLMConfig("azurish"))
    assert (model.default_model, name) == ("theirs", "theirs")
    assert (
        refused(providers, LLMConfig("azurish", base_url="https://y.example"))
        .error.violations[0]
        .field.endswith("model")
    )


def test_an_agents_own_key_needs_an_address_too() -> None:
    refusal = refused(Providers(REGISTRY, {}), LLMConfig("azurish", "m", api_key="agents"))
    assert refusal.reason is Reason.PROVIDER_NOT_CONFIGURED
    assert "set AZ_URL for" in refusal.error.message


@pytest.mark.parametrize("key", ["", "agents"])
def test_an_agents_own_address_never_gets_the_operators_key(key: str) -> None:
    providers = Providers(REGISTRY, {"lines": Endpoint("https://ops.example", "operators", {"organization": "theirs"})})
    model, _ = providers.bind(LLMConfig("lines", base_url="https://llm.example.com/v1/", api_key=key))
    assert isinstance(model, BoundModel)
    assert model.endpoint == Endpoint("https://llm.example.com/v1", key)


@pytest.mark.parametrize(
    "url", ["http://llm.example.com", "https://127.0.0.1", "https://localhost", "https://10.1.2.3/v1"]
)
def test_an_agents_own_address_must_be_public(url: str) -> None:
    refusal = refused(Providers(REGISTRY, {}), LLMConfig("lines", base_url=url))
    assert refusal.error.violations[0].field == "llm_config.base_url"


def test_an_agents_key_must_fit_into_a_header() -> None:
    refusal = refused(Providers(REGISTRY, {}), LLMConfig("lines", base_url="https://x.example", api_key="a\nb"))
    assert refusal.error.violations[0].field == "llm_config.api_key"
    assert "a\nb" not in refusal.error.message


async def test_the_scripted_provider_needs_no_address_and_takes_one() -> None:
    async with Upstream(stream(HELLO)) as upstream:
        model, name = Providers(PROVIDERS, {}).bind(LLMConfig("mock", "mock-echo"))
        assert name == "mock-echo"
        events = [event async for batch in model.stream(replace(ask(), model=name), Timeline()) for event in batch]
        assert events[0] == TextDelta("hello")
        assert isinstance(events[-1], ModelFinished)
        assert not upstream.requests
        providers = Providers(PROVIDERS, {"mock": Endpoint(upstream.url)})
        model, _ = providers.bind(LLMConfig("mock"))
        async for _ in model.stream(ask(), Timeline()):
            pass
        assert len(upstream.requests) == 1
        await providers.close()


async def test_warming_opens_a_connection_to_each_endpoint() -> None:
    async with Upstream(stream(HELLO)) as upstream, Upstream(stream(HELLO)) as other:
        endpoints = {"lines": Endpoint(upstream.url, "k"), "local": Endpoint(other.url), "mock": Endpoint("")}
        providers = Providers(REGISTRY, endpoints)
        await providers.warm()
        assert len(upstream.open) == len(other.open) == 1
        await providers.close()
