"""The strict checkers refuse what they are there to refuse: otherwise the fakes that use them prove nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.providers.strict import check_anthropic, check_openai_chat, sign

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "a", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "a", "content": "06:10"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER]},
        {"model": "m", "messages": []},
        {"model": "m", "messages": [{"role": "oracle", "content": "Hi"}]},
        {"model": "m", "messages": [{"role": "user", "content": None}]},
        {"model": "m", "messages": [{"role": "assistant", "content": None}]},
        {"model": "m", "messages": [USER | {"provider_state": 1}]},
        {"model": "m", "messages": [USER, CALLS]},
        {"model": "m", "messages": [USER, CALLS, USER, RESULT]},
        {"model": "m", "messages": [USER, RESULT]},
        {"model": "m", "messages": [USER, CALLS, RESULT, RESULT]},
        {"model": "m", "messages": [USER, CALLS, RESULT | {"tool_call_id": "b"}]},
        {"model": "m", "messages": [USER, CALLS | {"tool_calls": [CALL, CALL]}, RESULT]},
        {"model": "m", "messages": [USER, CALLS | {"tool_calls": []}]},
        {"model": "m", "messages": [USER, CALLS | {"tool_calls": [{"id": "a"}]}, RESULT]},
        {"model": "m", "messages": [USER], "tools": []},
        {"model": "m", "messages": [USER], "tools": [{"type": "function", "function": {"name": "no spaces"}}]},
        {"model": "m", "messages": [USER], "tool_choice": "auto"},
        {"model": "m", "messages": [USER], "stream_options": {"include_usage": True}},
    ],
)
def test_openai_refuses(body: dict[str, Any]) -> None:
    error = check_openai_chat(body)
    assert error is not None
    assert error["error"]["type"] == "invalid_request_error"


def test_openai_takes() -> None:
    assert check_openai_chat({"model": "m", "messages": [USER, CALLS, RESULT, USER]}) is None


USE = {"type": "tool_use", "id": "a", "name": "tide", "input": {}}
DONE = {"type": "tool_result", "tool_use_id": "a", "content": "06:10"}
TEXT = {"type": "text", "text": "Hi"}
THOUGHT = {"type": "thinking", "thinking": "Hm", "signature": sign("Hm")}
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


def turns(*contents: Any) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"model": "m", "max_tokens": 2048, "messages": messages}


@pytest.mark.parametrize(
    "body",
    [
        {"model": "m", "messages": [USER]},
        {"max_tokens": 5, "messages": [USER]},
        turns(),
        turns("Hi") | {"messages": [{"role": "system", "content": "Hi"}]},
        turns("Hi") | {"messages": [{"role": "assistant", "content": "Hi"}]},
        turns([]),
        turns([{"type": "text", "text": ""}]),
        turns("Hi") | {"system": ""},
        turns("Hi", [USE]),
        turns("Hi", [USE], "Hi"),
        turns("Hi", [USE], [TEXT, DONE]),
        turns("Hi", [USE], [DONE, DONE]),
        turns("Hi", [USE, USE], [DONE]),
        turns("Hi", [USE | {"id": "no spaces"}], [DONE | {"tool_use_id": "no spaces"}]),
        turns("Hi", [USE | {"input": "{}"}], [DONE]),
        turns("Hi", "Hi", [DONE]),
        turns([USE]),
        turns("Hi", [DONE]),
        turns("Hi", [THOUGHT | {"signature": None}, TEXT]),
        turns("Hi", [THOUGHT | {"thinking": "Hmm"}, TEXT]),
        turns("Hi", [{"type": "redacted_thinking"}, TEXT]),
        turns("Hi", [USE], [DONE]) | THINKS,
        turns("Hi", [TEXT, THOUGHT, USE], [DONE]) | THINKS,
        turns("Hi") | THINKS | {"max_tokens": 1024},
        turns("Hi") | THINKS | {"temperature": 0.5},
        turns("Hi") | {"tools": [{"name": "x"}]},
        turns("Hi") | {"tool_choice": {"type": "auto"}},
    ],
)
def test_anthropic_refuses(body: dict[str, Any]) -> None:
    error = check_anthropic(body)
    assert error is not None
    assert error["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        turns("Hi", [TEXT, USE], [DONE, TEXT], "Hi", "Hi"),
        turns("Hi", [THOUGHT, USE], [DONE]) | THINKS,
        turns("Hi", [THOUGHT, USE], [DONE], [USE], [DONE], "Hi", "Hi") | THINKS,
    ],
)
def test_anthropic_takes(body: dict[str, Any]) -> None:
    assert check_anthropic(body) is None
