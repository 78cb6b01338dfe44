"""Wire <-> domain for the small values that events, requests and resources share: enums, parts, usage, errors, times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Generic, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from agentsvc import v1
from agentsvc.domain.agents import AgentStatus, StreamingMode
from agentsvc.domain.errors import Error, Reason, invalid_field
from agentsvc.domain.events import BudgetKind, MemoryOutcome, RunState, ToolExecutor, ToolStatus
from agentsvc.domain.messages import Cost, FinishReason, Media, MessageStatus, Part, Role, Text, Usage
from agentsvc.domain.runs import OnDisconnect, OnSessionBusy, ToolChoiceMode
from agentsvc.domain.timeline import StageTiming
from agentsvc.transport.errors import cut, to_duration

E = TypeVar("E", bound=Enum)

_ERROR_MESSAGE = 2048  # bytes, as Error.message promises


class Names(Generic[E]):
    """One enum of ours and its twin in the contract, which has the same names behind a prefix and an UNSPECIFIED."""

    def __init__(self, ours: type[E], value: Callable[[str], Any], prefix: str) -> None:
        self.wire: Mapping[E | None, Any] = {
            None: value(f"{prefix}_UNSPECIFIED"),
            **{member: value(f"{prefix}_{member.name}") for member in ours},
        }
        self._ours = {number: member for member, number in self.wire.items()}

    def ours(self, number: int) -> E | None:
        """Our member; None for UNSPECIFIED and for numbers this build does not know."""
        return self._ours.get(number)

    def said(self, number: int, default: E) -> E:
        """Our member, ``default`` where nothing was said."""
        return self._ours.get(number) or default


streaming_modes = Names(StreamingMode, v1.StreamingMode.Value, "STREAMING_MODE")
agent_statuses = Names(AgentStatus, v1.AgentStatus.Value, "AGENT_STATUS")
roles = Names(Role, v1.MessageRole.Value, "MESSAGE_ROLE")
message_statuses = Names(MessageStatus, v1.MessageStatus.Value, "MESSAGE_STATUS")
finish_reasons = Names(FinishReason, v1.FinishReason.Value, "FINISH_REASON")
run_states = Names(RunState, v1.RunState.Value, "RUN_STATE")
budget_kinds = Names(BudgetKind, v1.BudgetKind.Value, "BUDGET_KIND")
tool_statuses = Names(ToolStatus, v1.ToolStatus.Value, "TOOL_STATUS")
tool_executors = Names(ToolExecutor, v1.ToolExecutor.Value, "TOOL_EXECUTOR")
memory_outcomes = Names(MemoryOutcome, v1.MemoryOutcome.Value, "MEMORY_OUTCOME")
disconnect_policies = Names(OnDisconnect, v1.OnDisconnect.Value, "ON_DISCONNECT")
busy_policies = Names(OnSessionBusy, v1.OnSessionBusy.Value, "ON_SESSION_BUSY")
tool_choice_modes = Names(ToolChoiceMode, v1.ToolChoiceMode.Value, "TOOL_CHOICE_MODE")


def to_part(part: Part) -> v1.ContentPart:
    """A text, image or file as it travels."""
    match part:
        case Text(text):
            return v1.ContentPart(text=text)
        case Media(kind, media_type, data, uri):
            media = v1.Media(media_type=media_type, uri=uri) if uri else v1.Media(media_type=media_type, data=data)
            return v1.ContentPart(image=media) if kind == "image" else v1.ContentPart(file=media)


def from_part(part: v1.ContentPart, path: str) -> Part:
    """A part of a request; ``path`` names it in errors."""
    kind = part.WhichOneof("content")
    if kind == "text":
        return Text(part.text)
    if kind is None:
        raise invalid_field(path, "needs a text, an image or a file")
    media = part.image if kind == "image" else part.file
    if media.filename:
        raise invalid_field(f"{path}.{kind}.filename", "is not built yet; leave it unset")
    return Media(kind, media.media_type, media.data, media.uri)


def from_parts(parts: Iterable[v1.ContentPart], path: str) -> tuple[Part, ...]:
    """All parts of one repeated field."""
    return tuple(from_part(part, f"{path}[{index}]") for index, part in enumerate(parts))


def to_usage(usage: Usage) -> v1.Usage:
    """Tokens as they travel."""
    return v1.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated=usage.estimated,
    )


def from_usage(usage: v1.Usage) -> Usage:
    """Tokens as we keep them."""
    return Usage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        usage.estimated,
    )


def to_cost(cost: Cost | None) -> v1.Cost | None:
    """Money as it travels; None stays unset."""
    if cost is None:
        return None
    return v1.Cost(micros=cost.micros, currency_code=cost.currency_code, estimated=cost.estimated)


def to_error(error: Error | None) -> v1.Error | None:
    """The error of a run; its violations and metadata travel in the status only."""
    if error is None:
        return None
    wire = v1.Error(
        reason=error.reason,
        message=cut(error.message, _ERROR_MESSAGE),
        provider=error.provider,
        retryable=error.retryable,
        retry_after=None if error.retry_after is None else to_duration(error.retry_after),
    )
    wire.code = int(error.code)
    return wire


def from_error(error: v1.Error) -> Error:
    """The error of a run as a reader got it; a reason newer than this build is INTERNAL."""
    reason = Reason(error.reason) if error.reason in Reason.__members__ else Reason.INTERNAL
    retry_after = from_duration(error.retry_after) if error.HasField("retry_after") else None
    return Error(reason, error.message, error.provider, error.retryable, retry_after)


def to_stages(stages: Iterable[StageTiming]) -> list[v1.StageTiming]:
    """Stage timings as they travel."""
    return [
        v1.StageTiming(stage=s.stage, start_us=s.start_us, duration_us=s.duration_us, critical=s.critical)
        for s in stages
    ]


def from_stages(stages: Iterable[v1.StageTiming]) -> tuple[StageTiming, ...]:
    """Stage timings as we keep them."""
    return tuple(StageTiming(s.stage, s.start_us, s.duration_us, s.critical) for s in stages)


def from_duration(duration: Duration) -> float:
    """Seconds, rounded once: the float nearest to what was sent."""
    return (duration.seconds * 1_000_000_000 + duration.nanos) / 1e9


def to_timestamp(moment: datetime | None) -> Timestamp | None:
    """None stays unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_timestamp(stamp: Timestamp, path: str) -> datetime:
    """A moment in UTC; INVALID_FIELD for one that no calendar has."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid_field(path, "is outside the years 1 to 9999") from None


def from_struct(struct: Struct, path: str) -> dict[str, Any]:
    """A JSON object. Numbers without a fraction become int, as a vendor's ``"n": 1`` must not turn into 1.0."""
    return {key: _from_value(value, f"{path}.{key}") for key, value in struct.fields.items()}


def _from_value(value: Value, path: str) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise invalid_field(path, "NaN and Infinity are no JSON")
            return int(number) if number.is_integer() else number
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return from_struct(value.struct_value, path)
        case "list_value":
            return [_from_value(item, f"{path}[{i}]") for i, item in enumerate(value.list_value.values)]
        case _:
            return None


def to_struct(content: Mapping[str, Any]) -> Struct:
    """A JSON object as it travels."""
    struct = Struct()
    struct.update(content)
    return struct
