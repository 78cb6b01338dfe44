"""A conversation of several steps and turns, against vendors that refuse what the real ones refuse."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from agentsvc import v1
from agentsvc.engine.tools import tool
from agentsvc.providers.script import Call, Reason, Say, Turn
from tests.e2e.house import Answer, House, open_house

PROVIDERS = ("openai", "anthropic")
TOOLS = ("get_weather", "get_time")
RESEARCH = (
    Reason("I need the weather first."),
    Say("Let me look."),
    Call("get_weather", {"city": "Paris"}, fragment=3, id="vendors-1"),
    Turn(),
    Reason("Now the times."),
    Call("get_time", {"city": "Paris"}, fragment=3, id="vendors-2"),
    Call("get_time", {"city": "Oslo"}, fragment=3, id="vendors-3"),
    Turn(),
    Say("It is 18 degrees and noon in both."),
)
THINKING: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 2048}}


@tool(idempotent=True)
async def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"{city}: 18 degrees"


class Clock:
    """A tool that answers only when two calls of it run at the same time."""

    def __init__(self) -> None:
        self.barrier = asyncio.Barrier(2)

    @property
    def tool(self) -> Any:
        async def get_time(city: str) -> str:
            await self.barrier.wait()
            return f"{city}: noon"

        return tool(get_time, idempotent=True)


def thinking(provider: str) -> v1.ChatOptions:
    """Only Anthropic has to be told to think, and only then checks what it gets back."""
    options = v1.ChatOptions()
    if provider == "anthropic":
        options.provider_options.update(THINKING)
    return options


async def ask(house: House, agent: str, provider: str, *steps: Any, session_id: str = "") -> Answer:
    answer = await house.ask(agent, *steps, session_id=session_id, options=thinking(provider))
    assert answer.finished.state == v1.RUN_STATE_COMPLETED, answer.finished.error
    return answer


def bodies(house: House) -> list[dict[str, Any]]:
    return [request.json for request in house.upstream.requests]


def assert_prefix_is_stable(earlier: bytes, later: bytes) -> None:
    """Tools, instructions and every message of the earlier request open the later one, byte for byte."""
    begin = earlier.index(b'"messages":[') + len(b'"messages":')
    _, length = json.JSONDecoder().raw_decode(earlier[begin:].decode())
    length = len(earlier[begin:].decode()[:length].encode()) - 1  # without the bracket that closes the list
    assert later.startswith(earlier[: begin + length] + b",")
    assert json.loads(earlier).get("tools") == json.loads(later).get("tools")


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_two_tool_steps_the_second_in_parallel(provider: str) -> None:
    async with open_house(tools=[get_weather, Clock().tool]) as house:
        agent = await house.agent(provider, tools=TOOLS, instructions="Be brief.")
        answer = await ask(house, agent, provider, *RESEARCH)
        assert answer.one("generation_completed").text == "It is 18 degrees and noon in both."
        assert answer.one("generation_completed").total_steps == 3
        assert [step.step for step in answer.all("step_completed")] == [1, 2, 3]
        calls = [(call.name, json.loads(call.arguments_json)["city"]) for call in answer.all("tool_call_requested")]
        assert calls == [("get_weather", "Paris"), ("get_time", "Paris"), ("get_time", "Oslo")]
        results = {result.tool_call_id: result.content[0].text for result in answer.all("tool_result")}
        assert results == {"vendors-1": "Paris: 18 degrees", "vendors-2": "Paris: noon", "vendors-3": "Oslo: noon"}
        total = answer.one("generation_completed").usage
        steps = [step.usage for step in answer.all("step_completed")]
        assert total.input_tokens == sum(usage.input_tokens for usage in steps)
        assert total.output_tokens == sum(usage.output_tokens for usage in steps)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_next_turn_goes_on_from_a_history_with_tools(provider: str) -> None:
    async with open_house(tools=[get_weather, Clock().tool]) as house:
        agent = await house.agent(provider, tools=TOOLS, instructions="Be brief.")
        first = await ask(house, agent, provider, *RESEARCH)
        await ask(house, agent, provider, *RESEARCH, session_id=first.session_id)
        third = await ask(house, agent, provider, Say("Gladly."), session_id=first.session_id)
        assert third.text == "Gladly."
        raw = [request.body for request in house.upstream.requests]
        assert len(raw) == 3 + 3 + 1
        for earlier, later in pairwise(raw[:6]):
            assert_prefix_is_stable(earlier, later)


async def test_anthropics_signed_thinking_travels_back() -> None:
    async with open_house(tools=[get_weather, Clock().tool]) as house:
        agent = await house.agent("anthropic", tools=TOOLS)
        first = await ask(house, agent, "anthropic", *RESEARCH)
        await ask(house, agent, "anthropic", Say("Gladly."), session_id=first.session_id)
        signed = {"type": "thinking", "thinking": "I need the weather first.", "signature": "signature-0"}
        for body in bodies(house)[1:]:
            assert body["messages"][1]["content"][0] == signed
        for message in await house.messages(first.session_id):
            assert b"signature-0" not in message.SerializeToString()


@pytest.mark.parametrize(("one", "other"), [PROVIDERS, PROVIDERS[::-1]])
async def test_a_session_goes_on_with_another_vendor(one: str, other: str) -> None:
    async with open_house(tools=[get_weather, Clock().tool]) as house:
        agent = await house.agent(one, tools=TOOLS)
        first = await ask(house, agent, one, *RESEARCH)
        moved = v1.Agent(agent_id=agent, llm_config=v1.LlmConfig(provider=other))
        update = v1.UpdateAgentRequest(agent=moved, update_mask=FieldMask(paths=["llm_config"]))
        await house.admin.UpdateAgent(update, metadata=house.acme.admin)
        second = await ask(house, agent, other, *RESEARCH, session_id=first.session_id)
        assert second.one("run_started").provider == other
        last = house.upstream.requests[3]
        assert last.path.endswith("/messages") == (other == "anthropic")
        assert "18 degrees and noon in both" in last.body.decode()
        assert b"signature-0" not in last.body
        back = v1.ChatOptions(provider=one)
        third = await house.ask(agent, Say("Back again."), session_id=first.session_id, options=back)
        assert third.text == "Back again."


async def test_buffered_and_streamed_turns_share_a_history() -> None:
    async with open_house(tools=[get_weather]) as house:
        agent = await house.agent("openai", tools=("get_weather",))
        steps = (Call("get_weather", {"city": "Rome"}), Turn(), Say("18 degrees."))
        buffered = v1.ChatOptions(streaming=v1.StreamingOptions(mode=v1.STREAMING_MODE_BUFFERED))
        first = await house.ask(agent, *steps, options=buffered)
        second = await house.ask(agent, *steps, session_id=first.session_id)
        assert first.one("generation_completed").text == second.one("generation_completed").text == "18 degrees."
        assert [body["stream"] for body in bodies(house)] == [False, False, True, True]
