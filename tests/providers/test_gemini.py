"""generateContent both ways: parts that go out as the vendor takes them, and signatures that come back on their part."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFailed, ModelFinished
from agentsvc.domain.messages import FinishReason, Message, ProviderState, Role
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers.dialect import Endpoint
from agentsvc.providers.gemini import Gemini
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
from tests.providers.recorded import ACME, decode, hear
from tests.providers.strict import check_gemini

GEMINI = Gemini(ACME)


def encoded(*messages: Message, **options: Any) -> dict[str, Any]:
    return encoded_for(GEMINI, check_gemini, *messages, **options)


@pytest.mark.parametrize(
    ("model", "stream", "extra", "url"),
    [
        ("gemini-x", True, {}, "https://api.acme.test/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
        ("gemini-x", False, {}, "https://api.acme.test/v1beta/models/gemini-x:generateContent"),
        ("tunedModels/own", False, {"api_version": "v1"}, "https://api.acme.test/v1/tunedModels/own:generateContent"),
    ],
)
def test_where_it_goes_and_with_which_key(model: str, stream: bool, extra: dict[str, str], url: str) -> None:
    here = Endpoint(HERE.base_url, HERE.api_key, extra)
    sent = GEMINI.encode(ModelRequest(model, (ASKED,), stream=stream), here)
    assert (sent.url, sent.headers["x-goog-api-key"]) == (url, "secret")


@pytest.mark.parametrize("model", ["../../secrets", "a?b", "a:b", "", "a/../b"])
def test_a_model_that_leads_elsewhere_is_refused(model: str) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(model=model)
    assert refusal.value.reason is Reason.INVALID_FIELD


def test_results_of_a_turn_are_one_turn_before_any_text() -> None:
    body = encoded(
        says(Role.SYSTEM, "Speak Scots."), ASKED, CALLED, *RESULTS, says(Role.USER, "Hurry."), instructions="Be brief."
    )
    assert body["systemInstruction"] == {"parts": [{"text": "Be brief.\n\nSpeak Scots."}]}
    assert [turn["role"] for turn in body["contents"]] == ["user", "model", "user"]
    assert body["contents"][2]["parts"] == [
        {"functionResponse": {"name": "tide", "response": {"output": "06:10"}}},
        {"functionResponse": {"name": "now", "response": {"error": "no clock"}}},
        {"text": "Hurry."},
    ]


def test_an_id_of_the_vendors_goes_back_with_the_result() -> None:
    kept = [{"functionCall": {"id": "f7", "name": "tide", "args": {}}, "thoughtSignature": "s"}]
    called = says(Role.ASSISTANT, tool_calls=CALLS[:1], provider_state=ProviderState("gemini", kept))
    contents = encoded(ASKED, called, RESULTS[0])["contents"]
    assert contents[1]["parts"] == kept
    assert contents[2]["parts"][0]["functionResponse"]["id"] == "f7"


def test_every_option_has_its_field() -> None:
    body = encoded(
        tools=(TIDE, NOW),
        tool_choice=ToolChoice(ToolChoiceMode.TOOL, "tide"),
        generation=GenerationOptions(temperature=0.0, top_p=0.5, max_output_tokens=64, stop=("END",)),
        response_schema=SCHEMA,
    )
    assert body["generationConfig"] == {
        "temperature": 0.0,
        "topP": 0.5,
        "maxOutputTokens": 64,
        "stopSequences": ["END"],
        "responseMimeType": "application/json",
        "responseJsonSchema": SCHEMA,
    }
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": "ANY", "allowedFunctionNames": ["tide"]}
    tide, now = body["tools"][0]["functionDeclarations"]
    assert tide == {"name": "tide", "description": TIDE.description, "parametersJsonSchema": TIDE.parameters}
    assert now["parametersJsonSchema"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("mode", "word"), [(ToolChoiceMode.AUTO, "AUTO"), (ToolChoiceMode.NONE, "NONE"), (ToolChoiceMode.REQUIRED, "ANY")]
)
def test_a_tool_choice_is_said_in_the_vendors_words(mode: ToolChoiceMode, word: str) -> None:
    body = encoded(tools=(TIDE,), tool_choice=ToolChoice(mode))
    assert body["toolConfig"]["functionCallingConfig"] == {"mode": word}
    assert "toolConfig" not in encoded(tool_choice=ToolChoice(mode))


def test_calls_one_at_a_time_cannot_be_promised() -> None:
    assert "parallel" not in json.dumps(encoded(tools=(TIDE,), parallel_tool_calls=True))
    with pytest.raises(AgentsvcError) as refusal:
        encoded(tools=(TIDE,), parallel_tool_calls=False)
    assert refusal.value.reason is Reason.CAPABILITY_MISSING


def test_images_and_files_are_sent_as_the_vendor_takes_them() -> None:
    shown = says(Role.TOOL, "a chart", PICTURE, tool_call_id="a")
    body = encoded(says(Role.USER, "Look:", PICTURE, LINKED, FILE), says(Role.ASSISTANT, tool_calls=CALLS[:1]), shown)
    assert body["contents"][0]["parts"] == [
        {"text": "Look:"},
        {"inlineData": {"mimeType": "image/png", "data": "iVA="}},
        {"fileData": {"fileUri": "https://x.test/a.png"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBERg=="}},
    ]
    assert [min(part) for part in body["contents"][2]["parts"]] == ["functionResponse", "inlineData"]


def test_provider_options_are_laid_over_ours() -> None:
    own = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}, "temperature": 1}, "safetySettings": []}
    body = encoded(generation=GenerationOptions(temperature=0.5, max_output_tokens=9, provider_options=own))
    assert body["generationConfig"] == {
        "temperature": 1,
        "maxOutputTokens": 9,
        "thinkingConfig": {"includeThoughts": True},
    }
    search = GenerationOptions(provider_options={"tools": [{"googleSearch": {}}]})
    assert encoded(tools=(TIDE,), generation=search)["tools"][1] == {"googleSearch": {}}


@pytest.mark.parametrize("name", ["model", "contents", "systemInstruction", "system_instruction"])
def test_provider_options_cannot_change_what_was_asked(name: str) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encoded(generation=GenerationOptions(provider_options={name: 1}))
    assert refusal.value.error.violations[0].field == f"options.provider_options.{name}"


# --- turns that go back as they came ---


def test_signatures_stay_on_their_part() -> None:
    assert state("gemini/signed-calls") == [
        {"text": "Looking."},
        {"functionCall": {"name": "tide", "args": {"port": "Ayr"}}, "thoughtSignature": "c2lnbmVk"},
        {"functionCall": {"name": "now"}},
    ]
    assert state("gemini/signed-text") == [
        {"text": "High water at six — 六時。"},
        {"text": "", "thoughtSignature": "bGFzdA=="},
    ]
    assert state("gemini/array") == [{"text": "Reading"}, {"functionCall": {"id": "f7", "name": "tide", "args": {}}}]


@pytest.mark.parametrize("name", ["gemini/text", "gemini/length"])
def test_a_plain_answer_has_no_state(name: str) -> None:
    assert state(name) is None


def test_a_turn_whose_calls_are_gone_is_told_anew_under_the_vendors_own_excuse() -> None:
    kept = ProviderState("gemini", state("gemini/signed-calls"))
    turn = says(Role.ASSISTANT, "Looking.", tool_calls=CALLS[:1], provider_state=kept)
    assert encoded(ASKED, turn, RESULTS[0], model="gemini-3-flash")["contents"][1]["parts"] == [
        {"text": "Looking."},
        {
            "functionCall": {"name": "tide", "args": {"port": "Ayr"}},
            "thoughtSignature": "skip_thought_signature_validator",
        },
    ]


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "models/gemini-2.0-flash", "gemini-1.5-pro"])
def test_older_models_know_no_excuses(model: str) -> None:
    request = ModelRequest(model, (ASKED, CALLED, *RESULTS))
    assert b"thoughtSignature" not in GEMINI.encode(request, HERE).body


def test_what_the_vendor_ran_and_where_it_looked_are_annotations() -> None:
    assert heard("gemini/grounded").annotations == [
        ("server_tool", "code_execution"),
        ("citation", "https://example.org/tides"),
    ]
    assert [min(part) for part in state("gemini/grounded")] == ["executableCode", "codeExecutionResult", "text"]


# --- ends ---


def end(*candidates: dict[str, Any]) -> Any:
    events = [b"data: %b\r\n\r\n" % json.dumps({"candidates": [candidate]}).encode() for candidate in candidates]
    return decode(GEMINI.decoder(), events)[-1]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", FinishReason.STOP),
        (1, FinishReason.STOP),
        (2, FinishReason.LENGTH),
        ("RECITATION", FinishReason.CONTENT_FILTER),
        ("SOMETHING_NEW", FinishReason.STOP),
    ],
)
def test_finish_reasons_are_told_in_our_words(reason: str | int, finish: FinishReason) -> None:
    assert end({"finishReason": reason}) == ModelFinished(finish, None)


@pytest.mark.parametrize("reason", ["OTHER", "UNEXPECTED_TOOL_CALL", 10, 99])
def test_a_model_that_gave_up_is_no_use_asking_again(reason: str | int) -> None:
    failed = end({"finishReason": reason})
    assert isinstance(failed, ModelFailed)
    assert (failed.error.reason, failed.error.retryable) == (Reason.PROVIDER_SERVER_ERROR, False)


def test_why_a_prompt_was_blocked_is_told() -> None:
    failed = heard("gemini/blocked-prompt").end
    assert isinstance(failed, ModelFailed)
    assert failed.error.metadata == {"provider_code": "PROHIBITED_CONTENT"}


def test_a_call_without_a_name_makes_no_sense() -> None:
    failed = end({"content": {"parts": [{"functionCall": {"args": {}}}]}})
    assert isinstance(failed, ModelFailed)
    assert failed.error.reason is Reason.MALFORMED_STREAM


def test_other_candidates_do_not_count() -> None:
    said = {"content": {"parts": [{"functionCall": {"name": "tide"}}]}}
    assert end(said | {"index": 1}, {"finishReason": "STOP"}) == ModelFinished(FinishReason.STOP, None)


def test_calls_of_one_name_are_calls_of_their_own() -> None:
    candidate = {"content": {"parts": [{"functionCall": {"name": "tide"}}] * 2}, "finishReason": "STOP"}
    event = b"data: %b\r\n\r\n" % json.dumps({"candidates": [candidate]}).encode()
    assert hear(decode(GEMINI.decoder(), [event])).calls == {"call_0": ["tide", "{}"], "call_1": ["tide", "{}"]}
