"""The strict checkers of the native formats refuse what they are there to refuse, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.providers.strict import (
    check_cohere,
    check_dashscope,
    check_gemini,
    check_ollama,
    check_qianfan_v1,
    check_responses,
    sign,
    sign_call,
)

FUNCTION = {"name": "tide", "parameters": {"type": "object"}}

# --- gemini ---
CALL = {"name": "tide", "args": {}}
ASK = {"role": "user", "parts": [{"text": "Hi"}]}
SIGNED: dict[str, Any] = {"role": "model", "parts": [{"functionCall": CALL, "thoughtSignature": sign_call(CALL)}]}
UNSIGNED = {"role": "model", "parts": [{"functionCall": CALL}]}
FORGED = {"role": "model", "parts": [{"functionCall": CALL, "thoughtSignature": sign("x")}]}
ANSWER = {"role": "user", "parts": [{"functionResponse": {"name": "tide", "response": {"output": ""}}}]}
SAYS = {"role": "model", "parts": [{"text": "06:10"}]}


@pytest.mark.parametrize(
    "contents",
    [
        [],
        [{"role": "assistant", "parts": [{"text": "Hi"}]}],
        [{"role": "user", "parts": []}],
        [{"role": "user", "parts": [{"text": ""}]}],
        [{"role": "user", "parts": [{"text": "Hi", "inlineData": {}}]}],
        [{"role": "user", "parts": [{"functionCall": CALL}]}],
        [SIGNED, ANSWER],
        [ASK, SIGNED],
        [ASK, SIGNED, ASK],
        [ASK, ANSWER],
        [ASK, {"role": "model", "parts": SIGNED["parts"] * 2}, ANSWER],
        [ASK, SIGNED, {"role": "user", "parts": [{"functionResponse": {"name": "now", "response": {}}}]}],
        [ASK, SIGNED, {"role": "user", "parts": [{"functionResponse": {"name": "tide", "response": "06:10"}}]}],
        [ASK, UNSIGNED, ANSWER],
        [ASK, FORGED, ANSWER],
    ],
)
def test_gemini_refuses_contents(contents: list[dict[str, Any]]) -> None:
    error = check_gemini({"contents": contents})
    assert error is not None
    assert error["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"tools": [{"functionDeclarations": [{"name": "no spaces", "parametersJsonSchema": {"type": "object"}}]}]},
        {"tools": [{"functionDeclarations": [{"name": "tide"}]}]},
        {"toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["tide"]}}},
    ],
)
def test_gemini_refuses_fields(more: dict[str, Any]) -> None:
    assert check_gemini({"contents": [ASK]}) is None
    assert check_gemini({"contents": [ASK]} | more)


def test_gemini_takes() -> None:
    assert check_gemini({"contents": [ASK, UNSIGNED, ANSWER, SAYS, ASK, SIGNED, ANSWER, SIGNED, ANSWER]}) is None


# --- chat completions and their kin ---
USER = {"role": "user", "content": "Hi"}
CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "tide", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "06:10"}
TOOL = {"type": "function", "function": FUNCTION}
DISORDER: list[list[dict[str, Any]]] = [
    [],
    [{"role": "oracle", "content": "Hi"}],
    [USER, CALLS],
    [USER, CALLS, USER],
    [USER, RESULT],
    [USER, CALLS, RESULT, RESULT],
    [USER, {"role": "system", "content": "Hi"}],
    [USER, CALLS | {"tool_calls": [{"id": "a", "function": {"name": "tide", "arguments": {}}}]}, RESULT],
]


@pytest.mark.parametrize("messages", [*DISORDER, [{"role": "user", "content": ""}], [USER, {"role": "assistant"}]])
def test_cohere_refuses_messages(messages: list[dict[str, Any]]) -> None:
    assert check_cohere({"model": "m", "messages": messages})


@pytest.mark.parametrize(
    "more",
    [
        {"model": ""},
        {"top_p": 1},
        {"tools": [{"function": FUNCTION}]},
        {"tools": [TOOL], "tool_choice": "AUTO"},
        {"tool_choice": "REQUIRED"},
        {"tools": [TOOL], "response_format": {"type": "json_object"}},
    ],
)
def test_cohere_refuses_fields(more: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [USER, CALLS, RESULT]}
    assert check_cohere(body) is None
    assert check_cohere(body | more)


@pytest.mark.parametrize("messages", DISORDER)
def test_dashscope_refuses_messages(messages: list[dict[str, Any]]) -> None:
    assert check_dashscope({"model": "m", "input": {"messages": messages}, "parameters": {}})


@pytest.mark.parametrize(
    "parameters",
    [
        {"tools": [TOOL]},
        {"tools": [{"type": "function", "function": {}}], "result_format": "message"},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_dashscope_refuses_parameters(parameters: dict[str, Any]) -> None:
    body = {"model": "m", "input": {"messages": [USER, CALLS, RESULT]}}
    assert check_dashscope(body)
    assert check_dashscope(body | {"parameters": {}}) is None
    assert check_dashscope(body | {"parameters": parameters})


def test_dashscope_refuses_contents_of_two_kinds() -> None:
    messages = [USER, {"role": "assistant", "content": [{"text": "Hi"}]}]
    assert check_dashscope({"model": "m", "input": {"messages": messages}, "parameters": {}})


OLLAMA_CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "tide", "arguments": {}}}],
}
OLLAMA_RESULT = {"role": "tool", "tool_name": "tide", "content": "06:10"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER]},
        {"model": "m", "messages": [USER], "temperature": 1},
        {"model": "m", "messages": [USER], "tools": [FUNCTION]},
        {"model": "m", "messages": [{"role": "user", "content": None}]},
        {"model": "m", "messages": [USER | {"images": ["data:image/png;base64,iVA="]}]},
        {"model": "m", "messages": [USER, CALLS, OLLAMA_RESULT]},
        {"model": "m", "messages": [USER, OLLAMA_CALLS]},
        {"model": "m", "messages": [USER, OLLAMA_CALLS, OLLAMA_RESULT | {"tool_name": "now"}]},
    ],
)
def test_ollama_refuses(body: dict[str, Any]) -> None:
    assert check_ollama({"model": "m", "messages": [USER, OLLAMA_CALLS, OLLAMA_RESULT, USER]}) is None
    assert check_ollama(body)


# --- qianfan v1 ---
FUNCTION_CALL = {"role": "assistant", "content": "", "function_call": {"name": "tide", "arguments": "{}"}}
FUNCTION_RESULT = {"role": "function", "name": "tide", "content": "06:10"}


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [USER, {"role": "assistant", "content": "Hi"}],
        [USER, USER, USER],
        [{"role": "system", "content": "Hi"}],
        [USER, FUNCTION_CALL, USER],
        [USER, {"role": "assistant", "content": "Hi"}, FUNCTION_RESULT],
        [USER, FUNCTION_CALL, FUNCTION_RESULT | {"name": "now"}],
        [USER, FUNCTION_CALL | {"function_call": {"name": "tide", "arguments": {}}}, FUNCTION_RESULT],
        [USER, {"role": "assistant", "content": ""}, USER],
    ],
)
def test_qianfan_refuses(messages: list[dict[str, Any]]) -> None:
    assert check_qianfan_v1({"messages": [USER, FUNCTION_CALL, FUNCTION_RESULT]}) is None
    assert check_qianfan_v1({"messages": messages})
    assert check_qianfan_v1({"messages": [USER], "functions": [FUNCTION]})


# --- responses ---
REASONING = {
    "type": "reasoning",
    "id": "rs_0",
    "encrypted_content": sign("Hm"),
    "summary": [{"type": "summary_text", "text": "Hm"}],
}
ITEM_CALL = {"type": "function_call", "id": "fc_0", "call_id": "a", "name": "tide", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "a", "output": "06:10"}


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{"role": "tool", "content": "Hi"}],
        [USER, REASONING],
        [USER, REASONING, USER | {"type": "function_call_output"}],
        [USER, REASONING, ITEM_CALL],
        [USER, REASONING, ITEM_CALL, USER],
        [USER, OUTPUT],
        [USER, ITEM_CALL, OUTPUT],
        [USER, REASONING | {"encrypted_content": None}, ITEM_CALL, OUTPUT],
        [USER, REASONING | {"encrypted_content": sign("x")}, ITEM_CALL, OUTPUT],
        [USER, REASONING, ITEM_CALL | {"arguments": {}}, OUTPUT],
    ],
)
def test_responses_refuses(items: list[dict[str, Any]]) -> None:
    assert check_responses({"model": "m", "input": [USER, REASONING, ITEM_CALL, OUTPUT]}) is None
    error = check_responses({"model": "m", "input": items})
    assert error is not None
    assert error["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("more", [{"model": ""}, {"stop": ["END"]}, {"tools": [TOOL]}])
def test_responses_refuses_fields(more: dict[str, Any]) -> None:
    assert check_responses({"model": "m", "input": [USER]} | more)
