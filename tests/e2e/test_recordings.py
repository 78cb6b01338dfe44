"""Every recorded answer of a vendor, through the whole service: what a caller gets is what the recording says."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
import pytest_asyncio

from agentsvc import v1
from agentsvc.domain.messages import ToolSpec
from agentsvc.engine.tools import Tool
from tests.e2e.house import House, open_house
from tests.providers.recorded import DIALECTS, RECORDINGS, Recording
from tests.providers.test_streams import COUNTS, REASONS
from tests.upstream import Call, slices

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Which provider of ours is asked for a recording; a vendor with an accent is spoken to as the one it imitates.
ASKED = {"openai-chat": "openai", "anthropic": "anthropic"}
SERVED = [recording for recording in RECORDINGS if any(recording.dialect is DIALECTS[name] for name in ASKED)]
BY_NAME = {recording.name: recording for recording in SERVED}
FOLLOW_UP = {
    "chat/completions": b'data: {"choices":[{"index":0,"delta":{"content":"Done."},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n",
    "v1/messages": b'data: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
    b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"Done."}}\n\n'
    b'data: {"type":"content_block_stop","index":0}\n\n'
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":1}}\n\n'
    b'data: {"type":"message_stop"}\n\n',
}


async def answer_everything() -> str:
    return "It worked."


def willing(name: str) -> Tool:
    """A tool that takes any arguments."""
    return Tool(ToolSpec(name, "", {"type": "object"}), answer_everything, msgspec.defstruct("Anything", []))


def provider_of(recording: Recording) -> str:
    return next(provider for name, provider in ASKED.items() if recording.dialect is DIALECTS[name])


TOOLS = {call["name"] for recording in SERVED for call in recording.expect["tool_calls"]}


async def replay(call: Call) -> None:
    """The recording that the request names, cut at random bytes; a plain stop when it is asked to go on."""
    request = call.request.json
    recording = BY_NAME[request["recording"]]
    if len(request["messages"]) > 1:
        await call.start()
        await call.send(next(body for path, body in FOLLOW_UP.items() if call.request.path.endswith(path)))
        return await call.end()
    kind = recording.headers.get("content-type", "text/event-stream")
    await call.start(recording.status, kind)
    for piece in slices(recording.body, random.Random(recording.name)):
        await call.send(piece)
        await asyncio.sleep(0)  # else the next one arrives with it
    return await call.end()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house() -> AsyncIterator[House]:
    async with open_house(replay, tools=map(willing, TOOLS)) as opened:
        yield opened


async def ask(house: House, recording: Recording) -> Any:
    tools = dict.fromkeys(call["name"] for call in recording.expect["tool_calls"])
    agent = await house.agent(provider_of(recording), tools=tools)
    options = v1.ChatOptions()
    options.provider_options.update({"recording": recording.name})
    return await house.ask(agent, options=options)


@pytest.mark.parametrize("recording", SERVED, ids=lambda recording: recording.name)
async def test_a_caller_gets_what_the_recording_says(house: House, recording: Recording) -> None:
    expect = recording.expect
    answer = await ask(house, recording)
    first = [event for event in answer.events if event.step == 1]
    text = "".join(event.text_delta.text for event in first)
    assert text == expect["text"] + (expect.get("refusal") or "")
    assert "".join(event.reasoning_delta.text for event in first) == expect["reasoning"]
    assert_calls(answer, expect["tool_calls"])
    if expect["error"]:
        assert_failed(answer, expect["error"]["kind"], provider_of(recording))
        assert answer.finished.partial_text == text
        said_nothing = not (text or expect["reasoning"] or expect["tool_calls"])
        assert_usage(answer.finished.usage, expect["usage"], refused=said_nothing)
    else:
        step = answer.all("step_completed")[0]
        assert v1.FinishReason.Name(step.finish_reason) == f"FINISH_REASON_{expect['finish_norm'].upper()}"
        assert_usage(step.usage, expect["usage"], refused=False)
        assert answer.status is grpc.StatusCode.OK


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


def assert_failed(answer: Any, kind: str, provider: str) -> None:
    reason = REASONS[kind]
    assert answer.finished.state == v1.RUN_STATE_FAILED
    assert answer.finished.error.reason == reason
    assert answer.finished.error.provider == provider
    assert answer.status.value[0] == reason.code


def assert_usage(usage: v1.Usage, expected: dict[str, int] | None, *, refused: bool) -> None:
    """The vendor's numbers; our own estimate, marked as one, where it named none: nothing for a refusal."""
    if expected is None:
        assert usage.estimated
        assert (usage.input_tokens > 0) is not refused
    else:
        assert {name: getattr(usage, COUNTS[name]) for name in expected} == expected


async def test_a_vendors_words_and_keys_stay_out_of_errors(house: House) -> None:
    refusals = [recording for recording in SERVED if recording.status != 200]
    for recording in refusals:
        answer = await ask(house, recording)
        assert "key-of" not in answer.finished.error.message
        assert recording.body.decode() not in answer.finished.error.message
