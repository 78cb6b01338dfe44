"""The library face: an agent without any server."""

import asyncio
from contextlib import aclosing

import pytest

from agentsvc.domain.agents import Budget, GenerationOptions, StreamingMode, StreamingOptions
from agentsvc.domain.errors import ProviderError
from agentsvc.domain.events import GenerationCompleted, StepCompleted, TextDelta
from agentsvc.domain.messages import FinishReason, MessageStatus, Role, Text
from agentsvc.engine.agent import Agent, Answer
from agentsvc.engine.budget import BudgetExceeded
from agentsvc.engine.tools import tool
from tests.engine.fakes import FOREVER, USAGE, FakeModel, call, calls, check_history, failed, of, says, text_of


@tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


async def test_generate_gives_the_whole_answer() -> None:
    model = FakeModel(calls(call("weather", '{"city":"Oslo"}')), says("It ", "rains."))
    agent = Agent(model, "m-1", instructions="Be brief.", tools=[weather], generation=GenerationOptions(temperature=0))

    answer = await agent.generate("Is it raining?")

    assert answer == Answer("It rains.", FinishReason.STOP, 2, USAGE + USAGE, agent.history)
    assert [message.role for message in answer.messages] == [Role.USER, Role.ASSISTANT, Role.TOOL, Role.ASSISTANT]
    request = model.requests[0]
    assert (request.model, request.instructions, request.generation.temperature) == ("m-1", "Be brief.", 0)
    assert [spec.name for spec in request.tools] == ["weather"]


async def test_an_agent_remembers_its_conversation() -> None:
    model = FakeModel(says("one"), says("two"))
    agent = Agent(model)

    await agent.generate("first")
    second = await agent.generate((Text("second"),))

    assert [message.text for message in model.requests[1].messages] == ["first", "one", "second"]
    assert [message.text for message in second.messages] == ["second", "two"]


async def test_stream_yields_every_event_as_it_happens() -> None:
    gate = asyncio.Event()
    agent = Agent(FakeModel([TextDelta("now"), gate, *says(" and then")]))

    async with aclosing(agent.stream("Go")) as events:
        assert await anext(events) == TextDelta("now")
        gate.set()
        rest = [event async for event in events]

    assert text_of(rest) == " and then"
    assert isinstance(rest[-1], GenerationCompleted)


async def test_buffered_mode_asks_for_the_whole_answer() -> None:
    model = FakeModel(says("abcdef"))
    agent = Agent(model, streaming=StreamingOptions(mode=StreamingMode.BUFFERED, text_buffer_size=4))

    events = [event async for event in agent.stream("Go")]

    assert model.requests[0].stream is False
    assert of(events, TextDelta) == [TextDelta("abcd"), TextDelta("ef")]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_callbacks_hear_of_steps_and_of_the_end(kind: str) -> None:
    heard: list[StepCompleted | GenerationCompleted] = []

    async def hear(event: StepCompleted | GenerationCompleted) -> None:
        await asyncio.sleep(0)
        heard.append(event)

    tell = heard.append if kind == "plain" else hear
    agent = Agent(FakeModel(calls(call("weather", '{"city":"Oslo"}')), says("Rain.")), tools=[weather])

    events = [event async for event in agent.stream_with_callbacks("Go", on_step=tell, on_finish=tell)]

    assert heard == [event for event in events if isinstance(event, StepCompleted | GenerationCompleted)]
    assert [type(event) for event in heard] == [StepCompleted, StepCompleted, GenerationCompleted]


async def test_callbacks_are_optional() -> None:
    events = [event async for event in Agent(FakeModel(says("Hi"))).stream_with_callbacks("Go")]

    assert text_of(events) == "Hi"


@pytest.mark.parametrize("method", ["stream", "stream_with_callbacks"])
async def test_closing_early_closes_the_model_and_keeps_what_was_said(method: str) -> None:
    model = FakeModel([TextDelta("Hel"), FOREVER])
    agent = Agent(model)

    async with aclosing(getattr(agent, method)("Go")) as events:
        await anext(events)
        assert model.open == 1

    assert model.open == 0
    assert [(m.text, m.status) for m in agent.history] == [
        ("Go", MessageStatus.COMPLETE),
        ("Hel", MessageStatus.PARTIAL),
    ]


async def test_a_failure_is_raised_and_the_conversation_goes_on() -> None:
    agent = Agent(FakeModel([TextDelta("Hel"), failed()], says("Hello again")))

    with pytest.raises(ProviderError):
        await agent.generate("Go")

    assert (await agent.generate("Once more")).text == "Hello again"
    check_history(agent.history)


async def test_limits_are_raised() -> None:
    agent = Agent(FakeModel(calls(call("weather", '{"city":"Oslo"}'))), tools=[weather], max_steps=2)
    with pytest.raises(BudgetExceeded):
        await agent.generate("Go")
    check_history(agent.history)

    with pytest.raises(ValueError, match=r"asyncio\.timeout"):
        Agent(FakeModel(), budget=Budget(wall_clock=1))
