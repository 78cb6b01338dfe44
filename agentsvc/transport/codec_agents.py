"""Agents: as admins and callers see them, as admins write them, and how an update changes one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from agentsvc import v1
from agentsvc.domain.agents import (
    Agent,
    AgentStatus,
    Budget,
    GenerationOptions,
    LLMConfig,
    MemoryOptions,
    StreamingOptions,
)
from agentsvc.domain.errors import invalid_field
from agentsvc.transport import codec_requests as requests
from agentsvc.transport import codec_values as values
from agentsvc.transport.errors import to_duration

_UNCHANGEABLE: Final = frozenset({"agent_id", "etag", "create_time", "update_time", "llm_config.api_key_set"})


def to_agent(agent: Agent, *, admin: bool, instructions: bool = True) -> v1.Agent:
    """An agent without its api_key. Who is no admin sees no instructions and, of llm_config, provider and model alone."""
    config = agent.llm_config
    wire = v1.Agent(
        agent_id=agent.agent_id,
        display_name=agent.display_name,
        llm_config=v1.LlmConfig(provider=config.provider, model=config.model),
        tools=agent.tools,
        streaming=_streaming(agent.streaming),
        memory=_memory(agent.memory),
        budget=_budget(agent.budget),
        fallbacks=[v1.Fallback(provider=model.provider, model=model.model) for model in agent.fallbacks],
        labels=agent.labels,
        status=values.agent_statuses.wire[agent.status],
        etag=agent.etag,
        create_time=values.to_timestamp(agent.create_time),
        update_time=values.to_timestamp(agent.update_time),
    )
    if admin:
        wire.instructions = agent.instructions if instructions else ""
        wire.llm_config.base_url = config.base_url
        wire.llm_config.api_key_set = bool(config.api_key)
        if (parameters := _parameters(config.parameters)) is not None:
            wire.llm_config.parameters.CopyFrom(parameters)
    return wire


def from_agent(wire: v1.Agent) -> Agent:
    """An agent to make or to keep; etag and times are the store's."""
    requests.refuse_unbuilt(wire, requests.UNBUILT_LAYERS, "agent.")
    config = wire.llm_config
    if config.api_key and not config.base_url:
        raise invalid_field(
            "agent.llm_config.api_key",
            "belongs to a base_url of the agent's own; without one the operator's key is used",
        )
    return Agent(
        agent_id=wire.agent_id,
        llm_config=LLMConfig(
            config.provider,
            config.model,
            config.base_url,
            config.api_key,
            requests.generation_options(config.parameters, "agent.llm_config.parameters."),
        ),
        display_name=wire.display_name,
        instructions=wire.instructions,
        tools=tuple(wire.tools),
        streaming=requests.streaming_options(wire.streaming),
        memory=requests.memory_options(wire.memory),
        budget=requests.budget(wire.budget),
        fallbacks=requests.fallbacks(wire.fallbacks),
        labels=dict(wire.labels),
        status=values.agent_statuses.said(wire.status, AgentStatus.ACTIVE),
    )


def updated_agent(stored: Agent, change: v1.Agent, mask: FieldMask) -> Agent:
    """``stored`` with the fields of ``mask`` taken from ``change``: cleared where unset there, lists and maps replaced.

    ``*`` names every field that can change; no path at all, every field that is set. The stored api_key stays unless
    the update names it, or changes the base_url it was for.
    """
    merged = to_agent(stored, admin=True)
    merged.llm_config.api_key = stored.llm_config.api_key
    paths = _paths(change, mask)
    for path in paths:
        _replace(path, change, merged)
    key_said = "llm_config.api_key" in paths or ("llm_config" in paths and bool(change.llm_config.api_key))
    if not key_said:
        same_place = merged.llm_config.base_url == stored.llm_config.base_url
        merged.llm_config.api_key = stored.llm_config.api_key if same_place else ""
    return from_agent(merged)


def _paths(change: v1.Agent, mask: FieldMask) -> list[str]:
    paths = list(mask.paths)
    if not paths:
        return [path for path in _set_paths(change) if path not in _UNCHANGEABLE]
    if paths == ["*"]:
        return [field.name for field in v1.Agent.DESCRIPTOR.fields if field.name not in _UNCHANGEABLE]
    for path in paths:
        if not FieldMask(paths=[path]).IsValidForDescriptor(v1.Agent.DESCRIPTOR):
            raise invalid_field("update_mask", f"{path!r} is no field of Agent")
        if any(path == fixed or path.startswith(f"{fixed}.") for fixed in _UNCHANGEABLE):
            raise invalid_field("update_mask", f"{path!r} cannot be changed")
    return paths


def _set_paths(message: Message, prefix: str = "") -> Iterator[str]:
    """Every field that is set, down through our own messages; lists, maps and JSON objects are replaced whole."""
    for field, value in message.ListFields():
        path = prefix + field.name
        if isinstance(value, Message) and value.DESCRIPTOR.file.package == v1.Agent.DESCRIPTOR.file.package:
            yield from _set_paths(value, f"{path}.")
        else:
            yield path


def _replace(path: str, source: Message, target: Message) -> None:
    """The field at ``path`` becomes what it is in ``source``, unset included."""
    *parents, name = path.split(".")
    for parent in parents:
        source, target = getattr(source, parent), getattr(target, parent)
    only = type(source)()
    only.CopyFrom(source)
    for field, _ in source.ListFields():
        if field.name != name:
            only.ClearField(field.name)
    target.ClearField(name)
    target.MergeFrom(only)


def _parameters(options: GenerationOptions) -> v1.GenerationParameters | None:
    if options == GenerationOptions():
        return None
    return v1.GenerationParameters(
        temperature=options.temperature,
        top_p=options.top_p,
        max_output_tokens=options.max_output_tokens,
        stop=options.stop,
        provider_options=None if options.provider_options is None else values.to_struct(options.provider_options),
    )


def _streaming(options: StreamingOptions) -> v1.StreamingOptions | None:
    if options == StreamingOptions():
        return None
    return v1.StreamingOptions(
        mode=values.streaming_modes.wire[options.mode],
        text_buffer_size=options.text_buffer_size,
        text_delta_delay=None if options.text_delta_delay is None else to_duration(options.text_delta_delay),
        emit_metadata=options.emit_metadata,
        emit_memory_updates=options.emit_memory_updates,
        emit_timings=options.emit_timings,
    )


def _memory(options: MemoryOptions) -> v1.MemoryOptions | None:
    if options == MemoryOptions():
        return None
    return v1.MemoryOptions(
        last_messages=options.last_messages,
        top_k=options.top_k,
        max_wait=None if options.max_wait is None else to_duration(options.max_wait),
        off=options.off,
    )


def _budget(budget: Budget) -> v1.Budget | None:
    if budget == Budget():
        return None
    return v1.Budget(
        tokens=budget.tokens,
        cost=None
        if budget.cost_micros is None
        else v1.Cost(micros=budget.cost_micros, currency_code=budget.cost_currency or ""),
        wall_clock=None if budget.wall_clock is None else to_duration(budget.wall_clock),
        tool_calls=budget.tool_calls,
    )
