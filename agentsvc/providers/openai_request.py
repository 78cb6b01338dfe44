"""A request in chat completions: our messages in their words.

The order of the body is the order of what stays the same: model, tools, messages, then the options of this call. Two
turns of a conversation share their bytes up to the new turn, so that vendors' prompt caches stay warm.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason, invalid_field
from agentsvc.domain.messages import Media, Message, Part, Role, Text, ToolCall
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.encoding import function_tool, said, text_of, tool_name, wanted_json
from agentsvc.providers.errors import Vendor
from agentsvc.providers.thoughts import Returns, returned


def completions(endpoint: Endpoint, model: str) -> str:  # noqa: ARG001 - Azure's address depends on the model
    """Where chat completions live with almost everybody."""
    return endpoint.base_url.rstrip("/") + "/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accent:
    """How a vendor's requests differ from OpenAI's.

    address                the URL of a request, from endpoint and model
    key_header, key_prefix how the key travels
    headers                ``Endpoint.extra`` name -> header
    max_tokens             the name of the output limit
    asks_usage             whether ``stream_options.include_usage`` is known and needed
    always_streams         whether an answer in one body is not to be had of every model; a stream is asked for instead
    tool_choices           the modes it knows
    parallel_tool_calls    what is sent beside tools when the caller says nothing; None: nothing
    call_id                a tool call's id as the vendor accepts it, for calls that another vendor named
    response_format        json_object: the vendor promises JSON but not its schema, so the schema stands in the instructions
    returns                the field in which the model's reasoning goes back
    body                   fields of every request
    """

    address: Callable[[Endpoint, str], str] = completions
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    max_tokens: str = "max_completion_tokens"
    asks_usage: bool = True
    always_streams: bool = False
    tool_choices: Collection[ToolChoiceMode] = tuple(ToolChoiceMode)
    parallel_tool_calls: bool | None = None
    call_id: Callable[[str], str] = str
    response_format: Literal["json_schema", "json_object"] = "json_schema"
    returns: Returns = ""
    body: Mapping[str, Any] = field(default_factory=dict)


def chat_body(request: ModelRequest, accent: Accent, vendor: Vendor) -> dict[str, Any]:
    """The JSON of the request.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for what has no form here.
    """
    own = provider_options(request.generation, reserved=("model", "messages", "stream"))
    body: dict[str, Any] = {"model": request.model}
    if tools := [function_tool(spec) for spec in request.tools] + own.pop("tools", []):
        body["tools"] = tools
    body["messages"] = list(_messages(request, accent, vendor))
    body["stream"] = request.stream or accent.always_streams
    if body["stream"] and accent.asks_usage:
        body["stream_options"] = {"include_usage": True}
    return body | dict(accent.body) | _options(request, accent, vendor) | own


def provider_options(generation: GenerationOptions, reserved: Iterable[str]) -> dict[str, Any]:
    """The caller's own fields of the body, a copy. ``tools`` are added to ours, everything else replaces ours.

    Raises:
        AgentsvcError: INVALID_FIELD for one of ``reserved``: agentsvc would no longer know what it asked for.
    """
    if not generation.provider_options:
        return {}
    own = dict(generation.provider_options)
    for name in reserved:
        if name in own:
            raise invalid_field(f"options.provider_options.{name}", "is not an option; agentsvc sets it itself")
    if not isinstance(own.get("tools", []), list):
        raise invalid_field("options.provider_options.tools", "must be a list; it is added to the agent's tools")
    return own


def data_uri(media: Media) -> str:
    """Where the media is: its URI, or its bytes as one."""
    return media.uri or f"data:{media.media_type};base64,{b64encode(media.data).decode()}"


def _options(request: ModelRequest, accent: Accent, vendor: Vendor) -> dict[str, Any]:
    generation, parallel = request.generation, request.parallel_tool_calls
    options = {
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        accent.max_tokens: generation.max_output_tokens,
        "stop": list(generation.stop) if generation.stop else None,
        "response_format": _response_format(request.response_schema, accent) if request.response_schema else None,
    }
    if request.tools:
        options["tool_choice"] = _tool_choice(request.tool_choice, accent, vendor) if request.tool_choice else None
        options["parallel_tool_calls"] = accent.parallel_tool_calls if parallel is None else parallel
    return said(options)


def _messages(request: ModelRequest, accent: Accent, vendor: Vendor) -> Iterator[dict[str, Any]]:
    if instructions := _instructions(request, accent):
        yield {"role": "system", "content": instructions}
    called = False  # since the last question
    for message in request.messages:
        if not (called and message.role is Role.ASSISTANT) and (spoken := _spoken(message)) is not None:
            called = False
            yield spoken
            continue
        called = message.role is not Role.USER and (called or bool(message.tool_calls))
        turn = _message(message, accent)
        if message.role is Role.ASSISTANT:
            turn |= returned(message, accent.returns, vendor.provider, called=called)
        yield turn


def _spoken(message: Message) -> dict[str, Any] | None:
    """A turn of one text and nothing else, as nearly all are; None for others."""
    role, parts = _SPEAKERS.get(message.role), message.parts
    if role is None or len(parts) != 1 or message.tool_calls or message.provider_state is not None:
        return None
    return {"role": role, "content": part.text} if type(part := parts[0]) is Text and part.text else None


_SPEAKERS = {Role.USER: "user", Role.ASSISTANT: "assistant"}


def _instructions(request: ModelRequest, accent: Accent) -> str:
    if accent.response_format == "json_schema":
        return request.instructions
    return "\n\n".join(text for text in (request.instructions, wanted_json(request)) if text)


def _message(message: Message, accent: Accent) -> dict[str, Any]:
    match message.role:
        case Role.ASSISTANT:
            turn: dict[str, Any] = {"role": "assistant", "content": message.text or None}
            if message.tool_calls:
                turn["tool_calls"] = [_tool_call(call, accent) for call in message.tool_calls]
            elif turn["content"] is None:
                turn["content"] = ""  # null is for turns that call
            return turn
        case Role.TOOL:
            call_id = accent.call_id(message.tool_call_id)
            return {"role": "tool", "tool_call_id": call_id, "content": text_of(message, "Chat completions")}
        case Role.SYSTEM:
            return {"role": "system", "content": text_of(message, "Chat completions")}
        case Role.USER:
            if all(isinstance(part, Text) for part in message.parts):
                return {"role": "user", "content": message.text}
            return {"role": "user", "content": [_part(part) for part in message.parts]}


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


def _tool_call(call: ToolCall, accent: Accent) -> dict[str, Any]:
    function = {"name": tool_name(call.name), "arguments": call.arguments_json or "{}"}
    return {"id": accent.call_id(call.tool_call_id), "type": "function", "function": function}


def _tool_choice(choice: ToolChoice, accent: Accent, vendor: Vendor) -> Any:
    if choice.mode not in accent.tool_choices:
        known = ", ".join(mode.name for mode in accent.tool_choices)
        raise AgentsvcError(
            Reason.CAPABILITY_MISSING,
            f"options.tool_choice: {vendor.name} does not know {choice.mode.name}, only {known}.",
            provider=vendor.provider,
        )
    if choice.mode is ToolChoiceMode.TOOL:
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode.value


def _response_format(schema: Mapping[str, Any], accent: Accent) -> dict[str, Any]:
    if accent.response_format == "json_object":
        return {"type": "json_object"}
    # Strict mode refuses schemas that are open; those are followed as well as the model can.
    strict = schema.get("additionalProperties") is False
    return {"type": "json_schema", "json_schema": {"name": "response", "schema": dict(schema), "strict": strict}}
