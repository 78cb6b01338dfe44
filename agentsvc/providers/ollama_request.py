"""A request to Ollama's own chat API: chat completions with arguments as objects and options in their own field.

Results of tools name the tool and not the call, so they stand in the order of the calls.
github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from agentsvc.domain.messages import Media, Message, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.encoding import (
    arguments_of,
    function_tool,
    incapable,
    refuse_serial_calls,
    said,
    system_text,
    text_of,
    tool_mode,
)
from agentsvc.providers.openai_request import provider_options

_API = "Ollama"


def chat_body(request: ModelRequest) -> dict[str, Any]:
    """The JSON of the request. The caller's ``options`` are laid over ours, field by field.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for what has no form here.
    """
    refuse_serial_calls(request, _API)
    mode = tool_mode(request)
    if mode in {ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL}:
        raise incapable("Ollama cannot make a model call a tool: leave tool_choice unset.")
    own = provider_options(request.generation, reserved=("model", "messages", "stream"))
    body: dict[str, Any] = {"model": request.model}
    # There is no word for "no tool": without tools there is nothing to call.
    specs = () if mode is ToolChoiceMode.NONE else request.tools
    if tools := [function_tool(spec) for spec in specs] + own.pop("tools", []):
        body["tools"] = tools
    body["messages"] = list(_messages(request))
    body["stream"] = request.stream
    if request.response_schema:
        body["format"] = dict(request.response_schema)
    theirs = own.pop("options", None)
    if options := _options(request) | (theirs if isinstance(theirs, dict) else {}):
        body["options"] = options
    return body | own


def _options(request: ModelRequest) -> dict[str, Any]:
    generation = request.generation
    return said(
        {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "num_predict": generation.max_output_tokens,
            "stop": list(generation.stop) if generation.stop else None,
        }
    )


def _messages(request: ModelRequest) -> Iterator[dict[str, Any]]:
    if system := system_text(request):
        yield {"role": "system", "content": system}
    names: dict[str, str] = {}  # tool_call_id -> the tool; ids may come again in a later turn
    for message in request.messages:
        names |= {call.tool_call_id: call.name for call in message.tool_calls}
        if message.role is Role.ASSISTANT:
            yield _assistant(message)
        elif message.role is Role.TOOL:
            name = names.get(message.tool_call_id, message.tool_call_id)
            yield {"role": "tool", "tool_name": name, "content": text_of(message, _API)}
        elif message.role is Role.USER:
            images = [_image(part) for part in message.parts if isinstance(part, Media)]
            yield {"role": "user", "content": message.text} | ({"images": images} if images else {})


def _assistant(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant", "content": message.text}
    if message.tool_calls:
        calls = ({"name": call.name, "arguments": arguments_of(call)} for call in message.tool_calls)
        turn["tool_calls"] = [{"function": call} for call in calls]
    return turn


def _image(media: Media) -> str:
    if media.kind != "image":
        raise incapable("Ollama cannot read files: send their text.")
    if media.uri:
        raise incapable("Ollama cannot fetch an image from a URI: send its bytes.")
    return b64encode(media.data).decode()
