"""Tool calls in the loop: asked for, run beside each other, answered; whatever the tool does."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentsvc.domain.errors import ProviderError, Reason
from agentsvc.domain.events import (
    GenerationCompleted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallRequested,
    ToolCallStarted,
    ToolProgress,
    ToolResult,
    ToolStatus,
)
from agentsvc.domain.messages import Text
from agentsvc.domain.ports import ToolContext
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.engine.loop import converse
from agentsvc.engine.tools import Tool, ToolError, tool
from tests.engine.fakes import (
    USAGE,
    call,
    calls,
    check_history,
    no_tasks_left,
    of,
    says,
)
from tests.engine.talk import QUESTION, Talk, weather, weather_in


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
