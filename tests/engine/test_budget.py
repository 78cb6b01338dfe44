"""What a run costs is counted, and its limits trip in the run."""

import asyncio

import pytest

from agentsvc.domain.agents import Budget
from agentsvc.domain.events import (
    BudgetKind,
    StepCompleted,
    TextDelta,
    ToolResult,
)
from agentsvc.domain.messages import Usage
from agentsvc.engine.budget import BudgetExceeded
from agentsvc.engine.loop import converse
from tests.engine.fakes import (
    USAGE,
    calls,
    done,
    of,
    says,
    text_of,
)
from tests.engine.talk import Talk, weather, weather_in


async def test_usage_is_summed_over_steps() -> None:
    talk = Talk(calls(weather_in("Oslo")), says("It rains."), tools=[weather])

    events = await talk.run()

    assert [event.usage for event in of(events, StepCompleted)] == [USAGE, USAGE]
    assert events[-1].usage == USAGE + USAGE  # type: ignore[union-attr] # GenerationCompleted


@pytest.mark.parametrize(
    ("told", "expected_input"),
    [(None, None), (Usage(), None), (Usage(input_tokens=77), 77)],
    ids=["nothing", "0/0", "input only"],
)
async def test_usage_the_vendor_did_not_tell_is_estimated_and_flagged(
    told: Usage | None, expected_input: int | None
) -> None:
    talk = Talk([TextDelta("A sentence of some length."), done(usage=told)])

    usage = (await talk.run())[-1].usage  # type: ignore[union-attr] # GenerationCompleted

    assert usage.estimated
    assert usage.output_tokens > 0
    assert usage.input_tokens == expected_input or (expected_input is None and usage.input_tokens > 0)


async def test_a_fully_cached_prompt_needs_no_estimate() -> None:
    told = Usage(output_tokens=5, cached_input_tokens=900)

    assert (await Talk([TextDelta("Hi"), done(usage=told)]).run())[-1].usage == told  # type: ignore[union-attr] # the end


async def test_an_answer_that_was_cut_is_estimated() -> None:
    talk = Talk([TextDelta("A sentence of some length."), asyncio.Event()])
    events = converse(talk.plan, talk.transcript, talk.timeline)
    await anext(events)
    await events.aclose()
    talk.transcript.close()

    assert talk.transcript.usage.estimated
    assert talk.transcript.usage.output_tokens > 0


async def test_a_token_budget_trips_at_the_delta_that_crosses_it() -> None:
    endless = [TextDelta("12345678")] * 1000
    talk = Talk(endless, budget=Budget(tokens=20))

    limit = await talk.fails(BudgetExceeded)

    assert limit.kind is BudgetKind.TOKENS
    assert talk.model.open == 0
    assert len(talk.events) <= 20 * 4 // 8 + 1
    assert talk.transcript.text == text_of(talk.events) != ""


async def test_a_spent_token_budget_starts_no_tool() -> None:
    talk = Talk(calls(weather_in("Oslo"), usage=Usage(90, 20)), tools=[weather], budget=Budget(tokens=100))

    assert (await talk.fails(BudgetExceeded)).kind is BudgetKind.TOKENS
    assert of(talk.events, ToolResult) == []
    assert talk.texts_of_tools() == ["The call was cancelled."]


async def test_a_prompt_over_the_token_budget_asks_nobody() -> None:
    talk = Talk(says("Hi"), budget=Budget(tokens=1))

    assert (await talk.fails(BudgetExceeded)).kind is BudgetKind.TOKENS
    assert talk.model.requests == []


async def test_tool_calls_over_budget_start_none_of_their_step() -> None:
    talk = Talk(
        calls(weather_in("Oslo")),
        calls(weather_in("Bergen", "1"), weather_in("Molde", "2")),
        tools=[weather],
        budget=Budget(tool_calls=2),
    )

    assert (await talk.fails(BudgetExceeded)).kind is BudgetKind.TOOL_CALLS
    assert len(of(talk.events, ToolResult)) == 1


async def test_max_steps_ends_the_run() -> None:
    talk = Talk([TextDelta("Again. "), *calls(weather_in("Oslo"))], tools=[weather], max_steps=3)

    assert (await talk.fails(BudgetExceeded)).kind is BudgetKind.STEPS
    assert len(talk.model.requests) == 3
    assert talk.transcript.text == "Again. "
