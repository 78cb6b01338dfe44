"""A provider as a library: connected to, talked to by an agent, refused by vendors that are strict."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from typing import Any

import pytest

from agentsvc.domain.agents import StreamingMode, StreamingOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.engine.agent import Agent
from agentsvc.engine.tools import tool
from agentsvc.providers import PROVIDERS, Provider, connect
from agentsvc.providers.pool import PoolConfig, RetryPolicy
from tests.providers.lines import LINES
from tests.providers.strict import check_openai_chat
from tests.upstream import Call, Upstream, stream, until

ONCE = PoolConfig(retry=RetryPolicy(max_retries=0))


@tool
async def tide(port: str) -> str:
    """High water in a port."""
    return f"{port}: 06:10"


# --- connecting -----------------------------------------------------------------------------------------------------
async def test_the_scripted_provider_needs_nothing_and_has_a_default_model() -> None:
    async with connect("mock") as model:
        assert model.default_model == "mock-demo"
        answer = await Agent(model, tools=[tide]).generate("High water in Ayr?")
    assert "06:10" in answer.text


async def test_an_agent_without_a_model_name_asks_for_the_default_one() -> None:
    async with Upstream(
        stream([b'data: {"choices":[{"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'])
    ) as upstream:
        async with connect("openai", api_key="k", base_url=f"{upstream.url}/v1/") as model:
            assert (await Agent(model).generate("Hi")).text == "Hi"
            assert (await Agent(model, "gpt-5").generate("Hi")).text == "Hi"
            assert len(upstream.open) == 1
        assert [request.json["model"] for request in upstream.requests] == [PROVIDERS["openai"].default_model, "gpt-5"]
        assert {request.path for request in upstream.requests} == {"/v1/chat/completions"}
        assert upstream.requests[0].headers["authorization"] == "Bearer k"
    assert not upstream.open


async def test_a_vendor_that_streams_only_gives_the_whole_answer_too() -> None:
    async with (
        Upstream(vendor(wants_nothing)) as upstream,
        connect("qwen", api_key="k", base_url=upstream.url) as model,
    ):
        buffered = StreamingOptions(mode=StreamingMode.BUFFERED)
        answer = await Agent(model, tools=[tide], streaming=buffered).generate("High water in Ayr?")
        assert answer.text == "High water at 06:10."
        assert [request.json["stream"] for request in upstream.requests] == [True, True]


async def test_leaving_right_after_an_answer_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is complete with its ``[DONE]``, but its body goes on: the connection is closed, not forgotten."""
    forgotten: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", forgotten.append)
    answer = [frame({"content": "Hi"}, "stop") + b"data: [DONE]\n\n"]

    async def ask_and_leave(url: str) -> str:
        async with connect("openai", api_key="k", base_url=url) as model:
            return (await Agent(model).generate("Hi")).text

    async with Upstream(stream(answer, finish="stall")) as upstream:
        # As a script does it: its event loop ends with it.
        assert await asyncio.to_thread(asyncio.run, ask_and_leave(upstream.url)) == "Hi"
        await until(lambda: not upstream.open)
        gc.collect()
    assert not forgotten


async def test_further_settings_and_a_provider_of_ones_own() -> None:
    async with Upstream(stream([b"text Hi\n", b"end\n"])) as upstream:
        async with connect(LINES, api_key="k", base_url=upstream.url) as model:
            assert (await Agent(model).generate("Hi")).text == "Hi"
        async with connect("azure", api_key="k", base_url=upstream.url, extra={"model": "mini"}) as azure:
            assert azure.default_model == "mini"


@pytest.mark.parametrize(
    ("provider", "settings", "reason", "named"),
    [
        ("opnai", {}, Reason.INVALID_FIELD, "known are anthropic"),
        ("openai", {}, Reason.PROVIDER_NOT_CONFIGURED, "needs api_key."),
        ("azure", {"api_key": "k"}, Reason.PROVIDER_NOT_CONFIGURED, "needs base_url."),
        ("huawei", {}, Reason.PROVIDER_NOT_CONFIGURED, "needs api_key and base_url."),
        ("openai-compatible", {}, Reason.PROVIDER_NOT_CONFIGURED, "needs base_url."),
    ],
)
async def test_what_is_missing_is_named_as_an_argument(
    provider: str, settings: dict[str, Any], reason: Reason, named: str
) -> None:
    with pytest.raises(AgentsvcError, match=named) as refusal:
        async with connect(provider, **settings):
            pass
    assert refusal.value.reason is reason


# --- talking to strict vendors ----------------------------------------------------------------------------------------
Fault = str | None


def wants_reasoning(messages: list[dict[str, Any]]) -> Fault:
    """DeepSeek and Moonshot, in thinking mode."""
    for message in messages:
        if message.get("tool_calls") and message.get("reasoning_content") != "A table knows.":
            return "The reasoning_content in the thinking mode must be passed back to the API."
    return None


def wants_signatures(messages: list[dict[str, Any]]) -> Fault:
    """OpenRouter in front of Anthropic."""
    for message in messages:
        signed = {"type": "reasoning.text", "text": "A table knows.", "index": 0, "signature": "own"}
        if message.get("tool_calls") and message.pop("reasoning_details", None) != [signed]:
            return "messages.1.content.0: Invalid `signature` in `thinking` block"
    return None


def wants_nine_characters(messages: list[dict[str, Any]]) -> Fault:
    """Mistral."""
    ids = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    return next(
        (f"Tool call id was {i} but must be a-z, A-Z, 0-9, with a length of 9." for i in ids if len(i) != 9), None
    )


def wants_nothing(messages: list[dict[str, Any]]) -> Fault:
    return None


THOUGHT: list[dict[str, Any]] = [
    {
        "reasoning_content": "A table ",
        "reasoning_details": [{"type": "reasoning.text", "text": "A table ", "index": 0}],
    },
    {"reasoning_content": "knows.", "reasoning_details": [{"type": "reasoning.text", "text": "knows.", "index": 0}]},
    {"reasoning_details": [{"type": "reasoning.text", "signature": "own", "index": 0}]},
]
CALL = {"index": 0, "id": "call_of_some_length", "function": {"name": "tide", "arguments": '{"port":"Ayr"}'}}


def frame(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode()


def vendor(fault: Callable[[list[dict[str, Any]]], Fault]) -> Callable[[Call], Any]:
    """Thinks and calls a tool when it is asked, answers when it has the result; 400 for what ``fault`` finds."""

    async def handler(call: Call) -> None:
        body = call.request.json
        problem = fault(body["messages"]) or (check_openai_chat(body) or {}).get("error")
        if problem:
            error = {"error": {"message": problem, "type": "invalid_request_error"}}
            return await call.reply(400, json.dumps(error).encode())
        await call.start()
        if body["messages"][-1]["role"] == "tool":
            await call.send(frame({"content": "High water at 06:10."}, "stop"))
        else:
            for delta in [*THOUGHT, {"tool_calls": [CALL]}]:
                await call.send(frame(delta))
            await call.send(frame({}, "tool_calls"))
        return await call.end()

    return handler


STRICT = {
    "deepseek": wants_reasoning,
    "moonshot": wants_reasoning,
    "openrouter": wants_signatures,
    "mistral": wants_nine_characters,
}
CHAT = [provider for provider in PROVIDERS.values() if provider.dialect.name == "openai-chat"]


@pytest.mark.parametrize(
    "provider", [provider for provider in CHAT if provider.capabilities.tools], ids=lambda p: p.name
)
async def test_turns_with_tools_are_what_the_vendor_accepts(provider: Provider) -> None:
    strict = vendor(STRICT.get(provider.name, wants_nothing))
    async with (
        Upstream(strict) as upstream,
        connect(provider, api_key="k", base_url=upstream.url, config=ONCE) as model,
    ):
        agent = Agent(model, "m-1", instructions="Be brief.", tools=[tide])
        for _ in range(3):
            answer = await agent.generate("High water in Ayr?")
            assert (answer.text, answer.steps) == ("High water at 06:10.", 2)
        first, *_, last = (request.body for request in upstream.requests)
    assert len(upstream.requests) == 6
    prefix = first[: first.index(b'],"stream"')]
    assert last.startswith(prefix)  # tools, instructions and the first question: a cache that knows one knows the other


@pytest.mark.parametrize("fault", STRICT.values(), ids=STRICT)
async def test_a_strict_vendor_notices_what_is_lost(fault: Callable[[list[dict[str, Any]]], Fault]) -> None:
    """The fakes do refuse: the same conversation in the accent of somebody who sends nothing back."""
    async with (
        Upstream(vendor(fault)) as upstream,
        connect("xai", api_key="k", base_url=upstream.url, config=ONCE) as model,
    ):
        with pytest.raises(AgentsvcError) as refusal:
            await Agent(model, tools=[tide]).generate("High water in Ayr?")
        assert refusal.value.reason is Reason.PROVIDER_INVALID_REQUEST
        assert len(upstream.requests) == 2
