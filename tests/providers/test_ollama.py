"""Ollama's chat API both ways: arguments as objects, options in their place, a line for every piece."""

from __future__ import annotations

from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFailed, TextDelta
from agentsvc.domain.messages import Message, Role, ToolCall
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.ollama import Ollama
from tests.providers.native import ASKED, CALLED, FILE, HERE, LINKED, PICTURE, RESULTS, SCHEMA, TIDE, says
from tests.providers.native import encoded as encoded_for
from tests.providers.recorded import ACME
from tests.providers.strict import check_ollama

OLLAMA = Ollama(ACME)


def encoded(*messages: Message, **options: Any) -> dict[str, Any]:
    return encoded_for(OLLAMA, check_ollama, *messages, **options)


def test_where_it_goes_with_a_key_or_without() -> None:
    request = ModelRequest("qwen3", (ASKED,))
    assert OLLAMA.encode(request, HERE).headers["Authorization"] == "Bearer secret"
    local = OLLAMA.encode(request, Endpoint("http://127.0.0.1:11434"))
    assert local.url == "http://127.0.0.1:11434/api/chat"
    assert "Authorization" not in local.headers


def test_a_conversation_is_sent_with_all_its_turns_calls_and_results() -> None:
    body = encoded(ASKED, CALLED, *RESULTS, instructions="Be brief.")
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ASKED.text},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"function": {"name": "tide", "arguments": {"port": "Ayr"}}},
                {"function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_name": "tide", "content": "06:10"},
        {"role": "tool", "tool_name": "now", "content": "no clock"},
    ]


def test_an_id_that_comes_again_in_a_later_turn_means_the_later_call() -> None:
    later = says(Role.ASSISTANT, tool_calls=(ToolCall("a", "now", "{}"),))
    noon = says(Role.TOOL, "noon", tool_call_id="a")
    messages = encoded(ASKED, CALLED, *RESULTS, ASKED, later, noon)["messages"]
    assert [message["tool_name"] for message in messages if message["role"] == "tool"] == ["tide", "now", "now"]


def test_every_option_has_its_field() -> None:
    own = {"think": "low", "options": {"num_ctx": 4096, "temperature": 1}}
    generation = GenerationOptions(0.0, 0.5, 64, ("END",), own)
    body = encoded(tools=(TIDE,), generation=generation, response_schema=SCHEMA, stream=False)
    assert body["options"] == {"temperature": 1, "top_p": 0.5, "num_predict": 64, "stop": ["END"], "num_ctx": 4096}
    assert (body["format"], body["think"], body["stream"]) == (SCHEMA, "low", False)
    assert "options" not in encoded()


def test_no_tool_is_said_by_leaving_them_out() -> None:
    assert "tools" in encoded(tools=(TIDE,), tool_choice=ToolChoice())
    assert "tools" not in encoded(tools=(TIDE,), tool_choice=ToolChoice(ToolChoiceMode.NONE))


def test_images_are_bytes() -> None:
    (message,) = encoded(says(Role.USER, "Look:", PICTURE))["messages"]
    assert message == {"role": "user", "content": "Look:", "images": ["iVA="]}


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([says(Role.USER, LINKED)], {}),
        ([says(Role.USER, FILE)], {}),
        ([ASKED, CALLED, says(Role.TOOL, PICTURE, tool_call_id="a")], {}),
        ([ASKED], {"tools": (TIDE,), "parallel_tool_calls": False}),
        ([ASKED], {"tools": (TIDE,), "tool_choice": ToolChoice(ToolChoiceMode.REQUIRED)}),
        ([ASKED], {"tools": (TIDE,), "tool_choice": ToolChoice(ToolChoiceMode.TOOL, "tide")}),
    ],
)
def test_what_the_format_cannot_carry_is_refused(messages: list[Message], options: dict[str, Any]) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(*messages, **options)
    assert refusal.value.reason is Reason.CAPABILITY_MISSING


def test_lines_of_one_read_are_one_delta() -> None:
    line = b'{"message":{"role":"assistant","content":"a"},"done":false}\n'
    assert OLLAMA.decoder().feed(line * 1000) == [TextDelta("a" * 1000)]


def test_a_call_without_a_name_makes_no_sense() -> None:
    (failed,) = OLLAMA.decoder().feed(b'{"message":{"tool_calls":[{"function":{"arguments":{}}}]},"done":true}\n')
    assert isinstance(failed, ModelFailed)
    assert failed.error.reason is Reason.MALFORMED_STREAM
