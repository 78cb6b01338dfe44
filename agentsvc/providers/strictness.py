"""What OpenAI refuses in a chat-completions request, so that a scripted provider can refuse it too.

Only the grammar of the conversation and of the options that depend on one another; rules as the API states them in its
400 answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ROLES: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "tool_calls", "refusal", "reasoning_content"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}


def check_openai_chat(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The vendor's error body for a request it would answer with 400; None when there is nothing to refuse."""
    for message, param in _faults(body):
        error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
        return {"error": error}
    return None


def _faults(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not isinstance(body.get("model"), str) or not body["model"]:
        yield "you must provide a model parameter", "model"
    if body.get("stream_options") and not body.get("stream"):
        yield "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
    yield from _tool_faults(body)
    messages = body.get("messages")
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        yield from _message_faults(messages)
    else:
        yield "Invalid 'messages': expected a non-empty array of objects.", "messages"


def _tool_faults(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tools = body.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in body:
                yield f"'{name}' is only allowed when 'tools' are specified.", name
        return
    if not isinstance(tools, list) or not tools:
        yield "Invalid 'tools': empty array. Expected an array with minimum length 1.", "tools"
        return
    for number, tool in enumerate(tools):
        function = tool.get("function", {}) if isinstance(tool, dict) else {}
        if not _NAME.fullmatch(str(function.get("name", ""))):
            yield f"Invalid 'tools[{number}].function.name'.", f"tools[{number}].function.name"


def _message_faults(messages: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    waiting: dict[str, int] = {}  # tool_call_id -> where it was called
    for number, message in enumerate(messages):
        where = f"messages.[{number}]"
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            yield f"Invalid value: '{role}'. Supported values are: {', '.join(_ROLES)}.", f"{where}.role"
            return
        if unknown := message.keys() - _ROLES[role]:
            yield f"Additional properties are not allowed ({min(unknown)!r} was unexpected)", where
        if role == "tool":
            if message.get("tool_call_id") not in waiting:
                yield "messages with role 'tool' must be a response to a preceding message with 'tool_calls'.", where
            waiting.pop(str(message.get("tool_call_id")), None)
        elif waiting:
            yield _unanswered(waiting), where
        yield from _content_faults(message, where)
        if role == "assistant":
            yield from _call_faults(message.get("tool_calls"), waiting, number)
    if waiting:
        yield _unanswered(waiting), "messages"


def _unanswered(waiting: Mapping[str, int]) -> str:
    return (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(waiting)}"
    )


def _content_faults(message: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    match message.get("content"):
        case str():
            return
        case [_, *_] as parts if all(isinstance(part, dict) and "type" in part for part in parts):
            return
        case None if message.get("tool_calls"):
            return
        case content:
            kind = "null" if content is None else type(content).__name__
            yield f"Invalid value for 'content': expected a string, got {kind}.", f"{where}.content"


def _call_faults(calls: Any, waiting: dict[str, int], number: int) -> Iterator[tuple[str, str]]:
    if calls is None:
        return
    where = f"messages.[{number}].tool_calls"
    if not isinstance(calls, list) or not calls:
        yield f"Invalid '{where}': empty array. Expected an array with minimum length 1.", where
        return
    for call in calls:
        match call:
            case {"id": str() as call_id, "type": "function", "function": {"name": str() as name, "arguments": str()}}:
                if not call_id or call_id in waiting:
                    yield f"Duplicate or empty tool call id '{call_id}'.", where
                if not _NAME.fullmatch(name):
                    yield f"Invalid function name '{name}'.", where
                waiting[call_id] = number
            case _:
                yield "Invalid tool call: expected id, type 'function', and a function with name and arguments.", where
