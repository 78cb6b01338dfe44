"""A request to the old Qianfan API: user and assistant take turns, one function call a turn, the model in the address.

Calls that another vendor made in parallel are told one after the other, each followed by its result, which is the only
way in which they can be told. cloud.baidu.com/doc/WENXINWORKSHOP/s/clntwmv7t
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from agentsvc.domain.messages import Message, ProviderState, Role, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoiceMode
from agentsvc.providers.encoding import (
    incapable,
    model_path,
    said,
    schema_of,
    system_text,
    text_of,
    tool_mode,
    wanted_json,
)
from agentsvc.providers.openai_request import provider_options

_API = "Qianfan v1"
_NOTHING_SAID = "..."  # the assistant's turn between a result that nobody answered and the next question
_RESERVED = ("model", "messages", "system", "stream", "functions")
# Names whose address is another word; all others live under their own name in lower case.
_ADDRESSES: Mapping[str, str] = {
    "ernie-4.0-8k": "completions_pro",
    "ernie-bot-4": "completions_pro",
    "ernie-3.5-8k": "completions",
    "ernie-bot": "completions",
    "ernie-bot-8k": "ernie_bot_8k",
    "ernie-bot-turbo": "eb-instant",
    "ernie-speed-8k": "ernie_speed",
    "ernie-character-8k": "ernie-char-8k",
}


def address(model: str) -> str:
    """The last part of the URL: where this model lives.

    Raises:
        AgentsvcError: INVALID_FIELD for what is no name.
    """
    name = model_path(model).lower()
    return _ADDRESSES.get(name, name)


def chat_body(request: ModelRequest, *, vendor: str) -> dict[str, Any]:
    """The JSON of the request. ``vendor`` is whose provider state is sent back.

    Raises:
        AgentsvcError: INVALID_FIELD for an option that is not the caller's, CAPABILITY_MISSING for what has no form here.
    """
    own = provider_options(request.generation, reserved=_RESERVED)
    mode = tool_mode(request)
    body: dict[str, Any] = {}
    if request.tools and mode is not ToolChoiceMode.NONE:
        body["functions"] = [_function(spec) for spec in request.tools]
    if system := "\n\n".join(text for text in (system_text(request), wanted_json(request)) if text):
        body["system"] = system
    body["messages"] = _messages(request, vendor)
    return body | {"stream": request.stream} | _options(request, mode) | own


def _options(request: ModelRequest, mode: ToolChoiceMode | None) -> dict[str, Any]:
    generation = request.generation
    return said(
        {
            "temperature": generation.temperature,
            "top_p": generation.top_p,
            "max_output_tokens": generation.max_output_tokens,
            "stop": list(generation.stop) if generation.stop else None,
            "tool_choice": _tool_choice(request, mode),
            "response_format": "json_object" if request.response_schema else None,
        }
    )


def _tool_choice(request: ModelRequest, mode: ToolChoiceMode | None) -> dict[str, Any] | None:
    name = request.tool_choice.name if request.tool_choice else ""
    if mode is ToolChoiceMode.REQUIRED:
        if len(request.tools) != 1:
            raise incapable("Qianfan v1 can make a model call one function by name, not any: name it in tool_choice.")
        name = request.tools[0].name
    elif mode is not ToolChoiceMode.TOOL:
        return None
    return {"type": "function", "function": {"name": name}}


def _function(spec: ToolSpec) -> dict[str, Any]:
    return {"name": spec.name, "description": spec.description or spec.name, "parameters": schema_of(spec)}


def _messages(request: ModelRequest, vendor: str) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for turn in _turns(request.messages, vendor):
        last = turns[-1] if turns else {"role": ""}
        asks = turn["role"] == "user"
        if asks and last["role"] == "function":
            turns.append({"role": "assistant", "content": _NOTHING_SAID})
            turns.append(turn)
        elif turn["role"] == last["role"] and "function_call" not in last:
            joined = "\n\n".join(text for text in (last["content"], turn["content"]) if text)
            turns[-1] = last | turn | {"content": joined}
        else:
            turns.append(turn)
    return turns


def _turns(messages: tuple[Message, ...], vendor: str) -> Iterator[dict[str, Any]]:
    """The turns in order, neighbours of one role not yet joined."""
    for number, message in enumerate(messages):
        if message.role is Role.USER:
            yield {"role": "user", "content": text_of(message, _API)}
        elif message.role is Role.ASSISTANT and message.tool_calls:
            following = takewhile(lambda other: other.role is Role.TOOL, messages[number + 1 :])
            results = {result.tool_call_id: result for result in following}
            yield from _calls(message, results, vendor)
        elif message.role is Role.ASSISTANT and message.text:
            yield {"role": "assistant", "content": message.text}


def _calls(message: Message, results: Mapping[str, Message], vendor: str) -> Iterator[dict[str, Any]]:
    for number, call in enumerate(message.tool_calls):
        function_call = {"name": call.name, "arguments": call.arguments_json or "{}"} | _thoughts(message, vendor)
        content = message.text if number == 0 else ""
        yield {"role": "assistant", "content": content, "function_call": function_call}
        if call.tool_call_id in results:
            yield _result(call, results[call.tool_call_id])


def _result(call: ToolCall, result: Message) -> dict[str, Any]:
    return {"role": "function", "name": call.name, "content": text_of(result, _API) or "{}"}  # empty ones are refused


def _thoughts(message: Message, vendor: str) -> dict[str, str]:
    """What the model thought when it made the call, which it wants back."""
    match message.provider_state:
        case ProviderState(vendor=author, payload={"thoughts": str() as thoughts}) if author == vendor:
            return {"thoughts": thoughts}
        case _:
            return {}
