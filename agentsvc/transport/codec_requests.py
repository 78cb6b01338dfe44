"""Requests -> what the engine is asked. A set field whose feature is not built yet is refused by name, never ignored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from agentsvc import v1
from agentsvc.domain import messages
from agentsvc.domain.agents import Budget, GenerationOptions, MemoryOptions, ModelRef, StreamingOptions
from agentsvc.domain.errors import invalid_field
from agentsvc.domain.messages import MessageStatus, Part, Role, Text
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.quick import replace
from agentsvc.domain.runs import (
    NO_OPTIONS,
    OnDisconnect,
    OnSessionBusy,
    RunOptions,
    RunRequest,
    ToolChoice,
    ToolChoiceMode,
)
from agentsvc.transport import codec_values as values
from agentsvc.transport.validation import PLAIN

# Features that are not built yet. A field set to "no" (false, 0, empty) asks for nothing and passes.
UNBUILT_LAYERS: Final = (  # in a call's options and in an agent alike
    "memory.top_k",
    "memory.max_wait",
    "streaming.emit_memory_updates",
)
UNBUILT_OPTIONS: Final = (*UNBUILT_LAYERS, "client_tools", "client_tool_mode")
UNBUILT_LIST_AGENTS: Final = ("status",)

_OURS: Final = frozenset({"messages", "model", "stream", "tools"})  # of a vendor's request body


def refuse_unbuilt(message: Message, paths: Iterable[str], prefix: str = "") -> None:
    """Raises AgentsvcError INVALID_FIELD for the first of ``paths`` that is set in ``message``."""
    for path in paths:
        *parents, name = path.split(".")
        holder: Any = message
        for parent in parents:
            if not holder.HasField(parent):
                break
            holder = getattr(holder, parent)
        else:
            value = getattr(holder, name)
            asked = holder.HasField(name) if isinstance(value, Message) else bool(value)
            if asked:
                raise invalid_field(prefix + path, "is not built yet; leave it unset")


def run_request(request: v1.StreamChatRequest | v1.ChatRequest, deadline: float | None) -> RunRequest:
    """StreamChat's and Chat's question; ``deadline`` is a ``time.monotonic`` reading.

    The fingerprint is made only where there is a request_id to tell apart, and is the same for both calls: their fields
    have the same numbers. It clears ``request.request_id``.
    """
    request_id = request.request_id
    text: tuple[Part, ...] = (Text(request.message),) if request.message else ()
    said = RunRequest(
        request.agent_id,
        text,
        request.session_id,
        user_id=request.user_id,
        request_id=request_id,
        fingerprint=_fingerprint(request) if request_id else "",
        deadline=deadline,
    )
    # Nearly every question is a text and ids, and each look at a field that is not set makes an empty one.
    if PLAIN.keys() >= {field.name for field, _ in request.ListFields()}:
        return said
    return replace(
        said,
        store=request.store if request.HasField("store") else True,
        parts=text + values.from_parts(request.parts, "parts"),
        history=tuple(from_message(m, f"history[{i}]") for i, m in enumerate(request.history)) or None,
        instructions=request.instructions if request.HasField("instructions") else None,
        labels=dict(request.labels),
        metadata=values.from_struct(request.metadata, "metadata") if request.HasField("metadata") else {},
        options=_run_options(request.options) if request.HasField("options") else NO_OPTIONS,
    )


def _fingerprint(request: v1.StreamChatRequest | v1.ChatRequest) -> str:
    request.ClearField("request_id")
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def _run_options(options: v1.ChatOptions) -> RunOptions:
    refuse_unbuilt(options, UNBUILT_OPTIONS, "options.")
    choice = options.tool_choice
    return RunOptions(
        provider=options.provider,
        model=options.model,
        generation=generation_options(options, "options."),
        tool_choice=ToolChoice(values.tool_choice_modes.said(choice.mode, ToolChoiceMode.AUTO), choice.name)
        if options.HasField("tool_choice")
        else None,
        parallel_tool_calls=_optional(options, "parallel_tool_calls"),
        response_schema=values.from_struct(options.response_schema, "options.response_schema")
        if options.HasField("response_schema")
        else None,
        max_steps=_optional(options, "max_steps"),
        streaming=streaming_options(options.streaming),
        memory=memory_options(options.memory),
        budget=budget(options.budget),
        on_disconnect=values.disconnect_policies.said(options.on_disconnect, OnDisconnect.CANCEL),
        continue_for=values.from_duration(options.continue_for),
        on_session_busy=values.busy_policies.said(options.on_session_busy, OnSessionBusy.REJECT),
        fallbacks=fallbacks(options.fallbacks),
    )


def generation_options(options: v1.ChatOptions | v1.GenerationParameters, prefix: str) -> GenerationOptions:
    """The sampling parameters that a call and an agent both have."""
    for key in options.provider_options.fields:
        if key in _OURS:
            raise invalid_field(f"{prefix}provider_options.{key}", "is set by the service; use the field made for it")
    return GenerationOptions(
        temperature=_optional(options, "temperature"),
        top_p=_optional(options, "top_p"),
        max_output_tokens=_optional(options, "max_output_tokens"),
        stop=tuple(options.stop) or None,
        provider_options=_struct(options, "provider_options", prefix),
    )


def streaming_options(options: v1.StreamingOptions) -> StreamingOptions:
    """A layer of streaming options; what is unset stays None."""
    return StreamingOptions(
        mode=values.streaming_modes.ours(options.mode),
        text_buffer_size=_optional(options, "text_buffer_size"),
        text_delta_delay=_seconds(options, "text_delta_delay"),
        emit_metadata=_optional(options, "emit_metadata"),
        emit_memory_updates=_optional(options, "emit_memory_updates"),
        emit_timings=_optional(options, "emit_timings"),
    )


def memory_options(options: v1.MemoryOptions) -> MemoryOptions:
    """A layer of memory options; what is unset stays None."""
    return MemoryOptions(
        last_messages=_optional(options, "last_messages"),
        top_k=_optional(options, "top_k"),
        max_wait=_seconds(options, "max_wait"),
        off=_optional(options, "off"),
    )


def budget(limits: v1.Budget) -> Budget:
    """A layer of hard limits; what is unset stays None."""
    return Budget(
        tokens=_optional(limits, "tokens"),
        cost_micros=limits.cost.micros if limits.HasField("cost") else None,
        cost_currency=limits.cost.currency_code if limits.HasField("cost") else None,
        wall_clock=_seconds(limits, "wall_clock"),
        tool_calls=_optional(limits, "tool_calls"),
    )


def fallbacks(models: Iterable[v1.Fallback]) -> tuple[ModelRef, ...]:
    """Models to go on with, in order."""
    return tuple(ModelRef(model.provider, model.model) for model in models)


def from_message(message: v1.Message, path: str) -> messages.Message:
    """One message of a caller's own history; ``path`` names it in errors."""
    return messages.Message(
        role=values.roles.said(message.role, Role.USER),
        parts=values.from_parts(message.parts, f"{path}.parts"),
        tool_calls=tuple(_tool_call(call, f"{path}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)),
        tool_call_id=message.tool_call_id,
        status=values.message_statuses.said(message.status, MessageStatus.COMPLETE),
        is_error=message.is_error,
    )


def _tool_call(call: v1.ToolCall, path: str) -> messages.ToolCall:
    arguments = call.arguments_json or "{}"
    try:
        valid = isinstance(msgspec.json.decode(arguments), dict)
    except (ValueError, RecursionError):
        valid = False
    if not valid:
        raise invalid_field(f"{path}.arguments_json", "must be a JSON object")
    return messages.ToolCall(call.tool_call_id, call.name, arguments)


class _Paged(Protocol):
    @property
    def page_size(self) -> int: ...
    @property
    def page_token(self) -> str: ...


def page(request: _Paged) -> PageRequest:
    """Size (0 means the default) and token of any List request."""
    return PageRequest(request.page_size or PageRequest().size, request.page_token)


def filter_of(request: Message) -> Filter:
    """The conditions of any List request: its typed fields, by their names."""
    given: dict[str, Any] = {}
    for field, value in request.ListFields():
        match field.name, value:
            case ("agent_id" | "session_id" | "user_id") as name, str():
                given[name] = value
            case "labels", Mapping():
                given["labels"] = dict(value)
            case "states", _:
                given["states"] = tuple(state for number in value if (state := values.run_states.ours(number)))
            case "create_time_after", Timestamp():
                given["after"] = values.from_timestamp(value, field.name)
            case "create_time_before", Timestamp():
                given["before"] = values.from_timestamp(value, field.name)
    return Filter(**given)


def _optional(message: Message, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _seconds(message: Message, name: str) -> float | None:
    return values.from_duration(getattr(message, name)) if message.HasField(name) else None


def _struct(message: Message, name: str, prefix: str) -> dict[str, Any] | None:
    struct: Struct = getattr(message, name)
    return values.from_struct(struct, prefix + name) if message.HasField(name) else None
