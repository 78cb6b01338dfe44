"""The loop: what the model says becomes events, and what text looks like when it leaves."""

import asyncio
import time

import pytest

from agentsvc.domain.agents import Budget, StreamingMode, StreamingOptions
from agentsvc.domain.errors import ProviderError, Reason
from agentsvc.domain.events import (
    Annotation,
    GenerationCompleted,
    ReasoningDelta,
    StepCompleted,
    TextDelta,
)
from agentsvc.domain.messages import FinishReason, MessageStatus, ProviderState, Role, Usage
from agentsvc.engine.budget import BudgetExceeded
from agentsvc.engine.loop import converse
from agentsvc.engine.tools import tool
from tests.engine.fakes import (
    USAGE,
    Script,
    call,
    calls,
    done,
    failed,
    of,
    says,
    text_of,
)
from tests.engine.talk import Talk, weather, weather_in


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


async def test_a_model_that_stops_with_an_error_is_paid_by_its_own_count() -> None:
    counted = Usage(input_tokens=111, output_tokens=22)
    talk = Talk([TextDelta("par"), done(FinishReason.ERROR, counted)])

    await talk.fails(ProviderError)

    assert talk.transcript.usage == counted


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


async def test_buffered_mode_cuts_the_whole_answer_into_even_pieces() -> None:
    text = "Grüße, 世界! " * 7
    options = StreamingOptions(mode=StreamingMode.BUFFERED, text_buffer_size=10)

    events = await Talk([(TextDelta(text), done())], streaming=options).run()

    pieces = [event.text for event in of(events, TextDelta)]
    assert "".join(pieces) == text
    assert {len(piece) for piece in pieces[:-1]} == {10}


async def test_buffered_mode_sends_nothing_that_a_client_could_not_receive() -> None:
    text = "é" * 3_000_000
    talk = Talk([(TextDelta(text), done())], streaming=StreamingOptions(StreamingMode.BUFFERED))

    deltas = [event.text for event in await talk.run() if isinstance(event, TextDelta)]

    assert "".join(deltas) == text
    assert max(len(delta.encode()) for delta in deltas) <= 1 << 20


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
