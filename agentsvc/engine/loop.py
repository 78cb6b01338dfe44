"""The agent loop: ask the model, pass on what it says, run the tools it asks for, ask again, until it is done.

The heart of the service, and one async generator; numbering, storage, limits on time and replay are wrapped around it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from agentsvc.domain.agents import Budget, StreamingOptions
from agentsvc.domain.errors import ProviderError, Reason
from agentsvc.domain.events import (
    Annotation,
    BudgetKind,
    Event,
    GenerationCompleted,
    ModelFailed,
    ModelFinished,
    ReasoningDelta,
    StepCompleted,
    TextDelta,
    ToolCallArgumentsDelta,
    ToolCallRequested,
    ToolCallStarted,
    ToolResult,
)
from agentsvc.domain.messages import FinishReason, ToolCall
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.quick import quick
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.domain.timeline import AnswerTiming, Timeline
from agentsvc.engine import estimate
from agentsvc.engine.budget import BudgetExceeded, Meter
from agentsvc.engine.shaping import shaped
from agentsvc.engine.tools import Toolset, run_tools
from agentsvc.engine.transcript import Transcript


@quick
@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a run was decided to be before its first request: which model, which prompt, which tools and limits."""

    model: ChatModel
    request: ModelRequest
    tools: Toolset = field(default_factory=Toolset)
    streaming: StreamingOptions = StreamingOptions()
    max_steps: int = 10
    budget: Budget = Budget()
    run_id: str = ""
    user_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def converse(plan: Plan, transcript: Transcript, timeline: Timeline) -> AsyncGenerator[Event, None]:
    """One run's events, from the first delta to GenerationCompleted; ``transcript`` grows along.

    Raises:
        ProviderError: the vendor failed; what came before has been yielded.
        BudgetExceeded: a limit of the plan tripped.
    """
    return shaped(_steps(plan, transcript, timeline), plan.streaming, timeline)


async def _steps(plan: Plan, transcript: Transcript, timeline: Timeline) -> AsyncGenerator[Event, None]:
    request, meter = plan.request, Meter(plan.budget)
    for step in range(1, plan.max_steps + 1):
        meter.begin_step(estimate.prompt_tokens(request) if plan.budget.tokens is not None else 0)
        async with aclosing(_answer(plan, request, transcript, meter, timeline, step)) as events:
            async for event in events:
                yield event
        calls = transcript.answer.calls
        for call in calls:
            _check_arguments(call, plan.model.provider)
        finish, usage = transcript.end_answer(calls)
        meter.end_step(usage)
        for call in calls:
            yield ToolCallRequested(call.tool_call_id, call.name, call.arguments_json)
        if calls:
            async with aclosing(_run(plan, calls, transcript, meter, timeline)) as events:
                async for event in events:
                    yield event
        yield StepCompleted(step, finish, usage)
        if finish not in {FinishReason.TOOL_CALLS, FinishReason.PAUSE}:
            timings = timeline.timings() if plan.streaming.emit_timings else ()
            yield GenerationCompleted(transcript.text, finish, step, transcript.usage, timings)
            return
        request = replace(
            request,
            messages=(*plan.request.messages, *transcript.messages),
            # A tool that must be called is called in the first step; forced again and again the run would never answer.
            tool_choice=None if forces(request.tool_choice) else request.tool_choice,
        )
    raise BudgetExceeded(BudgetKind.STEPS)


async def _answer(
    plan: Plan, request: ModelRequest, transcript: Transcript, meter: Meter, timeline: Timeline, step: int
) -> AsyncGenerator[Event, None]:
    """One answer of the model; when it came is noted on the timeline. Closing it closes the provider's connection at once."""
    answer = transcript.begin_step(step, request)
    asked, first, chunks, failure = timeline.now_ns(), 0, 0, ""
    try:
        async with aclosing(plan.model.stream(request, timeline)) as batches:
            async for batch in batches:
                if not chunks and request.stream:
                    first = timeline.now_ns()
                chunks += 1
                for event in batch:
                    match event:
                        case TextDelta() | ReasoningDelta() | ToolCallStarted() | ToolCallArgumentsDelta():
                            delta, characters = transcript.heard(event)
                            yield delta
                            meter.spend(characters)
                        case ModelFinished():
                            answer.finished(event)
                        case ModelFailed(error):
                            answer.failed(event)
                            failure = error.reason
                            raise ProviderError.of(error)
                        case Annotation():
                            if plan.streaming.emit_metadata:
                                yield event
    finally:
        timing = AnswerTiming(plan.model.provider, request.model, asked, first, timeline.now_ns(), chunks, failure)
        timeline.answers.append(timing)


async def _run(
    plan: Plan, calls: tuple[ToolCall, ...], transcript: Transcript, meter: Meter, timeline: Timeline
) -> AsyncGenerator[Event, None]:
    """The tools of one step."""
    meter.tool_calls(len(calls))
    transcript.started_unrepeatable |= plan.tools.spoils_retry(calls)
    waiting = timeline.now_ns()
    running = run_tools(plan.tools, calls, run_id=plan.run_id, user_id=plan.user_id, metadata=plan.metadata)
    try:
        async with aclosing(running) as events:
            async for event in events:
                if isinstance(event, ToolResult):
                    transcript.result(event)
                yield event
    finally:
        timeline.waited(waiting)
    transcript.end_calls()


def forces(choice: ToolChoice | None) -> bool:
    """Whether the model has no choice but to call a tool."""
    return choice is not None and choice.mode in {ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL}


def _check_arguments(call: ToolCall, provider: str) -> None:
    """Arguments are a JSON object, or the call cannot be asked of anyone."""
    try:
        valid = isinstance(json.loads(call.arguments_json), dict)
    except ValueError:
        valid = False
    if not valid:
        raise ProviderError(
            Reason.MALFORMED_STREAM,
            f"The model called {call.name!r} with arguments that are not a JSON object. Trying again may help.",
            provider=provider,
        )
