"""A request in chat completions: our messages in their words.

The order of the body is the order of what stays the same: model, tools, messages, then the options of this call. Two
turns of a conversation share their bytes up to the new turn, so that vendors' prompt caches stay warm.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field
from agentsvc.domain.messages import Media, Message, Part, Role, Text, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Accent:
    """How a vendor's requests differ from OpenAI's.

    ``headers``: ``Endpoint.extra`` name -> header. ``body``: fields every request carries. ``asks_usage``: whether
    ``stream_options.include_usage`` is known and needed.
    """

    path: str = "/chat/completions"
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    max_tokens: str = "max_completion_tokens"
    asks_usage: bool = True
    body: Mapping[str, Any] = field(default_factory=dict)


def chat_body(request: ModelRequest, accent: Accent) -> dict[str, Any]:
    """The JSON of the request.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for parts without a form here.
    """
    own = provider_options(request.generation, reserved=("model", "messages", "stream"))
    body: dict[str, Any] = {"model": request.model}
    if tools := [_tool(spec) for spec in request.tools] + own.pop("tools", []):
        body["tools"] = tools
    body["messages"] = list(_messages(request))
    body["stream"] = request.stream
    if request.stream and accent.asks_usage:
        body["stream_options"] = {"include_usage": True}
    return body | dict(accent.body) | _options(request, accent) | own


def provider_options(generation: GenerationOptions, reserved: Iterable[str]) -> dict[str, Any]:
    """The caller's own fields of the body, a copy. ``tools`` are added to ours, everything else replaces ours.

    Raises:
        AgentsvcError: INVALID_FIELD for one of ``reserved``: agentsvc would no longer know what it asked for.
    """
    own = dict(generation.provider_options or {})
    for name in reserved:
        if name in own:
            raise invalid_field(f"options.provider_options.{name}", "is not an option; agentsvc sets it itself")
    if not isinstance(own.get("tools", []), list):
        raise invalid_field("options.provider_options.tools", "must be a list; it is added to the agent's tools")
    return own


def data_uri(media: Media) -> str:
    """Where the media is: its URI, or its bytes as one."""
    return media.uri or f"data:{media.media_type};base64,{b64encode(media.data).decode()}"


def _options(request: ModelRequest, accent: Accent) -> dict[str, Any]:
    generation = request.generation
    options = {
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        accent.max_tokens: generation.max_output_tokens,
        "stop": list(generation.stop) if generation.stop else None,
        "tool_choice": _tool_choice(request.tool_choice) if request.tools and request.tool_choice else None,
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        "response_format": _response_format(request.response_schema) if request.response_schema else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _messages(request: ModelRequest) -> Iterator[dict[str, Any]]:
    if request.instructions:
        yield {"role": "system", "content": request.instructions}
    for message in request.messages:
        yield _message(message)


def _message(message: Message) -> dict[str, Any]:
    match message.role:
        case Role.ASSISTANT:
            turn: dict[str, Any] = {"role": "assistant", "content": message.text or None}
            if message.tool_calls:
                turn["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
            elif turn["content"] is None:
                turn["content"] = ""  # null is for turns that call
            return turn
        case Role.TOOL:
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": _text_only(message)}
        case Role.SYSTEM:
            return {"role": "system", "content": _text_only(message)}
        case Role.USER:
            if all(isinstance(part, Text) for part in message.parts):
                return {"role": "user", "content": message.text}
            return {"role": "user", "content": [_part(part) for part in message.parts]}


def _text_only(message: Message) -> str:
    if any(isinstance(part, Media) for part in message.parts):
        raise AgentsvcError(
            Reason.CAPABILITY_MISSING,
            f"Chat completions cannot carry images or files in a {message.role.value} message: send them as the user.",
        )
    return message.text


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Media(kind="image"):
            return {"type": "image_url", "image_url": {"url": data_uri(part)}}
        case Media(uri="", media_type=media_type):
            name = "file." + media_type.rpartition("/")[2]
            return {"type": "file", "file": {"filename": name, "file_data": data_uri(part)}}
        case Media():
            raise AgentsvcError(
                Reason.CAPABILITY_MISSING, "Chat completions cannot fetch a file from a URI: send its bytes."
            )


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json or "{}"}
    return {"id": call.tool_call_id, "type": "function", "function": function}


def _tool(spec: ToolSpec) -> dict[str, Any]:
    parameters = spec.parameters or {"type": "object", "properties": {}}
    function = {"name": spec.name, "description": spec.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> Any:
    if choice.mode is ToolChoiceMode.TOOL:
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode.value


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    # Strict mode refuses schemas that are open; those are followed as well as the model can.
    strict = schema.get("additionalProperties") is False
    return {"type": "json_schema", "json_schema": {"name": "response", "schema": dict(schema), "strict": strict}}
