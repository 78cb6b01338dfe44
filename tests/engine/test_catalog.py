"""The catalog: what may be stored, what is kept at hand, when it is let go."""

import pytest

from agentsvc.domain.agents import Agent, LLMConfig
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.engine.catalog import Catalog
from agentsvc.engine.tools import Toolset, tool
from tests.engine.fakes import ALICE, MALLORY, FakeAgentStore, FakeModel, FakeModels, Rows, says


@tool
async def ping() -> str:
    """Answers."""
    return "pong"


class StrictModels(FakeModels):
    """Knows one provider, and one that has no key yet."""

    def bind(self, config: LLMConfig) -> tuple[FakeModel, str]:
        match config.provider:
            case "fake":
                return super().bind(config)
            case "keyless":
                raise AgentsvcError(Reason.PROVIDER_NOT_CONFIGURED, "set KEYLESS_API_KEY")
            case unknown:
                raise AgentsvcError(Reason.INVALID_FIELD, f"no provider {unknown}")


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(FakeAgentStore(Rows()), StrictModels(FakeModel(says("Hi"))), Toolset.of([ping]))


async def refusal(awaitable: object) -> Reason:
    with pytest.raises(AgentsvcError) as raised:
        await awaitable  # type: ignore[misc] # coroutines of several results
    return raised.value.reason


@pytest.mark.parametrize(
    "agent",
    [
        Agent("a", LLMConfig("")),
        Agent("a", LLMConfig("nobody")),
        Agent("a", LLMConfig("fake"), tools=("ping", "rm_rf")),
    ],
    ids=["no provider", "unknown provider", "a tool the operator did not allow"],
)
async def test_an_agent_that_could_never_run_is_not_stored(catalog: Catalog, agent: Agent) -> None:
    assert await refusal(catalog.create(ALICE, agent)) is Reason.INVALID_FIELD
    assert await refusal(catalog.get(ALICE, "a")) is Reason.AGENT_NOT_FOUND


async def test_a_provider_without_its_key_is_refused_at_the_first_run(catalog: Catalog) -> None:
    await catalog.create(ALICE, Agent("a", LLMConfig("keyless")))

    assert await refusal(catalog.prepare(ALICE.tenant_id, "a")) is Reason.PROVIDER_NOT_CONFIGURED


async def test_an_agent_is_prepared_once_and_again_after_a_change(catalog: Catalog) -> None:
    agent = await catalog.create(ALICE, Agent("", LLMConfig("fake"), tools=("ping",)))
    key = ALICE.tenant_id, agent.agent_id
    assert catalog.cached(*key) is None

    prepared = await catalog.prepare(*key)
    assert catalog.cached(*key) is prepared
    assert [spec.name for spec in prepared.tools.specs] == ["ping"]

    await catalog.update(ALICE, Agent(agent.agent_id, LLMConfig("fake", "fake-2")), "")
    assert catalog.cached(*key) is None
    assert (await catalog.prepare(*key)).first.name == "fake-2"

    await catalog.delete(ALICE, agent.agent_id, "")
    assert catalog.cached(*key) is None
    assert await refusal(catalog.prepare(*key)) is Reason.AGENT_NOT_FOUND


async def test_another_tenants_agent_does_not_exist(catalog: Catalog) -> None:
    agent = await catalog.create(ALICE, Agent("a", LLMConfig("fake")))
    await catalog.prepare(ALICE.tenant_id, "a")

    assert catalog.cached(MALLORY.tenant_id, "a") is None
    for asked in (
        catalog.get(MALLORY, "a"),
        catalog.update(MALLORY, agent, ""),
        catalog.delete(MALLORY, "a", ""),
        catalog.prepare(MALLORY.tenant_id, "a"),
    ):
        assert await refusal(asked) is Reason.AGENT_NOT_FOUND
    assert (await catalog.list(MALLORY, PageRequest(), Filter())).items == ()
    assert (await catalog.list(ALICE, PageRequest(), Filter())).items == (agent,)
