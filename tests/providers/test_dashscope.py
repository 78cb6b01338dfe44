"""DashScope's own API both ways: two addresses, options in an object of their own, a finish reason that is "null"."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Message, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.dashscope import DashScope
from tests.providers.native import ASKED, CALLED, FILE, HERE, LINKED, NOW, PICTURE, RESULTS, SCHEMA, TIDE, says
from tests.providers.native import encoded as encoded_for
from tests.providers.recorded import ACME, hear
from tests.providers.strict import check_dashscope

DASHSCOPE = DashScope(ACME)
NAMED = {"type": "function", "function": {"name": "tide"}}


def encoded(*messages: Message, **options: Any) -> dict[str, Any]:
    return encoded_for(DASHSCOPE, check_dashscope, *messages, **options)


@pytest.mark.parametrize(
    ("model", "question", "own", "address"),
    [
        ("qwen-plus", ASKED, {}, "text-generation"),
        ("qwen-plus", says(Role.USER, PICTURE), {}, "multimodal-generation"),
        ("qwen3-vl-plus", ASKED, {}, "multimodal-generation"),
        ("qwen9-plus", ASKED, {"multimodal": True}, "multimodal-generation"),
        ("qwen-vlx", ASKED, {}, "text-generation"),
    ],
)
def test_where_it_goes(model: str, question: Message, own: dict[str, Any], address: str) -> None:
    request = ModelRequest(model, (question,), generation=GenerationOptions(provider_options=own))
    sent = DASHSCOPE.encode(request, HERE)
    assert sent.url == f"https://api.acme.test/services/aigc/{address}/generation"
    assert (sent.headers["Authorization"], sent.headers["X-DashScope-SSE"]) == ("Bearer secret", "enable")
    assert b'"multimodal"' not in sent.body


def test_a_conversation_is_sent_with_all_its_turns_calls_and_results() -> None:
    body = encoded(ASKED, CALLED, *RESULTS, instructions="Be brief.")
    assert body["input"]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ASKED.text},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "tide", "arguments": '{"port":"Ayr"}'}},
                {"id": "b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "06:10"},
        {"role": "tool", "tool_call_id": "b", "content": "no clock"},
    ]


def test_increments_are_asked_for_even_when_the_whole_is_wanted() -> None:
    asked = {"result_format": "message", "incremental_output": True}
    assert encoded()["parameters"] == encoded(stream=False)["parameters"] == asked


def test_every_option_is_a_parameter() -> None:
    generation = GenerationOptions(0.0, 0.5, 64, ("END",), {"enable_thinking": True})
    expected = {"temperature": 0.0, "top_p": 0.5, "max_tokens": 64, "stop": ["END"], "enable_thinking": True}
    assert expected.items() <= encoded(generation=generation)["parameters"].items()


def test_a_schema_is_said_in_words_for_the_vendor_promises_only_json() -> None:
    body = encoded(response_schema=SCHEMA, instructions="Be brief.")
    assert body["parameters"]["response_format"] == {"type": "json_object"}
    assert body["input"]["messages"][0]["content"].startswith("Be brief.\n\n")
    assert '"hour"' in body["input"]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (ToolChoiceMode.AUTO, "auto"),
        (ToolChoiceMode.NONE, "none"),
        (ToolChoiceMode.REQUIRED, NAMED),
        (ToolChoiceMode.TOOL, NAMED),
    ],
)
def test_a_tool_choice_is_said_in_the_vendors_words(mode: ToolChoiceMode, said: Any) -> None:
    choice = ToolChoice(mode, "tide" if mode is ToolChoiceMode.TOOL else "")
    assert encoded(tools=(TIDE,), tool_choice=choice)["parameters"]["tool_choice"] == said
    assert "tool_choice" not in encoded(tool_choice=choice)["parameters"]


@pytest.mark.parametrize(("wanted", "said"), [(None, True), (True, True), (False, False)])
def test_calls_are_parallel_unless_told_otherwise(wanted: bool | None, said: bool) -> None:
    assert encoded(tools=(TIDE,), parallel_tool_calls=wanted)["parameters"]["parallel_tool_calls"] is said


def test_with_an_image_all_contents_are_lists() -> None:
    body = encoded(
        says(Role.USER, "Look:", PICTURE, LINKED), says(Role.ASSISTANT, "A heron."), ASKED, instructions="Brief."
    )
    assert [message["content"] for message in body["input"]["messages"]] == [
        [{"text": "Brief."}],
        [{"text": "Look:"}, {"image": "data:image/png;base64,iVA="}, {"image": "https://x.test/a.png"}],
        [{"text": "A heron."}],
        [{"text": ASKED.text}],
    ]


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([says(Role.USER, FILE)], {}),
        ([ASKED, CALLED, says(Role.TOOL, PICTURE, tool_call_id="a")], {}),
        ([ASKED], {"tools": (TIDE, NOW), "tool_choice": ToolChoice(ToolChoiceMode.REQUIRED)}),
    ],
)
def test_what_the_format_cannot_carry_is_refused(messages: list[Message], options: dict[str, Any]) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(*messages, **options)
    assert refusal.value.reason is Reason.CAPABILITY_MISSING


@pytest.mark.parametrize("name", ["model", "input", "incremental_output", "result_format"])
def test_provider_options_cannot_change_what_was_asked(name: str) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(generation=GenerationOptions(provider_options={name: 1}))
    assert refusal.value.error.violations[0].field == f"options.provider_options.{name}"


def test_a_piece_that_repeats_the_piece_before_is_said_twice() -> None:
    decoder = DASHSCOPE.decoder()
    piece = {"output": {"choices": [{"message": {"content": "ha"}, "finish_reason": "null"}]}}
    assert hear(decoder.feed(b"id:1\ndata:%b\n\n" % json.dumps(piece).encode() * 2)).text == "haha"
