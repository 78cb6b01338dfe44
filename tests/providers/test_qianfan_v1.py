"""The old Qianfan API both ways: turns that alternate, one function call a turn, a token in the address."""

from __future__ import annotations

from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFailed, ModelFinished
from agentsvc.domain.messages import FinishReason, Message, ProviderState, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.qianfan_v1 import QianfanV1
from tests.providers.native import ASKED, CALLED, CALLS, HERE, NOW, PICTURE, RESULTS, SCHEMA, TIDE, heard, says, state
from tests.providers.native import encoded as encoded_for
from tests.providers.recorded import ACME
from tests.providers.strict import check_qianfan_v1

QIANFAN = QianfanV1(ACME)
CHAT = "https://api.acme.test/rpc/2.0/ai_custom/v1/wenxinworkshop/chat/"


def encoded(*messages: Message, **options: Any) -> dict[str, Any]:
    return encoded_for(QIANFAN, check_qianfan_v1, *messages, **options)


@pytest.mark.parametrize(
    ("model", "extra", "address"),
    [
        ("ERNIE-4.0-8K", {}, "completions_pro?access_token=secret"),
        ("completions", {}, "completions?access_token=secret"),
        ("ERNIE-Lite-8K", {"access_token": "24.a+b/c"}, "ernie-lite-8k?access_token=24.a%2Bb%2Fc"),
    ],
)
def test_the_model_and_the_token_are_in_the_address(model: str, extra: dict[str, str], address: str) -> None:
    sent = QIANFAN.encode(ModelRequest(model, (ASKED,)), Endpoint(HERE.base_url, HERE.api_key, extra))
    assert sent.url == CHAT + address
    assert not any("secret" in value for value in sent.headers.values())


def test_a_model_that_leads_elsewhere_is_refused() -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(model="../plugin/x")
    assert refusal.value.reason is Reason.INVALID_FIELD


def test_parallel_calls_are_told_one_after_the_other() -> None:
    body = encoded(says(Role.SYSTEM, "Speak Scots."), ASKED, CALLED, *RESULTS, instructions="Be brief.")
    assert body["system"] == "Be brief.\n\nSpeak Scots."
    assert body["messages"] == [
        {"role": "user", "content": ASKED.text},
        {
            "role": "assistant",
            "content": "Looking.",
            "function_call": {"name": "tide", "arguments": '{"port":"Ayr"}'},
        },
        {"role": "function", "name": "tide", "content": "06:10"},
        {"role": "assistant", "content": "", "function_call": {"name": "now", "arguments": "{}"}},
        {"role": "function", "name": "now", "content": "no clock"},
    ]


def test_turns_alternate_whatever_the_history() -> None:
    body = encoded(ASKED, says(Role.USER, "Well?"), says(Role.ASSISTANT, "So"), says(Role.ASSISTANT, "it goes."), ASKED)
    assert [message["content"] for message in body["messages"]] == [
        f"{ASKED.text}\n\nWell?",
        "So\n\nit goes.",
        ASKED.text,
    ]
    cancelled = encoded(ASKED, CALLED, *RESULTS, says(Role.USER, "Never mind."))
    assert [message["role"] for message in cancelled["messages"][-3:]] == ["function", "assistant", "user"]


def test_what_was_thought_about_a_call_is_an_annotation_and_goes_back_with_it() -> None:
    assert heard("baidu-v1/call").annotations == [("thoughts", "要先查潮汐。")]
    kept = ProviderState("qianfan-v1", state("baidu-v1/call"))
    turn = says(Role.ASSISTANT, tool_calls=CALLS[:1], provider_state=kept)
    assert encoded(ASKED, turn, RESULTS[0])["messages"][1]["function_call"]["thoughts"] == "要先查潮汐。"
    assert state("baidu-v1/call-after-text") is None


def test_every_option_has_its_field() -> None:
    generation = GenerationOptions(0.1, 0.5, 64, ("END",), {"disable_search": True})
    body = encoded(tools=(TIDE, NOW), generation=generation, response_schema=SCHEMA)
    expected = {
        "temperature": 0.1,
        "top_p": 0.5,
        "max_output_tokens": 64,
        "stop": ["END"],
        "response_format": "json_object",
        "disable_search": True,
    }
    assert expected.items() <= body.items()
    assert [function["description"] for function in body["functions"]] == [TIDE.description, "now"]
    assert '"hour"' in body["system"]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        (ToolChoiceMode.AUTO, None),
        (ToolChoiceMode.REQUIRED, {"type": "function", "function": {"name": "tide"}}),
        (ToolChoiceMode.TOOL, {"type": "function", "function": {"name": "tide"}}),
    ],
)
def test_a_tool_choice_is_said_in_the_vendors_words(mode: ToolChoiceMode, said: Any) -> None:
    choice = ToolChoice(mode, "tide" if mode is ToolChoiceMode.TOOL else "")
    assert encoded(tools=(TIDE,), tool_choice=choice).get("tool_choice") == said
    assert "functions" not in encoded(tools=(TIDE,), tool_choice=ToolChoice(ToolChoiceMode.NONE))


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([says(Role.USER, PICTURE)], {}),
        ([ASKED], {"tools": (TIDE, NOW), "tool_choice": ToolChoice(ToolChoiceMode.REQUIRED)}),
    ],
)
def test_what_the_format_cannot_carry_is_refused(messages: list[Message], options: dict[str, Any]) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(*messages, **options)
    assert refusal.value.reason is Reason.CAPABILITY_MISSING


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (2, Reason.PROVIDER_OVERLOADED),
        (6, Reason.PROVIDER_PERMISSION),
        (18, Reason.PROVIDER_RATE_LIMIT),
        (19, Reason.PROVIDER_QUOTA),
        (110, Reason.PROVIDER_AUTH),
        (336006, Reason.PROVIDER_INVALID_REQUEST),
        (999999, Reason.PROVIDER_SERVER_ERROR),
    ],
)
def test_errors_inside_a_200(code: int, reason: Reason) -> None:
    decoder = QIANFAN.body_decoder()
    decoder.feed(b'{"error_code":%d,"error_msg":"no"}' % code)
    (failed,) = decoder.close()
    assert isinstance(failed, ModelFailed)
    assert failed.error.reason is reason


def test_what_must_not_be_said_ends_the_answer() -> None:
    end = heard("baidu-v1/banned").end
    assert isinstance(end, ModelFinished)
    assert end.finish_reason is FinishReason.CONTENT_FILTER
