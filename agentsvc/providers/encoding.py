"""What the requests of several formats have in common: tools, arguments, texts, and what a format cannot carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field
from agentsvc.domain.messages import Media, Message, Role, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoiceMode

_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PATH = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)


def incapable(what: str) -> AgentsvcError:
    """CAPABILITY_MISSING: ``what`` says which format cannot do what, and what to do instead."""
    return AgentsvcError(Reason.CAPABILITY_MISSING, what)


def schema_of(spec: ToolSpec) -> dict[str, Any]:
    """The tool's parameters; a schema in any case, for no format takes none."""
    return spec.parameters or {"type": "object", "properties": {}}


def function_tool(spec: ToolSpec) -> dict[str, Any]:
    """A tool as chat completions define it, and everybody who copied them."""
    function = {"name": spec.name, "description": spec.description, "parameters": schema_of(spec)}
    return {"type": "function", "function": function}


def tool_name(name: str) -> str:
    """The name of a tool that was called, as vendors take it back: models invent names that no tool could have."""
    return name if _WORD.fullmatch(name) else re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]


def call_id(given: str) -> str:
    """A call's id in letters, digits, ``_`` and ``-``: those of another vendor's turns may hold dots and colons."""
    return given if _WORD.fullmatch(given) else sha256(given.encode()).hexdigest()[:32]


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """The arguments as an object, for formats that want one.

    Raises:
        AgentsvcError: INVALID_FIELD when they are none; a model's have been looked at, a caller's own history may hold any.
    """
    try:
        return msgspec.json.decode(call.arguments_json or "{}", type=dict[str, Any])
    except (ValueError, RecursionError) as broken:
        raise invalid_field("history.tool_calls.arguments_json", "must be a JSON object") from broken


def text_of(message: Message, api: str) -> str:
    """The message's text, where text is all that ``api`` takes.

    Raises:
        AgentsvcError: CAPABILITY_MISSING when there is more.
    """
    if any(isinstance(part, Media) for part in message.parts):
        raise incapable(f"{api} cannot carry images or files in a {message.role.value} message.")
    return message.text


def system_text(request: ModelRequest) -> str:
    """Everything the system says, for formats that have one place for it."""
    texts = [request.instructions, *(message.text for message in request.messages if message.role is Role.SYSTEM)]
    return "\n\n".join(text for text in texts if text)


def wanted_json(request: ModelRequest) -> str:
    """The response schema in words, for formats that promise JSON but not its shape; empty without one."""
    if not request.response_schema:
        return ""
    schema = msgspec.json.encode(request.response_schema).decode()
    return f"Answer with one JSON object that follows this JSON Schema, and with nothing else:\n{schema}"


def tool_mode(request: ModelRequest) -> ToolChoiceMode | None:
    """What was said about calling tools; None when nothing was, or when there are none to call."""
    return request.tool_choice.mode if request.tool_choice and request.tools else None


def refuse_serial_calls(request: ModelRequest, api: str) -> None:
    """``parallel_tool_calls`` False is a promise that ``api`` cannot make.

    Raises:
        AgentsvcError: CAPABILITY_MISSING.
    """
    if request.tools and request.parallel_tool_calls is False:
        raise incapable(f"{api} cannot be held to one tool call at a time: leave parallel_tool_calls unset.")


def model_path(model: str) -> str:
    """The model's name as a part of the URL.

    Raises:
        AgentsvcError: INVALID_FIELD for a name that would lead elsewhere.
    """
    if not _PATH.fullmatch(model):
        raise invalid_field("llm_config.model", f"{model[:80]!r} is not the name of a model here")
    return model


def said(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; None is what nobody said."""
    return {name: value for name, value in options.items() if value is not None}
