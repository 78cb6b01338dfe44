"""A request in Cohere's chat API, version 2: chat completions in all but names. docs.cohere.com/v2/reference/chat"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentsvc.domain.messages import Media, Message, Part, ProviderState, Role, Text, ToolCall
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.encoding import (
    function_tool,
    incapable,
    refuse_serial_calls,
    said,
    system_text,
    text_of,
    tool_mode,
)
from agentsvc.providers.openai_request import data_uri, provider_options

_API = "Cohere"


def chat_body(request: ModelRequest, *, vendor: str) -> dict[str, Any]:
    """The JSON of the request. ``vendor`` is whose provider state is sent back.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for what has no form here.
    """
    refuse_serial_calls(request, _API)
    own = provider_options(request.generation, reserved=("model", "messages", "stream"))
    mode = tool_mode(request)
    # A single tool cannot be named; that it must be one, and that there is one, comes to the same.
    named = request.tool_choice.name if mode is ToolChoiceMode.TOOL and request.tool_choice else ""
    body: dict[str, Any] = {"model": request.model}
    specs = [spec for spec in request.tools if not named or spec.name == named]
    if tools := [function_tool(spec) for spec in specs] + own.pop("tools", []):
        body["tools"] = tools
    body["messages"] = list(_messages(request, vendor))
    return body | {"stream": request.stream} | _options(request, mode) | own


def _options(request: ModelRequest, mode: ToolChoiceMode | None) -> dict[str, Any]:
    generation, schema = request.generation, request.response_schema
    if schema and request.tools:
        raise incapable("Cohere takes a response schema or tools, not both: leave one of them out.")
    return said(
        {
            "temperature": generation.temperature,
            "p": generation.top_p,
            "max_tokens": generation.max_output_tokens,
            "stop_sequences": list(generation.stop) if generation.stop else None,
            "tool_choice": None if mode in {None, ToolChoiceMode.AUTO} else _forced(mode),
            "response_format": {"type": "json_object", "json_schema": dict(schema)} if schema else None,
        }
    )


def _forced(mode: ToolChoiceMode | None) -> str:
    return "NONE" if mode is ToolChoiceMode.NONE else "REQUIRED"


def _messages(request: ModelRequest, vendor: str) -> Iterator[dict[str, Any]]:
    if system := system_text(request):
        yield {"role": "system", "content": system}  # only as the first turn
    for message in request.messages:
        if message.role is Role.ASSISTANT and (message.text or message.tool_calls):
            yield _assistant(message, vendor)
        elif message.role is Role.TOOL:
            yield {"role": "tool", "tool_call_id": message.tool_call_id, "content": text_of(message, _API)}
        elif message.role is Role.USER:
            plain = all(isinstance(part, Text) for part in message.parts)
            yield {"role": "user", "content": message.text if plain else [_part(part) for part in message.parts]}


def _assistant(message: Message, vendor: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant"}
    if message.tool_calls:
        turn["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        match message.provider_state:
            case ProviderState(vendor=author, payload=dict() as state) if author == vendor:
                if plan := state.get("tool_plan"):
                    turn["tool_plan"] = plan
                if thinking := state.get("thinking"):
                    turn["content"] = [{"type": "thinking", "thinking": thinking}]
            case _:
                pass
    if message.text and "content" in turn:
        turn["content"].append({"type": "text", "text": message.text})
    elif message.text:
        turn["content"] = message.text
    return turn


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json or "{}"}
    return {"id": call.tool_call_id, "type": "function", "function": function}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Media(kind="image"):
            return {"type": "image_url", "image_url": {"url": data_uri(part)}}
        case Media():
            raise incapable("Cohere cannot read files: send their text.")
