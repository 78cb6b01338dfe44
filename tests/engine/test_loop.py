"""The loop: what the model says becomes events, what it asks for is done, what it costs is counted."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agentsvc.domain.agents import Budget, StreamingMode, StreamingOptions
from agentsvc.domain.errors import ProviderError, Reason
from agentsvc.domain.events import (
    Annotation,
    BudgetKind,
    Event,
    GenerationCompleted,
    ReasoningDelta,
    StepCompleted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallRequested,
    ToolCallStarted,
    ToolProgress,
    ToolResult,
    ToolStatus,
)
from agentsvc.domain.messages import FinishReason, Message, MessageStatus, ProviderState, Role, Text, Usage
from agentsvc.domain.ports import ModelRequest, ToolContext
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.domain.timeline import Timeline
from agentsvc.engine.budget import BudgetExceeded
from agentsvc.engine.loop import Plan, converse
from agentsvc.engine.tools import Tool, ToolError, Toolset, tool
from agentsvc.engine.transcript import Transcript
from tests.engine.fakes import (
    USAGE,
    FakeModel,
    Script,
    call,
    calls,
    check_history,
    done,
    failed,
    no_tasks_left,
    of,
    says,
    text_of,
)

QUESTION = Message(Role.USER, (Text("Hi"),))


class Talk:
    """One conversation of the loop with a scripted model, and what came of it."""

    def __init__(self, *scripts: Script, tools: Sequence[Tool] = (), **plan: Any) -> None:
        self.model = FakeModel(*scripts)
        self.transcript = Transcript()
        self.timeline = Timeline()
        self.plan = Plan(self.model, ModelRequest("m", (QUESTION,)), Toolset.of(tools), **plan)
        self.events: list[Event] = []

    async def run(self) -> list[Event]:
        async for event in converse(self.plan, self.transcript, self.timeline):
            self.events.append(event)
        return self.events

    async def fails(self, kind: type[Exception]) -> Any:
        with pytest.raises(kind) as raised:
            await self.run()
        self.transcript.close()
        check_history((QUESTION, *self.transcript.messages))
        return raised.value

    def texts_of_tools(self) -> list[str]:
        return [message.text for message in self.transcript.messages if message.role is Role.TOOL]


@tool
async def weather(city: str) -> str:
    """The weather in a city, now."""
    return f"rain in {city}"


def weather_in(city: str, call_id: str = "call_0") -> Any:
    return call("weather", f'{{"city":"{city}"}}', call_id)


# --- answers ------------------------------------------------------------------------------------------------------
async def test_a_plain_answer_is_its_deltas_one_step_and_its_end() -> None:
    events = await Talk([ReasoningDelta("Hm."), TextDelta("Hel"), (TextDelta("lo"), done())]).run()

    assert events == [
        ReasoningDelta("Hm."),
        TextDelta("Hel"),
        TextDelta("lo"),
        StepCompleted(1, FinishReason.STOP, USAGE),
        GenerationCompleted("Hello", FinishReason.STOP, 1, USAGE),
    ]


async def test_a_delta_leaves_before_the_next_read() -> None:
    gate = asyncio.Event()
    talk = Talk([TextDelta("first"), gate, *says("second")])

    events = converse(talk.plan, talk.transcript, talk.timeline)

    assert await anext(events) == TextDelta("first")
    gate.set()
    assert await anext(events) == TextDelta("second")
    await events.aclose()


async def test_closing_the_loop_closes_the_model() -> None:
    talk = Talk([TextDelta("first"), asyncio.Event()])
    events = converse(talk.plan, talk.transcript, talk.timeline)
    await anext(events)

    assert talk.model.open == 1
    await events.aclose()
    assert talk.model.open == 0


async def test_a_pause_goes_on_with_what_was_said() -> None:
    state = ProviderState("fake", {"block": 1})
    talk = Talk([TextDelta("Searching. "), done(FinishReason.PAUSE, provider_state=state)], says("Found."))

    events = await talk.run()

    assert events[-1] == GenerationCompleted("Found.", FinishReason.STOP, 2, USAGE + USAGE)
    paused = talk.model.requests[1].messages[-1]
    assert (paused.role, paused.text, paused.provider_state) == (Role.ASSISTANT, "Searching. ", state)


async def test_an_answer_without_anything_leaves_no_empty_message() -> None:
    talk = Talk([done()])

    assert (await talk.run())[-1] == GenerationCompleted("", FinishReason.STOP, 1, USAGE)
    assert talk.transcript.messages == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([TextDelta("par"), failed(Reason.PROVIDER_OVERLOADED)], Reason.PROVIDER_OVERLOADED),
        ([TextDelta("par"), done(FinishReason.ERROR)], Reason.PROVIDER_SERVER_ERROR),
        ([TextDelta("par")], Reason.STREAM_TRUNCATED),
    ],
    ids=["the vendor fails", "the model stops with an error", "the answer has no end"],
)
async def test_a_failed_answer_keeps_its_partial_text(script: Script, reason: Reason) -> None:
    talk = Talk(script)

    error = await talk.fails(ProviderError)

    assert error.reason is reason
    assert talk.events == [TextDelta("par")]
    assert [(m.text, m.status) for m in talk.transcript.messages] == [("par", MessageStatus.PARTIAL)]


async def test_annotations_leave_only_when_asked_for() -> None:
    script = [Annotation("model", "fake-1-2026"), *says("Hi")]

    assert of(await Talk(script).run(), Annotation) == []
    shown = await Talk(script, streaming=StreamingOptions(emit_metadata=True)).run()
    assert of(shown, Annotation) == [Annotation("model", "fake-1-2026")]


async def test_timings_stand_in_the_end_only_when_asked_for() -> None:
    for asked in (False, True):
        talk = Talk(says("Hi"), streaming=StreamingOptions(emit_timings=asked))
        talk.timeline.reached("auth")
        assert bool((await talk.run())[-1].timings) is asked  # type: ignore[union-attr] # GenerationCompleted


# --- tools --------------------------------------------------------------------------------------------------------
async def test_a_tool_call_is_streamed_run_and_answered() -> None:
    talk = Talk([TextDelta("Let me see."), *calls(weather_in("Oslo"))], says("It rains."), tools=[weather])

    events = await talk.run()

    assert [type(event).__name__ for event in events] == [
        "TextDelta",
        "ToolCallStarted",
        "ToolCallArgumentsDelta",
        "ToolCallArgumentsDelta",
        "ToolCallRequested",
        "ToolResult",
        "StepCompleted",
        "TextDelta",
        "StepCompleted",
        "GenerationCompleted",
    ]
    assert of(events, ToolCallRequested) == [ToolCallRequested("call_0", "weather", '{"city":"Oslo"}')]
    assert of(events, ToolResult)[0].content == (Text("rain in Oslo"),)
    assert events[-1].text == "It rains."  # type: ignore[union-attr] # the last step's text alone
    asked, answered = talk.model.requests[1].messages[-2:]
    assert (asked.text, asked.tool_calls[0].arguments_json) == ("Let me see.", '{"city":"Oslo"}')
    assert (answered.tool_call_id, answered.text, answered.is_error) == ("call_0", "rain in Oslo", False)


async def test_results_are_events_as_they_come_and_prompt_in_call_order() -> None:
    slow_may_end = asyncio.Event()

    @tool
    async def slow() -> str:
        await slow_may_end.wait()
        return "slow"

    @tool
    async def fast() -> str:
        slow_may_end.set()
        return "fast"

    talk = Talk(calls(call("slow", call_id="1"), call("fast", call_id="2")), says("ok"), tools=[slow, fast])

    events = await talk.run()

    assert [result.tool_call_id for result in of(events, ToolResult)] == ["2", "1"]
    assert talk.texts_of_tools() == ["slow", "fast"]


async def test_ids_the_vendor_repeats_are_unique_in_the_run() -> None:
    talk = Talk(calls(weather_in("Oslo")), calls(weather_in("Bergen")), says("Wet."), tools=[weather])

    events = await talk.run()

    first, second = (event.tool_call_id for event in of(events, ToolCallStarted))
    assert first == "call_0" != second
    assert [event.tool_call_id for event in of(events, ToolResult)] == [first, second]
    fragments = [e.fragment for e in of(events, ToolCallArgumentsDelta) if e.tool_call_id == second]
    assert "".join(fragments) == '{"city":"Bergen"}'
    assert talk.texts_of_tools() == ["rain in Oslo", "rain in Bergen"]
    check_history((QUESTION, *talk.transcript.messages))


@pytest.mark.parametrize("arguments", ['{"city": "Os', "[1]", '"Oslo"'])
async def test_arguments_that_are_no_object_fail_and_leave_no_call_behind(arguments: str) -> None:
    talk = Talk([TextDelta("Well, "), *calls(call("weather", arguments))], tools=[weather])

    error = await talk.fails(ProviderError)

    assert error.reason is Reason.MALFORMED_STREAM
    assert of(talk.events, ToolCallRequested) == []
    assert [(m.text, m.tool_calls) for m in talk.transcript.messages] == [("Well, ", ())]
    assert talk.transcript.usage == USAGE


async def test_a_call_without_arguments_has_an_empty_object() -> None:
    @tool
    async def ping() -> str:
        return "pong"

    talk = Talk(calls((ToolCallStarted("1", "ping"),)), says("ok"), tools=[ping])

    assert of(await talk.run(), ToolCallRequested) == [ToolCallRequested("1", "ping", "{}")]
    assert talk.texts_of_tools() == ["pong"]


@tool
async def refuses() -> str:
    raise ToolError("only on weekdays")


@tool
async def breaks() -> str:
    raise OSError("a secret path")


@tool
def exits() -> str:
    raise SystemExit(2)


@tool
async def own_timeout() -> str:
    raise TimeoutError


@tool(timeout=0.01)
async def hangs() -> str:
    await asyncio.Event().wait()
    return "never"


@tool
async def raises_cancelled() -> str:
    raise asyncio.CancelledError


@tool
async def cancels_its_task() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return "never"


@tool
async def huge() -> str:
    return "x" * (1 << 20) + "x"


@tool
async def unserialisable() -> Any:
    return asyncio.get_running_loop()


@pytest.mark.parametrize(
    ("function", "status", "told"),
    [
        (refuses, ToolStatus.ERROR, "only on weekdays"),
        (breaks, ToolStatus.ERROR, "The tool failed: OSError."),
        (exits, ToolStatus.ERROR, "The tool failed: SystemExit."),
        (own_timeout, ToolStatus.ERROR, "The tool failed: TimeoutError."),
        (hangs, ToolStatus.TIMEOUT, "The tool did not answer within 0.01 s."),
        (raises_cancelled, ToolStatus.CANCELLED, "The tool cancelled itself."),
        (cancels_its_task, ToolStatus.CANCELLED, "The tool cancelled itself."),
        (huge, ToolStatus.ERROR, "The result is 1048577 bytes, more than the 1048576 that fit. Ask for less."),
        (unserialisable, ToolStatus.ERROR, "The tool failed: "),
    ],
    ids=lambda value: value.spec.name if isinstance(value, Tool) else "",
)
async def test_whatever_a_tool_does_the_model_is_told(function: Tool, status: ToolStatus, told: str) -> None:
    talk = Talk(calls(call(function.spec.name)), says("Sorry."), tools=[function])

    events = await talk.run()

    (result,) = of(events, ToolResult)
    assert result.status is status
    assert talk.texts_of_tools()[0].startswith(told)
    assert talk.model.requests[1].messages[-1].is_error
    assert isinstance(events[-1], GenerationCompleted)


@pytest.mark.parametrize(
    ("asked", "told"),
    [(call("nope"), "There is no tool named 'nope'."), (call("weather", '{"town":1}'), "Invalid arguments: ")],
)
async def test_a_call_that_fits_no_tool_is_told_to_the_model(asked: Any, told: str) -> None:
    talk = Talk(calls(asked), says("Sorry."), tools=[weather])

    assert of(await talk.run(), ToolResult)[0].status is ToolStatus.ERROR
    assert talk.texts_of_tools()[0].startswith(told)


@tool
async def counts(context: ToolContext) -> str:
    for done_so_far in range(3):
        context.progress(f"step {done_so_far}", done_so_far / 3)
    return "counted"


@tool
def counts_in_a_thread(context: ToolContext) -> str:
    for done_so_far in range(3):
        context.progress(f"step {done_so_far}", done_so_far / 3)
    return "counted"


@pytest.mark.parametrize("function", [counts, counts_in_a_thread], ids=["async", "thread"])
async def test_progress_comes_before_the_result_and_not_into_the_prompt(function: Tool) -> None:
    talk = Talk(calls(call(function.spec.name)), says("ok"), tools=[function])

    events = await talk.run()

    told = [event for event in events if isinstance(event, ToolProgress | ToolResult)]
    assert [event.message for event in of(told, ToolProgress)] == ["step 0", "step 1", "step 2"]
    assert isinstance(told[-1], ToolResult)
    assert talk.texts_of_tools() == ["counted"]


async def test_progress_after_the_time_out_is_not_told() -> None:
    contexts: list[ToolContext] = []

    @tool(timeout=0.01)
    async def stuck(context: ToolContext) -> str:
        contexts.append(context)
        await asyncio.Event().wait()
        return "never"

    @tool
    async def patient() -> str:
        await stuck_is_out.wait()
        contexts[0].progress("still here")
        return "ok"

    stuck_is_out = asyncio.Event()
    talk = Talk(calls(call("stuck", call_id="1"), call("patient", call_id="2")), says("ok"), tools=[stuck, patient])

    async for event in converse(talk.plan, talk.transcript, talk.timeline):
        talk.events.append(event)
        if isinstance(event, ToolResult) and event.status is ToolStatus.TIMEOUT:
            stuck_is_out.set()

    assert of(talk.events, ToolProgress) == []
    assert [result.status for result in of(talk.events, ToolResult)] == [ToolStatus.TIMEOUT, ToolStatus.OK]


async def test_closing_the_loop_cancels_running_tools() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    @tool
    async def long() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    talk = Talk(calls(call("long", call_id="1"), weather_in("Oslo", "2")), tools=[long, weather])
    events = converse(talk.plan, talk.transcript, talk.timeline)
    async for event in events:
        if isinstance(event, ToolResult):
            break
    await events.aclose()
    talk.transcript.close()

    assert started.is_set()
    assert await no_tasks_left()
    assert cancelled.is_set()
    assert talk.texts_of_tools() == ["The call was cancelled.", "rain in Oslo"]
    check_history((QUESTION, *talk.transcript.messages))


async def test_a_forced_tool_is_forced_once() -> None:
    talk = Talk(calls(weather_in("Oslo")), says("It rains."), tools=[weather])
    forced = ToolChoice(ToolChoiceMode.REQUIRED)
    talk.plan = replace(talk.plan, request=replace(talk.plan.request, tool_choice=forced))

    await talk.run()

    assert [request.tool_choice for request in talk.model.requests] == [forced, None]


async def test_every_request_begins_with_the_bytes_of_the_one_before() -> None:
    talk = Talk(calls(weather_in("Oslo")), calls(weather_in("Bergen")), says("Wet."), tools=[weather])

    await talk.run()

    for earlier, later in zip(talk.model.requests, talk.model.requests[1:], strict=False):
        assert repr(later.messages).startswith(repr(earlier.messages)[:-2])
        assert (later.instructions, later.tools) == (earlier.instructions, earlier.tools)


# --- limits and counts --------------------------------------------------------------------------------------------
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


# --- how text leaves ----------------------------------------------------------------------------------------------
async def test_buffered_mode_cuts_the_whole_answer_into_even_pieces() -> None:
    text = "Grüße, 世界! " * 7
    options = StreamingOptions(mode=StreamingMode.BUFFERED, text_buffer_size=10)

    events = await Talk([(TextDelta(text), done())], streaming=options).run()

    pieces = [event.text for event in of(events, TextDelta)]
    assert "".join(pieces) == text
    assert {len(piece) for piece in pieces[:-1]} == {10}


async def test_a_text_buffer_holds_until_it_is_full_and_loses_nothing() -> None:
    options = StreamingOptions(text_buffer_size=4)

    events = await Talk(says("ab", "cd", "efg", "hijk", "l"), streaming=options).run()

    assert [event.text for event in of(events, TextDelta)] == ["abcd", "efghijk", "l"]
    assert events.index(TextDelta("l")) < len(events) - 2  # before StepCompleted


async def test_held_text_leaves_before_a_tool_call_begins() -> None:
    talk = Talk(
        [TextDelta("ab"), *calls(weather_in("Oslo"))],
        says("ok"),
        tools=[weather],
        streaming=StreamingOptions(text_buffer_size=100),
    )

    assert (await talk.run())[0] == TextDelta("ab")


@pytest.mark.parametrize("mode", [StreamingMode.STREAM, StreamingMode.BUFFERED])
async def test_held_text_leaves_before_an_error(mode: StreamingMode) -> None:
    options = StreamingOptions(mode=mode, text_buffer_size=100)
    talk = Talk([TextDelta("ab"), TextDelta("cd"), failed()], streaming=options)

    await talk.fails(ProviderError)

    assert text_of(talk.events) == "abcd"


async def test_held_text_leaves_before_a_limit() -> None:
    talk = Talk(
        [TextDelta("12345678")] * 100, budget=Budget(tokens=20), streaming=StreamingOptions(text_buffer_size=10_000)
    )

    await talk.fails(BudgetExceeded)

    assert text_of(talk.events) == talk.transcript.text != ""


async def test_a_delay_lies_between_text_deltas_and_is_not_our_time() -> None:
    talk = Talk(says("a", "b", "c"), streaming=StreamingOptions(text_delta_delay=0.01))

    began = time.perf_counter()
    await talk.run()

    assert time.perf_counter() - began >= 0.02
    assert talk.timeline.waited_ns >= 0.02 * 1e9


async def test_time_in_tools_is_not_our_time_also_when_cut() -> None:
    @tool(timeout=0.02)
    async def slow() -> str:
        await asyncio.Event().wait()
        return "never"

    talk = Talk(calls(call("slow")), [failed()], tools=[slow])
    await talk.fails(ProviderError)

    assert talk.timeline.waited_ns >= 0.02 * 1e9
