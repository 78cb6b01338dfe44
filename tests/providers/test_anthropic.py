"""The Messages API both ways: what goes out is what the vendor takes, and a turn goes back as it came."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError
from agentsvc.domain.events import ModelFailed, ModelFinished, ToolCallStarted
from agentsvc.domain.messages import FinishReason, Media, Message, ProviderState, Role, Text, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.anthropic import Anthropic
from agentsvc.providers.dialect import Endpoint
from tests.providers.recorded import ACME, DIALECTS, RECORDINGS, decode, hear
from tests.providers.strict import check_anthropic, sign

HERE = Endpoint("https://api.acme.test/", "secret")
TIDE = ToolSpec("tide", "When is high water?", {"type": "object", "properties": {"port": {"type": "string"}}})
THINKING = GenerationOptions(provider_options={"thinking": {"type": "enabled", "budget_tokens": 2000}})


def says(role: Role, *parts: str | Media, **more: Any) -> Message:
    return Message(role, tuple(Text(part) if isinstance(part, str) else part for part in parts), **more)


ASKED = says(Role.USER, "High water in Ayr and Brest?")
CALLS = (ToolCall("a", "tide", '{"port":"Ayr"}'), ToolCall("b", "tide", "{}"))
CALLED = says(Role.ASSISTANT, "Looking.", tool_calls=CALLS)
RESULTS = (
    says(Role.TOOL, "06:10", tool_call_id="a"),
    says(Role.TOOL, "no such port", tool_call_id="b", is_error=True),
)


def encode(*messages: Message, **options: Any) -> dict[str, Any]:
    request = ModelRequest("claude-x", messages or (ASKED,), **options)
    body: dict[str, Any] = json.loads(Anthropic(ACME).encode(request, HERE).body)
    assert check_anthropic(body) is None, check_anthropic(body)
    return body


def recorded(name: str) -> ModelFinished:
    recording = next(recording for recording in RECORDINGS if recording.name == f"anthropic/{name}")
    end = hear(decode(recording.decoder(), [recording.body])).end
    assert isinstance(end, ModelFinished)
    return end


def test_where_it_goes_and_with_which_key() -> None:
    request = ModelRequest("claude-x", (ASKED,), generation=GenerationOptions(provider_options={"betas": ["b1", "b2"]}))
    sent = Anthropic(ACME).encode(request, HERE)
    assert sent.url == "https://api.acme.test/v1/messages"
    assert sent.headers["x-api-key"] == "secret"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["anthropic-beta"] == "b1,b2"
    assert "betas" not in json.loads(sent.body)


def test_results_of_a_turn_are_one_message_before_any_text() -> None:
    body = encode(ASKED, CALLED, *RESULTS, says(Role.USER, "Hurry."), instructions="Be brief.", tools=(TIDE,))
    assert body["system"] == "Be brief."
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == [
        {"type": "text", "text": "Looking."},
        {"type": "tool_use", "id": "a", "name": "tide", "input": {"port": "Ayr"}},
        {"type": "tool_use", "id": "b", "name": "tide", "input": {}},
    ]
    assert body["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "06:10"}]},
        {
            "type": "tool_result",
            "tool_use_id": "b",
            "content": [{"type": "text", "text": "no such port"}],
            "is_error": True,
        },
        {"type": "text", "text": "Hurry."},
    ]


def test_ids_of_another_vendor_and_names_that_a_model_made_up_go_back_as_ones_that_are_taken() -> None:
    calls = (ToolCall("functions.tide:0", "high tide?", "{}"), ToolCall("functions.tide:1", "tide", "{}"))
    called = says(Role.ASSISTANT, tool_calls=calls)
    results = [says(Role.TOOL, "06:10", tool_call_id=call.tool_call_id) for call in calls]
    _, turn, answer = encode(ASKED, called, *results)["messages"]
    assert [block["name"] for block in turn["content"]] == ["high_tide_", "tide"]
    ids = [block["id"] for block in turn["content"]]
    assert ids == [block["tool_use_id"] for block in answer["content"]]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("arguments", ["{", "[1]", '{"a": NaN}'])
def test_arguments_that_are_no_object_are_the_callers_to_mend(arguments: str) -> None:
    with pytest.raises(AgentsvcError, match="arguments_json"):
        encode(ASKED, says(Role.ASSISTANT, tool_calls=(ToolCall("a", "tide", arguments),)))


def test_system_messages_go_to_the_top_and_empty_ones_nowhere() -> None:
    body = encode(says(Role.SYSTEM, "Speak Scots."), ASKED, says(Role.ASSISTANT, ""), says(Role.USER, "", "Well?"))
    assert body["system"] == "Speak Scots."
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": ASKED.text}, {"type": "text", "text": "Well?"}]}
    ]


def test_images_and_files_are_sent_as_the_vendor_takes_them() -> None:
    media = (
        Media("image", "image/png", b"\x89P"),
        Media("image", "", uri="https://x.test/a.png"),
        Media("file", "application/pdf", b"%PDF"),
        Media("file", "text/plain", "né".encode()),
    )
    (message,) = encode(says(Role.USER, *media))["messages"]
    assert message["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVA="}},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "né"}},
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "said"),
    [
        (None, None, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice(), True, {"type": "auto"}),
        (ToolChoice(ToolChoiceMode.REQUIRED), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice(ToolChoiceMode.TOOL, "tide"), None, {"type": "tool", "name": "tide"}),
        (ToolChoice(ToolChoiceMode.NONE), False, {"type": "none"}),
    ],
)
def test_a_tool_choice_is_said_in_the_vendors_words(
    choice: ToolChoice | None, parallel: bool | None, said: dict[str, Any] | None
) -> None:
    assert encode(tools=(TIDE,), tool_choice=choice, parallel_tool_calls=parallel).get("tool_choice") == said


def test_the_output_limit_leaves_room_for_thinking() -> None:
    assert encode()["max_tokens"] == 8192
    assert encode(generation=THINKING)["max_tokens"] == 8192 + 2000
    assert encode(generation=GenerationOptions(max_output_tokens=7, stop=("END",)))["max_tokens"] == 7


def test_vendors_own_tools_are_added_to_ours() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    body = encode(tools=(TIDE,), generation=GenerationOptions(provider_options={"tools": [search]}))
    assert body["tools"][1] == search
    with pytest.raises(AgentsvcError):
        encode(generation=GenerationOptions(provider_options={"system": "Obey me."}))


def test_two_turns_share_their_bytes_up_to_the_new_one() -> None:
    def body(*messages: Message, **options: Any) -> bytes:
        request = ModelRequest("claude-x", messages, instructions="Be brief.", tools=(TIDE,), **options)
        return Anthropic(ACME).encode(request, HERE).body

    first = body(ASKED, CALLED, *RESULTS, generation=GenerationOptions(temperature=0.1))
    second = body(ASKED, CALLED, *RESULTS, says(Role.ASSISTANT, "06:10."), says(Role.USER, "And tomorrow?"))
    assert second.startswith(first[: first.rindex(b"]", 0, first.index(b'"stream"'))])


# --- turns that go back as they came ---


def test_a_turn_that_thought_ends_with_its_blocks() -> None:
    end = recorded("thinking-call")
    assert end.provider_state == ProviderState(
        "anthropic",
        [
            {"type": "thinking", "thinking": "The tide matters.", "signature": "c2lnbmVk"},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "toolu_1", "name": "tide", "input": {"port": "Brest"}},
            {"type": "tool_use", "id": "toolu_2", "name": "now", "input": {}},
        ],
    )


def test_server_tools_and_citations_are_kept_and_told_as_annotations() -> None:
    recording = next(recording for recording in RECORDINGS if recording.name == "anthropic/server-tool")
    heard = hear(decode(recording.decoder(), [recording.body]))
    assert heard.annotations == [("server_tool", "web_search"), ("citation", "https://example.org/t")]
    assert not heard.calls
    assert isinstance(heard.end, ModelFinished)
    assert heard.end.provider_state is not None
    use, result, text = heard.end.provider_state.payload
    assert use["input"] == {"query": "tide"}
    assert result["content"][0]["encrypted_content"] == "xyz"
    assert (text["text"], text["citations"][0]["encrypted_index"]) == ("High at six.", "q")


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("redacted", ["redacted_thinking", "text"]), ("pause", ["text"]), ("whole", ["thinking", "text", "tool_use"])],
)
def test_state_of_other_turns(name: str, kinds: list[str]) -> None:
    state = recorded(name).provider_state
    assert state is not None
    assert [block["type"] for block in state.payload] == kinds


def test_a_plain_answer_has_no_state() -> None:
    assert recorded("text").provider_state is None


def thought(calls: tuple[ToolCall, ...] = CALLS) -> Message:
    blocks = [
        {"type": "thinking", "thinking": "Tides.", "signature": sign("Tides.")},
        {"type": "tool_use", "id": "toolu_1", "name": "tide", "input": {"port": "Ayr"}},
        {"type": "tool_use", "id": "toolu_2", "name": "tide", "input": {}},
    ]
    return says(Role.ASSISTANT, tool_calls=calls, provider_state=ProviderState("anthropic", blocks))


def test_a_thinking_turn_goes_back_signed_with_the_ids_we_gave() -> None:
    body = encode(ASKED, thought(), *RESULTS, tools=(TIDE,), generation=THINKING)
    assert [block.get("id", block.get("signature")) for block in body["messages"][1]["content"]] == [
        sign("Tides."),
        "a",
        "b",
    ]


def test_the_vendor_would_notice_a_lost_or_changed_signature() -> None:
    turn = thought()
    assert turn.provider_state is not None
    for changed in ({"signature": ""}, {"thinking": "Something else."}):
        head, *rest = turn.provider_state.payload
        lost = replace(turn, provider_state=ProviderState("anthropic", [head | changed, *rest]))
        with pytest.raises(AssertionError, match="signature"):
            encode(ASKED, lost, *RESULTS, generation=THINKING)


def test_a_turn_whose_calls_are_gone_is_told_anew() -> None:
    body = encode(ASKED, thought(CALLS[:1]), RESULTS[0])
    assert [block["type"] for block in body["messages"][1]["content"]] == ["tool_use"]


def test_the_state_of_another_vendor_stays_home() -> None:
    foreign = replace(CALLED, provider_state=ProviderState("gemini", [{"type": "thinking"}]))
    assert encode(ASKED, foreign, *RESULTS)["messages"][1] == encode(ASKED, CALLED, *RESULTS)["messages"][1]


def test_a_paused_turn_goes_back_and_is_continued() -> None:
    paused = says(Role.ASSISTANT, "Still searching.", provider_state=recorded("pause").provider_state)
    body = encode(ASKED, paused, says(Role.ASSISTANT, "Found it."), says(Role.USER, "Thanks."))
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


# --- oddities of the wire ---


def stream(*events: dict[str, Any]) -> list[Any]:
    return decode(DIALECTS["anthropic"].decoder(), [b"data: %b\n\n" % json.dumps(event).encode() for event in events])


USE = {"type": "tool_use", "id": None, "name": "tide", "input": {"port": "Ayr"}}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": None}}


def test_arguments_in_the_head_and_no_id() -> None:
    events = stream(
        {"type": "content_block_start", "index": 0, "content_block": USE},
        {"type": "content_block_stop", "index": 0},
        DELTA,
        {"type": "message_stop"},
    )
    assert events[0] == ToolCallStarted("call_0", "tide")
    assert hear(events).calls == {"call_0": ["tide", '{"port":"Ayr"}']}
    assert events[-1] == ModelFinished(FinishReason.TOOL_CALLS, None)


def test_a_stop_reason_is_an_end_without_message_stop() -> None:
    events = stream({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}}, DELTA)
    assert events[-1] == ModelFinished(FinishReason.STOP, None)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "content_block_delta", "index": 3, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "id": "a"}},
    ],
)
def test_calls_that_make_no_sense(event: dict[str, Any]) -> None:
    assert isinstance(stream(event, DELTA)[-1], ModelFailed)
