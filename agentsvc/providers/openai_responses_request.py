"""A request in the Responses API: the conversation as a list of items, flat tools, nothing kept at the vendor.

Stateless means ``store`` false: what the model reasoned comes encrypted and goes back with the turn. The items of such a
turn go back as they came, for a reasoning item without the item that followed it is refused.
platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentsvc.domain.messages import Media, Message, Part, ProviderState, Role, Text, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.encoding import incapable, said, schema_of, text_of
from agentsvc.providers.openai_request import data_uri, provider_options

_API = "The Responses API"
_RESERVED = ("model", "input", "instructions", "stream", "previous_response_id", "conversation", "background")
# Asked for encrypted reasoning, models that do not reason refuse the request. All newer ones do.
_PLAIN = re.compile(r"(?:ft:)?(?:gpt-3|gpt-4|chatgpt-|gpt-5[.\d]*-chat)")


def responses_body(request: ModelRequest, *, vendor: str) -> dict[str, Any]:
    """The JSON of the request. ``vendor`` is whose provider state is sent back.

    The caller's ``text`` is laid over ours, field by field.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for stop sequences.
    """
    if request.generation.stop:
        raise incapable("The Responses API knows no stop sequences: leave stop unset.")
    own = provider_options(request.generation, reserved=_RESERVED)
    body: dict[str, Any] = {"model": request.model}
    if tools := [_tool(spec) for spec in request.tools] + own.pop("tools", []):
        body["tools"] = tools
    if request.instructions:
        body["instructions"] = request.instructions
    body["input"] = [item for message in request.messages for item in _items(message, vendor)]
    body |= {"stream": request.stream, "store": False}
    if not _PLAIN.match(request.model):
        body["include"] = ["reasoning.encrypted_content"]
    theirs = own.pop("text", None)
    if text := _text_options(request.response_schema) | (theirs if isinstance(theirs, dict) else {}):
        body["text"] = text
    return body | _options(request) | own


def _options(request: ModelRequest) -> dict[str, Any]:
    generation = request.generation
    return said(
        {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "max_output_tokens": generation.max_output_tokens,
            "tool_choice": _tool_choice(request.tool_choice) if request.tools and request.tool_choice else None,
            "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        }
    )


def _text_options(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    if not schema:
        return {}
    # Strict mode refuses schemas that are open; those are followed as well as the model can.
    strict = schema.get("additionalProperties") is False
    return {"format": {"type": "json_schema", "name": "response", "schema": dict(schema), "strict": strict}}


def _tool_choice(choice: ToolChoice) -> Any:
    return {"type": "function", "name": choice.name} if choice.mode is ToolChoiceMode.TOOL else choice.mode.value


def _tool(spec: ToolSpec) -> dict[str, Any]:
    # Left out, strict means true here, which refuses optional parameters.
    head = {"type": "function", "name": spec.name, "description": spec.description}
    return head | {"parameters": schema_of(spec), "strict": False}


def _items(message: Message, vendor: str) -> Iterator[dict[str, Any]]:
    match message.role:
        case Role.ASSISTANT:
            yield from _kept_turn(message, vendor) or _plain_turn(message)
        case Role.TOOL:
            shown = any(isinstance(part, Media) for part in message.parts)
            output = [_part(part) for part in message.parts] if shown else message.text
            yield {"type": "function_call_output", "call_id": message.tool_call_id, "output": output}
        case Role.SYSTEM:
            yield {"role": "system", "content": text_of(message, _API)}
        case Role.USER:
            if all(isinstance(part, Text) for part in message.parts):
                yield {"role": "user", "content": message.text}
            else:
                yield {"role": "user", "content": [_part(part) for part in message.parts]}


def _plain_turn(message: Message) -> Iterator[dict[str, Any]]:
    if message.text:
        yield {"role": "assistant", "content": message.text}
    for call in message.tool_calls:
        arguments = call.arguments_json or "{}"
        yield {"type": "function_call", "call_id": call.tool_call_id, "name": call.name, "arguments": arguments}


def _kept_turn(message: Message, vendor: str) -> list[dict[str, Any]]:
    """The turn's items as they came, its calls under the ids we know them by. Empty when it is not this vendor's, or
    not whole any more.
    """
    match message.provider_state:
        case ProviderState(vendor=author, payload=list() as items) if author == vendor:
            if sum(item.get("type") == "function_call" for item in items) != len(message.tool_calls):
                return []
            ids = iter(call.tool_call_id for call in message.tool_calls)
            return [_renamed(item, ids) for item in items]
        case _:
            return []


def _renamed(item: dict[str, Any], ids: Iterator[str]) -> dict[str, Any]:
    return item | {"call_id": next(ids)} if item.get("type") == "function_call" else item


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "input_text", "text": text}
        case Media(kind="image"):
            return {"type": "input_image", "image_url": data_uri(part)}
        case Media(uri=uri) if uri:
            return {"type": "input_file", "file_url": uri}
        case Media(media_type=media_type):
            name = "file." + media_type.rpartition("/")[2]
            return {"type": "input_file", "filename": name, "file_data": data_uri(part)}
