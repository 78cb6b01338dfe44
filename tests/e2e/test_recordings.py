"""Every recorded answer of a vendor, through the whole service: what a caller gets is what the recording says."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import msgspec
import pytest
import pytest_asyncio

from agentsvc import v1
from agentsvc.domain.messages import ToolSpec
from agentsvc.engine.tools import Tool
from agentsvc.providers import PROVIDERS
from agentsvc.providers.dialect import Endpoint
from tests.e2e.house import House, open_house
from tests.providers.recorded import DIALECTS, OWN, RECORDINGS, Recording
from tests.providers.test_streams import COUNTS, REASONS
from tests.upstream import Call, Upstream, slices

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The provider of ours that is asked for a vendor's recording, where it does not have the vendor's name: some vendors have
# several surfaces, and some have no name here.
ASKED = {
    ("azure", "openai-responses"): "openai-responses",
    ("baidu", "qianfan-v1"): "baidu-v1",
    ("openai", "openai-responses"): "openai-responses",
    ("qwen", "dashscope"): "qwen-native",
    ("avian", "openai-chat"): "openai-compatible",
    ("huggingface", "openai-chat"): "openai-compatible",
    ("llamacpp", "openai-chat"): "openai-compatible",
    ("ollama-openai", "openai-chat"): "openai-compatible",
}
# How the path ends at which each dialect's vendors are asked.
PATHS = {
    "openai-chat": r"/chat/completions",
    "openai-responses": r"/responses",
    "anthropic": r"/v1/messages",
    "gemini": r"/v1beta/models/[\w.-]+:streamGenerateContent\?alt=sse",
    "cohere-v2": r"/v2/chat",
    "ollama": r"/api/chat",
    "dashscope": r"/api/v1/services/aigc/text-generation/generation",
    "qianfan-v1": r"/rpc/2\.0/ai_custom/v1/wenxinworkshop/chat/[\w-]+\?access_token=key-of-baidu-v1",
}
ANNOTATIONS = {"tool_plan": "tool_plan", "tool_thoughts": "thoughts", "server_tool_calls": "server_tool"}
BY_NAME = {recording.name: recording for recording in RECORDINGS}
TOOLS = {call["name"] for recording in RECORDINGS for call in recording.expect["tool_calls"]}
FILES = [*OWN.glob("*/*.json"), *Path(os.environ.get("AGENTSVC_RECORDINGS") or os.devnull).glob("*.json")]
NUMBERS = count(1)
WORKED = "It worked."


def going_on(dialect: str) -> Recording:
    """The answer to whoever asks again with what a recording led to: one of our own, plain text and a stop."""
    own = (recording for recording in RECORDINGS if recording.name.endswith("/text"))
    return next(recording for recording in own if recording.dialect is DIALECTS[dialect])


GOING_ON = {dialect: going_on(dialect) for dialect in DIALECTS}


async def answer_everything() -> str:
    return WORKED


def willing(name: str) -> Tool:
    """A tool that takes any arguments."""
    return Tool(ToolSpec(name, "", {"type": "object"}), answer_everything, msgspec.defstruct("Anything", []))


def dialect_of(recording: Recording) -> str:
    return next(name for name, dialect in DIALECTS.items() if dialect is recording.dialect)


def provider_of(recording: Recording) -> str:
    return ASKED.get((recording.provider, dialect_of(recording)), recording.provider)


class Replay:
    """An upstream's handler: the recording that a question names, cut at random bytes; asked once more, a plain answer."""

    def __init__(self) -> None:
        self.heard: set[bytes] = set()

    async def __call__(self, call: Call) -> None:
        asked = re.search(rb"\d+: ([\w./-]+) in pieces of (\d+)", call.request.body)
        assert asked is not None, call.request.body
        recording, longest = BY_NAME[asked[1].decode()], int(asked[2])
        dialect = dialect_of(recording)
        assert re.search(PATHS[dialect] + "$", call.request.path), call.request.path
        if asked[0] in self.heard:
            assert not recording.expect["tool_calls"] or WORKED.encode() in call.request.body
            recording = GOING_ON[dialect]
        self.heard.add(asked[0])
        headers = {name: value for name, value in recording.headers.items() if name != "x-note"}
        await call.start(recording.status, headers=headers)
        rng = random.Random(recording.name)
        for piece in slices(recording.body, rng, max(longest, len(recording.body) // 2000)):
            await call.send(piece)
            await asyncio.sleep(0)  # else the next one arrives with it
        await call.end()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house() -> AsyncIterator[House]:
    async with Upstream(Replay()) as upstream:
        endpoints = {
            name: (Endpoint(upstream.url + urlsplit(provider.base_url).path, f"key-of-{name}", {"model": "m-1"}),)
            for name, provider in PROVIDERS.items()
        }
        async with open_house(tools=map(willing, TOOLS), endpoints=endpoints) as opened:
            yield opened


async def ask(house: House, recording: Recording, longest: int = 1000) -> Any:
    tools = dict.fromkeys(call["name"] for call in recording.expect["tool_calls"])
    agent = await house.agent(provider_of(recording), tools=tools)
    options = v1.ChatOptions(streaming=v1.StreamingOptions(emit_metadata=True))
    question = f"{next(NUMBERS)}: {recording.name} in pieces of {longest}"
    return await house.ask(agent, message=question, options=options)


async def test_no_recording_is_left_out() -> None:
    assert len(BY_NAME) == len(FILES)
    assert {provider_of(recording) for recording in RECORDINGS} == set(PROVIDERS)


@pytest.mark.parametrize("longest", [6, 600])
@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording.name)
async def test_a_caller_gets_what_the_recording_says(house: House, recording: Recording, longest: int) -> None:
    expect = recording.expect
    answer = await ask(house, recording, longest)
    first = [event for event in answer.events if event.step == 1]
    text = "".join(event.text_delta.text for event in first)
    assert text == expect["text"] + (expect.get("refusal") or "")
    assert "".join(event.reasoning_delta.text for event in first) == expect["reasoning"]
    assert_calls(answer, expect["tool_calls"])
    assert_annotations(first, expect)
    if expect["error"]:
        assert_failed(answer, recording)
        assert answer.finished.partial_text == text
        said_nothing = not (text or expect["reasoning"] or expect["tool_calls"])
        assert_usage(answer.finished.usage, expect["usage"], refused=said_nothing)
    else:
        step = answer.all("step_completed")[0]
        assert v1.FinishReason.Name(step.finish_reason) == f"FINISH_REASON_{expect['finish_norm'].upper()}"
        assert_usage(step.usage, expect["usage"], refused=False)
        assert answer.status is grpc.StatusCode.OK
        last = expect["finish_norm"] not in {"tool_calls", "pause"}
        assert answer.one("generation_completed").text == (
            text if last else GOING_ON[dialect_of(recording)].expect["text"]
        )


def assert_calls(answer: Any, expected: list[dict[str, Any]]) -> None:
    """Started, spelt out and requested: the same calls, in the order in which they began."""
    started = answer.all("tool_call_started")
    assert [call.name for call in started] == [call["name"] for call in expected]
    fragments = {call.tool_call_id: "" for call in started}
    for delta in answer.all("tool_call_arguments_delta"):
        fragments[delta.tool_call_id] += delta.fragment
    wanted = [json.loads(call["arguments_json"] or "{}") for call in expected]
    assert [json.loads(text or "{}") for text in fragments.values()] == wanted
    given = [(call["id"], begun.tool_call_id) for call, begun in zip(expected, started, strict=True) if call["id"]]
    assert all(theirs == ours for theirs, ours in given)
    requested = answer.all("tool_call_requested")
    if answer.finished.state == v1.RUN_STATE_COMPLETED:
        assert [json.loads(call.arguments_json) for call in requested] == wanted
        results = answer.all("tool_result")
        assert {result.tool_call_id for result in results} == {call.tool_call_id for call in started}
        assert all(result.status == v1.TOOL_STATUS_OK for result in results)


def assert_annotations(events: list[v1.ChatEvent], expect: dict[str, Any]) -> None:
    """What was told beside the answer, where the recording tells it too."""
    for name, key in ANNOTATIONS.items():
        if told := expect.get(name):
            heard = [event.annotation.value for event in events if event.annotation.key == key]
            assert heard == [word.removesuffix("_call") for word in ([told] if isinstance(told, str) else told)]


def assert_failed(answer: Any, recording: Recording) -> None:
    reason = REASONS[recording.expect["error"]["kind"]]
    error = answer.finished.error
    assert answer.finished.state == v1.RUN_STATE_FAILED
    assert error.reason == reason
    assert error.provider == provider_of(recording)
    assert answer.status.value[0] == reason.code
    if told := recording.headers.get("retry-after"):
        assert error.retry_after.ToTimedelta().total_seconds() == float(told)


def assert_usage(usage: v1.Usage, expected: dict[str, int] | None, *, refused: bool) -> None:
    """The vendor's numbers; our own estimate, marked as one, where it named none: nothing for a refusal."""
    if expected is None:
        assert usage.estimated
        assert (usage.input_tokens > 0) is not refused
    else:
        # No count, or a 0, for what was sent or answered: there our estimate stands.
        counted = {name: number for name, number in expected.items() if number or not usage.estimated}
        assert {name: getattr(usage, COUNTS[name]) for name in counted} == counted
        assert not (usage.estimated and expected.get("input") and expected.get("output"))


async def test_a_vendors_words_and_keys_stay_out_of_errors(house: House) -> None:
    refusals = [recording for recording in RECORDINGS if recording.status != 200]
    for recording in refusals:
        answer = await ask(house, recording)
        assert "key-of" not in answer.finished.error.message
        assert recording.body.decode() not in answer.finished.error.message
