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
from agentsvc.engine.budget import BudgetExceeded, Meter
from agentsvc.engine.loop import converse
from agentsvc.engine.prices import Price, Tariff
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


# Of a model at 1 dollar per million tokens of input and 4 of output: a token is a micro, one of an answer is 4.
TARIFF = Tariff(Price(1_000_000, 4_000_000, cached_input=100_000), "openai")


def meter(micros: int, **budget: int) -> Meter:
    return Meter(Budget(cost_micros=micros, **budget))


def trips(kind: BudgetKind) -> pytest.RaisesExc[BudgetExceeded]:
    return pytest.raises(BudgetExceeded, check=lambda limit: limit.kind is kind)


class TestCost:
    def test_it_trips_inside_an_answer_at_the_characters_the_rest_buys(self) -> None:
        run = meter(100)
        run.begin_step(20, TARIFF)  # 80 micros are left: 20 tokens, 80 characters
        run.spend(80)
        with trips(BudgetKind.COST):
            run.spend(1)

    def test_what_the_steps_before_cost_by_the_providers_count_is_gone(self) -> None:
        run = meter(100)
        run.begin_step(1, TARIFF)
        run.end_step(Usage(20, 10))
        run.begin_step(20, TARIFF)  # 100 - 60 - 20: 5 tokens
        run.spend(20)
        with trips(BudgetKind.COST):
            run.spend(1)

    def test_spent_money_starts_no_tool(self) -> None:
        run = meter(100)
        run.begin_step(1, TARIFF)
        run.end_step(Usage(20, 20))
        with trips(BudgetKind.COST):
            run.tool_calls(1)

    def test_money_that_is_left_starts_tools(self) -> None:
        run = meter(100)
        run.begin_step(1, TARIFF)
        run.end_step(Usage(19, 20))
        run.tool_calls(1)

    def test_an_answer_that_is_complete_is_kept_whatever_it_cost(self) -> None:
        run = meter(100)
        run.begin_step(1, TARIFF)
        run.end_step(Usage(1000, 1000))
        with trips(BudgetKind.COST):
            run.begin_step(1, TARIFF)

    def test_a_prompt_that_alone_costs_more_asks_nobody(self) -> None:
        with trips(BudgetKind.COST):
            meter(100).begin_step(100, TARIFF)

    def test_a_prompt_is_taken_for_cached_once_the_vendor_has_shown_that_it_caches(self) -> None:
        run = meter(200)
        run.begin_step(100, TARIFF)
        run.end_step(Usage(100, 0))
        with trips(BudgetKind.COST):
            run.begin_step(110, TARIFF)
        run.end_step(Usage(100, 0, cached_input_tokens=50))
        run.begin_step(110, TARIFF)  # 200 - 100 - 55 - 11

    def test_the_price_of_a_long_prompt_counts(self) -> None:
        dear = Tariff(Price(0, 0, above=((50, Price(2_000_000, 0)),)), "openai")
        meter(100).begin_step(50, dear)
        with trips(BudgetKind.COST):
            meter(100).begin_step(51, dear)

    def test_a_free_model_spends_nothing(self) -> None:
        run = meter(1)
        run.begin_step(10**6, Tariff(Price(0, 0), "mock"))
        run.spend(10**9)
        run.end_step(Usage(10**6, 10**9))
        run.tool_calls(1)

    def test_two_models_are_each_paid_at_their_price(self) -> None:
        run = meter(100)
        run.begin_step(1, TARIFF)
        run.end_step(Usage(50))
        run.begin_step(1, Tariff(Price(0, 0), "mock"))
        run.end_step(Usage(10**6))
        run.tool_calls(1)
        run.begin_step(1, TARIFF)
        run.end_step(Usage(50))
        with trips(BudgetKind.COST):
            run.tool_calls(1)

    def test_a_limit_that_cannot_be_watched_counts_as_reached(self) -> None:
        with trips(BudgetKind.COST):
            meter(10**9).begin_step(1, None)

    def test_the_limit_that_is_nearer_trips(self) -> None:
        for micros, tokens, kind in ((100, 1000, BudgetKind.COST), (10_000, 30, BudgetKind.TOKENS)):
            run = meter(micros, tokens=tokens)
            run.begin_step(10, TARIFF)
            with trips(kind):
                run.spend(1000)

    def test_without_a_limit_nobody_has_to_know_a_price(self) -> None:
        run = Meter(Budget())
        run.begin_step(10**9)
        run.spend(10**9)
        run.end_step(Usage(10**9, 10**9))
        run.tool_calls(100)
