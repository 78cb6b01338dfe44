"""Cohere's chat API both ways: the plan before the calls, what goes back, and what the format cannot carry."""

from __future__ import annotations

from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFailed
from agentsvc.domain.messages import Message, ProviderState, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.cohere import Cohere
from tests.providers.native import (
    ASKED,
    CALLED,
    CALLS,
    FILE,
    HERE,
    LINKED,
    NOW,
    PICTURE,
    RESULTS,
    SCHEMA,
    TIDE,
    heard,
    says,
    state,
)
from tests.providers.native import encoded as encoded_for
from tests.providers.recorded import ACME
from tests.providers.strict import check_cohere

COHERE = Cohere(ACME)


def encoded(*messages: Message, **options: Any) -> dict[str, Any]:
    return encoded_for(COHERE, check_cohere, *messages, **options)


def test_where_it_goes_and_with_which_key() -> None:
    sent = COHERE.encode(ModelRequest("command-a", (ASKED,)), HERE)
    assert (sent.url, sent.headers["Authorization"]) == ("https://api.acme.test/v2/chat", "Bearer secret")


def test_a_conversation_is_sent_with_all_its_turns_calls_and_results() -> None:
    body = encoded(says(Role.SYSTEM, "Speak Scots."), ASKED, CALLED, *RESULTS, instructions="Be brief.")
    assert body["messages"] == [
        {"role": "system", "content": "Be brief.\n\nSpeak Scots."},
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
    assert body["stream"] is True


def test_every_option_has_its_field() -> None:
    generation = GenerationOptions(0.0, 0.5, 64, ("END",), {"seed": 7})
    body = encoded(generation=generation, response_schema=SCHEMA, stream=False)
    expected = {
        "temperature": 0.0,
        "p": 0.5,
        "max_tokens": 64,
        "stop_sequences": ["END"],
        "response_format": {"type": "json_object", "json_schema": SCHEMA},
        "seed": 7,
        "stream": False,
    }
    assert expected.items() <= body.items()


@pytest.mark.parametrize(
    ("choice", "word", "tools"),
    [
        (ToolChoice(), None, ["tide", "now"]),
        (ToolChoice(ToolChoiceMode.NONE), "NONE", ["tide", "now"]),
        (ToolChoice(ToolChoiceMode.REQUIRED), "REQUIRED", ["tide", "now"]),
        (ToolChoice(ToolChoiceMode.TOOL, "now"), "REQUIRED", ["now"]),
    ],
)
def test_a_tool_choice_is_said_in_the_vendors_words(choice: ToolChoice, word: str | None, tools: list[str]) -> None:
    body = encoded(tools=(TIDE, NOW), tool_choice=choice)
    assert body.get("tool_choice") == word
    assert [tool["function"]["name"] for tool in body["tools"]] == tools


def test_images_are_sent_as_the_vendor_takes_them() -> None:
    (message,) = encoded(says(Role.USER, "Look:", PICTURE, LINKED))["messages"]
    assert message["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVA="}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
    ]


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([says(Role.USER, FILE)], {}),
        ([ASKED, CALLED, says(Role.TOOL, PICTURE, tool_call_id="a")], {}),
        ([ASKED], {"tools": (TIDE,), "parallel_tool_calls": False}),
        ([ASKED], {"tools": (TIDE,), "response_schema": SCHEMA}),
    ],
)
def test_what_the_format_cannot_carry_is_refused(messages: list[Message], options: dict[str, Any]) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(*messages, **options)
    assert refusal.value.reason is Reason.CAPABILITY_MISSING


def test_a_plan_is_an_annotation_before_the_first_call_and_goes_back() -> None:
    answer = heard("cohere/planned-calls")
    assert (answer.reasoning, answer.annotations) == ("", [("tool_plan", "I will look.")])
    kept = ProviderState("cohere-v2", state("cohere/planned-calls"))
    turn = says(Role.ASSISTANT, tool_calls=CALLS, provider_state=kept)
    assert encoded(ASKED, turn, *RESULTS)["messages"][1]["tool_plan"] == "I will look."


def test_thinking_before_calls_goes_back_with_them() -> None:
    kept = ProviderState("cohere-v2", state("cohere/thinking-call"))
    turn = says(Role.ASSISTANT, "So.", tool_calls=CALLS, provider_state=kept)
    assert encoded(ASKED, turn, *RESULTS)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "The tide matters."},
        {"type": "text", "text": "So."},
    ]
    assert state("cohere/thinking") is None


def test_sources_are_annotations() -> None:
    assert heard("cohere/cited").annotations == [("citation", "doc:0")]


def test_a_timeout_of_the_vendors_is_worth_another_try() -> None:
    failed = heard("cohere/timeout").end
    assert isinstance(failed, ModelFailed)
    assert (failed.error.retryable, failed.error.metadata) == (True, {"provider_code": "TIMEOUT"})
