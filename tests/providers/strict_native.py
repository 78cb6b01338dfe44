"""What the vendors with formats of their own refuse: the error body of a 400, or None. ``strict.py`` is the way in.

``check_gemini`` and ``check_responses`` know the signatures that ``sign`` makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.providers.signatures import SIGNED, sign

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}")


# --- gemini ---
_FIELDS = {
    "contents",
    "tools",
    "toolConfig",
    "systemInstruction",
    "generationConfig",
    "safetySettings",
    "cachedContent",
}
_DATA = {"text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult"}
_BESIDE = {"thought", "thoughtSignature"}


def sign_call(call: Mapping[str, Any]) -> str:
    """The only signature of ours under which ``check_gemini`` takes this ``functionCall`` back."""
    return sign(json.dumps([call.get("name"), call.get("args") or {}], sort_keys=True))


def check_gemini(body: Mapping[str, Any]) -> dict[str, Any] | None:
    for message in _gemini_faults(body):
        return {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}
    return None


def _gemini_faults(body: Mapping[str, Any]) -> Iterator[str]:
    if unknown := body.keys() - _FIELDS:
        yield f'Invalid JSON payload received. Unknown name "{min(unknown)}": Cannot find field.'
    for tool in body.get("tools") or ():
        for declared in tool.get("functionDeclarations") or ():
            if not _NAME.fullmatch(str(declared.get("name", ""))):
                yield "Invalid function name. Must start with a letter or an underscore."
            if declared.get("parametersJsonSchema", {}).get("type") != "object":
                yield "functionDeclaration parameters schema should be of type OBJECT."
    calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
    if calling.get("allowedFunctionNames") and calling.get("mode") != "ANY":
        yield "Allowed function names are only supported with mode ANY."
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        yield "contents is not specified"
        return
    yield from _content_faults(contents)


def _content_faults(contents: list[dict[str, Any]]) -> Iterator[str]:
    waiting: list[str] = []  # names of the calls of the turn before
    questions = [
        n for n, turn in enumerate(contents) if not _kinds(turn, "functionResponse") and turn["role"] == "user"
    ]
    for number, turn in enumerate(contents):
        if turn.get("role") not in {"user", "model"}:
            yield "Please use a valid role: user, model."
            return
        if not turn.get("parts"):
            yield f"Unable to submit request because contents[{number}] must include at least one parts field."
            return
        for part in turn["parts"]:
            yield from _part_faults(part, turn["role"])
        calls, responses = _kinds(turn, "functionCall"), _kinds(turn, "functionResponse")
        if calls and number == 0:
            yield "Please ensure that function call turn comes immediately after a user turn or a function response turn."
        if [response.get("name") for response in responses] != waiting:
            yield (
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        waiting = [call.get("name", "") for call in calls]
        if calls and number > max(questions, default=-1):
            first = next(part for part in turn["parts"] if "functionCall" in part)
            yield from _signature_faults(first)
    if waiting:
        yield "Please ensure that function call turn is followed by a function response turn."


def _kinds(turn: Mapping[str, Any], field: str) -> list[dict[str, Any]]:
    return [part[field] for part in turn.get("parts") or () if field in part]


def _part_faults(part: Mapping[str, Any], role: str) -> Iterator[str]:
    data = part.keys() & _DATA
    if len(data) != 1 or part.keys() - _DATA - _BESIDE:
        yield "Unable to submit request because a part must have exactly one initialized field."
    if part.get("text") == "" and "thoughtSignature" not in part:
        yield "Unable to submit request because it has an empty text parameter."
    if "functionResponse" in part and not isinstance(part["functionResponse"].get("response"), dict):
        yield "Invalid value at 'function_response.response': must be an object."
    if ("functionCall" in part) != (role == "model") and "functionCall" in part:
        yield "Function calls belong to the model."


def _signature_faults(part: Mapping[str, Any]) -> Iterator[str]:
    signature = part.get("thoughtSignature")
    if not signature:
        yield "Function call is missing a thought_signature in functionCall parts."
    elif signature.startswith(SIGNED) and signature != sign_call(part["functionCall"]):
        yield "Thought signature is not valid."


# --- chat completions and their kin ---
def _order_faults(messages: list[dict[str, Any]], answers: str = "tool_call_id") -> Iterator[str]:
    """Every call is answered by the messages that follow it at once; ``answers`` is the field that says which."""
    waiting: list[str] = []
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in {"system", "user", "assistant", "tool"}:
            yield f"messages[{number}]: invalid role {role!r}"
        if role == "tool":
            if message.get(answers) not in waiting:
                yield f"messages[{number}]: no tool call {message.get(answers)!r} to answer"
                return
            waiting.remove(message[answers])
        elif waiting:
            yield f"messages[{number}]: tool calls without results: {', '.join(waiting)}"
        if role == "system" and number and messages[number - 1].get("role") != "system":
            yield "system turn must be the first in the list"
        calls = message.get("tool_calls") or ()
        waiting += [call["id"] if answers == "tool_call_id" else call["function"]["name"] for call in calls]
    if waiting:
        yield f"tool calls without results: {', '.join(waiting)}"


def _tool_faults(tools: Any) -> Iterator[str]:
    for tool in tools or ():
        function = tool.get("function", {})
        if tool.get("type") != "function" or not _NAME.fullmatch(str(function.get("name", ""))):
            yield "invalid tool: expected type function and a name"
        if function.get("parameters", {}).get("type") != "object":
            yield "invalid tool: parameters must be an object schema"


def _text_arguments(messages: list[dict[str, Any]]) -> Iterator[str]:
    for message in messages:
        for call in message.get("tool_calls") or ():
            if not isinstance(call["function"]["arguments"], str) or not call.get("id"):
                yield "invalid tool call: expected an id, and arguments as a string"


# --- cohere ---
_COHERE = {
    *("model", "messages", "stream", "tools", "tool_choice", "response_format", "temperature", "p", "max_tokens"),
    *("stop_sequences", "k", "seed", "thinking", "documents", "safety_mode", "strict_tools", "citation_options"),
}


def check_cohere(body: Mapping[str, Any]) -> dict[str, Any] | None:
    for message in _cohere_faults(body):
        return {"id": "own", "message": f"invalid request: {message}"}
    return None


def _cohere_faults(body: Mapping[str, Any]) -> Iterator[str]:
    if unknown := body.keys() - _COHERE:
        yield f"unknown field: parameter {min(unknown)!r} is not a valid field"
    if not body.get("model"):
        yield "model is required"
    yield from _tool_faults(body.get("tools"))
    if "tool_choice" in body and (body["tool_choice"] not in {"REQUIRED", "NONE"} or not body.get("tools")):
        yield "tool_choice must be REQUIRED or NONE, and needs tools"
    if body.get("response_format") and body.get("tools"):
        yield "response_format is not supported with tools."
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages must be at least 1 long"
        return
    yield from _order_faults(messages)
    yield from _text_arguments(messages)
    for message in messages:
        if not message.get("content") and not message.get("tool_calls"):
            yield "message must not be empty in a turn"


# --- ollama ---
def check_ollama(body: Mapping[str, Any]) -> dict[str, Any] | None:
    for message in _ollama_faults(body):
        return {"error": message}
    return None


def _ollama_faults(body: Mapping[str, Any]) -> Iterator[str]:
    fields = {"model", "messages", "tools", "stream", "format", "options", "think", "keep_alive"}
    if unknown := body.keys() - fields:
        yield f"json: unknown field {min(unknown)!r}"
    if not body.get("model"):
        yield "model is required"
    yield from _tool_faults(body.get("tools"))
    messages = body.get("messages") or []
    for message in messages:
        if not isinstance(message.get("content"), str):
            yield "json: cannot unmarshal content into Go struct field ChatRequest.messages.content of type string"
        for call in message.get("tool_calls") or ():
            if not isinstance(call["function"]["arguments"], dict):
                yield "json: cannot unmarshal string into Go struct field .arguments of type api.ToolCallFunctionArguments"
        if any(not re.fullmatch(r"[A-Za-z0-9+/]+=*", image) for image in message.get("images") or ()):
            yield "illegal base64 data at input byte 4"
    yield from _order_faults(messages, "tool_name")


# --- dashscope ---
def check_dashscope(body: Mapping[str, Any]) -> dict[str, Any] | None:
    for message in _dashscope_faults(body):
        return {"code": "InvalidParameter", "message": message, "request_id": "own"}
    return None


def _dashscope_faults(body: Mapping[str, Any]) -> Iterator[str]:
    if body.keys() != {"model", "input", "parameters"} or body["input"].keys() != {"messages"}:
        yield "Required body invalid, please check the request body format."
        return
    parameters, messages = body["parameters"], body["input"]["messages"]
    yield from _tool_faults(parameters.get("tools"))
    if parameters.get("tools") and parameters.get("result_format") != "message":
        yield "The result_format must be message when tools are used."
    match parameters.get("tool_choice", "auto"):
        case "auto" | "none" | {"type": "function", "function": {"name": str()}}:
            pass
        case choice:
            yield f"The tool_choice parameter {choice!r} is not supported."
    if len({type(message.get("content")) for message in messages}) > 1:
        yield "Input contents are either all text or all lists."
    if "json" not in json.dumps(messages).lower() and parameters.get("response_format"):
        yield "'messages' must contain the word 'json' to use 'response_format' of type 'json_object'."
    if not messages:
        yield "[] is too short - 'messages'"
    yield from _order_faults(messages)
    yield from _text_arguments(messages)


# --- qianfan v1 ---
def check_qianfan_v1(body: Mapping[str, Any]) -> dict[str, Any] | None:
    for message in _qianfan_faults(body):
        return {"error_code": 336003, "error_msg": message}
    return None


def _qianfan_faults(body: Mapping[str, Any]) -> Iterator[str]:
    for function in body.get("functions") or ():
        if not function.get("description") or function.get("parameters", {}).get("type") != "object":
            yield "functions: name, description and parameters are required"
    messages = body.get("messages") or []
    if len(messages) % 2 == 0:
        yield "the length of messages must be an odd number"
    called = ""
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in ({"assistant"} if number % 2 else {"user", "function"}):
            yield f"the role of message with odd index in the messages must be user or function, got {role} at {number}"
        if (role == "function") != bool(called) or (called and message.get("name") != called):
            yield "a function_call must be followed by the function of that name"
        call = message.get("function_call")
        if call and not (call.get("name") and isinstance(call.get("arguments"), str)):
            yield "function_call: name and arguments are required and strings"
            return
        if not call and not message.get("content"):
            yield "the content of message must not be empty"
        called = call["name"] if call else ""
    if called:
        yield "the last message must be user or function"


# --- responses ---
_RESPONSES = {
    *("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "stream", "store", "include"),
    *("temperature", "top_p", "max_output_tokens", "text", "reasoning", "metadata", "truncation", "service_tier"),
}


def check_responses(body: Mapping[str, Any]) -> dict[str, Any] | None:
    for message, param in _responses_faults(body):
        return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}
    return None


def _responses_faults(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if unknown := body.keys() - _RESPONSES:
        yield f"Unknown parameter: '{min(unknown)}'.", min(unknown)
    if not body.get("model"):
        yield "Missing required parameter: 'model'.", "model"
    for tool in body.get("tools") or ():
        if tool.get("type") == "function" and not _NAME.fullmatch(str(tool.get("name", ""))):
            yield "Missing required parameter: 'tools[0].name'.", "tools"
    items = body.get("input")
    if not isinstance(items, list) or not items:
        yield "One of 'input' or 'previous_response_id' must be provided.", "input"
        return
    yield from ((fault, "input") for fault in _item_faults(items))


def _item_faults(items: list[dict[str, Any]]) -> Iterator[str]:
    waiting: set[str] = set()
    reasoned = False  # since somebody else spoke
    for number, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message" and item.get("role") not in {"user", "assistant", "system", "developer"}:
            yield f"Invalid value: '{item.get('role')}'."
        if kind == "reasoning":
            following = items[number + 1].get("type", "message") if number + 1 < len(items) else ""
            if following not in {"message", "function_call", "reasoning", "web_search_call"}:
                yield f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
            yield from _reasoning_faults(item)
        elif kind == "function_call":
            if not isinstance(item.get("arguments"), str) or not item.get("call_id") or not item.get("name"):
                yield f"Missing required parameter: 'input[{number}].call_id'."
            if "id" in item and not reasoned:
                yield f"Item '{item['id']}' of type 'function_call' was provided without its required 'reasoning' item."
            waiting.add(item.get("call_id", ""))
        elif kind == "function_call_output":
            if item.get("call_id") not in waiting:
                yield f"No tool call found for function call output with call_id {item.get('call_id')}."
            waiting.discard(item.get("call_id", ""))
        elif waiting:
            yield f"No tool output found for function call {min(waiting)}."
        reasoned = kind == "reasoning" or (reasoned and "id" in item)
    if waiting:
        yield f"No tool output found for function call {min(waiting)}."


def _reasoning_faults(item: Mapping[str, Any]) -> Iterator[str]:
    content = item.get("encrypted_content")
    if not content:
        yield f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false."
    elif content.startswith(SIGNED) and content != sign("".join(part["text"] for part in item["summary"])):
        yield "The encrypted content could not be verified."
