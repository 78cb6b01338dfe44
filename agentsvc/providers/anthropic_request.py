"""A request in the Messages API: our messages in their blocks.

The API knows two roles that alternate. So results of tools are the user's, all of one turn in one message and before any
text; system messages go to the top; and neighbours of one role become one message.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from agentsvc.domain.messages import Media, Message, Part, ProviderState, Role, Text, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.encoding import arguments_of, call_id, tool_name
from agentsvc.providers.openai_request import provider_options

DEFAULT_MAX_TOKENS = 8192  # the API wants a number; every current model can do this one


def messages_body(request: ModelRequest, *, vendor: str) -> dict[str, Any]:
    """The JSON of the request. ``vendor`` is whose provider state is sent back.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's.
    """
    own = provider_options(request.generation, reserved=("model", "messages", "system", "stream"))
    own.pop("betas", None)
    body: dict[str, Any] = {"model": request.model}
    if tools := [_tool(spec) for spec in request.tools] + own.pop("tools", []):
        body["tools"] = tools
    if system := _system(request):
        body["system"] = system
    body["messages"] = _messages(request.messages, vendor)
    return body | {"stream": request.stream} | _options(request, own) | own


def betas(request: ModelRequest) -> tuple[str, ...]:
    """The beta features asked for by ``provider_options["betas"]``, as the vendor's SDK calls them; a header here."""
    wanted = (request.generation.provider_options or {}).get("betas")
    return tuple(name for name in wanted if isinstance(name, str)) if isinstance(wanted, list) else ()


def _options(request: ModelRequest, own: Mapping[str, Any]) -> dict[str, Any]:
    generation = request.generation
    schema = request.response_schema
    options = {
        "max_tokens": generation.max_output_tokens or DEFAULT_MAX_TOKENS + _thinking_budget(own),
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "stop_sequences": list(generation.stop) if generation.stop else None,
        "tool_choice": _tool_choice(request) if request.tools else None,
        "output_config": {"format": {"type": "json_schema", "schema": dict(schema)}} if schema else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _thinking_budget(own: Mapping[str, Any]) -> int:
    """Thinking counts against ``max_tokens``; without more room the API refuses the request."""
    match own.get("thinking"):
        case {"budget_tokens": int() as budget}:
            return budget
        case _:
            return 0


def _tool_choice(request: ModelRequest) -> dict[str, Any] | None:
    choice, serial = request.tool_choice, request.parallel_tool_calls is False
    if choice is None and not serial:
        return None
    mode = choice.mode if choice else ToolChoiceMode.AUTO
    if mode is ToolChoiceMode.NONE:
        return {"type": "none"}
    said: dict[str, Any] = {"type": "any" if mode is ToolChoiceMode.REQUIRED else mode.value}
    if choice and mode is ToolChoiceMode.TOOL:
        said["name"] = choice.name
    if serial:
        said["disable_parallel_tool_use"] = True
    return said


def _tool(spec: ToolSpec) -> dict[str, Any]:
    schema = spec.parameters or {"type": "object", "properties": {}}
    return {"name": spec.name, "description": spec.description, "input_schema": schema}


def _system(request: ModelRequest) -> str:
    said = [request.instructions, *(message.text for message in request.messages if message.role is Role.SYSTEM)]
    return "\n\n".join(text for text in said if text)


def _messages(messages: tuple[Message, ...], vendor: str) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for message in messages:
        blocks = [] if message.role is Role.SYSTEM else list(_blocks(message, vendor))
        if not blocks:
            continue
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        if turn["role"] == "user":
            turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return turns


def _blocks(message: Message, vendor: str) -> Iterator[dict[str, Any]]:
    match message.role:
        case Role.ASSISTANT:
            yield from _kept_turn(message, vendor) or _plain_turn(message)
        case Role.TOOL:
            result = {
                "type": "tool_result",
                "tool_use_id": call_id(message.tool_call_id),
                "content": list(_parts(message.parts)),
            }
            yield result | {"is_error": True} if message.is_error else result
        case _:
            yield from _parts(message.parts)


def _plain_turn(message: Message) -> Iterator[dict[str, Any]]:
    yield from _parts(message.parts)
    for call in message.tool_calls:
        name = tool_name(call.name)
        yield {"type": "tool_use", "id": call_id(call.tool_call_id), "name": name, "input": arguments_of(call)}


def _kept_turn(message: Message, vendor: str) -> list[dict[str, Any]]:
    """The turn as the vendor made it, its calls under the ids we know them by. Empty when it is not this vendor's.

    A turn whose calls are not all there any more (it was cancelled) cannot go back as it was.
    """
    match message.provider_state:
        case ProviderState(vendor=author, payload=list() as blocks) if author == vendor:
            calls = [block for block in blocks if block.get("type") == "tool_use"]
            if len(calls) != len(message.tool_calls):
                return []
            ours = ({"id": call_id(call.tool_call_id), "name": tool_name(call.name)} for call in message.tool_calls)
            return [block | next(ours) if block.get("type") == "tool_use" else block for block in blocks]
        case _:
            return []


def _parts(parts: tuple[Part, ...]) -> Iterator[dict[str, Any]]:
    for part in parts:
        match part:
            case Text(text):
                if text:  # an empty one is refused
                    yield {"type": "text", "text": text}
            case Media():
                yield {"type": "image" if part.kind == "image" else "document", "source": _source(part)}


def _source(media: Media) -> dict[str, Any]:
    if media.uri:
        return {"type": "url", "url": media.uri}
    if media.media_type == "text/plain":
        return {"type": "text", "media_type": "text/plain", "data": media.data.decode("utf-8", "replace")}
    return {"type": "base64", "media_type": media.media_type, "data": b64encode(media.data).decode()}
