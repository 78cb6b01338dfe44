"""The Responses API both ways: items that go out as the vendor takes them, and reasoning that goes back encrypted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFinished, ToolCallStarted
from agentsvc.domain.messages import FinishReason, Message, ProviderState, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.openai_responses import OpenAIResponses
from tests.providers.native import (
    ASKED,
    CALLED,
    CALLS,
    FILE,
    HERE,
    LINKED,
    PICTURE,
    RESULTS,
    SCHEMA,
    TIDE,
    heard,
    says,
    state,
)
from tests.providers.native import encoded as encoded_for
from tests.providers.recorded import ACME, decode, hear
from tests.providers.strict import check_responses

RESPONSES = OpenAIResponses(ACME)


def encoded(*messages: Message, **options: Any) -> dict[str, Any]:
    return encoded_for(RESPONSES, check_responses, *messages, **options)


def test_where_it_goes_and_with_which_key() -> None:
    request = ModelRequest("gpt-5-mini", (ASKED,))
    azure = OpenAIResponses(ACME, key_header="api-key", key_prefix="", headers={"project": "OpenAI-Project"})
    sent = azure.encode(request, Endpoint("https://x.test/openai/v1", "secret", {"project": "p7"}))
    assert sent.url == "https://x.test/openai/v1/responses"
    assert (sent.headers["api-key"], sent.headers["OpenAI-Project"]) == ("secret", "p7")
    assert RESPONSES.encode(request, HERE).headers["Authorization"] == "Bearer secret"


def test_a_conversation_is_a_list_of_items() -> None:
    body = encoded(ASKED, CALLED, *RESULTS, instructions="Be brief.", tools=(TIDE,))
    assert body["instructions"] == "Be brief."
    assert body["input"] == [
        {"role": "user", "content": ASKED.text},
        {"role": "assistant", "content": "Looking."},
        {"type": "function_call", "call_id": "a", "name": "tide", "arguments": '{"port":"Ayr"}'},
        {"type": "function_call", "call_id": "b", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "06:10"},
        {"type": "function_call_output", "call_id": "b", "output": "no clock"},
    ]
    assert body["tools"][0] == {
        "type": "function",
        "name": "tide",
        "description": TIDE.description,
        "parameters": TIDE.parameters,
        "strict": False,
    }


@pytest.mark.parametrize(
    ("model", "reasons"),
    [("gpt-5-mini", True), ("o9", True), ("own-deployment", True), ("gpt-4.1", False), ("gpt-5.1-chat-latest", False)],
)
def test_nothing_is_kept_at_the_vendor(model: str, reasons: bool) -> None:
    body = encoded(model=model)
    assert body["store"] is False
    assert body.get("include") == (["reasoning.encrypted_content"] if reasons else None)


def test_every_option_has_its_field() -> None:
    generation = GenerationOptions(0.0, 0.5, 64, None, {"reasoning": {"effort": "low"}, "text": {"verbosity": "low"}})
    body = encoded(
        tools=(TIDE,),
        tool_choice=ToolChoice(ToolChoiceMode.TOOL, "tide"),
        parallel_tool_calls=False,
        generation=generation,
        response_schema=SCHEMA,
        stream=False,
    )
    expected = {
        "temperature": 0.0,
        "top_p": 0.5,
        "max_output_tokens": 64,
        "tool_choice": {"type": "function", "name": "tide"},
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low"},
        "stream": False,
    }
    assert expected.items() <= body.items()
    form = {"type": "json_schema", "name": "response", "schema": SCHEMA, "strict": True}
    assert body["text"] == {"format": form, "verbosity": "low"}


@pytest.mark.parametrize("mode", [ToolChoiceMode.AUTO, ToolChoiceMode.NONE, ToolChoiceMode.REQUIRED])
def test_tool_choice_by_word(mode: ToolChoiceMode) -> None:
    assert encoded(tools=(TIDE,), tool_choice=ToolChoice(mode))["tool_choice"] == mode.value
    assert "tool_choice" not in encoded(tool_choice=ToolChoice(mode))


def test_images_and_files_are_sent_as_the_vendor_takes_them() -> None:
    linked = type(FILE)("file", "", uri="https://x.test/a.pdf")
    shown = says(Role.TOOL, "a chart", PICTURE, tool_call_id="a")
    question = says(Role.USER, "Look:", PICTURE, LINKED, FILE, linked)
    body = encoded(question, says(Role.ASSISTANT, tool_calls=CALLS[:1]), shown)
    assert body["input"][0]["content"] == [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVA="},
        {"type": "input_image", "image_url": "https://x.test/a.png"},
        {"type": "input_file", "filename": "file.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
    ]
    assert [part["type"] for part in body["input"][2]["output"]] == ["input_text", "input_image"]


def test_stop_sequences_are_refused() -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(generation=GenerationOptions(stop=("END",)))
    assert refusal.value.reason is Reason.CAPABILITY_MISSING


@pytest.mark.parametrize("name", ["model", "input", "instructions", "stream", "previous_response_id", "background"])
def test_provider_options_cannot_change_what_was_asked(name: str) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(generation=GenerationOptions(provider_options={name: 1}))
    assert refusal.value.error.violations[0].field == f"options.provider_options.{name}"


# --- turns that go back as they came ---


def test_reasoning_goes_back_with_what_followed_under_our_ids() -> None:
    kept = ProviderState("openai-responses", state("openai-responses/reasoning-calls"))
    turn = says(Role.ASSISTANT, tool_calls=CALLS, provider_state=kept)
    reasoning, tide, now = encoded(ASKED, turn, *RESULTS)["input"][1:4]
    assert (reasoning["type"], reasoning["encrypted_content"]) == ("reasoning", "enc_0")
    assert [(call["call_id"], call["id"]) for call in (tide, now)] == [("a", "fc_1"), ("b", "fc_2")]


def test_a_turn_whose_calls_are_gone_is_told_anew() -> None:
    kept = ProviderState("openai-responses", state("openai-responses/reasoning-calls"))
    turn = says(Role.ASSISTANT, tool_calls=CALLS[:1], provider_state=kept)
    assert [item.get("type") for item in encoded(ASKED, turn, RESULTS[0])["input"][1:]] == [
        "function_call",
        "function_call_output",
    ]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("text", None),
        ("refusal", None),
        ("length", None),
        ("web-search", ["web_search_call", "message"]),
        ("whole", ["reasoning", "message", "function_call"]),
    ],
)
def test_state_of_other_turns(name: str, kinds: list[str] | None) -> None:
    kept = state(f"openai-responses/{name}")
    assert (kept and [item["type"] for item in kept]) == kinds


def test_reasoning_that_is_not_encrypted_cannot_go_back() -> None:
    item: dict[str, Any] = {"type": "reasoning", "id": "rs_0", "encrypted_content": None, "summary": []}
    end = stream({"type": "response.output_item.done", "output_index": 0, "item": item}, COMPLETED)[-1]
    assert end == ModelFinished(FinishReason.STOP, None)


# --- oddities of the wire ---

COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}


def stream(*events: dict[str, Any]) -> list[Any]:
    return decode(RESPONSES.decoder(), [b"data: %b\n\n" % json.dumps(event).encode() for event in events])


def test_tools_that_the_vendor_ran_and_sources_are_annotations() -> None:
    annotations = heard("openai-responses/web-search").annotations
    assert annotations == [("server_tool", "web_search"), ("citation", "https://example.org/tides")]
    assert heard("openai-responses/refusal").annotations == [("refusal", "true")]


def test_a_call_that_is_only_ever_done_is_a_call() -> None:
    item = {"type": "function_call", "call_id": "call_a", "name": "tide", "arguments": '{"port":"Ayr"}'}
    events = stream({"type": "response.output_item.done", "output_index": 0, "item": item}, COMPLETED)
    assert events[0] == ToolCallStarted("call_a", "tide")
    assert hear(events).calls == {"call_a": ["tide", '{"port":"Ayr"}']}


def test_a_call_cut_off_by_the_limit_says_so() -> None:
    item = {"type": "function_call", "call_id": "call_a", "name": "tide", "arguments": ""}
    head = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    end = stream(
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"po'},
        {"type": "response.incomplete", "response": head},
    )[-1]
    assert "max_output_tokens" in end.error.message


def test_what_is_not_known_says_nothing() -> None:
    events = stream({"type": "response.new", "delta": {"x": 1}}, {"type": "keepalive"}, COMPLETED)
    assert events == [ModelFinished(FinishReason.STOP, None)]
