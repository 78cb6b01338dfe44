"""The agent loop: ask the model, pass on what it says, run the tools it asks for, ask again, until it is done.

The heart of the service, and one async generator; numbering, storage, limits on time and replay are wrapped around it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from agentsvc.domain.agents import Budget, StreamingOptions
from agentsvc.domain.errors import ProviderError, Reason
from agentsvc.domain.events import (
    AttemptChanged,
    BudgetKind,
    Event,
    GenerationCompleted,
    StepCompleted,
    ToolCallRequested,
    ToolResult,
)
from agentsvc.domain.messages import FinishReason, ToolCall
from agentsvc.domain.ports import ChatModel, ModelRequest
from agentsvc.domain.quick import quick, replace
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.domain.timeline import Timeline
from agentsvc.engine import estimate
from agentsvc.engine.budget import BudgetExceeded, Meter
from agentsvc.engine.hearing import Hearing
from agentsvc.engine.prices import PriceTable
from agentsvc.engine.routing import Candidate, Route
from agentsvc.engine.shaping import shaped
from agentsvc.engine.tools import Toolset, run_tools
from agentsvc.engine.transcript import Transcript

_GO_ON = frozenset({FinishReason.TOOL_CALLS, FinishReason.PAUSE})


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
    prices: PriceTable = PriceTable()
    fallbacks: tuple[Candidate, ...] = ()


def converse(
    plan: Plan, transcript: Transcript, timeline: Timeline, position: Callable[[], int] = lambda: 0
) -> AsyncGenerator[Event, None]:
    """One run's events, from the first delta to GenerationCompleted; ``transcript`` grows along.

    ``position`` is the sequence of the last event that was taken from here, for AttemptChanged to name.

    Raises:
        ProviderError: the last vendor asked has failed; what came before has been yielded.
        BudgetExceeded: a limit of the plan tripped.
    """
    return shaped(_steps(plan, transcript, timeline, position), plan.streaming, timeline)


async def _steps(
    plan: Plan, transcript: Transcript, timeline: Timeline, position: Callable[[], int]
) -> AsyncGenerator[Event, None]:
    request, meter = plan.request, Meter(plan.budget)
    route, notes = Route(Candidate(plan.model, request.model), plan.fallbacks), plan.streaming.emit_metadata
    for step in range(1, plan.max_steps + 1):
        while True:
            _begin_step(plan, route.current, request, meter)
            before = position()
            hearing = Hearing(route.current, request, step, transcript, meter, timeline, with_notes=notes)
            try:
                batches = route.current.model.stream(request, timeline)
                try:
                    async for batch in batches:
                        for event in hearing.events(batch):
                            yield event
                        hearing.check()
                finally:  # aclosing, without its two coroutines
                    await batches.aclose()
                calls = transcript.answer.calls
                for call in calls:
                    _check_arguments(call, route.current.model.provider)
                finish, usage = transcript.end_answer(calls)
                break
            except ProviderError as failure:
                failed, error = route.current, failure.error
                if not route.gone_on(error):
                    raise
            finally:
                hearing.close()
            meter.end_step(transcript.discard())
            yield AttemptChanged(failed.label, route.current.label, error.reason.value, before)
            request = _handed_on(plan, request, route.current)
        meter.end_step(usage)
        for call in calls:
            yield ToolCallRequested(call.tool_call_id, call.name, call.arguments_json)
        if calls:
            async with aclosing(_run(plan, calls, transcript, meter, timeline)) as events:
                async for event in events:
                    yield event
        yield StepCompleted(step, finish, usage)
        if finish not in _GO_ON:
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


def _handed_on(plan: Plan, request: ModelRequest, to: Candidate) -> ModelRequest:
    """The same question to another model. ``provider_options`` are one vendor's own fields, which others refuse."""
    generation = plan.request.generation
    if to.model.provider != plan.model.provider:
        generation = replace(generation, provider_options=None)
    return replace(request, model=to.name, generation=generation)


def _begin_step(plan: Plan, candidate: Candidate, request: ModelRequest, meter: Meter) -> None:
    """Counts a request that is about to leave against the budget, if that has a limit of tokens or cost."""
    budget = plan.budget
    if budget.tokens is None and budget.cost_micros is None:
        return
    tariff = plan.prices.tariff(candidate.model.provider, candidate.name) if budget.cost_micros is not None else None
    meter.begin_step(estimate.prompt_tokens(request), tariff)


async def _run(
    plan: Plan, calls: tuple[ToolCall, ...], transcript: Transcript, meter: Meter, timeline: Timeline
) -> AsyncGenerator[Event, None]:
    """The tools of one step."""
    meter.tool_calls(len(calls))
    transcript.started_unrepeatable |= plan.tools.spoils_retry(calls)
    waiting = timeline.clock()
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
