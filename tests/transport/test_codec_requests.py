from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from agentsvc import v1
from agentsvc.domain.agents import Budget, GenerationOptions, MemoryOptions, StreamingMode, StreamingOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import RunState
from agentsvc.domain.messages import Media, Message, MessageStatus, Role, Text, ToolCall
from agentsvc.domain.ports import Filter, PageRequest
from agentsvc.domain.runs import OnDisconnect, OnSessionBusy, RunOptions, RunRequest, ToolChoice, ToolChoiceMode
from agentsvc.transport import codec_requests as requests
from agentsvc.transport import validation
from agentsvc.transport.codec_agents import from_agent


def question(**fields: Any) -> v1.StreamChatRequest:
    """A valid request, from the JSON that a caller would write."""
    parsed = ParseDict({"agentId": "demo", "message": "hi", **fields}, v1.StreamChatRequest())
    validation.validate(parsed)
    return parsed


def run_request(**fields: Any) -> RunRequest:
    return requests.run_request(question(**fields), None)


def test_a_bare_question_leaves_everything_to_the_agent() -> None:
    assert run_request() == RunRequest("demo", (Text("hi"),))


def test_what_is_said_arrives() -> None:
    found = run_request(
        parts=[{"text": "and"}, {"image": {"mediaType": "image/png", "uri": "https://example.com/a.png"}}],
        sessionId="s",
        store=False,
        instructions="",
        userId="u",
        labels={"team": "a"},
        metadata={"n": 1, "deep": {"list": [1.5, None, True, "x"]}},
    )
    image = Media("image", "image/png", uri="https://example.com/a.png")
    assert found.parts == (Text("hi"), Text("and"), image)
    assert (found.session_id, found.store, found.instructions, found.user_id) == ("s", False, "", "u")
    assert found.labels == {"team": "a"}
    assert found.metadata == {"n": 1, "deep": {"list": [1.5, None, True, "x"]}}


def test_every_built_option_arrives() -> None:
    found = run_request(
        options={
            "provider": "openai",
            "model": "m",
            "temperature": 0,
            "topP": 0.5,
            "maxOutputTokens": 9,
            "stop": ["x"],
            "toolChoice": {"mode": "TOOL_CHOICE_MODE_TOOL", "name": "t"},
            "parallelToolCalls": False,
            "responseSchema": {"type": "object", "minProperties": 1},
            "providerOptions": {"seed": 7},
            "maxSteps": 3,
            "streaming": {
                "mode": "STREAMING_MODE_BUFFERED",
                "textBufferSize": 0,
                "textDeltaDelay": "0.25s",
                "emitMetadata": True,
                "emitTimings": True,
            },
            "memory": {"lastMessages": 0, "off": True},
            "budget": {"tokens": "5", "wallClock": "1.5s", "toolCalls": 2},
            "onDisconnect": "ON_DISCONNECT_CONTINUE_FOR",
            "continueFor": "60s",
            "onSessionBusy": "ON_SESSION_BUSY_QUEUE",
        }
    ).options
    assert found == RunOptions(
        provider="openai",
        model="m",
        generation=GenerationOptions(0.0, 0.5, 9, ("x",), {"seed": 7}),
        tool_choice=ToolChoice(ToolChoiceMode.TOOL, "t"),
        parallel_tool_calls=False,
        response_schema={"type": "object", "minProperties": 1},
        max_steps=3,
        streaming=StreamingOptions(StreamingMode.BUFFERED, 0, 0.25, True, None, True),
        memory=MemoryOptions(last_messages=0, off=True),
        budget=Budget(5, None, 1.5, 2),
        on_disconnect=OnDisconnect.CONTINUE_FOR,
        continue_for=60.0,
        on_session_busy=OnSessionBusy.QUEUE,
    )
    assert isinstance((found.response_schema or {})["minProperties"], int)


def test_the_callers_own_history_arrives_whole() -> None:
    found = run_request(
        history=[
            {"role": "MESSAGE_ROLE_USER", "parts": [{"text": "q"}]},
            {"role": "MESSAGE_ROLE_ASSISTANT", "toolCalls": [{"toolCallId": "c", "name": "t"}]},
            {"role": "MESSAGE_ROLE_TOOL", "toolCallId": "c", "parts": [{"text": "r"}], "isError": True},
            {"role": "MESSAGE_ROLE_ASSISTANT", "parts": [{"text": "half"}], "status": "MESSAGE_STATUS_PARTIAL"},
        ]
    ).history
    assert found == (
        Message(Role.USER, (Text("q"),)),
        Message(Role.ASSISTANT, (), (ToolCall("c", "t", "{}"),)),
        Message(Role.TOOL, (Text("r"),), tool_call_id="c", is_error=True),
        Message(Role.ASSISTANT, (Text("half"),), status=MessageStatus.PARTIAL),
    )


@pytest.mark.parametrize("arguments", ["{", "[1]", '{"a": NaN}', '{"a": "\\ud800"}', '{"a":' + "[" * 5000])
def test_arguments_in_a_history_that_no_vendor_takes_are_refused(arguments: str) -> None:
    turn = {
        "role": "MESSAGE_ROLE_ASSISTANT",
        "toolCalls": [{"toolCallId": "c", "name": "t", "argumentsJson": arguments}],
    }
    with pytest.raises(AgentsvcError) as raised:
        run_request(history=[turn])
    assert [v.field for v in raised.value.error.violations] == ["history[0].tool_calls[0].arguments_json"]


LAYERS: dict[str, Any] = {
    "fallbacks": [{"provider": "anthropic"}],
    "budget.cost": {"budget": {"cost": {"micros": "5"}}},
    "memory.top_k": {"memory": {"topK": 3}},
    "memory.max_wait": {"memory": {"maxWait": "0.1s"}},
    "streaming.emit_memory_updates": {"streaming": {"emitMemoryUpdates": True}},
    "client_tools": [{"name": "mine"}],
    "client_tool_mode": "CLIENT_TOOL_MODE_RETURN",
}


def asking_for(path: str) -> dict[str, Any]:
    value = LAYERS[path]
    return value if "." in path else {path: value}


@pytest.mark.parametrize("path", requests.UNBUILT_OPTIONS)
def test_an_option_that_is_not_built_yet_is_refused_by_name(path: str) -> None:
    with pytest.raises(AgentsvcError) as refused:
        run_request(options=asking_for(path))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in refused.value.error.violations] == [f"options.{path}"]


@pytest.mark.parametrize("path", requests.UNBUILT_LAYERS)
def test_an_agent_cannot_be_given_what_is_not_built_yet(path: str) -> None:
    agent = ParseDict({"llmConfig": {"provider": "mock"}, **asking_for(path)}, v1.Agent())
    with pytest.raises(AgentsvcError, match=f"agent.{path}"):
        from_agent(agent)


def test_a_feature_that_is_declined_need_not_be_built() -> None:
    options = run_request(options={"memory": {"topK": 0}, "streaming": {"emitMemoryUpdates": False}}).options
    assert (options.memory.top_k, options.streaming.emit_memory_updates) == (0, False)


def test_a_file_name_is_not_built_yet() -> None:
    with pytest.raises(AgentsvcError, match=r"parts\[0\].file.filename"):
        run_request(parts=[{"file": {"mediaType": "text/plain", "data": "eA==", "filename": "a.txt"}}])


@pytest.mark.parametrize("key", ["messages", "model", "stream", "tools"])
def test_what_the_service_sets_itself_cannot_be_smuggled_in(key: str) -> None:
    with pytest.raises(AgentsvcError, match=f"options.provider_options.{key}"):
        run_request(options={"providerOptions": {key: 1}})


def test_a_number_that_json_does_not_have_is_refused() -> None:
    request = question()
    request.metadata.update({"deep": {"n": float("nan")}})
    with pytest.raises(AgentsvcError, match=r"metadata.deep.n"):
        requests.run_request(request, None)


def test_the_fingerprint_tells_requests_apart_but_not_their_ids_nor_the_two_calls() -> None:
    one, same, other = run_request(requestId="a"), run_request(requestId="b"), run_request(requestId="a", userId="u")
    chat = requests.run_request(v1.ChatRequest(agent_id="demo", message="hi", request_id="c"), None)
    assert one.fingerprint == same.fingerprint == chat.fingerprint != other.fingerprint
    assert (one.request_id, len(one.fingerprint)) == ("a", 64)


def test_the_order_of_a_map_does_not_change_the_fingerprint() -> None:
    labels = {f"k{i}": str(i) for i in range(9)}
    one = run_request(requestId="a", labels=labels)
    two = run_request(requestId="a", labels=dict(reversed(labels.items())))
    assert one.fingerprint == two.fingerprint


def test_conditions_of_a_list_arrive() -> None:
    request = v1.ListRunsRequest(
        agent_id="a",
        session_id="s",
        user_id="u",
        states=[v1.RUN_STATE_FAILED, v1.RUN_STATE_RUNNING],
        labels={"k": "v"},
    )
    request.create_time_after.FromJsonString("2026-01-01T00:00:00Z")
    request.create_time_before.FromJsonString("2026-01-02T00:00:00Z")
    assert requests.filter_of(request) == Filter(
        "a",
        "s",
        "u",
        (RunState.FAILED, RunState.RUNNING),
        {"k": "v"},
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert requests.filter_of(v1.ListRunsRequest(page_size=3, page_token="t")) == Filter()


def test_a_time_no_calendar_has_is_refused() -> None:
    request = v1.ListRunsRequest()
    request.create_time_after.seconds = 1 << 60
    with pytest.raises(AgentsvcError, match="create_time_after"):
        requests.filter_of(request)


def test_a_page_has_50_items_unless_said_otherwise() -> None:
    assert requests.page(v1.ListRunsRequest()) == PageRequest(50, "")
    assert requests.page(v1.ListRunsRequest(page_size=3, page_token="t")) == PageRequest(3, "t")
