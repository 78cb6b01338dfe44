"""Every provider of the registry: its settings, its stream, and the accent in which it is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agentsvc.domain.agents import GenerationOptions
from agentsvc.domain.errors import AgentsvcError, Reason
from agentsvc.domain.events import ModelFailed, ModelFinished
from agentsvc.domain.messages import Message, ProviderState, Role, Text, ToolCall, ToolSpec
from agentsvc.domain.ports import ModelRequest
from agentsvc.domain.runs import ToolChoice, ToolChoiceMode
from agentsvc.providers import PROVIDERS, Endpoint, OpenAIChat, Provider
from agentsvc.settings import Settings
from tests.providers.recorded import OWN, Recording, decode, hear, slices

NO_DEFAULT_MODEL = {"azure", "huawei", "ollama", "openai-compatible"}  # theirs are the operator's to name
NO_PUBLIC_ADDRESS = {"azure", "huawei", "openai-compatible", "mock"}
TIDE = ToolSpec("tide", "When is high water?", {"type": "object", "properties": {"port": {"type": "string"}}})
ASKED = Message(Role.USER, (Text("High water in Ayr?"),))
RESULT = Message(Role.TOOL, (Text("06:10"),), tool_call_id="call_1")
CHAT = sorted(name for name, provider in PROVIDERS.items() if isinstance(provider.dialect, OpenAIChat))


def streams() -> list[tuple[Provider, Recording]]:
    """The project's streams of each provider, to be read in that provider's own voice."""
    found = []
    for name, provider in PROVIDERS.items():
        for path in sorted((OWN / name).glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            response = content["response"]
            assert (content["provider"], content["dialect"]) == (name, provider.dialect.name)
            headers = {key.lower(): value for key, value in response["headers"].items()}
            recording = f"{name}/{path.stem}"
            body, expect = response["body"].encode(), content["expect"]
            found.append((provider, Recording(recording, provider.dialect, response["status"], headers, body, expect)))
    return found


def called(state: ProviderState | None = None, call_id: str = "call_1") -> Message:
    return Message(Role.ASSISTANT, tool_calls=(ToolCall(call_id, "tide", '{"port":"Ayr"}'),), provider_state=state)


def encode(name: str, *messages: Message, endpoint: Endpoint | None = None, **options: Any) -> dict[str, Any]:
    request = ModelRequest("m-1", messages or (ASKED,), **options)
    sent = PROVIDERS[name].dialect.encode(request, endpoint or Endpoint("https://x.example/v1", "k"))
    body: dict[str, Any] = json.loads(sent.body)
    return body


# --- every one of them --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_it_has_settings_of_its_own_name_and_can_be_asked(provider: Provider) -> None:
    prefix = provider.name.upper().replace("-", "_")
    assert (provider.key_env[0], provider.base_url_env[0]) == (f"{prefix}_API_KEY", f"{prefix}_BASE_URL")
    assert bool(provider.default_model) != (provider.name in NO_DEFAULT_MODEL)
    assert bool(provider.base_url) != (provider.name in NO_PUBLIC_ADDRESS)
    assert not provider.base_url.endswith("/")
    assert provider.default_model or provider.extra_env["model"]


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_its_errors_speak_in_its_name_and_say_which_setting(provider: Provider) -> None:
    error = provider.dialect.error(401, {}, b"")
    assert error.provider == provider.name
    assert all(name in error.message for name in provider.key_env)
    assert provider.base_url_env[0] in provider.dialect.error(404, {}, b"").message


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_it_has_a_stream_that_ends_well(provider: Provider) -> None:
    heard = [hear(decode(r.decoder(), [r.body])) for p, r in streams() if p is provider and r.status == 200]
    assert [answer for answer in heard if isinstance(answer.end, ModelFinished)]


@pytest.mark.parametrize(("provider", "recording"), [pytest.param(p, r, id=r.name) for p, r in streams()])
def test_its_streams_are_read_in_its_own_voice(provider: Provider, recording: Recording) -> None:
    if recording.status != 200:
        end = provider.dialect.error(recording.status, recording.headers, recording.body)
        assert end.provider == provider.name
        return
    heard = hear(decode(recording.decoder(), slices(recording.body, 11)))
    assert heard.text == recording.expect["text"] + (recording.expect.get("refusal") or "")
    assert heard.reasoning == recording.expect["reasoning"]
    if isinstance(heard.end, ModelFailed):
        assert heard.end.error.provider == provider.name


def test_every_vendor_is_a_file_of_its_own() -> None:
    files = {path.stem.replace("_", "-") for path in (OWN.parents[1] / "agentsvc/providers/vendors").glob("[!_]*.py")}
    assert files == set(PROVIDERS)


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("azure", "AZURE_OPENAI_API_KEY"),
        ("azure", "AZURE_OPENAI_AD_TOKEN"),
        ("zhipu", "ZHIPUAI_API_KEY"),
        ("baidu", "QIANFAN_API_KEY"),
        ("baidu-v1", "QIANFAN_ACCESS_TOKEN"),
        ("baidu-v1", "QIANFAN_AK"),
        ("cohere", "CO_API_KEY"),
        ("gemini", "GOOGLE_API_KEY"),
        ("qwen-native", "DASHSCOPE_API_KEY"),
        ("openai-responses", "OPENAI_API_KEY"),
        ("qwen", "DASHSCOPE_API_KEY"),
        ("perplexity", "PPLX_API_KEY"),
    ],
)
def test_the_vendors_own_names_serve_too(name: str, variable: str) -> None:
    assert Settings.load({variable: "k"}).endpoints[name][0].api_key == "k"


# --- what an accent changes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CHAT)
def test_tool_choice_is_a_capability_exactly_where_a_tool_can_be_forced(name: str) -> None:
    provider = PROVIDERS[name]
    assert isinstance(provider.dialect, OpenAIChat)
    if provider.capabilities.tools:
        forcing = {ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL} & set(provider.dialect.accent.tool_choices)
        assert provider.capabilities.tool_choice == bool(forcing)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("zhipu", ToolChoiceMode.REQUIRED),
        ("zhipu", ToolChoiceMode.NONE),
        ("qwen", ToolChoiceMode.REQUIRED),
        ("moonshot", ToolChoiceMode.TOOL),
    ],
)
def test_a_tool_choice_it_does_not_know_is_refused_before_any_call(name: str, mode: ToolChoiceMode) -> None:
    with pytest.raises(AgentsvcError) as refusal:
        encode(name, tools=(TIDE,), tool_choice=ToolChoice(mode, "tide"))
    assert refusal.value.reason is Reason.CAPABILITY_MISSING
    assert "options.tool_choice" in refusal.value.error.message
    assert refusal.value.error.provider == name
    assert encode(name, tools=(TIDE,), tool_choice=ToolChoice(ToolChoiceMode.AUTO))["tool_choice"] == "auto"


@pytest.mark.parametrize("name", CHAT)
def test_the_output_limit_has_the_name_it_knows(name: str) -> None:
    body = encode(name, generation=GenerationOptions(max_output_tokens=64))
    newer = name in {"openai", "azure", "groq", "xai", "moonshot", "mock"}
    assert body["max_completion_tokens" if newer else "max_tokens"] == 64
    assert not {"max_completion_tokens", "max_tokens"} <= body.keys()


@pytest.mark.parametrize("name", CHAT)
def test_usage_is_asked_for_where_it_does_not_come_by_itself(name: str) -> None:
    silent = {"zhipu", "deepseek", "together", "groq", "mistral", "perplexity"}
    assert ("stream_options" in encode(name)) == (name not in silent)


@pytest.mark.parametrize("name", CHAT)
def test_a_schema_is_promised_or_at_least_told(name: str) -> None:
    schema = {"type": "object", "properties": {"when": {"type": "string"}}, "additionalProperties": False}
    body = encode(name, instructions="Be brief.", response_schema=schema)
    if body["response_format"]["type"] == "json_schema":
        assert body["response_format"]["json_schema"]["schema"] == schema
        assert body["messages"][0]["content"] == "Be brief."
    else:
        assert body["response_format"] == {"type": "json_object"}
        assert body["messages"][0]["content"].startswith("Be brief.\n\nAnswer with one JSON object")
        assert json.loads(body["messages"][0]["content"].rpartition("\n")[2]) == schema
    assert PROVIDERS[name].capabilities.response_schema


def test_a_schema_without_instructions_makes_its_own() -> None:
    body = encode("deepseek", response_schema={"type": "object"})
    assert body["messages"][0]["role"] == "system"
    assert "JSON" in body["messages"][0]["content"]


def test_qwen_streams_even_when_the_whole_is_wanted_and_calls_in_parallel() -> None:
    body = encode("qwen", tools=(TIDE,), stream=False)
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert body["parallel_tool_calls"] is True
    assert encode("qwen", tools=(TIDE,), parallel_tool_calls=False)["parallel_tool_calls"] is False
    assert "parallel_tool_calls" not in encode("qwen")


def test_mistral_gets_call_ids_of_nine_characters_that_still_match() -> None:
    own, foreign = "a1B2c3D4e", "call_00_another-vendors"
    history = [
        ASKED,
        replace(called(), tool_calls=(ToolCall(own, "tide", ""), ToolCall(foreign, "tide", ""))),
        replace(RESULT, tool_call_id=own),
        replace(RESULT, tool_call_id=foreign),
    ]
    _, turn, *results = encode("mistral", *history)["messages"]
    sent = [call["id"] for call in turn["tool_calls"]]
    assert sent == [result["tool_call_id"] for result in results]
    assert sent[0] == own
    assert all(len(call_id) == 9 and call_id.isalnum() for call_id in sent)


def test_perplexity_takes_no_tools() -> None:
    assert not PROVIDERS["perplexity"].capabilities.tools


AZURE = "https://acme.openai.azure.com"


@pytest.mark.parametrize(
    ("base_url", "version", "url"),
    [
        (AZURE, "", f"{AZURE}/openai/v1/chat/completions"),
        (f"{AZURE}/", "", f"{AZURE}/openai/v1/chat/completions"),
        (f"{AZURE}/openai/v1", "2024-10-21", f"{AZURE}/openai/v1/chat/completions"),
        (f"{AZURE}/openai", "v", f"{AZURE}/openai/deployments/my%20mini/chat/completions?api-version=v"),
        (AZURE, "v", f"{AZURE}/openai/deployments/my%20mini/chat/completions?api-version=v"),
        (f"{AZURE}/openai/deployments/d", "v", f"{AZURE}/openai/deployments/d/chat/completions?api-version=v"),
        ("https://x.azure.com/models", "v", "https://x.azure.com/models/chat/completions?api-version=v"),
    ],
)
def test_azure_has_two_surfaces(base_url: str, version: str, url: str) -> None:
    endpoint = Endpoint(base_url, "k", {"api_version": version} if version else {})
    sent = PROVIDERS["azure"].dialect.encode(ModelRequest("my mini", (ASKED,)), endpoint)
    assert sent.url == url
    assert (sent.headers["api-key"], "Authorization" in sent.headers) == ("k", False)
    assert json.loads(sent.body)["model"] == "my mini"


@pytest.mark.parametrize(
    "token", ["eyJ0eXAiOiJKV1Qi.eyJhdWQiOiJodHRwczov.c2ln-bmF0_dXJl", "eyJhbGciOiJkaXIi..aXY.Y3Q.dGFn"]
)
def test_azure_takes_a_token_of_entra_as_a_bearers(token: str) -> None:
    sent = PROVIDERS["azure"].dialect.encode(ModelRequest("mini", (ASKED,)), Endpoint(AZURE, token))
    assert (sent.headers["Authorization"], "api-key" in sent.headers) == (f"Bearer {token}", False)


@pytest.mark.parametrize("key", ["0123456789abcdef0123456789abcdef", "eyJ0", "eyJ0.x", "a.b.c", ""])
def test_azure_takes_anything_else_as_the_resources_key(key: str) -> None:
    sent = PROVIDERS["azure"].dialect.encode(ModelRequest("mini", (ASKED,)), Endpoint(AZURE, key))
    assert "Authorization" not in sent.headers
    assert sent.headers.get("api-key", "") == key


def test_azures_token_comes_before_its_key() -> None:
    told = {"AZURE_OPENAI_API_KEY": "k", "AZURE_OPENAI_AD_TOKEN": "t", "AZURE_OPENAI_ENDPOINT": AZURE}
    assert Settings.load(told).endpoints["azure"][0].api_key == "t"


def test_further_settings_become_headers() -> None:
    endpoint = Endpoint("https://x.example", "k", {"app_url": "https://acme.test", "app_title": "Acme"})
    sent = PROVIDERS["openrouter"].dialect.encode(ModelRequest("m", (ASKED,)), endpoint)
    assert (sent.headers["HTTP-Referer"], sent.headers["X-Title"]) == ("https://acme.test", "Acme")
    baidu = PROVIDERS["baidu"].dialect.encode(
        ModelRequest("m", (ASKED,)), Endpoint("https://x.example", "k", {"appid": "a"})
    )
    assert baidu.headers["appid"] == "a"


@pytest.mark.parametrize(
    ("name", "status", "code", "reason"),
    [
        ("zhipu", 429, "1113", Reason.PROVIDER_QUOTA),
        ("zhipu", 429, "1305", Reason.PROVIDER_OVERLOADED),
        ("zhipu", 400, "1261", Reason.CONTEXT_LENGTH),
        ("zhipu", 400, "1301", Reason.CONTENT_FILTER),
        ("huawei", 403, "ModelArts.81011", Reason.CONTENT_FILTER),
        ("huawei", 400, "ModelArts.81002", Reason.PROVIDER_AUTH),
        ("qwen", 400, "DataInspectionFailed", Reason.CONTENT_FILTER),
        ("qwen", 400, "Arrearage", Reason.PROVIDER_QUOTA),
        ("moonshot", 429, "exceeded_current_quota_error", Reason.PROVIDER_QUOTA),
        ("moonshot", 429, "engine_overloaded_error", Reason.PROVIDER_OVERLOADED),
        ("baidu", 400, "characters_too_long", Reason.CONTEXT_LENGTH),
        ("groq", 400, "model_decommissioned", Reason.PROVIDER_NOT_FOUND),
    ],
)
def test_its_own_error_codes_are_understood(name: str, status: int, code: str, reason: Reason) -> None:
    body = json.dumps({"error": {"code": code, "message": "no"}}).encode()
    error = PROVIDERS[name].dialect.error(status, {}, body)
    assert (error.reason, error.retryable) == (reason, reason.retryable)
