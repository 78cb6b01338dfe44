"""What a call leads to, and who is named when it fails."""

from __future__ import annotations

from agentsvc.domain.agents import GenerationOptions, LLMConfig, ModelRef
from agentsvc.domain.events import ModelFinished, RunFinished
from agentsvc.domain.messages import FinishReason, Usage
from agentsvc.domain.ports import ChatModel
from agentsvc.domain.runs import RunOptions
from tests.engine.fakes import FakeModel, House, Script, says


def house_of_two(first: Script, second: Script, **agent: object) -> tuple[House, FakeModel]:
    """A house whose agent asks ``fake``, and where there is a provider ``other``."""
    house = House(first, agent=agent)
    other = FakeModel(second, provider="other")

    def bind(config: LLMConfig) -> tuple[ChatModel, str]:
        return (other if config.provider == "other" else house.model), config.model or "m"

    house.catalog._models.bind = bind  # type: ignore[method-assign]
    return house, other


async def test_an_agents_own_options_of_a_vendor_do_not_follow_a_call_to_another() -> None:
    parameters = GenerationOptions(temperature=0.5, provider_options={"reasoning_effort": "low"})
    house, other = house_of_two(says("One"), says("Two"), llm_config=LLMConfig("fake", parameters=parameters))
    await house.ask(options=RunOptions(provider="other"))
    (asked,) = other.requests
    assert asked.generation.temperature == 0.5
    assert not asked.generation.provider_options

    mine = GenerationOptions(provider_options={"top_k": 3})
    await house.ask(options=RunOptions(provider="other", generation=mine))
    assert other.requests[-1].generation.provider_options == {"top_k": 3}


async def test_the_one_who_failed_last_is_named_also_where_the_failure_names_nobody() -> None:
    error: Script = [ModelFinished(FinishReason.ERROR, Usage(1, 1))]
    house, _ = house_of_two(error, error, fallbacks=(ModelRef("other"),))
    end = (await house.ask())[-1]
    assert isinstance(end, RunFinished)
    assert end.error is not None
    assert end.error.provider == "other"
