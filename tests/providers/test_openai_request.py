"""Encoding for chat completions: what OpenAI takes, in an order that keeps prompt caches warm."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.messages import Media, Message, ProviderState, Role, Text, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.openai_chat import OpenAIChat
from agentsvc.providers.openai_request import Accent
from tests.providers.recorded import ACME
from tests.providers.strict import check_openai_chat

HERE = Endpoint("https://api.acme.test/v1", "secret", {"organization": "org_7"})
OPENAI = Accent()
TIDE = ToolSpec("tide", "When is high water?", {"type": "object", "properties": {"port": {"type": "string"}}})


def user(*parts: str | Media) -> Message:
    return Message(Role.USER, tuple(Text(part) if isinstance(part, str) else part for part in parts))


ASKED = user("High water in Ayr and Brest?")
CALLED = Message(Role.ASSISTANT, tool_calls=(ToolCall("a", "tide", '{"port":"Ayr"}'), ToolCall("b", "tide", "")))
RESULTS = (
    Message(Role.TOOL, (Text("06:10"),), tool_call_id="a"),
    Message(Role.TOOL, (Text("no such port"),), tool_call_id="b", is_error=True),
)


def encode(request: ModelRequest, accent: Accent = OPENAI) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(OpenAIChat(ACME, accent).encode(request, HERE).body)
    assert check_openai_chat(body) is None
    return body


def request(*messages: Message, **options: Any) -> ModelRequest:
    return ModelRequest("m-1", messages or (ASKED,), **options)


def test_where_it_goes_and_with_which_key() -> None:
    sent = OpenAIChat(ACME, Accent(headers={"organization": "OpenAI-Organization"})).encode(request(), HERE)
    assert sent.url == "https://api.acme.test/v1/chat/completions"
    assert sent.headers["Authorization"] == "Bearer secret"
    assert sent.headers["OpenAI-Organization"] == "org_7"


def test_an_accent_is_spoken() -> None:
    accent = Accent(
        address=lambda endpoint, model: f"{endpoint.base_url}/{model}",
        key_header="api-key",
        key_prefix="",
        max_tokens="max_tokens",
        asks_usage=False,
        body={"seed": 1},
    )
    asked = request(generation=GenerationOptions(max_output_tokens=9))
    sent = OpenAIChat(ACME, accent).encode(asked, HERE)
    assert (sent.url, sent.headers["api-key"]) == ("https://api.acme.test/v1/m-1", "secret")
    body = encode(asked, accent)
    assert (body["max_tokens"], body["seed"], body.get("stream_options")) == (9, 1, None)


def test_without_a_key_no_authorization_is_sent() -> None:
    sent = OpenAIChat(ACME).encode(request(), Endpoint("http://127.0.0.1:1"))
    assert "Authorization" not in sent.headers


def test_a_conversation_with_parallel_calls() -> None:
    body = encode(request(ASKED, CALLED, *RESULTS, instructions="Be brief.", tools=(TIDE,)))
    assert body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "High water in Ayr and Brest?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "tide", "arguments": '{"port":"Ayr"}'}},
                {"id": "b", "type": "function", "function": {"name": "tide", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "06:10"},
        {"role": "tool", "tool_call_id": "b", "content": "no such port"},
    ]
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_a_name_that_a_model_made_up_goes_back_as_one_that_is_taken() -> None:
    called = Message(Role.ASSISTANT, tool_calls=(ToolCall("a", "high tide?", "{}"),))
    (_, turn, _) = encode(request(ASKED, called, RESULTS[0]))["messages"]
    assert turn["tool_calls"][0]["function"]["name"] == "high_tide_"


def test_every_option_has_its_field() -> None:
    body = encode(
        request(
            tools=(TIDE,),
            tool_choice=ToolChoice(ToolChoiceMode.TOOL, "tide"),
            parallel_tool_calls=False,
            generation=GenerationOptions(temperature=0.0, top_p=0.5, max_output_tokens=64, stop=("END",)),
            response_schema={"type": "object", "additionalProperties": False},
            stream=False,
        )
    )
    expected = {
        "tool_choice": {"type": "function", "function": {"name": "tide"}},
        "parallel_tool_calls": False,
        "temperature": 0.0,
        "top_p": 0.5,
        "max_completion_tokens": 64,
        "stop": ["END"],
        "stream": False,
    }
    assert expected.items() <= body.items()
    assert body["response_format"]["json_schema"]["strict"] is True
    assert "stream_options" not in body


@pytest.mark.parametrize("mode", [ToolChoiceMode.AUTO, ToolChoiceMode.NONE, ToolChoiceMode.REQUIRED])
def test_tool_choice_by_word(mode: ToolChoiceMode) -> None:
    assert encode(request(tools=(TIDE,), tool_choice=ToolChoice(mode)))["tool_choice"] == mode.value


def test_options_about_tools_stay_home_without_tools() -> None:
    body = encode(request(tool_choice=ToolChoice(), parallel_tool_calls=True))
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & body.keys()


def test_images_and_files_are_sent_as_the_vendor_takes_them() -> None:
    picture = Media("image", "image/png", b"\x89P")
    body = encode(request(user("Look:", picture, Media("image", "", uri="https://x.test/a.png"))))
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVA="}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
    ]
    (file,) = encode(request(user(Media("file", "application/pdf", b"%PDF"))))["messages"][0]["content"]
    assert file["file"] == {"filename": "file.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}


@pytest.mark.parametrize(
    "message",
    [
        user(Media("file", "application/pdf", uri="https://x.test/a.pdf")),
        Message(Role.TOOL, (Media("image", "image/png", b"1"),), tool_call_id="a"),
    ],
)
def test_what_the_format_cannot_carry_is_refused(message: Message) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encode(request(ASKED, CALLED, message))
    assert refusal.value.reason is Reason.CAPABILITY_MISSING


def test_provider_options_come_last_and_their_tools_are_added() -> None:
    own = {"temperature": 0.9, "reasoning_effort": "low", "tools": [{"type": "function", "function": {"name": "x"}}]}
    body = encode(request(tools=(TIDE,), generation=GenerationOptions(temperature=0.1, provider_options=own)))
    assert (body["temperature"], body["reasoning_effort"]) == (0.9, "low")
    assert [tool["function"]["name"] for tool in body["tools"]] == ["tide", "x"]


@pytest.mark.parametrize("name", ["model", "messages", "stream"])
def test_provider_options_cannot_change_what_was_asked(name: str) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encode(request(generation=GenerationOptions(provider_options={name: 1})))
    assert refusal.value.error.violations[0].field == f"options.provider_options.{name}"


def test_two_turns_share_their_bytes_up_to_the_new_one() -> None:
    dialect = OpenAIChat(ACME)
    options: dict[str, Any] = {"instructions": "Be brief.", "tools": (TIDE,)}
    history = (ASKED, CALLED, *RESULTS)
    first = dialect.encode(request(*history, **options, generation=GenerationOptions(temperature=0.1)), HERE).body
    second = dialect.encode(request(*history, user("And tomorrow?"), **options), HERE).body
    shared = first.rindex(b"]", 0, first.index(b'"stream"'))
    assert second.startswith(first[:shared])


def test_the_state_of_another_vendor_stays_home() -> None:
    answered = Message(
        Role.ASSISTANT, (Text("06:10"),), provider_state=ProviderState("anthropic", [{"type": "thinking"}])
    )
    assert encode(request(ASKED, answered))["messages"][1] == {"role": "assistant", "content": "06:10"}
