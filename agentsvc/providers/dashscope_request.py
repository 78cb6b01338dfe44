"""A request in DashScope's own API: chat completions with the messages and the options each in an object of their own.

help.aliyun.com/model-studio/qwen-api-via-dashscope
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agentsvc.domain.messages import Media, Part, Role, Text, ToolCall
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.encoding import function_tool, incapable, said, system_text, text_of, wanted_json
from agentsvc.providers.openai_request import data_uri, provider_options

_API = "DashScope"
_RESERVED = ("model", "input", "messages", "stream", "result_format", "incremental_output")
_SEEING = re.compile(r"(?:^|[-/])(?:vl|qvq|omni|ocr)(?:-|$)")  # models that live at the address for images


def is_multimodal(request: ModelRequest) -> bool:
    """Whether the request goes to the address for images, where contents are lists.

    So it does when it shows one, when the model's name says that it sees, and when ``provider_options["multimodal"]`` says
    so, for a model whose name does not.
    """
    told = (request.generation.provider_options or {}).get("multimodal")
    if isinstance(told, bool):
        return told
    shown = any(isinstance(part, Media) for message in request.messages for part in message.parts)
    return shown or bool(_SEEING.search(request.model))


def generation_body(request: ModelRequest, *, multimodal: bool) -> dict[str, Any]:
    """The JSON of the request. It asks for a stream in any case: models that think refuse to answer in one body.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for what has no form here.
    """
    own = provider_options(request.generation, reserved=_RESERVED)
    own.pop("multimodal", None)
    parameters: dict[str, Any] = {"result_format": "message", "incremental_output": True}
    if tools := [function_tool(spec) for spec in request.tools] + own.pop("tools", []):
        parameters["tools"] = tools
    return {
        "model": request.model,
        "input": {"messages": list(_messages(request, multimodal=multimodal))},
        "parameters": parameters | _options(request) | own,
    }


def _options(request: ModelRequest) -> dict[str, Any]:
    generation = request.generation
    # Calls are parallel only when asked for.
    parallel = True if request.parallel_tool_calls is None else request.parallel_tool_calls
    return said(
        {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "max_tokens": generation.max_output_tokens,
            "stop": list(generation.stop) if generation.stop else None,
            "tool_choice": _tool_choice(request, request.tool_choice)
            if request.tools and request.tool_choice
            else None,
            "parallel_tool_calls": parallel if request.tools else None,
            "response_format": {"type": "json_object"} if request.response_schema else None,
        }
    )


def _tool_choice(request: ModelRequest, choice: ToolChoice) -> Any:
    name = choice.name
    if choice.mode is ToolChoiceMode.REQUIRED:
        if len(request.tools) != 1:
            raise incapable("DashScope can make a model call one tool by name, not any: name it in tool_choice.")
        name = request.tools[0].name
    return {"type": "function", "function": {"name": name}} if name else choice.mode.value


def _messages(request: ModelRequest, *, multimodal: bool) -> Iterator[dict[str, Any]]:
    if system := "\n\n".join(text for text in (system_text(request), wanted_json(request)) if text):
        yield {"role": "system", "content": [{"text": system}] if multimodal else system}
    for message in request.messages:
        if message.role is Role.SYSTEM:
            continue  # said above: only as the first turn
        turn: dict[str, Any] = {"role": message.role.value}
        if message.role is Role.TOOL:
            turn["tool_call_id"] = message.tool_call_id
        if multimodal and message.role is Role.USER:
            turn["content"] = [_part(part) for part in message.parts]
        else:
            text = text_of(message, _API)
            turn["content"] = [{"text": text}] if multimodal else text
        if message.tool_calls:
            turn["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
        yield turn


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"text": text}
        case Media(kind="image"):
            return {"image": data_uri(part)}
        case Media():
            raise incapable("DashScope cannot read files: send their text.")


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_json or "{}"}
    return {"id": call.tool_call_id, "type": "function", "function": function}
