"""The event <-> wire table: one row per kind of event. Used by the codec alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from google.protobuf.message import Message

from agentsvc import v1
from agentsvc.domain import events as ev
from agentsvc.domain.agents import StreamingMode
from agentsvc.domain.messages import Cost, FinishReason
from agentsvc.transport import codec_values as values
from agentsvc.transport.errors import to_duration
from agentsvc.transport.packed import MOST_CHARACTERS


class Kind(NamedTuple):
    """One row: our type, the field of ChatEvent's oneof, and the way there and back."""

    type: type
    field: str
    encode: Callable[[Any], Message]
    decode: Callable[[Any], ev.Event]


def _run_started(e: ev.RunStarted) -> Message:
    return v1.RunStarted(
        run_id=e.run_id,
        session_id=e.session_id,
        agent_id=e.agent_id,
        provider=e.provider,
        model=e.model,
        mode=values.streaming_modes.wire[e.mode],
        resumable=e.resumable,
    )


def _tool_call_requested(e: ev.ToolCallRequested) -> Message:
    return v1.ToolCallRequested(
        tool_call_id=e.tool_call_id,
        name=e.name,
        arguments_json=e.arguments_json,
        executor=values.tool_executors.wire[e.executor],
        approval_required=e.approval_required,
    )


def _tool_result(e: ev.ToolResult) -> Message:
    return v1.ToolResult(
        tool_call_id=e.tool_call_id,
        status=values.tool_statuses.wire[e.status],
        content=[values.to_part(part) for part in e.content],
        duration_us=e.duration_us,
    )


def _attempt_changed(e: ev.AttemptChanged) -> Message:
    # "from" is a keyword of ours, not of the contract's.
    return v1.AttemptChanged(
        to=e.to, reason=e.reason, discard_after_sequence=e.discard_after_sequence, **{"from": e.from_}
    )


def _generation_completed(e: ev.GenerationCompleted) -> Message:
    return v1.GenerationCompleted(
        text=_short(e.text),
        finish_reason=values.finish_reasons.wire[e.finish_reason],
        total_steps=e.total_steps,
        usage=values.to_usage(e.usage),
        timings=values.to_stages(e.timings),
    )


def _short(text: str) -> str:
    """An answer that is longer must not cost its readers the end of their stream. It came in deltas, and GetRun has it."""
    return text if len(text) <= MOST_CHARACTERS else ""


def _run_finished(e: ev.RunFinished) -> Message:
    return v1.RunFinished(
        state=values.run_states.wire[e.state],
        error=values.to_error(e.error),
        partial_text=_short(e.partial_text),
        budget_kind=values.budget_kinds.wire[e.budget_kind],
        usage=values.to_usage(e.usage),
        cost=values.to_cost(e.cost),
        persisted=e.persisted,
        framework_overhead_us=e.framework_overhead_us,
        event_loop_lag_us=e.event_loop_lag_us,
    )


def _decode_run_finished(w: v1.RunFinished) -> ev.RunFinished:
    return ev.RunFinished(
        values.run_states.said(w.state, ev.RunState.FAILED),
        values.from_error(w.error) if w.HasField("error") else None,
        w.partial_text,
        values.budget_kinds.ours(w.budget_kind),
        values.from_usage(w.usage),
        Cost(w.cost.micros, w.cost.currency_code, w.cost.estimated) if w.HasField("cost") else None,
        w.persisted,
        w.framework_overhead_us,
        w.event_loop_lag_us,
    )


def _memory_updated(e: ev.MemoryUpdated) -> Message:
    operation = v1.MemoryOperation.Value(f"MEMORY_OPERATION_{e.operation.upper()}")
    return v1.MemoryUpdated(operation=operation, memory=v1.Memory(memory_id=e.memory_id, content=e.content))


def _decode_memory_updated(w: v1.MemoryUpdated) -> ev.MemoryUpdated:
    operation = v1.MemoryOperation.Name(w.operation).removeprefix("MEMORY_OPERATION_").lower()
    return ev.MemoryUpdated(operation, w.memory.memory_id, w.memory.content)


KINDS: Final = (
    Kind(
        ev.RunStarted,
        "run_started",
        _run_started,
        lambda w: ev.RunStarted(
            w.run_id,
            w.session_id,
            w.agent_id,
            w.provider,
            w.model,
            values.streaming_modes.said(w.mode, StreamingMode.STREAM),
            w.resumable,
        ),
    ),
    Kind(
        ev.MemoryRetrieved,
        "memory_retrieved",
        lambda e: v1.MemoryRetrieved(
            outcome=values.memory_outcomes.wire[e.outcome], items=e.items, duration_us=e.duration_us
        ),
        lambda w: ev.MemoryRetrieved(
            values.memory_outcomes.said(w.outcome, ev.MemoryOutcome.SKIPPED), w.items, w.duration_us
        ),
    ),
    Kind(ev.TextDelta, "text_delta", lambda e: v1.TextDelta(text=e.text), lambda w: ev.TextDelta(w.text)),
    Kind(
        ev.ReasoningDelta,
        "reasoning_delta",
        lambda e: v1.ReasoningDelta(text=e.text),
        lambda w: ev.ReasoningDelta(w.text),
    ),
    Kind(
        ev.ToolCallStarted,
        "tool_call_started",
        lambda e: v1.ToolCallStarted(tool_call_id=e.tool_call_id, name=e.name),
        lambda w: ev.ToolCallStarted(w.tool_call_id, w.name),
    ),
    Kind(
        ev.ToolCallArgumentsDelta,
        "tool_call_arguments_delta",
        lambda e: v1.ToolCallArgumentsDelta(tool_call_id=e.tool_call_id, fragment=e.fragment),
        lambda w: ev.ToolCallArgumentsDelta(w.tool_call_id, w.fragment),
    ),
    Kind(
        ev.ToolCallRequested,
        "tool_call_requested",
        _tool_call_requested,
        lambda w: ev.ToolCallRequested(
            w.tool_call_id,
            w.name,
            w.arguments_json,
            values.tool_executors.said(w.executor, ev.ToolExecutor.SERVER),
            w.approval_required,
        ),
    ),
    Kind(
        ev.ToolProgress,
        "tool_progress",
        lambda e: v1.ToolProgress(tool_call_id=e.tool_call_id, message=e.message, fraction=e.fraction),
        lambda w: ev.ToolProgress(w.tool_call_id, w.message, w.fraction if w.HasField("fraction") else None),
    ),
    Kind(
        ev.ToolResult,
        "tool_result",
        _tool_result,
        lambda w: ev.ToolResult(
            w.tool_call_id,
            values.tool_statuses.said(w.status, ev.ToolStatus.OK),
            values.from_parts(w.content, "content"),
            w.duration_us,
        ),
    ),
    Kind(
        ev.InputRequired,
        "input_required",
        lambda e: v1.InputRequired(tool_call_ids=e.tool_call_ids),
        lambda w: ev.InputRequired(tuple(w.tool_call_ids)),
    ),
    Kind(
        ev.Timings,
        "timings",
        lambda e: v1.Timings(stages=values.to_stages(e.stages)),
        lambda w: ev.Timings(values.from_stages(w.stages)),
    ),
    Kind(
        ev.AttemptChanged,
        "attempt_changed",
        _attempt_changed,
        lambda w: ev.AttemptChanged(getattr(w, "from"), w.to, w.reason, w.discard_after_sequence),
    ),
    Kind(
        ev.ResumabilityChanged,
        "resumability_changed",
        lambda e: v1.ResumabilityChanged(resumable=e.resumable),
        lambda w: ev.ResumabilityChanged(w.resumable),
    ),
    Kind(
        ev.StepCompleted,
        "step_completed",
        lambda e: v1.StepCompleted(
            step=e.step, finish_reason=values.finish_reasons.wire[e.finish_reason], usage=values.to_usage(e.usage)
        ),
        lambda w: ev.StepCompleted(
            w.step, values.finish_reasons.said(w.finish_reason, FinishReason.ERROR), values.from_usage(w.usage)
        ),
    ),
    Kind(
        ev.Annotation,
        "annotation",
        lambda e: v1.Annotation(key=e.key, value=e.value),
        lambda w: ev.Annotation(w.key, w.value),
    ),
    Kind(
        ev.GenerationCompleted,
        "generation_completed",
        _generation_completed,
        lambda w: ev.GenerationCompleted(
            w.text,
            values.finish_reasons.said(w.finish_reason, FinishReason.ERROR),
            w.total_steps,
            values.from_usage(w.usage),
            values.from_stages(w.timings),
        ),
    ),
    Kind(ev.MemoryUpdated, "memory_updated", _memory_updated, _decode_memory_updated),
    Kind(ev.RunFinished, "run_finished", _run_finished, _decode_run_finished),
    Kind(ev.Heartbeat, "heartbeat", lambda _: v1.Heartbeat(), lambda _: ev.Heartbeat()),
    Kind(
        ev.Draining,
        "draining",
        lambda e: v1.Draining(retry_after=to_duration(e.retry_after)),
        lambda w: ev.Draining(values.from_duration(w.retry_after)),
    ),
)
BY_TYPE: Final = {kind.type: kind for kind in KINDS}
BY_FIELD: Final = {kind.field: kind for kind in KINDS}
